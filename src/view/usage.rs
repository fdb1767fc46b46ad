//! What df counts, in O(1): the base's totals and what the overlay adds or takes away.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::model::{Kind, TreeRoot};
use crate::overlay::{Change, NodeBody, Origin, OverlayState};

/// Inodes and logical bytes of the overlay minus those of the base. Exact for what happened since the view was opened;
/// of an overlay found at the start, files that were deleted in it count until the next commit as zero bytes less,
/// because their sizes stand in the base, and df never waits for that.
#[derive(Debug, Default)]
pub(super) struct Usage {
    inodes: AtomicI64,
    bytes: AtomicI64,
}

impl Usage {
    /// Counted once over the overlay.
    pub fn new(state: &OverlayState) -> Usage {
        let (mut inodes, mut bytes) = (0i64, 0i64);
        for node in state.nodes.values() {
            let lives = node.nlink > 0;
            inodes += match &node.origin {
                // Where it stood in the base it is taken off below.
                None | Some(Origin::Entry { .. }) => i64::from(lives),
                Some(Origin::Link(_)) => i64::from(lives) - 1,
                Some(Origin::Root) => 0,
            };
            match &node.body {
                NodeBody::Dir(dir) => {
                    let of_base = dir.changes.values().filter(|change| match change {
                        Change::Whiteout(kind) => *kind != Kind::HardLink,
                        Change::Node { hides, .. } => hides.is_some_and(|kind| kind != Kind::HardLink),
                    });
                    inodes -= signed(of_base.count() as u64);
                }
                NodeBody::File(file) => {
                    let of_base = signed(file.base.as_ref().map_or(0, |(size, _)| *size));
                    // What has a body is counted by that.
                    let now = if lives && file.body.is_none() { of_base } else { 0 };
                    bytes += now - if node.origin.is_some() { of_base } else { 0 };
                }
                _ => {}
            }
        }
        Usage {
            inodes: AtomicI64::new(inodes),
            bytes: AtomicI64::new(bytes),
        }
    }

    /// Inodes come or go.
    pub fn add_inodes(&self, count: i64) {
        self.inodes.fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes come or go.
    pub fn add_bytes(&self, count: i64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// A file has another size.
    pub fn resized(&self, before: u64, after: u64) {
        self.add_bytes(signed(after).saturating_sub(signed(before)));
    }

    /// Inodes and bytes of what the view shows.
    pub fn total(&self, base: &TreeRoot) -> (u64, u64) {
        let inodes = inodes_of(base).saturating_add_signed(self.inodes.load(Ordering::Relaxed));
        let bytes = base
            .bytes()
            .saturating_add_signed(self.bytes.load(Ordering::Relaxed));
        (inodes, bytes)
    }

    /// The same view stands on another base.
    pub fn rebase(&self, before: &TreeRoot, after: &TreeRoot) {
        self.add_inodes(signed(inodes_of(before)).saturating_sub(signed(inodes_of(after))));
        self.add_bytes(signed(before.bytes()).saturating_sub(signed(after.bytes())));
    }
}

/// Inodes of a tree, the root counted.
fn inodes_of(tree: &TreeRoot) -> u64 {
    let names = tree
        .totals
        .files
        .saturating_add(tree.totals.dirs)
        .saturating_add(1);
    names
        .saturating_sub(tree.totals.links)
        .saturating_add(tree.links.count)
}

pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
