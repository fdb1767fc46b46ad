//! From what a commit did to what is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{CommitAnswer, OverwrittenPath, Progress};
use crate::commit::{CommitDone, Progress as UploadProgress};
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

/// Progress is told at most this often.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The progress of a commit, told to a sink: at most once in [`PROGRESS_EVERY`], and when all files are done.
pub fn telling(sink: Arc<dyn Fn(Progress) + Send + Sync>) -> UploadProgress {
    let last_told: Mutex<Option<Instant>> = Mutex::default();
    UploadProgress::telling(move |count| {
        let complete = count.files_done == count.files;
        {
            let mut last = last_told.lock();
            if last.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) && !complete {
                return;
            }
            *last = Some(Instant::now());
        }
        sink(Progress {
            stage: if complete { "publishing" } else { "uploading" }.into(),
            done_files: count.files_done,
            total_files: count.files,
            done_bytes: count.bytes_done,
            total_bytes: count.bytes,
            sent_bytes: count.sent,
        });
    })
}
