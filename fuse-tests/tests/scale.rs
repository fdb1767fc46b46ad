//! What a large volume costs in requests and bytes: independent of how much is in it.
//!
//! `SAILVOL_SCALE_ENTRIES` (100,000 unless it is set) says how many entries the volume has. Names and attributes are
//! made, not files: the tree is stored by the code that commits use, in memory behind a store that counts.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use sailvol::commit::*;
use sailvol::format::{FinishedPack, NodeSizes, RecordKind, SuperNode, Usage, VolumeConfig};
use sailvol::model::*;
use sailvol::overlay::{BaseRef, NewBody, NodeId, Op, Origin, OverlayState, Place, ROOT_NODE};
use sailvol::store::{CountingStore, MemoryStore, StoreCounters};
use sailvol::tree::{self, NodeParams, NodeWriter, PackSink, TreeError};
use sailvol::volume::{
    Clock, CreateOptions, Head, NextRecord, Opened, PublishOutcome, RemoteSource, Volume, VolumeRef,
};

/// Files of an ordinary directory.
const DIR_FILES: u64 = 1000;
/// Directories that are stored at a time.
const BATCH: u64 = 50;
/// Most that a small change may send.
const SENT_MAX: u64 = 200 << 10;
/// Most that it may receive: three windows of packs as a source without a cache reads them, 256 KiB for a node.
const RECEIVED_MAX: u64 = 3 * (256 << 10);

fn name(text: String) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn attrs(n: u64, mode: u16) -> Attrs {
    let at = Timestamp {
        secs: 1_700_000_000 + (n % 1_000_000) as i64,
        nanos: (n % 1_000_000_000) as u32,
    };
    Attrs {
        mode,
        mtime: at,
        ctime: at,
        file_id: FileId(1000 + n),
        ..Attrs::default()
    }
}

/// A file whose content is a chunk that nobody reads here.
fn file(n: u64) -> Entry {
    let chunk = ChunkRef::Object {
        epoch: 1,
        id: Hash(n.to_le_bytes().repeat(4).try_into().unwrap()),
    };
    let size = (4 << 20) + n % 4096;
    let content = Content::Chunks {
        tier: 0,
        chunks: vec![chunk].into(),
        cid: sailvol::format::chunks_cid(size, 0, &[chunk]),
    };
    Entry {
        attrs: attrs(n, 0o644),
        body: EntryBody::File { size, content },
    }
}

fn dir(n: u64, entries: Vec<(Name, Entry)>) -> Entry {
    let below = tree::recount(&entries);
    Entry {
        attrs: attrs(n, 0o755),
        body: EntryBody::Dir {
            totals: below,
            tree: DirTree::Inline(Arc::new(DirPage { entries })),
        },
    }
}

/// Sends packs as they are finished.
struct ToVolume(Volume);

#[async_trait]
impl PackSink for ToVolume {
    async fn take(&mut self, pack: FinishedPack) -> Result<(), TreeError> {
        self.0.put_pack(&pack).await.map_err(|e| TreeError::Unreachable {
            reason: e.to_string(),
        })
    }
}

/// Stores these directories; what is left are their entries, with pointers in them.
async fn store_part(volume: &Volume, src: &RemoteSource, entries: Vec<(Name, Entry)>) -> Vec<(Name, Entry)> {
    let root = TreeRoot {
        attrs: Attrs::default(),
        totals: tree::recount(&entries),
        tree: DirTree::Inline(Arc::new(DirPage { entries })),
        links: LinksTree::default(),
    };
    let writer = NodeWriter::new(1, NodeParams::default()).with_sink(Box::new(ToVolume(volume.clone())));
    let stored = tree::store(src, &root, writer).await.unwrap();
    tree::entries(src, &stored.root.tree).await.unwrap()
}

/// `/huge` with a tenth of the entries (100,000 at most), the rest in directories of 1,000 under `/g…`.
async fn generate(opened: &Opened, entries: u64, huge: u64) -> Head {
    let volume = &opened.volume;
    let src = RemoteSource::new(volume.clone());
    let files = |from: u64, count: u64| -> Vec<(Name, Entry)> {
        let file = |n| (name(format!("file-{n:010}.dat")), file(n));
        (from..from + count).map(file).collect()
    };
    let mut top = Vec::new();
    let (mut made, mut number) = (huge, 0);
    while made < entries {
        let mut dirs = Vec::new();
        for _ in 0..BATCH.min((entries - made).div_ceil(DIR_FILES)) {
            let count = DIR_FILES.min(entries - made);
            dirs.push((name(format!("dir-{number:08}")), dir(number, files(made, count))));
            made += count;
            number += 1;
        }
        let dirs = store_part(volume, &src, dirs).await;
        top.push((name(format!("g{:06}", number)), dir(number, dirs)));
    }
    top.push((name("huge".to_owned()), dir(1, files(0, huge))));
    let top = store_part(volume, &src, top).await;
    let root = TreeRoot {
        attrs: attrs(0, 0o755),
        totals: tree::recount(&top),
        tree: DirTree::Inline(Arc::new(DirPage { entries: top })),
        links: LinksTree::default(),
    };
    let writer = NodeWriter::new(1, NodeParams::default()).with_sink(Box::new(ToVolume(volume.clone())));
    let stored = tree::store(&src, &root, writer).await.unwrap();
    assert_eq!(stored.root.totals.files, entries);
    let parent = opened.head.record();
    let next = NextRecord {
        kind: RecordKind::Commit,
        txn: TxnId([7; 16]),
        base: opened.head.seq(),
        by: "scale".to_owned(),
        message: String::new(),
        usage: Usage {
            files: entries,
            dirs: stored.root.totals.dirs,
            bytes: stored.root.bytes(),
            stored: 0,
        },
        root: SuperNode {
            root: stored.root,
            refs: parent.root.refs,
            history: parent.root.history,
        },
        gc: None,
        config: None,
        features: None,
        renames: Vec::new(),
    };
    let prepared = volume.prepare(&opened.head, next).unwrap();
    match volume.publish(&src, &prepared).await.unwrap() {
        PublishOutcome::Published { head, .. } => head,
        other => panic!("{other:?}"),
    }
}

/// Files of 4 KiB that are no two alike.
struct Made;

#[async_trait]
impl FileSource for Made {
    async fn size(&self, _: NodeId) -> Result<u64, TreeError> {
        Ok(4096)
    }

    async fn is_still_written(&self, _: NodeId) -> Result<bool, TreeError> {
        Ok(false)
    }

    async fn next_data(&self, _node: NodeId, offset: u64) -> Result<Option<u64>, TreeError> {
        Ok(Some(offset))
    }

    async fn read(&self, node: NodeId, offset: u64, len: u64) -> Result<Bytes, TreeError> {
        // Numbers that do not compress: a few steps of a generator for each eight bytes.
        let mut state = node.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut body = Vec::with_capacity(4096);
        while body.len() < 4096 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            body.extend_from_slice(&state.to_le_bytes());
        }
        Ok(Bytes::from(body).slice(offset as usize..(offset + len) as usize))
    }
}

async fn commit(volume: &Volume, head: &Head, frozen: Frozen) -> CommitDone {
    let src = RemoteSource::new(volume.clone());
    let progress = Progress::default();
    let commit = Commit {
        volume,
        nodes: &src,
        files: &Made,
        ledger: &NoLedger,
        hints: &NoHints,
        journal: &NoJournal,
        progress: &progress,
        limits: UploadLimits::default(),
        options: CommitOptions {
            by: "scale".to_owned(),
            ..CommitOptions::default()
        },
    };
    commit.run(frozen, head.clone()).await.unwrap()
}

fn put(path: String, node: u64) -> Edit {
    Edit::Put {
        path: VolPath::parse(path.as_bytes()).unwrap(),
        node,
        attrs: attrs(node, 0o644),
        parents: Some(attrs(node, 0o755)),
    }
}

/// The changes of a mount in which `/huge` was renamed.
async fn renamed(volume: &Volume, head: &Head) -> Frozen {
    let src = RemoteSource::new(volume.clone());
    let base = head.record().root.root.clone();
    let entry = tree::lookup(&src, &base.tree, b"huge").await.unwrap().unwrap();
    let base_ref = BaseRef {
        seq: head.seq(),
        record: head.hash(),
        prepared: None,
        sources: vec![head.seq()],
    };
    let mut overlay = OverlayState::new(base_ref, base.attrs.clone());
    let node = overlay.next_node;
    let place = |text: &str, base| Place {
        parent: ROOT_NODE,
        name: name(text.to_owned()),
        base,
    };
    let ops = [
        Op::Adopt {
            id: node,
            origin: Origin::Entry {
                parent: ROOT_NODE,
                name: name("huge".to_owned()),
            },
            attrs: entry.attrs,
            nlink: 1,
            body: NewBody::Dir,
        },
        Op::Rename {
            node,
            from: place("huge", Some(Kind::Dir)),
            to: place("renamed", None),
            replaced: None,
            time: attrs(5, 0).mtime,
        },
        Op::Freeze { commit: 1 },
    ];
    ops.iter().for_each(|op| overlay.apply(op).unwrap());
    let frozen = overlay.frozen.as_ref().unwrap().state.clone();
    Frozen::overlay(frozen, base)
}

/// Counts from one call to the next.
struct Meter {
    store: Arc<CountingStore>,
    before: StoreCounters,
    at: Instant,
}

struct Cost {
    requests: u64,
    puts: u64,
    sent: u64,
    received: u64,
}

impl Cost {
    fn is_small(&self) -> bool {
        self.puts <= 2 && self.sent <= SENT_MAX && self.received <= RECEIVED_MAX
    }
}

impl Meter {
    fn cost(&mut self, what: &str) -> Cost {
        let now = self.store.counters();
        let puts = |c: &StoreCounters| c.put.calls + c.put_if_absent.calls;
        let cost = Cost {
            requests: now.calls() - self.before.calls(),
            puts: puts(&now) - puts(&self.before),
            sent: now.bytes_sent() - self.before.bytes_sent(),
            received: now.bytes_received() - self.before.bytes_received(),
        };
        println!(
            "{what}: {} requests, {} of them PUTs; {} bytes sent, {} received; {:.1} s",
            cost.requests,
            cost.puts,
            cost.sent,
            cost.received,
            self.at.elapsed().as_secs_f64()
        );
        self.before = now;
        self.at = Instant::now();
        cost
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_things_cost_does_not_grow_with_the_volume() {
    let said = std::env::var("SAILVOL_SCALE_ENTRIES").ok();
    let entries: u64 = said.and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let huge = (entries / 10).clamp(1000, 100_000);
    let store = Arc::new(CountingStore::new(Arc::new(MemoryStore::new())));
    let options = CreateOptions {
        name: "large".to_owned(),
        by: "scale".to_owned(),
        root: attrs(0, 0o755),
        config: VolumeConfig::default(),
        conditional: "if-none-match".to_owned(),
        nodes: NodeSizes::default(),
    };
    let created = Volume::create(store.clone(), Clock::system(), &options)
        .await
        .unwrap();
    let mut meter = Meter {
        store: store.clone(),
        before: store.counters(),
        at: Instant::now(),
    };
    generate(&created.into_opened(), entries, huge).await;
    meter.cost(&format!("making {entries} entries"));

    let by_name = VolumeRef::Name("large".to_owned());
    let Opened { volume, head } = Volume::open(store.clone(), Clock::system(), &by_name)
        .await
        .unwrap();
    let cost = meter.cost("mount");
    assert!(cost.requests <= 3 && cost.is_small());
    // Beside that of a small volume: the record is read and decoded, whatever is in the volume.
    let mut micros = Vec::new();
    for _ in 0..101 {
        let begun = Instant::now();
        let again = Volume::open(store.clone(), Clock::system(), &by_name)
            .await
            .unwrap();
        micros.push(begun.elapsed().as_micros());
        assert_eq!(again.head.seq(), head.seq());
    }
    micros.sort_unstable();
    println!("mount of {entries} entries: {} us (median of 101)", micros[50]);
    meter.cost("the same 101 times");

    let change = put(
        format!(
            "/g{:06}/dir-00000000/file-{huge:010}.dat",
            first_group(entries, huge)
        ),
        1,
    );
    let done = commit(&volume, &head, Frozen::edits(&head, vec![change])).await;
    let cost = meter.cost("one small file");
    assert!(cost.is_small());
    assert_eq!(
        done.record.record.root.root.totals.files, entries,
        "one is replaced"
    );

    let frozen = renamed(&volume, &done.head).await;
    let done = commit(&volume, &done.head, frozen).await;
    let cost = meter.cost(&format!("rename of a directory of {huge}"));
    assert!(cost.is_small());

    let seen = volume.refresh(&done.head).await.unwrap();
    assert_eq!((meter.cost("look at the log").requests, seen.newer.len()), (1, 0));

    let edits = (0..huge).map(|n| put(format!("/new/d{:04}/f{n:06}", n / 1000), n));
    let frozen = Frozen::edits(&done.head, edits.collect());
    let done = commit(&volume, &done.head, frozen).await;
    let cost = meter.cost(&format!("{huge} new files of 4 KiB"));
    // A data pack for each 16 MiB, the nodes and the record, and some that are not full.
    assert!(cost.puts <= 8 + huge * 32 / 100_000, "{}", cost.puts);
    assert_eq!(done.record.record.root.root.totals.files, entries + huge);
}

/// Number in the name of the first group of directories, which is that of the one after its last.
fn first_group(entries: u64, huge: u64) -> u64 {
    BATCH.min((entries - huge).div_ceil(DIR_FILES))
}
