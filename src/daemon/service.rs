//! The mount behind the control socket.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::Serialize;
use tokio::sync::Notify;

use super::MountSettings;
use crate::answer::{CommitRequest, Event, Failure, FailureKind, Happening, StatusAnswer};
use crate::control::{Hello, PROTOCOL, Request, Service, UnmountAnswer, UnmountRequest};
use crate::fuse::{self, Hearing, MountPointError, Notifications, Unmount};
use crate::model::show;
use crate::mount::{KernelCaches, Mount, ProgressSink};
use crate::view::Invalidations;

/// Most paths in an answer, and most records: what asks for more gets these, and can ask for the rest.
const PATHS_MAX: usize = 200_000;
const RECORDS_MAX: usize = 10_000;

/// For how long the kernel may keep the connection after the unmount that was asked for: another mount namespace with a copy
/// of its own (`unshare --mount`) would keep it, and with it the daemon and its directories, for as long as it likes.
const LAST_REQUESTS_TIME: Duration = Duration::from_secs(1);

/// Answers requests by calling the mount.
pub struct MountService {
    mount: Arc<Mount>,
    settings: MountSettings,
    abilities: Abilities,
}

/// What the daemon knows and the mount does not.
pub struct Abilities {
    /// What the mount lacks because of how it was made.
    pub lacks: Vec<String>,
    /// Where Prometheus may ask.
    pub metrics: Option<String>,
    /// How it ends.
    pub ending: Arc<Ending>,
}

/// That a mount is to end, and who said so.
#[derive(Debug, Default)]
pub struct Ending {
    /// Set once the mount ends, for whatever reason: nobody need hope for it any more.
    pub begun: AtomicBool,
    /// Set before a mount is taken away because a client asked.
    pub asked: AtomicBool,
    /// Held while the kernel takes it away. The session ends at the beginning of that; with a million names that the kernel
    /// knows the rest takes seconds, and the client has its answer only then.
    pub taking: tokio::sync::Mutex<()>,
    /// Told when the mount is to end though the kernel has not let go of it: only its helper can take it away, or it is
    /// seen elsewhere.
    pub let_go: Notify,
}

impl MountService {
    pub fn new(mount: Arc<Mount>, settings: MountSettings, abilities: Abilities) -> MountService {
        MountService {
            mount,
            settings,
            abilities,
        }
    }

    fn shown_dir(&self) -> String {
        show(self.settings.dir.as_os_str().as_bytes())
    }

    async fn status(&self, ask_store: bool) -> Result<StatusAnswer, Failure> {
        let mut status = self.mount.status(ask_store).await?;
        status.lacks.clone_from(&self.abilities.lacks);
        status.metrics.clone_from(&self.abilities.metrics);
        Ok(status)
    }

    async fn unmount(
        &self,
        request: UnmountRequest,
        progress: ProgressSink,
    ) -> Result<UnmountAnswer, Failure> {
        let begun = Instant::now();
        let mut committed = None;
        if request.commit {
            let commit = CommitRequest {
                message: request.message.clone(),
                timeout_secs: request.timeout_secs,
                ..CommitRequest::default()
            };
            committed = self.mount.commit(commit, progress).await?.seq;
        }
        let taking = self.abilities.ending.taking.lock().await;
        self.abilities.ending.asked.store(true, Ordering::Release);
        let dir = self.settings.dir.clone();
        let how = how_to_unmount(&request, begun.elapsed());
        let done = tokio::task::spawn_blocking(move || fuse::unmount(&dir, how)).await;
        drop(taking);
        let failure = match done {
            Ok(Ok(())) => None,
            // Not ours to take away: the helper that mounted it does, once we have let go of it.
            Ok(Err(MountPointError::NotOurs(_) | MountPointError::System { .. }))
                if self.settings.device_fd.is_some() =>
            {
                self.abilities.ending.let_go.notify_one();
                None
            }
            Ok(Err(error @ MountPointError::InUse { .. })) => {
                Some(Failure::new(FailureKind::Refused, error.to_string()))
            }
            Ok(Err(error)) => Some(Failure::new(FailureKind::Failed, error.to_string())),
            Err(error) => Some(Failure::new(FailureKind::Failed, error.to_string())),
        };
        if let Some(failure) = failure {
            self.abilities.ending.asked.store(false, Ordering::Release);
            return Err(failure);
        }
        let ending = self.abilities.ending.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_REQUESTS_TIME).await;
            ending.let_go.notify_one();
        });
        let state_dir = self
            .settings
            .state_root
            .join(&self.settings.name)
            .display()
            .to_string();
        Ok(UnmountAnswer {
            committed,
            dirty: self.mount.summary().dirty,
            state_dir,
            dir: self.shown_dir(),
        })
    }
}

/// Whoever asks gets the answer in his time, of which the commit has used a part; a second more he has anyway.
fn how_to_unmount(request: &UnmountRequest, used: Duration) -> Unmount {
    match (request.force, request.timeout_secs, Unmount::PATIENT) {
        (true, ..) => Unmount::Forced,
        (false, Some(seconds), Unmount::Unused { within }) => {
            let left = Duration::from_secs(seconds).saturating_sub(used);
            Unmount::Unused {
                within: within.min(left.max(Duration::from_secs(1))),
            }
        }
        (false, ..) => Unmount::PATIENT,
    }
}

fn value<T: Serialize>(answer: T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(&answer).map_err(|e| {
        Failure::new(
            FailureKind::Failed,
            format!("an answer cannot be written as JSON: {e}"),
        )
    })
}

#[async_trait]
impl Service for MountService {
    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            sailvol: env!("CARGO_PKG_VERSION").into(),
            volume: self.settings.volume.clone(),
            dir: self.shown_dir(),
            name: self.settings.name.clone(),
            pid: std::process::id(),
            ending: self.abilities.ending.begun.load(Ordering::Acquire),
        }
    }

    fn events(&self) -> BoxStream<'static, Arc<Event>> {
        let events = futures::stream::unfold(Some(self.mount.watch()), |events| async move {
            let mut events = events?;
            let event = events.next().await?;
            let more = (event.what != Happening::Ended).then_some(events);
            Some((event, more))
        });
        Box::pin(events)
    }

    async fn call(&self, request: Request, progress: ProgressSink) -> Result<Vec<u8>, Failure> {
        match request {
            Request::Commit(commit) => {
                let mut answer = self.mount.commit(commit, progress).await?.bounded();
                answer.dir = self.shown_dir();
                value(answer)
            }
            Request::Reload(reload) => {
                let mut answer = self.mount.reload(reload, progress).await?.bounded();
                answer.dir = self.shown_dir();
                value(answer)
            }
            Request::Status { ask_store } => value(self.status(ask_store).await?),
            Request::Diff {
                limit,
                from,
                to,
                path,
            } => {
                let (limit, below) = (limit.min(PATHS_MAX), path.as_deref());
                let answer = match from {
                    Some(from) => self.mount.diff_records((from, to), below, limit).await?,
                    None => self.mount.diff_below(below, limit).await?,
                };
                value(answer)
            }
            Request::Log { limit } => value(self.mount.log(limit.min(RECORDS_MAX)).await?),
            Request::StashList {} => value(self.mount.stashes()),
            Request::StashShow { id, limit } => value(self.mount.stash_show(id, limit.min(PATHS_MAX)).await?),
            Request::StashRestore { id } => {
                let mut answer = self.mount.stash_restore(id).await?.bounded();
                answer.dir = self.shown_dir();
                value(answer)
            }
            Request::StashDrop { id } => value(self.mount.stash_drop(id).await?),
            Request::Prefetch { path, force } => value(self.mount.prefetch(&path, force, progress).await?),
            Request::Watch {} => Err(Failure::new(FailureKind::Usage, "events come as notifications")),
            Request::Unmount(request) => value(self.unmount(request, progress).await?),
        }
    }
}

/// The kernel's caches, as the mount knows them.
#[derive(Debug)]
pub struct KernelLink(pub Notifications, pub Hearing);

#[async_trait]
impl KernelCaches for KernelLink {
    fn forgets_names_at_once(&self) -> bool {
        self.0.uses_epochs()
    }

    async fn invalidate(&self, what: Invalidations) -> Result<(), Failure> {
        match self.0.send(what).await {
            // Nobody can see stale names in a mount that is gone.
            Ok(()) | Err(fuse::NotifyError::Gone) => Ok(()),
            Err(error) => Err(Failure::new(FailureKind::Failed, error.to_string())),
        }
    }

    async fn catch_up(&self) {
        self.1.catch_up().await;
    }
}
