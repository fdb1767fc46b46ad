//! Names come and go: lookup, forget, make, link, remove.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::edit::Edit;
use super::inodes::What;
use super::space::{Ask, Child, Look, entry_size};
use super::types::{Attr, Caller, Fh, Ino, Known, NodeKind};
use super::usage::signed;
use super::{View, ViewError};
use crate::model::{Attrs, Kind, LinkId, MODE_MASK, Name, PATH_DEPTH_MAX, SYMLINK_BYTES_MAX, Xattrs};
use crate::overlay::{Body, NewBody, NodeBody, NodeId, Op, Place};
use crate::tree::NodeSource;

/// setgid.
const SGID: u16 = 0o2000;
/// Names that stat can count.
const LINKS_MAX: u64 = u32::MAX as u64;

impl View {
    /// One more reference is counted for a found inode. `None`: there is no such name, which may be cached.
    pub async fn lookup(&self, _caller: &Caller, dir: Ino, name: &[u8]) -> Result<Option<Known>, ViewError> {
        Name::check(name)?;
        let known = self
            .look(|src, look| match look.child(src, dir, name)? {
                None if look.space.has_stale(dir, name) => Ok(Err(())),
                None => {
                    look.space.noted.lock().note(dir, name);
                    Ok(Ok(None))
                }
                Some(child) => match look.known_child(dir, name, &child) {
                    Some(ino) => {
                        let known = look.refer(src, ino)?;
                        look.note_linked(dir, name, &known);
                        Ok(Ok(Some(known)))
                    }
                    None => Ok(Err(())),
                },
            })
            .await?;
        match known {
            Ok(known) => Ok(known),
            // The table must learn of it.
            Err(()) => {
                self.edit(|src, edit| match edit.look().child(src, dir, name)? {
                    None => {
                        edit.vanished(dir, name);
                        edit.space.noted.lock().note(dir, name);
                        Ok(None)
                    }
                    Some(child) => edit.answer(src, dir, name, child).map(Some),
                })
                .await
            }
        }
    }

    /// Gives references back.
    pub fn forget(&self, ino: Ino, references: u64) {
        let last = {
            let space = self.space.read();
            space
                .inodes
                .get(ino)
                .is_some_and(|inode| inode.unrefer(references))
        };
        if last {
            self.with_edit(|edit| edit.drop_unused(ino));
        }
    }

    /// stat.
    pub async fn getattr(&self, _caller: &Caller, ino: Ino, _fh: Option<Fh>) -> Result<Attr, ViewError> {
        self.look(|src, look| look.attr(src, ino)).await
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, _caller: &Caller, ino: Ino) -> Result<Bytes, ViewError> {
        let target: Arc<[u8]> = self
            .look(|_, look| {
                let body = match &look.inode(ino)?.what {
                    What::Node(id) => {
                        return match &look.node(*id)?.body {
                            NodeBody::Symlink(target) => Ok(target.clone()),
                            _ => Err(ViewError::Invalid.into()),
                        };
                    }
                    What::Clean(entry) | What::Gone(entry) => &entry.body,
                    What::Link(_, link) => &link.entry.body,
                };
                match body {
                    crate::model::EntryBody::Symlink { target } => Ok(target.clone()),
                    _ => Err(ViewError::Invalid.into()),
                }
            })
            .await?;
        Ok(Bytes::from_owner(target))
    }

    /// A new inode that is no directory and no symbolic link. `mode`: permission bits, umask applied.
    pub async fn mknod(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        kind: NodeKind,
        mode: u16,
    ) -> Result<Known, ViewError> {
        let body = match kind {
            NodeKind::File => NewBody::File(None),
            NodeKind::Fifo => NewBody::Fifo,
            NodeKind::Socket => NewBody::Socket,
            NodeKind::CharDev(major, minor) => NewBody::CharDev(major, minor),
            NodeKind::BlockDev(major, minor) => NewBody::BlockDev(major, minor),
        };
        self.make(caller, dir, name, mode, &body).await
    }

    /// A new directory.
    pub async fn mkdir(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u16) -> Result<Known, ViewError> {
        self.make(caller, dir, name, mode, &NewBody::Dir).await
    }

    /// A new symbolic link.
    pub async fn symlink(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Known, ViewError> {
        match target.len() {
            0 => return Err(ViewError::NotFound),
            n if n > SYMLINK_BYTES_MAX => return Err(ViewError::NameTooLong),
            _ => {}
        }
        self.make(caller, dir, name, 0o777, &NewBody::Symlink(Arc::from(target)))
            .await
    }

    async fn make(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        mode: u16,
        body: &NewBody,
    ) -> Result<Known, ViewError> {
        self.check_writable()?;
        let name = Name::new(name)?;
        self.edit(|src, edit| {
            if edit.look().child(src, dir, name.as_bytes())?.is_some() {
                return Err(ViewError::Exists.into());
            }
            let id = edit.make(self, src, caller, dir, &name, mode, body, None)?;
            edit.answer(src, dir, name.as_bytes(), Child::Node(id))
        })
        .await
    }

    /// Another name for an inode.
    pub async fn link(&self, _caller: &Caller, ino: Ino, dir: Ino, name: &[u8]) -> Result<Known, ViewError> {
        self.check_writable()?;
        let name = Name::new(name)?;
        let drawn = random_link_id()?;
        self.edit(|src, edit| {
            let now = self.now();
            let look = edit.look();
            if look.kind(ino)? == Kind::Dir {
                return Err(ViewError::NotPermitted.into());
            }
            look.check_dir(dir)?;
            if look.child(src, dir, name.as_bytes())?.is_some() {
                return Err(ViewError::Exists.into());
            }
            let nlink = match &look.inode(ino)?.what {
                What::Node(id) => look.node(*id)?.nlink,
                What::Link(_, link) => link.nlink,
                What::Clean(_) => 1,
                What::Gone(_) => 0,
            };
            match nlink {
                0 => return Err(ViewError::NotFound.into()),
                LINKS_MAX.. => return Err(ViewError::TooManyLinks.into()),
                _ => {}
            }
            let base = look.base_kind(src, dir, name.as_bytes())?;
            edit.vanished(dir, name.as_bytes());
            let id = edit.adopt(ino)?;
            let parent = edit.adopt(dir)?;
            let link = match edit.look().node(id)?.link {
                Some(_) => None,
                None => Some(drawn),
            };
            let name = name.clone();
            edit.apply(&Op::Link {
                id,
                place: Place { parent, name, base },
                link,
                time: now,
            })?;
            edit.look().refer(src, ino)
        })
        .await
    }

    /// Removes a name of something that is no directory.
    pub async fn unlink(&self, _caller: &Caller, dir: Ino, name: &[u8]) -> Result<(), ViewError> {
        self.remove(dir, name, false).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, _caller: &Caller, dir: Ino, name: &[u8]) -> Result<(), ViewError> {
        self.remove(dir, name, true).await
    }

    async fn remove(&self, dir: Ino, name: &[u8], directory: bool) -> Result<(), ViewError> {
        self.check_writable()?;
        let name = Name::new(name)?;
        self.edit(|src, edit| {
            let now = self.now();
            let look = edit.look();
            let child = look
                .child(src, dir, name.as_bytes())?
                .ok_or(ViewError::NotFound)?;
            let is_dir = look.child_kind(&child)? == Kind::Dir;
            match (directory, is_dir) {
                (true, false) => return Err(ViewError::NotDir.into()),
                (false, true) => return Err(ViewError::IsDir.into()),
                (true, true) if !look.is_empty(src, &child)? => return Err(ViewError::NotEmpty.into()),
                _ => {}
            }
            let base = look.base_kind(src, dir, name.as_bytes())?;
            let doomed = edit.doom(dir, name.as_bytes(), child)?;
            let parent = edit.adopt(dir)?;
            let name = name.clone();
            edit.apply(&Op::Remove {
                place: Place { parent, name, base },
                node: doomed.node,
                time: now,
            })?;
            edit.bury(doomed);
            Ok(())
        })
        .await
    }
}

/// Something that is about to lose a name.
pub(super) struct Doomed {
    /// Its node, if it is in the overlay.
    pub node: Option<NodeId>,
    /// Its inode, if the table has it.
    ino: Option<Ino>,
    /// Of a regular file.
    size: u64,
}

impl Edit<'_> {
    /// A new inode at a free name; a file with the body that is given.
    #[allow(clippy::too_many_arguments)]
    pub fn make(
        &mut self,
        view: &View,
        src: &dyn NodeSource,
        caller: &Caller,
        dir: Ino,
        name: &Name,
        mode: u16,
        body: &NewBody,
        file_body: Option<&Arc<Body>>,
    ) -> Result<NodeId, Ask> {
        let now = view.now();
        let look = self.look();
        look.check_dir(dir)?;
        let is_dir = matches!(body, NewBody::Dir);
        if is_dir && look.depth(dir)? >= PATH_DEPTH_MAX {
            return Err(ViewError::NameTooLong.into());
        }
        let base = look.base_kind(src, dir, name.as_bytes())?;
        let above = look.attrs(dir)?;
        let (mode, gid) = inherited(above, caller, mode & MODE_MASK, is_dir);
        let attrs = Attrs {
            mode,
            uid: caller.uid,
            gid,
            mtime: now,
            ctime: now,
            file_id: view.new_file_id(),
            xattrs: Xattrs::None,
        };
        self.vanished(dir, name.as_bytes());
        let parent = self.adopt(dir)?;
        let id = self.state.next_node;
        let create = Op::Create {
            id,
            place: Place {
                parent,
                name: name.clone(),
                base,
            },
            attrs,
            body: body.clone(),
            time: now,
        };
        match file_body {
            None => self.apply(&create)?,
            Some(file_body) => self.apply_all(&[
                create,
                Op::GiveBody {
                    id,
                    body: file_body.id(),
                    present: None,
                    base_valid: 0,
                    dirty: true,
                },
            ])?,
        }
        self.space.usage.add_inodes(1);
        Ok(id)
    }

    /// Prepares a child for losing its name: names of the links tree are counted in the overlay, and so is what somebody
    /// has open, since it may still be written.
    pub fn doom(&mut self, dir: Ino, name: &[u8], child: Child) -> Result<Doomed, Ask> {
        let look = self.look();
        let ino = look.known_child(dir, name, &child);
        let open = ino
            .and_then(|ino| look.space.inodes.get(ino))
            .is_some_and(|inode| inode.file.is_some());
        let size = child_bytes(look, ino, &child)?;
        let node = match child {
            Child::Clean(_) if !open => None,
            child => Some(self.adopt_child(dir, name, child)?),
        };
        Ok(Doomed { node, ino, size })
    }

    /// It lost its name.
    pub fn bury(&mut self, doomed: Doomed) {
        let last = match doomed.node {
            Some(id) => self.state.node(id).is_none_or(|node| node.nlink == 0),
            None => true,
        };
        if !last {
            return;
        }
        self.space.usage.add_inodes(-1);
        self.space.usage.add_bytes(-signed(doomed.size));
        match (doomed.ino, doomed.node) {
            (Some(ino), _) => {
                let file = self.space.inodes.get(ino).and_then(|inode| inode.file.as_ref());
                if let Some(file) = file {
                    file.counted.store(false, Ordering::Relaxed);
                }
                if doomed.node.is_none() {
                    self.detach(ino);
                }
            }
            (None, Some(id)) => self.forget_node(id),
            (None, None) => {}
        }
    }
}

/// Logical bytes of a regular file, for df.
fn child_bytes(look: Look<'_>, ino: Option<Ino>, child: &Child) -> Result<u64, Ask> {
    Ok(match child {
        Child::Clean(entry) if entry.kind() == Kind::File => entry_size(entry).0,
        Child::Link(_, link) if link.entry.kind() == Kind::File => entry_size(&link.entry).0,
        Child::Clean(_) | Child::Link(..) => 0,
        Child::Node(id) => match &look.node(*id)?.body {
            NodeBody::File(file) => match ino.and_then(|ino| look.space.inodes.get(ino)) {
                Some(inode) => look.local_size(inode, file)?.size,
                None => look.body_size(file)?.size,
            },
            _ => 0,
        },
    })
}

/// Mode and group of something new: a setgid directory gives its group, and to directories the bit too.
fn inherited(above: &Attrs, caller: &Caller, mode: u16, is_dir: bool) -> (u16, u32) {
    match (above.mode & SGID != 0, is_dir) {
        (true, true) => (mode | SGID, above.gid),
        (true, false) => (mode, above.gid),
        (false, _) => (mode, caller.gid),
    }
}

fn random_link_id() -> Result<LinkId, ViewError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| ViewError::Local {
        path: "random numbers".to_owned(),
        reason: error.to_string(),
        errno: libc::EIO,
    })?;
    Ok(LinkId(id))
}
