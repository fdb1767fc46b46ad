//! Files in memory, written by storing.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A writable shared mapping of a whole file that is closed again.
#[derive(Debug)]
pub struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    /// Of the file at a path, which must not be empty.
    ///
    /// # Panics
    /// When it cannot be opened and mapped.
    pub fn of(path: &Path) -> Mapping {
        let file = File::options().read(true).write(true).open(path);
        Mapping::of_file(&file.expect("a file that can be written"))
    }

    /// Of an open file.
    ///
    /// # Panics
    /// When it cannot be mapped.
    pub fn of_file(file: &File) -> Mapping {
        let len = file.metadata().expect("an open file").len();
        let len = usize::try_from(len).expect("a file that fits into memory");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, used within its length only while this value lives.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Mapping { at, len }
    }

    /// Stores bytes at an offset, without a system call.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: inside the mapping, which nobody else in this process uses.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.cast::<u8>().add(offset), bytes.len());
        }
    }

    /// msync(2).
    ///
    /// # Panics
    /// When it fails.
    pub fn sync(&self) {
        // SAFETY: the mapping as it was made.
        let done = unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `of_file`, with this length.
        assert_eq!(unsafe { libc::munmap(self.at, self.len) }, 0);
    }
}
