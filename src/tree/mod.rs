//! The tree over nodes: lookup, list, edit and partition, diff, merge.
//!
//! A tree is a value ([`crate::model::TreeRoot`]): changing it makes another one that shares what did not change. Parts are
//! in memory (`Inline`, `Pages`) or stored (`Stored`); [`store`] turns the first into the second. All that is needed
//! from outside is a [`NodeSource`].
//!
//! Invariants:
//! 1. Totals of a directory are what a recount of its entries gives ([`recount`]). Whoever puts an edited directory into
//!    its parent takes its totals along ([`edit_dir_entry`]).
//! 2. Equal pointers mean equal content and are used to skip work; unequal ones mean nothing. Entries are compared by
//!    what they are, never by where their bytes lie ([`same_entry`]).
//! 3. Costs go with what changed: an edit loads the pages that hold the names, a diff those that are not in both, a
//!    store writes those that changed.
//! 4. Paths may be 1,024 directories deep, so nothing here recurses by depth of directories; only by levels of pages (at
//!    most 8) and by nesting inside a node (at most 64).
//!
//! Failure: a node that breaks a rule is `TreeError::Damaged` with the pack's key; nothing is guessed.

mod diff;
mod edit;
mod extents;
mod fetch;
mod links;
mod list;
mod memory;
mod merge;
mod same;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod totals;
mod visit;

pub use diff::{Change, NameDiff, Registers, diff, diff_below, diff_dirs};
pub use edit::{Edited, NameChanges, edit, edit_dir, edit_dir_entry};
pub use extents::{chunk_at, chunk_at_loaded, chunked_content, chunks, edit_chunks, small_content};
pub use fetch::{FETCHES_MAX, answer};
pub use links::{LinkDiff, add_names, diff_links, edit_links, inode_of, inodes, link, link_loaded};
pub use list::{
    Leaf, ListFrom, Run, count, entries, is_empty, leaf_entries, leaves, lookup, lookup_loaded, path_given,
    prefetch, run, run_loaded, walk,
};
pub use memory::{Fetched, MemorySource};
#[cfg(test)]
pub use merge::model as merge_model;
pub use merge::{Hint, Merged, Overwritten, Register, load_xattrs, merge, usable_hints};
pub use same::{same_attrs, same_body, same_entry, same_xattrs};
pub use source::{Missing, NodeSource, TreeError};
pub use store::{
    NodeParams, NodeWriter, PackIds, PackSink, StoredTree, WriterStats, Written, XattrBlobs, resolve_content,
    resolve_root, store,
};
pub use totals::{TotalsDelta, recount, recount_page, totals_of};
pub use visit::{Item, Place, Visit, Visitor, visit, visit_dir};
