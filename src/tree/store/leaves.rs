//! What the paging of directories and of the links tree have in common.

use std::sync::Arc;

use async_trait::async_trait;

use super::writer::NodeWriter;
use crate::format::{LinkPage, Node, dir_body_len, entry_len, link_inode_len};
use crate::model::{DirPage, DirTree, Entry, EntryBody, LinkId, LinkInode, Name};
use crate::tree::TreeError;

/// A kind of sorted items that are cut into leaves.
#[async_trait]
pub(super) trait LeafKind: Send + Sync + 'static {
    /// One item.
    type Item: Send + Sync + 'static;

    /// What the items are sorted by.
    fn key(item: &Self::Item) -> &[u8];

    /// Measured length of an item.
    fn len(item: &Self::Item) -> usize;

    /// The items of a leaf, `None` for another kind of node.
    fn items(node: &Node) -> Option<Vec<Self::Item>>;

    /// The leaf with these items.
    fn node(items: Vec<Self::Item>) -> Node;

    /// Makes items of an overflowing leaf shorter, if that can be done.
    async fn relieve(items: &mut [Self::Item], writer: &mut NodeWriter) -> Result<(), TreeError>;
}

/// Entries of directories.
pub(super) struct Dirs;

#[async_trait]
impl LeafKind for Dirs {
    type Item = (Name, Entry);

    fn key((name, _): &(Name, Entry)) -> &[u8] {
        name.as_bytes()
    }

    fn len((name, entry): &(Name, Entry)) -> usize {
        entry_len(name, entry)
    }

    fn items(node: &Node) -> Option<Vec<(Name, Entry)>> {
        match node {
            Node::Dir(page) => Some(page.entries.clone()),
            _ => None,
        }
    }

    fn node(entries: Vec<(Name, Entry)>) -> Node {
        Node::Dir(Arc::new(DirPage { entries }))
    }

    async fn relieve(items: &mut [(Name, Entry)], writer: &mut NodeWriter) -> Result<(), TreeError> {
        let over = writer.params().inline_max / 4;
        evict(items, over, writer).await
    }
}

/// Moves inlined directories of more than `over` measured bytes into nodes of their own.
pub(super) async fn evict(
    entries: &mut [(Name, Entry)],
    over: usize,
    writer: &mut NodeWriter,
) -> Result<(), TreeError> {
    for (_, entry) in entries {
        if let EntryBody::Dir { tree, .. } = &mut entry.body
            && let DirTree::Inline(page) = tree
            && dir_body_len(page) > over
        {
            let ptr = writer.add_node(&Node::Dir(page.clone())).await?;
            *tree = DirTree::stored(ptr, false);
        }
    }
    Ok(())
}

/// Inodes of the links tree.
pub(super) struct Links;

#[async_trait]
impl LeafKind for Links {
    type Item = (LinkId, LinkInode);

    fn key((id, _): &(LinkId, LinkInode)) -> &[u8] {
        id.as_bytes()
    }

    fn len((_, inode): &(LinkId, LinkInode)) -> usize {
        link_inode_len(inode)
    }

    fn items(node: &Node) -> Option<Vec<(LinkId, LinkInode)>> {
        match node {
            Node::Links(page) => Some(page.inodes.clone()),
            _ => None,
        }
    }

    fn node(inodes: Vec<(LinkId, LinkInode)>) -> Node {
        Node::Links(Arc::new(LinkPage { inodes }))
    }

    async fn relieve(_: &mut [(LinkId, LinkInode)], _: &mut NodeWriter) -> Result<(), TreeError> {
        Ok(()) // an inode is at most some KiB long
    }
}
