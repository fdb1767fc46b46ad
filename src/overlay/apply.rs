//! The meaning of each [`Op`]. Everything is checked before anything is changed, so an op is never applied in part.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;

use super::op::{NewBody, Op, Place};
use super::rebase::rebase_after_publish;
use super::state::{
    BodyId, Change, DirChanges, FileState, Frozen, NodeBody, NodeId, Origin, OverlayNode, OverlayState,
    Prepared,
};
use crate::model::{Attrs, Kind, LinkId, Name, PATH_DEPTH_MAX, Timestamp};

/// An op does not fit the state: a mistake of the caller, or a damaged journal. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// No such node.
    #[error("overlay node {0} is not there")]
    NoNode(NodeId),
    /// The number was used before.
    #[error("overlay node {0} is already there")]
    NodeTaken(NodeId),
    /// The body is another node's.
    #[error("body {0} is in use")]
    BodyTaken(BodyId),
    /// The node is of another kind than the op needs.
    #[error("overlay node {0} is of the wrong kind")]
    WrongKind(NodeId),
    /// The place is not free.
    #[error("name {name} in overlay directory {parent} is taken")]
    NameTaken {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name,
    },
    /// The place does not hold what the op says.
    #[error("name {name} in overlay directory {parent} is not what the change says")]
    WrongPlace {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name,
    },
    /// A directory would be moved below itself, or deeper than paths may be.
    #[error("overlay directory {0} cannot be moved there")]
    Loop(NodeId),
    /// Anything else that contradicts the state.
    #[error("overlay node {0}: {1}")]
    Rule(NodeId, &'static str),
    /// The op belongs to a commit that is not the frozen one.
    #[error("commit {0} is not the one under way")]
    NotFrozen(u64),
}

/// What a place holds now.
enum Held {
    Nothing,
    /// An entry of the base that is not in the overlay.
    Base(Kind),
    Node(NodeId),
}

impl OverlayState {
    /// Applies one change.
    ///
    /// # Errors
    /// The op contradicts the state, which is then unchanged.
    pub fn apply(&mut self, op: &Op) -> Result<(), ApplyError> {
        match op {
            Op::Adopt {
                id,
                origin,
                attrs,
                nlink,
                body,
            } => self.adopt(*id, origin, attrs, *nlink, body),
            Op::Create {
                id,
                place,
                attrs,
                body,
                time,
            } => self.create(*id, place, attrs, body, *time),
            Op::Link {
                id,
                place,
                link,
                time,
            } => self.link(*id, place, *link, *time),
            Op::Remove { place, node, time } => self.remove(place, *node, *time),
            Op::Rename {
                node,
                from,
                to,
                replaced,
                time,
            } => self.rename(*node, from, to, *replaced, *time),
            Op::Exchange { a, b, time } => self.exchange((a.0, &a.1), (b.0, &b.1), *time),
            Op::SetAttrs { id, attrs } => {
                self.live(*id)?;
                self.touch(*id).attrs = attrs.clone();
                Ok(())
            }
            Op::GiveBody {
                id,
                body,
                present,
                base_valid,
                dirty,
            } => self.give_body(*id, *body, present.clone(), *base_valid, *dirty),
            Op::Present { id, body, frames } => self.set_present(*id, *body, frames),
            Op::MarkDirty { id } => self.change_bytes(*id, |file| file.dirty = true),
            Op::SetSize { id, size } => self.change_bytes(*id, |file| {
                file.dirty = true;
                file.base_valid = file.base_valid.min(*size);
            }),
            Op::ReplaceContent { id, size, content } => self.replace_content(*id, *size, content),
            Op::DropBody { id } => self.drop_body(*id),
            Op::Forget { id } => self.forget(*id),
            Op::SetSources { sources } => {
                if !sources.is_sorted_by(|a, b| a < b) {
                    return Err(ApplyError::Rule(super::ROOT_NODE, "sources are not sorted"));
                }
                self.base.sources = sources.clone();
                Ok(())
            }
            Op::Freeze { commit } => self.freeze(*commit),
            Op::Uploaded { commit, contents } => {
                let frozen = self.frozen_mut(*commit)?;
                frozen.uploaded.extend(
                    contents
                        .iter()
                        .map(|(id, size, content)| (*id, (*size, content.clone()))),
                );
                Ok(())
            }
            Op::Prepared {
                commit,
                txn,
                after,
                tree,
            } => {
                self.frozen_mut(*commit)?.prepared = Some(Prepared {
                    txn: *txn,
                    after: *after,
                    tree: *tree,
                });
                Ok(())
            }
            Op::Published {
                commit,
                base,
                contents,
            } => {
                self.frozen_mut(*commit)?;
                let frozen = self.frozen.take().ok_or(ApplyError::NotFrozen(*commit))?;
                let mut all = frozen.uploaded.clone();
                all.extend(
                    contents
                        .iter()
                        .map(|(id, size, content)| (*id, (*size, content.clone()))),
                );
                *self = rebase_after_publish(&frozen.state, self, base.clone(), &all);
                Ok(())
            }
            Op::Unfrozen { commit } => {
                self.frozen_mut(*commit)?;
                self.frozen = None;
                Ok(())
            }
        }
    }

    // ---- questions ----

    fn get(&self, id: NodeId) -> Result<&OverlayNode, ApplyError> {
        self.nodes
            .get(&id)
            .map(|node| &**node)
            .ok_or(ApplyError::NoNode(id))
    }

    /// A node that is not forgotten: forgotten ones are remains that nothing may touch.
    fn live(&self, id: NodeId) -> Result<&OverlayNode, ApplyError> {
        if self.forgotten.contains(&id) {
            return Err(ApplyError::Rule(id, "was forgotten"));
        }
        self.get(id)
    }

    fn dir(&self, id: NodeId) -> Result<&DirChanges, ApplyError> {
        let node = self.live(id)?;
        let dir = node.body.as_dir().ok_or(ApplyError::WrongKind(id))?;
        if node.nlink == 0 {
            return Err(ApplyError::Rule(id, "is a removed directory"));
        }
        Ok(dir)
    }

    pub(super) fn file(&self, id: NodeId) -> Result<&FileState, ApplyError> {
        self.live(id)?.body.as_file().ok_or(ApplyError::WrongKind(id))
    }

    fn fresh(&self, id: NodeId) -> Result<(), ApplyError> {
        if id < self.next_node || id == NodeId::MAX {
            return Err(ApplyError::NodeTaken(id));
        }
        Ok(())
    }

    /// What is at a place, and the kind of the base's entry there.
    fn held(&self, place: &Place) -> Result<(Held, Option<Kind>), ApplyError> {
        let dir = self.dir(place.parent)?;
        Ok(match dir.changes.get(&place.name) {
            Some(Change::Whiteout(kind)) => (Held::Nothing, Some(*kind)),
            Some(Change::Node { id, hides }) => (Held::Node(*id), *hides),
            None if self.get(place.parent)?.origin.is_none() => (Held::Nothing, None),
            None => (place.base.map_or(Held::Nothing, Held::Base), place.base),
        })
    }

    /// The place must be free; gives the kind of the base's entry that a whiteout hides there.
    fn free(&self, place: &Place) -> Result<Option<Kind>, ApplyError> {
        match self.held(place)? {
            (Held::Nothing, hides) => Ok(hides),
            _ => Err(ApplyError::NameTaken {
                parent: place.parent,
                name: place.name.clone(),
            }),
        }
    }

    /// Checks that `node` is what the place holds; gives the kind of the base's entry there. `None`: an entry of the base
    /// that needs no node.
    fn holds(&self, place: &Place, node: Option<NodeId>) -> Result<Option<Kind>, ApplyError> {
        let wrong = || ApplyError::WrongPlace {
            parent: place.parent,
            name: place.name.clone(),
        };
        let (held, hides) = self.held(place)?;
        let fits = match (held, node) {
            (Held::Node(id), Some(node)) => id == node,
            (Held::Base(Kind::HardLink), Some(node)) => {
                let node = self.live(node)?;
                matches!(node.origin, Some(Origin::Link(_))) && node.nlink > 0
            }
            (Held::Base(kind), None) => kind != Kind::HardLink,
            _ => false,
        };
        if fits { Ok(hides) } else { Err(wrong()) }
    }

    /// A directory must not come to lie below itself.
    fn no_loop(&self, moved: NodeId, into: NodeId) -> Result<(), ApplyError> {
        let mut at = into;
        for _ in 0..=PATH_DEPTH_MAX {
            if at == moved {
                return Err(ApplyError::Loop(moved));
            }
            match self.get(at)?.names.first() {
                Some((parent, _)) => at = *parent,
                None => return Ok(()),
            }
        }
        Err(ApplyError::Loop(moved))
    }

    fn frozen_mut(&mut self, commit: u64) -> Result<&mut Frozen, ApplyError> {
        match &mut self.frozen {
            Some(frozen) if frozen.commit == commit => Ok(Arc::make_mut(frozen)),
            _ => Err(ApplyError::NotFrozen(commit)),
        }
    }

    // ---- changes; from here on nothing fails ----

    /// The node, stamped with a new generation. It is there: the caller has looked.
    pub(super) fn touch(&mut self, id: NodeId) -> &mut OverlayNode {
        self.generation += 1;
        let generation = self.generation;
        let node = self.node_mut(id);
        node.generation = generation;
        node
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut OverlayNode {
        Arc::make_mut(self.nodes.get_mut(&id).expect("checked before the first change"))
    }

    /// The directory's changes, its times set.
    fn touch_dir(&mut self, id: NodeId, time: Timestamp) -> &mut DirChanges {
        let node = self.touch(id);
        node.attrs.mtime = time;
        node.attrs.ctime = time;
        node.dir_mut()
    }

    pub(super) fn insert(&mut self, id: NodeId, node: OverlayNode) {
        if let Some(Origin::Entry { parent, .. }) = &node.origin {
            *self.origin_refs.entry(*parent).or_default() += 1;
        }
        self.next_node = self.next_node.max(id + 1);
        self.nodes.insert(id, Arc::new(node));
    }

    /// Puts a node at a free place.
    fn attach(&mut self, id: NodeId, place: &Place, hides: Option<Kind>, time: Timestamp) {
        let is_dir = self.nodes[&id].kind() == Kind::Dir;
        let dir = self.touch_dir(place.parent, time);
        dir.changes.insert(place.name.clone(), Change::Node { id, hides });
        dir.subdirs_delta += i64::from(is_dir);
        let node = self.touch(id);
        node.names.push((place.parent, place.name.clone()));
        node.attrs.ctime = time;
    }

    /// Takes what a place holds away from it: a node (if it is in the overlay) loses that name.
    fn detach(&mut self, node: Option<NodeId>, place: &Place, hides: Option<Kind>, time: Timestamp) {
        let was_dir = match node {
            Some(id) => self.nodes[&id].kind() == Kind::Dir,
            None => hides == Some(Kind::Dir),
        };
        let dir = self.touch_dir(place.parent, time);
        match hides {
            Some(kind) => dir.changes.insert(place.name.clone(), Change::Whiteout(kind)),
            None => dir.changes.remove(&place.name),
        };
        dir.subdirs_delta -= i64::from(was_dir);
        if let Some(id) = node {
            let node = self.touch(id);
            node.names
                .retain(|(parent, name)| *parent != place.parent || *name != place.name);
            node.attrs.ctime = time;
        }
    }

    fn adopt(
        &mut self,
        id: NodeId,
        origin: &Origin,
        attrs: &Attrs,
        nlink: u64,
        body: &NewBody,
    ) -> Result<(), ApplyError> {
        self.fresh(id)?;
        let body = body.to_node_body();
        let kind = body.kind();
        let (names, link) = match origin {
            Origin::Root => return Err(ApplyError::Rule(id, "the root is adopted from the start")),
            Origin::Entry { parent, name } => {
                if nlink != 1 {
                    return Err(ApplyError::Rule(id, "a plain entry has one name"));
                }
                let dir = self.dir(*parent)?;
                if dir.changes.contains_key(name) || self.get(*parent)?.origin.is_none() {
                    return Err(ApplyError::NameTaken {
                        parent: *parent,
                        name: name.clone(),
                    });
                }
                (vec![(*parent, name.clone())], None)
            }
            Origin::Link(link) => {
                if nlink == 0 || kind == Kind::Dir || self.links.contains_key(link) {
                    return Err(ApplyError::Rule(id, "cannot be adopted from the links tree"));
                }
                (Vec::new(), Some(*link))
            }
        };
        if let Origin::Entry { parent, name } = origin {
            // What the directory shows does not change, so neither do its times and generation.
            let change = Change::Node {
                id,
                hides: Some(kind),
            };
            self.node_mut(*parent)
                .dir_mut()
                .changes
                .insert(name.clone(), change);
        }
        if let Some(link) = link {
            self.links.insert(link, id);
        }
        self.generation += 1;
        let node = OverlayNode {
            generation: self.generation,
            origin: Some(origin.clone()),
            names,
            nlink,
            link,
            attrs: attrs.clone(),
            base_attrs: Some(attrs.clone()),
            body,
        };
        self.insert(id, node);
        Ok(())
    }

    fn create(
        &mut self,
        id: NodeId,
        place: &Place,
        attrs: &Attrs,
        body: &NewBody,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        self.fresh(id)?;
        let hides = self.free(place)?;
        let node = OverlayNode {
            generation: 0,
            origin: None,
            names: Vec::new(),
            nlink: 1,
            link: None,
            attrs: attrs.clone(),
            base_attrs: None,
            body: body.to_node_body(),
        };
        self.insert(id, node);
        self.attach(id, place, hides, time);
        self.node_mut(id).attrs = attrs.clone();
        Ok(())
    }

    fn link(
        &mut self,
        id: NodeId,
        place: &Place,
        link: Option<LinkId>,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        let node = self.live(id)?;
        if node.kind() == Kind::Dir {
            return Err(ApplyError::WrongKind(id));
        }
        if node.nlink == 0 || node.nlink == u64::MAX {
            return Err(ApplyError::Rule(id, "cannot get another name"));
        }
        if node.link.is_some() == link.is_some() {
            return Err(ApplyError::Rule(
                id,
                "a link id is drawn with the second name, once",
            ));
        }
        let hides = self.free(place)?;
        self.attach(id, place, hides, time);
        let node = self.node_mut(id);
        node.nlink += 1;
        node.link = node.link.or(link);
        Ok(())
    }

    /// Takes a name away for good.
    fn unlink(&mut self, node: Option<NodeId>, place: &Place, hides: Option<Kind>, time: Timestamp) {
        self.detach(node, place, hides, time);
        if let Some(id) = node {
            self.node_mut(id).nlink -= 1;
        }
    }

    fn remove(&mut self, place: &Place, node: Option<NodeId>, time: Timestamp) -> Result<(), ApplyError> {
        let hides = self.holds(place, node)?;
        self.removable(node)?;
        self.unlink(node, place, hides, time);
        Ok(())
    }

    /// As far as the overlay can tell, a directory that goes is empty.
    fn removable(&self, node: Option<NodeId>) -> Result<(), ApplyError> {
        let Some(id) = node else { return Ok(()) };
        if let Some(dir) = self.live(id)?.body.as_dir()
            && dir
                .changes
                .values()
                .any(|change| matches!(change, Change::Node { .. }))
        {
            return Err(ApplyError::Rule(id, "is not empty"));
        }
        Ok(())
    }

    fn rename(
        &mut self,
        id: NodeId,
        from: &Place,
        to: &Place,
        replaced: Option<NodeId>,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        let from_hides = self.holds(from, Some(id))?;
        let (held, to_hides) = self.held(to)?;
        if replaced == Some(id) || (from.parent == to.parent && from.name == to.name) {
            return Err(ApplyError::Rule(id, "renamed onto itself"));
        }
        let occupied = !matches!(held, Held::Nothing);
        if occupied {
            self.holds(to, replaced)?;
            self.removable(replaced)?;
        } else if replaced.is_some() {
            return Err(ApplyError::WrongPlace {
                parent: to.parent,
                name: to.name.clone(),
            });
        }
        if self.get(id)?.kind() == Kind::Dir {
            self.no_loop(id, to.parent)?;
        }
        if occupied {
            self.unlink(replaced, to, to_hides, time);
        }
        self.detach(Some(id), from, from_hides, time);
        self.attach(id, to, to_hides, time);
        Ok(())
    }

    fn exchange(
        &mut self,
        a: (NodeId, &Place),
        b: (NodeId, &Place),
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        let a_hides = self.holds(a.1, Some(a.0))?;
        let b_hides = self.holds(b.1, Some(b.0))?;
        if a.0 == b.0 {
            return Err(ApplyError::Rule(a.0, "exchanged with itself"));
        }
        for (moved, into) in [(a.0, b.1.parent), (b.0, a.1.parent)] {
            if self.get(moved)?.kind() == Kind::Dir {
                self.no_loop(moved, into)?;
            }
        }
        self.detach(Some(a.0), a.1, a_hides, time);
        self.detach(Some(b.0), b.1, b_hides, time);
        self.attach(a.0, b.1, b_hides, time);
        self.attach(b.0, a.1, a_hides, time);
        Ok(())
    }

    fn forget(&mut self, id: NodeId) -> Result<(), ApplyError> {
        if self.get(id)?.nlink > 0 || !self.forgotten.insert(id) {
            return Ok(());
        }
        self.release(id);
        Ok(())
    }

    /// Drops a forgotten node, and the directories that only its origin kept; or what of it need not stay.
    pub(super) fn release(&mut self, id: NodeId) {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            if !self.forgotten.contains(&id) {
                return;
            }
            let Some(node) = self.nodes.get(&id) else { return };
            let in_links_tree = matches!(node.origin, Some(Origin::Link(_)));
            if in_links_tree {
                // A commit has to take the inode out of the links tree, so the node stays; its bytes need not.
                let node = self.node_mut(id);
                if let NodeBody::File(file) = &mut node.body {
                    *file = FileState::of_base(None);
                }
                return;
            }
            if self.origin_refs.get(&id).is_some_and(|refs| *refs > 0) {
                return;
            }
            self.forgotten.remove(&id);
            let node = self.nodes.remove(&id);
            if let Some(Origin::Entry { parent, .. }) = node.as_deref().and_then(|node| node.origin.as_ref())
                && let MapEntry::Occupied(mut refs) = self.origin_refs.entry(*parent)
            {
                *refs.get_mut() -= 1;
                if *refs.get() == 0 {
                    refs.remove();
                    next = Some(*parent);
                }
            }
        }
    }

    fn freeze(&mut self, commit: u64) -> Result<(), ApplyError> {
        if self.frozen.is_some() || commit <= self.last_commit {
            return Err(ApplyError::NotFrozen(commit));
        }
        self.last_commit = commit;
        let state = Arc::new(self.clone());
        self.frozen = Some(Arc::new(Frozen {
            commit,
            state,
            uploaded: Default::default(),
            prepared: None,
        }));
        Ok(())
    }

    /// Counts again what follows from `nodes`.
    pub(super) fn count_origins(&mut self) {
        let mut refs: HashMap<NodeId, u64> = HashMap::new();
        for node in self.nodes.values() {
            if let Some(Origin::Entry { parent, .. }) = &node.origin {
                *refs.entry(*parent).or_default() += 1;
            }
        }
        self.origin_refs = refs;
    }
}

impl NewBody {
    fn to_node_body(&self) -> NodeBody {
        match self {
            NewBody::Dir => NodeBody::Dir(DirChanges::default()),
            NewBody::File(base) => NodeBody::File(FileState::of_base(base.clone())),
            NewBody::Symlink(target) => NodeBody::Symlink(target.clone()),
            NewBody::Fifo => NodeBody::Fifo,
            NewBody::Socket => NodeBody::Socket,
            NewBody::CharDev(major, minor) => NodeBody::CharDev(*major, *minor),
            NewBody::BlockDev(major, minor) => NodeBody::BlockDev(*major, *minor),
        }
    }
}

impl OverlayNode {
    fn dir_mut(&mut self) -> &mut DirChanges {
        match &mut self.body {
            NodeBody::Dir(dir) => dir,
            _ => unreachable!("checked to be a directory before the first change"),
        }
    }

    pub(super) fn file_mut(&mut self) -> &mut FileState {
        match &mut self.body {
            NodeBody::File(file) => file,
            _ => unreachable!("checked to be a file before the first change"),
        }
    }
}
