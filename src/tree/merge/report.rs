//! What a merge says about itself.

use std::collections::BTreeSet;

use super::Hint;
use crate::model::{TreeRoot, VolPath};

/// One value that can be changed on its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Register {
    /// A file's existence and bytes; what stands for it in other kinds. Also the kind itself.
    Content,
    /// Permission bits.
    Mode,
    /// User and group.
    Owner,
    /// Modification time; never of a directory.
    Mtime,
    /// The extended attribute of this name.
    Xattr(Box<[u8]>),
}

/// A change of the head's side that the merge undid and that mine's user had not seen.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Overwritten {
    /// Path in mine.
    pub path: VolPath,
    /// Path in the head, if a move brought it here.
    pub came_from: Option<VolPath>,
    /// Which value.
    pub register: Register,
}

/// A merged tree.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The result: in memory where it differs from the head and from mine, stored nodes elsewhere.
    pub root: TreeRoot,
    /// What went under, by path.
    pub overwritten: Vec<Overwritten>,
    /// The hints that held. After `reload --keep` they are still moves, against the new base.
    pub used_hints: Vec<Hint>,
}

/// Overwritten registers while a merge runs.
#[derive(Debug, Default)]
pub(super) struct Reports {
    found: BTreeSet<(VolPath, Register)>,
}

impl Reports {
    pub fn add(&mut self, path: &VolPath, registers: impl IntoIterator<Item = Register>) {
        self.found
            .extend(registers.into_iter().map(|register| (path.clone(), register)));
    }

    /// With the places where moved paths came from: the nearest move above a path says it.
    pub fn finish(self, used: &[Hint]) -> Vec<Overwritten> {
        let came_from = |path: &VolPath| {
            let above = used.iter().filter(|(_, to)| path.is_under(to));
            let (from, to) = above.max_by_key(|(_, to)| to.0.len())?;
            let mut source = from.clone();
            source.0.extend_from_slice(&path.0[to.0.len()..]);
            (source != *path).then_some(source)
        };
        let found = self.found.into_iter();
        found
            .map(|(path, register)| Overwritten {
                came_from: came_from(&path),
                path,
                register,
            })
            .collect()
    }
}
