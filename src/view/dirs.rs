//! Listing directories.
//!
//! 1. A listing is whole. It belongs to the moment of its first read from the start (not of opendir), goes on as it was begun
//!    through changes, commits and reloads, and begins anew when somebody goes back to the start (rewinddir).
//! 2. Lines are numbered behind `.` and `..`; a line's cookie is its number plus one.
//! 3. The kernel keeps the lines of one listing for every directory, in pages of its own. A handle that may be answered from
//!    there, and fill it, is given at OPENDIR ([`OpenDir::cached`]), at most one of a directory at a time: cookies are numbers in
//!    one listing. When such a handle comes in the middle of what the kernel had kept and lost, it finds the listing of its
//!    opendir: had the directory changed since, the kernel would have begun anew, and a reload drops what is kept before it is
//!    answered.
//! 4. An answer that is under way to a reader when the view moves reaches the kernel's caches behind whatever is dropped then.
//!    [`View::listings_under_way`] names the directories where that may be: the kernel is told about these once more, after
//!    it says that nobody is in them any more (`fuse/notify.rs`).
//! 5. A line whose name is gone by now gets an inode of its own, which the kernel asks about again at once: an answer with
//!    attributes has no room for a line without an inode, and a line without a number is skipped by readers.

use std::sync::Arc;

use parking_lot::Mutex;

use super::edit::Edit;
use super::inodes::What;
use super::listing::{Line, Listing, RUN_LINES, identity};
use super::space::{Ask, Child, Look};
use super::types::{Caller, DirItem, DirItemPlus, Fh, Ino, Known, OpenDir};
use super::{View, ViewError};
use crate::model::{Attrs, Content, DirTree, Entry, EntryBody, FileId, Kind, Totals};
use crate::tree::NodeSource;

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
    /// Lines were given that its reader may not have taken in yet.
    under_way: bool,
}

impl View {
    /// Opens a directory.
    pub async fn opendir(&self, _caller: &Caller, ino: Ino) -> Result<OpenDir, ViewError> {
        let fh = self.new_fh();
        self.edit(|src, edit| {
            if edit.look().kind(ino)? != Kind::Dir {
                return Err(ViewError::NotDir.into());
            }
            let generation = edit.space.generation;
            // Asked before the first effect. For a reader that the kernel answers from what it keeps, up to the middle.
            let listing = Listing::new(src, edit.look(), ino)?;
            edit.space.inodes.pin(ino);
            let Some(inode) = edit.space.inodes.get_mut(ino) else {
                return Err(ViewError::Stale { ino }.into());
            };
            let dir = inode.dir_mut();
            let cached = !std::mem::replace(&mut dir.listing_cached, true);
            let keep_cache = dir.listed.replace(generation) == Some(generation);
            let handle = DirHandle {
                ino,
                listing: Some(listing),
                cached,
                under_way: false,
            };
            // Under the lock of the space: whoever moves the view meets this listing, or it was begun after.
            self.dirs.write().insert(fh, Arc::new(Mutex::new(handle)));
            Ok(OpenDir {
                fh,
                keep_cache,
                cached,
            })
        })
        .await
    }

    /// Lines from `cookie` on (0: from the start, of a listing that begins now), as many as fit into `bytes_max` in the
    /// kernel's form (24 bytes and the name, rounded up to 8). Empty at the end.
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
            let mut found: Vec<(DirItem, Option<Option<Child>>)> = Vec::new();
            {
                let look = edit.look();
                let mut handle = handle.lock();
                let mut lines = Vec::new();
                let keep = &mut |item: DirItem, line: Option<&Line>| lines.push((item, line.is_some()));
                collect(src, look, &mut handle, cookie, bytes_max, LINE_PLUS_BYTES, keep)?;
                // Everything that may have to be fetched is asked before the first inode is entered. A directory that was
                // removed or replaced by a reload has no children now, but its listing goes on.
                for (item, is_entry) in lines {
                    if !is_entry {
                        found.push((item, None));
                        continue;
                    }
                    let child = present_child(src, look, ino, &item.name)?;
                    if let Some(Child::Node(id)) = &child {
                        look.base_dir(src, *id)?;
                    }
                    found.push((item, Some(child)));
                }
            }
            let mut items = Vec::with_capacity(found.len());
            for (mut item, line) in found {
                let known = match line {
                    None => None,
                    Some(child) => {
                        let there = child.and_then(|child| edit.answer(src, ino, &item.name, child).ok());
                        Some(match there {
                            Some(known) => known,
                            None => edit.answer_gone(src, item.kind)?,
                        })
                    }
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

    /// A handle is asked for lines: what it was given before is taken in by now, and at the start a listing begins.
    async fn rewind(&self, handle: &Mutex<DirHandle>, cookie: u64) -> Result<(), ViewError> {
        let ino = {
            let mut handle = handle.lock();
            handle.under_way = false;
            if cookie != 0 && handle.listing.is_some() {
                return Ok(());
            }
            handle.ino
        };
        self.look(|src, look| {
            let listing = Listing::new(src, look, ino)?;
            handle.lock().listing = Some(listing);
            Ok(())
        })
        .await
    }

    /// The view is about to move away from what `look` shows, or to what looks the same but is kept elsewhere: listings that
    /// were begun go on.
    pub(super) fn listings_outlive(&self, look: Look<'_>) {
        for handle in self.dirs.read().values() {
            if let Some(listing) = &mut handle.lock().listing {
                listing.outlive(look);
            }
        }
    }

    /// Directories of which lines were given to a reader who may not have taken them in yet.
    pub(super) fn listings_under_way(&self) -> Vec<Ino> {
        let handles = self.dirs.read();
        let under_way = handles.values().filter_map(|handle| {
            let handle = handle.lock();
            handle.under_way.then_some(handle.ino)
        });
        let mut dirs: Vec<Ino> = under_way.collect();
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }
}

impl Edit<'_> {
    /// An inode for a line whose name leads nowhere any more: the kernel forgets it at once.
    fn answer_gone(&mut self, src: &dyn NodeSource, kind: Kind) -> Result<Known, Ask> {
        let body = match kind {
            Kind::Dir => EntryBody::Dir {
                totals: Totals::default(),
                tree: DirTree::empty(),
            },
            Kind::Symlink => EntryBody::Symlink {
                target: Arc::from(&b""[..]),
            },
            Kind::Fifo => EntryBody::Fifo,
            Kind::Socket => EntryBody::Socket,
            Kind::CharDev => EntryBody::CharDev { major: 0, minor: 0 },
            Kind::BlockDev => EntryBody::BlockDev { major: 0, minor: 0 },
            Kind::File | Kind::HardLink => EntryBody::File {
                size: 0,
                content: Content::empty(),
            },
        };
        let attrs = Attrs::default();
        let what = What::Gone(Box::new(Entry { attrs, body }));
        let generation = self.space.generation;
        let ino = self.space.inodes.insert(what, FileId(0), None, generation);
        let known = self.look().refer(src, ino)?;
        Ok(Known {
            settled: false,
            ..known
        })
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
    let under_way = &mut handle.under_way;
    let mut keep = |item: DirItem, line: Option<&Line>| {
        *under_way = true;
        keep(item, line);
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
        let (lines, former) = listing.load(src, run)?;
        let first = usize::try_from(line % RUN_LINES as u64).unwrap_or(0);
        for line in lines.iter().skip(first) {
            if !fits(line.name.as_bytes()) {
                return Ok(());
            }
            at += 1;
            if let Some((ino, kind)) = identity(src, look, ino, line, former)? {
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
