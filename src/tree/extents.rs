//! Contents of files as lists of chunks: reading a list, and making the one form that a size has (SPEC.md 8).
//!
//! Extent pages hold fixed ranges of 1,024 chunks, and index pages above them fixed ranges of [`INDEX_PAGES`] extent
//! pages, so that equal files have equal pages and a rewritten chunk changes one of each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::fetch::{self, answer, child_of};
use super::store::{NodeWriter, write_index};
use super::{Missing, NodeSource, TreeError};
use crate::format::limits::LEVELS_MAX;
use crate::format::{ExtentPage, IndexSlot, Node, chunks_cid, page_cid, paged_cid};
use crate::model::{
    CHUNKS_INLINE_MAX, CHUNKS_MAX, ChunkRef, Content, EXTENT_PAGE_CHUNKS, ITEM_BYTES_MAX, Ptr,
    TINY_BYTES_MAX, chunk_count, chunk_len,
};

/// Extent pages under one index page: at up to 93 bytes each they fit the smallest usual page of 64 KiB.
const INDEX_PAGES: usize = 512;

/// Chunk `index` of a content of `size` bytes, over loaded nodes. A blob is its own single chunk. `None` past the end,
/// and for contents that have no chunks (tiny, local).
///
/// # Errors
/// The node that has to be fetched first.
pub fn chunk_at_loaded(
    src: &dyn NodeSource,
    content: &Content,
    size: u64,
    index: u64,
) -> Result<Option<ChunkRef>, Missing> {
    if index >= chunk_count(size) {
        return Ok(None);
    }
    let root = match content {
        Content::Tiny(_) | Content::Local(_) => return Ok(None),
        Content::Blob(blob) => return Ok((index == 0).then_some(ChunkRef::Packed(*blob))),
        Content::Chunks { chunks, .. } => {
            return Ok(usize::try_from(index).ok().and_then(|at| chunks.get(at).copied()));
        }
        Content::Paged { root, .. } => root,
    };
    let mut ptr = **root;
    let mut level = None;
    loop {
        let node = src.loaded(&ptr).ok_or(Missing(ptr))?;
        match &*node {
            Node::Extent(page) if level.is_none_or(|level| level == 1) => {
                return Ok(page.chunks.get((index % EXTENT_PAGE_CHUNKS) as usize).copied());
            }
            Node::Index(page) if level.is_none_or(|level| page.level + 1 == level) => {
                let slots = &page.slots;
                let Some(at) = child_of(slots.len(), &key(index), |at| &slots[at].first_key) else {
                    return Ok(None);
                };
                (ptr, level) = (slots[at].ptr, Some(page.level));
            }
            _ => return Err(Missing(ptr)),
        }
    }
}

/// Chunk `index` of a content of `size` bytes; `None` as in [`chunk_at_loaded`].
pub async fn chunk_at(
    src: &dyn NodeSource,
    content: &Content,
    size: u64,
    index: u64,
) -> Result<Option<ChunkRef>, TreeError> {
    answer(src, |loaded| chunk_at_loaded(loaded, content, size, index)).await
}

/// The chunks of a range of numbers, as far as the content goes; empty for contents that have none.
pub async fn chunks(
    src: &dyn NodeSource,
    content: &Content,
    size: u64,
    range: Range<u64>,
) -> Result<Vec<ChunkRef>, TreeError> {
    let end = range.end.min(chunk_count(size));
    let mut all = Vec::new();
    let mut at = range.start;
    let mut pages = ExtentPages::open(src, content, size).await?;
    while at < end {
        let Some(page) = pages.page(src, at / EXTENT_PAGE_CHUNKS).await? else {
            break;
        };
        let from = (at % EXTENT_PAGE_CHUNKS) as usize;
        let to = page.len().min(from.saturating_add((end - at) as usize));
        let Some(part) = page.get(from..to).filter(|part| !part.is_empty()) else {
            break;
        };
        all.extend_from_slice(part);
        at += part.len() as u64;
    }
    Ok(all)
}

/// The content of a file whose bytes are these: tiny or a blob.
///
/// # Errors
/// `Limit` from 4 MiB on: such a content is made of chunks.
pub async fn small_content(writer: &mut NodeWriter, bytes: &[u8]) -> Result<Content, TreeError> {
    if bytes.len() as u64 <= TINY_BYTES_MAX {
        return Ok(Content::Tiny(bytes.into()));
    }
    if bytes.len() as u64 >= ITEM_BYTES_MAX {
        return Err(TreeError::Limit {
            what: "bytes of a blob",
            limit: ITEM_BYTES_MAX - 1,
        });
    }
    Ok(Content::Blob(writer.add_blob(bytes).await?))
}

/// The content of a file of `size` bytes with all these chunks.
pub async fn chunked_content(
    writer: &mut NodeWriter,
    size: u64,
    chunks: &[ChunkRef],
) -> Result<Content, TreeError> {
    let changed = (0..).zip(chunks.iter().copied()).collect();
    edit_chunks(&Nothing, writer, None, size, &changed).await
}

/// The content of a file of `size` bytes: the chunks of `base` (size and content) with those in `changed` replaced.
/// Chunks that neither has are holes. Unchanged extent pages are not read and stay where they are.
///
/// # Errors
/// `Damaged` when the base's chunk of some number has another length in the new size (the last one of a file that
/// grows or shrinks) and is not among the changed ones; for a size below 4 MiB, which has no chunks; `Limit`; what
/// source and writer say.
pub async fn edit_chunks(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    base: Option<(u64, &Content)>,
    size: u64,
    changed: &BTreeMap<u64, ChunkRef>,
) -> Result<Content, TreeError> {
    if size < ITEM_BYTES_MAX {
        return Err(unfit("a file below 4 MiB is not made of chunks"));
    }
    let count = chunk_count(size);
    if count > CHUNKS_MAX {
        return Err(TreeError::Limit {
            what: "chunks of a file",
            limit: CHUNKS_MAX,
        });
    }
    let mut edit = Edit {
        base: BasePages::open(src, base).await?,
        size,
        changed,
    };
    if count <= CHUNKS_INLINE_MAX {
        let chunks = edit.page(src, 0).await?;
        let cid = chunks_cid(size, 0, &chunks);
        return Ok(Content::Chunks {
            tier: 0,
            chunks: chunks.into(),
            cid,
        });
    }
    let mut slots = Vec::new();
    for page in 0..count.div_ceil(EXTENT_PAGE_CHUNKS) {
        let slot = match edit.kept(page, writer) {
            Some(slot) => slot.clone(),
            None => {
                let page = ExtentPage {
                    chunks: edit.page(src, page).await?,
                };
                let (cid, count) = (page_cid(&page), page.chunks.len() as u64);
                let ptr = writer.add_node(&Node::Extent(Arc::new(page))).await?;
                IndexSlot {
                    first_key: Box::default(),
                    ptr,
                    count,
                    page_cid: Some(cid),
                }
            }
        };
        slots.push(IndexSlot {
            first_key: key(page * EXTENT_PAGE_CHUNKS).into(),
            ..slot
        });
    }
    let cid = paged_cid(size, 0, slots.iter().filter_map(|slot| slot.page_cid));
    let root = write_root(writer, slots, &edit.base.pages.indexes).await?;
    Ok(Content::Paged {
        tier: 0,
        root: Box::new(root),
        cid,
    })
}

/// The key of the extent page that holds a chunk, and of those below an index page.
fn key(chunk: u64) -> [u8; 8] {
    (chunk - chunk % EXTENT_PAGE_CHUNKS).to_be_bytes()
}

fn unfit(rule: &str) -> TreeError {
    TreeError::Damaged {
        object: "a content to be stored".to_owned(),
        rule: rule.to_owned(),
    }
}

/// Writes index pages over extent pages, but for those that the base has too.
async fn write_root(
    writer: &mut NodeWriter,
    mut slots: Vec<IndexSlot>,
    known: &[(Ptr, Vec<Ptr>)],
) -> Result<Ptr, TreeError> {
    let mut level = 0;
    while slots.len() > 1 {
        level += 1;
        let mut above = Vec::with_capacity(slots.len().div_ceil(INDEX_PAGES));
        for part in slots.chunks(INDEX_PAGES) {
            let first_key = part[0].first_key.clone();
            let children: Vec<Ptr> = part.iter().map(|slot| slot.ptr).collect();
            let count = part.iter().map(|slot| slot.count).sum();
            let slot = match known
                .iter()
                .find(|(ptr, of)| *of == children && writer.may_name(ptr))
            {
                Some((ptr, _)) => IndexSlot {
                    first_key: Box::default(),
                    ptr: *ptr,
                    count,
                    page_cid: None,
                },
                None => write_index(writer, level, part.to_vec()).await?,
            };
            above.push(IndexSlot { first_key, ..slot });
        }
        slots = above;
    }
    slots
        .pop()
        .map(|slot| slot.ptr)
        .ok_or_else(|| unfit("it has no chunks"))
}

/// The extent pages of a content: those of a paged one by pointer, others as the one page they would be.
#[derive(Default)]
struct ExtentPages {
    /// Chunks that stand in the entry.
    inline: Option<Arc<[ChunkRef]>>,
    /// Extent pages in order.
    slots: Vec<IndexSlot>,
    /// Index pages with what is directly below.
    indexes: Vec<(Ptr, Vec<Ptr>)>,
}

impl ExtentPages {
    /// Reads the index pages.
    async fn open(src: &dyn NodeSource, content: &Content, size: u64) -> Result<ExtentPages, TreeError> {
        let mut pages = ExtentPages::default();
        let root = match content {
            Content::Tiny(_) | Content::Local(_) => return Ok(pages),
            Content::Blob(blob) => {
                pages.inline = Some([ChunkRef::Packed(*blob)].into());
                return Ok(pages);
            }
            Content::Chunks { chunks, .. } => {
                pages.inline = Some(chunks.clone());
                return Ok(pages);
            }
            Content::Paged { root, .. } => root,
        };
        let count = chunk_count(size);
        // Pages of nothing but holes are equal, so one may stand several times; more than the size needs there are not.
        let pages_max = count.div_ceil(EXTENT_PAGE_CHUNKS);
        let mut rounds = 0;
        let mut level = vec![IndexSlot {
            first_key: Box::default(),
            ptr: **root,
            count,
            page_cid: None,
        }];
        // A root that is an extent page has no index entry that would know its cid; it is read and becomes one.
        loop {
            let ptrs: Vec<Ptr> = level
                .iter()
                .filter(|slot| slot.page_cid.is_none())
                .map(|slot| slot.ptr)
                .collect();
            if ptrs.is_empty() {
                break;
            }
            rounds += 1;
            if rounds > LEVELS_MAX || level.len() as u64 > pages_max {
                return Err(fetch::damaged(
                    root,
                    "a list of chunks has more pages than its size needs",
                ));
            }
            let mut nodes = fetch::nodes(src, &ptrs).await?.into_iter();
            let mut below = Vec::new();
            for mut slot in level {
                if slot.page_cid.is_some() {
                    below.push(slot);
                    continue;
                }
                let node = nodes.next().ok_or_else(|| fetch::wrong_kind(&slot.ptr))?;
                match &*node {
                    Node::Extent(page) => {
                        slot.page_cid = Some(page_cid(page));
                        slot.count = page.chunks.len() as u64;
                        below.push(slot);
                    }
                    Node::Index(page) => {
                        pages
                            .indexes
                            .push((slot.ptr, page.slots.iter().map(|slot| slot.ptr).collect()));
                        below.extend(page.slots.iter().cloned());
                    }
                    _ => return Err(fetch::wrong_kind(&slot.ptr)),
                }
            }
            level = below;
        }
        if level.len() as u64 > pages_max {
            return Err(fetch::damaged(
                root,
                "a list of chunks has more pages than its size needs",
            ));
        }
        pages.slots = level;
        Ok(pages)
    }

    /// The chunks of a page; `None` when there is no such page.
    async fn page(&mut self, src: &dyn NodeSource, page: u64) -> Result<Option<Arc<[ChunkRef]>>, TreeError> {
        if let Some(chunks) = &self.inline {
            return Ok((page == 0).then(|| chunks.clone()));
        }
        let Some(slot) = usize::try_from(page).ok().and_then(|page| self.slots.get(page)) else {
            return Ok(None);
        };
        match &*src.node(&slot.ptr).await? {
            Node::Extent(page) => Ok(Some(page.chunks.as_slice().into())),
            _ => Err(fetch::wrong_kind(&slot.ptr)),
        }
    }
}

/// The base of an edit.
struct BasePages {
    size: u64,
    pages: ExtentPages,
}

impl BasePages {
    async fn open(src: &dyn NodeSource, base: Option<(u64, &Content)>) -> Result<BasePages, TreeError> {
        match base {
            Some((size, content)) => Ok(BasePages {
                size,
                pages: ExtentPages::open(src, content, size).await?,
            }),
            None => Ok(BasePages {
                size: 0,
                pages: ExtentPages::default(),
            }),
        }
    }
}

struct Edit<'a> {
    base: BasePages,
    size: u64,
    changed: &'a BTreeMap<u64, ChunkRef>,
}

impl Edit<'_> {
    fn range(&self, page: u64) -> Range<u64> {
        let start = page * EXTENT_PAGE_CHUNKS;
        start..chunk_count(self.size).min(start + EXTENT_PAGE_CHUNKS)
    }

    /// The base's page, if it can stay.
    fn kept(&self, page: u64, writer: &NodeWriter) -> Option<&IndexSlot> {
        let slot = self.base.pages.slots.get(usize::try_from(page).ok()?)?;
        let range = self.range(page);
        let last = range.end - 1;
        let fits = writer.may_name(&slot.ptr)
            && slot.count == range.end - range.start
            && chunk_len(last, self.size) == chunk_len(last, self.base.size)
            && self.changed.range(range).next().is_none();
        fits.then_some(slot)
    }

    /// The chunks of a page.
    async fn page(&mut self, src: &dyn NodeSource, page: u64) -> Result<Vec<ChunkRef>, TreeError> {
        let range = self.range(page);
        let all_changed = self.changed.range(range.clone()).count() as u64 == range.end - range.start;
        let base = match all_changed {
            true => None,
            false => self.base.pages.page(src, page).await?,
        };
        let first = range.start;
        range
            .map(|index| {
                if let Some(chunk) = self.changed.get(&index) {
                    return Ok(*chunk);
                }
                let old = base.as_ref().and_then(|base| base.get((index - first) as usize));
                match old {
                    None if index >= chunk_count(self.base.size) => Ok(ChunkRef::Hole),
                    Some(ChunkRef::Hole) => Ok(ChunkRef::Hole),
                    Some(chunk) if chunk_len(index, self.size) == chunk_len(index, self.base.size) => {
                        Ok(*chunk)
                    }
                    _ => Err(unfit(
                        "a chunk changes its length, and its new bytes are not given",
                    )),
                }
            })
            .collect()
    }
}

/// The source for contents without a base: nothing is ever asked of it.
struct Nothing;

#[async_trait::async_trait]
impl NodeSource for Nothing {
    fn loaded(&self, _: &Ptr) -> Option<Arc<Node>> {
        None
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        Err(fetch::damaged(ptr, "a new content refers to a stored node"))
    }

    async fn blob(&self, blob: &crate::model::BlobRef, _: u64) -> Result<bytes::Bytes, TreeError> {
        Err(TreeError::Damaged {
            object: fetch::pack_key(&blob.pack),
            rule: "a new content refers to a stored blob".to_owned(),
        })
    }
}
