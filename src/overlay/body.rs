//! Bodies: files of the state directory that hold the bytes of dirty files.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom, Timespec, Timestamps};

use super::descriptors::{OpenBodies, Writable};
use super::error::{AtPath, OverlayError};
use super::handle::Handle;
use super::state::BodyId;
use crate::model::Timestamp;

/// The bytes of one dirty file: a file of its own, as long as the file it stands for. Usable without any lock; it stays
/// readable and writable for whoever has it, also after it has left the overlay and its name.
#[derive(Debug)]
pub struct Body {
    id: BodyId,
    /// Open for reading: that is in nobody's way who asks whether the file can be written, and such a question can be asked
    /// of it as it is.
    handle: Arc<Handle>,
    /// Open for reading and writing, from the first use by this process until [`Body::let_go`], or until others are in want of
    /// a descriptor.
    file: Arc<Writable>,
    open: Arc<OpenBodies>,
}

/// What `stat` says of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyStat {
    /// Bytes.
    pub len: u64,
    /// Bytes that it takes on disk.
    pub allocated: u64,
    /// Last write.
    pub mtime: Timestamp,
    /// Inode number on the local filesystem.
    pub ino: u64,
}

/// Time of the last write of a body that was never written: any write moves it.
pub(super) const UNWRITTEN: Timestamp = Timestamp { secs: 0, nanos: 0 };

impl BodyStat {
    fn of_stat(stat: &rustix::fs::Stat) -> BodyStat {
        BodyStat {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mtime: Timestamp {
                secs: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            ino: stat.st_ino,
        }
    }

    pub(super) fn of(meta: &Metadata) -> BodyStat {
        BodyStat {
            len: meta.len(),
            allocated: meta.blocks().saturating_mul(512),
            mtime: Timestamp {
                secs: meta.mtime(),
                nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
            },
            ino: meta.ino(),
        }
    }
}

impl Body {
    pub(super) fn create(id: BodyId, path: PathBuf, open: &Arc<OpenBodies>) -> Result<Body, OverlayError> {
        let body = Body::opened(id, path, OFlags::CREATE | OFlags::EXCL, open)?;
        body.set_mtime(UNWRITTEN)?;
        Ok(body)
    }

    pub(super) fn open(id: BodyId, path: PathBuf, open: &Arc<OpenBodies>) -> Result<Body, OverlayError> {
        Body::opened(id, path, OFlags::NOFOLLOW, open)
    }

    fn opened(
        id: BodyId,
        path: PathBuf,
        flags: OFlags,
        others: &Arc<OpenBodies>,
    ) -> Result<Body, OverlayError> {
        Ok(Body {
            id,
            handle: Handle::open(id, path, flags, others)?,
            file: Arc::default(),
            open: others.clone(),
        })
    }

    /// The open file.
    fn file(&self) -> Result<Arc<File>, OverlayError> {
        let mut file = self.file.lock();
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let opened = file.insert(Arc::new(self.reopen()?)).clone();
        drop(file);
        self.open.opened(&self.file);
        Ok(opened)
    }

    /// A body's number is never given to another file: what is at its path is this one, or nothing, when it lost its name.
    fn reopen(&self) -> Result<File, OverlayError> {
        let mut options = File::options();
        options.read(true).write(true);
        let by_path = options.clone().custom_flags(libc::O_NOFOLLOW).to_owned();
        let opened = self.open.make_room(|| match by_path.open(self.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.handle.get_open() {
                Some(handle) => options.open(format!(
                    "/proc/self/fd/{}",
                    std::os::fd::AsRawFd::as_raw_fd(&handle)
                )),
                None => Err(e),
            },
            opened => opened,
        });
        opened.at(self.path())
    }

    /// Closes what this process itself has open of it: an open file is in the way of leases. The next use opens it again.
    pub fn let_go(&self) {
        *self.file.lock() = None;
    }

    /// Sets the time of the last write.
    pub fn set_mtime(&self, mtime: Timestamp) -> Result<(), OverlayError> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: mtime.secs,
                tv_nsec: mtime.nanos.into(),
            },
        };
        rustix::fs::utimensat(self.handle()?, "", &times, AtFlags::EMPTY_PATH).at(self.path())
    }

    /// Its number.
    pub fn id(&self) -> BodyId {
        self.id
    }

    /// Where it lies, as long as it is part of the overlay or a stash.
    pub fn path(&self) -> &Path {
        self.handle.path()
    }

    /// Open for reading: for passthrough, and for opening it.
    ///
    /// # Errors
    /// It was closed, and cannot be opened again.
    pub fn handle(&self) -> Result<Arc<OwnedFd>, OverlayError> {
        self.handle.get()
    }

    /// Asks something of the handle while this process has it open for reading only, one question at a time.
    ///
    /// # Errors
    /// As [`Body::handle`].
    pub fn ask<T>(&self, question: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T, OverlayError> {
        let mut file = self.file.lock();
        *file = None;
        Ok(question(self.handle()?.as_fd()))
    }

    /// Takes over all bytes of `source` by reflink; false where the filesystem cannot.
    pub fn reflink_from(&self, source: &Body) -> Result<bool, OverlayError> {
        Ok(rustix::fs::ioctl_ficlone(&*self.file()?, source.handle()?).is_ok())
    }

    /// Asks the filesystem.
    pub fn stat(&self) -> Result<BodyStat, OverlayError> {
        // By its name while it is closed: it is not opened for that.
        if self.handle.get_open().is_none()
            && let Ok(meta) = std::fs::symlink_metadata(self.path())
        {
            return Ok(BodyStat::of(&meta));
        }
        let stat = rustix::fs::fstat(self.handle()?).at(self.path())?;
        Ok(BodyStat::of_stat(&stat))
    }

    /// Bytes.
    pub fn len(&self) -> Result<u64, OverlayError> {
        Ok(self.stat()?.len)
    }

    /// True without bytes.
    pub fn is_empty(&self) -> Result<bool, OverlayError> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from there; returns how much there was before the end.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize, OverlayError> {
        let handle = self.handle()?;
        let mut done = 0;
        while done < out.len() {
            match rustix::io::pread(&handle, &mut out[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).at(self.path()),
            }
        }
        Ok(done)
    }

    /// Writes all of it. After an error a part may have been written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), OverlayError> {
        self.file()?.write_all_at(bytes, offset).at(self.path())
    }

    /// Cuts or grows it.
    pub fn set_len(&self, len: u64) -> Result<(), OverlayError> {
        self.file()?.set_len(len).at(self.path())
    }

    /// Makes the range a hole, which reads as zeros; the length stays.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), OverlayError> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*self.file()?, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset, len),
            other => other.at(self.path()),
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), OverlayError> {
        let zeros = vec![0; 64 << 10];
        let end = offset.saturating_add(len).min(self.len()?);
        let mut at = offset;
        while at < end {
            let n = (end - at).min(zeros.len() as u64);
            self.write_at(&zeros[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }

    /// Takes room on disk for the range, so that writing there cannot fail for want of it. Never grows the file.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<(), OverlayError> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&*self.file()?, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => other.at(self.path()),
        }
    }

    /// The first byte from `offset` on that is no hole; `None`: there is none.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, OverlayError> {
        match rustix::fs::seek(self.handle()?, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e).at(self.path()),
        }
    }

    /// The first hole from `offset` on; the end is one. `None` behind the end.
    pub fn next_hole(&self, offset: u64) -> Result<Option<u64>, OverlayError> {
        match rustix::fs::seek(self.handle()?, SeekFrom::Hole(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e).at(self.path()),
        }
    }

    /// fdatasync. To say so in the journal too, use [`super::Overlay::sync_bodies`].
    pub fn sync(&self) -> Result<(), OverlayError> {
        super::disk::sync_data(self.handle()?, self.path())
    }

    /// Becomes a copy of `source` as it is now: by reflink where the filesystem can, else of what is no hole.
    pub(super) fn copy_from(&self, source: &Body) -> Result<(), OverlayError> {
        if self.reflink_from(source)? {
            return Ok(());
        }
        let len = source.len()?;
        self.set_len(len)?;
        let mut at = 0;
        while let Some(start) = source.next_data(at)? {
            let end = source.next_hole(start)?.unwrap_or(len);
            self.copy_range(source, start, end)?;
            if end <= start {
                break;
            }
            at = end;
        }
        Ok(())
    }

    fn copy_range(&self, source: &Body, start: u64, end: u64) -> Result<(), OverlayError> {
        let (file, source_handle) = (self.file()?, source.handle()?);
        let (mut from, mut to) = (start, start);
        while from < end {
            let len = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(&source_handle, Some(&mut from), &*file, Some(&mut to), len) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                    return self.copy_by_hand(source, from, end);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).at(self.path()),
            }
        }
        Ok(())
    }

    fn copy_by_hand(&self, source: &Body, start: u64, end: u64) -> Result<(), OverlayError> {
        let mut buffer = vec![0; 256 << 10];
        let mut at = start;
        while at < end {
            let want = (end - at).min(buffer.len() as u64) as usize;
            let n = source.read_at(&mut buffer[..want], at)?;
            if n == 0 {
                return Ok(());
            }
            self.write_at(&buffer[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }
}
