//! copy_file_range: copies share content where they can.
//!
//! 1. A whole clean file, copied onto an empty one, gives it the same descriptor: nothing is read or stored. What was opened
//!    before a reload is copied byte by byte, unless the view still draws from the same records: a descriptor of a record
//!    that is no source of the view would be published without proof that its object is kept (LOG.md 3).
//! 2. The beginning of a large clean file up to a chunk border gives the copy the same content cut there; the next piece
//!    moves the cut on. So a program that copies piece by piece ends at case 1.
//! 3. A whole local file, copied onto an empty one, has its body cloned (reflink where the disk can).
//! 4. What the kernel writes by itself (`passthrough.rs`) keeps its body: such a target is cloned into, or written to.
//! 5. Anything else is read and written, a limited number of bytes for each call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::data::{Fill, Step};
use super::drawn::DrawnFrom;
use super::file::{FileBytes, FileData, Local};
use super::types::CopySide;
use super::{View, ViewError};
use crate::model::{Content, chunk_range};
use crate::overlay::{Body, Op};

/// Bytes that one call copies by reading and writing: what a slow store brings in a time that a caller waits gladly.
const COPY_BYTES_MAX: u64 = 8 << 20;
/// Bytes read and written at a time.
const PIECE_BYTES: usize = 1 << 20;

impl View {
    /// Bytes copied; may be fewer than asked.
    pub async fn copy_file_range(&self, from: CopySide, to: CopySide, len: u64) -> Result<u64, ViewError> {
        let source = self.file_handle(from.ino, from.fh)?;
        let target = self.file_handle(to.ino, to.fh)?;
        if !source.flags.read {
            return Err(ViewError::BadHandle { fh: from.fh });
        }
        if !target.flags.write || target.flags.append {
            return Err(ViewError::BadHandle { fh: to.fh });
        }
        let len = len.min(source.file.size().saturating_sub(from.offset));
        if len == 0 {
            return Ok(0);
        }
        if !Arc::ptr_eq(&source.file, &target.file) && from.offset == to.offset {
            match self.share(&source.file, &target.file, from.offset, len).await {
                // Nothing to share, or nothing in the overlay to share it with: byte by byte.
                Ok(0) | Err(ViewError::Stale { .. }) => {}
                shared => return shared,
            }
        }
        let mut copied = 0;
        let len = len.min(COPY_BYTES_MAX);
        while copied < len {
            let piece = usize::try_from(len - copied)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            let step = async {
                let bytes = self.read_file(&source.file, from.offset + copied, piece).await?;
                self.write_file(&target.file, to.offset + copied, &bytes).await?;
                Ok::<_, ViewError>(bytes.len() as u64)
            };
            match step.await {
                Ok(0) => break,
                Ok(bytes) => copied += bytes,
                // What was copied before the error counts; the next call meets it again.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// Shares content; gives the bytes that were copied that way, 0 when there is none to share.
    async fn share(
        &self,
        source: &FileData,
        target: &FileData,
        offset: u64,
        len: u64,
    ) -> Result<u64, ViewError> {
        if target.backing().is_some() {
            // The kernel writes to its body: that stays its body.
            return self.share_into_body(source, target, offset, len).await;
        }
        let found = {
            let bytes = source.bytes.read();
            match &*bytes {
                FileBytes::Clean { .. } => shared_of(source, &bytes).map(Found::Clean),
                FileBytes::Local(local) => {
                    let whole = offset == 0 && len == source.size() && local.present.is_none();
                    // The lock of the source is held: it is copied as of one moment.
                    if whole && target.size() == 0 {
                        self.reflink(&local.body, len)?.map(Found::Body)
                    } else {
                        None
                    }
                }
            }
        };
        match found {
            None => Ok(0),
            Some(Found::Body(body)) => {
                let len = body.len()?;
                self.take_body(target, body, len).await
            }
            Some(Found::Clean(shared)) => {
                let size = shared.size;
                let end = match offset + len {
                    end if end >= size => size,
                    end => chunk_range(end, size).1,
                };
                let chunked = matches!(shared.content, Content::Chunks { .. } | Content::Paged { .. });
                if size == 0 || end <= offset || (end < size && !chunked) {
                    return Ok(0);
                }
                self.take_content(target, &shared, offset, end).await
            }
        }
    }

    /// The same for a target whose body must stay the same file: a whole local file is cloned into it, where the disk can.
    async fn share_into_body(
        &self,
        source: &FileData,
        target: &FileData,
        offset: u64,
        len: u64,
    ) -> Result<u64, ViewError> {
        let body = match &*source.bytes.read() {
            FileBytes::Local(local) if local.present.is_none() && offset == 0 && len == source.size() => {
                local.body.clone()
            }
            _ => return Ok(0),
        };
        self.change(target, |bytes, brought| {
            if target.size() != 0 {
                return Ok(Step::Done(0));
            }
            self.check_quota(target, 0, len)?;
            let local = match self.localize(target, bytes, Fill::Kept, brought)? {
                Step::Done(local) => local,
                Step::Need(need) => return Ok(Step::Need(need)),
                Step::Again => return Ok(Step::Again),
            };
            if !local.body.reflink_from(&body)? {
                return Ok(Step::Done(0));
            }
            // The source may have grown since it was looked at, by the kernel alone.
            if local.body.len()? > len {
                local.body.set_len(len)?;
            }
            let copied = local.body.len()?;
            self.resized(target, copied);
            target.stamp(self.now());
            Ok(Step::Done(copied))
        })
        .await
    }

    /// A body with the same blocks, where the disk can, up to `len` bytes: what the kernel by itself has added to the source
    /// since that was looked at is not asked for.
    fn reflink(&self, source: &Body, len: u64) -> Result<Option<Arc<Body>>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let clone = overlay.create_body()?;
        let cloned = clone.reflink_from(source).and_then(|done| {
            if done && clone.len()? > len {
                clone.set_len(len)?;
            }
            Ok(done)
        });
        match cloned {
            Ok(true) => Ok(Some(clone)),
            other => {
                overlay.discard_body(clone);
                other.map(|_| None).map_err(ViewError::from)
            }
        }
    }

    /// A cloned body becomes the target's.
    async fn take_body(&self, target: &FileData, clone: Arc<Body>, len: u64) -> Result<u64, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let taken = self
            .change(target, |bytes, brought| {
                if target.size() != 0 {
                    return Ok(Step::Done(false));
                }
                self.check_quota(target, 0, len)?;
                let local = match self.localize(target, bytes, Fill::Cut, brought)? {
                    Step::Done(local) => local,
                    Step::Need(need) => return Ok(Step::Need(need)),
                    Step::Again => return Ok(Step::Again),
                };
                self.with_edit(|edit| {
                    if let Some(id) = target.node_now(local) {
                        edit.apply(&Op::GiveBody {
                            id,
                            body: clone.id(),
                            present: None,
                            base_valid: 0,
                            dirty: true,
                        })?;
                    }
                    target.uses(Some((clone.clone(), false)));
                    Ok::<_, ViewError>(())
                })?;
                local.body = clone.clone();
                (local.present, local.base, local.base_valid) = (None, None, 0);
                self.resized(target, len);
                target.stamp(self.now());
                Ok(Step::Done(true))
            })
            .await;
        match taken {
            Ok(true) => Ok(len),
            other => {
                overlay.discard_body(clone);
                other.map(|_| 0)
            }
        }
    }

    /// The target gets the bytes up to `end`, of which it has the first `offset` already.
    async fn take_content(
        &self,
        target: &FileData,
        of: &Shared,
        offset: u64,
        end: u64,
    ) -> Result<u64, ViewError> {
        let Shared { size, content, .. } = of;
        let shared = self
            .change(target, |bytes, _| {
                let before = target.size();
                let fits = before == offset
                    && (offset == 0
                        || matches!(bytes, FileBytes::Local(local) if local.is_cut_of(*size, content, before)));
                if !fits {
                    return Ok(Step::Done(false));
                }
                self.check_quota(target, before, end)?;
                let given = if end == *size {
                    self.give_content(target, of)?
                } else {
                    self.give_cut(target, of, end)?
                };
                match given {
                    Given::Done(now) => *bytes = now,
                    Given::Again => return Ok(Step::Again),
                    Given::Foreign => return Ok(Step::Done(false)),
                }
                self.resized(target, end);
                target.stamp(self.now());
                Ok(Step::Done(true))
            })
            .await?;
        Ok(if shared { end - offset } else { 0 })
    }

    /// The whole content, in the overlay.
    fn give_content(&self, target: &FileData, of: &Shared) -> Result<Given, ViewError> {
        let Shared { size, content, drawn } = of;
        let size = *size;
        self.with_edit(|edit| {
            if !drawn.iter().all(|drawn| drawn.is_within(&edit.state)) {
                return Ok(Given::Foreign);
            }
            let Some(id) = edit.node_to_write(target)? else {
                return Ok(Given::Again);
            };
            edit.apply(&Op::ReplaceContent {
                id,
                size,
                content: content.clone(),
            })?;
            target.frozen.store(false, Ordering::Release);
            target.uses_content(size, content);
            target.draws_from(edit.space.drawn.now(&edit.state));
            Ok(Given::Done(FileBytes::Clean {
                size,
                content: content.clone(),
            }))
        })
    }

    /// The content cut at `end`, in the overlay: an empty body of that length over it.
    fn give_cut(&self, target: &FileData, of: &Shared, end: u64) -> Result<Given, ViewError> {
        let Shared { size, content, drawn } = of;
        let size = *size;
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let body = overlay.create_body()?;
        let give = || {
            self.with_edit(|edit| {
                if !drawn.iter().all(|drawn| drawn.is_within(&edit.state)) {
                    return Ok(Err(Given::Foreign));
                }
                let Some(id) = edit.node_to_write(target)? else {
                    return Ok(Err(Given::Again));
                };
                edit.apply_all(&[
                    Op::ReplaceContent {
                        id,
                        size,
                        content: content.clone(),
                    },
                    Op::GiveBody {
                        id,
                        body: body.id(),
                        present: Some(Arc::new(Vec::new())),
                        base_valid: end,
                        dirty: true,
                    },
                ])?;
                target.frozen.store(false, Ordering::Release);
                target.uses(Some((body.clone(), true)));
                target.draws_from(edit.space.drawn.now(&edit.state));
                Ok(Ok(id))
            })
        };
        let given = body.set_len(end).map_err(ViewError::from).and_then(|()| give());
        match given {
            Ok(Ok(id)) => Ok(Given::Done(FileBytes::Local(Local {
                node: Some(id),
                body,
                present: Some(Vec::new()),
                base: Some((size, content.clone())),
                base_valid: end,
                fresh: false,
            }))),
            Ok(Err(not)) => {
                overlay.discard_body(body);
                Ok(not)
            }
            Err(error) => {
                overlay.discard_body(body);
                Err(error)
            }
        }
    }
}

/// What a copy can share.
enum Found {
    Clean(Shared),
    Body(Arc<Body>),
}

/// Clean bytes, and what they were drawn from.
struct Shared {
    size: u64,
    content: Content,
    drawn: Vec<DrawnFrom>,
}

fn shared_of(source: &FileData, bytes: &FileBytes) -> Option<Shared> {
    let (size, content) = source.shareable(bytes)?;
    Some(Shared {
        size,
        content,
        drawn: source.drawn_from(),
    })
}

/// What came of giving a descriptor to a file.
enum Given {
    Done(FileBytes),
    /// Look again.
    Again,
    /// The view does not draw from where the descriptor comes from.
    Foreign,
}

impl Local {
    /// True if the bytes are just the first `len` of that content.
    fn is_cut_of(&self, size: u64, content: &Content, len: u64) -> bool {
        let untouched = self
            .present
            .as_ref()
            .is_some_and(|bits| bits.iter().all(|word| *word == 0));
        let same = self
            .base
            .as_ref()
            .is_some_and(|(its, it)| *its == size && it.same(content));
        untouched && same && self.base_valid == len && self.node.is_some()
    }
}
