//! Contents with their plain bytes, and the store that serves them.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::{Cache, CacheError, CacheOptions};
use crate::format::{
    ExtentPage, IndexPage, IndexSlot, Key, PackBuilder, chunks_cid, encode_chunk, encode_extent_page,
    encode_index_page, page_cid, paged_cid,
};
use crate::model::{
    BlobRef, CHUNKS_INLINE_MAX, ChunkRef, Content, EXTENT_PAGE_CHUNKS, ITEM_BYTES_MAX, Ptr, TINY_BYTES_MAX,
    VolumeId, chunk_count, chunk_range,
};
use crate::store::{Arrived, Fetched, Listed, MemoryStore, ObjectStore, PutDone, PutMode, StoreError};

pub const VOLUME: VolumeId = VolumeId([9; 16]);

/// Numbers that depend on the seed only.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            all.swap(n, self.below(n as u64 + 1) as usize);
        }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let seed = self.next().to_le_bytes();
        blake3::Hasher::new()
            .update(&seed)
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }
}

/// The bytes of a content: these parts, zeros elsewhere.
#[derive(Clone)]
pub struct Plain {
    pub size: u64,
    pub parts: Vec<(u64, Vec<u8>)>,
}

impl Plain {
    pub fn of(bytes: Vec<u8>) -> Plain {
        Plain {
            size: bytes.len() as u64,
            parts: vec![(0, bytes)],
        }
    }

    /// Noise, text and zeros in turns.
    pub fn mixed(random: &mut Random, size: u64) -> Plain {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < size {
            let len = (random.below(3 << 20) + 1).min(size - at);
            match random.below(3) {
                0 => parts.push((at, random.bytes(len as usize))),
                1 => parts.push((
                    at,
                    b"so much text "
                        .iter()
                        .copied()
                        .cycle()
                        .take(len as usize)
                        .collect(),
                )),
                _ => {}
            }
            at += len;
        }
        Plain { size, parts }
    }

    pub fn noise(random: &mut Random, size: u64) -> Plain {
        Plain::of(random.bytes(size as usize))
    }

    pub fn get(&self, range: Range<u64>) -> Vec<u8> {
        let range = range.start.min(self.size)..range.end.min(self.size);
        let mut out = vec![0; (range.end - range.start) as usize];
        for (start, bytes) in &self.parts {
            let from = range.start.max(*start);
            let to = range.end.min(start + bytes.len() as u64);
            if from < to {
                out[(from - range.start) as usize..(to - range.start) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        out
    }
}

/// A content that is in the store, with its bytes.
#[derive(Clone)]
pub struct Stored {
    pub plain: Plain,
    pub content: Content,
}

impl Stored {
    pub fn size(&self) -> u64 {
        self.plain.size
    }
}

/// What the store does to requests.
#[derive(Debug)]
pub struct Script {
    inner: MemoryStore,
    /// Key and range of every GET.
    pub gets: Mutex<Vec<(String, Range<u64>)>>,
    /// Errors for the next GETs.
    pub failures: Mutex<VecDeque<StoreError>>,
    /// The next so many answers have a flipped byte.
    pub flips: Mutex<u32>,
    /// The next answers break off after so many bytes, or come whole.
    pub breaks: Mutex<VecDeque<Option<u64>>>,
    /// So many bytes of each answer may come.
    pub pass: watch::Sender<u64>,
    open: watch::Sender<bool>,
}

impl Script {
    pub fn new() -> Arc<Script> {
        Arc::new(Script {
            inner: MemoryStore::new(),
            gets: Mutex::default(),
            failures: Mutex::default(),
            flips: Mutex::default(),
            breaks: Mutex::default(),
            pass: watch::channel(u64::MAX).0,
            open: watch::channel(true).0,
        })
    }

    /// Answers wait until `release`.
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Number of GETs since the last asking, and their bytes.
    pub fn taken(&self) -> (usize, u64) {
        let gets = std::mem::take(&mut *self.gets.lock());
        (
            gets.len(),
            gets.iter().map(|(_, range)| range.end - range.start).sum(),
        )
    }

    pub async fn object(&self, key: &str) -> Bytes {
        self.inner.get(key, None).await.unwrap().bytes
    }

    pub async fn put_object(&self, key: &str, bytes: Vec<u8>) {
        self.inner
            .put(key, bytes.into(), PutMode::Overwrite)
            .await
            .unwrap();
    }

    pub async fn delete_object(&self, key: &str) {
        self.inner.delete(&[key.to_owned()]).await.unwrap();
    }

    pub fn keys(&self) -> Vec<String> {
        self.inner.keys()
    }

    /// Stores a content in its canonical form; a blob gets a pack of its own.
    pub async fn store(&self, plain: Plain) -> Stored {
        let content = match plain.size {
            0..=TINY_BYTES_MAX => Content::Tiny(plain.get(0..plain.size).into()),
            size if size < ITEM_BYTES_MAX => Content::Blob(self.blob(&plain.get(0..size)).await),
            _ => self.chunked(&plain).await,
        };
        Stored { plain, content }
    }

    /// Stores small contents side by side in one pack.
    pub async fn store_small(&self, plains: Vec<Vec<u8>>) -> Vec<Stored> {
        let mut pack = PackBuilder::new(1);
        let blobs: Vec<_> = plains.iter().map(|plain| pack.add_blob(plain).unwrap()).collect();
        let pack = pack.finish();
        self.put_object(&Key::Pack(VOLUME, pack.pack).to_string(), pack.bytes.to_vec())
            .await;
        let content = |blob: BlobRef| {
            Content::Blob(BlobRef {
                pack: pack.pack,
                ..blob
            })
        };
        let stored = |(plain, blob)| Stored {
            plain: Plain::of(plain),
            content: content(blob),
        };
        plains.into_iter().zip(blobs).map(stored).collect()
    }

    async fn blob(&self, plain: &[u8]) -> BlobRef {
        let mut pack = PackBuilder::new(1);
        let blob = pack.add_blob(plain).unwrap();
        let pack = pack.finish();
        self.put_object(&Key::Pack(VOLUME, pack.pack).to_string(), pack.bytes.to_vec())
            .await;
        BlobRef {
            pack: pack.pack,
            ..blob
        }
    }

    async fn chunked(&self, plain: &Plain) -> Content {
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < plain.size {
            let (_, start, len) = chunk_range(at, plain.size);
            at = start + len;
            let touched = plain
                .parts
                .iter()
                .any(|(from, bytes)| *from < at && from + bytes.len() as u64 > start);
            let bytes = if touched { plain.get(start..at) } else { Vec::new() };
            chunks.push(match bytes.iter().any(|b| *b != 0) {
                false => ChunkRef::Hole,
                true if len < ITEM_BYTES_MAX => ChunkRef::Packed(self.blob(&bytes).await),
                true => {
                    let chunk = encode_chunk(&bytes).unwrap();
                    self.put_object(
                        &Key::Chunk(VOLUME, 1, chunk.id).to_string(),
                        chunk.object.to_vec(),
                    )
                    .await;
                    ChunkRef::Object {
                        epoch: 1,
                        id: chunk.id,
                    }
                }
            });
        }
        assert_eq!(chunks.len() as u64, chunk_count(plain.size));
        if chunks.len() as u64 <= CHUNKS_INLINE_MAX {
            let cid = chunks_cid(plain.size, 0, &chunks);
            return Content::Chunks {
                tier: 0,
                chunks: chunks.into(),
                cid,
            };
        }
        let (root, cid) = self.pages(plain.size, &chunks).await;
        Content::Paged {
            tier: 0,
            root: Box::new(root),
            cid,
        }
    }

    async fn pages(&self, size: u64, chunks: &[ChunkRef]) -> (Ptr, crate::model::Hash) {
        let mut slots = Vec::new();
        for (i, page) in chunks.chunks(EXTENT_PAGE_CHUNKS as usize).enumerate() {
            let page = ExtentPage {
                chunks: page.to_vec(),
            };
            let node = encode_extent_page(&page, false).unwrap();
            let first = (i as u64 * EXTENT_PAGE_CHUNKS).to_be_bytes();
            slots.push(IndexSlot {
                first_key: if i == 0 { Box::default() } else { Box::from(first) },
                ptr: self.node(&node).await,
                count: page.chunks.len() as u64,
                page_cid: Some(page_cid(&page)),
            });
        }
        let cid = paged_cid(size, 0, slots.iter().filter_map(|slot| slot.page_cid));
        if slots.len() == 1 {
            return (slots[0].ptr, cid);
        }
        let root = encode_index_page(&IndexPage { level: 1, slots }, false).unwrap();
        (self.node(&root).await, cid)
    }

    async fn node(&self, node: &crate::format::EncodedNode) -> Ptr {
        let mut pack = PackBuilder::new(1);
        let ptr = pack.add_node(node).unwrap();
        let pack = pack.finish();
        self.put_object(&Key::Pack(VOLUME, pack.pack).to_string(), pack.bytes.to_vec())
            .await;
        Ptr {
            pack: pack.pack,
            ..ptr
        }
    }
}

#[async_trait]
impl ObjectStore for Script {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        self.gets.lock().push((
            key.to_owned(),
            range.clone().expect("the cache asks for ranges only"),
        ));
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        if let Some(e) = self.failures.lock().pop_front() {
            return Err(e);
        }
        let mut fetched = self.inner.get(key, range).await?;
        let mut flips = self.flips.lock();
        if *flips > 0 {
            *flips -= 1;
            let mut bytes = fetched.bytes.to_vec();
            let at = bytes.len() / 2;
            bytes[at] ^= 0x40;
            fetched.bytes = bytes.into();
        }
        Ok(fetched)
    }

    /// In pieces of many sizes.
    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        let mut random = Random(range.start ^ range.end);
        let mut fetched = self.get(key, Some(range)).await?;
        let mut left = std::mem::take(&mut fetched.bytes);
        let mut may_come = self.breaks.lock().pop_front().flatten().unwrap_or(u64::MAX);
        let mut came = 0;
        while !left.is_empty() {
            if may_come == 0 {
                return Err(StoreError::Unreachable {
                    reason: "broken off".to_owned(),
                });
            }
            let bits = random.below(21);
            let len = random.below(1 << bits) + 1;
            let piece = left.split_to(len.min(may_come).min(left.len() as u64) as usize);
            (may_come, came) = (may_come - piece.len() as u64, came + piece.len() as u64);
            self.pass
                .subscribe()
                .wait_for(|pass| came <= *pass)
                .await
                .unwrap();
            arrived(piece);
        }
        Ok(fetched)
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.inner.put(key, body, mode).await
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        "script".to_owned()
    }
}

/// A cache directory that outlives caches.
pub struct Place {
    pub dir: TempDir,
    pub script: Arc<Script>,
    pub options: CacheOptions,
}

impl Place {
    pub fn new(bytes_max: u64) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mut options = CacheOptions::new(dir.path().join("cache"), bytes_max);
        options.remote_timeout = Duration::from_secs(60);
        options.fetches_max = 8;
        Place {
            dir,
            script: Script::new(),
            options,
        }
    }

    pub fn open(&self) -> Arc<Cache> {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Arc<Cache>, CacheError> {
        Cache::open(self.options.clone(), self.script.clone(), VOLUME)
    }

    /// Closes a cache once its tasks have ended.
    pub async fn close(&self, cache: Arc<Cache>) {
        settled(&cache).await;
        drop(cache);
    }

    /// Files of packs and contents.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for part in ["packs", "contents"] {
            if let Ok(listed) = std::fs::read_dir(self.options.dir.join(part)) {
                files.extend(listed.map(|item| item.unwrap().path()));
            }
        }
        files.sort();
        files
    }

    /// Bytes that they occupy.
    pub fn bytes_on_disk(&self) -> u64 {
        let blocks = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
        self.files().iter().map(|path| blocks(path)).sum()
    }
}

/// Waits until nothing is under way in a cache.
pub async fn settled(cache: &Arc<Cache>) {
    while Arc::strong_count(cache) > 1 {
        tokio::task::yield_now().await;
    }
}

/// Reads a range and compares it.
pub async fn check(cache: &Arc<Cache>, stored: &Stored, range: Range<u64>, note: &str) {
    let len = (range.end - range.start) as usize;
    let read = cache.read(&stored.content, stored.size(), range.start, len).await;
    let read = read.unwrap_or_else(|e| panic!("{note}: {range:?} of {}: {e}", stored.size()));
    assert!(
        read == stored.plain.get(range.clone()),
        "{note}: wrong bytes at {range:?} of {}",
        stored.size()
    );
    if let Some(local) = cache.read_local(&stored.content, stored.size(), range.start, len) {
        assert!(
            local == read,
            "{note}: wrong local bytes at {range:?} of {}",
            stored.size()
        );
    }
}
