//! The tree that a process sees: base plus overlay, over the cache. No fuser type in it.

mod adopt;
mod attrs;
mod copy;
mod data;
mod dirs;
mod edit;
mod errno;
mod file;
mod freeze;
mod inodes;
mod names;
mod open;
mod options;
mod ranges;
mod refresh;
mod reload;
mod rename;
mod space;
#[cfg(test)]
mod tests;
mod types;
mod usage;
#[allow(clippy::module_inception)]
mod view;
mod way;
mod xattrs;

pub use errno::ViewError;
pub use freeze::FrozenView;
pub use options::{Clock, ContentSource, Room, SystemClock, ViewOptions};
pub use types::{
    Allocate, Attr, Caller, CopySide, DirItem, DirItemPlus, Fh, Ino, Invalidations, Known, NodeKind, OpenDir,
    OpenFile, OpenFlags, OpenForWrite, ROOT_INO, ReadBytes, RenameMode, Seek, SetAttr, SetTime, Statfs,
    XattrMode,
};
pub use view::{View, ViewParts};
