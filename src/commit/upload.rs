//! Bringing the bytes of dirty files into the store (LOG.md 4, step 2).
//!
//! 1. A file is read once: the bytes that are hashed are the bytes that are sent.
//! 2. Nothing is named before it is stored: whoever holds [`UploadedFiles`] may publish it.
//!    Holes of a local file are not read: a file costs its data, whatever its length.
//! 3. What the store has already is not sent: chunks at the same position of the base, chunks and blobs that occur
//!    twice, what an interrupted attempt has brought (the ledger), and chunk objects that a hint knows and a HEAD
//!    confirms. Of large files only chunks that dirty frames touch are read.
//! 4. Memory: what is read holds permits for its bytes until it is sent or packed; packs in flight are bounded by number.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::CommitError;
use super::extents::{self, BaseChunks, NewPage, PageRef};
use super::ledger::{self, Arrived, UploadLedger};
use super::packer::{PackedBlob, Packer, Packs};
use super::progress::Progress;
use crate::format::{
    EncodedBlob, EncodedChunk, content_id, encode_hashed_blob, encode_hashed_chunk, hash_chunk,
};
use crate::model::{
    BlobRef, ChunkRef, Content, EXTENT_PAGE_CHUNKS, Epoch, FRAME_BYTES, Hash, ITEM_BYTES_MAX, TINY_BYTES_MAX,
    VolPath, chunk_count, chunk_len, chunk_start, is_zero,
};
use crate::overlay::{FileState, NodeId};
use crate::tree::{NodeSource, TreeError};
use crate::volume::{Volume, VolumeError};

/// Small files are hashed and compressed in batches of so many bytes.
const BATCH_BYTES: u64 = 1 << 20;

/// Frozen bytes of dirty files, from the bodies of a mount or from local files.
#[async_trait::async_trait]
pub trait FileSource: Send + Sync {
    /// Length of the file, bytes.
    async fn size(&self, node: NodeId) -> Result<u64, TreeError>;

    /// Something can still write the file: an open handle, or a shared mapping. Asked after it was read.
    async fn is_still_written(&self, node: NodeId) -> Result<bool, TreeError>;

    /// Where from `offset` on something other than zeros may stand; `None`: nothing but zeros follows. `offset` itself where
    /// that cannot be told.
    async fn next_data(&self, node: NodeId, offset: u64) -> Result<Option<u64>, TreeError>;

    /// Exactly `len` bytes of the file as the view shows it, from body and base together; zeros where it ends by now.
    async fn read(&self, node: NodeId, offset: u64, len: u64) -> Result<Bytes, TreeError>;
}

/// Which chunk objects the store may have already, from a map on this machine: hints, confirmed before use.
pub trait ChunkHints: Send + Sync {
    /// The epoch under which a chunk was seen.
    fn find(&self, id: &Hash) -> Option<Epoch>;

    /// A chunk object that is there.
    fn learn(&self, id: &Hash, epoch: Epoch);
}

/// No hints.
#[derive(Debug, Default)]
pub struct NoHints;

impl ChunkHints for NoHints {
    fn find(&self, _id: &Hash) -> Option<Epoch> {
        None
    }

    fn learn(&self, _id: &Hash, _epoch: Epoch) {}
}

/// The largest chunk (SPEC.md 14): it must go through in any case.
const READ_BYTES_MIN: u64 = 64 << 20;

/// How much an upload may do at a time.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Bytes of files in memory; at least one chunk of 64 MiB goes through in any case.
    pub read_bytes: u64,
    /// Requests in flight.
    pub requests: usize,
    /// Threads that hash and compress; default: the cores.
    pub threads: usize,
    /// Small files that are hashed and compressed in one go.
    pub small_files: usize,
}

impl Default for UploadLimits {
    fn default() -> UploadLimits {
        UploadLimits {
            // What is read is there a second time while it is encoded.
            read_bytes: READ_BYTES_MIN,
            requests: 16,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            small_files: 64,
        }
    }
}

/// A dirty file.
#[derive(Clone, Debug)]
pub struct DirtyFile {
    /// Its node.
    pub node: NodeId,
    /// Its path in M: files go into packs in this order.
    pub path: VolPath,
    /// What the overlay knows of its bytes.
    pub state: FileState,
}

/// What the upload needs of its surroundings.
pub struct Upload<'a> {
    /// Where to.
    pub volume: &'a Volume,
    /// For the chunk lists of base contents.
    pub nodes: &'a dyn NodeSource,
    /// The bytes.
    pub files: &'a dyn FileSource,
    /// What an interrupted attempt has brought.
    pub ledger: &'a dyn UploadLedger,
    /// What may be there anyway.
    pub hints: &'a dyn ChunkHints,
    /// Bounds.
    pub limits: UploadLimits,
    /// Told as it goes.
    pub progress: &'a Progress,
    /// `gc.epoch` of the newest known record.
    pub epoch: Epoch,
}

/// Files whose bytes are in the store, but for what waits in the open pack.
#[derive(Clone, Debug)]
pub struct UploadedFiles {
    /// Size and descriptor by node. Blobs of the open pack are named by `PackRef::open`.
    pub contents: HashMap<NodeId, (u64, Content)>,
    /// Blobs that share the pack of the nodes: at most 4 MiB.
    pub open: crate::format::PackBuilder,
    /// The epoch of the open pack.
    pub epoch: Epoch,
    /// The oldest epoch that any of it was uploaded or found under (R1).
    pub epoch_min: Epoch,
    /// Files that something could still write when they had been read.
    pub still_written: Vec<NodeId>,
    /// Bytes sent.
    pub sent: u64,
    /// Logical bytes of the files.
    pub bytes: u64,
}

/// A file and its size.
type Job = (DirtyFile, u64);
/// What files came to, with their sizes.
type AllDone = HashMap<NodeId, (u64, Done)>;

/// What one file came to, before packs have their ids.
enum Done {
    Tiny(Bytes),
    Blob(Place),
    Pages(Vec<Page>),
}

/// A page of a chunk list, before packs have their ids.
enum Page {
    Kept(PageRef),
    Chunks(Vec<Place>),
}

/// Where bytes are, before packs have their ids.
#[derive(Clone, Copy)]
enum Place {
    Known(ChunkRef),
    Packed(PackedBlob),
}

impl Place {
    fn resolve(self, packs: &Packs) -> ChunkRef {
        match self {
            Place::Known(chunk) => chunk,
            Place::Packed(packed) => packs.chunk(packed),
        }
    }
}

/// What reading and hashing a small piece gives.
enum Piece {
    Tiny(Bytes),
    /// The base has it.
    Known(BlobRef),
    /// An interrupted attempt has brought it.
    Arrived(BlobRef),
    New(EncodedBlob),
}

impl Piece {
    /// A piece below 4 MiB, encoded unless it is what the base has or what arrived before.
    fn of(bytes: &[u8], base: Option<BlobRef>, arrived: &Arrived) -> Result<Piece, CommitError> {
        let id = content_id(bytes);
        if let Some(blob) = base.filter(|blob| blob.id == id) {
            return Ok(Piece::Known(blob));
        }
        match arrived.blobs.get(&id) {
            Some((raw_len, blob)) if *raw_len as usize == bytes.len() => Ok(Piece::Arrived(*blob)),
            _ => Ok(Piece::New(encode_hashed_blob(bytes, id)?)),
        }
    }
}

impl Upload<'_> {
    /// Uploads all of `files`.
    ///
    /// # Errors
    /// What the store or the local disk says. What was sent until then is in the ledger.
    pub async fn run(&self, mut files: Vec<DirtyFile>) -> Result<UploadedFiles, CommitError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let usable = |epoch: Epoch| epoch.saturating_add(1) >= self.epoch && epoch <= self.epoch;
        let recorded = self.ledger.read().map_err(CommitError::ledger)?;
        let work = Work {
            up: self,
            arrived: Arc::new(Arrived::parse(&recorded, usable)),
            claimed: Mutex::new(HashMap::new()),
            memory: Semaphore::new(mebibytes(self.limits.read_bytes.max(READ_BYTES_MIN)) as usize),
            threads: Arc::new(Semaphore::new(self.limits.threads.max(1))),
            requests: Semaphore::new(self.limits.requests.max(1)),
            packer: tokio::sync::Mutex::new(Packer::new(self.volume.clone(), self.epoch)),
            epoch_min: Mutex::new(self.epoch),
        };
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(self.files.size(file.node).await?);
        }
        let bytes = sizes.iter().sum();
        self.progress.begin(files.len() as u64, bytes);
        let jobs: Vec<Job> = files.into_iter().zip(sizes).collect();
        let (small, large): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, size)| *size < ITEM_BYTES_MAX);
        let mut done = AllDone::new();
        work.all_large(large, &mut done).await?;
        work.all_small(small, &mut done).await?;
        let Work {
            packer, epoch_min, ..
        } = work;
        let mut packs = packer.into_inner().finish(self.ledger, self.progress).await?;
        let mut still_written = Vec::new();
        for node in done.keys() {
            if self.files.is_still_written(*node).await? {
                still_written.push(*node);
            }
        }
        let mut contents = HashMap::with_capacity(done.len());
        for (node, (size, one)) in done {
            contents.insert(node, (size, one.content(size, &mut packs)?));
        }
        Ok(UploadedFiles {
            contents,
            open: packs.open,
            epoch: self.epoch,
            still_written,
            epoch_min: epoch_min.into_inner(),
            sent: self.progress.count().sent,
            bytes,
        })
    }
}

impl Done {
    /// The descriptor, once packs have their ids.
    fn content(self, size: u64, packs: &mut Packs) -> Result<Content, CommitError> {
        Ok(match self {
            Done::Tiny(bytes) => Content::Tiny(Arc::from(&bytes[..])),
            Done::Blob(place) => match place.resolve(packs) {
                ChunkRef::Packed(blob) => Content::Blob(blob),
                ChunkRef::Hole | ChunkRef::Object { .. } => return Err(CommitError::Stopped),
            },
            Done::Pages(pages) => {
                let resolve = |page| match page {
                    Page::Kept(page) => NewPage::Kept(page),
                    Page::Chunks(places) => NewPage::Chunks(
                        places
                            .into_iter()
                            .map(|place: Place| place.resolve(packs))
                            .collect(),
                    ),
                };
                let pages: Vec<NewPage> = pages.into_iter().map(resolve).collect();
                extents::content_of(size, pages, &mut packs.open)?
            }
        })
    }
}

/// One running upload.
struct Work<'a> {
    up: &'a Upload<'a>,
    arrived: Arc<Arrived>,
    /// Chunk objects that this upload has sent, is sending, or has found.
    claimed: Mutex<HashMap<Hash, Epoch>>,
    /// Permits of 1 MiB.
    memory: Semaphore,
    threads: Arc<Semaphore>,
    requests: Semaphore,
    packer: tokio::sync::Mutex<Packer>,
    epoch_min: Mutex<Epoch>,
}

impl Work<'_> {
    /// Files of chunks, side by side: their chunks take turns for memory and requests.
    async fn all_large(&self, files: Vec<Job>, done: &mut AllDone) -> Result<(), CommitError> {
        let jobs: Vec<_> = files
            .into_iter()
            .map(|(file, size)| self.large(file, size))
            .collect();
        let mut lists = futures::stream::iter(jobs).buffer_unordered(self.up.limits.requests.max(1));
        while let Some((node, size, pages)) = lists.try_next().await? {
            done.insert(node, (size, Done::Pages(pages)));
            self.up.progress.file_done();
        }
        Ok(())
    }

    /// Files below 4 MiB, read ahead in batches and packed in order. Memory is taken in that order and given back in it,
    /// when a batch is packed: so whichever is next has what it needs.
    async fn all_small(&self, files: Vec<Job>, done: &mut AllDone) -> Result<(), CommitError> {
        let mut reading = FuturesOrdered::new();
        let mut batches = batches(files, self.up.limits.small_files).into_iter();
        loop {
            // With something being read, more is begun only if there is memory for it.
            while reading.len() < self.up.limits.threads * 2 {
                let Some(batch) = batches.as_slice().first() else {
                    break;
                };
                let bytes = batch.iter().map(|(_, size)| size).sum();
                let memory = match self.memory.try_acquire_many(permits(bytes)) {
                    Ok(memory) => memory,
                    Err(_) if !reading.is_empty() => break,
                    Err(_) => {
                        let taken = self.memory.acquire_many(permits(bytes)).await;
                        taken.map_err(|_| CommitError::Stopped)?
                    }
                };
                reading.extend(batches.next().map(|batch| self.small(batch, memory)));
            }
            let Some((pieces, memory)) = reading.try_next().await? else {
                return Ok(());
            };
            for (node, size, piece) in pieces {
                let one = match piece {
                    Piece::Tiny(bytes) => Done::Tiny(bytes),
                    other => Done::Blob(self.place(other).await?),
                };
                done.insert(node, (size, one));
                self.up.progress.file_done();
            }
            drop(memory);
        }
    }

    /// A batch of files below 4 MiB. Some microseconds each: they share the way to a thread and back.
    async fn small<'m>(
        &self,
        batch: Vec<Job>,
        memory: SemaphorePermit<'m>,
    ) -> Result<(Vec<(NodeId, u64, Piece)>, SemaphorePermit<'m>), CommitError> {
        let mut read = Vec::with_capacity(batch.len());
        for (file, size) in batch {
            let bytes = self.up.files.read(file.node, 0, size).await?;
            self.up.progress.read(size);
            let base = match &file.state.base {
                Some((base_size, Content::Blob(blob))) if *base_size == size => Some(*blob),
                _ => None,
            };
            read.push((file.node, size, bytes, base));
        }
        let arrived = self.arrived.clone();
        let encoding = self.on_thread(move || {
            let pieces = read.into_iter().map(|(node, size, bytes, base)| {
                let piece = match size {
                    0..=TINY_BYTES_MAX => Piece::Tiny(bytes),
                    _ => Piece::of(&bytes, base, &arrived)?,
                };
                Ok((node, size, piece))
            });
            pieces.collect::<Result<Vec<_>, CommitError>>()
        });
        Ok((encoding.await??, memory))
    }

    /// Where a piece is, or will be.
    async fn place(&self, piece: Piece) -> Result<Place, CommitError> {
        Ok(match piece {
            Piece::Known(blob) => Place::Known(ChunkRef::Packed(blob)),
            Piece::Arrived(blob) => {
                self.found(blob.pack.epoch);
                Place::Known(ChunkRef::Packed(blob))
            }
            Piece::New(blob) => Place::Packed(self.pack(&blob).await?),
            Piece::Tiny(_) => return Err(CommitError::Stopped),
        })
    }

    async fn pack(&self, blob: &EncodedBlob) -> Result<PackedBlob, CommitError> {
        self.packer
            .lock()
            .await
            .add(blob, self.up.ledger, self.up.progress)
            .await
    }

    /// A file of chunks, page by page of its list.
    async fn large(&self, file: DirtyFile, size: u64) -> Result<(NodeId, u64, Vec<Page>), CommitError> {
        let file = &file;
        let count = chunk_count(size);
        let (base_size, base) = match &file.state.base {
            Some((base_size, content)) => (*base_size, BaseChunks::load(self.up.nodes, content).await?),
            None => (0, BaseChunks::None),
        };
        let same_len = |index: u64| chunk_len(index, size) == chunk_len(index, base_size);
        let mut pages = Vec::new();
        for number in 0..count.div_ceil(EXTENT_PAGE_CHUNKS) {
            let first = number * EXTENT_PAGE_CHUNKS;
            let chunks = first..count.min(first + EXTENT_PAGE_CHUNKS);
            let (start, end) = (chunk_start(first), chunk_start(chunks.end).min(size));
            if let Some(page) = base.page(number)
                && page.chunks == chunks.end - chunks.start
                && same_len(chunks.end - 1)
                && is_clean(&file.state, start, end - start)
            {
                self.up.progress.read(end - start);
                pages.push(Page::Kept(page));
                continue;
            }
            if !self.has_data(file.node, start, end - start).await? {
                self.up.progress.read(end - start);
                let holes = chunks.map(|_| Place::Known(ChunkRef::Hole));
                pages.push(Page::Chunks(holes.collect()));
                continue;
            }
            let old = base.chunks(self.up.nodes, number).await?;
            let places = futures::stream::iter(chunks)
                .map(|index| {
                    let old = old
                        .get((index - first) as usize)
                        .copied()
                        .filter(|_| same_len(index));
                    async move { self.chunk(file, size, index, old).await }
                })
                .buffered(self.up.limits.requests.max(1));
            pages.push(Page::Chunks(places.try_collect().await?));
        }
        Ok((file.node, size, pages))
    }

    async fn chunk(
        &self,
        file: &DirtyFile,
        size: u64,
        index: u64,
        old: Option<ChunkRef>,
    ) -> Result<Place, CommitError> {
        let (start, len) = (chunk_start(index), chunk_len(index, size));
        if let Some(old) = old
            && is_clean(&file.state, start, len)
        {
            self.up.progress.read(len);
            return Ok(Place::Known(old));
        }
        if !self.has_data(file.node, start, len).await? {
            self.up.progress.read(len);
            return Ok(Place::Known(ChunkRef::Hole));
        }
        let memory = self
            .memory
            .acquire_many(permits(len))
            .await
            .map_err(|_| CommitError::Stopped)?;
        let bytes = self.up.files.read(file.node, start, len).await?;
        self.up.progress.read(len);
        let place = self.bytes_of_chunk(bytes, old).await;
        drop(memory);
        place
    }

    /// False: a range is nothing but holes of the file, and need not be read.
    async fn has_data(&self, node: NodeId, start: u64, len: u64) -> Result<bool, CommitError> {
        let next = self.up.files.next_data(node, start).await?;
        Ok(next.is_some_and(|at| at < start + len))
    }

    async fn bytes_of_chunk(&self, bytes: Bytes, old: Option<ChunkRef>) -> Result<Place, CommitError> {
        if (bytes.len() as u64) < ITEM_BYTES_MAX {
            let base = match old {
                Some(ChunkRef::Packed(blob)) => Some(blob),
                _ => None,
            };
            let arrived = self.arrived.clone();
            let encoding = self.on_thread(move || match is_zero(&bytes) {
                true => Ok(None),
                false => Piece::of(&bytes, base, &arrived).map(Some),
            });
            return match encoding.await?? {
                Some(piece) => self.place(piece).await,
                None => Ok(Place::Known(ChunkRef::Hole)),
            };
        }
        let hashed = self.on_thread({
            let bytes = bytes.clone();
            move || (!is_zero(&bytes)).then(|| hash_chunk(&bytes))
        });
        let Some(hashes) = hashed.await? else {
            return Ok(Place::Known(ChunkRef::Hole));
        };
        let id = hashes.id;
        if let Some(old @ ChunkRef::Object { .. }) = old.filter(|old| old.id() == id) {
            return Ok(Place::Known(old));
        }
        let known = match self.arrived.chunks.get(&id) {
            Some(epoch) => {
                self.found(*epoch);
                Some(*epoch)
            }
            None => self.claim(id),
        };
        if let Some(epoch) = known {
            return Ok(Place::Known(ChunkRef::Object { epoch, id }));
        }
        // A chunk is at most 64 MiB.
        let raw_len = bytes.len() as u32;
        let chunk = self
            .on_thread(move || encode_hashed_chunk(&bytes, &hashes))
            .await??;
        self.store_chunk(&chunk, raw_len).await?;
        Ok(Place::Known(ChunkRef::Object {
            epoch: self.up.epoch,
            id,
        }))
    }

    /// The epoch under which another chunk of this upload has the same bytes; else they are this caller's to send.
    fn claim(&self, id: Hash) -> Option<Epoch> {
        let mut claimed = self.claimed.lock();
        match claimed.get(&id) {
            Some(epoch) => Some(*epoch),
            None => {
                claimed.insert(id, self.up.epoch);
                None
            }
        }
    }

    /// Brings a chunk object into the store. A hint counts only for the epoch of this upload: R1 holds then, and others
    /// who upload the same bytes find it.
    async fn store_chunk(&self, chunk: &EncodedChunk, raw_len: u32) -> Result<(), CommitError> {
        let up = self.up;
        let _permit = self.requests.acquire().await.map_err(|_| CommitError::Stopped)?;
        let hinted = up.hints.find(&chunk.id) == Some(up.epoch);
        if !hinted || !up.volume.has_chunk(up.epoch, chunk, raw_len).await? {
            let (volume, epoch, chunk) = (up.volume.clone(), up.epoch, chunk.clone());
            // A task of its own: signing and sending take a processor, and this one has files to read.
            let sending = AbortOnDrop(tokio::spawn(async move {
                volume.put_chunk(epoch, &chunk, raw_len).await
            }));
            up.progress.sent_bytes(sending.await?);
        }
        up.ledger
            .append(&ledger::chunk_entry(up.epoch, &chunk.id))
            .map_err(CommitError::ledger)?;
        up.hints.learn(&chunk.id, up.epoch);
        Ok(())
    }

    fn found(&self, epoch: Epoch) {
        let mut least = self.epoch_min.lock();
        *least = (*least).min(epoch);
    }

    /// Runs work for a processor on a thread that may be kept busy.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CommitError> {
        let permit = self
            .threads
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| CommitError::Stopped)?;
        let job = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        job.await.map_err(|_| CommitError::Stopped)
    }
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T, VolumeError>>);

impl<T> std::future::Future for AbortOnDrop<T> {
    type Output = Result<T, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = std::task::ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(match ended {
            Ok(result) => result.map_err(CommitError::from),
            Err(_) => Err(CommitError::Stopped),
        })
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nothing in this range was written: all of it is still what the base says.
fn is_clean(state: &FileState, start: u64, len: u64) -> bool {
    let frames = start / FRAME_BYTES..(start + len).div_ceil(FRAME_BYTES);
    start + len <= state.base_valid
        && frames
            .into_iter()
            .all(|frame| state.body.is_none() || !state.is_present(frame))
}

/// Files in batches of at most `files_max` files and 1 MiB (or one file).
fn batches(files: Vec<Job>, files_max: usize) -> Vec<Vec<Job>> {
    let mut batches: Vec<Vec<Job>> = Vec::new();
    let mut bytes = 0;
    for (file, size) in files {
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < files_max && bytes <= BATCH_BYTES => batch.push((file, size)),
            _ => {
                bytes = size;
                batches.push(vec![(file, size)]);
            }
        }
    }
    batches
}

/// Permits of memory for a piece: at most those of the largest chunk, which are always there.
fn permits(bytes: u64) -> u32 {
    u32::try_from(mebibytes(bytes)).unwrap_or(64).clamp(1, 64)
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
