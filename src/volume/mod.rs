//! One remote volume: what every other part means by "the remote".
//!
//! A volume is a log of records over immutable objects (LOG.md 1). Here it is created, found by name, read at its
//! newest end, searched for transactions, leased, published to and deleted; the tree that a record describes is read
//! through a [`crate::tree::NodeSource`].
//!
//! Invariants:
//! 1. Nothing but a lease is ever overwritten. A record comes into the log by put-if-absent, in one request that
//!    nobody repeats without having looked at the slot ([`Volume::publish`]).
//! 2. A record is believed to be the newest only if its number was listed and its bytes were read within one hour by the
//!    store's clock ([`Volume::head`]), or if within an hour of that it was found to follow it, by its parent's hash, and
//!    no other to follow ([`Volume::refresh`]).
//! 3. Whether a transaction was published is never guessed: it is found, found not to be there, or an error says that it
//!    cannot be told ([`Volume::find_txn`]).
//! 4. The rules R1 to R4 and those of leases are predicates in [`rules`], used by everything that publishes.
//!
//! A [`Volume`] is cheap to clone and holds no lock; the memory of the head is its caller's ([`Head`]).

mod clock;
mod collect;
mod create;
mod delete;
mod error;
mod fsck;
mod head;
mod history;
mod lease;
mod names;
mod objects;
mod open;
mod publish;
pub mod rules;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

pub use clock::Clock;
pub use collect::{KEPT_SECS, LogTimes, is_kept_by_time, superseded};
pub use create::{CreateOptions, Created};
pub use delete::ToDelete;
pub use error::VolumeError;
pub use fsck::{Damage, FsckOptions, FsckProgress, FsckReport};
pub use head::{Head, LoggedRecord, Refreshed, check_not_back};
pub use history::{FoundTxn, HistoryEntry};
pub use lease::{LEASE_RENEW_SECS, LeaseHolder};
pub use names::{VolumeListing, nearest_name};
pub use objects::{RemoteSource, fetch_error};
pub use open::{Opened, Volume, VolumeRef};
pub use publish::{NextRecord, PreparedRecord, PublishOutcome};
