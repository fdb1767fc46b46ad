//! When to read ahead, and how far: a value per content, without I/O.
//!
//! Access is judged per content, not per handle: many processes that read one file through one handle, or one process
//! through many, look alike. A few positions are remembered; a read that continues one of them is sequential, unless
//! the run has more gaps than bytes. From the third read of a run on, what lies ahead is wanted: four times what the run
//! has read already, at least to the end of the group of 8 frames, at most a bound. So a random reader never pays for
//! more than its frame, and a copy of a large file has its full window after some megabytes and a few round trips
//! (Mountpoint for S3 grows its window eightfold).
//!
//! Contents of few groups are another matter: a shared library is read here and there, as its pages are touched, and a round trip
//! for each place costs more than all of it. From the second frame on that is touched in a group of such a content, the
//! whole group is asked for in one request ([`Ahead::Together`]).
//!
//! A sequential reader that catches up takes the rest of its group with the frame that it waits for ([`Streams::in_run`]):
//! with many readers there are not places for what all of them want ahead, and a request for every frame would cost more.
//!
//! The window is wider than what may be on its way at a time. What found no place is asked for when something has arrived
//! ([`Streams::more`]), not only when the reader has moved: fetches that were begun together end together, and the link
//! would be idle while the reader takes what they have brought.

use std::ops::Range;

use super::GROUP_BYTES;
use crate::model::FRAME_BYTES;

/// Largest content whose groups come whole from the second touched frame on, bytes: four of them at most, a fifth of a
/// second of a good link. The libraries of numpy, scipy and the like are below (OpenBLAS has 25 MB).
const SMALL_BYTES_MAX: u64 = 4 * GROUP_BYTES;
/// Positions remembered per content.
const STREAMS_MAX: usize = 4;
/// A read that begins this near to where a run has ended continues it, bytes: the kernel sends the requests of one
/// read-ahead (128 KiB each) in any order.
const SLACK_BYTES: u64 = 256 << 10;
/// A read that is this far behind the end of its run is still a part of it, bytes: the kernel has four requests of 1 MiB under way.
const LATE_BYTES: u64 = 4 << 20;
/// What is wanted ahead, in parts of what the run has read.
const GROWTH: u64 = 4;
/// Reads that continue a run before anything is fetched ahead.
const RUN_READS_MIN: u32 = 2;

/// What should be fetched besides what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ahead {
    /// As soon as there is a place.
    Later(Range<u64>),
    /// With what is read, in one request.
    Together(Range<u64>),
}

/// The runs of one content.
#[derive(Debug, Default, Clone)]
pub(super) struct Streams {
    runs: Vec<Run>,
    clock: u64,
    /// Of a small content: which frames were touched, a bit each.
    touched: u32,
}

#[derive(Debug, Clone)]
struct Run {
    start: u64,
    /// Where the next read is expected.
    next: u64,
    reads: u32,
    /// Bytes of all its reads.
    bytes: u64,
    /// Everything before has been asked for.
    planned: u64,
    /// Everything before is wanted.
    target: u64,
    used: u64,
}

impl Streams {
    /// A read of `len` bytes at `offset` of a content of `size`. Returns what should be fetched besides, if anything;
    /// it counts as asked for from then on.
    pub fn note(&mut self, offset: u64, len: u64, size: u64, ahead_max: u64) -> Option<Ahead> {
        let end = offset.saturating_add(len).min(size);
        let later = self.note_run(offset, end, size, ahead_max).map(Ahead::Later);
        self.touch(offset..end, size).map(Ahead::Together).or(later)
    }

    /// The group that a read of a small content touches, when a second frame of it is touched for the first time.
    fn touch(&mut self, read: Range<u64>, size: u64) -> Option<Range<u64>> {
        if size > SMALL_BYTES_MAX || read.is_empty() {
            return None;
        }
        let bits = |range: &Range<u64>| {
            let frames = range.start / FRAME_BYTES..range.end.div_ceil(FRAME_BYTES);
            frames.fold(0u32, |bits, frame| bits | 1 << frame)
        };
        let start = read.start / GROUP_BYTES * GROUP_BYTES;
        let group = start..(start + GROUP_BYTES).min(size);
        let before = (self.touched & bits(&group)).count_ones();
        self.touched |= bits(&read);
        let now = (self.touched & bits(&group)).count_ones();
        (before < 2 && now >= 2).then_some(group)
    }

    fn note_run(&mut self, offset: u64, end: u64, size: u64, ahead_max: u64) -> Option<Range<u64>> {
        self.clock += 1;
        let near = |run: &&mut Run| {
            offset.saturating_add(SLACK_BYTES) >= run.next && offset <= run.next.saturating_add(SLACK_BYTES)
        };
        let Some(run) = self.runs.iter_mut().find(near) else {
            self.begin(offset, end);
            return None;
        };
        run.used = self.clock;
        run.reads += 1;
        run.bytes += end.saturating_sub(offset);
        run.start = run.start.min(offset);
        run.next = run.next.max(end);
        if !run.is_sequential() {
            return None;
        }
        let ahead = (GROWTH * (run.next - run.start)).min(ahead_max);
        let wanted = run.next.saturating_add(ahead).next_multiple_of(GROUP_BYTES);
        run.target = wanted.min(run.next.saturating_add(ahead_max)).min(size);
        run.plan(size)
    }

    /// What is read at `offset` up to `end` belongs to a sequential run, as far as was noted.
    pub fn in_run(&self, offset: u64, end: u64) -> bool {
        let holds = |run: &&Run| run.start <= offset && end <= run.next && run.next - end <= LATE_BYTES;
        self.runs.iter().find(holds).is_some_and(Run::is_sequential)
    }

    /// Something that was fetched ahead has arrived. Returns what should be fetched ahead now, if anything.
    pub fn more(&mut self, size: u64) -> Option<Range<u64>> {
        let behind = self.runs.iter_mut().filter(|run| run.planned < run.target);
        behind.max_by_key(|run| run.used)?.plan(size)
    }

    /// What lies behind `offset` was not asked for after all.
    pub fn retract(&mut self, offset: u64) {
        for run in &mut self.runs {
            if run.start <= offset {
                run.planned = run.planned.min(offset);
            }
        }
    }

    fn begin(&mut self, offset: u64, end: u64) {
        if self.runs.len() >= STREAMS_MAX
            && let Some(oldest) = (0..self.runs.len()).min_by_key(|i| self.runs[*i].used)
        {
            self.runs.swap_remove(oldest);
        }
        self.runs.push(Run {
            start: offset,
            next: end,
            reads: 0,
            bytes: end.saturating_sub(offset),
            planned: end,
            target: end,
            used: self.clock,
        });
    }
}

impl Run {
    fn is_sequential(&self) -> bool {
        self.reads >= RUN_READS_MIN && self.bytes * 2 >= self.next - self.start
    }

    fn plan(&mut self, size: u64) -> Option<Range<u64>> {
        let (from, target) = (self.planned.max(self.next), self.target);
        // Half a group at a time: requests are worth their round trip, and the reader never catches up.
        let enough = target.saturating_sub(from) >= GROUP_BYTES / 2 || target == size;
        if target <= from || !enough {
            return None;
        }
        self.planned = target;
        Some(from..target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: u64 = 64 << 20;

    fn later(ahead: Option<Ahead>) -> Option<Range<u64>> {
        ahead.map(|ahead| match ahead {
            Ahead::Later(range) => range,
            Ahead::Together(range) => panic!("{range:?} of a large content"),
        })
    }

    #[test]
    fn a_group_of_a_small_content_comes_whole_once_a_second_frame_is_touched() {
        let (mib, size) = (1 << 20, (20 << 20) + 5);
        let mut streams = Streams::default();
        let mut note = |at: u64, len: u64| streams.note(at, len, size, AHEAD);
        assert_eq!(note(3 * mib, 100), None);
        assert_eq!(note(4 * mib - 10, 10), None, "the same frame");
        assert_eq!(note(12 * mib, 100), None, "another group");
        assert_eq!(note(mib, 100), Some(Ahead::Together(0..8 * mib)));
        assert_eq!(note(6 * mib, 100), None, "once");
        assert_eq!(
            note(17 * mib - 1, 2),
            Some(Ahead::Together(16 * mib..size)),
            "two at once, and where the content ends"
        );
        assert_eq!(note(15 * mib, 1), Some(Ahead::Together(8 * mib..16 * mib)));
        // Over the border of two groups: the first one's.
        let mut streams = Streams::default();
        assert_eq!(streams.note(8 * mib - 10, 20, size, AHEAD), None);
        assert_eq!(
            streams.note(9 * mib, 1, size, AHEAD),
            Some(Ahead::Together(8 * mib..16 * mib))
        );
        assert_eq!(
            Streams::default().note(0, 2 * mib, SMALL_BYTES_MAX + 1, AHEAD),
            None
        );
    }

    #[test]
    fn a_sequential_reader_is_always_ahead_and_within_the_bound() {
        let size = 1 << 30;
        let mut streams = Streams::default();
        let (mut planned, mut asked) = (0, 0);
        for at in (0..size).step_by(128 << 10) {
            if let Some(range) = later(streams.note(at, 128 << 10, size, AHEAD)) {
                assert!(range.start >= planned, "nothing is asked for twice");
                planned = range.end;
                asked += 1;
                assert!(range.end <= at + (128 << 10) + AHEAD);
            }
            if at > 2 << 20 {
                assert!(planned > at, "reader at {at} has caught up with {planned}");
            }
        }
        assert_eq!(planned, size);
        assert!(asked < 300, "{asked} askings");
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        let size = SMALL_BYTES_MAX + 1;
        let mut streams = Streams::default();
        let mut at = 12345u64;
        for _ in 0..1000 {
            at = at
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            assert_eq!(streams.note(at % size, 4096, size, AHEAD), None);
        }
    }

    #[test]
    fn only_what_was_read_in_order_is_in_a_run() {
        let (size, len) = (1 << 30, 128 << 10);
        let mut streams = Streams::default();
        for n in 0..8 {
            streams.note(n * len, len, size, AHEAD);
            assert_eq!(streams.in_run(n * len, (n + 1) * len), n >= 2, "read {n}");
        }
        assert!(streams.in_run(0, len), "one that comes late");
        assert!(!streams.in_run(8 * len, 9 * len), "it was not noted");
        streams.note(500 * len, len, size, AHEAD);
        assert!(!streams.in_run(500 * len, 501 * len));
    }

    #[test]
    fn interleaved_readers_are_told_apart() {
        let size = 1 << 30;
        let mut streams = Streams::default();
        let mut asked = 0;
        for step in 0..64u64 {
            for reader in 0..3u64 {
                let at = reader * (300 << 20) + step * (128 << 10);
                asked += u32::from(streams.note(at, 128 << 10, size, AHEAD).is_some());
            }
        }
        assert!(asked >= 6);
    }

    #[test]
    fn retracted_parts_are_asked_for_again() {
        let size = 1 << 30;
        let mut streams = Streams::default();
        let mut first = None;
        for at in (0..).step_by(1 << 20).take(4) {
            first = first.or(later(streams.note(at, 1 << 20, size, AHEAD)));
        }
        let first = first.unwrap();
        streams.retract(first.start);
        let again = later(streams.note(4 << 20, 1 << 20, size, AHEAD)).unwrap();
        assert_eq!(again.start, 5 << 20);
        // Or when something has arrived, without a read; and once only.
        assert_eq!(streams.more(size), None);
        streams.retract(again.start + (2 << 20));
        let rest = again.start + (2 << 20)..again.end;
        assert_eq!(streams.more(size), Some(rest));
        assert_eq!(streams.more(size), None);
    }
}
