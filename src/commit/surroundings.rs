//! What a commit works with.

use std::time::Duration;

use super::Frozen;
use super::error::CommitError;
use super::journal::CommitJournal;
use super::ledger::UploadLedger;
use super::progress::Progress;
use super::publish::CommitDone;
use super::upload::{ChunkHints, FileSource, UploadLimits};
use crate::format::Descriptor;
use crate::tree::{NodeParams, NodeSource};
use crate::volume::{Head, Volume};

/// What the user says about a commit.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// Who commits.
    pub by: String,
    /// Why.
    pub message: String,
    /// For how long races against others are repeated, and lost answers are asked after.
    pub deadline: Duration,
    /// A prepared tree is written so that it needs no packs of the state directory but its own.
    pub gathers: bool,
}

impl Default for CommitOptions {
    fn default() -> CommitOptions {
        CommitOptions {
            by: String::new(),
            message: String::new(),
            deadline: Duration::from_secs(300),
            gathers: false,
        }
    }
}

/// What a commit works with.
pub struct Commit<'a> {
    /// Where to.
    pub volume: &'a Volume,
    /// Nodes and blobs of base and head.
    pub nodes: &'a dyn NodeSource,
    /// Frozen bytes.
    pub files: &'a dyn FileSource,
    /// What an interrupted attempt has brought.
    pub ledger: &'a dyn UploadLedger,
    /// Which chunks may be there anyway.
    pub hints: &'a dyn ChunkHints,
    /// Where attempts are written down.
    pub journal: &'a dyn CommitJournal,
    /// Told as it goes.
    pub progress: &'a Progress,
    /// Bounds of memory and requests.
    pub limits: UploadLimits,
    /// What the user says.
    pub options: CommitOptions,
}

impl Commit<'_> {
    /// Uploads and publishes; `head` is the newest known record. Whether there is anything to commit is the caller's
    /// question ([`Frozen::is_clean`]): this publishes a record in any case.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] when the outcome cannot be known; all others mean that nothing was published.
    pub async fn run(&self, frozen: Frozen, head: Head) -> Result<CommitDone, CommitError> {
        let epoch = head.record().gc.epoch;
        frozen.upload(self, epoch).await?.publish(self, head).await
    }
}

/// How trees of this volume are cut.
pub(super) fn node_params(descriptor: &Descriptor) -> NodeParams {
    NodeParams {
        inline_max: descriptor.node.inline_max as usize,
        page_max: descriptor.node.page_max as usize,
        pack_target: u64::from(descriptor.pack.target),
    }
}
