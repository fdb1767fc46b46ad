//! What goes on beside programs that read and write local files by the kernel alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Mount;

/// After a close the file is looked at so much later: by then the kernel has finished with it, and closes come in swarms.
const SETTLE_AFTER: Duration = Duration::from_millis(2);
/// A file that is still mapped for writing is looked at again at most this seldom.
const SETTLE_AGAIN_MAX: Duration = Duration::from_secs(5);
/// How often it is seen to that programs which write without asking find room on the disk.
const ROOM_EVERY: Duration = Duration::from_millis(200);
/// Bytes that are kept free for them beyond the cache's floor, where the cache can give them: what a fast disk takes in
/// that time.
const ROOM_BYTES: u64 = 256 << 20;

impl Mount {
    /// Where local files are: bodies (none for a read-only mount), and clean contents.
    pub fn local_places(&self) -> (Option<PathBuf>, PathBuf) {
        let state = self.overlay.as_ref().map(|overlay| overlay.dir().to_path_buf());
        (state, self.source.cache().dir().to_path_buf())
    }

    /// Says what the kernel does by itself, and follows it.
    pub fn watch_passthrough(self: &Arc<Self>, explained: &str) {
        if self.passthrough.set(explained.to_owned()).is_err() {
            tracing::error!("a mount has one kernel");
        }
        if !self.view.passthrough().bodies {
            return;
        }
        let mount = Arc::downgrade(self);
        let view = self.view.clone();
        self.adopt_task(tokio::spawn(async move {
            let mut again = SETTLE_AGAIN_MAX;
            loop {
                tokio::select! {
                    () = view.closing() => again = SETTLE_AFTER,
                    () = tokio::time::sleep(again) => {}
                }
                tokio::time::sleep(SETTLE_AFTER).await;
                if mount.strong_count() == 0 {
                    return;
                }
                let settling = view.clone();
                let left = tokio::task::spawn_blocking(move || settling.settle_closed()).await;
                again = match left {
                    Ok(true) => (again * 2).min(SETTLE_AGAIN_MAX),
                    _ => Duration::from_secs(3600),
                };
            }
        }));
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            loop {
                tokio::time::sleep(ROOM_EVERY).await;
                let Some(mount) = mount.upgrade() else { return };
                if !mount.view.has_live_files() {
                    continue;
                }
                let cache = mount.source.cache().clone();
                let made = tokio::task::spawn_blocking(move || cache.make_room(ROOM_BYTES)).await;
                if let Ok(freed @ 1..) = made {
                    tracing::debug!(freed, "clean bytes made way for a writer");
                }
            }
        }));
    }

    pub(super) fn passthrough_explained(&self) -> String {
        self.passthrough
            .get()
            .cloned()
            .unwrap_or_else(|| "not known yet".to_owned())
    }
}
