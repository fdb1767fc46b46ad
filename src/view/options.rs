//! What the view is opened with and stands on.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::backing::CleanFile;
use super::types::Ino;
use crate::cache::Cache;
use crate::model::Content;
use crate::tree::{NodeSource, TreeError};

/// How a view behaves.
#[derive(Clone, Copy, Debug)]
pub struct ViewOptions {
    /// Every change is refused with EROFS.
    pub read_only: bool,
    /// New files get file ids from here on (`st_ino`), within the range of file ids: a number drawn at random for each mount
    /// session.
    pub first_file_id: u64,
    /// Most logical bytes of the volume; 0 is no limit.
    pub quota_bytes: u64,
    /// Who appears to own everything.
    pub shown_owner: ShownOwner,
}

/// A user and a group that everything in a mount appears to belong to, whatever is stored; `None`: what is stored.
///
/// 1. Nothing stored changes by it: what is made here is stored as its maker's (or its directory's group's, where setgid
///    says so), and other mounts show it so.
/// 2. A change of owner to the one that is shown changes nothing: the `chown -R` of a container's start must not make a whole
///    volume dirty. Any other owner is stored as told, and not shown here: chown never fails for root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShownOwner {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// Where clean bytes come from: the cache, or memory in tests.
#[async_trait]
pub trait ContentSource: NodeSource {
    /// Bytes `offset..offset+len` of a content of `size` bytes, less where it ends.
    async fn read(&self, content: &Content, size: u64, offset: u64, len: usize) -> Result<Bytes, TreeError>;

    /// The same if it needs no waiting.
    fn read_local(&self, content: &Content, size: u64, offset: u64, len: usize) -> Option<Bytes>;

    /// All of the content is on this machine: nothing below will ever wait for it, as far as can be told now.
    fn contains_fully(&self, content: &Content, size: u64) -> bool;

    /// The file of a content that is all here, verified and in a file of its own, handed to this inode and to no other until
    /// nobody uses it any more. `None`: read it through here.
    async fn hand_out(&self, content: &Content, size: u64, holder: Ino) -> Option<Arc<dyn CleanFile>>;

    /// Moves the file of a content, which is the one that `handle` names, to `to`, where it is written from now on. False:
    /// nothing was changed, it is not ours alone or lies on another disk.
    fn surrender(&self, content: &Content, size: u64, handle: BorrowedFd<'_>, to: &Path) -> bool;
}

#[async_trait]
impl ContentSource for Cache {
    async fn read(&self, content: &Content, size: u64, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        Cache::read(self, content, size, offset, len).await
    }

    fn read_local(&self, content: &Content, size: u64, offset: u64, len: usize) -> Option<Bytes> {
        Cache::read_local(self, content, size, offset, len)
    }

    fn contains_fully(&self, content: &Content, size: u64) -> bool {
        Cache::contains_fully(self, content, size)
    }

    async fn hand_out(&self, content: &Content, size: u64, holder: Ino) -> Option<Arc<dyn CleanFile>> {
        let file = Cache::hand_out(self, content, size, holder).await?;
        Some(Arc::new(file))
    }

    fn surrender(&self, content: &Content, size: u64, handle: BorrowedFd<'_>, to: &Path) -> bool {
        Cache::surrender(self, content, size, handle, to)
    }
}

/// Gives back room on the local disk: what is clean goes before a writer is told that the disk is full.
pub trait Room: Send + Sync {
    /// Tries to make `bytes` more free; returns the bytes given back.
    fn make_room(&self, bytes: u64) -> u64;
}

impl Room for Cache {
    fn make_room(&self, bytes: u64) -> u64 {
        Cache::make_room(self, bytes)
    }
}
