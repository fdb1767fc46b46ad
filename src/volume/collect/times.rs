//! How old a record is, and since when it is not the newest any more (COLLECT.md 5).

use crate::model::Timestamp;
use crate::volume::rules::secs_between;

/// What was superseded less than this ago is kept whatever the policy says, seconds (COLLECT.md 2.1).
pub const KEPT_SECS: i64 = 24 * 3600;

/// What the store and the record itself tell of when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogTimes {
    /// `LastModified` of its slot, in the listing of the log.
    pub modified: Option<Timestamp>,
    /// `server_time` of the record: when the head before it was read.
    pub server_time: Option<Timestamp>,
}

impl LogTimes {
    /// When it came, for the windows of a policy and for people; `None` when nobody told.
    pub fn came(&self) -> Option<Timestamp> {
        self.modified.max(self.server_time)
    }
}

/// When the record before `later` was superseded, or a little after that; `later` are the records behind it, in order. `None`:
/// nobody can tell yet, and it is kept.
///
/// The next record alone does not tell: its writer may have slept for a day between reading the head and sending it, or may have
/// prepared it that long ahead. Whoever made the record behind that one had read it as the head.
pub fn superseded(later: &[LogTimes]) -> Option<Timestamp> {
    let (next, behind) = later.split_first()?;
    let seen = behind.iter().find_map(|times| times.server_time)?;
    Some(next.came().map_or(seen, |came| came.max(seen)))
}

/// The record before `later` is kept at `now`, by the store's clock, because somebody may still take it for the head.
pub fn is_kept_by_time(later: &[LogTimes], now: Timestamp) -> bool {
    superseded(later).is_none_or(|at| secs_between(at, now) < KEPT_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp {
            secs: hours * 3600,
            nanos: 0,
        }
    }

    fn times(modified: Option<i64>, server_time: Option<i64>) -> LogTimes {
        LogTimes {
            modified: modified.map(at),
            server_time: server_time.map(at),
        }
    }

    #[test]
    fn a_writer_that_slept_does_not_make_the_record_before_it_old() {
        // Its head was read at 1 o'clock, the record was sent 23 h later: at 26 o'clock it was the newest two hours ago.
        let slept = times(Some(24), Some(1));
        let next = times(Some(25), Some(25));
        assert_eq!(superseded(&[slept, next]), Some(at(25)));
        assert!(is_kept_by_time(&[slept, next], at(26)));
        assert!(!is_kept_by_time(&[slept, next], at(25 + 24)));
        // Prepared long before it appeared, so that the store dates it back too.
        let prepared = times(Some(1), Some(1));
        assert!(is_kept_by_time(&[prepared, next], at(26)));
    }

    #[test]
    fn what_nobody_can_tell_of_is_kept() {
        let known = times(Some(1), Some(1));
        assert!(is_kept_by_time(&[], at(1000)), "the head");
        assert!(is_kept_by_time(&[known], at(1000)), "and the record before it");
        let silent = times(Some(1), None);
        assert!(is_kept_by_time(&[known, silent], at(1000)));
        // The next one that tells was made later.
        assert_eq!(superseded(&[known, silent, times(None, Some(7))]), Some(at(7)));
        assert_eq!(
            superseded(&[times(None, None), times(None, Some(3))]),
            Some(at(3))
        );
    }
}
