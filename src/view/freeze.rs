//! The view's side of a commit.
//!
//! 1. Between freeze and end of the commit the bytes of a frozen file that was closed are exact: before its body is opened
//!    for writing again the commit gets a copy (`data.rs`). Closed is what nobody has open for writing or mapped
//!    (`passthrough.rs`).
//! 2. A file that was open for writing at the freeze is told as such, read as it is when it is read, and stays dirty.
//! 3. The publish changes nothing that a process sees: what leaves the overlay is found again in the new base by its path,
//!    at its next use, under the same node number.
//! 4. After the publish no inode names a node of the former base that exists on this machine only (a directory that does is
//!    found again in the same way): such nodes go when nobody has a hold of that base (`standing.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::file::{FileData, Turn};
use super::inodes::{Inode, What};
use super::passthrough::can_be_written;
use super::space::lost;
use super::types::{Ino, OpenForWrite};
use super::{View, ViewError};
use crate::model::{Content, Entry, EntryBody, FRAME_BYTES, LinkId, LinkInode, Name, TreeRoot, VolPath};
use crate::overlay::{
    BaseRef, Body, FileState, FreedBody, NodeBody, NodeId, Op, OverlayNode, OverlayState, PublishedContent,
    ROOT_NODE,
};

/// Generation of an inode that has to look itself up again.
pub(super) const NEVER: u64 = 0;

/// What a commit publishes.
#[derive(Clone, Debug)]
pub struct FrozenView {
    /// Number of the commit.
    pub commit: u64,
    /// The overlay at the freeze.
    pub state: Arc<OverlayState>,
    /// The tree it stands on.
    pub base: TreeRoot,
    /// Files that some process could write at the freeze.
    pub open_for_write: Vec<OpenForWrite>,
}

impl View {
    /// Freezes the overlay: all names, and the bytes of all files that nobody can write, as of this moment.
    ///
    /// # Errors
    /// A commit is under way already; the journal refuses.
    pub fn freeze(&self) -> Result<FrozenView, ViewError> {
        self.with_edit(|edit| {
            for file in &edit.open_files() {
                // No handle for writing can come to be while the space is locked.
                edit.close_live(file)?;
                edit.settle(file)?;
            }
            let mut open: HashSet<NodeId> = HashSet::new();
            for (inode, file) in edit.space.inodes.open() {
                if let What::Node(id) = inode.what
                    && (file.writers() > 0 || file.live().is_some())
                {
                    open.insert(id);
                }
            }
            let commit = edit.state.last_commit + 1;
            edit.apply(&Op::Freeze { commit })?;
            let written: Vec<NodeId> = open
                .iter()
                .copied()
                .filter(|id| body_of(&edit.state, *id).is_some_and(|file| file.body.is_some()))
                .collect();
            let marks: Vec<Op> = written.iter().map(|id| Op::MarkDirty { id: *id }).collect();
            if let Err(error) = edit.apply_all(&marks) {
                edit.apply(&Op::Unfrozen { commit })?;
                return Err(error);
            }
            let frozen = edit.state.frozen.clone().ok_or_else(|| lost(ROOT_NODE))?;
            let mut open_for_write: Vec<OpenForWrite> = written
                .into_iter()
                .map(|node| OpenForWrite {
                    node,
                    path: path_in(&frozen.state, node),
                })
                .collect();
            open_for_write.sort_by(|a, b| (&a.path, a.node).cmp(&(&b.path, b.node)));
            edit.space.frozen_open = open;
            Ok(FrozenView {
                commit,
                state: frozen.state.clone(),
                base: edit.space.base.clone(),
                open_for_write,
            })
        })
    }

    /// The commit was given up: everything stays dirty.
    pub fn unfreeze(&self, commit: u64) -> Result<Vec<FreedBody>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let mut space = self.space.write();
        let freed = overlay.apply_freeing(&Op::Unfrozen { commit })?;
        self.end_freeze(&mut space);
        for (_, file) in space.inodes.open() {
            file.frozen.store(false, Ordering::Release);
        }
        Ok(freed)
    }

    /// No commit reads copies any more.
    pub(super) fn end_freeze(&self, space: &mut super::space::Space) {
        space.frozen_open.clear();
        for (_, (_, copy)) in space.thawed.drain() {
            if let Some(overlay) = self.overlay() {
                overlay.discard_body(copy);
            }
        }
    }

    /// The commit is in the log, and the view stands on `tree` from now on: what base and frozen state made. Nothing
    /// changes for any process.
    pub fn published(
        &self,
        commit: u64,
        base: BaseRef,
        tree: TreeRoot,
        contents: Vec<PublishedContent>,
    ) -> Result<Vec<FreedBody>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        let mut space = self.space.write();
        let (before, was_prepared, mut bytes) = {
            let state = overlay.read();
            let was_prepared = state.base.prepared.is_some();
            self.listings_outlive(super::space::Look {
                space: &space,
                state: &state,
                overlay: Some(overlay),
            });
            let mut bytes: HashMap<NodeId, (u64, Content)> = HashMap::new();
            if let Some(frozen) = &state.frozen {
                bytes.extend(frozen.uploaded.iter().map(|(id, content)| (*id, content.clone())));
            }
            // Nodes are shared, not copied.
            (state.nodes.clone(), was_prepared, bytes)
        };
        bytes.extend(
            contents
                .iter()
                .map(|(id, size, content)| (*id, (*size, content.clone()))),
        );
        let mut freed = overlay.apply_freeing(&Op::Published {
            commit,
            base,
            contents,
        })?;
        let state = overlay.read();
        space.know_ways(&before, &state);
        // Places first: an inode that leaves is no longer found by its node.
        let gone = space
            .inodes
            .nodes()
            .filter(|(_, id, _)| state.node(*id).is_none());
        let leaving: Vec<_> = gone
            .filter_map(|(ino, id, _)| {
                let node = before.get(&id)?;
                space.note_names(node);
                Some((ino, id, space.place_of(node)))
            })
            .collect();
        for (ino, id, place) in leaving {
            let Some(node) = before.get(&id) else { continue };
            let content = match &node.body {
                NodeBody::File(file) => Some(match (bytes.get(&id), &file.base) {
                    (Some(published), _) if file.body.is_some() => published.clone(),
                    (_, Some(base)) => base.clone(),
                    (_, None) => (0, Content::empty()),
                }),
                _ => None,
            };
            if let (Some((size, content)), Some(file)) = (
                &content,
                space.inodes.get(ino).and_then(|inode| inode.file.clone()),
            ) && !file.is_clean()
            {
                // Somebody may read the body by the kernel, and follow a later writer: large ones as cache files.
                let chunked = matches!(content, Content::Chunks { .. } | Content::Paged { .. });
                let kept = if chunked || file.backing().is_none() {
                    None
                } else {
                    let at = freed.iter().position(|freed| freed.node() == id);
                    at.map(|at| freed.swap_remove(at))
                };
                file.will_draw_from(space.drawn.now(&state));
                file.turn(Turn::Published {
                    size: *size,
                    content: content.clone(),
                    freed: kept,
                });
            }
            let entry = Entry {
                attrs: node.attrs.clone(),
                body: clean_body(&node.body, content),
            };
            space.leave_overlay(ino, place, node.link, node.nlink, entry);
        }
        for (_, file) in space.inodes.open() {
            file.frozen.store(false, Ordering::Release);
        }
        self.end_freeze(&mut space);
        space.usage.rebase(&space.base, &tree);
        space.set_base(tree);
        if was_prepared {
            space.look_again_at_local();
        }
        Ok(freed)
    }

    /// Bytes of a frozen file that have to be read from the base or a body: `len` of them from `offset` on, zeros where
    /// the file ends by now. The caller holds the freeze.
    pub async fn read_frozen(
        &self,
        frozen: &FrozenView,
        node: NodeId,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, ViewError> {
        let file = body_of(&frozen.state, node).ok_or_else(|| lost(node))?;
        let body = self.frozen_body(node, file)?;
        let mut out = BytesMut::zeroed(len);
        let end = offset.saturating_add(len as u64);
        let size = match &body {
            Some(body) => body.len()?,
            None => file.base.as_ref().map_or(0, |(size, _)| *size),
        };
        let mut at = offset;
        while at < end.min(size) {
            let frame = at / FRAME_BYTES;
            let stop = (frame + 1).saturating_mul(FRAME_BYTES).min(end).min(size);
            let span = |from: u64| usize::try_from(from - offset).unwrap_or(len);
            let part = &mut out[span(at)..span(stop)];
            match &body {
                Some(body) if file.is_present(frame) => {
                    body.read_at(part, at)?;
                }
                _ => {
                    let valid = if body.is_some() { file.base_valid } else { u64::MAX };
                    if let Some((size, content)) = &file.base
                        && at < valid.min(*size)
                    {
                        let len = part
                            .len()
                            .min(usize::try_from(valid.min(*size) - at).unwrap_or(usize::MAX));
                        let bytes = self.source.read(content, *size, at, len).await?;
                        part.get_mut(..bytes.len())
                            .unwrap_or_default()
                            .copy_from_slice(&bytes);
                    }
                }
            }
            at = stop;
        }
        Ok(out.freeze())
    }

    /// Where from `offset` on bytes of a frozen file may stand; `None`: there are none, or nothing but zeros follows. Bytes of
    /// the base count as such without a look. The caller holds the freeze.
    pub fn next_frozen_data(
        &self,
        frozen: &FrozenView,
        node: NodeId,
        offset: u64,
    ) -> Result<Option<u64>, ViewError> {
        let file = body_of(&frozen.state, node).ok_or_else(|| lost(node))?;
        let of_base = file.present.is_some() && offset < file.base_valid;
        match self.frozen_body(node, file)? {
            // A filesystem that does not tell holes: what is there is read.
            Some(body) if !of_base => Ok(body.next_data(offset).unwrap_or(Some(offset))),
            _ => Ok(Some(offset)),
        }
    }

    /// Bytes of a frozen file. Of one that was open for writing: as many as there are now.
    pub fn frozen_size(&self, frozen: &FrozenView, node: NodeId) -> Result<u64, ViewError> {
        let file = body_of(&frozen.state, node).ok_or_else(|| lost(node))?;
        if let Some(copy) = self.thawed_body(node, file) {
            return Ok(copy.len()?);
        }
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        match file.body {
            Some(body) => Ok(overlay.body_stat(body)?.len),
            None => Ok(file.base.as_ref().map_or(0, |(size, _)| *size)),
        }
    }

    /// The copy that was made of a frozen file, which was written since.
    fn thawed_body(&self, node: NodeId, file: &FileState) -> Option<Arc<Body>> {
        let space = self.space.read();
        let (of, copy) = space.thawed.get(&node)?;
        (file.body == Some(*of)).then(|| copy.clone())
    }

    fn frozen_body(&self, node: NodeId, file: &FileState) -> Result<Option<Arc<Body>>, ViewError> {
        let overlay = self.overlay().ok_or(ViewError::ReadOnly)?;
        if let Some(copy) = self.thawed_body(node, file) {
            return Ok(Some(copy));
        }
        Ok(file.body.map(|body| overlay.body(body)).transpose()?)
    }

    /// Files that some process can write now, of those that are in the overlay: they stay when a reload takes the rest
    /// away.
    pub fn open_for_write(&self) -> Vec<OpenForWrite> {
        self.with_look(|look| {
            let mut open: Vec<OpenForWrite> = look
                .space
                .inodes
                .open()
                .filter_map(|(inode, file)| match inode.what {
                    What::Node(node) if can_be_written(file) => Some(OpenForWrite {
                        node,
                        path: path_in(look.state, node),
                    }),
                    _ => None,
                })
                .collect();
            open.sort_by(|a, b| (&a.path, a.node).cmp(&(&b.path, b.node)));
            open
        })
    }

    /// Puts the times of all writes into the overlay, so that its state says everything that stat does.
    pub fn settle(&self) -> Result<(), ViewError> {
        self.settle_closed();
        self.with_edit(|edit| {
            let files = edit.open_files();
            files.iter().try_for_each(|file| edit.settle(file))
        })
    }
}

impl super::edit::Edit<'_> {
    fn open_files(&self) -> Vec<Arc<FileData>> {
        self.space.inodes.open().map(|(_, file)| file.clone()).collect()
    }
}

impl super::space::Space {
    /// Enters the directories of inodes that leave the overlay, where the table does not have them: without a place an
    /// open file would be another one than its path leads to. The kernel has them as a rule, but not those of a name that
    /// it has dropped since the file was opened, as it does after a reload.
    fn know_ways(&mut self, before: &HashMap<NodeId, Arc<OverlayNode>>, state: &OverlayState) {
        let leaves = |id: NodeId| state.node(id).is_none();
        let without = |(_, id, _): (Ino, NodeId, &Inode)| {
            let node = before.get(&id).filter(|node| leaves(id) && node.link.is_none())?;
            let unknown = self.place_of(node).is_none();
            node.names.first().filter(|_| unknown).map(|(dir, _)| *dir)
        };
        let dirs: Vec<NodeId> = self.inodes.nodes().filter_map(without).collect();
        for dir in dirs {
            // Up to the first that the table has, then down again: what the table has of an older generation is found by
            // its place.
            let mut way = Vec::new();
            let (mut at, mut needed) = (dir, true);
            while self.inodes.of_node(at).is_none() {
                let Some(node) = before.get(&at) else { break };
                way.push((at, node, needed));
                needed &= leaves(at);
                match node.names.first() {
                    Some((parent, _)) => at = *parent,
                    None => break,
                }
            }
            for (id, node, needed) in way.into_iter().rev() {
                self.know_dir(id, node, needed);
            }
        }
    }

    /// Enters a directory. What its path led to before a reload or a restored stash, and nobody has asked for since, goes on as
    /// it: with a second inode at its place, whoever has the first one open or works in it would find it removed.
    fn know_dir(&mut self, id: NodeId, node: &OverlayNode, needed: bool) {
        let place = self.place_of(node);
        let former = place.and_then(|(dir, name)| self.inodes.clean_child(dir, name.as_bytes()));
        let is_dir = |ino: &Ino| {
            self.inodes
                .get(*ino)
                .is_some_and(|inode| inode.what.is_clean_dir())
        };
        match former.filter(is_dir) {
            Some(ino) => {
                self.inodes.become_(ino, What::Node(id), None, self.generation);
                self.inodes.show(ino, node.attrs.file_id, self.generation);
            }
            None if needed => {
                let (what, file_id) = (What::Node(id), node.attrs.file_id);
                self.inodes.insert(what, file_id, None, self.generation);
            }
            None => {}
        }
    }

    /// A directory and name where an overlay node hangs, of those that the table knows.
    pub(super) fn place_of(&self, node: &OverlayNode) -> Option<(Ino, Name)> {
        let mut places = node.names.iter();
        places.find_map(|(parent, name)| Some((self.inodes.of_node(*parent)?, name.clone())))
    }

    /// An inode whose node is no longer in the overlay: where it is found again, and what it was, to tell whether it is
    /// the same.
    pub(super) fn leave_overlay(
        &mut self,
        ino: Ino,
        place: Option<(Ino, Name)>,
        link: Option<LinkId>,
        nlink: u64,
        entry: Entry,
    ) {
        let (what, place) = match (link, place) {
            (Some(link), _) => (What::Link(link, Arc::new(LinkInode { nlink, entry })), None),
            (None, Some(place)) => (What::Clean(Box::new(entry)), Some(place)),
            (None, None) => (What::Gone(Box::new(entry)), None),
        };
        self.inodes.become_(ino, what, place, NEVER);
    }
}

/// A node's body as an entry of a tree; a directory comes empty, to be found again by its path.
fn clean_body(body: &NodeBody, content: Option<(u64, Content)>) -> EntryBody {
    match body {
        NodeBody::File(_) => {
            let (size, content) = content.unwrap_or((0, Content::empty()));
            EntryBody::File { size, content }
        }
        NodeBody::Dir(_)
        | NodeBody::Symlink(_)
        | NodeBody::Fifo
        | NodeBody::Socket
        | NodeBody::CharDev(..)
        | NodeBody::BlockDev(..) => body.plain_entry(),
    }
}

fn body_of(state: &OverlayState, node: NodeId) -> Option<&FileState> {
    state.node(node)?.body.as_file()
}

/// One path of a node, as far as the overlay knows it.
pub(super) fn path_in(state: &OverlayState, node: NodeId) -> Option<VolPath> {
    let mut names = Vec::new();
    let mut at = node;
    while at != ROOT_NODE {
        let (parent, name) = state.node(at)?.names.first()?;
        names.push(name.clone());
        at = *parent;
        if names.len() > crate::model::PATH_DEPTH_MAX + 1 {
            return None;
        }
    }
    names.reverse();
    Some(VolPath(names))
}
