//! Questions about one inode: its entry, its size, the way up from it.

use super::ViewError;
use super::inodes::{Inode, LocalSize, What};
use super::space::{Ask, Child, Look, content_blocks, lost};
use super::types::Ino;
use crate::model::{Content, Entry, EntryBody, Kind, LocalContent, PATH_DEPTH_MAX};
use crate::overlay::{FileState, NodeBody, NodeId, OverlayNode};

impl Look<'_> {
    /// A node as an entry, its local bytes named as such. A directory comes empty.
    pub fn entry_of(&self, inode: &Inode, id: NodeId, node: &OverlayNode) -> Entry {
        let body = match &node.body {
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
            NodeBody::Dir(_)
            | NodeBody::Symlink(_)
            | NodeBody::Fifo
            | NodeBody::Socket
            | NodeBody::CharDev(..)
            | NodeBody::BlockDev(..) => node.body.plain_entry(),
        };
        Entry {
            attrs: node.attrs.clone(),
            body,
        }
    }

    /// Size of a file of the overlay.
    pub fn local_size(&self, inode: &Inode, file: &FileState) -> Result<LocalSize, ViewError> {
        if let Some(open) = &inode.file {
            if open.live().is_some() {
                self.space.observe(open);
            }
            return Ok(open.local_size());
        }
        if file.body.is_none() {
            return self.body_size(file);
        }
        let mut known = inode.local.lock();
        match &*known {
            Some(known) => Ok(**known),
            None => Ok(**known.insert(Box::new(self.body_size(file)?))),
        }
    }

    /// The same, asked of the body or the descriptor.
    pub fn body_size(&self, file: &FileState) -> Result<LocalSize, ViewError> {
        let Some(body) = file.body else {
            return Ok(match &file.base {
                Some((size, content)) => LocalSize {
                    size: *size,
                    blocks: content_blocks(*size, content),
                },
                None => LocalSize { size: 0, blocks: 0 },
            });
        };
        let overlay = self.overlay.ok_or(ViewError::ReadOnly)?;
        let stat = overlay.body_stat(body)?;
        let blocks = stat.allocated / 512;
        let blocks = if file.present.is_some() {
            blocks.max(stat.len.div_ceil(512))
        } else {
            blocks
        };
        Ok(LocalSize {
            size: stat.len,
            blocks,
        })
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
