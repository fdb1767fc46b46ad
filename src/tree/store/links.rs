//! Storing the links tree: its edits are worked into its leaves.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::dir::store_entry;
use super::leaves::{LeafKind, Links};
use super::paging::{Paged, Piece, store_pages};
use super::writer::NodeWriter;
use crate::format::{IndexSlot, Node};
use crate::model::{LinkId, LinkInode, LinksTree, Ptr};
use crate::tree::{NodeSource, TreeError, fetch};

type Edits = BTreeMap<LinkId, Option<LinkInode>>;

/// Stores a links tree; without edits it stays as it is.
pub(super) async fn store_links(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    links: &LinksTree,
) -> Result<LinksTree, TreeError> {
    let foreign = links.stored.is_some_and(|(ptr, _)| !writer.may_name(&ptr));
    if links.edits.is_empty() && !foreign {
        return Ok(links.clone());
    }
    let mut edits = links.edits.clone();
    for inode in edits.values_mut().flatten() {
        store_entry(src, writer, &mut inode.entry).await?;
    }
    let (level, pieces) = match &links.stored {
        None => {
            let inodes = edits
                .into_iter()
                .filter_map(|(id, inode)| Some((id, inode?)))
                .collect();
            (
                1,
                vec![Piece::Leaf {
                    first_key: Box::default(),
                    items: inodes,
                }],
            )
        }
        Some((ptr, _)) => match pieces(src, writer, (*ptr, None), Box::default(), edits).await? {
            Piece::Index { level, children, .. } => (level, children),
            one => (1, vec![one]),
        },
    };
    let stored = match store_pages::<Links>(src, writer, level, pieces).await? {
        Paged::Empty => None,
        Paged::Node { ptr, index } => Some((ptr, index)),
        Paged::OneLeaf(inodes) if inodes.is_empty() => None,
        Paged::OneLeaf(inodes) => Some((writer.add_node(&Links::node(inodes)).await?, false)),
    };
    Ok(LinksTree {
        stored,
        edits: BTreeMap::new(),
        count: links.count,
        bytes: links.bytes,
    })
}

/// The node at `ptr` with the edits in it. Recursion as deep as there are levels, at most 8.
fn pieces<'a>(
    src: &'a dyn NodeSource,
    writer: &'a mut NodeWriter,
    (ptr, below): (Ptr, Option<u8>),
    first_key: Box<[u8]>,
    mut edits: Edits,
) -> BoxFuture<'a, Result<Piece<(LinkId, LinkInode)>, TreeError>> {
    Box::pin(async move {
        match &*src.node(&ptr).await? {
            Node::Links(page) if below.is_none_or(|level| level == 1) => {
                let mut inodes: BTreeMap<LinkId, LinkInode> = page.inodes.iter().cloned().collect();
                for inode in inodes.values_mut() {
                    store_entry(src, writer, &mut inode.entry).await?;
                }
                for (id, inode) in edits {
                    match inode {
                        Some(inode) => inodes.insert(id, inode),
                        None => inodes.remove(&id),
                    };
                }
                Ok(Piece::Leaf {
                    first_key,
                    items: inodes.into_iter().collect(),
                })
            }
            Node::Index(page) if below.is_none_or(|level| page.level + 1 == level) => {
                let mut children = Vec::with_capacity(page.slots.len());
                for (at, slot) in page.slots.iter().enumerate() {
                    // What is below the next child's first key belongs here.
                    let rest = match page.slots.get(at + 1) {
                        Some(next) => edits.split_off(&lowest_from(&next.first_key)),
                        None => Edits::new(),
                    };
                    let here = std::mem::replace(&mut edits, rest);
                    let foreign = !writer.may_name(&slot.ptr);
                    children.push(if here.is_empty() && !foreign {
                        Piece::Kept(IndexSlot { ..slot.clone() })
                    } else {
                        pieces(
                            src,
                            writer,
                            (slot.ptr, Some(page.level)),
                            slot.first_key.clone(),
                            here,
                        )
                        .await?
                    });
                }
                Ok(Piece::Index {
                    first_key,
                    level: page.level,
                    children,
                })
            }
            _ => Err(fetch::wrong_kind(&ptr)),
        }
    })
}

/// The lowest id that is not below a key.
fn lowest_from(key: &[u8]) -> LinkId {
    let mut id = LinkId([0; 16]);
    let len = key.len().min(16);
    id.0[..len].copy_from_slice(&key[..len]);
    id
}
