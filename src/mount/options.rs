//! What a mount is opened with and what it tells when it is open.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Mount, Unattended};
use crate::answer::Failure;
use crate::model::{Seq, VolumeId};
use crate::view::{Invalidations, ShownOwner};
use crate::volume::Clock;

/// Time between two looks whether the local directories are free.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Everything a mount needs to know; resolved, nothing secret.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Name of the volume in its store.
    pub volume: String,
    /// Where it is mounted, for messages.
    pub dir: PathBuf,
    /// Name of the mount.
    pub name: String,
    /// Make the volume when it is not there.
    pub create: bool,
    /// No overlay.
    pub read_only: bool,
    /// Stand on this record instead of the newest.
    pub at: Option<Seq>,
    /// State directory of this mount name; the volume's is below it.
    pub state_dir: PathBuf,
    /// Cache directory of this mount name.
    pub cache_dir: PathBuf,
    /// Who appears to own everything in this mount.
    pub shown_owner: ShownOwner,
    /// Owner of the root directory of a volume made now.
    pub root_owner: (u32, u32),
    /// Most clean bytes on disk.
    pub cache_bytes_max: u64,
    /// Free bytes that the cache leaves on its disk.
    pub cache_free_floor_bytes: u64,
    /// A read gives up after this long without progress.
    pub remote_timeout: Duration,
    /// Time for the store to tell of the volume.
    pub open_timeout: Duration,
    /// Stashes older than this go.
    pub stash_age_max: Duration,
    /// Stashes over this many bytes go, oldest first.
    pub stash_bytes_max: u64,
    /// Who commits, for the log.
    pub by: String,
    /// What it does by itself.
    pub unattended: Unattended,
    /// What to do while another process is using the local directories.
    pub while_taken: WhileTaken,
    /// Where it reads the time.
    pub clock: Clock,
}

/// Asked while another process is using the local directories of a mount: true as long as it is worth waiting for its end. By
/// default it is not.
#[derive(Clone, Default)]
pub struct WhileTaken {
    question: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    waited: Arc<AtomicBool>,
}

impl WhileTaken {
    /// With this question, which may block for a moment.
    pub fn ask(question: impl Fn() -> bool + Send + Sync + 'static) -> WhileTaken {
        WhileTaken {
            question: Some(Arc::new(question)),
            waited: Arc::default(),
        }
    }

    /// True once after a wait.
    pub(super) fn has_waited(&self) -> bool {
        self.waited.swap(false, Ordering::AcqRel)
    }

    /// Tries until it is done, or `is_taken` of its error is false, or waiting is not worth it any more. Blocks.
    pub(super) fn retry<T, E>(
        &self,
        is_taken: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            match attempt() {
                Err(error) if is_taken(&error) && self.question.as_ref().is_some_and(|ask| ask()) => {
                    self.waited.store(true, Ordering::Release);
                    std::thread::sleep(TRY_AGAIN_AFTER);
                }
                done => return done,
            }
        }
    }
}

impl std::fmt::Debug for WhileTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhileTaken")
    }
}

/// An open mount, not yet seen by any kernel.
#[derive(Debug)]
pub struct OpenedMount {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The volume was made now.
    pub created: bool,
    /// What the owner should know.
    pub warnings: Vec<String>,
}

/// Numbers that are known without asking anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountSummary {
    /// The volume.
    pub volume_id: VolumeId,
    /// The record that the view stands on.
    pub base: Seq,
    /// Nodes that differ from it.
    pub dirty: u64,
}

/// What the kernel keeps of a view; told by the mount, served by the kernel driver.
#[async_trait]
pub trait KernelCaches: Send + Sync + std::fmt::Debug {
    /// All names are forgotten with one message; else each has to be named.
    fn forgets_names_at_once(&self) -> bool;

    /// Returns when no name or attribute that is no longer true is used by a new path walk. Called without any lock.
    ///
    /// # Errors
    /// The kernel was not told.
    async fn invalidate(&self, what: Invalidations) -> Result<(), Failure>;

    /// Returns when the view knows what programs stored through mappings, and what they closed, before this was asked: as far as
    /// the kernel tells it in bounded time. What it does not tell counts as open. Called without any lock.
    async fn catch_up(&self);
}
