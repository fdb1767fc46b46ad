//! The overlay as a tree: what commit previews, `reload --keep`, stashes and prefetch look at.

use std::sync::Arc;

use crate::answer::{Failure, FailureKind};
use crate::commit::{Built, Contents, build};
use crate::model::{Content, LocalContent, TreeRoot};
use crate::overlay::{Change, NodeBody, Origin, Overlay, OverlayState};
use crate::tree::NodeSource;

/// Every file with a body, named as local content.
///
/// # Errors
/// A body that is not there.
pub fn local_contents(overlay: &Overlay, state: &OverlayState, number: u64) -> Result<Contents, Failure> {
    let mut contents = Contents::new();
    for (id, node) in &state.nodes {
        let NodeBody::File(file) = &node.body else {
            continue;
        };
        let Some(body) = file.body else { continue };
        let size = overlay
            .body(body)
            .and_then(|body| body.len())
            .map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))?;
        let local = LocalContent {
            overlay: number,
            node: *id,
            generation: node.generation,
        };
        // A file that was only opened for writing has the bytes of its base.
        let content = match &file.base {
            Some((_, content)) if !file.dirty => content.clone(),
            _ => Content::Local(local),
        };
        contents.insert(*id, (size, content));
    }
    Ok(contents)
}

/// Base and overlay as one tree, with nothing uploaded.
///
/// # Errors
/// What the source says; a body that is not there.
pub async fn local_tree(
    src: &dyn NodeSource,
    overlay: &Overlay,
    base: &TreeRoot,
    state: &Arc<OverlayState>,
    number: u64,
) -> Result<Built, Failure> {
    let contents = local_contents(overlay, state, number)?;
    Ok(build(src, base, state, &contents).await?)
}

/// Changes as people count them: entries made, changed or moved, and names removed. A directory of the base of which
/// only the times differ, because something in it changed, is none.
pub fn count_changes(state: &OverlayState) -> u64 {
    let mut count = 0;
    for (id, node) in &state.nodes {
        if let NodeBody::Dir(dir) = &node.body {
            count += dir
                .changes
                .values()
                .filter(|change| matches!(change, Change::Whiteout(_)))
                .count() as u64;
        }
        let only_times = match (&node.body, &node.base_attrs) {
            (NodeBody::Dir(_), Some(base)) => {
                let in_place = node.origin == Some(Origin::Root)
                    || matches!(&node.origin, Some(Origin::Entry { parent, name }) if node.names == [(*parent, name.clone())]);
                in_place
                    && base.mode == node.attrs.mode
                    && (base.uid, base.gid) == (node.attrs.uid, node.attrs.gid)
                    && base.xattrs == node.attrs.xattrs
            }
            _ => false,
        };
        if !only_times && state.differs(*id, node) {
            count += 1;
        }
    }
    count
}
