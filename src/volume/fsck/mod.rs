//! Checking a volume: that everything its records refer to is there, and is what it was.
//!
//! 1. Nodes are read and verified in any case: the tree cannot be walked without them, and the rules of `tree::visit`
//!    (totals, counts, link counts, chunk lists) come with the walk. A node that is named several times is walked once.
//! 2. Contents are read and verified whole, object by object, unless a look at the listing has to do. The bytes of a pack
//!    must also have the hash that names it.
//! 3. What was damaged is looked for once more in the trees, to name the paths. So memory grows with the number of
//!    different contents (some 60 bytes each), not with paths.
//! 4. Work is bounded by what is in the store, whatever its numbers claim: the log is compared with its listing, not
//!    asked slot by slot, and trees that name one node a million times cost one reading of it.
//! 5. Nothing is written. Objects that nothing refers to are counted: an upload that goes on now has some, too.

mod check;
mod contents;
mod log;
mod paths;
mod referred;
mod report;

pub use report::{Damage, FsckOptions, FsckProgress, FsckReport};
