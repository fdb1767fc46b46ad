//! Nodes with the right hashes that lie about each other: an error or the truth, in work and memory bounded by the nodes.

use std::sync::Arc;

use crate::format::{
    EncodedNode, ExtentPage, IndexPage, IndexSlot, LinkPage, PackBuilder, encode_dir_page,
    encode_extent_page, encode_index_page, encode_link_page, page_cid,
};
use crate::model::*;
use crate::tree::*;

fn put(src: &MemorySource, node: &EncodedNode) -> Ptr {
    let mut builder = PackBuilder::new(1);
    let ptr = builder.add_node(node).unwrap();
    let pack = builder.finish();
    let ptr = Ptr {
        pack: pack.pack,
        ..ptr
    };
    src.add([pack]);
    ptr
}

fn leaf(src: &MemorySource, names: &[&str]) -> Ptr {
    let entry = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Fifo,
    };
    let entries = names
        .iter()
        .map(|name| (Name::new(name.as_bytes()).unwrap(), entry.clone()));
    let page = DirPage {
        entries: entries.collect(),
    };
    put(src, &encode_dir_page(&page, false).unwrap())
}

fn index(src: &MemorySource, level: u8, slots: impl IntoIterator<Item = (Vec<u8>, Ptr, u64)>) -> Ptr {
    let slots = slots.into_iter().map(|(first_key, ptr, count)| IndexSlot {
        first_key: first_key.into(),
        ptr,
        count,
        page_cid: None,
    });
    let page = IndexPage {
        level,
        slots: slots.collect(),
    };
    put(src, &encode_index_page(&page, false).unwrap())
}

/// Keys that ascend from the empty one.
fn keys(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|n| match n {
        0 => Vec::new(),
        n => format!("k{n:06}").into_bytes(),
    })
}

/// Index pages on seven levels, each naming the one below 1,000 times: 10^21 leaves.
fn tower(src: &MemorySource, bottom: Ptr) -> DirTree {
    let mut ptr = bottom;
    for level in 1..=7 {
        ptr = index(src, level, keys(1000).map(|key| (key, ptr, 1)));
    }
    DirTree::stored(ptr, true)
}

fn damaged<T: std::fmt::Debug>(result: Result<T, TreeError>) -> String {
    match result {
        Err(TreeError::Damaged { rule, .. }) => rule,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_directory_of_one_page_named_a_million_times_is_refused() {
    let src = MemorySource::new();
    for bottom in [leaf(&src, &["a"]), leaf(&src, &[])] {
        let dir = tower(&src, bottom);
        assert!(damaged(leaves(&src, &dir).await).contains("twice"));
        assert!(damaged(entries(&src, &dir).await).contains("twice"));
        assert!(damaged(diff_dirs(&src, &DirTree::empty(), &dir).await).contains("twice"));
        let past = Name::new(b"b").unwrap();
        damaged(run(&src, &dir, ListFrom::After(past.as_bytes())).await);
        assert!(lookup(&src, &dir, b"zzz").await.unwrap().is_none());
    }
    // A listing that begins where something is gets it, and goes no further than that.
    let dir = tower(&src, leaf(&src, &["a"]));
    let first = run(&src, &dir, ListFrom::Start).await.unwrap().unwrap();
    assert_eq!(first.entries().len(), 1);
}

#[tokio::test]
async fn pages_out_of_order_or_of_the_wrong_level_are_refused() {
    let src = MemorySource::new();
    let (a, b) = (leaf(&src, &["a"]), leaf(&src, &["b"]));
    let ptr = index(&src, 1, [(vec![], b, 1), (b"c".to_vec(), a, 1)]);
    let rule = damaged(entries(&src, &DirTree::stored(ptr, true)).await);
    assert!(rule.contains("do not follow"), "{rule}");
    let skipping = index(&src, 5, [(vec![], ptr, 2), (b"c".to_vec(), a, 1)]);
    damaged(leaves(&src, &DirTree::stored(skipping, true)).await);
}

#[tokio::test]
async fn lists_of_more_chunks_than_the_size_has_are_refused() {
    let src = MemorySource::new();
    let page = ExtentPage {
        chunks: vec![ChunkRef::Hole; 1024],
    };
    let cid = page_cid(&page);
    let mut ptr = put(&src, &encode_extent_page(&page, false).unwrap());
    for level in 1..=7 {
        let slots = (0..1000u64).map(|n| IndexSlot {
            first_key: match n {
                0 => Box::default(),
                n => n.to_be_bytes().into(),
            },
            ptr,
            count: 1024,
            page_cid: (level == 1).then_some(cid),
        });
        let page = IndexPage {
            level,
            slots: slots.collect(),
        };
        ptr = put(&src, &encode_index_page(&page, false).unwrap());
    }
    let content = Content::Paged {
        tier: 0,
        root: Box::new(ptr),
        cid,
    };
    let size = 100 << 30;
    let rule = damaged(chunks(&src, &content, size, 0..1).await);
    assert!(rule.contains("more pages"), "{rule}");
    assert!(chunk_at(&src, &content, size, 5).await.unwrap().is_some());
}

/// Counts what it is shown, and skips nodes that it has seen.
#[derive(Default)]
struct Seen {
    nodes: std::collections::HashSet<Hash>,
    entries: u64,
    troubles: Vec<String>,
}

impl Visitor for Seen {
    fn item(&mut self, _place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(ptr) if !self.nodes.insert(ptr.hash) => return Visit::Skip,
            Item::Entry(_) => self.entries += 1,
            _ => {}
        }
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        self.troubles.push(format!("{place}: {error}"));
        Visit::Skip
    }
}

fn root(totals: Totals, tree: DirTree) -> TreeRoot {
    TreeRoot {
        attrs: Attrs::default(),
        totals,
        tree,
        links: LinksTree::default(),
    }
}

#[tokio::test]
async fn a_walk_visits_each_node_once_and_holds_repeated_directories_to_their_totals() {
    let src = MemorySource::new();
    let files = |files| Totals {
        files,
        ..Totals::default()
    };
    let mut below = (files(1), leaf(&src, &["a"]));
    for _ in 0..40 {
        let both = ["left", "right"].map(|side| {
            let stored = DirTree::stored(below.1, false);
            let body = EntryBody::Dir {
                totals: below.0,
                tree: stored,
            };
            let entry = Entry {
                attrs: Attrs::default(),
                body,
            };
            (Name::new(side.as_bytes()).unwrap(), entry)
        });
        let page = DirPage {
            entries: both.to_vec(),
        };
        below = (
            recount_page(&page),
            put(&src, &encode_dir_page(&page, false).unwrap()),
        );
    }
    let stored = |ptr| DirTree::Stored { ptr, index: false };
    let mut seen = Seen::default();
    assert!(visit(&src, &root(below.0, stored(Box::new(below.1))), &mut seen).await);
    assert_eq!(
        (seen.entries, seen.troubles.len()),
        (81, 0),
        "{:?}",
        seen.troubles
    );

    // The second name of a directory says something else of it.
    let lie = |claimed: u64| Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir {
            totals: files(claimed),
            tree: stored(Box::new(leaf(&src, &["a"]))),
        },
    };
    let entries = [("one", 1), ("two", 2)].map(|(name, claimed)| {
        let name = Name::new(name.as_bytes()).unwrap();
        (name, lie(claimed))
    });
    let page = DirPage {
        entries: entries.to_vec(),
    };
    let mut seen = Seen::default();
    let top = root(recount_page(&page), DirTree::Inline(Arc::new(page)));
    visit(&src, &top, &mut seen).await;
    assert_eq!(seen.troubles.len(), 1, "{:?}", seen.troubles);
    assert!(seen.troubles[0].starts_with("/two: "), "{:?}", seen.troubles);
}

#[tokio::test]
async fn a_links_tree_of_one_page_named_a_million_times_is_read_once() {
    let src = MemorySource::new();
    let entry = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Fifo,
    };
    let page = LinkPage {
        inodes: vec![(LinkId([7; 16]), LinkInode { nlink: 1, entry })],
    };
    let bottom = put(&src, &encode_link_page(&page, false).unwrap());
    let DirTree::Stored { ptr, .. } = tower(&src, bottom) else {
        unreachable!()
    };
    let links = LinksTree {
        stored: Some((*ptr, true)),
        count: 1,
        ..LinksTree::default()
    };
    assert_eq!(inodes(&src, &links).await.unwrap().len(), 1);
    let mut seen = Seen::default();
    let mut tree = root(Totals::default(), DirTree::empty());
    tree.links = links;
    visit(&src, &tree, &mut seen).await;
    assert!(
        seen.troubles.iter().any(|line| line.contains("twice")),
        "{:?}",
        seen.troubles
    );
}
