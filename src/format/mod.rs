#![doc = include_str!("SPEC.md")]

mod attrs;
mod blob;
mod chunk;
mod codec;
mod content;
mod descriptor;
mod entry;
mod keys;
mod lease;
pub mod limits;
mod measure;
mod node;
mod pack;
mod record;
mod resolve;
mod retained;
mod super_node;
mod tables;
#[cfg(test)]
mod tests;
mod time_text;
pub mod wire;

pub use attrs::{decode_attrs, decode_xattr_map, encode_attrs, encode_xattr_map};
pub use blob::{EncodedBlob, decode_blob, encode_blob, encode_hashed_blob};
pub use chunk::{
    ChunkHashes, ChunkHeader, EncodedChunk, FrameSum, chunk_header_len, decode_chunk, decode_frame,
    encode_chunk, encode_hashed_chunk, frame_count, hash_chunk,
};
pub use content::{
    chunks_cid, content_id, decode_blob_ref, decode_chunk_ref, decode_content, decode_ptr, encode_blob_ref,
    encode_chunk_ref, encode_content, encode_ptr, page_cid, paged_cid,
};
pub use descriptor::{
    Access, Descriptor, FORMAT_VERSION, Features, FormatError, LogPlace, NameEntry, NodeSizes, PackSizes,
    VOLUME_NAME_BYTES_MAX, check_volume_name,
};
pub use entry::{decode_entry, encode_entry};
pub use keys::{Key, NAMES_PREFIX, draft_prefix, lease_prefix, log_prefix, volume_prefix};
pub use lease::{LEASE_TTL_SECS, LEASE_TTL_SECS_MAX, Lease};
pub use measure::{ENTRY_SLACK_BYTES, dir_body_len, entry_len, link_inode_len, nesting};
pub use node::{
    EncodedNode, ExtentPage, IndexPage, IndexSlot, LinkPage, Node, decode_link_inode, decode_node,
    decode_raw_node, encode_dir_page, encode_extent_page, encode_index_page, encode_link_inode,
    encode_link_page, node_hash,
};
pub use pack::{
    FinishedPack, ItemKind, PACK_TRAILER_BYTES, PackBuilder, PackItem, pack_footer_range, parse_pack_footer,
};
pub use record::{
    EncodedRecord, GcState, Record, RecordKind, Retain, UnverifiedRecord, Usage, VolumeConfig, record_hash,
    txn_id,
};
pub use resolve::Resolve;
pub use retained::Retained;
pub use super_node::{StoredRoot, SuperNode, decode_raw_super, decode_super, encode_super};
pub use tables::{DecodeTables, EncodeError, EncodeTables};
pub use wire::{Corrupt, Reader, Writer};
