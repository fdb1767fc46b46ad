//! Why a question to a volume, or a change of it, failed.

use crate::format::FormatError;
use crate::model::{Hash, Seq};
use crate::store::StoreError;

/// Errors of this layer, by what the caller does about them.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume of that name or id.
    #[error("no volume {wanted:?} in {store}{}", suggestion(nearest))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Where.
        store: String,
        /// The name that is spelt most like it, if any comes near.
        nearest: Option<String>,
    },
    /// The name is taken.
    #[error("there is already a volume {name:?} in {store}")]
    Exists {
        /// The name.
        name: String,
        /// Where.
        store: String,
    },
    /// The text cannot name a volume.
    #[error("{name:?} cannot name a volume: {rule}")]
    BadName {
        /// The text.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The volume was deleted; its objects may be partly gone.
    #[error("volume {name:?} was deleted (record {seq}, by {by:?})")]
    Deleted {
        /// Its name.
        name: String,
        /// The record that says so.
        seq: Seq,
        /// Who published that record.
        by: String,
    },
    /// The volume was deleted, and its objects are gone, but for records that came late.
    #[error(
        "volume {name:?} is gone: record {seq} is left of it, and its descriptor (vol.json) is not there"
    )]
    Purged {
        /// Its name.
        name: String,
        /// The newest record that is left.
        seq: Seq,
    },
    /// The volume uses features that this version does not know.
    #[error("{object} needs a newer version of sailvol: {what}")]
    Features {
        /// Key of the object that says so.
        object: String,
        /// What is unknown.
        what: String,
    },
    /// The volume uses features that this version may not write with.
    #[error("volume {name:?} is read-only for this version of sailvol: it uses {}", features.join(", "))]
    ReadOnly {
        /// Its name.
        name: String,
        /// What is unknown.
        features: Vec<String>,
    },
    /// What was to be published breaks a limit of the format. Nothing was sent.
    #[error("a record cannot hold this: {reason}; nothing was published")]
    Limit {
        /// Which.
        reason: String,
    },
    /// A record that the volume does not keep (any more), or has not yet.
    #[error("record {seq} is not kept by the volume (newest: {head})")]
    NotKept {
        /// What was asked for.
        seq: Seq,
        /// The head.
        head: Seq,
    },
    /// The log ends before a record that was seen earlier, or holds another one there.
    #[error(
        "the log has gone back: record {seen} ({seen_hash}) was seen before, now record {found} is the newest; \
         the bucket was restored from a backup, or somebody tampers with it"
    )]
    RolledBack {
        /// The newest record ever seen.
        seen: Seq,
        /// Its hash.
        seen_hash: Hash,
        /// The newest one now.
        found: Seq,
    },
    /// The log cannot say whether a transaction was published: the records in question were trimmed.
    #[error("whether transaction {txn} was published after record {since} cannot be told any more: {reason}")]
    Undecidable {
        /// The transaction.
        txn: String,
        /// Searched from here.
        since: Seq,
        /// Why.
        reason: &'static str,
    },
    /// An object is missing, cut or altered, or breaks a rule of the format.
    #[error("damaged volume: {object}: {rule}")]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong.
        rule: String,
    },
    /// The log moves faster than the question can be answered.
    #[error("{object}: the log kept changing under the question; try again")]
    Busy {
        /// What was being read.
        object: String,
    },
    /// The store cannot keep the promise that commits need.
    #[error("{store} cannot hold a volume: {reason}")]
    Nonconforming {
        /// Where.
        store: String,
        /// What it does wrong and what to do.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or(String::new(), |name| format!("; is {name:?} meant?"))
}

impl From<FormatError> for VolumeError {
    fn from(error: FormatError) -> VolumeError {
        match error {
            FormatError::Corrupt(corrupt) => VolumeError::Damaged {
                object: corrupt.object.to_string(),
                rule: format!("byte {}: {}", corrupt.offset, corrupt.rule),
            },
            FormatError::Unsupported { object, what } => VolumeError::Features { object, what },
        }
    }
}

impl VolumeError {
    /// What `object` breaks.
    pub(super) fn damaged(object: &str, error: impl std::fmt::Display) -> VolumeError {
        VolumeError::Damaged {
            object: object.to_owned(),
            rule: error.to_string(),
        }
    }

    /// The same request may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            VolumeError::Store(e) => e.is_transient(),
            VolumeError::Busy { .. } => true,
            _ => false,
        }
    }
}
