//! Why a commit failed.

use crate::format::EncodeError;
use crate::model::{Seq, TxnId, VolPath};
use crate::tree::TreeError;
use crate::volume::VolumeError;

/// Errors of this layer, by what the caller does about them. Unless said otherwise nothing was published and all local
/// changes are where they were.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The volume would hold more than its quota allows.
    #[error("the volume's quota is {quota} bytes; with these changes it would hold {bytes}")]
    Quota {
        /// Bytes it would hold.
        bytes: u64,
        /// Bytes it may hold.
        quota: u64,
    },
    /// Nobody can say whether it was published. Settle it (see [`super::settle`]) before anything else.
    #[error("whether transaction {txn} was published after record {since} is not known: {reason}")]
    Unknown {
        /// The transaction.
        txn: TxnId,
        /// It can only be in a later record.
        since: Seq,
        /// What the store said last.
        reason: String,
    },
    /// Others published all the time until the deadline.
    #[error("other commits were faster ({attempts} tries); nothing was lost, commit again")]
    Contended {
        /// Attempts that lost.
        attempts: u32,
    },
    /// These paths refer to bytes that the volume does not keep any more, and that no cache has.
    #[error("the volume no longer keeps what {} refers to{}", paths[0], others(paths))]
    Gone {
        /// At least one.
        paths: Vec<VolPath>,
    },
    /// A path of an edit is not what the edit needs.
    #[error("{path}: {reason}")]
    Path {
        /// The path.
        path: VolPath,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The state directory failed.
    #[error("state directory: {0}")]
    State(std::io::Error),
    /// A limit of the format, or a fault of the program.
    #[error("cannot be stored: {0}")]
    Encode(#[from] EncodeError),
    /// The program is being stopped.
    #[error("interrupted")]
    Stopped,
    /// Base, head or local bytes could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The volume could not be read or written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

fn others(paths: &[VolPath]) -> String {
    match paths.len() {
        0 | 1 => String::new(),
        more => format!(" (and {} more paths)", more - 1),
    }
}

impl CommitError {
    pub(super) fn ledger(error: std::io::Error) -> CommitError {
        CommitError::State(error)
    }

    /// The same commit may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            CommitError::Volume(error) => error.is_transient(),
            CommitError::Tree(TreeError::Unreachable { .. }) | CommitError::Contended { .. } => true,
            _ => false,
        }
    }
}
