use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::model::*;
use crate::format::Node;
use crate::model::*;
use crate::tree::*;

/// Small enough that some hundred entries make trees of several levels.
const SMALL: NodeParams = NodeParams {
    inline_max: 512,
    page_max: 2048,
    pack_target: 8 << 10,
};

fn random_changes(random: &mut Random, dir: &ModelDir) -> Vec<(Name, Option<Entry>)> {
    let mut changes = BTreeMap::new();
    match random.below(8) {
        // Most of the directory goes.
        0 => {
            for name in dir.entries.keys().filter(|_| !random.one_in(20)) {
                changes.insert(name.clone(), None);
            }
        }
        // Many names come, side by side.
        1 => {
            let prefix = random.below(10);
            for i in 0..random.below(150) {
                changes.insert(name(&format!("n{prefix}-{i:04}")), Some(random_entry(random)));
            }
        }
        _ => {
            for _ in 0..random.below(6) {
                let known = dir.entries.len() as u64;
                let name = match known > 0 && random.one_in(2) {
                    true => dir
                        .entries
                        .keys()
                        .nth(random.below(known) as usize)
                        .unwrap()
                        .clone(),
                    false => name(&format!("n{}-{:04}", random.below(10), random.below(300))),
                };
                let entry = (!random.one_in(3)).then(|| random_entry(random));
                changes.insert(name, entry);
            }
        }
    }
    changes.into_iter().collect()
}

async fn run_seed(seed: u64) {
    let mut random = Random::new(seed);
    let src = MemorySource::new();
    let mut model = ModelDir::default();
    let mut root = empty_root();
    let mut saved = (root.clone(), model.clone());
    for _ in 0..60 {
        let path = model.random_dir(&mut random);
        let dir = model.at_mut(&path);
        let changes = random_changes(&mut random, dir);
        for (name, entry) in &changes {
            dir.set(name.clone(), entry.clone(), None);
        }
        root = change(&src, &root, &path, changes).await;
        if random.one_in(15) {
            // A directory moves with all that is in it.
            let from = model.random_dir(&mut random);
            if let Some((above, last)) = from.split_last() {
                let entry = walk(&src, &root, &from).await.unwrap().unwrap();
                let (was, below) = (model.at(&above).entries[last].clone(), model.at(&from).clone());
                model.at_mut(&above).set(last.clone(), None, None);
                model.set(name("moved"), Some(was), Some(below));
                root = change(&src, &root, &above, vec![(last.clone(), None)]).await;
                root = change(&src, &root, &VolPath::root(), vec![(name("moved"), Some(entry))]).await;
            }
        }
        root.links = links_of(&src, &root.links, &model, seed).await;
        let writer = match random.below(12) {
            0..=2 => NodeWriter::new(3, SMALL),
            3 => NodeWriter::local(SMALL),
            _ => continue,
        };
        let local = writer.is_local();
        src.forget();
        (root, _) = stored(&src, &root, writer).await;
        assert_equal(&src, &root, &model, &SMALL).await;
        let want = names_of(&model).into_iter().collect::<Vec<_>>();
        let got = inodes(&src, &root.links).await.unwrap();
        assert_eq!(
            got.iter()
                .map(|(id, inode)| (*id, inode.nlink))
                .collect::<Vec<_>>(),
            want
        );
        assert_eq!(Found::of(&src, &root).await.trouble, Vec::<String>::new());
        if !local {
            assert_no_local(&src, &root).await;
        }
        assert_diff(&src, &saved, &(root.clone(), model.clone())).await;
        if random.one_in(2) {
            saved = (root.clone(), model.clone());
        }
    }
    assert_eq!(root.totals, model.tree().1);
    assert_diff(&src, &saved, &(root, model)).await;
}

/// Names of each inode with several.
fn names_of(model: &ModelDir) -> BTreeMap<LinkId, u64> {
    let mut names = BTreeMap::new();
    let mut open = vec![model];
    while let Some(dir) = open.pop() {
        for entry in dir.entries.values() {
            if let EntryBody::HardLink(id) = entry.body {
                *names.entry(id).or_default() += 1;
            }
        }
        open.extend(dir.dirs.values());
    }
    names
}

/// The links tree that fits the names in the model, made from the one before.
async fn links_of(src: &MemorySource, links: &LinksTree, model: &ModelDir, seed: u64) -> LinksTree {
    let mut names = names_of(model);
    let mut deltas = BTreeMap::new();
    for (id, inode) in inodes(src, links).await.unwrap() {
        deltas.insert(id, names.remove(&id).unwrap_or(0) as i64 - inode.nlink as i64);
    }
    let known = add_names(src, links, &deltas).await.unwrap();
    let new = names.into_iter().map(|(id, nlink)| {
        let entry = blob_file(&mut Random::new(seed + u64::from(id.0[0])));
        (id, Some(LinkInode { nlink, entry }))
    });
    edit_links(src, &known, new).await.unwrap()
}

async fn assert_no_local(src: &MemorySource, root: &TreeRoot) {
    let mut open = vec![root.tree.clone()];
    while let Some(tree) = open.pop() {
        if let DirTree::Stored { ptr, index } = &tree {
            assert!(!ptr.pack.is_local());
            if *index {
                let Node::Index(page) = &*src.node(ptr).await.unwrap() else {
                    panic!()
                };
                let below = page.slots.iter().map(|s| DirTree::stored(s.ptr, page.level > 1));
                open.extend(below);
                continue;
            }
        }
        let entries = entries(src, &tree).await.unwrap();
        open.extend(
            entries
                .iter()
                .filter_map(|(_, entry)| Some(entry.as_dir()?.1.clone())),
        );
    }
}

/// `diff` says what a comparison of the models says.
async fn assert_diff(src: &MemorySource, a: &(TreeRoot, ModelDir), b: &(TreeRoot, ModelDir)) {
    let mut got = Vec::new();
    diff(src, &a.0, &b.0, |path, change| {
        let what = match change {
            Change::Added(_) => "added",
            Change::Removed(_) => "removed",
            Change::Changed { .. } => "changed",
        };
        got.push((path.clone(), what));
        ControlFlow::Continue(())
    })
    .await
    .unwrap();
    let changed: Vec<LinkId> = diff_links(src, &a.0.links, &b.0.links)
        .await
        .unwrap()
        .into_iter()
        .map(|(id, ..)| id)
        .collect();
    let (old, new) = (names_of(&a.1), names_of(&b.1));
    let ids: std::collections::BTreeSet<LinkId> = old.keys().chain(new.keys()).copied().collect();
    let differ: Vec<LinkId> = ids.into_iter().filter(|id| old.get(id) != new.get(id)).collect();
    assert!(differ.iter().all(|id| changed.contains(id)));
    let mut want = Vec::new();
    model_diff(&VolPath::root(), &a.1, &b.1, &mut want);
    assert_eq!(got, want);
}

fn model_diff(at: &VolPath, a: &ModelDir, b: &ModelDir, out: &mut Vec<(VolPath, &'static str)>) {
    let names: std::collections::BTreeSet<&Name> = a.entries.keys().chain(b.entries.keys()).collect();
    for name in names {
        let path = at.join(name);
        match (a.entries.get(name), b.entries.get(name)) {
            (Some(x), Some(y)) if x.is_dir() && y.is_dir() => {
                if Registers::between(x, y).any() {
                    out.push((path.clone(), "changed"));
                }
                model_diff(&path, &a.dirs[name], &b.dirs[name], out);
            }
            (Some(x), Some(y)) if x.is_dir() != y.is_dir() => {
                out.extend([(path.clone(), "removed"), (path, "added")]);
            }
            (Some(x), Some(y)) if !same_entry(x, y) => out.push((path, "changed")),
            (Some(_), None) => out.push((path, "removed")),
            (None, Some(_)) => out.push((path, "added")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn any_edits_and_stores_leave_the_tree_that_the_model_is() {
    for seed in 1..=25 {
        let run = tokio::spawn(run_seed(seed));
        assert!(run.await.is_ok(), "seed {seed}");
    }
}

/// Names of a directory that are next to each other go and come, so that pages join and split at several levels.
async fn run_wide_seed(seed: u64) -> u8 {
    const TINY: NodeParams = NodeParams {
        inline_max: 128,
        page_max: 768,
        pack_target: 16 << 10,
    };
    let mut random = Random::new(seed);
    let src = MemorySource::new();
    let mut model = ModelDir::default();
    let mut root = empty_root();
    let mut highest = 0;
    for round in 0..14 {
        let mut changes = Vec::new();
        let from = random.below(4000);
        let much = if round == 0 { 6000 } else { random.below(900) };
        match random.below(if round == 0 { 1 } else { 4 }) {
            0 => {
                for i in from..from + much {
                    let entry = Entry {
                        attrs: Attrs::default(),
                        body: EntryBody::Fifo,
                    };
                    changes.push((name(&format!("{i:06}")), Some(entry)));
                }
            }
            1 => changes.extend((from..from + 2 * much).map(|i| (name(&format!("{i:06}")), None))),
            2 => {
                // Almost all of it.
                let names = model.entries.keys().filter(|_| !random.one_in(8));
                changes.extend(names.map(|name| (name.clone(), None)));
            }
            _ => {
                for _ in 0..much / 20 {
                    let entry = Entry {
                        attrs: attrs(&mut random),
                        body: EntryBody::Socket,
                    };
                    let entry = (!random.one_in(3)).then_some(entry);
                    changes.push((name(&format!("{:06}", random.below(8000))), entry));
                }
            }
        }
        for (name, entry) in &changes {
            model.set(name.clone(), entry.clone(), None);
        }
        let before = root.clone();
        root = change(&src, &root, &VolPath::root(), changes).await;
        (root, _) = stored(&src, &root, NodeWriter::new(2, TINY)).await;
        assert_equal(&src, &root, &model, &TINY).await;
        assert_eq!(Found::of(&src, &root).await.trouble, Vec::<String>::new());
        let differing = diff_dirs(&src, &before.tree, &root.tree).await.unwrap();
        let mut replayed: BTreeMap<Name, Entry> =
            entries(&src, &before.tree).await.unwrap().into_iter().collect();
        for (name, _, new) in differing {
            match new {
                Some(entry) => replayed.insert(name, entry),
                None => replayed.remove(&name),
            };
        }
        assert!(replayed.keys().eq(model.entries.keys()), "round {round}");
        if let DirTree::Stored { ptr, index: true } = &root.tree {
            let Node::Index(page) = &*src.node(ptr).await.unwrap() else {
                panic!()
            };
            highest = highest.max(page.level);
        }
    }
    highest
}

#[tokio::test]
async fn wide_directories_keep_their_pages_within_bounds_at_every_level() {
    for seed in 1..=3 {
        let highest = tokio::spawn(run_wide_seed(seed)).await;
        assert!(highest.is_ok_and(|level| level >= 3), "seed {seed}");
    }
}

#[tokio::test]
async fn listing_goes_on_from_any_name_and_any_number() {
    let mut random = Random::new(7);
    let src = MemorySource::new();
    let mut model = ModelDir::default();
    for i in 0..700 {
        model.set(name(&format!("f{i:05}")), Some(blob_file(&mut random)), None);
    }
    let (tree, totals) = model.tree();
    let root = TreeRoot {
        totals,
        tree,
        ..empty_root()
    };
    let (root, _) = stored(&src, &root, NodeWriter::new(1, SMALL)).await;
    // Some pages edited in memory, some stored.
    let extra = vec![
        (name("f00300a"), Some(blob_file(&mut random))),
        (name("f00002"), None),
    ];
    let tree = edit_dir(&src, &root.tree, extra).await.unwrap();
    let all: Vec<Name> = entries(&src, &tree)
        .await
        .unwrap()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(all.len(), 700);
    for from in 0..=all.len() {
        let mut got = Vec::new();
        let mut next = ListFrom::Ordinal(from as u64);
        let last;
        if let Some(run) = run(&src, &tree, next).await.unwrap() {
            assert_eq!(run.first_ordinal(), from as u64);
            got.extend(run.entries().iter().map(|(n, _)| n.clone()));
            last = got.last().unwrap().clone();
            next = ListFrom::After(last.as_bytes());
            let after = super::super::run(&src, &tree, next).await.unwrap();
            assert_eq!(after.is_none(), from + got.len() == all.len());
            if let Some(after) = after {
                assert_eq!(after.first_ordinal(), (from + got.len()) as u64);
                assert_eq!(after.entries()[0].0, all[from + got.len()]);
            }
        }
        assert_eq!(got, all[from..from + got.len()]);
        assert_eq!(got.is_empty(), from == all.len());
    }
    let leaves = leaves(&src, &tree).await.unwrap();
    assert_eq!(leaves.iter().map(|leaf| leaf.count).sum::<u64>(), 700);
    // A name that is not there, between and after all.
    assert_eq!(
        run(&src, &tree, ListFrom::After(b"f00001x"))
            .await
            .unwrap()
            .unwrap()
            .entries()[0]
            .0,
        name("f00003")
    );
    assert!(run(&src, &tree, ListFrom::After(b"g")).await.unwrap().is_none());
}

#[tokio::test]
async fn questions_over_loaded_nodes_name_what_is_missing() {
    let src = MemorySource::new();
    let mut random = Random::new(3);
    let changes = (0..300)
        .map(|i| (name(&format!("f{i:04}")), Some(blob_file(&mut random))))
        .collect();
    let root = change(&src, &empty_root(), &VolPath::root(), changes).await;
    let (root, _) = stored(&src, &root, NodeWriter::new(1, SMALL)).await;
    let mut asked = 0;
    let entry = loop {
        match lookup_loaded(&src, &root.tree, b"f0123") {
            Ok(entry) => break entry,
            Err(Missing(ptr)) => {
                asked += 1;
                src.node(&ptr).await.unwrap();
            }
        }
    };
    assert!(entry.is_some());
    assert_eq!(asked, src.fetched().nodes);
    assert_eq!(asked, 2, "index and leaf");
}

#[tokio::test]
async fn a_pointer_to_the_wrong_kind_of_node_is_damage_and_not_an_endless_question() {
    let src = MemorySource::new();
    let mut random = Random::new(3);
    let changes = (0..300)
        .map(|i| (name(&format!("f{i:04}")), Some(blob_file(&mut random))))
        .collect();
    let root = change(&src, &empty_root(), &VolPath::root(), changes).await;
    let (root, _) = stored(&src, &root, NodeWriter::new(1, SMALL)).await;
    let DirTree::Stored { ptr, index: true } = root.tree else {
        panic!()
    };
    let wrong = DirTree::Stored { ptr, index: false };
    assert!(matches!(
        lookup(&src, &wrong, b"f0123").await,
        Err(TreeError::Damaged { .. })
    ));
    assert!(matches!(
        entries(&src, &wrong).await,
        Err(TreeError::Damaged { .. })
    ));
    assert!(matches!(
        diff_dirs(&src, &wrong, &DirTree::empty()).await,
        Err(TreeError::Damaged { .. })
    ));
}

#[tokio::test]
async fn a_thousand_directories_inside_one_another_can_be_stored_and_read() {
    let src = MemorySource::new();
    let mut random = Random::new(5);
    let mut tree = DirTree::empty();
    let mut totals = Totals::default();
    for _ in 0..1000 {
        let entry = Entry {
            attrs: Attrs::default(),
            body: EntryBody::Dir { totals, tree },
        };
        let entries = vec![(name("a"), entry), (name("f"), blob_file(&mut random))];
        totals = recount(&entries);
        tree = DirTree::Inline(Arc::new(DirPage { entries }));
    }
    let root = TreeRoot {
        totals,
        tree,
        ..empty_root()
    };
    let (root, stats) = stored(&src, &root, NodeWriter::new(1, NodeParams::default())).await;
    assert!(stats.nodes >= 1000 / 33, "{stats:?}");
    let path = VolPath(vec![name("a"); 999]);
    let deepest = walk(&src, &root, &path.join(&name("f"))).await.unwrap();
    assert!(deepest.is_some());
    assert_eq!(root.totals, totals);
}

#[tokio::test]
async fn contents_that_are_not_uploaded_are_refused() {
    let src = MemorySource::new();
    let content = Content::Local(LocalContent {
        overlay: 0,
        node: 1,
        generation: 1,
    });
    let entry = Entry {
        attrs: Attrs::default(),
        body: EntryBody::File { size: 5, content },
    };
    // In a page of its own, so that the store itself has to encode it.
    let below = DirTree::Inline(Arc::new(DirPage {
        entries: (0..300)
            .map(|i| (name(&format!("{i:03}")), entry.clone()))
            .collect(),
    }));
    let dir = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir {
            totals: Totals::default(),
            tree: below,
        },
    };
    let root = change(
        &src,
        &empty_root(),
        &VolPath::root(),
        vec![(name("d"), Some(dir))],
    )
    .await;
    assert!(store(&src, &root, NodeWriter::new(1, SMALL)).await.is_err());
}

#[tokio::test]
async fn a_visit_reports_what_is_missing_and_goes_on() {
    let src = MemorySource::new();
    let mut random = Random::new(9);
    let mut root = empty_root();
    let mut packs = Vec::new();
    for i in 0..3 {
        let page = (0..40)
            .map(|f| (name(&format!("f{f}")), blob_file(&mut random)))
            .collect::<BTreeMap<_, _>>();
        let entries: Vec<(Name, Entry)> = page.into_iter().collect();
        let totals = recount(&entries);
        let tree = DirTree::Inline(Arc::new(DirPage { entries }));
        let dir = Entry {
            attrs: Attrs::default(),
            body: EntryBody::Dir { totals, tree },
        };
        root = change(
            &src,
            &root,
            &VolPath::root(),
            vec![(name(&format!("d{i}")), Some(dir))],
        )
        .await;
        let done = store(&src, &root, NodeWriter::new(1, SMALL)).await.unwrap();
        packs.push(done.packs[0].pack);
        src.add(done.packs);
        root = done.root;
    }
    let all = Found::of(&src, &root).await;
    assert_eq!((all.trouble.len(), all.chunks), (0, 120));
    src.forget();
    src.remove(&packs[1]);
    let some = Found::of(&src, &root).await;
    assert_eq!(some.chunks, 80, "{some:?}");
    assert!(
        !some.trouble.is_empty() && some.trouble.iter().all(|t| t.starts_with("/d1:")),
        "{some:?}"
    );
}

#[tokio::test]
async fn a_visit_finds_totals_and_link_counts_that_are_wrong() {
    let src = MemorySource::new();
    let mut random = Random::new(11);
    let link = LinkId([7; 16]);
    let hard = Entry {
        attrs: Attrs::default(),
        body: EntryBody::HardLink(link),
    };
    let inner = vec![(name("f"), blob_file(&mut random)), (name("h"), hard)];
    let totals = recount(&inner);
    let tree = DirTree::Inline(Arc::new(DirPage { entries: inner }));
    let right = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir {
            totals,
            tree: tree.clone(),
        },
    };
    let totals = Totals {
        bytes: totals.bytes + 1,
        ..totals
    };
    let wrong = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir { totals, tree },
    };
    let inode = LinkInode {
        nlink: 2,
        entry: blob_file(&mut random),
    };
    for (entry, nlink, expected) in [(&right, 1, 0), (&wrong, 1, 1), (&right, 2, 1), (&right, 0, 1)] {
        let mut root = change(
            &src,
            &empty_root(),
            &VolPath::root(),
            vec![(name("d"), Some(entry.clone()))],
        )
        .await;
        if nlink > 0 {
            let inode = LinkInode {
                nlink,
                ..inode.clone()
            };
            root.links = edit_links(&src, &root.links, [(link, Some(inode))])
                .await
                .unwrap();
        }
        let (root, _) = stored(&src, &root, NodeWriter::new(1, SMALL)).await;
        let found = Found::of(&src, &root).await;
        assert_eq!(found.trouble.len(), expected, "{found:?}");
    }
}
