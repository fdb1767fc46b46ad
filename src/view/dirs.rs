//! Listing directories: as they are at opendir, or at the last rewind.
//!
//! A listing is a value: the base's pages (which never change) and the overlay's changes of that moment (shared, not
//! copied, until somebody changes the directory). Lines are numbered in the order of their names behind `.` and `..`;
//! a line's cookie is its number plus one. The name at the start of every run of lines is kept, so a listing of a million
//! names can be taken up anywhere and holds a run of lines in memory.

use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::inodes::{SURROGATES, What};
use super::space::{Ask, Child, Look};
use super::types::{Caller, DirItem, DirItemPlus, Fh, Ino, OpenDir, ROOT_INO};
use super::{View, ViewError};
use crate::model::{DirTree, Entry, FileId, Kind, Name};
use crate::overlay::{Change, NodeId, OverlayNode};
use crate::tree::{ListFrom, NodeSource, run_loaded};

/// Lines of a run.
const RUN_LINES: usize = 1024;
/// `.` and `..`.
const DOTS: u64 = 2;
/// Bytes of a line in the kernel's form, its name apart: without and with attributes.
const LINE_BYTES: usize = 24;
const LINE_PLUS_BYTES: usize = 152;

/// An open directory.
#[derive(Debug)]
pub(super) struct DirHandle {
    ino: Ino,
    listing: Option<Listing>,
    /// See [`OpenDir::cached`].
    cached: bool,
}

#[derive(Debug)]
struct Listing {
    /// The overlay's changes, if there are any.
    node: Option<Arc<OverlayNode>>,
    base: Option<DirTree>,
    parent: Ino,
    /// The last name before each run, from the second run on.
    marks: Vec<Name>,
    /// The run in memory: its number, and its lines.
    run: Option<(usize, Vec<Line>)>,
}

/// One line.
#[derive(Clone, Debug)]
struct Line {
    name: Name,
    what: LineWhat,
}

#[derive(Clone, Debug)]
enum LineWhat {
    Node(NodeId),
    Base(Box<Entry>),
}

impl View {
    /// Opens a directory.
    pub async fn opendir(&self, _caller: &Caller, ino: Ino) -> Result<OpenDir, ViewError> {
        let (keep_cache, cached) = self
            .edit(|src, edit| {
                if edit.look().kind(ino)? != Kind::Dir {
                    return Err(ViewError::NotDir.into());
                }
                let generation = edit.space.generation;
                // Asked before the first effect.
                Listing::new(src, edit.look(), ino)?;
                edit.space.inodes.pin(ino);
                let Some(inode) = edit.space.inodes.get_mut(ino) else {
                    return Err(ViewError::Stale { ino }.into());
                };
                let dir = inode.dir_mut();
                let cached = !std::mem::replace(&mut dir.listing_cached, true);
                Ok((dir.listed.replace(generation) == Some(generation), cached))
            })
            .await?;
        let fh = self.new_fh();
        let handle = DirHandle {
            ino,
            listing: None,
            cached,
        };
        // The snapshot is taken here, not at the first readdir.
        let handle = Arc::new(Mutex::new(handle));
        self.dirs.write().insert(fh, handle.clone());
        let taken = self
            .look(|src, look| {
                let listing = Listing::new(src, look, ino)?;
                handle.lock().listing = Some(listing);
                Ok(())
            })
            .await;
        if let Err(error) = taken {
            self.releasedir(ino, fh);
            return Err(error);
        }
        Ok(OpenDir {
            fh,
            keep_cache,
            cached,
        })
    }

    /// Lines from `cookie` on (0: from the start, taken anew), as many as fit into `bytes_max` in the kernel's form (24
    /// bytes and the name, rounded up to 8). Empty at the end.
    pub async fn readdir(
        &self,
        ino: Ino,
        fh: Fh,
        cookie: u64,
        bytes_max: usize,
    ) -> Result<Vec<DirItem>, ViewError> {
        let handle = self.dir_handle(ino, fh)?;
        self.rewind(&handle, cookie).await?;
        self.look(|src, look| {
            let mut handle = handle.lock();
            let mut items = Vec::new();
            collect(
                src,
                look,
                &mut handle,
                cookie,
                bytes_max,
                LINE_BYTES,
                &mut |item, _| items.push(item),
            )?;
            Ok(items)
        })
        .await
    }

    /// The same with attributes (152 bytes and the name); each `known` counts a reference.
    pub async fn readdirplus(
        &self,
        ino: Ino,
        fh: Fh,
        cookie: u64,
        bytes_max: usize,
    ) -> Result<Vec<DirItemPlus>, ViewError> {
        let handle = self.dir_handle(ino, fh)?;
        self.rewind(&handle, cookie).await?;
        self.edit(|src, edit| {
            let mut found: Vec<(DirItem, Option<Child>)> = Vec::new();
            {
                let look = edit.look();
                let mut handle = handle.lock();
                let mut lines = Vec::new();
                let keep = &mut |item: DirItem, line: Option<&Line>| lines.push((item, line.is_some()));
                collect(src, look, &mut handle, cookie, bytes_max, LINE_PLUS_BYTES, keep)?;
                // Everything that may have to be fetched is asked before the first inode is entered. A directory that was
                // removed or replaced by a reload has no children now, but its listing goes on.
                for (item, is_entry) in lines {
                    let child = if is_entry {
                        present_child(src, look, ino, &item.name)?
                    } else {
                        None
                    };
                    if let Some(Child::Node(id)) = &child {
                        look.base_dir(src, *id)?;
                    }
                    found.push((item, child));
                }
            }
            let mut items = Vec::with_capacity(found.len());
            for (mut item, child) in found {
                let known = match child {
                    Some(child) => edit.answer(src, ino, &item.name, child).ok(),
                    None => None,
                };
                if let Some(known) = &known {
                    item.ino = known.attr.ino;
                }
                items.push(DirItemPlus { item, known });
            }
            Ok(items)
        })
        .await
    }

    /// The last close of a directory.
    pub fn releasedir(&self, ino: Ino, fh: Fh) {
        let removed = {
            let mut dirs = self.dirs.write();
            match dirs.get(&fh) {
                Some(handle) if handle.lock().ino == ino => dirs.remove(&fh),
                _ => None,
            }
        };
        if let Some(removed) = removed {
            let cached = removed.lock().cached;
            self.with_edit(|edit| {
                if cached && let Some(inode) = edit.space.inodes.get_mut(ino) {
                    inode.dir_mut().listing_cached = false;
                }
                edit.space.inodes.unpin(ino);
                edit.drop_unused(ino);
            });
        }
    }

    /// The names of a directory survive a power cut from here on. Blocks on the local disk, as `fsync`.
    pub async fn fsyncdir(&self, ino: Ino, fh: Fh, _data_only: bool) -> Result<(), ViewError> {
        self.dir_handle(ino, fh)?;
        match self.overlay() {
            Some(overlay) => Ok(overlay.sync()?),
            None => Ok(()),
        }
    }

    fn dir_handle(&self, ino: Ino, fh: Fh) -> Result<Arc<Mutex<DirHandle>>, ViewError> {
        let handle = self.dirs.read().get(&fh).cloned();
        handle
            .filter(|handle| handle.lock().ino == ino)
            .ok_or(ViewError::BadHandle { fh })
    }

    async fn rewind(&self, handle: &Mutex<DirHandle>, cookie: u64) -> Result<(), ViewError> {
        let (ino, fresh) = {
            let handle = handle.lock();
            (
                handle.ino,
                handle
                    .listing
                    .as_ref()
                    .is_some_and(|listing| listing.run.is_none()),
            )
        };
        if cookie != 0 || fresh {
            return Ok(());
        }
        self.look(|src, look| {
            let listing = Listing::new(src, look, ino)?;
            handle.lock().listing = Some(listing);
            Ok(())
        })
        .await
    }
}

/// The child of a directory that may be gone itself.
fn present_child(src: &dyn NodeSource, look: Look<'_>, dir: Ino, name: &[u8]) -> Result<Option<Child>, Ask> {
    match look.child(src, dir, name) {
        Err(Ask::Fail(ViewError::NotDir | ViewError::Stale { .. })) => Ok(None),
        other => other,
    }
}

/// Gives lines from a cookie on to `keep`, as long as they fit.
fn collect(
    src: &dyn NodeSource,
    look: Look<'_>,
    handle: &mut DirHandle,
    cookie: u64,
    bytes_max: usize,
    line_bytes: usize,
    keep: &mut dyn FnMut(DirItem, Option<&Line>),
) -> Result<(), Ask> {
    let ino = handle.ino;
    let Some(listing) = &mut handle.listing else {
        return Ok(());
    };
    let mut room = bytes_max;
    let mut fits = |name: &[u8]| {
        let bytes = (line_bytes + name.len()).next_multiple_of(8);
        room = match room.checked_sub(bytes) {
            Some(room) => room,
            None => return false,
        };
        true
    };
    let mut at = cookie;
    while at < DOTS {
        let (name, ino): (&[u8], Ino) = if at == 0 {
            (b".", ino)
        } else {
            (b"..", listing.parent)
        };
        if !fits(name) {
            return Ok(());
        }
        at += 1;
        let item = DirItem {
            name: name.into(),
            ino: look.space.inodes.get(ino).map_or(ino, |inode| inode.shown),
            kind: Kind::Dir,
            cookie: at,
        };
        keep(item, None);
    }
    loop {
        let line = at - DOTS;
        let run = usize::try_from(line / RUN_LINES as u64).unwrap_or(usize::MAX);
        let lines = listing.load(src, run)?;
        let first = usize::try_from(line % RUN_LINES as u64).unwrap_or(0);
        for line in lines.iter().skip(first) {
            if !fits(line.name.as_bytes()) {
                return Ok(());
            }
            at += 1;
            if let Some((ino, kind)) = identity(src, look, ino, line)? {
                let item = DirItem {
                    name: line.name.as_bytes().into(),
                    ino,
                    kind,
                    cookie: at,
                };
                keep(item, Some(line));
            }
        }
        if lines.len() < RUN_LINES {
            return Ok(());
        }
    }
}

/// `d_ino` and kind of a line; `None` for a node that is gone altogether.
fn identity(src: &dyn NodeSource, look: Look<'_>, dir: Ino, line: &Line) -> Result<Option<(u64, Kind)>, Ask> {
    let child = match &line.what {
        LineWhat::Node(id) => {
            if look.state.node(*id).is_none() {
                return Ok(None);
            }
            Child::Node(*id)
        }
        LineWhat::Base(entry) if entry.kind() == Kind::HardLink => {
            // Its inode may have gone since, with all its names.
            match look.child_of_entry(src, (**entry).clone()) {
                Err(Ask::Fail(_)) => return Ok(None),
                other => other?,
            }
        }
        LineWhat::Base(entry) => {
            let known = look.space.inodes.clean_child(dir, line.name.as_bytes());
            return Ok(Some((shown(look, known, entry.attrs.file_id), entry.kind())));
        }
    };
    let (known, file_id) = match &child {
        Child::Node(id) => (look.space.inodes.of_node(*id), look.node(*id)?.attrs.file_id),
        Child::Link(id, link) => (look.space.inodes.of_link(*id), link.entry.attrs.file_id),
        Child::Clean(entry) => (None, entry.attrs.file_id),
    };
    Ok(Some((shown(look, known, file_id), look.child_kind(&child)?)))
}

fn shown(look: Look<'_>, known: Option<Ino>, file_id: FileId) -> u64 {
    if let Some(inode) = known.and_then(|ino| look.space.inodes.get(ino)) {
        return inode.shown;
    }
    // One that the table does not know has no surrogate yet; a line without any number would be skipped by readers.
    let free = look.space.inodes.free_to_show(file_id, look.space.generation);
    free.unwrap_or(SURROGATES)
}

impl Listing {
    fn new(src: &dyn NodeSource, look: Look<'_>, ino: Ino) -> Result<Listing, Ask> {
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
            parent: look.parent(ino),
            marks: Vec::new(),
            run: None,
        })
    }

    /// The lines of a run; fewer than [`RUN_LINES`] in the last one, none behind it.
    fn load(&mut self, src: &dyn NodeSource, run: usize) -> Result<&[Line], Ask> {
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
                return Ok(self.run.as_ref().map_or(&[], |(_, lines)| lines));
            }
            if !full {
                return Ok(&[]);
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
