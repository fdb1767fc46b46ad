//! What subtrees hold, counted.
//!
//! Invariant: the totals of a directory are the sum of what its entries count for ([`totals_of`]), in every tree that
//! this module's callers make. Editing adds and takes away, [`recount`] is the definition.

use super::TreeError;
use crate::model::{DirPage, Entry, EntryBody, Name, Totals};

/// What one entry adds to the totals of the directory that holds it. Sums that a damaged volume makes larger than 64
/// bits stay at the largest value.
pub fn totals_of(entry: &Entry) -> Totals {
    match &entry.body {
        EntryBody::File { size, .. } => Totals {
            files: 1,
            bytes: *size,
            ..Totals::default()
        },
        EntryBody::HardLink(_) => Totals {
            files: 1,
            links: 1,
            ..Totals::default()
        },
        EntryBody::Dir { totals, .. } => Totals {
            files: totals.files,
            dirs: totals.dirs.saturating_add(1),
            bytes: totals.bytes,
            links: totals.links,
            subdirs: 1,
        },
        EntryBody::Symlink { .. }
        | EntryBody::Fifo
        | EntryBody::Socket
        | EntryBody::CharDev { .. }
        | EntryBody::BlockDev { .. } => Totals {
            files: 1,
            ..Totals::default()
        },
    }
}

/// The totals of a directory with these entries.
pub fn recount(entries: &[(Name, Entry)]) -> Totals {
    entries
        .iter()
        .fold(Totals::default(), |sum, (_, entry)| plus(sum, totals_of(entry)))
}

/// The totals of a directory that holds all entries of some page.
pub fn recount_page(page: &DirPage) -> Totals {
    recount(&page.entries)
}

/// What an edit took out of a directory and what it put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TotalsDelta {
    /// Sum over the entries that were there before.
    pub removed: Totals,
    /// Sum over the entries that are there now.
    pub added: Totals,
}

impl TotalsDelta {
    /// Counts the replacement of one entry.
    pub fn count(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        if let Some(old) = old {
            self.removed = plus(self.removed, totals_of(old));
        }
        if let Some(new) = new {
            self.added = plus(self.added, totals_of(new));
        }
    }

    /// The totals after the edit.
    ///
    /// # Errors
    /// `Damaged` when more would be taken away than there is: the stored totals were wrong.
    pub fn apply(&self, before: &Totals) -> Result<Totals, TreeError> {
        let field = |pick: fn(&Totals) -> u64| {
            pick(before)
                .checked_add(pick(&self.added))
                .and_then(|sum| sum.checked_sub(pick(&self.removed)))
        };
        let after = || {
            Some(Totals {
                files: field(|t| t.files)?,
                dirs: field(|t| t.dirs)?,
                bytes: field(|t| t.bytes)?,
                links: field(|t| t.links)?,
                subdirs: field(|t| t.subdirs)?,
            })
        };
        after().ok_or_else(|| TreeError::Damaged {
            object: "totals of a directory".to_owned(),
            rule: "they are less than what its entries hold".to_owned(),
        })
    }
}

/// Field by field.
pub(crate) fn plus(a: Totals, b: Totals) -> Totals {
    Totals {
        files: a.files.saturating_add(b.files),
        dirs: a.dirs.saturating_add(b.dirs),
        bytes: a.bytes.saturating_add(b.bytes),
        links: a.links.saturating_add(b.links),
        subdirs: a.subdirs.saturating_add(b.subdirs),
    }
}
