//! Nodes and bytes of one mount: the cache in front of the store, and the nodes of prepared trees, which exist in the
//! state directory only.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::cache::Cache;
use crate::format::{Node, decode_blob, decode_node};
use crate::model::{BlobRef, Content, Hash, Ptr};
use crate::overlay::Overlay;
use crate::tree::{NodeSource, TreeError};
use crate::view::{CleanFile, ContentSource, Ino};

/// Decoded local nodes that stay in memory; a prepared tree has the nodes that one commit changed.
const LOCAL_NODES_MAX: usize = 50_000;

/// Where the view and commits of a mount read.
pub struct MountSource {
    cache: Arc<Cache>,
    overlay: OnceLock<Arc<Overlay>>,
    local: RwLock<LocalNodes>,
}

/// Bytes of local packs that stay in memory; others are read again from the state directory.
const LOCAL_PACK_BYTES_MAX: usize = 64 << 20;

#[derive(Default)]
struct LocalNodes {
    packs: HashMap<Hash, Bytes>,
    nodes: HashMap<(Hash, u64), Arc<Node>>,
}

impl MountSource {
    /// Without local nodes until [`MountSource::set_overlay`].
    pub fn new(cache: Arc<Cache>) -> MountSource {
        MountSource {
            cache,
            overlay: OnceLock::new(),
            local: RwLock::default(),
        }
    }

    /// Local packs are read from this overlay's state directory.
    pub fn set_overlay(&self, overlay: Arc<Overlay>) {
        // Set once, when the mount is opened.
        let _ = self.overlay.set(overlay);
    }

    /// The cache itself.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Forgets what it has of packs that are gone from the state directory: what memory alone still has would hide that
    /// something refers to them.
    pub fn forget_local(&self, gone: &HashSet<Hash>) {
        if gone.is_empty() {
            return;
        }
        let mut local = self.local.write();
        local.packs.retain(|id, _| !gone.contains(id));
        local.nodes.retain(|(id, _), _| !gone.contains(id));
    }

    /// Forgets all that it has of local packs: it is read again.
    #[cfg(test)]
    pub fn forget_all_local(&self) {
        *self.local.write() = LocalNodes::default();
    }

    fn local_node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        let key = (ptr.pack.id, ptr.offset);
        if let Some(node) = self.local.read().nodes.get(&key) {
            return Ok(node.clone());
        }
        let stored = self.local_item(&ptr.pack.id, ptr.offset, ptr.stored_len)?;
        let object = local_object(&ptr.pack.id);
        let node =
            decode_node(&stored, ptr, &object).map_err(|e| local_damage(&ptr.pack.id, e.to_string()))?;
        let node = Arc::new(node);
        let mut local = self.local.write();
        if local.nodes.len() >= LOCAL_NODES_MAX {
            local.nodes.clear();
        }
        local.nodes.insert(key, node.clone());
        Ok(node)
    }

    /// A blob that was written with the nodes of a prepared tree (extended attributes, by versions that did so).
    fn local_blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        let stored = self.local_item(&blob.pack.id, blob.offset, blob.stored_len)?;
        let plain = decode_blob(&stored, raw_len, &blob.id, &local_object(&blob.pack.id));
        Ok(plain
            .map_err(|e| local_damage(&blob.pack.id, e.to_string()))?
            .into())
    }

    fn local_item(&self, id: &Hash, offset: u64, len: u32) -> Result<Bytes, TreeError> {
        let pack = self.local_pack(id)?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(len as usize)?));
        match range.filter(|range| range.end <= pack.len()) {
            Some(range) => Ok(pack.slice(range)),
            None => Err(local_damage(id, "a pointer leads outside the pack".into())),
        }
    }

    fn local_pack(&self, id: &Hash) -> Result<Bytes, TreeError> {
        if let Some(pack) = self.local.read().packs.get(id) {
            return Ok(pack.clone());
        }
        let missing = |rule: String| local_damage(id, rule);
        let overlay = self
            .overlay
            .get()
            .ok_or_else(|| missing("a local pack in a mount without state".into()))?;
        let bytes = overlay.get_base(id).map_err(|e| missing(e.to_string()))?;
        let bytes = bytes.ok_or_else(|| missing("is missing (`sailvol reload` moves to a record)".into()))?;
        let mut local = self.local.write();
        if local.packs.values().map(Bytes::len).sum::<usize>() + bytes.len() > LOCAL_PACK_BYTES_MAX {
            local.packs.clear();
        }
        local.packs.insert(*id, bytes.clone());
        Ok(bytes)
    }
}

#[async_trait]
impl NodeSource for MountSource {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        if ptr.pack.is_local() {
            // What is wrong with it is told by `node`, which is asked next.
            return self.local_node(ptr).ok();
        }
        self.cache.loaded(ptr)
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if ptr.pack.is_local() {
            return self.local_node(ptr);
        }
        self.cache.node(ptr).await
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        if blob.pack.is_local() {
            return self.local_blob(blob, raw_len);
        }
        self.cache.blob(blob, raw_len).await
    }
}

fn local_object(id: &Hash) -> String {
    format!("state directory, pack {id}")
}

fn local_damage(id: &Hash, rule: String) -> TreeError {
    TreeError::Damaged {
        object: local_object(id),
        rule,
    }
}

#[async_trait]
impl ContentSource for MountSource {
    async fn read(&self, content: &Content, size: u64, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        self.cache.read(content, size, offset, len).await
    }

    fn read_local(&self, content: &Content, size: u64, offset: u64, len: usize) -> Option<Bytes> {
        self.cache.read_local(content, size, offset, len)
    }

    fn contains_fully(&self, content: &Content, size: u64) -> bool {
        self.cache.contains_fully(content, size)
    }

    async fn hand_out(&self, content: &Content, size: u64, holder: Ino) -> Option<Arc<dyn CleanFile>> {
        ContentSource::hand_out(&*self.cache, content, size, holder).await
    }

    fn surrender(&self, content: &Content, size: u64, handle: BorrowedFd<'_>, to: &Path) -> bool {
        self.cache.surrender(content, size, handle, to)
    }
}
