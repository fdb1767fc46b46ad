//! The namespace: what a name in a directory is, and what an inode looks like. Questions only; what they need of the
//! base is asked of loaded nodes, and what is not loaded is answered by [`Ask::Missing`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::descriptors::Descriptors;
use super::drawn::Drawn;
use super::file::FileData;
use super::freeze::NEVER;
use super::inodes::{Inode, Inodes, What};
use super::noted::Noted;
use super::standing::{BaseHold, HeldBase, names_local};
use super::types::{Attr, Ino, Known};
use super::usage::Usage;
use super::{ShownOwner, ViewError};
use crate::model::{
    Attrs, ChunkRef, Content, DirTree, Entry, EntryBody, Kind, LinkId, LinkInode, TreeRoot, chunk_len,
};
use crate::overlay::{
    Body, BodyId, Change, NodeBody, NodeId, Origin, Overlay, OverlayNode, OverlayState, ROOT_NODE,
};
use crate::tree::{Missing, NodeSource, link_loaded, lookup_loaded};

/// Why a question has no answer yet, or none at all.
#[derive(Debug)]
pub(super) enum Ask {
    /// Fetch this node, then ask again.
    Missing(Missing),
    /// This inode is of an older generation: refresh it, then ask again.
    Old(Ino),
    /// This is the answer.
    Fail(ViewError),
}

impl From<Missing> for Ask {
    fn from(missing: Missing) -> Ask {
        Ask::Missing(missing)
    }
}

impl From<ViewError> for Ask {
    fn from(error: ViewError) -> Ask {
        Ask::Fail(error)
    }
}

/// A directory of the base.
#[derive(Clone, Debug)]
pub(super) struct BaseDir {
    pub tree: DirTree,
    /// Immediate subdirectories.
    pub subdirs: u64,
    /// Directories in its whole subtree.
    pub dirs: u64,
}

/// What a name is.
#[derive(Debug)]
pub(super) enum Child {
    Node(NodeId),
    Clean(Box<Entry>),
    Link(LinkId, Arc<LinkInode>),
}

/// Base and inodes of one moment. One lock guards it; the overlay's own lock is taken after it.
#[derive(Debug)]
pub(super) struct Space {
    /// Counts reloads.
    pub generation: u64,
    pub base: TreeRoot,
    /// Of `base`: whoever reads it without these locks has a copy.
    pub hold: BaseHold,
    /// What open files and listings were drawn from.
    pub drawn: Drawn,
    pub inodes: Inodes,
    pub usage: Usage,
    /// Files of the commit under way that were open for writing at its freeze: it reads them once, as they are then.
    pub frozen_open: HashSet<NodeId>,
    /// Files of the commit under way that were written since its freeze: it reads the copy that was made before, of the
    /// body of this number.
    pub thawed: HashMap<NodeId, (BodyId, Arc<Body>)>,
    /// Files whose former inode was left to its readers, so that these can be written.
    pub left_behind: HashSet<NodeId>,
    /// Files that the kernel may be writing to.
    pub live_files: HashSet<Ino>,
    /// For open files.
    pub descriptors: Arc<Descriptors>,
    /// Who appears to own everything.
    pub shown_owner: ShownOwner,
    /// Names that the kernel may keep without an inode that says so.
    pub noted: Mutex<Noted>,
    /// Base directories of adopted ones, found once. A lock inside the locks: the last to be taken.
    base_dirs: Mutex<HashMap<NodeId, BaseDir>>,
}

impl Space {
    pub fn new(base: TreeRoot, state: &OverlayState, shown_owner: ShownOwner) -> Space {
        Space {
            generation: 1,
            usage: Usage::new(state),
            base,
            hold: BaseHold::default(),
            drawn: Drawn::default(),
            inodes: Inodes::new(ROOT_NODE, 1),
            frozen_open: HashSet::new(),
            thawed: HashMap::new(),
            left_behind: HashSet::new(),
            live_files: HashSet::new(),
            descriptors: Arc::default(),
            shown_owner,
            noted: Mutex::default(),
            base_dirs: Mutex::new(HashMap::new()),
        }
    }

    /// The names of a hard link, which is about to leave the overlay and with it what knows them.
    pub fn note_names(&self, node: &OverlayNode) {
        if node.link.is_some() {
            for (parent, name) in &node.names {
                if let Some(dir) = self.inodes.of_node(*parent) {
                    self.noted.lock().note(dir, name.as_bytes());
                }
            }
        }
    }

    /// Another base: nothing found in the former one counts.
    pub fn set_base(&mut self, base: TreeRoot) {
        self.base = base;
        self.hold = BaseHold::default();
        self.base_dirs.get_mut().clear();
    }

    pub fn held_base(&self) -> HeldBase {
        HeldBase {
            tree: self.base.clone(),
            hold: self.hold.clone(),
        }
    }

    /// Clean directories of which the nodes exist on this machine only are found again in the base at their next use: those
    /// of the base before may go. All nodes above such a one are of this machine too, so that takes no fetch.
    pub fn look_again_at_local(&mut self) {
        for ino in self.inodes.clean_dirs().collect::<Vec<_>>() {
            if let Some(inode) = self.inodes.get_mut(ino)
                && let What::Clean(entry) = &inode.what
                && let Some((_, tree)) = entry.as_dir()
                && names_local(tree)
            {
                inode.generation = NEVER;
            }
        }
    }

    /// True if the table has an inode of an older generation at this place.
    pub fn has_stale(&self, dir: Ino, name: &[u8]) -> bool {
        let known = self.inodes.clean_child(dir, name);
        let inode = known.and_then(|ino| self.inodes.get(ino));
        inode.is_some_and(|inode| inode.generation != self.generation)
    }

    /// A commit reads `copy` instead of the body of a node from now on.
    pub fn thaw(&mut self, id: NodeId, body: &Body, copy: Arc<Body>) {
        self.thawed.insert(id, (body.id(), copy));
    }

    /// Counts what the kernel has added to live files.
    pub fn observe_all(&self) {
        for ino in &self.live_files {
            if let Some(file) = self.inodes.get(*ino).and_then(|inode| inode.file.as_ref()) {
                self.observe(file);
            }
        }
    }

    /// The same of one.
    pub fn observe(&self, file: &FileData) {
        self.observe_size(file, file.size());
    }

    /// A file has this size.
    pub fn observe_size(&self, file: &FileData, now: u64) {
        let before = file.accounted.swap(now, Ordering::Relaxed);
        if before != now && file.counted.load(Ordering::Relaxed) {
            self.usage.resized(before, now);
        }
    }

    pub fn remember_base_dir(&self, id: NodeId, dir: BaseDir) {
        self.base_dirs.lock().insert(id, dir);
    }
}

/// Space and overlay under their locks, for questions.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub space: &'a Space,
    pub state: &'a OverlayState,
    /// Where bodies are; none for a read-only mount.
    pub overlay: Option<&'a Overlay>,
}

impl<'a> Look<'a> {
    /// An inode that means what it means now.
    pub fn inode(&self, ino: Ino) -> Result<&'a Inode, Ask> {
        let inode = self.space.inodes.get(ino).ok_or(ViewError::Stale { ino })?;
        if inode.generation != self.space.generation && !matches!(inode.what, What::Gone(_)) {
            return Err(Ask::Old(ino));
        }
        Ok(inode)
    }

    /// The inode and every clean directory above it are of this generation: it can be adopted.
    pub fn known_way_up(&self, ino: Ino) -> Result<(), Ask> {
        let mut at = ino;
        loop {
            let inode = self.inode(at)?;
            match (&inode.what, &inode.place) {
                (What::Clean(_), Some((dir, _))) => at = *dir,
                _ => return Ok(()),
            }
        }
    }

    pub fn node(&self, id: NodeId) -> Result<&'a OverlayNode, Ask> {
        Ok(self.state.node(id).ok_or_else(|| lost(id))?)
    }

    // ---- names ----

    /// What a name in a directory is; `None`: nothing. In a removed directory there is nothing.
    pub fn child(&self, src: &dyn NodeSource, dir: Ino, name: &[u8]) -> Result<Option<Child>, Ask> {
        match &self.inode(dir)?.what {
            What::Node(id) => self.node_child(src, *id, name),
            What::Clean(entry) => match entry.as_dir() {
                Some((_, tree)) => self.base_child(src, tree, name),
                None => Err(ViewError::NotDir.into()),
            },
            What::Gone(entry) if entry.is_dir() => Ok(None),
            What::Link(..) | What::Gone(_) => Err(ViewError::NotDir.into()),
        }
    }

    fn node_child(&self, src: &dyn NodeSource, dir: NodeId, name: &[u8]) -> Result<Option<Child>, Ask> {
        let node = self.node(dir)?;
        let NodeBody::Dir(changes) = &node.body else {
            return Err(ViewError::NotDir.into());
        };
        match changes.changes.get(name) {
            Some(Change::Whiteout(_)) => Ok(None),
            Some(Change::Node { id, .. }) => Ok(Some(Child::Node(*id))),
            None if node.nlink == 0 => Ok(None),
            None => match self.base_dir(src, dir)? {
                Some(base) => self.base_child(src, &base.tree, name),
                None => Ok(None),
            },
        }
    }

    fn base_child(&self, src: &dyn NodeSource, tree: &DirTree, name: &[u8]) -> Result<Option<Child>, Ask> {
        match lookup_loaded(src, tree, name)? {
            None => Ok(None),
            Some(entry) => self.child_of_entry(src, entry).map(Some),
        }
    }

    /// What an entry of the base is in the view.
    pub fn child_of_entry(&self, src: &dyn NodeSource, entry: Entry) -> Result<Child, Ask> {
        let EntryBody::HardLink(link) = entry.body else {
            return Ok(Child::Clean(Box::new(entry)));
        };
        if let Some(id) = self.state.links.get(&link) {
            return Ok(Child::Node(*id));
        }
        match link_loaded(src, &self.space.base.links, &link)? {
            Some(inode) => Ok(Child::Link(link, Arc::new(inode))),
            None => Err(ViewError::Tree(crate::tree::TreeError::Damaged {
                object: "links tree".to_owned(),
                rule: format!("a name leads to inode {link}, which is not there"),
            })
            .into()),
        }
    }

    /// Kind of the entry that the base has under a name of a directory, as [`crate::overlay::Place`] wants it. Looked
    /// at only when the overlay knows nothing of the name.
    pub fn base_kind(&self, src: &dyn NodeSource, dir: Ino, name: &[u8]) -> Result<Option<Kind>, Ask> {
        let tree = match &self.inode(dir)?.what {
            What::Node(id) => {
                if self.state.change(*id, name).is_some() {
                    return Ok(None);
                }
                match self.base_dir(src, *id)? {
                    Some(base) => base.tree,
                    None => return Ok(None),
                }
            }
            What::Clean(entry) => match entry.as_dir() {
                Some((_, tree)) => tree.clone(),
                None => return Err(ViewError::NotDir.into()),
            },
            What::Link(..) | What::Gone(_) => return Ok(None),
        };
        Ok(lookup_loaded(src, &tree, name)?.map(|entry| entry.kind()))
    }

    /// The base's directory that an overlay directory stands on; `None` for one made here.
    pub fn base_dir(&self, src: &dyn NodeSource, id: NodeId) -> Result<Option<BaseDir>, Ask> {
        if let Some(found) = self.space.base_dirs.lock().get(&id) {
            return Ok(Some(found.clone()));
        }
        let node = self.node(id)?;
        if node.kind() != Kind::Dir {
            return Ok(None);
        }
        let found = match &node.origin {
            None => return Ok(None),
            Some(Origin::Root) => BaseDir {
                tree: self.space.base.tree.clone(),
                subdirs: self.space.base.totals.subdirs,
                dirs: self.space.base.totals.dirs,
            },
            Some(Origin::Link(_)) => return Ok(None),
            Some(Origin::Entry { parent, name }) => {
                let entry = match self.base_dir(src, *parent)? {
                    Some(parent) => lookup_loaded(src, &parent.tree, name.as_bytes())?,
                    None => None,
                };
                match entry.as_ref().and_then(Entry::as_dir) {
                    Some((totals, tree)) => BaseDir {
                        tree: tree.clone(),
                        subdirs: totals.subdirs,
                        dirs: totals.dirs,
                    },
                    None => return Err(lost(id).into()),
                }
            }
        };
        self.space.base_dirs.lock().insert(id, found.clone());
        Ok(Some(found))
    }

    /// True if a directory shows no entry.
    pub fn is_empty(&self, src: &dyn NodeSource, what: &Child) -> Result<bool, Ask> {
        match what {
            Child::Clean(entry) => match entry.as_dir() {
                Some((totals, _)) => Ok(totals.files == 0 && totals.dirs == 0),
                None => Ok(true),
            },
            Child::Link(..) => Ok(true),
            Child::Node(id) => {
                let node = self.node(*id)?;
                let NodeBody::Dir(changes) = &node.body else {
                    return Ok(true);
                };
                if changes
                    .changes
                    .values()
                    .any(|change| matches!(change, Change::Node { .. }))
                {
                    return Ok(false);
                }
                let Some(base) = self.base_dir(src, *id)? else {
                    return Ok(true);
                };
                // Only whiteouts are left, each of another entry of the base: empty when they are as many.
                let whiteouts = changes.changes.len();
                let mut from = crate::tree::ListFrom::Start;
                let mut seen = 0usize;
                loop {
                    let Some(run) = crate::tree::run_loaded(src, &base.tree, from)? else {
                        return Ok(seen <= whiteouts);
                    };
                    seen += run.entries().len();
                    if seen > whiteouts {
                        return Ok(false);
                    }
                    from = crate::tree::ListFrom::Ordinal(run.first_ordinal() + run.entries().len() as u64);
                }
            }
        }
    }

    pub fn child_kind(&self, child: &Child) -> Result<Kind, Ask> {
        Ok(match child {
            Child::Node(id) => self.node(*id)?.kind(),
            Child::Clean(entry) => entry.kind(),
            Child::Link(_, inode) => inode.entry.kind(),
        })
    }

    /// The inode of a child, if the table has it and it is right: nothing has to be made or changed.
    pub fn known_child(&self, dir: Ino, name: &[u8], child: &Child) -> Option<Ino> {
        let ino = match child {
            Child::Node(id) => self.space.inodes.of_node(*id)?,
            Child::Link(id, _) => self.space.inodes.of_link(*id)?,
            Child::Clean(_) => self.space.inodes.clean_child(dir, name)?,
        };
        (self.space.inodes.get(ino)?.generation == self.space.generation).then_some(ino)
    }

    // ---- attributes ----

    /// What stat answers.
    pub fn attr(&self, src: &dyn NodeSource, ino: Ino) -> Result<Attr, Ask> {
        let inode = self.inode(ino)?;
        let (attrs, kind, nlink, size, rdev);
        let mut blocks = None;
        match &inode.what {
            What::Node(id) => {
                let node = self.node(*id)?;
                attrs = &node.attrs;
                kind = node.kind();
                nlink = match &node.body {
                    NodeBody::Dir(_) if node.nlink == 0 => 0,
                    NodeBody::Dir(changes) => {
                        let base = self.base_dir(src, *id)?.map_or(0, |base| base.subdirs);
                        base.saturating_add_signed(changes.subdirs_delta)
                            .saturating_add(2)
                    }
                    _ => node.nlink,
                };
                (size, rdev) = match &node.body {
                    NodeBody::File(file) => {
                        let local = self.local_size(inode, file)?;
                        blocks = Some(local.blocks);
                        (local.size, (0, 0))
                    }
                    NodeBody::Symlink(target) => (target.len() as u64, (0, 0)),
                    NodeBody::CharDev(major, minor) | NodeBody::BlockDev(major, minor) => {
                        (0, (*major, *minor))
                    }
                    NodeBody::Dir(_) => (DIR_BYTES, (0, 0)),
                    NodeBody::Fifo | NodeBody::Socket => (0, (0, 0)),
                };
            }
            What::Clean(entry) => {
                attrs = &entry.attrs;
                kind = entry.kind();
                nlink = entry
                    .as_dir()
                    .map_or(1, |(totals, _)| totals.subdirs.saturating_add(2));
                (size, rdev) = entry_size(entry);
                blocks = entry_blocks(entry);
            }
            What::Link(_, link) => {
                attrs = &link.entry.attrs;
                kind = link.entry.kind();
                nlink = link.nlink;
                (size, rdev) = entry_size(&link.entry);
                blocks = entry_blocks(&link.entry);
            }
            What::Gone(entry) => {
                attrs = &entry.attrs;
                kind = entry.kind();
                nlink = 0;
                (size, rdev) = match &inode.file {
                    Some(file) => (file.size(), (0, 0)),
                    None => entry_size(entry),
                };
            }
        }
        let (mut mtime, mut ctime) = (attrs.mtime, attrs.ctime);
        if let Some(written) = inode.file.as_ref().and_then(|file| file.unsettled()) {
            (mtime, ctime) = (written, ctime.max(written));
        }
        let touched = inode.touched.as_deref();
        ctime = touched.map_or(ctime, |touched| ctime.max(touched.ctime));
        let shown = self.space.shown_owner;
        Ok(Attr {
            ino: inode.shown,
            kind,
            mode: attrs.mode,
            nlink: u32::try_from(nlink).unwrap_or(u32::MAX),
            uid: shown.uid.unwrap_or(attrs.uid),
            gid: shown.gid.unwrap_or(attrs.gid),
            rdev,
            size,
            blocks: blocks.unwrap_or(size.div_ceil(512)),
            atime: touched.map_or(mtime, |touched| touched.atime),
            mtime,
            ctime,
            live: inode.file.as_ref().is_some_and(|file| file.live().is_some()),
        })
    }

    /// The inode as an answer to the kernel, with a reference counted.
    pub fn refer(&self, src: &dyn NodeSource, ino: Ino) -> Result<Known, Ask> {
        let attr = self.attr(src, ino)?;
        let inode = self.inode(ino)?;
        inode.refer();
        let linked = match &inode.what {
            What::Link(..) => true,
            What::Node(id) => self.node(*id)?.link.is_some(),
            What::Clean(_) | What::Gone(_) => false,
        };
        Ok(Known {
            ino,
            attr,
            settled: attr.ino == ino,
            linked,
        })
    }

    /// A name goes to the kernel, perhaps one that its inode does not know.
    pub fn note_linked(&self, dir: Ino, name: &[u8], known: &Known) {
        if known.linked {
            self.space.noted.lock().note(dir, name);
        }
    }

    /// Attributes as they stand, not counting writes that are not settled yet.
    pub fn attrs(&self, ino: Ino) -> Result<&'a Attrs, Ask> {
        Ok(match &self.inode(ino)?.what {
            What::Node(id) => &self.node(*id)?.attrs,
            What::Clean(entry) | What::Gone(entry) => &entry.attrs,
            What::Link(_, link) => &link.entry.attrs,
        })
    }

    pub fn kind(&self, ino: Ino) -> Result<Kind, Ask> {
        Ok(match &self.inode(ino)?.what {
            What::Node(id) => self.node(*id)?.kind(),
            What::Clean(entry) | What::Gone(entry) => entry.kind(),
            What::Link(_, link) => link.entry.kind(),
        })
    }
}

/// `st_size` of a directory: what most local filesystems say of a small one; there is nothing to count.
const DIR_BYTES: u64 = 4096;

/// The overlay names a node that it does not have, or that the base does not have: one of them was altered on disk.
pub(super) fn lost(id: NodeId) -> ViewError {
    ViewError::Local {
        path: format!("overlay node {id}"),
        reason: "overlay and base do not fit each other".to_owned(),
        errno: libc::EIO,
    }
}

pub(super) fn entry_size(entry: &Entry) -> (u64, (u32, u32)) {
    match &entry.body {
        EntryBody::File { size, .. } => (*size, (0, 0)),
        EntryBody::Symlink { target } => (target.len() as u64, (0, 0)),
        EntryBody::Dir { .. } => (DIR_BYTES, (0, 0)),
        EntryBody::CharDev { major, minor } | EntryBody::BlockDev { major, minor } => (0, (*major, *minor)),
        EntryBody::Fifo | EntryBody::Socket | EntryBody::HardLink(_) => (0, (0, 0)),
    }
}

fn entry_blocks(entry: &Entry) -> Option<u64> {
    match &entry.body {
        EntryBody::File { size, content } => Some(content_blocks(*size, content)),
        EntryBody::Dir { .. } => Some(DIR_BYTES / 512),
        _ => Some(0),
    }
}

/// Blocks of 512 bytes that a clean content counts: chunks that are holes do not, as far as they are listed in the
/// entry.
pub(super) fn content_blocks(size: u64, content: &Content) -> u64 {
    let holes: u64 = match content {
        Content::Chunks { chunks, .. } => chunks
            .iter()
            .enumerate()
            .filter(|(_, chunk)| matches!(chunk, ChunkRef::Hole))
            .map(|(index, _)| chunk_len(index as u64, size))
            .sum(),
        _ => 0,
    };
    size.saturating_sub(holes).div_ceil(512)
}
