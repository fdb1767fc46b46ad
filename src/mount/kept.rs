//! What a mount keeps in its state directory besides the overlay: base records, prepared trees, the newest record ever
//! seen, and the upload ledger of a commit.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::answer::{Failure, FailureKind};
use crate::commit::{Attempt, PreparedTree, UploadLedger};
use crate::format::{UnverifiedRecord, decode_super};
use crate::model::{Hash, Seq, TreeRoot, TxnId, VolumeId, format_bytes};
use crate::overlay::{BaseRef, Overlay, OverlayError};
use crate::view::{BaseHold, BaseWatch, Room};
use crate::volume::{Head, LoggedRecord, Volume};

/// First line of a kept prepared tree; the stored super node follows.
#[derive(Serialize, Deserialize)]
struct PreparedHeader {
    sailvol_prepared: u32,
    raw_len: u32,
    /// Every pack of the state directory that the tree may name, those first that were written for the whole of it.
    packs: Vec<Hash>,
    /// How many of them were.
    #[serde(default)]
    whole: usize,
}

/// A prepared tree is written anew as a whole when it has grown over this many packs more, and by a share of its size or by
/// very many packs: so what is written over and over stays a small multiple of what changes, and what is dead in old packs
/// does not pile up.
const PACKS_MORE: usize = 16;
const PACKS_MORE_MAX: usize = 256;
const GROWTH_SHARE: u64 = 4;

fn local(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// With its kind, by which a full disk is known.
fn to_io(error: OverlayError) -> io::Error {
    let kind = error.errno().map_or(io::ErrorKind::Other, |errno| {
        io::Error::from_raw_os_error(errno).kind()
    });
    io::Error::new(kind, error)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The owner of the kept bytes of a state directory: records, prepared trees and the packs of those. It alone removes any.
///
/// Something is needed as long as one of these may lead to it:
/// 1. the base of the overlay, of its frozen part, or of a stash: they survive a restart;
/// 2. an attempt of a commit that is about to be sent, or was sent and may be published: everything stays until the journal
///    says what became of it;
/// 3. a base that the view has left, while somebody has a hold of it ([`BaseHold`]).
///
/// A prepared tree leads to all packs in its header. They are those that were written for it and, unless it was written as a
/// whole, those of the tree that it was made from: what a commit did not change is not written again.
#[derive(Debug)]
pub struct Kept {
    overlay: Arc<Overlay>,
    /// Held while something is kept until a change of the overlay names it, and while something is removed.
    turn: Mutex<()>,
    /// Prepared trees that the view has stood on, or that somebody reads.
    held: Mutex<Vec<(Hash, BaseWatch)>>,
    /// Gives back what is only there to be faster.
    room: Clean,
}

/// What a full disk may be relieved of.
struct Clean(Option<Arc<dyn Room>>);

impl std::fmt::Debug for Clean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clean")
    }
}

impl Kept {
    /// Of an open state directory. `room`: what can give back bytes of the same disk.
    pub fn new(overlay: Arc<Overlay>, room: Option<Arc<dyn Room>>) -> Kept {
        Kept {
            overlay,
            turn: Mutex::default(),
            held: Mutex::default(),
            room: Clean(room),
        }
    }

    /// Keeps an attempt, and does what makes the overlay name it; all on disk before anything may be sent.
    ///
    /// # Errors
    /// What the local disk says, or `then`: nothing may be sent.
    pub fn keep_attempt(
        &self,
        attempt: &Attempt,
        then: impl FnOnce(&Overlay) -> io::Result<()>,
    ) -> io::Result<()> {
        let _turn = self.turn.lock();
        // It is the base, or it is sent again if its outcome cannot be known.
        keep_record(&self.overlay, &attempt.record)?;
        if let Some(tree) = &attempt.prepared {
            self.keep_prepared_in_the_end(tree)?;
        }
        then(&self.overlay)
    }

    /// A tree may be larger than what is set aside for it. On a full disk what was given up goes first, then what is clean.
    fn keep_prepared_in_the_end(&self, tree: &PreparedTree) -> io::Result<()> {
        let Err(error) = self.keep_prepared(tree) else {
            return Ok(());
        };
        if !is_full(&error) {
            return Err(error);
        }
        let packs = tree.packs.iter().map(|pack| pack.bytes.len() as u64);
        let wanted = packs.sum::<u64>() + tree.stored.len() as u64;
        let removed = self.overlay.reclaim().map_err(io::Error::other)?;
        let given = self.room.0.as_ref().map_or(0, |room| room.make_room(wanted));
        let again = match removed > 0 || given > 0 {
            true => self.keep_prepared(tree),
            false => Err(error),
        };
        again.map_err(|error| match is_full(&error) {
            true => io::Error::new(
                error.kind(),
                format!(
                    "no room for {} in the state directory, for the tree that this mount goes on with, because others have \
                     published meanwhile ({error}); free that much there, or `sailvol reload --keep` first: then nothing \
                     has to be merged",
                    format_bytes(wanted)
                ),
            ),
            false => error,
        })
    }

    /// Keeps a prepared tree, which was made from the base of what is frozen.
    fn keep_prepared(&self, tree: &PreparedTree) -> io::Result<()> {
        for pack in &tree.packs {
            self.overlay.put_base(&pack.pack.id, &pack.bytes).map_err(to_io)?;
        }
        let own = tree.packs.iter().map(|pack| pack.pack.id);
        let (packs, whole) = match self.made_from()? {
            Some(from) if !tree.is_whole => {
                let mut packs = from.packs;
                packs.extend(own.filter(|id| !packs.contains(id)).collect::<Vec<_>>());
                (packs, from.whole)
            }
            _ => (own.collect(), tree.packs.len()),
        };
        let header = PreparedHeader {
            sailvol_prepared: 1,
            raw_len: tree.raw_len,
            packs,
            whole,
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&tree.stored);
        self.overlay.put_base(&tree.hash, &bytes).map_err(to_io)
    }

    /// The prepared tree that a commit under way was made on.
    fn made_from(&self) -> io::Result<Option<PreparedHeader>> {
        let prepared = {
            let state = self.overlay.read();
            let frozen = state
                .frozen
                .as_ref()
                .map_or(&state.base, |frozen| &frozen.state.base);
            frozen.prepared
        };
        let Some(hash) = prepared else { return Ok(None) };
        let bytes = self.overlay.get_base(&hash).map_err(io::Error::other)?;
        let header = bytes.as_ref().and_then(read_prepared).map(|(header, _)| header);
        match header {
            Some(header) => Ok(Some(header)),
            // Without its header nobody knows which packs the new tree needs.
            None => Err(io::Error::other(format!(
                "the state directory's tree {hash} is missing or cannot be read; `sailvol reload` moves to a record of the volume"
            ))),
        }
    }

    /// True when the next prepared tree should be written as a whole.
    pub fn is_scattered(&self) -> bool {
        let Ok(Some(from)) = self.made_from() else {
            return false;
        };
        let (whole, more) = from.packs.split_at(from.whole.min(from.packs.len()));
        let bytes = |packs: &[Hash]| -> u64 {
            let len = |id| self.overlay.base_len(id).ok().flatten().unwrap_or(0);
            packs.iter().map(len).sum()
        };
        more.len() >= PACKS_MORE
            && (more.len() >= PACKS_MORE_MAX || bytes(more) >= bytes(whole) / GROWTH_SHARE)
    }

    /// Keeps what a base leads to while the hold lives.
    pub fn hold(&self, base: &BaseRef) -> BaseHold {
        let hold = BaseHold::default();
        let watch = base.prepared.map(|hash| (hash, hold.watch()));
        self.held.lock().extend(watch);
        hold
    }

    /// The view stands on the overlay's base, of which it has this hold.
    pub fn stands_on(&self, hold: &BaseHold) {
        let prepared = self.overlay.read().base.prepared;
        let mut held = self.held.lock();
        held.retain(|(_, watch)| watch.is_held());
        if let Some(hash) = prepared {
            held.push((hash, hold.watch()));
        }
    }

    /// Removes what nothing leads to; gives what was removed.
    ///
    /// # Errors
    /// What the local disk says. What cannot be told to be unneeded stays.
    pub fn drop_unneeded(&self) -> Result<HashSet<Hash>, Failure> {
        let _turn = self.turn.lock();
        let mut bases: Vec<BaseRef> = self
            .overlay
            .stashes()
            .into_iter()
            .map(|stash| stash.base)
            .collect();
        {
            let state = self.overlay.read();
            bases.push(state.base.clone());
            if let Some(frozen) = &state.frozen {
                // A commit that may be published: whatever it wrote stays until it is settled.
                if frozen.prepared.is_some() {
                    return Ok(HashSet::new());
                }
                bases.push(frozen.state.base.clone());
            }
        }
        let mut needed: HashSet<Hash> = bases.iter().map(|base| base.record).collect();
        let mut trees: HashSet<Hash> = bases.iter().filter_map(|base| base.prepared).collect();
        {
            let mut held = self.held.lock();
            held.retain(|(_, watch)| watch.is_held());
            trees.extend(held.iter().map(|(hash, _)| *hash));
        }
        for hash in trees {
            needed.insert(hash);
            let Some(bytes) = self.overlay.get_base(&hash).map_err(local)? else {
                continue;
            };
            let Some((header, _)) = read_prepared(&bytes) else {
                // Which packs it needs is not known.
                tracing::warn!(tree = %hash, "a tree of the state directory cannot be read: nothing is tidied up");
                return Ok(HashSet::new());
            };
            needed.extend(header.packs);
        }
        self.overlay.retain_bases(&needed).map_err(local)
    }
}

/// Keeps the record that the overlay stands on, on disk when it returns.
pub fn keep_record(overlay: &Overlay, record: &LoggedRecord) -> io::Result<()> {
    overlay
        .put_base(&record.hash, &record.bytes)
        .map_err(io::Error::other)
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
        let appended = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .and_then(|mut file| {
                let before = file.metadata()?.len();
                file.write_all(entry).inspect_err(|_| {
                    // Half an entry would hide those behind it.
                    let _ = file.set_len(before);
                })
            });
        match appended {
            // The commit makes room; without this it would only send again what arrived if it is interrupted.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                tracing::debug!(%error, "what was sent is not noted");
                Ok(())
            }
            other => other,
        }
    }
}
