//! When the mount leases what it draws from (LOG.md 6).
//!
//! Every record stays protected for a day after it was superseded, and for as long as the volume's retention says; so
//! a short-lived mount needs no lease, and mounting costs no request for one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::live::Exclusive;
use super::{Failure, FailureKind, Mount, STORE_TIME};
use crate::commit::needed_sources;
use crate::model::{LeaseId, Seq};
use crate::overlay::Op;
use crate::volume::{LeaseHolder, rules};

/// A mount that lives longer than this takes a lease: half of the shortest time that a superseded record is kept
/// (24 h, rule G1).
const LEASE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// How often the lease is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(900);

/// Sources of a view that are named without asking whether they are still needed (LOG.md 3).
pub(super) const SOURCES_MAX: usize = 64;

/// The lease of a mount, written or not.
pub struct Leasing {
    holder: LeaseHolder,
    written: bool,
    /// Sources of the view when it was last found out which are needed.
    left: usize,
}

impl Leasing {
    /// Draws its identity.
    pub fn new(by: &str) -> Result<Leasing, Failure> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|e| Failure::new(FailureKind::Failed, format!("no random numbers: {e}")))?;
        Ok(Leasing {
            holder: LeaseHolder::new(LeaseId(id), by.to_owned()),
            written: false,
            left: 0,
        })
    }
}

impl Mount {
    /// Looks at the lease from time to time for as long as the mount lives.
    pub(super) fn start_leasing(self: &Arc<Self>) {
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(mount) = mount.upgrade() else { return };
                if mount.started.elapsed() >= LEASE_AFTER
                    && let Err(error) = mount.renew_lease(&BTreeSet::new()).await
                {
                    tracing::warn!(%error, "the lease could not be renewed");
                }
            }
        }));
    }

    /// Before the view moves to other records: the lease, if there is one, names old and new together and the new ones
    /// are confirmed.
    pub(super) async fn lease_before_moving(&self, new: &BTreeSet<Seq>) -> Result<(), Failure> {
        if self.leasing.lock().await.written {
            self.renew_lease(new).await
        } else {
            Ok(())
        }
    }

    async fn renew_lease(&self, also: &BTreeSet<Seq>) -> Result<(), Failure> {
        let mut wanted = self.sources();
        wanted.extend(also);
        let mut leasing = self.leasing.lock().await;
        let now = self.volume.clock().now();
        if leasing.holder.is_due(now, &wanted) {
            let head = self.volume.write_lease(&mut leasing.holder, wanted).await?;
            leasing.written = true;
            self.learn_head(&head);
        }
        Ok(())
    }

    /// After the view has moved: when its sources have become many, those that nothing is drawn from any more are dropped.
    /// As long as that cannot be told all of them stay, and the next look is at twice as many, so that looking stays
    /// cheap beside the commits that add them.
    pub(super) async fn bound_sources(&self, _turn: &Exclusive<'_>) {
        let mut leasing = self.leasing.lock().await;
        let Some(overlay) = &self.overlay else { return };
        let before = overlay.read().base.sources.len();
        if before <= SOURCES_MAX.max(leasing.left.saturating_mul(2)) {
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

    /// At the end of the mount.
    pub(super) async fn drop_lease(&self) {
        let mut leasing = self.leasing.lock().await;
        if leasing.written {
            leasing.written = false;
            if let Err(error) = self.volume.drop_lease(leasing.holder.clone()).await {
                tracing::info!(%error, "the lease stays until it lapses");
            }
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
