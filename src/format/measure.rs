//! Sizes that the partition rule goes by (SPEC.md 7.4): lengths of entries as a function of the entry alone.
//!
//! What an entry really takes depends on its node's tables and neighbours. These measures count a table slot as one
//! byte, a time as the difference to a base of its century, and a file id as three bytes; the real length is at most
//! [`ENTRY_SLACK_BYTES`] (and 4 bytes for each chunk reference into a pack) more, and on system trees some 5 % less,
//! tables included. The limits that a reader checks are far away (1 MiB against a page of 64 KiB), so a measure that can
//! be added up and compared without encoding anything is worth more than an exact one.

use super::attrs::ctime_nanos_after;
use super::node::SANE_SECS;
use super::wire::{uv_len, zigzag};
use crate::model::{
    Attrs, BlobRef, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, LinkInode, Name, Ptr, Xattrs,
};

/// An entry may be this much longer in its node than measured, chunk references into packs apart.
pub const ENTRY_SLACK_BYTES: usize = 16;
/// Measure of a file id's difference.
const FILE_ID_BYTES: usize = 3;
/// Measure of a table slot.
const SLOT_BYTES: usize = 1;
/// Longest difference of two times within 1970 to 2514, in seconds.
const MTIME_BYTES: usize = 5;

/// Measured length of a dir page's body: the entries and their number, without the node's header and tables.
pub fn dir_body_len(page: &DirPage) -> usize {
    let entries: usize = page
        .entries
        .iter()
        .map(|(name, entry)| entry_len(name, entry))
        .sum();
    uv_len(page.entries.len() as u64) + entries
}

/// Measured length of an entry in a dir page, its own length field included. An edited directory that has no node yet
/// (`DirTree::Pages`) counts as the pointer that it will become.
pub fn entry_len(name: &Name, entry: &Entry) -> usize {
    let inner = bytes_len(name.as_bytes().len()) + 1 + body_len(entry);
    uv_len(inner as u64) + inner
}

/// Measured length of an inode in a leaf of the links tree.
pub fn link_inode_len(inode: &LinkInode) -> usize {
    let inner = uv_len(inode.nlink) + 1 + body_len(&inode.entry);
    16 + uv_len(inner as u64) + inner
}

/// Directories inside one another in the node that `page` would become: 1 without inlined ones.
pub fn nesting(page: &DirPage) -> usize {
    let inlined = page.entries.iter().filter_map(|(_, entry)| match entry.as_dir() {
        Some((_, DirTree::Inline(child))) => Some(nesting(child)),
        _ => None,
    });
    1 + inlined.max().unwrap_or(0)
}

fn bytes_len(len: usize) -> usize {
    uv_len(len as u64) + len
}

fn body_len(entry: &Entry) -> usize {
    let attrs = || attrs_len(&entry.attrs);
    match &entry.body {
        EntryBody::HardLink(_) => 1 + 16,
        EntryBody::File { size, content } => attrs() + uv_len(*size) + content_len(content),
        EntryBody::Symlink { target } => attrs() + bytes_len(target.len()),
        EntryBody::Dir { totals, tree } => {
            let counts = [
                totals.files,
                totals.dirs,
                totals.bytes,
                totals.links,
                totals.subdirs,
            ];
            let form = match tree {
                DirTree::Inline(page) => bytes_len(dir_body_len(page)),
                DirTree::Stored { ptr, .. } => ptr_len(ptr),
                DirTree::Pages(_) => PTR_BYTES,
            };
            attrs() + counts.into_iter().map(uv_len).sum::<usize>() + 1 + form
        }
        EntryBody::CharDev { major, minor } | EntryBody::BlockDev { major, minor } => {
            attrs() + uv_len(u64::from(*major)) + uv_len(u64::from(*minor))
        }
        EntryBody::Fifo | EntryBody::Socket => attrs(),
    }
}

/// Measure of a pointer that is not known yet.
const PTR_BYTES: usize = SLOT_BYTES + 4 + 3 + 3 + 32;

fn ptr_len(ptr: &Ptr) -> usize {
    SLOT_BYTES + uv_len(ptr.offset) + uv_len(u64::from(ptr.stored_len)) + uv_len(u64::from(ptr.raw_len)) + 32
}

fn blob_ref_len(blob: &BlobRef) -> usize {
    SLOT_BYTES + uv_len(blob.offset) + uv_len(u64::from(blob.stored_len)) + 32
}

fn content_len(content: &Content) -> usize {
    1 + match content {
        Content::Tiny(data) => bytes_len(data.len()),
        Content::Blob(blob) => blob_ref_len(blob),
        Content::Chunks { chunks, .. } => 2 + chunks.iter().map(chunk_ref_len).sum::<usize>(),
        Content::Paged { root, .. } => 1 + ptr_len(root) + 32,
        // Not encodable; as the blob that it will most often become.
        Content::Local(_) => PTR_BYTES,
    }
}

fn chunk_ref_len(chunk: &ChunkRef) -> usize {
    1 + match chunk {
        ChunkRef::Hole => 0,
        ChunkRef::Object { epoch, .. } => uv_len(u64::from(*epoch)) + 32,
        ChunkRef::Packed(blob) => blob_ref_len(blob),
    }
}

fn attrs_len(attrs: &Attrs) -> usize {
    let mode = if attrs.mode == 0 {
        0
    } else {
        uv_len(u64::from(attrs.mode))
    };
    let owner = if (attrs.uid, attrs.gid) == (0, 0) {
        0
    } else {
        SLOT_BYTES
    };
    let mtime = if SANE_SECS.contains(&attrs.mtime.secs) {
        MTIME_BYTES
    } else {
        10
    };
    let nanos = if attrs.mtime.nanos == 0 {
        0
    } else {
        uv_len(u64::from(attrs.mtime.nanos))
    };
    // With a far ctime the present bits take two bytes.
    let (present, ctime) = match ctime_nanos_after(attrs.mtime, attrs.ctime) {
        Some(0) => (1, 0),
        Some(diff) => (1, uv_len(zigzag(diff))),
        None => (
            2,
            uv_len(zigzag(attrs.ctime.secs)) + uv_len(u64::from(attrs.ctime.nanos)),
        ),
    };
    let xattrs = match &attrs.xattrs {
        Xattrs::None => 0,
        Xattrs::Inline(map) => {
            let pairs = map
                .iter()
                .map(|(name, value)| bytes_len(name.len()) + bytes_len(value.len()));
            uv_len(map.len() as u64) + pairs.sum::<usize>()
        }
        Xattrs::OutOfLine { blob, raw_len } => uv_len(u64::from(*raw_len)) + blob_ref_len(blob),
    };
    present + mode + owner + mtime + nanos + FILE_ID_BYTES + ctime + xattrs
}
