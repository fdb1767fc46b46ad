//! A source of nodes over finished packs in memory.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{NodeSource, TreeError, fetch};
use crate::format::{FinishedPack, Node, decode_blob, decode_node};
use crate::model::{BlobRef, Hash, PackRef, Ptr};

/// Finished packs in memory, read through the real codec and counted: for tests, and for what is small and
/// short-lived.
#[derive(Debug, Default)]
pub struct MemorySource {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: HashMap<PackRef, Bytes>,
    loaded: HashMap<(PackRef, Hash), Arc<Node>>,
    fetched: Fetched,
}

/// What was asked of a [`MemorySource`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fetched {
    /// Nodes that were not loaded.
    pub nodes: u64,
    /// Their stored bytes.
    pub node_bytes: u64,
    /// Blobs.
    pub blobs: u64,
}

impl MemorySource {
    /// Without packs.
    pub fn new() -> MemorySource {
        MemorySource::default()
    }

    /// Adds packs.
    pub fn add(&self, packs: impl IntoIterator<Item = FinishedPack>) {
        let packs = packs.into_iter().map(|pack| (pack.pack, pack.bytes));
        self.state.lock().packs.extend(packs);
    }

    /// Takes a pack away, as a collector would.
    pub fn remove(&self, pack: &PackRef) {
        self.state.lock().packs.remove(pack);
    }

    /// Drops all nodes from what counts as loaded, and the counts.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.loaded.clear();
        state.fetched = Fetched::default();
    }

    /// What was fetched since the last [`MemorySource::forget`].
    pub fn fetched(&self) -> Fetched {
        self.state.lock().fetched
    }

    fn item(&self, pack: &PackRef, offset: u64, stored_len: u32) -> Result<Bytes, TreeError> {
        let object = || fetch::pack_key(pack);
        let bytes = self.state.lock().packs.get(pack).cloned();
        let bytes = bytes.ok_or_else(|| TreeError::Expired { object: object() })?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|from| Some(from..from.checked_add(stored_len as usize)?));
        match range {
            Some(range) if range.end <= bytes.len() => Ok(bytes.slice(range)),
            _ => Err(TreeError::Damaged {
                object: object(),
                rule: "an item ends behind its pack".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl NodeSource for MemorySource {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        self.state.lock().loaded.get(&(ptr.pack, ptr.hash)).cloned()
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if let Some(node) = self.loaded(ptr) {
            return Ok(node);
        }
        let stored = self.item(&ptr.pack, ptr.offset, ptr.stored_len)?;
        let node = Arc::new(decode_node(&stored, ptr, &fetch::pack_key(&ptr.pack))?);
        let mut state = self.state.lock();
        state.fetched.nodes += 1;
        state.fetched.node_bytes += stored.len() as u64;
        state.loaded.insert((ptr.pack, ptr.hash), node.clone());
        Ok(node)
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        let stored = self.item(&blob.pack, blob.offset, blob.stored_len)?;
        self.state.lock().fetched.blobs += 1;
        Ok(decode_blob(&stored, raw_len, &blob.id, &fetch::pack_key(&blob.pack))?.into())
    }
}
