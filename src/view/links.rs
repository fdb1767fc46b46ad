//! One inode of the base's links tree.

use crate::format::Node;
use crate::model::{LinkId, LinkInode, LinksTree};
use crate::tree::{Missing, NodeSource};

/// The inode of that id, over loaded nodes; `None` when the tree does not have it.
///
/// # Errors
/// The node that has to be fetched first.
pub(super) fn link_loaded(
    src: &dyn NodeSource,
    links: &LinksTree,
    id: &LinkId,
) -> Result<Option<LinkInode>, Missing> {
    if let Some(edited) = links.edits.get(id) {
        return Ok(edited.clone());
    }
    let Some((mut ptr, _)) = links.stored else {
        return Ok(None);
    };
    loop {
        match &*src.loaded(&ptr).ok_or(Missing(ptr))? {
            Node::Index(page) => {
                let at = page
                    .slots
                    .partition_point(|slot| &*slot.first_key <= id.as_bytes().as_slice());
                match page.slots.get(at.saturating_sub(1)) {
                    Some(slot) => ptr = slot.ptr,
                    None => return Ok(None),
                }
            }
            Node::Links(page) => {
                let at = page.inodes.binary_search_by(|(it, _)| it.cmp(id));
                return Ok(at.ok().map(|at| page.inodes[at].1.clone()));
            }
            // Asked again with waiting, this is reported as damage.
            Node::Dir(_) | Node::Extent(_) => return Err(Missing(ptr)),
        }
    }
}
