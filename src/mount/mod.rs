//! One live mount.

mod answers;
mod failure;

pub use answers::{
    CacheStatus, ChangeKind, ChangedPath, CommitAnswer, CommitRequest, DiffAnswer, LocalChanges, LogEntry,
    OverwrittenPath, PrefetchAnswer, Progress, ReloadAnswer, ReloadRequest, StashSummary, StatusAnswer,
    TransferStatus,
};
pub use failure::{Failure, FailureKind};
