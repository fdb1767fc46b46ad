//! Requests, answers and failures.

#[path = "../../../../src/mount/answers.rs"]
mod answers;
#[path = "../../../../src/mount/failure.rs"]
mod failure;

pub use answers::*;
pub use failure::{Failure, FailureKind};
