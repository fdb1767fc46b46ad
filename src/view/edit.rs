//! Space and overlay under their locks, for changing. What is asked before a change is asked through
//! [`Edit::look`], so that a change that has begun needs nothing more.

use std::ops::Deref;

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::ViewError;
use super::inodes::What;
use super::space::{Ask, Child, Look, Space};
use super::types::{Ino, Known};
use crate::model::Name;
use crate::overlay::{Op, Overlay, OverlayState, StateWriter};
use crate::tree::NodeSource;

/// The overlay's state: with a journal, or of a read-only mount without one.
pub(super) enum Writer<'a> {
    Journal(StateWriter<'a>),
    ReadOnly(RwLockReadGuard<'a, OverlayState>),
}

impl Deref for Writer<'_> {
    type Target = OverlayState;

    fn deref(&self) -> &OverlayState {
        match self {
            Writer::Journal(state) => state,
            Writer::ReadOnly(state) => state,
        }
    }
}

/// The right to change.
pub(super) struct Edit<'a> {
    pub space: RwLockWriteGuard<'a, Space>,
    pub state: Writer<'a>,
    pub overlay: Option<&'a Overlay>,
}

impl Edit<'_> {
    pub fn look(&self) -> Look<'_> {
        Look {
            space: &self.space,
            state: &self.state,
            overlay: self.overlay,
        }
    }

    /// One change of the overlay: it survives `kill -9` when this returns.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn apply(&mut self, op: &Op) -> Result<(), ViewError> {
        match &mut self.state {
            Writer::Journal(state) => Ok(state.apply(op)?),
            Writer::ReadOnly(_) => Err(ViewError::ReadOnly),
        }
    }

    /// Several changes with one write to the journal, or none.
    pub fn apply_all(&mut self, ops: &[Op]) -> Result<(), ViewError> {
        if ops.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            Writer::Journal(state) => Ok(state.apply_all(ops)?),
            Writer::ReadOnly(_) => Err(ViewError::ReadOnly),
        }
    }

    /// The inode of a child, made when the table has none. Without a reference.
    pub fn enter(&mut self, dir: Ino, name: &[u8], child: Child) -> Result<Ino, Ask> {
        if let Some(ino) = self.look().known_child(dir, name, &child) {
            return Ok(ino);
        }
        let generation = self.space.generation;
        let (what, file_id, place, old) = match child {
            Child::Node(id) => {
                let node = self.look().node(id)?;
                // A hard link is known by its identity, under whichever of its names it was found.
                let linked = node.link.and_then(|link| self.space.inodes.of_link(link));
                let old = linked.or_else(|| self.known_clean(dir, name));
                (What::Node(id), node.attrs.file_id, None, old)
            }
            Child::Link(id, inode) => {
                let old = self.space.inodes.of_link(id);
                let file_id = inode.entry.attrs.file_id;
                (What::Link(id, inode), file_id, None, old)
            }
            Child::Clean(entry) => {
                let old = self.known_clean(dir, name);
                let file_id = entry.attrs.file_id;
                let name = Name::new(name).map_err(ViewError::from)?;
                (What::Clean(entry), file_id, Some((dir, name)), old)
            }
        };
        // What is found there from an older generation goes on if it is still the same thing.
        if let Some(old) = old {
            let goes_on = self.look().goes_on(old, &what);
            if goes_on.is_some() {
                self.go_on(old, what, place, file_id, goes_on);
                return Ok(old);
            }
            self.detach(old);
        }
        Ok(self.space.inodes.insert(what, file_id, place, generation))
    }

    /// A name leads nowhere: what it led to before a reload is gone for good, whatever is made there later.
    pub fn vanished(&mut self, dir: Ino, name: &[u8]) {
        if let Some(old) = self.known_clean(dir, name) {
            self.detach(old);
        }
    }

    fn known_clean(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.space.inodes.clean_child(dir, name)
    }

    /// A child as an answer to the kernel: its inode is made if need be, and a reference counted.
    pub fn answer(
        &mut self,
        src: &dyn NodeSource,
        dir: Ino,
        name: &[u8],
        child: Child,
    ) -> Result<Known, Ask> {
        let ino = self.enter(dir, name, child)?;
        match self.look().refer(src, ino) {
            Ok(known) => {
                self.look().note_linked(dir, name, &known);
                Ok(known)
            }
            Err(ask) => {
                self.drop_unused(ino);
                Err(ask)
            }
        }
    }
}
