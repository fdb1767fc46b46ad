//! Volumes whose objects have the right hashes and lie all the same, through the real program: `ls`, `cat`, `get`, `diff`,
//! `fsck`, and a mount that is read, written to, committed and reloaded. Every answer is an error that says what is
//! wrong, or true; nothing is written outside the directories that were named, nothing panics, memory stays bounded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse_tests::hostile::*;
use fuse_tests::pod::Pod;
use sailvol::format::{
    ExtentPage, IndexPage, IndexSlot, Key, LinkPage, Node, chunks_cid, page_cid, paged_cid,
};
use sailvol::model::{
    BlobRef, ChunkRef, Content, DirTree, Entry, EntryBody, Hash, LinkId, LinkInode, LinksTree, Name, Ptr,
    Totals, Xattrs,
};
use serde_json::Value;
use tempfile::TempDir;

struct Bench {
    pod: Pod,
    work: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let work = tempfile::tempdir().unwrap();
        let pod = Pod::new(&format!("file://{}/store", work.path().display()));
        pod.json(["volume", "create", "v"]);
        Bench { pod, work }
    }

    fn hostile(&self) -> Hostile {
        Hostile::open(&self.work.path().join("store"))
    }

    /// Exit code and both outputs. A command that panics is a failure whatever it was to do.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.pod.run(arguments);
        let all = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        (output.status.code().unwrap_or(-1), text)
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.pod.command(arguments).arg("--json").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap_or(-1), value)
    }

    fn text(&self, name: &str) -> String {
        self.work.path().join(name).to_str().unwrap().to_owned()
    }
}

/// How a lie comes out.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Found {
    /// Its directory cannot be listed.
    Listing,
    /// It can be listed, and a file in it cannot be read.
    Reading,
    /// Only a full check sees it.
    Check,
    /// It is no lie, only large.
    Never,
}

fn index(level: u8, slots: Vec<(&[u8], Ptr, u64)>) -> Node {
    let slots = slots.into_iter().map(|(key, ptr, count)| IndexSlot {
        first_key: key.into(),
        ptr,
        count,
        page_cid: None,
    });
    Node::Index(Arc::new(IndexPage {
        level,
        slots: slots.collect(),
    }))
}

fn leaf(entries: impl IntoIterator<Item = (Name, Entry)>) -> Node {
    Node::Dir(Arc::new(page(entries)))
}

/// An index page over index pages, to the deepest level, each naming the one below `width` times.
fn index_tower(h: &Hostile, width: usize) -> Ptr {
    let mut below = h.encoded(&leaf([(name("a"), tiny(b"a"))]));
    for level in 1..=7 {
        let keys: Vec<Vec<u8>> = (0..width)
            .map(|n| match n {
                0 => Vec::new(),
                n => format!("b{n:05}").into_bytes(),
            })
            .collect();
        let slots = keys.iter().map(|key| (key.as_slice(), below, 1)).collect();
        below = h.encoded(&index(level, slots));
    }
    below
}

/// Lies below one directory each: by name, the entry of that directory, and how it comes out.
fn lies(h: &Hostile) -> BTreeMap<&'static str, (Entry, Found)> {
    let mut all = BTreeMap::new();
    let mut add = |what: &'static str, entry: Entry, found: Found| {
        assert!(all.insert(what, (entry, found)).is_none(), "{what}");
    };
    let raw = |entries: &[Vec<u8>]| dir_of_files(entries.len() as u64, h.node(&raw_dir(entries)), false);

    // ---- names ----
    let long = vec![b'x'; 256];
    let names: [(&str, &[u8]); 6] = [
        ("name-dotdot", b".."),
        ("name-dot", b"."),
        ("name-empty", b""),
        ("name-slash", b"../../escaped"),
        ("name-nul", b"a\0b"),
        ("name-long", &long),
    ];
    for (what, bad) in names {
        add(what, raw(&[raw_file(bad, 1, b"x")]), Found::Listing);
    }
    let twice = [raw_file(b"a", 1, b"1"), raw_file(b"a", 1, b"2")];
    add("name-twice", raw(&twice), Found::Listing);
    let unsorted = [raw_file(b"b", 1, b"1"), raw_file(b"a", 1, b"2")];
    add("name-unsorted", raw(&unsorted), Found::Listing);

    // ---- sizes ----
    add(
        "size-2^63",
        raw(&[raw_file(b"f", 1 << 63, b"hello")]),
        Found::Listing,
    );
    add("size-tiny", raw(&[raw_file(b"f", 9, b"hello")]), Found::Listing);
    let blob = h.blob(&[7; 1000]);
    let lying_blob = inline([
        (name("f"), file(2000, Content::Blob(blob))),
        (name("true"), file(1000, Content::Blob(blob))),
    ]);
    add("size-blob", lying_blob, Found::Reading);
    let chunks: Arc<[ChunkRef]> = [h.chunk(&vec![1; 8 << 20]), h.chunk(&[2; 1 << 20])].into();
    let size = 10 << 20;
    let cid = chunks_cid(size, 0, &chunks);
    let content = Content::Chunks {
        tier: 0,
        chunks: chunks.clone(),
        cid,
    };
    add(
        "size-chunk",
        inline([(name("f"), file(size, content))]),
        Found::Reading,
    );
    let swapped: Arc<[ChunkRef]> = [chunks[1], chunks[0]].into();
    let cid = chunks_cid(size, 0, &swapped);
    let content = Content::Chunks {
        tier: 0,
        chunks: swapped,
        cid,
    };
    add(
        "chunks-swapped",
        inline([(name("f"), file(size, content))]),
        Found::Reading,
    );
    let extents = ExtentPage {
        chunks: vec![chunks[0]; 3],
    };
    let extents_cid = page_cid(&extents);
    let extents_at = h.encoded(&Node::Extent(Arc::new(extents)));
    let paged = |size: u64, root: Ptr, cid: Hash| {
        file(
            size,
            Content::Paged {
                tier: 0,
                root: Box::new(root),
                cid,
            },
        )
    };
    let huge = sailvol::model::FILE_BYTES_MAX;
    let cid = paged_cid(huge, 0, [extents_cid]);
    add(
        "size-huge",
        inline([(name("f"), paged(huge, extents_at, cid))]),
        Found::Reading,
    );
    let size = 24 << 20;
    add(
        "cid-wrong",
        inline([(name("f"), paged(size, extents_at, Hash([3; 32])))]),
        Found::Check,
    );
    let holes = ExtentPage {
        chunks: vec![ChunkRef::Hole; 1024],
    };
    let holes_cid = page_cid(&holes);
    let mut tower = h.encoded(&Node::Extent(Arc::new(holes)));
    for level in 1..=7 {
        let slots = (0..200u64).map(|n| IndexSlot {
            first_key: match n {
                0 => Box::default(),
                n => n.to_be_bytes().into(),
            },
            ptr: tower,
            count: 1024,
            page_cid: (level == 1).then_some(holes_cid),
        });
        let page = IndexPage {
            level,
            slots: slots.collect(),
        };
        tower = h.encoded(&Node::Index(Arc::new(page)));
    }
    add(
        "chunks-tower",
        inline([(name("f"), paged(64 << 30, tower, Hash([4; 32])))]),
        Found::Check,
    );

    // ---- pointers ----
    let good = h.encoded(&leaf([(name("a"), tiny(b"a"))]));
    add("kind-extents", dir_of_files(1, extents_at, false), Found::Listing);
    add("kind-index", dir_of_files(1, good, true), Found::Listing);
    add(
        "pack-missing",
        dir_of_files(
            1,
            Ptr {
                pack: nowhere(),
                ..good
            },
            false,
        ),
        Found::Listing,
    );
    let outside = Ptr {
        offset: 60 << 20,
        ..good
    };
    add("pack-outside", dir_of_files(1, outside, false), Found::Listing);
    let in_footer = Ptr {
        offset: good.offset + 9,
        ..good
    };
    add(
        "pack-elsewhere",
        dir_of_files(1, in_footer, false),
        Found::Listing,
    );
    let gone = BlobRef {
        pack: nowhere(),
        ..blob
    };
    add(
        "blob-missing",
        inline([(name("f"), file(1000, Content::Blob(gone)))]),
        Found::Reading,
    );
    let node_as_blob = BlobRef {
        pack: good.pack,
        offset: good.offset,
        stored_len: good.stored_len,
        id: good.hash,
    };
    add(
        "blob-node",
        inline([(name("f"), file(500, Content::Blob(node_as_blob)))]),
        Found::Reading,
    );
    let mut with_xattrs = tiny(b"x");
    with_xattrs.attrs.xattrs = Xattrs::OutOfLine {
        blob: Box::new(blob),
        raw_len: 1000,
    };
    add("xattrs-garbled", inline([(name("f"), with_xattrs)]), Found::Check);

    // ---- bombs ----
    let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let bomb = h.node(&seal_compressed(&zeros, 1 << 20));
    add("bomb-node", dir_of_files(1, bomb, false), Found::Listing);
    let short = h.node(&seal_compressed(&zeros, 60_000));
    add("bomb-short", dir_of_files(1, short, false), Found::Listing);
    let nested = h.node(&seal_compressed(
        &zstd::bulk::compress(&zeros, 3).unwrap(),
        1 << 20,
    ));
    add("bomb-nested", dir_of_files(1, nested, false), Found::Listing);

    // ---- index pages ----
    let b = h.encoded(&leaf([(name("b"), tiny(b"b"))]));
    let keys = h.encoded(&index(1, vec![(b"", b, 1), (b"m", good, 1)]));
    add("index-keys", dir_of_files(2, keys, true), Found::Check);
    let counts = h.encoded(&index(1, vec![(b"", good, 5), (b"b", b, 1)]));
    add("index-counts", dir_of_files(6, counts, true), Found::Check);
    let same = h.encoded(&index(1, vec![(b"", good, 1), (b"b", good, 1)]));
    add("index-twice", dir_of_files(2, same, true), Found::Listing);
    add(
        "index-tower",
        dir_of_files(200, index_tower(h, 200), true),
        Found::Listing,
    );
    let levels = h.encoded(&index(3, vec![(b"", keys, 2), (b"x", b, 1)]));
    add("index-levels", dir_of_files(3, levels, true), Found::Listing);
    let empty = h.encoded(&leaf([]));
    let hollow: Vec<Vec<u8>> = (0..3).map(|n| format!("k{n}").into_bytes()).collect();
    let mut slots: Vec<(&[u8], Ptr, u64)> = vec![(b"", empty, 1)];
    slots.extend(hollow.iter().map(|key| (key.as_slice(), empty, 1)));
    let hollow = h.encoded(&index(1, slots));
    add("index-hollow", dir_of_files(4, hollow, true), Found::Listing);

    // ---- totals, links ----
    let claimed = Totals {
        files: 5,
        bytes: 1 << 59,
        ..Totals::default()
    };
    let one = page([(name("f"), tiny(b"x"))]);
    add(
        "totals",
        dir_with(claimed, DirTree::Inline(one.into())),
        Found::Check,
    );
    let nothing = Entry {
        attrs: Default::default(),
        body: EntryBody::HardLink(LinkId([0x11; 16])),
    };
    add("link-nothing", inline([(name("f"), nothing)]), Found::Listing);
    let counted = Entry {
        attrs: Default::default(),
        body: EntryBody::HardLink(LinkId([0x22; 16])),
    };
    add("link-count", inline([(name("f"), counted)]), Found::Check);

    // ---- many names from few nodes; nothing of it is untrue ----
    let mut tree = (
        Totals {
            files: 1,
            bytes: 1,
            ..Totals::default()
        },
        good,
    );
    for _ in 0..40 {
        let both = ["left", "right"].map(|side| {
            let stored = DirTree::stored(tree.1, false);
            (name(side), dir_with(tree.0, stored))
        });
        let both = page(both);
        tree = (
            sailvol::tree::recount(&both.entries),
            h.encoded(&Node::Dir(Arc::new(both))),
        );
    }
    let stored = DirTree::stored(tree.1, false);
    add("names-2^40", dir_with(tree.0, stored), Found::Never);
    let mut deep = inline([(name("f"), tiny(b"x"))]);
    for n in 1..1500 {
        deep = inline([(name("d"), deep)]);
        if n % 50 == 0 {
            let EntryBody::Dir {
                totals,
                tree: DirTree::Inline(page),
            } = &deep.body
            else {
                unreachable!()
            };
            let ptr = h.encoded(&Node::Dir(page.clone()));
            deep = dir_with(*totals, DirTree::stored(ptr, false));
        }
    }
    add("deep", deep, Found::Check);

    // ---- where a careless copy would write ----
    let link = |target: &str| Entry {
        attrs: attrs(0o777, 5),
        body: EntryBody::Symlink {
            target: target.as_bytes().into(),
        },
    };
    let outward = inline([
        (name("absolute"), link("/etc")),
        (name("up"), link("../../../..")),
        (
            name("device"),
            Entry {
                attrs: attrs(0o4777, 6),
                body: EntryBody::CharDev { major: 1, minor: 3 },
            },
        ),
    ]);
    add("symlinks", outward, Found::Never);
    all
}

/// A volume with all of them, and a good file beside.
fn volume_of_lies(bench: &Bench) -> BTreeMap<&'static str, (Entry, Found)> {
    let mut h = bench.hostile();
    let lies = lies(&h);
    let entries = lies.iter().map(|(what, (entry, _))| (name(what), entry.clone()));
    let mut root = root(entries.chain([(name("good"), tiny(b"good"))]));
    let inode = LinkInode {
        nlink: 3,
        entry: tiny(b"linked"),
    };
    let links = LinkPage {
        inodes: vec![(LinkId([0x22; 16]), inode)],
    };
    root.links = LinksTree {
        stored: Some((h.encoded(&Node::Links(Arc::new(links))), false)),
        count: 1,
        bytes: 6,
        ..LinksTree::default()
    };
    h.publish(root);
    lies
}

#[test]
fn commands_refuse_every_lie_with_its_object_and_write_nowhere_else() {
    let bench = Bench::new();
    let lies = volume_of_lies(&bench);
    let mut before = outside(bench.work.path());
    for (what, (_, how)) in &lies {
        let at = format!("v:/{what}");
        let (code, text) = bench.run(&["ls", "--recursive", "--limit", "2000", &at]);
        match how {
            Found::Listing => {
                assert!([1, 7].contains(&code), "ls {what}: {code} {text}");
                let says = ["damaged", "no longer kept", "refers to"]
                    .iter()
                    .any(|part| text.contains(part));
                assert!(says, "ls {what}: {text}");
            }
            Found::Reading | Found::Never => assert_eq!(code, 0, "ls {what}: {text}"),
            Found::Check => assert!([0, 1, 3, 7].contains(&code), "ls {what}: {text}"),
        }
        let target = bench.text(&format!("out-{what}"));
        fs::create_dir(&target).unwrap();
        let (code, text) = bench.run(&["get", &at, &target]);
        let refused = how == &Found::Listing || how == &Found::Reading || *what == "names-2^40";
        assert_eq!(
            code != 0,
            refused || code != 0 && how == &Found::Check,
            "get {what}: {code} {text}"
        );
        before.insert(PathBuf::from(&target));
    }
    assert_eq!(outside(bench.work.path()), before);
    let kept = fs::read_link(bench.work.path().join("out-symlinks/symlinks/up")).unwrap();
    assert_eq!(kept, Path::new("../../../.."));
    assert!(!Path::new("/escaped").exists() && !bench.work.path().join("escaped").exists());
    let (code, text) = bench.run(&["cat", "v:/good"]);
    assert_eq!((code, text.as_str()), (0, "good"));
    let (code, text) = bench.run(&["diff", "v", "--from", "0", "--to", "1"]);
    assert!(code == 0 || code == 2, "{text}");
}

/// What is directly in the work directory and beside it.
fn outside(work: &Path) -> std::collections::BTreeSet<PathBuf> {
    fs::read_dir(work)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn hostile_records_are_refused_by_name() {
    // What is put in the place of record 1, made from the true one.
    type Lie = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let json = |bytes: &[u8], change: &dyn Fn(&mut Value)| {
        let end = bytes.iter().position(|b| *b == b'\n').unwrap();
        let mut line: Value = serde_json::from_slice(&bytes[..end]).unwrap();
        change(&mut line);
        [line.to_string().as_bytes(), b"\n", &bytes[end + 1..]].concat()
    };
    let lies: [(&str, Lie); 12] = [
        ("empty", Box::new(|_| Vec::new())),
        (
            "no line",
            Box::new(|bytes| bytes.iter().copied().filter(|b| *b != b'\n').collect()),
        ),
        ("garbled", Box::new(|bytes| [b"{\"sailvol\":1,,", bytes].concat())),
        ("nested", Box::new(|_| "[".repeat(200_000).into_bytes())),
        (
            "other number",
            Box::new(move |bytes| json(bytes, &|line| line["seq"] = 9.into())),
        ),
        (
            "other volume",
            Box::new(move |bytes| json(bytes, &|line| line["volume"] = "0".repeat(32).into())),
        ),
        (
            "no root",
            Box::new(move |bytes| json(bytes, &|line| line["root"] = Value::Null)),
        ),
        (
            "root outside",
            Box::new(move |bytes| json(bytes, &|line| line["root"]["off"] = u64::MAX.into())),
        ),
        (
            "long root",
            Box::new(move |bytes| json(bytes, &|line| line["root"]["raw"] = u32::MAX.into())),
        ),
        (
            "bad hash",
            Box::new(move |bytes| json(bytes, &|line| line["root"]["hash"] = "1".repeat(64).into())),
        ),
        (
            "far fence",
            Box::new(move |bytes| json(bytes, &|line| line["gc"]["fence"] = u64::MAX.into())),
        ),
        ("too long", Box::new(|bytes| [bytes, &vec![0; 5 << 20]].concat())),
    ];
    let bench = Bench::new();
    let mut h = bench.hostile();
    h.publish(root([(name("good"), tiny(b"good"))]));
    let key = Key::Record(h.volume(), 1);
    let whole = fs::read(h.path(&key)).unwrap();
    for (what, lie) in lies {
        h.put(&key.to_string(), &lie(&whole));
        for command in [&["ls", "v:/"][..], &["fsck", "v"], &["volume", "info", "v"]] {
            let (code, text) = bench.run(command);
            assert_eq!(code, 7, "{what}, {command:?}: {text}");
            assert!(text.contains(&key.to_string()), "{what}, {command:?}: {text}");
        }
        let dir = bench.pod.mount_dir();
        let (code, text) = bench.run(&["mount", "v", &dir.to_string_lossy()]);
        assert_eq!(code, 7, "{what}: {text}");
    }
    h.put(&key.to_string(), &whole);
    assert_eq!(bench.run(&["ls", "v:/"]).0, 0);
}

#[test]
fn a_log_that_claims_a_quintillion_records_is_checked_at_once() {
    let bench = Bench::new();
    let mut h = bench.hostile();
    h.head.seq = (1 << 60) - 1;
    h.publish(root([(name("good"), tiny(b"good"))]));
    let (code, found) = bench.json(&["fsck", "v"]);
    assert_eq!(code, 7, "{found}");
    let rules: Vec<&str> = found["damage"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|damage| damage["rule"].as_str())
        .collect();
    assert!(
        rules.iter().any(|rule| rule.starts_with("records 1 to ")),
        "{rules:?}"
    );
    let (code, text) = bench.run(&["log", "v"]);
    assert!(code == 0 || code == 1 || code == 2, "{text}");
    assert_eq!(bench.run(&["cat", "v:/good"]), (0, "good".to_owned()));
}

#[test]
fn wrong_usage_and_a_broken_chain_are_found() {
    let bench = Bench::new();
    let mut h = bench.hostile();
    h.publish(root([(name("one"), tiny(b"1"))]));
    let mut wrong = h.head.clone();
    wrong.usage.files = 77;
    h.publish_record(wrong);
    let mut apart = h.head.clone();
    apart.usage.files = 1;
    h.publish_record(apart);
    // The middle one is replaced by a true record that is another one.
    let key = Key::Record(h.volume(), 2);
    let stored = fs::read(h.path(&key)).unwrap();
    let end = stored.iter().position(|b| *b == b'\n').unwrap();
    let mut line: Value = serde_json::from_slice(&stored[..end]).unwrap();
    line["msg"] = "another".into();
    h.put(
        &key.to_string(),
        &[line.to_string().as_bytes(), &stored[end..]].concat(),
    );
    let (code, found) = bench.json(&["fsck", "v", "--all-records"]);
    assert_eq!(code, 7);
    let text = found.to_string();
    assert!(text.contains("is not the record that record 3 follows"), "{text}");
    let mut wrong = h.head.clone();
    wrong.usage.bytes = 1 << 50;
    h.publish_record(wrong);
    let (_, found) = bench.json(&["fsck", "v"]);
    assert!(found.to_string().contains("usage"), "{found}");
}
