//! The tree that a process sees: base plus overlay, over the cache. No fuser type in it.

mod api;
mod errno;
mod options;
mod types;

pub use api::View;
pub use errno::ViewError;
pub use options::{Clock, ContentSource, Room, SystemClock, ViewOptions};
pub use types::{
    Allocate, Attr, Caller, CopySide, DirItem, DirItemPlus, Fh, Ino, Invalidations, Known, NodeKind, OpenDir,
    OpenFile, OpenFlags, OpenForWrite, ROOT_INO, ReadBytes, RenameMode, Seek, SetAttr, SetTime, Statfs,
    XattrMode,
};
