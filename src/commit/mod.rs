//! Commit: freeze, upload, publish (LOG.md 4).
//!
//! A pipeline of types: [`Frozen`] changes become [`Uploaded`] when their bytes are in the store, and a [`CommitDone`]
//! when the record is in the log. Until then nobody else sees anything, and dropping any of them leaves unreferenced
//! objects at most.
//!
//! - `build`: base and overlay give the tree M. `restore` is its inverse.
//! - `upload`: bytes of dirty files into chunks and packs; `ledger`: what of that survives an interruption.
//! - `publish`: merge, store the nodes, create the record; `rehome`: what R2 demands; `settle`: after a crash.
//! - `edit`: changes without a mount, through the same code.
//!
//! Not there yet: drafts and combining of commits under contention (LOG.md 7).

mod build;
mod edit;
mod error;
mod extents;
mod frozen;
mod journal;
mod ledger;
mod packer;
mod prepared;
mod progress;
mod publish;
mod rehome;
mod restore;
mod settle;
mod sink;
mod sources;
mod surroundings;
#[cfg(test)]
mod tests;
mod upload;

pub use build::{Built, Contents, base_files, build};
pub use edit::{Edit, LocalFiles};
pub use error::CommitError;
pub use frozen::{Counted, Frozen, Uploaded};
pub use journal::{Attempt, CommitJournal, NoJournal};
pub use ledger::{NoLedger, UploadLedger};
pub use prepared::PreparedTree;
pub use progress::{Progress, ProgressCount};
pub use publish::{CommitDone, NewBase};
pub use restore::{CarriedOver, Target, carry_over, restore};
pub use settle::{Settled, finish, settle};
pub use sources::needed_sources;
pub use surroundings::{Commit, CommitOptions};
pub use upload::{ChunkHints, FileSource, NoHints, UploadLimits};
