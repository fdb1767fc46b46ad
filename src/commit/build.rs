//! From an overlay to a tree: base plus changes give M (LOG.md 4, step 3). The cost follows the dirty names.
//!
//! 1. Only nodes that can be reached from the root through changes are in M; what hangs nowhere (unlinked and still
//!    open) is not.
//! 2. A directory that is here only because something below it changed keeps its stored pages where they are.
//! 3. Moves are *net*: where an entry of the base is now, whatever happened in between, and only the outermost ones
//!    (MERGE.md).

use std::collections::{HashMap, HashSet};

use crate::model::{
    Attrs, Content, DirTree, Entry, EntryBody, Kind, LinkId, LinkInode, Name, Totals, TreeRoot, VolPath,
};
use crate::overlay::{Change, NodeBody, NodeId, Origin, OverlayNode, OverlayState, ROOT_NODE};
use crate::tree::{self, Hint, NodeSource, TreeError};

/// What files contain, as far as the overlay does not say it itself: for each file with a body its size and either
/// [`Content::Local`] or what was uploaded.
pub type Contents = HashMap<NodeId, (u64, Content)>;

/// A tree made of base and overlay, not stored yet.
#[derive(Clone, Debug)]
pub struct Built {
    /// M.
    pub tree: TreeRoot,
    /// Net moves of files and directories, as hints for the merge.
    pub moves: Vec<Hint>,
    /// Where each reachable node of the overlay is in M; of inodes with several names one of them.
    pub paths: HashMap<NodeId, VolPath>,
}

/// Makes M.
///
/// # Errors
/// What the source says; [`TreeError::Damaged`] when the overlay names an entry that the base does not have, or has a
/// dirty file that `contents` does not know: the state directory does not belong to this base.
pub async fn build(
    src: &dyn NodeSource,
    base: &TreeRoot,
    overlay: &OverlayState,
    contents: &Contents,
) -> Result<Built, TreeError> {
    let order = reachable(overlay)?;
    let mut bases = Bases::new(src, base, overlay);
    let mut built: HashMap<NodeId, (Totals, DirTree)> = HashMap::new();
    // Children before parents.
    for (id, _) in order.dirs.iter().rev() {
        let node = node_of(overlay, *id)?;
        let NodeBody::Dir(dir) = &node.body else {
            continue;
        };
        let (totals, tree) = bases.dir(*id).await?;
        let mut edits: Vec<(Name, Option<Entry>)> = Vec::with_capacity(dir.changes.len());
        for (name, change) in &dir.changes {
            let entry = match change {
                Change::Whiteout(_) => None,
                Change::Node { id: child, .. } => {
                    Some(entry_of(*child, node_of(overlay, *child)?, contents, &mut built)?)
                }
            };
            edits.push((name.clone(), entry));
        }
        let (tree, totals) = tree::edit_dir_entry(src, &tree, &totals, edits).await?;
        built.insert(*id, (totals, tree));
    }
    let root = node_of(overlay, ROOT_NODE)?;
    let (totals, tree) = built
        .remove(&ROOT_NODE)
        .ok_or_else(|| foreign("the root is not there"))?;
    let links = link_edits(overlay, contents)?;
    let links = tree::edit_links(src, &base.links, links).await?;
    let moves = net_moves(overlay, &order.paths)?;
    Ok(Built {
        tree: TreeRoot {
            attrs: root.attrs.clone(),
            totals,
            tree,
            links,
        },
        moves,
        paths: order.paths,
    })
}

/// Nodes that hang in the tree.
pub(super) struct Reachable {
    /// Directories, parents before children, in name order.
    pub dirs: Vec<(NodeId, VolPath)>,
    /// Every node with its path.
    pub paths: HashMap<NodeId, VolPath>,
}

/// Walks the overlay from the root.
pub(super) fn reachable(overlay: &OverlayState) -> Result<Reachable, TreeError> {
    let mut dirs = Vec::new();
    let mut paths = HashMap::new();
    let mut stack = vec![(ROOT_NODE, VolPath::root())];
    let mut seen = HashSet::new();
    while let Some((id, path)) = stack.pop() {
        let node = node_of(overlay, id)?;
        if let NodeBody::Dir(dir) = &node.body {
            if !seen.insert(id) {
                return Err(foreign("a directory has two names"));
            }
            for (name, change) in dir.changes.iter().rev() {
                if let Change::Node { id: child, .. } = change {
                    stack.push((*child, path.join(name)));
                }
            }
            dirs.push((id, path.clone()));
        }
        paths.entry(id).or_insert(path);
    }
    Ok(Reachable { dirs, paths })
}

/// Entries of the base that the overlay's nodes stand for, looked up once each.
struct Bases<'a> {
    src: &'a dyn NodeSource,
    overlay: &'a OverlayState,
    found: HashMap<NodeId, (Totals, DirTree)>,
}

impl<'a> Bases<'a> {
    fn new(src: &'a dyn NodeSource, base: &TreeRoot, overlay: &'a OverlayState) -> Bases<'a> {
        Bases {
            src,
            overlay,
            found: HashMap::from([(ROOT_NODE, (base.totals, base.tree.clone()))]),
        }
    }

    /// What directory `id` was in the base; empty for one that was made here.
    async fn dir(&mut self, id: NodeId) -> Result<(Totals, DirTree), TreeError> {
        let mut chain = Vec::new();
        let mut at = id;
        while !self.found.contains_key(&at) {
            match &node_of(self.overlay, at)?.origin {
                Some(Origin::Entry { parent, name }) => {
                    chain.push((at, *parent, name.clone()));
                    at = *parent;
                }
                None => {
                    self.found.insert(at, (Totals::default(), DirTree::empty()));
                }
                Some(Origin::Root | Origin::Link(_)) => {
                    return Err(foreign("a directory of an impossible origin"));
                }
            }
        }
        for (child, parent, name) in chain.into_iter().rev() {
            let (_, tree) = &self.found[&parent];
            let entry = tree::lookup(self.src, tree, name.as_bytes()).await?;
            let Some((totals, tree)) = entry.as_ref().and_then(Entry::as_dir) else {
                return Err(foreign("a directory that was adopted is not in the base"));
            };
            self.found.insert(child, (*totals, tree.clone()));
        }
        Ok(self.found[&id].clone())
    }
}

/// Size and content that these files have in the base, as far as they come from there.
///
/// # Errors
/// As [`build`].
pub async fn base_files(
    src: &dyn NodeSource,
    base: &TreeRoot,
    overlay: &OverlayState,
    ids: &[NodeId],
) -> Result<Vec<(NodeId, (u64, Content))>, TreeError> {
    let mut bases = Bases::new(src, base, overlay);
    let mut files = Vec::new();
    for id in ids {
        let entry = match &node_of(overlay, *id)?.origin {
            Some(Origin::Entry { parent, name }) => {
                let (_, tree) = bases.dir(*parent).await?;
                tree::lookup(src, &tree, name.as_bytes()).await?
            }
            Some(Origin::Link(link)) => tree::link(src, &base.links, link).await?.map(|inode| inode.entry),
            Some(Origin::Root) | None => None,
        };
        if let Some(EntryBody::File { size, content }) = entry.map(|entry| entry.body) {
            files.push((*id, (size, content)));
        }
    }
    Ok(files)
}

/// The base path of an adopted entry.
pub(super) fn base_path(overlay: &OverlayState, id: NodeId) -> Result<Option<VolPath>, TreeError> {
    let mut names = Vec::new();
    let mut at = id;
    loop {
        match &node_of(overlay, at)?.origin {
            Some(Origin::Entry { parent, name }) => {
                names.push(name.clone());
                at = *parent;
            }
            Some(Origin::Root) => break,
            Some(Origin::Link(_)) | None => return Ok(None),
        }
        if names.len() > crate::model::PATH_DEPTH_MAX {
            return Err(foreign("origins go in a circle"));
        }
    }
    names.reverse();
    Ok(Some(VolPath(names)))
}

/// Outermost (path in base, path in M) of every file and directory that is not where it was.
fn net_moves(overlay: &OverlayState, paths: &HashMap<NodeId, VolPath>) -> Result<Vec<Hint>, TreeError> {
    let mut moves = Vec::new();
    for (id, to) in paths {
        let node = node_of(overlay, *id)?;
        let (Some(Origin::Entry { parent, name }), [(now, now_name)]) = (&node.origin, &node.names[..])
        else {
            continue;
        };
        let in_place = now == parent && now_name == name;
        if in_place || node.link.is_some() || !matches!(node.kind(), Kind::File | Kind::Dir) {
            continue;
        }
        if let Some(from) = base_path(overlay, *id)? {
            moves.push((from, to.clone()));
        }
    }
    moves.sort();
    Ok(moves)
}

/// The entry that a name of this node is.
fn entry_of(
    id: NodeId,
    node: &OverlayNode,
    contents: &Contents,
    built: &mut HashMap<NodeId, (Totals, DirTree)>,
) -> Result<Entry, TreeError> {
    if let Some(link) = link_of(node) {
        return Ok(Entry {
            attrs: Attrs::default(),
            body: EntryBody::HardLink(link),
        });
    }
    if let NodeBody::Dir(_) = &node.body {
        let (totals, tree) = built
            .remove(&id)
            .ok_or_else(|| foreign("a directory is not reachable"))?;
        return Ok(Entry {
            attrs: node.attrs.clone(),
            body: EntryBody::Dir { totals, tree },
        });
    }
    inode_entry(id, node, contents)
}

/// Its identity in the links tree, if it lives there.
fn link_of(node: &OverlayNode) -> Option<LinkId> {
    match (&node.link, &node.origin) {
        (Some(link), _) | (None, Some(Origin::Link(link))) => Some(*link),
        _ => None,
    }
}

/// An inode that is no directory.
fn inode_entry(id: NodeId, node: &OverlayNode, contents: &Contents) -> Result<Entry, TreeError> {
    let body = match &node.body {
        NodeBody::Dir(_) => return Err(foreign("a directory with several names")),
        NodeBody::File(file) => {
            let (size, content) = match (contents.get(&id), &file.base, file.dirty) {
                (Some((size, content)), _, _) => (*size, content.clone()),
                (None, Some((size, content)), false) => (*size, content.clone()),
                (None, None, false) => (0, Content::empty()),
                (None, _, true) => return Err(foreign("a dirty file without known content")),
            };
            EntryBody::File { size, content }
        }
        NodeBody::Symlink(_)
        | NodeBody::Fifo
        | NodeBody::Socket
        | NodeBody::CharDev(..)
        | NodeBody::BlockDev(..) => node.body.plain_entry(),
    };
    Ok(Entry {
        attrs: node.attrs.clone(),
        body,
    })
}

/// What changes in the links tree.
fn link_edits(
    overlay: &OverlayState,
    contents: &Contents,
) -> Result<Vec<(LinkId, Option<LinkInode>)>, TreeError> {
    let mut edits = Vec::new();
    for (id, node) in &overlay.nodes {
        let Some(link) = link_of(node) else { continue };
        let in_base = matches!(node.origin, Some(Origin::Link(_)));
        let inode = match node.nlink {
            0 if !in_base => continue,
            0 => None,
            nlink => Some(LinkInode {
                nlink,
                entry: inode_entry(*id, node, contents)?,
            }),
        };
        edits.push((link, inode));
    }
    Ok(edits)
}

/// A node that must be there.
pub(super) fn node_of(overlay: &OverlayState, id: NodeId) -> Result<&OverlayNode, TreeError> {
    overlay
        .nodes
        .get(&id)
        .map(|node| &**node)
        .ok_or_else(|| foreign("a node is named but not there"))
}

/// The overlay and the base do not fit together.
pub(super) fn foreign(rule: &str) -> TreeError {
    TreeError::Damaged {
        object: "overlay in the state directory".to_owned(),
        rule: rule.to_owned(),
    }
}
