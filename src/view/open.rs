//! Opening and closing files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::backing::Offer;
use super::edit::Edit;
use super::file::{FileBytes, FileData, Route};
use super::inodes::{Inode, What};
use super::space::{Ask, Child};
use super::types::{Caller, Fh, Ino, Known, OpenFile, OpenFlags};
use super::view::FileHandle;
use super::{View, ViewError};
use crate::model::{Content, EntryBody, Kind, Name, Timestamp};
use crate::overlay::{Body, NewBody, NodeBody, NodeId, Op, OverlayError};

/// Longest file whose bytes go to the kernel with its opening, bytes: as many as the kernel's own read-ahead would ask for at
/// first, so that a reader of the beginning alone costs nothing more.
const GIVEN_BYTES_MAX: u64 = 128 << 10;
/// What a new body may need at once: blocks of a directory, or of inodes.
const NEW_BODY_BYTES: u64 = 64 << 10;

impl View {
    /// Opens a file.
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Result<OpenFile, ViewError> {
        if flags.write || flags.truncate {
            self.check_writable()?;
        }
        if flags.truncate && self.is_retained(ino) {
            // What was closed a moment ago need not count as open: a body that nobody has open can give way to another.
            self.settle_closed();
        }
        let file = self.edit(|_, edit| edit.open_file(ino, flags.write)).await?;
        let opened = Opened {
            view: self,
            file: &file,
            writer: flags.write,
        };
        if file.opens.load(Ordering::Relaxed) > 1 {
            // The kernel may be getting the bytes with an opening that is not answered yet (`give_small`).
            drop(file.bytes.write());
        }
        if flags.truncate {
            if !flags.write && file.executing.load(Ordering::Relaxed) > 0 {
                // The kernel asks that of itself only after it was cut.
                return Err(ViewError::TextBusy);
            }
            self.truncate(&file, 0).await?;
            self.cut_by(caller, ino).await?;
        }
        if !flags.write && file.shares() {
            self.readers.lock().note(caller.pid, self.now());
        }
        let offer = self.offer(&file, flags).await?;
        Ok(self.new_handle(ino, flags, opened.keep(), offer))
    }

    /// True if nobody has the file open any more, as far as is known, and nobody has looked yet whether a mapping is left.
    fn is_retained(&self, ino: Ino) -> bool {
        let space = self.space.read();
        let file = space.inodes.get(ino).and_then(|inode| inode.file.as_ref());
        file.is_some_and(|file| file.retained.load(Ordering::Relaxed))
    }

    /// Makes and opens a file. One that is there is opened, unless `flags.exclusive`.
    pub async fn create(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        mode: u16,
        flags: OpenFlags,
    ) -> Result<(Known, OpenFile), ViewError> {
        self.check_writable()?;
        let name = Name::new(name)?;
        let copying = self.readers.lock().just_read(caller.pid, self.now());
        let (body, refused) = match self.body_for_new(flags, copying) {
            Ok(body) => (body, None),
            Err(error) => (None, Some(error)),
        };
        let refused = Mutex::new(refused);
        let named = AtomicBool::new(false);
        let made = self
            .edit(|src, edit| {
                if let Some(child) = edit.look().child(src, dir, name.as_bytes())? {
                    if flags.exclusive || edit.look().child_kind(&child)? != Kind::File {
                        return Err(ViewError::Exists.into());
                    }
                    return Ok((edit.answer(src, dir, name.as_bytes(), child)?, None));
                }
                if let Some(error) = refused.lock().take() {
                    return Err(error.into());
                }
                let new = NewBody::File(None);
                let id = edit.make(self, src, caller, dir, &name, mode, &new, body.as_ref())?;
                named.store(true, Ordering::Relaxed);
                let known = edit.answer(src, dir, name.as_bytes(), Child::Node(id))?;
                if let Some(body) = &body {
                    edit.open_new(known.ino, id, body);
                }
                Ok((known, Some(edit.open_file(known.ino, flags.write)?)))
            })
            .await;
        if !named.into_inner()
            && let (Some(overlay), Some(body)) = (self.overlay(), body)
        {
            overlay.discard_body(body);
        }
        match made? {
            (known, Some(file)) => {
                let opened = Opened {
                    view: self,
                    file: &file,
                    writer: flags.write,
                };
                if copying {
                    file.set_route(Route::Daemon);
                }
                let offer = match self.offer(&file, flags).await {
                    Ok(offer) => offer,
                    Err(error) => {
                        drop(opened);
                        self.forget(known.ino, 1);
                        return Err(error);
                    }
                };
                let open = self.new_handle(known.ino, flags, opened.keep(), offer);
                Ok((known, open))
            }
            (known, None) => match self.open(caller, known.ino, flags).await {
                Ok(open) => {
                    let attr = self.getattr(caller, known.ino, None).await?;
                    Ok((Known { attr, ..known }, open))
                }
                Err(error) => {
                    self.forget(known.ino, 1);
                    Err(error)
                }
            },
        }
    }

    /// What is written from the start, by the kernel, gets its body in the same step as its name. Where the disk has so little
    /// room left that none are made ahead, so does everything that is opened for writing: then it is known at once when there
    /// is no inode for it, as on any file system, and not with the first write. (Files that were made before room became
    /// scarce, by mknod(2), or by who is likely to copy, may still have to tell their first writer; to know it of them, each
    /// would need a body that may never be written.)
    ///
    /// # Errors
    /// No room, no inode, or a quota that is used up. Other trouble with the disk is told to who writes first.
    fn body_for_new(&self, flags: OpenFlags, copying: bool) -> Result<Option<Arc<Body>>, ViewError> {
        let Some(overlay) = self.overlay().filter(|_| flags.write && !copying) else {
            return Ok(None);
        };
        let make = || match self.passthrough().bodies {
            true => overlay.create_body().map(Some),
            false => overlay.create_body_if_scarce(),
        };
        let is_full = |error: &OverlayError| matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT));
        let mut made = make();
        if made.as_ref().is_err_and(is_full)
            && let Some(room) = &self.room
            && room.make_room(NEW_BODY_BYTES) > 0
        {
            made = make();
        }
        match made {
            Ok(body) => Ok(body),
            Err(error) if is_full(&error) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "a body for a new file");
                Ok(None)
            }
        }
    }

    fn new_handle(&self, ino: Ino, flags: OpenFlags, file: Arc<FileData>, offer: Option<Offer>) -> OpenFile {
        let fh = self.new_fh();
        if flags.execute {
            file.executing.fetch_add(1, Ordering::Relaxed);
        }
        let handle = FileHandle { ino, flags, file };
        self.files.write().insert(fh, Arc::new(handle));
        // What this machine writes goes through the kernel's own pages; a reload says so.
        let outdated = self.with_look(|look| {
            let inode = look.space.inodes.get(ino);
            inode.is_some_and(|inode| inode.outdated.load(Ordering::Relaxed))
        });
        OpenFile {
            fh,
            keep_cache: !outdated,
            offer,
        }
    }

    /// Gives all bytes of a small file that was just opened to `give`, which puts them into the kernel's pages, before the
    /// opening is answered: then the reader need not ask for them. Only clean bytes that are here, and once for as long as
    /// the kernel knows the inode.
    ///
    /// Meanwhile nobody changes the file and nobody reads it through the kernel: what another handle would do waits for the
    /// file's lock, or is seen in the count of handles. So pages are never older than the file, and the kernel never waits
    /// for a reader whose question waits for this one.
    pub fn give_small(&self, ino: Ino, fh: Fh, give: impl FnOnce(&[u8])) {
        let handle = self.file_handle(ino, fh).ok();
        let Some(handle) = handle.filter(|handle| handle.flags.read && !handle.flags.write) else {
            return;
        };
        let file = &handle.file;
        let bytes = file.bytes.read();
        let FileBytes::Clean { size, content } = &*bytes else {
            return;
        };
        let alone = file.opens.load(Ordering::Relaxed) == 1;
        if !alone || !(1..=GIVEN_BYTES_MAX).contains(size) || matches!(file.route(), Route::Backed(_)) {
            return;
        }
        let given =
            |inode: &Inode| inode.given.load(Ordering::Relaxed) || inode.outdated.load(Ordering::Relaxed);
        if self.space.read().inodes.get(ino).is_none_or(given) {
            return;
        }
        let found = usize::try_from(*size)
            .ok()
            .and_then(|len| self.source.read_local(content, *size, 0, len))
            .filter(|found| found.len() as u64 == *size);
        if let Some(found) = found {
            give(&found);
            if let Some(inode) = self.space.read().inodes.get(ino) {
                inode.given.store(true, Ordering::Relaxed);
            }
        }
    }

    /// close(2). Nothing is lost between it and `release`: every write is in the body already.
    pub async fn flush(&self, ino: Ino, fh: Fh) -> Result<(), ViewError> {
        self.file_handle(ino, fh).map(|_| ())
    }

    /// Bytes and names of a file survive a power cut from here on. Blocks on the local disk: not to be polled on a
    /// thread that serves other requests.
    pub async fn fsync(&self, ino: Ino, fh: Fh, _data_only: bool) -> Result<(), ViewError> {
        let handle = self.file_handle(ino, fh)?;
        let Some(overlay) = self.overlay() else {
            return Ok(());
        };
        self.with_edit(|edit| edit.settle(&handle.file))?;
        match handle.file.current_body() {
            Some(body) => overlay.sync_bodies(&[body])?,
            None => overlay.sync()?,
        }
        Ok(())
    }

    /// The last close of a handle.
    pub fn release(&self, ino: Ino, fh: Fh) {
        let handle = {
            let mut files = self.files.write();
            match files.get(&fh) {
                Some(handle) if handle.ino == ino => files.remove(&fh),
                _ => None,
            }
        };
        if let Some(handle) = handle {
            if handle.flags.execute {
                handle.file.executing.fetch_sub(1, Ordering::Relaxed);
            }
            // The kernel has dropped the pages of before with the opening.
            if let Some(inode) = self.space.read().inodes.get(ino) {
                inode.outdated.store(false, Ordering::Relaxed);
            }
            self.close(&handle.file, handle.flags.write);
        }
    }

    /// The kernel has let go of the mount, and with it of every file: some of its last messages may not have come.
    pub fn release_all(&self) {
        let open: Vec<(Ino, Fh)> = self
            .files
            .read()
            .iter()
            .map(|(fh, handle)| (handle.ino, *fh))
            .collect();
        for (ino, fh) in open {
            self.release(ino, fh);
        }
        self.settle_closed();
    }

    pub(super) fn close(&self, file: &Arc<FileData>, writer: bool) {
        if writer
            && file.writers() == 1
            && file.replacing.swap(false, Ordering::Relaxed)
            && let (Some(overlay), Some(body)) = (self.overlay(), file.current_body())
        {
            overlay.sync_along(body.id(), true);
        }
        self.with_edit(|edit| {
            // A live file is settled when it is known to be closed, or when a commit asks.
            let live = file.live().is_some();
            if !live && let Err(error) = edit.settle(file) {
                // The body keeps the time; only a commit before the next start would not see it.
                tracing::warn!(ino = file.ino, %error, "the time of a write is not in the overlay");
            }
            let last_writer = writer && file.writers.fetch_sub(1, Ordering::Relaxed) == 1;
            let last = file.opens.fetch_sub(1, Ordering::Relaxed) == 1;
            let kept = last && live && !file.retained.swap(true, Ordering::Relaxed);
            if live && (last || last_writer) && !file.queued.swap(true, Ordering::Relaxed) {
                self.closing.lock().push(file.clone());
                self.closed.notify_one();
            }
            if kept {
                // With this handle's pin.
                return;
            }
            if last && !live {
                edit.forget_file(file, None);
            }
            edit.space.inodes.unpin(file.ino);
            edit.drop_unused(file.ino);
        });
    }
}

/// A file that was opened, and is closed again if what follows does not come to its end.
pub(super) struct Opened<'a> {
    pub view: &'a View,
    pub file: &'a Arc<FileData>,
    pub writer: bool,
}

impl Opened<'_> {
    /// It stays open.
    fn keep(self) -> Arc<FileData> {
        let file = self.file.clone();
        std::mem::forget(self);
        file
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.view.close(self.file, self.writer);
    }
}

impl Edit<'_> {
    /// The open file of an inode, with one more handle counted.
    pub fn open_file(&mut self, ino: Ino, writer: bool) -> Result<Arc<FileData>, Ask> {
        let look = self.look();
        let inode = look.inode(ino)?;
        match look.kind(ino)? {
            Kind::File => {}
            Kind::Dir => return Err(ViewError::IsDir.into()),
            _ => return Err(ViewError::Invalid.into()),
        }
        if writer && matches!(inode.what, What::Gone(_)) {
            // By its path the program finds what is there now.
            return Err(ViewError::Stale { ino }.into());
        }
        let file = match &inode.file {
            Some(file) => file.clone(),
            None => {
                let file = self.load_file(ino)?;
                if file.needs_the_store() {
                    file.draws_from(self.space.drawn.now(&self.state));
                }
                Arc::new(file)
            }
        };
        if let What::Node(id) = inode.what
            && self.space.left_behind.contains(&id)
        {
            file.shy.store(true, Ordering::Relaxed);
        }
        if writer && file.writers.fetch_add(1, Ordering::Relaxed) == 0 {
            let frozen = self.is_frozen(ino);
            file.frozen.store(frozen, Ordering::Release);
        }
        file.opens.fetch_add(1, Ordering::Relaxed);
        self.space.inodes.pin(ino);
        self.space.inodes.set_file(ino, Some(file.clone()));
        Ok(file)
    }

    /// The file of an inode that was made with a body, before it is opened.
    pub fn open_new(&mut self, ino: Ino, id: NodeId, body: &Arc<Body>) {
        let file = Arc::new(FileData::new_local(ino, id, body.clone()));
        self.space.inodes.set_file(ino, Some(file));
    }

    /// The node of an open file that is about to be changed, adopted for it. `None`: it has become something else, or has
    /// no name: look again, or write to it without sharing.
    pub fn node_to_write(&mut self, file: &FileData) -> Result<Option<NodeId>, ViewError> {
        if file.has_turn() {
            return Ok(None);
        }
        match self.adopt(file.ino) {
            Ok(node) => Ok(Some(node)),
            Err(Ask::Fail(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn load_file(&self, ino: Ino) -> Result<FileData, Ask> {
        let look = self.look();
        let of_entry = |body: &EntryBody| match body {
            EntryBody::File { size, content } => Ok(FileData::clean(ino, *size, content.clone())),
            _ => Err(Ask::Fail(ViewError::Invalid)),
        };
        match &look.inode(ino)?.what {
            What::Clean(entry) => of_entry(&entry.body),
            What::Link(_, link) => of_entry(&link.entry.body),
            What::Gone(entry) => match &entry.body {
                // Its bytes went with the overlay it was in.
                EntryBody::File {
                    content: Content::Local(_),
                    ..
                } => Err(ViewError::Stale { ino }.into()),
                body => of_entry(body),
            },
            What::Node(id) => {
                let node = look.node(*id)?;
                let NodeBody::File(state) = &node.body else {
                    return Err(ViewError::Invalid.into());
                };
                let file = match (state.body, &state.base) {
                    (None, None) => FileData::clean(ino, 0, Content::empty()),
                    (None, Some((size, content))) => FileData::clean(ino, *size, content.clone()),
                    (Some(body), _) => {
                        let overlay = self.overlay.ok_or(ViewError::ReadOnly)?;
                        let body = overlay.body(body).map_err(ViewError::from)?;
                        FileData::local(ino, *id, state, body)?
                    }
                };
                file.counted.store(node.nlink > 0, Ordering::Relaxed);
                Ok(file)
            }
        }
    }

    /// True if the commit under way reads the body of this inode and relies on it: it was closed at the freeze.
    fn is_frozen(&self, ino: Ino) -> bool {
        let Some(What::Node(id)) = self.space.inodes.get(ino).map(|inode| &inode.what) else {
            return false;
        };
        let body_in = |state: &crate::overlay::OverlayState| match &state.node(*id)?.body {
            NodeBody::File(file) => file.body,
            _ => None,
        };
        let Some(frozen) = &self.state.frozen else {
            return false;
        };
        let now = body_in(&self.state);
        now.is_some()
            && now == body_in(&frozen.state)
            && !self.space.frozen_open.contains(id)
            && !self.space.thawed.contains_key(id)
    }

    /// When a file was written last gets into the overlay.
    pub fn settle(&mut self, file: &FileData) -> Result<(), ViewError> {
        let Some(written) = file.unsettled() else {
            return Ok(());
        };
        let mut ops = Vec::new();
        if self.settling(file, written, &mut ops) {
            self.apply_all(&ops)?;
            file.settled(written);
        }
        Ok(())
    }

    /// Adds to `ops` what tells the overlay that a file was written then, unless it knows; what has no name is told here.
    /// True: the file is settled once they are applied.
    pub fn settling(&mut self, file: &FileData, written: Timestamp, ops: &mut Vec<Op>) -> bool {
        let Some(inode) = self.space.inodes.get_mut(file.ino) else {
            return false;
        };
        let id = match &mut inode.what {
            What::Node(id) => *id,
            What::Gone(entry) => {
                (entry.attrs.mtime, entry.attrs.ctime) = (written, written);
                return true;
            }
            What::Clean(_) | What::Link(..) => return false,
        };
        if let Some(node) = self.state.node(id) {
            let mut attrs = node.attrs.clone();
            attrs.mtime = written;
            attrs.ctime = attrs.ctime.max(written);
            if attrs != node.attrs {
                ops.push(Op::SetAttrs { id, attrs });
            }
        }
        true
    }
}

impl FileData {
    /// Some of its bytes may have to be read from the store.
    fn needs_the_store(&self) -> bool {
        let stored = |content: &Content| !matches!(content, Content::Tiny(_) | Content::Local(_));
        match &*self.bytes.read() {
            FileBytes::Clean { content, .. } => stored(content),
            FileBytes::Local(local) => local.base.as_ref().is_some_and(|(_, content)| stored(content)),
        }
    }

    /// What the bytes are, for sharing them with another file; `None` for local ones.
    pub fn shareable(&self, bytes: &FileBytes) -> Option<(u64, Content)> {
        match bytes {
            FileBytes::Clean { size, content } if !matches!(content, Content::Local(_)) => {
                Some((*size, content.clone()))
            }
            _ => None,
        }
    }
}
