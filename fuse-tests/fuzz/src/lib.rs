//! What each fuzz target does with its input. No decoder may panic, hang or allocate beyond its limits; and what
//! decodes must be a value that encodes and decodes to itself.
//!
//! Hashes that a fuzzer cannot guess are left out (raw nodes) or put right (records, pack footers), so that it gets to
//! the decoders behind them.

#![allow(dead_code, unused_imports)] // the modules are compiled here without the program that uses them

#[path = "../../../src/format/mod.rs"]
pub mod format;
#[path = "../../../src/model/mod.rs"]
pub mod model;
#[path = "../../../src/overlay/mod.rs"]
pub mod overlay;
#[path = "../../../src/tree/mod.rs"]
pub mod tree;

mod local;
mod parts;
mod trees;

pub use local::{journal, ledger, names, protocol, state_dir};
pub use parts::{answer, commit, config, control, store, volume};
pub use trees::merge;

use bytes::Bytes;
use format::*;
use model::{Hash, LeaseId, PackRef, VolumeId};

/// Pack that nodes are said to come from.
const HERE: PackRef = PackRef { epoch: 7, id: Hash([0xee; 32]) };
/// Volume of golden files and therefore of seeds.
const VOLUME: VolumeId = VolumeId([0x9f; 16]);
/// Lease of the golden file.
const LEASE: LeaseId = LeaseId([0x77; 16]);

/// Raw form of an encoded node.
fn raw(node: &EncodedNode) -> Vec<u8> {
    match node.stored[0] {
        0 => node.stored[1..].to_vec(),
        _ => zstd::bulk::decompress(&node.stored[1..], node.raw_len as usize).expect("own zstd frame"),
    }
}

fn node(kind: u8, data: &[u8]) {
    let bytes = [b"SVN1", &[kind, 0][..], data].concat();
    let Ok(node) = decode_raw_node(&bytes, HERE, "fuzz") else { return };
    let encoded = match &node {
        Node::Dir(page) => {
            let _ = (dir_body_len(page), nesting(page));
            encode_dir_page(page, false)
        }
        Node::Index(page) => encode_index_page(page, false),
        Node::Extent(page) => encode_extent_page(page, false),
        Node::Links(page) => encode_link_page(page, false),
    };
    match encoded {
        Ok(encoded) => {
            let again = decode_raw_node(&raw(&encoded), HERE, "fuzz").expect("own encoding decodes");
            assert_eq!(format!("{again:?}"), format!("{node:?}"));
        }
        Err(EncodeError::Limit { .. }) => {}
        Err(error) => panic!("a decoded node does not encode: {error}"),
    }
}

/// Dir pages.
pub fn node_dir(data: &[u8]) {
    node(1, data);
}

/// Index pages.
pub fn node_index(data: &[u8]) {
    node(2, data);
}

/// Extent pages.
pub fn node_extent(data: &[u8]) {
    node(3, data);
}

/// Leaves of the links tree.
pub fn node_links(data: &[u8]) {
    node(5, data);
}

/// Super nodes.
pub fn super_node(data: &[u8]) {
    let bytes = [b"SVN1\x04\x00", data].concat();
    let Ok(node) = decode_raw_super(&bytes, false, "fuzz") else { return };
    match encode_super(&node, false) {
        Ok(encoded) => {
            let again = decode_raw_super(&raw(&encoded), false, "fuzz").expect("own encoding decodes");
            assert_eq!(format!("{again:?}"), format!("{node:?}"));
        }
        Err(EncodeError::Limit { .. }) => {}
        Err(error) => panic!("a decoded super node does not encode: {error}"),
    }
}

/// Entries, attributes and contents as the overlay's journal holds them.
pub fn absolute(data: &[u8]) {
    let mut r = Reader::new(data, "fuzz");
    let mut tables = DecodeTables::absolute(true);
    while r.remaining() > 0 {
        let Ok(entry) = decode_entry(&mut r, &mut tables) else { break };
        let mut w = Writer::new();
        match encode_entry(&mut w, &mut EncodeTables::absolute(true), &entry) {
            Ok(()) => {
                let again = decode_entry(&mut Reader::new(w.as_slice(), "fuzz"), &mut tables);
                assert_eq!(format!("{:?}", again.expect("own encoding decodes")), format!("{entry:?}"));
            }
            Err(EncodeError::Limit { .. }) => {}
            Err(error) => panic!("a decoded entry does not encode: {error}"),
        }
    }
    let mut r = Reader::new(data, "fuzz");
    let _ = decode_attrs(&mut r, &mut tables);
    let _ = r.uv().map(|size| decode_content(&mut r, &tables, size));
    let _ = decode_xattr_map(&mut Reader::new(data, "fuzz"));
}

/// Pack footers: the first two bytes say how many bytes lie before the footer.
pub fn pack_footer(data: &[u8]) {
    let Some((before, listing)) = data.split_first_chunk::<2>() else { return };
    let mut footer = listing.to_vec();
    footer.extend_from_slice(&(listing.len() as u32).to_le_bytes());
    footer.extend_from_slice(&content_id(listing).0[..16]);
    footer.extend_from_slice(b"1PVS");
    let pack_len = u64::from(u16::from_le_bytes(*before)) + footer.len() as u64;
    if let Ok(items) = parse_pack_footer(&footer, pack_len, "fuzz") {
        assert!(items.iter().all(|item| item.offset + u64::from(item.stored_len) <= pack_len));
    }
    // The same bytes with nothing put right.
    let _ = parse_pack_footer(data, pack_len, "fuzz");
}

/// Whole chunk objects; the id is that of what comes out when only one frame is there.
pub fn chunk(data: &[u8]) {
    let Some(raw_len) = data.get(12..16) else { return };
    let raw_len = u32::from_le_bytes(raw_len.try_into().expect("4 bytes"));
    let id = content_id(data.get(20..).unwrap_or_default());
    if let Ok(header) = ChunkHeader::parse(data, raw_len, &id, "fuzz") {
        for index in 0..header.frame_count() {
            let range = header.frame_range(index);
            let stored = data.get(range.start as usize..range.end as usize).unwrap_or_default();
            let _ = decode_frame(&header, index, stored, "fuzz");
        }
    }
    let _ = decode_chunk(data, raw_len, &id, "fuzz");
}

/// Frames: the input is the stored form of the only frame of a chunk, behind its raw length in three bytes.
pub fn frame(data: &[u8]) {
    let Some((len, stored)) = data.split_first_chunk::<3>() else { return };
    let raw_len = u32::from_le_bytes([len[0], len[1], len[2] & 0x0f, 0]) + 1;
    let mut header = b"SVC1\x01\x00\x00\x00".to_vec();
    header.extend_from_slice(&chunk_header_len(raw_len).to_le_bytes());
    header.extend_from_slice(&raw_len.to_le_bytes());
    let flag = if stored.len() == raw_len as usize { 1 << 31 } else { 0 };
    header.extend_from_slice(&(stored.len() as u32 | flag).to_le_bytes());
    let id = content_id(stored);
    if let Ok(header) = ChunkHeader::parse(&header, raw_len, &id, "fuzz") {
        let decoded = decode_frame(&header, 0, stored, "fuzz");
        assert!(decoded.is_ok() == (flag != 0), "only the raw form has the hash of the stored bytes");
    }
}

/// Blobs: stored form behind the raw length in two bytes.
pub fn blob(data: &[u8]) {
    let Some((len, stored)) = data.split_first_chunk::<2>() else { return };
    let raw_len = u64::from(u16::from_le_bytes(*len));
    let id = content_id(stored.get(1..).unwrap_or_default());
    if let Ok(plain) = decode_blob(stored, raw_len, &id, "fuzz") {
        assert_eq!(plain.len() as u64, raw_len);
    }
    let encoded = encode_blob(data).expect("below 4 MiB");
    let plain = decode_blob(&encoded.stored, data.len() as u64, &encoded.id, "fuzz");
    assert_eq!(plain.as_deref(), Ok(data));
}

/// Records: hashes of sections are put right first, so that what is in them is decoded.
pub fn record(data: &[u8]) {
    let verify = |bytes: Bytes, volume: VolumeId, seq: u64| {
        let parsed = UnverifiedRecord::parse(&bytes, "fuzz").ok()?;
        let _ = parsed.txns().count();
        parsed.verify(&volume, seq).ok()
    };
    let _ = verify(Bytes::copy_from_slice(data), VOLUME, 4_711);
    let Some(record) = mend(data).and_then(|(bytes, volume, seq)| verify(bytes, volume, seq)) else { return };
    if record.access() != Access::ReadWrite {
        return; // may be read, must not be written
    }
    match record.encode() {
        Ok(encoded) => {
            let again = verify(encoded.bytes, record.volume(), record.seq).expect("own encoding decodes");
            assert_eq!(format!("{again:?}"), format!("{record:?}"));
        }
        Err(EncodeError::Limit { .. }) => {}
        Err(error) => panic!("a decoded record does not encode: {error}"),
    }
}

/// A record with the hashes that its sections have.
fn mend(data: &[u8]) -> Option<(Bytes, VolumeId, u64)> {
    let end = data.iter().position(|b| *b == b'\n')?;
    let mut line: serde_json::Value = serde_json::from_slice(&data[..end]).ok()?;
    let sections = &data[end + 1..];
    for pointer in ["/root", "/gc/retained", "/renames"] {
        let Some(section) = line.pointer_mut(pointer).filter(|section| section.is_object()) else { continue };
        let off = usize::try_from(section["off"].as_u64()?).ok()?;
        let len = usize::try_from(section["len"].as_u64()?).ok()?;
        let bytes = sections.get(off..off.checked_add(len)?)?;
        let hash = if pointer == "/root" { node_hash(bytes) } else { content_id(bytes) };
        section["hash"] = hash.to_string().into();
    }
    let volume = line["volume"].as_str()?.parse().ok()?;
    let seq = line["seq"].as_u64()?;
    let mut bytes = serde_json::to_vec(&line).ok()?;
    bytes.push(b'\n');
    bytes.extend_from_slice(sections);
    Some((Bytes::from(bytes), volume, seq))
}

/// Descriptors and entries of the names index.
pub fn descriptor(data: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(data, "fuzz")
        && let Ok(bytes) = descriptor.encode()
    {
        assert_eq!(Descriptor::decode(&bytes, "fuzz"), Ok(descriptor));
    }
    let _ = NameEntry::decode(data, "datasets", "fuzz");
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(key) = Key::parse(text)
    {
        assert_eq!(key.to_string(), text);
    }
}

/// Leases.
pub fn lease(data: &[u8]) {
    if let Ok(lease) = Lease::decode(data, &VOLUME, &LEASE, "fuzz")
        && let Ok(bytes) = lease.encode()
    {
        assert_eq!(Lease::decode(&bytes, &VOLUME, &LEASE, "fuzz"), Ok(lease));
    }
}

/// Primitives: the input says what to read, and every number read has one encoding only.
pub fn wire(data: &[u8]) {
    let mut r = Reader::new(data, "fuzz");
    while r.remaining() > 0 {
        let Ok(what) = r.u8() else { return };
        let from = r.offset();
        let mut w = Writer::new();
        let read = match what % 8 {
            0 => r.uv().map(|value| w.uv(value)),
            1 => r.zz().map(|value| w.zz(value)),
            2 => r.bytes(usize::from(what)).map(|value| w.bytes(value)),
            3 => r.hash().map(|value| w.hash(&value)),
            4 => r.u32().map(|value| w.u32(value)),
            5 => r.uv32().map(|value| w.uv(u64::from(value))),
            6 => r.clone().count(usize::from(what)).map(|count| assert!(count <= data.len())),
            _ => r.clone().part(u64::from(what)).map(|part| assert_eq!(part.remaining(), usize::from(what))),
        };
        match read {
            Ok(()) => assert_eq!(w.as_slice(), &data[from..r.offset()]),
            Err(error) => assert!(error.offset <= data.len() as u64),
        }
    }
}
