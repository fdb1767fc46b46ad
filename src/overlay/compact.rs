//! Writing the journal anew as one snapshot, while changes go on (JOURNAL.md, "Compaction").

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::disk::sync_data;
use super::error::{AtPath, OverlayError};
use super::frame::{MARKER, NOTHING, Tail};
use super::journal::Journal;
use super::overlay::{Overlay, overlay_dir};
use super::state::BodyId;

/// Smaller journals are left alone, bytes.
const COMPACT_FROM_BYTES: u64 = 32 << 20;
/// So many times as large as its snapshot, a journal is worth writing anew.
const COMPACT_FACTOR: u64 = 4;

impl Overlay {
    pub(super) fn compact_if_large(&self) -> Result<(), OverlayError> {
        let (bytes, snapshot) = {
            let journal = self.journal.lock();
            (journal.bytes(), journal.snapshot_bytes())
        };
        if bytes >= COMPACT_FROM_BYTES && bytes >= snapshot.saturating_mul(COMPACT_FACTOR) {
            self.compact()?;
        }
        Ok(())
    }

    /// Writes the journal anew.
    pub fn compact(&self) -> Result<(), OverlayError> {
        let (state, unsynced, dropped, mut copied, file) = {
            // No sync is under way here: those that come later speak of sequence numbers behind the snapshot.
            let _syncing = self.syncing.write();
            let state = self.state.read();
            let journal = self.journal.lock();
            let bodies = state.bodies();
            let mut unsynced = journal.unsynced.clone();
            unsynced.retain(|body| bodies.contains(&body));
            let is_gone = |body: &BodyId| !bodies.contains(body);
            let dropped: Vec<BodyId> = journal.unsynced.bodies().into_iter().filter(is_gone).collect();
            (state.clone(), unsynced, dropped, journal.tail(), journal.file())
        };
        let number = self.number();
        let path = overlay_dir(&self.options.dir, number).join("journal.new");
        let mut new = Journal::create(&path, &self.header(number), &state, unsynced, copied.sequence)?;
        drop(state);
        // What the snapshot shows is on disk before the snapshot takes the place of the frames that showed it (J9).
        self.sync()?;
        let end = self.journal.lock().tail().offset;
        copy_frames(&file, &path, &mut copied, end, &mut new)?;
        sync_data(new.file(), &path)?;

        let _syncing = self.syncing.write();
        let _turn = self.flush.lock();
        let mut journal = self.journal.lock();
        if self.number() != number {
            // Another overlay has taken its place meanwhile; its directory is gone or is a stash's.
            return super::bodies::remove_file(&path);
        }
        let end = journal.tail().offset;
        copy_frames(&file, &path, &mut copied, end, &mut new)?;
        sync_data(new.file(), &path)?;
        // Just what a replay of it would find: whether an op shows something follows from that.
        new.unsynced = journal.unsynced.clone();
        new.unsynced.forget(&dropped);
        new.rename_over(journal.path())?;
        *journal = new;
        let appended = self.appended.load(Ordering::Acquire);
        let settled = journal.unsynced.position_shown().unwrap_or(appended);
        self.synced.fetch_max(appended, Ordering::AcqRel);
        self.settled.fetch_max(settled, Ordering::AcqRel);
        Ok(())
    }
}

/// Copies the frames from `from` up to offset `end` behind the new journal's end. Checksums are chained, so they are made
/// anew; sequence numbers stay.
fn copy_frames(
    file: &File,
    path: &Path,
    from: &mut Tail,
    end: u64,
    new: &mut Journal,
) -> Result<(), OverlayError> {
    let first = from.offset;
    let mut bytes = vec![0; usize::try_from(end - first).map_err(|_| too_large())?];
    file.read_exact_at(&mut bytes, first).at(path)?;
    let mut frames = Vec::with_capacity(bytes.len());
    let mut tail = new.tail();
    while from.offset < end {
        let payload = from.next(&bytes, first).ok_or_else(too_large)?;
        // What a marker says is true of the old file only.
        let payload = if payload.first() == Some(&MARKER) {
            &[NOTHING][..]
        } else {
            payload
        };
        tail.frame(&mut frames, payload);
    }
    new.append(&frames, tail, false)
}

fn too_large() -> OverlayError {
    OverlayError::Encode("the journal's own frames cannot be read back".into())
}
