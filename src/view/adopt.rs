//! Clean inodes become overlay nodes, and inodes lose their last name.

use std::sync::atomic::Ordering;

use super::ViewError;
use super::edit::Edit;
use super::file::FileData;
use super::inodes::What;
use super::space::{Ask, BaseDir, Child, lost};
use super::types::Ino;
use crate::model::{Attrs, Entry, EntryBody, Timestamp};
use crate::overlay::{NewBody, NodeId, Op, Origin};

impl Edit<'_> {
    /// The overlay node of an inode; a clean one is adopted, after the directories above it. Nothing is fetched for it.
    pub fn adopt(&mut self, ino: Ino) -> Result<NodeId, Ask> {
        let inode = self.look().inode(ino)?;
        let (origin, nlink, entry) = match &inode.what {
            What::Node(id) => return Ok(*id),
            What::Gone(_) => return Err(ViewError::Stale { ino }.into()),
            What::Link(id, link) => (Origin::Link(*id), link.nlink, Box::new(link.entry.clone())),
            What::Clean(entry) => {
                let entry = entry.clone();
                let (dir, name) = inode.place.clone().ok_or(ViewError::Stale { ino })?;
                let parent = self.adopt(dir)?;
                (Origin::Entry { parent, name }, 1, entry)
            }
        };
        let id = self.adopt_entry(origin, nlink, &entry)?;
        let generation = self.space.generation;
        self.space.inodes.become_(ino, What::Node(id), None, generation);
        Ok(id)
    }

    /// The overlay node of what a name in an adopted directory is.
    pub fn adopt_child(&mut self, dir: Ino, name: &[u8], child: Child) -> Result<NodeId, Ask> {
        if let Child::Node(id) = child {
            return Ok(id);
        }
        let ino = self.enter(dir, name, child)?;
        let id = self.adopt(ino)?;
        // Perhaps entered for this only.
        self.drop_unused(ino);
        Ok(id)
    }

    fn adopt_entry(&mut self, origin: Origin, nlink: u64, entry: &Entry) -> Result<NodeId, Ask> {
        let id = self.state.next_node;
        let body = match &entry.body {
            EntryBody::File { size, content } => NewBody::File(Some((*size, content.clone()))),
            EntryBody::Symlink { target } => NewBody::Symlink(target.clone()),
            EntryBody::Dir { .. } => NewBody::Dir,
            EntryBody::Fifo => NewBody::Fifo,
            EntryBody::Socket => NewBody::Socket,
            EntryBody::CharDev { major, minor } => NewBody::CharDev(*major, *minor),
            EntryBody::BlockDev { major, minor } => NewBody::BlockDev(*major, *minor),
            EntryBody::HardLink(_) => return Err(lost(id).into()),
        };
        self.apply(&Op::Adopt {
            id,
            origin,
            attrs: entry.attrs.clone(),
            nlink,
            body,
        })?;
        if let Some((totals, tree)) = entry.as_dir() {
            self.space.remember_base_dir(
                id,
                BaseDir {
                    tree: tree.clone(),
                    subdirs: totals.subdirs,
                    dirs: totals.dirs,
                },
            );
        }
        Ok(id)
    }

    /// An inode that no name leads to any more and that is not in the overlay. Open files go on.
    pub fn detach(&mut self, ino: Ino) {
        let Some(inode) = self.space.inodes.get(ino) else {
            return;
        };
        let entry = match &inode.what {
            What::Clean(entry) => entry.clone(),
            What::Link(_, link) => Box::new(link.entry.clone()),
            What::Node(id) => match self.state.node(*id) {
                Some(node) => Box::new(self.look().entry_of(inode, *id, node)),
                None => return,
            },
            What::Gone(_) => return,
        };
        let generation = self.space.generation;
        self.space
            .inodes
            .become_(ino, What::Gone(entry), None, generation);
    }

    /// Takes an inode that nothing holds out of the table, and forgotten unlinked nodes out of the overlay.
    pub fn drop_unused(&mut self, ino: Ino) {
        for id in self.space.inodes.remove_unused(ino) {
            self.forget_node(id);
        }
    }

    /// Nobody knows this node any more: if it has no name either, it goes.
    pub fn forget_node(&mut self, id: NodeId) {
        let unlinked = self.state.node(id).is_some_and(|node| node.nlink == 0);
        if unlinked && let Err(error) = self.apply(&Op::Forget { id }) {
            // It costs room only; the next mount does it.
            tracing::warn!(node = id, %error, "an unlinked file stays in the overlay");
        }
    }

    /// Replaces the attributes of an inode, which is adopted for it. What was removed keeps them in memory.
    pub fn set_attrs(&mut self, ino: Ino, change: impl FnOnce(&mut Attrs)) -> Result<(), Ask> {
        self.look().inode(ino)?;
        if let Some(inode) = self.space.inodes.get_mut(ino)
            && let What::Gone(entry) = &mut inode.what
        {
            let file = inode.file.clone();
            let attrs = &mut entry.attrs;
            let written = take_in_writes(attrs, file.as_deref());
            change(attrs);
            match file {
                // Its body is a stash's, and stays as it is.
                Some(file) if file.frozen.load(Ordering::Acquire) => file.settled(written),
                Some(file) => settle_or_retime(&file, written, attrs.mtime),
                None => {}
            }
            return Ok(());
        }
        let id = self.adopt(ino)?;
        let mut attrs = self.look().node(id)?.attrs.clone();
        let file = self.space.inodes.get(ino).and_then(|inode| inode.file.clone());
        let written = take_in_writes(&mut attrs, file.as_deref());
        change(&mut attrs);
        let mtime = attrs.mtime;
        if attrs != self.look().node(id)?.attrs {
            self.apply(&Op::SetAttrs { id, attrs })?;
        }
        match file {
            Some(file) => settle_or_retime(&file, written, mtime),
            None if mtime != written => self.retime(id, mtime),
            None => {}
        }
        Ok(())
    }

    /// A body that nobody has open says the time that was set, or a restart would take what it says for a later write.
    fn retime(&self, id: NodeId, mtime: Timestamp) {
        let file = self.state.node(id).and_then(|node| node.body.as_file());
        let body = file.filter(|file| file.dirty).and_then(|file| file.body);
        let (Some(overlay), Some(body)) = (self.overlay, body) else {
            return;
        };
        if let Err(error) = overlay.body(body).and_then(|body| body.set_mtime(mtime)) {
            tracing::warn!(%body, %error, "the time of a body");
        }
    }
}

/// Writes that are not settled yet come first: a change of attributes may overrule them. Gives the time of the last write.
fn take_in_writes(attrs: &mut Attrs, file: Option<&FileData>) -> Timestamp {
    if let Some(written) = file.and_then(FileData::unsettled) {
        attrs.mtime = written;
        attrs.ctime = attrs.ctime.max(written);
    }
    attrs.mtime
}

/// The attributes say `mtime` now, in which the writes up to `written` are contained.
fn settle_or_retime(file: &FileData, written: Timestamp, mtime: Timestamp) {
    if mtime != written {
        file.retimed(mtime);
    } else if file.unsettled().is_some() {
        file.settled(written);
    }
}
