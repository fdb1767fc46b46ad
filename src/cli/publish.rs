//! Publishing edits of a volume that is not mounted: what `put`, `cp` and `rm` end with.

use std::time::{Duration, Instant};

use super::context::Context;
use super::mount::host_name;
use super::progress::ProgressView;
use super::remote::Remote;
use crate::answer::{
    CommitAnswer, Failure, FailureKind, Progress, check_message, check_publisher, commit_answer,
};
use crate::commit::{
    Commit, CommitError, CommitOptions, Edit, FileSource, Frozen, NoHints, NoJournal, NoLedger,
    Progress as Counts, ProgressCount, UploadLimits,
};

/// For how long lost answers and lost races are repeated.
const PUBLISH_TIME: Duration = Duration::from_secs(30);
/// Shortest time between two displays of progress.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Options of every command that publishes.
#[derive(Debug, clap::Args)]
pub struct PublishArgs {
    /// Text for the log
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Who publishes, for the log (default: the host name)
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Publishes edits of the volume's newest record as one record; no edits, no record. Ctrl-C before the record is being made
/// publishes nothing; from then on the answer is waited for.
///
/// # Errors
/// [`FailureKind::OutcomeUnknown`] when it may have been published or not; after all others nothing was.
pub async fn publish(
    remote: &Remote,
    edits: Vec<Edit>,
    files: &dyn FileSource,
    options: &PublishArgs,
    context: &Context,
) -> Result<CommitAnswer, Failure> {
    check_message(&options.message)?;
    check_publisher(options.by.as_deref().unwrap_or_default())?;
    if edits.is_empty() {
        return Ok(CommitAnswer::default());
    }
    let started = Instant::now();
    let view = ProgressView::new(context);
    let shown = parking_lot::Mutex::new(started);
    let show = move |count: ProgressCount| {
        let complete = count.files_done == count.files;
        let mut last = shown.lock();
        if last.elapsed() < SHOW_EVERY && !complete {
            return;
        }
        *last = Instant::now();
        view.show(&Progress {
            stage: if complete { "publishing" } else { "uploading" }.into(),
            done_files: count.files_done,
            total_files: count.files,
            done_bytes: count.bytes_done,
            total_bytes: count.bytes,
            sent_bytes: count.sent,
        });
    };
    let progress = Counts::telling(show);
    let commit = Commit {
        volume: &remote.volume,
        nodes: &remote.nodes,
        files,
        ledger: &NoLedger,
        hints: &NoHints,
        journal: &NoJournal,
        progress: &progress,
        limits: UploadLimits::default(),
        options: CommitOptions {
            by: options.by.clone().unwrap_or_else(host_name),
            message: options.message.clone(),
            deadline: PUBLISH_TIME,
            ..CommitOptions::default()
        },
    };
    let epoch = remote.head.record().gc.epoch;
    let frozen = Frozen::edits(&remote.head, edits);
    let uploaded = tokio::select! {
        uploaded = frozen.upload(&commit, epoch) => uploaded.map_err(failure)?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new(FailureKind::Failed, "interrupted: nothing was published"));
        }
    };
    let publishing = async {
        uploaded
            .publish(&commit, remote.head.clone())
            .await
            .map_err(failure)
    };
    let mut publishing = std::pin::pin!(publishing);
    let done = loop {
        tokio::select! {
            done = &mut publishing => break done?,
            _ = tokio::signal::ctrl_c() => context.note("the record is being made: waiting for the store's answer"),
        }
    };
    let changed = done.counted.files + done.counted.dirs;
    Ok(commit_answer(&done, changed, started.elapsed()))
}

fn failure(error: CommitError) -> Failure {
    match error {
        CommitError::Unknown { .. } => Failure::new(FailureKind::OutcomeUnknown, error.to_string())
            .hint("look at the volume (`sailvol ls`) before you do it again: doing it twice does no harm"),
        CommitError::Path { .. } => Failure::new(FailureKind::Refused, error.to_string()),
        error => error.into(),
    }
}
