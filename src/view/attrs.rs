//! setattr, and what becomes of setuid and setgid.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::FileData;
use super::open::Opened;
use super::types::{Attr, Caller, Ino, SetAttr, SetTime};
use super::{View, ViewError};
use crate::model::{Attrs, Kind, MODE_MASK};

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
/// Group execute: without it setgid means something else (mandatory locking, of old) and stays.
const GROUP_EXEC: u16 = 0o010;

impl View {
    /// Changes attributes and size.
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, ViewError> {
        self.check_writable()?;
        if let Some(size) = set.size {
            self.set_size(caller, ino, set, size).await?;
        }
        let now = self.now();
        let moment = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let nothing = *set
            == SetAttr {
                fh: set.fh,
                ..SetAttr::default()
            };
        let shown = self.options.shown_owner;
        let uid = set.uid.filter(|uid| Some(*uid) != shown.uid);
        let gid = set.gid.filter(|gid| Some(*gid) != shown.gid);
        let changes = set.mode.is_some() || uid.is_some() || gid.is_some() || set.mtime.is_some();
        let owner = set.uid.is_some() || set.gid.is_some();
        self.edit(|src, edit| {
            let look = edit.look();
            let kind = look.kind(ino)?;
            if kind == Kind::Symlink && set.mode.is_some() {
                // It has no permissions of its own, also for a merge. Linux asks from 6.6 on nobody else for this answer.
                return Err(ViewError::NotSupported.into());
            }
            // Asked before the first effect: the answer needs it.
            look.attr(src, ino)?;
            // A passthrough write of somebody who may not keep these bits says so by asking for nothing; so does a chown
            // that names no owner. The kernel asks for nothing else in this way.
            let kill = (nothing || owner) && kind != Kind::Dir;
            if changes || kill {
                edit.set_attrs(ino, |attrs| {
                    if let Some(mode) = set.mode {
                        attrs.mode = mode & MODE_MASK;
                    }
                    attrs.uid = uid.unwrap_or(attrs.uid);
                    attrs.gid = gid.unwrap_or(attrs.gid);
                    let cleared = kill && drop_suid(attrs);
                    if let Some(time) = set.mtime {
                        attrs.mtime = moment(time);
                    }
                    if changes || cleared {
                        attrs.ctime = now;
                    }
                })?;
            }
            if let (Some(time), Some(inode)) = (set.atime, edit.space.inodes.get_mut(ino)) {
                inode.atime = Some(Box::new(moment(time)));
            }
            edit.look().attr(src, ino)
        })
        .await
    }

    async fn set_size(&self, caller: &Caller, ino: Ino, set: &SetAttr, size: u64) -> Result<(), ViewError> {
        match self.look(|_, look| look.kind(ino)).await? {
            Kind::File => {}
            Kind::Dir => return Err(ViewError::IsDir),
            _ => return Err(ViewError::Invalid),
        }
        if let Some(fh) = set.fh {
            let handle = self.file_handle(ino, fh)?;
            if !handle.flags.write {
                return Err(ViewError::Invalid);
            }
            self.truncate(&handle.file, size).await?;
            return self.cut_by(caller, ino).await;
        }
        // By its path: as if it were opened for that.
        let file: Arc<FileData> = self.edit(|_, edit| edit.open_file(ino, true, None)).await?;
        let opened = Opened {
            view: self,
            file: &file,
            writer: true,
        };
        self.truncate(&file, size).await?;
        drop(opened);
        self.cut_by(caller, ino).await
    }

    /// The size was set: times are stamped even if it was the same before, and who is not root takes the setuid bit off.
    pub(super) async fn cut_by(&self, caller: &Caller, ino: Ino) -> Result<(), ViewError> {
        let now = self.now();
        self.edit(|_, edit| {
            edit.set_attrs(ino, |attrs| {
                (attrs.mtime, attrs.ctime) = (now, now);
                if caller.uid != 0 {
                    drop_suid(attrs);
                }
            })
        })
        .await
    }

    /// setuid and setgid go because of a write.
    pub(super) async fn kill_suid(&self, ino: Ino) -> Result<(), ViewError> {
        let now = self.now();
        self.edit(|_, edit| {
            if edit.look().attrs(ino)?.mode & (SUID | SGID) == 0 {
                return Ok(());
            }
            edit.set_attrs(ino, |attrs| {
                if drop_suid(attrs) {
                    attrs.ctime = now;
                }
            })
        })
        .await
    }

    /// access(2), for a mount whose kernel does not look at modes itself: the caller's groups are not known here, so
    /// only its first one counts.
    pub async fn access(&self, caller: &Caller, ino: Ino, mask: u32) -> Result<(), ViewError> {
        let shown = self.options.shown_owner;
        let (mode, uid, gid, kind) = self
            .look(|_, look| {
                let attrs = look.attrs(ino)?;
                let uid = shown.uid.unwrap_or(attrs.uid);
                let gid = shown.gid.unwrap_or(attrs.gid);
                Ok((attrs.mode, uid, gid, look.kind(ino)?))
            })
            .await?;
        let wanted = u16::try_from(mask & 0o7).unwrap_or(0o7);
        if wanted & 0o2 != 0 {
            self.check_writable()?;
        }
        let class = match caller {
            Caller { uid: 0, .. } => {
                let executable = kind == Kind::Dir || mode & 0o111 != 0;
                if executable { 0o7 } else { 0o6 }
            }
            caller if caller.uid == uid => mode >> 6,
            caller if caller.gid == gid => mode >> 3,
            _ => mode,
        };
        if wanted & !class != 0 {
            Err(ViewError::AccessDenied)
        } else {
            Ok(())
        }
    }
}

/// Takes setuid and an effective setgid off; true if there was one.
fn drop_suid(attrs: &mut Attrs) -> bool {
    let before = attrs.mode;
    attrs.mode &= !SUID;
    if attrs.mode & GROUP_EXEC != 0 {
        attrs.mode &= !SGID;
    }
    attrs.mode != before
}

impl FileData {
    /// Handles through which it can be written.
    pub fn writers(&self) -> u32 {
        self.writers.load(Ordering::Relaxed)
    }
}
