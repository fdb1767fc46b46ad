//! The rules that publishing and reading rest on (LOG.md 2, 4, 6), as predicates over values: so that one can
//! read each, test each, and run a collector against them.

use std::collections::BTreeSet;

use crate::format::GcState;
use crate::model::{Epoch, Seq, Timestamp};

/// Answers of the LIST and the GET of one head must lie within this, seconds by the store's clock (LOG.md 2.1).
pub const HEAD_SECS_MAX: i64 = 3600;
/// For this long after a confirmed look at the log the next number cannot have been trimmed, so "not there" means
/// "nothing new", seconds (LOG.md 2.1).
pub const LOOK_SECS_MAX: i64 = 3600;
/// Answers of one store come from several servers, whose clocks may differ by this, seconds; far more than those of one
/// service do, and nothing beside [`LOOK_SECS_MAX`].
const CLOCKS_APART_SECS: i64 = 60;
/// After this long a look also asks whether the record known before is still there, seconds: a bucket that is restored
/// from a backup takes longer, and nobody's loop of commits pays for it.
pub const RECHECK_SECS: i64 = 60;
/// A head that was made longer ago than this may be all that is left of a volume, seconds: whoever sent it slept while the
/// volume was deleted and purged (LOG.md 2.7). No purge begins earlier after a deletion.
pub const PURGE_AFTER_SECS: i64 = 7 * 24 * 3600;
/// R4 may be skipped when the PUT was answered within this after the head was read, seconds by the store's clock.
pub const CONFIRM_SECS_MAX: i64 = 600;
/// Records may carry a time at most this far ahead of the store's clock, seconds (LOG.md 4.6).
pub const TIME_AHEAD_SECS_MAX: i64 = 300;
/// Numbers that a look at the log walks one by one before it lists instead.
pub const STEPS_MAX: u64 = 8;

/// Is record `seq` kept by the volume, in the state that `gc` of the head describes? Records after the newest fence
/// always are; below it those that the fence retained.
pub fn is_protected(gc: &GcState, seq: Seq) -> bool {
    gc.protects(seq)
}

/// Slots from the newest fence on were never trimmed, so what was created there is no re-used one (R4).
pub fn is_untrimmed(gc: &GcState, seq: Seq) -> bool {
    #[cfg(test)]
    if mutant::is(Mutant::StrictFence) {
        return seq > gc.fence;
    }
    seq >= gc.fence
}

/// All of `sources` are kept: then everything that is reachable from any of them is (the second half of R2).
pub fn are_protected(gc: &GcState, sources: &BTreeSet<Seq>) -> bool {
    #[cfg(test)]
    match mutant::get() {
        Some(Mutant::NoR2) => return true,
        Some(Mutant::R2Newest) => return sources.last().is_some_and(|seq| is_protected(gc, *seq)),
        _ => {}
    }
    !sources.is_empty() && sources.iter().all(|seq| is_protected(gc, *seq))
}

/// R1, and the first half of R2: no fence up to the head deletes objects of this epoch, and later ones mark from its
/// successors.
pub fn is_young(gc: &GcState, epoch: Epoch) -> bool {
    epoch.saturating_add(1) >= gc.epoch
}

/// R1: what was uploaded under this epoch and later ones may be published after the record of `gc`.
pub fn are_uploads_young(gc: &GcState, epoch_min: Epoch) -> bool {
    #[cfg(test)]
    if mutant::is(Mutant::NoR1) {
        return true;
    }
    is_young(gc, epoch_min)
}

/// R4 may be skipped: so little time passed between reading the head and creating the record that the number cannot
/// have been used and trimmed in between. Unknown times never allow it.
pub fn confirmed_by_time(head_read: Option<Timestamp>, put_answered: Option<Timestamp>) -> bool {
    #[cfg(test)]
    if mutant::is(Mutant::NoR4) {
        return true;
    }
    match (head_read, put_answered) {
        (Some(read), Some(put)) => (0..CONFIRM_SECS_MAX).contains(&secs_between(read, put)),
        _ => false,
    }
}

/// The volume of a head is there for sure: its record was made from a head that was read not long ago, by the store's clock.
pub fn is_volume_sure(made: Option<Timestamp>, read: Option<Timestamp>) -> bool {
    match (made, read) {
        (Some(made), Some(read)) => (0..PURGE_AFTER_SECS).contains(&secs_between(made, read)),
        _ => false,
    }
}

/// An answer about the next number still counts, found or not: by the own clock and, as far as it told the time, by the
/// store's no more than [`LOOK_SECS_MAX`] have passed since a confirmed look. Later the number may have been used and
/// trimmed, and a record that was found may have been superseded long ago.
pub fn is_walk_sure(own: (Timestamp, Timestamp), store: (Option<Timestamp>, Option<Timestamp>)) -> bool {
    #[cfg(test)]
    if mutant::is(Mutant::SleepyWalk) {
        return true;
    }
    let soon = |from, to| (-CLOCKS_APART_SECS..LOOK_SECS_MAX).contains(&secs_between(from, to));
    let (from, to) = own;
    soon(from, to)
        && match store {
            (Some(from), Some(to)) => soon(from, to),
            _ => true,
        }
}

/// Seconds from `earlier` to `later`, negative when the order is the other way round.
pub fn secs_between(earlier: Timestamp, later: Timestamp) -> i64 {
    later.secs.saturating_sub(earlier.secs)
}

/// The time that a record carries: the own clock, but not more than [`TIME_AHEAD_SECS_MAX`] ahead of the store's, and
/// at least a millisecond after the parent's. Says the order, never decides anything.
pub fn record_time(own: Timestamp, store: Option<Timestamp>, parent: Timestamp) -> Timestamp {
    let latest = store.map_or(own, |store| Timestamp {
        secs: store.secs.saturating_add(TIME_AHEAD_SECS_MAX),
        nanos: store.nanos,
    });
    let nanos = parent.nanos + 1_000_000;
    let after_parent = Timestamp {
        secs: parent.secs.saturating_add(i64::from(nanos / 1_000_000_000)),
        nanos: nanos % 1_000_000_000,
    };
    own.min(latest).max(after_parent)
}

/// A rule that a test has switched off on its thread, to see that the model check would notice.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    NoR1,
    NoR2,
    R2Newest,
    NoR4,
    StrictFence,
    SleepyWalk,
}

#[cfg(test)]
pub(crate) mod mutant {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static OFF: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub fn set(mutant: Option<Mutant>) {
        OFF.set(mutant);
    }

    pub(super) fn get() -> Option<Mutant> {
        OFF.get()
    }

    pub(super) fn is(mutant: Mutant) -> bool {
        get() == Some(mutant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gc(epoch: Epoch, fence: Seq, retained: &[Seq]) -> GcState {
        GcState {
            epoch,
            fence,
            retained: retained.iter().copied().collect(),
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    #[test]
    fn records_after_the_fence_and_retained_ones_are_protected() {
        let gc = gc(3, 10, &[2, 3, 4, 10]);
        let kept: Vec<Seq> = (0..13).filter(|seq| is_protected(&gc, *seq)).collect();
        assert_eq!(kept, [2, 3, 4, 10, 11, 12]);
        assert!(are_protected(&gc, &BTreeSet::from([3, 11])));
        assert!(!are_protected(&gc, &BTreeSet::from([3, 9, 11])));
        assert!(
            !are_protected(&gc, &BTreeSet::new()),
            "nothing known is not everything kept"
        );
    }

    #[test]
    fn objects_of_this_and_the_last_epoch_are_young() {
        let gc = gc(5, 0, &[]);
        assert_eq!(
            (3..7).filter(|epoch| is_young(&gc, *epoch)).collect::<Vec<_>>(),
            [4, 5, 6]
        );
    }

    #[test]
    fn confirming_is_skipped_only_with_both_times_and_in_order() {
        assert!(confirmed_by_time(Some(at(100)), Some(at(699))));
        assert!(!confirmed_by_time(Some(at(100)), Some(at(700))));
        assert!(!confirmed_by_time(Some(at(100)), Some(at(99))));
        assert!(!confirmed_by_time(None, Some(at(99))));
        assert!(!confirmed_by_time(Some(at(99)), None));
    }

    #[test]
    fn record_times_grow_and_do_not_run_ahead() {
        assert_eq!(record_time(at(50), Some(at(40)), at(30)), at(50));
        assert_eq!(record_time(at(5000), Some(at(40)), at(30)), at(340));
        assert_eq!(
            record_time(at(10), Some(at(40)), at(30)),
            Timestamp {
                secs: 30,
                nanos: 1_000_000
            }
        );
        let late = Timestamp {
            secs: 30,
            nanos: 999_500_000,
        };
        assert_eq!(
            record_time(at(10), None, late),
            Timestamp {
                secs: 31,
                nanos: 500_000
            }
        );
    }
}
