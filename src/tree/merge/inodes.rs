//! Inodes with several names.
//!
//! The link id is one more register of a name; content and attributes are registers of the inode. An inode that only
//! one side has, because that side made the first link of a plain file, also takes what the other side did to the file
//! under its name (`take_mine`, `take_heads`).
//!
//! The number of names is counted, never merged: the head's, plus names that the merge adds, minus those it removes.
//! At 0 the inode goes.

use std::collections::{BTreeMap, BTreeSet};

use super::count::LinkCount;
use super::registers::{Decided, changed_and_gone, merge_leaf};
use super::{Register, Reports};
use crate::model::{DirTree, Entry, EntryBody, LinkId, LinkInode, LinksTree, TreeRoot, VolPath};
use crate::tree::{
    NodeSource, TreeError, diff_dirs, diff_links, edit_links, inode_of, link, same_body, same_entry, walk,
};

/// The three links trees, and what was decided so far.
pub(super) struct Inodes<'a> {
    src: &'a dyn NodeSource,
    base: &'a LinksTree,
    head: &'a LinksTree,
    mine: &'a LinksTree,
    settled: BTreeMap<LinkId, Settled>,
}

/// An inode as it will be, if it keeps a name.
struct Settled {
    entry: Entry,
    /// Registers that both sides changed.
    overwritten: Vec<Register>,
    /// The content is what mine wrote: nothing else may replace it.
    mine_wrote: bool,
}

/// Links tree of the result.
pub(super) struct LinksDone {
    pub links: LinksTree,
    /// Inodes of which mine changed the content, and that have no name in the result.
    pub lost: BTreeSet<LinkId>,
}

impl<'a> Inodes<'a> {
    pub fn new(src: &'a dyn NodeSource, base: &'a TreeRoot, head: &'a TreeRoot, mine: &'a TreeRoot) -> Self {
        Inodes {
            src,
            base: &base.links,
            head: &head.links,
            mine: &mine.links,
            settled: BTreeMap::new(),
        }
    }

    pub async fn in_base(&self, id: LinkId) -> Result<Option<Entry>, TreeError> {
        Ok(link(self.src, self.base, &id).await?.map(|inode| inode.entry))
    }

    pub async fn in_head(&self, id: LinkId) -> Result<Option<Entry>, TreeError> {
        Ok(link(self.src, self.head, &id).await?.map(|inode| inode.entry))
    }

    pub async fn in_mine(&self, id: LinkId) -> Result<Option<Entry>, TreeError> {
        Ok(link(self.src, self.mine, &id).await?.map(|inode| inode.entry))
    }

    /// The inode from its own registers: those of the three links trees.
    async fn settle(&mut self, id: LinkId) -> Result<Option<&mut Settled>, TreeError> {
        if !self.settled.contains_key(&id) {
            let base = self.in_base(id).await?;
            let settled = match (self.in_head(id).await?, self.in_mine(id).await?) {
                (None, None) => return Ok(None),
                (Some(head), None) => Settled::plain(head),
                (None, Some(mine)) => Settled::plain(mine),
                (Some(head), Some(mine)) => {
                    let Decided { value, overwritten } =
                        merge_leaf(self.src, base.as_ref(), &head, &mine).await?;
                    let mine_wrote = base.is_some_and(|base| !same_body(&base.body, &mine.body));
                    Settled {
                        entry: value,
                        overwritten,
                        mine_wrote,
                    }
                }
            };
            self.settled.insert(id, settled);
        }
        Ok(self.settled.get_mut(&id))
    }

    /// The head made `id` of the plain file that I changed from `base` to `mine`: my changes go to the inode. False
    /// when the content cannot: the head wrote it too, the inode is another's (the head replaced the file by an older
    /// one), or I wrote it under another of its names. Then the name has to stay a file of its own.
    pub async fn take_mine(
        &mut self,
        id: LinkId,
        base: &Entry,
        head: &Entry,
        mine: &Entry,
    ) -> Result<Option<Vec<Register>>, TreeError> {
        let older = self.in_base(id).await?.is_some();
        let src = self.src;
        let Some(settled) = self.settle(id).await? else {
            return Ok(None);
        };
        let wrote = !same_body(&base.body, &mine.body) && !same_body(&mine.body, &settled.entry.body);
        if wrote && (older || settled.mine_wrote || !same_body(&base.body, &head.body)) {
            return Ok(None);
        }
        let overwritten = merge_leaf(src, Some(base), head, mine).await?.overwritten;
        let file_id = settled.entry.attrs.file_id;
        settled.entry = merge_leaf(src, Some(base), &settled.entry, mine).await?.value;
        settled.entry.attrs.file_id = file_id;
        settled.mine_wrote |= wrote;
        Ok(Some(overwritten))
    }

    /// I made `id` of the plain file that the head changed from `base` to `head`: its changes go to the inode. `None`
    /// when the inode is older than that, so that it has registers of its own.
    pub async fn take_heads(
        &mut self,
        id: LinkId,
        base: &Entry,
        head: &Entry,
    ) -> Result<Option<Vec<Register>>, TreeError> {
        if self.in_base(id).await?.is_some() || self.in_head(id).await?.is_some() {
            return Ok(None);
        }
        let src = self.src;
        let Some(settled) = self.settle(id).await? else {
            return Ok(None);
        };
        let Decided { value, overwritten } = merge_leaf(src, Some(base), head, &settled.entry).await?;
        settled.entry = value;
        Ok(Some(overwritten))
    }

    /// The links tree of the result, given how its names differ from the head's. `base` and `mine` are the trees as the
    /// names were merged; `tree` is what came out.
    pub async fn finish(
        mut self,
        count: LinkCount,
        base: &TreeRoot,
        mine: &TreeRoot,
        tree: &TreeRoot,
        reports: &mut Reports,
    ) -> Result<LinksDone, TreeError> {
        let changed = diff_links(self.src, self.base, self.mine).await?;
        let mut ids: BTreeSet<LinkId> = changed.iter().map(|(id, _, _)| *id).collect();
        ids.extend(count.by_id.keys().chain(self.settled.keys()));
        let mut edits = Vec::new();
        let mut conflicts = BTreeMap::new();
        let mut gone = Vec::new();
        for id in ids {
            let head = link(self.src, self.head, &id).await?;
            let counted = count.by_id.get(&id);
            let names =
                counted.map_or(0, |counted| counted.delta) + head.as_ref().map_or(0, |h| i128::from(h.nlink));
            let Ok(nlink) = u64::try_from(names) else {
                return Err(miscounted(id));
            };
            if nlink == 0 {
                if let (Some(head), Some(counted)) = (&head, counted) {
                    gone.push((id, head.entry.clone(), counted.removed.clone()));
                    edits.push((id, None));
                }
                continue;
            }
            let settled = self.settle(id).await?.ok_or_else(|| nameless(id))?;
            if !settled.overwritten.is_empty() {
                conflicts.insert(id, settled.overwritten.clone());
            }
            let entry = settled.entry.clone();
            if !head.is_some_and(|head| head.nlink == nlink && same_entry(&head.entry, &entry)) {
                edits.push((id, Some(LinkInode { nlink, entry })));
            }
        }
        let links = edit_links(self.src, self.head, edits).await?;
        let tree = TreeRoot {
            links,
            ..tree.clone()
        };
        for (id, path) in first_names(self.src, &mine.tree, conflicts.keys().copied().collect()).await? {
            reports.add(&path, conflicts.remove(&id).unwrap_or_default());
        }
        for (id, head, removed) in gone {
            if let Some(path) = removed {
                self.report_gone(id, &head, &path, base, &tree, reports).await?;
            }
        }
        let mut lost = BTreeSet::new();
        for (id, was, is) in changed {
            let (Some(was), Some(is)) = (was, is) else {
                continue;
            };
            let named = link(self.src, &tree.links, &id).await?.is_some();
            if !named && !same_body(&was.entry.body, &is.entry.body) {
                lost.insert(id);
            }
        }
        Ok(LinksDone {
            links: tree.links,
            lost,
        })
    }

    /// The last name of an inode of the head went: what the head had changed of it is lost.
    async fn report_gone(
        &self,
        id: LinkId,
        head: &Entry,
        path: &VolPath,
        base: &TreeRoot,
        tree: &TreeRoot,
        reports: &mut Reports,
    ) -> Result<(), TreeError> {
        let was = match self.in_base(id).await? {
            Some(was) => Some(was),
            None => leaf_at(self.src, base, path).await?,
        };
        let now = leaf_at(self.src, tree, path).await?;
        reports.add(
            path,
            changed_and_gone(self.src, was.as_ref(), head, now.as_ref()).await?,
        );
        Ok(())
    }
}

impl Settled {
    fn plain(entry: Entry) -> Settled {
        Settled {
            entry,
            overwritten: Vec::new(),
            mine_wrote: false,
        }
    }
}

/// What is no directory at `path`, looked up through the links tree.
async fn leaf_at(src: &dyn NodeSource, tree: &TreeRoot, path: &VolPath) -> Result<Option<Entry>, TreeError> {
    match walk(src, tree, path).await? {
        Some(entry) if !entry.is_dir() => Ok(Some(inode_of(src, &tree.links, entry).await?)),
        _ => Ok(None),
    }
}

/// For each of these inodes its first name in path order. Goes only where there are hard links, and no further than
/// needed.
async fn first_names(
    src: &dyn NodeSource,
    tree: &DirTree,
    mut wanted: BTreeSet<LinkId>,
) -> Result<Vec<(LinkId, VolPath)>, TreeError> {
    let mut found = Vec::new();
    let mut open = Vec::new();
    if !wanted.is_empty() {
        open.push((VolPath::root(), names_of(src, tree).await?));
    }
    while let Some((dir, names)) = open.last_mut() {
        let Some((name, _, Some(entry))) = names.next() else {
            open.pop();
            continue;
        };
        match &entry.body {
            EntryBody::HardLink(id) if wanted.remove(id) => found.push((*id, dir.join(&name))),
            EntryBody::Dir { totals, tree } if totals.links > 0 => {
                let path = dir.join(&name);
                open.push((path, names_of(src, tree).await?));
            }
            _ => {}
        }
        if wanted.is_empty() {
            break;
        }
    }
    Ok(found)
}

async fn names_of(
    src: &dyn NodeSource,
    tree: &DirTree,
) -> Result<std::vec::IntoIter<crate::tree::NameDiff>, TreeError> {
    Ok(diff_dirs(src, &DirTree::empty(), tree).await?.into_iter())
}

pub(super) fn nameless(id: LinkId) -> TreeError {
    TreeError::Damaged {
        object: format!("inode {id} of the links tree"),
        rule: "a name says that it is there".to_owned(),
    }
}

fn miscounted(id: LinkId) -> TreeError {
    TreeError::Damaged {
        object: format!("inode {id} of the links tree"),
        rule: "it counts fewer names than there are".to_owned(),
    }
}
