//! Storing a tree: which entries stand in which node (SPEC.md 7.4), and which nodes in which pack.
//!
//! Invariants:
//! 1. Every node stays within the limits of the format; a directory or links tree that was edited has leaves and index
//!    pages of at most `page_max` measured bytes, and of at least a quarter of that where there is more than one (but
//!    a page that no edit touched stays as it is, and one that shed inlined directories may be smaller).
//! 2. What the tree names by a `Stored` pointer and did not change is not read and not written. Exceptions: a
//!    neighbour that a page under a quarter joins, and nodes that exist on this machine only.
//! 3. A node is written after everything below it, in depth-first order of paths, so neighbours in the tree are
//!    neighbours in the pack.
//! 4. Nothing that is returned names an unfinished pack.
//!
//! Where this differs from the text of the rule: a directory of which the direct entries alone overflow a page is not
//! stripped of its inlined children down to 256 bytes first, which would make very many tiny nodes and still not
//! save it from being cut into pages; there only children over a quarter of `inline_max` leave an overflowing
//! page. And directories are inlined in one another at most 32 deep (a chain of `a/a/a/…` fits hundreds into 8 KiB,
//! and readers refuse more than 64). Measures are of bodies: the table of packs of a page whose files lie in very many
//! packs comes on top (33 bytes for each pack), for a super node too.

mod dir;
mod leaves;
mod links;
mod paging;
mod placeholder;
mod rebuild;
mod writer;

pub use dir::{StoredTree, store};
pub use placeholder::{PackIds, resolve_content, resolve_root};
pub use writer::{NodeParams, NodeWriter, PackSink, WriterStats, Written, XattrBlobs};

pub(super) use paging::write_index;
