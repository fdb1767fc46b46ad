//! The base that a view stands on, for whoever reads it without the view's locks.
//!
//! Nodes of a base may exist on this machine only (a prepared tree), and go when nothing needs them any more. The view itself
//! names those of its present base only: what it knew of another is found again after every move (`freeze.rs`,
//! `reload.rs`). Everybody else who goes on reading a base that the view has left, such as an open listing, has a
//! [`BaseHold`] of it.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::View;
use crate::model::{DirTree, Seq, TreeRoot};
use crate::overlay::OverlayState;

/// While one lives, the base that it was taken of may be read.
#[derive(Clone, Debug, Default)]
pub struct BaseHold(Arc<()>);

/// Tells whether anything holds a base.
#[derive(Clone, Debug)]
pub struct BaseWatch(Weak<()>);

impl BaseHold {
    /// Tells of this base from now on.
    pub fn watch(&self) -> BaseWatch {
        BaseWatch(Arc::downgrade(&self.0))
    }
}

impl BaseWatch {
    /// The view stands on it, or somebody reads it.
    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// True if it tells of the base of this hold.
    pub fn is_of(&self, hold: &BaseHold) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&hold.0))
    }
}

/// A base with a hold of it.
#[derive(Clone, Debug)]
pub struct HeldBase {
    pub(super) tree: TreeRoot,
    pub(super) hold: BaseHold,
}

impl HeldBase {
    /// The tree, without the hold.
    pub fn into_tree(self) -> TreeRoot {
        self.tree
    }

    /// The hold.
    pub fn hold(&self) -> &BaseHold {
        &self.hold
    }
}

impl Deref for HeldBase {
    type Target = TreeRoot;
    fn deref(&self) -> &TreeRoot {
        &self.tree
    }
}

/// Base and local changes of one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What the changes were made on.
    pub base: HeldBase,
    /// The changes.
    pub state: Arc<OverlayState>,
}

impl View {
    /// The base that the view stands on now.
    pub fn base(&self) -> HeldBase {
        self.space.read().held_base()
    }

    /// Records that files and listings which are open go on to be read from, whatever the view has moved to since.
    pub fn drawn_from(&self) -> BTreeSet<Seq> {
        self.space.read().drawn.all()
    }

    /// Base and local changes as they are now. Call [`View::settle`] before, if the times of writes matter.
    pub fn standing(&self) -> Standing {
        self.with_look(|look| Standing {
            base: look.space.held_base(),
            state: Arc::new(look.state.clone()),
        })
    }
}

/// True if the tree, as far as it is in memory, names a node that exists on this machine only. Recursion as deep as
/// directories are nested inside a node (at most 64) and pages have levels (at most 8).
pub(super) fn names_local(tree: &DirTree) -> bool {
    match tree {
        DirTree::Stored { ptr, .. } => ptr.pack.is_local(),
        DirTree::Inline(page) => page
            .entries
            .iter()
            .any(|(_, entry)| entry.as_dir().is_some_and(|(_, tree)| names_local(tree))),
        DirTree::Pages(pages) => pages.slots.iter().any(|slot| names_local(&slot.child)),
    }
}
