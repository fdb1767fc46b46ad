//! The tree that programs see in a mount: the *base* (the record's tree) with the local changes of the *overlay* on top, and the
//! bytes of both through the *cache*. Nothing here knows the FUSE library: `fuse/driver.rs` translates.
//!
//! # Locks, in the order in which they are taken
//! 1. a file's bytes (`file.rs`), two files never at once;
//! 2. the space: base, inode table, counts (`space.rs`);
//! 3. the overlay's state, and what the overlay takes below it;
//! 4. a directory handle's listing, and the small locks inside a file or the space: nothing is taken under them.
//!
//! The tables of open handles are locked alone, or after all others; while one is held only a directory handle's own lock
//! may be taken. No lock is held while anything is fetched, and threads of the overlay and the cache take none of these.
//!
//! # Invariants
//! 1. An operation is a future that completes at its first poll if everything that it needs is on this machine.
//! 2. Waits come before effects: an operation that is dropped while it waits, or that fails, has changed nothing that a
//!    process could see. (Entries of the base may have been copied into the overlay: they look as before, and a commit
//!    skips them.) The only exception: a write that meets a full disk may have written a part of its range; the size stays.
//! 3. Every acknowledged change is in the journal, or in a *body* (a local file with the bytes of one dirty file) that the
//!    journal names. A file with a body has the body's size. The time of its last write is the body's until close, fsync or
//!    freeze records it in the journal. The kernel may write to a body directly (passthrough); the journal marks that body as
//!    dirty before the first such write (`passthrough.rs`).
//! 4. An inode number means one inode until the kernel forgets it, through commits and reloads (`inodes.rs`). A name may be
//!    given a new inode while existing readers keep the old one (`passthrough.rs`, 5), and a reload may change the bytes of a
//!    file that nobody has open.
//! 5. A commit changes nothing that a process sees (`freeze.rs`); a reload changes everything in one step (`reload.rs`).
//! 6. Nothing is accepted that a commit would refuse: names, targets, attributes, depth of paths and sizes are checked here.
//!
//! # Questions and fetches
//! Reading the namespace is done by synchronous functions of [`space::Look`], changing it by those of [`edit::Edit`], both with
//! the locks held. When a part of the base is not on this machine they return [`space::Ask::Missing`]; [`View`] then releases
//! the locks, fetches that part, and calls them again. Bytes of files are read in the same way (`data.rs`).
//!
//! # Failure
//! [`ViewError`] has a variant for each failure that a program can tell from others, and holds the only table of errno values.

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
