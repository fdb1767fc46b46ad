//! The merge, over trees that the input describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;

use crate::model::*;
use crate::tree::{self, Hint, Item, MemorySource, Place, TreeError, Visit, Visitor};

/// Names of entries; few, so that the three trees meet, and that ten million of them can be merged in an hour.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Inodes with several names.
const LINKS: u8 = 3;
/// Directories in one another.
const DEPTH_MAX: u8 = 2;

struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
}

/// A tree that keeps the rules: totals, link counts.
fn tree(choices: &mut Choices<'_>) -> TreeRoot {
    let mut names = BTreeMap::new();
    let page = page(choices, 0, &mut names);
    let mut edits = BTreeMap::new();
    let (mut count, mut bytes) = (0, 0);
    for (id, nlink) in names {
        let inode = leaf(choices, false);
        if let EntryBody::File { size, .. } = &inode.body {
            bytes += size;
        }
        count += 1;
        edits.insert(id, Some(LinkInode { nlink, entry: inode }));
    }
    TreeRoot {
        attrs: attrs(choices.next()),
        totals: tree::recount(&page.entries),
        tree: DirTree::Inline(Arc::new(page)),
        links: LinksTree {
            stored: None,
            edits,
            count,
            bytes,
        },
    }
}

fn page(choices: &mut Choices<'_>, depth: u8, names: &mut BTreeMap<LinkId, u64>) -> DirPage {
    let mut entries = Vec::new();
    for name in NAMES {
        let entry = match choices.next() {
            0..64 => continue,
            64..112 if depth < DEPTH_MAX => {
                let page = page(choices, depth + 1, names);
                Entry {
                    attrs: attrs(choices.next()),
                    body: EntryBody::Dir {
                        totals: tree::recount(&page.entries),
                        tree: DirTree::Inline(Arc::new(page)),
                    },
                }
            }
            kind @ 112..144 => {
                let id = LinkId([kind % LINKS; 16]);
                *names.entry(id).or_default() += 1;
                Entry {
                    attrs: Attrs::default(),
                    body: EntryBody::HardLink(id),
                }
            }
            kind => leaf(choices, kind < 168),
        };
        entries.push((Name::new(name.as_bytes()).expect("a name"), entry));
    }
    DirPage { entries }
}

fn leaf(choices: &mut Choices<'_>, other: bool) -> Entry {
    let what = choices.next();
    let body = if other {
        match what % 3 {
            0 => EntryBody::Symlink { target: [b't', what].as_slice().into() },
            1 => EntryBody::Fifo,
            _ => EntryBody::CharDev { major: 1, minor: u32::from(what) },
        }
    } else {
        let bytes = vec![what; usize::from(what % 4)];
        EntryBody::File { size: bytes.len() as u64, content: Content::Tiny(bytes.into()) }
    };
    Entry { attrs: attrs(choices.next()), body }
}

/// Two values of every attribute.
fn attrs(bits: u8) -> Attrs {
    let bit = |n: u8| bits >> n & 1;
    let xattrs = (0..2u8)
        .filter(|n| bit(*n) == 1)
        .map(|n| ([b'u', n].as_slice().into(), [bit(2)].as_slice().into()))
        .collect();
    Attrs {
        mode: 0o600 + u16::from(bit(3)),
        uid: u32::from(bit(4)),
        gid: u32::from(bit(5)),
        mtime: Timestamp { secs: i64::from(bit(6)), nanos: 0 },
        ctime: Timestamp { secs: i64::from(bit(7)), nanos: 0 },
        file_id: FileId(u64::from(bits)),
        xattrs: Xattrs::from_map(xattrs),
    }
}

/// Fails on anything that breaks a rule of a tree.
struct Rules;

impl Visitor for Rules {
    fn item(&mut self, _place: Place<'_>, _item: Item<'_>) -> Visit {
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        panic!("{place}: {error}");
    }
}

fn hints(choices: &mut Choices<'_>) -> Vec<Hint> {
    let mut path = |len: u8| {
        let names = (0..=len % 3).map(|_| NAMES[usize::from(choices.next()) % NAMES.len()]);
        VolPath(names.map(|name| Name::new(name.as_bytes()).expect("a name")).collect())
    };
    let mut all = Vec::new();
    for len in 0..3 {
        let (from, to): (VolPath, VolPath) = (path(len), path(len + 1));
        all.push((from, to));
    }
    all
}

fn merged(base: &TreeRoot, head: &TreeRoot, mine: &TreeRoot, hints: &[Hint]) -> Option<TreeRoot> {
    let source = MemorySource::new();
    // Everything is in memory, so nothing ever waits.
    let merging = tree::merge(&source, base, head, mine, hints).now_or_never();
    let merged = match merging.expect("nothing waits") {
        Ok(merged) => merged.root,
        // Trees of the limits, and moves that contradict the trees, are refused.
        Err(TreeError::Damaged { .. } | TreeError::Limit { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let visiting = tree::visit(&source, &merged, &mut Rules).now_or_never();
    assert_eq!(visiting, Some(true));
    Some(merged)
}

fn same(a: &TreeRoot, b: &TreeRoot) -> bool {
    let source = MemorySource::new();
    let mut differs = false;
    let differing = tree::diff(&source, a, b, |_, _| {
        differs = true;
        std::ops::ControlFlow::Break(())
    });
    differing.now_or_never().expect("nothing waits").expect("nothing is damaged");
    let links = tree::diff_links(&source, &a.links, &b.links).now_or_never();
    !differs && links.expect("nothing waits").expect("nothing is damaged").is_empty()
}

/// Three trees and hints: the result keeps the rules of a tree, and where one side changed nothing it is the other.
pub fn merge(data: &[u8]) {
    let mut choices = Choices(data);
    let (base, head, mine) = (tree(&mut choices), tree(&mut choices), tree(&mut choices));
    let hints = hints(&mut choices);
    merged(&base, &head, &mine, &[]).expect("trees that keep the rules are merged");
    merged(&base, &head, &mine, &hints);
    let kept = merged(&base, &head, &base, &[]).expect("trees that keep the rules are merged");
    assert!(same(&kept, &head), "mine changed nothing");
    let taken = merged(&base, &base, &mine, &[]).expect("trees that keep the rules are merged");
    assert!(same(&taken, &mine), "the head changed nothing");
}
