//! Failures as users meet them: the one table of their kinds, with what each is called and which exit code it has.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Makes [`FailureKind`] and everything that is said of a kind somewhere out of one table: a kind without a row, or a
/// row without a column, does not compile.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident: $exit_code:literal, $name:literal, $meaning:literal;)+) => {
        /// Kinds of failures, by what the user does. Each has an exit code of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailureKind {
            $($(#[$doc])+ $kind,)+
        }

        impl FailureKind {
            /// All kinds, in the order of the table.
            pub const ALL: &[FailureKind] = &[$(FailureKind::$kind,)+];

            /// Its name in JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(FailureKind::$kind => $name,)+
                }
            }

            /// The process exit code (listed in `sailvol --help`).
            pub const fn exit_code(self) -> u8 {
                match self {
                    $(FailureKind::$kind => $exit_code,)+
                }
            }

            /// What the help of commands says about that exit code.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(FailureKind::$kind => $meaning,)+
                }
            }
        }
    };
}

// Kind: exit code, name in JSON and metrics, meaning of the exit code in `--help`.
kinds! {
    /// Something else than below; also a kind of which only a newer version knows.
    Failed: 1, "failed", "failed; the message says why";
    /// The request was wrong.
    Usage: 2, "usage", "wrong usage: invalid arguments, or no such mount";
    /// The request was understood, and not done because a rule forbids it (local changes, quota, busy).
    Refused: 3, "refused", "refused: a rule forbids it (local changes, busy, no room, quota)";
    /// Credentials or permissions.
    NoAccess: 4, "no-access", "no access: credentials or permissions";
    /// The store does not answer; nothing was lost, try again.
    StoreUnreachable: 5, "store-unreachable", "the store does not answer; nothing was lost, try again";
    /// It may have happened or not; the next command settles it.
    OutcomeUnknown: 6, "outcome-unknown", "unknown outcome: it may or may not have been published; the next command settles it";
    /// Stored or local data is damaged.
    Damaged: 7, "damaged", "damaged data";
    /// What was named is not there: a path, volume, record or stash.
    NotFound: 8, "not-found", "not found: no such path, volume, record or stash";
    /// The name is taken: a volume, or a file that nobody said may be replaced.
    Exists: 9, "exists", "already exists: the name is taken";
}

impl FailureKind {
    /// Of what the system said about a file of this machine.
    pub fn of_io(error: &std::io::Error) -> FailureKind {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => FailureKind::NoAccess,
            std::io::ErrorKind::NotFound => FailureKind::NotFound,
            std::io::ErrorKind::AlreadyExists => FailureKind::Exists,
            _ => FailureKind::Failed,
        }
    }
}

// The names in JSON are those of the table: there is no other list of them to keep in step.
impl Serialize for FailureKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for FailureKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FailureKind, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        let known = FailureKind::ALL.iter().find(|kind| kind.name() == name);
        Ok(known.copied().unwrap_or(FailureKind::Failed))
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
        for &kind in FailureKind::ALL {
            assert!(!kind.meaning().is_empty(), "{}", kind.name());
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
}
