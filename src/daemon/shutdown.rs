//! How a mount ends when it is asked from outside.

use std::sync::Arc;
use std::time::Duration;

use super::MountSettings;
use crate::fuse::{self, MountPointError, Unmount};
use crate::mount::Mount;

/// Time for all of the end but the commit: unmounting, last answers, closing cache and overlay.
pub const CLOSE_TIME: Duration = Duration::from_secs(30);

/// How long the end may take, for whoever counts (systemd kills a unit that takes longer than it said).
pub fn time_limit(settings: &MountSettings) -> Duration {
    let commit = if settings.commit_on_exit {
        settings.exit_grace_secs
    } else {
        0
    };
    Duration::from_secs(commit) + CLOSE_TIME
}

/// Commits if that is configured, within the grace period.
pub async fn commit_on_exit(settings: &MountSettings, mount: &Arc<Mount>) {
    if !settings.commit_on_exit {
        return;
    }
    let grace = Duration::from_secs(settings.exit_grace_secs);
    match mount.commit_at_end(grace).await {
        Ok(answer) => tracing::info!(seq = answer.seq, "committed on exit"),
        Err(failure) => {
            let hint = failure.hint.as_deref().unwrap_or_default();
            tracing::error!(%failure, hint, "commit on exit failed; the work is kept");
        }
    }
}

/// Unmounts; programs that still use the mount lose it.
pub async fn unmount(settings: &MountSettings) {
    if settings.device_fd.is_some() && !fuse::is_sailvol_mount(&settings.dir) {
        // Whoever mounted it takes it away.
        return;
    }
    let dir = settings.dir.clone();
    let ended = tokio::task::spawn_blocking(move || match fuse::unmount(&dir, Unmount::PATIENT) {
        Err(error @ MountPointError::InUse { .. }) => {
            tracing::warn!(%error, "detaching");
            fuse::unmount(&dir, Unmount::Forced)
        }
        other => other,
    });
    match ended.await {
        Ok(Ok(()) | Err(MountPointError::NotOurs(_))) => {}
        Ok(Err(error)) => tracing::error!(%error, "unmount"),
        Err(error) => tracing::error!(%error, "unmount"),
    }
}
