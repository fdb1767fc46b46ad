//! The clock of mtime and ctime.
//!
//! Some files are stamped by us, others by the local filesystem, when the kernel writes to their bodies by itself. Programs
//! compare the times of both (make does little else), so both come from one clock: the kernel's coarse one, which moves with
//! its timer, every 1 to 10 ms. Since Linux 6.13 a file that was looked at gets a finer time at its next change, and no file
//! an older one after that; [`saw_written`] does the same for our stamps.

use std::sync::atomic::{AtomicI64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::model::Timestamp;

/// Tells the time for mtime and ctime stamps.
pub trait Clock: Send + Sync {
    /// The present. Not before any time that the local filesystem gave to a body and somebody has seen.
    fn now(&self) -> Timestamp;
}

/// The latest time of a write that was seen in a body, nanoseconds since 1970. One for the process, as the kernel's is one
/// for the machine.
static LATEST_SEEN: AtomicI64 = AtomicI64::new(0);

/// The kernel's coarse real-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let coarse = nanos(ClockId::RealtimeCoarse);
        let seen = LATEST_SEEN.load(Ordering::Relaxed);
        // A clock that was set back takes the times that were seen before with it.
        let now = if seen > coarse && seen <= nanos(ClockId::Realtime) {
            seen
        } else {
            coarse
        };
        Timestamp {
            secs: now.div_euclid(1_000_000_000),
            nanos: u32::try_from(now.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

/// Takes notice of the time that the local filesystem gave to a body.
pub(super) fn saw_written(time: Timestamp) {
    let Ok(time) = i64::try_from(time.as_nanos()) else {
        return;
    };
    if time > LATEST_SEEN.load(Ordering::Relaxed) && time <= nanos(ClockId::Realtime) {
        LATEST_SEEN.fetch_max(time, Ordering::Relaxed);
    }
}

/// Until the year 2262.
fn nanos(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn stamps_and_times_of_the_local_filesystem_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        let (start, mut last) = (SystemClock.now(), SystemClock.now());
        // Over several ticks, looked at between two writes, which makes the filesystem give finer times.
        while SystemClock.now().as_nanos() - start.as_nanos() < 30_000_000 {
            std::fs::write(&path, b"written").unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            let written = Timestamp {
                secs: meta.mtime(),
                nanos: u32::try_from(meta.mtime_nsec()).unwrap(),
            };
            assert!(written >= last, "{written:?} after {last:?}");
            saw_written(written);
            last = SystemClock.now();
            assert!(last >= written, "{last:?} after {written:?}");
        }
    }

    #[test]
    fn a_time_to_come_moves_no_clock() {
        let ahead = |by| Timestamp {
            secs: SystemClock.now().secs + by,
            nanos: 0,
        };
        saw_written(ahead(1000));
        assert!(SystemClock.now() < ahead(500));
    }
}
