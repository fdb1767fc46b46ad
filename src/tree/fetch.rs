//! Opening parts of a tree: from memory at once, from the store with waiting.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::{Missing, NodeSource, TreeError};
use crate::format::{IndexPage, Node};
use crate::model::{BlobRef, DirPage, DirTree, Hash, PackRef, PageSlot, PageTree, Ptr};

/// Nodes of one walk that are fetched at the same time. A first byte takes 20-100 ms whatever the size,
/// so this many in flight bring some hundred nodes a second; more would only crowd out other readers of the source.
pub const FETCHES_MAX: usize = 32;

/// Asks a synchronous question over loaded nodes, fetches what it misses and asks again until it is answered. What
/// was fetched is held for the time of the question, so a small cache cannot make this run for ever.
///
/// # Errors
/// What the source says; `Damaged` when a node is not of the kind that the pointer to it promises.
pub async fn answer<T, F>(src: &dyn NodeSource, ask: F) -> Result<T, TreeError>
where
    F: Fn(&dyn NodeSource) -> Result<T, Missing>,
{
    let held = Held {
        src,
        nodes: Mutex::new(HashMap::new()),
    };
    loop {
        let Missing(ptr) = match ask(&held) {
            Ok(answer) => return Ok(answer),
            Err(missing) => missing,
        };
        if held.nodes.lock().contains_key(&(ptr.pack, ptr.hash)) {
            return Err(wrong_kind(&ptr));
        }
        let node = src.node(&ptr).await?;
        held.nodes.lock().insert((ptr.pack, ptr.hash), node);
    }
}

/// A source that keeps what one question needed.
struct Held<'a> {
    src: &'a dyn NodeSource,
    nodes: Mutex<HashMap<(PackRef, Hash), Arc<Node>>>,
}

#[async_trait]
impl NodeSource for Held<'_> {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        let held = self.nodes.lock().get(&(ptr.pack, ptr.hash)).cloned();
        held.or_else(|| self.src.loaded(ptr))
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        self.src.node(ptr).await
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        self.src.blob(blob, raw_len).await
    }
}

/// Fetches nodes, at most [`FETCHES_MAX`] at a time; the answers are in the order of the pointers.
pub(crate) async fn nodes(src: &dyn NodeSource, ptrs: &[Ptr]) -> Result<Vec<Arc<Node>>, TreeError> {
    let fetches: Vec<_> = ptrs.iter().map(|ptr| src.node(ptr)).collect();
    futures::stream::iter(fetches)
        .buffered(FETCHES_MAX)
        .try_collect()
        .await
}

/// "The node at this pointer is not what the pointer promised."
pub(crate) fn wrong_kind(ptr: &Ptr) -> TreeError {
    damaged(
        ptr,
        "the node is not of the kind, or not of the level, that the pointer to it says",
    )
}

/// Damage at a node.
pub(crate) fn damaged(ptr: &Ptr, rule: &str) -> TreeError {
    TreeError::Damaged {
        object: format!("{} at byte {}", pack_key(&ptr.pack), ptr.offset),
        rule: rule.to_owned(),
    }
}

/// Key of a pack below the volume's own (SPEC.md 4).
pub(crate) fn pack_key(pack: &PackRef) -> String {
    format!("p/{:08x}/{:02x}/{}", pack.epoch, pack.id.0[0], pack.id)
}

/// The directory leaf in a node.
pub(crate) fn dir_page(ptr: &Ptr, node: &Node) -> Result<Arc<DirPage>, TreeError> {
    match node {
        Node::Dir(page) => Ok(page.clone()),
        _ => Err(wrong_kind(ptr)),
    }
}

/// The index page in a node; `below` is the level of the index page above it, if there is one.
pub(crate) fn index_page(ptr: &Ptr, node: &Node, below: Option<u8>) -> Result<Arc<IndexPage>, TreeError> {
    match node {
        Node::Index(page) if page.level >= 1 && below.is_none_or(|level| page.level + 1 == level) => {
            Ok(page.clone())
        }
        _ => Err(wrong_kind(ptr)),
    }
}

/// A directory opened one step: its entries, or the children of its index page.
pub(crate) enum Opened {
    /// All entries, or those of one leaf.
    Leaf(Arc<DirPage>),
    /// The children of an index page.
    Pages(PageTree),
}

/// Opens a directory tree or a part of one, fetching the one node that this takes. `below` as in [`index_page`].
pub(crate) async fn open(
    src: &dyn NodeSource,
    tree: &DirTree,
    below: Option<u8>,
) -> Result<Opened, TreeError> {
    match tree {
        DirTree::Inline(page) if below.is_none_or(|level| level == 1) => Ok(Opened::Leaf(page.clone())),
        DirTree::Pages(pages) if pages.level >= 1 && below.is_none_or(|level| pages.level + 1 == level) => {
            Ok(Opened::Pages(pages.clone()))
        }
        DirTree::Inline(_) | DirTree::Pages(_) => Err(TreeError::Damaged {
            object: "an edited directory".to_owned(),
            rule: "a page is not of the level that the one above it says".to_owned(),
        }),
        DirTree::Stored { ptr, index: false } => Ok(Opened::Leaf(dir_page(ptr, &*src.node(ptr).await?)?)),
        DirTree::Stored { ptr, index: true } => {
            let page = index_page(ptr, &*src.node(ptr).await?, below)?;
            Ok(Opened::Pages(page_tree(&page)))
        }
    }
}

/// The editable form of an index page of a directory.
pub(crate) fn page_tree(page: &IndexPage) -> PageTree {
    let slots = page.slots.iter().map(|slot| PageSlot {
        first_key: slot.first_key.clone(),
        count: slot.count,
        child: DirTree::stored(slot.ptr, page.level > 1),
    });
    PageTree {
        level: page.level,
        slots: Arc::new(slots.collect()),
    }
}

/// Which of `len` children, sorted by first key, holds `key`. `None` only when there are no children.
pub(crate) fn child_of<'k>(len: usize, key: &[u8], first_key: impl Fn(usize) -> &'k [u8]) -> Option<usize> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let mid = low + (high - low) / 2;
        if first_key(mid) <= key {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    (len > 0).then(|| low.saturating_sub(1))
}
