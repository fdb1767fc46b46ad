//! What is left of an overlay once a commit of it is published.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::state::{
    BaseRef, Change, DirChanges, FileState, NodeBody, NodeId, Origin, OverlayNode, OverlayState, ROOT_NODE,
};
use crate::model::{Content, Kind, Name};

/// Published bytes: size and descriptor by node.
type Contents = BTreeMap<NodeId, (u64, Content)>;

/// The overlay on M that shows what `current` shows on its base, where M is the tree that the base and `frozen` made
/// and `current` came from `frozen` by further changes.
///
/// What was not touched since the freeze leaves the overlay, except directories that what stays hangs in. A dirty file
/// of `frozen` that `contents` lacks stays dirty. The result has no commit under way.
pub fn rebase_after_publish(
    frozen: &OverlayState,
    current: &OverlayState,
    base: BaseRef,
    contents: &Contents,
) -> OverlayState {
    let rebase = Rebase {
        frozen,
        current,
        contents,
    };
    let keep = rebase.kept();
    let mut state = OverlayState {
        base,
        nodes: HashMap::with_capacity(keep.len()),
        links: HashMap::new(),
        next_node: current.next_node,
        next_body: current.next_body,
        generation: current.generation,
        frozen: None,
        last_commit: current.last_commit,
        origin_refs: HashMap::new(),
        forgotten: HashSet::new(),
    };
    for id in &keep {
        let node = rebase.node(*id, &keep);
        if let Some(Origin::Link(link)) = node.origin {
            state.links.insert(link, *id);
        }
        if current.forgotten.contains(id) || !current.nodes.contains_key(id) {
            state.forgotten.insert(*id);
        }
        state.insert(*id, node);
    }
    // Numbers go on where they were, whatever stayed.
    state.next_node = current.next_node;
    let forgotten: Vec<NodeId> = state.forgotten.iter().copied().collect();
    for id in forgotten {
        state.release(id);
    }
    state
}

struct Rebase<'a> {
    frozen: &'a OverlayState,
    current: &'a OverlayState,
    contents: &'a Contents,
}

impl Rebase<'_> {
    /// The node as it is in M, if it was in the overlay at the freeze and is in M.
    fn published(&self, id: NodeId) -> Option<&OverlayNode> {
        self.frozen
            .nodes
            .get(&id)
            .map(|node| &**node)
            .filter(|node| node.nlink > 0)
    }

    /// Which entry of M a node is.
    fn origin(&self, id: NodeId) -> Option<Origin> {
        match self.frozen.nodes.get(&id) {
            // Adopted since the freeze: untouched then, so it has in M the place that it had in the base.
            None => self.current.nodes.get(&id)?.origin.clone(),
            Some(node) if node.nlink == 0 => None,
            Some(node) => Some(match (node.link, node.names.first()) {
                _ if id == ROOT_NODE => Origin::Root,
                (Some(link), _) => Origin::Link(link),
                (None, Some((parent, name))) => Origin::Entry {
                    parent: *parent,
                    name: name.clone(),
                },
                (None, None) => {
                    unreachable!("a node with a name that is no inode of the links tree has a place")
                }
            }),
        }
    }

    /// Kind of the entry by which M names a node of the frozen state.
    fn kind_in_tree(&self, id: NodeId) -> Option<Kind> {
        let node = self.frozen.nodes.get(&id)?;
        Some(if node.link.is_some() {
            Kind::HardLink
        } else {
            node.kind()
        })
    }

    /// Nodes that stay, with everything that they hang on. May hold nodes that only the frozen state has: directories
    /// that an origin names, and inodes that M's links tree has but that lost their last name since.
    fn kept(&self) -> HashSet<NodeId> {
        let mut keep = HashSet::from([ROOT_NODE]);
        let mut todo: Vec<NodeId> = vec![ROOT_NODE];
        let seeds = self.current.nodes.keys().filter(|id| self.stays(**id));
        let gone = self.frozen.nodes.iter().filter(|(id, node)| {
            node.nlink > 0 && node.link.is_some() && !self.current.nodes.contains_key(id)
        });
        for id in seeds.chain(gone.map(|(id, _)| id)) {
            if keep.insert(*id) {
                todo.push(*id);
            }
        }
        while let Some(id) = todo.pop() {
            let names = self
                .current
                .nodes
                .get(&id)
                .map_or(&[][..], |node| &node.names[..]);
            let mut needs: Vec<NodeId> = names.iter().map(|(parent, _)| *parent).collect();
            if let Some(Origin::Entry { parent, .. }) = self.origin(id) {
                needs.push(parent);
            }
            for id in needs {
                if keep.insert(id) {
                    todo.push(id);
                }
            }
        }
        keep
    }

    /// True if the node differs from M, or may.
    fn stays(&self, id: NodeId) -> bool {
        let node = &self.current.nodes[&id];
        let Some(frozen) = self.frozen.nodes.get(&id) else {
            return true;
        };
        if frozen.nlink == 0 {
            // Not in M; needed only by who has it open.
            return !self.current.forgotten.contains(&id);
        }
        let unpublished =
            frozen.body.as_file().is_some_and(|file| file.dirty) && !self.contents.contains_key(&id);
        frozen.generation != node.generation || unpublished
    }

    fn node(&self, id: NodeId, keep: &HashSet<NodeId>) -> OverlayNode {
        let origin = self.origin(id);
        let published = self.published(id);
        let Some(node) = self.current.nodes.get(&id) else {
            return self.remains(id, origin);
        };
        let in_frozen = self.frozen.nodes.contains_key(&id);
        let base_attrs = match published {
            Some(published) => Some(published.attrs.clone()),
            None if in_frozen => None,
            None => node.base_attrs.clone(),
        };
        let body = match &node.body {
            NodeBody::Dir(dir) => NodeBody::Dir(self.dir(id, Some(dir), keep)),
            NodeBody::File(file) => NodeBody::File(self.file(id, file)),
            other => other.clone(),
        };
        let mut names = node.names.clone();
        if let NodeBody::Dir(_) = body {
        } else if matches!(origin, Some(Origin::Link(_))) {
            // Names that M has too are not touched any more.
            names.retain(|(parent, name)| !self.names_in_tree(*parent, name, id));
        }
        OverlayNode {
            origin,
            base_attrs,
            body,
            names,
            ..(**node).clone()
        }
    }

    /// A node that was dropped since the freeze but that M has.
    fn remains(&self, id: NodeId, origin: Option<Origin>) -> OverlayNode {
        let frozen = &self.frozen.nodes[&id];
        OverlayNode {
            generation: self.current.generation,
            origin,
            names: Vec::new(),
            nlink: 0,
            base_attrs: Some(frozen.attrs.clone()),
            body: match &frozen.body {
                NodeBody::Dir(_) => NodeBody::Dir(self.dir(id, None, &HashSet::new())),
                NodeBody::File(_) => NodeBody::File(FileState::of_base(None)),
                other => other.clone(),
            },
            ..(**frozen).clone()
        }
    }

    /// True if M has this name for this node, by what the frozen state says.
    fn names_in_tree(&self, parent: NodeId, name: &Name, id: NodeId) -> bool {
        matches!(self.frozen.change(parent, name.as_bytes()), Some(Change::Node { id: there, .. }) if *there == id)
    }

    /// A directory's changes against M. `dir`: the current ones; `None` for one that was removed and dropped since.
    fn dir(&self, id: NodeId, dir: Option<&DirChanges>, keep: &HashSet<NodeId>) -> DirChanges {
        let none = DirChanges::default();
        let current = dir.unwrap_or(&none);
        let frozen_node = self.frozen.nodes.get(&id);
        if frozen_node.is_some_and(|node| node.nlink == 0) {
            // Removed before the freeze: it is empty, and M knows nothing of it.
            return DirChanges::default();
        }
        let frozen = frozen_node.and_then(|node| node.body.as_dir()).unwrap_or(&none);
        let mut changes = BTreeMap::new();
        for (name, change) in &current.changes {
            if let Some(change) = self.change(frozen.changes.get(name), Some(change), keep) {
                changes.insert(name.clone(), change);
            }
        }
        for (name, change) in &frozen.changes {
            if !current.changes.contains_key(name)
                && let Some(change) = self.change(Some(change), None, keep)
            {
                changes.insert(name.clone(), change);
            }
        }
        DirChanges {
            changes,
            subdirs_delta: current.subdirs_delta - frozen.subdirs_delta,
        }
    }

    /// One name: what it was at the freeze (that is in M now), what it is now, to what it is against M. `None` for
    /// `now` is nothing there, `None` for `then` what the base had.
    fn change(&self, then: Option<&Change>, now: Option<&Change>, keep: &HashSet<NodeId>) -> Option<Change> {
        let hides = match then {
            None => {
                // M has there what the base had.
                return now.cloned();
            }
            Some(Change::Whiteout(_)) => None,
            Some(Change::Node { id, .. }) => self.kind_in_tree(*id),
        };
        match (then, now) {
            (Some(Change::Node { id: then, .. }), Some(Change::Node { id: now, .. })) if then == now => {
                // The same inode. M's entry leads to it, unless the overlay has to say so.
                let by_link = hides == Some(Kind::HardLink);
                (keep.contains(now) && !by_link).then_some(Change::Node { id: *now, hides })
            }
            (_, Some(Change::Node { id, .. })) => Some(Change::Node { id: *id, hides }),
            (_, Some(Change::Whiteout(_)) | None) => hides.map(Change::Whiteout),
        }
    }

    /// A file's bytes against M.
    fn file(&self, id: NodeId, file: &FileState) -> FileState {
        let Some(frozen) = self.published(id).and_then(|node| node.body.as_file()) else {
            return file.clone();
        };
        let published = match (frozen.dirty, self.contents.get(&id)) {
            (true, None) => return file.clone(),
            (_, Some(content)) => content.clone(),
            (false, None) => match &frozen.base {
                Some(content) => content.clone(),
                None => (0, Content::empty()),
            },
        };
        if file.bytes_generation == frozen.bytes_generation {
            // What is in the body stays right; what is not reads the same from M.
            let base_valid = if file.body.is_some() {
                file.base_valid.min(published.0)
            } else {
                published.0
            };
            return FileState {
                base: Some(published),
                dirty: false,
                bytes_generation: 0,
                base_valid,
                ..file.clone()
            };
        }
        let same_base = match (&file.base, &frozen.base) {
            (Some((a_size, a)), Some((b_size, b))) => a_size == b_size && a.same(b),
            _ => false,
        };
        if file.body.is_some() && (file.present.is_none() || same_base) {
            let base_valid = file.base_valid.min(published.0);
            return FileState {
                base: Some(published),
                base_valid,
                ..file.clone()
            };
        }
        file.clone()
    }
}
