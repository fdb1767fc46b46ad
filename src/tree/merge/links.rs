//! Access to the links tree.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::format::Node;
use crate::model::{EntryBody, LinkId, LinkInode, LinksTree, Ptr};
use crate::tree::{NodeSource, TreeError};

type LinkDiff = (LinkId, Option<LinkInode>, Option<LinkInode>);

async fn leaf(src: &dyn NodeSource, mut ptr: Ptr, id: LinkId) -> Result<Option<LinkInode>, TreeError> {
    loop {
        match src.node(&ptr).await?.as_ref() {
            Node::Links(page) => {
                let at = page.inodes.binary_search_by(|(other, _)| other.cmp(&id));
                return Ok(at.ok().map(|at| page.inodes[at].1.clone()));
            }
            Node::Index(page) => {
                let at = page.slots.partition_point(|slot| *slot.first_key <= id.0[..]);
                ptr = page.slots[at.max(1) - 1].ptr;
            }
            _ => {
                return Err(TreeError::Damaged {
                    object: ptr.hash.to_string(),
                    rule: "not of the links tree".into(),
                });
            }
        }
    }
}

pub async fn lookup_link(
    src: &dyn NodeSource,
    links: &LinksTree,
    id: LinkId,
) -> Result<Option<LinkInode>, TreeError> {
    if let Some(edit) = links.edits.get(&id) {
        return Ok(edit.clone());
    }
    match links.stored {
        Some((ptr, _)) => leaf(src, ptr, id).await,
        None => Ok(None),
    }
}

async fn ids(src: &dyn NodeSource, links: &LinksTree) -> Result<Vec<LinkId>, TreeError> {
    let mut all = Vec::new();
    let mut open: Vec<Ptr> = links.stored.iter().map(|(ptr, _)| *ptr).collect();
    while let Some(ptr) = open.pop() {
        let node: Arc<Node> = src.node(&ptr).await?;
        match node.as_ref() {
            Node::Links(page) => all.extend(page.inodes.iter().map(|(id, _)| *id)),
            Node::Index(page) => open.extend(page.slots.iter().map(|slot| slot.ptr)),
            _ => {}
        }
    }
    Ok(all)
}

pub async fn diff_links(
    src: &dyn NodeSource,
    a: &LinksTree,
    b: &LinksTree,
) -> Result<Vec<LinkDiff>, TreeError> {
    let mut keys: BTreeSet<LinkId> = a.edits.keys().chain(b.edits.keys()).copied().collect();
    if a.stored.map(|(ptr, _)| ptr.hash) != b.stored.map(|(ptr, _)| ptr.hash) {
        keys.extend(ids(src, a).await?);
        keys.extend(ids(src, b).await?);
    }
    let mut differing = Vec::new();
    for id in keys {
        let (x, y) = (lookup_link(src, a, id).await?, lookup_link(src, b, id).await?);
        if x.is_some() || y.is_some() {
            differing.push((id, x, y));
        }
    }
    Ok(differing)
}

pub async fn edit_links(
    src: &dyn NodeSource,
    links: &LinksTree,
    edits: Vec<(LinkId, Option<LinkInode>)>,
) -> Result<LinksTree, TreeError> {
    let size = |inode: &LinkInode| match inode.entry.body {
        EntryBody::File { size, .. } => size,
        _ => 0,
    };
    let mut edited = links.clone();
    for (id, inode) in edits {
        if let Some(old) = lookup_link(src, &edited, id).await? {
            edited.count -= 1;
            edited.bytes -= size(&old);
        }
        if let Some(new) = &inode {
            edited.count += 1;
            edited.bytes += size(new);
        }
        edited.edits.insert(id, inode);
    }
    Ok(edited)
}
