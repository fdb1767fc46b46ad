//! Room on the disk: taken before a fetch, given back when the file that took it is closed.

use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;

use crate::model::HOLE_BYTES;

/// Bytes charged for a run of `frames` frames that is about to be written, `len` bytes together: blocks of 4 KiB and,
/// per frame, one block for the file system's own map of extents (a frame with a hole at every other block has 128
/// extents of 12 bytes).
pub(super) fn charge(len: u64, frames: u64) -> u64 {
    len.next_multiple_of(HOLE_BYTES) + frames * HOLE_BYTES
}

/// How much room there is and how much of it is taken.
#[derive(Debug)]
pub(super) struct Space {
    cap: u64,
    floor: u64,
    /// The cache directory, held open so that its file system can be asked even after it was deleted.
    dir: File,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Written and promised bytes: never over the cap.
    all: u64,
    /// The part that is only promised, and so still free as far as the file system knows.
    promised: u64,
}

/// Why there is no room: this many bytes have to go first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shortage(pub u64);

impl Space {
    /// Room of `cap` bytes, of which as many can be used as leave `floor` bytes free on the file system of `dir`.
    pub fn new(cap: u64, floor: u64, dir: File) -> Arc<Space> {
        Arc::new(Space {
            cap,
            floor,
            dir,
            taken: Mutex::default(),
        })
    }

    /// The cap.
    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// Bytes taken.
    pub fn used(&self) -> u64 {
        self.taken.lock().all
    }

    /// True if `bytes` more are within the cap, with nothing evicted for them.
    pub fn fits(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.cap
    }

    /// Promises `bytes` of room.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Result<Room, Shortage> {
        let free = self.free();
        let mut taken = self.taken.lock();
        let over_cap = (taken.all + bytes).saturating_sub(self.cap);
        let under_floor = (self.floor + taken.promised + bytes).saturating_sub(free);
        match over_cap.max(under_floor) {
            0 => {
                taken.all += bytes;
                taken.promised += bytes;
                Ok(Room {
                    space: self.clone(),
                    written: 0,
                    promised: bytes,
                })
            }
            short => Err(Shortage(short)),
        }
    }

    /// Counts bytes that are on the disk already, whatever the cap says.
    pub fn found(self: &Arc<Self>, bytes: u64) -> Room {
        self.taken.lock().all += bytes;
        Room {
            space: self.clone(),
            written: bytes,
            promised: 0,
        }
    }

    /// Bytes that have to go so that the cap holds and `wanted` more than the floor are free.
    pub fn shortage(&self, wanted: u64) -> u64 {
        let free = self.free();
        let taken = self.taken.lock();
        let under_floor = (self.floor + taken.promised + wanted).saturating_sub(free);
        taken.all.saturating_sub(self.cap).max(under_floor)
    }

    /// Free bytes of the file system, as far as it tells.
    fn free(&self) -> u64 {
        rustix::fs::fstatvfs(&self.dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Room that somebody holds; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Room {
    space: Arc<Space>,
    written: u64,
    promised: u64,
}

impl Room {
    /// No room.
    pub fn none(space: &Arc<Space>) -> Room {
        Room {
            space: space.clone(),
            written: 0,
            promised: 0,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.written + self.promised
    }

    /// Bytes that are promised and not written.
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// `bytes` of the promise were written (never more than was promised); returns them as room of their own.
    pub fn write(&mut self, bytes: u64) -> Room {
        let bytes = bytes.min(self.promised);
        self.promised -= bytes;
        self.space.taken.lock().promised -= bytes;
        Room {
            space: self.space.clone(),
            written: bytes,
            promised: 0,
        }
    }

    /// `bytes` of the promise (all of it when it is less) as room of their own.
    pub fn split(&mut self, bytes: u64) -> Room {
        let bytes = bytes.min(self.promised);
        self.promised -= bytes;
        Room {
            space: self.space.clone(),
            written: 0,
            promised: bytes,
        }
    }

    /// Takes over what `other` holds.
    pub fn join(&mut self, mut other: Room) {
        self.written += std::mem::take(&mut other.written);
        self.promised += std::mem::take(&mut other.promised);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            let mut taken = self.space.taken.lock();
            taken.all -= self.written + self.promised;
            taken.promised -= self.promised;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_joined_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(100, 0, File::open(dir.path()).unwrap());
        let mut room = space.take(60).unwrap();
        assert_eq!(space.take(50).unwrap_err(), Shortage(10));
        let mut part = room.split(25);
        assert_eq!((space.used(), part.promised(), room.promised()), (60, 25, 35));
        assert_eq!((part.split(30).promised(), part.promised()), (25, 0));
        assert_eq!(space.used(), 35);
        room.join(space.take(25).unwrap());
        let mut kept = room.write(20);
        assert_eq!((space.used(), kept.bytes(), room.bytes()), (60, 20, 40));
        drop(room);
        assert_eq!(space.used(), 20);
        kept.join(space.found(100));
        assert_eq!((space.used(), space.shortage(0)), (120, 20));
        drop(kept);
        assert_eq!((space.used(), space.shortage(0)), (0, 0));
    }

    #[test]
    fn the_floor_counts_promises_that_are_not_written_yet() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(u64::MAX / 4, u64::MAX / 8, File::open(dir.path()).unwrap());
        assert!(space.take(1).is_err(), "no file system has that much free");
    }
}
