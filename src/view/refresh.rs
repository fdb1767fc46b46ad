//! Inodes of an older generation find out what they are now.

use std::sync::atomic::Ordering;

use super::edit::Edit;
use super::inodes::What;
use super::space::{Ask, Child, Look};
use super::types::Ino;
use crate::model::{Entry, EntryBody, FileId, Kind, Name};
use crate::overlay::NodeBody;
use crate::tree::{NodeSource, link_loaded};

impl Edit<'_> {
    /// Makes an inode mean what it means in this generation: a directory, and a file that nobody has open, is what its path
    /// leads to now; anything else stays itself if its path still leads to the same content; else it is gone.
    pub fn refresh(&mut self, src: &dyn NodeSource, ino: Ino) -> Result<(), Ask> {
        // The way up to the first that is known to be right, then down again.
        let mut chain = vec![ino];
        while let Some(inode) = chain.last().and_then(|ino| self.space.inodes.get(*ino))
            && inode.generation != self.space.generation
            && let Some((dir, _)) = &inode.place
        {
            chain.push(*dir);
        }
        for ino in chain.into_iter().rev() {
            self.refresh_one(src, ino)?;
        }
        Ok(())
    }

    fn refresh_one(&mut self, src: &dyn NodeSource, ino: Ino) -> Result<(), Ask> {
        let generation = self.space.generation;
        let look = self.look();
        let Some(inode) = look.space.inodes.get(ino) else {
            return Ok(());
        };
        if inode.generation == generation {
            return Ok(());
        }
        let now = match (&inode.what, &inode.place) {
            (What::Clean(_), Some((dir, name))) => {
                let child = look.child(src, *dir, name.as_bytes())?;
                // Somebody else may be what the path leads to by now.
                child.filter(|child| {
                    look.known_child(*dir, name.as_bytes(), child)
                        .is_none_or(|it| it == ino)
                })
            }
            (What::Link(link, _), _) => match look.state.links.get(link) {
                Some(id) => look
                    .space
                    .inodes
                    .of_node(*id)
                    .is_none()
                    .then_some(Child::Node(*id)),
                None => link_loaded(src, &look.space.base.links, link)?
                    .map(|inode| Child::Link(*link, inode.into())),
            },
            _ => None,
        };
        let (what, place) = match now {
            Some(Child::Node(id)) => (What::Node(id), None),
            Some(Child::Link(link, inode)) => (What::Link(link, inode), None),
            Some(Child::Clean(entry)) => (What::Clean(entry), inode.place.clone()),
            None => {
                self.detach(ino);
                return Ok(());
            }
        };
        let goes_on = look.goes_on(ino, &what);
        if goes_on.is_some() {
            let file_id = match &what {
                What::Node(id) => look.node(*id)?.attrs.file_id,
                What::Link(_, link) => link.entry.attrs.file_id,
                What::Clean(entry) | What::Gone(entry) => entry.attrs.file_id,
            };
            self.go_on(ino, what, place, file_id, goes_on);
        } else {
            self.detach(ino);
        }
        Ok(())
    }
}

impl Edit<'_> {
    /// An inode means this from now on.
    pub fn go_on(
        &mut self,
        ino: Ino,
        what: What,
        place: Option<(Ino, Name)>,
        file_id: FileId,
        how: Option<GoesOn>,
    ) {
        let generation = self.space.generation;
        self.space.inodes.become_(ino, what, place, generation);
        self.space.inodes.show(ino, file_id, generation);
        if how == Some(GoesOn::OtherBytes)
            && let Some(inode) = self.space.inodes.get(ino)
        {
            inode.outdated.store(true, Ordering::Relaxed);
            inode.given.store(false, Ordering::Relaxed);
        }
    }
}

/// How an inode of an older generation can be what its path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GoesOn {
    /// It is the same thing.
    Same,
    /// It is a regular file with other bytes, and nobody has the former ones open.
    OtherBytes,
}

impl Look<'_> {
    /// Whether an inode that was found earlier can be this from now on. `None`: it is another.
    pub fn goes_on(&self, ino: Ino, now: &What) -> Option<GoesOn> {
        if self.still_is(ino, now) {
            return Some(GoesOn::Same);
        }
        let inode = self.space.inodes.get(ino)?;
        let was_file = match &inode.what {
            What::Clean(entry) => entry.kind() == Kind::File,
            What::Link(_, link) => link.entry.kind() == Kind::File,
            What::Node(_) | What::Gone(_) => false,
        };
        let is_file = match now {
            What::Clean(entry) => entry.kind() == Kind::File,
            What::Link(_, link) => link.entry.kind() == Kind::File,
            What::Node(id) => self.state.node(*id).is_some_and(|node| node.kind() == Kind::File),
            What::Gone(_) => false,
        };
        let idle = inode.file.is_none() && inode.pins == 0;
        (was_file && is_file && idle).then_some(GoesOn::OtherBytes)
    }

    /// True if an inode that was found earlier can go on as this: the same content, or both directories. Local bytes are
    /// compared by nothing: a file that has some is a new one.
    pub fn still_is(&self, ino: Ino, now: &What) -> bool {
        let Some(inode) = self.space.inodes.get(ino) else {
            return false;
        };
        let was = match &inode.what {
            What::Clean(entry) => &**entry,
            What::Link(_, link) => &link.entry,
            What::Node(_) | What::Gone(_) => return false,
        };
        match now {
            What::Clean(entry) => same_thing(was, entry),
            What::Link(_, link) => same_thing(was, &link.entry),
            What::Node(id) => match self.state.node(*id) {
                Some(node) => {
                    let local = matches!(&node.body, NodeBody::File(file) if file.body.is_some());
                    !local && same_thing(was, &self.entry_of(inode, *id, node))
                }
                None => false,
            },
            What::Gone(_) => false,
        }
    }
}

pub(super) fn same_thing(a: &Entry, b: &Entry) -> bool {
    match (&a.body, &b.body) {
        (EntryBody::Dir { .. }, EntryBody::Dir { .. }) => true,
        (
            EntryBody::File { size, content },
            EntryBody::File {
                size: size_now,
                content: content_now,
            },
        ) => size == size_now && content.same(content_now),
        (EntryBody::Symlink { target }, EntryBody::Symlink { target: target_now }) => target == target_now,
        (EntryBody::Fifo, EntryBody::Fifo) | (EntryBody::Socket, EntryBody::Socket) => true,
        (
            EntryBody::CharDev { major, minor },
            EntryBody::CharDev {
                major: major_now,
                minor: minor_now,
            },
        )
        | (
            EntryBody::BlockDev { major, minor },
            EntryBody::BlockDev {
                major: major_now,
                minor: minor_now,
            },
        ) => (major, minor) == (major_now, minor_now),
        _ => false,
    }
}
