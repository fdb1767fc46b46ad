//! Puts a finished pack's id where its placeholder stands in values of the tree.

use std::sync::Arc;

use crate::model::{
    BlobRef, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, PackRef, PageTree, Ptr, Xattrs,
};

/// A value that may name the pack being written ([`PackRef::open`]). Stored nodes are not followed: what they say is
/// slot 0, which needs no id.
pub trait Resolve {
    /// Replaces the placeholder of every reference by `pack`.
    fn resolve(&mut self, pack: PackRef);

    /// True if a placeholder is left.
    fn is_unresolved(&self) -> bool;
}

impl Resolve for PackRef {
    fn resolve(&mut self, pack: PackRef) {
        if self.is_open() {
            *self = pack;
        }
    }

    fn is_unresolved(&self) -> bool {
        self.is_open()
    }
}

impl Resolve for Ptr {
    fn resolve(&mut self, pack: PackRef) {
        self.pack.resolve(pack);
    }

    fn is_unresolved(&self) -> bool {
        self.pack.is_open()
    }
}

impl Resolve for BlobRef {
    fn resolve(&mut self, pack: PackRef) {
        self.pack.resolve(pack);
    }

    fn is_unresolved(&self) -> bool {
        self.pack.is_open()
    }
}

impl Resolve for ChunkRef {
    fn resolve(&mut self, pack: PackRef) {
        if let ChunkRef::Packed(blob) = self {
            blob.resolve(pack);
        }
    }

    fn is_unresolved(&self) -> bool {
        matches!(self, ChunkRef::Packed(blob) if blob.is_unresolved())
    }
}

impl Resolve for Content {
    fn resolve(&mut self, pack: PackRef) {
        match self {
            Content::Tiny(_) | Content::Local(_) => {}
            Content::Blob(blob) => blob.resolve(pack),
            Content::Chunks { chunks, .. } => {
                if chunks.iter().any(Resolve::is_unresolved) {
                    let mut resolved = chunks.to_vec();
                    resolved.iter_mut().for_each(|chunk| chunk.resolve(pack));
                    *chunks = resolved.into();
                }
            }
            Content::Paged { root, .. } => root.resolve(pack),
        }
    }

    fn is_unresolved(&self) -> bool {
        match self {
            Content::Tiny(_) | Content::Local(_) => false,
            Content::Blob(blob) => blob.is_unresolved(),
            Content::Chunks { chunks, .. } => chunks.iter().any(Resolve::is_unresolved),
            Content::Paged { root, .. } => root.is_unresolved(),
        }
    }
}

impl Resolve for Xattrs {
    fn resolve(&mut self, pack: PackRef) {
        if let Xattrs::OutOfLine { blob, .. } = self {
            blob.resolve(pack);
        }
    }

    fn is_unresolved(&self) -> bool {
        matches!(self, Xattrs::OutOfLine { blob, .. } if blob.is_unresolved())
    }
}

impl Resolve for Entry {
    fn resolve(&mut self, pack: PackRef) {
        self.attrs.xattrs.resolve(pack);
        match &mut self.body {
            EntryBody::File { content, .. } => content.resolve(pack),
            EntryBody::Dir { tree, .. } => tree.resolve(pack),
            _ => {}
        }
    }

    fn is_unresolved(&self) -> bool {
        self.attrs.xattrs.is_unresolved()
            || match &self.body {
                EntryBody::File { content, .. } => content.is_unresolved(),
                EntryBody::Dir { tree, .. } => tree.is_unresolved(),
                _ => false,
            }
    }
}

impl Resolve for DirPage {
    fn resolve(&mut self, pack: PackRef) {
        self.entries.iter_mut().for_each(|(_, entry)| entry.resolve(pack));
    }

    fn is_unresolved(&self) -> bool {
        self.entries.iter().any(|(_, entry)| entry.is_unresolved())
    }
}

impl Resolve for DirTree {
    fn resolve(&mut self, pack: PackRef) {
        match self {
            // Copied only where there is something to replace: unchanged pages stay shared.
            DirTree::Inline(page) => {
                if page.is_unresolved() {
                    Arc::make_mut(page).resolve(pack);
                }
            }
            DirTree::Stored { ptr, .. } => ptr.resolve(pack),
            DirTree::Pages(pages) => pages.resolve(pack),
        }
    }

    fn is_unresolved(&self) -> bool {
        match self {
            DirTree::Inline(page) => page.is_unresolved(),
            DirTree::Stored { ptr, .. } => ptr.is_unresolved(),
            DirTree::Pages(pages) => pages.is_unresolved(),
        }
    }
}

impl Resolve for PageTree {
    fn resolve(&mut self, pack: PackRef) {
        if self.is_unresolved() {
            Arc::make_mut(&mut self.slots)
                .iter_mut()
                .for_each(|slot| slot.child.resolve(pack));
        }
    }

    fn is_unresolved(&self) -> bool {
        self.slots.iter().any(|slot| slot.child.is_unresolved())
    }
}

impl Resolve for crate::model::LinksTree {
    fn resolve(&mut self, pack: PackRef) {
        if let Some((ptr, _)) = &mut self.stored {
            ptr.resolve(pack);
        }
        for inode in self.edits.values_mut().flatten() {
            inode.entry.resolve(pack);
        }
    }

    fn is_unresolved(&self) -> bool {
        self.stored.as_ref().is_some_and(|(ptr, _)| ptr.is_unresolved())
            || self
                .edits
                .values()
                .flatten()
                .any(|inode| inode.entry.is_unresolved())
    }
}

impl Resolve for crate::model::TreeRoot {
    fn resolve(&mut self, pack: PackRef) {
        self.attrs.xattrs.resolve(pack);
        self.tree.resolve(pack);
        self.links.resolve(pack);
    }

    fn is_unresolved(&self) -> bool {
        self.attrs.xattrs.is_unresolved() || self.tree.is_unresolved() || self.links.is_unresolved()
    }
}
