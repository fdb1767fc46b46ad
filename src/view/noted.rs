//! Names that the kernel keeps though no inode of the table knows them: that nothing is there, and hard links, which have more
//! names than one place. A reload that drops names one by one needs them.

use std::collections::HashSet;

use super::types::Ino;
use crate::model::Name;

/// Most names that are noted, some 100 bytes each. With more the next reload drops all names at once.
const NOTED_MAX: usize = 10_000;

/// What was told since the last reload.
#[derive(Debug, Default)]
pub(super) struct Noted {
    names: HashSet<(Ino, Name)>,
    /// There were more.
    lost: bool,
}

impl Noted {
    pub fn note(&mut self, dir: Ino, name: &[u8]) {
        if self.lost {
            return;
        }
        if self.names.len() >= NOTED_MAX {
            self.names = HashSet::new();
            self.lost = true;
            return;
        }
        if let Ok(name) = Name::new(name) {
            self.names.insert((dir, name));
        }
    }

    /// All of them, and none is noted any more. `None`: not all are known.
    pub fn take(&mut self) -> Option<HashSet<(Ino, Name)>> {
        let taken = std::mem::take(self);
        (!taken.lost).then_some(taken.names)
    }
}
