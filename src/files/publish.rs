//! Publishing edits of a volume's newest record: what import, copy and remove end with.

use std::time::{Duration, Instant};

use super::Session;
use crate::answer::{
    CommitAnswer, Failure, FailureKind, check_message, check_publisher, commit_answer, telling,
};
use crate::commit::{
    Commit, CommitError, CommitOptions, Edit, FileSource, Frozen, NoHints, NoJournal, NoLedger, UploadLimits,
};

/// For how long lost answers and lost races are repeated.
const PUBLISH_TIME: Duration = Duration::from_secs(30);

/// What a record says of itself.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Text for the log; may be empty.
    pub message: String,
    /// Who publishes; `None` is the caller's host.
    pub by: Option<String>,
}

/// Publishes edits of the session's record as one record; no edits, no record. A caller that stops before the record is being
/// made publishes nothing; from then on the answer is waited for.
///
/// # Errors
/// [`FailureKind::OutcomeUnknown`] when it may have been published or not; after all others nothing was.
pub async fn publish(
    session: &Session,
    edits: Vec<Edit>,
    files: &dyn FileSource,
    words: &Words,
) -> Result<CommitAnswer, Failure> {
    check_message(&words.message)?;
    check_publisher(words.by.as_deref().unwrap_or_default())?;
    if edits.is_empty() {
        return Ok(CommitAnswer::default());
    }
    let caller = &session.caller;
    let started = Instant::now();
    let progress = telling((caller.progress)());
    let commit = Commit {
        volume: &session.volume,
        nodes: &session.nodes,
        files,
        ledger: &NoLedger,
        hints: &NoHints,
        journal: &NoJournal,
        progress: &progress,
        limits: UploadLimits::default(),
        options: CommitOptions {
            by: words.by.clone().unwrap_or_else(|| caller.host.clone()),
            message: words.message.clone(),
            deadline: PUBLISH_TIME,
            ..CommitOptions::default()
        },
    };
    let epoch = session.head.record().gc.epoch;
    let frozen = Frozen::edits(&session.head, edits);
    let uploaded = tokio::select! {
        biased;
        () = (caller.stopped)() => {
            return Err(Failure::new(FailureKind::Failed, "interrupted: nothing was published"));
        }
        uploaded = frozen.upload(&commit, epoch) => uploaded.map_err(failure)?,
    };
    let publishing = async {
        uploaded
            .publish(&commit, session.head.clone())
            .await
            .map_err(failure)
    };
    let mut publishing = std::pin::pin!(publishing);
    let done = loop {
        tokio::select! {
            done = &mut publishing => break done?,
            () = (caller.stopped)() => (caller.note)("the record is being made: waiting for the store's answer"),
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
