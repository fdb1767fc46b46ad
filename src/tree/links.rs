//! The links tree: inodes with several names, by link id.
//!
//! Edits are kept beside the stored form until the tree is stored. Invariant: `count` and `bytes` are those of the inodes
//! with the edits made.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::fetch::{self, answer, child_of};
use super::same::same_entry;
use super::{Missing, NodeSource, TreeError};
use crate::format::Node;
use crate::format::limits::LEVELS_MAX;
use crate::model::{Entry, EntryBody, Hash, LinkId, LinkInode, LinksTree, Ptr};

/// The inode of that id, over loaded nodes.
///
/// # Errors
/// The node that has to be fetched first.
pub fn link_loaded(
    src: &dyn NodeSource,
    links: &LinksTree,
    id: &LinkId,
) -> Result<Option<LinkInode>, Missing> {
    if let Some(edited) = links.edits.get(id) {
        return Ok(edited.clone());
    }
    let Some((mut ptr, index)) = links.stored else {
        return Ok(None);
    };
    let mut below = if index { None } else { Some(1) };
    loop {
        let node = src.loaded(&ptr).ok_or(Missing(ptr))?;
        match &*node {
            Node::Links(page) if below.is_none_or(|level| level == 1) => {
                let at = page.inodes.binary_search_by(|(known, _)| known.cmp(id));
                return Ok(at.ok().map(|at| page.inodes[at].1.clone()));
            }
            Node::Index(page) if below.is_none_or(|level| page.level + 1 == level) => {
                let slots = &page.slots;
                let Some(at) = child_of(slots.len(), id.as_bytes(), |at| &slots[at].first_key) else {
                    return Ok(None);
                };
                (ptr, below) = (slots[at].ptr, Some(page.level));
            }
            _ => return Err(Missing(ptr)),
        }
    }
}

/// The inode of that id.
pub async fn link(
    src: &dyn NodeSource,
    links: &LinksTree,
    id: &LinkId,
) -> Result<Option<LinkInode>, TreeError> {
    answer(src, |loaded| link_loaded(loaded, links, id)).await
}

/// What a name refers to: the inode's entry for a hard link, the entry itself for all else. A name of an inode that is
/// not in the links tree is damage.
pub async fn inode_of(src: &dyn NodeSource, links: &LinksTree, entry: Entry) -> Result<Entry, TreeError> {
    let EntryBody::HardLink(id) = &entry.body else {
        return Ok(entry);
    };
    let inode = link(src, links, id).await?;
    inode.map(|inode| inode.entry).ok_or_else(|| unknown(id))
}

/// Replaces (`Some`) and removes (`None`) inodes, and counts.
pub async fn edit_links(
    src: &dyn NodeSource,
    links: &LinksTree,
    changes: impl IntoIterator<Item = (LinkId, Option<LinkInode>)>,
) -> Result<LinksTree, TreeError> {
    let mut edited = links.clone();
    for (id, new) in changes {
        let old = link(src, &edited, &id).await?;
        let (count, bytes) = (edited.count, edited.bytes);
        let without = |total: u64, part: u64| total.checked_sub(part).ok_or_else(miscounted);
        edited.count = without(count, u64::from(old.is_some()))?.saturating_add(u64::from(new.is_some()));
        edited.bytes = without(bytes, bytes_of(old.as_ref()))?.saturating_add(bytes_of(new.as_ref()));
        edited.edits.insert(id, new);
    }
    Ok(edited)
}

/// Adds to link counts; an inode that has no name left goes.
///
/// # Errors
/// `Damaged` for an inode that is not there, or that would have less than no names.
pub async fn add_names(
    src: &dyn NodeSource,
    links: &LinksTree,
    deltas: &BTreeMap<LinkId, i64>,
) -> Result<LinksTree, TreeError> {
    let mut changes = Vec::new();
    for (id, delta) in deltas.iter().filter(|(_, delta)| **delta != 0) {
        let mut inode = link(src, links, id).await?.ok_or_else(|| unknown(id))?;
        inode.nlink = inode.nlink.checked_add_signed(*delta).ok_or_else(miscounted)?;
        changes.push((*id, (inode.nlink > 0).then_some(inode)));
    }
    edit_links(src, links, changes).await
}

/// Logical bytes that an inode counts for: those of a regular file.
fn bytes_of(inode: Option<&LinkInode>) -> u64 {
    match inode.map(|inode| &inode.entry.body) {
        Some(EntryBody::File { size, .. }) => *size,
        _ => 0,
    }
}

fn unknown(id: &LinkId) -> TreeError {
    TreeError::Damaged {
        object: format!("inode {id}"),
        rule: "a name refers to it, but the links tree does not hold it".to_owned(),
    }
}

fn miscounted() -> TreeError {
    TreeError::Damaged {
        object: "the links tree".to_owned(),
        rule: "its counts are less than what it holds".to_owned(),
    }
}

/// One link id, with its inode in the first and in the second tree.
pub type LinkDiff = (LinkId, Option<LinkInode>, Option<LinkInode>);

/// Inodes that differ, sorted by id; compared without locations, link counts included. Reads the leaves that are not
/// in both.
pub async fn diff_links(
    src: &dyn NodeSource,
    a: &LinksTree,
    b: &LinksTree,
) -> Result<Vec<LinkDiff>, TreeError> {
    let (old, new) = leaves_apart(src, a.stored, b.stored).await?;
    let edited: BTreeSet<LinkId> = a.edits.keys().chain(b.edits.keys()).copied().collect();
    let stored: BTreeSet<LinkId> = old.keys().chain(new.keys()).copied().collect();
    let mut differing = Vec::new();
    for id in &edited | &stored {
        // An edited inode may be stored in a leaf that is in both trees.
        let (x, y) = if edited.contains(&id) {
            (link(src, a, &id).await?, link(src, b, &id).await?)
        } else {
            (old.get(&id).cloned(), new.get(&id).cloned())
        };
        let equal = match (&x, &y) {
            (Some(x), Some(y)) => x.nlink == y.nlink && same_entry(&x.entry, &y.entry),
            (x, y) => x.is_none() && y.is_none(),
        };
        if !equal {
            differing.push((id, x, y));
        }
    }
    Ok(differing)
}

type Inodes = BTreeMap<LinkId, LinkInode>;

/// What is in leaves that the two stored trees do not share.
async fn leaves_apart(
    src: &dyn NodeSource,
    a: Option<(Ptr, bool)>,
    b: Option<(Ptr, bool)>,
) -> Result<(Inodes, Inodes), TreeError> {
    let mut sides: [Vec<Ptr>; 2] = [a, b].map(|root| root.into_iter().map(|(ptr, _)| ptr).collect());
    let mut inodes = [Inodes::new(), Inodes::new()];
    let mut rounds = 0;
    // One round for each level. Index pages of the two may be at different levels in one round; that costs
    // comparisons, not results: leaves in both add the same inodes to both sides.
    while sides.iter().any(|side| !side.is_empty()) {
        rounds += 1;
        if let Some(ptr) = sides.iter().flatten().next().filter(|_| rounds > LEVELS_MAX) {
            return Err(fetch::damaged(
                ptr,
                "a links tree has more levels than the format allows",
            ));
        }
        for side in &mut sides {
            // A page that stands twice has nothing more to say.
            let mut seen = HashSet::new();
            side.retain(|ptr| seen.insert((ptr.pack, ptr.hash)));
        }
        let hashes = sides
            .each_ref()
            .map(|side| side.iter().map(|ptr| ptr.hash).collect::<HashSet<Hash>>());
        for (side, other) in [(0, 1), (1, 0)] {
            sides[side].retain(|ptr| !hashes[other].contains(&ptr.hash));
        }
        for (side, inodes) in sides.iter_mut().zip(&mut inodes) {
            let nodes = fetch::nodes(src, side).await?;
            let mut next = Vec::new();
            for (ptr, node) in side.iter().zip(nodes) {
                match &*node {
                    Node::Links(page) => inodes.extend(page.inodes.iter().cloned()),
                    Node::Index(page) => next.extend(page.slots.iter().map(|slot| slot.ptr)),
                    _ => return Err(fetch::wrong_kind(ptr)),
                }
            }
            *side = next;
        }
    }
    let [a, b] = inodes;
    Ok((a, b))
}

/// All inodes, sorted by id, with the edits made.
pub async fn inodes(src: &dyn NodeSource, links: &LinksTree) -> Result<Vec<(LinkId, LinkInode)>, TreeError> {
    let (mut all, _) = leaves_apart(src, links.stored, None).await?;
    for (id, edit) in &links.edits {
        match edit {
            Some(inode) => all.insert(*id, inode.clone()),
            None => all.remove(id),
        };
    }
    Ok(all.into_iter().collect())
}
