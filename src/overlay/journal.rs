//! The journal as a file: appended to by one writer, never read again while it is open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::disk::sync_data;
use super::error::{AtPath, OverlayError};
use super::frame::{Header, Tail};
use super::reserve::Reserve;
use super::snapshot;
use super::state::OverlayState;
use super::unsynced::Unsynced;
use crate::format::EncodeError;

/// Bytes that are allocated ahead at a time.
const AHEAD_BYTES: u64 = 1 << 20;
/// Bytes that stay allocated for ops that make room, when no more can be had; and they have the reserve.
const TIGHT_BYTES: u64 = 128 << 10;

/// An open journal.
pub(super) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    tail: Tail,
    /// Allocated up to here, bytes.
    allocated: u64,
    /// Length of the snapshot that it begins with, bytes.
    snapshot_bytes: u64,
    poisoned: bool,
    /// Behind the end is something of a failed append that could not be cut off yet.
    uncut: bool,
    /// What is not on disk for certain.
    pub(super) unsynced: Unsynced,
}

impl From<EncodeError> for OverlayError {
    fn from(e: EncodeError) -> OverlayError {
        OverlayError::Encode(e.to_string())
    }
}

impl Journal {
    /// A new one with the state in it, on disk with its name when this returns (J10). Sequence numbers of ops go on after
    /// `sequence`, so that those in `unsynced` keep their meaning.
    pub(super) fn create(
        path: &Path,
        header: &Header,
        state: &OverlayState,
        unsynced: Unsynced,
        sequence: u64,
    ) -> Result<Journal, OverlayError> {
        let (bytes, crc) = header.encode();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .at(path)?;
        let mut at = bytes.len() as u64;
        file.write_all_at(&bytes, 0).at(path)?;
        let mut tail = Tail::of_header(bytes.len(), crc);
        snapshot::write(state, &unsynced, sequence, &mut tail, &mut |batch| {
            file.write_all_at(batch, at).at(path)?;
            at += batch.len() as u64;
            Ok::<(), OverlayError>(())
        })?;
        sync_data(&file, path)?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Journal {
            path: path.to_owned(),
            file: Arc::new(file),
            tail,
            allocated: tail.offset,
            snapshot_bytes: tail.offset,
            poisoned: false,
            uncut: false,
            unsynced,
        })
    }

    /// Goes on behind `tail`; what is there is cut off.
    pub(super) fn open(path: &Path, tail: Tail, unsynced: Unsynced) -> Result<Journal, OverlayError> {
        let file = File::options().read(true).write(true).open(path).at(path)?;
        file.set_len(tail.offset).at(path)?;
        Ok(Journal {
            path: path.to_owned(),
            file: Arc::new(file),
            tail,
            allocated: tail.offset,
            snapshot_bytes: tail.offset,
            poisoned: false,
            uncut: false,
            unsynced,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn tail(&self) -> Tail {
        self.tail
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tail.offset
    }

    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// Appends frames that were made from [`Journal::tail`] and end at `tail`. `grows`: they make things, so they are refused
    /// when the disk is nearly full.
    ///
    /// # Errors
    /// Nothing was appended.
    pub(super) fn append(&mut self, frames: &[u8], tail: Tail, grows: bool) -> Result<(), OverlayError> {
        if self.poisoned {
            return Err(OverlayError::Poisoned {
                path: self.path.clone(),
            });
        }
        if self.uncut {
            self.cut(self.tail)?;
        }
        self.allocate(tail.offset, grows)?;
        let write = || self.file.write_all_at(frames, self.tail.offset).at(&self.path);
        let written = match self.state_dir() {
            Some(dir) if !grows => Reserve::of(dir).make_room_for(write),
            _ => write(),
        };
        match written {
            Ok(()) => {
                self.tail = tail;
                Ok(())
            }
            Err(e) => {
                if let Err(error) = self.cut(self.tail) {
                    tracing::warn!(%error, "the journal's end is cut off before the next change");
                }
                Err(e)
            }
        }
    }

    /// The state directory: a journal lies in an overlay's directory of it.
    fn state_dir(&self) -> Option<&Path> {
        self.path.parent()?.parent()
    }

    /// Accepts nothing more: an error of the disk left unknown what is there.
    pub(super) fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Takes frames back that were appended last. What fails here is tried again before the next append.
    pub(super) fn cut(&mut self, tail: Tail) -> Result<(), OverlayError> {
        self.tail = tail;
        // Cutting may give back what was allocated behind the end.
        self.allocated = tail.offset;
        self.uncut = true;
        self.file.set_len(tail.offset).at(&self.path)?;
        self.uncut = false;
        Ok(())
    }

    /// Sees to it that there is room up to `end` and some more.
    fn allocate(&mut self, end: u64, grows: bool) -> Result<(), OverlayError> {
        if self.allocated >= end.saturating_add(TIGHT_BYTES) {
            return Ok(());
        }
        let from = self.allocated.max(self.tail.offset);
        let needed = end.saturating_sub(from);
        // On a disk that is nearly full as little as is allowed: what was deleted is there for programs, too.
        for ahead in [AHEAD_BYTES, TIGHT_BYTES] {
            let len = needed.saturating_add(ahead);
            match rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, from, len) {
                Ok(()) => {
                    self.allocated = from + len;
                    return Ok(());
                }
                Err(Errno::NOSPC | Errno::DQUOT) if ahead > TIGHT_BYTES => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT)) if grows => return Err(error).at(&self.path),
                // Room inside what is allocated, or filesystems that cannot allocate ahead: the write itself will tell.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes the place of the journal at `old` in the file system: same name, on disk.
    pub(super) fn rename_over(&mut self, old: &Path) -> Result<(), OverlayError> {
        std::fs::rename(&self.path, old).at(old)?;
        self.path = old.to_owned();
        sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

/// fsync of a directory.
pub(super) fn sync_dir(dir: &Path) -> Result<(), OverlayError> {
    File::open(dir).and_then(|dir| dir.sync_all()).at(dir)
}
