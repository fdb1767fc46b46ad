//! Making a changed copy of a tree in memory.

use std::sync::Arc;

use crate::model::{DirPage, DirTree, Entry, EntryBody, Name, PageSlot, PageTree, Ptr};

/// A copy of `tree` in which every entry in memory went through `entry` and every pointer to a node through `stored`.
/// Works with a stack of its own: directories may be a thousand deep.
pub(super) fn rebuild(
    tree: &DirTree,
    entry: &dyn Fn(Entry) -> Entry,
    stored: &dyn Fn(Ptr) -> Ptr,
) -> DirTree {
    let mut stack: Vec<Frame> = Vec::new();
    let mut done = match Frame::open(tree, stored) {
        Ok(frame) => {
            stack.push(frame);
            None
        }
        Err(leaf) => Some(leaf),
    };
    loop {
        let Some(frame) = stack.last_mut() else {
            return done.unwrap_or_else(DirTree::empty);
        };
        if let Some(below) = done.take() {
            frame.put(below);
        }
        match frame.next(entry) {
            Some(below) => match Frame::open(&below, stored) {
                Ok(frame) => stack.push(frame),
                Err(leaf) => done = Some(leaf),
            },
            None => done = stack.pop().map(Frame::close),
        }
    }
}

/// A directory, or an index page of one, of which `done` is ready.
enum Frame {
    Page {
        page: Arc<DirPage>,
        done: Vec<(Name, Entry)>,
    },
    Slots {
        level: u8,
        slots: Arc<Vec<PageSlot>>,
        done: Vec<PageSlot>,
    },
}

impl Frame {
    /// `Err` with the copy when there is nothing in memory to go into.
    fn open(tree: &DirTree, stored: &dyn Fn(Ptr) -> Ptr) -> Result<Frame, DirTree> {
        match tree {
            DirTree::Inline(page) => Ok(Frame::Page {
                page: page.clone(),
                done: Vec::with_capacity(page.entries.len()),
            }),
            DirTree::Pages(pages) => Ok(Frame::Slots {
                level: pages.level,
                slots: pages.slots.clone(),
                done: Vec::with_capacity(pages.slots.len()),
            }),
            DirTree::Stored { ptr, index } => Err(DirTree::stored(stored(**ptr), *index)),
        }
    }

    /// Goes on to the next directory or page inside; its copy comes by [`Frame::put`].
    fn next(&mut self, entry: &dyn Fn(Entry) -> Entry) -> Option<DirTree> {
        match self {
            Frame::Page { page, done } => {
                while let Some((name, old)) = page.entries.get(done.len()) {
                    done.push((name.clone(), entry(old.clone())));
                    if let EntryBody::Dir { tree, .. } = &old.body {
                        return Some(tree.clone());
                    }
                }
                None
            }
            Frame::Slots { slots, done, .. } => {
                let slot = slots.get(done.len())?;
                done.push(slot.clone());
                Some(slot.child.clone())
            }
        }
    }

    fn put(&mut self, below: DirTree) {
        match self {
            Frame::Page { done, .. } => {
                if let Some((
                    _,
                    Entry {
                        body: EntryBody::Dir { tree, .. },
                        ..
                    },
                )) = done.last_mut()
                {
                    *tree = below;
                }
            }
            Frame::Slots { done, .. } => {
                if let Some(slot) = done.last_mut() {
                    slot.child = below;
                }
            }
        }
    }

    fn close(self) -> DirTree {
        match self {
            Frame::Page { done, .. } => DirTree::Inline(Arc::new(DirPage { entries: done })),
            Frame::Slots { level, done, .. } => DirTree::Pages(PageTree {
                level,
                slots: Arc::new(done),
            }),
        }
    }
}
