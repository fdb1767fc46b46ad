//! The tree over nodes: lookup, list, edit and partition, diff, merge.

mod source;

pub use source::{Missing, NodeSource, TreeError};
