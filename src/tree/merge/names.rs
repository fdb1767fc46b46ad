//! The merge of names: a walk over what mine changed, on a stack of open directories, so that its depth is bounded by
//! the format and not by the thread's stack.

use std::collections::BTreeSet;

use super::count::count_links;
use super::dirs::{Dir, Open, Three};
use super::inodes::Inodes;
use super::moves::{Moved, apply_usable};
use super::registers::{changed_and_gone, changed_dir_attrs, merge_leaf};
use super::{Hint, Merged, Register, Reports};
use crate::model::{Entry, EntryBody, LinkId, Name, TreeRoot, VolPath};
use crate::tree::{NodeSource, TreeError, diff_dirs, same_body};

/// Merges `mine`, made from `base`, onto `head`. `hints` are the net moves from `base` to `mine`.
///
/// # Errors
/// What the source says; `Damaged` when the trees contradict themselves.
pub async fn merge(
    src: &dyn NodeSource,
    base: &TreeRoot,
    head: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
) -> Result<Merged, TreeError> {
    merge_by(src, base, head, mine, hints, Rules::default()).await
}

/// Rules that a test breaks to see that it is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// Attributes alone bring deleted contents back: wrong.
    #[cfg(test)]
    pub resurrect: bool,
    /// Inodes that mine wrote and that have no name left are let go: wrong.
    #[cfg(test)]
    pub no_revival: bool,
}

impl Rules {
    fn revives_written(self) -> bool {
        #[cfg(test)]
        return !self.no_revival;
        #[cfg(not(test))]
        true
    }

    fn attributes_revive(self) -> bool {
        #[cfg(test)]
        return self.resurrect;
        #[cfg(not(test))]
        false
    }
}

pub(super) async fn merge_by(
    src: &dyn NodeSource,
    base: &TreeRoot,
    head: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
    rules: Rules,
) -> Result<Merged, TreeError> {
    let Moved { base, head, used } = apply_usable(src, base, head, mine, hints).await?;
    let mut revived = BTreeSet::new();
    loop {
        let mut walk = Walk {
            src,
            inodes: Inodes::new(src, &base, &head, mine),
            revived: &revived,
            rules,
            reports: Reports::default(),
        };
        let mut root = walk.run(&base, &head, mine).await?;
        let Walk {
            inodes, mut reports, ..
        } = walk;
        let count = count_links(src, &head.tree, &root.tree).await?;
        let done = inodes.finish(count, &base, mine, &root, &mut reports).await?;
        root.links = done.links;
        // Each round brings back at least one more inode that mine wrote, so this ends; most merges need one round.
        let known = revived.len();
        revived.extend(done.lost);
        if revived.len() == known || !rules.revives_written() {
            return Ok(Merged {
                root,
                overwritten: reports.finish(&used),
                used_hints: used,
            });
        }
    }
}

/// What is no directory, on one side: its link id when it is one of several names, and the inode.
pub(super) struct Leaf {
    pub link: Option<LinkId>,
    inode: Entry,
    /// As it stands in the directory.
    pub entry: Entry,
}

enum Side {
    Absent,
    Dir(Dir),
    Leaf(Box<Leaf>),
}

/// Which tree a side is of.
#[derive(Clone, Copy)]
enum Tree {
    Base,
    Head,
    Mine,
}

/// What became of a name.
enum Step {
    Done(Option<Entry>),
    Descend(Box<Open>),
}

/// One pass over the names.
pub(super) struct Walk<'a> {
    pub src: &'a dyn NodeSource,
    inodes: Inodes<'a>,
    /// Inodes whose unchanged names count as written by mine, since no other name of theirs is left.
    pub revived: &'a BTreeSet<LinkId>,
    rules: Rules,
    pub reports: Reports,
}

impl Walk<'_> {
    /// The merged names; the links tree of what it returns is the head's.
    async fn run(
        &mut self,
        base: &TreeRoot,
        head: &TreeRoot,
        mine: &TreeRoot,
    ) -> Result<TreeRoot, TreeError> {
        let dir = |root: &TreeRoot| Dir {
            attrs: root.attrs.clone(),
            totals: root.totals,
            tree: root.tree.clone(),
        };
        let root = self
            .open(
                VolPath::root(),
                Some(dir(base)),
                Some(dir(head)),
                Some(dir(mine)),
                None,
            )
            .await?;
        let mut above: Vec<(Box<Open>, Name, Option<Entry>)> = Vec::new();
        let mut open = root;
        loop {
            if let Some(three) = open.names.next() {
                let Three {
                    name,
                    base,
                    head,
                    mine,
                } = three;
                let had = head.clone();
                match self.merge_name(open.path.join(&name), base, head, mine).await? {
                    Step::Done(result) => open.put(name, had, result),
                    Step::Descend(below) => {
                        above.push((open, name, had));
                        open = below;
                    }
                }
                continue;
            }
            match above.pop() {
                Some((parent, name, had)) => {
                    let result = self.close(open).await?;
                    open = parent;
                    open.put(name, had, result);
                }
                None => {
                    let root = self.close_root(open).await?;
                    return Ok(TreeRoot {
                        attrs: root.attrs,
                        totals: root.totals,
                        tree: root.tree,
                        links: head.links.clone(),
                    });
                }
            }
        }
    }

    async fn merge_name(
        &mut self,
        path: VolPath,
        base: Option<Entry>,
        head: Option<Entry>,
        mine: Option<Entry>,
    ) -> Result<Step, TreeError> {
        let had = head.clone();
        let base = self.side(Tree::Base, base).await?;
        let head = self.side(Tree::Head, head).await?;
        let done = match (self.side(Tree::Mine, mine).await?, head) {
            (Side::Dir(mine), Side::Leaf(head)) => {
                let base = match base {
                    // The head left the file alone that I made a directory of.
                    Side::Leaf(base) if self.same_name(&base, &head).await? => {
                        return Ok(Step::Done(Some(mine.into_entry())));
                    }
                    Side::Dir(base) => Some(base),
                    _ => None,
                };
                return Ok(Step::Descend(
                    self.open(path, base, None, Some(mine), Some(head)).await?,
                ));
            }
            (Side::Dir(mine), head) => {
                let (base, head) = (base.into_dir(), head.into_dir());
                return Ok(Step::Descend(
                    self.open(path, base, head, Some(mine), None).await?,
                ));
            }
            (Side::Absent, Side::Dir(head)) => {
                let Side::Dir(base) = base else {
                    return Ok(Step::Done(had));
                };
                return Ok(Step::Descend(
                    self.open(path, Some(base), Some(head), None, None).await?,
                ));
            }
            (Side::Absent, Side::Absent) => None,
            (Side::Absent, Side::Leaf(head)) => match base {
                Side::Leaf(base) => {
                    self.displaced(&path, Some(&base), &head, None).await?;
                    None
                }
                // It came, or became a file, meanwhile: I never saw it.
                _ => had,
            },
            (Side::Leaf(mine), Side::Leaf(head)) => return self.merge_leaves(path, base, head, mine).await,
            (Side::Leaf(mine), head) => {
                // Attributes alone do not bring contents back.
                let wrote = match &base {
                    Side::Leaf(base) => {
                        let touched = self.rules.attributes_revive() && !self.same_name(base, &mine).await?;
                        touched || self.wrote(base, &mine)
                    }
                    _ => true,
                };
                if !wrote {
                    return Ok(Step::Done(had));
                }
                let overwrites = match (&base, &head) {
                    (Side::Leaf(_), _) | (Side::Absent, Side::Dir(_)) => true,
                    (Side::Dir(base), Side::Dir(head)) => !self.same_dir(base, head).await?,
                    _ => false,
                };
                if overwrites {
                    self.reports.add(&path, [Register::Content]);
                }
                Some(mine.entry)
            }
        };
        Ok(Step::Done(done))
    }

    /// Nobody has a directory there, save perhaps the base.
    async fn merge_leaves(
        &mut self,
        path: VolPath,
        base: Side,
        head: Box<Leaf>,
        mine: Box<Leaf>,
    ) -> Result<Step, TreeError> {
        let base = match base {
            Side::Leaf(base) => Some(base),
            _ => None,
        };
        if head.link == mine.link && head.link.is_some() {
            return Ok(Step::Done(Some(head.entry)));
        }
        let done = match (&base, mine.link) {
            (_, None) if head.link.is_none() => {
                let was = base.as_ref().map(|base| &base.inode);
                let merged = merge_leaf(self.src, was, &head.inode, &mine.inode).await?;
                self.reports.add(&path, merged.overwritten);
                merged.value
            }
            // I left the name alone.
            (Some(base), link) if base.link == link => match link {
                Some(id) if self.revived.contains(&id) => {
                    self.displaced(&path, Some(base), &head, Some(&mine)).await?;
                    mine.entry
                }
                Some(_) => head.entry,
                None => self.follow_heads_link(&path, base, &head, &mine).await?,
            },
            // I made it one of several names, and the head left it a file of its own.
            (Some(base), Some(id)) if base.link.is_none() => {
                match self.inodes.take_heads(id, &base.inode, &head.inode).await? {
                    Some(overwritten) if head.link.is_none() => self.reports.add(&path, overwritten),
                    Some(_) => {}
                    None => self.displaced(&path, Some(base), &head, Some(&mine)).await?,
                }
                mine.entry
            }
            _ => {
                self.displaced(&path, base.as_deref(), &head, Some(&mine)).await?;
                mine.entry
            }
        };
        Ok(Step::Done(Some(done)))
    }

    /// The head made a file one of several names, which I left a file of its own.
    async fn follow_heads_link(
        &mut self,
        path: &VolPath,
        base: &Leaf,
        head: &Leaf,
        mine: &Leaf,
    ) -> Result<Entry, TreeError> {
        let Some(id) = head.link else {
            return Ok(head.entry.clone());
        };
        match self
            .inodes
            .take_mine(id, &base.inode, &head.inode, &mine.inode)
            .await?
        {
            Some(overwritten) => {
                self.reports.add(path, overwritten);
                Ok(head.entry.clone())
            }
            None => Ok(merge_leaf(self.src, Some(&base.inode), &head.inode, &mine.inode)
                .await?
                .value),
        }
    }

    /// The head's file does not stay under this name. Of one among several names that is reported at the end, if no
    /// other is left.
    async fn displaced(
        &mut self,
        path: &VolPath,
        base: Option<&Leaf>,
        head: &Leaf,
        by: Option<&Leaf>,
    ) -> Result<(), TreeError> {
        if head.link.is_none() {
            let (was, now) = (base.map(|base| &base.inode), by.map(|by| &by.inode));
            let registers = changed_and_gone(self.src, was, &head.inode, now).await?;
            self.reports.add(path, registers);
        }
        Ok(())
    }

    /// Whether mine holds other bytes under this name than the base.
    fn wrote(&self, base: &Leaf, mine: &Leaf) -> bool {
        match mine.link {
            Some(id) if base.link == mine.link => self.revived.contains(&id),
            _ => !same_body(&base.inode.body, &mine.inode.body),
        }
    }

    async fn same_name(&self, base: &Leaf, head: &Leaf) -> Result<bool, TreeError> {
        if base.link.is_some() || head.link.is_some() {
            return Ok(base.link == head.link);
        }
        Ok(changed_and_gone(self.src, Some(&base.inode), &head.inode, None)
            .await?
            .is_empty())
    }

    /// Whether the head left everything in a directory as it was. Asked only when mine puts a file in its place.
    async fn same_dir(&self, base: &Dir, head: &Dir) -> Result<bool, TreeError> {
        let mut open = vec![(base.clone(), head.clone())];
        while let Some((base, head)) = open.pop() {
            if !changed_dir_attrs(self.src, &base.attrs, &head.attrs)
                .await?
                .is_empty()
            {
                return Ok(false);
            }
            for (_, base, head) in diff_dirs(self.src, &base.tree, &head.tree).await? {
                match (
                    self.side(Tree::Base, base).await?,
                    self.side(Tree::Head, head).await?,
                ) {
                    (Side::Dir(base), Side::Dir(head)) => open.push((base, head)),
                    (Side::Leaf(base), Side::Leaf(head)) if self.same_name(&base, &head).await? => {}
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    async fn side(&self, tree: Tree, entry: Option<Entry>) -> Result<Side, TreeError> {
        let entry = match entry {
            None => return Ok(Side::Absent),
            Some(Entry {
                attrs,
                body: EntryBody::Dir { totals, tree },
            }) => return Ok(Side::Dir(Dir { attrs, totals, tree })),
            Some(leaf) => leaf,
        };
        let EntryBody::HardLink(id) = entry.body else {
            return Ok(Side::Leaf(Box::new(Leaf {
                link: None,
                inode: entry.clone(),
                entry,
            })));
        };
        let inode = match tree {
            Tree::Base => self.inodes.in_base(id).await?,
            Tree::Head => self.inodes.in_head(id).await?,
            Tree::Mine => self.inodes.in_mine(id).await?,
        };
        let inode = inode.ok_or_else(|| super::inodes::nameless(id))?;
        Ok(Side::Leaf(Box::new(Leaf {
            link: Some(id),
            inode,
            entry,
        })))
    }
}

impl Side {
    fn into_dir(self) -> Option<Dir> {
        match self {
            Side::Dir(dir) => Some(dir),
            _ => None,
        }
    }
}
