//! The state of an overlay: a value, changed only by [`super::Op`]s, so that replaying the journal gives it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Attrs, Content, Hash, Kind, LinkId, Name, Seq};

/// Number of a node inside one mount's overlays; never used again. Has nothing to do with inode numbers.
pub type NodeId = u64;
/// Number of a body (a file with dirty bytes) in the state directory.
pub type BodyId = u64;
/// The root directory. It is adopted from the start.
pub const ROOT_NODE: NodeId = 1;

/// The tree that the overlay stands on (B of FORMAT.md 6.1).
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

/// All dirty names of a mount.
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
    /// inode of the links tree has only the names here that were touched.
    pub names: Vec<(NodeId, Name)>,
    /// Names there are, untouched ones in the base included; 0 for an unlinked inode. Directories: 1 or 0.
    pub nlink: u64,
    /// Its identity in the links tree, drawn when it got its second name.
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
    /// Frames of 1 MiB that are in the body; all of them when `None`. Others are read from `base`, as far as it goes
    /// (`base_valid`).
    pub present: Option<Arc<Vec<u64>>>,
    /// Bytes of `base` that still count: a truncation lowers it, and what grows again behind it is zeros.
    pub base_valid: u64,
}

impl OverlayNode {
    /// Its kind; never [`Kind::HardLink`].
    pub fn kind(&self) -> Kind {
        match self.body {
            NodeBody::Dir(_) => Kind::Dir,
            NodeBody::File(_) => Kind::File,
            NodeBody::Symlink(_) => Kind::Symlink,
            NodeBody::Fifo => Kind::Fifo,
            NodeBody::Socket => Kind::Socket,
            NodeBody::CharDev(..) => Kind::CharDev,
            NodeBody::BlockDev(..) => Kind::BlockDev,
        }
    }
}
