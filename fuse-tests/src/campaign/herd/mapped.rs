//! Files through mappings. The bytes are moved by the kernel between the mapping and a file in memory: a mapping whose
//! mount was killed gives an error then, where a load or store of our own would end the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// A shared mapping of a whole file; the file's handle may be closed.
pub struct Mapped {
    start: *mut libc::c_void,
    len: usize,
    scratch: File,
}

// SAFETY: the mapping belongs to this value alone, and only the kernel goes through the address.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `len` bytes from the beginning.
    ///
    /// # Errors
    /// What the mount says.
    pub fn new(file: &File, len: usize, writable: bool) -> io::Result<Mapped> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let scratch = rustix::fs::memfd_create("herd", rustix::fs::MemfdFlags::CLOEXEC);
        let scratch = match scratch {
            Ok(fd) => fd.into(),
            Err(error) => {
                // SAFETY: the mapping made above, which nobody else knows.
                unsafe { libc::munmap(start, len) };
                return Err(error.into());
            }
        };
        Ok(Mapped { start, len, scratch })
    }

    /// All bytes.
    ///
    /// # Errors
    /// A page that the mount does not give.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let fd = self.scratch.as_raw_fd();
        self.pieces(|start, len, at| {
            // SAFETY: within the mapping; the kernel reads it and checks every page.
            unsafe { libc::pwrite(fd, start, len, at) }
        })?;
        let mut bytes = vec![0; self.len];
        self.scratch.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Stores these bytes, as many as the mapping has.
    ///
    /// # Errors
    /// A page that the mount does not take.
    pub fn store(&self, bytes: &[u8]) -> io::Result<()> {
        self.scratch.write_all_at(bytes, 0)?;
        let fd = self.scratch.as_raw_fd();
        self.pieces(|start, len, at| {
            // SAFETY: within the mapping, which is writable; the kernel writes it and checks every page.
            unsafe { libc::pread(fd, start, len, at) }
        })
    }

    /// msync.
    ///
    /// # Errors
    /// What the mount says.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping of this value.
        match unsafe { libc::msync(self.start, self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn pieces(
        &self,
        mut carry: impl FnMut(*mut libc::c_void, usize, libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < self.len {
            // SAFETY: `done` is within the mapping.
            let start = unsafe { self.start.cast::<u8>().add(done) }.cast();
            match carry(start, self.len - done, done as libc::off_t) {
                0 => return Err(io::Error::other("the mapping ends early")),
                moved if moved > 0 => done += moved as usize,
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
