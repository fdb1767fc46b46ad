//! The mount: its parts, and what orders its commands.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::events::Events;
use super::kept::{FileLedger, Kept, Seen};
use super::lease::{Leasing, SeenHeads, kept_sources};
use super::local::count_changes;
use super::source::MountSource;
use super::unattended::Pace;
use super::{KernelCaches, MountOptions, MountSummary};
use crate::answer::Happening;
use crate::answer::{Failure, FailureKind, Progress};
use crate::model::Seq;
use crate::overlay::{BaseRef, Overlay};
use crate::store::CountingStore;
use crate::view::View;
use crate::volume::{Head, Volume};

/// Takes progress; may be called often and from any thread.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// A command waits this long for another one that is running, unless it said how long it will wait at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time for a command that still runs when the mount ends.
pub(super) const LAST_COMMAND_TIME: Duration = Duration::from_secs(5);

/// One live mount.
///
/// Lock order: `exclusive` (held across awaits by one command at a time), then the view's own locks, then the small ones
/// here, which are never held across an await.
pub struct Mount {
    pub(super) options: MountOptions,
    pub(super) volume: Volume,
    pub(super) volume_name: String,
    pub(super) counting: Arc<CountingStore>,
    pub(super) source: Arc<MountSource>,
    pub(super) view: Arc<View>,
    /// `None` for a read-only mount.
    pub(super) overlay: Option<Arc<Overlay>>,
    /// Owner of the state directory's kept bytes; `None` for a read-only mount.
    pub(super) kept: Option<Arc<Kept>>,
    pub(super) seen: Seen,
    pub(super) ledger: FileLedger,
    pub(super) leasing: tokio::sync::Mutex<Leasing>,
    pub(super) heads: SeenHeads,
    pub(super) warnings: Vec<String>,
    exclusive: tokio::sync::Mutex<()>,
    busy: Mutex<Option<&'static str>>,
    known: Mutex<Known>,
    /// Base of a read-only mount.
    pub(super) fixed_base: Mutex<BaseRef>,
    kernel: OnceLock<Box<dyn KernelCaches>>,
    /// Whether file data passes the daemon, and why.
    pub(super) passthrough: OnceLock<String>,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(super) started: Instant,
    pub(super) events: Events,
    pub(super) autocommit: Mutex<Pace>,
    pub(super) autoreload: Mutex<Pace>,
    /// Records by others that commits were merged with since the last reload.
    pub(super) merged: Mutex<Vec<Seq>>,
}

/// The newest record that this mount knows, and when it asked.
struct Known {
    head: Head,
    asked: Instant,
    /// When a record newer than the base was first seen.
    behind_since: Option<Instant>,
}

/// What [`Mount`] is put together from.
pub(super) struct Parts {
    pub options: MountOptions,
    pub volume: Volume,
    pub volume_name: String,
    pub counting: Arc<CountingStore>,
    pub source: Arc<MountSource>,
    pub view: Arc<View>,
    pub overlay: Option<Arc<Overlay>>,
    pub kept: Option<Arc<Kept>>,
    pub seen: Seen,
    pub ledger: FileLedger,
    pub leasing: Leasing,
    pub warnings: Vec<String>,
    pub head: Head,
    pub base_ref: BaseRef,
}

/// The right to change what the mount stands on; given back when dropped.
pub(super) struct Exclusive<'a> {
    mount: &'a Mount,
    _guard: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        *self.mount.busy.lock() = None;
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount")
            .field("dir", &self.options.dir)
            .finish_non_exhaustive()
    }
}

impl Mount {
    pub(super) fn assemble(parts: Parts) -> Mount {
        Mount {
            options: parts.options,
            volume: parts.volume,
            volume_name: parts.volume_name,
            counting: parts.counting,
            source: parts.source,
            view: parts.view,
            overlay: parts.overlay,
            kept: parts.kept,
            seen: parts.seen,
            ledger: parts.ledger,
            leasing: tokio::sync::Mutex::new(parts.leasing),
            heads: SeenHeads::default(),
            warnings: parts.warnings,
            exclusive: tokio::sync::Mutex::new(()),
            busy: Mutex::new(None),
            known: Mutex::new(Known {
                head: parts.head,
                asked: Instant::now(),
                behind_since: None,
            }),
            fixed_base: Mutex::new(parts.base_ref),
            kernel: OnceLock::new(),
            passthrough: OnceLock::new(),
            tasks: Mutex::new(Vec::new()),
            started: Instant::now(),
            events: Events::new(),
            autocommit: Mutex::default(),
            autoreload: Mutex::default(),
            merged: Mutex::default(),
        }
    }

    /// The tree that processes see.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Tells the mount whose kernel caches a reload has to reach. At most once, before the first reload.
    pub fn attach_kernel(&self, kernel: Box<dyn KernelCaches>) {
        if self.kernel.set(kernel).is_err() {
            tracing::error!("a mount has one kernel");
        }
    }

    /// The store, without secrets.
    pub fn store_description(&self) -> String {
        self.volume.store().describe()
    }

    /// Numbers that are known without asking anybody.
    pub fn summary(&self) -> MountSummary {
        MountSummary {
            volume_id: self.volume.id(),
            base: self.base_ref().seq,
            dirty: self.dirty_count(),
        }
    }

    /// Local changes, as people count them.
    pub(super) fn dirty_count(&self) -> u64 {
        self.overlay
            .as_ref()
            .map_or(0, |overlay| count_changes(&overlay.read()))
    }

    /// The view has moved to another base.
    pub(super) fn stands_anew(&self) {
        if let Some(kept) = &self.kept {
            kept.stands_on(self.view.base().hold());
        }
    }

    /// Removes what nothing of this mount leads to any more from the state directory.
    ///
    /// # Errors
    /// What the local disk says.
    pub(super) fn drop_unneeded(&self) -> Result<(), Failure> {
        if let Some(kept) = &self.kept {
            self.source.forget_local(&kept.drop_unneeded()?);
        }
        Ok(())
    }

    /// What the view stands on.
    pub(super) fn base_ref(&self) -> BaseRef {
        match &self.overlay {
            Some(overlay) => overlay.read().base.clone(),
            None => self.fixed_base.lock().clone(),
        }
    }

    /// The newest record that is known, and how long ago the store was asked.
    pub(super) fn known_head(&self) -> (Head, Duration) {
        let known = self.known.lock();
        (known.head.clone(), known.asked.elapsed())
    }

    pub(super) fn learn_head(&self, head: &Head) {
        let base = self.base_ref().seq;
        let mut known = self.known.lock();
        let before = known.head.seq();
        if head.seq() >= before {
            known.head = head.clone();
        }
        known.asked = Instant::now();
        if known.head.seq() <= base {
            known.behind_since = None;
        } else if known.behind_since.is_none() {
            known.behind_since = Some(Instant::now());
        }
        drop(known);
        self.heads.saw(head.seq(), head.looked_at());
        self.seen.remember(head);
        if head.seq() > before && head.seq() > base {
            self.events.tell(Happening::HeadMoved {
                from: before,
                to: head.seq(),
            });
        }
    }

    /// How long a record newer than the base has been known.
    pub(super) fn behind(&self) -> Option<Duration> {
        let base = self.base_ref().seq;
        let known = self.known.lock();
        let since = known.behind_since.filter(|_| known.head.seq() > base)?;
        Some(since.elapsed())
    }

    /// Waits for its turn among commands that change what the mount stands on.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] when another runs and `no_wait` is set, or it runs for too long.
    pub(super) async fn exclusive(
        &self,
        what: &'static str,
        no_wait: bool,
        timeout_secs: Option<u64>,
    ) -> Result<Exclusive<'_>, Failure> {
        let busy = || {
            let running = self.busy.lock().unwrap_or("another command");
            Failure::new(
                FailureKind::Refused,
                format!("busy: {running} of this mount is running"),
            )
        };
        let guard = if no_wait {
            self.exclusive.try_lock().map_err(|_| busy())?
        } else {
            let patience = timeout_secs.map_or(PATIENCE, Duration::from_secs).max(PATIENCE);
            tokio::time::timeout(patience, self.exclusive.lock())
                .await
                .map_err(|_| busy())?
        };
        *self.busy.lock() = Some(what);
        Ok(Exclusive {
            mount: self,
            _guard: guard,
        })
    }

    /// The command that runs now.
    pub(super) fn running(&self) -> Option<&'static str> {
        *self.busy.lock()
    }

    /// The overlay of a mount that accepts writes.
    pub(super) fn writable(&self) -> Result<&Arc<Overlay>, Failure> {
        self.overlay.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::Refused, "the mount is read-only")
                .hint("mount again without --read-only and --at")
        })
    }

    /// Tells the kernel after the view moved.
    pub(super) async fn tell_kernel(&self) -> Result<(), Failure> {
        let Some(kernel) = self.kernel.get() else {
            return Ok(());
        };
        let what = self.view.invalidations(kernel.forgets_names_at_once());
        kernel.invalidate(what).await
    }

    /// Said before anything is decided by what is dirty or open, holding no lock but the command's turn: what programs have done
    /// before is known from then on.
    pub(super) async fn catch_up(&self) {
        if self.overlay.is_some()
            && let Some(kernel) = self.kernel.get()
        {
            kernel.catch_up().await;
        }
    }

    pub(super) fn adopt_task(&self, task: JoinHandle<()>) {
        self.tasks.lock().push(task);
    }

    /// Records that everything which this mount may still need was drawn from (S of LOG.md 3): the view, stashes, and what is
    /// still open of bases that the view has left.
    pub(super) fn sources(&self) -> BTreeSet<Seq> {
        let mut all: BTreeSet<Seq> = self.base_ref().sources.into_iter().collect();
        if let Some(overlay) = &self.overlay {
            all.extend(kept_sources(overlay));
        }
        all.extend(self.view.drawn_from());
        all
    }

    /// Ends the mount, which no kernel uses any more: puts everything on disk.
    pub async fn close(&self) {
        // An automatic commit that is under way is let end: else the next mount would have to find out how it went.
        let quiet = tokio::time::timeout(LAST_COMMAND_TIME, self.exclusive.lock()).await;
        if quiet.is_err() {
            tracing::warn!("a command is cut off by the end of the mount; the next mount settles it");
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        if self.overlay.is_some()
            && let Err(error) = self.view.settle()
        {
            tracing::warn!(%error, "times of last writes");
        }
        self.end_lease().await;
        if let Some(overlay) = self.overlay.clone() {
            match tokio::task::spawn_blocking(move || overlay.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "closing the overlay"),
                Err(error) => tracing::error!(%error, "closing the overlay"),
            }
        }
    }
}
