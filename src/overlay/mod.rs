//! Dirty names and bytes of one mount. What is here exists nowhere else: it must survive.
//!
//! [`OverlayState`] is a value, changed by [`Op`]s only; [`Overlay`] owns the state directory: each op goes to the journal
//! first, bytes go to bodies. The numbered invariants (J1 ...) are in the specification below; the rules of the state are
//! documented at its types. Lock order: see [`Overlay`].
#![doc = include_str!("JOURNAL.md")]

mod apply;
mod assemble;
mod bodies;
mod body;
mod bytes;
mod check;
mod codec;
mod compact;
mod descriptors;
mod dir;
mod disk;
mod error;
mod frame;
mod handle;
mod journal;
mod manifest;
mod op;
mod open;
#[allow(clippy::module_inception)]
mod overlay;
mod rebase;
mod replay;
mod reserve;
mod salvage;
mod snapshot;
mod stash;
mod state;
mod sync;
mod unsynced;
mod writer;

#[cfg(test)]
mod tests;

pub use apply::ApplyError;
pub use body::{Body, BodyStat};
pub use check::{StateCheck, check, state_dirs};
pub use dir::{Parked, boot_id, list_parked};
pub use error::OverlayError;
pub use frame::{BootId, Header};
pub use manifest::StashInfo;
pub use op::{NewBody, Op, Place, PublishedContent};
pub use open::{EmptyStateDir, Found, Opened, Recovery};
pub use overlay::{DiskUse, Overlay, OverlayOptions};
pub use rebase::rebase_after_publish;
pub use replay::{ReplayError, Replayed, replay};
pub use salvage::{Salvaged, salvage};
pub use stash::Stashed;
pub use state::{
    BaseRef, BodyId, Change, DirChanges, FileState, Frozen, NodeBody, NodeId, Origin, OverlayNode,
    OverlayState, Prepared, ROOT_NODE,
};
pub use writer::{FreedBody, StateWriter};
