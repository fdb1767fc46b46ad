//! Chunk lists of large files: reading those of the base, and writing new ones.
//!
//! Extent pages cover fixed ranges of 1,024 chunks, so a page of which no chunk changed is taken over as it is, and a
//! change of one chunk of a large file reads and writes one page and the index.

use std::sync::Arc;

use crate::format::limits::LEVELS_MAX;
use crate::format::{
    EncodeError, ExtentPage, IndexPage, IndexSlot, Node, PackBuilder, chunks_cid, encode_extent_page,
    encode_index_page, page_cid, paged_cid,
};
use crate::model::{CHUNKS_INLINE_MAX, CHUNKS_MAX, ChunkRef, Content, EXTENT_PAGE_CHUNKS, Hash, Ptr};
use crate::tree::{NodeSource, TreeError};

/// Number of the only tier table.
const TIER: u8 = 0;
/// Slots of an extent index page: about 90 bytes each, so a page stays below 64 KiB.
const INDEX_SLOTS: usize = 512;

/// The chunk list of a content, by pages.
#[derive(Clone, Debug)]
pub(super) enum BaseChunks {
    /// There is none: tiny, blob, or no base.
    None,
    /// All of it.
    Inline(Arc<[ChunkRef]>),
    /// Its pages in order, not loaded.
    Paged(Vec<PageRef>),
}

/// A stored extent page.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRef {
    pub ptr: Ptr,
    pub chunks: u64,
    pub cid: Hash,
}

/// A page of a new list.
pub(super) enum NewPage {
    /// As it stands in the base.
    Kept(PageRef),
    /// Changed, or new.
    Chunks(Vec<ChunkRef>),
}

impl BaseChunks {
    /// Loads the index of a content's chunk list.
    pub async fn load(src: &dyn NodeSource, content: &Content) -> Result<BaseChunks, TreeError> {
        let root = match content {
            Content::Chunks { chunks, .. } => return Ok(BaseChunks::Inline(chunks.clone())),
            Content::Paged { root, .. } => **root,
            Content::Tiny(_) | Content::Blob(_) | Content::Local(_) => return Ok(BaseChunks::None),
        };
        let mut pages = Vec::new();
        let mut open = vec![(root, LEVELS_MAX)];
        while let Some((ptr, below)) = open.pop() {
            if pages.len() as u64 > CHUNKS_MAX / EXTENT_PAGE_CHUNKS {
                return Err(wrong(&ptr));
            }
            match &*src.node(&ptr).await? {
                Node::Extent(page) => {
                    pages.push(PageRef {
                        ptr,
                        chunks: page.chunks.len() as u64,
                        cid: page_cid(page),
                    });
                }
                // The leaves are described here: they need not be opened.
                Node::Index(index) if index.level == 1 => {
                    for slot in &index.slots {
                        let cid = slot.page_cid.ok_or_else(|| wrong(&ptr))?;
                        pages.push(PageRef {
                            ptr: slot.ptr,
                            chunks: slot.count,
                            cid,
                        });
                    }
                }
                Node::Index(index) if index.level < below => {
                    open.extend(index.slots.iter().rev().map(|slot| (slot.ptr, index.level)));
                }
                Node::Index(_) | Node::Dir(_) | Node::Links(_) => return Err(wrong(&ptr)),
            }
        }
        Ok(BaseChunks::Paged(pages))
    }

    /// The stored page of this number, if the list has one.
    pub fn page(&self, number: u64) -> Option<PageRef> {
        match self {
            BaseChunks::Paged(pages) => pages.get(usize::try_from(number).ok()?).copied(),
            BaseChunks::None | BaseChunks::Inline(_) => None,
        }
    }

    /// The chunks of one page; empty past the end.
    pub async fn chunks(&self, src: &dyn NodeSource, number: u64) -> Result<Vec<ChunkRef>, TreeError> {
        match self {
            BaseChunks::None => Ok(Vec::new()),
            BaseChunks::Inline(chunks) if number == 0 => Ok(chunks.to_vec()),
            BaseChunks::Inline(_) => Ok(Vec::new()),
            BaseChunks::Paged(_) => match self.page(number) {
                None => Ok(Vec::new()),
                Some(page) => page_chunks(src, &page.ptr).await,
            },
        }
    }
}

/// The chunks of a stored page.
pub(super) async fn page_chunks(src: &dyn NodeSource, ptr: &Ptr) -> Result<Vec<ChunkRef>, TreeError> {
    match &*src.node(ptr).await? {
        Node::Extent(page) => Ok(page.chunks.clone()),
        _ => Err(wrong(ptr)),
    }
}

/// Makes the content of a file of chunks; pages go into `pack`, which may be the one that its chunks' blobs are in.
///
/// # Errors
/// The pack would exceed 64 MiB: more than a million chunks in one commit.
pub(super) fn content_of(
    size: u64,
    pages: Vec<NewPage>,
    pack: &mut PackBuilder,
) -> Result<Content, EncodeError> {
    if let [NewPage::Chunks(chunks)] = &pages[..]
        && chunks.len() as u64 <= CHUNKS_INLINE_MAX
    {
        let cid = chunks_cid(size, TIER, chunks);
        return Ok(Content::Chunks {
            tier: TIER,
            chunks: chunks[..].into(),
            cid,
        });
    }
    let mut stored = Vec::with_capacity(pages.len());
    for page in pages {
        stored.push(match page {
            NewPage::Kept(page) => page,
            NewPage::Chunks(chunks) => {
                let page = ExtentPage { chunks };
                let ptr = pack.add_node(&encode_extent_page(&page, false)?)?;
                PageRef {
                    ptr,
                    chunks: page.chunks.len() as u64,
                    cid: page_cid(&page),
                }
            }
        });
    }
    let cid = paged_cid(size, TIER, stored.iter().map(|page| page.cid));
    let slots = stored.iter().zip(0..).map(|(page, number)| IndexSlot {
        first_key: if number == 0 { Box::default() } else { key(number) },
        ptr: page.ptr,
        count: page.chunks,
        page_cid: Some(page.cid),
    });
    let mut slots: Vec<IndexSlot> = slots.collect();
    let mut level = 1;
    while slots.len() > 1 {
        let mut above = Vec::new();
        for some in slots.chunks(INDEX_SLOTS) {
            let mut children = some.to_vec();
            let first_key = std::mem::take(&mut children[0].first_key);
            let count = children.iter().map(|slot| slot.count).sum();
            let page = IndexPage {
                level,
                slots: children,
            };
            let ptr = pack.add_node(&encode_index_page(&page, false)?)?;
            above.push(IndexSlot {
                first_key,
                ptr,
                count,
                page_cid: None,
            });
        }
        slots = above;
        level += 1;
    }
    let root = slots
        .first()
        .map(|slot| slot.ptr)
        .ok_or(EncodeError::Invalid("a file of chunks has some"))?;
    Ok(Content::Paged {
        tier: TIER,
        root: Box::new(root),
        cid,
    })
}

/// Key of a page in the index.
fn key(number: u64) -> Box<[u8]> {
    Box::from((number * EXTENT_PAGE_CHUNKS).to_be_bytes())
}

fn wrong(ptr: &Ptr) -> TreeError {
    TreeError::Damaged {
        object: format!("node {} in pack {}", ptr.hash, ptr.pack.id),
        rule: "not a part of a chunk list".to_owned(),
    }
}
