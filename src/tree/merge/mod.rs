//! The three-way merge (MERGE.md): commit, `reload --keep`, taking up a parked overlay, and stash restore.
//!
//! `base` is the tree that `mine` was made from, `head` the tree to merge onto; `mine` is the later writer. The result
//! is the head's tree with what `mine` changed relative to `base`.
//!
//! Registers of a path: that there is a directory; a file's existence with its content; the link id of a name; mode,
//! owner (user and group together), mtime, and each xattr key. Content and attributes of an inode with several names
//! are registers of the inode. Change times and file ids go along and never conflict. Everything that is no directory
//! is treated alike: the content of a symbolic link is its target, that of a device its number.
//!
//! Invariants:
//! 1. Equal pointers prune: a subtree that is one node in two of the trees is not loaded, and the result is, register
//!    by register, that of a merge which loads everything. So the cost follows what mine changed, and what both did.
//! 2. Contents are compared by identity (`Content::same`), never by place; where both sides hold the same, the result
//!    refers to the head's, which needs no proof that it is still kept.
//! 3. Contents that mine wrote are in the result at their path (an inode with several names: under one of its names).
//! 4. Contents or attributes that only the head has are in the result, or reported as overwritten.
//! 5. Link counts are those of the names in the result; an inode without a name is not in the links tree.
//!
//! What MERGE.md 6 leaves to be told:
//! - A name that mine left alone while the head unlinked or replaced it stays as the head has it, also when mine wrote
//!   through it: the write goes to the inode, under its other names. Only when no name would be left do all names come
//!   back that mine had (the merge runs again with this inode among the *revived*).
//! - Removing or replacing one of several names overwrites nothing as long as another name is left.
//! - The head made the first link of a file that mine wrote: the write goes to the inode, unless the head wrote that
//!   name too or replaced it by a link to another file; then the name becomes a file of its own again, with mine's
//!   content. Chmods and the like always go to the inode.
//! - Permissions of a symbolic link come with the link.
//! - Xattrs of both sides that together exceed the limit of an entry: mine's, the head's keys are reported.

mod count;
mod dirs;
mod inodes;
mod moves;
mod names;
mod registers;
mod report;
mod xattrs;

pub use moves::{Hint, usable_hints};
pub use names::merge;
pub use report::{Merged, Overwritten, Register};
pub use xattrs::load_xattrs;

use report::Reports;

#[cfg(test)]
pub mod model;
#[cfg(test)]
mod tests;
