//! Values that every layer speaks of. No I/O, no clock, no locks, no async.

mod attrs;
mod content;
mod entry;
mod id;
mod name;
mod quantity;
mod shown;

pub use attrs::{Attrs, MODE_MASK, Timestamp, XATTR_BYTES_MAX, XATTR_INLINE_BYTES_MAX, XattrMap, Xattrs};
pub use content::{
    BlobRef, ChunkRef, Content, LocalContent, chunk_count, chunk_len, chunk_range, chunk_size_at,
    chunk_start, data_runs, is_zero,
};
pub use content::{
    CHUNKS_INLINE_MAX, CHUNKS_MAX, EXTENT_PAGE_CHUNKS, FILE_BYTES_MAX, FRAME_BYTES, HOLE_BYTES,
    ITEM_BYTES_MAX, TINY_BYTES_MAX,
};
pub use entry::{
    DirPage, DirTree, Entry, EntryBody, Kind, LinkInode, LinksTree, PageSlot, PageTree, Totals, TreeRoot,
};
pub use id::{
    Epoch, FileId, FileIds, Hash, LOCAL_EPOCH, LeaseId, LinkId, PackRef, ParseIdError, Ptr, Seq, TxnId,
    VolumeId,
};
pub use name::{NAME_BYTES_MAX, Name, NameError, PATH_DEPTH_MAX, SYMLINK_BYTES_MAX, VolPath};
pub use quantity::{
    QuantityError, format_bytes, format_count, format_duration, parse_bytes, parse_duration, parse_size,
    parse_timeout, parse_with_unit,
};
pub use shown::{GivenPath, show, shown_path, unshow};
