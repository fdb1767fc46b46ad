//! One live mount: opens the parts, orders commit, reload and stash (one at a time), and tells about itself.
//!
//! 1. Commit, reload and stash restore exclude each other; everything else goes on meanwhile.
//! 2. A commit whose outcome is not known is settled before anything else changes what the mount stands on.
//! 3. Local bytes are given up only after the record that holds them is in the log, or a stash holds them.
//! 4. A reload is answered after the kernel was told to ask again.

mod commit;
mod compare;
mod events;
mod keeping;
mod kept;
mod lease;
mod live;
mod local;
mod memory;
mod open;
mod options;
mod parked;
mod passthrough;
mod patience;
mod reload;
mod report;
mod source;
#[cfg(test)]
mod tests;
mod unattended;
mod unsettled;
mod unshown;

pub use events::{Counts, EventStream};
pub use live::{Mount, ProgressSink};
pub use memory::limit_arenas;
pub use options::{KernelCaches, MountOptions, MountSummary, OpenedMount, WhileTaken};
pub use report::Statistics;
pub use unattended::{DELETED_FREE, DELETED_PERCENT, Unattended};
