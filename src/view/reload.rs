//! The view moves to another base, in one step.
//!
//! 1. Nothing is fetched, and no inode is looked at but those of the overlay: every other one finds out what it is at its
//!    next use (`refresh.rs`).
//! 2. A file that is open keeps the content that it was opened with. One that stays in the new overlay under its number
//!    goes on there; what is written to another ends with its last handle, as with a file that was replaced by rename.
//! 3. Listings that were begun go on (`dirs.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::file::Turn;
use super::freeze::path_in;
use super::inodes::What;
use super::space::Look;
use super::types::{Ino, Invalidations};
use super::usage::Usage;
use super::view::Dirty;
use super::{View, ViewError};
use crate::model::{Entry, LinkId, Name, TreeRoot, VolPath};
use crate::overlay::{BaseRef, NodeBody, NodeId, Op, Overlay, OverlayNode, OverlayState, ROOT_NODE};

/// Most names that a reload drops one by one where it could drop all at once: some 3 us each.
const NAMED_MAX: usize = 10_000;

impl View {
    /// Moves to `base`. `switch` replaces the overlay's state by one that stands on it, or fails and leaves everything as
    /// it is; it runs while nothing else can look at or change the view, and gets the overlay and the files that are
    /// open for writing, to see that nothing was changed since the new state was made. Call [`View::settle`] before
    /// making that.
    ///
    /// The answer has the new generation: the kernel drops all names with one epoch message (or see
    /// [`View::invalidations`]) before the reload is answered.
    pub fn reload<T, E: From<ViewError>>(
        &self,
        base: TreeRoot,
        switch: impl FnOnce(&Overlay, &HashSet<NodeId>) -> Result<T, E>,
    ) -> Result<(T, u64), E> {
        let Dirty::Overlay(overlay) = &self.dirty else {
            return Err(ViewError::ReadOnly.into());
        };
        let mut space = self.space.write();
        let before: Vec<Leaving> = {
            let state = overlay.read();
            let look = Look {
                space: &space,
                state: &state,
                overlay: Some(overlay),
            };
            self.listings_outlive(look);
            let nodes = space.inodes.nodes().filter(|(_, id, _)| *id != ROOT_NODE);
            let leaving = nodes.filter_map(|(ino, id, inode)| {
                let node = state.node(id)?.clone();
                space.note_names(&node);
                Some(Leaving {
                    ino,
                    id,
                    entry: look.entry_of(inode, id, &node),
                    place: space.place_of(&node),
                    node,
                })
            });
            leaving.collect()
        };
        let written = before.iter().filter(|was| {
            let file = space.inodes.get(was.ino).and_then(|inode| inode.file.as_ref());
            file.is_some_and(|file| file.writers() > 0)
        });
        let done = switch(overlay, &written.map(|was| was.id).collect())?;
        space.generation += 1;
        let generation = space.generation;
        let mut marks = Vec::new();
        let state = overlay.read();
        let links: HashMap<LinkId, NodeId> = state
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((node.link?, *id)))
            .collect();
        for was in before {
            if let Some(node) = state.node(was.id).filter(|node| node.kind() == was.node.kind()) {
                marks.extend(missing_marks(was.id, &was.node, node));
                let what = What::Node(was.id);
                space.inodes.become_(was.ino, what, None, generation);
                continue;
            }
            if let Some(file) = space.inodes.get(was.ino).and_then(|inode| inode.file.as_ref())
                && !file.is_clean()
            {
                // What had no name was dropped. A body that the kernel writes to by itself is the only one that counts:
                // with a copy, a cut would not be seen. (Files that are open for writing and have a name stay.)
                let shared = was.node.nlink > 0;
                file.turn(Turn::Private { shared });
            }
            let link = was.node.link;
            space.leave_overlay(was.ino, was.place, link, was.node.nlink, was.entry);
            // A hard link that was made here is in no base: by its identity nobody else would find it again.
            if let Some(id) = link.and_then(|link| links.get(&link)) {
                let what = What::Node(*id);
                let look = Look {
                    space: &space,
                    state: &state,
                    overlay: Some(overlay),
                };
                if look.still_is(was.ino, &what) {
                    space.inodes.become_(was.ino, what, None, generation);
                }
            }
        }
        space
            .inodes
            .become_(super::ROOT_INO, What::Node(ROOT_NODE), None, generation);
        self.end_freeze(&mut space);
        space.usage = Usage::new(&state);
        count_bodies(&space.usage, overlay, &state);
        space.set_base(base);
        drop(state);
        if !marks.is_empty() {
            overlay.write().apply_all(&marks).map_err(ViewError::from)?;
        }
        Ok((done, generation))
    }

    /// The same for a read-only mount.
    pub fn reload_read_only(&self, base: TreeRoot, base_ref: BaseRef) -> Result<u64, ViewError> {
        let Dirty::None(state) = &self.dirty else {
            return Err(ViewError::Invalid);
        };
        let mut space = self.space.write();
        self.listings_outlive(Look {
            space: &space,
            state: &state.read(),
            overlay: None,
        });
        *state.write() = OverlayState::new(base_ref, base.attrs.clone());
        space.generation += 1;
        let generation = space.generation;
        space
            .inodes
            .become_(super::ROOT_INO, What::Node(ROOT_NODE), None, generation);
        space.usage = Usage::default();
        space.set_base(base);
        Ok(generation)
    }

    /// What the kernel has and that is not known to be right after a reload. With `epochs` all names at once, unless they are
    /// few: an overlayfs on top of the mount takes a name of an older epoch for stale for good, and looks a single name that
    /// was dropped up again.
    pub fn invalidations(&self, epochs: bool) -> Invalidations {
        let mut all = self.with_look(|look| {
            let mut all = Invalidations {
                generation: look.space.generation,
                directories: known_directories(look),
                ..Invalidations::default()
            };
            let noted = look.space.noted.lock().take();
            let count = look.space.inodes.len() + noted.as_ref().map_or(0, HashSet::len);
            all.all_names = epochs && (noted.is_none() || count > NAMED_MAX);
            if all.all_names {
                all.inodes
                    .extend(look.space.inodes.open().map(|(_, file)| file.ino));
            } else {
                // Without epochs what is not noted was told with a time to live of 0.
                all.names = known_names(look);
                all.names.extend(noted.into_iter().flatten());
                let inodes = look.space.inodes.iter();
                all.inodes.extend(inodes.map(|(ino, _)| ino));
            }
            all
        });
        all.under_way = self.listings_under_way();
        all
    }

    /// One path of an inode, for messages.
    pub fn path_of(&self, ino: Ino) -> Option<VolPath> {
        self.with_look(|look| {
            let mut names: Vec<Name> = Vec::new();
            let mut at = ino;
            loop {
                let inode = look.space.inodes.get(at)?;
                match (&inode.what, &inode.place) {
                    (What::Node(id), _) => {
                        let mut path = path_in(look.state, *id)?;
                        path.0.extend(names.into_iter().rev());
                        return Some(path);
                    }
                    (_, Some((dir, name))) => {
                        names.push(name.clone());
                        at = *dir;
                    }
                    _ => return None,
                }
            }
        })
    }
}

/// Directories that the kernel has references to.
fn known_directories(look: Look<'_>) -> Vec<Ino> {
    let is_dir = |id| {
        let node = look.state.node(id);
        node.is_some_and(|node| node.body.as_dir().is_some())
    };
    let nodes = look.space.inodes.nodes().filter(|(_, id, _)| is_dir(*id));
    let nodes = nodes.map(|(ino, ..)| ino);
    nodes.chain(look.space.inodes.clean_dirs()).collect()
}

/// Names of inodes that the kernel has references to, as far as each of them has names of its own.
fn known_names(look: Look<'_>) -> Vec<(Ino, Name)> {
    let mut all = Vec::new();
    for (_, inode) in look.space.inodes.iter() {
        match (&inode.place, &inode.what) {
            (Some(place), _) => all.push(place.clone()),
            (None, What::Node(id)) => {
                let names = look.state.node(*id).map_or(&[][..], |node| &node.names);
                let known = names
                    .iter()
                    .filter_map(|(parent, name)| Some((look.space.inodes.of_node(*parent)?, name.clone())));
                all.extend(known);
            }
            (None, _) => {}
        }
    }
    all
}

/// Frames that came into a body while the new state was being made: marks are no changes, so nothing told of them.
fn missing_marks(id: NodeId, before: &OverlayNode, now: &OverlayNode) -> Option<Op> {
    let (before, now) = (before.body.as_file()?, now.body.as_file()?);
    let (body, had, has) = (before.body?, before.present.as_ref()?, now.present.as_ref()?);
    if now.body != Some(body) {
        return None;
    }
    let mut frames = Vec::new();
    for (word, bits) in had.iter().enumerate() {
        let missing = bits & !has.get(word).copied().unwrap_or(0);
        let first = word as u64 * 64;
        frames.extend(
            (0..64)
                .filter(|bit| missing >> bit & 1 == 1)
                .map(|bit| (first + bit, 1)),
        );
    }
    (!frames.is_empty()).then_some(Op::Present { id, body, frames })
}

/// An inode of the old overlay.
struct Leaving {
    ino: Ino,
    id: NodeId,
    node: Arc<OverlayNode>,
    entry: Entry,
    place: Option<(Ino, Name)>,
}

/// The bytes of files with a body are those of the body.
pub(super) fn count_bodies(usage: &Usage, overlay: &Overlay, state: &OverlayState) {
    for node in state.nodes.values() {
        if let NodeBody::File(file) = &node.body
            && node.nlink > 0
            && let Some(body) = file.body
            // A body that is not there is told to whoever reads it.
            && let Ok(stat) = overlay.body_stat(body)
        {
            usage.resized(0, stat.len);
        }
    }
}
