//! Chunk lists of large contents that are stored in nodes.
//!
//! Bytes are kept by the id of their content (cid), and a file's entry says which that is. So before anything is fetched
//! by it, the list is compared with it: an entry that gives its own bytes the id of another file's would otherwise put
//! them in that file's place. It costs the index pages of the list, once; extent pages are compared as they are read.

use std::sync::Arc;

use super::Cache;
use super::contents::Chunked;
use super::remote::damaged;
use crate::format::{Node, limits, page_cid, paged_cid};
use crate::model::{ChunkRef, Content, EXTENT_PAGE_CHUNKS, Hash, Ptr, chunk_count};
use crate::tree::{NodeSource, TreeError};

/// Memory for lists, bytes: those of some hundred files of 10 TB.
pub(super) const LIST_MEMORY_BYTES: u64 = 4 << 20;

/// The extent pages of a content in order, each with the id of what it lists.
pub(super) type List = Arc<Vec<(Ptr, Hash)>>;

impl Cache {
    /// Where the bytes of chunk `index` are.
    pub(super) async fn chunk_ref(
        self: &Arc<Self>,
        file: &Chunked,
        index: u64,
    ) -> Result<ChunkRef, TreeError> {
        let none = || damaged(&format!("content {}", file.cid), format!("has no chunk {index}"));
        let at = |index: u64| usize::try_from(index).unwrap_or(usize::MAX);
        let root = match &file.content {
            Content::Chunks { chunks, .. } => return chunks.get(at(index)).copied().ok_or_else(none),
            Content::Paged { root, tier, .. } => (**root, *tier),
            _ => return Err(none()),
        };
        let list = self.list(file, root).await?;
        let (ptr, cid) = list.get(at(index / EXTENT_PAGE_CHUNKS)).ok_or_else(none)?;
        match &*self.node(ptr).await? {
            Node::Extent(page) if page_cid(page) == *cid => page
                .chunks
                .get(at(index % EXTENT_PAGE_CHUNKS))
                .copied()
                .ok_or_else(none),
            _ => Err(other(file)),
        }
    }

    /// The list, compared with the content's id.
    async fn list(self: &Arc<Self>, file: &Chunked, (root, tier): (Ptr, u8)) -> Result<List, TreeError> {
        // The pages' ids do not say where they lie: of equal contents in two places one may be gone.
        let key = (file.cid, root);
        if let Some(list) = self.lists.lock().get(&key) {
            return Ok(list);
        }
        let pages_max = chunk_count(file.size).div_ceil(EXTENT_PAGE_CHUNKS);
        let mut list = Vec::new();
        let mut open = vec![(root, limits::LEVELS_MAX)];
        while let Some((ptr, below)) = open.pop() {
            if list.len() as u64 > pages_max {
                return Err(other(file));
            }
            match &*self.node(&ptr).await? {
                // Only a list of one page has no index page that knows the page's id.
                Node::Extent(page) if below == limits::LEVELS_MAX => list.push((ptr, page_cid(page))),
                Node::Index(page) if page.level < below && page.level == 1 => {
                    for slot in &page.slots {
                        list.push((slot.ptr, slot.page_cid.ok_or_else(|| other(file))?));
                    }
                }
                Node::Index(page) if page.level < below => {
                    open.extend(page.slots.iter().rev().map(|slot| (slot.ptr, page.level)));
                }
                _ => return Err(other(file)),
            }
        }
        let cid = paged_cid(file.size, tier, list.iter().map(|(_, cid)| *cid));
        if cid != file.cid || list.len() as u64 != pages_max {
            return Err(other(file));
        }
        let list = Arc::new(list);
        let weight = list.len() as u64 * 128 + 128;
        self.lists.lock().insert(key, list.clone(), weight);
        Ok(list)
    }
}

fn other(file: &Chunked) -> TreeError {
    damaged(
        &format!("content {}", file.cid),
        "its list of chunks is another content's, or does not fit its size",
    )
}
