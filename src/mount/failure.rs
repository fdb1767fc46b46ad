//! Failures as users meet them: the one table from what went wrong to what they do about it.

use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::tree::TreeError;
use crate::volume::VolumeError;

/// Kinds of failures, by what the user does. Each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Something else than below.
    Failed,
    /// The request was wrong.
    Usage,
    /// The request was understood, and not done because a rule forbids it (local changes, quota, busy, exists).
    Refused,
    /// Credentials or permissions.
    NoAccess,
    /// The store does not answer; nothing was lost, try again.
    StoreUnreachable,
    /// It may have happened or not; the next command settles it.
    OutcomeUnknown,
    /// Stored or local data is damaged.
    Damaged,
}

impl FailureKind {
    /// The process exit code (listed in `sailvol --help`).
    pub const fn exit_code(self) -> u8 {
        match self {
            FailureKind::Failed => 1,
            FailureKind::Usage => 2,
            FailureKind::Refused => 3,
            FailureKind::NoAccess => 4,
            FailureKind::StoreUnreachable => 5,
            FailureKind::OutcomeUnknown => 6,
            FailureKind::Damaged => 7,
        }
    }
}

/// A failure with its kind, a message, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the user does about it.
    pub kind: FailureKind,
    /// What happened.
    pub message: String,
    /// What to do, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done in front.
    pub fn context(mut self, doing: impl std::fmt::Display) -> Failure {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let kind = match &error {
            StoreError::Denied { .. } => FailureKind::NoAccess,
            StoreError::Unreachable { .. } => FailureKind::StoreUnreachable,
            StoreError::Unknown { .. } => FailureKind::OutcomeUnknown,
            StoreError::Broken { .. } => FailureKind::Damaged,
            StoreError::NotFound { .. }
            | StoreError::AlreadyExists { .. }
            | StoreError::Misconfigured { .. }
            | StoreError::NoSpace { .. } => FailureKind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Failure {
        let kind = match &error {
            TreeError::Damaged { .. } => FailureKind::Damaged,
            TreeError::Denied { .. } => FailureKind::NoAccess,
            TreeError::Unreachable { .. } => FailureKind::StoreUnreachable,
            TreeError::Limit { .. } => FailureKind::Refused,
            TreeError::Expired { .. } | TreeError::Local { .. } => FailureKind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Failure {
        let kind = match error {
            VolumeError::Store(error) => return error.into(),
            VolumeError::NotFound { .. } | VolumeError::Deleted { .. } | VolumeError::Features { .. } => {
                FailureKind::Failed
            }
            VolumeError::BadName { .. } => FailureKind::Usage,
            VolumeError::Exists { .. }
            | VolumeError::ReadOnly { .. }
            | VolumeError::NotKept { .. }
            | VolumeError::Nonconforming { .. } => FailureKind::Refused,
            VolumeError::RolledBack { .. } | VolumeError::Damaged { .. } => FailureKind::Damaged,
            VolumeError::Undecidable { .. } => FailureKind::OutcomeUnknown,
            VolumeError::Busy { .. } => FailureKind::StoreUnreachable,
        };
        let hint = match &error {
            VolumeError::NotFound { .. } => {
                Some("`sailvol volume list` shows the volumes; `--create` makes one")
            }
            VolumeError::Nonconforming { .. } => Some(
                "use a store (or a newer version of it) that honours `If-None-Match: *` on PUT and lists in key order",
            ),
            VolumeError::RolledBack { .. } => {
                Some("nothing was changed; find out what happened to the bucket first")
            }
            _ => None,
        };
        Failure {
            kind,
            message: error.to_string(),
            hint: hint.map(str::to_owned),
        }
    }
}
