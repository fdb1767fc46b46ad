//! A segment: one sparse file in the cache directory that holds frames (pieces of 1 MiB) of a large file's content; all of
//! them, or a part if the content is too large to be evicted at once.
//!
//! 1. A frame is *checked* when its bytes in the file were verified in this session. Only checked frames are given out.
//! 2. A frame that an earlier session of the daemon left is *marked* (the index has its hash) until it is read in full and compared.
//! 3. The file's identity (inode, size, mtime, ctime) is recorded after each of our writes, and compared before the next
//!    write, whenever the file is opened again, and after every read. If anything else has touched the file, it is discarded
//!    and fetched again. While one of our own writes is running, a read compares only the size.
//! 4. A checked frame is never overwritten, and no file is truncated or punched: eviction unlinks it.
//! 5. The kernel may be given the file to read directly, for one inode at a time. The space that it takes counts against the cache
//!    until nobody has it open or mapped any more.
//!
//! Locks: `write` is held over file system calls and taken before `state`; `state` is never held over one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::adopt::Holder;
use super::disk::{CloseFile, Disk, Identity, create, read_at, reopen, unlink, write_sparse};
use super::space::{Room, charge};
use super::{Unused, is_unused};
use crate::format::FrameSum;
use crate::model::{FRAME_BYTES, Hash};
use crate::tree::TreeError;

/// The result of a frame's fetch, for those who wait: its bytes, or the error.
pub(super) type FrameWait = watch::Receiver<Option<Result<Bytes, TreeError>>>;

/// The sending end of [`Arriving`].
pub(super) type FrameSender = watch::Sender<Option<Result<Bytes, TreeError>>>;

/// Which part of which content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct SegmentKey {
    /// The content.
    pub cid: Hash,
    /// Length of its segments, a multiple of the frame; 0 when there is only one.
    pub bytes: u64,
    /// Number of this segment in the content.
    pub index: u64,
}

impl SegmentKey {
    /// The file's name.
    fn name(&self, number: u64) -> String {
        format!("{}-{:x}-{:x}-{number:x}", self.cid, self.bytes, self.index)
    }

    /// The reverse.
    pub fn parse(name: &str) -> Option<(SegmentKey, u64)> {
        let mut parts = name.split('-');
        let cid = parts.next()?.parse().ok()?;
        let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
        let (bytes, index, number) = (next()?, next()?, next()?);
        parts
            .next()
            .is_none()
            .then_some((SegmentKey { cid, bytes, index }, number))
    }
}

/// One sparse file of frames.
#[derive(Debug)]
pub(super) struct Segment {
    /// What it holds.
    pub key: SegmentKey,
    /// Its number in the index.
    pub number: u64,
    /// Its length, bytes.
    pub len: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Tick of the last use.
    pub used: AtomicU64,
    /// How many holders keep it from being evicted.
    pub pins: AtomicU64,
    write: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// True if the file was created and, as far as we know, still exists.
    created: bool,
    file: Option<Arc<File>>,
    identity: Option<Identity>,
    /// Counts our writes; odd while one is running.
    version: u64,
    /// The segment was removed from the map: nothing may be written to it any more.
    discarded: bool,
    checked: Vec<u64>,
    checked_count: u64,
    marks: Marks,
    fetching: HashMap<u32, FrameWait>,
    room: Room,
    holder: Holder,
}

/// Frames of an earlier session.
#[derive(Debug)]
enum Marks {
    /// The index has so many hashes, which were not loaded yet.
    Unread(u32),
    Read(HashMap<u32, FrameSum>),
}

/// What became of a read.
pub(super) enum LocalRead {
    /// The bytes.
    Bytes(Bytes),
    /// Some frame is not checked, or the file is closed.
    NotHere,
    /// The file was altered by something else: discard it.
    Damaged,
}

/// Where a frame is.
pub(super) enum FrameState {
    Checked,
    /// On disk from an earlier session: compare with this hash first.
    Marked(FrameSum),
    Fetching(FrameWait),
    Absent,
    /// The segment was evicted meanwhile: look the content up again.
    Discarded,
}

impl Segment {
    /// A segment without a file yet.
    pub fn new(dir: &Path, disk: &Disk, key: SegmentKey, len: u64) -> Arc<Segment> {
        let number = disk.number();
        let marks = Marks::Read(HashMap::new());
        let segment = Segment::with(dir, key, number, len, marks, Room::none(&disk.space));
        segment.touch(disk);
        Arc::new(segment)
    }

    /// A segment whose file was found at the opening of the cache, with `marks` frames.
    pub fn found(dir: &Path, key: SegmentKey, number: u64, len: u64, marks: u32, room: Room) -> Arc<Segment> {
        let segment = Segment::with(dir, key, number, len, Marks::Unread(marks), room);
        segment.state.lock().created = true;
        Arc::new(segment)
    }

    fn with(dir: &Path, key: SegmentKey, number: u64, len: u64, marks: Marks, room: Room) -> Segment {
        let words = usize::try_from(len.div_ceil(FRAME_BYTES).div_ceil(64)).unwrap_or(usize::MAX);
        Segment {
            key,
            number,
            len,
            path: dir.join(key.name(number)),
            used: AtomicU64::new(0),
            pins: AtomicU64::new(0),
            write: Mutex::new(()),
            state: Mutex::new(State {
                created: false,
                file: None,
                identity: None,
                version: 0,
                discarded: false,
                checked: vec![0; words],
                checked_count: 0,
                marks,
                fetching: HashMap::new(),
                room,
                holder: Holder::Nobody,
            }),
        }
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.len.div_ceil(FRAME_BYTES)
    }

    /// Length of a frame, bytes.
    pub fn frame_len(&self, frame: u32) -> u64 {
        FRAME_BYTES.min(self.len.saturating_sub(u64::from(frame) * FRAME_BYTES))
    }

    /// Bytes that evicting it gives back.
    pub fn charged(&self) -> u64 {
        self.state.lock().room.bytes()
    }

    /// True when it has a file.
    pub fn on_disk(&self) -> bool {
        self.state.lock().created
    }

    /// True when every frame is on disk, checked or marked.
    pub fn complete(&self) -> bool {
        let state = self.state.lock();
        let marked = match &state.marks {
            Marks::Unread(count) => u64::from(*count),
            Marks::Read(marks) => marks.len() as u64,
        };
        state.checked_count + marked >= self.frames()
    }

    /// True when every frame was checked in this session.
    pub fn all_checked(&self) -> bool {
        self.state.lock().checked_count >= self.frames()
    }

    /// Retires the segment if none of its frames is on disk or being fetched, or in any case if `forced`; true if it was
    /// retired by this call. Nothing is written to it afterwards.
    pub fn retire(&self, forced: bool) -> bool {
        let mut state = self.state.lock();
        let ends = !state.discarded && (forced || (!state.created && state.fetching.is_empty()));
        state.discarded |= ends;
        ends
    }

    /// True when the hashes of an earlier session have to be read before frames can be asked for.
    pub fn needs_marks(&self) -> bool {
        matches!(self.state.lock().marks, Marks::Unread(_))
    }

    /// Reads the hashes of an earlier session. Blocks.
    pub fn read_marks(&self, disk: &Disk) {
        if self.needs_marks() {
            let mut marks = disk.index.marks(self.number);
            marks.retain(|frame, _| u64::from(*frame) < self.frames());
            let mut state = self.state.lock();
            if matches!(state.marks, Marks::Unread(_)) {
                state.marks = Marks::Read(marks);
            }
        }
    }

    /// Looks up a frame. If it is absent or only marked, registers `wait` as its pending result: the caller must then fetch or
    /// check it, and others wait for that.
    pub fn claim(&self, frame: u32, wait: &FrameWait) -> FrameState {
        let mut state = self.state.lock();
        if state.discarded {
            return FrameState::Discarded;
        }
        if state.is_checked(frame) {
            return FrameState::Checked;
        }
        if let Some(wait) = state.fetching.get(&frame) {
            return FrameState::Fetching(wait.clone());
        }
        state.fetching.insert(frame, wait.clone());
        match &state.marks {
            Marks::Read(marks) => marks
                .get(&frame)
                .copied()
                .map_or(FrameState::Absent, FrameState::Marked),
            Marks::Unread(_) => FrameState::Absent,
        }
    }

    /// True when the frame is neither on disk nor being fetched.
    pub fn is_absent(&self, frame: u32) -> bool {
        self.state.lock().is_absent(frame)
    }

    /// Registers `wait` as the pending result of a frame if it is absent.
    pub fn claim_if_absent(&self, frame: u32, wait: FrameWait) -> bool {
        let mut state = self.state.lock();
        let absent = state.is_absent(frame);
        if absent {
            state.fetching.insert(frame, wait);
        }
        absent
    }

    /// The frame's fetch is over.
    pub fn unclaim(&self, frame: u32) {
        self.state.lock().fetching.remove(&frame);
    }

    /// Bytes `at..at+len` of the segment, when all frames are checked and the file is open. One pread and one fstat.
    pub fn read_checked(&self, at: u64, len: usize) -> LocalRead {
        let (file, version, identity) = {
            let state = self.state.lock();
            let last = (at + len as u64).saturating_sub(1) / FRAME_BYTES;
            let all = (at / FRAME_BYTES..=last).all(|f| u32::try_from(f).is_ok_and(|f| state.is_checked(f)));
            match (&state.file, state.identity) {
                (Some(file), Some(identity)) if all => (file.clone(), state.version, identity),
                _ => return LocalRead::NotHere,
            }
        };
        let read = read_at(&file, at, len);
        let now = Identity::of(&file);
        match (read, now) {
            (Ok(bytes), Ok(now)) if now == identity => LocalRead::Bytes(bytes.into()),
            (Ok(bytes), Ok(now)) if now.size == self.len && self.version_moved(version) => {
                LocalRead::Bytes(bytes.into())
            }
            _ => LocalRead::Damaged,
        }
    }

    /// True when a write of ours was running at `version` or has run since.
    fn version_moved(&self, version: u64) -> bool {
        version % 2 == 1 || self.state.lock().version != version
    }

    /// Opens the file if it is closed, and checks that it is the one that we left. Blocks.
    pub fn open_file(self: &Arc<Self>, disk: &Disk) -> io::Result<Arc<File>> {
        let _write = self.write.lock();
        self.open_locked(disk)
    }

    fn open_locked(self: &Arc<Self>, disk: &Disk) -> io::Result<Arc<File>> {
        let (created, known) = {
            let state = self.state.lock();
            if state.discarded {
                return Err(changed());
            }
            if let Some(file) = &state.file {
                return Ok(file.clone());
            }
            (state.created, state.identity)
        };
        let file = if created {
            reopen(&self.path)?
        } else {
            create(&self.path)?
        };
        if !created {
            file.set_len(self.len)?;
        }
        let identity = Identity::of(&file)?;
        if identity.size != self.len || known.is_some_and(|known| known != identity) {
            return Err(changed());
        }
        let file = Arc::new(file);
        {
            let mut state = self.state.lock();
            state.created = true;
            state.identity = Some(identity);
            state.file = Some(file.clone());
        }
        let this: Weak<Self> = Arc::downgrade(self);
        disk.open_files.opened(this);
        Ok(file)
    }

    /// Reads a marked frame in full and compares it with `sum`; `None`: it is not what was written. Blocks.
    pub fn check_frame(self: &Arc<Self>, disk: &Disk, frame: u32, sum: &FrameSum) -> Option<Bytes> {
        let file = self.open_file(disk).ok()?;
        let len = usize::try_from(self.frame_len(frame)).ok()?;
        let bytes = read_at(&file, u64::from(frame) * FRAME_BYTES, len).ok()?;
        if !sum.matches(&bytes) {
            return None;
        }
        self.state.lock().set_checked(frame);
        Some(bytes.into())
    }

    /// Writes a frame that was verified as `sum`; it is checked from then on. `room` is what was promised for the fetch. Blocks.
    pub fn write_frame(
        self: &Arc<Self>,
        disk: &Disk,
        frame: u32,
        bytes: &[u8],
        sum: &FrameSum,
        room: &mut Room,
    ) -> io::Result<()> {
        let _write = self.write.lock();
        let file = self.open_locked(disk)?;
        if Some(Identity::of(&file)?) != self.state.lock().identity {
            return Err(changed());
        }
        self.state.lock().version += 1;
        let written = write_sparse(&file, u64::from(frame) * FRAME_BYTES, bytes);
        let identity = Identity::of(&file);
        {
            let mut state = self.state.lock();
            state.version += 1;
            let identity = identity?;
            state.identity = Some(identity);
            let written = written?;
            if identity.size != self.len {
                return Err(changed());
            }
            let room = room.write(charge(written, 1));
            state.room.join(room);
            state.set_checked(frame);
        }
        disk.index.mark(self.number, frame, sum);
        Ok(())
    }

    /// Takes a file that was renamed to the segment's path as its own, every frame checked. Blocks.
    pub fn adopt(self: &Arc<Self>, disk: &Disk, room: Room) -> io::Result<()> {
        let _write = self.write.lock();
        self.state.lock().created = true;
        self.open_locked(disk)?;
        let mut state = self.state.lock();
        state.room.join(room);
        for frame in 0..u32::try_from(self.frames()).unwrap_or(u32::MAX) {
            state.set_checked(frame);
        }
        Ok(())
    }

    /// Deletes the file of a retired segment; who reads it still can. Its room is given back with the last reference, or
    /// when the kernel's own users of the file are gone. Blocks.
    pub fn delete(&self, disk: &Disk) {
        let _write = self.write.lock();
        let handed = self.state.lock().holder != Holder::Nobody;
        let handle = handed.then(|| open_handle(&self.path).ok()).flatten();
        unlink(&self.path);
        disk.index.forget(self.number);
        let mut state = self.state.lock();
        state.file = None;
        if let Some(handle) = handle {
            let none = Room::none(&disk.space);
            disk.linger(handle, std::mem::replace(&mut state.room, none));
        }
    }

    /// True when the file that `handle` names is the one that we left.
    pub fn is_untouched_at(&self, handle: impl AsFd) -> bool {
        let identity = self.state.lock().identity;
        identity.is_some() && Identity::at(handle).ok() == identity
    }

    /// Records that an inode is given the file. False: another inode has it, or may still have it mapped.
    pub fn hand_to(&self, inode: u64, handle: impl AsFd) -> bool {
        let mut state = self.state.lock();
        let free = match state.holder {
            Holder::Nobody => true,
            Holder::Inode(holder) if holder == inode => true,
            Holder::Former | Holder::Inode(_) => {
                // Our own descriptor would make the kernel refuse the lease that answers this.
                state.file = None;
                self.pins.load(Relaxed) <= 1 && is_unused(handle, Unused::AtAll)
            }
        };
        if free {
            state.holder = Holder::Inode(inode);
        }
        free
    }

    /// The file was a body: somebody may still have it open for reading.
    pub fn was_body(&self) {
        self.state.lock().holder = Holder::Former;
    }

    /// Moves the file out of the cache and retires the segment. Its space counts elsewhere from now on. Blocks.
    pub fn give_away(&self, disk: &Disk, to: &Path) -> bool {
        let _write = self.write.lock();
        if self.state.lock().discarded {
            return false;
        }
        if let Err(error) = std::fs::rename(&self.path, to) {
            tracing::debug!(path = %self.path.display(), %error, "a cache file does not become a body");
            return false;
        }
        disk.index.forget(self.number);
        let mut state = self.state.lock();
        state.discarded = true;
        state.file = None;
        state.room = Room::none(&disk.space);
        true
    }

    /// Tells the index the hashes of all frames of an adopted file. Blocks.
    pub fn mark_all(&self, disk: &Disk) {
        for frame in 0..u32::try_from(self.frames()).unwrap_or(u32::MAX) {
            let len = usize::try_from(self.frame_len(frame)).unwrap_or(0);
            match self.read_checked(u64::from(frame) * FRAME_BYTES, len) {
                LocalRead::Bytes(bytes) => disk.index.mark(self.number, frame, &FrameSum::of(&bytes)),
                // The file is closed or gone: frames without a hash in the index are fetched again after a restart.
                _ => return,
            }
        }
    }

    /// Sets when it was last used, as a tick of an earlier session.
    pub fn used_at(&self, tick: u64) {
        self.used.store(tick, Relaxed);
    }

    /// Records that it was used now.
    pub fn touch(&self, disk: &Disk) {
        self.used.store(disk.tick(), Relaxed);
    }
}

impl State {
    fn is_absent(&self, frame: u32) -> bool {
        let marked = match &self.marks {
            Marks::Read(marks) => marks.contains_key(&frame),
            Marks::Unread(_) => true,
        };
        !self.discarded && !self.is_checked(frame) && !marked && !self.fetching.contains_key(&frame)
    }

    fn is_checked(&self, frame: u32) -> bool {
        let word = self.checked.get(frame as usize / 64);
        word.is_some_and(|word| word & (1 << (frame % 64)) != 0)
    }

    fn set_checked(&mut self, frame: u32) {
        if !self.is_checked(frame)
            && let Some(word) = self.checked.get_mut(frame as usize / 64)
        {
            *word |= 1 << (frame % 64);
            self.checked_count += 1;
        }
        if let Marks::Read(marks) = &mut self.marks {
            marks.remove(&frame);
        }
    }
}

fn open_handle(path: &Path) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    File::options().read(true).custom_flags(flags).open(path)
}

impl CloseFile for Segment {
    fn close_file(&self) {
        self.state.lock().file = None;
    }
}

fn changed() -> io::Error {
    io::Error::other("somebody else has changed the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_back() {
        let key = SegmentKey {
            cid: Hash([0xab; 32]),
            bytes: 64 << 20,
            index: 17,
        };
        assert_eq!(SegmentKey::parse(&key.name(99)), Some((key, 99)));
        for bad in [
            "",
            "x-1-2-3",
            "lost+found",
            &format!("{}-1-2", key.cid),
            &format!("{}-1-2-3-4", key.cid),
        ] {
            assert_eq!(SegmentKey::parse(bad), None, "{bad}");
        }
    }
}
