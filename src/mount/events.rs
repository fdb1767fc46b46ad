//! What happens to a mount, told to whoever watches, and what went wrong last, for `status`.
//!
//! Nobody waits for a watcher: events go into a ring of [`EVENTS_KEPT`], and one who falls behind is told how many it
//! has missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::Mount;
use crate::answer::{CommitAnswer, Event, Failure, FailureKind, Happening, LastFailure, ReloadAnswer};

/// Events that a slow watcher may be behind.
const EVENTS_KEPT: usize = 256;
/// How often it is looked whether there are new local changes, while somebody watches.
const DIRTY_EVERY: Duration = Duration::from_secs(1);
/// How often the store is asked for the newest record, while somebody watches and nothing else asks.
const HEAD_EVERY: Duration = Duration::from_secs(30);

/// How often commands were done and failed, since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records published.
    pub commits: u64,
    /// Of those, by autocommit or at the end.
    pub automatic_commits: u64,
    /// Reloads that moved the view.
    pub reloads: u64,
    /// Of those, by autoreload.
    pub automatic_reloads: u64,
    /// Failures by kind, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::ALL.len()],
}

/// The source of a mount's events.
#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    next: AtomicU64,
    last_failure: Mutex<Option<(String, Failure, Instant)>>,
    counts: Mutex<Counts>,
}

impl Events {
    pub fn new() -> Events {
        Events {
            sender: broadcast::channel(EVENTS_KEPT).0,
            next: AtomicU64::new(1),
            last_failure: Mutex::new(None),
            counts: Mutex::default(),
        }
    }

    fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Makes an event; `number` 0 is for those that only one watcher sees.
    fn event(&self, what: Happening, number: u64) -> Arc<Event> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = now.map_or(0, |since| since.as_millis());
        #[allow(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit into 53 bits"
        )]
        let time = millis as f64 / 1000.0;
        Arc::new(Event { number, time, what })
    }

    pub fn tell(&self, what: Happening) {
        let event = self.event(what, self.next.fetch_add(1, Relaxed));
        // Nobody watching is the usual case.
        let _ = self.sender.send(event);
    }
}

/// The events of a mount from some moment on.
#[derive(Debug)]
pub struct EventStream {
    first: Option<Arc<Event>>,
    receiver: broadcast::Receiver<Arc<Event>>,
    mount: Arc<Mount>,
}

impl EventStream {
    /// The next event; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => {
                Some(self.mount.events.event(Happening::Missed { events }, 0))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Mount {
    /// Events from now on; the first says where the mount stands.
    pub fn watch(self: &Arc<Self>) -> EventStream {
        let receiver = self.events.sender.subscribe();
        let now = Happening::Watching {
            base: self.base_ref().seq,
            head: self.known_head().0.seq(),
            changes: self.dirty_count(),
        };
        EventStream {
            first: Some(self.events.event(now, 0)),
            receiver,
            mount: self.clone(),
        }
    }

    /// The last thing that failed and has not worked since.
    pub(super) fn last_failure(&self) -> Option<LastFailure> {
        let last = self.events.last_failure.lock();
        last.as_ref().map(|(during, failure, at)| LastFailure {
            during: during.clone(),
            age_secs: at.elapsed().as_secs(),
            failure: failure.clone(),
        })
    }

    /// Counts of what was done.
    pub fn counts(&self) -> Counts {
        *self.events.counts.lock()
    }

    /// The mount is about to end.
    pub fn tell_end(&self) {
        self.events.tell(Happening::Ended);
    }

    pub(super) fn tell_committed(&self, answer: &CommitAnswer, automatic: bool) {
        self.forget_failure("commit");
        let (Some(seq), Some(record)) = (answer.seq, answer.record) else {
            return;
        };
        {
            let mut counts = self.events.counts.lock();
            counts.commits += 1;
            counts.automatic_commits += u64::from(automatic);
        }
        self.events.tell(Happening::Committed {
            seq,
            record: record.to_string(),
            changed: answer.changed,
            files: answer.files,
            bytes_changed: answer.bytes_changed,
            bytes_sent: answer.bytes_sent,
            seconds: answer.seconds,
            merged_with: answer.merged_with.clone(),
            still_written: answer.still_written.len() as u64,
            automatic,
        });
    }

    pub(super) fn tell_reloaded(&self, answer: &ReloadAnswer, automatic: bool) {
        self.forget_failure("reload");
        if answer.from == answer.to && answer.stash.is_none() {
            return;
        }
        {
            let mut counts = self.events.counts.lock();
            counts.reloads += 1;
            counts.automatic_reloads += u64::from(automatic);
        }
        self.events.tell(Happening::Reloaded {
            from: answer.from,
            to: answer.to,
            stash: answer.stash.as_ref().map(|stash| stash.id),
            kept: answer.kept.len() as u64,
            automatic,
        });
    }

    /// Remembers a failure for `status`, counts and tells it.
    pub(super) fn tell_failed(&self, during: &str, failure: &Failure, automatic: bool) {
        *self.events.last_failure.lock() = Some((during.to_owned(), failure.clone(), Instant::now()));
        if let Some(at) = FailureKind::ALL.iter().position(|kind| *kind == failure.kind) {
            self.events.counts.lock().failures[at] += 1;
        }
        self.events.tell(Happening::Error {
            during: during.to_owned(),
            failure: failure.clone(),
            automatic,
        });
    }

    fn forget_failure(&self, during: &str) {
        self.events
            .last_failure
            .lock()
            .take_if(|(what, ..)| what == during);
    }

    /// While somebody watches: looks at local changes, and at the store unless autoreload does.
    pub(super) fn start_watching(self: &Arc<Self>) {
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            let (mut told, mut seen) = (0, None);
            let mut asked = Instant::now();
            loop {
                tokio::time::sleep(DIRTY_EVERY).await;
                let Some(mount) = mount.upgrade() else { return };
                if !mount.events.is_watched() {
                    continue;
                }
                // Counting looks at every change, so only when there can be another count: something was changed, a commit
                // has moved the base, or a reload has put another state in place.
                let now = mount.overlay.as_ref().map(|overlay| {
                    let state = overlay.read();
                    (overlay.number(), state.generation, state.base.clone())
                });
                if now != seen {
                    seen = now;
                    let changes = mount.dirty_count();
                    if changes != told {
                        told = changes;
                        let bytes = mount.dirty_bytes();
                        mount.events.tell(Happening::Dirty { changes, bytes });
                    }
                }
                if mount.options.unattended.autoreload.is_none() && asked.elapsed() >= HEAD_EVERY {
                    asked = Instant::now();
                    // Without an answer the next look comes soon enough; `status` says since when there is none.
                    if let Err(failure) = mount.look_for_head().await {
                        tracing::debug!(%failure, "looking for the newest record");
                    }
                }
            }
        }));
    }
}
