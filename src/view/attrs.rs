//! setattr, and what becomes of setuid and setgid.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::FileData;
use super::inodes::Touched;
use super::open::Opened;
use super::setid::{Credentials, drop_setid, has_setid};
use super::types::{Attr, Caller, Ino, SetAttr, SetTime};
use super::{View, ViewError};
use crate::model::{Kind, MODE_MASK};

impl View {
    /// Changes attributes and size.
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, ViewError> {
        self.check_writable()?;
        if let Some(size) = set.size {
            self.set_size(caller, ino, set, size).await?;
        }
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
        let credentials = self.credentials(caller, ino, nothing || owner).await?;
        self.edit(|src, edit| {
            let now = self.now();
            let moment = |time: SetTime| match time {
                SetTime::Now => now,
                SetTime::At(time) => time,
            };
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
                    let member = credentials.as_ref().is_none_or(|who| who.is_member(attrs.gid));
                    if let Some(mode) = set.mode {
                        attrs.mode = mode & MODE_MASK;
                    }
                    attrs.uid = uid.unwrap_or(attrs.uid);
                    attrs.gid = gid.unwrap_or(attrs.gid);
                    let cleared = kill && drop_setid(attrs, member);
                    if let Some(time) = set.mtime {
                        attrs.mtime = moment(time);
                    }
                    if changes || cleared {
                        attrs.ctime = now;
                    }
                })?;
            }
            if let (Some(time), Some(inode)) = (set.atime, edit.space.inodes.get_mut(ino)) {
                inode.touched = Some(Box::new(Touched {
                    atime: moment(time),
                    ctime: now,
                }));
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
        let file: Arc<FileData> = self.edit(|_, edit| edit.open_file(ino, true)).await?;
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
        let credentials = self.credentials(caller, ino, true).await?;
        self.edit(|_, edit| {
            let now = self.now();
            edit.set_attrs(ino, |attrs| {
                (attrs.mtime, attrs.ctime) = (now, now);
                if let Some(who) = credentials.as_ref().filter(|who| !who.is_privileged()) {
                    drop_setid(attrs, who.is_member(attrs.gid));
                }
            })
        })
        .await
    }

    /// Whose change it is, if it may take setuid or setgid off. Looked for only where there is such a bit.
    async fn credentials(
        &self,
        caller: &Caller,
        ino: Ino,
        may_take: bool,
    ) -> Result<Option<Credentials>, ViewError> {
        let needed = may_take && self.look(|_, look| Ok(has_setid(look.attrs(ino)?))).await?;
        Ok(needed.then(|| Credentials::of(caller)))
    }

    /// setuid and setgid go because of a write.
    pub(super) async fn kill_suid(&self, ino: Ino) -> Result<(), ViewError> {
        self.edit(|_, edit| {
            if !has_setid(edit.look().attrs(ino)?) {
                return Ok(());
            }
            let now = self.now();
            edit.set_attrs(ino, |attrs| {
                // The kernel has asked for a stranger's setgid by itself before.
                if drop_setid(attrs, true) {
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

impl FileData {
    /// Handles through which it can be written.
    pub fn writers(&self) -> u32 {
        self.writers.load(Ordering::Relaxed)
    }
}
