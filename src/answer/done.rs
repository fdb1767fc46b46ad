//! From what a commit did to what is told of it.

use std::time::Duration;

use super::{CommitAnswer, OverwrittenPath};
use crate::commit::CommitDone;
use crate::tree::{Overwritten, Register};

/// A path and register as they are shown.
pub fn overwritten(item: &Overwritten) -> OverwrittenPath {
    OverwrittenPath {
        path: item.path.to_string(),
        came_from: item.came_from.as_ref().map(ToString::to_string),
        register: match &item.register {
            Register::Content => "content".into(),
            Register::Mode => "mode".into(),
            Register::Owner => "owner".into(),
            Register::Mtime => "mtime".into(),
            Register::Xattr(name) => format!("xattr {}", String::from_utf8_lossy(name)),
        },
    }
}

/// What a commit did, as it is told.
pub fn commit_answer(done: &CommitDone, changed: u64, elapsed: Duration) -> CommitAnswer {
    CommitAnswer {
        seq: Some(done.record.seq()),
        record: Some(done.record.hash),
        settled: None,
        dry_run: false,
        changed,
        files: done.counted.contents,
        bytes_changed: done.counted.bytes,
        bytes_sent: done.sent,
        merged_with: done.merged_with.clone(),
        overwrote: done.overwrote.iter().map(overwritten).collect(),
        overwrote_more: 0,
        still_written: done.still_written.iter().map(ToString::to_string).collect(),
        seconds: elapsed.as_secs_f64(),
        dir: String::new(),
    }
}
