//! The inode table: what the node numbers in the kernel's hands mean.
//!
//! 1. An inode is here while the kernel has references to it, while it is open, or while a clean child hangs in it.
//! 2. A node number is what the file id is shown as ([`FileId::shown`]) when that is free, else a spare one; both mean the
//!    same for as long as the inode is here. Spare numbers follow from where the inode is, so that a listing tells the one
//!    that a lookup will give, and a mount after this one gives the same. All are below 2^52: they come out as `st_ino`.
//! 3. What an overlay node is stands in the overlay; what a clean inode is stands here, together with the directory and
//!    name where the base has it: a clean directory's entry holds the tree below it, so the children of a known
//!    directory need no walk from the root.
//! 4. An inode of an older generation means what it meant before the reload, until it is refreshed. Then a directory is what
//!    its path leads to, and so is a regular file that nobody has open, though with other bytes ([`Inode::outdated`]): whoever
//!    keeps the inode (a working directory, an overlayfs on top) finds the name where it was. What is open keeps its bytes
//!    and number, and the path gets another.
//! 5. There are as many as the kernel has looked up, by the million: what few of them have is boxed, a name is kept once
//!    (at the child, its directory finds it by hash), and a number that shows itself is not written down.

use hashbrown::HashTable;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::FileData;
use super::refresh::same_thing;
use super::types::{Ino, ROOT_INO};
use crate::model::{Entry, FileId, LinkId, LinkInode, Name, Timestamp};
use crate::overlay::NodeId;

/// What tells an inode that cannot be shown by its file id from the others of that id.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Whose<'a> {
    /// A name in a directory that is shown as this.
    Place(u64, &'a [u8]),
    /// An inode of the links tree.
    Link(LinkId),
    /// A node of the overlay.
    Node(NodeId),
    /// An inode without a place.
    Inode(Ino),
}

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

impl What {
    /// The entry, of what is not in the overlay.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            What::Node(_) => None,
            What::Clean(entry) | What::Gone(entry) => Some(entry),
            What::Link(_, link) => Some(&link.entry),
        }
    }

    /// Both are known not to be the same thing.
    fn differs(&self, other: &What) -> bool {
        match (self.entry(), other.entry()) {
            (Some(one), Some(other)) => !same_thing(one, other),
            _ => false,
        }
    }

    pub(super) fn is_clean_dir(&self) -> bool {
        matches!(self, What::Clean(entry) | What::Gone(entry) if entry.is_dir())
    }
}

/// Size and allocation of a body that nobody has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LocalSize {
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
}

/// What setting the time of last access has moved. Nothing of it is kept: it lives as long as the inode is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Touched {
    pub atime: Timestamp,
    /// When it was set.
    pub ctime: Timestamp,
}

/// One inode.
#[derive(Debug)]
pub(super) struct Inode {
    /// The kernel's references.
    pub refs: AtomicU64,
    /// Open handles, and clean children that name this directory as their place.
    pub pins: u32,
    /// The kernel was given its bytes with an opening.
    pub given: AtomicBool,
    /// It got other bytes under its number: what the kernel may have kept of the former ones (pages, size) is not right.
    pub outdated: AtomicBool,
    /// The generation in which `what` was found.
    pub generation: u64,
    /// `st_ino`.
    pub shown: u64,
    pub what: What,
    /// Where a clean entry hangs. Others have none: links have many, nodes have theirs in the overlay.
    pub place: Option<(Ino, Name)>,
    /// Since its time of last access was set.
    pub touched: Option<Box<Touched>>,
    /// While the file is open. Changed by [`Inodes::set_file`] only.
    pub file: Option<Arc<FileData>>,
    /// Of a local body while the file is closed, once it was asked for.
    pub local: Mutex<Option<Box<LocalSize>>>,
    /// Of a directory that was looked into.
    dir: Option<Box<DirInode>>,
}

/// What only directories have.
#[derive(Debug, Default)]
pub(super) struct DirInode {
    /// Known clean children, by the hash of the name that stands in their [`Inode::place`].
    clean: HashTable<Ino>,
    /// Generation in which the kernel may have cached the listing.
    pub listed: Option<u64>,
    /// An open handle uses the kernel's cached listing.
    pub listing_cached: bool,
}

/// All inodes.
#[derive(Debug)]
pub(super) struct Inodes {
    map: HashMap<Ino, Box<Inode>>,
    by_node: HashMap<NodeId, Ino>,
    by_link: HashMap<LinkId, Ino>,
    /// Who shows a number as `st_ino`; of several, the last one that is known to be there. Without an entry here it is the
    /// inode of that number, if that shows it ([`Inodes::shower`]).
    by_shown: HashMap<u64, Ino>,
    /// Inodes with an open file: of a million names they are few, and a commit and a reload ask for them again and again.
    open: HashSet<Ino>,
    /// Directories that are not in the overlay.
    clean_dirs: HashSet<Ino>,
    /// Of names. They come from others: their hashes must not be foreseen.
    hasher: RandomState,
}

impl Inodes {
    /// The root alone.
    pub fn new(root: NodeId, generation: u64) -> Inodes {
        let mut inodes = Inodes {
            map: HashMap::new(),
            by_node: HashMap::new(),
            by_link: HashMap::new(),
            by_shown: HashMap::new(),
            open: HashSet::new(),
            clean_dirs: HashSet::new(),
            hasher: RandomState::new(),
        };
        inodes.by_node.insert(root, ROOT_INO);
        inodes.map.insert(
            ROOT_INO,
            Box::new(Inode {
                // The mount itself: never forgotten.
                refs: AtomicU64::new(1),
                shown: ROOT_INO,
                ..Inode::new(What::Node(root), generation)
            }),
        );
        inodes
    }

    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.map.get(&ino).map(AsRef::as_ref)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.map.get_mut(&ino).map(AsMut::as_mut)
    }

    pub fn of_node(&self, node: NodeId) -> Option<Ino> {
        self.by_node.get(&node).copied()
    }

    pub fn of_link(&self, link: LinkId) -> Option<Ino> {
        self.by_link.get(&link).copied()
    }

    /// The file of an inode is open from now on, or closed.
    pub fn set_file(&mut self, ino: Ino, file: Option<Arc<FileData>>) {
        let Some(inode) = self.map.get_mut(&ino) else {
            return;
        };
        match &file {
            Some(_) => self.open.insert(ino),
            None => self.open.remove(&ino),
        };
        inode.file = file;
    }

    /// Those whose file is open.
    pub fn open(&self) -> impl Iterator<Item = (&Inode, &Arc<FileData>)> {
        let inodes = self.open.iter().filter_map(|ino| self.get(*ino));
        inodes.filter_map(|inode| Some((inode, inode.file.as_ref()?)))
    }

    /// Those in the overlay.
    pub fn nodes(&self) -> impl Iterator<Item = (Ino, NodeId, &Inode)> {
        let inodes = self.by_node.iter();
        inodes.filter_map(|(id, ino)| Some((*ino, *id, self.get(*ino)?)))
    }

    /// Directories that are not in the overlay.
    pub fn clean_dirs(&self) -> impl Iterator<Item = Ino> {
        self.clean_dirs.iter().copied()
    }

    /// All of them: as many as the kernel knows names.
    pub fn iter(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        self.map.iter().map(|(ino, inode)| (*ino, inode.as_ref()))
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Fails unless what is noted beside the inodes is what they are, and a node is one inode.
    #[cfg(test)]
    pub fn check(&self) {
        for (ino, inode) in self.iter() {
            assert_eq!(self.open.contains(&ino), inode.file.is_some(), "{ino}");
            assert_eq!(self.clean_dirs.contains(&ino), inode.what.is_clean_dir(), "{ino}");
            if let What::Node(id) = inode.what {
                assert_eq!(self.of_node(id), Some(ino), "node {id}");
            }
        }
        let noted = self
            .open
            .iter()
            .chain(&self.clean_dirs)
            .chain(self.by_node.values());
        noted.for_each(|ino| assert!(self.map.contains_key(ino), "{ino}"));
    }

    /// A new inode without references. A clean entry is entered with its directory, which gets a pin.
    pub fn insert(
        &mut self,
        what: What,
        file_id: FileId,
        place: Option<(Ino, Name)>,
        generation: u64,
    ) -> Ino {
        let ino = self.free_number(file_id, self.whose(&what, place.as_ref(), 0));
        self.enter(ino, &what);
        if let Some((dir, name)) = &place {
            self.hang(ino, *dir, name);
        }
        let inode = Inode {
            place,
            ..Inode::new(what, generation)
        };
        self.map.insert(ino, Box::new(inode));
        self.show(ino, file_id, generation);
        ino
    }

    /// The `st_ino` that an inode of this file id would show: what its id is shown as, unless another inode that is known to
    /// be there shows it (they would look like names of one file), or it is no id. What is Gone but open with other bytes than
    /// a newcomer has counts too: who compares a file that it holds open with what the name leads to (`tail -F`, log readers)
    /// must see that it is another.
    pub fn free_to_show(&self, file_id: FileId, generation: u64, newcomer: Option<&What>) -> Option<u64> {
        let shown = file_id.shown()?;
        let held = self.shower(shown).and_then(|ino| self.get(ino));
        let taken = held.is_some_and(|held| {
            let lives = held.generation == generation && !matches!(held.what, What::Gone(_));
            lives || (held.file.is_some() && newcomer.is_some_and(|newcomer| held.what.differs(newcomer)))
        });
        (!taken).then_some(shown)
    }

    /// The `st_ino` that an inode which is not in the table will show when it is looked up.
    pub fn would_show(&self, file_id: FileId, whose: Whose<'_>, generation: u64) -> u64 {
        self.free_to_show(file_id, generation, None)
            .unwrap_or_else(|| self.spare(file_id, whose))
    }

    /// Settles the `st_ino` of an inode that has just been found to be of this file id.
    pub fn show(&mut self, ino: Ino, file_id: FileId, generation: u64) {
        let Some(inode) = self.map.get(&ino) else { return };
        // Also a spare number stays, or what shows the id and what cannot would change places at a reload.
        let is_its = Some(inode.shown) == file_id.shown() || inode.shown >= FileId::END;
        let right = is_its && self.shower(inode.shown) == Some(ino);
        // Whoever has it open knows it by the number that it shows.
        if right || (inode.shown != 0 && inode.file.is_some()) {
            return;
        }
        let shown = self
            .free_to_show(file_id, generation, Some(&inode.what))
            .or_else(|| self.shower(ino).is_none().then_some(ino))
            .unwrap_or_else(|| {
                let whose = self.whose(&inode.what, inode.place.as_ref(), ino);
                self.spare(file_id, whose)
            });
        let Some(inode) = self.map.get_mut(&ino) else {
            return;
        };
        let before = std::mem::replace(&mut inode.shown, shown);
        if self.by_shown.get(&before) == Some(&ino) {
            self.by_shown.remove(&before);
        }
        if shown == ino {
            self.by_shown.remove(&shown);
        } else {
            self.by_shown.insert(shown, ino);
        }
    }

    /// Who shows a number.
    fn shower(&self, number: u64) -> Option<Ino> {
        let itself = || self.map.get(&number).is_some_and(|inode| inode.shown == number);
        let other = self.by_shown.get(&number).copied();
        other.or_else(|| itself().then_some(number))
    }

    /// The clean child that a directory is known to have under a name.
    pub fn clean_child(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        let clean = &self.map.get(&dir)?.dir.as_ref()?.clean;
        let found = clean.find(self.hasher.hash_one(name), |ino| self.hangs(*ino, dir, name));
        found.copied()
    }

    fn hangs(&self, ino: Ino, dir: Ino, name: &[u8]) -> bool {
        let place = self.place(ino);
        place.is_some_and(|(its, its_name)| *its == dir && its_name.as_bytes() == name)
    }

    fn place(&self, ino: Ino) -> Option<&(Ino, Name)> {
        self.map.get(&ino)?.place.as_ref()
    }

    /// Makes an inode mean something else. A clean entry keeps or gets `place`, others lose theirs.
    pub fn become_(&mut self, ino: Ino, what: What, place: Option<(Ino, Name)>, generation: u64) {
        let Some(inode) = self.map.get_mut(&ino) else {
            return;
        };
        inode.generation = generation;
        *inode.local.get_mut() = None;
        let is_dir = what.is_clean_dir();
        let old = std::mem::replace(&mut inode.what, what);
        if is_dir {
            self.clean_dirs.insert(ino);
        } else if old.is_clean_dir() {
            self.clean_dirs.remove(&ino);
        }
        let old_place = (inode.place != place).then(|| inode.place.take());
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
        let Some(old_place) = old_place else {
            return;
        };
        // A directory has its children under the names that stand with them.
        if let Some((dir, name)) = old_place {
            self.unhang(ino, dir, &name);
        }
        if let Some((dir, name)) = &place {
            self.hang(ino, *dir, name);
        }
        if let Some(inode) = self.map.get_mut(&ino) {
            inode.place = place;
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
            if !self.get(ino).is_some_and(Inode::is_unused) {
                break;
            }
            let Some(inode) = self.map.remove(&ino) else { break };
            self.open.remove(&ino);
            self.clean_dirs.remove(&ino);
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
        if what.is_clean_dir() {
            self.clean_dirs.insert(ino);
        }
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
        let Some(inode) = self.map.get_mut(&dir) else {
            return;
        };
        inode.pins += 1;
        // Taken out meanwhile: the names are with the children, in the same map.
        let mut clean = std::mem::take(&mut inode.dir_mut().clean);
        let hash = self.hasher.hash_one(name.as_bytes());
        let same = |other: &Ino| *other == ino || self.hangs(*other, dir, name.as_bytes());
        match clean.find_mut(hash, same) {
            Some(other) => *other = ino,
            None => {
                clean.insert_unique(hash, ino, |other| {
                    let name = self.place(*other).map(|(_, name)| name.as_bytes());
                    name.map_or(0, |name| self.hasher.hash_one(name))
                });
            }
        }
        if let Some(inode) = self.map.get_mut(&dir) {
            inode.dir_mut().clean = clean;
        }
    }

    fn unhang(&mut self, ino: Ino, dir: Ino, name: &Name) {
        if let Some(dir) = self.map.get_mut(&dir) {
            dir.pins = dir.pins.saturating_sub(1);
            let hash = self.hasher.hash_one(name.as_bytes());
            if let Some(known) = &mut dir.dir
                && let Ok(entry) = known.clean.find_entry(hash, |other| *other == ino)
            {
                entry.remove();
            }
        }
    }

    fn whose<'a>(&self, what: &What, place: Option<&'a (Ino, Name)>, ino: Ino) -> Whose<'a> {
        match (what, place) {
            (What::Node(id), _) => Whose::Node(*id),
            (What::Link(id, _), _) => Whose::Link(*id),
            (_, Some((dir, name))) => self.at(*dir, name.as_bytes()),
            (_, None) => Whose::Inode(ino),
        }
    }

    /// A name in a directory of the table.
    pub fn at<'a>(&self, dir: Ino, name: &'a [u8]) -> Whose<'a> {
        Whose::Place(self.get(dir).map_or(dir, |inode| inode.shown), name)
    }

    fn free_number(&self, file_id: FileId, whose: Whose<'_>) -> Ino {
        let own = file_id.shown().filter(|_| file_id != FileId::ROOT);
        own.filter(|number| !self.map.contains_key(number))
            .unwrap_or_else(|| self.spare(file_id, whose))
    }

    /// A number that is neither known nor shown, nor what any file id is shown as.
    fn spare(&self, file_id: FileId, whose: Whose<'_>) -> u64 {
        const SPARE: u64 = FileId::SHOWN_END - FileId::END;
        // The same in every process of this version: unlike those of names these hashes decide about nothing but a number.
        let mut hasher = DefaultHasher::new();
        (file_id, whose).hash(&mut hasher);
        let mut number = hasher.finish() % SPARE;
        while self.map.contains_key(&(FileId::END + number))
            || self.by_shown.contains_key(&(FileId::END + number))
        {
            number = (number + 1) % SPARE;
        }
        FileId::END + number
    }
}

impl Inode {
    fn new(what: What, generation: u64) -> Inode {
        Inode {
            refs: AtomicU64::new(0),
            pins: 0,
            given: AtomicBool::new(false),
            outdated: AtomicBool::new(false),
            generation,
            shown: 0,
            what,
            place: None,
            touched: None,
            file: None,
            local: Mutex::new(None),
            dir: None,
        }
    }

    /// What it has as a directory.
    pub fn dir_mut(&mut self) -> &mut DirInode {
        self.dir.get_or_insert_default()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Attrs, EntryBody};

    const DIRS: [Ino; 2] = [ROOT_INO, 300];

    fn entry(id: u64, body: EntryBody) -> What {
        let attrs = Attrs {
            file_id: FileId(id),
            ..Attrs::default()
        };
        What::Clean(Box::new(Entry { attrs, body }))
    }

    fn name(number: u8) -> Name {
        Name::new(format!("a name {number}").as_bytes()).unwrap()
    }

    #[test]
    fn there_is_room_for_millions() {
        assert!(size_of::<Entry>() <= 176, "{}", size_of::<Entry>());
        assert!(size_of::<Inode>() <= 128, "{}", size_of::<Inode>());
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// An inode of this file id at a place.
        Insert(u64, usize, u8),
        /// The n-th inode hangs elsewhere, or nowhere.
        Move(usize, Option<(usize, u8)>),
        /// The n-th inode goes.
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (256..300u64, 0..2usize, 0..40u8).prop_map(|(id, dir, name)| Step::Insert(id, dir, name)),
            2 => (0..64usize, proptest::option::of((0..2usize, 0..40u8))).prop_map(|(n, to)| Step::Move(n, to)),
            1 => (0..64usize).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Against a map from places to the inode that was hung there last: names are found by it, a directory stays as
        /// long as something hangs in it, and no number is shown by two.
        #[test]
        fn names_lead_to_the_inode_that_was_hung_there_last(steps in proptest::collection::vec(step(), 1..200)) {
            let mut inodes = Inodes::new(1, 1);
            let dir = inodes.insert(entry(DIRS[1], EntryBody::Fifo), FileId(DIRS[1]), None, 1);
            prop_assert_eq!(dir, DIRS[1]);
            inodes.pin(dir);
            let mut places: HashMap<(Ino, Name), Ino> = HashMap::new();
            let mut all: Vec<(Ino, Option<(Ino, Name)>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(id, dir, number) => {
                        let place = (DIRS[dir], name(number));
                        let ino = inodes.insert(entry(id, EntryBody::Fifo), FileId(id), Some(place.clone()), 1);
                        places.insert(place.clone(), ino);
                        all.push((ino, Some(place)));
                    }
                    Step::Move(n, to) if !all.is_empty() => {
                        let n = n % all.len();
                        let to = to.map(|(dir, number)| (DIRS[dir], name(number)));
                        let (ino, before) = all[n].clone();
                        inodes.become_(ino, entry(0, EntryBody::Socket), to.clone(), 1);
                        if before != to {
                            if let Some(before) = before && places.get(&before) == Some(&ino) {
                                places.remove(&before);
                            }
                            if let Some(to) = &to {
                                places.insert(to.clone(), ino);
                            }
                        }
                        all[n].1 = to;
                    }
                    Step::Remove(n) if !all.is_empty() => {
                        let (ino, place) = all.swap_remove(n % all.len());
                        inodes.remove_unused(ino);
                        if let Some(place) = place && places.get(&place) == Some(&ino) {
                            places.remove(&place);
                        }
                        prop_assert!(inodes.get(ino).is_none());
                    }
                    Step::Move(..) | Step::Remove(_) => {}
                }
                for dir in DIRS {
                    for number in 0..40 {
                        let expected = places.get(&(dir, name(number))).copied();
                        prop_assert_eq!(inodes.clean_child(dir, name(number).as_bytes()), expected);
                    }
                    let hanging = all.iter().filter(|(_, place)| matches!(place, Some((its, _)) if *its == dir));
                    let held = u32::from(dir != ROOT_INO);
                    prop_assert_eq!(inodes.get(dir).map(|inode| inode.pins - held), Some(hanging.count() as u32));
                }
                let shown: std::collections::HashSet<u64> = inodes.iter().map(|(_, inode)| inode.shown).collect();
                prop_assert_eq!(shown.len(), inodes.len());
            }
        }
    }
}
