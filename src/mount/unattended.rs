//! Commits and reloads that nobody asks for: `--autocommit`, `--autoreload`, and the commit at the end.
//!
//! 1. Nothing here waits for a user's command, or makes one wait longer than a commit of its own takes: when another
//!    command runs, this turn is left out.
//! 2. What is published automatically is bounded by the seat belt: a commit that would take away more than a set share
//!    of the volume's files is left to a person.
//! 3. The remote was looked at before anything is published: a mount opens only with the newest record in hand.
//! 4. A reload happens only when there are no local changes (as `reload --if-clean`).
//! 5. When the store does not answer, tries become rarer, up to [`PAUSE_MAX`] between two.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Mount;
use crate::answer::{
    AutomaticStatus, CommitAnswer, CommitRequest, Failure, FailureKind, LocalChanges, ReloadRequest,
};
use crate::model::{Entry, EntryBody, Seq, TreeRoot};
use crate::tree::{self, Change, Hint, NodeSource, TreeError};

/// Longest pause between two tries while they fail (unless the interval itself is longer).
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// When another command ran, the next try comes after this at the latest.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// Deleting so few files is never held back: in a volume of three files two are more than half.
pub const DELETED_FREE: u64 = 10;
/// The seat belt holds above this share of a volume's files, percent, unless told otherwise.
pub const DELETED_PERCENT: u8 = 50;

/// What a mount does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unattended {
    /// Commit this often, when there are changes.
    pub autocommit: Option<Duration>,
    /// Look for newer records and reload this often, when there are no changes.
    pub autoreload: Option<Duration>,
    /// An automatic commit must not delete more than this share of the volume's files, percent; 100 turns that off.
    pub deleted_percent_max: u8,
}

impl Default for Unattended {
    fn default() -> Unattended {
        Unattended {
            autocommit: None,
            autoreload: None,
            deleted_percent_max: DELETED_PERCENT,
        }
    }
}

/// The live form of [`AutomaticStatus`].
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
    last: Option<(Seq, Instant)>,
    looks: u64,
    failures: u32,
    held: Option<String>,
    /// Generation of the overlay after the last turn that worked: without a newer one there is nothing new to read.
    done_at: Option<u64>,
}

impl Pace {
    fn status(&self, every: Duration) -> AutomaticStatus {
        let until = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs();
        AutomaticStatus {
            every_secs: every.as_secs(),
            next_secs: self.next.map_or(0, until),
            last_seq: self.last.map(|(seq, _)| seq),
            last_age_secs: self.last.map(|(_, at)| at.elapsed().as_secs()),
            looks: self.looks,
            failures: self.failures,
            held: self.held.clone(),
        }
    }
}

/// How one turn went.
#[derive(Debug, PartialEq)]
enum Turn {
    /// There was nothing to do.
    Idle,
    /// Nothing is new since the last turn, whatever came of that.
    Unchanged,
    /// Done, up to this record.
    Done(Seq),
    /// Another command ran.
    Busy,
    /// A rule forbids it for now.
    Held(Failure),
    /// It did not work.
    Failed(Failure),
}

/// The pause after `failures` failed tries in a row.
fn pause(every: Duration, failures: u32) -> Duration {
    let grown = every.saturating_mul(1 << failures.min(16));
    grown.min(PAUSE_MAX.max(every))
}

/// Up to a tenth more, so that pods that were started together do not stay together.
fn spread(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers they stay together, which is no more than a nuisance.
    let _ = getrandom::fill(&mut byte);
    pause + pause.mul_f64(f64::from(byte[0]) / 2560.0)
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Commit,
    Reload,
}

impl Mount {
    /// Begins what was asked for.
    pub(super) fn start_unattended(self: &Arc<Self>) {
        let options = self.options.unattended;
        if let (Some(every), true) = (options.autocommit, self.overlay.is_some()) {
            self.start_pacing(Kind::Commit, every);
        }
        if let Some(every) = options.autoreload {
            self.start_pacing(Kind::Reload, every);
        }
    }

    fn start_pacing(self: &Arc<Self>, kind: Kind, every: Duration) {
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            let mut wait = spread(every);
            loop {
                if let Some(mount) = mount.upgrade() {
                    mount.pace(kind).lock().next = Some(Instant::now() + wait);
                }
                tokio::time::sleep(wait).await;
                let Some(mount) = mount.upgrade() else { return };
                let turn = match kind {
                    Kind::Commit => mount.autocommit().await,
                    Kind::Reload => mount.autoreload().await,
                };
                wait = mount.note_turn(kind, turn, every);
            }
        }));
    }

    fn pace(&self, kind: Kind) -> &parking_lot::Mutex<Pace> {
        match kind {
            Kind::Commit => &self.autocommit,
            Kind::Reload => &self.autoreload,
        }
    }

    /// Keeps the books, says what is new, and gives the pause.
    fn note_turn(&self, kind: Kind, turn: Turn, every: Duration) -> Duration {
        let (name, during) = match kind {
            Kind::Commit => ("autocommit", "commit"),
            Kind::Reload => ("autoreload", "reload"),
        };
        let mut pace = self.pace(kind).lock();
        pace.looks += 1;
        let problem = match &turn {
            Turn::Busy => return spread(every.min(BUSY_PAUSE)),
            Turn::Unchanged => return spread(every),
            Turn::Idle => {
                (pace.failures, pace.held) = (0, None);
                return spread(every);
            }
            Turn::Done(seq) => {
                (pace.failures, pace.held) = (0, None);
                pace.last = Some((*seq, Instant::now()));
                return spread(every);
            }
            Turn::Held(failure) | Turn::Failed(failure) => failure,
        };
        pace.failures = match turn {
            Turn::Failed(_) => pace.failures + 1,
            _ => 0,
        };
        let hint = problem.hint.as_deref().unwrap_or_default();
        let text = format!("{}; {hint}", problem.message);
        let text = text.trim_end_matches("; ").to_owned();
        // Once for each reason: a store that is down for a night must not fill the log.
        let is_new = pace.held.as_ref() != Some(&text);
        pace.held = Some(text);
        let wait = spread(pause(every, pace.failures));
        drop(pace);
        if is_new {
            tracing::warn!(kind = ?problem.kind, next_secs = wait.as_secs(), hint, "{name}: {problem}");
            self.tell_failed(during, problem, true);
        }
        wait
    }

    async fn autocommit(&self) -> Turn {
        let Some(overlay) = &self.overlay else {
            return Turn::Idle;
        };
        self.catch_up().await;
        if overlay.read().is_clean() && overlay.read().frozen.is_none() {
            return Turn::Idle;
        }
        // Sizes and times of files that are being written come into the overlay here, and with them a new generation. What
        // goes wrong with it is told by the commit.
        let settled = self.view.settle().is_ok();
        let generation = overlay.read().generation;
        if settled && self.autocommit.lock().done_at == Some(generation) {
            return Turn::Unchanged;
        }
        let Ok(turn) = self.exclusive("an autocommit", true, None).await else {
            return Turn::Busy;
        };
        let request = CommitRequest {
            message: "autocommit".into(),
            ..CommitRequest::default()
        };
        let belt = Some(self.options.unattended.deleted_percent_max);
        let done = self.commit_in_turn(turn, &request, Arc::new(|_| {}), belt).await;
        let worked = matches!(
            &done,
            Ok(_)
                | Err(Failure {
                    kind: FailureKind::Refused,
                    ..
                })
        );
        self.autocommit.lock().done_at = worked.then(|| overlay.read().generation);
        match done {
            Ok(answer) => {
                self.tell_committed(&answer, true);
                answer.seq.map_or(Turn::Idle, Turn::Done)
            }
            Err(failure) if failure.kind == FailureKind::Refused => Turn::Held(failure),
            Err(failure) => Turn::Failed(failure),
        }
    }

    async fn autoreload(&self) -> Turn {
        let head = match self.look_for_head().await {
            Ok(head) => head,
            Err(failure) => return Turn::Failed(failure),
        };
        // A base that was prepared here is not the published record: it lacks what a commit of ours was merged with.
        let base = self.base_ref();
        if base.seq >= head && base.prepared.is_none() {
            return Turn::Idle;
        }
        if self.dirty_count() > 0 {
            let text = format!("record {head} is newer, but there are uncommitted changes");
            return match self.options.unattended.autocommit {
                // They will soon be gone.
                Some(_) => Turn::Idle,
                None => Turn::Held(
                    Failure::new(FailureKind::Refused, text)
                        .hint("`sailvol commit` publishes them, then it goes on by itself"),
                ),
            };
        }
        let Ok(turn) = self.exclusive("an autoreload", true, None).await else {
            return Turn::Busy;
        };
        let request = ReloadRequest {
            local: LocalChanges::IfClean,
            ..ReloadRequest::default()
        };
        match self.reload_in_turn(turn, &request, Arc::new(|_| {}), None).await {
            Ok(answer) => {
                self.tell_reloaded(&answer, true);
                Turn::Done(answer.to)
            }
            Err(failure) if failure.kind == FailureKind::Refused => Turn::Held(failure),
            Err(failure) => Turn::Failed(failure),
        }
    }

    /// The commit at the end of the mount; the seat belt holds. `limit` bounds waiting and store together.
    ///
    /// # Errors
    /// Local changes are kept in every case.
    pub async fn commit_at_end(&self, limit: Duration) -> Result<CommitAnswer, Failure> {
        if self.overlay.is_none() {
            return Ok(CommitAnswer::default());
        }
        let secs = limit.as_secs().max(1);
        let request = CommitRequest {
            message: "commit on exit".into(),
            timeout_secs: Some(secs),
            ..CommitRequest::default()
        };
        let belt = Some(self.options.unattended.deleted_percent_max);
        let work = async {
            let turn = self.exclusive("the commit on exit", false, Some(secs)).await?;
            self.commit_in_turn(turn, &request, Arc::new(|_| {}), belt).await
        };
        let done = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let text = format!("the commit on exit took longer than {secs} s (--exit-grace)");
            Err(Failure::new(FailureKind::StoreUnreachable, text))
        });
        match &done {
            Ok(answer) => self.tell_committed(answer, true),
            Err(failure) => self.tell_failed("commit", failure, true),
        }
        done
    }

    /// Asks the store for the newest record.
    ///
    /// # Errors
    /// What the store says; nothing within 30 s.
    pub(super) async fn look_for_head(&self) -> Result<Seq, Failure> {
        let (known, _) = self.known_head();
        let asked = tokio::time::timeout(crate::answer::STORE_TIME, self.volume.refresh(&known)).await;
        let head = asked
            .map_err(|_| crate::answer::no_answer(crate::answer::STORE_TIME))??
            .head;
        self.seen.check(&head)?;
        self.learn_head(&head);
        Ok(head.seq())
    }

    /// Autocommit for `status`.
    pub(super) fn autocommit_status(&self) -> Option<AutomaticStatus> {
        let every = self.options.unattended.autocommit?;
        self.overlay.as_ref()?;
        Some(self.autocommit.lock().status(every))
    }

    /// Autoreload for `status`.
    pub(super) fn autoreload_status(&self) -> Option<AutomaticStatus> {
        let every = self.options.unattended.autoreload?;
        Some(self.autoreload.lock().status(every))
    }
}

/// The seat belt: refuses when publishing `mine` would delete more than `percent` of the files in `base`.
///
/// # Errors
/// [`FailureKind::Refused`], with how to go on by hand; what the source says.
pub(super) async fn check_deletions(
    src: &dyn NodeSource,
    base: &TreeRoot,
    mine: &TreeRoot,
    moves: &[Hint],
    percent: u8,
) -> Result<(), Failure> {
    let total = base.totals.files;
    let deleted = deleted_files(src, base, mine, moves).await?;
    if !is_too_much(deleted, total, percent) {
        return Ok(());
    }
    let text = format!(
        "not published automatically: {deleted} of the volume's {total} files would be deleted, more than {percent} %"
    );
    Err(Failure::new(FailureKind::Refused, text).hint(
        "if that is meant, run `sailvol commit`; if not, `sailvol reload` sets the changes aside in a stash \
         (--max-deleted sets the share)",
    ))
}

fn is_too_much(deleted: u64, total: u64, percent: u8) -> bool {
    deleted > DELETED_FREE && deleted.saturating_mul(100) > total.saturating_mul(u64::from(percent))
}

/// Files that are in the base and not in `mine`. What was moved is not deleted: it counts as far as it is still there.
async fn deleted_files(
    src: &dyn NodeSource,
    base: &TreeRoot,
    mine: &TreeRoot,
    moves: &[Hint],
) -> Result<u64, TreeError> {
    let mut removed = 0;
    tree::diff(src, base, mine, |_, change| {
        match change {
            Change::Removed(entry) => removed += files_of(entry),
            // Something else has taken the name.
            Change::Changed { old, new, .. } if old.is_dir() != new.is_dir() => removed += files_of(old),
            Change::Added(_) | Change::Changed { .. } => {}
        }
        ControlFlow::Continue(())
    })
    .await?;
    if removed <= DELETED_FREE {
        return Ok(removed);
    }
    for (from, to) in moves {
        let old = tree::walk(src, base, from)
            .await?
            .map_or(0, |entry| files_of(&entry));
        let new = tree::walk(src, mine, to)
            .await?
            .map_or(0, |entry| files_of(&entry));
        removed = removed.saturating_sub(old.min(new));
    }
    Ok(removed)
}

fn files_of(entry: &Entry) -> u64 {
    match &entry.body {
        EntryBody::Dir { totals, .. } => totals.files,
        _ => 1,
    }
}

/// Whether `mine` differs from `base` in anything at all.
pub(super) async fn is_same_tree(
    src: &dyn NodeSource,
    base: &TreeRoot,
    mine: &TreeRoot,
) -> Result<bool, TreeError> {
    let mut same = true;
    tree::diff(src, base, mine, |_, _| {
        same = false;
        ControlFlow::Break(())
    })
    .await?;
    Ok(same && tree::diff_links(src, &base.links, &mine.links).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_tries_fail_and_stay_bounded() {
        let minute = Duration::from_secs(60);
        assert_eq!(pause(minute, 0), minute);
        assert_eq!(pause(minute, 2), 4 * minute);
        assert_eq!(pause(minute, 9), PAUSE_MAX);
        assert_eq!(pause(minute, u32::MAX), PAUSE_MAX);
        // An interval that is longer by itself stays what it is.
        assert_eq!(pause(60 * minute, 5), 60 * minute);
        let spread = spread(minute);
        assert!(minute <= spread && spread <= minute.mul_f64(1.1), "{spread:?}");
    }

    #[test]
    fn the_seat_belt_holds_above_the_share_but_not_for_a_few_files() {
        assert!(!is_too_much(10, 10, 50));
        assert!(is_too_much(11, 20, 50));
        assert!(!is_too_much(50, 100, 50));
        assert!(is_too_much(51, 100, 50));
        assert!(!is_too_much(100, 100, 100));
        assert!(!is_too_much(0, 0, 0));
        assert!(is_too_much(11, 1_000_000, 0));
    }
}
