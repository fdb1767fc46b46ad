//! Nodes: the stored pieces of the tree.

use std::sync::Arc;

use crate::model::{ChunkRef, DirPage, Hash, LinkId, LinkInode, Ptr};

/// A decoded node. Pointers in it are absolute: slot 0 has been replaced by the pack that the node came from.
#[derive(Clone, Debug)]
pub enum Node {
    /// Entries of a directory, with inlined child directories.
    Dir(Arc<DirPage>),
    /// Children of a large directory, extent list or links tree.
    Index(Arc<IndexPage>),
    /// Chunk references of a large file.
    Extent(Arc<ExtentPage>),
    /// Inodes with several names.
    Links(Arc<LinkPage>),
}

/// An index page.
#[derive(Clone, Debug)]
pub struct IndexPage {
    /// 1 above leaves; at most 8 levels.
    pub level: u8,
    /// Children by first key; the first one's key is empty.
    pub slots: Vec<IndexSlot>,
}

/// One child of an index page.
#[derive(Clone, Debug)]
pub struct IndexSlot {
    /// No key below this one is in the child (first child: empty).
    pub first_key: Box<[u8]>,
    /// The child node.
    pub ptr: Ptr,
    /// Entries in it and below.
    pub count: u64,
    /// For extents: hash over the page's chunk ids.
    pub page_cid: Option<Hash>,
}

/// Chunk references `1024 i ..` of a file.
#[derive(Clone, Debug)]
pub struct ExtentPage {
    /// In order.
    pub chunks: Vec<ChunkRef>,
}

/// A leaf of the links tree, sorted by id.
#[derive(Clone, Debug)]
pub struct LinkPage {
    /// The inodes.
    pub inodes: Vec<(LinkId, LinkInode)>,
}
