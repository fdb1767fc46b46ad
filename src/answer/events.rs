//! What happens to a mount, as it is told to whoever watches.

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::model::Seq;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one in each mount; a gap says that events were missed.
    pub number: u64,
    /// Seconds since 1970, with milliseconds.
    pub time: f64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// The first event for a watcher: where the mount stands.
    Watching {
        /// The record that the view stands on.
        base: Seq,
        /// The newest record that is known.
        head: Seq,
        /// Uncommitted changes.
        changes: u64,
    },
    /// A record was published from here.
    Committed {
        /// Its number.
        seq: Seq,
        /// Its id.
        record: String,
        /// Names and inodes that changed.
        changed: u64,
        /// Files whose bytes changed.
        files: u64,
        /// Logical bytes of those.
        bytes_changed: u64,
        /// Bytes sent to the store.
        bytes_sent: u64,
        /// Seconds it took.
        seconds: f64,
        /// Records by others that it was merged with.
        merged_with: Vec<Seq>,
        /// Files that stay dirty because something can still write them.
        still_written: u64,
        /// Nobody asked for it: `--autocommit` or `--commit-on-exit`.
        automatic: bool,
    },
    /// The view moved.
    Reloaded {
        /// From this record.
        from: Seq,
        /// To this one.
        to: Seq,
        /// The stash with what was local.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        stash: Option<u64>,
        /// Paths that stayed as local changes.
        kept: u64,
        /// `--autoreload` did it.
        automatic: bool,
    },
    /// Others (or this mount) have published.
    HeadMoved {
        /// The newest record that was known.
        from: Seq,
        /// The newest record now.
        to: Seq,
    },
    /// The number of uncommitted changes is another than it was.
    Dirty {
        /// How many there are; 0 after a commit or reload.
        changes: u64,
        /// Bytes of dirty files on local disk.
        bytes: u64,
    },
    /// Something failed.
    Error {
        /// What was being done.
        during: String,
        /// Why, and what to do.
        #[serde(flatten)]
        failure: Failure,
        /// Nobody asked for it: `--autocommit` or `--autoreload`.
        automatic: bool,
    },
    /// This watcher was too slow.
    Missed {
        /// For so many events.
        events: u64,
    },
    /// The mount ends.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::FailureKind;

    #[test]
    fn events_are_flat_objects_named_by_what_happened() {
        let event = |number, what| Event {
            number,
            time: 1.5,
            what,
        };
        let error = event(
            7,
            Happening::Error {
                during: "commit".into(),
                failure: Failure::new(FailureKind::StoreUnreachable, "no answer").hint("wait"),
                automatic: true,
            },
        );
        let value = serde_json::to_value(&error).unwrap();
        assert_eq!((&value["event"], &value["number"]), (&"error".into(), &7.into()));
        assert_eq!(
            (&value["kind"], &value["message"], &value["hint"]),
            (&"store-unreachable".into(), &"no answer".into(), &"wait".into())
        );
        assert_eq!(serde_json::from_value::<Event>(value).unwrap(), error);
        let ended = serde_json::to_value(event(1, Happening::Ended)).unwrap();
        assert_eq!(ended["event"], "ended");
    }
}
