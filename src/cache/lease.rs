//! Who uses a local file, as the kernel knows it: asked by leases, which count open files and mappings of all processes.
//!
//! A lease is given back as soon as it was granted. The signal that its holder gets when somebody opens the file in
//! between is set to one that is ignored by default.
//!
//! Files that this process has open count too: hold them by O_PATH, which does not, or for reading, which is in nobody's way
//! who asks about writers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// What is asked of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unused {
    /// Nobody can write it: it is not open for writing, and no writable shared mapping is left.
    ForWriting,
    /// Nobody can read or write it.
    AtAll,
}

/// True if nobody uses the file in that way. `handle` may be O_PATH. When in doubt: false.
pub fn is_unused(handle: impl AsFd, unused: Unused) -> bool {
    // By the handle, not by a path: it may have lost its name.
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    let flags = libc::O_NONBLOCK | libc::O_NOATIME;
    let file = File::options().read(true).custom_flags(flags).open(&path);
    let lease = match unused {
        Unused::ForWriting => libc::F_RDLCK,
        Unused::AtAll => libc::F_WRLCK,
    };
    file.and_then(|file| grant(&file, lease)).is_ok()
}

/// The same as [`Unused::ForWriting`] of a file that `handle` has open for reading, which saves opening it. One question at a
/// time: another one would give the lease back.
pub fn has_no_writer(handle: BorrowedFd<'_>) -> bool {
    grant(handle, libc::F_RDLCK).is_ok()
}

fn grant(file: impl AsFd, lease: libc::c_int) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    let ask = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: fcntl with an integer argument on a descriptor that is open.
        match unsafe { libc::fcntl(fd, command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    ask(F_SETSIG, libc::SIGURG)?;
    ask(libc::F_SETLEASE, lease)?;
    ask(libc::F_SETLEASE, libc::F_UNLCK)
}

/// linux/fcntl.h; the crate libc has it for some targets only.
const F_SETSIG: libc::c_int = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_unused_once_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let handle = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)
            .unwrap();
        let reader = File::open(&path).unwrap();
        assert!(!is_unused(&handle, Unused::ForWriting) && !has_no_writer(reader.as_fd()));
        drop(writer);
        assert!(is_unused(&handle, Unused::ForWriting) && has_no_writer(reader.as_fd()));
        assert!(is_unused(&handle, Unused::ForWriting) && !is_unused(&handle, Unused::AtAll));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_unused(&handle, Unused::AtAll));
        drop(reader);
        assert!(is_unused(&handle, Unused::AtAll));
    }
}
