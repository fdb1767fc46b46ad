//! Each limit of SPEC.md: a value at the limit is written and read, one above is refused by writer and reader.

use std::sync::Arc;

use super::arbitrary::Gen;
use crate::format::limits::*;
use crate::format::*;
use crate::model::*;

const HERE: PackRef = PackRef {
    epoch: 7,
    id: Hash([0xee; 32]),
};

fn page(entries: Vec<(Vec<u8>, EntryBody)>) -> DirPage {
    let entries = entries
        .into_iter()
        .map(|(name, body)| {
            (
                Name::new(&name).unwrap(),
                Entry {
                    attrs: Attrs::default(),
                    body,
                },
            )
        })
        .collect();
    DirPage { entries }
}

fn one(body: EntryBody) -> DirPage {
    page(vec![(b"x".to_vec(), body)])
}

fn file(size: u64, content: Content) -> DirPage {
    one(EntryBody::File { size, content })
}

fn accepted(page: &DirPage) -> bool {
    let Ok(node) = encode_dir_page(page, false) else {
        return false;
    };
    let ptr = Ptr {
        pack: HERE,
        offset: 4,
        stored_len: node.stored.len() as u32,
        raw_len: node.raw_len,
        hash: node.hash,
    };
    decode_node(&node.stored, &ptr, "t").unwrap();
    true
}

/// A raw dir page of one entry with these bytes after its name and kind, without attributes.
fn raw_entry(kind: Kind, rest: impl FnOnce(&mut Writer)) -> Result<Node, Corrupt> {
    let mut entry = Writer::new();
    entry.bytes(b"x");
    entry.u8(kind as u8);
    entry.uv(0);
    entry.zz(0);
    rest(&mut entry);
    let mut w = Writer::new();
    w.raw(b"SVN1\x01\x00");
    w.uv(0);
    w.uv(0);
    w.zz(0);
    w.uv(0);
    w.uv(1);
    w.bytes(entry.as_slice());
    decode_raw_node(w.as_slice(), HERE, "t")
}

#[test]
fn names_and_targets() {
    assert!(accepted(&page(vec![(vec![b'n'; 255], EntryBody::Fifo)])));
    let target = |len| EntryBody::Symlink {
        target: vec![b't'; len].into(),
    };
    assert!(accepted(&one(target(4_095))));
    assert!(!accepted(&one(target(4_096))) && !accepted(&one(target(0))));
    assert!(raw_entry(Kind::Symlink, |w| w.bytes(&[b't'; 4_095])).is_ok());
    assert!(raw_entry(Kind::Symlink, |w| w.bytes(&[b't'; 4_096])).is_err());
    assert!(raw_entry(Kind::Symlink, |w| w.bytes(b"a\0b")).is_err());
}

#[test]
fn xattrs() {
    let map = |bytes: usize| -> XattrMap {
        let name: Box<[u8]> = Box::from(&b"user.x"[..]);
        [(name, vec![1; bytes - 6].into())].into()
    };
    let with = |xattrs| {
        let mut page = one(EntryBody::Fifo);
        page.entries[0].1.attrs.xattrs = xattrs;
        page
    };
    assert!(accepted(&with(Xattrs::from_map(map(XATTR_INLINE_BYTES_MAX)))));
    assert!(
        !accepted(&with(Xattrs::from_map(map(XATTR_INLINE_BYTES_MAX + 1)))),
        "those go out of line"
    );
    let mut w = Writer::new();
    encode_xattr_map(&mut w, &map(XATTR_BYTES_MAX)).unwrap();
    assert!(decode_xattr_map(&mut Reader::new(w.as_slice(), "t")).is_ok());
    assert!(encode_xattr_map(&mut Writer::new(), &map(XATTR_BYTES_MAX + 1)).is_err());
    let long: XattrMap = [(vec![b'n'; 256].into(), Box::from(&[][..]))].into();
    assert!(encode_xattr_map(&mut Writer::new(), &long).is_err());
}

#[test]
fn contents() {
    let tiny = |len| file(len as u64, Content::Tiny(vec![1; len].into()));
    assert!(accepted(&tiny(256)) && !accepted(&tiny(257)));
    let blob = BlobRef {
        pack: HERE,
        offset: 4,
        stored_len: 1,
        id: Hash([1; 32]),
    };
    assert!(accepted(&file(ITEM_BYTES_MAX - 1, Content::Blob(blob))));
    assert!(!accepted(&file(ITEM_BYTES_MAX, Content::Blob(blob))));
    let longer = BlobRef {
        stored_len: 11,
        ..blob
    };
    assert!(
        accepted(&file(10, Content::Blob(longer))),
        "raw, with its codec byte"
    );
    assert!(
        !accepted(&file(9, Content::Blob(longer))),
        "stored longer than raw"
    );
    assert!(
        !accepted(&file(
            9,
            Content::Blob(BlobRef {
                stored_len: 0,
                ..blob
            })
        )),
        "no codec byte"
    );
    let behind = BlobRef {
        offset: PACK_BYTES_MAX,
        ..blob
    };
    assert!(!accepted(&file(9, Content::Blob(behind))));
    let chunks = |count: u64| {
        let size = count * (8 << 20);
        let chunks: Arc<[ChunkRef]> = (0..count).map(|_| ChunkRef::Hole).collect();
        file(
            size,
            Content::Chunks {
                tier: 0,
                cid: chunks_cid(size, 0, &chunks),
                chunks,
            },
        )
    };
    assert!(accepted(&chunks(32)) && !accepted(&chunks(33)));
    let root = Gen::new(1).ptr();
    let paged = |size| {
        file(
            size,
            Content::Paged {
                tier: 0,
                root: Box::new(root),
                cid: Hash([1; 32]),
            },
        )
    };
    assert!(accepted(&paged(FILE_BYTES_MAX)) && !accepted(&paged(FILE_BYTES_MAX + 1)));
    let over = raw_entry(Kind::File, |w| {
        w.uv(FILE_BYTES_MAX + 1);
        w.u8(0);
        w.bytes(b"");
    });
    assert!(over.is_err());
}

#[test]
fn what_is_not_uploaded_or_not_stored_is_never_encoded() {
    let local = Content::Local(LocalContent {
        overlay: 1,
        node: 2,
        generation: 3,
    });
    assert_eq!(
        encode_dir_page(&file(3, local), false).unwrap_err(),
        EncodeError::LocalContent
    );
    let tree = DirTree::Pages(PageTree {
        level: 1,
        slots: Arc::new(vec![]),
    });
    let edited = one(EntryBody::Dir {
        totals: Totals::default(),
        tree,
    });
    assert_eq!(
        encode_dir_page(&edited, false).unwrap_err(),
        EncodeError::NotStored
    );
}

#[test]
fn order_of_entries() {
    let twice = page(vec![
        (b"a".to_vec(), EntryBody::Fifo),
        (b"a".to_vec(), EntryBody::Fifo),
    ]);
    assert!(!accepted(&twice));
    let unsorted = page(vec![
        (b"b".to_vec(), EntryBody::Fifo),
        (b"a".to_vec(), EntryBody::Fifo),
    ]);
    assert!(!accepted(&unsorted));
}

#[test]
fn nesting() {
    let nested = |levels: usize| {
        let mut page = DirPage::default();
        for _ in 1..levels {
            page = one(EntryBody::Dir {
                totals: Totals::default(),
                tree: DirTree::Inline(page.into()),
            });
        }
        page
    };
    assert_eq!(crate::format::nesting(&nested(64)), 64);
    assert!(accepted(&nested(NESTING_MAX)));
    assert!(!accepted(&nested(NESTING_MAX + 1)));
    // The same by hand: a reader must not trust writers with its stack.
    let mut body = vec![0];
    for _ in 0..NESTING_MAX {
        let mut entry = Writer::new();
        entry.bytes(b"x");
        entry.raw(&[Kind::Dir as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
        entry.bytes(&body);
        let mut w = Writer::new();
        w.uv(1);
        w.bytes(entry.as_slice());
        body = w.into_vec();
    }
    let deep = [b"SVN1\x01\x00\x00\x00\x00\x00", body.as_slice()].concat();
    let error = decode_raw_node(&deep, HERE, "t").unwrap_err();
    assert_eq!(
        error.rule,
        "more than 64 directories inside one another in a node"
    );
}

#[test]
fn raw_bytes_and_entries_of_a_node() {
    let long = |count: usize| {
        let target: Arc<[u8]> = vec![b't'; 4_000].into();
        page(
            (0..count)
                .map(|n| {
                    (
                        format!("{n:05}").into_bytes(),
                        EntryBody::Symlink {
                            target: target.clone(),
                        },
                    )
                })
                .collect(),
        )
    };
    assert!(accepted(&long(260)) && !accepted(&long(263)));
    let short = |count: usize| {
        page(
            (0..count)
                .map(|n| (format!("{n:05x}").into_bytes(), EntryBody::Fifo))
                .collect(),
        )
    };
    assert!(accepted(&short(NODE_ENTRIES_MAX)) && !accepted(&short(NODE_ENTRIES_MAX + 1)));
    let node = encode_dir_page(&short(1), false).unwrap();
    let ptr = Ptr {
        pack: HERE,
        offset: 4,
        stored_len: node.stored.len() as u32,
        raw_len: u32::MAX,
        hash: node.hash,
    };
    assert!(
        decode_node(&node.stored, &ptr, "t").is_err(),
        "nothing is allocated for a length over the limit"
    );
}

#[test]
fn levels_and_entries_of_a_directory() {
    let slot = |count| IndexSlot {
        first_key: Box::from(&[][..]),
        ptr: Gen::new(1).ptr(),
        count,
        page_cid: None,
    };
    let index = |level, count| {
        encode_index_page(
            &IndexPage {
                level,
                slots: vec![slot(count)],
            },
            false,
        )
    };
    assert!(index(7, DIR_ENTRIES_MAX).is_ok());
    assert!(index(8, 1).is_err() && index(0, 1).is_err());
    assert!(index(1, DIR_ENTRIES_MAX + 1).is_err());
    assert!(
        encode_index_page(
            &IndexPage {
                level: 1,
                slots: vec![]
            },
            false
        )
        .is_err()
    );
    let chunks = |count| {
        encode_extent_page(
            &ExtentPage {
                chunks: vec![ChunkRef::Hole; count],
            },
            false,
        )
    };
    assert!(chunks(1_024).is_ok() && chunks(1_025).is_err() && chunks(0).is_err());
}

#[test]
fn totals_of_a_directory() {
    let with = |totals| {
        one(EntryBody::Dir {
            totals,
            tree: DirTree::empty(),
        })
    };
    let full = Totals {
        files: TOTAL_COUNT_MAX,
        dirs: TOTAL_COUNT_MAX,
        bytes: TOTAL_BYTES_MAX,
        links: TOTAL_COUNT_MAX,
        subdirs: TOTAL_COUNT_MAX,
    };
    assert!(accepted(&with(full)));
    assert!(!accepted(&with(Totals {
        files: TOTAL_COUNT_MAX + 1,
        ..full
    })));
    assert!(!accepted(&with(Totals {
        bytes: TOTAL_BYTES_MAX + 1,
        ..full
    })));
}

#[test]
fn bytes_and_items_of_a_pack() {
    let mut builder = PackBuilder::new(1);
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for n in 0..15 {
        noise[0] = n;
        builder.add_blob(&noise).unwrap();
    }
    noise[0] = 15;
    let full = builder.add_blob(&noise);
    assert!(matches!(
        full,
        Err(EncodeError::Limit {
            what: "bytes of a pack",
            ..
        })
    ));
    assert!(builder.finish().bytes.len() as u64 <= PACK_BYTES_MAX);
    assert!(parse_pack_footer(&[0; 24], PACK_BYTES_MAX + 1, "t").is_err());
}

#[test]
fn parts_of_a_record() {
    let record = || Gen::new(3).record();
    let refused = |change: &dyn Fn(&mut Record)| {
        let mut changed = record();
        change(&mut changed);
        changed.encode().is_err()
    };
    assert!(!refused(&|_| ()));
    assert!(!refused(&|r| r.merged = vec![TxnId([1; 16]); MERGED_MAX]));
    assert!(refused(&|r| r.merged = vec![TxnId([1; 16]); MERGED_MAX + 1]));
    assert!(!refused(&|r| r.message = "m".repeat(MESSAGE_BYTES_MAX)));
    assert!(refused(&|r| r.message = "m".repeat(MESSAGE_BYTES_MAX + 1)));
    assert!(refused(&|r| r.by = "b".repeat(BY_BYTES_MAX + 1)));
    assert!(refused(
        &|r| r.renames = vec![(VolPath::root(), VolPath::root()); RENAMES_MAX + 1]
    ));
    let deep = VolPath(vec![Name::new(b"d").unwrap(); PATH_DEPTH_MAX + 1]);
    assert!(refused(&|r| r.renames = vec![(deep.clone(), VolPath::root())]));
    assert!(refused(&|r| r.descriptor.name = "n".repeat(RECORD_JSON_BYTES_MAX)));
    assert!(refused(&|r| {
        r.features.ro_compat.insert("newer".into());
    }));
    assert!(refused(&|r| r.descriptor.node.page_max = 1));
    assert!(refused(&|r| r.gc.epoch = LOCAL_EPOCH));
    assert!(refused(&|r| r.gc.fence = r.seq + 1));
    assert!(refused(&|r| r.parent = None) || record().seq == 0);
    let long = vec![b' '; RECORD_BYTES_MAX + 1];
    assert!(UnverifiedRecord::parse(&long.into(), "t").is_err());
    let no_line = vec![b' '; RECORD_JSON_BYTES_MAX + 5];
    assert!(UnverifiedRecord::parse(&no_line.into(), "t").is_err());
}
