//! Names for packs that are not finished.
//!
//! The id of a pack is the hash of its bytes, so pointers into a pack that is being written need a stand-in. The
//! format has one (`PackRef::open`, slot 0) for the pack that the pointing node is in itself. A writer that fills several
//! packs has pointers into all of them at once, so here they are numbered: 24 zero bytes, then the number; the first one,
//! 0, is `PackRef::open` itself. A blake3 hash never looks like that.

use std::sync::Arc;

use super::rebuild::rebuild;
use crate::model::{
    Attrs, BlobRef, ChunkRef, Content, DirTree, Entry, EntryBody, Epoch, Hash, LinksTree, PackRef, Ptr,
    TreeRoot, Xattrs,
};

/// The stand-in for the writer's pack of this number.
pub(super) fn placeholder(epoch: Epoch, number: u64) -> PackRef {
    let mut id = [0; 32];
    id[24..].copy_from_slice(&number.to_be_bytes());
    PackRef { epoch, id: Hash(id) }
}

fn number_of(pack: &PackRef) -> Option<u64> {
    let (zeros, number) = pack.id.0.split_last_chunk::<8>()?;
    zeros.iter().all(|&b| b == 0).then(|| u64::from_be_bytes(*number))
}

/// What the stand-ins of one writer mean.
#[derive(Clone, Debug, Default)]
pub struct PackIds {
    /// By number.
    pub(super) finished: Vec<PackRef>,
}

impl PackIds {
    /// The pack that is meant: of a finished one the true name; the one being written (the next number) is
    /// `PackRef::open`; others stay as they are.
    pub fn pack(&self, pack: PackRef) -> PackRef {
        match number_of(&pack) {
            None => pack,
            Some(number) => usize::try_from(number)
                .ok()
                .and_then(|number| self.finished.get(number).copied())
                .unwrap_or(PackRef::open(pack.epoch)),
        }
    }

    /// True while no stand-in but `PackRef::open` has been given out.
    pub(super) fn is_first(&self) -> bool {
        self.finished.is_empty()
    }

    pub(super) fn ptr(&self, ptr: Ptr) -> Ptr {
        Ptr {
            pack: self.pack(ptr.pack),
            ..ptr
        }
    }

    pub(super) fn blob(&self, blob: BlobRef) -> BlobRef {
        BlobRef {
            pack: self.pack(blob.pack),
            ..blob
        }
    }

    pub(super) fn chunk(&self, chunk: &ChunkRef) -> ChunkRef {
        match chunk {
            ChunkRef::Packed(blob) => ChunkRef::Packed(self.blob(*blob)),
            other => *other,
        }
    }

    pub(super) fn content(&self, content: Content) -> Content {
        match content {
            Content::Blob(blob) => Content::Blob(self.blob(blob)),
            Content::Chunks { tier, chunks, cid } => {
                let packed = chunks.iter().any(|chunk| matches!(chunk, ChunkRef::Packed(_)));
                let chunks = if packed {
                    chunks.iter().map(|chunk| self.chunk(chunk)).collect()
                } else {
                    chunks
                };
                Content::Chunks { tier, chunks, cid }
            }
            Content::Paged { tier, root, cid } => Content::Paged {
                tier,
                root: Box::new(self.ptr(*root)),
                cid,
            },
            other @ (Content::Tiny(_) | Content::Local(_)) => other,
        }
    }

    pub(super) fn attrs(&self, mut attrs: Attrs) -> Attrs {
        if let Xattrs::OutOfLine { blob, .. } = &mut attrs.xattrs {
            **blob = self.blob(**blob);
        }
        attrs
    }

    /// An entry, without what a directory holds.
    pub(super) fn entry(&self, entry: Entry) -> Entry {
        let body = match entry.body {
            EntryBody::File { size, content } => EntryBody::File {
                size,
                content: self.content(content),
            },
            other => other,
        };
        Entry {
            attrs: self.attrs(entry.attrs),
            body,
        }
    }

    /// A directory with all that is in memory of it.
    pub(super) fn tree(&self, tree: &DirTree) -> DirTree {
        rebuild(tree, &|entry| self.entry(entry), &|ptr| self.ptr(ptr))
    }

    fn links(&self, links: &LinksTree) -> LinksTree {
        let mut links = links.clone();
        if let Some((ptr, _)) = &mut links.stored {
            *ptr = self.ptr(*ptr);
        }
        for inode in links.edits.values_mut().flatten() {
            inode.entry = self.entry(inode.entry.clone());
        }
        links
    }
}

/// The tree with the true names of packs in all of it that is in memory, for a tree that shares contents with the one
/// that was stored (a prepared tree, whose files' blobs went into the published pack).
pub fn resolve_root(root: &TreeRoot, ids: &PackIds) -> TreeRoot {
    TreeRoot {
        attrs: ids.attrs(root.attrs.clone()),
        totals: root.totals,
        tree: ids.tree(&root.tree),
        links: ids.links(&root.links),
    }
}

/// A content with the true names of packs.
pub fn resolve_content(content: &Content, ids: &PackIds) -> Content {
    ids.content(content.clone())
}

/// The same page with the true names of packs.
pub(super) fn resolve_page(page: &Arc<crate::model::DirPage>, ids: &PackIds) -> Arc<crate::model::DirPage> {
    match ids.tree(&DirTree::Inline(page.clone())) {
        DirTree::Inline(page) => page,
        _ => page.clone(),
    }
}
