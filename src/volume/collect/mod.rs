//! What a collector goes by (COLLECT.md). No command of this version collects.

mod times;

pub use times::{KEPT_SECS, LogTimes, is_kept_by_time, superseded};
