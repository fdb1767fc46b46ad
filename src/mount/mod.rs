//! One live mount.

mod answers;
mod create;
mod failure;
mod live;
mod options;

pub use answers::{
    CacheStatus, ChangeKind, ChangedPath, CommitAnswer, CommitRequest, DiffAnswer, LocalChanges, LogEntry,
    OverwrittenPath, PrefetchAnswer, Progress, ReloadAnswer, ReloadRequest, StashSummary, StatusAnswer,
    TransferStatus,
};
pub use create::create_volume;
pub use failure::{Failure, FailureKind};
pub use live::{Mount, ProgressSink};
pub use options::{KernelCaches, MountOptions, MountSummary, OpenedMount};
