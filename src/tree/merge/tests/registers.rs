//! Values that the model does not have: symbolic links, local contents, places, large xattrs.

use std::sync::Arc;

use futures::executor::block_on;

use super::super::{Merged, Overwritten, Register, merge};
use super::real::{Source, vol_path};
use crate::model::{
    Attrs, BlobRef, Content, DirPage, DirTree, Entry, EntryBody, Hash, LinksTree, LocalContent, Name,
    PackRef, TreeRoot, XattrMap, Xattrs,
};
use crate::tree::{recount, walk};

fn root(entries: Vec<(&str, Entry)>) -> TreeRoot {
    let entries = entries
        .into_iter()
        .map(|(name, entry)| (Name::new(name.as_bytes()).unwrap(), entry))
        .collect();
    let page = DirPage { entries };
    let totals = recount(&page.entries);
    TreeRoot {
        attrs: Attrs::default(),
        totals,
        tree: DirTree::Inline(Arc::new(page)),
        links: LinksTree::default(),
    }
}

fn with_mode(mode: u16, body: EntryBody) -> Entry {
    Entry {
        attrs: Attrs {
            mode,
            ..Attrs::default()
        },
        body,
    }
}

fn file(content: Content) -> EntryBody {
    EntryBody::File { size: 3, content }
}

fn tiny(bytes: &[u8; 3]) -> EntryBody {
    file(Content::Tiny(bytes[..].into()))
}

fn symlink(target: &[u8]) -> EntryBody {
    EntryBody::Symlink {
        target: target.into(),
    }
}

fn local(overlay: u64, node: u64, generation: u64) -> EntryBody {
    file(Content::Local(LocalContent {
        overlay,
        node,
        generation,
    }))
}

fn blob(epoch: u32, id: u8) -> EntryBody {
    let pack = PackRef {
        epoch,
        id: Hash([epoch as u8; 32]),
    };
    file(Content::Blob(BlobRef {
        pack,
        offset: 4,
        stored_len: 9,
        id: Hash([id; 32]),
    }))
}

/// Merges one name `a` on three sides; gives what stands there, and the report.
fn one(base: Option<Entry>, head: Option<Entry>, mine: Option<Entry>) -> (Option<Entry>, Vec<Register>) {
    let trees = [base, head, mine].map(|entry| root(entry.map(|entry| ("a", entry)).into_iter().collect()));
    let src = Source::default();
    let Merged {
        root, overwritten, ..
    } = block_on(merge(&src, &trees[0], &trees[1], &trees[2], &[])).expect("nothing to fetch");
    let entry = block_on(walk(&src, &root, &vol_path("a"))).expect("nothing to fetch");
    let registers = overwritten.into_iter().map(
        |Overwritten {
             path,
             came_from,
             register,
         }| {
            assert_eq!((path, came_from), (vol_path("a"), None));
            register
        },
    );
    (entry, registers.collect())
}

fn merged(base: EntryBody, head: EntryBody, mine: EntryBody) -> (EntryBody, Vec<Register>) {
    let [base, head, mine] = [base, head, mine].map(|body| Some(with_mode(0o644, body)));
    let (entry, report) = one(base, head, mine);
    (entry.expect("nobody removed it").body, report)
}

#[test]
fn a_symbolic_link_is_a_file_whose_content_is_its_target() {
    let (body, report) = merged(symlink(b"x"), symlink(b"y"), symlink(b"z"));
    assert!(matches!(body, EntryBody::Symlink { target } if *target == *b"z"));
    assert_eq!(report, [Register::Content]);
    let (body, report) = merged(symlink(b"x"), symlink(b"y"), symlink(b"x"));
    assert!(matches!(body, EntryBody::Symlink { target } if *target == *b"y"));
    assert_eq!(report, []);
}

#[test]
fn a_file_that_became_something_else_is_a_change_of_its_content() {
    for other in [
        symlink(b"x"),
        EntryBody::Fifo,
        EntryBody::Socket,
        EntryBody::BlockDev { major: 8, minor: 1 },
    ] {
        let (body, report) = merged(tiny(b"one"), other.clone(), tiny(b"two"));
        assert!(matches!(body, EntryBody::File { .. }), "{body:?}");
        assert_eq!(report, [Register::Content]);
        let (body, report) = merged(tiny(b"one"), tiny(b"one"), other.clone());
        assert!(!matches!(body, EntryBody::File { .. }), "{body:?}");
        assert_eq!(report, []);
        let (_, report) = merged(tiny(b"one"), other.clone(), other);
        assert_eq!(report, []);
    }
}

#[test]
fn a_device_is_known_by_kind_and_number() {
    let (char_dev, block_dev) = (
        EntryBody::CharDev { major: 1, minor: 3 },
        EntryBody::BlockDev { major: 1, minor: 3 },
    );
    let (body, report) = merged(char_dev.clone(), char_dev, block_dev);
    assert!(matches!(body, EntryBody::BlockDev { major: 1, minor: 3 }));
    assert_eq!(report, []);
}

#[test]
fn permissions_of_a_symbolic_link_come_with_the_link() {
    let base = with_mode(0o644, tiny(b"one"));
    let head = with_mode(0o777, symlink(b"x"));
    let mine = with_mode(0o600, tiny(b"one"));
    let (entry, report) = one(Some(base), Some(head), Some(mine));
    let entry = entry.expect("nobody removed it");
    assert!(matches!(entry.body, EntryBody::Symlink { .. }));
    assert_eq!((entry.attrs.mode, report), (0o777, vec![]));
}

#[test]
fn local_contents_are_compared_by_identity() {
    let (body, report) = merged(tiny(b"one"), tiny(b"two"), local(1, 5, 7));
    assert!(matches!(
        body,
        EntryBody::File {
            content: Content::Local(_),
            ..
        }
    ));
    assert_eq!(report, [Register::Content]);
    // A stash on a view with the same dirty file, and with a later state of it.
    let (_, report) = merged(tiny(b"one"), local(1, 5, 7), local(1, 5, 7));
    assert_eq!(report, []);
    for other in [local(1, 5, 8), local(1, 6, 7), local(2, 5, 7)] {
        let (body, report) = merged(tiny(b"one"), local(1, 5, 7), other.clone());
        assert!(crate::tree::same_body(&body, &other));
        assert_eq!(report, [Register::Content]);
    }
    let (body, report) = merged(local(1, 5, 7), tiny(b"two"), local(1, 5, 7));
    assert!(matches!(
        body,
        EntryBody::File {
            content: Content::Tiny(_),
            ..
        }
    ));
    assert_eq!(report, []);
}

#[test]
fn equal_contents_in_other_places_are_no_change_and_the_heads_place_stays() {
    let place = |body: &EntryBody| match body {
        EntryBody::File {
            content: Content::Blob(blob),
            ..
        } => (blob.pack.epoch, blob.id.0[0]),
        other => panic!("{other:?}"),
    };
    // Repacked by the head, touched by nobody; written alike by both; written by the head while mine has it elsewhere.
    let cases = [
        ((1, 1), (2, 1), (3, 1), (2, 1)),
        ((1, 1), (2, 7), (3, 7), (2, 7)),
        ((1, 1), (2, 7), (3, 1), (2, 7)),
        ((1, 1), (2, 1), (3, 7), (3, 7)),
    ];
    for (base, head, mine, should) in cases {
        let of = |(epoch, id)| blob(epoch, id);
        let (body, report) = merged(of(base), of(head), of(mine));
        assert_eq!((place(&body), report), (should, vec![]));
    }
}

#[test]
fn xattrs_that_do_not_fit_together_are_mine_and_the_heads_are_reported() {
    let with = |name: &[u8]| {
        let map = XattrMap::from([(name.into(), vec![0; 40 << 10].into())]);
        let attrs = Attrs {
            xattrs: Xattrs::from_map(map),
            ..Attrs::default()
        };
        Some(Entry {
            attrs,
            body: tiny(b"one"),
        })
    };
    let (entry, report) = one(
        Some(with_mode(0, tiny(b"one"))),
        with(b"user.head"),
        with(b"user.mine"),
    );
    let Xattrs::Inline(map) = entry.expect("nobody removed it").attrs.xattrs else {
        panic!("not in memory")
    };
    assert!(map.keys().eq([&Box::<[u8]>::from(&b"user.mine"[..])]));
    assert_eq!(report, [Register::Xattr(b"user.head"[..].into())]);
}

#[test]
fn the_merge_may_run_on_any_thread() {
    fn sendable<T: Send>(_: T) {}
    let (src, tree) = (Source::default(), root(Vec::new()));
    sendable(merge(&src, &tree, &tree, &tree, &[]));
}
