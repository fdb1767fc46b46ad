//! FUSE passthrough: which open files the kernel may read and write directly, without asking the daemon, and how the view
//! learns what was written in that way.
//!
//! 1. The kernel is offered: for writing, bodies that hold their whole file, and new and truncated files (which get a body at
//!    once); for reading, also contents that are complete in the cache. Every other file is read and written through the
//!    daemon until its last handle is closed. The most important of these are existing files that are opened for writing
//!    without truncation: the daemon notes which frames are written, so that a commit reads only those. Targets of
//!    copies of clean files are usually not offered either ([`Readers`]).
//! 2. The kernel does not report what it writes to a body, or when. A file is therefore *live* from the moment that a handle
//!    for writing is given out until it is *closed*, which takes two tests: our count of such handles is 0, and the kernel then
//!    grants a lease on the body (`fcntl(2)`), which it refuses as long as a writable mapping exists. (Each test alone is
//!    racy: an open or a close may be under way.)
//! 3. Before a handle for writing is given out, the journal records that the body is dirty, with a new generation. So a
//!    commit that froze the file before leaves it dirty, and a reload that was prepared before starts again. After `kill -9`
//!    everything that was written is in the body, whose size and time of last write are the file's.
//! 4. Size and mtime of a live file are those of its body. After each look the body is given an mtime that no write can
//!    produce ([`Live::seen`]); any other mtime therefore means that something was written since.
//! 5. When a file that the kernel reads from the cache is opened for writing, its cache file becomes the body (by rename), so
//!    that existing readers see what is written. Where that is impossible (the cache is on another disk, or other files
//!    have the same content), existing readers keep this inode; the name now resolves to a new, writable one. The open fails
//!    with ESTALE, on which the kernel looks the name up again, once for each system call. Once is enough: the new inode
//!    is not read from the cache.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backing::{Backing, Offer, Passthrough};
use super::clock::saw_written;
use super::data::{Brought, Fill, Step};
use super::descriptors::FOR_THE_KERNEL;
use super::edit::Edit;
use super::file::{FileBytes, FileData, Local, Route};
use super::inodes::{LocalSize, What};
use super::types::{Ino, OpenFlags};
use super::{View, ViewError};
use crate::cache::has_no_writer;
use crate::model::{Content, Timestamp};
use crate::overlay::{Body, BodyStat, Op};

/// A thread that opened a clean file so recently and now creates a file is probably copying it.
const COPY_WITHIN_NANOS: i128 = 20_000_000;
/// How many files have their size and time recorded by one write to the journal, with the locks taken once.
const SETTLED_AT_ONCE: usize = 32;
/// How many threads are remembered as readers.
const READERS_MAX: usize = 16;

/// Threads that have just opened clean files for reading. A copy made by copy_file_range shares the content, which costs
/// nothing, as long as the kernel does not write to the new file by itself; so such a new file is not offered to it. A
/// wrong guess costs speed only.
#[derive(Debug, Default)]
pub(super) struct Readers(VecDeque<(u32, Timestamp)>);

impl Readers {
    pub fn note(&mut self, thread: u32, now: Timestamp) {
        self.0.retain(|(other, _)| *other != thread);
        self.0.push_back((thread, now));
        if self.0.len() > READERS_MAX {
            self.0.pop_front();
        }
    }

    pub fn just_read(&self, thread: u32, now: Timestamp) -> bool {
        let nanos = |time: Timestamp| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
        self.0
            .iter()
            .any(|(other, then)| *other == thread && nanos(now) - nanos(*then) < COPY_WITHIN_NANOS)
    }
}

impl FileData {
    /// True if a copy of this file can share its content, and the content is large enough for that to pay.
    pub fn shares(&self) -> bool {
        match &*self.bytes.read() {
            FileBytes::Clean { content, .. } => !matches!(content, Content::Tiny(_) | Content::Local(_)),
            FileBytes::Local(_) => false,
        }
    }
}

/// What is known of a body that the kernel may write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    /// The mtime that it was given when it was last looked at (invariant 4).
    pub seen: Timestamp,
}

impl View {
    /// Sets whether files may be offered to the kernel from now on.
    pub fn set_passthrough(&self, passthrough: Passthrough) {
        // A quota cannot be enforced on what the kernel writes directly.
        let quota = self.options.quota_bytes != 0;
        *self.passthrough.write() = Passthrough {
            clean: passthrough.clean,
            bodies: passthrough.bodies && !quota,
        };
    }

    /// Whether files are offered to the kernel.
    pub fn passthrough(&self) -> Passthrough {
        *self.passthrough.read()
    }

    /// Decides for a handle that was just counted whether the kernel may use a file by itself. Trouble with the disk means
    /// no, where that is still open: the file was made or cut by then, which a refusal would hide from the kernel.
    pub(super) async fn offer(
        &self,
        file: &Arc<FileData>,
        flags: OpenFlags,
    ) -> Result<Option<Offer>, ViewError> {
        let offered = self.offer_now(file, flags).await;
        let Err(error) = offered else { return offered };
        let _bytes = file.bytes.write();
        if error.is_trouble() && matches!(file.route(), Route::Open) {
            tracing::debug!(ino = file.ino, %error, "file data passes through the daemon");
            return Ok(file.through_daemon());
        }
        Err(error)
    }

    async fn offer_now(&self, file: &Arc<FileData>, flags: OpenFlags) -> Result<Option<Offer>, ViewError> {
        let offered = self.passthrough();
        if offered == Passthrough::default() {
            return Ok(None);
        }
        if flags.write && offered.bodies {
            self.give_empty_body(file).await?;
        }
        let (mut clean, mut taken) = (None, None);
        if !flags.write
            && offered.clean
            && let Some((size, content)) = file.readable_clean()
        {
            // Without them its bytes pass through here, which takes none.
            taken = self.descriptors().take(FOR_THE_KERNEL);
            if taken.is_some() {
                let found = self.source.hand_out(&content, size, file.ino).await;
                clean = found.map(|found| (size, content, found));
            }
        }
        let offer = self
            .change(file, |bytes, brought| {
                self.offer_step(file, bytes, flags, clean.clone(), brought)
            })
            .await?;
        if let (Some(_), Some(_), Some(taken)) = (&offer, &clean, taken) {
            file.takes(taken);
        }
        Ok(offer)
    }

    fn offer_step(
        &self,
        file: &FileData,
        bytes: &mut FileBytes,
        flags: OpenFlags,
        clean: Option<(u64, Content, Arc<dyn super::backing::CleanFile>)>,
        brought: &Brought,
    ) -> Result<Step<Option<Offer>>, ViewError> {
        let backing = match (&file.route(), &*bytes) {
            (Route::Daemon, _) => return Ok(Step::Done(None)),
            (Route::Backed(backing), _) if backing.is_refused() => {
                return Ok(Step::Done(file.through_daemon()));
            }
            (Route::Backed(backing), _) => backing.clone(),
            (Route::Open, FileBytes::Local(local))
                if local.present.is_none() && local.node.is_some() && self.passthrough().bodies =>
            {
                Backing::body(local.body.clone())
            }
            (Route::Open, FileBytes::Clean { size, content }) => match clean {
                Some((its, it, found)) if its == *size && it.same(content) && !flags.write => {
                    Backing::clean(found)
                }
                _ => return Ok(Step::Done(file.through_daemon())),
            },
            _ => return Ok(Step::Done(file.through_daemon())),
        };
        file.set_route(Route::Backed(backing.clone()));
        if !flags.write {
            return Ok(Step::Done(Some(Offer::Read(backing))));
        }
        if matches!(&*bytes, FileBytes::Local(local) if local.node.is_none()) {
            // A reload took it away in this moment. By its path the program finds what is there now.
            return Err(ViewError::Stale { ino: file.ino });
        }
        let local = match self.localize(file, bytes, Fill::Kept, brought)? {
            Step::Done(local) => local,
            Step::Need(need) => return Ok(Step::Need(need)),
            Step::Again => return Ok(Step::Again),
        };
        if !self.grant_writing(file, local)? {
            return Ok(Step::Again);
        }
        Ok(Step::Done(backing.writable().map(Offer::Write)))
    }

    /// An empty file that is about to be written gets a body for the kernel to write to.
    async fn give_empty_body(&self, file: &Arc<FileData>) -> Result<(), ViewError> {
        if file.size() > 0 || !file.is_clean() {
            return Ok(());
        }
        self.change(file, |bytes, brought| {
            let empty = matches!(bytes, FileBytes::Clean { size: 0, .. });
            if !empty || !matches!(file.route(), Route::Open) {
                return Ok(Step::Done(()));
            }
            Ok(match self.localize(file, bytes, Fill::Cut, brought)? {
                Step::Done(local) => {
                    local.fresh = true;
                    Step::Done(())
                }
                Step::Need(need) => Step::Need(need),
                Step::Again => Step::Again,
            })
        })
        .await
    }

    /// From here on the kernel may write to the body, unseen. With the file's lock held. False: the file has become
    /// something else meanwhile.
    fn grant_writing(&self, file: &FileData, local: &mut Local) -> Result<bool, ViewError> {
        let fresh = std::mem::take(&mut local.fresh);
        let granted = self.with_edit(|edit| {
            edit.settle(file)?;
            // Here, where nobody gives the body another time.
            let seen = local.body.stat()?.mtime;
            let Some(id) = file.node_now(local) else {
                return Ok(false);
            };
            // The op that gave the body said it already.
            if !fresh {
                edit.apply(&Op::MarkDirty { id })?;
            }
            if file.live().is_none() {
                file.set_live(Some(Live { seen }));
                edit.space.live_files.insert(file.ino);
            }
            Ok::<_, ViewError>(true)
        })?;
        local.body.let_go();
        Ok(granted)
    }

    // ---- a file that is read becomes one that is written (invariant 5) ----

    /// Makes the cache file that the kernel reads the file's body. The caller holds the file's lock.
    pub(super) fn convert(
        &self,
        file: &FileData,
        bytes: &mut FileBytes,
        backing: &Backing,
    ) -> Result<Step<()>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let FileBytes::Clean { size, content } = &*bytes else {
            return Ok(Step::Done(()));
        };
        let (size, content) = (*size, content.clone());
        if !self.passthrough().bodies {
            return self.leave_behind(file);
        }
        let taken = overlay.take_in_body(|to| {
            backing.move_to(to, |handle| self.source.surrender(&content, size, handle, to))
        })?;
        let Some(body) = taken else {
            return self.leave_behind(file);
        };
        if let Err(error) = backing.becomes(body.clone()) {
            tracing::warn!(ino = file.ino, %error, "the kernel does not write to a file that it reads");
            overlay.discard_body(body);
            return self.leave_behind(file);
        }
        let given = self.with_edit(|edit| {
            if file.has_turn() {
                return Ok(None);
            }
            let Some(id) = edit.node_to_write(file)? else {
                return Ok(None);
            };
            edit.apply(&Op::GiveBody {
                id,
                body: body.id(),
                present: None,
                base_valid: 0,
                dirty: true,
            })?;
            file.frozen.store(false, Ordering::Release);
            file.uses(Some((body.clone(), false)));
            Ok(Some(id))
        });
        match given {
            Ok(Some(id)) => {
                *bytes = FileBytes::Local(Local {
                    node: Some(id),
                    base: (size > 0).then_some((size, content)),
                    present: None,
                    base_valid: 0,
                    fresh: true,
                    body,
                });
                Ok(Step::Done(()))
            }
            // Existing readers keep the cache file, which has no name any more; the opener looks the name up again.
            Ok(None) => {
                overlay.discard_body(body);
                self.leave_behind(file)
            }
            Err(error) => {
                overlay.discard_body(body);
                Err(error)
            }
        }
    }

    /// Existing readers keep this inode and its bytes; the name resolves to a new inode from now on.
    fn leave_behind(&self, file: &FileData) -> Result<Step<()>, ViewError> {
        let names = self.with_edit(|edit| {
            let Some(id) = edit.node_to_write(file)? else {
                return Ok(None);
            };
            let names = edit.state.node(id).map_or(1, |node| node.nlink);
            edit.space.left_behind.insert(id);
            file.counted.store(false, Ordering::Relaxed);
            edit.detach(file.ino);
            Ok::<_, ViewError>(Some(names))
        })?;
        match names {
            Some(names) => Err(ViewError::LeftBehind {
                ino: file.ino,
                others: names > 1,
            }),
            None => Err(ViewError::Stale { ino: file.ino }),
        }
    }

    // ---- learning what the kernel wrote (invariants 2 to 4) ----

    /// Examines files whose last handle for writing was closed: records their sizes and times, and ends the live state of
    /// those that nobody can write any more. True if some remain that a mapping may still write to, or that are being
    /// closed at this moment.
    pub fn settle_closed(&self) -> bool {
        let pending = std::mem::take(&mut *self.closing.lock());
        let mut left = Vec::new();
        for batch in pending.chunks(SETTLED_AT_ONCE) {
            self.settle_batch(batch, &mut left);
        }
        let mut closing = self.closing.lock();
        left.retain(|file| !file.queued.swap(true, Ordering::Relaxed));
        closing.append(&mut left);
        !closing.is_empty()
    }

    /// Their times get into the overlay by one write to the journal.
    fn settle_batch(&self, batch: &[Arc<FileData>], left: &mut Vec<Arc<FileData>>) {
        let mut looked = Vec::with_capacity(batch.len());
        let mut locks = Vec::with_capacity(batch.len());
        for file in batch {
            file.queued.store(false, Ordering::Relaxed);
            // Only tried, never waited for: nowhere else are the locks of several files held at once.
            match file.bytes.try_write() {
                Some(lock) => locks.push(lock),
                None => {
                    left.push(file.clone());
                    continue;
                }
            }
            looked.push((file, look_at_closed(file)));
        }
        match self.with_edit(|edit| edit.close_all(&looked)) {
            Ok(still) => left.extend(still),
            Err(error) => {
                // The times are not lost: the bodies have them until they are committed.
                tracing::warn!(%error, "when files were written is not in the overlay");
                left.extend(looked.into_iter().map(|(file, _)| file.clone()));
            }
        }
    }

    /// Files that somebody has open for writing through the daemon: the kernel may hold back what is stored through a mapping of
    /// one.
    pub fn written_through_daemon(&self) -> Vec<Ino> {
        let files = self.files_with_writers();
        let through = files.iter().filter(|file| file.live().is_none());
        through.map(|file| file.ino).collect()
    }

    /// True if a program may have closed a file that it could write, and the kernel has not told. Of a file that the kernel
    /// writes by itself a lease tells when it has not.
    pub fn may_have_closed(&self) -> bool {
        self.files_with_writers().iter().any(|file| {
            let body = file.live().and_then(|_| file.current_body());
            body.is_none_or(|body| has_nobody(&body))
        })
    }

    fn files_with_writers(&self) -> Vec<Arc<FileData>> {
        let space = self.space.read();
        let open = space.inodes.open().map(|(_, file)| file);
        open.filter(|file| file.writers() > 0).cloned().collect()
    }

    /// Waits until some file that the kernel could write is closed.
    pub async fn closing(&self) {
        self.closed.notified().await;
    }

    /// True if the kernel can currently write to some file directly.
    pub fn has_live_files(&self) -> bool {
        !self.space.read().live_files.is_empty()
    }
}

impl Edit<'_> {
    /// A live file whose handles for writing are closed is settled, and no longer live if nobody can write it. False: it
    /// may still be written through a mapping.
    pub fn close_live(&mut self, file: &Arc<FileData>) -> Result<bool, ViewError> {
        let look = look_at_closed(file);
        Ok(self.close_all(&[(file, look)])?.is_empty())
    }

    /// The same of several that were looked at with their locks held; gives those that may still be written.
    ///
    /// What a body says of its size and time is asked here, under the locks of the space. Asked before, the time of the last
    /// write would overrule one that a program has set meanwhile, as unpacking and copying programs do right after a close.
    fn close_all(&mut self, files: &[(&Arc<FileData>, ClosedLook)]) -> Result<Vec<Arc<FileData>>, ViewError> {
        let mut ops = Vec::new();
        let mut written = Vec::new();
        let mut stats = Vec::with_capacity(files.len());
        for (file, look) in files {
            let ClosedLook::Body { body, .. } = look else {
                stats.push(None);
                continue;
            };
            let stat = body.stat()?;
            stats.push(Some(stat));
            let seen = file.live().map(|live| live.seen);
            if file.writers() == 0 && seen.is_some_and(|seen| seen != stat.mtime) {
                saw_written(stat.mtime);
                if self.settling(file, stat.mtime, &mut ops) {
                    written.push((file, stat.mtime));
                }
            }
        }
        self.apply_all(&ops)?;
        for (file, mtime) in written {
            file.settled(mtime);
        }
        let mut left = Vec::new();
        for ((file, look), stat) in files.iter().zip(&stats) {
            match (look, stat) {
                (ClosedLook::NotLive, _) => self.unretain(file, None),
                // Its next close brings it here again.
                (ClosedLook::Body { .. }, _) if file.writers() > 0 => {}
                (ClosedLook::Body { closed: false, .. }, _) => left.push((*file).clone()),
                (ClosedLook::Body { closed: true, .. }, Some(stat)) => {
                    // Nothing can be written after this look: handles for writing are given out with the file's lock held.
                    file.set_size(stat.len);
                    self.space.observe_size(file, stat.len);
                    file.set_live(None);
                    self.space.live_files.remove(&file.ino);
                    self.unretain(file, Some(stat));
                }
                (ClosedLook::NoBody, _) | (ClosedLook::Body { .. }, None) => {}
            }
        }
        Ok(left)
    }

    /// Drops the record of an open file that was kept only because it was live.
    fn unretain(&mut self, file: &Arc<FileData>, stat: Option<&BodyStat>) {
        if !file.retained.swap(false, Ordering::Relaxed) {
            return;
        }
        if file.opens.load(Ordering::Relaxed) == 0 {
            self.forget_file(file, stat);
        }
        self.space.inodes.unpin(file.ino);
        self.drop_unused(file.ino);
    }

    /// The last handle is closed: the inode knows by itself what the file was. `stat`: what its whole body says now, if that
    /// is known.
    pub fn forget_file(&mut self, file: &Arc<FileData>, stat: Option<&BodyStat>) {
        let Some(inode) = self.space.inodes.get_mut(file.ino) else {
            return;
        };
        if !inode.file.as_ref().is_some_and(|known| Arc::ptr_eq(known, file)) {
            return;
        }
        let local = !file.is_clean();
        *inode.local.get_mut() = local.then(|| {
            Box::new(match stat {
                Some(stat) => LocalSize {
                    size: stat.len,
                    blocks: stat.allocated / 512,
                },
                None => file.local_size(),
            })
        });
        if let What::Gone(entry) = &mut inode.what
            && let crate::model::EntryBody::File { size, .. } = &mut entry.body
        {
            *size = file.size();
        }
        self.space.inodes.set_file(file.ino, None);
    }
}

/// What was found of a file that is being closed.
enum ClosedLook {
    /// The kernel was not given the file for writing.
    NotLive,
    /// The body now belongs to a commit.
    NoBody,
    /// `closed`: nobody can write it, and what the body says from now on is the last.
    Body { body: Arc<Body>, closed: bool },
}

/// The caller holds the file's lock, or the space's.
fn look_at_closed(file: &FileData) -> ClosedLook {
    if file.live().is_none() {
        return ClosedLook::NotLive;
    }
    let Some(body) = file.current_body() else {
        return ClosedLook::NoBody;
    };
    let closed = file.writers() == 0 && has_nobody(&body);
    ClosedLook::Body { body, closed }
}

/// True if somebody can still write to an open file: by a handle, or by a mapping.
pub(super) fn can_be_written(file: &FileData) -> bool {
    file.writers() > 0
        || (file.live().is_some() && file.current_body().is_some_and(|body| !has_nobody(&body)))
}

/// Nobody has the body open for writing, or a mapping of it. What cannot be asked now may have somebody.
fn has_nobody(body: &Body) -> bool {
    body.ask(has_no_writer).unwrap_or_else(|error| {
        tracing::warn!(%error, "whether somebody still writes to a file");
        false
    })
}
