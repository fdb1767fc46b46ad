//! From the errors of the layers below to failures: which kind each is, and what helps.

use super::{Failure, FailureKind};
use crate::commit::CommitError;
use crate::store::StoreError;
use crate::tree::TreeError;
use crate::volume::VolumeError;

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
        about_store(kind, error.to_string())
    }
}

/// Adds what helps when the store says no, or nothing.
fn about_store(kind: FailureKind, message: String) -> Failure {
    let failure = Failure::new(kind, message);
    match kind {
        FailureKind::NoAccess => failure.hint(
            "the key has to list, get, put and delete objects in the bucket; `sailvol doctor` shows where it comes from \
             (AWS_ACCESS_KEY_ID, ~/.aws, web identity, instance profile)",
        ),
        FailureKind::StoreUnreachable => {
            failure.hint("check the endpoint in the URL, the network and proxies; `sailvol doctor` tries the store")
        }
        _ => failure,
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
        about_store(kind, error.to_string())
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Failure {
        let kind = match error {
            VolumeError::Store(error) => return error.into(),
            VolumeError::NotFound { .. }
            | VolumeError::Deleted { .. }
            | VolumeError::Purged { .. }
            | VolumeError::NotKept { .. } => FailureKind::NotFound,
            VolumeError::Exists { .. } => FailureKind::Exists,
            VolumeError::Features { .. } => FailureKind::Failed,
            VolumeError::BadName { .. } => FailureKind::Usage,
            VolumeError::Limit { .. } => FailureKind::Refused,
            VolumeError::ReadOnly { .. } | VolumeError::Nonconforming { .. } => FailureKind::Refused,
            VolumeError::RolledBack { .. } | VolumeError::Damaged { .. } => FailureKind::Damaged,
            VolumeError::Undecidable { .. } => FailureKind::OutcomeUnknown,
            VolumeError::Busy { .. } => FailureKind::StoreUnreachable,
        };
        let hint = match &error {
            VolumeError::NotFound { .. } => Some(
                "`sailvol volume list` shows the volumes; `sailvol volume create` or `mount --create` makes one",
            ),
            VolumeError::Deleted { .. } => Some(
                "if its name is still listed, its deletion was interrupted: `sailvol volume delete` finishes it and frees \
                 the name",
            ),
            VolumeError::Purged { .. } => Some(
                "`sailvol volume delete` clears what is left; if nobody has deleted the volume, put its vol.json back: each \
                 record has a copy in its first line, as \"descriptor\"",
            ),
            VolumeError::NotKept { .. } => Some("`sailvol log` lists the newest records of a mounted volume"),
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

/// As users of a mount meet it.
impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Failure {
        let (kind, hint) = match &error {
            CommitError::Quota { .. } => (
                FailureKind::Refused,
                Some("delete something, or ask for a larger quota"),
            ),
            CommitError::Unknown { .. } => (
                FailureKind::OutcomeUnknown,
                Some("all changes are kept here; the next commit, reload or mount settles it"),
            ),
            CommitError::Contended { .. } => (FailureKind::StoreUnreachable, None),
            CommitError::Gone { .. } => (
                FailureKind::Damaged,
                Some("`sailvol reload` moves to a record that is kept; local changes go to a stash"),
            ),
            CommitError::Path { .. } => (FailureKind::Refused, None),
            CommitError::State(_) | CommitError::Encode(_) | CommitError::Stopped => {
                (FailureKind::Failed, None)
            }
            CommitError::Tree(_) | CommitError::Volume(_) => {
                return match error {
                    CommitError::Tree(error) => error.into(),
                    CommitError::Volume(error) => error.into(),
                    other => Failure::new(FailureKind::Failed, other.to_string()),
                };
            }
        };
        Failure {
            kind,
            message: error.to_string(),
            hint: hint.map(str::to_owned),
        }
    }
}
