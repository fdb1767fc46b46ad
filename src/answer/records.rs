//! Records of the log, and what differs between two of them.

use serde::{Deserialize, Serialize};

use crate::model::{Hash, Seq};

/// A record as users name it: by its number, or by how far it lies back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub enum RecordAt {
    /// That one.
    Number(Seq),
    /// So many records before the one that the mount stands on.
    Back(u64),
}

impl From<i64> for RecordAt {
    fn from(number: i64) -> RecordAt {
        match u64::try_from(number) {
            Ok(seq) => RecordAt::Number(seq),
            Err(_) => RecordAt::Back(number.unsigned_abs()),
        }
    }
}

impl From<RecordAt> for i64 {
    fn from(at: RecordAt) -> i64 {
        // A log of 2^63 records is none.
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        match at {
            RecordAt::Number(seq) => number(seq),
            RecordAt::Back(back) => -number(back),
        }
    }
}

impl std::str::FromStr for RecordAt {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<RecordAt, Self::Err> {
        text.parse::<i64>().map(RecordAt::from)
    }
}

/// How one path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its bytes differ.
    Modified,
    /// Only attributes differ.
    Attributes,
    /// It is gone.
    Removed,
    /// It came from another path.
    Moved,
}

/// One line of a diff.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangedPath {
    /// The path; directories end in `/`.
    pub path: String,
    /// How it differs.
    pub change: ChangeKind,
    /// Where it came from, when it moved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub came_from: Option<String>,
    /// Bytes now, for files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

/// What differs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DiffAnswer {
    /// In path order.
    pub changes: Vec<ChangedPath>,
    /// There were more than asked for.
    pub truncated: bool,
}

/// One record of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its number.
    pub seq: Seq,
    /// Its id.
    pub record: Hash,
    /// `init`, `commit`, ...
    pub kind: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Who.
    pub by: String,
    /// The message.
    pub message: String,
    /// Files in the volume then.
    pub files: u64,
    /// Logical bytes in the volume then.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_named_by_number_or_backwards() {
        for (text, at) in [
            ("0", RecordAt::Number(0)),
            ("41", RecordAt::Number(41)),
            ("-1", RecordAt::Back(1)),
        ] {
            assert_eq!(text.parse::<RecordAt>().unwrap(), at);
            let json = serde_json::to_string(&at).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_str::<RecordAt>(&json).unwrap(), at);
        }
        assert!("one".parse::<RecordAt>().is_err());
    }
}
