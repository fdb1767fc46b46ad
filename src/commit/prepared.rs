//! M as a stored tree on this machine: what the view stands on after a commit that had to merge.

use bytes::Bytes;

use super::error::CommitError;
use crate::format::{FinishedPack, SuperNode, encode_super};
use crate::model::{Hash, TreeRoot};
use crate::tree::{self, NodeSource, NodeWriter};

/// A tree of which the nodes that differ from the remote ones are in packs for the state directory (`LOCAL_EPOCH`). It
/// is read back by `decode_super` with local packs allowed.
#[derive(Clone, Debug)]
pub struct PreparedTree {
    /// Hash of the super node: the tree's name ([`crate::overlay::BaseRef::prepared`]).
    pub hash: Hash,
    /// The super node's stored bytes.
    pub stored: Bytes,
    /// Length of its raw form, bytes.
    pub raw_len: u32,
    /// Packs that were written for it.
    pub packs: Vec<FinishedPack>,
    /// It needs no other pack of the state directory. Else it may name those of the tree that it was made from.
    pub is_whole: bool,
    /// The tree, all of it stored.
    pub tree: TreeRoot,
}

/// Stores a tree for the state directory, by a writer for it.
pub(super) async fn stored_locally(
    src: &dyn NodeSource,
    tree: &TreeRoot,
    writer: NodeWriter,
) -> Result<PreparedTree, CommitError> {
    let is_whole = writer.gathers();
    let stored = tree::store(src, tree, writer).await?;
    let node = SuperNode {
        root: stored.root,
        refs: None,
        history: None,
    };
    let encoded = encode_super(&node, true)?;
    Ok(PreparedTree {
        hash: encoded.hash,
        stored: Bytes::from(encoded.stored),
        raw_len: encoded.raw_len,
        packs: stored.packs,
        is_whole,
        tree: node.root,
    })
}

/// Hash by which two stored trees are known to be the same; `None` for one that is not stored.
pub(super) fn tree_hash(tree: &TreeRoot) -> Option<Hash> {
    let node = SuperNode {
        root: tree.clone(),
        refs: None,
        history: None,
    };
    encode_super(&node, true).ok().map(|encoded| encoded.hash)
}
