//! What changes of large trees cost, in nodes and bytes.

use std::sync::Arc;
use std::time::Instant;

use super::model::*;
use crate::format::{SuperNode, encode_super};
use crate::model::*;
use crate::tree::*;

fn writer() -> NodeWriter {
    NodeWriter::new(5, NodeParams::default())
}

fn dir(entries: Vec<(Name, Entry)>) -> Entry {
    let totals = recount(&entries);
    let tree = DirTree::Inline(Arc::new(DirPage { entries }));
    Entry {
        attrs: Attrs {
            mode: 0o755,
            ..Attrs::default()
        },
        body: EntryBody::Dir { totals, tree },
    }
}

fn root_with(entries: Vec<(Name, Entry)>) -> TreeRoot {
    let entry = dir(entries);
    let (totals, tree) = entry.as_dir().unwrap();
    TreeRoot {
        totals: *totals,
        tree: tree.clone(),
        ..empty_root()
    }
}

/// A directory with this many files.
fn files(random: &mut Random, count: u64) -> Entry {
    dir((0..count)
        .map(|i| (name(&format!("sample-{i:07}.json")), blob_file(random)))
        .collect())
}

fn report(what: &str, src: &MemorySource, stats: &WriterStats) {
    let read = src.fetched();
    println!(
        "{what}: read {} nodes, {} bytes; wrote {} nodes, {} bytes ({} raw), {} packs",
        read.nodes, read.node_bytes, stats.nodes, stats.stored_bytes, stats.raw_bytes, stats.packs
    );
}

/// 100 top directories of 100 with 100 files each, stored part by part as commits would. To be quick about it only ten
/// of the top directories are made; each stands under ten names, as after so many copies within the volume.
async fn a_million_entries(src: &MemorySource) -> TreeRoot {
    let mut random = Random::new(1);
    let mut root = empty_root();
    for kind in 0..10 {
        let middle = (0..100)
            .map(|i| (name(&format!("part-{i:03}")), files(&mut random, 100)))
            .collect();
        let first = name(&format!("top-{kind:03}"));
        let edited = change(
            src,
            &root,
            &VolPath::root(),
            vec![(first.clone(), Some(dir(middle)))],
        )
        .await;
        (root, _) = stored(src, &edited, writer()).await;
        let top = lookup(src, &root.tree, first.as_bytes()).await.unwrap();
        let copies = (1..10)
            .map(|i| (name(&format!("top-{:03}", kind + 10 * i)), top.clone()))
            .collect();
        let edited = change(src, &root, &VolPath::root(), copies).await;
        (root, _) = stored(src, &edited, writer()).await;
    }
    root
}

#[tokio::test]
async fn one_file_among_a_million_costs_a_few_nodes() {
    let src = MemorySource::new();
    let began = Instant::now();
    let root = a_million_entries(&src).await;
    println!("made in {:?}", began.elapsed());
    assert_eq!((root.totals.files, root.totals.dirs), (1_000_000, 10_100));

    src.forget();
    let mut random = Random::new(2);
    let path = VolPath::parse(b"top-042/part-017").unwrap();
    let changes = vec![(name("sample-0000050.json"), Some(blob_file(&mut random)))];
    let edited = change(&src, &root, &path, changes).await;
    let (edited, stats) = stored(&src, &edited, writer()).await;
    report("change of one file", &src, &stats);
    let node = SuperNode {
        root: edited.clone(),
        refs: None,
        history: None,
    };
    let record = encode_super(&node, false).unwrap().stored.len();
    println!("super node {record} bytes");
    assert!(src.fetched().nodes <= 4 && stats.nodes <= 4, "{stats:?}");
    assert!(stats.stored_bytes + record as u64 <= 200 << 10);

    src.forget();
    let differing = diff_dirs(&src, &root.tree, &edited.tree).await.unwrap();
    // Those inlined in the same node cannot be told from it by pointers.
    assert!(differing.iter().any(|(name, ..)| name.as_bytes() == b"top-042") && differing.len() <= 20);
    let mut found = 0;
    diff(&src, &root, &edited, |_, _| {
        found += 1;
        std::ops::ControlFlow::Continue(())
    })
    .await
    .unwrap();
    report("diff of the two", &src, &WriterStats::default());
    assert_eq!(found, 1);
    assert!(src.fetched().nodes <= 8);
}

#[tokio::test]
async fn a_directory_of_100_000_files_is_edited_page_by_page_and_moved_by_its_pointer() {
    let src = MemorySource::new();
    let mut random = Random::new(3);
    let large = files(&mut random, 100_000);
    let mut model = ModelDir::default();
    let mut inside = ModelDir::default();
    if let EntryBody::Dir {
        tree: DirTree::Inline(page),
        ..
    } = &large.body
    {
        inside.entries = page.entries.iter().cloned().collect();
    }
    let shown = Entry {
        attrs: large.attrs.clone(),
        body: EntryBody::Dir {
            totals: Totals::default(),
            tree: DirTree::empty(),
        },
    };
    model.set(name("large"), Some(shown), Some(inside));
    let (root, stats) = stored(&src, &root_with(vec![(name("large"), large)]), writer()).await;
    report("store of 100,000 files", &src, &stats);
    let leaves = stats.nodes;

    // At random places: at most a page each, and the index.
    src.forget();
    let at = VolPath::parse(b"large").unwrap();
    let mut changes = Vec::new();
    for _ in 0..20 {
        let name = name(&format!("sample-{:07}.json", random.below(100_000)));
        changes.push((name, (!random.one_in(2)).then(|| blob_file(&mut random))));
        let other = super::model::name(&format!("sample-{:07}.new", random.below(100_000)));
        changes.push((other, Some(blob_file(&mut random))));
    }
    for (name, entry) in &changes {
        model.at_mut(&at).set(name.clone(), entry.clone(), None);
    }
    let edited = change(&src, &root, &at, changes).await;
    let (edited, stats) = stored(&src, &edited, writer()).await;
    report("40 changes at random in it", &src, &stats);
    assert!(stats.nodes <= 42 && src.fetched().nodes <= 42, "{stats:?}");
    assert!(stats.nodes < leaves);

    // In a run: few pages.
    src.forget();
    let run = (0..1000)
        .map(|i| (name(&format!("sample-{:07}.json", 50_000 + i)), None))
        .collect::<Vec<_>>();
    for (name, _) in &run {
        model.at_mut(&at).set(name.clone(), None, None);
    }
    let shorter = change(&src, &edited, &at, run).await;
    let (shorter, stats) = stored(&src, &shorter, writer()).await;
    report("1,000 adjacent deletions in it", &src, &stats);
    assert!(stats.nodes <= 6 && src.fetched().nodes <= 8, "{stats:?}");
    assert_equal(&src, &shorter, &model, &NodeParams::default()).await;

    // A move takes its entry along and reads nothing of it.
    src.forget();
    let entry = walk(&src, &shorter, &at).await.unwrap();
    let changes = vec![(name("large"), None), (name("moved"), entry)];
    let moved = change(&src, &shorter, &VolPath::root(), changes).await;
    let (moved, stats) = stored(&src, &moved, writer()).await;
    report("move of it", &src, &stats);
    assert_eq!((src.fetched().nodes, stats.nodes), (0, 0));
    assert_eq!(moved.totals, shorter.totals);

    // So does taking it away.
    let gone = change(&src, &moved, &VolPath::root(), vec![(name("moved"), None)]).await;
    let (gone, stats) = stored(&src, &gone, writer()).await;
    assert_eq!((src.fetched().nodes, stats.nodes), (0, 0));
    assert_eq!(gone.totals, Totals::default());
}

#[tokio::test]
async fn small_directories_share_nodes() {
    let src = MemorySource::new();
    let mut random = Random::new(4);
    // 2,000 directories of 1 to 30 files, a few levels deep: a source tree.
    let mut tops = Vec::new();
    for top in 0..20 {
        let mut middles = Vec::new();
        for middle in 0..10 {
            let mut lows = Vec::new();
            for low in 0..10 {
                let count = 1 + random.below(30);
                lows.push((name(&format!("module_{low}")), files(&mut random, count)));
            }
            middles.push((name(&format!("package_{middle}")), dir(lows)));
        }
        tops.push((name(&format!("tree_{top:02}")), dir(middles)));
    }
    let root = root_with(tops);
    let (root, stats) = stored(&src, &root, writer()).await;
    report("a source tree", &src, &stats);
    let entries = root.totals.files + root.totals.dirs;
    println!(
        "{entries} entries, {:.1} bytes each",
        stats.stored_bytes as f64 / entries as f64
    );
    assert!(stats.nodes * 5 < root.totals.dirs, "{stats:?}");
}

#[tokio::test]
async fn a_store_over_several_packs_hands_them_on_and_names_none_that_is_open() {
    struct Sink(std::sync::mpsc::Sender<crate::format::FinishedPack>);
    #[async_trait::async_trait]
    impl PackSink for Sink {
        async fn take(&mut self, pack: crate::format::FinishedPack) -> Result<(), TreeError> {
            self.0.send(pack).unwrap();
            Ok(())
        }
    }
    let src = MemorySource::new();
    let mut random = Random::new(6);
    let dirs = (0..30)
        .map(|i| (name(&format!("d{i:02}")), files(&mut random, 1000)))
        .collect();
    let params = NodeParams {
        pack_target: 200 << 10,
        ..NodeParams::default()
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let writer = NodeWriter::new(5, params).with_sink(Box::new(Sink(sender)));
    let done = store(&src, &root_with(dirs), writer).await.unwrap();
    assert!(done.packs.is_empty());
    let packs: Vec<_> = receiver.into_iter().collect();
    assert!(packs.len() > 4 && packs.len() as u64 == done.stats.packs);
    src.add(packs);
    let found = Found::of(&src, &done.root).await;
    assert_eq!(
        (found.trouble.len(), found.entries),
        (0, 30_030),
        "{:?}",
        found.trouble
    );
}
