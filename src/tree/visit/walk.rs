//! The walk itself: directories, and what their entries refer to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::pages::{Page, Repeats, SeenLeaf};
use super::{Item, Place, Visit, Visitor};
use crate::format::Node;
use crate::model::{
    DirTree, Entry, EntryBody, Hash, LinkId, Name, PATH_DEPTH_MAX, PackRef, Totals, TreeRoot, VolPath, Xattrs,
};
use crate::tree::fetch::{self, FETCHES_MAX};
use crate::tree::totals::{plus, recount};
use crate::tree::{NodeSource, TreeError};

/// Shows all of a tree to a visitor: directories before what they hold, at most [`FETCHES_MAX`] nodes being fetched at
/// a time. Nothing is shown twice because of the walk itself; what the tree names twice comes twice. Returns false when
/// the visitor stopped it.
pub async fn visit(src: &dyn NodeSource, root: &TreeRoot, visitor: &mut dyn Visitor) -> bool {
    let mut walk = Walk::new(src, visitor);
    walk.all(root).await.is_ok()
}

/// The same of a directory alone whose totals are not known.
pub async fn visit_dir(src: &dyn NodeSource, tree: &DirTree, visitor: &mut dyn Visitor) -> bool {
    let mut walk = Walk::new(src, visitor);
    walk.dirs.push(Dir {
        path: VolPath::root(),
        tree: tree.clone(),
        totals: None,
    });
    walk.all_dirs().await.is_ok()
}

/// The visitor wants no more.
pub(super) struct Stopped;

/// A directory still to be gone through.
struct Dir {
    path: VolPath,
    tree: DirTree,
    /// What it is said to hold, if somebody said so.
    totals: Option<Totals>,
}

pub(super) struct Walk<'a> {
    pub src: &'a dyn NodeSource,
    pub visitor: &'a mut dyn Visitor,
    dirs: Vec<Dir>,
    /// Names seen of each inode with several.
    pub names: BTreeMap<LinkId, u64>,
    /// Nothing was skipped and all was readable of the directory, content or links tree at hand.
    pub complete: bool,
    /// The same of the names of all directories.
    pub all_names: bool,
    /// What stored directories hold that were complete.
    pub sums: HashMap<(PackRef, Hash), Totals>,
    /// Leaves of directories that were gone through, without those that have hard links below them.
    pub leaves_seen: HashMap<(PackRef, Hash), SeenLeaf>,
}

impl<'a> Walk<'a> {
    fn new(src: &'a dyn NodeSource, visitor: &'a mut dyn Visitor) -> Walk<'a> {
        Walk {
            src,
            visitor,
            dirs: Vec::new(),
            names: BTreeMap::new(),
            complete: true,
            all_names: true,
            sums: HashMap::new(),
            leaves_seen: HashMap::new(),
        }
    }
}

impl Walk<'_> {
    pub(super) async fn all(&mut self, root: &TreeRoot) -> Result<(), Stopped> {
        let path = VolPath::root();
        self.xattrs(Place::Dir(&path), &root.attrs.xattrs)?;
        self.dirs.push(Dir {
            path,
            tree: root.tree.clone(),
            totals: Some(root.totals),
        });
        self.all_dirs().await?;
        self.links(&root.links).await
    }

    pub(super) async fn all_dirs(&mut self) -> Result<(), Stopped> {
        while !self.dirs.is_empty() {
            // Some directories at once, so that their nodes are fetched together; from the end, so that what waits
            // stays little.
            let mut batch = self.dirs.split_off(self.dirs.len().saturating_sub(FETCHES_MAX));
            batch.reverse();
            let stored = batch.iter().filter_map(|dir| match &dir.tree {
                DirTree::Stored { ptr, .. } => Some((Place::Dir(&dir.path), Page::root(**ptr))),
                _ => None,
            });
            let stored: Vec<(Place<'_>, Page)> = stored.collect();
            let mut nodes = self
                .read(stored.iter().map(|(place, page)| (*place, page)))
                .await?
                .into_iter();
            for dir in &batch {
                let node = match dir.tree {
                    DirTree::Stored { .. } => nodes.next().flatten(),
                    _ => None,
                };
                self.dir(dir, node).await?;
            }
        }
        Ok(())
    }

    pub(super) fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Result<(), Stopped> {
        self.complete = false;
        match self.visitor.trouble(place, error) {
            Visit::Stop => Err(Stopped),
            Visit::Enter | Visit::Skip => Ok(()),
        }
    }

    pub(super) fn require(&mut self, place: Place<'_>, holds: bool, rule: &str) -> Result<(), Stopped> {
        if holds {
            return Ok(());
        }
        self.trouble(
            place,
            TreeError::Damaged {
                object: place.to_string(),
                rule: rule.to_owned(),
            },
        )
    }

    /// `node`: that of a stored directory, unless it was skipped or could not be read.
    async fn dir(&mut self, dir: &Dir, mut node: Option<Arc<Node>>) -> Result<(), Stopped> {
        let place = Place::Dir(&dir.path);
        let first = self.dirs.len();
        self.complete = true;
        let mut sum = Totals::default();
        // Parts of a directory that is being edited; a stored one is one part.
        let mut parts = vec![dir.tree.clone()];
        let stored = match &dir.tree {
            DirTree::Stored { ptr, .. } => Some((ptr.pack, ptr.hash)),
            _ => None,
        };
        if let Some(id) = stored
            && node.is_none()
        {
            parts.clear();
            match self.sums.get(&id) {
                // Its names were shown before; those of hard links would have to be counted again.
                Some(known) if known.links == 0 => sum = *known,
                _ => self.complete = false,
            }
        }
        while let Some(part) = parts.pop() {
            match part {
                DirTree::Inline(page) => sum = plus(sum, self.entries(&dir.path, &page.entries).await?),
                DirTree::Pages(pages) => {
                    parts.extend(pages.slots.iter().rev().map(|slot| slot.child.clone()))
                }
                DirTree::Stored { ptr, .. } => {
                    let leaves = self
                        .leaves(
                            place,
                            Page {
                                node: node.take(),
                                ..Page::root(*ptr)
                            },
                            Repeats::Never,
                        )
                        .await?;
                    for some in leaves.chunks(FETCHES_MAX) {
                        for (page, node) in some
                            .iter()
                            .zip(self.read(some.iter().map(|page| (place, page))).await?)
                        {
                            let Some(node) = node else {
                                if let Some(seen) = self.leaves_seen.get(&page.id()).cloned() {
                                    let keys = seen.ends.iter().flat_map(|(first, last)| [first, last]);
                                    self.check_leaf(place, page, seen.count, keys.map(Name::as_bytes))?;
                                    sum = plus(sum, seen.sum);
                                }
                                continue;
                            };
                            match fetch::dir_page(&page.ptr, &node) {
                                Ok(leaf) => {
                                    let keys = leaf.entries.iter().map(|(name, _)| name.as_bytes());
                                    self.check_leaf(place, page, leaf.entries.len() as u64, keys)?;
                                    let part = self.entries(&dir.path, &leaf.entries).await?;
                                    if part.links == 0 {
                                        let seen = SeenLeaf::of(&leaf.entries, part);
                                        self.leaves_seen.insert(page.id(), seen);
                                    }
                                    sum = plus(sum, part);
                                }
                                Err(error) => self.trouble(place, error)?,
                            }
                        }
                    }
                }
            }
        }
        if self.complete {
            self.require(
                place,
                dir.totals.is_none_or(|totals| totals == sum),
                "its totals are not the sum over its entries",
            )?;
        }
        if let Some(id) = stored.filter(|_| self.complete) {
            self.sums.insert(id, sum);
        }
        self.all_names &= self.complete;
        // The next ones are taken from the end; paths are to come in order, as far as batches let them.
        self.dirs[first..].reverse();
        Ok(())
    }

    /// Shows entries of a directory and notes its subdirectories; gives what the entries count for.
    pub(super) async fn entries(
        &mut self,
        dir: &VolPath,
        entries: &[(Name, Entry)],
    ) -> Result<Totals, Stopped> {
        for (name, entry) in entries {
            let place = Place::Entry(dir, name);
            // What a visitor skips here is complete all the same: the entry says what it counts for.
            match self.visitor.item(place, Item::Entry(entry)) {
                Visit::Enter => {}
                Visit::Skip => {
                    self.all_names &= !entry.is_dir();
                    continue;
                }
                Visit::Stop => return Err(Stopped),
            }
            self.xattrs(place, &entry.attrs.xattrs)?;
            match &entry.body {
                EntryBody::File { size, content } => self.content(place, *size, content).await?,
                EntryBody::Dir { .. } if dir.0.len() >= PATH_DEPTH_MAX => {
                    self.all_names = false;
                    self.trouble(
                        place,
                        TreeError::Limit {
                            what: "directories of a path",
                            limit: PATH_DEPTH_MAX as u64,
                        },
                    )?;
                }
                EntryBody::Dir { totals, tree } => {
                    self.dirs.push(Dir {
                        path: dir.join(name),
                        tree: tree.clone(),
                        totals: Some(*totals),
                    });
                }
                EntryBody::HardLink(id) => *self.names.entry(*id).or_default() += 1,
                _ => {}
            }
        }
        Ok(recount(entries))
    }

    pub(super) fn xattrs(&mut self, place: Place<'_>, xattrs: &Xattrs) -> Result<(), Stopped> {
        match xattrs {
            Xattrs::OutOfLine { blob, raw_len } => self.found(place, Item::Xattrs(blob, u64::from(*raw_len))),
            Xattrs::None | Xattrs::Inline(_) => Ok(()),
        }
    }

    /// Shows something that there is nothing below.
    pub(super) fn found(&mut self, place: Place<'_>, item: Item<'_>) -> Result<(), Stopped> {
        match self.visitor.item(place, item) {
            Visit::Enter | Visit::Skip => Ok(()),
            Visit::Stop => Err(Stopped),
        }
    }
}
