//! Entries of directories, and directories as trees of pages.

use std::sync::Arc;

use super::{Attrs, Content, LinkId, Name, Ptr};

/// Kinds of entries. The numbers are those of the remote format (SPEC.md 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File = 1,
    /// Symbolic link.
    Symlink = 2,
    /// Directory.
    Dir = 3,
    /// Named pipe.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    CharDev = 6,
    /// Block device.
    BlockDev = 7,
    /// A name of an inode in the links tree.
    HardLink = 8,
}

/// What a directory holds in its whole subtree, itself not counted; `subdirs` counts immediate children only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Totals {
    /// Entries that are no directories; a name of a hard-linked inode counts as one.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Logical bytes of regular files; bytes of hard-linked inodes are not counted here but in the links tree.
    pub bytes: u64,
    /// Entries of kind [`Kind::HardLink`].
    pub links: u64,
    /// Immediate subdirectories: `st_nlink` is this plus 2.
    pub subdirs: u64,
}

/// One entry without its name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Attributes; of no meaning for [`EntryBody::HardLink`], whose inode is in the links tree.
    pub attrs: Attrs,
    /// What it is.
    pub body: EntryBody,
}

/// The part of an entry that depends on its kind.
#[derive(Clone, Debug)]
pub enum EntryBody {
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// What describes them.
        content: Content,
    },
    /// Symbolic link.
    Symlink {
        /// 1 to 4,095 bytes.
        target: Arc<[u8]>,
    },
    /// Directory.
    Dir {
        /// Of its subtree.
        totals: Totals,
        /// Its entries.
        tree: DirTree,
    },
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A name of an inode in the links tree.
    HardLink(LinkId),
}

impl Entry {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match &self.body {
            EntryBody::File { .. } => Kind::File,
            EntryBody::Symlink { .. } => Kind::Symlink,
            EntryBody::Dir { .. } => Kind::Dir,
            EntryBody::Fifo => Kind::Fifo,
            EntryBody::Socket => Kind::Socket,
            EntryBody::CharDev { .. } => Kind::CharDev,
            EntryBody::BlockDev { .. } => Kind::BlockDev,
            EntryBody::HardLink(_) => Kind::HardLink,
        }
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.body, EntryBody::Dir { .. })
    }

    /// Its directory tree and totals, if it is one.
    pub fn as_dir(&self) -> Option<(&Totals, &DirTree)> {
        match &self.body {
            EntryBody::Dir { totals, tree } => Some((totals, tree)),
            _ => None,
        }
    }
}

/// A run of entries of one directory, sorted by name bytes, names unique.
#[derive(Clone, Debug, Default)]
pub struct DirPage {
    /// The entries.
    pub entries: Vec<(Name, Entry)>,
}

impl DirPage {
    /// The entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|(n, _)| n.as_bytes().cmp(name))
            .ok()?;
        Some(&self.entries[at].1)
    }
}

/// The entries of a directory: in memory, stored, or partly both.
#[derive(Clone, Debug)]
pub enum DirTree {
    /// All entries in memory. In a stored node this is the inline form; while a tree is being edited it is also the
    /// form of a directory of any size before it is partitioned.
    Inline(Arc<DirPage>),
    /// Stored in a node of its own: a dir page, or an index page when `index`.
    Stored {
        /// The node. Boxed: entries of files are to be small.
        ptr: Box<Ptr>,
        /// It is an index page.
        index: bool,
    },
    /// A large directory of which some pages were edited. In memory only.
    Pages(PageTree),
}

impl DirTree {
    /// A directory in a node of its own; `index`: an index page.
    pub fn stored(ptr: Ptr, index: bool) -> DirTree {
        let ptr = Box::new(ptr);
        DirTree::Stored { ptr, index }
    }

    /// A directory without entries.
    pub fn empty() -> DirTree {
        DirTree::Inline(Arc::new(DirPage::default()))
    }

    /// True when both are the same piece of memory or the same stored node. False says nothing: equality is used to
    /// skip work only, never to decide that something changed (SPEC.md 2).
    pub fn same_pointer(&self, other: &DirTree) -> bool {
        match (self, other) {
            (DirTree::Inline(a), DirTree::Inline(b)) => {
                Arc::ptr_eq(a, b) || (a.entries.is_empty() && b.entries.is_empty())
            }
            (DirTree::Stored { ptr: a, .. }, DirTree::Stored { ptr: b, .. }) => a.hash == b.hash,
            _ => false,
        }
    }
}

/// The children of an index page, some of them loaded and edited.
#[derive(Clone, Debug)]
pub struct PageTree {
    /// Level of the index page, 1 above leaves.
    pub level: u8,
    /// Sorted by first key; the first one's key is empty.
    pub slots: Arc<Vec<PageSlot>>,
}

/// One child of an index page.
#[derive(Clone, Debug)]
pub struct PageSlot {
    /// No key below this one is in the child, except for the first child, whose key is empty.
    pub first_key: Box<[u8]>,
    /// Entries in the child and below.
    pub count: u64,
    /// The child: `Stored` (a dir page when the parent's level is 1, else an index page), `Inline` for an edited
    /// leaf, `Pages` for an edited index page.
    pub child: DirTree,
}

/// An inode with several names: the value of the links tree.
#[derive(Clone, Debug)]
pub struct LinkInode {
    /// Names in the tree; counted by whoever edits the tree, never merged (SPEC.md 7.3).
    pub nlink: u64,
    /// Attributes and body; never a directory and never [`EntryBody::HardLink`].
    pub entry: Entry,
}

/// The links tree: what is stored, and what was edited on top of it (in memory only).
#[derive(Clone, Debug, Default)]
pub struct LinksTree {
    /// Stored form: its root node, and whether that is an index page. `None` is the empty tree.
    pub stored: Option<(Ptr, bool)>,
    /// Inodes that differ from the stored form; `None` for one that is gone.
    pub edits: std::collections::BTreeMap<crate::model::LinkId, Option<LinkInode>>,
    /// Inodes in the tree, edits included.
    pub count: u64,
    /// Logical bytes of the regular files among them, edits included.
    pub bytes: u64,
}

/// One whole tree of a volume: what a record's super node describes, or what is about to be published.
#[derive(Clone, Debug)]
pub struct TreeRoot {
    /// Attributes of `/`.
    pub attrs: Attrs,
    /// Of the whole tree, `/` not counted.
    pub totals: Totals,
    /// The entries of `/`.
    pub tree: DirTree,
    /// Inodes with several names.
    pub links: LinksTree,
}

impl TreeRoot {
    /// `/` as an entry.
    pub fn as_entry(&self) -> Entry {
        Entry {
            attrs: self.attrs.clone(),
            body: EntryBody::Dir {
                totals: self.totals,
                tree: self.tree.clone(),
            },
        }
    }

    /// Logical bytes of the volume (SPEC.md 6, `usage.bytes`).
    pub fn bytes(&self) -> u64 {
        self.totals.bytes + self.links.bytes
    }
}
