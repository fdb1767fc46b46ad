//! Cutting sorted items into leaves under index pages.
//!
//! A tree of pages comes as pieces: what is stored and did not change, edited leaves, and index pages with something
//! edited below. It goes out as stored nodes. First neighbours are joined, then what overflows is split, at every level.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::leaves::LeafKind;
use super::writer::NodeWriter;
use crate::format::limits::LEVELS_MAX;
use crate::format::{IndexPage, IndexSlot, Node};
use crate::model::Ptr;
use crate::tree::{NodeSource, TreeError, fetch};

/// A part of a tree of pages. Parts of one index page are in order; the first key of the first one is not looked at.
pub(super) enum Piece<I> {
    /// Stored and not changed.
    Kept(IndexSlot),
    /// A leaf.
    Leaf { first_key: Box<[u8]>, items: Vec<I> },
    /// An index page, one level above its children.
    Index {
        first_key: Box<[u8]>,
        level: u8,
        children: Vec<Piece<I>>,
    },
}

/// A tree of pages, stored.
pub(super) enum Paged<I> {
    /// There is nothing in it.
    Empty,
    /// One leaf, which is not written: it may find room elsewhere.
    OneLeaf(Vec<I>),
    /// One node: a leaf that did not change, or an index page.
    Node { ptr: Ptr, index: bool },
}

/// A page on its way out.
struct Row<I> {
    first_key: Box<[u8]>,
    body: Body<I>,
}

enum Body<I> {
    Kept(IndexSlot),
    Leaf(Vec<I>),
    /// An index page by its children.
    Index(Vec<Row<I>>),
}

/// Stores the children of an index page of `level`, and as many index pages above them as they need.
pub(super) async fn store_pages<K: LeafKind>(
    src: &dyn NodeSource,
    writer: &mut NodeWriter,
    mut level: u8,
    pieces: Vec<Piece<K::Item>>,
) -> Result<Paged<K::Item>, TreeError> {
    let small = writer.params().page_max / 4;
    let mut rows = join_rows::<K>(src, small, level, pieces.into_iter().map(Row::of).collect()).await?;
    // Levels with a single child that is being written anyway are not needed.
    while let [
        Row {
            body: Body::Index(children),
            ..
        },
    ] = rows.as_mut_slice()
    {
        rows = std::mem::take(children);
        level -= 1;
    }
    if let [
        Row {
            body: Body::Leaf(items),
            ..
        },
    ] = rows.as_mut_slice()
        && leaf_len::<K>(items) <= writer.params().page_max
    {
        return Ok(Paged::OneLeaf(std::mem::take(items)));
    }
    let mut slots = write_rows::<K>(writer, level, rows).await?;
    loop {
        match slots.as_slice() {
            [] => return Ok(Paged::Empty),
            [only] => {
                return Ok(Paged::Node {
                    ptr: only.ptr,
                    index: level > 1,
                });
            }
            _ => {}
        }
        if level >= LEVELS_MAX {
            return Err(TreeError::Limit {
                what: "levels of a directory",
                limit: u64::from(LEVELS_MAX),
            });
        }
        slots = write_indexes(writer, level, Box::default(), slots).await?;
        level += 1;
    }
}

/// The children of an index page of `level`, without those that are empty, and with those below `small` bytes joined
/// to a neighbour; the same for what is below them. A page that is the only child of its index page has its
/// neighbours only after that index page was joined, so children are looked at again then. Recursion as deep as there
/// are levels, at most 8.
fn join_rows<'a, K: LeafKind>(
    src: &'a dyn NodeSource,
    small: usize,
    level: u8,
    rows: Vec<Row<K::Item>>,
) -> BoxFuture<'a, Result<Vec<Row<K::Item>>, TreeError>> {
    Box::pin(async move {
        let mut joined = Vec::with_capacity(rows.len());
        for Row { first_key, body } in rows {
            let body = match body {
                Body::Index(children) => Body::Index(join_rows::<K>(src, small, level - 1, children).await?),
                other => other,
            };
            joined.push(Row { first_key, body });
        }
        let mut rows = joined;
        rows.retain(|row| !row.is_empty());
        let mut at = 0;
        while at < rows.len() && rows.len() > 1 {
            if !rows[at].is_small::<K>(small) {
                at += 1;
                continue;
            }
            // The right neighbour, or the left one of the last.
            at = at.min(rows.len() - 2);
            let right = rows.remove(at + 1).open::<K>(src, level).await?;
            let left = rows.remove(at).open::<K>(src, level).await?;
            let Row { first_key, body } = left.join(right)?;
            let body = match body {
                Body::Index(children) => Body::Index(join_rows::<K>(src, small, level - 1, children).await?),
                other => other,
            };
            rows.insert(at, Row { first_key, body });
        }
        Ok(rows)
    })
}

/// Writes the children of an index page of `level`, splitting those that overflow. Recursion as deep as there are
/// levels.
fn write_rows<'a, K: LeafKind>(
    writer: &'a mut NodeWriter,
    level: u8,
    rows: Vec<Row<K::Item>>,
) -> BoxFuture<'a, Result<Vec<IndexSlot>, TreeError>> {
    Box::pin(async move {
        let mut slots = Vec::with_capacity(rows.len());
        for Row { first_key, body } in rows {
            match body {
                Body::Kept(slot) => slots.push(IndexSlot { first_key, ..slot }),
                Body::Leaf(items) => slots.extend(write_leaves::<K>(writer, first_key, items).await?),
                Body::Index(children) => {
                    let below = write_rows::<K>(writer, level - 1, children).await?;
                    slots.extend(write_indexes(writer, level - 1, first_key, below).await?);
                }
            }
        }
        Ok(slots)
    })
}

/// Writes items as one leaf, or as several when they overflow it.
async fn write_leaves<K: LeafKind>(
    writer: &mut NodeWriter,
    first_key: Box<[u8]>,
    mut items: Vec<K::Item>,
) -> Result<Vec<IndexSlot>, TreeError> {
    let page_max = writer.params().page_max;
    if leaf_len::<K>(&items) > page_max {
        K::relieve(&mut items, writer).await?;
    }
    let mut slots = Vec::new();
    let mut key = Some(first_key);
    for items in split(items, page_max, K::len) {
        let first = items
            .first()
            .map(|item| Box::from(K::key(item)))
            .unwrap_or_default();
        let count = items.len() as u64;
        let ptr = writer.add_node(&K::node(items)).await?;
        slots.push(IndexSlot {
            first_key: key.take().unwrap_or(first),
            ptr,
            count,
            page_cid: None,
        });
    }
    Ok(slots)
}

/// Writes children as one index page of `level`, or as several when they overflow it.
async fn write_indexes(
    writer: &mut NodeWriter,
    level: u8,
    first_key: Box<[u8]>,
    children: Vec<IndexSlot>,
) -> Result<Vec<IndexSlot>, TreeError> {
    let mut slots = Vec::new();
    let mut key = Some(first_key);
    for children in split(children, writer.params().page_max, slot_len) {
        let first = children
            .first()
            .map(|slot| slot.first_key.clone())
            .unwrap_or_default();
        let slot = write_index(writer, level, children).await?;
        slots.push(IndexSlot {
            first_key: key.take().unwrap_or(first),
            ..slot
        });
    }
    Ok(slots)
}

/// Writes one index page; the slot that it gives has an empty key.
pub(in crate::tree) async fn write_index(
    writer: &mut NodeWriter,
    level: u8,
    mut slots: Vec<IndexSlot>,
) -> Result<IndexSlot, TreeError> {
    if let Some(first) = slots.first_mut() {
        first.first_key = Box::default();
    }
    let count = slots
        .iter()
        .fold(0, |sum: u64, slot| sum.saturating_add(slot.count));
    let ptr = writer
        .add_node(&Node::Index(Arc::new(IndexPage { level, slots })))
        .await?;
    Ok(IndexSlot {
        first_key: Box::default(),
        ptr,
        count,
        page_cid: None,
    })
}

/// Measured length of a child in an index page.
pub(in crate::tree) fn slot_len(slot: &IndexSlot) -> usize {
    let cid = if slot.page_cid.is_some() { 32 } else { 0 };
    SLOT_BYTES + slot.first_key.len() + cid
}

/// Measured length of a child in an index page, its key and cid apart: key length, pack slot, offset, two lengths and
/// hash of the pointer, count.
const SLOT_BYTES: usize = 1 + 1 + 4 + 3 + 3 + 32 + 4;

fn leaf_len<K: LeafKind>(items: &[K::Item]) -> usize {
    items.iter().map(K::len).sum()
}

/// Cuts items that together overflow a page into equal parts of at most about 60 % of one.
pub(in crate::tree) fn split<I>(items: Vec<I>, page_max: usize, len: impl Fn(&I) -> usize) -> Vec<Vec<I>> {
    let total: usize = items.iter().map(&len).sum();
    if total <= page_max {
        return vec![items];
    }
    let parts = total.div_ceil(page_max * 6 / 10);
    let mut cut: Vec<Vec<I>> = Vec::with_capacity(parts);
    let mut part = Vec::new();
    let mut before = 0;
    for item in items {
        let item_len = len(&item);
        // A part ends where its share of the whole ends; an item that crosses the border belongs to where its middle is.
        if !part.is_empty() && before + item_len / 2 >= total * (cut.len() + 1) / parts {
            cut.push(std::mem::take(&mut part));
        }
        before += item_len;
        part.push(item);
    }
    cut.push(part);
    cut
}

impl<I> Row<I> {
    fn of(piece: Piece<I>) -> Row<I> {
        match piece {
            Piece::Kept(slot) => Row {
                first_key: slot.first_key.clone(),
                body: Body::Kept(slot),
            },
            Piece::Leaf { first_key, items } => Row {
                first_key,
                body: Body::Leaf(items),
            },
            Piece::Index {
                first_key, children, ..
            } => Row {
                first_key,
                body: Body::Index(children.into_iter().map(Row::of).collect()),
            },
        }
    }

    fn is_empty(&self) -> bool {
        match &self.body {
            Body::Kept(slot) => slot.count == 0,
            Body::Leaf(items) => items.is_empty(),
            Body::Index(children) => children.is_empty(),
        }
    }

    /// True for an edited page that should join a neighbour.
    fn is_small<K: LeafKind<Item = I>>(&self, small: usize) -> bool {
        match &self.body {
            Body::Kept(_) => false,
            Body::Leaf(items) => leaf_len::<K>(items) < small,
            Body::Index(children) => {
                children
                    .iter()
                    .map(|child| SLOT_BYTES + child.first_key.len())
                    .sum::<usize>()
                    < small
            }
        }
    }

    /// This page, a child of an index page of `level`, ready to be joined.
    async fn open<K: LeafKind<Item = I>>(self, src: &dyn NodeSource, level: u8) -> Result<Row<I>, TreeError> {
        let Body::Kept(slot) = &self.body else {
            return Ok(self);
        };
        let node = src.node(&slot.ptr).await?;
        let body = if level > 1 {
            let slots = fetch::index_page(&slot.ptr, &node, Some(level))?.slots.clone();
            Body::Index(slots.into_iter().map(|slot| Row::of(Piece::Kept(slot))).collect())
        } else {
            Body::Leaf(K::items(&node).ok_or_else(|| fetch::wrong_kind(&slot.ptr))?)
        };
        Ok(Row {
            first_key: self.first_key,
            body,
        })
    }

    fn join(self, right: Row<I>) -> Result<Row<I>, TreeError> {
        let body = match (self.body, right.body) {
            (Body::Leaf(mut items), Body::Leaf(more)) => {
                items.extend(more);
                Body::Leaf(items)
            }
            (Body::Index(mut children), Body::Index(mut more)) => {
                // In its own page the first child needs no key, here it does.
                if let Some(first) = more.first_mut() {
                    first.first_key = right.first_key;
                }
                children.extend(more);
                Body::Index(children)
            }
            _ => {
                return Err(TreeError::Damaged {
                    object: "an index page".to_owned(),
                    rule: "its children are not of one level".to_owned(),
                });
            }
        };
        Ok(Row {
            first_key: self.first_key,
            body,
        })
    }
}
