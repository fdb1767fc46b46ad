//! fallocate, lseek and statfs.

use std::ops::Range;
use std::path::Path;

use super::data::{Brought, Fill, Step};
use super::file::{FileBytes, FileData, Local};
use super::types::{Allocate, Fh, Ino, Seek, Statfs};
use super::{View, ViewError};
use crate::model::{ChunkRef, Content, FILE_BYTES_MAX, FRAME_BYTES, NAME_BYTES_MAX, chunk_range};
use crate::overlay::Op;

/// Block size that df is told; all counts are in it.
const BLOCK_BYTES: u32 = 4096;
/// Inodes that may be made yet, as df shows them: the format has no limit but what 64 bits count, and programs compute
/// with this.
const FILES_FREE: u64 = 1 << 32;

impl View {
    /// Room, zeros or holes.
    pub async fn fallocate(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        what: Allocate,
    ) -> Result<(), ViewError> {
        let handle = self.file_handle(ino, fh)?;
        if !handle.flags.write {
            return Err(ViewError::BadHandle { fh });
        }
        if len == 0 {
            return Err(ViewError::Invalid);
        }
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= FILE_BYTES_MAX)
            .ok_or(ViewError::FileTooLarge)?;
        let file = &handle.file;
        self.change(file, |bytes, brought| {
            self.allocate_step(file, bytes, offset..end, what, brought)
        })
        .await
    }

    fn allocate_step(
        &self,
        file: &FileData,
        bytes: &mut FileBytes,
        range: Range<u64>,
        what: Allocate,
        brought: &Brought,
    ) -> Result<Step<()>, ViewError> {
        let size = file.size();
        let grows = match what {
            Allocate::Extend | Allocate::ZeroRange { keep_size: false } => range.end > size,
            Allocate::KeepSize | Allocate::PunchHole | Allocate::ZeroRange { keep_size: true } => false,
        };
        if what == Allocate::KeepSize && matches!(bytes, FileBytes::Clean { .. }) {
            // Nothing that anybody could see; the body that would hold the room does not exist.
            return Ok(Step::Done(()));
        }
        if grows {
            self.check_quota(file, size, range.end)?;
        }
        let local = match self.localize(file, bytes, Fill::Kept, brought)? {
            Step::Done(local) => local,
            Step::Need(need) => return Ok(Step::Need(need)),
            Step::Again => return Ok(Step::Again),
        };
        let zeros = matches!(what, Allocate::PunchHole | Allocate::ZeroRange { .. });
        let inside = range.start..range.end.min(size);
        if zeros
            && !inside.is_empty()
            && let Some(need) = self.fill_edges(local, &inside, brought)?
        {
            return Ok(Step::Need(need));
        }
        if !zeros {
            self.reserve(local, &range)?;
        }
        if grows {
            local.body.set_len(range.end)?;
            self.resized(file, range.end);
            self.with_edit(|edit| match file.node_now(local) {
                Some(id) => edit.apply(&Op::SetSize { id, size: range.end }),
                None => Ok(()),
            })?;
        }
        if zeros && !inside.is_empty() {
            local.body.punch(inside.start, inside.end - inside.start)?;
            self.mark_present(file, local, &inside)?;
        }
        if grows || zeros {
            file.stamp(self.now());
        }
        Ok(Step::Done(()))
    }

    /// Takes room on the local disk, so that writes into the range cannot fail for want of it.
    fn reserve(&self, local: &Local, range: &Range<u64>) -> Result<(), ViewError> {
        let len = range.end - range.start;
        let Err(error) = local.body.reserve(range.start, len) else {
            return Ok(());
        };
        let full = matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT));
        if full && self.room.as_ref().is_some_and(|room| room.make_room(len) > 0) {
            return Ok(local.body.reserve(range.start, len)?);
        }
        Err(error.into())
    }

    /// The next data or hole.
    pub async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        let handle = self.file_handle(ino, fh)?;
        let bytes = handle.file.bytes.read();
        let size = handle.file.size();
        if offset >= size {
            return Err(ViewError::NoSuchOffset);
        }
        match &*bytes {
            FileBytes::Clean { content, .. } => seek_clean(content, size, offset, seek),
            FileBytes::Local(local) => seek_local(local, size, offset, seek),
        }
    }

    /// What df shows: used is what the volume holds, available what quota and local disk still allow.
    pub fn statfs(&self) -> Result<Statfs, ViewError> {
        let block = u64::from(BLOCK_BYTES);
        let (inodes, used) = {
            let space = self.space.read();
            space.usage.total(&space.base)
        };
        let quota = match self.options.quota_bytes {
            0 => u64::MAX,
            quota => quota.saturating_sub(used),
        };
        let disk = match self.overlay() {
            Some(overlay) => available(overlay.dir())?,
            None => 0,
        };
        let used_blocks = used.div_ceil(block);
        let free_blocks = quota.min(disk) / block;
        let files_free = if self.options.read_only { 0 } else { FILES_FREE };
        Ok(Statfs {
            block_bytes: BLOCK_BYTES,
            blocks: used_blocks.saturating_add(free_blocks),
            blocks_free: free_blocks,
            files: inodes.saturating_add(files_free),
            files_free,
            name_max: u32::try_from(NAME_BYTES_MAX).unwrap_or(255),
        })
    }
}

/// Bytes that the filesystem of a directory has for us.
fn available(dir: &Path) -> Result<u64, ViewError> {
    let found = rustix::fs::statvfs(dir).map_err(|errno| ViewError::Local {
        path: dir.display().to_string(),
        reason: errno.to_string(),
        errno: errno.raw_os_error(),
    })?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Chunks that are holes are holes, as far as they are listed in the entry; everything else is data.
fn seek_clean(content: &Content, size: u64, offset: u64, seek: Seek) -> Result<u64, ViewError> {
    let mut at = offset;
    while at < size {
        let (index, start, len) = chunk_range(at, size);
        let hole = match content {
            Content::Chunks { chunks, .. } => usize::try_from(index)
                .ok()
                .and_then(|index| chunks.get(index))
                .is_some_and(|chunk| matches!(chunk, ChunkRef::Hole)),
            _ => false,
        };
        if hole == (seek == Seek::Hole) {
            return Ok(at);
        }
        at = start + len;
    }
    end_of_seek(size, seek)
}

/// Frames that are in the body are asked of it; others are data as far as the base goes.
fn seek_local(local: &Local, size: u64, offset: u64, seek: Seek) -> Result<u64, ViewError> {
    let mut at = offset;
    while at < size {
        let frame = at / FRAME_BYTES;
        let end = if local.present.is_none() {
            size
        } else {
            ((frame + 1) * FRAME_BYTES).min(size)
        };
        if local.has_frame(frame) {
            let found = match seek {
                Seek::Data => local.body.next_data(at)?,
                Seek::Hole => local.body.next_hole(at)?,
            };
            match found {
                Some(found) if found < end => return Ok(found.max(at)),
                _ => {}
            }
        } else {
            let (_, valid) = local.base_part(frame);
            match seek {
                Seek::Data if at < valid => return Ok(at),
                Seek::Hole if valid < end => return Ok(valid.max(at)),
                _ => {}
            }
        }
        at = end;
    }
    end_of_seek(size, seek)
}

fn end_of_seek(size: u64, seek: Seek) -> Result<u64, ViewError> {
    match seek {
        Seek::Data => Err(ViewError::NoSuchOffset),
        Seek::Hole => Ok(size),
    }
}
