//! What the files of the cache have in common: numbers and ticks, identity, open descriptors, sparse writing.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;

use super::index::Index;
use super::space::{Room, Space};
use super::{Unused, is_unused};
use crate::model::data_runs;

/// Descriptors that the cache keeps open; well below the usual soft limit of 1,024.
const OPEN_FILES_MAX: u64 = 256;
/// Part of the process's limit that they may take.
const OPEN_FILES_SHARE: u64 = 8;

/// The cache directory and what is counted in it.
#[derive(Debug)]
pub(super) struct Disk {
    pub space: Arc<Space>,
    pub index: Index,
    pub open_files: OpenFiles,
    /// Deleted files that the kernel handed to somebody, with the room that they take until he is done.
    lingering: Mutex<Vec<(File, Room)>>,
    /// The next file number.
    numbers: AtomicU64,
    /// Counts uses; orders files by recency.
    ticks: AtomicU64,
}

impl Disk {
    /// With the next file number and the next tick.
    pub fn new(space: Arc<Space>, index: Index, number: u64, tick: u64) -> Arc<Disk> {
        Arc::new(Disk {
            space,
            index,
            open_files: OpenFiles::default(),
            lingering: Mutex::default(),
            numbers: AtomicU64::new(number),
            ticks: AtomicU64::new(tick),
        })
    }

    /// A number for a new file.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    /// A deleted file that somebody may have mapped or open: its room comes back when it is free.
    pub fn linger(&self, handle: File, room: Room) {
        self.lingering.lock().push((handle, room));
        self.sweep();
    }

    /// Gives back the room of deleted files that nobody uses any more.
    pub fn sweep(&self) {
        self.lingering
            .lock()
            .retain(|(handle, _)| !is_unused(handle, Unused::AtAll));
    }

    /// The present tick.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Relaxed)
    }
}

/// A file that can be closed and opened again.
pub(super) trait CloseFile: Send + Sync {
    /// Closes the descriptor; the next use opens it again.
    fn close_file(&self);
}

/// Bounds the number of open descriptors: the one opened longest ago is closed first.
pub(super) struct OpenFiles {
    max: usize,
    queue: Mutex<VecDeque<Weak<dyn CloseFile>>>,
}

impl Default for OpenFiles {
    /// As many as this process's limit allows.
    fn default() -> OpenFiles {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let max = limit.map_or(OPEN_FILES_MAX, |limit| {
            (limit / OPEN_FILES_SHARE).clamp(1, OPEN_FILES_MAX)
        });
        OpenFiles {
            max: usize::try_from(max).unwrap_or(1),
            queue: Mutex::default(),
        }
    }
}

impl OpenFiles {
    /// A file was opened. The caller holds no lock of any file.
    pub fn opened(&self, file: Weak<dyn CloseFile>) {
        let oldest = {
            let mut queue = self.queue.lock();
            queue.push_back(file);
            if queue.len() > self.max {
                queue.pop_front()
            } else {
                None
            }
        };
        if let Some(file) = oldest.and_then(|weak| weak.upgrade()) {
            file.close_file();
        }
    }
}

impl std::fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenFiles")
    }
}

/// What tells that nobody but us has touched a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    inode: u64,
    pub size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Identity {
    /// The identity of an open file as it is now.
    pub fn of(file: &File) -> io::Result<Identity> {
        Identity::at(file)
    }

    /// The same, by any descriptor.
    pub fn at(file: impl AsFd) -> io::Result<Identity> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Identity {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}

/// Makes a new file; also its directory, should somebody have deleted that.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

/// Opens a file of the cache again.
pub(super) fn reopen(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

/// Deletes a file of the cache; one that somebody else has deleted is as good.
pub(super) fn unlink(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "cannot delete a cache file");
    }
}

/// Writes what is not zero of `bytes` at `offset` (a multiple of [`HOLE_BYTES`]) of a file that has a hole there.
/// Returns the bytes written.
///
/// [`HOLE_BYTES`]: crate::model::HOLE_BYTES
pub(super) fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    for run in data_runs(bytes) {
        file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
        written += run.len() as u64;
    }
    Ok(written)
}

/// Files of a directory of the cache with their names and lengths on disk (allocated, apparent); what is no regular
/// file or has no proper name is left out.
pub(super) fn listed(dir: &Path) -> io::Result<Vec<(String, PathBuf, u64, u64)>> {
    let mut files = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        let meta = item.metadata()?;
        if let (true, Ok(name)) = (meta.is_file(), item.file_name().into_string()) {
            files.push((name, item.path(), meta.blocks() * 512, meta.len()));
        }
    }
    Ok(files)
}

/// Exactly `len` bytes of a file from `at` on, into memory that nobody has cleared before.
///
/// # Errors
/// Those of pread; `UnexpectedEof` when the file ends before.
pub(super) fn read_at(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        // It may have room for more than was asked for.
        let missing = len - bytes.len();
        let from = at + bytes.len() as u64;
        let room = spare_capacity(&mut bytes);
        match rustix::io::pread(file, room, from) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) if read >= missing => bytes.truncate(len),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for_or_nothing() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        assert_eq!(read_at(&file, 3, 4).unwrap(), b"3456");
        assert_eq!(read_at(&file, 0, 10).unwrap(), b"0123456789");
        assert_eq!(read_at(&file, 10, 0).unwrap(), b"");
        for (at, len) in [(0, 11), (9, 2), (10, 1), (1 << 40, 1)] {
            let error = read_at(&file, at, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{at} {len}");
        }
    }

    #[test]
    fn zero_blocks_become_holes_and_the_bytes_are_the_same() {
        let mut bytes = vec![0u8; 40 * 4096 + 100];
        for block in [0, 1, 5, 30, 40] {
            bytes[block * 4096 + 7] = 1;
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let written = write_sparse(&file, 0, &bytes).unwrap();
        assert_eq!(written, 4 * 4096 + 100);
        let mut back = vec![1; bytes.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, bytes);
    }
}
