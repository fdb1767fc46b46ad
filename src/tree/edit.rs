//! Replacing entries of one directory.
//!
//! An edit makes a new value; what it does not touch is shared with the old one. Pages do not split or join here, so
//! an edited page may be of any size until the tree is stored.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::fetch::{self, Opened, child_of};
use super::totals::TotalsDelta;
use super::{NodeSource, TreeError};
use crate::model::{DirPage, DirTree, Entry, Name, PageSlot, PageTree, Ptr, Totals};

/// Names of a directory with what their entries become: `None` removes.
pub type NameChanges = Vec<(Name, Option<Entry>)>;

/// An edited directory.
#[derive(Clone, Debug)]
pub struct Edited {
    /// Its entries.
    pub tree: DirTree,
    /// What the edit took out and put in.
    pub delta: TotalsDelta,
}

/// Replaces (`Some`) and removes (`None`) entries; of several changes of one name the last counts, and removing what is
/// not there does nothing. Loads the pages that hold the names and no others. The result is `Inline` for a directory
/// of one page, `Pages` for an index-paged one.
pub async fn edit_dir(
    src: &dyn NodeSource,
    dir: &DirTree,
    changes: NameChanges,
) -> Result<DirTree, TreeError> {
    Ok(edit(src, dir, changes).await?.tree)
}

/// [`edit_dir`] for a directory with totals: gives those after the edit too.
pub async fn edit_dir_entry(
    src: &dyn NodeSource,
    dir: &DirTree,
    totals: &Totals,
    changes: NameChanges,
) -> Result<(DirTree, Totals), TreeError> {
    let edited = edit(src, dir, changes).await?;
    let totals = edited.delta.apply(totals)?;
    Ok((edited.tree, totals))
}

/// [`edit_dir`], with what it took out and put in.
pub async fn edit(
    src: &dyn NodeSource,
    dir: &DirTree,
    mut changes: NameChanges,
) -> Result<Edited, TreeError> {
    let mut delta = TotalsDelta::default();
    if changes.is_empty() {
        return Ok(Edited {
            tree: dir.clone(),
            delta,
        });
    }
    // Stable, and of equal names the last one stays.
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    changes.reverse();
    changes.dedup_by(|(a, _), (b, _)| a == b);
    changes.reverse();
    let tree = match fetch::open(src, dir, None).await? {
        Opened::Leaf(page) => DirTree::Inline(Arc::new(edit_page(&page, changes, &mut delta))),
        Opened::Pages(pages) if pages.slots.is_empty() => {
            DirTree::Inline(Arc::new(edit_page(&DirPage::default(), changes, &mut delta)))
        }
        Opened::Pages(pages) => {
            let pages = edit_pages(src, &pages, changes, &mut delta).await?;
            if pages.slots.iter().all(|slot| slot.count == 0) {
                DirTree::empty()
            } else {
                DirTree::Pages(pages)
            }
        }
    };
    Ok(Edited { tree, delta })
}

/// The entries of `page` with sorted `changes` made.
pub(crate) fn edit_page(page: &DirPage, changes: NameChanges, delta: &mut TotalsDelta) -> DirPage {
    let mut entries = Vec::with_capacity(page.entries.len() + changes.len());
    let mut old = page.entries.as_slice();
    for (name, new) in changes {
        let before = old.partition_point(|(n, _)| *n < name);
        entries.extend_from_slice(&old[..before]);
        old = &old[before..];
        let replaced = old.split_first().filter(|((n, _), _)| *n == name);
        delta.count(replaced.map(|((_, entry), _)| entry), new.as_ref());
        if let Some((_, rest)) = replaced {
            old = rest;
        }
        if let Some(new) = new {
            entries.push((name, new));
        }
    }
    entries.extend_from_slice(old);
    DirPage { entries }
}

/// Recursion as deep as there are index levels, at most 8.
fn edit_pages<'a>(
    src: &'a dyn NodeSource,
    pages: &'a PageTree,
    changes: NameChanges,
    delta: &'a mut TotalsDelta,
) -> BoxFuture<'a, Result<PageTree, TreeError>> {
    Box::pin(async move {
        let parts = by_child(pages, changes);
        let wanted: Vec<Ptr> = parts
            .iter()
            .filter_map(|(at, _)| match &pages.slots[*at].child {
                DirTree::Stored { ptr, .. } => Some(**ptr),
                _ => None,
            })
            .collect();
        // One round trip for all of them; `open` below finds what it needs in what came.
        let mut fetched = fetch::nodes(src, &wanted).await?.into_iter();
        let mut slots: Vec<PageSlot> = pages.slots.as_ref().clone();
        for (at, changes) in parts {
            let opened = match &pages.slots[at].child {
                DirTree::Inline(page) => Opened::Leaf(page.clone()),
                DirTree::Pages(below) => Opened::Pages(below.clone()),
                DirTree::Stored { ptr, index } => {
                    let node = fetched.next().ok_or_else(|| fetch::wrong_kind(ptr))?;
                    if *index {
                        Opened::Pages(fetch::page_tree(&*fetch::index_page(
                            ptr,
                            &node,
                            Some(pages.level),
                        )?))
                    } else {
                        Opened::Leaf(fetch::dir_page(ptr, &node)?)
                    }
                }
            };
            let slot = &mut slots[at];
            match opened {
                Opened::Leaf(page) => {
                    let page = edit_page(&page, changes, delta);
                    slot.count = page.entries.len() as u64;
                    slot.child = DirTree::Inline(Arc::new(page));
                }
                Opened::Pages(below) => {
                    let below = edit_pages(src, &below, changes, delta).await?;
                    slot.count = below.slots.iter().map(|slot| slot.count).sum();
                    slot.child = DirTree::Pages(below);
                }
            }
        }
        Ok(PageTree {
            level: pages.level,
            slots: Arc::new(slots),
        })
    })
}

/// Sorted changes, cut by the child that holds their names.
fn by_child(pages: &PageTree, changes: NameChanges) -> Vec<(usize, NameChanges)> {
    let mut parts: Vec<(usize, NameChanges)> = Vec::new();
    for change in changes {
        let find = child_of(pages.slots.len(), change.0.as_bytes(), |at| {
            &pages.slots[at].first_key
        });
        let Some(at) = find else { continue };
        match parts.last_mut() {
            Some((last, part)) if *last == at => part.push(change),
            _ => parts.push((at, vec![change])),
        }
    }
    parts
}
