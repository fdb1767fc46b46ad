//! The paths of what is damaged.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::referred::Content;
use super::report::{DAMAGE_MAX, Damage, FsckReport, PATHS_MAX};
use crate::model::{Entry, EntryBody, Hash, LinkId, PackRef, Ptr, TreeRoot};
use crate::tree::{self, Item, Place, TreeError, Visit, Visitor};
use crate::volume::RemoteSource;

/// How often each node was entered: one that is stored once for many names need not be entered more often than paths
/// are named.
#[derive(Default)]
struct Entered(HashMap<(PackRef, Hash), usize>);

impl Entered {
    fn enter(&mut self, ptr: &Ptr) -> Visit {
        let times = self.0.entry((ptr.pack, ptr.hash)).or_default();
        *times += 1;
        match *times > PATHS_MAX {
            true => Visit::Skip,
            false => Visit::Enter,
        }
    }
}

/// Finds the paths of damaged contents.
struct Namer<'a> {
    wanted: &'a HashMap<Content, usize>,
    damage: &'a mut Vec<Damage>,
    /// Inodes with several names that are concerned, and by which piece of damage.
    inodes: HashMap<LinkId, HashSet<usize>>,
    /// The names of inodes are looked for, not contents.
    second: bool,
    entered: Entered,
}

impl Namer<'_> {
    fn found(&mut self, place: Place<'_>, content: Option<Content>) {
        let Some(index) = content.and_then(|content| self.wanted.get(&content).copied()) else {
            return;
        };
        match place {
            Place::Inode(id) => {
                self.inodes.entry(*id).or_default().insert(index);
            }
            place => self.name(index, place),
        }
    }

    fn name(&mut self, index: usize, place: Place<'_>) {
        if let Some(damage) = self.damage.get_mut(index) {
            damage.name(place.to_string());
        }
    }
}

impl Visitor for Namer<'_> {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(ptr) => return self.entered.enter(ptr),
            Item::Entry(Entry {
                body: EntryBody::HardLink(id),
                ..
            }) if self.second => {
                for index in self.inodes.get(id).cloned().unwrap_or_default() {
                    self.name(index, place);
                }
            }
            Item::Chunk(chunk, len) if !self.second => self.found(place, Content::of(chunk, len)),
            Item::Xattrs(blob, len) if !self.second => self.found(place, Some(Content::of_blob(blob, len))),
            _ => {}
        }
        Visit::Enter
    }

    fn trouble(&mut self, _place: Place<'_>, _error: TreeError) -> Visit {
        // Told by the first walk.
        Visit::Skip
    }
}

/// Names the paths of damaged contents in one tree.
pub(super) async fn name_damaged(
    nodes: &RemoteSource,
    root: &TreeRoot,
    damaged: &HashMap<Content, usize>,
    report: &mut FsckReport,
) {
    let mut namer = Namer {
        wanted: damaged,
        damage: &mut report.damage,
        inodes: HashMap::new(),
        second: false,
        entered: Entered::default(),
    };
    tree::visit(nodes, root, &mut namer).await;
    if !namer.inodes.is_empty() {
        namer.second = true;
        namer.entered = Entered::default();
        tree::visit(nodes, root, &mut namer).await;
    }
}

/// Names the files whose inodes cannot be read, for damage that was met in the links tree.
pub(super) async fn name_lost(
    nodes: &RemoteSource,
    root: &TreeRoot,
    links: &String,
    report: &mut FsckReport,
) {
    let mut names = LinkNames::default();
    tree::visit(nodes, root, &mut names).await;
    let mut lost = Vec::new();
    for (id, paths) in names.found {
        if let Err(TreeError::Damaged { .. } | TreeError::Expired { .. }) =
            tree::link(nodes, &root.links, &id).await
        {
            lost.extend(paths);
        }
    }
    lost.sort_unstable();
    let concerned = report
        .damage
        .iter_mut()
        .filter(|damage| damage.paths.contains(links));
    for damage in concerned {
        lost.iter().for_each(|path| damage.name(path.clone()));
    }
}

/// Names the files of inodes that break a rule themselves: `inode ID` among the paths says which.
pub(super) async fn name_inodes(nodes: &RemoteSource, root: &TreeRoot, report: &mut FsckReport) {
    let mut names = LinkNames::default();
    tree::visit(nodes, root, &mut names).await;
    let shown: BTreeMap<String, &Vec<String>> = names
        .found
        .iter()
        .map(|(id, paths)| (Place::Inode(id).to_string(), paths))
        .collect();
    for damage in &mut report.damage {
        let concerned: Vec<String> = damage
            .paths
            .iter()
            .filter_map(|path| shown.get(path))
            .flat_map(|paths| paths.iter().cloned())
            .collect();
        concerned.into_iter().for_each(|path| damage.name(path));
    }
}

/// Collects the names of inodes with several, [`DAMAGE_MAX`] at most.
#[derive(Default)]
struct LinkNames {
    found: BTreeMap<LinkId, Vec<String>>,
    count: usize,
    entered: Entered,
}

impl Visitor for LinkNames {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(ptr) => return self.entered.enter(ptr),
            Item::Entry(Entry {
                body: EntryBody::HardLink(id),
                ..
            }) => {
                if self.count >= DAMAGE_MAX {
                    return Visit::Stop;
                }
                self.count += 1;
                self.found.entry(*id).or_default().push(place.to_string());
            }
            _ => {}
        }
        Visit::Enter
    }

    fn trouble(&mut self, _place: Place<'_>, _error: TreeError) -> Visit {
        // Told by the first walk.
        Visit::Skip
    }
}
