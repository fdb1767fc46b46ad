//! The cache as its users see it.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::ahead::Ahead;
use super::contents::{Chunked, Contents, groups};
use super::disk::Disk;
use super::lists::List;
use super::lru::Lru;
use super::packs::Packs;
use super::remote::{Remote, damaged};
use super::stats::count;
use super::{CacheStats, KeptCheck, PieceKey};
use crate::format::{ChunkHeader, Key, Node};
use crate::model::{BlobRef, Content, Epoch, Hash, PackRef, Ptr, VolumeId};
use crate::tree::{NodeSource, TreeError};

/// A chunk's header, or the fetch of it that others wait for.
pub(super) type HeaderCell = Arc<OnceCell<Arc<ChunkHeader>>>;

/// The cache of clean bytes of one mount. See the documentation of the module.
#[derive(Debug)]
pub struct Cache {
    pub(super) dir: PathBuf,
    /// Held locked as long as the cache is open.
    pub(super) lock: File,
    pub(super) volume: VolumeId,
    pub(super) me: Weak<Cache>,
    pub(super) runtime: Handle,
    pub(super) remote: Remote,
    pub(super) disk: Arc<Disk>,
    pub(super) packs: Packs,
    pub(super) contents: Contents,
    pub(super) nodes: Mutex<Lru<Ptr, Arc<Node>>>,
    pub(super) pieces: Mutex<Lru<PieceKey, Bytes>>,
    pub(super) headers: Mutex<Lru<(Epoch, Hash), HeaderCell>>,
    pub(super) lists: Mutex<Lru<(Hash, Ptr), List>>,
    pub(super) evicting: Mutex<()>,
    /// Uses before this tick are in the index.
    pub(super) remembered_tick: AtomicU64,
    /// How far is read ahead at most, bytes.
    pub(super) ahead_max: u64,
    /// Bytes of contents that are pinned.
    pub(super) pinned_bytes: Arc<AtomicU64>,
}

impl Cache {
    /// Says how to tell a damaged volume from an expired base; without it a missing object is damage.
    pub fn set_kept_check(&self, check: KeptCheck) {
        self.remote.set_kept_check(check);
    }

    /// Bytes `offset..offset+len` of a content of `size` bytes, less where it ends.
    ///
    /// # Errors
    /// What the store, the volume or the disk did; a content that is not uploaded ([`Content::Local`]) is not ours.
    pub async fn read(
        &self,
        content: &Content,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, TreeError> {
        let Some(range) = within(size, offset, len) else {
            return Ok(Bytes::new());
        };
        let this = self.shared();
        if let Some(file) = Chunked::of(content, size) {
            let ahead = self
                .contents
                .note(&file, range.start, range.end - range.start, self.ahead_max);
            if let Some(bytes) = self.chunked_local(&file, range.clone()) {
                count(&self.remote.counters.hits);
                self.fetch_ahead_if(&file, ahead);
                return Ok(bytes);
            }
            let (around, ahead) = match ahead {
                Some(Ahead::Together(group)) => (Some(group), None),
                ahead => {
                    let in_run = self.contents.in_run(&file, &range);
                    let rest = groups(range.start..size, size).next();
                    (rest.filter(|_| in_run), ahead)
                }
            };
            let reading = this.read_chunked(&file, range, around);
            // What is demanded is asked for first, what lies ahead while it is on its way.
            tokio::pin!(reading);
            if let std::task::Poll::Ready(read) = futures::poll!(&mut reading) {
                self.fetch_ahead_if(&file, ahead);
                return read;
            }
            self.fetch_ahead_if(&file, ahead);
            return reading.await;
        }
        let whole = match content {
            Content::Tiny(bytes) => Bytes::copy_from_slice(bytes),
            Content::Blob(blob) => this.fetch_blob(blob, size).await?,
            _ => {
                return Err(TreeError::Local {
                    path: self.dir.display().to_string(),
                    reason: "a content that is not uploaded was looked for in the cache".to_owned(),
                    errno: libc::EINVAL,
                });
            }
        };
        cut(&whole, size, &range).ok_or_else(|| damaged("a small content", "has not the length of its file"))
    }

    /// The same when all of it is in memory or on local disk and verified, or can be within some 100 us; never waits
    /// for the store. Costs a pread and an fstat for large contents.
    pub fn read_local(&self, content: &Content, size: u64, offset: u64, len: usize) -> Option<Bytes> {
        let Some(range) = within(size, offset, len) else {
            return Some(Bytes::new());
        };
        let found = match content {
            Content::Tiny(bytes) => cut(&Bytes::copy_from_slice(bytes), size, &range)?,
            Content::Blob(blob) => cut(&self.blob_local(blob, size)?, size, &range)?,
            _ => {
                let file = Chunked::of(content, size)?;
                let bytes = self.chunked_local(&file, range.clone())?;
                let ahead = self
                    .contents
                    .note(&file, range.start, range.end - range.start, self.ahead_max);
                self.fetch_ahead_if(&file, ahead);
                bytes
            }
        };
        count(&self.remote.counters.hits);
        Some(found)
    }

    /// Brings all of a content onto the local disk, and checks what an earlier session has left of it. `false`: it is
    /// larger than the cache, or parts of it were evicted meanwhile.
    ///
    /// # Errors
    /// As [`Cache::read`].
    pub async fn prefetch(&self, content: &Content, size: u64) -> Result<bool, TreeError> {
        let this = self.shared();
        match (content, Chunked::of(content, size)) {
            (Content::Blob(blob), _) => drop(this.fetch_blob(blob, size).await?),
            (_, Some(file)) if size <= self.disk.space.cap() => this.prefetch_chunked(&file).await?,
            _ => {}
        }
        Ok(self.contains_fully(content, size))
    }

    /// True when no byte of the content needs the store, as far as one can tell without reading it.
    pub fn contains_fully(&self, content: &Content, size: u64) -> bool {
        match (content, Chunked::of(content, size)) {
            (Content::Tiny(_), _) => true,
            (Content::Blob(blob), _) => self.has_blob(blob),
            (_, Some(file)) => self.contents.complete(&file),
            _ => false,
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// What `status` shows.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            bytes_used: self.disk.space.used(),
            bytes_max: self.disk.space.cap(),
            contents: self
                .contents
                .segments()
                .iter()
                .filter(|segment| segment.on_disk())
                .count() as u64,
            windows: self.packs.windows().len() as u64,
            memory_bytes: self.nodes.lock().weight() + self.pieces.lock().weight(),
            ..self.remote.counters.snapshot()
        }
    }

    /// Bytes that have arrived from the store since the opening.
    pub fn fetched_bytes(&self) -> u64 {
        self.remote.counters.fetched_bytes.load(Relaxed)
    }

    /// The cache itself, for tasks that go on when the caller has left.
    pub(super) fn shared(&self) -> Arc<Cache> {
        self.me
            .upgrade()
            .expect("a cache lives in the Arc that its opening returned")
    }

    /// Key of a pack, for requests and errors.
    pub(super) fn pack_key(&self, pack: PackRef) -> String {
        Key::Pack(self.volume, pack).to_string()
    }

    fn fetch_ahead_if(&self, file: &Chunked, ahead: Option<Ahead>) {
        if let Some(Ahead::Later(range) | Ahead::Together(range)) = ahead {
            self.fetch_ahead(file, range);
        }
    }
}

#[async_trait]
impl NodeSource for Cache {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        self.nodes.lock().get(ptr)
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if let Some(node) = self.loaded(ptr) {
            count(&self.remote.counters.hits);
            return Ok(node);
        }
        self.shared().fetch_node(ptr).await
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        self.shared().fetch_blob(blob, raw_len).await
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.remember_uses();
        self.disk.index.flush();
        if let Err(e) = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock) {
            tracing::debug!(error = %e, "cannot unlock the cache directory");
        }
    }
}

/// The part of a read that lies within the content; `None` when nothing does.
fn within(size: u64, offset: u64, len: usize) -> Option<Range<u64>> {
    let end = offset.saturating_add(len as u64).min(size);
    (offset < end).then_some(offset..end)
}

/// A part of a content that is in memory as a whole.
fn cut(whole: &Bytes, size: u64, range: &Range<u64>) -> Option<Bytes> {
    let at = |offset: u64| usize::try_from(offset).ok();
    let (from, to) = (at(range.start)?, at(range.end)?);
    (whole.len() as u64 == size).then(|| whole.slice(from..to))
}
