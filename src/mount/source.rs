//! Nodes and bytes of one mount: the cache in front of the store, and the nodes of prepared trees, which exist in the
//! state directory only.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::cache::Cache;
use crate::format::{Node, decode_node};
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

    fn local_node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        let key = (ptr.pack.id, ptr.offset);
        if let Some(node) = self.local.read().nodes.get(&key) {
            return Ok(node.clone());
        }
        let object = format!("state directory, pack {}", ptr.pack.id);
        let damaged = |rule: String| TreeError::Damaged {
            object: object.clone(),
            rule,
        };
        let pack = self.local_pack(&ptr.pack.id)?;
        let start = usize::try_from(ptr.offset).ok();
        let stored = start.and_then(|start| pack.get(start..start.checked_add(ptr.stored_len as usize)?));
        let stored = stored.ok_or_else(|| damaged("a pointer leads outside the pack".into()))?;
        let node = Arc::new(decode_node(stored, ptr, &object).map_err(|e| damaged(e.to_string()))?);
        let mut local = self.local.write();
        if local.nodes.len() >= LOCAL_NODES_MAX {
            local.nodes.clear();
        }
        local.nodes.insert(key, node.clone());
        Ok(node)
    }

    fn local_pack(&self, id: &Hash) -> Result<Bytes, TreeError> {
        if let Some(pack) = self.local.read().packs.get(id) {
            return Ok(pack.clone());
        }
        let missing = |rule: String| TreeError::Damaged {
            object: format!("state directory, pack {id}"),
            rule,
        };
        let overlay = self
            .overlay
            .get()
            .ok_or_else(|| missing("a local pack in a mount without state".into()))?;
        let bytes = overlay.get_base(id).map_err(|e| missing(e.to_string()))?;
        let bytes = bytes.ok_or_else(|| missing("is missing".into()))?;
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
        self.cache.blob(blob, raw_len).await
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
