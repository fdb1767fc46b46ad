//! A listing as a value: the lines of one directory at one moment.
//!
//! The base's pages never change, and the overlay's changes of that moment are shared, not copied, until somebody changes the
//! directory. Lines are numbered in the order of their names; the name at the start of every run of lines is kept, so a
//! listing of a million names can be taken up anywhere and holds a run of lines in memory.
//!
//! A listing outlives a reload ([`Listing::outlive`]): then it keeps what only the former overlay and base could say of its
//! lines, and none of them is left out for what became of the name.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use super::drawn::DrawnFrom;
use super::inodes::{What, Whose};
use super::space::{Ask, Child, Look};
use super::standing::BaseHold;
use super::types::{Ino, ROOT_INO};
use crate::model::{DirTree, Entry, EntryBody, FileId, Kind, LinkId, LinksTree, Name};
use crate::overlay::{Change, NodeId, OverlayNode};
use crate::tree::{ListFrom, NodeSource, link_loaded, run_loaded};

/// Lines of a run.
pub(super) const RUN_LINES: usize = 1024;

#[derive(Debug)]
pub(super) struct Listing {
    /// The overlay's changes, if there are any.
    node: Option<Arc<OverlayNode>>,
    base: Option<DirTree>,
    /// Of `base`, which the view may leave while the listing goes on.
    _hold: BaseHold,
    /// The base's nodes are read on, also from the store.
    _drawn: DrawnFrom,
    pub parent: Ino,
    /// The last name before each run, from the second run on.
    marks: Vec<Name>,
    /// The run in memory: its number, and its lines.
    run: Option<(usize, Vec<Line>)>,
    /// Once the view has moved on.
    former: Option<Box<Former>>,
}

/// What the view stood on when a listing was begun, as far as lines need it.
#[derive(Debug)]
pub(super) struct Former {
    /// What changed names lead to.
    nodes: HashMap<NodeId, (FileId, Kind)>,
    links: LinksTree,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub name: Name,
    what: LineWhat,
}

#[derive(Clone, Debug)]
enum LineWhat {
    Node(NodeId),
    Base(Box<Entry>),
}

impl Listing {
    pub fn new(src: &dyn NodeSource, look: Look<'_>, ino: Ino) -> Result<Listing, Ask> {
        let inode = look.inode(ino)?;
        let (node, base) = match &inode.what {
            What::Node(id) => {
                let node = look.state.node(*id).filter(|node| node.nlink > 0);
                match node {
                    Some(node) => (Some(node.clone()), look.base_dir(src, *id)?.map(|base| base.tree)),
                    None => (None, None),
                }
            }
            What::Clean(entry) => (None, entry.as_dir().map(|(_, tree)| tree.clone())),
            What::Link(..) | What::Gone(_) => (None, None),
        };
        Ok(Listing {
            node,
            base,
            _hold: look.space.hold.clone(),
            _drawn: look.space.drawn.now(look.state),
            parent: look.parent(ino),
            marks: Vec::new(),
            run: None,
            former: None,
        })
    }

    /// The view is about to move on (or has just moved): everything is kept that only `look` can say of the lines. A listing
    /// that has outlived one reload outlives the next one too.
    pub fn outlive(&mut self, look: Look<'_>) {
        if self.former.is_some() {
            return;
        }
        let changes = self.node.as_ref().and_then(|node| node.body.as_dir());
        let nodes = changes.into_iter().flat_map(|dir| dir.changes.values());
        let nodes = nodes.filter_map(|change| match change {
            Change::Node { id, .. } => {
                let node = look.state.node(*id)?;
                Some((*id, (node.attrs.file_id, node.kind())))
            }
            Change::Whiteout(_) => None,
        });
        self.former = Some(Box::new(Former {
            nodes: nodes.collect(),
            links: look.space.base.links.clone(),
        }));
    }

    /// The lines of a run, with what the listing remembers of former days for [`identity`]; fewer than [`RUN_LINES`] in the
    /// last one, none behind it.
    pub fn load(&mut self, src: &dyn NodeSource, run: usize) -> Result<(&[Line], Option<&Former>), Ask> {
        let mut next = run.min(self.marks.len());
        loop {
            if self.run.as_ref().is_none_or(|(loaded, _)| *loaded != next) {
                let after = next.checked_sub(1).and_then(|at| self.marks.get(at)).cloned();
                let lines = self.lines_after(src, after.as_ref())?;
                if lines.len() == RUN_LINES
                    && next == self.marks.len()
                    && let Some(last) = lines.last()
                {
                    self.marks.push(last.name.clone());
                }
                self.run = Some((next, lines));
            }
            let full = self
                .run
                .as_ref()
                .is_some_and(|(_, lines)| lines.len() == RUN_LINES);
            if next == run {
                let lines = self.run.as_ref().map_or(&[][..], |(_, lines)| lines);
                return Ok((lines, self.former.as_deref()));
            }
            if !full {
                return Ok((&[], self.former.as_deref()));
            }
            next += 1;
        }
    }

    /// The next lines behind a name: base and changes merged.
    fn lines_after(&self, src: &dyn NodeSource, after: Option<&Name>) -> Result<Vec<Line>, Ask> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_bytes()));
        let mut changes = self
            .node
            .as_ref()
            .and_then(|node| node.body.as_dir())
            .map(|dir| dir.changes.range::<[u8], _>((from, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .peekable();
        let mut lines = Vec::new();
        let mut last = after.cloned();
        let mut base_left = self.base.as_ref();
        while let Some(tree) = base_left {
            let from = last
                .as_ref()
                .map_or(ListFrom::Start, |name| ListFrom::After(name.as_bytes()));
            let Some(run) = run_loaded(src, tree, from)? else {
                base_left = None;
                continue;
            };
            for (name, entry) in run.entries() {
                while let Some((changed, change)) = changes.next_if(|(changed, _)| *changed < name) {
                    lines.extend(line_of(changed, change));
                    if lines.len() == RUN_LINES {
                        return Ok(lines);
                    }
                }
                match changes.next_if(|(changed, _)| *changed == name) {
                    Some((changed, change)) => lines.extend(line_of(changed, change)),
                    None => lines.push(Line {
                        name: name.clone(),
                        what: LineWhat::Base(Box::new(entry.clone())),
                    }),
                }
                if lines.len() == RUN_LINES {
                    return Ok(lines);
                }
            }
            last = run.entries().last().map(|(name, _)| name.clone());
        }
        for (changed, change) in changes {
            lines.extend(line_of(changed, change));
            if lines.len() == RUN_LINES {
                break;
            }
        }
        Ok(lines)
    }
}

fn line_of(name: &Name, change: &Change) -> Option<Line> {
    match change {
        Change::Whiteout(_) => None,
        Change::Node { id, .. } => Some(Line {
            name: name.clone(),
            what: LineWhat::Node(*id),
        }),
    }
}

/// `d_ino` and kind of a line; `None` for a local file that was removed since the listing was begun.
pub(super) fn identity(
    src: &dyn NodeSource,
    look: Look<'_>,
    dir: Ino,
    line: &Line,
    former: Option<&Former>,
) -> Result<Option<(u64, Kind)>, Ask> {
    let inodes = &look.space.inodes;
    let here = inodes.at(dir, line.name.as_bytes());
    let ((known, file_id, kind), whose) = match &line.what {
        LineWhat::Node(id) => match (look.state.node(*id), former.and_then(|it| it.nodes.get(id))) {
            (Some(node), _) => {
                let known = inodes.of_node(*id);
                ((known, node.attrs.file_id, node.kind()), Whose::Node(*id))
            }
            (None, Some((file_id, kind))) => {
                // A commit has put it into the base.
                let known = inodes.clean_child(dir, line.name.as_bytes());
                ((known, *file_id, *kind), here)
            }
            (None, None) => return Ok(None),
        },
        LineWhat::Base(entry) => match entry.body {
            EntryBody::HardLink(link) => match hard_link(src, look, entry, link, former)? {
                Some(found) => (found, Whose::Link(link)),
                None => return Ok(None),
            },
            _ => {
                let known = inodes.clean_child(dir, line.name.as_bytes());
                ((known, entry.attrs.file_id, entry.kind()), here)
            }
        },
    };
    let number = match known.and_then(|ino| inodes.get(ino)) {
        Some(inode) => inode.shown,
        None => inodes.would_show(file_id, whose, look.space.generation),
    };
    Ok(Some((number, kind)))
}

/// The inode that a name of the links tree led to when the listing was begun.
fn hard_link(
    src: &dyn NodeSource,
    look: Look<'_>,
    entry: &Entry,
    link: LinkId,
    former: Option<&Former>,
) -> Result<Option<(Option<Ino>, FileId, Kind)>, Ask> {
    let child = match (look.child_of_entry(src, entry.clone()), former) {
        (Err(Ask::Fail(_)), None) => return Ok(None),
        // It has gone since, with all its names.
        (Err(Ask::Fail(_)), Some(former)) => match link_loaded(src, &former.links, &link)? {
            Some(inode) => return Ok(Some((None, inode.entry.attrs.file_id, inode.entry.kind()))),
            None => return Ok(None),
        },
        (child, _) => child?,
    };
    let kind = look.child_kind(&child)?;
    Ok(Some(match child {
        Child::Node(id) => (look.space.inodes.of_node(id), look.node(id)?.attrs.file_id, kind),
        Child::Link(id, link) => (look.space.inodes.of_link(id), link.entry.attrs.file_id, kind),
        Child::Clean(entry) => (None, entry.attrs.file_id, kind),
    }))
}

impl Look<'_> {
    /// The directory above, as far as the table knows it: the kernel holds the way up of what it holds.
    fn parent(&self, ino: Ino) -> Ino {
        let Some(inode) = self.space.inodes.get(ino) else {
            return ROOT_INO;
        };
        match (&inode.what, &inode.place) {
            (_, Some((dir, _))) => *dir,
            (What::Node(id), None) => {
                let above = self.state.node(*id).and_then(|node| node.names.first());
                above
                    .and_then(|(parent, _)| self.space.inodes.of_node(*parent))
                    .unwrap_or(ROOT_INO)
            }
            _ => ROOT_INO,
        }
    }
}
