//! The owner of a state directory. Signatures; the bodies are being filled in.
#![allow(clippy::unimplemented, unused_variables)]

use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::body::Body;
use super::error::OverlayError;
use super::op::Op;
use super::state::{BaseRef, BodyId, NodeId, OverlayState};
use crate::model::{Attrs, Hash, Timestamp, VolumeId};

/// How a state directory is opened.
#[derive(Clone, Debug)]
pub struct OverlayOptions {
    /// The state directory of this mount name and volume; made if it is not there, with 0700.
    pub dir: PathBuf,
    /// Whose state it must be.
    pub volume: VolumeId,
    /// Recorded, for people.
    pub mount_name: String,
    /// What the lock file says of us, for the message that another process gets.
    pub holder: String,
    /// Bodies that are created ahead.
    pub bodies_ahead: usize,
    /// Stashes older than this are dropped when a new one is made.
    pub stash_age_max: Duration,
    /// Oldest stashes are dropped while all of them hold more bytes on disk than this; the newest one always stays.
    pub stash_bytes_max: u64,
}

/// What a state directory holds.
pub enum Found {
    /// An overlay, taken up. It may be clean.
    Overlay(Opened),
    /// None; there may be stashes.
    Empty(EmptyStateDir),
}

/// An overlay with what had to be done to open it.
pub struct Opened {
    /// The overlay.
    pub overlay: Arc<Overlay>,
    /// What was found.
    pub recovery: Recovery,
}

/// A locked state directory without an overlay.
pub struct EmptyStateDir {}

impl EmptyStateDir {
    /// Makes an empty overlay on `base`, whose root directory has these attributes.
    pub fn begin(self, base: BaseRef, root_attrs: Attrs) -> Result<Arc<Overlay>, OverlayError> {
        unimplemented!()
    }
}

/// What recovery found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The last stop was a clean one.
    pub clean_stop: bool,
    /// The machine was started anew since.
    pub rebooted: bool,
    /// Ops replayed.
    pub ops: u64,
    /// Bytes of an unfinished or unsynced end of the journal that were cut off.
    pub cut_bytes: u64,
    /// Files whose last writes may be missing: never synced before the machine stopped.
    pub incomplete: Vec<NodeId>,
    /// Files that went back to the bytes of the base, since nothing written to them had been synced.
    pub reverted: Vec<NodeId>,
    /// Bodies that nothing refers to and that were removed.
    pub bodies_removed: u64,
}

/// The overlay of one mount, and the only owner of its state directory.
///
/// Lock order: the state's lock first, then the journal's. Neither is held while bodies are read or written.
pub struct Overlay {}

impl Overlay {
    /// Opens and locks a state directory, and recovers the overlay in it.
    pub fn open(options: OverlayOptions) -> Result<Found, OverlayError> {
        unimplemented!()
    }

    /// Number of the overlay in its state directory (`LocalContent::overlay`): another one after every
    /// [`Overlay::replace`] and [`Overlay::stash_current`].
    pub fn number(&self) -> u64 {
        unimplemented!()
    }

    /// The state, for looking at.
    pub fn read(&self) -> RwLockReadGuard<'_, OverlayState> {
        unimplemented!()
    }

    /// The state, for looking at and changing as one step.
    pub fn write(&self) -> StateWriter<'_> {
        unimplemented!()
    }

    /// One change: in the journal (against `kill -9`) and in the state when this returns.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn apply(&self, op: &Op) -> Result<(), OverlayError> {
        self.write().apply(op)
    }

    /// Applies [`Op::Published`] or [`Op::Unfrozen`] and gives the bodies that nothing needs any more, once the record of
    /// that is on disk. Each is deleted when dropped, unless it was moved.
    pub fn apply_freeing(&self, op: &Op) -> Result<Vec<FreedBody>, OverlayError> {
        unimplemented!()
    }

    /// All names changed so far survive a power cut from here on, and bytes that replaced others by rename.
    pub fn sync(&self) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// Bytes and presence marks of these bodies, and all names changed so far, survive a power cut from here on (fsync).
    pub fn sync_bodies(&self, bodies: &[Arc<Body>]) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// An empty body with a number of its own. It is part of the overlay once a [`Op::GiveBody`] names it; dropped
    /// before, call [`Overlay::discard_body`].
    pub fn create_body(&self) -> Result<Arc<Body>, OverlayError> {
        unimplemented!()
    }

    /// A body that no op named after all.
    pub fn discard_body(&self, body: Arc<Body>) {
        unimplemented!()
    }

    /// A body of the overlay or a stash.
    pub fn body(&self, id: BodyId) -> Result<Arc<Body>, OverlayError> {
        unimplemented!()
    }

    /// A copy, on disk when this returns, so that it may take the place of what was synced.
    pub fn clone_body(&self, body: &Body) -> Result<Arc<Body>, OverlayError> {
        unimplemented!()
    }

    /// Keeps bytes (a base record, a prepared tree's node pack) by hash, on disk when this returns.
    pub fn put_base(&self, hash: &Hash, bytes: &[u8]) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// Bytes kept by [`Overlay::put_base`]; the caller checks them against the hash.
    pub fn get_base(&self, hash: &Hash) -> Result<Option<Bytes>, OverlayError> {
        unimplemented!()
    }

    /// Removes kept bytes that are not in `needed`.
    pub fn retain_bases(&self, needed: &HashSet<Hash>) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// Everything local moves to a stash, except the nodes `kept` (files open for writing), whose bodies `state` goes on
    /// using; `state` becomes the overlay, in the same atomic step. Nothing dirty beside `kept`: no stash is made.
    pub fn stash_current(
        &self,
        state: OverlayState,
        kept: &[NodeId],
        now: Timestamp,
    ) -> Result<Stashed, OverlayError> {
        unimplemented!()
    }

    /// `state` becomes the overlay (reload of a clean overlay, `--keep`, restore); bodies that neither it nor a stash has
    /// go. `restored`: this stash goes in the same step.
    pub fn replace(&self, state: OverlayState, restored: Option<u64>) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// The stashes, newest first.
    pub fn stashes(&self) -> Vec<StashInfo> {
        unimplemented!()
    }

    /// What a stash holds; its bodies come from [`Overlay::body`].
    pub fn open_stash(&self, id: u64) -> Result<OverlayState, OverlayError> {
        unimplemented!()
    }

    /// Deletes a stash.
    pub fn drop_stash(&self, id: u64) -> Result<StashInfo, OverlayError> {
        unimplemented!()
    }

    /// Numbers for `status`.
    pub fn disk(&self) -> Result<DiskUse, OverlayError> {
        unimplemented!()
    }

    /// Ends it: everything is put on disk; an overlay without changes leaves nothing but an empty directory.
    pub fn close(&self) -> Result<(), OverlayError> {
        unimplemented!()
    }
}

/// The state under its lock.
pub struct StateWriter<'a> {
    state: RwLockWriteGuard<'a, OverlayState>,
}

impl Deref for StateWriter<'_> {
    type Target = OverlayState;
    fn deref(&self) -> &OverlayState {
        &self.state
    }
}

impl StateWriter<'_> {
    /// As [`Overlay::apply`].
    pub fn apply(&mut self, op: &Op) -> Result<(), OverlayError> {
        unimplemented!()
    }

    /// Several changes with one write to the journal, in order. On an error those before the failing one hold; if the
    /// journal could not be written, none.
    pub fn apply_all(&mut self, ops: &[Op]) -> Result<(), OverlayError> {
        unimplemented!()
    }
}

/// A body that left the overlay. Deleted when dropped.
pub struct FreedBody {}

impl FreedBody {
    /// The node that it was of.
    pub fn node(&self) -> NodeId {
        unimplemented!()
    }

    /// The body.
    pub fn body(&self) -> &Arc<Body> {
        unimplemented!()
    }

    /// Renames it out of the state directory, into the cache say.
    pub fn move_to(self, path: &Path) -> Result<(), OverlayError> {
        unimplemented!()
    }
}

/// What became of local changes.
#[derive(Clone, Debug, Default)]
pub struct Stashed {
    /// The new stash, unless there was nothing to keep.
    pub stash: Option<StashInfo>,
    /// Stashes that were dropped for age or size, oldest first.
    pub dropped: Vec<StashInfo>,
}

/// One stash.
#[derive(Clone, Debug)]
pub struct StashInfo {
    /// Its number; also that of its overlay.
    pub id: u64,
    /// When it was made.
    pub made: Timestamp,
    /// What it stands on.
    pub base: BaseRef,
    /// Nodes that differ from the base.
    pub changes: u64,
    /// Files with local bytes.
    pub files: u64,
    /// Bytes of those, logical.
    pub bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// Use of the local disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskUse {
    /// Journal, bytes.
    pub journal_bytes: u64,
    /// Bodies of the overlay.
    pub bodies: u64,
    /// Bytes of them on disk.
    pub body_bytes: u64,
    /// Bytes of the stashes' bodies on disk.
    pub stash_bytes: u64,
    /// Bytes that the filesystem still has for us.
    pub available: u64,
}
