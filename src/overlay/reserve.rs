//! Room that is set aside for what makes room.
//!
//! A commit gives bytes and inodes back, but has to write a record, and often a prepared tree, before; a reload and a mount write
//! a journal, an unmount the manifest. All that must go through on a file system without a free byte or a free inode
//! (ENOSPC, and EDQUOT where a quota is used up). So some files with bytes allocated are kept in `reserve/`, and become what
//! has to be written, or give way to it. Bodies and changes that make things never get at them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::{AtPath, OverlayError};

/// Files: inodes that are set aside.
const FILES: usize = 16;
/// Bytes of each.
const FILE_BYTES: u64 = 128 << 10;
/// More files, for what grows with the changes: the tree that a commit leaves here when it had to merge, what it has sent,
/// the list of a stash.
const LARGE_FILES_MAX: usize = 64;
/// Bytes of each.
const LARGE_FILE_BYTES: u64 = 1 << 20;
/// One of them for so many nodes of the overlay, that is 256 bytes for each: an entry takes some 100 in a tree of this machine, 40 in
/// a commit's op ...
const NODES_PER_FILE: usize = 4096;
/// ... or for so many bytes of the journal, whatever is more: it has the targets, attributes and small contents that a tree has too,
/// where they are compressed.
const JOURNAL_BYTES_PER_FILE: u64 = 2 << 20;
/// Nothing is set aside (again) while the file system would have less than this then: what is freed belongs to programs first.
const FREE_BYTES_MIN: u64 = 6 << 20;
/// The same of inodes, where the file system counts them.
const FREE_INODES_MIN: u64 = 128;
/// What stays of the reserve for the end of what has begun, when something large is to be written.
const REST_BYTES: u64 = 512 << 10;

/// How many of the large files an overlay of so many nodes wants, with a journal of so many bytes.
pub(super) fn large_files(nodes: usize, journal_bytes: u64) -> usize {
    let for_journal = usize::try_from(journal_bytes / JOURNAL_BYTES_PER_FILE).unwrap_or(LARGE_FILES_MAX);
    for_journal.max(nodes / NODES_PER_FILE).min(LARGE_FILES_MAX)
}

/// The reserve of a state directory.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
}

/// True when there is no room: no byte or no inode left, on the disk or of a quota.
pub(super) fn is_full(error: &OverlayError) -> bool {
    matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// What the file system has free for us.
struct Free {
    bytes: u64,
    /// `u64::MAX` where they are not counted.
    inodes: u64,
}

impl Reserve {
    pub(super) fn of(state_dir: &Path) -> Reserve {
        Reserve {
            dir: state_dir.join("reserve"),
        }
    }

    /// Sets room aside with so many of the large files, as far as there is plenty. What cannot be had now is tried again later;
    /// what is not wanted any more is given back.
    pub(super) fn fill(&self, large: usize) {
        for number in large..LARGE_FILES_MAX {
            // Most were never there.
            let _ = fs::remove_file(self.large_file(number));
        }
        let small = (0..FILES).map(|number| (self.file(number), FILE_BYTES));
        let large = (0..large).map(|number| (self.large_file(number), LARGE_FILE_BYTES));
        for (path, bytes) in small.chain(large).filter(|(path, _)| !path.exists()) {
            if !self.is_plenty_beside(bytes) || !self.set_aside(&path, bytes) {
                return;
            }
        }
    }

    /// Takes back what was given to something that is done, and has left it: a file that was written anew leaves the old one's
    /// room. Without this one start after the other on a full disk would use up the reserve. Not when programs have freed it.
    pub(super) fn take_back(&self) {
        let missing = (0..FILES).map(|number| self.file(number));
        for path in missing.filter(|path| !path.exists()) {
            if !self.set_aside(&path, FILE_BYTES) {
                return;
            }
        }
    }

    fn set_aside(&self, path: &Path, bytes: u64) -> bool {
        if super::dir::make_dir(&self.dir).is_err() {
            return false;
        }
        let made = File::create(path).and_then(|file| {
            let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes);
            match allocated {
                // A file system that cannot allocate ahead: the inode is set aside.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                other => other.map_err(std::io::Error::from),
            }
        });
        if let Err(error) = &made {
            tracing::debug!(%error, "no room is set aside now");
            // Half of one would count as a whole one.
            let _ = fs::remove_file(path);
        }
        made.is_ok()
    }

    fn free(&self) -> Option<Free> {
        let fs = rustix::fs::statvfs(self.dir.parent()?).ok()?;
        Some(Free {
            bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            inodes: if fs.f_files == 0 { u64::MAX } else { fs.f_favail },
        })
    }

    /// True when the file system has room that is not needed for anything yet.
    pub(super) fn is_plenty(&self) -> bool {
        self.is_plenty_beside(0)
    }

    fn is_plenty_beside(&self, bytes: u64) -> bool {
        self.free()
            .is_some_and(|free| free.bytes >= FREE_BYTES_MIN + bytes && free.inodes >= FREE_INODES_MIN)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number:02}"))
    }

    fn large_file(&self, number: usize) -> PathBuf {
        self.dir.join(format!("large-{number:02}"))
    }

    /// The large ones first: they are there for large things.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let large = (0..LARGE_FILES_MAX).map(|number| self.large_file(number));
        large.chain((0..FILES).map(|number| self.file(number)))
    }

    /// Bytes that are set aside now.
    fn bytes(&self) -> u64 {
        let len = |path: PathBuf| fs::symlink_metadata(path).map_or(0, |found| found.len());
        self.files().map(len).sum()
    }

    /// Gives the room of one file back; false when there is none left.
    pub(super) fn give_way(&self) -> bool {
        self.files().any(|path| fs::remove_file(path).is_ok())
    }

    /// Does something that makes room in the end; as long as there is none for it, the reserve gives way.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn make_room_for<T>(
        &self,
        mut work: impl FnMut() -> Result<T, OverlayError>,
    ) -> Result<T, OverlayError> {
        loop {
            match work() {
                Err(error) if is_full(&error) && self.give_way() => {}
                done => return done,
            }
        }
    }

    /// A new file with these bytes, on disk when this returns (its name is not). Without room one of the reserve becomes it.
    ///
    /// # Errors
    /// There is no file then. ENOSPC at once, with the reserve as it was, when it could not be enough: it is needed for smaller
    /// things.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), OverlayError> {
        let plain = || -> std::io::Result<()> {
            let file = File::create(path)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()
        };
        let mut done = plain().at(path);
        if done.as_ref().is_err_and(is_full) {
            let _ = fs::remove_file(path);
            let wanted = bytes.len() as u64;
            let free = self.free().map_or(u64::MAX, |free| free.bytes);
            let is_enough = wanted <= FILE_BYTES
                || wanted.saturating_add(REST_BYTES) <= free.saturating_add(self.bytes());
            if is_enough && self.become_file(path) {
                done = self.make_room_for(|| {
                    let file = File::options().write(true).open(path).at(path)?;
                    allocate(&file, wanted).at(path)?;
                    file.write_all_at(bytes, 0).at(path)?;
                    file.set_len(wanted).at(path)?;
                    file.sync_data().at(path)
                });
            }
        }
        if done.is_err() {
            let _ = fs::remove_file(path);
        }
        done
    }

    /// One of the reserve gets this name, a small one if there is one.
    fn become_file(&self, path: &Path) -> bool {
        let small = (0..FILES).map(|number| self.file(number));
        let mut all = small.chain((0..LARGE_FILES_MAX).map(|number| self.large_file(number)));
        all.any(|reserved| fs::rename(reserved, path).is_ok())
    }
}

/// Takes room for a file before it is written, where the file system can: what is too large is known at once.
fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> OverlayError {
        OverlayError::Io {
            path: PathBuf::new(),
            source: std::io::Error::from_raw_os_error(libc::EDQUOT),
        }
    }

    #[test]
    fn what_makes_room_goes_on_as_long_as_there_is_a_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.fill(0);
        let left = || fs::read_dir(dir.path().join("reserve")).unwrap().count();
        assert_eq!(left(), FILES);
        let mut refused = 3;
        let done = reserve.make_room_for(|| {
            refused -= 1;
            if refused == 0 { Ok(()) } else { Err(full()) }
        });
        done.unwrap();
        assert_eq!(left(), FILES - 2);
        let never: Result<(), _> = reserve.make_room_for(|| Err(full()));
        assert!(is_full(&never.unwrap_err()));
        assert_eq!(left(), 0);
        reserve.fill(0);
        assert_eq!(left(), FILES);
    }

    #[test]
    fn other_errors_leave_the_reserve_alone() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.fill(0);
        let error = reserve
            .write_file(&dir.path().join("none/file"), b"bytes")
            .unwrap_err();
        assert!(!is_full(&error), "{error}");
        assert_eq!(fs::read_dir(dir.path().join("reserve")).unwrap().count(), FILES);
    }

    /// Of 1,000 starts on a full disk, say, none may take anything of it for good.
    #[test]
    fn what_was_given_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.fill(0);
        assert!(reserve.give_way() && reserve.give_way());
        reserve.take_back();
        assert_eq!(fs::read_dir(dir.path().join("reserve")).unwrap().count(), FILES);
    }

    #[test]
    fn it_grows_with_the_overlay_and_the_large_ones_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.fill(large_files(3 * NODES_PER_FILE, JOURNAL_BYTES_PER_FILE));
        let all = FILES as u64 * FILE_BYTES + 3 * LARGE_FILE_BYTES;
        assert_eq!(reserve.bytes(), all);
        assert!(reserve.give_way());
        assert_eq!(reserve.bytes(), all - LARGE_FILE_BYTES);
        reserve.fill(large_files(0, 2 * JOURNAL_BYTES_PER_FILE));
        assert_eq!(reserve.bytes(), all - LARGE_FILE_BYTES);
        reserve.fill(0);
        assert_eq!(reserve.bytes(), FILES as u64 * FILE_BYTES);
    }
}
