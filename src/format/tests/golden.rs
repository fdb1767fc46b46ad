//! Golden files: bytes of every structure, which this and every later version must decode, and encode again to the
//! same. `SAILVOL_WRITE_GOLDEN=1 cargo test --lib golden` writes them anew: only for structures that no release has
//! written yet.
//!
//! Nodes are kept in their raw form and whole objects with contents that zstd does not shrink, or are compared after
//! decoding: what zstd makes of the same bytes may change with its version.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::codec;
use crate::format::*;
use crate::model::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/format/golden")
        .join(name)
}

/// The golden bytes of that name, which must be those that today's code makes.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let kept = golden_or(name, now);
    assert!(
        kept == now,
        "{name}: this version encodes the example differently"
    );
    kept
}

/// The golden bytes of that name; today's code may make others of the same meaning.
fn golden_or(name: &str, now: &[u8]) -> Vec<u8> {
    if std::env::var_os("SAILVOL_WRITE_GOLDEN").is_some() {
        std::fs::write(path(name), now).unwrap();
    }
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const PACK: PackRef = PackRef {
    epoch: 12,
    id: Hash([0xaa; 32]),
};
const OTHER: PackRef = PackRef {
    epoch: 11,
    id: Hash([0xbb; 32]),
};

fn attrs(file_id: u64) -> Attrs {
    let mtime = Timestamp {
        secs: 1_795_320_000,
        nanos: 123_456_789,
    };
    Attrs {
        mode: 0o644,
        uid: 1000,
        gid: 100,
        mtime,
        ctime: Timestamp {
            nanos: 123_999_999,
            ..mtime
        },
        file_id: FileId(file_id),
        xattrs: Xattrs::None,
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn ptr(pack: PackRef, offset: u64) -> Ptr {
    Ptr {
        pack,
        offset,
        stored_len: 700,
        raw_len: 900,
        hash: Hash([0xcc; 32]),
    }
}

fn blob(pack: PackRef, offset: u64) -> BlobRef {
    BlobRef {
        pack,
        offset,
        stored_len: 900,
        id: Hash([0xdd; 32]),
    }
}

fn file(file_id: u64, size: u64, content: Content) -> Entry {
    Entry {
        attrs: attrs(file_id),
        body: EntryBody::File { size, content },
    }
}

fn chunks(size: u64, chunks: &[ChunkRef]) -> Content {
    Content::Chunks {
        tier: 0,
        chunks: chunks.into(),
        cid: chunks_cid(size, 0, chunks),
    }
}

/// One entry of every kind and form.
fn page() -> DirPage {
    let xattrs: XattrMap = [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"")]
        .map(|(name, value)| (Box::from(name), Box::from(value)))
        .into();
    let mut with_xattrs = file(0x4d00_0000_0005, 0, Content::empty());
    with_xattrs.attrs.xattrs = Xattrs::from_map(xattrs);
    with_xattrs.attrs.ctime = with_xattrs.attrs.mtime;
    let mut with_blob = file(0x4d00_0000_0006, 5, Content::Tiny(Arc::from(&b"hello"[..])));
    with_blob.attrs.xattrs = Xattrs::OutOfLine {
        blob: Box::new(blob(OTHER, 90)),
        raw_len: 2_000,
    };
    with_blob.attrs.mtime.secs = -2_208_988_800;
    with_blob.attrs.ctime = Timestamp {
        secs: i64::MAX / 2,
        nanos: 7,
    };
    let inner = DirPage {
        entries: vec![(
            name("inner"),
            Entry {
                attrs: attrs(0x4d00_0000_0003),
                body: EntryBody::Fifo,
            },
        )],
    };
    let inline = EntryBody::Dir {
        totals: Totals {
            files: 1,
            dirs: 0,
            bytes: 0,
            links: 0,
            subdirs: 0,
        },
        tree: DirTree::Inline(inner.into()),
    };
    let stored = |index| EntryBody::Dir {
        totals: Totals {
            files: 1_000_000,
            dirs: 20_000,
            bytes: 1 << 40,
            links: 2,
            subdirs: 300,
        },
        tree: DirTree::stored(ptr(OTHER, 4_444), index),
    };
    let entry = |id, body| Entry {
        attrs: attrs(id),
        body,
    };
    let (eight, tail) = (8 << 20, 100_000);
    let object = ChunkRef::Object {
        epoch: 10,
        id: Hash([0xee; 32]),
    };
    DirPage {
        entries: vec![
            (name("a-dir"), entry(0x4d00_0000_0002, inline)),
            (name("b-stored"), entry(0x4d00_0000_0010, stored(false))),
            (name("c-index"), entry(0x4d00_0000_0011, stored(true))),
            (name("d-empty"), with_xattrs),
            (name("e-tiny"), with_blob),
            (
                name("f-blob"),
                file(0x4d00_0000_0007, 1_000, Content::Blob(blob(PACK, 4))),
            ),
            (
                name("g-chunks"),
                file(
                    0x4d00_0000_0008,
                    2 * eight + tail,
                    chunks(
                        2 * eight + tail,
                        &[object, ChunkRef::Hole, ChunkRef::Packed(blob(OTHER, 9))],
                    ),
                ),
            ),
            (
                name("h-paged"),
                file(
                    0x4d00_0000_0009,
                    1 << 40,
                    Content::Paged {
                        tier: 0,
                        root: Box::new(ptr(OTHER, 77)),
                        cid: Hash([0x11; 32]),
                    },
                ),
            ),
            (
                name("i-link"),
                entry(
                    12,
                    EntryBody::Symlink {
                        target: Arc::from(&b"../target"[..]),
                    },
                ),
            ),
            (name("j-socket"), entry(13, EntryBody::Socket)),
            (
                name("k-char"),
                entry(14, EntryBody::CharDev { major: 1, minor: 3 }),
            ),
            (
                name("l-block"),
                entry(
                    15,
                    EntryBody::BlockDev {
                        major: 259,
                        minor: 65_536,
                    },
                ),
            ),
            (
                name("m-hardlink"),
                Entry {
                    attrs: Attrs::default(),
                    body: EntryBody::HardLink(LinkId([0x22; 16])),
                },
            ),
            (Name::new(b"\xff not text").unwrap(), entry(16, EntryBody::Fifo)),
        ],
    }
}

fn check_node(file: &str, encoded: EncodedNode, again: impl Fn(&Node) -> EncodedNode) {
    let now = codec::unseal(&encoded.stored, encoded.raw_len as usize, file).unwrap();
    let kept = golden(file, &now);
    let node = decode_raw_node(&kept, PACK, file).unwrap();
    assert_eq!(again(&node).hash, encoded.hash, "{file}");
}

/// References to the pack itself are slot 0 in the node, and its id afterwards.
fn opened(page: &DirPage) -> DirPage {
    let mut page = page.clone();
    for (_, entry) in &mut page.entries {
        if let EntryBody::File {
            content: Content::Blob(blob),
            ..
        } = &mut entry.body
            && blob.pack == PACK
        {
            blob.pack = PackRef::open(PACK.epoch);
        }
    }
    page
}

#[test]
fn golden_nodes() {
    check_node(
        "dir-page.raw",
        encode_dir_page(&opened(&page()), false).unwrap(),
        |node| match node {
            Node::Dir(decoded) => {
                assert_eq!(format!("{decoded:?}"), format!("{:?}", page()));
                encode_dir_page(&opened(decoded), false).unwrap()
            }
            _ => panic!("another type"),
        },
    );
    let index = |cid: Option<Hash>| {
        let slot = |key: &[u8], count| IndexSlot {
            first_key: key.into(),
            ptr: ptr(OTHER, 4 + count),
            count,
            page_cid: cid,
        };
        IndexPage {
            level: 1,
            slots: vec![slot(b"", 500), slot(b"k", 400), slot(b"\xff", 1)],
        }
    };
    for (file, cid) in [
        ("index-page.raw", None),
        ("index-extents.raw", Some(Hash([0x33; 32]))),
    ] {
        check_node(
            file,
            encode_index_page(&index(cid), false).unwrap(),
            |node| match node {
                Node::Index(decoded) => {
                    assert_eq!(format!("{decoded:?}"), format!("{:?}", index(cid)));
                    encode_index_page(decoded, false).unwrap()
                }
                _ => panic!("another type"),
            },
        );
    }
    let object = ChunkRef::Object {
        epoch: 10,
        id: Hash([0xee; 32]),
    };
    let extent = ExtentPage {
        chunks: vec![object, ChunkRef::Hole, ChunkRef::Packed(blob(OTHER, 9))],
    };
    check_node(
        "extent-page.raw",
        encode_extent_page(&extent, false).unwrap(),
        |node| match node {
            Node::Extent(decoded) => {
                assert_eq!(decoded.chunks, extent.chunks);
                encode_extent_page(decoded, false).unwrap()
            }
            _ => panic!("another type"),
        },
    );
    let entries = page().entries;
    let inode = |n: u8, at: usize| {
        let entry: &Entry = &entries[at].1;
        (
            LinkId([n; 16]),
            LinkInode {
                nlink: u64::from(n) + 2,
                entry: entry.clone(),
            },
        )
    };
    // An empty file, a chunked one, a symlink and a fifo.
    let links = LinkPage {
        inodes: vec![inode(0, 3), inode(1, 6), inode(2, 8), inode(9, 13)],
    };
    check_node(
        "link-page.raw",
        encode_link_page(&links, false).unwrap(),
        |node| match node {
            Node::Links(decoded) => {
                assert_eq!(format!("{decoded:?}"), format!("{links:?}"));
                encode_link_page(decoded, false).unwrap()
            }
            _ => panic!("another type"),
        },
    );
}

fn super_node() -> SuperNode {
    let totals = Totals {
        files: 104,
        dirs: 7,
        bytes: 123_456,
        links: 2,
        subdirs: 3,
    };
    let links = LinksTree {
        stored: Some((ptr(OTHER, 55), false)),
        edits: Default::default(),
        count: 1,
        bytes: 9,
    };
    let mut page = page();
    page.resolve(PACK);
    SuperNode {
        root: TreeRoot {
            attrs: attrs(1),
            totals,
            tree: DirTree::Inline(page.into()),
            links,
        },
        refs: None,
        history: Some((ptr(OTHER, 66), true)),
    }
}

#[test]
fn golden_super_node() {
    let encoded = encode_super(&super_node(), false).unwrap();
    let now = codec::unseal(&encoded.stored, encoded.raw_len as usize, "t").unwrap();
    let decoded = decode_raw_super(&golden("super.raw", &now), false, "t").unwrap();
    assert_eq!(format!("{decoded:?}"), format!("{:?}", super_node()));
}

#[test]
fn golden_absolute_entries() {
    let mut w = Writer::new();
    let mut tables = EncodeTables::absolute(false);
    page()
        .entries
        .iter()
        .for_each(|(_, entry)| encode_entry(&mut w, &mut tables, entry).unwrap());
    let kept = golden("entries-absolute.bin", w.as_slice());
    let mut r = Reader::new(&kept, "t");
    for (name, entry) in page().entries {
        let decoded = decode_entry(&mut r, &mut DecodeTables::absolute(false)).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{entry:?}"), "{name}");
    }
    r.finish().unwrap();
}

#[test]
fn golden_pack() {
    let mut builder = PackBuilder::new(12);
    let text = "a line of text that zstd shrinks\n".repeat(40);
    builder.add_blob(text.as_bytes()).unwrap();
    builder.add_blob(b"\x00\x9f\x13").unwrap();
    builder
        .add_node(&encode_dir_page(&opened(&page()), false).unwrap())
        .unwrap();
    let kept = golden_or("pack.bin", &builder.finish().bytes);
    let len = kept.len() as u64;
    let range = pack_footer_range(&kept[kept.len() - PACK_TRAILER_BYTES as usize..], len, "t").unwrap();
    let items = parse_pack_footer(&kept[range.start as usize..], len, "t").unwrap();
    let stored = |n: usize| &kept[items[n].offset as usize..][..items[n].stored_len as usize];
    let plain = |n: usize| decode_blob(stored(n), u64::from(items[n].raw_len), &items[n].id, "t").unwrap();
    assert_eq!(plain(0), text.as_bytes());
    assert_eq!(plain(1), b"\x00\x9f\x13");
    let pack = PackRef {
        epoch: 12,
        id: content_id(&kept),
    };
    let PackItem {
        offset,
        stored_len,
        raw_len,
        id,
        ..
    } = items[2];
    let node = decode_node(
        stored(2),
        &Ptr {
            pack,
            offset,
            stored_len,
            raw_len,
            hash: id,
        },
        "t",
    )
    .unwrap();
    let Node::Dir(decoded) = node else {
        panic!("another type")
    };
    let mut resolved = opened(&page());
    resolved.resolve(pack);
    assert_eq!(format!("{decoded:?}"), format!("{resolved:?}"));
}

#[test]
fn golden_chunks() {
    let noise = |len: usize| {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    };
    let mut framed: Vec<u8> = b"sail".repeat(2 << 18);
    framed.extend(noise(300));
    for (file, plain) in [
        ("chunk-one-frame.bin", noise(500)),
        ("chunk-three-frames.bin", framed),
    ] {
        let kept = golden_or(file, &encode_chunk(&plain).unwrap().object);
        let decoded = decode_chunk(&kept, plain.len() as u32, &content_id(&plain), file).unwrap();
        assert!(decoded == plain, "{file}");
    }
}

fn record(seq: Seq) -> Record {
    let created = Timestamp {
        secs: 1_795_320_000,
        nanos: 0,
    };
    let volume = VolumeId([0x9f; 16]);
    let path = |text: &str| VolPath::parse(text.as_bytes()).unwrap();
    Record {
        descriptor: Descriptor::new(volume, "datasets", created, "if-none-match"),
        seq,
        parent: (seq > 0).then_some(Hash([0x44; 32])),
        kind: if seq == 0 {
            RecordKind::Init
        } else {
            RecordKind::Commit
        },
        txn: TxnId([0x55; 16]),
        base: seq.checked_sub(6),
        merged: if seq == 0 { vec![] } else { vec![TxnId([0x66; 16])] },
        time: Timestamp {
            secs: 1_795_323_600,
            nanos: 250_000_000,
        },
        server_time: (seq > 0).then_some(created),
        by: "pod-17".to_owned(),
        message: "first \u{26f5}".to_owned(),
        features: Features::initial(),
        root: super_node(),
        usage: Usage {
            files: 104,
            dirs: 7,
            bytes: 123_465,
            stored: 99_999,
        },
        gc: match seq {
            0 => GcState::initial(),
            _ => GcState {
                epoch: 12,
                fence: 4_400,
                retained: [0, 4_000, 4_001, 4_400].into_iter().collect(),
            },
        },
        config: VolumeConfig::default(),
        renames: if seq == 0 {
            vec![]
        } else {
            vec![(path("a/b"), path("c"))]
        },
    }
}

#[test]
fn golden_records() {
    for (file, record) in [("record-0.bin", record(0)), ("record-4711.bin", record(4_711))] {
        let kept = Bytes::from(golden_or(file, &record.encode().unwrap().bytes));
        let parsed = UnverifiedRecord::parse(&kept, file).unwrap();
        let decoded = parsed.verify(&record.volume(), record.seq).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{record:?}"), "{file}");
    }
}

#[test]
fn golden_json_objects() {
    let descriptor = record(0).descriptor;
    let kept = golden("vol.json", &descriptor.encode().unwrap());
    assert_eq!(Descriptor::decode(&kept, "t").unwrap(), descriptor);
    let entry = NameEntry::new("datasets", descriptor.volume);
    let kept = golden("name.json", &entry.encode().unwrap());
    assert_eq!(NameEntry::decode(&kept, "datasets", "t").unwrap(), entry);
    let id = LeaseId([0x77; 16]);
    let lease = Lease::new(
        descriptor.volume,
        id,
        vec![4_711, 4_400],
        "pod-17",
        descriptor.created,
    );
    let kept = golden("lease.json", &lease.encode().unwrap());
    assert_eq!(Lease::decode(&kept, &descriptor.volume, &id, "t").unwrap(), lease);
}

/// Keys, and hashes of every context over the same input.
#[test]
fn golden_keys_and_hashes() {
    let volume = VolumeId([0x9f; 16]);
    let id = content_id(b"sailvol");
    let object = ChunkRef::Object { epoch: 3, id };
    let lines = [
        Key::Name("datasets".into()).to_string(),
        Key::Descriptor(volume).to_string(),
        Key::Record(volume, 4_711).to_string(),
        Key::Chunk(volume, 12, id).to_string(),
        Key::Pack(volume, PACK).to_string(),
        Key::Draft(volume, 4_711, TxnId([0x55; 16])).to_string(),
        Key::Lease(volume, LeaseId([0x77; 16])).to_string(),
        Key::CollectorNote(volume, 4_400).to_string(),
        format!("content {id}"),
        format!("node {}", node_hash(b"sailvol")),
        format!("record {}", record_hash(b"sailvol")),
        format!("chunks cid {}", chunks_cid(5 << 20, 0, &[object])),
        format!(
            "page cid {}",
            page_cid(&ExtentPage {
                chunks: vec![object, ChunkRef::Hole]
            })
        ),
        format!("paged cid {}", paged_cid(1 << 40, 0, [id, id])),
        format!("txn {}", txn_id(&[7; 32], "pod-17", &id, &Hash([0xcc; 32]))),
    ];
    golden("keys-and-hashes.txt", (lines.join("\n") + "\n").as_bytes());
}

/// The bytes of the specification's worked example, between the last fences of its text.
fn worked_example() -> Vec<u8> {
    let spec = include_str!("../SPEC.md");
    let block = spec.rsplit("```").nth(1).unwrap();
    let digits: Vec<&str> = block
        .lines()
        .skip(1)
        .flat_map(|line| line.split("  ").next().unwrap().split_whitespace())
        .collect();
    hex::decode(digits.concat()).unwrap()
}

#[test]
fn the_worked_example_of_the_specification_is_true() {
    let time = Timestamp {
        secs: 1_795_320_000,
        nanos: 0,
    };
    let mut entry = file(300, 5, Content::Tiny(Arc::from(&b"hello"[..])));
    (entry.attrs.mtime, entry.attrs.ctime) = (time, time);
    let encoded = encode_dir_page(
        &DirPage {
            entries: vec![(name("a"), entry)],
        },
        false,
    )
    .unwrap();
    let raw = codec::unseal(&encoded.stored, encoded.raw_len as usize, "t").unwrap();
    assert_eq!(raw, worked_example());
    assert_eq!(
        (encoded.stored.len(), encoded.stored[0]),
        (raw.len() + 1, codec::RAW)
    );
    let ptr = Ptr {
        pack: PACK,
        offset: 4,
        stored_len: 37,
        raw_len: 36,
        hash: encoded.hash,
    };
    decode_node(&encoded.stored, &ptr, "t").unwrap();
    let totals = Totals {
        files: 1,
        dirs: 0,
        bytes: 5,
        links: 0,
        subdirs: 0,
    };
    let mut root = attrs(1);
    (root.mtime, root.ctime, root.mode) = (time, time, 0o755);
    let tree = DirTree::stored(ptr, false);
    let root = TreeRoot {
        attrs: root,
        totals,
        tree,
        links: LinksTree::default(),
    };
    let node = encode_super(
        &SuperNode {
            root,
            refs: None,
            history: None,
        },
        false,
    )
    .unwrap();
    assert_eq!(node.raw_len, 103, "as the specification says");
}
