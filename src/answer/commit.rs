//! Commits: what is asked, and what is answered.

use serde::{Deserialize, Serialize};

use crate::model::{Hash, Seq};

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
pub(super) const LIST_BYTES_MAX: usize = 64 << 20;

pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Cuts a list of paths to what fits into an answer; how many had to go.
pub(super) fn bound(paths: &mut Vec<OverwrittenPath>, bytes_max: usize) -> u64 {
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
}
