//! What a merge costs: it reads what mine changed and what both did, whatever the size of the rest; and its stack does
//! not grow with the depth of paths.

use std::sync::Arc;

use futures::executor::block_on;

use super::super::{Merged, merge};
use super::real::{Source, vol_path};
use crate::model::{
    Attrs, Content, DirPage, DirTree, Entry, EntryBody, LinksTree, Name, PATH_DEPTH_MAX, TreeRoot, VolPath,
};
use crate::tree::{NodeParams, NodeWriter, edit_dir_entry, recount, store, walk};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn file(text: &str) -> Entry {
    let content = Content::Tiny(text.as_bytes().into());
    Entry {
        attrs: Attrs::default(),
        body: EntryBody::File {
            size: text.len() as u64,
            content,
        },
    }
}

fn dir(entries: Vec<(Name, Entry)>) -> Entry {
    let totals = recount(&entries);
    let tree = DirTree::Inline(Arc::new(DirPage { entries }));
    Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir { totals, tree },
    }
}

fn root(entry: Entry) -> TreeRoot {
    let EntryBody::Dir { totals, tree } = entry.body else {
        panic!("a directory")
    };
    TreeRoot {
        attrs: entry.attrs,
        totals,
        tree,
        links: LinksTree::default(),
    }
}

fn stored(src: &Source, tree: &TreeRoot) -> TreeRoot {
    let writer = NodeWriter::new(
        1,
        NodeParams {
            inline_max: 512,
            page_max: 4096,
            pack_target: 1 << 20,
        },
    );
    let stored = block_on(store(src, tree, writer)).unwrap();
    src.nodes.add(stored.packs);
    stored.root
}

/// `tree` with another text in a file; every directory on the way is read and made new.
fn edited(src: &Source, tree: &TreeRoot, path: &str, text: &str) -> TreeRoot {
    let path = vol_path(path);
    let mut entry = Some(file(text));
    for depth in (0..path.0.len()).rev() {
        let above = VolPath(path.0[..depth].to_vec());
        let above = block_on(walk(src, tree, &above)).unwrap().unwrap();
        let (totals, below) = above.as_dir().expect("a directory");
        let change = vec![(path.0[depth].clone(), entry)];
        let (below, totals) = block_on(edit_dir_entry(src, below, totals, change)).unwrap();
        entry = Some(Entry {
            attrs: above.attrs.clone(),
            body: EntryBody::Dir { totals, tree: below },
        });
    }
    root(entry.expect("the root"))
}

fn text(src: &Source, tree: &TreeRoot, path: &str) -> Option<String> {
    match block_on(walk(src, tree, &vol_path(path))).unwrap()?.body {
        EntryBody::File {
            content: Content::Tiny(bytes),
            ..
        } => Some(String::from_utf8(bytes.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// 60 directories of 60 files, and one of 3,000.
fn volume(src: &Source) -> TreeRoot {
    let files = |count: usize| {
        (0..count)
            .map(|n| (name(&format!("f{n:05}")), file("old")))
            .collect::<Vec<_>>()
    };
    let mut dirs: Vec<_> = (0..60)
        .map(|n| (name(&format!("d{n:02}")), dir(files(60))))
        .collect();
    dirs.push((name("large"), dir(files(3000))));
    stored(src, &root(dir(dirs)))
}

#[test]
fn only_what_changed_is_read() {
    let src = Source::default();
    let base = volume(&src);
    let head = stored(&src, &edited(&src, &base, "d07/f00003", "head"));
    let head = stored(&src, &edited(&src, &head, "large/f00100", "head"));
    let mine = edited(&src, &base, "d07/f00050", "mine");
    let mine = edited(&src, &mine, "large/f02900", "mine");
    let mine = edited(&src, &mine, "d31/f00001", "mine");
    src.nodes.forget();
    let Merged {
        root, overwritten, ..
    } = block_on(merge(&src, &base, &head, &mine, &[])).unwrap();
    let fetched = src.nodes.fetched().nodes;
    for (path, should) in [
        ("d07/f00003", "head"),
        ("large/f00100", "head"),
        ("d07/f00050", "mine"),
        ("large/f02900", "mine"),
        ("d31/f00001", "mine"),
        ("d30/f00001", "old"),
        ("large/f01500", "old"),
    ] {
        assert_eq!(text(&src, &root, path).as_deref(), Some(should), "{path}");
    }
    assert!(overwritten.is_empty());
    // Three changed directories, one of them index-paged, and the way to them: on three sides, not 63 directories.
    assert!(fetched <= 20, "{fetched} nodes were read");
}

#[test]
fn nothing_is_read_where_one_side_changed_nothing() {
    let src = Source::default();
    let base = volume(&src);
    let other = stored(&src, &edited(&src, &base, "d07/f00003", "new"));
    for (head, mine) in [(&base, &other), (&other, &base), (&other, &other)] {
        src.nodes.forget();
        let merged = block_on(merge(&src, &base, head, mine, &[])).unwrap();
        assert!(merged.root.tree.same_pointer(&other.tree));
        assert_eq!(merged.root.totals, other.totals);
        assert_eq!(src.nodes.fetched().nodes, 0);
    }
}

#[test]
fn a_moved_directory_is_not_read() {
    let src = Source::default();
    let base = volume(&src);
    let mut entries = block_on(crate::tree::entries(&src, &base.tree)).unwrap();
    for (at, _) in entries.iter_mut().filter(|(at, _)| *at == name("large")) {
        *at = name("moved");
    }
    let mine = root(dir(entries));
    let head = stored(&src, &edited(&src, &base, "large/f00100", "head"));
    src.nodes.forget();
    let hints = [(vol_path("large"), vol_path("moved"))];
    let Merged {
        root,
        overwritten,
        used_hints,
    } = block_on(merge(&src, &base, &head, &mine, &hints)).unwrap();
    assert_eq!(text(&src, &root, "moved/f00100").as_deref(), Some("head"));
    assert_eq!(
        block_on(walk(&src, &root, &vol_path("large")))
            .unwrap()
            .map(|entry| entry.kind()),
        None
    );
    assert!(overwritten.is_empty());
    assert_eq!(used_hints, hints);
    assert_eq!(root.totals, head.totals);
    let fetched = src.nodes.fetched().nodes;
    assert!(fetched <= 12, "{fetched} nodes were read");
}

/// The deepest path, with two files at its end.
fn deep(first: &str, second: &str) -> TreeRoot {
    let mut below = dir(vec![(name("a"), file(first)), (name("b"), file(second))]);
    for _ in 0..PATH_DEPTH_MAX - 1 {
        below = dir(vec![(name("d"), below)]);
    }
    root(below)
}

#[test]
fn the_deepest_path_merges() {
    let src = Source::default();
    let (base, head, mine) = (deep("1", "1"), deep("2", "1"), deep("1", "3"));
    let merged = block_on(merge(&src, &base, &head, &mine, &[])).unwrap();
    let end = "d/".repeat(PATH_DEPTH_MAX - 1);
    assert_eq!(text(&src, &merged.root, &format!("{end}a")).as_deref(), Some("2"));
    assert_eq!(text(&src, &merged.root, &format!("{end}b")).as_deref(), Some("3"));
}
