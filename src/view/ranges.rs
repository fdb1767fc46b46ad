//! fallocate and statfs.

use std::ops::Range;
use std::path::Path;

use super::data::{Brought, Fill, Step};
use super::file::{FileBytes, FileData, Local};
use super::types::{Allocate, Fh, Ino, Statfs};
use super::{View, ViewError};
use crate::model::{FILE_BYTES_MAX, NAME_BYTES_MAX};
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
        // Also where no byte changes, as on ext4: the body was filled for it just now, which must not pass for a later write.
        file.stamp(self.now());
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

    /// What df shows: used is what the volume holds, available what quota and local disk still allow.
    pub fn statfs(&self) -> Result<Statfs, ViewError> {
        let block = u64::from(BLOCK_BYTES);
        let (inodes, used) = {
            let space = self.space.read();
            space.observe_all();
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
