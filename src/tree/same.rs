//! Are two entries the same? By what they are, never by where their bytes lie.

use crate::format::{Writer, content_id, encode_xattr_map};
use crate::model::{Attrs, Entry, EntryBody, Xattrs};

/// Equal extended attributes, by bytes. Where one is out of line and the other in memory, the encoded map of the one
/// is compared with the blob's id.
pub fn same_xattrs(a: &Xattrs, b: &Xattrs) -> bool {
    match (a, b) {
        (Xattrs::None, Xattrs::None) => true,
        (Xattrs::Inline(a), Xattrs::Inline(b)) => a == b,
        (Xattrs::OutOfLine { blob: a, raw_len: x }, Xattrs::OutOfLine { blob: b, raw_len: y }) => {
            a.id == b.id && x == y
        }
        (Xattrs::Inline(map), Xattrs::OutOfLine { blob, .. })
        | (Xattrs::OutOfLine { blob, .. }, Xattrs::Inline(map)) => {
            let mut encoded = Writer::new();
            encode_xattr_map(&mut encoded, map).is_ok() && content_id(encoded.as_slice()) == blob.id
        }
        _ => false,
    }
}

/// Equal attributes, xattrs by their bytes.
pub fn same_attrs(a: &Attrs, b: &Attrs) -> bool {
    (a.mode, a.uid, a.gid, a.mtime, a.ctime, a.file_id) == (b.mode, b.uid, b.gid, b.mtime, b.ctime, b.file_id)
        && same_xattrs(&a.xattrs, &b.xattrs)
}

/// Equal entries, as far as can be told without loading anything: directories are equal when their attributes are and
/// they are the same node or piece of memory, so `false` for two directories says only that they may differ.
pub fn same_entry(a: &Entry, b: &Entry) -> bool {
    if let (EntryBody::HardLink(a), EntryBody::HardLink(b)) = (&a.body, &b.body) {
        return a == b;
    }
    same_body(&a.body, &b.body) && same_attrs(&a.attrs, &b.attrs)
}

/// [`same_entry`] without the attributes.
pub fn same_body(a: &EntryBody, b: &EntryBody) -> bool {
    match (a, b) {
        (EntryBody::File { size: x, content: a }, EntryBody::File { size: y, content: b }) => {
            x == y && a.same(b)
        }
        (EntryBody::Symlink { target: a }, EntryBody::Symlink { target: b }) => a == b,
        (EntryBody::Dir { tree: a, .. }, EntryBody::Dir { tree: b, .. }) => a.same_pointer(b),
        (EntryBody::Fifo, EntryBody::Fifo) | (EntryBody::Socket, EntryBody::Socket) => true,
        (EntryBody::CharDev { major: x, minor: y }, EntryBody::CharDev { major: a, minor: b })
        | (EntryBody::BlockDev { major: x, minor: y }, EntryBody::BlockDev { major: a, minor: b }) => {
            (x, y) == (a, b)
        }
        (EntryBody::HardLink(a), EntryBody::HardLink(b)) => a == b,
        _ => false,
    }
}
