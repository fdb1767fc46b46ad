//! One volume without a mount and without a terminal: what the commands that need no mount do, and whatever else serves files
//! without mounting.
//!
//! 1. A [`Session`] stands on the record that was the newest when it was opened; a change is published on top of the newest
//!    one, as every commit is.
//! 2. Nothing here prints, reads the environment or listens to signals: the deadline, the host's name, and who hears notes,
//!    progress and the wish to stop are handed in ([`Caller`]).
//! 3. A change is one record, or nothing was changed.

mod caller;
mod copy;
mod create;
mod export;
mod extract;
mod gather;
mod import;
mod list;
mod local;
mod publish;
mod read;
mod remove;
mod room;
mod session;
mod target;
#[cfg(test)]
mod tests;

pub use caller::{Caller, ProgressSink, within};
pub use copy::{CopyOptions, copy};
pub use create::create_volume;
pub use export::{Exported, export};
pub use import::{ImportOptions, Source, import};
pub use list::{ListOptions, Listing, list};
pub use local::local_failure;
pub use publish::{Words, publish};
pub use remove::{Removal, RemoveOptions, Removed};
pub use session::{Session, open_limited, open_store};
pub use target::{GivenTarget, Target};
