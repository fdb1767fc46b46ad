//! The state of an overlay: a value, changed only by [`super::Op`]s, so that replaying the journal gives it again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::model::{
    Attrs, Content, DirTree, EntryBody, FRAME_BYTES, Hash, Kind, LinkId, Name, Seq, Totals, TxnId,
};

/// Number of a node inside one mount's overlays; never used again. Has nothing to do with inode numbers.
pub type NodeId = u64;
/// Number of a body (a file with dirty bytes) in the state directory.
pub type BodyId = u64;
/// The root directory. It is adopted from the start.
pub const ROOT_NODE: NodeId = 1;

/// The tree that the overlay stands on (B of LOG.md 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseRef {
    /// The newest record among the sources: what `status` shows as the base.
    pub seq: Seq,
    /// Hash of that record.
    pub record: Hash,
    /// `None`: the base is that record's tree. `Some`: a tree that was prepared by a commit that had to merge and never
    /// published as it stands; the super node's bytes are in the state directory under this hash.
    pub prepared: Option<Hash>,
    /// S: every record from which something reachable in base or overlay came. Sorted.
    pub sources: Vec<Seq>,
}

/// All dirty names of a mount. Made by [`OverlayState::new`] and changed by [`OverlayState::apply`] only; the fields are
/// open for reading. Do not hold an `Arc` of a node across a change: the change would have to copy the node.
#[derive(Clone, Debug)]
pub struct OverlayState {
    /// What it stands on.
    pub base: BaseRef,
    /// Nodes that differ from the base, and the directories above them. Always holds [`ROOT_NODE`].
    pub nodes: HashMap<NodeId, Arc<OverlayNode>>,
    /// Inodes of the base's links tree that were adopted.
    pub links: HashMap<LinkId, NodeId>,
    /// The next node id.
    pub next_node: NodeId,
    /// The next body id.
    pub next_body: BodyId,
    /// Counts changes; each change stamps the node that it touches.
    pub generation: u64,
    /// The commit that is under way, if any.
    pub frozen: Option<Arc<Frozen>>,
    /// Number of the last commit that was frozen.
    pub last_commit: u64,
    /// How many nodes' origins name a directory. Follows from `nodes`.
    pub(super) origin_refs: HashMap<NodeId, u64>,
    /// Unlinked nodes that nobody has open, and that are here only because an origin names them (directories) or the
    /// links tree of the base has them.
    pub(super) forgotten: HashSet<NodeId>,
}

/// The state as it was at the freeze, with what the commit has reached since.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Number of the commit.
    pub commit: u64,
    /// The state at the freeze; itself without `frozen`.
    pub state: Arc<OverlayState>,
    /// Bytes that are in the store: size and descriptor.
    pub uploaded: BTreeMap<NodeId, (u64, Content)>,
    /// Set once the commit may have published.
    pub prepared: Option<Prepared>,
}

/// What is needed to find out whether a commit was published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// Its identity.
    pub txn: TxnId,
    /// It can only be in a record later than this one.
    pub after: Seq,
    /// Hash of the prepared tree's super node, if it is kept in the state directory.
    pub tree: Option<Hash>,
}

/// Which entry of the base tree a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The root directory.
    Root,
    /// Entry `name` of the base directory that `parent` is (follow its own origin up to the root for the base path).
    Entry {
        /// An adopted directory; it may have moved or gone from the view since, but stays in `nodes` as long as an
        /// origin names it.
        parent: NodeId,
        /// The name in the base.
        name: Name,
    },
    /// An inode of the base's links tree.
    Link(LinkId),
}

/// One inode that differs from the base, or a directory on the way to one.
#[derive(Clone, Debug)]
pub struct OverlayNode {
    /// Number of the change that touched it last. A commit takes the node off the overlay only if this is still what
    /// it was at the freeze.
    pub generation: u64,
    /// What it was in the base; `None` for what was made here.
    pub origin: Option<Origin>,
    /// Where it hangs now, as far as the overlay knows: one place for a directory, none when unlinked. An adopted
    /// inode of the links tree has only the names here that were touched. For each of them the directory's `changes`
    /// has a [`Change::Node`] of this node, and the other way round.
    pub names: Vec<(NodeId, Name)>,
    /// Names there are, untouched ones in the base included; 0 for an unlinked inode. Directories: 1 or 0.
    pub nlink: u64,
    /// Its identity in the links tree, drawn when it got its second name. Whoever builds a tree puts an inode into
    /// the links tree exactly if it has one here (also when it is down to one name).
    pub link: Option<LinkId>,
    /// All attributes as they are now.
    pub attrs: Attrs,
    /// All attributes as they were in the base, for what has an origin.
    pub base_attrs: Option<Attrs>,
    /// The rest.
    pub body: NodeBody,
}

/// The part of a node that depends on its kind.
#[derive(Clone, Debug)]
pub enum NodeBody {
    /// Directory.
    Dir(DirChanges),
    /// Regular file.
    File(FileState),
    /// Symbolic link.
    Symlink(Arc<[u8]>),
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device: major, minor.
    CharDev(u32, u32),
    /// Block device: major, minor.
    BlockDev(u32, u32),
}

/// What differs in a directory.
#[derive(Clone, Debug, Default)]
pub struct DirChanges {
    /// Names that differ from the base directory. A directory without an origin has no base: it is opaque.
    pub changes: BTreeMap<Name, Change>,
    /// Immediate subdirectories now minus those in the base.
    pub subdirs_delta: i64,
}

/// What a name of a directory is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Gone; the base has an entry of that name, of this kind.
    Whiteout(Kind),
    /// This node. `hides` is the kind of the base's entry of that name, if it has one (even when it is the same
    /// entry, adopted in place).
    Node {
        /// The node.
        id: NodeId,
        /// Kind of the base's entry of that name.
        hides: Option<Kind>,
    },
}

/// The bytes of a file in the overlay.
#[derive(Clone, Debug)]
pub struct FileState {
    /// What the bytes were when the file was first touched: size and descriptor; also what [`FileState::body`]'s
    /// missing frames are read from. `None` for a file made here or cut to nothing.
    pub base: Option<(u64, Content)>,
    /// Local bytes. `None`: the content is that of `base` (only attributes or names differ), or empty without one.
    pub body: Option<BodyId>,
    /// Something wrote bytes since the file stood as `base` says.
    pub dirty: bool,
    /// Number of the change that touched the bytes last, as far as ops say it; 0: they are those of the base.
    pub bytes_generation: u64,
    /// Frames of 1 MiB that are in the body; all of them when `None`. Others are read from `base`, as far as it goes
    /// (`base_valid`).
    pub present: Option<Arc<Vec<u64>>>,
    /// Bytes of `base` that still count: a truncation lowers it, and what grows again behind it is zeros.
    pub base_valid: u64,
}

impl FileState {
    /// True if bytes of this frame (of 1 MiB) need not be read from the base: it is in the body, or nothing of the base
    /// counts there. False without a body.
    pub fn is_present(&self, frame: u64) -> bool {
        if self.body.is_none() {
            return false;
        }
        match &self.present {
            None => true,
            Some(bits) => frame.saturating_mul(FRAME_BYTES) >= self.base_valid || bit(bits, frame),
        }
    }
}

/// Bit `frame` of a presence map.
pub(super) fn bit(bits: &[u64], frame: u64) -> bool {
    usize::try_from(frame / 64)
        .ok()
        .and_then(|word| bits.get(word))
        .is_some_and(|word| word >> (frame % 64) & 1 == 1)
}

impl OverlayNode {
    /// Its kind; never [`Kind::HardLink`].
    pub fn kind(&self) -> Kind {
        self.body.kind()
    }
}

impl NodeBody {
    /// As the body of a tree's entry. What a directory or a file is in a tree says more than its node does: they come
    /// empty here, for the caller to fill.
    pub fn plain_entry(&self) -> EntryBody {
        match self {
            NodeBody::Dir(_) => EntryBody::Dir {
                totals: Totals::default(),
                tree: DirTree::empty(),
            },
            NodeBody::File(_) => EntryBody::File {
                size: 0,
                content: Content::empty(),
            },
            NodeBody::Symlink(target) => EntryBody::Symlink {
                target: target.clone(),
            },
            NodeBody::Fifo => EntryBody::Fifo,
            NodeBody::Socket => EntryBody::Socket,
            NodeBody::CharDev(major, minor) => EntryBody::CharDev {
                major: *major,
                minor: *minor,
            },
            NodeBody::BlockDev(major, minor) => EntryBody::BlockDev {
                major: *major,
                minor: *minor,
            },
        }
    }

    /// Its kind; never [`Kind::HardLink`].
    pub fn kind(&self) -> Kind {
        match self {
            NodeBody::Dir(_) => Kind::Dir,
            NodeBody::File(_) => Kind::File,
            NodeBody::Symlink(_) => Kind::Symlink,
            NodeBody::Fifo => Kind::Fifo,
            NodeBody::Socket => Kind::Socket,
            NodeBody::CharDev(..) => Kind::CharDev,
            NodeBody::BlockDev(..) => Kind::BlockDev,
        }
    }

    /// The file, if it is one.
    pub fn as_file(&self) -> Option<&FileState> {
        match self {
            NodeBody::File(file) => Some(file),
            _ => None,
        }
    }

    /// The directory, if it is one.
    pub fn as_dir(&self) -> Option<&DirChanges> {
        match self {
            NodeBody::Dir(dir) => Some(dir),
            _ => None,
        }
    }
}

impl OverlayState {
    /// Nothing changed on `base`, whose root directory has these attributes.
    pub fn new(base: BaseRef, root_attrs: Attrs) -> OverlayState {
        let root = OverlayNode {
            generation: 0,
            origin: Some(Origin::Root),
            names: Vec::new(),
            nlink: 1,
            link: None,
            attrs: root_attrs.clone(),
            base_attrs: Some(root_attrs),
            body: NodeBody::Dir(DirChanges::default()),
        };
        OverlayState {
            base,
            nodes: HashMap::from([(ROOT_NODE, Arc::new(root))]),
            links: HashMap::new(),
            next_node: ROOT_NODE + 1,
            next_body: 1,
            generation: 0,
            frozen: None,
            last_commit: 0,
            origin_refs: HashMap::new(),
            forgotten: HashSet::new(),
        }
    }

    /// The same, with numbers that go on where an older state of this mount stopped: node and body numbers are never
    /// used again, not even in another overlay directory, and a generation that was seen never comes back with other changes.
    pub fn succeeding(old: &OverlayState, base: BaseRef, root_attrs: Attrs) -> OverlayState {
        OverlayState {
            next_node: old.next_node,
            next_body: old.next_body,
            generation: old.generation,
            last_commit: old.last_commit,
            ..OverlayState::new(base, root_attrs)
        }
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<OverlayNode>> {
        self.nodes.get(&id)
    }

    /// What the overlay knows of a name: `None`, the base counts (nothing, when the directory has no origin).
    pub fn change(&self, parent: NodeId, name: &[u8]) -> Option<&Change> {
        self.nodes.get(&parent)?.body.as_dir()?.changes.get(name)
    }

    /// True if there is nothing that a commit would publish: every node is as it was in the base. Looks at all of them.
    pub fn is_clean(&self) -> bool {
        self.nodes.iter().all(|(id, node)| !self.differs(*id, node))
    }

    /// True if the node itself is not what it was in the base: attributes, place, bytes, own names; not what is below.
    pub fn differs(&self, id: NodeId, node: &OverlayNode) -> bool {
        let in_place = match &node.origin {
            None => node.nlink == 0,
            Some(Origin::Root) => true,
            Some(Origin::Entry { parent, name }) => {
                matches!(&node.names[..], [(p, n)] if p == parent && n == name)
            }
            // Its names differ where a directory's changes say so.
            Some(Origin::Link(_)) => true,
        };
        let bytes = node.nlink > 0
            && node
                .body
                .as_file()
                .is_some_and(|file| file.dirty || file.bytes_generation > 0);
        let names = node.nlink > 0
            && node.body.as_dir().is_some_and(|dir| {
                dir.changes.iter().any(|(name, change)| match change {
                    Change::Whiteout(_) => true,
                    Change::Node { id: child, .. } => !self.nodes.get(child).is_some_and(|child| {
                        matches!(&child.origin, Some(Origin::Entry { parent, name: n }) if *parent == id && n == name)
                    }),
                })
            });
        let attrs = node.nlink > 0 && node.base_attrs.as_ref().is_some_and(|base| *base != node.attrs);
        !in_place || attrs || bytes || names
    }

    /// Bodies that current and frozen nodes have.
    pub fn bodies(&self) -> HashSet<BodyId> {
        let of = |state: &OverlayState| -> Vec<BodyId> {
            state
                .nodes
                .values()
                .filter_map(|node| node.body.as_file()?.body)
                .collect()
        };
        let mut all: HashSet<BodyId> = of(self).into_iter().collect();
        if let Some(frozen) = &self.frozen {
            all.extend(of(&frozen.state));
        }
        all
    }
}
