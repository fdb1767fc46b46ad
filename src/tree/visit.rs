//! Going through everything that a tree refers to: for checking a volume, for marking what is alive, for sources.
//!
//! Every rule that one tree can be held to without reading contents is checked on the way:
//! 1. totals of each directory are the sum over its entries (so, by induction, they are true of the whole subtree);
//! 2. entries and inodes lie in the key range of their page, and are as many as the index says;
//! 3. levels of index pages go down one by one to the leaves;
//! 4. a chunk list has as many chunks as the file's size, its pages have the content ids that the index says, and all
//!    of it has the content's id;
//! 5. every name of an inode with several names finds it, and it has as many as it counts.
//!
//! What a visitor skips, because it has seen the node in another tree, is not held to 1 and 5.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::join_all;

use super::fetch::{self, FETCHES_MAX};
use super::totals::{plus, recount};
use super::{NodeSource, TreeError};
use crate::format::{IndexPage, IndexSlot, Node, page_cid, paged_cid};
use crate::model::{
    BlobRef, ChunkRef, Content, DirTree, EXTENT_PAGE_CHUNKS, Entry, EntryBody, Hash, LinkId, LinkInode,
    LinksTree, Name, Ptr, Totals, TreeRoot, VolPath, Xattrs, chunk_count, chunk_len,
};

/// Where in the tree something is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The directory itself.
    Dir(&'a VolPath),
    /// An entry of a directory.
    Entry(&'a VolPath, &'a Name),
    /// The links tree.
    Links,
    /// An inode of the links tree.
    Inode(&'a LinkId),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Dir(path) => write!(f, "{path}"),
            Place::Entry(dir, name) if dir.0.is_empty() => write!(f, "/{name}"),
            Place::Entry(dir, name) => write!(f, "{dir}/{name}"),
            Place::Links => f.write_str("inodes with several names"),
            Place::Inode(id) => write!(f, "inode {id}"),
        }
    }
}

/// Something that a tree refers to.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A node, before it is read. [`Visit::Skip`] leaves out all below it.
    Node(&'a Ptr),
    /// An entry, or an inode; before what it refers to, which [`Visit::Skip`] leaves out.
    Entry(&'a Entry),
    /// A chunk of a file, or its only blob, with its plain length in bytes. Holes do not come.
    Chunk(&'a ChunkRef, u64),
    /// A blob of extended attributes, with its plain length in bytes.
    Xattrs(&'a BlobRef, u64),
}

/// What a visitor wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// Go on, into this.
    Enter,
    /// Go on after this.
    Skip,
    /// End the walk.
    Stop,
}

/// Whom a walk shows what it finds.
pub trait Visitor: Send {
    /// Something that the tree refers to.
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit;

    /// Something that cannot be read or breaks a rule; all but [`Visit::Stop`] go on with the rest.
    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit;
}

/// Shows all of a tree to a visitor: directories before what they hold, at most [`FETCHES_MAX`] nodes being fetched at
/// a time. Nothing is shown twice because of the walk itself; what the tree names twice comes twice. Returns false when
/// the visitor stopped it.
pub async fn visit(src: &dyn NodeSource, root: &TreeRoot, visitor: &mut dyn Visitor) -> bool {
    let mut walk = Walk {
        src,
        visitor,
        dirs: Vec::new(),
        names: BTreeMap::new(),
        complete: true,
        all_names: true,
    };
    walk.all(root).await.is_ok()
}

/// The visitor wants no more.
struct Stopped;

/// A directory still to be gone through.
struct Dir {
    path: VolPath,
    tree: DirTree,
    totals: Totals,
}

struct Walk<'a> {
    src: &'a dyn NodeSource,
    visitor: &'a mut dyn Visitor,
    dirs: Vec<Dir>,
    /// Names seen of each inode with several.
    names: BTreeMap<LinkId, u64>,
    /// Nothing was skipped and all was readable of the directory, content or links tree at hand.
    complete: bool,
    /// The same of the names of all directories.
    all_names: bool,
}

/// A node that an index page names, and what must be true of it.
struct Page {
    ptr: Ptr,
    /// Level of the index page that names it.
    below: u8,
    /// Keys in it: from this one on, below the next one.
    from: Box<[u8]>,
    until: Option<Box<[u8]>>,
    /// Entries in it and below; not known of a root.
    count: Option<u64>,
    page_cid: Option<Hash>,
    /// The node, where it had to be read already to know that it is a leaf.
    node: Option<Arc<Node>>,
}

impl Page {
    fn holds(&self, key: &[u8]) -> bool {
        *key >= *self.from && self.until.as_ref().is_none_or(|until| *key < **until)
    }

    fn children(&self, page: &IndexPage) -> Vec<Page> {
        let child = |(at, slot): (usize, &IndexSlot)| Page {
            ptr: slot.ptr,
            below: page.level,
            from: if at == 0 {
                self.from.clone()
            } else {
                slot.first_key.clone()
            },
            until: page
                .slots
                .get(at + 1)
                .map(|next| next.first_key.clone())
                .or_else(|| self.until.clone()),
            count: Some(slot.count),
            page_cid: slot.page_cid,
            node: None,
        };
        page.slots.iter().enumerate().map(child).collect()
    }
}

impl Walk<'_> {
    async fn all(&mut self, root: &TreeRoot) -> Result<(), Stopped> {
        let path = VolPath::root();
        self.xattrs(Place::Dir(&path), &root.attrs.xattrs)?;
        self.dirs.push(Dir {
            path,
            tree: root.tree.clone(),
            totals: root.totals,
        });
        while !self.dirs.is_empty() {
            // Some directories at once, so that their nodes are fetched together; from the end, so that what waits
            // stays little.
            let mut batch = self.dirs.split_off(self.dirs.len().saturating_sub(FETCHES_MAX));
            batch.reverse();
            let stored = batch.iter().filter_map(|dir| match &dir.tree {
                DirTree::Stored { ptr, .. } => Some((Place::Dir(&dir.path), Self::root(*ptr))),
                _ => None,
            });
            let stored: Vec<(Place<'_>, Page)> = stored.collect();
            let mut nodes = self
                .read(stored.iter().map(|(place, page)| (*place, page)))
                .await?
                .into_iter();
            for dir in &batch {
                let node = match dir.tree {
                    DirTree::Stored { .. } => nodes.next().flatten(),
                    _ => None,
                };
                self.dir(dir, node).await?;
            }
        }
        self.links(&root.links).await
    }

    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Result<bool, Stopped> {
        match self.visitor.item(place, item) {
            Visit::Enter => Ok(true),
            Visit::Skip => {
                self.complete = false;
                Ok(false)
            }
            Visit::Stop => Err(Stopped),
        }
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Result<(), Stopped> {
        self.complete = false;
        match self.visitor.trouble(place, error) {
            Visit::Stop => Err(Stopped),
            Visit::Enter | Visit::Skip => Ok(()),
        }
    }

    fn require(&mut self, place: Place<'_>, holds: bool, rule: &str) -> Result<(), Stopped> {
        if holds {
            return Ok(());
        }
        self.trouble(
            place,
            TreeError::Damaged {
                object: place.to_string(),
                rule: rule.to_owned(),
            },
        )
    }

    // ---- nodes ----

    /// Reads pages that the visitor enters; `None` for the others. Callers give at most [`FETCHES_MAX`].
    async fn read<'p>(
        &mut self,
        pages: impl Iterator<Item = (Place<'p>, &'p Page)>,
    ) -> Result<Vec<Option<Arc<Node>>>, Stopped> {
        let pages: Vec<(Place<'p>, &'p Page)> = pages.collect();
        let mut wanted = Vec::with_capacity(pages.len());
        for (place, page) in &pages {
            let known = page.node.is_some();
            wanted.push(known || self.item(*place, Item::Node(&page.ptr))?);
        }
        let src = self.src;
        let fetches: Vec<_> = pages
            .iter()
            .zip(wanted)
            .map(|((_, page), wanted)| async move {
                match (&page.node, wanted) {
                    (Some(node), _) => Some(Ok(node.clone())),
                    (None, true) => Some(src.node(&page.ptr).await),
                    (None, false) => None,
                }
            })
            .collect();
        let mut nodes = Vec::with_capacity(pages.len());
        for ((place, _), fetched) in pages.iter().zip(join_all(fetches).await) {
            nodes.push(match fetched {
                None => None,
                Some(Ok(node)) => Some(node),
                Some(Err(error)) => {
                    self.trouble(*place, error)?;
                    None
                }
            });
        }
        Ok(nodes)
    }

    /// The leaves of a tree of pages, in order, without those below index pages that were skipped or unreadable.
    async fn leaves(&mut self, place: Place<'_>, mut root: Page) -> Result<Vec<Page>, Stopped> {
        let Some(node) = self.read([(place, &root)].into_iter()).await?.pop().flatten() else {
            return Ok(Vec::new());
        };
        let Node::Index(index) = &*node else {
            root.node = Some(node);
            return Ok(vec![root]);
        };
        let mut level = root.children(index);
        while level.first().is_some_and(|page| page.below > 1) {
            let mut next = Vec::new();
            for some in level.chunks(FETCHES_MAX) {
                for (page, node) in some
                    .iter()
                    .zip(self.read(some.iter().map(|page| (place, page))).await?)
                {
                    let Some(node) = node else { continue };
                    match fetch::index_page(&page.ptr, &node, Some(page.below)) {
                        Ok(index) => {
                            let sum = index
                                .slots
                                .iter()
                                .fold(0, |sum: u64, slot| sum.saturating_add(slot.count));
                            let rule = "an index page counts other than the one above it";
                            self.require(place, page.count.is_none_or(|count| count == sum), rule)?;
                            next.extend(page.children(&index));
                        }
                        Err(error) => self.trouble(place, error)?,
                    }
                }
            }
            level = next;
        }
        Ok(level)
    }

    fn root(ptr: Ptr) -> Page {
        Page {
            ptr,
            below: 0,
            from: Box::default(),
            until: None,
            count: None,
            page_cid: None,
            node: None,
        }
    }

    // ---- directories ----

    /// `node`: that of a stored directory, unless it was skipped or could not be read.
    async fn dir(&mut self, dir: &Dir, mut node: Option<Arc<Node>>) -> Result<(), Stopped> {
        let place = Place::Dir(&dir.path);
        let first = self.dirs.len();
        self.complete = true;
        let mut sum = Totals::default();
        // Parts of a directory that is being edited; a stored one is one part.
        let mut parts = vec![dir.tree.clone()];
        if matches!(dir.tree, DirTree::Stored { .. }) && node.is_none() {
            self.complete = false;
            parts.clear();
        }
        while let Some(part) = parts.pop() {
            match part {
                DirTree::Inline(page) => sum = plus(sum, self.entries(&dir.path, &page.entries).await?),
                DirTree::Pages(pages) => {
                    parts.extend(pages.slots.iter().rev().map(|slot| slot.child.clone()))
                }
                DirTree::Stored { ptr, .. } => {
                    let leaves = self
                        .leaves(
                            place,
                            Page {
                                node: node.take(),
                                ..Self::root(ptr)
                            },
                        )
                        .await?;
                    for some in leaves.chunks(FETCHES_MAX) {
                        for (page, node) in some
                            .iter()
                            .zip(self.read(some.iter().map(|page| (place, page))).await?)
                        {
                            let Some(node) = node else { continue };
                            match fetch::dir_page(&page.ptr, &node) {
                                Ok(leaf) => {
                                    let keys = leaf.entries.iter().map(|(name, _)| name.as_bytes());
                                    self.check_leaf(place, page, keys)?;
                                    sum = plus(sum, self.entries(&dir.path, &leaf.entries).await?);
                                }
                                Err(error) => self.trouble(place, error)?,
                            }
                        }
                    }
                }
            }
        }
        if self.complete {
            self.require(
                place,
                sum == dir.totals,
                "its totals are not the sum over its entries",
            )?;
        }
        self.all_names &= self.complete;
        // The next ones are taken from the end; paths are to come in order, as far as batches let them.
        self.dirs[first..].reverse();
        Ok(())
    }

    fn check_leaf<'k>(
        &mut self,
        place: Place<'_>,
        page: &Page,
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<(), Stopped> {
        let count = keys.len() as u64;
        self.require(
            place,
            page.count.is_none_or(|expected| expected == count),
            "a page has other than as many entries as its index page says",
        )?;
        let mut keys = keys;
        self.require(
            place,
            keys.all(|key| page.holds(key)),
            "an entry stands in a page that is not for its name",
        )
    }

    /// Shows entries of a directory and notes its subdirectories; gives what the entries count for.
    async fn entries(&mut self, dir: &VolPath, entries: &[(Name, Entry)]) -> Result<Totals, Stopped> {
        for (name, entry) in entries {
            let place = Place::Entry(dir, name);
            // What a visitor skips here is complete all the same: the entry says what it counts for.
            match self.visitor.item(place, Item::Entry(entry)) {
                Visit::Enter => {}
                Visit::Skip => {
                    self.all_names &= !entry.is_dir();
                    continue;
                }
                Visit::Stop => return Err(Stopped),
            }
            self.xattrs(place, &entry.attrs.xattrs)?;
            match &entry.body {
                EntryBody::File { size, content } => self.content(place, *size, content).await?,
                EntryBody::Dir { totals, tree } => {
                    self.dirs.push(Dir {
                        path: dir.join(name),
                        tree: tree.clone(),
                        totals: *totals,
                    });
                }
                EntryBody::HardLink(id) => *self.names.entry(*id).or_default() += 1,
                _ => {}
            }
        }
        Ok(recount(entries))
    }

    fn xattrs(&mut self, place: Place<'_>, xattrs: &Xattrs) -> Result<(), Stopped> {
        match xattrs {
            Xattrs::OutOfLine { blob, raw_len } => self.found(place, Item::Xattrs(blob, u64::from(*raw_len))),
            Xattrs::None | Xattrs::Inline(_) => Ok(()),
        }
    }

    /// Shows something that there is nothing below.
    fn found(&mut self, place: Place<'_>, item: Item<'_>) -> Result<(), Stopped> {
        match self.visitor.item(place, item) {
            Visit::Enter | Visit::Skip => Ok(()),
            Visit::Stop => Err(Stopped),
        }
    }

    // ---- contents ----

    async fn content(&mut self, place: Place<'_>, size: u64, content: &Content) -> Result<(), Stopped> {
        match content {
            Content::Tiny(_) | Content::Local(_) => Ok(()),
            Content::Blob(blob) => self.found(place, Item::Chunk(&ChunkRef::Packed(*blob), size)),
            Content::Chunks { chunks, .. } => self.chunks(place, size, 0, chunks),
            Content::Paged { root, tier, cid } => self.paged(place, size, *root, *tier, cid).await,
        }
    }

    fn chunks(
        &mut self,
        place: Place<'_>,
        size: u64,
        first: u64,
        chunks: &[ChunkRef],
    ) -> Result<(), Stopped> {
        for (index, chunk) in (first..).zip(chunks) {
            if !matches!(chunk, ChunkRef::Hole) {
                self.found(place, Item::Chunk(chunk, chunk_len(index, size)))?;
            }
        }
        Ok(())
    }

    async fn paged(
        &mut self,
        place: Place<'_>,
        size: u64,
        root: Ptr,
        tier: u8,
        cid: &Hash,
    ) -> Result<(), Stopped> {
        let before = std::mem::replace(&mut self.complete, true);
        let leaves = self.leaves(place, Self::root(root)).await?;
        let mut cids = Vec::with_capacity(leaves.len());
        let mut first = 0;
        for some in leaves.chunks(FETCHES_MAX) {
            for (page, node) in some
                .iter()
                .zip(self.read(some.iter().map(|page| (place, page))).await?)
            {
                match node.as_deref() {
                    Some(Node::Extent(extents)) => {
                        let cid = page_cid(extents);
                        let known = page.page_cid.is_none_or(|expected| expected == cid);
                        self.require(
                            place,
                            known,
                            "an extent page has not the content id that its index page says",
                        )?;
                        self.chunks(place, size, first, &extents.chunks)?;
                        cids.push(cid);
                    }
                    Some(_) => self.trouble(place, fetch::wrong_kind(&page.ptr))?,
                    None => {}
                }
                first += EXTENT_PAGE_CHUNKS;
            }
        }
        if self.complete {
            let count = chunk_count(size).div_ceil(EXTENT_PAGE_CHUNKS);
            self.require(
                place,
                cids.len() as u64 == count,
                "its chunks are not as many as its size needs",
            )?;
            self.require(
                place,
                paged_cid(size, tier, cids) == *cid,
                "its chunks have not its content id",
            )?;
        }
        // A skipped page of chunks says nothing about directories' totals.
        self.complete = before;
        Ok(())
    }

    // ---- inodes with several names ----

    async fn links(&mut self, links: &LinksTree) -> Result<(), Stopped> {
        self.complete = true;
        let mut inodes = BTreeMap::new();
        if let Some((root, _)) = links.stored {
            let leaves = self.leaves(Place::Links, Self::root(root)).await?;
            for some in leaves.chunks(FETCHES_MAX) {
                for (page, node) in some
                    .iter()
                    .zip(self.read(some.iter().map(|page| (Place::Links, page))).await?)
                {
                    match node.as_deref() {
                        Some(Node::Links(leaf)) => {
                            self.check_leaf(Place::Links, page, leaf.inodes.iter().map(|(id, _)| &id.0[..]))?;
                            inodes.extend(leaf.inodes.iter().cloned());
                        }
                        Some(_) => self.trouble(Place::Links, fetch::wrong_kind(&page.ptr))?,
                        None => {}
                    }
                }
            }
        }
        for (id, edit) in &links.edits {
            match edit {
                Some(inode) => inodes.insert(*id, inode.clone()),
                None => inodes.remove(id),
            };
        }
        let mut bytes = 0u64;
        for (id, LinkInode { nlink, entry }) in &inodes {
            let place = Place::Inode(id);
            if let EntryBody::File { size, .. } = &entry.body {
                bytes = bytes.saturating_add(*size);
            }
            if self.complete && self.all_names {
                let names = self.names.get(id).copied().unwrap_or_default();
                self.require(
                    place,
                    names == *nlink,
                    "it has other than as many names as it counts",
                )?;
            }
            match self.visitor.item(place, Item::Entry(entry)) {
                Visit::Enter => {}
                Visit::Skip => continue,
                Visit::Stop => return Err(Stopped),
            }
            self.xattrs(place, &entry.attrs.xattrs)?;
            if let EntryBody::File { size, content } = &entry.body {
                self.content(place, *size, content).await?;
            }
        }
        if self.complete {
            let counted = (inodes.len() as u64, bytes) == (links.count, links.bytes);
            self.require(
                Place::Links,
                counted,
                "their number or bytes are other than the super node says",
            )?;
        }
        if self.complete && self.all_names {
            let unknown = self.names.keys().filter(|id| !inodes.contains_key(id));
            for id in unknown.copied().collect::<Vec<_>>() {
                self.require(
                    Place::Inode(&id),
                    false,
                    "names refer to it, but the links tree does not hold it",
                )?;
            }
        }
        Ok(())
    }
}
