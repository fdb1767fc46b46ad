//! Which of its sources a view still needs (LOG.md 3): S grows by one with every commit amid others' and with every
//! `reload --keep`, and a lease has to name all of it.
//!
//! 1. A record is left out only when everything in the store that base and overlay refer to stands, at the same path and
//!    in the same object, in a record that stays. Objects of a record are kept together, so nothing has to be known of
//!    who wrote what.
//! 2. What cannot be told is kept: then nothing is left out.
//! 3. The cost follows the nodes of the base that only this machine has, and the records that are looked at; those come
//!    in the order in which few of them are likely to be enough.
//!
//! A first rule said which of the mount's own records may go by the paths they wrote. That is not enough for a directory
//! node that the base has in common with one of them alone, because another mount has changed the directory since.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::build::{Built, Contents, base_path};
use super::error::CommitError;
use crate::format::Node;
use crate::model::{
    BlobRef, Content, DirTree, Entry, EntryBody, LinkId, Name, Ptr, Seq, TreeRoot, VolPath, Xattrs,
};
use crate::overlay::{NodeId, Origin, OverlayState};
use crate::tree::{self, Item, NodeSource, Place, TreeError, Visit, Visitor};
use crate::volume::{Head, Volume, VolumeError};

/// The sources that are needed, sorted; the newest always is. `None`: all of them, as far as can be told. `base` is the
/// tree that `overlay` stands on.
///
/// # Errors
/// What the store says; a record that is not kept any more is an answer, not an error.
pub async fn needed_sources(
    volume: &Volume,
    head: &Head,
    src: &dyn NodeSource,
    base: &TreeRoot,
    overlay: &OverlayState,
) -> Result<Option<Vec<Seq>>, CommitError> {
    let sources = &overlay.base.sources;
    let Some(mut open) = references(src, base, overlay).await? else {
        return Ok(None);
    };
    // The newest has all that nobody else changed, the oldest (what the last reload brought) most of the rest.
    let ends = sources.last().into_iter().chain(sources.first());
    let between = sources.iter().rev().skip(1).take(sources.len().saturating_sub(2));
    let mut needed: BTreeSet<Seq> = sources.last().copied().into_iter().collect();
    for seq in ends.chain(between) {
        if open.is_empty() {
            break;
        }
        let record = match volume.record(head, *seq).await {
            Ok(record) => record,
            Err(VolumeError::NotKept { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let left = match not_in(src, &open, &record.record.root.root).await {
            Ok(left) => left,
            Err(TreeError::Expired { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if left.len() < open.len() {
            needed.insert(*seq);
            open = left;
        }
    }
    Ok(open.is_empty().then(|| needed.into_iter().collect()))
}

/// Contents of uploaded files as a base may name them that stays here after a merge. A merge that finds equal bytes takes
/// the other's, or (a file that was made anew with the bytes that it had, and that somebody else removed) none; what was
/// uploaded then hangs on no record, and collecting takes it. The same bytes stand in the result, or in the base before.
/// `None`: as they are.
pub(super) async fn held_contents(
    src: &dyn NodeSource,
    base: &TreeRoot,
    result: &TreeRoot,
    built: &Built,
    contents: &Contents,
) -> Result<Option<Contents>, TreeError> {
    let mut held = Vec::new();
    for (node, (size, content)) in contents {
        let (Some(_), Some(path)) = (stored(content), built.paths.get(node)) else {
            continue;
        };
        let found = match same_at(src, result, path, *size, content).await? {
            Some(found) => Some(found),
            None => same_at(src, base, path, *size, content).await?,
        };
        if let Some(found) = found.filter(|found| !is_same_place(content, found)) {
            held.push((*node, (*size, found)));
        }
    }
    if held.is_empty() {
        return Ok(None);
    }
    let mut all = contents.clone();
    all.extend(held);
    Ok(Some(all))
}

/// The content at a path, if it is the same bytes.
async fn same_at(
    src: &dyn NodeSource,
    root: &TreeRoot,
    path: &VolPath,
    size: u64,
    content: &Content,
) -> Result<Option<Content>, TreeError> {
    let Some(entry) = tree::walk(src, root, path).await? else {
        return Ok(None);
    };
    let entry = tree::inode_of(src, &root.links, entry).await?;
    Ok(match entry.body {
        EntryBody::File {
            size: other_size,
            content: other,
        } if other_size == size && other.same(content) => Some(other),
        _ => None,
    })
}

/// Something in the store, and where a tree refers to it.
#[derive(Clone, Debug)]
struct Reference {
    at: At,
    what: What,
}

#[derive(Clone, Debug)]
enum At {
    Dir(VolPath),
    Entry(VolPath, Name),
    Links,
    Inode(LinkId),
}

#[derive(Clone, Debug)]
enum What {
    /// A node, and with it all below.
    Node(Ptr),
    Content(Content),
    Xattrs(BlobRef),
}

/// What a base and the overlay on it refer to; nodes that are in the store count for all that is below them. `None` when
/// something has no place where a record could have it.
async fn references(
    src: &dyn NodeSource,
    base: &TreeRoot,
    overlay: &OverlayState,
) -> Result<Option<Vec<Reference>>, TreeError> {
    let mut of_base = References::default();
    tree::visit(src, base, &mut of_base).await;
    if let Some(error) = of_base.trouble {
        return Err(error);
    }
    let mut of_overlay = Vec::new();
    for (id, node) in &overlay.nodes {
        let content = node.body.as_file().and_then(|file| file.base.as_ref());
        let content = content
            .and_then(|(_, content)| stored(content))
            .map(What::Content);
        let attrs = [Some(&node.attrs), node.base_attrs.as_ref()];
        let xattrs = attrs
            .into_iter()
            .flatten()
            .filter_map(|attrs| Some(What::Xattrs(out_of_line(&attrs.xattrs)?)));
        let all: Vec<What> = content.into_iter().chain(xattrs).collect();
        if all.is_empty() {
            continue;
        }
        let Some(at) = origin(overlay, *id)? else {
            return Ok(None);
        };
        of_overlay.extend(all.into_iter().map(|what| Reference { at: at.clone(), what }));
    }
    let mut all = of_base.found;
    all.extend(not_in(src, &of_overlay, base).await?);
    Ok(Some(all))
}

/// Where the base has a node of the overlay.
fn origin(overlay: &OverlayState, id: NodeId) -> Result<Option<At>, TreeError> {
    if let Some(Origin::Link(link)) = overlay.node(id).and_then(|node| node.origin.as_ref()) {
        return Ok(Some(At::Inode(*link)));
    }
    let path = base_path(overlay, id)?;
    Ok(path.map(|path| match path.split_last() {
        Some((dir, name)) => At::Entry(dir, name.clone()),
        None => At::Dir(path),
    }))
}

fn out_of_line(xattrs: &Xattrs) -> Option<BlobRef> {
    match xattrs {
        Xattrs::OutOfLine { blob, .. } => Some(**blob),
        Xattrs::None | Xattrs::Inline(_) => None,
    }
}

fn stored(content: &Content) -> Option<Content> {
    match content {
        Content::Tiny(_) | Content::Local(_) => None,
        Content::Blob(_) | Content::Chunks { .. } | Content::Paged { .. } => Some(content.clone()),
    }
}

/// Collects what a tree refers to.
#[derive(Default)]
struct References {
    found: Vec<Reference>,
    trouble: Option<TreeError>,
}

impl Visitor for References {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        let (all, next) = match item {
            Item::Node(ptr) if ptr.pack.is_local() => return Visit::Enter,
            Item::Node(ptr) => (vec![What::Node(*ptr)], Visit::Skip),
            Item::Xattrs(blob, _) => (vec![What::Xattrs(*blob)], Visit::Enter),
            // Names of inodes are counted by the walk.
            Item::Entry(entry) if matches!(entry.body, EntryBody::Dir { .. } | EntryBody::HardLink(_)) => {
                return Visit::Enter;
            }
            Item::Entry(entry) => {
                let content = match &entry.body {
                    EntryBody::File { content, .. } => stored(content).map(What::Content),
                    _ => None,
                };
                let xattrs = out_of_line(&entry.attrs.xattrs).map(What::Xattrs);
                (content.into_iter().chain(xattrs).collect(), Visit::Skip)
            }
            // Files are taken as a whole, with their entries.
            Item::Chunk(..) => return Visit::Skip,
        };
        let at = match place {
            Place::Dir(path) => At::Dir(path.clone()),
            Place::Entry(dir, name) => At::Entry(dir.clone(), name.clone()),
            Place::Links => At::Links,
            Place::Inode(id) => At::Inode(*id),
        };
        let found = all.into_iter().map(|what| Reference { at: at.clone(), what });
        self.found.extend(found);
        next
    }

    fn trouble(&mut self, _: Place<'_>, error: TreeError) -> Visit {
        self.trouble = Some(error);
        Visit::Stop
    }
}

/// The references that a tree does not have at the same place.
async fn not_in(
    src: &dyn NodeSource,
    references: &[Reference],
    tree: &TreeRoot,
) -> Result<Vec<Reference>, TreeError> {
    let mut other = Other {
        src,
        tree,
        entries: HashMap::new(),
        nodes: HashMap::new(),
        link_nodes: None,
    };
    let mut left = Vec::new();
    for reference in references {
        if !other.has(reference).await? {
            left.push(reference.clone());
        }
    }
    Ok(left)
}

/// A tree that references are looked for in.
struct Other<'a> {
    src: &'a dyn NodeSource,
    tree: &'a TreeRoot,
    /// Directories by path; `None` where it has none.
    entries: HashMap<VolPath, Option<Entry>>,
    /// Nodes of directories, but for those of other directories below.
    nodes: HashMap<VolPath, HashSet<Ptr>>,
    link_nodes: Option<HashSet<Ptr>>,
}

impl Other<'_> {
    async fn has(&mut self, reference: &Reference) -> Result<bool, TreeError> {
        let entry = match (&reference.at, &reference.what) {
            (At::Dir(path), What::Node(ptr)) => return self.has_node(path, ptr).await,
            (At::Links, What::Node(ptr)) => return self.has_link_node(ptr).await,
            (At::Dir(path), _) => self.dir(path).await?,
            (At::Entry(dir, name), _) => match self.dir(dir).await?.as_ref().and_then(Entry::as_dir) {
                Some((_, tree)) => tree::lookup(self.src, tree, name.as_bytes()).await?,
                None => None,
            },
            (At::Inode(id), _) => {
                let inode = tree::link(self.src, &self.tree.links, id).await?;
                inode.map(|inode| inode.entry)
            }
            (At::Links, _) => None,
        };
        let Some(entry) = entry else { return Ok(false) };
        Ok(match &reference.what {
            What::Node(_) => false,
            What::Xattrs(blob) => out_of_line(&entry.attrs.xattrs) == Some(*blob),
            What::Content(content) => {
                matches!(&entry.body, EntryBody::File { content: other, .. } if is_same_place(content, other))
            }
        })
    }

    async fn dir(&mut self, path: &VolPath) -> Result<Option<Entry>, TreeError> {
        if let Some(known) = self.entries.get(path) {
            return Ok(known.clone());
        }
        let mut entry = Some(self.tree.as_entry());
        for depth in 1..=path.0.len() {
            let part = VolPath(path.0[..depth].to_vec());
            if let Some(known) = self.entries.get(&part) {
                entry = known.clone();
                continue;
            }
            entry = match entry.as_ref().and_then(Entry::as_dir) {
                Some((_, tree)) => tree::lookup(self.src, tree, path.0[depth - 1].as_bytes()).await?,
                None => None,
            };
            entry = entry.filter(Entry::is_dir);
            self.entries.insert(part, entry.clone());
        }
        Ok(entry)
    }

    async fn has_node(&mut self, path: &VolPath, ptr: &Ptr) -> Result<bool, TreeError> {
        if !self.nodes.contains_key(path) {
            let root = match self.dir(path).await?.as_ref().and_then(Entry::as_dir) {
                Some((_, DirTree::Stored { ptr, index })) => Some((**ptr, *index)),
                _ => None,
            };
            if root.is_some_and(|(root, _)| root == *ptr) {
                return Ok(true);
            }
            let all = pages(self.src, root).await?;
            self.nodes.insert(path.clone(), all);
        }
        Ok(self.nodes.get(path).is_some_and(|all| all.contains(ptr)))
    }

    async fn has_link_node(&mut self, ptr: &Ptr) -> Result<bool, TreeError> {
        let all = match self.link_nodes.take() {
            Some(all) => all,
            None => pages(self.src, self.tree.links.stored).await?,
        };
        let has = all.contains(ptr);
        self.link_nodes = Some(all);
        Ok(has)
    }
}

/// A tree of pages: the root (true: an index page) and what index pages name.
async fn pages(src: &dyn NodeSource, root: Option<(Ptr, bool)>) -> Result<HashSet<Ptr>, TreeError> {
    let mut all: HashSet<Ptr> = root.iter().map(|(ptr, _)| *ptr).collect();
    let mut open: Vec<Ptr> = root
        .iter()
        .filter(|(_, index)| *index)
        .map(|(ptr, _)| *ptr)
        .collect();
    while let Some(ptr) = open.pop() {
        if let Node::Index(index) = &*src.node(&ptr).await? {
            for slot in &index.slots {
                if all.insert(slot.ptr) && index.level > 1 {
                    open.push(slot.ptr);
                }
            }
        }
    }
    Ok(all)
}

/// The same bytes in the same objects.
fn is_same_place(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Blob(a), Content::Blob(b)) => a == b,
        (Content::Chunks { chunks: a, .. }, Content::Chunks { chunks: b, .. }) => a == b,
        (Content::Paged { root: a, .. }, Content::Paged { root: b, .. }) => a == b,
        _ => false,
    }
}
