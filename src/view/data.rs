//! Reading and writing the bytes of open files.
//!
//! 1. A file's lock is taken before the locks of the space, and no lock is held while anything is fetched.
//! 2. A change fetches what it needs first, then changes under the file's lock: it is done whole, or not at all but for
//!    the fetching.
//! 3. Bytes are in the body before the overlay is told that they are.
//! 4. A body that a commit reads is copied before it is changed, unless the commit knows that the file was open for
//!    writing at the freeze. The commit goes on with the copy: who has the file open keeps the body.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::file::{FileBytes, FileData, Local};
use super::space::Ask;
use super::types::{Fh, Ino};
use super::view::FileHandle;
use super::{View, ViewError};
use crate::model::{Content, FILE_BYTES_MAX, FRAME_BYTES, data_runs};
use crate::overlay::{Body, NodeId, Op};

/// Contents up to this many bytes are brought into their body whole at the first write (SPEC.md 8: from 4 MiB on they
/// are chunks, which can be had frame by frame).
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Bytes of the base that a change needs and does not have.
#[derive(Debug)]
pub(super) struct Needed {
    pub content: Content,
    pub size: u64,
    pub offset: u64,
    pub len: usize,
}

/// Bytes of the base that were fetched for one change, by offset.
pub(super) type Brought = HashMap<u64, Bytes>;

/// What becomes of the bytes that a file has, when it gets its first body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fill<'a> {
    /// All of them count.
    Kept,
    /// These take their place, at least as many. They are in the body before the overlay hears of it: a full disk or a
    /// crash leaves the file as it was.
    Replaced(&'a [u8]),
    /// The file is cut to nothing.
    Cut,
}

/// A step of a change: it is done, or needs bytes of the base first, or has to look again.
pub(super) enum Step<T> {
    Done(T),
    Need(Box<Needed>),
    Again,
}

impl View {
    /// Bytes from `offset` on, fewer only where the file ends.
    pub async fn read(&self, ino: Ino, fh: Fh, offset: u64, len: usize) -> Result<Bytes, ViewError> {
        let handle = self.file_handle(ino, fh)?;
        if !handle.flags.read {
            return Err(ViewError::BadHandle { fh });
        }
        self.read_file(&handle.file, offset, len).await
    }

    pub(super) async fn read_file(
        &self,
        file: &FileData,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, ViewError> {
        let parts = match file.read_now(&*self.source, offset, len)? {
            Plan::Bytes(bytes) => return Ok(bytes),
            Plan::Fetch(parts) => parts,
        };
        let mut whole = Vec::new();
        for part in parts {
            let bytes = match part {
                Part::Here(bytes) => bytes,
                Part::Base(need) => {
                    let bytes = self
                        .source
                        .read(&need.content, need.size, need.offset, need.len)
                        .await?;
                    if bytes.len() != need.len {
                        return Err(short(&need));
                    }
                    bytes
                }
            };
            if whole.is_empty() && bytes.len() == len {
                return Ok(bytes);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }

    /// Writes all of `data` at `offset`, or at the end through a handle opened with O_APPEND. `kill_suid`: the kernel
    /// says that setuid and setgid go.
    pub async fn write(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Result<usize, ViewError> {
        let handle = self.file_handle(ino, fh)?;
        if !handle.flags.write {
            return Err(ViewError::BadHandle { fh });
        }
        if data.is_empty() {
            return Ok(0);
        }
        // First: a write that is done is told as one that is done.
        if kill_suid {
            self.kill_suid(ino).await?;
        }
        self.change(&handle.file, |bytes, brought| {
            let offset = if handle.flags.append {
                handle.file.size()
            } else {
                offset
            };
            self.write_step(&handle.file, bytes, offset, data, brought)
        })
        .await?;
        Ok(data.len())
    }

    /// Steps until it is done, fetching between the steps.
    pub(super) async fn change<T>(
        &self,
        file: &FileData,
        step: impl Fn(&mut FileBytes, &Brought) -> Result<Step<T>, ViewError>,
    ) -> Result<T, ViewError> {
        let mut brought = Brought::new();
        let mut unsure = file.is_clean();
        loop {
            // An open file of an older generation finds out first whether it is still what its path leads to; and so do
            // the directories above it, which are adopted with it: one of them may have left the overlay at a publish
            // while what is below it never was there.
            if std::mem::take(&mut unsure) {
                self.look(|_, look| match look.known_way_up(file.ino) {
                    Err(Ask::Fail(ViewError::Stale { .. })) => Ok(()),
                    other => other,
                })
                .await?;
            }
            let outcome = {
                let mut bytes = file.bytes.write();
                file.take_turn(&mut bytes);
                step(&mut bytes, &brought)?
            };
            match outcome {
                Step::Done(done) => return Ok(done),
                Step::Again => unsure = true,
                Step::Need(need) => {
                    let bytes = self
                        .source
                        .read(&need.content, need.size, need.offset, need.len)
                        .await?;
                    if bytes.len() != need.len {
                        return Err(short(&need));
                    }
                    brought.insert(need.offset, bytes);
                }
            }
        }
    }

    /// Writes all of `data` at `offset`.
    pub(super) async fn write_file(
        &self,
        file: &FileData,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ViewError> {
        self.change(file, |bytes, brought| {
            self.write_step(file, bytes, offset, data, brought)
        })
        .await
    }

    fn write_step(
        &self,
        file: &FileData,
        bytes: &mut FileBytes,
        offset: u64,
        data: &[u8],
        brought: &Brought,
    ) -> Result<Step<()>, ViewError> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= FILE_BYTES_MAX)
            .ok_or(ViewError::FileTooLarge)?;
        let size = file.size();
        self.check_quota(file, size, end)?;
        let fill = if offset == 0 && end >= size {
            Fill::Replaced(data)
        } else {
            Fill::Kept
        };
        let local = match self.localize(file, bytes, fill, brought)? {
            Step::Done(local) => local,
            Step::Need(need) => return Ok(Step::Need(need)),
            Step::Again => return Ok(Step::Again),
        };
        let range = offset..end;
        if let Some(need) = self.fill_edges(local, &range, brought)? {
            return Ok(Step::Need(need));
        }
        if let Err(error) = self.write_body(&local.body, data, offset) {
            if end > size {
                // A body is as long as its file, whatever of the write got there.
                local.body.set_len(size)?;
            }
            return Err(error);
        }
        self.mark_present(file, local, &range)?;
        if end > size {
            self.resized(file, end);
        }
        file.stamp(self.now());
        Ok(Step::Done(()))
    }

    /// Cuts or grows an open file.
    pub(super) async fn truncate(&self, file: &FileData, size: u64) -> Result<(), ViewError> {
        if size > FILE_BYTES_MAX {
            return Err(ViewError::FileTooLarge);
        }
        self.change(file, |bytes, brought| {
            let before = file.size();
            if size == before {
                return Ok(Step::Done(()));
            }
            self.check_quota(file, before, size)?;
            let fill = if size == 0 { Fill::Cut } else { Fill::Kept };
            let replaces = size == 0;
            let local = match self.localize(file, bytes, fill, brought)? {
                Step::Done(local) => local,
                Step::Need(need) => return Ok(Step::Need(need)),
                Step::Again => return Ok(Step::Again),
            };
            local.body.set_len(size)?;
            // The body first, then the overlay. What happens in between is finished at the next start.
            local.base_valid = local.base_valid.min(size);
            self.resized(file, size);
            file.stamp(self.now());
            if replaces {
                file.replacing.store(true, Ordering::Relaxed);
                if let Some(overlay) = self.overlay() {
                    overlay.sync_along(local.body.id(), false);
                }
            }
            self.with_edit(|edit| match file.node_now(local) {
                Some(id) => edit.apply(&Op::SetSize { id, size }),
                None => Ok(()),
            })?;
            Ok(Step::Done(()))
        })
        .await
    }

    // ---- from clean to local ----

    /// The file's own body, ready to be changed in `range`: made and filled at the first change, copied when a commit
    /// reads it.
    pub(super) fn localize<'b>(
        &self,
        file: &FileData,
        bytes: &'b mut FileBytes,
        fill: Fill<'_>,
        brought: &Brought,
    ) -> Result<Step<&'b mut Local>, ViewError> {
        if let FileBytes::Local(local) = &*bytes
            && fill == Fill::Cut
            && file.size() > 0
            && file.backing().is_none()
            && file.live().is_none()
            && (file.frozen.load(Ordering::Acquire) || local.node.is_some())
        {
            // Nothing of the body is needed here: an empty one takes its place. The commit goes on with the old one, or a
            // power cut brings it back until what is written now is on disk (J9).
            match self.give_body(file, 0, &Content::empty(), fill, Some(Bytes::new()))? {
                Some(local) => *bytes = FileBytes::Local(local),
                None => return Ok(Step::Again),
            }
        }
        if matches!(bytes, FileBytes::Clean { .. })
            && let Some(backing) = file.backing()
        {
            match self.convert(file, bytes, &backing)? {
                Step::Done(()) => {}
                Step::Need(need) => return Ok(Step::Need(need)),
                Step::Again => return Ok(Step::Again),
            }
        }
        if let FileBytes::Clean { size, content } = bytes {
            let (size, content) = (*size, content.clone());
            let whole = match fill {
                Fill::Cut => Some(Bytes::new()),
                Fill::Kept if size == 0 => Some(Bytes::new()),
                Fill::Replaced(data) => Some(Bytes::copy_from_slice(data)),
                Fill::Kept if size <= WHOLE_BYTES_MAX => {
                    let len = usize::try_from(size).unwrap_or(usize::MAX);
                    match self.base_bytes(&content, size, 0, len, brought) {
                        Ok(whole) => Some(whole),
                        Err(need) => return Ok(Step::Need(need)),
                    }
                }
                Fill::Kept => None,
            };
            match self.give_body(file, size, &content, fill, whole)? {
                Some(local) => *bytes = FileBytes::Local(local),
                None => return Ok(Step::Again),
            }
        }
        let FileBytes::Local(local) = bytes else {
            return Ok(Step::Again);
        };
        if file.frozen.load(Ordering::Acquire) && !self.thaw(file, local)? {
            return Ok(Step::Again);
        }
        if !self.tell_dirty(file, local)? {
            return Ok(Step::Again);
        }
        Ok(Step::Done(local))
    }

    /// The overlay knows that the bytes will differ from the base, before they do. Having a body says nothing: after a
    /// publish a node that stays (it was renamed meanwhile, say) has a body that is clean. False: look again.
    fn tell_dirty(&self, file: &FileData, local: &Local) -> Result<bool, ViewError> {
        let Some(id) = local.node else { return Ok(true) };
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let state = |state: &crate::overlay::OverlayState| Some(state.node(id)?.body.as_file()?.dirty);
        if state(&overlay.read()) == Some(true) {
            return Ok(true);
        }
        self.with_edit(|edit| {
            if file.has_turn() {
                return Ok(false);
            }
            edit.apply(&Op::MarkDirty { id })?;
            Ok(true)
        })
    }

    /// The first body of a file: whole, or (of a large one) without any frame yet. `None`: the file has become something
    /// else meanwhile.
    fn give_body(
        &self,
        file: &FileData,
        size: u64,
        content: &Content,
        fill: Fill<'_>,
        whole: Option<Bytes>,
    ) -> Result<Option<Local>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let body = overlay.create_body()?;
        let filled = (|| match &whole {
            // As the program writes it, zeros and all.
            Some(whole) if matches!(fill, Fill::Replaced(_)) => self.write_body(&body, whole, 0),
            Some(whole) => self.bring(&body, whole, 0),
            None => Ok(body.set_len(size)?),
        })();
        let present = if whole.is_some() { None } else { Some(Vec::new()) };
        let base_valid = if whole.is_some() { 0 } else { size };
        let give = || {
            self.with_edit(|edit| {
                if file.has_turn() {
                    return Ok(None);
                }
                let node = match edit.adopt(file.ino) {
                    Ok(node) => Some(node),
                    // No name leads to it: what is written to it ends with its last handle.
                    Err(Ask::Fail(ViewError::Stale { .. })) => None,
                    Err(Ask::Fail(error)) => return Err(error),
                    Err(_) => return Ok(None),
                };
                if let Some(id) = node {
                    edit.apply(&Op::GiveBody {
                        id,
                        body: body.id(),
                        present: present.clone().map(Arc::new),
                        base_valid,
                        dirty: true,
                    })?;
                }
                file.frozen.store(false, Ordering::Release);
                file.uses(Some((body.clone(), present.is_some())));
                Ok(Some(node))
            })
        };
        let given = filled.and_then(|()| give());
        match given {
            Ok(Some(node)) => Ok(Some(Local {
                node,
                base: (size > 0).then(|| (size, content.clone())),
                present,
                base_valid,
                fresh: false,
                body,
            })),
            Ok(None) => {
                overlay.discard_body(body);
                Ok(None)
            }
            Err(error) => {
                overlay.discard_body(body);
                Err(error)
            }
        }
    }

    /// Copies a body that a commit reads, so that it may be changed: the commit reads the copy from then on. False: look
    /// again.
    fn thaw(&self, file: &FileData, local: &mut Local) -> Result<bool, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        if local.node.is_none() {
            return self.leave_body(file, local);
        }
        let copy = overlay.copy_body(&local.body)?;
        let thawed = self.with_edit(|edit| {
            let Some(id) = file.node_now(local) else {
                return Ok(false);
            };
            if !file.frozen.load(Ordering::Acquire) {
                return Ok(false);
            }
            // The next commit brings what is written now (J11).
            edit.apply(&Op::MarkDirty { id })?;
            edit.space.thaw(id, &local.body, copy.clone());
            file.frozen.store(false, Ordering::Release);
            Ok::<_, ViewError>(true)
        });
        match thawed {
            Ok(true) => Ok(true),
            other => {
                overlay.discard_body(copy);
                other
            }
        }
    }

    /// A file that no overlay knows any more, and whose body is a stash's: it goes on with a copy.
    fn leave_body(&self, file: &FileData, local: &mut Local) -> Result<bool, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let copy = overlay.clone_body(&local.body)?;
        let given = self.with_edit(|_| {
            if file.has_turn() || !file.frozen.load(Ordering::Acquire) {
                return Ok(false);
            }
            file.frozen.store(false, Ordering::Release);
            file.uses(Some((copy.clone(), local.present.is_some())));
            Ok::<_, ViewError>(true)
        });
        match given {
            Ok(true) => {
                local.body = copy;
                Ok(true)
            }
            other => {
                overlay.discard_body(copy);
                other
            }
        }
    }

    /// The frames of the base at the edges of a range, which a change covers in part, come into the body. Tells what has
    /// to be fetched for it.
    pub(super) fn fill_edges(
        &self,
        local: &mut Local,
        range: &Range<u64>,
        brought: &Brought,
    ) -> Result<Option<Box<Needed>>, ViewError> {
        if local.present.is_none() || range.is_empty() {
            return Ok(None);
        }
        let first = range.start / FRAME_BYTES;
        let last = (range.end - 1) / FRAME_BYTES;
        let mut edges = Vec::new();
        for frame in [first, last] {
            let (start, end) = local.base_part(frame);
            let covered = range.start <= start && range.end >= end;
            if local.has_frame(frame) || covered || edges.iter().any(|(at, _)| *at == start) {
                continue;
            }
            let Some((size, content)) = &local.base else {
                continue;
            };
            let len = usize::try_from(end - start).unwrap_or(usize::MAX);
            match self.base_bytes(content, *size, start, len, brought) {
                Ok(bytes) => edges.push((start, bytes)),
                Err(need) => return Ok(Some(need)),
            }
        }
        for (start, bytes) in &edges {
            self.bring(&local.body, bytes, *start)?;
        }
        Ok(None)
    }

    /// Tells the overlay that the frames of a range are in the body.
    pub(super) fn mark_present(
        &self,
        file: &FileData,
        local: &mut Local,
        range: &Range<u64>,
    ) -> Result<(), ViewError> {
        if local.present.is_none() || range.is_empty() {
            return Ok(());
        }
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for frame in range.start / FRAME_BYTES..=(range.end - 1) / FRAME_BYTES {
            if local.has_frame(frame) {
                continue;
            }
            match runs.last_mut() {
                Some((first, count)) if *first + *count == frame => *count += 1,
                _ => runs.push((frame, 1)),
            }
        }
        if runs.is_empty() {
            return Ok(());
        }
        if local.node.is_some() {
            self.with_edit(|edit| {
                if let Some(id) = file.node_now(local) {
                    edit.apply(&Op::Present {
                        id,
                        body: local.body.id(),
                        frames: runs.clone(),
                    })?;
                }
                Ok::<_, ViewError>(())
            })?;
        }
        for (first, count) in runs {
            for frame in first..first + count {
                local.mark_frame(frame);
            }
        }
        Ok(())
    }

    // ---- helpers of every change ----

    /// Bytes of the base, from what was fetched for this change or what needs no fetching.
    fn base_bytes(
        &self,
        content: &Content,
        size: u64,
        offset: u64,
        len: usize,
        brought: &Brought,
    ) -> Result<Bytes, Box<Needed>> {
        let here = brought.get(&offset).filter(|bytes| bytes.len() == len).cloned();
        here.or_else(|| {
            self.source
                .read_local(content, size, offset, len)
                .filter(|bytes| bytes.len() == len)
        })
        .ok_or_else(|| {
            Box::new(Needed {
                content: content.clone(),
                size,
                offset,
                len,
            })
        })
    }

    /// Brings bytes of the base into a body, from the beginning of a block on: what is a hole there stays one
    /// (SPEC.md 8).
    fn bring(&self, body: &Body, bytes: &[u8], offset: u64) -> Result<(), ViewError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if body.next_data(offset)?.is_some_and(|at| at < end) {
            // Something was left there by a change that failed.
            return self.write_body(body, bytes, offset);
        }
        if body.len()? < end {
            body.set_len(end)?;
        }
        let mut runs = data_runs(bytes);
        runs.try_for_each(|run| self.write_body(body, &bytes[run.clone()], offset + run.start as u64))
    }

    /// Writes into a body; when the disk is full clean bytes go first, then the writer is told.
    pub(super) fn write_body(&self, body: &Body, data: &[u8], offset: u64) -> Result<(), ViewError> {
        let Err(error) = body.write_at(data, offset) else {
            return Ok(());
        };
        let full = matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT));
        if full
            && self
                .room
                .as_ref()
                .is_some_and(|room| room.make_room(data.len() as u64) > 0)
        {
            return Ok(body.write_at(data, offset)?);
        }
        Err(error.into())
    }

    /// A file has another size. With its lock held.
    pub(super) fn resized(&self, file: &FileData, after: u64) {
        file.set_size(after);
        // What the kernel added by itself before is counted now, too.
        let before = file.accounted.swap(after, Ordering::Relaxed);
        if file.counted.load(Ordering::Relaxed) {
            self.space.read().usage.resized(before, after);
        }
    }

    /// A volume that is over its quota takes nothing that makes it larger.
    pub(super) fn check_quota(&self, file: &FileData, before: u64, after: u64) -> Result<(), ViewError> {
        let quota = self.options.quota_bytes;
        if quota == 0 || after <= before || !file.counted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let space = self.space.read();
        let (_, used) = space.usage.total(&space.base);
        if used.saturating_add(after - before) > quota {
            return Err(ViewError::Quota);
        }
        Ok(())
    }

    pub(super) fn file_handle(&self, ino: Ino, fh: Fh) -> Result<Arc<FileHandle>, ViewError> {
        let handle = self.files.read().get(&fh).cloned();
        handle
            .filter(|handle| handle.ino == ino)
            .ok_or(ViewError::BadHandle { fh })
    }
}

/// The source gave fewer bytes than a content has: it is damaged.
fn short(need: &Needed) -> ViewError {
    ViewError::Tree(crate::tree::TreeError::Damaged {
        object: format!("content of {} bytes", need.size),
        rule: format!(
            "{} bytes at {} were asked for and not given",
            need.len, need.offset
        ),
    })
}

/// What a read consists of.
enum Plan {
    Bytes(Bytes),
    Fetch(Vec<Part>),
}

enum Part {
    Here(Bytes),
    Base(Needed),
}

impl FileData {
    /// True if the bytes are those of the base.
    pub fn is_clean(&self) -> bool {
        self.current_body().is_none()
    }

    /// The node that a body belongs to by now. With the locks of the space held, so that it stays so.
    pub fn node_now(&self, local: &Local) -> Option<NodeId> {
        match &*self.peek_turn() {
            None => local.node,
            Some(super::file::Turn::Private { .. } | super::file::Turn::Published { .. }) => None,
        }
    }

    fn read_now(
        &self,
        source: &dyn super::ContentSource,
        offset: u64,
        len: usize,
    ) -> Result<Plan, ViewError> {
        let bytes = self.bytes.read();
        let size = self.size();
        let len = usize::try_from(size.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(len);
        if len == 0 {
            return Ok(Plan::Bytes(Bytes::new()));
        }
        let local = match &*bytes {
            FileBytes::Clean { size, content } => {
                return Ok(match source.read_local(content, *size, offset, len) {
                    Some(bytes) if bytes.len() == len => Plan::Bytes(bytes),
                    _ => Plan::Fetch(vec![Part::Base(Needed {
                        content: content.clone(),
                        size: *size,
                        offset,
                        len,
                    })]),
                });
            }
            FileBytes::Local(local) => local,
        };
        let end = offset + len as u64;
        if local.present.is_none() {
            return Ok(Plan::Bytes(local.read_body(offset, len)?));
        }
        let mut parts = Vec::new();
        let mut at = offset;
        while at < end {
            let frame = at / FRAME_BYTES;
            let stop = (frame + 1).saturating_mul(FRAME_BYTES).min(end);
            let span = |from: u64, to: u64| usize::try_from(to - from).unwrap_or(usize::MAX);
            if local.has_frame(frame) {
                parts.push(Part::Here(local.read_body(at, span(at, stop))?));
            } else if let Some((size, content)) = &local.base {
                let valid = local.base_valid.min(stop);
                if at < valid {
                    let len = span(at, valid);
                    parts.push(match source.read_local(content, *size, at, len) {
                        Some(bytes) if bytes.len() == len => Part::Here(bytes),
                        _ => Part::Base(Needed {
                            content: content.clone(),
                            size: *size,
                            offset: at,
                            len,
                        }),
                    });
                }
                if stop > valid {
                    parts.push(Part::Here(vec![0; span(valid.max(at), stop)].into()));
                }
            }
            at = stop;
        }
        Ok(Plan::Fetch(parts))
    }
}

impl Local {
    /// Bytes of the body; what is behind its end, though not behind the file's, is zeros.
    fn read_body(&self, offset: u64, len: usize) -> Result<Bytes, ViewError> {
        let mut out = vec![0; len];
        self.body.read_at(&mut out, offset)?;
        Ok(out.into())
    }

    /// Where the base counts within a frame: start and end.
    pub fn base_part(&self, frame: u64) -> (u64, u64) {
        let start = frame.saturating_mul(FRAME_BYTES);
        (
            start,
            start.saturating_add(FRAME_BYTES).min(self.base_valid).max(start),
        )
    }
}
