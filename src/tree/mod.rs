//! The tree over nodes: lookup, list, edit and partition, diff, merge.

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
pub use edit::{Edited, edit, edit_dir, edit_dir_entry};
pub use extents::{chunk_at, chunk_at_loaded, chunked_content, chunks, edit_chunks, small_content};
pub use fetch::{FETCHES_MAX, answer};
pub use links::{LinkDiff, add_names, diff_links, edit_links, inode_of, inodes, link, link_loaded};
pub use list::{
    Leaf, ListFrom, Run, count, entries, is_empty, leaf_entries, leaves, lookup, lookup_loaded, prefetch,
    run, run_loaded, walk,
};
pub use memory::{Fetched, MemorySource};
pub use merge::{Hint, Merged, Overwritten, Register, load_xattrs, merge, usable_hints};
pub use same::{same_attrs, same_body, same_entry, same_xattrs};
pub use source::{Missing, NodeSource, TreeError};
pub use store::{
    NodeParams, NodeWriter, PackIds, PackSink, StoredTree, WriterStats, Written, resolve_content,
    resolve_root, store,
};
pub use totals::{TotalsDelta, recount, recount_page, totals_of};
pub use visit::{Item, Place, Visit, Visitor, visit};
