//! What is told: failures, answers and events, as values that the control socket carries and the commands print.
//!
//! One table says of each kind of failure what it is called in JSON and which exit code it has (`failure.rs`); one
//! file says which kind the errors of the layers below are (`causes.rs`).

mod causes;
mod commit;
mod done;
mod events;
mod failure;
mod progress;
mod record_text;
mod records;
mod reload;
mod status;

pub use commit::{CommitAnswer, CommitRequest, OverwrittenPath};
pub use done::{PROGRESS_EVERY, commit_answer, overwritten, telling};
pub use events::{Event, Happening};
pub use failure::{Failure, FailureKind, STORE_TIME, no_answer};
pub use progress::{PrefetchAnswer, Progress};
pub use record_text::{check_message, check_publisher};
pub use records::{ChangeKind, ChangedPath, DiffAnswer, LogEntry, RecordAt};
pub use reload::{Brought, LocalChanges, ReloadAnswer, ReloadRequest, StashSummary};
pub use status::{AutomaticStatus, CacheStatus, LastFailure, StatusAnswer, TransferStatus, Unshown};
