//! The cache.

use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{Adoption, CacheError, CacheOptions, CacheStats, KeptCheck};
use crate::format::Node;
use crate::model::{BlobRef, Content, PackRef, Ptr, VolumeId};
use crate::store::ObjectStore;
use crate::tree::{NodeSource, TreeError};

/// The cache of clean bytes of one mount.
#[derive(Debug)]
pub struct Cache {}

/// A complete content in a file of its own that is not evicted as long as this value lives.
#[derive(Debug)]
pub struct PinnedFile {}

impl PinnedFile {
    /// The open file. Nobody may write to it.
    pub fn file(&self) -> &File {
        unimplemented!()
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        unimplemented!()
    }
}

impl Cache {
    /// Opens or makes the cache in `options.dir`. Blocks on the disk; must be called inside a tokio runtime.
    pub fn open(
        _options: CacheOptions,
        _store: Arc<dyn ObjectStore>,
        _volume: VolumeId,
    ) -> Result<Arc<Cache>, CacheError> {
        unimplemented!()
    }

    /// Says how to tell a damaged volume from an expired base; without it a missing object is damage.
    pub fn set_kept_check(&self, _check: KeptCheck) {}

    /// Bytes `offset..offset+len` of a content of `size` bytes, less where it ends.
    pub async fn read(
        &self,
        _content: &Content,
        _size: u64,
        _offset: u64,
        _len: usize,
    ) -> Result<Bytes, TreeError> {
        unimplemented!()
    }

    /// The same when all of it is in memory or verified on local disk; never waits for the store.
    pub fn read_local(&self, _content: &Content, _size: u64, _offset: u64, _len: usize) -> Option<Bytes> {
        unimplemented!()
    }

    /// Brings all of a content onto the local disk. `false`: it does not fit, or was evicted meanwhile.
    pub async fn prefetch(&self, _content: &Content, _size: u64) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// True when no byte of the content needs the store.
    pub fn contains_fully(&self, _content: &Content, _size: u64) -> bool {
        unimplemented!()
    }

    /// The file of a complete content, every frame checked, for passthrough. `None` when it is not complete, has no
    /// file of its own, or may not be held (over half the cap).
    pub async fn pin(&self, _content: &Content, _size: u64) -> Option<PinnedFile> {
        unimplemented!()
    }

    /// Keeps the bytes of a pack that was just uploaded.
    pub async fn insert_pack(&self, _pack: &PackRef, _bytes: &Bytes) {}

    /// Makes a committed large body the cache file of its content, by rename.
    pub async fn adopt_file(
        &self,
        _content: &Content,
        _size: u64,
        _path: &Path,
        _adoption: Adoption,
    ) -> bool {
        unimplemented!()
    }

    /// Evicts until `bytes` more are free on the file system than the floor asks for; returns the bytes given back.
    pub fn make_room(&self, _bytes: u64) -> u64 {
        unimplemented!()
    }

    /// What `status` shows.
    pub fn stats(&self) -> CacheStats {
        unimplemented!()
    }

    /// Evicts everything that is not pinned.
    pub fn clear(&self) {}
}

#[async_trait]
impl NodeSource for Cache {
    fn loaded(&self, _ptr: &Ptr) -> Option<Arc<Node>> {
        unimplemented!()
    }
    async fn node(&self, _ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        unimplemented!()
    }
    async fn blob(&self, _blob: &BlobRef, _raw_len: u64) -> Result<Bytes, TreeError> {
        unimplemented!()
    }
}
