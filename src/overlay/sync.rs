//! What survives a power cut: bodies first, then the journal that speaks of them (J3, J4, J9).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::body::Body;
use super::codec::put_runs;
use super::disk::{sync_data, sync_filesystem};
use super::error::OverlayError;
use super::frame::SYNCED;
use super::journal::Journal;
use super::overlay::Overlay;
use super::state::BodyId;
use super::unsynced::EVERYTHING;
use crate::format::wire::Writer;

/// From this many bodies on, one sync of the whole filesystem is cheaper than one for each.
const SYNCFS_FROM: usize = 16;

impl Overlay {
    /// All names changed so far survive a power cut from here on, and bytes that ops put in the place of others.
    pub fn sync(&self) -> Result<(), OverlayError> {
        self.sync_bodies(&[])
    }

    /// Bytes and presence marks of these bodies, and all names changed so far, survive a power cut from here on (fsync).
    /// Blocks on the disk.
    pub fn sync_bodies(&self, bodies: &[Arc<Body>]) -> Result<(), OverlayError> {
        let _syncing = self.syncing.read();
        let along = self.along.lock().clone();
        let (upto, shown) = self.shown_so_far();
        let mut more: HashSet<BodyId> = shown.into_iter().collect();
        more.extend(along.keys());
        let done = if more.contains(&EVERYTHING) || bodies.len() + more.len() >= SYNCFS_FROM {
            self.sync_everything(upto)
        } else {
            self.sync_these(bodies, &more, upto)
        };
        done?;
        self.drop_along(&along);
        self.flush_journal()
    }

    /// Everything dirty survives a power cut from here on.
    pub fn sync_all(&self) -> Result<(), OverlayError> {
        let _syncing = self.syncing.read();
        let along = self.along.lock().clone();
        let (upto, _) = self.shown_so_far();
        self.sync_everything(upto)?;
        self.drop_along(&along);
        self.flush_journal()
    }

    /// Of the bodies that were synced along, those that were closed before, and those that are gone.
    fn drop_along(&self, synced: &HashMap<BodyId, bool>) {
        if synced.is_empty() {
            return;
        }
        let done = |body: &BodyId, closed: bool| {
            synced.get(body) == Some(&true) && closed || !self.bodies.path(*body).exists()
        };
        self.along.lock().retain(|body, closed| !done(body, *closed));
    }

    /// Where the journal ends, and bodies that ops up to there show (J9). Marks and ops that are said later are not covered by
    /// a sync that begins now: their bytes may come after it.
    fn shown_so_far(&self) -> (u64, Vec<BodyId>) {
        let journal = self.journal.lock();
        (journal.tail().sequence, journal.unsynced.shown())
    }

    fn sync_these(
        &self,
        bodies: &[Arc<Body>],
        more: &HashSet<BodyId>,
        upto: u64,
    ) -> Result<(), OverlayError> {
        let mut synced: Vec<BodyId> = bodies.iter().map(|body| body.id()).collect();
        for body in bodies {
            body.sync()?;
        }
        for id in more {
            match self.bodies.open(*id) {
                Ok(body) => body.sync()?,
                // It has left the state, and that is on disk (J8): nobody is shown its bytes.
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
            synced.push(*id);
        }
        let new: Vec<BodyId> = {
            let journal = self.journal.lock();
            let is_new = |body: &BodyId| journal.unsynced.is_fresh(*body);
            synced.iter().copied().filter(is_new).collect()
        };
        self.bodies.sync_names(&new)?;
        say_synced(self, &mut self.journal.lock(), &synced, upto)
    }

    /// All bodies, and their names.
    fn sync_everything(&self, upto: u64) -> Result<(), OverlayError> {
        let file = self.journal.lock().file();
        sync_filesystem(file, &self.options.dir)?;
        let mut journal = self.journal.lock();
        say_all_synced(self, &mut journal, upto)
    }

    /// Everything that ops show is on disk when this returns, and the journal says so; not on disk yet itself. Ops wait.
    pub(super) fn cover_shown(&self, journal: &mut MutexGuard<'_, Journal>) -> Result<(), OverlayError> {
        if journal.unsynced.shown_count() == 0 {
            return Ok(());
        }
        sync_filesystem(journal.file(), &self.options.dir)?;
        let upto = journal.tail().sequence;
        say_all_synced(self, journal, upto)
    }

    /// As a sync, also when nothing was appended since the journal was opened.
    pub(super) fn force_sync(&self) -> Result<(), OverlayError> {
        self.appended.fetch_add(1, Ordering::AcqRel);
        self.sync()
    }

    /// Everything appended so far is on disk when this returns.
    fn flush_journal(&self) -> Result<(), OverlayError> {
        let _turn = self.flush.lock();
        let (file, path, offset, position, settled) = {
            let journal = self.journal.lock();
            let position = self.appended.load(Ordering::Acquire);
            let settled = journal.unsynced.position_shown().unwrap_or(position);
            let path = journal.path().to_owned();
            (journal.file(), path, journal.tail().offset, position, settled)
        };
        if self.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        let done = sync_data(file, &path);
        let mut journal = self.journal.lock();
        if let Err(e) = done {
            // The kernel may have dropped what it could not write and call the next attempt a success.
            journal.poison();
            return Err(e);
        }
        self.synced.fetch_max(position, Ordering::AcqRel);
        self.settled.fetch_max(settled, Ordering::AcqRel);
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

/// Records that all bodies are on disk.
fn say_all_synced(overlay: &Overlay, journal: &mut Journal, upto: u64) -> Result<(), OverlayError> {
    let mut all = journal.unsynced.bodies();
    all.push(EVERYTHING);
    say_synced(overlay, journal, &all, upto)
}

/// Records that bodies are on disk, as far as that is news.
fn say_synced(
    overlay: &Overlay,
    journal: &mut Journal,
    bodies: &[BodyId],
    upto: u64,
) -> Result<(), OverlayError> {
    let news: Vec<(BodyId, u64)> = bodies
        .iter()
        .filter(|body| journal.unsynced.is_known(**body))
        .map(|body| (*body, upto))
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
        overlay.appended.fetch_add(1, Ordering::AcqRel);
        for (body, upto) in piece {
            journal.unsynced.synced(*body, *upto);
        }
    }
    Ok(())
}
