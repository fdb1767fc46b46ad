//! One directory of the merge: which names differ, and what comes of it when they are merged.

use std::collections::BTreeMap;

use super::Register;
use super::names::{Leaf, Walk};
use super::registers::{changed_dir_attrs, merge_dir_attrs};
use crate::model::{Attrs, DirTree, Entry, EntryBody, Name, Totals, VolPath};
use crate::tree::{TreeError, diff_dirs, edit_dir_entry, lookup, same_attrs, same_body};

/// A directory on one side.
#[derive(Clone)]
pub(super) struct Dir {
    pub attrs: Attrs,
    pub totals: Totals,
    pub tree: DirTree,
}

impl Dir {
    pub fn into_entry(self) -> Entry {
        Entry {
            attrs: self.attrs,
            body: EntryBody::Dir {
                totals: self.totals,
                tree: self.tree,
            },
        }
    }
}

/// One name on the three sides.
pub(super) struct Three {
    pub name: Name,
    pub base: Option<Entry>,
    pub head: Option<Entry>,
    pub mine: Option<Entry>,
}

/// A directory that is being merged.
pub(super) struct Open {
    pub path: VolPath,
    pub base: Option<Dir>,
    pub head: Option<Dir>,
    pub mine: Option<Dir>,
    /// What the head has under this name, when that is no directory but mine is.
    pub clash: Option<Box<Leaf>>,
    /// What the result starts from.
    pub start: (Totals, DirTree),
    /// Names still to be merged.
    pub names: std::vec::IntoIter<Three>,
    /// Changes of `start`.
    pub edits: Vec<(Name, Option<Entry>)>,
}

impl Walk<'_> {
    /// Starts a directory: finds the names in which the result differs from what it starts from.
    pub(super) async fn open(
        &self,
        path: VolPath,
        base: Option<Dir>,
        head: Option<Dir>,
        mine: Option<Dir>,
        clash: Option<Box<Leaf>>,
    ) -> Result<Box<Open>, TreeError> {
        let mut open = Box::new(Open {
            path,
            base,
            head,
            mine,
            clash,
            start: (Totals::default(), DirTree::empty()),
            names: Vec::new().into_iter(),
            edits: Vec::new(),
        });
        let empty = DirTree::empty();
        let tree = |dir: &Option<Dir>| dir.as_ref().map_or_else(|| empty.clone(), |dir| dir.tree.clone());
        let (base, head) = (tree(&open.base), tree(&open.head));
        let Some(mine) = &open.mine else {
            // I removed it: of the head's entries those stay that I never saw.
            let changed = diff_dirs(self.src, &base, &head).await?.into_iter();
            let kept = changed.filter(|(_, _, head)| head.is_some());
            let names = kept.map(|(name, base, head)| Three {
                name,
                base,
                head,
                mine: None,
            });
            open.names = names.collect::<Vec<_>>().into_iter();
            return Ok(open);
        };
        if head.same_pointer(&base) || head.same_pointer(&mine.tree) {
            open.start = (mine.totals, mine.tree.clone());
            return Ok(open);
        }
        if let Some(head) = &open.head {
            open.start = (head.totals, head.tree.clone());
        }
        let mut names: BTreeMap<Name, (Option<Entry>, Option<Entry>)> = BTreeMap::new();
        for (name, was, is) in diff_dirs(self.src, &base, &mine.tree).await? {
            names.insert(name, (was, is));
        }
        if mine.totals.links > 0 && !self.revived.is_empty() {
            // Names that I left alone and the head did not may have to come back.
            for (name, was, _) in diff_dirs(self.src, &base, &head).await? {
                if was.as_ref().is_some_and(may_hold_links) {
                    names.entry(name).or_insert_with(|| (was.clone(), was));
                }
            }
        }
        let mut three = Vec::with_capacity(names.len());
        for (name, (base, mine)) in names {
            let head = lookup(self.src, &head, name.as_bytes()).await?;
            three.push(Three {
                name,
                base,
                head,
                mine,
            });
        }
        open.names = three.into_iter();
        Ok(open)
    }

    /// The directory as it came out; `None` when it is gone.
    pub(super) async fn close(&mut self, mut open: Box<Open>) -> Result<Option<Entry>, TreeError> {
        let (tree, totals) = self.edited(&mut open).await?;
        let (was, is) = (open.base.is_some(), open.mine.is_some());
        let exists = if is == was { open.head.is_some() } else { is };
        if !exists && totals.files == 0 && totals.dirs == 0 {
            if let (Some(base), Some(head), None) = (&open.base, &open.head, &open.mine) {
                let lost = changed_dir_attrs(self.src, &base.attrs, &head.attrs).await?;
                self.reports.add(&open.path, lost);
            }
            return Ok(open.clash.map(|leaf| leaf.entry));
        }
        if open.clash.as_ref().is_some_and(|leaf| leaf.link.is_none()) {
            self.reports.add(&open.path, [Register::Content]);
        }
        let attrs = self.attrs(&open).await?;
        Ok(Some(Dir { attrs, totals, tree }.into_entry()))
    }

    pub(super) async fn close_root(&mut self, mut open: Box<Open>) -> Result<Dir, TreeError> {
        let (tree, totals) = self.edited(&mut open).await?;
        let attrs = self.attrs(&open).await?;
        Ok(Dir { attrs, totals, tree })
    }

    async fn edited(&self, open: &mut Open) -> Result<(DirTree, Totals), TreeError> {
        let (totals, tree) = &open.start;
        edit_dir_entry(self.src, tree, totals, std::mem::take(&mut open.edits)).await
    }

    async fn attrs(&mut self, open: &Open) -> Result<Attrs, TreeError> {
        let attrs = |dir: &Option<Dir>| dir.as_ref().map(|dir| dir.attrs.clone());
        let (base, head, mine) = (attrs(&open.base), attrs(&open.head), attrs(&open.mine));
        let (Some(head), Some(mine)) = (&head, &mine) else {
            return Ok(head.or(mine).or(base).unwrap_or_default());
        };
        let merged = merge_dir_attrs(self.src, base.as_ref(), head, mine).await?;
        self.reports.add(&open.path, merged.overwritten);
        Ok(merged.value)
    }
}

impl Open {
    /// Notes what became of a name; nothing when that is what the start has.
    pub fn put(&mut self, name: Name, head: Option<Entry>, result: Option<Entry>) {
        // A directory that I removed starts from nothing, any other from the head's.
        let had = if self.mine.is_some() { head } else { None };
        let same = match (&had, &result) {
            (None, None) => true,
            (Some(had), Some(result)) => is_same(had, result),
            _ => false,
        };
        if !same {
            self.edits.push((name, result));
        }
    }
}

/// Exactly the same entry, so that putting it would change nothing.
fn is_same(a: &Entry, b: &Entry) -> bool {
    same_attrs(&a.attrs, &b.attrs) && same_body(&a.body, &b.body)
}

fn may_hold_links(entry: &Entry) -> bool {
    match &entry.body {
        EntryBody::HardLink(_) => true,
        EntryBody::Dir { totals, .. } => totals.links > 0,
        _ => false,
    }
}
