//! Failures as users meet them: the one table from what went wrong to what they do about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::format::limits::{BY_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::store::StoreError;
use crate::tree::TreeError;
use crate::volume::VolumeError;

/// Kinds of failures, by what the user does. Each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request was wrong.
    Usage,
    /// The request was understood, and not done because a rule forbids it (local changes, quota, busy).
    Refused,
    /// Credentials or permissions.
    NoAccess,
    /// The store does not answer; nothing was lost, try again.
    StoreUnreachable,
    /// It may have happened or not; the next command settles it.
    OutcomeUnknown,
    /// Stored or local data is damaged.
    Damaged,
    /// What was named is not there: a path, volume, record or stash.
    NotFound,
    /// The name is taken: a volume, or a file that nobody said may be replaced.
    Exists,
    /// Something else than above; also a kind of which only a newer version knows.
    #[serde(other)]
    Failed,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [FailureKind; 9] = [
        FailureKind::Failed,
        FailureKind::Usage,
        FailureKind::Refused,
        FailureKind::NoAccess,
        FailureKind::StoreUnreachable,
        FailureKind::OutcomeUnknown,
        FailureKind::Damaged,
        FailureKind::NotFound,
        FailureKind::Exists,
    ];

    /// Its name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Failed => "failed",
            FailureKind::Usage => "usage",
            FailureKind::Refused => "refused",
            FailureKind::NoAccess => "no-access",
            FailureKind::StoreUnreachable => "store-unreachable",
            FailureKind::OutcomeUnknown => "outcome-unknown",
            FailureKind::Damaged => "damaged",
            FailureKind::NotFound => "not-found",
            FailureKind::Exists => "exists",
        }
    }

    /// Of what the system said about a file of this machine.
    pub fn of_io(error: &std::io::Error) -> FailureKind {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => FailureKind::NoAccess,
            std::io::ErrorKind::NotFound => FailureKind::NotFound,
            std::io::ErrorKind::AlreadyExists => FailureKind::Exists,
            _ => FailureKind::Failed,
        }
    }

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
            FailureKind::NotFound => 8,
            FailureKind::Exists => 9,
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
                "if its name is still listed, its deletion was broken off: `sailvol volume delete` finishes it and frees \
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

/// Whether a record can hold a message. Control characters take six bytes in a record's line, and all of that line has 256 KiB.
///
/// # Errors
/// [`FailureKind::Usage`], before anything is sent.
pub fn check_message(message: &str) -> Result<(), Failure> {
    check_text("the message", message, MESSAGE_BYTES_MAX)
}

/// The same of the name of who publishes.
///
/// # Errors
/// As [`check_message`].
pub fn check_publisher(by: &str) -> Result<(), Failure> {
    check_text("the name of who publishes (--by)", by, BY_BYTES_MAX)
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Failure> {
    let in_json = |letter: char| match letter {
        '"' | '\\' => 2,
        letter if letter.is_control() => 6,
        letter => letter.len_utf8(),
    };
    let written: usize = text.chars().map(in_json).sum();
    if text.len() <= bytes_max && written <= 2 * bytes_max {
        return Ok(());
    }
    let told = match text.len() <= bytes_max {
        true => format!("{what} has so many control characters that they take {written} bytes in a record"),
        false => format!("{what} has {} bytes", text.len()),
    };
    let text = format!("{told}: at most {bytes_max} fit into a record; nothing was published");
    Err(Failure::new(FailureKind::Usage, text).hint("put long texts into a file of the volume"))
}

/// A command gives up after this long without the store unless told otherwise (docs/src/semantics.md, "offline").
pub const STORE_TIME: Duration = Duration::from_secs(30);

/// The store did not answer in time.
pub fn no_answer(waited: Duration) -> Failure {
    let text = format!("no answer from the store within {} s", waited.as_secs());
    Failure::new(FailureKind::StoreUnreachable, text)
        .hint("nothing was changed; `sailvol doctor` looks for the cause, --timeout waits longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One table, told in three places.
    #[test]
    fn each_kind_has_its_code_its_word_and_its_class_in_python() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let python = read("packaging/python/src/sailvol/errors.py");
        let protocol = read("src/control/PROTOCOL.md");
        let operations = read("docs/src/operations.md");
        let mut codes = std::collections::BTreeSet::new();
        for kind in FailureKind::ALL {
            let (word, code) = (kind.name(), kind.exit_code());
            assert!(codes.insert(code), "{word}: {code} is another's");
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, word);
            assert_eq!(serde_json::from_value::<FailureKind>(json).unwrap(), kind);
            let place = python
                .find(&format!("= \"{word}\"\n"))
                .unwrap_or_else(|| panic!("{word} in Python"));
            let next = python[place..].lines().nth(1).unwrap();
            assert!(next.ends_with(&format!("= {code}")), "{word} in Python: {next}");
            assert!(protocol.contains(&format!("`{word}`")), "{word} in PROTOCOL.md");
            assert!(
                operations.contains(&format!("| {code} | `{word}` |")),
                "{word} in operations.md"
            );
        }
        assert_eq!(
            codes.into_iter().collect::<Vec<u8>>(),
            (1..=9).collect::<Vec<u8>>()
        );
        // Of a newer version.
        assert_eq!(
            serde_json::from_str::<FailureKind>("\"else\"").unwrap(),
            FailureKind::Failed
        );
    }

    #[test]
    fn messages_are_measured_as_a_record_holds_them() {
        for (message, fits) in [
            ("m".repeat(MESSAGE_BYTES_MAX), true),
            ("m".repeat(MESSAGE_BYTES_MAX + 1), false),
            ("\u{e9}".repeat(MESSAGE_BYTES_MAX / 2), true),
            ("\u{e9}".repeat(MESSAGE_BYTES_MAX / 2 + 1), false),
            ("\n".repeat(20_000), true),
            ("\0".repeat(MESSAGE_BYTES_MAX / 2), false),
        ] {
            assert_eq!(check_message(&message).is_ok(), fits, "{} bytes", message.len());
        }
    }
}
