//! Reloads and stashes: what is asked, and what is answered.

use serde::{Deserialize, Serialize};

use super::commit::{LIST_BYTES_MAX, bound, is_zero};
use super::{ChangedPath, LogEntry, OverwrittenPath, RecordAt};
use crate::model::{Hash, Seq};

impl ReloadAnswer {
    /// As [`CommitAnswer::bounded`].
    pub fn bounded(mut self) -> ReloadAnswer {
        self.overwrote_more += bound(&mut self.overwrote, LIST_BYTES_MAX);
        self
    }
}

/// What happens to local changes at a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalChanges {
    /// They leave the view and go to a stash.
    #[default]
    Stash,
    /// They are put on top of the new base.
    Keep,
    /// The reload is refused when there are any.
    IfClean,
}

/// What `reload` is asked to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Local changes.
    pub local: LocalChanges,
    /// To this record instead of the newest.
    pub to: Option<RecordAt>,
    /// Fail at once when another commit or reload runs.
    pub no_wait: bool,
    /// Give up after this many seconds without the store; `None` is the default of 30 s.
    pub timeout_secs: Option<u64>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// The record that the view stood on.
    pub from: Seq,
    /// The record that it stands on now.
    pub to: Seq,
    /// Id of that record.
    pub record: Hash,
    /// The stash that holds the local changes which left the view.
    pub stash: Option<StashSummary>,
    /// Local changes on top of the new base (`--keep`, or files open for writing).
    pub kept: Vec<String>,
    /// With `--keep`: paths where a local change was put over one by others.
    pub overwrote: Vec<OverwrittenPath>,
    /// So many more of them than an answer lists.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub overwrote_more: u64,
    /// What is to be seen now and was not before.
    #[serde(default)]
    pub brought: Brought,
    /// The mount.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub dir: String,
    /// Stashes that had to go to keep the bounds of age and size.
    pub dropped_stashes: Vec<u64>,
}

/// What a reload brought: named for people, so only some of it, and only as far as that can be told at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Brought {
    /// Records by others that the mount shows now, newest first.
    pub records: Vec<LogEntry>,
    /// So many more of them.
    pub records_more: u64,
    /// Paths that look different now, in path order.
    pub changes: Vec<ChangedPath>,
    /// There are more.
    pub truncated: bool,
}

/// One stash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StashSummary {
    /// Its number.
    pub id: u64,
    /// When it was made, seconds since 1970.
    pub made_at: i64,
    /// The record that its changes were made on.
    pub base: Seq,
    /// Names and inodes in it that differ from its base.
    pub changed: u64,
    /// Bytes on local disk.
    pub bytes: u64,
}
