//! What holds for all values. A failing case names its seed.

use bytes::Bytes;

use super::arbitrary::Gen;
use crate::format::codec;
use crate::format::*;
use crate::model::*;

/// Cases of each property.
const SEEDS: u64 = 60;
/// Where decoded nodes are said to be.
const HERE: PackRef = PackRef {
    epoch: 7,
    id: Hash([0xee; 32]),
};

fn raw(node: &EncodedNode) -> Vec<u8> {
    codec::unseal(&node.stored, node.raw_len as usize, "t").unwrap()
}

fn ptr_to(node: &EncodedNode, pack: PackRef) -> Ptr {
    Ptr {
        pack,
        offset: 4,
        stored_len: node.stored.len() as u32,
        raw_len: node.raw_len,
        hash: node.hash,
    }
}

fn encode(node: &Node, local: bool) -> Result<EncodedNode, EncodeError> {
    match node {
        Node::Dir(page) => encode_dir_page(page, local),
        Node::Index(page) => encode_index_page(page, local),
        Node::Extent(page) => encode_extent_page(page, local),
        Node::Links(page) => encode_link_page(page, local),
    }
}

/// One node of each type.
fn nodes(random: &mut Gen) -> Vec<Node> {
    let entries = random.below(60);
    vec![
        Node::Dir(random.dir_page(entries, 5).into()),
        Node::Index(random.index_page().into()),
        Node::Extent(random.extent_page().into()),
        Node::Links(random.link_page().into()),
    ]
}

#[test]
fn nodes_come_back_and_encode_to_the_same_bytes() {
    for seed in 0..SEEDS {
        for node in nodes(&mut Gen::new(seed)) {
            let encoded = encode(&node, false).unwrap();
            let decoded = decode_node(&encoded.stored, &ptr_to(&encoded, HERE), "t").unwrap();
            assert_eq!(format!("{decoded:?}"), format!("{node:?}"), "seed {seed}");
            assert_eq!(encode(&decoded, false).unwrap(), encoded, "seed {seed}");
        }
    }
}

#[test]
fn slot_0_becomes_the_pack_that_the_node_came_from() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        random.open = true;
        let mut page = random.dir_page(30, 5);
        let encoded = encode_dir_page(&page, false).unwrap();
        let Node::Dir(decoded) = decode_node(&encoded.stored, &ptr_to(&encoded, HERE), "t").unwrap() else {
            panic!("seed {seed}: another type");
        };
        page.resolve(HERE);
        assert!(!page.is_unresolved());
        assert_eq!(format!("{decoded:?}"), format!("{page:?}"), "seed {seed}");
    }
}

#[test]
fn a_published_node_never_names_a_local_pack() {
    let local = PackRef {
        epoch: LOCAL_EPOCH,
        id: Hash([9; 32]),
    };
    let mut seen = 0;
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        random.local = true;
        for node in nodes(&mut random) {
            let kept = encode(&node, true).unwrap();
            let decoded = decode_node(&kept.stored, &ptr_to(&kept, local), "t").unwrap();
            assert_eq!(format!("{decoded:?}"), format!("{node:?}"), "seed {seed}");
            match encode(&node, false) {
                Err(error) => {
                    seen += 1;
                    assert_eq!(error, EncodeError::LocalPack, "seed {seed}");
                    // The same bytes in a published pack are damage.
                    assert!(
                        decode_node(&kept.stored, &ptr_to(&kept, HERE), "t").is_err(),
                        "seed {seed}"
                    );
                }
                Ok(public) => assert_eq!(public, kept, "seed {seed}"),
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn super_nodes_come_back_and_never_name_an_unfinished_pack() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        let node = random.super_node();
        let encoded = encode_super(&node, false).unwrap();
        let decoded = decode_super(&encoded.stored, encoded.raw_len, &encoded.hash, false, "t").unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{node:?}"), "seed {seed}");
        assert_eq!(encode_super(&decoded, false).unwrap(), encoded, "seed {seed}");
        let mut open = node.clone();
        open.refs = Some((
            Ptr {
                pack: PackRef::open(7),
                ..random.ptr()
            },
            false,
        ));
        assert_eq!(
            encode_super(&open, false).unwrap_err(),
            EncodeError::OpenPack,
            "seed {seed}"
        );
    }
}

#[test]
fn entries_contents_and_attributes_stand_for_themselves_in_local_files() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        random.local = true;
        let entry = random.entry(3);
        let (size, content) = random.content();
        let attrs = random.attrs();
        let mut tables = EncodeTables::absolute(true);
        let mut w = Writer::new();
        encode_entry(&mut w, &mut tables, &entry).unwrap();
        encode_content(&mut w, &mut tables, size, &content).unwrap();
        encode_attrs(&mut w, &mut tables, &attrs).unwrap();
        let bytes = w.into_vec();
        let mut r = Reader::new(&bytes, "t");
        // A reader may begin anywhere: nothing depends on what was read before.
        let fresh = || DecodeTables::absolute(true);
        let entry2 = decode_entry(&mut r, &mut fresh()).unwrap();
        let content2 = decode_content(&mut r, &fresh(), size).unwrap();
        assert_eq!(decode_attrs(&mut r, &mut fresh()).unwrap(), attrs, "seed {seed}");
        assert_eq!(
            format!("{entry2:?} {content2:?}"),
            format!("{entry:?} {content:?}"),
            "seed {seed}"
        );
        r.finish().unwrap();
    }
    let mut w = Writer::new();
    let open = Gen::new(1).ptr();
    let open = Ptr {
        pack: PackRef::open(1),
        ..open
    };
    let refused = encode_ptr(&mut w, &mut EncodeTables::absolute(true), &open);
    assert_eq!(refused, Err(EncodeError::OpenPack));
}

/// Damage of every kind that a hash would normally find first: decoders must stand on their own.
fn damaged(random: &mut Gen, bytes: &[u8]) -> Vec<u8> {
    let mut bad = bytes.to_vec();
    match random.below(4) {
        0 => bad.truncate(random.below(bytes.len() as u64 + 1) as usize),
        1 => bad.extend(random.bytes(1)),
        2 if !bad.is_empty() => {
            let at = random.below(bad.len() as u64) as usize;
            bad.remove(at);
        }
        _ => {}
    }
    for _ in 0..random.below(4) {
        if !bad.is_empty() {
            let at = random.below(bad.len() as u64) as usize;
            bad[at] = if random.one_in(2) {
                random.next() as u8
            } else {
                bad[at] ^ (1 << random.below(8))
            };
        }
    }
    bad
}

#[test]
fn damaged_nodes_never_panic_and_what_still_decodes_is_a_value() {
    let mut decoded = 0;
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        let mut all: Vec<Vec<u8>> = nodes(&mut random)
            .iter()
            .map(|node| raw(&encode(node, false).unwrap()))
            .collect();
        all.push(raw(&encode_super(&random.super_node(), false).unwrap()));
        for bytes in all {
            for _ in 0..30 {
                let bad = damaged(&mut random, &bytes);
                if let Ok(node) = decode_raw_node(&bad, HERE, "t") {
                    decoded += 1;
                    match encode(&node, false) {
                        Ok(again) => {
                            let twice = decode_raw_node(&raw(&again), HERE, "t").unwrap();
                            assert_eq!(format!("{twice:?}"), format!("{node:?}"), "seed {seed}");
                        }
                        Err(EncodeError::Limit { .. }) => {}
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                let _ = decode_raw_super(&bad, false, "t");
            }
        }
    }
    assert!(decoded > 0, "the damage is too heavy to test anything");
}

#[test]
fn stored_nodes_that_are_cut_or_changed_are_refused() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        let node = encode_dir_page(&random.dir_page(5, 2), false).unwrap();
        let ptr = ptr_to(&node, HERE);
        let at = random.below(node.stored.len() as u64) as usize;
        let mut bad = node.stored.clone();
        bad[at] ^= 1 << random.below(8);
        assert!(decode_node(&bad, &ptr, "t").is_err(), "seed {seed}");
        assert!(decode_node(&node.stored[..at], &ptr, "t").is_err(), "seed {seed}");
        let longer = Ptr {
            raw_len: ptr.raw_len + 1,
            ..ptr
        };
        assert!(decode_node(&node.stored, &longer, "t").is_err(), "seed {seed}");
    }
}

#[test]
fn a_page_is_hardly_longer_than_measured() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        let page = random.dir_page(80, 4);
        let mut w = Writer::new();
        let mut tables = EncodeTables::slots(false, true, 1_700_000_000, 77 << 40);
        entry::encode_dir_body(&mut w, &mut tables, &page, 1).unwrap();
        let (entries, packed) = count(&page);
        let bound = dir_body_len(&page) + entries * ENTRY_SLACK_BYTES + packed * 4;
        assert!(w.len() <= bound, "seed {seed}: {} > {bound}", w.len());
        assert!(
            dir_body_len(&page) <= w.len() + entries * ENTRY_SLACK_BYTES,
            "seed {seed}"
        );
    }
}

/// Entries of a page and below, and chunk references into packs among them.
fn count(page: &DirPage) -> (usize, usize) {
    let mut sum = (0, 0);
    for (_, entry) in &page.entries {
        sum.0 += 1;
        match &entry.body {
            EntryBody::Dir {
                tree: DirTree::Inline(child),
                ..
            } => {
                let below = count(child);
                sum = (sum.0 + below.0, sum.1 + below.1);
            }
            EntryBody::File {
                content: Content::Chunks { chunks, .. },
                ..
            } => {
                sum.1 += chunks
                    .iter()
                    .filter(|chunk| matches!(chunk, ChunkRef::Packed(_)))
                    .count();
            }
            _ => {}
        }
    }
    sum
}

#[test]
fn records_come_back_and_are_bound_to_their_place() {
    for seed in 0..SEEDS {
        let record = Gen::new(seed).record();
        let encoded = record.encode().unwrap();
        let parsed = UnverifiedRecord::parse(&encoded.bytes, "t").unwrap();
        assert_eq!(parsed.hash(), encoded.hash);
        assert_eq!(parsed.txns().next(), Some(record.txn));
        let verified = parsed.clone().verify(&record.volume(), record.seq).unwrap();
        assert_eq!(format!("{verified:?}"), format!("{record:?}"), "seed {seed}");
        assert_eq!(verified.encode().unwrap().bytes, encoded.bytes, "seed {seed}");
        assert!(parsed.clone().verify(&VolumeId([1; 16]), record.seq).is_err());
        assert!(parsed.verify(&record.volume(), record.seq ^ 1).is_err());
    }
}

#[test]
fn damaged_records_never_panic_and_their_sections_are_verified() {
    for seed in 0..SEEDS {
        let mut random = Gen::new(seed);
        let record = random.record();
        let bytes = record.encode().unwrap().bytes;
        let sections = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        for _ in 0..20 {
            let bad = Bytes::from(damaged(&mut random, &bytes));
            if let Ok(parsed) = UnverifiedRecord::parse(&bad, "t") {
                let _ = parsed.verify(&record.volume(), record.seq);
            }
        }
        let mut bad = bytes.to_vec();
        bad[sections + random.below((bytes.len() - sections) as u64) as usize] ^= 1;
        let parsed = UnverifiedRecord::parse(&Bytes::from(bad), "t").unwrap();
        let refused = parsed.verify(&record.volume(), record.seq);
        assert!(matches!(refused, Err(FormatError::Corrupt(_))), "seed {seed}");
    }
}

#[test]
fn packs_give_back_what_was_put_in() {
    for seed in 0..20 {
        let mut random = Gen::new(seed);
        let mut builder = PackBuilder::new(7);
        let mut nodes = Vec::new();
        let mut blobs = Vec::new();
        for _ in 0..random.below(20) {
            let node = encode_dir_page(&random.dir_page(3, 1), false).unwrap();
            nodes.push((builder.add_node(&node).unwrap(), node));
            let len = random.below(3000);
            let plain = random.bytes(len);
            let blob = builder.add_blob(&plain).unwrap();
            assert_eq!(
                builder.add_blob(&plain).unwrap(),
                blob,
                "the same bytes are stored once"
            );
            blobs.push((blob, plain));
        }
        let len = builder.len();
        let pack = builder.finish();
        assert_eq!(pack.bytes.len() as u64, len, "seed {seed}");
        assert_eq!(pack.pack.id, content_id(&pack.bytes));
        let trailer = &pack.bytes[(len - PACK_TRAILER_BYTES) as usize..];
        let range = pack_footer_range(trailer, len, "t").unwrap();
        let footer = &pack.bytes[range.start as usize..];
        assert_eq!(
            parse_pack_footer(footer, len, "t").unwrap(),
            pack.items,
            "seed {seed}"
        );
        let stored = |offset: u64, len: u32| &pack.bytes[offset as usize..][..len as usize];
        for (mut ptr, node) in nodes {
            assert!(ptr.is_unresolved());
            ptr.resolve(pack.pack);
            decode_node(stored(ptr.offset, ptr.stored_len), &ptr, "t").unwrap();
            assert_eq!(stored(ptr.offset, ptr.stored_len), node.stored);
        }
        for (blob, plain) in blobs {
            let found = decode_blob(
                stored(blob.offset, blob.stored_len),
                plain.len() as u64,
                &blob.id,
                "t",
            );
            assert_eq!(found.unwrap(), plain, "seed {seed}");
        }
        for _ in 0..50 {
            let bad = damaged(&mut random, footer);
            if bad != footer {
                assert!(parse_pack_footer(&bad, len, "t").is_err(), "seed {seed}");
            }
        }
    }
}

#[test]
fn unknown_tails_are_ignored_and_must_understand_bits_are_not() {
    let fifo = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Fifo,
    };
    let mut one = Writer::new();
    let mut tables = EncodeTables::slots(false, true, 0, 0);
    one.bytes(b"name");
    encode_entry(&mut one, &mut tables, &fifo).unwrap();
    let page = |entry: &[u8]| {
        let mut w = Writer::new();
        w.raw(b"SVN1\x01\x00\x00\x00\x00\x00\x01");
        w.bytes(entry);
        decode_raw_node(w.as_slice(), HERE, "t")
    };
    assert!(page(one.as_slice()).is_ok());
    let tail = [one.as_slice(), b"later"].concat();
    let Ok(Node::Dir(decoded)) = page(&tail) else {
        panic!("a tail is refused")
    };
    assert_eq!(decoded.entries.len(), 1);
    let mut optional = Writer::new();
    optional.bytes(b"name");
    optional.u8(Kind::Fifo as u8);
    optional.uv(1 << 12);
    optional.zz(0);
    optional.raw(b"later");
    assert!(page(optional.as_slice()).is_ok(), "an optional bit");
    let mut needed = Writer::new();
    needed.bytes(b"name");
    needed.u8(Kind::Fifo as u8);
    needed.uv(1 << 16);
    needed.zz(0);
    assert!(page(needed.as_slice()).is_err(), "a bit that must be understood");
}

/// Newest first, each once, and exactly those that the state protects.
#[test]
fn kept_records_are_listed_as_they_are_protected() {
    for fence in [0, 1, 9, 30, 80] {
        for retained in [vec![], vec![0], vec![0, 1, 2, 7, 30, 31, 40], (3..90).collect()] {
            let gc = GcState {
                epoch: 1,
                fence,
                retained: retained.into_iter().collect(),
            };
            for end in [0, 1, 8, 31, 100] {
                let wanted: Vec<Seq> = (0..end).rev().filter(|seq| gc.protects(*seq)).collect();
                assert_eq!(
                    gc.kept_below(end).collect::<Vec<_>>(),
                    wanted,
                    "{gc:?} below {end}"
                );
            }
        }
    }
    let far = GcState::initial();
    assert_eq!(far.kept_below(1 << 62).take(2).last(), Some((1 << 62) - 2));
}
