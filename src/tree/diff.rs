//! What differs between two trees.
//!
//! Equal pointers prune, below the level of directories too: of two index-paged directories only pages that are not in
//! both are read. So the cost is that of the changed pages.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::fetch;
use super::list::Once;
use super::same::{same_attrs, same_body, same_entry, same_xattrs};
use super::{NodeSource, TreeError};
use crate::model::{
    Attrs, DirPage, DirTree, Entry, EntryBody, Hash, Name, PATH_DEPTH_MAX, Ptr, TreeRoot, VolPath,
};

/// One name of two directories, with its entry in the first and in the second.
pub type NameDiff = (Name, Option<Entry>, Option<Entry>);

/// Names whose entries may differ, sorted. Entries are compared without locations; two subdirectories with unequal
/// pointers are reported although they may hold the same. A name that is reported has an entry on at least one side.
pub async fn diff_dirs(src: &dyn NodeSource, a: &DirTree, b: &DirTree) -> Result<Vec<NameDiff>, TreeError> {
    if a.same_pointer(b) {
        return Ok(Vec::new());
    }
    let mut a = vec![a.clone()];
    let mut b = vec![b.clone()];
    let (mut once_a, mut once_b) = (Once::default(), Once::default());
    loop {
        prune(&mut a, &mut b);
        // The highest index pages are opened first, so that pages are pruned against pages of their own level.
        open_roots(src, &mut a, &mut b).await?;
        let level = a.iter().chain(&b).filter_map(level).max();
        let Some(level) = level else { break };
        expand(&mut a, level, &mut once_a)?;
        expand(&mut b, level, &mut once_b)?;
    }
    let a = leaves(src, a).await?;
    let b = leaves(src, b).await?;
    Ok(join(
        a.iter().flat_map(|p| &p.entries),
        b.iter().flat_map(|p| &p.entries),
    ))
}

/// Takes out what both sides hold: the leaves of a side have no name in common, so an equal one takes nothing from
/// what is to be compared with others.
fn prune(a: &mut Vec<DirTree>, b: &mut Vec<DirTree>) {
    let keys = |side: &[DirTree]| -> HashSet<Identity> { side.iter().map(identity).collect() };
    let (in_a, in_b) = (keys(a), keys(b));
    a.retain(|tree| !in_b.contains(&identity(tree)));
    b.retain(|tree| !in_a.contains(&identity(tree)));
}

/// Same value: same stored node or same piece of memory.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Node(Hash),
    Memory(usize),
}

fn identity(tree: &DirTree) -> Identity {
    match tree {
        DirTree::Stored { ptr, .. } => Identity::Node(ptr.hash),
        DirTree::Inline(page) => Identity::Memory(Arc::as_ptr(page) as usize),
        DirTree::Pages(pages) => Identity::Memory(Arc::as_ptr(&pages.slots) as usize),
    }
}

/// Level of an opened index page.
fn level(tree: &DirTree) -> Option<u8> {
    match tree {
        DirTree::Pages(pages) => Some(pages.level),
        _ => None,
    }
}

/// Fetches the stored index pages, all at once.
async fn open_roots(src: &dyn NodeSource, a: &mut [DirTree], b: &mut [DirTree]) -> Result<(), TreeError> {
    let mut places: Vec<(&mut DirTree, Ptr)> = Vec::new();
    for tree in a.iter_mut().chain(b.iter_mut()) {
        if let DirTree::Stored { ptr, index: true } = tree {
            let ptr = **ptr;
            places.push((tree, ptr));
        }
    }
    let ptrs: Vec<Ptr> = places.iter().map(|(_, ptr)| *ptr).collect();
    let nodes = fetch::nodes(src, &ptrs).await?;
    for ((tree, ptr), node) in places.into_iter().zip(nodes) {
        *tree = DirTree::Pages(fetch::page_tree(&*fetch::index_page(&ptr, &node, None)?));
    }
    Ok(())
}

/// Puts the children of opened index pages of this level in their places.
fn expand(side: &mut Vec<DirTree>, of: u8, once: &mut Once) -> Result<(), TreeError> {
    let mut expanded = Vec::with_capacity(side.len());
    for tree in side.drain(..) {
        match tree {
            DirTree::Pages(pages) if pages.level == of => {
                for slot in pages.slots.iter() {
                    once.check(&slot.child)?;
                    expanded.push(slot.child.clone());
                }
            }
            other => expanded.push(other),
        }
    }
    *side = expanded;
    Ok(())
}

async fn leaves(src: &dyn NodeSource, side: Vec<DirTree>) -> Result<Vec<Arc<DirPage>>, TreeError> {
    let ptrs: Vec<Ptr> = side
        .iter()
        .filter_map(|tree| match tree {
            DirTree::Stored { ptr, .. } => Some(**ptr),
            _ => None,
        })
        .collect();
    let mut nodes = fetch::nodes(src, &ptrs).await?.into_iter();
    let mut pages = Vec::with_capacity(side.len());
    for tree in side {
        match tree {
            DirTree::Inline(page) => pages.push(page),
            DirTree::Stored { ptr, .. } => {
                let node = nodes.next().ok_or_else(|| fetch::wrong_kind(&ptr))?;
                pages.push(fetch::dir_page(&ptr, &node)?);
            }
            // `diff_dirs` has expanded all of them.
            DirTree::Pages(_) => {}
        }
    }
    Ok(pages)
}

/// Merges two sorted runs of entries.
fn join<'a>(
    a: impl Iterator<Item = &'a (Name, Entry)>,
    b: impl Iterator<Item = &'a (Name, Entry)>,
) -> Vec<NameDiff> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut differing = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return differing,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((x, _)), Some((y, _))) => x.cmp(y),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        let equal = matches!((left, right), (Some((_, x)), Some((_, y))) if same_entry(x, y));
        if let (false, Some((name, _))) = (equal, left.or(right)) {
            differing.push((
                name.clone(),
                left.map(|(_, e)| e.clone()),
                right.map(|(_, e)| e.clone()),
            ));
        }
    }
}

/// Which registers of an entry differ. All false for a directory of which only the children differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// Bytes of a file, target of a symbolic link, number of a device, link id of a hard link; or the kind is another.
    pub content: bool,
    /// Permission bits.
    pub mode: bool,
    /// User or group.
    pub owner: bool,
    /// Modification time.
    pub mtime: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Registers {
    /// What differs between two entries, directories' children aside. File ids and change times are no registers.
    pub fn between(a: &Entry, b: &Entry) -> Registers {
        let both_dirs = a.is_dir() && b.is_dir();
        let content = !both_dirs && !same_body(&a.body, &b.body);
        if matches!(
            (&a.body, &b.body),
            (EntryBody::HardLink(_), EntryBody::HardLink(_))
        ) {
            return Registers {
                content,
                ..Registers::default()
            };
        }
        Registers {
            content,
            ..Registers::of_attrs(&a.attrs, &b.attrs)
        }
    }

    fn of_attrs(a: &Attrs, b: &Attrs) -> Registers {
        Registers {
            content: false,
            mode: a.mode != b.mode,
            owner: (a.uid, a.gid) != (b.uid, b.gid),
            mtime: a.mtime != b.mtime,
            xattrs: !same_xattrs(&a.xattrs, &b.xattrs),
        }
    }

    /// Whether any differs.
    pub fn any(&self) -> bool {
        *self != Registers::default()
    }
}

/// One difference between two trees.
#[derive(Clone, Debug)]
pub enum Change {
    /// Only in the second tree; a directory stands for all below it.
    Added(Entry),
    /// Only in the first tree; a directory stands for all below it.
    Removed(Entry),
    /// In both, and different. Directories come when their own attributes differ; their children follow by themselves.
    /// A directory that became something else, or the reverse, is a removal followed by an addition.
    Changed {
        /// In the first tree.
        old: Entry,
        /// In the second tree.
        new: Entry,
        /// Where they differ.
        registers: Registers,
    },
}

/// Calls `visit` for every difference between two trees, in path order with directories before what they hold, until
/// it breaks. Added and removed directories come as a whole; [`diff_below`] with an empty directory on the other side
/// lists what is in them. Hard links are compared by link id; changes of the inodes behind them are
/// [`super::diff_links`]'.
///
/// # Errors
/// What the source says.
pub async fn diff<F>(src: &dyn NodeSource, a: &TreeRoot, b: &TreeRoot, mut visit: F) -> Result<(), TreeError>
where
    F: FnMut(&VolPath, &Change) -> ControlFlow<()> + Send,
{
    let (old, new) = (a.as_entry(), b.as_entry());
    let registers = Registers::between(&old, &new);
    if registers.any() && visit(&VolPath::root(), &Change::Changed { old, new, registers }).is_break() {
        return Ok(());
    }
    diff_below(src, &VolPath::root(), &a.tree, &b.tree, visit).await
}

/// [`diff`] of two directories; `at` is put before the paths.
pub async fn diff_below<F>(
    src: &dyn NodeSource,
    at: &VolPath,
    a: &DirTree,
    b: &DirTree,
    mut visit: F,
) -> Result<(), TreeError>
where
    F: FnMut(&VolPath, &Change) -> ControlFlow<()> + Send,
{
    // A stack of directories whose remaining names are still to be reported: depth is bounded by the format, not by
    // the thread's stack.
    let mut open: Vec<(VolPath, std::vec::IntoIter<NameDiff>)> = Vec::new();
    open.push((at.clone(), diff_dirs(src, a, b).await?.into_iter()));
    while let Some((dir, names)) = open.last_mut() {
        let Some((name, old, new)) = names.next() else {
            open.pop();
            continue;
        };
        let path = dir.join(&name);
        let below = match (&old, &new) {
            (
                Some(Entry {
                    body: EntryBody::Dir { tree: a, .. },
                    ..
                }),
                Some(Entry {
                    body: EntryBody::Dir { tree: b, .. },
                    ..
                }),
            ) => Some((a.clone(), b.clone())),
            _ => None,
        };
        for change in changes_of(old, new) {
            if visit(&path, &change).is_break() {
                return Ok(());
            }
        }
        if let Some((a, b)) = below {
            if path.0.len() > PATH_DEPTH_MAX {
                return Err(TreeError::Limit {
                    what: "directories of a path",
                    limit: PATH_DEPTH_MAX as u64,
                });
            }
            let names = diff_dirs(src, &a, &b).await?;
            open.push((path, names.into_iter()));
        }
    }
    Ok(())
}

fn changes_of(old: Option<Entry>, new: Option<Entry>) -> Vec<Change> {
    match (old, new) {
        (None, None) => Vec::new(),
        (None, Some(new)) => vec![Change::Added(new)],
        (Some(old), None) => vec![Change::Removed(old)],
        (Some(old), Some(new)) if old.is_dir() != new.is_dir() => {
            vec![Change::Removed(old), Change::Added(new)]
        }
        (Some(old), Some(new)) => {
            let registers = Registers::between(&old, &new);
            let changed = registers.any() || !old.is_dir() && !same_attrs(&old.attrs, &new.attrs);
            if changed {
                vec![Change::Changed { old, new, registers }]
            } else {
                Vec::new()
            }
        }
    }
}
