//! Looking up names and listing directories.
//!
//! Questions over loaded nodes are plain functions that answer `Err(Missing)` when a node is not in memory; the async
//! form of each fetches. A node of the wrong kind counts as missing in the plain form; the async form (and
//! [`answer`]) reports it as damage.
//!
//! Index pages are not believed further than one page: a leaf that a listing goes on to must have something for it, and
//! a page stands in a directory once, so that work and memory are bounded by the nodes there are.

use std::collections::HashSet;
use std::sync::Arc;

use super::fetch::{self, FETCHES_MAX, Opened, answer, child_of};
use super::{Missing, NodeSource, TreeError};
use crate::format::{IndexPage, Node};
use crate::model::{
    DirPage, DirTree, Entry, GivenPath, Hash, Name, PackRef, PageTree, Ptr, TreeRoot, VolPath,
};

/// Where a listing goes on.
#[derive(Clone, Copy, Debug)]
pub enum ListFrom<'a> {
    /// At the first entry.
    Start,
    /// At the first entry whose name is greater.
    After(&'a [u8]),
    /// At the entry of this number, from 0, in name order.
    Ordinal(u64),
}

/// Entries that stand together in one leaf of a directory.
#[derive(Clone, Debug)]
pub struct Run {
    leaf: Arc<DirPage>,
    from: usize,
    ordinal: u64,
}

impl Run {
    /// The entries; never empty.
    pub fn entries(&self) -> &[(Name, Entry)] {
        &self.leaf.entries[self.from..]
    }

    /// Number of the first one in the whole directory.
    pub fn first_ordinal(&self) -> u64 {
        self.ordinal
    }
}

/// One leaf of a directory.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Number of its first entry in the whole directory.
    pub ordinal: u64,
    /// Entries in it.
    pub count: u64,
    /// `Inline`, or a `Stored` dir page.
    pub tree: DirTree,
}

/// The entry of that name, over loaded nodes.
///
/// # Errors
/// The node that has to be fetched first.
pub fn lookup_loaded(src: &dyn NodeSource, dir: &DirTree, name: &[u8]) -> Result<Option<Entry>, Missing> {
    let mut part = Part::Memory(dir);
    loop {
        match step(src, &part)? {
            Step::Leaf(page) => return Ok(page.get(name).cloned()),
            Step::Branch(branch) => match branch.find(name) {
                Some(at) => part = branch.child(at),
                None => return Ok(None),
            },
        }
    }
}

/// The entry of that name.
pub async fn lookup(src: &dyn NodeSource, dir: &DirTree, name: &[u8]) -> Result<Option<Entry>, TreeError> {
    answer(src, |loaded| lookup_loaded(loaded, dir, name)).await
}

/// The entry at a path, `/` itself for the empty one. Does not follow symbolic links; a hard link comes as
/// [`crate::model::EntryBody::HardLink`].
pub async fn walk(src: &dyn NodeSource, root: &TreeRoot, path: &VolPath) -> Result<Option<Entry>, TreeError> {
    let mut entry = root.as_entry();
    for name in &path.0 {
        let Some((_, tree)) = entry.as_dir() else {
            return Ok(None);
        };
        match lookup(src, tree, name.as_bytes()).await? {
            Some(next) => entry = next,
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// The path that somebody means who gave it as it is shown, or by its bytes: where the two differ, whichever is there, and
/// what is shown if both are or none.
///
/// # Errors
/// A directory on the way cannot be had.
pub async fn path_given(
    src: &dyn NodeSource,
    root: &TreeRoot,
    given: &GivenPath,
) -> Result<VolPath, TreeError> {
    if given.is_plain() {
        return Ok(given.meant());
    }
    let mut path = VolPath::root();
    for (meant, bytes) in given.names() {
        let as_shown = path.join(meant);
        path = match bytes {
            Some(bytes) if walk(src, root, &as_shown).await?.is_none() => {
                let as_bytes = path.join(bytes);
                match walk(src, root, &as_bytes).await? {
                    Some(_) => as_bytes,
                    None => as_shown,
                }
            }
            _ => as_shown,
        };
    }
    Ok(path)
}

/// The entries of one leaf from a place on, over loaded nodes; `None` at the end of the directory. To go on, ask with
/// `After` the last name or with `Ordinal` the first number plus the length.
///
/// # Errors
/// The node that has to be fetched first.
pub fn run_loaded(src: &dyn NodeSource, dir: &DirTree, from: ListFrom<'_>) -> Result<Option<Run>, Missing> {
    // Children that are still to be looked at if those before them have nothing: at most one per level, the rest of a
    // branch is in its number.
    let mut pending: Vec<(Branch<'_>, usize, u64)> = Vec::new();
    let mut part = Part::Memory(dir);
    let mut before = 0;
    // Leaves below stored index pages that were looked at in vain.
    let mut in_vain = 0;
    loop {
        match step(src, &part)? {
            Step::Leaf(page) => {
                let at = match from {
                    ListFrom::Start => 0,
                    ListFrom::After(name) => page.entries.partition_point(|(n, _)| n.as_bytes() <= name),
                    ListFrom::Ordinal(n) => usize::try_from(n.saturating_sub(before)).unwrap_or(usize::MAX),
                };
                if at < page.entries.len() {
                    return Ok(Some(Run {
                        leaf: page,
                        from: at,
                        ordinal: before.saturating_add(at as u64),
                    }));
                }
                // The first one may end before the place that was asked for; those behind it begin after it.
                if let Part::Stored { ptr, .. } = part {
                    in_vain += 1;
                    if in_vain > 1 {
                        return Err(Missing(ptr));
                    }
                }
            }
            Step::Branch(branch) => {
                let at = match from {
                    ListFrom::Start => 0,
                    ListFrom::After(name) => branch.find(name).unwrap_or(0),
                    ListFrom::Ordinal(n) => branch.find_ordinal(n.saturating_sub(before)),
                };
                let skipped = (0..at).fold(0u64, |sum, i| sum.saturating_add(branch.count(i)));
                pending.push((branch, at, before.saturating_add(skipped)));
            }
        }
        // The next child in order.
        loop {
            let Some((branch, at, start)) = pending.last_mut() else {
                return Ok(None);
            };
            if *at < branch.len() {
                before = *start;
                *start = start.saturating_add(branch.count(*at));
                part = branch.child(*at);
                *at += 1;
                break;
            }
            pending.pop();
        }
    }
}

/// The entries of one leaf from a place on.
pub async fn run(src: &dyn NodeSource, dir: &DirTree, from: ListFrom<'_>) -> Result<Option<Run>, TreeError> {
    answer(src, |loaded| run_loaded(loaded, dir, from)).await
}

/// A part of a directory that is being opened level by level.
struct Branching {
    tree: DirTree,
    /// Level of the index page that names it, and entries that it gives it.
    below: Option<(u8, u64)>,
}

/// All leaves of a directory in order, without fetching them; fetches its index pages.
pub async fn leaves(src: &dyn NodeSource, dir: &DirTree) -> Result<Vec<Leaf>, TreeError> {
    let mut level = vec![Branching {
        tree: dir.clone(),
        below: None,
    }];
    let mut once = Once::default();
    // One round for each level of index pages; a part that is a leaf already stays what it is.
    while level.iter().any(|part| !is_leaf(&part.tree)) {
        let ptrs: Vec<Ptr> = level.iter().filter_map(|part| stored_index(&part.tree)).collect();
        let mut fetched = fetch::nodes(src, &ptrs).await?.into_iter();
        let mut next = Vec::new();
        for part in level {
            let pages = match (&part.tree, stored_index(&part.tree)) {
                (DirTree::Pages(pages), _) => pages.clone(),
                (_, Some(ptr)) => {
                    let node = fetched.next().ok_or_else(|| fetch::wrong_kind(&ptr))?;
                    let below = part.below.map(|(level, _)| level);
                    fetch::page_tree(&*fetch::index_page(&ptr, &node, below)?)
                }
                _ => {
                    next.push(part);
                    continue;
                }
            };
            for slot in pages.slots.iter() {
                once.check(&slot.child)?;
                next.push(Branching {
                    tree: slot.child.clone(),
                    below: Some((pages.level, slot.count)),
                });
            }
        }
        level = next;
    }
    let mut leaves = Vec::with_capacity(level.len());
    let mut ordinal = 0u64;
    for Branching { tree, below } in level {
        let count = match (below, &tree) {
            (Some((_, count)), _) => count,
            (None, DirTree::Inline(page)) => page.entries.len() as u64,
            (None, _) => leaf_page(src, &tree).await?.entries.len() as u64,
        };
        leaves.push(Leaf { ordinal, count, tree });
        ordinal = ordinal.saturating_add(count);
    }
    Ok(leaves)
}

/// The stored pages of one directory: each stands in it once.
#[derive(Default)]
pub(crate) struct Once(HashSet<(PackRef, Hash)>);

impl Once {
    /// # Errors
    /// `Damaged` for a page that was there before.
    pub(crate) fn check(&mut self, part: &DirTree) -> Result<(), TreeError> {
        match stored(part) {
            Some(ptr) if !self.0.insert((ptr.pack, ptr.hash)) => {
                Err(fetch::damaged(&ptr, "the page stands twice in one directory"))
            }
            _ => Ok(()),
        }
    }
}

/// Brings leaves into the source's memory, [`FETCHES_MAX`] at a time, as far as they are not there.
pub async fn prefetch(src: &dyn NodeSource, leaves: &[Leaf]) -> Result<(), TreeError> {
    let missing: Vec<Ptr> = leaves
        .iter()
        .filter_map(|leaf| match &leaf.tree {
            DirTree::Stored { ptr, .. } if src.loaded(ptr).is_none() => Some(**ptr),
            _ => None,
        })
        .collect();
    for some in missing.chunks(FETCHES_MAX) {
        fetch::nodes(src, some).await?;
    }
    Ok(())
}

/// All entries. For directories that may be large use [`run`] or [`leaves`].
pub async fn entries(src: &dyn NodeSource, dir: &DirTree) -> Result<Vec<(Name, Entry)>, TreeError> {
    let leaves = leaves(src, dir).await?;
    let ptrs: Vec<Ptr> = leaves.iter().filter_map(|leaf| stored(&leaf.tree)).collect();
    let mut fetched = fetch::nodes(src, &ptrs).await?.into_iter();
    let mut all = Vec::new();
    for leaf in &leaves {
        match (&leaf.tree, stored(&leaf.tree)) {
            (DirTree::Inline(page), _) => all.extend_from_slice(&page.entries),
            (_, Some(ptr)) => {
                let node = fetched.next().ok_or_else(|| fetch::wrong_kind(&ptr))?;
                let page = fetch::dir_page(&ptr, &node)?;
                let ends = all.last().map(|(name, _): &(Name, Entry)| name);
                let begins = page.entries.first().map(|(name, _)| name);
                if ends.zip(begins).is_some_and(|(ends, begins)| ends >= begins) {
                    return Err(fetch::damaged(
                        &ptr,
                        "its names do not follow those of the page before",
                    ));
                }
                all.extend_from_slice(&page.entries);
            }
            _ => {}
        }
    }
    Ok(all)
}

/// Number of entries. Fetches at most one node.
pub async fn count(src: &dyn NodeSource, dir: &DirTree) -> Result<u64, TreeError> {
    Ok(match fetch::open(src, dir, None).await? {
        Opened::Leaf(page) => page.entries.len() as u64,
        Opened::Pages(pages) => pages
            .slots
            .iter()
            .fold(0, |sum, slot| sum.saturating_add(slot.count)),
    })
}

/// True when there are no entries. Fetches at most one node.
pub async fn is_empty(src: &dyn NodeSource, dir: &DirTree) -> Result<bool, TreeError> {
    Ok(count(src, dir).await? == 0)
}

/// The entries of one leaf of [`leaves`].
pub async fn leaf_entries(src: &dyn NodeSource, leaf: &Leaf) -> Result<Arc<DirPage>, TreeError> {
    leaf_page(src, &leaf.tree).await
}

async fn leaf_page(src: &dyn NodeSource, tree: &DirTree) -> Result<Arc<DirPage>, TreeError> {
    match fetch::open(src, tree, None).await? {
        Opened::Leaf(page) => Ok(page),
        Opened::Pages(_) => Err(TreeError::Damaged {
            object: "a leaf of a directory".to_owned(),
            rule: "it is an index page".to_owned(),
        }),
    }
}

fn is_leaf(tree: &DirTree) -> bool {
    matches!(tree, DirTree::Inline(_) | DirTree::Stored { index: false, .. })
}

fn stored_index(tree: &DirTree) -> Option<Ptr> {
    match tree {
        DirTree::Stored { ptr, index: true } => Some(**ptr),
        _ => None,
    }
}

fn stored(tree: &DirTree) -> Option<Ptr> {
    match tree {
        DirTree::Stored { ptr, .. } => Some(**ptr),
        _ => None,
    }
}

/// A part of a directory: held by whoever asks, or named by a stored index page.
enum Part<'a> {
    Memory(&'a DirTree),
    Stored { ptr: Ptr, below: u8 },
}

/// What a part is.
enum Step<'a> {
    Leaf(Arc<DirPage>),
    Branch(Branch<'a>),
}

/// The children of an index page, without a copy of them.
enum Branch<'a> {
    Memory(&'a PageTree),
    Stored(Arc<IndexPage>),
}

fn step<'a>(src: &dyn NodeSource, part: &Part<'a>) -> Result<Step<'a>, Missing> {
    let (ptr, index, below) = match part {
        Part::Memory(DirTree::Inline(page)) => return Ok(Step::Leaf(page.clone())),
        Part::Memory(DirTree::Pages(pages)) => return Ok(Step::Branch(Branch::Memory(pages))),
        Part::Memory(DirTree::Stored { ptr, index }) => (**ptr, *index, None),
        Part::Stored { ptr, below } => (*ptr, *below > 1, Some(*below)),
    };
    match &*src.loaded(&ptr).ok_or(Missing(ptr))? {
        Node::Dir(page) if !index => Ok(Step::Leaf(page.clone())),
        Node::Index(page) if index && below.is_none_or(|level| page.level + 1 == level) => {
            Ok(Step::Branch(Branch::Stored(page.clone())))
        }
        _ => Err(Missing(ptr)),
    }
}

impl<'a> Branch<'a> {
    fn len(&self) -> usize {
        match self {
            Branch::Memory(pages) => pages.slots.len(),
            Branch::Stored(page) => page.slots.len(),
        }
    }

    fn count(&self, at: usize) -> u64 {
        match self {
            Branch::Memory(pages) => pages.slots[at].count,
            Branch::Stored(page) => page.slots[at].count,
        }
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        child_of(self.len(), name, |at| match self {
            Branch::Memory(pages) => &pages.slots[at].first_key,
            Branch::Stored(page) => &page.slots[at].first_key,
        })
    }

    fn find_ordinal(&self, ordinal: u64) -> usize {
        let mut left = ordinal;
        for at in 0..self.len() {
            if left < self.count(at) {
                return at;
            }
            left -= self.count(at);
        }
        self.len()
    }

    fn child(&self, at: usize) -> Part<'a> {
        match self {
            Branch::Memory(pages) => Part::Memory(&pages.slots[at].child),
            Branch::Stored(page) => Part::Stored {
                ptr: page.slots[at].ptr,
                below: page.level,
            },
        }
    }
}
