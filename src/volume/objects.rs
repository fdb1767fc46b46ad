//! Chunks and packs of a volume as objects: written once, then immutable.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Volume, VolumeError};
use crate::format::{
    EncodedChunk, FinishedPack, Key, Node, chunk_header_len, decode_blob, decode_chunk, decode_node,
};
use crate::model::{BlobRef, Epoch, Hash, PackRef, Ptr};
use crate::store::{Fetched, ObjectStore, PutMode, StoreError};
use crate::tree::{NodeSource, TreeError};

/// Bytes around a wanted item that are fetched with it (SPEC.md 10): neighbours in the tree are neighbours in the
/// pack.
const WINDOW_BYTES: u64 = 256 << 10;
/// Nodes that a [`RemoteSource`] holds in memory.
const NODES_MAX: usize = 4096;
/// Bytes of windows that a [`RemoteSource`] holds in memory, and one window (at most 4 MiB) more.
const WINDOWS_BYTES_MAX: usize = 16 << 20;
/// Windows that a [`RemoteSource`] fetches at the same time, by the hash of their place.
const TURNS: usize = 16;

/// Reads a whole object of at most `bytes_max` bytes; a longer one is refused before any memory is taken for it.
pub(super) async fn get_whole(
    store: &dyn ObjectStore,
    key: &str,
    bytes_max: u64,
) -> Result<Fetched, StoreError> {
    let fetched = store.get(key, Some(0..bytes_max.saturating_add(1))).await?;
    if fetched.object_len > bytes_max {
        return Err(StoreError::Broken {
            key: key.to_owned(),
            reason: format!(
                "has {} bytes, and nothing of its kind has more than {bytes_max}",
                fetched.object_len
            ),
        });
    }
    Ok(fetched)
}

/// Longest chunk object of that many plain bytes: frames are stored in at most their plain length.
fn chunk_object_len_max(raw_len: u32) -> u64 {
    u64::from(chunk_header_len(raw_len)) + u64::from(raw_len)
}

impl Volume {
    /// Uploads a chunk object under `epoch`, unless it is there; says how many bytes were sent.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_chunk(
        &self,
        epoch: Epoch,
        chunk: &EncodedChunk,
        raw_len: u32,
    ) -> Result<u64, VolumeError> {
        let key = Key::Chunk(self.id, epoch, chunk.id).to_string();
        let created = self
            .store
            .put(&key, chunk.object.clone(), PutMode::IfAbsent)
            .await;
        let len = chunk.object.len() as u64;
        match created {
            Ok(_) => return Ok(len),
            Err(StoreError::AlreadyExists { .. }) => {
                if self.has_chunk(epoch, chunk, raw_len).await? {
                    return Ok(0);
                }
                // Damaged, or gone again: our bytes were just hashed.
            }
            Err(StoreError::Unknown { .. }) => {
                if self.has_chunk(epoch, chunk, raw_len).await? {
                    return Ok(len);
                }
                // Not there. The key is the hash of the bytes: unlike a create, this may be repeated as often as it takes.
            }
            Err(error) => return Err(error.into()),
        }
        self.store
            .put(&key, chunk.object.clone(), PutMode::Overwrite)
            .await?;
        Ok(len)
    }

    /// The store has this chunk, whole: the object has the right length, or another one (of another compressor) of
    /// which all bytes were checked. What is no object of that length, or none at all, is no chunk.
    pub async fn has_chunk(
        &self,
        epoch: Epoch,
        chunk: &EncodedChunk,
        raw_len: u32,
    ) -> Result<bool, VolumeError> {
        let key = Key::Chunk(self.id, epoch, chunk.id).to_string();
        match self.store.head(&key).await {
            Ok(None) | Err(StoreError::Broken { .. }) => Ok(false),
            Ok(Some(len)) if len == chunk.object.len() as u64 => Ok(true),
            Ok(Some(_)) => match get_whole(&*self.store, &key, chunk_object_len_max(raw_len)).await {
                Ok(stored) => Ok(decode_chunk(&stored.bytes, raw_len, &chunk.id, &key).is_ok()),
                Err(StoreError::Broken { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Uploads a pack.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_pack(&self, pack: &FinishedPack) -> Result<(), VolumeError> {
        let key = Key::Pack(self.id, pack.pack).to_string();
        // The key is the hash of the bytes, so it does no harm to write them twice.
        self.store
            .put(&key, pack.bytes.clone(), PutMode::Overwrite)
            .await?;
        Ok(())
    }

    /// A whole chunk, verified.
    ///
    /// # Errors
    /// [`TreeError::Expired`] when the object is gone.
    pub async fn chunk(&self, epoch: Epoch, id: &Hash, raw_len: u32) -> Result<Bytes, TreeError> {
        let key = Key::Chunk(self.id, epoch, *id).to_string();
        let stored = get_whole(&*self.store, &key, chunk_object_len_max(raw_len)).await;
        let stored = stored.map_err(fetch_error)?.bytes;
        let id = *id;
        let plain = tokio::task::spawn_blocking(move || decode_chunk(&stored, raw_len, &id, &key))
            .await
            .map_err(|e| TreeError::Unreachable {
                reason: e.to_string(),
            })?;
        plain.map(Bytes::from).map_err(|e| TreeError::Damaged {
            object: e.object.to_string(),
            rule: e.to_string(),
        })
    }
}

/// What a failed fetch of an immutable object means for whoever reads the tree.
pub fn fetch_error(error: StoreError) -> TreeError {
    match error {
        StoreError::NotFound { key } => TreeError::Expired { object: key },
        StoreError::Denied { reason } => TreeError::Denied { reason },
        StoreError::Broken { key, reason } => TreeError::Damaged {
            object: key,
            rule: reason,
        },
        other => TreeError::Unreachable {
            reason: other.to_string(),
        },
    }
}

/// Nodes and blobs straight from the store, with a small memory: for commands without a mount, and for tests.
#[derive(Debug)]
pub struct RemoteSource {
    volume: Volume,
    memory: Mutex<Memory>,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

#[derive(Debug, Default)]
struct Memory {
    /// By pack and hash: equal nodes of two packs decode to different pointers.
    nodes: HashMap<(PackRef, Hash), Arc<Node>>,
    /// Oldest first.
    windows: VecDeque<Window>,
}

#[derive(Clone, Debug)]
struct Window {
    pack: PackRef,
    start: u64,
    bytes: Bytes,
}

impl RemoteSource {
    /// Reads from this volume.
    pub fn new(volume: Volume) -> RemoteSource {
        RemoteSource {
            volume,
            memory: Mutex::default(),
            turns: Default::default(),
        }
    }

    fn held(&self, pack: &PackRef, offset: u64, end: u64) -> Option<Bytes> {
        let memory = self.memory.lock();
        memory
            .windows
            .iter()
            .find_map(|window| window.slice(pack, offset, end))
    }

    /// The stored bytes of an item of a pack; its neighbours come along.
    async fn item(&self, pack: &PackRef, offset: u64, len: u32) -> Result<Bytes, TreeError> {
        let end = offset + u64::from(len);
        if let Some(bytes) = self.held(pack, offset, end) {
            return Ok(bytes);
        }
        // Windows begin where all who want something near expect them, and one of these fetches for all.
        let start = offset - offset % WINDOW_BYTES;
        let turn = usize::try_from(start / WINDOW_BYTES).unwrap_or(0) ^ usize::from(pack.id.0[0]);
        let _turn = self.turns[turn % TURNS].lock().await;
        if let Some(bytes) = self.held(pack, offset, end) {
            return Ok(bytes);
        }
        let key = Key::Pack(self.volume.id, *pack).to_string();
        let fetched = self
            .volume
            .store
            .get(&key, Some(start..end.max(start + WINDOW_BYTES)))
            .await;
        let window = Window {
            pack: *pack,
            start,
            bytes: fetched.map_err(fetch_error)?.bytes,
        };
        let bytes = window
            .slice(pack, offset, end)
            .ok_or_else(|| TreeError::Damaged {
                object: key,
                rule: "the pack ends before an item that is named in it".to_owned(),
            })?;
        let mut memory = self.memory.lock();
        let mut bytes_held: usize = memory.windows.iter().map(|window| window.bytes.len()).sum();
        while bytes_held > WINDOWS_BYTES_MAX
            && let Some(oldest) = memory.windows.pop_front()
        {
            bytes_held -= oldest.bytes.len();
        }
        memory.windows.push_back(window);
        Ok(bytes)
    }
}

impl Window {
    fn slice(&self, pack: &PackRef, offset: u64, end: u64) -> Option<Bytes> {
        if self.pack != *pack || offset < self.start || end > self.start + self.bytes.len() as u64 {
            return None;
        }
        let from = usize::try_from(offset - self.start).ok()?;
        let to = usize::try_from(end - self.start).ok()?;
        Some(self.bytes.slice(from..to))
    }
}

#[async_trait]
impl NodeSource for RemoteSource {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        self.memory.lock().nodes.get(&(ptr.pack, ptr.hash)).cloned()
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if let Some(node) = self.loaded(ptr) {
            return Ok(node);
        }
        let stored = self.item(&ptr.pack, ptr.offset, ptr.stored_len).await?;
        let key = Key::Pack(self.volume.id, ptr.pack).to_string();
        let node = decode_node(&stored, ptr, &key).map_err(|e| TreeError::Damaged {
            object: key.clone(),
            rule: e.to_string(),
        })?;
        let node = Arc::new(node);
        let mut memory = self.memory.lock();
        if memory.nodes.len() >= NODES_MAX {
            memory.nodes.clear();
        }
        memory.nodes.insert((ptr.pack, ptr.hash), node.clone());
        Ok(node)
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        let stored = self.item(&blob.pack, blob.offset, blob.stored_len).await?;
        let key = Key::Pack(self.volume.id, blob.pack).to_string();
        decode_blob(&stored, raw_len, &blob.id, &key)
            .map(Bytes::from)
            .map_err(|e| TreeError::Damaged {
                object: key,
                rule: e.to_string(),
            })
    }
}
