//! What survives a power cut: bodies first, then the journal that speaks of them (J3, J4, J9).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::body::Body;
use super::codec::put_runs;
use super::error::{AtPath, OverlayError};
use super::frame::SYNCED;
use super::overlay::Overlay;
use super::state::BodyId;
use crate::format::wire::Writer;

/// From this many bodies on, one sync of the whole filesystem is cheaper than one for each.
const SYNCFS_FROM: usize = 16;

impl Overlay {
    /// All names changed so far survive a power cut from here on, and bytes that replaced others by rename.
    pub fn sync(&self) -> Result<(), OverlayError> {
        self.sync_bodies(&[])
    }

    /// Bytes and presence marks of these bodies, and all names changed so far, survive a power cut from here on (fsync).
    /// Blocks on the disk.
    pub fn sync_bodies(&self, bodies: &[Arc<Body>]) -> Result<(), OverlayError> {
        let _syncing = self.syncing.read();
        let renamed = std::mem::take(&mut *self.renamed.lock());
        let done = self.sync_these(bodies, renamed.iter().copied());
        if done.is_err() {
            self.renamed.lock().extend(renamed);
        }
        done
    }

    /// Everything dirty survives a power cut from here on.
    pub fn sync_all(&self) -> Result<(), OverlayError> {
        let _syncing = self.syncing.read();
        let (upto, bodies) = {
            let journal = self.journal.lock();
            (journal.tail().sequence, journal.unsynced.bodies())
        };
        self.syncfs()?;
        self.renamed.lock().clear();
        self.say_synced(bodies.into_iter(), upto)?;
        self.flush_journal()
    }

    fn sync_these(
        &self,
        bodies: &[Arc<Body>],
        renamed: impl ExactSizeIterator<Item = BodyId>,
    ) -> Result<(), OverlayError> {
        // Marks that are said later than this are not covered: their bytes may have come after fdatasync.
        let upto = self.journal.lock().tail().sequence;
        let mut synced: Vec<BodyId> = bodies.iter().map(|body| body.id()).collect();
        if bodies.len() + renamed.len() >= SYNCFS_FROM {
            synced.extend(renamed);
            self.syncfs()?;
        } else {
            for body in bodies {
                self.sync_one(body)?;
            }
            for id in renamed {
                // Gone again: nothing to keep.
                if self.bodies.path(id).exists() {
                    self.sync_one(&*self.bodies.open(id)?)?;
                    synced.push(id);
                }
            }
        }
        self.say_synced(synced.into_iter(), upto)?;
        self.flush_journal()
    }

    fn sync_one(&self, body: &Body) -> Result<(), OverlayError> {
        body.sync()?;
        if self.journal.lock().unsynced.is_fresh(body.id()) {
            self.bodies.sync_name(body.id())?;
        }
        Ok(())
    }

    fn syncfs(&self) -> Result<(), OverlayError> {
        let file = self.journal.lock().file();
        rustix::fs::syncfs(&*file).map_err(|e| self.io(e.into()))
    }

    /// Records that bodies are on disk, as far as that is news.
    fn say_synced(&self, bodies: impl Iterator<Item = BodyId>, upto: u64) -> Result<(), OverlayError> {
        let mut journal = self.journal.lock();
        let news: Vec<(BodyId, u64)> = bodies
            .filter(|body| journal.unsynced.is_known(*body))
            .map(|body| (body, upto))
            .collect();
        // A frame of a million bodies is still below the limit of 64 MiB.
        for piece in news.chunks(1 << 20) {
            let mut payload = Writer::new();
            payload.u8(SYNCED);
            put_runs(&mut payload, piece);
            let mut tail = journal.tail();
            let mut frames = Vec::new();
            tail.frame(&mut frames, payload.as_slice());
            journal.append(&frames, tail, false)?;
            self.appended.fetch_add(1, Ordering::AcqRel);
            for (body, upto) in piece {
                journal.unsynced.synced(*body, *upto);
            }
        }
        Ok(())
    }

    /// As a sync, also when nothing was appended since the journal was opened.
    pub(super) fn force_flush(&self) -> Result<(), OverlayError> {
        self.appended.fetch_add(1, Ordering::AcqRel);
        self.flush_journal()
    }

    /// Everything appended so far is on disk when this returns.
    pub(super) fn flush_journal(&self) -> Result<(), OverlayError> {
        let _turn = self.flush.lock();
        let (file, offset, position) = {
            let journal = self.journal.lock();
            (
                journal.file(),
                journal.tail().offset,
                self.appended.load(Ordering::Acquire),
            )
        };
        if self.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        let done = file.sync_data();
        let mut journal = self.journal.lock();
        if let Err(e) = done {
            // The kernel may have dropped what it could not write and call the next attempt a success.
            journal.poison();
            return Err(e).at(journal.path());
        }
        self.synced.fetch_max(position, Ordering::AcqRel);
        let mut tail = journal.tail();
        let mut frames = Vec::new();
        tail.marker(&mut frames, offset);
        // Without a marker damage is found a little less sharply, that is all (J3).
        match journal.append(&frames, tail, false) {
            Err(e @ OverlayError::Poisoned { .. }) => Err(e),
            _ => Ok(()),
        }
    }
}
