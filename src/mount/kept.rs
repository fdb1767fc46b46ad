//! What a mount keeps in its state directory besides the overlay: base records, prepared trees, the newest record ever
//! seen, and the upload ledger of a commit.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Failure, FailureKind};
use crate::commit::{PreparedTree, UploadLedger};
use crate::format::{UnverifiedRecord, decode_super};
use crate::model::{Hash, Seq, TreeRoot, TxnId, VolumeId};
use crate::overlay::{BaseRef, Overlay};
use crate::volume::{Head, LoggedRecord, Volume};

/// First line of a kept prepared tree; the stored super node follows.
#[derive(Serialize, Deserialize)]
struct PreparedHeader {
    sailvol_prepared: u32,
    raw_len: u32,
    packs: Vec<Hash>,
}

fn local(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// Keeps the record that the overlay stands on, on disk when it returns.
pub fn keep_record(overlay: &Overlay, record: &LoggedRecord) -> io::Result<()> {
    overlay
        .put_base(&record.hash, &record.bytes)
        .map_err(io::Error::other)
}

/// Keeps a prepared tree with its packs, on disk when it returns.
pub fn keep_prepared(overlay: &Overlay, tree: &PreparedTree) -> io::Result<()> {
    for pack in &tree.packs {
        overlay
            .put_base(&pack.pack.id, &pack.bytes)
            .map_err(io::Error::other)?;
    }
    let header = PreparedHeader {
        sailvol_prepared: 1,
        raw_len: tree.raw_len,
        packs: tree.packs.iter().map(|pack| pack.pack.id).collect(),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&tree.stored);
    overlay.put_base(&tree.hash, &bytes).map_err(io::Error::other)
}

fn read_prepared(bytes: &Bytes) -> Option<(PreparedHeader, Bytes)> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let header: PreparedHeader = serde_json::from_slice(&bytes[..end]).ok()?;
    (header.sailvol_prepared == 1).then(|| (header, bytes.slice(end + 1..)))
}

/// The tree that a base names: kept here, or (a record's) in the log.
pub async fn load_base(
    overlay: &Overlay,
    volume: &Volume,
    head: &Head,
    base: &BaseRef,
) -> Result<TreeRoot, Failure> {
    if let Some(hash) = &base.prepared {
        let damaged = |rule: &str| {
            Failure::new(
                FailureKind::Damaged,
                format!("the state directory's tree {hash} {rule}"),
            )
            .hint("`sailvol fsck` says more; uncommitted files can be salvaged from the state directory")
        };
        let bytes = overlay
            .get_base(hash)
            .map_err(local)?
            .ok_or_else(|| damaged("is missing"))?;
        let (header, stored) = read_prepared(&bytes).ok_or_else(|| damaged("cannot be read"))?;
        let node = decode_super(
            &stored,
            header.raw_len,
            hash,
            true,
            "prepared tree in the state directory",
        );
        return Ok(node.map_err(|e| damaged(&e.to_string()))?.root);
    }
    if base.seq == head.seq() && base.record == head.hash() {
        return Ok(head.record().root.root.clone());
    }
    if let Some(bytes) = overlay.get_base(&base.record).map_err(local)?
        && let Ok(unverified) = UnverifiedRecord::parse(&bytes, "base record in the state directory")
        && unverified.hash() == base.record
        && let Ok(record) = unverified.verify(&volume.id(), base.seq)
    {
        return Ok(record.root.root);
    }
    let found = volume.record(head, base.seq).await?;
    if found.hash != base.record {
        return Err(Failure::new(
            FailureKind::Damaged,
            format!(
                "record {} is not the one that the local changes were made on",
                base.seq
            ),
        ));
    }
    Ok(found.record.root.root.clone())
}

/// The records of a transaction that were about to be sent, kept here by [`keep_record`].
///
/// # Errors
/// What the local disk says.
pub fn sent_records(overlay: &Overlay, volume: VolumeId, txn: TxnId) -> Result<Vec<LoggedRecord>, Failure> {
    let mut sent = Vec::new();
    for hash in overlay.kept_bases().map_err(local)? {
        let Some(bytes) = overlay.get_base(&hash).map_err(local)? else {
            continue;
        };
        // Prepared trees and their packs lie beside the records.
        let Ok(unverified) = UnverifiedRecord::parse(&bytes, "record in the state directory") else {
            continue;
        };
        let seq = unverified.claimed_seq();
        if unverified.hash() == hash
            && let Ok(record) = unverified.verify(&volume, seq)
            && record.txn == txn
        {
            sent.push(LoggedRecord {
                record: record.into(),
                hash,
                bytes,
            });
        }
    }
    Ok(sent)
}

/// Removes kept bytes that no base of the overlay, of a commit under way, or of a stash needs.
pub fn drop_unneeded(overlay: &Overlay) -> Result<(), Failure> {
    let mut bases: Vec<BaseRef> = overlay.stashes().into_iter().map(|stash| stash.base).collect();
    let mut needed: HashSet<Hash> = HashSet::new();
    {
        let state = overlay.read();
        bases.push(state.base.clone());
        if let Some(frozen) = &state.frozen {
            // A commit that may be published: whatever it wrote stays until it is settled.
            if frozen.prepared.is_some() {
                return Ok(());
            }
            bases.push(frozen.state.base.clone());
        }
    }
    for base in bases {
        needed.insert(base.record);
        let Some(hash) = base.prepared else { continue };
        needed.insert(hash);
        if let Some(bytes) = overlay.get_base(&hash).map_err(local)?
            && let Some((header, _)) = read_prepared(&bytes)
        {
            needed.extend(header.packs);
        }
    }
    overlay.retain_bases(&needed).map_err(local)
}

/// The newest record that this machine has seen of a volume: a log that ends before it was rolled back.
#[derive(Clone, Debug)]
pub struct Seen {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct SeenFile {
    seq: Seq,
    record: Hash,
}

impl Seen {
    /// In the state directory of a mount name.
    pub fn new(state_dir: &Path, volume: VolumeId) -> Seen {
        Seen {
            path: state_dir.join(format!("{volume}.seen.json")),
        }
    }

    /// Compares with what was seen before.
    ///
    /// # Errors
    /// The log has gone back.
    pub fn check(&self, head: &Head) -> Result<(), Failure> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(local(format!("{}: {error}", self.path.display()))),
        };
        // A torn file says nothing; it is written anew with the next record.
        let Ok(seen) = serde_json::from_slice::<SeenFile>(&bytes) else {
            return Ok(());
        };
        crate::volume::check_not_back(head, seen.seq, seen.record).map_err(|error| {
            let failure = Failure::from(error);
            if failure.kind == FailureKind::Damaged {
                return failure.hint(format!(
                    "to accept the log as it is now, remove {}",
                    self.path.display()
                ));
            }
            failure
        })
    }

    /// Remembers. Failing is logged: it weakens a check, it loses nothing.
    pub fn remember(&self, head: &Head) {
        let written = || -> io::Result<()> {
            let temporary = self.path.with_extension("tmp");
            let file = SeenFile {
                seq: head.seq(),
                record: head.hash(),
            };
            std::fs::write(&temporary, serde_json::to_vec(&file)?)?;
            std::fs::rename(&temporary, &self.path)
        };
        if let Err(error) = written() {
            tracing::warn!(path = %self.path.display(), %error, "cannot remember the newest record");
        }
    }
}

/// The upload ledger of the overlay's next commit: kept until one succeeds, so that an interrupted or failed commit is
/// repeated without sending again what arrived.
#[derive(Debug)]
pub struct FileLedger {
    path: PathBuf,
}

impl FileLedger {
    /// In the state directory of a volume.
    pub fn new(state_dir: &Path) -> FileLedger {
        FileLedger {
            path: state_dir.join("uploads"),
        }
    }

    /// The commit is in the log.
    pub fn clear(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "the upload ledger stays");
            }
            _ => {}
        }
    }
}

impl UploadLedger for FileLedger {
    fn read(&self) -> io::Result<Vec<u8>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    fn append(&self, entry: &[u8]) -> io::Result<()> {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)?
            .write_all(entry)
    }
}
