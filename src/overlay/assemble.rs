//! An overlay put together from nodes, for whoever turns a tree into an overlay instead of replaying changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::state::{BaseRef, NodeId, Origin, OverlayNode, OverlayState, ROOT_NODE};
use crate::model::Attrs;

impl OverlayState {
    /// The overlay of these nodes on `base`, with numbers that go on where `old` stopped. The nodes must fit together
    /// (names and changes, origins and directories) and hold the root; a missing root is taken as unchanged.
    pub fn from_nodes(
        old: &OverlayState,
        base: BaseRef,
        nodes: HashMap<NodeId, Arc<OverlayNode>>,
    ) -> OverlayState {
        let root_attrs = nodes
            .get(&ROOT_NODE)
            .map_or_else(Attrs::default, |root| root.attrs.clone());
        let mut state = OverlayState::succeeding(old, base, root_attrs);
        for (id, node) in &nodes {
            state.next_node = state.next_node.max(id + 1);
            state.generation = state.generation.max(node.generation);
            match &node.origin {
                Some(Origin::Entry { parent, .. }) => *state.origin_refs.entry(*parent).or_default() += 1,
                Some(Origin::Link(link)) => {
                    state.links.insert(*link, *id);
                }
                Some(Origin::Root) | None => {}
            }
        }
        // What hangs nowhere is here only because an origin or the links tree of the base names it.
        let remains = |id: &NodeId, node: &OverlayNode| *id != ROOT_NODE && node.nlink == 0;
        state.forgotten = nodes
            .iter()
            .filter(|(id, node)| remains(id, node))
            .map(|(id, _)| *id)
            .collect::<HashSet<_>>();
        state.nodes.extend(nodes);
        state
    }
}
