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
/// Nothing is set aside (again) while the file system has less than this: what is freed belongs to programs first.
const FREE_BYTES_MIN: u64 = 6 << 20;
/// The same of inodes, where the file system counts them.
const FREE_INODES_MIN: u64 = 128;

/// The reserve of a state directory.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
}

/// True when there is no room: no byte or no inode left, on the disk or of a quota.
pub(super) fn is_full(error: &OverlayError) -> bool {
    matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT))
}

impl Reserve {
    pub(super) fn of(state_dir: &Path) -> Reserve {
        Reserve {
            dir: state_dir.join("reserve"),
        }
    }

    /// Sets room aside, as far as there is plenty. What cannot be had now is tried again later.
    pub(super) fn fill(&self) {
        let missing = (0..FILES).map(|number| self.file(number));
        for path in missing.filter(|path| !path.exists()) {
            if !self.is_plenty() || super::dir::make_dir(&self.dir).is_err() {
                return;
            }
            let made = File::create(&path).and_then(|file| {
                let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES);
                match allocated {
                    // A file system that cannot allocate ahead: the inode is set aside.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                    other => other.map_err(std::io::Error::from),
                }
            });
            if let Err(error) = made {
                tracing::debug!(%error, "no room is set aside now");
                // Half of one would count as a whole one.
                let _ = fs::remove_file(&path);
                return;
            }
        }
    }

    fn is_plenty(&self) -> bool {
        let Some(parent) = self.dir.parent() else {
            return false;
        };
        rustix::fs::statvfs(parent).is_ok_and(|fs| {
            let bytes = fs.f_bavail.saturating_mul(fs.f_frsize);
            bytes >= FREE_BYTES_MIN && (fs.f_files == 0 || fs.f_favail >= FREE_INODES_MIN)
        })
    }

    fn file(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number:02}"))
    }

    /// Gives the room of one file back; false when there is none left.
    pub(super) fn give_way(&self) -> bool {
        (0..FILES).any(|number| fs::remove_file(self.file(number)).is_ok())
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
    /// There is no file then.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), OverlayError> {
        let plain = || -> std::io::Result<()> {
            let file = File::create(path)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()
        };
        let mut done = plain().at(path);
        if done.as_ref().is_err_and(is_full) {
            let _ = fs::remove_file(path);
            if (0..FILES).any(|number| fs::rename(self.file(number), path).is_ok()) {
                done = self.make_room_for(|| {
                    let file = File::options().write(true).open(path).at(path)?;
                    file.write_all_at(bytes, 0).at(path)?;
                    file.set_len(bytes.len() as u64).at(path)?;
                    file.sync_data().at(path)
                });
            }
        }
        if done.is_err() {
            let _ = fs::remove_file(path);
        }
        done
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
        reserve.fill();
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
        reserve.fill();
        assert_eq!(left(), FILES);
    }

    #[test]
    fn other_errors_leave_the_reserve_alone() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.fill();
        let error = reserve
            .write_file(&dir.path().join("none/file"), b"bytes")
            .unwrap_err();
        assert!(!is_full(&error), "{error}");
        assert_eq!(fs::read_dir(dir.path().join("reserve")).unwrap().count(), FILES);
    }
}
