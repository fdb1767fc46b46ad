//! The bytes of the remote volume.

mod node;

pub use node::{ExtentPage, IndexPage, IndexSlot, LinkPage, Node};
