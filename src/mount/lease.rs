//! When the mount leases what it draws from (LOG.md 6).
//!
//! Every record stays protected for a day after it was superseded, and for as long as the volume's retention says; so
//! a mount needs no lease for what it has seen to be the newest record half a day ago, and mounting the newest costs no
//! request for one. A record of which nobody here knows when it was superseded is leased before the mount relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Mount;
use super::live::{Exclusive, LAST_COMMAND_TIME};
use crate::answer::{Failure, FailureKind, STORE_TIME, no_answer};
use crate::commit::needed_sources;
use crate::model::{LeaseId, Seq, Timestamp};
use crate::overlay::{Op, Overlay};
use crate::volume::{Head, LeaseHolder, Volume, VolumeError, rules};

/// What was seen to be the newest record this long ago is leased, seconds: half of the shortest time that a superseded
/// record is kept (COLLECT.md 2.1).
pub(super) const LEASE_AFTER_SECS: i64 = 12 * 3600;
/// How often the lease is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(900);
/// The file in the state directory that names the leases which a session must end.
const FILE: &str = "leases.json";

/// Sources of a view that are named without asking whether they are still needed (LOG.md 3).
pub(super) const SOURCES_MAX: usize = 64;

/// When records were last seen to be the newest, by the own steady clock.
#[derive(Debug, Default)]
pub(super) struct SeenHeads(Mutex<BTreeMap<Seq, Timestamp>>);

impl SeenHeads {
    /// The record was not superseded before `at`.
    pub fn saw(&self, seq: Seq, at: Timestamp) {
        let mut heads = self.0.lock();
        // What is so old is leased as if nothing were known of it.
        heads.retain(|_, seen| is_recent(*seen, at));
        let seen = heads.entry(seq).or_insert(at);
        *seen = at.max(*seen);
    }

    /// Some of them may have been superseded so long ago that they have to be leased.
    pub fn are_unsure(&self, seqs: &BTreeSet<Seq>, now: Timestamp) -> bool {
        let heads = self.0.lock();
        let is_sure = |seq| heads.get(seq).is_some_and(|seen| is_recent(*seen, now));
        !seqs.iter().all(is_sure)
    }
}

fn is_recent(seen: Timestamp, now: Timestamp) -> bool {
    rules::secs_between(seen, now) < LEASE_AFTER_SECS
}

/// The lease of a mount, written or not.
pub struct Leasing {
    holder: LeaseHolder,
    /// It may be in the store.
    written: bool,
    /// What the view is about to move to.
    moving: BTreeSet<Seq>,
    /// Leases of earlier sessions, which keep what they left until this one has taken it up.
    earlier: Vec<LeaseId>,
    /// Names of all of these, for the next session.
    file: Option<PathBuf>,
    /// Sources of the view when it was last found out which are needed.
    left: usize,
}

#[derive(Serialize, Deserialize)]
struct LeaseFile {
    leases: Vec<LeaseId>,
}

fn read_file(path: &Path) -> io::Result<Vec<LeaseId>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice::<LeaseFile>(&bytes)?.leases),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Leasing {
    /// Draws its identity. `state_dir` of the volume, for a mount that has one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(by: &str, state_dir: Option<&Path>) -> Result<Leasing, Failure> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|e| Failure::new(FailureKind::Failed, format!("no random numbers: {e}")))?;
        let file = state_dir.map(|dir| dir.join(FILE));
        let earlier = file.as_deref().map_or(Ok(Vec::new()), read_file);
        Ok(Leasing {
            holder: LeaseHolder::new(LeaseId(id), by.to_owned()),
            written: false,
            moving: BTreeSet::new(),
            earlier: earlier.unwrap_or_else(|error| {
                tracing::info!(%error, "the leases of earlier sessions are not known: they lapse by themselves");
                Vec::new()
            }),
            file,
            left: 0,
        })
    }

    /// Before the mount relies on `wanted`, of which only `head` was seen to be the newest: names them, if there is any other.
    /// Gives the head that says what of it is kept.
    ///
    /// # Errors
    /// What the store says.
    pub async fn begin(
        &mut self,
        volume: &Volume,
        head: &Head,
        wanted: BTreeSet<Seq>,
    ) -> Result<Option<Head>, Failure> {
        match wanted.iter().any(|seq| *seq != head.seq()) {
            true => {
                let written = tokio::time::timeout(STORE_TIME, self.write(volume, wanted)).await;
                Ok(Some(written.map_err(|_| no_answer(STORE_TIME))??))
            }
            false => Ok(None),
        }
    }

    async fn write(&mut self, volume: &Volume, wanted: BTreeSet<Seq>) -> Result<Head, VolumeError> {
        if !self.written {
            self.written = true;
            // The next session deletes it, if this one is killed.
            self.remember();
        }
        volume.write_lease(&mut self.holder, wanted).await
    }

    /// Writes down which leases have to be ended. Failing is logged: they lapse by themselves.
    fn remember(&self) {
        let Some(file) = &self.file else { return };
        let own = self.written.then(|| self.holder.id());
        let leases: Vec<LeaseId> = self.earlier.iter().copied().chain(own).collect();
        let written = match leases.is_empty() {
            true => match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            false => {
                let temporary = file.with_extension("tmp");
                let bytes = serde_json::to_vec(&LeaseFile { leases }).map_err(io::Error::from);
                bytes
                    .and_then(|bytes| std::fs::write(&temporary, bytes))
                    .and_then(|()| std::fs::rename(&temporary, file))
            }
        };
        if let Err(error) = written {
            tracing::warn!(path = %file.display(), %error, "which leases are to be ended is not remembered");
        }
    }

    /// What earlier sessions left is leased by this one where that is needed: their leases go.
    async fn end_earlier(&mut self, volume: &Volume) {
        if self.earlier.is_empty() {
            return;
        }
        match volume.delete_leases(&self.earlier).await {
            Ok(()) => {
                self.earlier.clear();
                self.remember();
            }
            Err(error) => tracing::info!(%error, "leases of earlier sessions stay for now"),
        }
    }
}

/// Sources of local changes and stashes: what outlives the session.
pub(super) fn kept_sources(overlay: &Overlay) -> BTreeSet<Seq> {
    let mut kept: BTreeSet<Seq> = overlay
        .stashes()
        .into_iter()
        .flat_map(|stash| stash.base.sources)
        .collect();
    let state = overlay.read();
    if !state.is_clean() {
        kept.extend(&state.base.sources);
    }
    kept
}

impl Mount {
    /// Looks at the lease from time to time for as long as the mount lives.
    pub(super) fn start_leasing(self: &Arc<Self>) {
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            loop {
                let Some(live) = mount.upgrade() else { return };
                // A command that is about to move the view waits for the end of this.
                match tokio::time::timeout(STORE_TIME, live.look_at_lease()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                    Err(_) => tracing::warn!("the lease could not be renewed: no answer"),
                }
                drop(live);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }));
    }

    /// Writes the lease if that is due.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn look_at_lease(&self) -> Result<(), Failure> {
        let mut leasing = self.leasing.lock().await;
        self.renew_lease(&mut leasing).await?;
        leasing.end_earlier(&self.volume).await;
        Ok(())
    }

    /// Before the view moves to other records: a lease, if there is one or has to be, names old and new together, and the
    /// new ones are confirmed. Whoever may not write one goes on without.
    ///
    /// # Errors
    /// [`VolumeError::NotKept`]; what the store says.
    pub(super) async fn lease_before_moving(&self, new: &BTreeSet<Seq>) -> Result<(), Failure> {
        let mut leasing = self.leasing.lock().await;
        leasing.moving = new.clone();
        match self.renew_lease(&mut leasing).await {
            Err(failure) if failure.kind == FailureKind::NoAccess => {
                tracing::warn!(error = %failure, "what the mount moves to is not leased");
            }
            other => other?,
        }
        let (head, _) = self.known_head();
        let lost = new
            .iter()
            .find(|seq| !rules::is_protected(&head.record().gc, **seq));
        match lost {
            Some(seq) => Err(VolumeError::NotKept {
                seq: *seq,
                head: head.seq(),
            }
            .into()),
            None => Ok(()),
        }
    }

    async fn renew_lease(&self, leasing: &mut Leasing) -> Result<(), Failure> {
        // Under the lock: a lease that was computed before the view moved must not replace that of the move.
        let mut wanted = self.sources();
        wanted.extend(&leasing.moving);
        let now = self.volume.clock().steady();
        let needed = leasing.written || self.heads.are_unsure(&wanted, now);
        if needed && leasing.holder.is_due(now, &wanted) {
            let head = leasing.write(&self.volume, wanted).await?;
            self.learn_head(&head);
        }
        Ok(())
    }

    /// After the view has moved: when its sources have become many, those that nothing is drawn from any more are dropped.
    /// As long as that cannot be told all of them stay, and the next look is at twice as many, so that looking stays
    /// cheap beside the commits that add them.
    pub(super) async fn bound_sources(&self, _turn: &Exclusive<'_>) {
        let Some(overlay) = &self.overlay else { return };
        let before = overlay.read().base.sources.len();
        if before <= SOURCES_MAX {
            return;
        }
        // The view has moved: its command does not wait for a lease that is being written.
        let Ok(mut leasing) = self.leasing.try_lock() else {
            return;
        };
        if before <= leasing.left.saturating_mul(2) {
            return;
        }
        leasing.left = before;
        let state = overlay.read().clone();
        let base = self.view.base();
        let (head, _) = self.known_head();
        let needed = needed_sources(&self.volume, &head, &*self.source, &base, &state);
        match tokio::time::timeout(STORE_TIME, needed).await {
            // What was written meanwhile is drawn from this base; only commands in their turn add sources.
            Ok(Ok(Some(sources))) => {
                let left = sources.len();
                tracing::info!(
                    before,
                    left,
                    "records that nothing is drawn from any more are given up"
                );
                match overlay.apply(&Op::SetSources { sources }) {
                    Ok(_) => leasing.left = left,
                    Err(error) => tracing::warn!(%error, "sources"),
                }
            }
            Ok(Ok(None)) => tracing::info!(before, "all records that the view was drawn from are needed"),
            Ok(Err(error)) => tracing::info!(before, %error, "which records are needed is not known"),
            Err(_) => tracing::info!(before, "which records are needed is not known: no answer"),
        }
    }

    /// At the end of the mount. Local changes and stashes wait for the next session: what they were drawn from is leased for
    /// as long as stashes are kept.
    pub(super) async fn end_lease(&self) {
        let mut leasing = self.leasing.lock().await;
        let left = self.overlay.as_deref().map(kept_sources).unwrap_or_default();
        let ended = tokio::time::timeout(LAST_COMMAND_TIME, async {
            if left.is_empty() {
                if std::mem::take(&mut leasing.written) {
                    self.volume.drop_lease(leasing.holder.clone()).await?;
                    leasing.remember();
                }
            } else {
                leasing.written = true;
                leasing.remember();
                let ttl_secs = self.options.stash_age_max.as_secs();
                self.volume.leave_lease(&leasing.holder, &left, ttl_secs).await?;
            }
            Ok::<_, VolumeError>(())
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the lease stays as it was until it lapses"),
            Err(_) => tracing::info!("the lease stays as it was until it lapses: no answer"),
        }
    }

    /// Tells the cache how to tell a damaged volume from an expired base.
    pub(super) fn watch_kept(self: &Arc<Self>) {
        let mount = Arc::downgrade(self);
        self.source.cache().set_kept_check(Arc::new(move || {
            let mount = mount.clone();
            Box::pin(async move {
                let Some(mount) = mount.upgrade() else { return true };
                let Ok(head) = mount.volume.head().await else {
                    return true;
                };
                rules::are_protected(&head.record().gc, &mount.sources())
            })
        }));
    }
}
