//! Storing directories, bottom up.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::PackIds;
use super::leaves::{Dirs, evict};
use super::links::store_links;
use super::paging::{Paged, Piece, store_pages};
use super::writer::{NodeWriter, WriterStats, Written, XattrBlobs, refused};
use crate::format::{
    EncodeError, ExtentPage, FinishedPack, IndexSlot, Node, dir_body_len, entry_len, nesting,
};
use crate::model::{
    Attrs, BlobRef, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, Name, PageSlot, Ptr, TreeRoot,
    XATTR_INLINE_BYTES_MAX, Xattrs, chunk_len,
};
use crate::tree::{NodeSource, TreeError, fetch};

/// Directories inside one another in a node, at most; a reader accepts 64.
const NESTING_STORED_MAX: usize = 32;

/// A stored tree.
#[derive(Debug)]
pub struct StoredTree {
    /// Ready to be encoded as a super node: all is `Stored`, but for the entries of `/` and what is inlined there when
    /// they fit. Names finished packs only.
    pub root: TreeRoot,
    /// Finished packs that no sink took.
    pub packs: Vec<FinishedPack>,
    /// What the writer's stand-ins mean, for values that share contents with the tree: see [`super::resolve_root`].
    pub ids: PackIds,
    /// Blobs of extended attributes that are stored, by their content.
    pub xattrs: XattrBlobs,
    /// Counts.
    pub stats: WriterStats,
}

/// Stores what is not stored of a tree, and finishes the writer's packs.
///
/// Reads only pages that join a neighbour, and nodes that exist on this machine only (which are written again unless the
/// writer may name them). Extended attributes over 1 KiB go into blobs.
///
/// # Errors
/// `Damaged` when a content is not uploaded yet; `Limit`; what source and sink say.
pub async fn store(
    src: &dyn NodeSource,
    root: &TreeRoot,
    mut writer: NodeWriter,
) -> Result<StoredTree, TreeError> {
    let attrs = store_attrs(src, &mut writer, root.attrs.clone()).await?;
    let tree = store_dir(src, &mut writer, &root.tree).await?;
    let links = store_links(src, &mut writer, &root.links).await?;
    let Written {
        packs,
        ids,
        stats,
        xattrs,
    } = writer.finish().await?;
    let root = TreeRoot {
        attrs,
        totals: root.totals,
        tree,
        links,
    };
    Ok(StoredTree {
        root: super::resolve_root(&root, &ids),
        packs,
        ids,
        xattrs,
        stats,
    })
}

/// Stores the directory tree of `/`, with a stack of its own: paths may be a thousand directories deep.
async fn store_dir(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    root: &DirTree,
) -> Result<DirTree, TreeError> {
    if !needs_storing(root, writer) {
        return Ok(root.clone());
    }
    let mut stack = vec![Frame::open(src, writer, root).await?];
    loop {
        let Some(frame) = stack.last_mut() else {
            return Ok(DirTree::empty());
        };
        if let Some(below) = frame.next(src, writer).await? {
            let frame = Frame::open(src, writer, &below).await?;
            stack.push(frame);
            continue;
        }
        let Some(frame) = stack.pop() else { continue };
        let stored = frame.close(src, writer, stack.is_empty()).await?;
        match stack.last_mut() {
            Some(above) => above.put(stored),
            None => return Ok(stored),
        }
    }
}

/// True for what is in memory, and for nodes of this machine that go to the remote volume.
fn needs_storing(tree: &DirTree, writer: &NodeWriter) -> bool {
    match tree {
        DirTree::Inline(_) | DirTree::Pages(_) => true,
        DirTree::Stored { ptr, .. } => is_foreign(ptr, writer),
    }
}

fn is_foreign(ptr: &Ptr, writer: &NodeWriter) -> bool {
    !writer.may_name(ptr)
}

/// A directory of which the entries are being stored one by one.
struct Frame {
    level: u8,
    /// Leaves stand here without their items, which are in `leaves`, in order.
    pieces: Vec<Piece<(Name, Entry)>>,
    leaves: Vec<Vec<(Name, Entry)>>,
    /// The entry to be looked at next: leaf, and number in it.
    at: (usize, usize),
}

impl Frame {
    async fn open(src: &dyn NodeSource, writer: &NodeWriter, tree: &DirTree) -> Result<Frame, TreeError> {
        let mut leaves = Vec::new();
        let piece = pieces(src, writer, (tree, None), Box::default(), 0, &mut leaves).await?;
        let (level, pieces) = match piece {
            Piece::Index { level, children, .. } => (level, children),
            one => (1, vec![one]),
        };
        Ok(Frame {
            level,
            pieces,
            leaves,
            at: (0, 0),
        })
    }

    /// Stores entries up to the next directory that has to be stored first; its stored form comes by [`Frame::put`].
    async fn next(
        &mut self,
        src: &dyn NodeSource,
        writer: &mut NodeWriter,
    ) -> Result<Option<DirTree>, TreeError> {
        while let Some(leaf) = self.leaves.get_mut(self.at.0) {
            let Some((_, entry)) = leaf.get_mut(self.at.1) else {
                self.at = (self.at.0 + 1, 0);
                continue;
            };
            store_entry(src, writer, entry).await?;
            if let EntryBody::Dir { tree, .. } = &entry.body
                && needs_storing(tree, writer)
            {
                return Ok(Some(tree.clone()));
            }
            self.at.1 += 1;
        }
        Ok(None)
    }

    fn put(&mut self, stored: DirTree) {
        if let Some((_, entry)) = self
            .leaves
            .get_mut(self.at.0)
            .and_then(|leaf| leaf.get_mut(self.at.1))
            && let EntryBody::Dir { tree, .. } = &mut entry.body
        {
            *tree = stored;
        }
        self.at.1 += 1;
    }

    /// The directory's form in its parent, or in the super node.
    async fn close(
        mut self,
        src: &dyn NodeSource,
        writer: &mut NodeWriter,
        is_root: bool,
    ) -> Result<DirTree, TreeError> {
        let mut leaves = self.leaves.into_iter();
        fill(&mut self.pieces, &mut leaves);
        let mut entries = match self.pieces.as_mut_slice() {
            [Piece::Leaf { items, .. }] => std::mem::take(items),
            _ => match store_pages::<Dirs>(src, writer, self.level, self.pieces).await? {
                Paged::Empty => return Ok(DirTree::empty()),
                Paged::Node { ptr, index } => {
                    return Ok(DirTree::stored(ptr, index));
                }
                Paged::OneLeaf(entries) => entries,
            },
        };
        make_fit(&mut entries, writer).await?;
        let page = DirPage { entries };
        let len = dir_body_len(&page);
        let params = *writer.params();
        let inline_max = if is_root {
            params.page_max
        } else {
            params.inline_max
        };
        if len <= inline_max && (is_root || nesting(&page) < NESTING_STORED_MAX) {
            return Ok(DirTree::Inline(Arc::new(page)));
        }
        if len <= params.page_max {
            let ptr = writer.add_node(&Node::Dir(Arc::new(page))).await?;
            return Ok(DirTree::stored(ptr, false));
        }
        let leaf = Piece::Leaf {
            first_key: Box::default(),
            items: page.entries,
        };
        match store_pages::<Dirs>(src, writer, 1, vec![leaf]).await? {
            Paged::Empty => Ok(DirTree::empty()),
            Paged::Node { ptr, index } => Ok(DirTree::stored(ptr, index)),
            Paged::OneLeaf(entries) => {
                let ptr = writer.add_node(&Node::Dir(Arc::new(DirPage { entries }))).await?;
                Ok(DirTree::stored(ptr, false))
            }
        }
    }
}

/// Turns a directory, or a page below an index page of a level, into pieces, loading nodes of this machine; items of
/// leaves go to `leaves`. Recursion as deep as
/// there are levels, at most 8.
fn pieces<'a>(
    src: &'a dyn NodeSource,
    writer: &'a NodeWriter,
    (tree, below): (&'a DirTree, Option<u8>),
    first_key: Box<[u8]>,
    count: u64,
    leaves: &'a mut Vec<Vec<(Name, Entry)>>,
) -> BoxFuture<'a, Result<Piece<(Name, Entry)>, TreeError>> {
    Box::pin(async move {
        if let DirTree::Stored { ptr, .. } = tree
            && !is_foreign(ptr, writer)
        {
            return Ok(Piece::Kept(IndexSlot {
                first_key,
                ptr: **ptr,
                count,
                page_cid: None,
            }));
        }
        match fetch::open(src, tree, below).await? {
            fetch::Opened::Leaf(page) => {
                leaves.push(page.entries.clone());
                Ok(Piece::Leaf {
                    first_key,
                    items: Vec::new(),
                })
            }
            fetch::Opened::Pages(pages_of) => {
                let mut children = Vec::with_capacity(pages_of.slots.len());
                let level = Some(pages_of.level);
                for PageSlot {
                    first_key,
                    count,
                    child,
                } in pages_of.slots.iter()
                {
                    children
                        .push(pieces(src, writer, (child, level), first_key.clone(), *count, leaves).await?);
                }
                Ok(Piece::Index {
                    first_key,
                    level: pages_of.level,
                    children,
                })
            }
        }
    })
}

/// Puts the items of leaves back in their places.
fn fill(pieces: &mut [Piece<(Name, Entry)>], leaves: &mut std::vec::IntoIter<Vec<(Name, Entry)>>) {
    for piece in pieces {
        match piece {
            Piece::Kept(_) => {}
            Piece::Leaf { items, .. } => *items = leaves.next().unwrap_or_default(),
            Piece::Index { children, .. } => fill(children, leaves),
        }
    }
}

/// Moves inlined children into nodes of their own when that makes the directory fit one page; the largest that do.
async fn make_fit(entries: &mut [(Name, Entry)], writer: &mut NodeWriter) -> Result<(), TreeError> {
    let params = *writer.params();
    let len: usize = entries.iter().map(|(name, entry)| entry_len(name, entry)).sum();
    if len <= params.page_max {
        return Ok(());
    }
    let inlined: Vec<usize> = entries
        .iter()
        .filter_map(|(_, entry)| match entry.as_dir() {
            Some((_, DirTree::Inline(page))) => Some(dir_body_len(page)),
            _ => None,
        })
        .collect();
    let mut over = params.inline_max / 2;
    while over >= EVICT_BYTES_MIN {
        let gain: usize = inlined
            .iter()
            .filter(|len| **len > over)
            .map(|len| len - EVICTED_BYTES)
            .sum();
        if len - gain <= params.page_max {
            return evict(entries, over, writer).await;
        }
        over /= 2;
    }
    Ok(())
}

/// Children up to this many bytes are not worth a node (SPEC.md 7.4).
const EVICT_BYTES_MIN: usize = 256;
/// About what the pointer to an evicted child takes.
const EVICTED_BYTES: usize = 48;

/// Makes what an entry refers to ready to be stored; a directory's tree is not looked at.
pub(super) async fn store_entry(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    entry: &mut Entry,
) -> Result<(), TreeError> {
    if xattrs_need_storing(&entry.attrs, writer) {
        entry.attrs = store_attrs(src, writer, entry.attrs.clone()).await?;
    }
    let EntryBody::File { size, content } = &mut entry.body else {
        return Ok(());
    };
    match content {
        Content::Blob(blob) if is_foreign_blob(blob, writer) => {
            *blob = move_blob(src, writer, blob, *size).await?;
        }
        Content::Chunks { chunks, .. } if chunks.iter().any(|chunk| is_foreign_chunk(chunk, writer)) => {
            let moved = move_chunks(src, writer, chunks, 0, *size).await?;
            *chunks = moved.into();
        }
        Content::Paged { root, .. } if is_foreign(root, writer) => {
            **root = move_extents(src, writer, **root, *size, 0).await?;
        }
        Content::Local(_) => return Err(refused(EncodeError::LocalContent)),
        _ => {}
    }
    Ok(())
}

fn is_foreign_blob(blob: &BlobRef, writer: &NodeWriter) -> bool {
    !writer.may_name_pack(&blob.pack)
}

fn is_foreign_chunk(chunk: &ChunkRef, writer: &NodeWriter) -> bool {
    matches!(chunk, ChunkRef::Packed(blob) if is_foreign_blob(blob, writer))
}

async fn move_blob(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    blob: &BlobRef,
    raw_len: u64,
) -> Result<BlobRef, TreeError> {
    let plain = src.blob(blob, raw_len).await?;
    writer.add_blob(&plain).await
}

/// Chunks of a file of `size` bytes, from number `first` on, with those in packs of this machine written again.
async fn move_chunks(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    chunks: &[ChunkRef],
    first: u64,
    size: u64,
) -> Result<Vec<ChunkRef>, TreeError> {
    let mut moved = Vec::with_capacity(chunks.len());
    for (index, chunk) in (first..).zip(chunks) {
        moved.push(match chunk {
            ChunkRef::Packed(blob) if is_foreign_blob(blob, writer) => {
                ChunkRef::Packed(move_blob(src, writer, blob, chunk_len(index, size)).await?)
            }
            other => *other,
        });
    }
    Ok(moved)
}

/// Writes extent and index pages of this machine again; `first` is the number of the first chunk below. Recursion as
/// deep as there are levels.
fn move_extents<'a>(
    src: &'a dyn NodeSource,
    writer: &'a mut NodeWriter,
    ptr: Ptr,
    size: u64,
    first: u64,
) -> BoxFuture<'a, Result<Ptr, TreeError>> {
    Box::pin(async move {
        let node = match &*src.node(&ptr).await? {
            Node::Extent(page) => {
                let chunks = move_chunks(src, writer, &page.chunks, first, size).await?;
                Node::Extent(Arc::new(ExtentPage { chunks }))
            }
            Node::Index(page) => {
                let mut page = page.as_ref().clone();
                let mut at = first;
                for slot in &mut page.slots {
                    if is_foreign(&slot.ptr, writer) {
                        slot.ptr = move_extents(src, writer, slot.ptr, size, at).await?;
                    }
                    at = at.saturating_add(slot.count);
                }
                Node::Index(Arc::new(page))
            }
            _ => return Err(fetch::wrong_kind(&ptr)),
        };
        writer.add_node(&node).await
    })
}

fn xattrs_need_storing(attrs: &Attrs, writer: &NodeWriter) -> bool {
    match &attrs.xattrs {
        Xattrs::None => false,
        Xattrs::Inline(map) => Xattrs::map_bytes(map) > XATTR_INLINE_BYTES_MAX,
        Xattrs::OutOfLine { blob, .. } => is_foreign_blob(blob, writer),
    }
}

/// Attributes with large xattrs out of line.
async fn store_attrs(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    mut attrs: Attrs,
) -> Result<Attrs, TreeError> {
    if !xattrs_need_storing(&attrs, writer) {
        return Ok(attrs);
    }
    match &mut attrs.xattrs {
        Xattrs::None => {}
        Xattrs::Inline(map) if !writer.moves_xattrs(map)? => {}
        Xattrs::Inline(map) => {
            let (blob, raw_len) = writer.add_xattrs(map).await?;
            attrs.xattrs = Xattrs::OutOfLine {
                blob: Box::new(blob),
                raw_len,
            };
        }
        Xattrs::OutOfLine { blob, raw_len } => {
            **blob = move_blob(src, writer, blob, u64::from(*raw_len)).await?;
        }
    }
    Ok(attrs)
}
