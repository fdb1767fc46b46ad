//! What a walk shows, and to whom.

use std::fmt;

use crate::model::{BlobRef, ChunkRef, Entry, LinkId, Name, Ptr, VolPath};
use crate::tree::TreeError;

/// Where in the tree something is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The directory itself.
    Dir(&'a VolPath),
    /// An entry of a directory.
    Entry(&'a VolPath, &'a Name),
    /// The links tree.
    Links,
    /// An inode of the links tree.
    Inode(&'a LinkId),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Dir(path) => write!(f, "{path}"),
            Place::Entry(dir, name) if dir.0.is_empty() => write!(f, "/{name}"),
            Place::Entry(dir, name) => write!(f, "{dir}/{name}"),
            Place::Links => f.write_str("inodes with several names"),
            Place::Inode(id) => write!(f, "inode {id}"),
        }
    }
}

/// Something that a tree refers to.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A node, before it is read. [`Visit::Skip`] leaves out all below it.
    Node(&'a Ptr),
    /// An entry, or an inode; before what it refers to, which [`Visit::Skip`] leaves out.
    Entry(&'a Entry),
    /// A chunk of a file, or its only blob, with its plain length in bytes. Holes do not come.
    Chunk(&'a ChunkRef, u64),
    /// A blob of extended attributes, with its plain length in bytes.
    Xattrs(&'a BlobRef, u64),
}

/// What a visitor wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// Go on, into this.
    Enter,
    /// Go on after this.
    Skip,
    /// End the walk.
    Stop,
}

/// Whom a walk shows what it finds.
pub trait Visitor: Send {
    /// Something that the tree refers to.
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit;

    /// Something that cannot be read or breaks a rule; all but [`Visit::Stop`] go on with the rest.
    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit;
}
