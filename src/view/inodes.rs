//! The inode table: what the node numbers in the kernel's hands mean.
//!
//! 1. An inode is here while the kernel has references to it, while it is open, or while a clean child hangs in it.
//! 2. A node number is the file id when that is free, else a surrogate from 2^62 on; both mean the same for as long as the
//!    inode is here.
//! 3. What an overlay node is stands in the overlay; what a clean inode is stands here, together with the directory and
//!    name where the base has it: a clean directory's entry holds the tree below it, so the children of a known
//!    directory need no walk from the root.
//! 4. An inode of an older generation means what it meant before the reload, until it is refreshed.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::file::FileData;
use super::types::{Ino, ROOT_INO};
use crate::model::{Entry, FileId, LinkId, LinkInode, Name, Timestamp};
use crate::overlay::NodeId;

/// File ids from here on are never node numbers: surrogates are.
pub(super) const SURROGATES: u64 = 1 << 62;
/// File ids below are never allocated, the root apart.
pub(super) const FIRST_FILE_ID: u64 = 256;

/// What an inode is.
#[derive(Debug)]
pub(super) enum What {
    /// In the overlay.
    Node(NodeId),
    /// An entry of the base at [`Inode::place`].
    Clean(Box<Entry>),
    /// An inode of the base's links tree.
    Link(LinkId, Arc<LinkInode>),
    /// No name leads here any more, and it is not in the overlay: what it was.
    Gone(Box<Entry>),
}

/// Size and allocation of a body that nobody has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LocalSize {
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
}

/// One inode.
#[derive(Debug)]
pub(super) struct Inode {
    /// The kernel's references.
    pub refs: AtomicU64,
    /// Open handles, and clean children that name this directory as their place.
    pub pins: u64,
    /// The generation in which `what` was found.
    pub generation: u64,
    /// `st_ino`.
    pub shown: u64,
    pub what: What,
    /// Where a clean entry hangs. Others have none: links have many, nodes have theirs in the overlay.
    pub place: Option<(Ino, Name)>,
    /// Known clean children, by name.
    pub clean: HashMap<Name, Ino>,
    pub atime: Option<Timestamp>,
    /// While the file is open.
    pub file: Option<Arc<FileData>>,
    /// Of a local body while the file is closed, once it was asked for.
    pub local: Mutex<Option<LocalSize>>,
    /// Generation in which the kernel may have cached the listing.
    pub listed: Option<u64>,
    /// An open handle uses the kernel's cached listing.
    pub listing_cached: bool,
}

/// All inodes.
#[derive(Debug)]
pub(super) struct Inodes {
    map: HashMap<Ino, Inode>,
    by_node: HashMap<NodeId, Ino>,
    by_link: HashMap<LinkId, Ino>,
    /// Who shows a number as `st_ino`; of several, the last one that is known to be there.
    by_shown: HashMap<u64, Ino>,
    next_surrogate: u64,
}

impl Inodes {
    /// The root alone.
    pub fn new(root: NodeId, generation: u64) -> Inodes {
        let mut inodes = Inodes {
            map: HashMap::new(),
            by_node: HashMap::new(),
            by_link: HashMap::new(),
            by_shown: HashMap::from([(ROOT_INO, ROOT_INO)]),
            next_surrogate: SURROGATES,
        };
        inodes.by_node.insert(root, ROOT_INO);
        inodes.map.insert(
            ROOT_INO,
            Inode {
                // The mount itself: never forgotten.
                refs: AtomicU64::new(1),
                shown: ROOT_INO,
                ..Inode::new(What::Node(root), generation)
            },
        );
        inodes
    }

    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.map.get(&ino)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.map.get_mut(&ino)
    }

    pub fn of_node(&self, node: NodeId) -> Option<Ino> {
        self.by_node.get(&node).copied()
    }

    pub fn of_link(&self, link: LinkId) -> Option<Ino> {
        self.by_link.get(&link).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        self.map.iter().map(|(ino, inode)| (*ino, inode))
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// A new inode without references. A clean entry is entered with its directory, which gets a pin.
    pub fn insert(
        &mut self,
        what: What,
        file_id: FileId,
        place: Option<(Ino, Name)>,
        generation: u64,
    ) -> Ino {
        let ino = self.free_number(file_id);
        self.enter(ino, &what);
        if let Some((dir, name)) = &place {
            self.hang(ino, *dir, name);
        }
        let inode = Inode {
            place,
            ..Inode::new(what, generation)
        };
        self.map.insert(ino, inode);
        self.show(ino, file_id, generation);
        ino
    }

    /// The `st_ino` that an inode of this file id would show: the id, unless another inode that is known to be there shows
    /// it (they would look like names of one file), or it is no id.
    pub fn free_to_show(&self, file_id: FileId, generation: u64) -> Option<u64> {
        let usable = (FIRST_FILE_ID..SURROGATES).contains(&file_id.0) || file_id == FileId::ROOT;
        let held = self.by_shown.get(&file_id.0).and_then(|ino| self.map.get(ino));
        let lives =
            held.is_some_and(|held| held.generation == generation && !matches!(held.what, What::Gone(_)));
        (usable && !lives).then_some(file_id.0)
    }

    /// Settles the `st_ino` of an inode that has just been found to be of this file id.
    pub fn show(&mut self, ino: Ino, file_id: FileId, generation: u64) {
        if self
            .map
            .get(&ino)
            .is_some_and(|inode| inode.shown == file_id.0 && self.by_shown.get(&file_id.0) == Some(&ino))
        {
            return;
        }
        let shown = self
            .free_to_show(file_id, generation)
            .or_else(|| (!self.by_shown.contains_key(&ino)).then_some(ino))
            .unwrap_or_else(|| self.free_surrogate());
        let Some(inode) = self.map.get_mut(&ino) else {
            return;
        };
        let before = std::mem::replace(&mut inode.shown, shown);
        if self.by_shown.get(&before) == Some(&ino) {
            self.by_shown.remove(&before);
        }
        self.by_shown.insert(shown, ino);
    }

    /// Makes an inode mean something else. A clean entry keeps or gets `place`, others lose theirs.
    pub fn become_(&mut self, ino: Ino, what: What, place: Option<(Ino, Name)>, generation: u64) {
        let Some(inode) = self.map.get_mut(&ino) else {
            return;
        };
        inode.generation = generation;
        *inode.local.get_mut() = None;
        let old = std::mem::replace(&mut inode.what, what);
        let old_place = std::mem::replace(&mut inode.place, place.clone());
        match old {
            What::Node(id) if self.by_node.get(&id) == Some(&ino) => {
                self.by_node.remove(&id);
            }
            What::Link(id, _) if self.by_link.get(&id) == Some(&ino) => {
                self.by_link.remove(&id);
            }
            _ => {}
        }
        match self.map.get(&ino).map(|inode| &inode.what) {
            Some(What::Node(id)) => {
                self.by_node.insert(*id, ino);
            }
            Some(What::Link(id, _)) => {
                self.by_link.insert(*id, ino);
            }
            _ => {}
        }
        if old_place == place {
            return;
        }
        // The new place first: the directory must not go in between.
        if let Some((dir, name)) = &place {
            self.hang(ino, *dir, name);
        }
        if let Some((dir, name)) = old_place {
            self.unhang(ino, dir, &name);
        }
    }

    /// One more handle.
    pub fn pin(&mut self, ino: Ino) {
        if let Some(inode) = self.map.get_mut(&ino) {
            inode.pins += 1;
        }
    }

    /// Gives a handle back. True if nothing holds the inode any more.
    pub fn unpin(&mut self, ino: Ino) -> bool {
        match self.map.get_mut(&ino) {
            Some(inode) => {
                inode.pins = inode.pins.saturating_sub(1);
                inode.is_unused()
            }
            None => false,
        }
    }

    /// Takes an unused inode out, and the directories that only it held; gives the overlay nodes among them.
    pub fn remove_unused(&mut self, ino: Ino) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            if !self.map.get(&ino).is_some_and(Inode::is_unused) {
                break;
            }
            let Some(inode) = self.map.remove(&ino) else { break };
            if self.by_shown.get(&inode.shown) == Some(&ino) {
                self.by_shown.remove(&inode.shown);
            }
            match inode.what {
                What::Node(id) => {
                    self.by_node.remove(&id);
                    nodes.push(id);
                }
                What::Link(id, _) if self.by_link.get(&id) == Some(&ino) => {
                    self.by_link.remove(&id);
                }
                _ => {}
            }
            if let Some((dir, name)) = inode.place {
                self.unhang(ino, dir, &name);
                next = Some(dir);
            }
        }
        nodes
    }

    fn enter(&mut self, ino: Ino, what: &What) {
        match what {
            What::Node(id) => {
                self.by_node.insert(*id, ino);
            }
            What::Link(id, _) => {
                self.by_link.insert(*id, ino);
            }
            What::Clean(_) | What::Gone(_) => {}
        }
    }

    fn hang(&mut self, ino: Ino, dir: Ino, name: &Name) {
        if let Some(dir) = self.map.get_mut(&dir) {
            dir.pins += 1;
            dir.clean.insert(name.clone(), ino);
        }
    }

    fn unhang(&mut self, ino: Ino, dir: Ino, name: &Name) {
        if let Some(dir) = self.map.get_mut(&dir) {
            dir.pins = dir.pins.saturating_sub(1);
            if dir.clean.get(name) == Some(&ino) {
                dir.clean.remove(name);
            }
        }
    }

    fn free_number(&mut self, file_id: FileId) -> Ino {
        let usable = file_id.0 >= FIRST_FILE_ID && file_id.0 < SURROGATES;
        if usable && !self.map.contains_key(&file_id.0) {
            return file_id.0;
        }
        self.free_surrogate()
    }

    /// A number that is neither known nor shown.
    fn free_surrogate(&mut self) -> u64 {
        loop {
            let number = self.next_surrogate;
            self.next_surrogate += 1;
            if !self.map.contains_key(&number) && !self.by_shown.contains_key(&number) {
                return number;
            }
        }
    }
}

impl Inode {
    fn new(what: What, generation: u64) -> Inode {
        Inode {
            refs: AtomicU64::new(0),
            pins: 0,
            generation,
            shown: 0,
            what,
            place: None,
            clean: HashMap::new(),
            atime: None,
            file: None,
            local: Mutex::new(None),
            listed: None,
            listing_cached: false,
        }
    }

    /// Counts a reference that goes to the kernel.
    pub fn refer(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes references back; true when none is left.
    pub fn unrefer(&self, references: u64) -> bool {
        let before = self
            .refs
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |refs| {
                Some(refs.saturating_sub(references))
            });
        matches!(before, Ok(before) if before <= references)
    }

    fn is_unused(&self) -> bool {
        self.pins == 0 && self.refs.load(Ordering::Relaxed) == 0
    }
}
