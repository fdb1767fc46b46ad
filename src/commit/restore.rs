//! From a tree to an overlay: the inverse of [`super::build`]. Given the tree H that the view moves to and the tree R
//! that it shall show, makes the overlay that turns the one into the other. It serves `reload --keep`, stash restore
//! and taking up a parked overlay (LOG.md 3, MERGE.md).
//!
//! 1. `build(restore(H, R)) == R`, and nodes whose bytes are local keep their numbers, bodies and marks.
//! 2. Entries that a used hint moved are the entries of H, adopted and renamed: never copied name by name, and they
//!    stay hints against H.
//! 3. The cost follows what differs between H and R: equal pointers are not opened.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::build::{Contents, build, foreign};
use crate::model::{
    Attrs, Content, DirTree, Entry, EntryBody, Kind, LinkId, LinkInode, LocalContent, Name, TreeRoot, VolPath,
};
use crate::overlay::{
    BaseRef, Change, DirChanges, FileState, NodeBody, NodeId, Origin, OverlayNode, OverlayState, ROOT_NODE,
};
use crate::tree::{self, Hint, NodeSource, TreeError};

/// What [`restore`] starts from.
#[derive(Debug)]
pub struct Target<'a> {
    /// H: the base of the new overlay.
    pub head: &'a TreeRoot,
    /// Its reference, sources included.
    pub base: BaseRef,
    /// R: what base and overlay together shall be.
    pub result: &'a TreeRoot,
    /// Moves from H to R that a merge used; the paths `from` are in H, the paths `to` in R.
    pub moves: &'a [Hint],
    /// The mount's overlay up to now: numbers go on from it, and its files are found in it.
    pub live: &'a OverlayState,
    /// Other overlays (stashes) whose files R may name.
    pub others: &'a [&'a OverlayState],
}

/// Makes the overlay.
///
/// # Errors
/// What the source says; [`TreeError::Damaged`] when R names local content that no given overlay has, or one content
/// at two places.
pub async fn restore(src: &dyn NodeSource, target: Target<'_>) -> Result<OverlayState, TreeError> {
    let mut work = Restoring::new(src, &target);
    work.root();
    while let Some(pair) = work.pending.pop() {
        work.sync(pair).await?;
    }
    work.links().await?;
    let Restoring {
        nodes,
        next_node,
        generation,
        ..
    } = work;
    let nodes = nodes.into_iter().map(|(id, node)| (id, Arc::new(node))).collect();
    let mut state = OverlayState::from_nodes(target.live, target.base.clone(), nodes);
    state.next_node = state.next_node.max(next_node);
    state.generation = state.generation.max(generation);
    Ok(state)
}

/// Local changes on another base.
#[derive(Clone, Debug)]
pub struct CarriedOver {
    /// The overlay on the new base.
    pub overlay: OverlayState,
    /// Changes of the new base that went under, which the mount had not seen.
    pub overwritten: Vec<tree::Overwritten>,
}

/// Puts the changes of an overlay on top of another tree: `reload --keep`, and taking up an overlay whose base the
/// volume does not keep any more. `base` is the tree that `overlay` stands on, `onto` the new one; `contents` holds the
/// files with bodies as [`Content::Local`]. The sources become S and that of the new base; without local changes those
/// of the new base alone (LOG.md 3).
///
/// # Errors
/// As [`restore`] and [`tree::merge`].
pub async fn carry_over(
    src: &dyn NodeSource,
    base: &TreeRoot,
    overlay: &OverlayState,
    contents: &Contents,
    onto: &TreeRoot,
    mut onto_ref: BaseRef,
) -> Result<CarriedOver, TreeError> {
    if overlay.is_clean() {
        let overlay = OverlayState::succeeding(overlay, onto_ref, onto.attrs.clone());
        return Ok(CarriedOver {
            overlay,
            overwritten: Vec::new(),
        });
    }
    let built = build(src, base, overlay, contents).await?;
    let merged = tree::merge(src, base, onto, &built.tree, &built.moves).await?;
    onto_ref.sources.extend_from_slice(&overlay.base.sources);
    onto_ref.sources.sort_unstable();
    onto_ref.sources.dedup();
    let target = Target {
        head: onto,
        base: onto_ref,
        result: &merged.root,
        moves: &merged.used_hints,
        live: overlay,
        others: &[],
    };
    let overlay = restore(src, target).await?;
    Ok(CarriedOver {
        overlay,
        overwritten: merged.overwritten,
    })
}

/// A directory of the new overlay that is still to be compared.
struct Pair {
    node: NodeId,
    /// Its entries in H, and its path there; `None`: made here.
    head: Option<(VolPath, DirTree)>,
    result: DirTree,
    path: VolPath,
}

/// An entry of H that an entry of R is compared with.
struct Counterpart {
    entry: Entry,
    path: VolPath,
    parent: NodeId,
    name: Name,
}

struct Restoring<'a> {
    src: &'a dyn NodeSource,
    target: &'a Target<'a>,
    nodes: HashMap<NodeId, OverlayNode>,
    /// Adopted directories by their path in H.
    adopted: HashMap<VolPath, NodeId>,
    /// Inodes of the links tree.
    links: HashMap<LinkId, NodeId>,
    pending: Vec<Pair>,
    /// Sources of used moves by directory, in H.
    gone: HashMap<VolPath, HashSet<Name>>,
    /// Targets of used moves by directory, in R; each with its source.
    come: HashMap<VolPath, HashMap<Name, VolPath>>,
    /// Numbers of earlier nodes that were given away.
    taken: HashSet<NodeId>,
    next_node: NodeId,
    generation: u64,
}

impl<'a> Restoring<'a> {
    fn new(src: &'a dyn NodeSource, target: &'a Target<'a>) -> Restoring<'a> {
        let mut gone: HashMap<VolPath, HashSet<Name>> = HashMap::new();
        let mut come: HashMap<VolPath, HashMap<Name, VolPath>> = HashMap::new();
        for (from, to) in target.moves {
            if let (Some((from_dir, from_name)), Some((to_dir, to_name))) =
                (from.split_last(), to.split_last())
            {
                gone.entry(from_dir).or_default().insert(from_name.clone());
                come.entry(to_dir)
                    .or_default()
                    .insert(to_name.clone(), from.clone());
            }
        }
        let others = target.others.iter().map(|other| other.next_node).max();
        Restoring {
            src,
            target,
            nodes: HashMap::new(),
            adopted: HashMap::new(),
            links: HashMap::new(),
            pending: Vec::new(),
            gone,
            come,
            taken: HashSet::new(),
            next_node: target.live.next_node.max(others.unwrap_or(0)),
            generation: target.live.generation + 1,
        }
    }

    fn root(&mut self) {
        let (head, result) = (self.target.head, self.target.result);
        let node = OverlayNode {
            generation: self.generation,
            origin: Some(Origin::Root),
            names: Vec::new(),
            nlink: 1,
            link: None,
            attrs: result.attrs.clone(),
            base_attrs: Some(head.attrs.clone()),
            body: NodeBody::Dir(DirChanges::default()),
        };
        self.nodes.insert(ROOT_NODE, node);
        self.adopted.insert(VolPath::root(), ROOT_NODE);
        self.pending.push(Pair {
            node: ROOT_NODE,
            head: Some((VolPath::root(), head.tree.clone())),
            result: result.tree.clone(),
            path: VolPath::root(),
        });
    }

    /// Fills in the changes of one directory.
    async fn sync(&mut self, pair: Pair) -> Result<(), TreeError> {
        let empty = DirTree::empty();
        let head_tree = pair.head.as_ref().map_or(&empty, |(_, tree)| tree);
        let mut names: BTreeMap<Name, (Option<Entry>, Option<Entry>)> =
            tree::diff_dirs(self.src, head_tree, &pair.result)
                .await?
                .into_iter()
                .map(|(name, h, r)| (name, (h, r)))
                .collect();
        // Names that moves touch count also where the entries happen to be equal.
        let gone = pair
            .head
            .as_ref()
            .and_then(|(path, _)| self.gone.get(path))
            .cloned()
            .unwrap_or_default();
        let come = self.come.get(&pair.path).cloned().unwrap_or_default();
        for name in gone.iter().chain(come.keys()) {
            if !names.contains_key(name) {
                let h = tree::lookup(self.src, head_tree, name.as_bytes()).await?;
                let r = tree::lookup(self.src, &pair.result, name.as_bytes()).await?;
                names.insert(name.clone(), (h, r));
            }
        }
        let mut dir = DirChanges::default();
        for (name, (h, r)) in names {
            let hides = h.as_ref().map(Entry::kind);
            let is_dir = |entry: &Option<Entry>| i64::from(entry.as_ref().is_some_and(Entry::is_dir));
            let subdirs = is_dir(&r) - is_dir(&h);
            let Some(entry) = r else {
                if let Some(kind) = hides {
                    dir.changes.insert(name, Change::Whiteout(kind));
                    dir.subdirs_delta += subdirs;
                }
                continue;
            };
            let counterpart = match (come.get(&name), h, &pair.head) {
                (Some(from), _, _) => self.moved(from).await?,
                (None, Some(h), Some((path, _))) if !gone.contains(&name) => Some(Counterpart {
                    entry: h,
                    path: path.join(&name),
                    parent: pair.node,
                    name: name.clone(),
                }),
                _ => None,
            };
            let place = (pair.node, name.clone());
            let id = self
                .entry(entry, counterpart, place, pair.path.join(&name))
                .await?;
            dir.changes.insert(name, Change::Node { id, hides });
            dir.subdirs_delta += subdirs;
        }
        self.node_mut(pair.node)?.body = NodeBody::Dir(dir);
        Ok(())
    }

    /// The entry of H at the source of a move.
    async fn moved(&mut self, from: &VolPath) -> Result<Option<Counterpart>, TreeError> {
        let Some((dir, name)) = from.split_last() else {
            return Ok(None);
        };
        let Some(entry) = tree::walk(self.src, self.target.head, from).await? else {
            return Ok(None);
        };
        let parent = self.adopt_dir(&dir).await?;
        Ok(Some(Counterpart {
            entry,
            path: from.clone(),
            parent,
            name: name.clone(),
        }))
    }

    /// The node of a directory of H that an origin names; it gets its place when the walk comes by, and is a remainder
    /// when it never does.
    async fn adopt_dir(&mut self, path: &VolPath) -> Result<NodeId, TreeError> {
        let mut at = ROOT_NODE;
        for depth in 1..=path.0.len() {
            let part = VolPath(path.0[..depth].to_vec());
            if let Some(id) = self.adopted.get(&part) {
                at = *id;
                continue;
            }
            let entry = tree::walk(self.src, self.target.head, &part).await?;
            let entry = entry
                .filter(Entry::is_dir)
                .ok_or_else(|| foreign("a move comes from nowhere"))?;
            let origin = Origin::Entry {
                parent: at,
                name: path.0[depth - 1].clone(),
            };
            at = self.add(self.node(
                Some(origin),
                entry.attrs.clone(),
                Some(entry.attrs),
                0,
                empty_dir(),
            ));
            self.adopted.insert(part, at);
        }
        Ok(at)
    }

    /// The node that a name of R becomes.
    async fn entry(
        &mut self,
        entry: Entry,
        counterpart: Option<Counterpart>,
        place: (NodeId, Name),
        path: VolPath,
    ) -> Result<NodeId, TreeError> {
        if let EntryBody::HardLink(link) = entry.body {
            let id = self.link_node(link).await?;
            self.node_mut(id)?.names.push(place);
            return Ok(id);
        }
        let counterpart = counterpart.filter(|c| same_identity(&c.entry, &entry));
        let (origin, base_attrs, base_body) = match &counterpart {
            Some(c) => (
                Some(Origin::Entry {
                    parent: c.parent,
                    name: c.name.clone(),
                }),
                Some(c.entry.attrs.clone()),
                Some(&c.entry.body),
            ),
            None => (None, None, None),
        };
        if let EntryBody::Dir { tree, .. } = &entry.body {
            let early = counterpart
                .as_ref()
                .and_then(|c| self.adopted.get(&c.path).copied());
            let id = match early {
                Some(id) => id,
                None => self.add(self.node(origin, entry.attrs.clone(), base_attrs, 1, empty_dir())),
            };
            let node = self.node_mut(id)?;
            node.names = vec![place];
            node.nlink = 1;
            node.attrs = entry.attrs.clone();
            let head = match counterpart {
                Some(Counterpart {
                    entry:
                        Entry {
                            body: EntryBody::Dir { tree, .. },
                            ..
                        },
                    path,
                    ..
                }) => {
                    self.adopted.insert(path.clone(), id);
                    Some((path, tree))
                }
                _ => None,
            };
            self.pending.push(Pair {
                node: id,
                head,
                result: tree.clone(),
                path,
            });
            return Ok(id);
        }
        let (number, body) = self.inode_body(&entry, base_body)?;
        let mut node = self.node(origin, entry.attrs, base_attrs, 1, body);
        node.names = vec![place];
        Ok(match number {
            Some(id) => {
                self.nodes.insert(id, node);
                id
            }
            None => self.add(node),
        })
    }

    /// The inode of a hard link, made at its first name.
    async fn link_node(&mut self, link: LinkId) -> Result<NodeId, TreeError> {
        if let Some(id) = self.links.get(&link) {
            return Ok(*id);
        }
        let inode = tree::link(self.src, &self.target.result.links, &link).await?;
        let inode = inode.ok_or_else(|| foreign("a hard link without its inode"))?;
        self.add_link(link, Some(inode)).await
    }

    /// Takes an inode of R's links tree, or one that R does not have any more, into the overlay.
    async fn add_link(&mut self, link: LinkId, inode: Option<LinkInode>) -> Result<NodeId, TreeError> {
        let base = tree::link(self.src, &self.target.head.links, &link).await?;
        let origin = base.as_ref().map(|_| Origin::Link(link));
        let nlink = inode.as_ref().map_or(0, |inode| inode.nlink);
        let Some(entry) = inode.or_else(|| base.clone()).map(|inode| inode.entry) else {
            return Err(foreign("an inode that is in neither tree"));
        };
        let (number, body) = self.inode_body(&entry, base.as_ref().map(|inode| &inode.entry.body))?;
        let base_attrs = base.map(|inode| inode.entry.attrs);
        let mut node = self.node(origin, entry.attrs, base_attrs, nlink, body);
        node.link = Some(link);
        let id = match number {
            Some(id) => {
                self.nodes.insert(id, node);
                id
            }
            None => self.add(node),
        };
        self.links.insert(link, id);
        Ok(id)
    }

    /// Inodes of the links tree that changed without any name of theirs changing, or that went.
    async fn links(&mut self) -> Result<(), TreeError> {
        let changed = tree::diff_links(self.src, &self.target.head.links, &self.target.result.links).await?;
        for (link, _, inode) in changed {
            if !self.links.contains_key(&link) {
                self.add_link(link, inode).await?;
            }
        }
        Ok(())
    }

    /// The kind-dependent part of an inode, and its number when it has one already.
    fn inode_body(
        &mut self,
        entry: &Entry,
        base: Option<&EntryBody>,
    ) -> Result<(Option<NodeId>, NodeBody), TreeError> {
        Ok(match &entry.body {
            EntryBody::File {
                content: Content::Local(local),
                ..
            } => {
                let file = self.local_file(local)?;
                if !self.taken.insert(local.node) {
                    return Err(foreign("two files of one local content"));
                }
                (Some(local.node), NodeBody::File(file))
            }
            EntryBody::File { size, content } => {
                let same = matches!(base, Some(EntryBody::File { size: s, content: c }) if s == size && c.same(content));
                let file = FileState {
                    base: Some((*size, content.clone())),
                    body: None,
                    dirty: false,
                    bytes_generation: if same { 0 } else { self.generation },
                    present: None,
                    base_valid: *size,
                };
                (None, NodeBody::File(file))
            }
            EntryBody::Symlink { target } => (None, NodeBody::Symlink(target.clone())),
            EntryBody::Fifo => (None, NodeBody::Fifo),
            EntryBody::Socket => (None, NodeBody::Socket),
            EntryBody::CharDev { major, minor } => (None, NodeBody::CharDev(*major, *minor)),
            EntryBody::BlockDev { major, minor } => (None, NodeBody::BlockDev(*major, *minor)),
            EntryBody::Dir { .. } | EntryBody::HardLink(_) => {
                return Err(foreign("an inode that cannot be one"));
            }
        })
    }

    /// The file whose bytes a local content names.
    fn local_file(&self, local: &LocalContent) -> Result<FileState, TreeError> {
        std::iter::once(&self.target.live)
            .chain(self.target.others)
            .filter_map(|overlay| overlay.nodes.get(&local.node))
            .find_map(|node| match &node.body {
                NodeBody::File(file) if file.body.is_some() => Some(file.clone()),
                _ => None,
            })
            .ok_or_else(|| foreign("local content that no overlay has"))
    }

    fn node(
        &self,
        origin: Option<Origin>,
        attrs: Attrs,
        base_attrs: Option<Attrs>,
        nlink: u64,
        body: NodeBody,
    ) -> OverlayNode {
        OverlayNode {
            generation: self.generation,
            origin,
            names: Vec::new(),
            nlink,
            link: None,
            attrs,
            base_attrs,
            body,
        }
    }

    fn add(&mut self, node: OverlayNode) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut OverlayNode, TreeError> {
        self.nodes
            .get_mut(&id)
            .ok_or_else(|| foreign("a node is named but not there"))
    }
}

fn empty_dir() -> NodeBody {
    NodeBody::Dir(DirChanges::default())
}

/// An entry of R can be the entry of H, changed: kinds that have a content may have another one, others must be what
/// they were.
fn same_identity(head: &Entry, result: &Entry) -> bool {
    match (head.kind(), result.kind()) {
        (Kind::Dir, Kind::Dir) | (Kind::File, Kind::File) => true,
        (Kind::HardLink, _) | (_, Kind::HardLink) => false,
        _ => tree::same_body(&head.body, &result.body),
    }
}
