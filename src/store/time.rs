//! The clock as stores tell it.

use std::time::{Duration, SystemTime};

use crate::model::Timestamp;

/// A file's or a header's time as a model value.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Timestamp {
            secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before: Duration = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Timestamp {
                    secs: -secs,
                    nanos: 0,
                },
                nanos => Timestamp {
                    secs: -secs - 1,
                    nanos: 1_000_000_000 - nanos,
                },
            }
        }
    }
}

/// Now, by this machine's clock: what a store on this machine answers as its own.
pub(super) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_round_down() {
        let time = SystemTime::UNIX_EPOCH - Duration::new(1, 250_000_000);
        assert_eq!(
            timestamp(time),
            Timestamp {
                secs: -2,
                nanos: 750_000_000
            }
        );
        let time = SystemTime::UNIX_EPOCH - Duration::new(3, 0);
        assert_eq!(timestamp(time), Timestamp { secs: -3, nanos: 0 });
        let time = SystemTime::UNIX_EPOCH + Duration::new(3, 7);
        assert_eq!(timestamp(time), Timestamp { secs: 3, nanos: 7 });
    }
}
