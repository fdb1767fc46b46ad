//! Limits of the format (SPEC.md 14). Writers stay within them, readers refuse what exceeds them.

/// Raw (decompressed) bytes of a node.
pub const NODE_RAW_BYTES_MAX: u32 = 1 << 20;
/// Entries in a node, those of inlined directories included: bounds the memory of a decoded node.
pub const NODE_ENTRIES_MAX: usize = 1 << 16;
/// Directories inlined in one another inside a node, the outermost page counted.
pub const NESTING_MAX: usize = 64;
/// Levels of pages of one directory, extent list or links tree: the leaves and seven levels of index pages.
pub const LEVELS_MAX: u8 = 8;
/// Entries of one directory.
pub const DIR_ENTRIES_MAX: u64 = 1 << 32;
/// A counter of entries in totals.
pub const TOTAL_COUNT_MAX: u64 = 1 << 48;
/// Logical bytes in totals.
pub const TOTAL_BYTES_MAX: u64 = 1 << 60;
/// Key of an index page.
pub const INDEX_KEY_BYTES_MAX: usize = 255;
/// Name of an extended attribute (as on Linux).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Encoded map of extended attributes, raw: names and values, and their lengths.
pub const XATTR_BLOB_BYTES_MAX: usize = crate::model::XATTR_BYTES_MAX * 3;
/// A pack object.
pub const PACK_BYTES_MAX: u64 = 64 << 20;
/// Items of a pack.
pub const PACK_ITEMS_MAX: usize = 1 << 20;
/// Raw bytes of a chunk.
pub const CHUNK_BYTES_MAX: u32 = 64 << 20;
/// Header of a chunk object.
pub const CHUNK_HEADER_BYTES_MAX: u32 = 8 << 10;
/// A record.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// The JSON line of a record, its newline not counted.
pub const RECORD_JSON_BYTES_MAX: usize = 256 << 10;
/// Drafts combined into a record.
pub const MERGED_MAX: usize = 128;
/// Intervals of retained records.
pub const RETAINED_INTERVALS_MAX: usize = 100_000;
/// Moves in a record's `renames` section.
pub const RENAMES_MAX: usize = 100_000;
/// Volume descriptor.
pub const DESCRIPTOR_BYTES_MAX: usize = 64 << 10;
/// Entry of the names index.
pub const NAME_OBJECT_BYTES_MAX: usize = 4 << 10;
/// Lease.
pub const LEASE_BYTES_MAX: usize = 128 << 10;
/// Records that one lease may name.
pub const LEASE_SEQS_MAX: usize = 4_096;
/// Text of a commit message, bytes of UTF-8.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Text that says who committed, bytes of UTF-8.
pub const BY_BYTES_MAX: usize = 1_024;
/// Window that a zstd frame may ask of its decoder, as a power of two: 8 MiB.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
