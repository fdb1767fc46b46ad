//! The tree that a process sees: base plus overlay, over the cache. No fuser type in it.
//!
//! # Locks, in the order in which they are taken
//! 1. a file's bytes (`file.rs`), two files never at once;
//! 2. the space: base, inode table, counts (`space.rs`);
//! 3. the overlay's state, and what the overlay takes below it;
//! 4. a directory handle's listing, and the small locks inside a file or the space: nothing is taken under them.
//!
//! The tables of handles are looked at alone, or last: under them a directory handle's own lock is taken, nothing else. No lock is held while anything is fetched, and none is taken by a thread of
//! the overlay or the cache.
//!
//! # Invariants
//! 1. Every operation completes at its first poll when what it needs is on this machine.
//! 2. Waits come before effects: an operation that is dropped while it waits, or that fails, has changed nothing that a
//!    process could see. (Entries of the base may have been adopted: they look as before, and a commit passes them over.)
//!    Only a write that meets a full disk may have written a part of its range; the size stays.
//! 3. What is acknowledged is in the journal, or in a body that the journal names. The size of a file with a body is that of
//!    the body; the time of its last write reaches the journal at close, fsync and freeze, and until then stands in the
//!    body. What the kernel writes by itself (passthrough) is in the body, which the journal names as dirty from before the
//!    first write on (`passthrough.rs`).
//! 4. A node number means one inode until it is forgotten, through commits and reloads (`inodes.rs`). A name may come to lead
//!    to another number while the old one is open (`passthrough.rs`, 5), and a reload may give other bytes to a file that nobody
//!    has open.
//! 5. A commit changes nothing that a process sees (`freeze.rs`); a reload changes everything in one step (`reload.rs`).
//! 6. Nothing is accepted that a commit would refuse: names, targets, attributes, depth of paths and sizes are checked here.
//!
//! # Questions and fetches
//! Questions over the namespace are synchronous functions of [`space::Look`], changes of [`edit::Edit`], both under the
//! locks. What is not loaded of the base makes them answer [`space::Ask::Missing`]; [`View`] fetches it without a lock and
//! asks again. Bytes go the same way: `data.rs`.
//!
//! # Failure
//! [`ViewError`] has a variant for each answer that a program can tell apart, and the one table of errno values.

mod adopt;
mod attrs;
mod backing;
mod clock;
mod copy;
mod data;
mod descriptors;
mod dirs;
mod drawn;
mod edit;
mod errno;
mod file;
mod freeze;
mod inodes;
mod listing;
mod names;
mod noted;
mod open;
mod options;
mod passthrough;
mod ranges;
mod refresh;
mod reload;
mod rename;
mod seek;
mod setid;
mod space;
mod standing;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod usage;
#[allow(clippy::module_inception)]
mod view;
mod way;
mod xattrs;

pub use backing::{Access, Backing, CleanFile, KernelFile, Offer, Passthrough, WritableBacking};
pub use clock::{Clock, SystemClock};
pub use errno::ViewError;
pub use freeze::FrozenView;
pub use options::{ContentSource, Room, ShownOwner, ViewOptions};
pub use standing::{BaseHold, BaseWatch, HeldBase, Standing};
pub use types::{
    Allocate, Attr, Caller, CopySide, DirItem, DirItemPlus, Fh, Ino, Invalidations, Known, NodeKind, OpenDir,
    OpenFile, OpenFlags, OpenForWrite, ROOT_INO, RenameMode, Seek, SetAttr, SetTime, Statfs, XattrMode,
};
pub use view::{View, ViewParts};
