//! Signatures; the bodies are being filled in.
#![allow(clippy::unimplemented, unused_variables)]

use bytes::Bytes;

use super::ViewError;
use super::types::*;

/// The view. Every async operation completes at its first poll when nothing must be fetched; one that is dropped while
/// it waits has done nothing and may be asked again (waits come before effects).
#[derive(Debug)]
pub struct View {}

impl View {
    /// One more reference is counted for a found inode. `None`: there is no such name (may be cached).
    pub async fn lookup(&self, caller: &Caller, dir: Ino, name: &[u8]) -> Result<Option<Known>, ViewError> {
        unimplemented!()
    }
    /// Gives references back.
    pub fn forget(&self, ino: Ino, references: u64) {
        unimplemented!()
    }
    pub async fn getattr(&self, caller: &Caller, ino: Ino, fh: Option<Fh>) -> Result<Attr, ViewError> {
        unimplemented!()
    }
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, ViewError> {
        unimplemented!()
    }
    pub async fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Bytes, ViewError> {
        unimplemented!()
    }
    /// `mode`: permission bits, umask applied.
    pub async fn mknod(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        kind: NodeKind,
        mode: u16,
    ) -> Result<Known, ViewError> {
        unimplemented!()
    }
    pub async fn mkdir(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u16) -> Result<Known, ViewError> {
        unimplemented!()
    }
    pub async fn symlink(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Known, ViewError> {
        unimplemented!()
    }
    pub async fn link(&self, caller: &Caller, ino: Ino, dir: Ino, name: &[u8]) -> Result<Known, ViewError> {
        unimplemented!()
    }
    pub async fn unlink(&self, caller: &Caller, dir: Ino, name: &[u8]) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub async fn rmdir(&self, caller: &Caller, dir: Ino, name: &[u8]) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub async fn create(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        mode: u16,
        flags: OpenFlags,
    ) -> Result<(Known, OpenFile), ViewError> {
        unimplemented!()
    }
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Result<OpenFile, ViewError> {
        unimplemented!()
    }
    /// Bytes from there, fewer only where the file ends.
    pub async fn read(&self, ino: Ino, fh: Fh, offset: u64, len: usize) -> Result<Bytes, ViewError> {
        unimplemented!()
    }
    /// All of `data` or an error. `kill_suid`: the kernel says that setuid and setgid go.
    pub async fn write(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Result<usize, ViewError> {
        unimplemented!()
    }
    pub async fn flush(&self, ino: Ino, fh: Fh) -> Result<(), ViewError> {
        unimplemented!()
    }
    /// Blocks on the local disk: not to be polled on a thread that serves other requests.
    pub async fn fsync(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub fn release(&self, ino: Ino, fh: Fh) {
        unimplemented!()
    }
    pub async fn opendir(&self, caller: &Caller, ino: Ino) -> Result<OpenDir, ViewError> {
        unimplemented!()
    }
    /// Lines after `cookie` (0: from the start, taken anew), as many as fit into `bytes_max` in the kernel's form
    /// (24 bytes and the name, rounded up to 8). Empty at the end.
    pub async fn readdir(
        &self,
        ino: Ino,
        fh: Fh,
        cookie: u64,
        bytes_max: usize,
    ) -> Result<Vec<DirItem>, ViewError> {
        unimplemented!()
    }
    /// The same with attributes (152 bytes and the name); each `known` counts a reference.
    pub async fn readdirplus(
        &self,
        ino: Ino,
        fh: Fh,
        cookie: u64,
        bytes_max: usize,
    ) -> Result<Vec<DirItemPlus>, ViewError> {
        unimplemented!()
    }
    pub fn releasedir(&self, ino: Ino, fh: Fh) {
        unimplemented!()
    }
    /// Blocks on the local disk, as fsync.
    pub async fn fsyncdir(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub fn statfs(&self) -> Result<Statfs, ViewError> {
        unimplemented!()
    }
    pub async fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), ViewError> {
        unimplemented!()
    }
    /// The value; the driver compares its length with the caller's buffer (size 0 asks for the length, too small is
    /// ERANGE).
    pub async fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Bytes, ViewError> {
        unimplemented!()
    }
    /// Names, each with a NUL behind it.
    pub async fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Bytes, ViewError> {
        unimplemented!()
    }
    pub async fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), ViewError> {
        unimplemented!()
    }
    /// `mask` as of access(2). Only for a mount without default_permissions.
    pub async fn access(&self, caller: &Caller, ino: Ino, mask: u32) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub async fn fallocate(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        what: Allocate,
    ) -> Result<(), ViewError> {
        unimplemented!()
    }
    pub async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        unimplemented!()
    }
    /// Bytes copied; may be fewer than asked.
    pub async fn copy_file_range(&self, from: CopySide, to: CopySide, len: u64) -> Result<u64, ViewError> {
        unimplemented!()
    }
    /// Counts reloads; names and listings cached by the kernel belong to one generation.
    pub fn generation(&self) -> u64 {
        unimplemented!()
    }
}
