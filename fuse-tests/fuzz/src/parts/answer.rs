//! Requests, answers and failures.

#[path = "../../../../src/answer/commit.rs"]
mod commit;
#[path = "../../../../src/answer/events.rs"]
mod events;
#[path = "../../../../src/answer/failure.rs"]
mod failure;
#[path = "../../../../src/answer/progress.rs"]
mod progress;
#[path = "../../../../src/answer/records.rs"]
mod records;
#[path = "../../../../src/answer/reload.rs"]
mod reload;
#[path = "../../../../src/answer/status.rs"]
mod status;

pub use commit::*;
pub use events::*;
pub use failure::{Failure, FailureKind};
pub use progress::*;
pub use records::*;
pub use reload::*;
pub use status::*;
