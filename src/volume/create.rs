//! Making a volume.
//!
//! Three objects, in this order: the descriptor, record 0, and the entry of the names index, which decides who made the
//! volume of that name. Whoever loses the name deletes what it has written and opens the winner's; a crash in between
//! leaves a volume without a name, which nobody sees.

use std::sync::Arc;

use bytes::Bytes;

use super::names::check_name;
use super::objects::get_whole;
use super::open::find_name;
use super::{Clock, Head, Opened, Volume, VolumeError, VolumeRef};
use crate::format::{
    Descriptor, EncodeError, GcState, Key, NameEntry, NodeSizes, Record, RecordKind, SuperNode, Usage,
    VolumeConfig, txn_id,
};
use crate::model::{Attrs, DirTree, FileId, Hash, LinksTree, Timestamp, Totals, TreeRoot, VolumeId};
use crate::store::{ObjectStore, PutMode, StoreError, probe};

/// A creating PUT whose answer was lost is sent again this often.
const SENDS_MAX: usize = 4;

/// What a new volume is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its name.
    pub name: String,
    /// Who makes it.
    pub by: String,
    /// Owner, group and mode of `/`; times and file id are set here.
    pub root: Attrs,
    /// Quota and retention.
    pub config: VolumeConfig,
    /// How the store does put-if-absent, as the probe found: see [`Descriptor::new`].
    pub conditional: String,
    /// How its trees are cut into nodes.
    pub nodes: NodeSizes,
}

/// Whose volume it is.
#[derive(Clone, Debug)]
pub enum Created {
    /// It was made by this call.
    New(Opened),
    /// Somebody else was faster; this is theirs.
    Lost(Opened),
}

impl Created {
    /// The volume, whoever made it.
    pub fn into_opened(self) -> Opened {
        match self {
            Created::New(opened) | Created::Lost(opened) => opened,
        }
    }
}

impl Volume {
    /// Makes a volume, unless there is one of that name, which is then opened. The store is probed first: a volume on one
    /// that lets two writers create the same record would lose commits.
    ///
    /// # Errors
    /// [`VolumeError::BadName`]; [`VolumeError::Nonconforming`]; what the store says. Nothing is left under the name then.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        clock: Clock,
        options: &CreateOptions,
    ) -> Result<Created, VolumeError> {
        check_name(&options.name)?;
        store.establish().await?;
        if find_name(&*store, &options.name).await?.is_some() {
            return open_winner(store, clock, &options.name).await;
        }
        let report = probe(&*store).await?;
        if !report.is_fit() {
            return Err(VolumeError::Nonconforming {
                store: store.describe(),
                reason: report.problems().join("; "),
            });
        }
        let id = VolumeId(random()?);
        let volume = Volume::handle(store.clone(), clock.clone(), id, options.name.clone());
        let written = volume.write_first(options).await;
        let entry = match &written {
            Ok(_) => NameEntry::new(&options.name, id),
            Err(_) => {
                volume.delete_first().await;
                return written.map(|head| Created::New(Opened { volume, head }));
            }
        };
        let key = Key::Name(options.name.clone()).to_string();
        let claim = put_new(&*store, &key, entry.encode().map_err(|e| refused(&key, e))?).await;
        match claim {
            Ok(_) => written.map(|head| Created::New(Opened { volume, head })),
            Err(VolumeError::Store(StoreError::AlreadyExists { .. })) => {
                volume.delete_first().await;
                open_winner(store, clock, &options.name).await
            }
            // The name may have arrived after all: then the volume is whole and must stay.
            Err(error) => Err(error),
        }
    }

    /// Descriptor and record 0.
    async fn write_first(&self, options: &CreateOptions) -> Result<Head, VolumeError> {
        let (now, looked_at) = (self.clock.now(), self.clock.steady());
        let descriptor = Descriptor {
            node: options.nodes.clone(),
            ..Descriptor::new(self.id, &options.name, now, &options.conditional)
        };
        let key = Key::Descriptor(self.id).to_string();
        let encoded = descriptor.encode().map_err(|e| refused(&key, e))?;
        let server_time = put_new(&*self.store, &key, encoded).await?;
        let record = Record {
            server_time,
            ..first_record(descriptor, options, now)?
        };
        let key = Key::Record(self.id, 0).to_string();
        let encoded = record.encode().map_err(|e| refused(&key, e))?;
        let newest = self.read_record(&key, 0, encoded.bytes.clone())?;
        // Nobody can have followed it: the volume has no name yet.
        let read_at = put_new(&*self.store, &key, encoded.bytes).await?;
        Ok(Head {
            newest,
            read_at,
            looked_at,
        })
    }

    /// Takes back what nobody knows of. What cannot be deleted is an orphan without a name.
    async fn delete_first(&self) {
        let keys = [
            Key::Record(self.id, 0).to_string(),
            Key::Descriptor(self.id).to_string(),
        ];
        if let Err(error) = self.store.delete(&keys).await {
            tracing::warn!(volume = %self.id, %error, "a volume that lost its name could not be deleted");
        }
    }
}

async fn open_winner(store: Arc<dyn ObjectStore>, clock: Clock, name: &str) -> Result<Created, VolumeError> {
    let opened = Volume::open(store, clock, &VolumeRef::Name(name.to_owned())).await?;
    Ok(Created::Lost(opened))
}

/// Record 0: an empty tree.
fn first_record(
    descriptor: Descriptor,
    options: &CreateOptions,
    now: Timestamp,
) -> Result<Record, VolumeError> {
    let attrs = Attrs {
        mtime: now,
        ctime: now,
        file_id: FileId::ROOT,
        ..options.root.clone()
    };
    let tree = TreeRoot {
        attrs,
        totals: Totals::default(),
        tree: DirTree::empty(),
        links: LinksTree::default(),
    };
    let none = Hash([0; 32]);
    Ok(Record {
        seq: 0,
        parent: None,
        kind: RecordKind::Init,
        txn: txn_id(&random()?, &options.by, &none, &none),
        base: None,
        merged: Vec::new(),
        time: now,
        server_time: None,
        by: options.by.clone(),
        message: String::new(),
        features: descriptor.features.clone(),
        root: SuperNode {
            root: tree,
            refs: None,
            history: None,
        },
        usage: Usage::default(),
        gc: GcState::initial(),
        config: options.config.clone(),
        renames: Vec::new(),
        descriptor,
    })
}

/// Creates an object; gives the store's clock, if it told. A lost answer is settled by reading: our own bytes mean that it
/// went through.
async fn put_new(store: &dyn ObjectStore, key: &str, bytes: Bytes) -> Result<Option<Timestamp>, VolumeError> {
    let mut last = None;
    for _ in 0..SENDS_MAX {
        let error = match store.put(key, bytes.clone(), PutMode::IfAbsent).await {
            Ok(done) => return Ok(done.server_time),
            Err(error) => error,
        };
        let settled = matches!(error, StoreError::AlreadyExists { .. }) || error.is_transient();
        if !settled {
            return Err(error.into());
        }
        match get_whole(store, key, bytes.len() as u64).await {
            Ok(found) if found.bytes == bytes => return Ok(found.server_time),
            Ok(_) | Err(StoreError::Broken { .. }) => {
                return Err(StoreError::AlreadyExists { key: key.to_owned() }.into());
            }
            Err(StoreError::NotFound { .. }) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let unknown = StoreError::Unknown {
        key: key.to_owned(),
        reason: "no answer".to_owned(),
    };
    Err(last.unwrap_or(unknown).into())
}

fn refused(key: &str, error: EncodeError) -> VolumeError {
    VolumeError::damaged(key, error)
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], VolumeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| VolumeError::Nonconforming {
        store: "this machine".to_owned(),
        reason: format!("no random numbers: {e}"),
    })?;
    Ok(bytes)
}
