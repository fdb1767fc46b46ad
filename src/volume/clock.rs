//! Local time, given by whoever opens the volume.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// Where this layer reads the time: the system's clocks, or one that a test turns. Safety never rests on them: what
/// has to be safe goes by the store's clock.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        let wall = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp {
                secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanos: since.subsec_nanos(),
            }
        };
        let steady = || {
            let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            Timestamp {
                secs: since.tv_sec,
                // Below 10^9.
                nanos: u32::try_from(since.tv_nsec).unwrap_or(0),
            }
        };
        Clock {
            wall: Arc::new(wall),
            steady: Arc::new(steady),
        }
    }

    /// A clock of one's own, for both.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        let now: Arc<dyn Fn() -> Timestamp + Send + Sync> = Arc::new(now);
        Clock {
            wall: now.clone(),
            steady: now,
        }
    }

    /// The time of day, for people; it may be set.
    pub fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// Time since some moment, for differences: nobody sets it, and it goes on while the machine sleeps (`CLOCK_BOOTTIME`).
    pub fn steady(&self) -> Timestamp {
        (self.steady)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
