//! Going through everything that a tree refers to: for checking a volume, for marking what is alive, for sources.
//!
//! Every rule that one tree can be held to without reading contents is checked on the way:
//! 1. totals of each directory are the sum over its entries (so, by induction, they are true of the whole subtree);
//! 2. entries and inodes lie in the key range of their page, and are as many as the index says;
//! 3. levels of index pages go down one by one to the leaves;
//! 4. a chunk list has as many chunks as the file's size, its pages have the content ids that the index says, and all
//!    of it has the content's id;
//! 5. every name of an inode with several names finds it, and it has as many as it counts.
//!
//! What a visitor skips, because it has seen the node in another tree, is not held to 1 and 5. A directory or a leaf of
//! one that was gone through in the same walk and is skipped where it is named again is: what it holds is remembered,
//! and it counts as complete unless there are hard links in it.
//!
//! Work and memory are bounded by the nodes there are, if the visitor skips those it has seen: a page stands once in a
//! directory or links tree, an extent list has no more pages than its size needs, and paths end at 1,024 directories.

mod contents;
mod links;
mod pages;
mod visitor;
mod walk;

pub use visitor::{Item, Place, Visit, Visitor};
pub use walk::{visit, visit_dir};
