//! Trees of pages: reading nodes, and the leaves below index pages.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;

use super::walk::{Stopped, Walk};
use super::{Item, Place, Visit};
use crate::format::{IndexPage, IndexSlot, Node};
use crate::model::{Entry, Hash, Name, PackRef, Ptr, Totals};
use crate::tree::fetch::{self, FETCHES_MAX};

/// What must be true of a leaf where it stands in another directory.
#[derive(Clone)]
pub(super) struct SeenLeaf {
    pub count: u64,
    pub ends: Option<(Name, Name)>,
    pub sum: Totals,
}

impl SeenLeaf {
    pub(super) fn of(entries: &[(Name, Entry)], sum: Totals) -> SeenLeaf {
        let name = |entry: &(Name, Entry)| entry.0.clone();
        SeenLeaf {
            count: entries.len() as u64,
            ends: entries.first().map(name).zip(entries.last().map(name)),
            sum,
        }
    }
}

/// How often one page may stand in a tree of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Once: its keys cannot be in two places.
    Never,
    /// Several times, but there are no more pages than this.
    UpTo(u64),
}

/// A node that an index page names, and what must be true of it.
pub(super) struct Page {
    pub ptr: Ptr,
    /// Level of the index page that names it.
    pub below: u8,
    /// Keys in it: from this one on, below the next one.
    pub from: Box<[u8]>,
    pub until: Option<Box<[u8]>>,
    /// Entries in it and below; not known of a root.
    pub count: Option<u64>,
    pub page_cid: Option<Hash>,
    /// The node, where it had to be read already to know that it is a leaf.
    pub node: Option<Arc<Node>>,
}

impl Page {
    /// The root of a tree of pages.
    pub(super) fn root(ptr: Ptr) -> Page {
        Page {
            ptr,
            below: 0,
            from: Box::default(),
            until: None,
            count: None,
            page_cid: None,
            node: None,
        }
    }

    pub(super) fn id(&self) -> (PackRef, Hash) {
        (self.ptr.pack, self.ptr.hash)
    }

    pub(super) fn holds(&self, key: &[u8]) -> bool {
        *key >= *self.from && self.until.as_ref().is_none_or(|until| *key < **until)
    }

    pub(super) fn children(&self, page: &IndexPage) -> Vec<Page> {
        let child = |(at, slot): (usize, &IndexSlot)| Page {
            ptr: slot.ptr,
            below: page.level,
            from: if at == 0 {
                self.from.clone()
            } else {
                slot.first_key.clone()
            },
            until: page
                .slots
                .get(at + 1)
                .map(|next| next.first_key.clone())
                .or_else(|| self.until.clone()),
            count: Some(slot.count),
            page_cid: slot.page_cid,
            node: None,
        };
        page.slots.iter().enumerate().map(child).collect()
    }
}

impl Walk<'_> {
    pub(super) fn is_wanted(&mut self, place: Place<'_>, page: &Page) -> Result<bool, Stopped> {
        match self.visitor.item(place, Item::Node(&page.ptr)) {
            Visit::Enter => Ok(true),
            Visit::Skip => {
                self.complete &= self.leaves_seen.contains_key(&page.id());
                Ok(false)
            }
            Visit::Stop => Err(Stopped),
        }
    }

    /// Reads pages that the visitor enters; `None` for the others. Callers give at most [`FETCHES_MAX`].
    pub(super) async fn read<'p>(
        &mut self,
        pages: impl Iterator<Item = (Place<'p>, &'p Page)>,
    ) -> Result<Vec<Option<Arc<Node>>>, Stopped> {
        let pages: Vec<(Place<'p>, &'p Page)> = pages.collect();
        let mut wanted = Vec::with_capacity(pages.len());
        for (place, page) in &pages {
            let known = page.node.is_some();
            wanted.push(known || self.is_wanted(*place, page)?);
        }
        let src = self.src;
        let fetches: Vec<_> = pages
            .iter()
            .zip(wanted)
            .map(|((_, page), wanted)| async move {
                match (&page.node, wanted) {
                    (Some(node), _) => Some(Ok(node.clone())),
                    (None, true) => Some(src.node(&page.ptr).await),
                    (None, false) => None,
                }
            })
            .collect();
        let mut nodes = Vec::with_capacity(pages.len());
        for ((place, _), fetched) in pages.iter().zip(join_all(fetches).await) {
            nodes.push(match fetched {
                None => None,
                Some(Ok(node)) => Some(node),
                Some(Err(error)) => {
                    self.trouble(*place, error)?;
                    None
                }
            });
        }
        Ok(nodes)
    }

    /// The leaves of a tree of pages, in order, without those below index pages that were skipped or unreadable, or
    /// that break the rule of `repeats`.
    pub(super) async fn leaves(
        &mut self,
        place: Place<'_>,
        mut root: Page,
        repeats: Repeats,
    ) -> Result<Vec<Page>, Stopped> {
        let Some(node) = self.read([(place, &root)].into_iter()).await?.pop().flatten() else {
            return Ok(Vec::new());
        };
        let Node::Index(index) = &*node else {
            root.node = Some(node);
            return Ok(vec![root]);
        };
        let mut seen = HashSet::from([root.id()]);
        let mut level = self.once(place, root.children(index), repeats, &mut seen)?;
        while level.first().is_some_and(|page| page.below > 1) {
            let mut next = Vec::new();
            for some in level.chunks(FETCHES_MAX) {
                for (page, node) in some
                    .iter()
                    .zip(self.read(some.iter().map(|page| (place, page))).await?)
                {
                    let Some(node) = node else { continue };
                    match fetch::index_page(&page.ptr, &node, Some(page.below)) {
                        Ok(index) => {
                            let sum = index
                                .slots
                                .iter()
                                .fold(0, |sum: u64, slot| sum.saturating_add(slot.count));
                            let rule = "an index page counts other than the one above it";
                            self.require(place, page.count.is_none_or(|count| count == sum), rule)?;
                            let rule = "an index page has keys that are not for its place";
                            let mut keys = index.slots.iter().skip(1).map(|slot| &slot.first_key);
                            self.require(place, keys.all(|key| page.holds(key)), rule)?;
                            let children = page.children(&index);
                            next.extend(self.once(place, children, repeats, &mut seen)?);
                            if let Repeats::UpTo(most) = repeats
                                && next.len() as u64 > most
                            {
                                self.require(place, false, "it has more pages than its size needs")?;
                                next.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                                break;
                            }
                        }
                        Err(error) => self.trouble(place, error)?,
                    }
                }
            }
            level = next;
        }
        Ok(level)
    }

    /// Pages without those that stood in the same tree before.
    pub(super) fn once(
        &mut self,
        place: Place<'_>,
        mut pages: Vec<Page>,
        repeats: Repeats,
        seen: &mut HashSet<(PackRef, Hash)>,
    ) -> Result<Vec<Page>, Stopped> {
        if repeats == Repeats::Never {
            let count = pages.len();
            pages.retain(|page| seen.insert(page.id()));
            self.require(place, pages.len() == count, "a page stands in it twice")?;
        }
        Ok(pages)
    }

    pub(super) fn check_leaf<'k>(
        &mut self,
        place: Place<'_>,
        page: &Page,
        count: u64,
        mut keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<(), Stopped> {
        self.require(
            place,
            page.count.is_none_or(|expected| expected == count),
            "a page has other than as many entries as its index page says",
        )?;
        self.require(
            place,
            keys.all(|key| page.holds(key)),
            "an entry stands in a page that is not for its name",
        )
    }
}
