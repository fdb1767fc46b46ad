//! Finding a volume.

use std::sync::Arc;

use super::objects::get_whole;
use super::{Clock, Head, VolumeError};
use crate::format::limits::NAME_OBJECT_BYTES_MAX;
use crate::format::{Access, Descriptor, Key, NameEntry};
use crate::model::VolumeId;
use crate::store::{Fetched, ObjectStore, StoreError};

/// How a volume is named by whoever looks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeRef {
    /// By its name in the names index.
    Name(String),
    /// By its identity.
    Id(VolumeId),
}

impl VolumeRef {
    /// Reads what a user typed: an identity of 32 hexadecimal digits, else a name.
    pub fn parse(text: &str) -> VolumeRef {
        match text.parse() {
            Ok(id) => VolumeRef::Id(id),
            Err(_) => VolumeRef::Name(text.to_owned()),
        }
    }
}

impl std::fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VolumeRef::Name(name) => f.write_str(name),
            VolumeRef::Id(id) => id.fmt(f),
        }
    }
}

/// A handle on one volume.
#[derive(Clone, Debug)]
pub struct Volume {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) clock: Clock,
    pub(super) id: VolumeId,
    pub(super) called: Arc<str>,
}

/// A volume that was found, with its newest record.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The volume.
    pub volume: Volume,
    /// Its newest record, which carries a copy of the descriptor.
    pub head: Head,
}

impl Opened {
    /// What never changes about the volume.
    pub fn descriptor(&self) -> &Descriptor {
        &self.head.record().descriptor
    }

    /// What this program may do with it.
    pub fn access(&self) -> Access {
        self.head.record().access()
    }
}

impl Volume {
    /// Opens a volume: three requests by name (names index, LIST, GET), two by identity.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], with the name that is spelt most like it; [`VolumeError::Deleted`];
    /// [`VolumeError::Features`]; what the store says.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        clock: Clock,
        wanted: &VolumeRef,
    ) -> Result<Opened, VolumeError> {
        let id = match wanted {
            VolumeRef::Id(id) => *id,
            VolumeRef::Name(name) => match find_name(&*store, name).await? {
                Some(entry) => entry.volume,
                None => {
                    let nearest = super::names::suggest(&*store, name).await;
                    let place = match store.is_established().await? {
                        true => store.describe(),
                        false => format!(
                            "{}, where there is no store at all (is its disk mounted?)",
                            store.describe()
                        ),
                    };
                    return Err(VolumeError::NotFound {
                        wanted: name.clone(),
                        store: place,
                        nearest,
                    });
                }
            },
        };
        let volume = Volume::handle(store, clock, id, wanted.to_string());
        match (volume.head().await, wanted) {
            (Ok(head), _) => Ok(Opened { volume, head }),
            // A creation and a deletion end with the name.
            (Err(VolumeError::NotFound { .. }), VolumeRef::Name(name)) => Err(VolumeError::damaged(
                &Key::Name(name.clone()).to_string(),
                format!(
                    "the name leads to volume {id}, which has no record: either its deletion was broken off, and \
                     `sailvol volume delete {name}` finishes it, or its log is lost"
                ),
            )),
            (Err(error), _) => Err(error),
        }
    }

    /// A handle without asking the store: for a volume that is known to be there.
    pub fn handle(store: Arc<dyn ObjectStore>, clock: Clock, id: VolumeId, called: String) -> Volume {
        Volume {
            store,
            clock,
            id,
            called: called.into(),
        }
    }

    /// Its identity.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The name or identity under which it was opened, for messages.
    pub fn name(&self) -> &str {
        &self.called
    }

    /// Where it lies.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn not_found(&self) -> VolumeError {
        VolumeError::NotFound {
            wanted: self.called.to_string(),
            store: self.store.describe(),
            nearest: None,
        }
    }
}

/// The names index's entry for a name.
pub(super) async fn find_name(store: &dyn ObjectStore, name: &str) -> Result<Option<NameEntry>, VolumeError> {
    Ok(read_name(store, name).await?.map(|(entry, _)| entry))
}

/// The same with the object as it was read.
pub(super) async fn read_name(
    store: &dyn ObjectStore,
    name: &str,
) -> Result<Option<(NameEntry, Fetched)>, VolumeError> {
    super::names::check_name(name)?;
    let key = Key::Name(name.to_owned()).to_string();
    match get_whole(store, &key, NAME_OBJECT_BYTES_MAX as u64).await {
        Ok(fetched) => Ok(Some((NameEntry::decode(&fetched.bytes, name, &key)?, fetched))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(StoreError::Broken { key, reason }) => Err(VolumeError::damaged(&key, reason)),
        Err(error) => Err(error.into()),
    }
}
