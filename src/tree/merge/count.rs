//! How the names of inodes with several names differ between two trees.

use std::collections::BTreeMap;

use crate::model::{DirTree, Entry, EntryBody, LinkId, VolPath};
use crate::tree::{NameDiff, NodeSource, TreeError, diff_dirs};

/// Names that one tree has more or fewer than another.
#[derive(Debug, Default)]
pub(super) struct LinkCount {
    pub by_id: BTreeMap<LinkId, Counted>,
}

/// Of one inode.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Names added minus names removed.
    pub delta: i128,
    /// The first name in path order that was removed.
    pub removed: Option<VolPath>,
}

/// Counts what differs from `old` to `new`. Goes only where the trees differ and where there are hard links.
pub(super) async fn count_links(
    src: &dyn NodeSource,
    old: &DirTree,
    new: &DirTree,
) -> Result<LinkCount, TreeError> {
    let mut count = LinkCount::default();
    let mut open: Vec<(VolPath, std::vec::IntoIter<NameDiff>)> = Vec::new();
    open.push((VolPath::root(), diff_dirs(src, old, new).await?.into_iter()));
    while let Some((dir, names)) = open.last_mut() {
        let Some((name, old, new)) = names.next() else {
            open.pop();
            continue;
        };
        if links_in(old.as_ref()) == 0 && links_in(new.as_ref()) == 0 {
            continue;
        }
        let path = dir.join(&name);
        if let Some(Entry {
            body: EntryBody::HardLink(id),
            ..
        }) = &old
        {
            let counted = count.by_id.entry(*id).or_default();
            counted.delta -= 1;
            counted.removed.get_or_insert_with(|| path.clone());
        }
        if let Some(Entry {
            body: EntryBody::HardLink(id),
            ..
        }) = &new
        {
            count.by_id.entry(*id).or_default().delta += 1;
        }
        let (old, new) = (tree_of(old), tree_of(new));
        open.push((path, diff_dirs(src, &old, &new).await?.into_iter()));
    }
    Ok(count)
}

/// Hard-linked names at and below an entry.
fn links_in(entry: Option<&Entry>) -> u64 {
    match entry.map(|entry| &entry.body) {
        Some(EntryBody::HardLink(_)) => 1,
        Some(EntryBody::Dir { totals, .. }) => totals.links,
        _ => 0,
    }
}

fn tree_of(entry: Option<Entry>) -> DirTree {
    match entry.map(|entry| entry.body) {
        Some(EntryBody::Dir { tree, .. }) => tree,
        _ => DirTree::empty(),
    }
}
