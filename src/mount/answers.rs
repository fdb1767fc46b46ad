//! What a mount answers: values that the control socket carries and the commands print.

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::model::{Hash, Seq, VolumeId};

/// What `commit` is asked to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommitRequest {
    /// Text for the log; may be empty.
    pub message: String,
    /// Say what would be published, publish nothing.
    pub dry_run: bool,
    /// Fail at once when another commit or reload runs.
    pub no_wait: bool,
    /// Give up after this many seconds without the store; `None` is the default of 30 s.
    pub timeout_secs: Option<u64>,
}

/// A path where a commit put its own change over one that the mount had not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverwrittenPath {
    /// The path now.
    pub path: String,
    /// Where it was before this commit moved it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub came_from: Option<String>,
    /// Content, mode, owner, mtime or an xattr.
    pub register: String,
}

/// What a commit did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CommitAnswer {
    /// Number of the record; `None` when there was nothing to publish, or for a dry run.
    pub seq: Option<Seq>,
    /// Id of the record: its hash.
    pub record: Option<Hash>,
    /// Number of the record of an interrupted commit that this one has finished, or found published: the same as `seq` when
    /// there was nothing else to publish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settled: Option<Seq>,
    /// True for a dry run.
    pub dry_run: bool,
    /// Names and inodes that changed.
    pub changed: u64,
    /// Files whose bytes changed.
    pub files: u64,
    /// Logical bytes of those files.
    pub bytes_changed: u64,
    /// Bytes sent to the store.
    pub bytes_sent: u64,
    /// Numbers of the records by others that it was merged with.
    pub merged_with: Vec<Seq>,
    /// Paths where it overwrote a concurrent change that this mount had not seen.
    pub overwrote: Vec<OverwrittenPath>,
    /// So many more of them than an answer lists.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub overwrote_more: u64,
    /// Files that some process could still write; they stay dirty, so that the next commit brings the rest.
    pub still_written: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
    /// The mount whose changes it published; empty when it was none (`put`, `cp`, `rm`).
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub dir: String,
}

/// Bytes of paths that a list in an answer may have; an answer of a commit may have to name every path of a volume.
const LIST_BYTES_MAX: usize = 64 << 20;

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Cuts a list of paths to what fits into an answer; how many had to go.
fn bound(paths: &mut Vec<OverwrittenPath>, bytes_max: usize) -> u64 {
    let mut bytes = 0;
    let fits = paths
        .iter()
        .take_while(|item| {
            bytes += item.path.len() + item.came_from.as_ref().map_or(0, String::len) + item.register.len();
            bytes <= bytes_max
        })
        .count();
    let more = paths.len() - fits;
    paths.truncate(fits);
    more as u64
}

impl CommitAnswer {
    /// As much of it as one answer lists, with the number of the rest.
    pub fn bounded(mut self) -> CommitAnswer {
        self.overwrote_more += bound(&mut self.overwrote, LIST_BYTES_MAX);
        self
    }
}

impl ReloadAnswer {
    /// As [`CommitAnswer::bounded`].
    pub fn bounded(mut self) -> ReloadAnswer {
        self.overwrote_more += bound(&mut self.overwrote, LIST_BYTES_MAX);
        self
    }
}

/// A record as users name it: by its number, or by how far it lies back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub enum RecordAt {
    /// That one.
    Number(Seq),
    /// So many records before the one that the mount stands on.
    Back(u64),
}

impl From<i64> for RecordAt {
    fn from(number: i64) -> RecordAt {
        match u64::try_from(number) {
            Ok(seq) => RecordAt::Number(seq),
            Err(_) => RecordAt::Back(number.unsigned_abs()),
        }
    }
}

impl From<RecordAt> for i64 {
    fn from(at: RecordAt) -> i64 {
        // A log of 2^63 records is none.
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        match at {
            RecordAt::Number(seq) => number(seq),
            RecordAt::Back(back) => -number(back),
        }
    }
}

impl std::str::FromStr for RecordAt {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<RecordAt, Self::Err> {
        text.parse::<i64>().map(RecordAt::from)
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

/// How one path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its bytes differ.
    Modified,
    /// Only attributes differ.
    Attributes,
    /// It is gone.
    Removed,
    /// It came from another path.
    Moved,
}

/// One line of a diff.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangedPath {
    /// The path; directories end in `/`.
    pub path: String,
    /// How it differs.
    pub change: ChangeKind,
    /// Where it came from, when it moved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub came_from: Option<String>,
    /// Bytes now, for files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

/// What differs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DiffAnswer {
    /// In path order.
    pub changes: Vec<ChangedPath>,
    /// There were more than asked for.
    pub truncated: bool,
}

/// One record of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its number.
    pub seq: Seq,
    /// Its id.
    pub record: Hash,
    /// `init`, `commit`, ...
    pub kind: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Who.
    pub by: String,
    /// The message.
    pub message: String,
    /// Files in the volume then.
    pub files: u64,
    /// Logical bytes in the volume then.
    pub bytes: u64,
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

/// How far a long operation is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// `scanning`, `uploading`, `publishing`, `fetching`, ...
    pub stage: String,
    /// Units done.
    pub done_files: u64,
    /// Units in all, if known.
    pub total_files: u64,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, if known.
    pub total_bytes: u64,
    /// Bytes that went over the network.
    pub sent_bytes: u64,
}

/// What a `prefetch` did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PrefetchAnswer {
    /// Files below the path.
    pub files: u64,
    /// Their logical bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_an_answer_is_counted() {
        let path = OverwrittenPath {
            path: "p".repeat(1000),
            came_from: None,
            register: "content".into(),
        };
        let answer = |paths: usize| CommitAnswer {
            overwrote: vec![path.clone(); paths],
            ..CommitAnswer::default()
        };
        // 100,000 paths of usual length are all named.
        let usual = OverwrittenPath {
            path: "p".repeat(250),
            ..path.clone()
        };
        let named = CommitAnswer {
            overwrote: vec![usual; 100_000],
            ..CommitAnswer::default()
        }
        .bounded();
        assert_eq!((named.overwrote.len(), named.overwrote_more), (100_000, 0));
        let cut = answer(70_000).bounded();
        assert_eq!(cut.overwrote.len() as u64 + cut.overwrote_more, 70_000);
        assert!(cut.overwrote_more > 0 && cut.overwrote.len() * 1007 <= LIST_BYTES_MAX);
    }

    #[test]
    fn records_are_named_by_number_or_backwards() {
        for (text, at) in [
            ("0", RecordAt::Number(0)),
            ("41", RecordAt::Number(41)),
            ("-1", RecordAt::Back(1)),
        ] {
            assert_eq!(text.parse::<RecordAt>().unwrap(), at);
            let json = serde_json::to_string(&at).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_str::<RecordAt>(&json).unwrap(), at);
        }
        assert!("one".parse::<RecordAt>().is_err());
    }
}
