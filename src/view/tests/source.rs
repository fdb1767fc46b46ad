//! Clean bytes in memory, which have to be "fetched" once before they are there.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

use crate::format::{Node, chunks_cid, content_id};
use crate::model::{
    BlobRef, ChunkRef, Content, Epoch, Hash, ITEM_BYTES_MAX, PackRef, Ptr, TINY_BYTES_MAX, Timestamp,
    TreeRoot, chunk_count, chunk_range, is_zero,
};
use crate::tree::{MemorySource, NodeParams, NodeSource, NodeWriter, TreeError, store};
use crate::view::{CleanFile, Clock, ContentSource, Ino};

const EPOCH: Epoch = 1;

/// Nodes and contents in memory.
#[derive(Default)]
pub struct TestSource {
    nodes: MemorySource,
    contents: Mutex<HashMap<Hash, Bytes>>,
    here: Mutex<HashSet<Hash>>,
    pub offline: AtomicBool,
    pub reads: AtomicU64,
    /// Files of contents that were handed out, each to one inode; made at first use.
    handed: Mutex<HashMap<Hash, (Ino, Arc<TestFile>)>>,
    /// Handed out files can become bodies. Set, they lie "on another disk".
    pub keeps_files: AtomicBool,
}

/// A content in a file of its own.
#[derive(Debug)]
struct TestFile(tempfile::NamedTempFile);

impl CleanFile for TestFile {
    fn handle(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl TestSource {
    /// Nothing counts as fetched any more.
    pub fn cool(&self) {
        self.nodes.forget();
        self.here.lock().clear();
    }

    /// The content of some bytes, in the form that its size asks for.
    pub fn content(&self, bytes: &[u8]) -> Content {
        let size = bytes.len() as u64;
        if size <= TINY_BYTES_MAX {
            return Content::Tiny(bytes.into());
        }
        let keep = |id| self.contents.lock().insert(id, Bytes::copy_from_slice(bytes));
        if size < ITEM_BYTES_MAX {
            let id = content_id(bytes);
            keep(id);
            return Content::Blob(BlobRef {
                pack: PackRef { epoch: EPOCH, id },
                offset: 4,
                stored_len: u32::try_from(size).unwrap() + 1,
                id,
            });
        }
        let mut chunks = Vec::new();
        let mut at = 0;
        for _ in 0..chunk_count(size) {
            let (_, start, len) = chunk_range(at, size);
            let part = &bytes[start as usize..(start + len) as usize];
            chunks.push(if is_zero(part) {
                ChunkRef::Hole
            } else {
                ChunkRef::Object {
                    epoch: EPOCH,
                    id: content_id(part),
                }
            });
            at = start + len;
        }
        let cid = chunks_cid(size, 0, &chunks);
        keep(cid);
        Content::Chunks {
            tier: 0,
            chunks: chunks.into(),
            cid,
        }
    }

    /// Stores a tree in small pages, so that walking it fetches.
    pub async fn store(&self, tree: &TreeRoot) -> TreeRoot {
        let params = NodeParams {
            inline_max: 300,
            page_max: 1200,
            ..NodeParams::default()
        };
        let stored = store(&self.nodes, tree, NodeWriter::new(EPOCH, params))
            .await
            .unwrap();
        self.nodes.add(stored.packs);
        stored.root
    }

    fn bytes(&self, content: &Content, offset: u64, len: usize) -> Bytes {
        let whole = match content {
            Content::Tiny(bytes) => Bytes::copy_from_slice(bytes),
            Content::Blob(blob) => self.contents.lock()[&blob.id].clone(),
            Content::Chunks { cid, .. } | Content::Paged { cid, .. } => self.contents.lock()[cid].clone(),
            Content::Local(local) => panic!("local content {local:?} was asked of the cache"),
        };
        let from = usize::try_from(offset).unwrap().min(whole.len());
        whole.slice(from..from.saturating_add(len).min(whole.len()))
    }

    fn is_here(&self, content: &Content) -> bool {
        match content {
            Content::Tiny(_) => true,
            Content::Blob(blob) => self.here.lock().contains(&blob.id),
            Content::Chunks { cid, .. } | Content::Paged { cid, .. } => self.here.lock().contains(cid),
            Content::Local(_) => false,
        }
    }
}

#[async_trait]
impl NodeSource for TestSource {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        self.nodes.loaded(ptr)
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if self.offline.load(Ordering::Relaxed) {
            return Err(TreeError::Unreachable {
                reason: "offline".into(),
            });
        }
        self.nodes.node(ptr).await
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        self.nodes.blob(blob, raw_len).await
    }
}

#[async_trait]
impl ContentSource for TestSource {
    async fn read(&self, content: &Content, _size: u64, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        if !self.is_here(content) {
            if self.offline.load(Ordering::Relaxed) {
                return Err(TreeError::Unreachable {
                    reason: "offline".into(),
                });
            }
            self.reads.fetch_add(len as u64, Ordering::Relaxed);
            match content {
                Content::Blob(blob) => self.here.lock().insert(blob.id),
                Content::Chunks { cid, .. } | Content::Paged { cid, .. } => self.here.lock().insert(*cid),
                _ => true,
            };
        }
        Ok(self.bytes(content, offset, len))
    }

    fn read_local(&self, content: &Content, _size: u64, offset: u64, len: usize) -> Option<Bytes> {
        self.is_here(content).then(|| self.bytes(content, offset, len))
    }

    fn contains_fully(&self, content: &Content, _size: u64) -> bool {
        self.is_here(content)
    }

    async fn hand_out(&self, content: &Content, size: u64, holder: Ino) -> Option<Arc<dyn CleanFile>> {
        let Content::Chunks { cid, .. } = content else {
            return None;
        };
        if !self.is_here(content) {
            return None;
        }
        let mut handed = self.handed.lock();
        if let Some((inode, file)) = handed.get(cid) {
            return (*inode == holder).then(|| file.clone() as Arc<dyn CleanFile>);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = self.bytes(content, 0, usize::try_from(size).unwrap());
        std::fs::write(file.path(), &bytes).unwrap();
        let file = Arc::new(TestFile(file));
        handed.insert(*cid, (holder, file.clone()));
        Some(file)
    }

    fn surrender(&self, content: &Content, _size: u64, handle: BorrowedFd<'_>, to: &Path) -> bool {
        let Content::Chunks { cid, .. } = content else {
            return false;
        };
        if self.keeps_files.load(Ordering::Relaxed) {
            return false;
        }
        let mut handed = self.handed.lock();
        let inode_of = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let ours = handed
            .get(cid)
            .is_some_and(|(_, file)| inode_of(file.handle()) == inode_of(handle));
        // On one file system a rename; in tests the directories may lie on several.
        ours && std::fs::rename(handed.remove(cid).unwrap().1.0.path(), to).is_ok()
    }
}

/// A clock that the test moves. It runs ahead of the machine's, which stamps bodies.
#[derive(Default)]
pub struct TestClock(pub AtomicU64);

/// A year from 2026 on nobody runs this test with a clock beyond it.
const AHEAD_SECS: i64 = 4_000_000_000;

impl TestClock {
    pub fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp {
            secs: AHEAD_SECS,
            nanos: u32::try_from(self.0.load(Ordering::Relaxed)).unwrap(),
        }
    }
}

impl TestSource {
    /// All bytes of a content.
    pub fn all(&self, content: &Content) -> Vec<u8> {
        self.bytes(content, 0, usize::MAX).to_vec()
    }
}
