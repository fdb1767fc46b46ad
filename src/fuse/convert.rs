//! Values of the view as fuser's, and back.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use crate::model::{Kind, Timestamp};
use crate::view::{Attr, Caller, Ino, SetTime, View, ViewError};

/// Preferred I/O size that `stat` shows, bytes: what Python takes as the size of its buffers, so that each small read at a
/// random place reads as much, and as much of a log waits in the writer. Measured in fuse-tests/bench/README.md.
const BLOCK_BYTES: u32 = 8 << 10;

pub fn file_type(kind: Kind) -> FileType {
    match kind {
        // A name of the links tree is shown as what the inode is; the view resolves it before it comes here.
        Kind::File | Kind::HardLink => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Dir => FileType::Directory,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDev => FileType::CharDevice,
        Kind::BlockDev => FileType::BlockDevice,
    }
}

pub fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let seconds = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    whole.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

pub fn timestamp(time: SystemTime) -> Timestamp {
    let secs = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp {
            secs: secs(after),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Timestamp {
                    secs: -secs(before),
                    nanos: 0,
                },
                nanos => Timestamp {
                    secs: -secs(before) - 1,
                    nanos: 1_000_000_000 - nanos,
                },
            }
        }
    }
}

pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(asked_time(at)),
    }
}

/// A time that a program asks for. fuser 0.18 makes seconds before 1970 and the nanoseconds that count on from them into
/// one distance back from 1970: both are taken apart again as it put them together.
fn asked_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => timestamp(time),
        Err(before) => {
            let back = before.duration();
            Timestamp {
                secs: i64::try_from(back.as_secs()).map_or(i64::MIN, |secs| -secs),
                nanos: back.subsec_nanos(),
            }
        }
    }
}

/// `ino` is the number that goes to the kernel: the node number in answers to lookup, `st_ino` in answers to getattr.
pub fn file_attr(attr: &Attr, ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device_number(attr.rdev),
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The answer to a lookup that found nothing, which the kernel keeps: an entry without a node.
pub fn negative_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The kernel's `new_encode_dev`: 12 bits of major, 20 of minor.
pub fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Inverse of [`device_number`].
pub fn device_parts(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

pub fn caller(request: &fuser::Request, umask: u32) -> Caller {
    // The kernel's umask has twelve bits at most.
    let umask = u16::try_from(umask & 0o7777).unwrap_or(0);
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        umask,
    }
}

/// Permission bits of a mode.
pub fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

thread_local! {
    /// The view whose requests this thread answers now: it knows the paths of inodes.
    static ANSWERING: RefCell<Option<Arc<View>>> = const { RefCell::new(None) };
}

/// Answers a request of this view; [`errno`] names paths meanwhile. The view's locks must be free.
pub fn answering<T>(view: Arc<View>, answer: impl FnOnce() -> T) -> T {
    ANSWERING.with(|current| current.replace(Some(view)));
    let answered = answer();
    ANSWERING.with(|current| current.replace(None));
    answered
}

/// The errno of a failed operation. Trouble that the owner of the mount must know of is logged here, once, with the path
/// of the file (or of the directory, where the operation is about a name in it).
pub fn errno(operation: &'static str, ino: Ino, error: &ViewError) -> Errno {
    let number = error.errno();
    if matches!(error, ViewError::LeftBehind { .. }) {
        tracing::debug!(operation, ino, "looked up again");
    } else if matches!(
        number,
        libc::EIO | libc::ENOSPC | libc::EDQUOT | libc::ENFILE | libc::ENOMEM | libc::ESTALE
    ) {
        let path = ANSWERING.with_borrow(|view| view.as_ref()?.path_of(ino));
        let path = path.map_or_else(String::new, |path| path.to_string());
        tracing::warn!(operation, path, ino, %error, "request failed");
    }
    Errno::from_i32(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_both_ways() {
        for time in [
            Timestamp { secs: 0, nanos: 0 },
            Timestamp {
                secs: 1_700_000_000,
                nanos: 999_999_999,
            },
            Timestamp { secs: -1, nanos: 1 },
            Timestamp { secs: -5, nanos: 0 },
            Timestamp {
                secs: -1,
                nanos: 999_999_999,
            },
        ] {
            assert_eq!(timestamp(system_time(time)), time);
        }
    }

    #[test]
    fn asked_times_before_1970_are_what_the_kernel_was_told() {
        // (-2, 999_999_999) is told as 2 s and 999,999,999 ns back, though it is 1.000000001 s back.
        for (secs, nanos) in [(0, 5), (-1, 0), (-2, 999_999_999), (-5_000_000_000, 1)] {
            let distance = Duration::new(i64::unsigned_abs(secs), nanos);
            let told = if secs < 0 {
                UNIX_EPOCH - distance
            } else {
                UNIX_EPOCH + distance
            };
            assert_eq!(asked_time(told), Timestamp { secs, nanos });
        }
    }

    #[test]
    fn device_numbers_survive_both_ways() {
        for device in [(1, 3), (8, 1), (259, 70_000), (4095, 0xf_ffff)] {
            assert_eq!(device_parts(device_number(device)), device);
        }
    }
}
