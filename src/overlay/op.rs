//! What can happen to an overlay. Each value is one frame of the journal.

use std::sync::Arc;

use super::state::{BaseRef, BodyId, NodeId, Origin};
use crate::model::{Attrs, Content, Hash, Kind, LinkId, Name, Seq, Timestamp, TxnId};

/// A name in a directory of the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The directory, adopted or made here.
    pub parent: NodeId,
    /// The name.
    pub name: Name,
    /// Kind of the entry that the base directory has under that name ([`Kind::HardLink`] for a name of an inode of
    /// the links tree). Looked at only where the overlay knows nothing of the name yet: what it knows is not
    /// overruled.
    pub base: Option<Kind>,
}

/// What a node is when the overlay first hears of it.
#[derive(Clone, Debug)]
pub enum NewBody {
    /// Directory; one without an origin starts empty.
    Dir,
    /// Regular file: size and descriptor of its bytes in the base; `None` for an empty one made here.
    File(Option<(u64, Content)>),
    /// Symbolic link: its target.
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

/// The published bytes of one file: node, size, descriptor.
pub type PublishedContent = (NodeId, u64, Content);

/// A change of an overlay. Directory times are part of the ops: where one has a `time`, it becomes mtime and ctime of
/// the directories whose names change, and ctime of the inodes whose names change.
#[derive(Clone, Debug)]
pub enum Op {
    /// Takes an entry of the base into the overlay, unchanged: its directory first. A plain entry gets a
    /// `Change::Node` in its directory; an inode of the links tree is found by its link id and gets none.
    Adopt {
        /// A new number: `next_node` of the state, or above.
        id: NodeId,
        /// Which entry; not the root, which is there from the start.
        origin: Origin,
        /// As they are in the base.
        attrs: Attrs,
        /// Names it has in the base: 1 unless it is in the links tree.
        nlink: u64,
        /// The rest.
        body: NewBody,
    },
    /// Makes a new inode.
    Create {
        /// A new number: `next_node` of the state, or above.
        id: NodeId,
        /// Its name, which must be free.
        place: Place,
        /// Its attributes.
        attrs: Attrs,
        /// The rest.
        body: NewBody,
        /// Of the directory.
        time: Timestamp,
    },
    /// Gives an inode another name.
    Link {
        /// The inode, not a directory, not unlinked.
        id: NodeId,
        /// The new name, which must be free.
        place: Place,
        /// Its identity in the links tree, drawn at random by the caller; `None` when it has one.
        link: Option<LinkId>,
        /// Of directory and inode.
        time: Timestamp,
    },
    /// Removes a name. The caller has seen to it that a directory is empty in the view.
    Remove {
        /// The name.
        place: Place,
        /// The inode, when it is in the overlay. Names of the links tree's inodes are removed only after the inode
        /// was adopted, so that its names stay counted; other entries of the base need not be adopted.
        node: Option<NodeId>,
        /// Of directory and inode.
        time: Timestamp,
    },
    /// Moves a name to a free place or over an entry. The caller has seen to it that a directory that is replaced is
    /// empty in the view.
    Rename {
        /// What moves (adopted first).
        node: NodeId,
        /// From here.
        from: Place,
        /// To here.
        to: Place,
        /// The inode that is replaced, when it is in the overlay (see [`Op::Remove`]).
        replaced: Option<NodeId>,
        /// Of both directories and the inodes.
        time: Timestamp,
    },
    /// Exchanges two entries (RENAME_EXCHANGE), both adopted first.
    Exchange {
        /// One, at its place.
        a: (NodeId, Place),
        /// The other, at its place.
        b: (NodeId, Place),
        /// Of both directories and inodes.
        time: Timestamp,
    },
    /// Replaces all attributes of an inode. (The size of a file is that of its body.)
    SetAttrs {
        /// The inode.
        id: NodeId,
        /// As they are now.
        attrs: Attrs,
    },
    /// Gives a file a body: at its first write, or a copy of the former one that a freeze keeps.
    GiveBody {
        /// The file.
        id: NodeId,
        /// Its new body, of a number that no node of this mount ever had.
        body: BodyId,
        /// Frames of 1 MiB that are in it, bit `i % 64` of word `i / 64`; `None`: all.
        present: Option<Arc<Vec<u64>>>,
        /// Bytes of the file's base content that the missing frames are read from.
        base_valid: u64,
        /// The bytes differ from the base content (a truncation); else they only may from now on.
        dirty: bool,
    },
    /// Frames that were fetched into the body, or covered whole by a write.
    Present {
        /// The file.
        id: NodeId,
        /// Its body; the op is void when it has another by now.
        body: BodyId,
        /// Runs of frames: first, count.
        frames: Vec<(u64, u64)>,
    },
    /// Bytes of the body changed, or may change from now on (open for writing). Also said after a freeze of every file
    /// that something can still write: so it stays in the overlay after the publish.
    MarkDirty {
        /// The file.
        id: NodeId,
    },
    /// The body was cut or grown to `size` bytes (body first, then this).
    SetSize {
        /// The file.
        id: NodeId,
        /// Bytes now.
        size: u64,
    },
    /// The file's bytes are now those of this descriptor: copies that share content.
    ReplaceContent {
        /// The file.
        id: NodeId,
        /// Bytes.
        size: u64,
        /// Descriptor, uploaded, never [`Content::Local`].
        content: Content,
    },
    /// The body of a file that is not dirty goes; the content is that of the base.
    DropBody {
        /// The file.
        id: NodeId,
    },
    /// Nobody has this inode open any more. An unlinked one leaves the overlay as soon as no origin names it; one with
    /// names stays.
    Forget {
        /// The inode.
        id: NodeId,
    },
    /// S (LOG.md 3) is now this: sorted, without repetition.
    SetSources {
        /// Records.
        sources: Vec<Seq>,
    },
    /// The state as it is now is to be committed; it is kept beside the current one.
    Freeze {
        /// Number of the commit, above all before.
        commit: u64,
    },
    /// Bytes of the frozen state are in the store. May be said in several pieces.
    Uploaded {
        /// The frozen commit.
        commit: u64,
        /// The files.
        contents: Vec<PublishedContent>,
    },
    /// The commit is about to publish under this transaction id (LOG.md 4, step 3).
    Prepared {
        /// The frozen commit.
        commit: u64,
        /// Its identity, the same through all retries.
        txn: TxnId,
        /// The newest record known when the id was made: the transaction can only be in later ones.
        after: Seq,
        /// Hash of the prepared tree's super node, if it is kept in the state directory.
        tree: Option<Hash>,
    },
    /// The commit is in the log: the overlay is now relative to `base`.
    Published {
        /// The frozen commit.
        commit: u64,
        /// M, the tree that base and frozen state made.
        base: BaseRef,
        /// Files published, in addition to those of [`Op::Uploaded`].
        contents: Vec<PublishedContent>,
    },
    /// The commit was given up; everything stays dirty.
    Unfrozen {
        /// The frozen commit.
        commit: u64,
    },
}
