//! Clean inodes become overlay nodes, and inodes lose their last name.

use super::ViewError;
use super::inodes::{Inode, LocalSize, What};
use super::space::{Ask, BaseDir, Child, Space, content_blocks, lost};
use super::types::Ino;
use crate::model::{Attrs, Content, Entry, EntryBody, Kind, LocalContent, PATH_DEPTH_MAX};
use crate::overlay::{FileState, NewBody, NodeBody, NodeId, Op, Origin, OverlayNode};

impl Space {
    /// The overlay node of an inode; a clean one is adopted, after the directories above it. Nothing is fetched for it.
    pub fn adopt(&mut self, ino: Ino) -> Result<NodeId, Ask> {
        let inode = self.inode(ino)?;
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
        let generation = self.generation;
        self.inodes.become_(ino, What::Node(id), None, generation);
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
        let id = self.state().next_node;
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
        self.ledger.apply(Op::Adopt {
            id,
            origin,
            attrs: entry.attrs.clone(),
            nlink,
            body,
        })?;
        if let Some((totals, tree)) = entry.as_dir() {
            self.remember_base_dir(
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
        let Some(inode) = self.inodes.get(ino) else { return };
        let entry = match &inode.what {
            What::Clean(entry) => entry.clone(),
            What::Link(_, link) => Box::new(link.entry.clone()),
            What::Node(id) => match self.state().node(*id) {
                Some(node) => Box::new(self.entry_of(inode, *id, node)),
                None => return,
            },
            What::Gone(_) => return,
        };
        let generation = self.generation;
        self.inodes.become_(ino, What::Gone(entry), None, generation);
    }

    /// Takes an inode that nothing holds out of the table, and forgotten unlinked nodes out of the overlay.
    pub fn drop_unused(&mut self, ino: Ino) {
        for id in self.inodes.remove_unused(ino) {
            self.forget_node(id);
        }
    }

    /// Nobody knows this node any more: if it has no name either, it goes.
    pub fn forget_node(&mut self, id: NodeId) {
        let unlinked = self.state().node(id).is_some_and(|node| node.nlink == 0);
        if unlinked && let Err(error) = self.ledger.apply(Op::Forget { id }) {
            // It costs room only; the next mount does it.
            tracing::warn!(node = id, %error, "an unlinked file stays in the overlay");
        }
    }

    /// A node as an entry, its local bytes named as such. A directory comes empty.
    pub fn entry_of(&self, inode: &Inode, id: NodeId, node: &OverlayNode) -> Entry {
        let body = match &node.body {
            NodeBody::Dir(_) => EntryBody::Dir {
                totals: Default::default(),
                tree: crate::model::DirTree::empty(),
            },
            NodeBody::File(file) => {
                let size = self.local_size(inode, file).map_or(0, |local| local.size);
                let content = match (&file.body, &file.base) {
                    (None, Some((_, content))) => content.clone(),
                    (None, None) => Content::empty(),
                    (Some(_), _) => Content::Local(LocalContent {
                        overlay: 0,
                        node: id,
                        generation: node.generation,
                    }),
                };
                EntryBody::File { size, content }
            }
            NodeBody::Symlink(target) => EntryBody::Symlink {
                target: target.clone(),
            },
            NodeBody::Fifo => EntryBody::Fifo,
            NodeBody::Socket => EntryBody::Socket,
            NodeBody::CharDev(major, minor) => EntryBody::CharDev {
                major: *major,
                minor: *minor,
            },
            NodeBody::BlockDev(major, minor) => EntryBody::BlockDev {
                major: *major,
                minor: *minor,
            },
        };
        Entry {
            attrs: node.attrs.clone(),
            body,
        }
    }

    /// Size of a file of the overlay.
    pub fn local_size(&self, inode: &Inode, file: &FileState) -> Result<LocalSize, ViewError> {
        if let Some(open) = &inode.file {
            return Ok(open.local_size());
        }
        let Some(body) = file.body else {
            return Ok(match &file.base {
                Some((size, content)) => LocalSize {
                    size: *size,
                    blocks: content_blocks(*size, content),
                },
                None => LocalSize { size: 0, blocks: 0 },
            });
        };
        let mut known = inode.local.lock();
        if let Some(known) = *known {
            return Ok(known);
        }
        let mut found = self.ledger.bodies().stat(body)?;
        if file.present.is_some() {
            found.blocks = found.blocks.max(found.size.div_ceil(512));
        }
        *known = Some(found);
        Ok(found)
    }

    /// Replaces the attributes of an inode, which is adopted for it. What was removed keeps them in memory.
    pub fn set_attrs(&mut self, ino: Ino, change: impl FnOnce(&mut Attrs)) -> Result<(), Ask> {
        self.inode(ino)?;
        if let Some(inode) = self.inodes.get_mut(ino)
            && let What::Gone(entry) = &mut inode.what
        {
            change(&mut entry.attrs);
            return Ok(());
        }
        let id = self.adopt(ino)?;
        let mut attrs = self.node(id)?.attrs.clone();
        let file = self.inodes.get(ino).and_then(|inode| inode.file.clone());
        // Writes that are not settled yet come first: the change may overrule them.
        if let Some(written) = file.as_ref().and_then(|file| file.unsettled()) {
            (attrs.mtime, attrs.ctime) = (written, written);
        }
        change(&mut attrs);
        if attrs != self.node(id)?.attrs {
            self.ledger.apply(Op::SetAttrs { id, attrs })?;
        }
        if let Some(file) = file {
            file.settled();
        }
        Ok(())
    }

    // ---- the way up ----

    /// Directories from an inode up to the root, itself not counted; the root has 0.
    ///
    /// # Errors
    /// What was removed has no way up.
    pub fn depth(&self, ino: Ino) -> Result<usize, Ask> {
        let mut depth = 0;
        let mut at = ino;
        // Clean ones hang in other inodes, up to the first that is in the overlay.
        loop {
            let inode = self.inode(at)?;
            match (&inode.what, &inode.place) {
                (What::Node(id), _) => return Ok(depth + self.node_depth(*id)?),
                (What::Clean(_), Some((dir, _))) => {
                    depth += 1;
                    at = *dir;
                }
                _ => return Err(ViewError::NotFound.into()),
            }
        }
    }

    fn node_depth(&self, id: NodeId) -> Result<usize, Ask> {
        let mut at = id;
        for depth in 0..=PATH_DEPTH_MAX + 1 {
            match self.node(at)?.names.first() {
                Some((parent, _)) => at = *parent,
                None if at == crate::overlay::ROOT_NODE => return Ok(depth),
                None => return Err(ViewError::NotFound.into()),
            }
        }
        Err(lost(id).into())
    }

    /// True if `dir` is `top` or lies below it.
    pub fn is_below(&self, dir: Ino, top: &Child, top_ino: Option<Ino>) -> Result<bool, Ask> {
        let mut at = dir;
        let mut node = loop {
            if Some(at) == top_ino {
                return Ok(true);
            }
            let inode = self.inode(at)?;
            match (&inode.what, &inode.place) {
                (What::Node(id), _) => break *id,
                (_, Some((dir, _))) => at = *dir,
                _ => return Ok(false),
            }
        };
        let Child::Node(top) = top else { return Ok(false) };
        for _ in 0..=PATH_DEPTH_MAX + 1 {
            if node == *top {
                return Ok(true);
            }
            match self.node(node)?.names.first() {
                Some((parent, _)) => node = *parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// True for a directory that can get entries.
    pub fn check_dir(&self, ino: Ino) -> Result<(), Ask> {
        let inode = self.inode(ino)?;
        if self.kind(ino)? != Kind::Dir {
            return Err(ViewError::NotDir.into());
        }
        let removed = match &inode.what {
            What::Node(id) => self.node(*id)?.nlink == 0,
            What::Gone(_) => true,
            What::Clean(_) | What::Link(..) => false,
        };
        if removed {
            return Err(ViewError::NotFound.into());
        }
        Ok(())
    }
}
