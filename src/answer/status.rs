//! The state of a mount.

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::model::{Hash, Seq, VolumeId};

/// Changes of others in a record of this mount's own, which had to merge: published, and not shown here yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unshown {
    /// The newest record of which all is shown, as far as that is known.
    pub shows: Option<Seq>,
    /// The record by this mount that holds them.
    pub record: Seq,
    /// The records by others that they came from, as far as they are known.
    pub others: Vec<Seq>,
}

/// Numbers about the cache.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Clean bytes on disk.
    pub used_bytes: u64,
    /// The most there may be.
    pub max_bytes: u64,
    /// Reads answered from local bytes.
    pub hits: u64,
    /// Reads that had to wait for the store.
    pub misses: u64,
}

/// Numbers about requests to the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Requests sent.
    pub requests: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Requests that failed for good.
    pub errors: u64,
    /// The last failure, if it is newer than the last success.
    pub last_error: Option<String>,
}

/// The state of a mount at a glance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Name of the volume.
    pub volume: String,
    /// Its id.
    pub volume_id: VolumeId,
    /// The store, without secrets.
    pub store: String,
    /// Where it is mounted.
    pub dir: String,
    /// The mount's name.
    pub name: String,
    /// The daemon.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Seconds since the mount.
    pub uptime_secs: u64,
    /// Nothing can be written.
    pub read_only: bool,
    /// The record that the view stands on.
    pub base: Seq,
    /// Id of that record.
    pub base_record: Hash,
    /// The newest record that is known, and how many seconds ago the store was asked; asked now if the store answers.
    pub head: Option<Seq>,
    /// Seconds since the store was last asked for the head.
    pub head_age_secs: Option<u64>,
    /// Why the head could not be asked for now.
    pub head_error: Option<String>,
    /// Published by this mount, not shown in it yet: changes by others with which its own were merged.
    #[serde(default)]
    pub unshown: Option<Unshown>,
    /// Names and inodes that differ from the base.
    pub dirty: u64,
    /// Bytes of dirty files on local disk.
    pub dirty_bytes: u64,
    /// Stashes.
    pub stashes: u64,
    /// A commit or reload that runs now.
    pub busy: Option<String>,
    /// The cache.
    pub cache: CacheStatus,
    /// Requests to the store.
    pub transfers: TransferStatus,
    /// Seconds since a record newer than the base has been known; `None` when none is.
    #[serde(default)]
    pub behind_secs: Option<u64>,
    /// Seconds since the store has stopped answering; `None` when it answers.
    #[serde(default)]
    pub offline_secs: Option<u64>,
    /// Whether file data passes the daemon, and why.
    pub passthrough: String,
    /// Commits that nobody asks for, when they are on.
    #[serde(default)]
    pub autocommit: Option<AutomaticStatus>,
    /// Reloads that nobody asks for, when they are on.
    #[serde(default)]
    pub autoreload: Option<AutomaticStatus>,
    /// The commit or reload that failed last, until one works.
    #[serde(default)]
    pub last_failure: Option<LastFailure>,
    /// What this mount lacks because of how it was made, and why.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Where Prometheus may ask.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Things the owner of the mount should know.
    pub warnings: Vec<String>,
}

/// How autocommit or autoreload stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AutomaticStatus {
    /// Its interval, seconds.
    pub every_secs: u64,
    /// Seconds until the next look; 0 while it is at work.
    pub next_secs: u64,
    /// The record that it published or moved to last.
    pub last_seq: Option<Seq>,
    /// Seconds since then.
    pub last_age_secs: Option<u64>,
    /// Times it has looked whether there is something to do.
    pub looks: u64,
    /// Tries that failed since the last that did not.
    pub failures: u32,
    /// Why it does not do its work, if so, and what to do.
    pub held: Option<String>,
}

/// The last failure of a command, until one of the same kind succeeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastFailure {
    /// What was being done.
    pub during: String,
    /// Seconds ago.
    pub age_secs: u64,
    /// Why, and what to do.
    #[serde(flatten)]
    pub failure: Failure,
}
