//! Inodes of an older generation find out what they are now.

use super::inodes::What;
use super::space::{Ask, Child, Space};
use super::types::Ino;
use crate::model::{Entry, EntryBody};
use crate::overlay::{NodeBody, NodeId};
use crate::tree::{NodeSource, link_loaded};

impl Space {
    /// Makes an inode mean what it means in this generation: a directory is what its path leads to now; anything else
    /// stays itself if its path still leads to the same content; else it is gone.
    pub fn refresh(&mut self, src: &dyn NodeSource, ino: Ino) -> Result<(), Ask> {
        // The way up to the first that is known to be right, then down again.
        let mut chain = vec![ino];
        while let Some(inode) = chain.last().and_then(|ino| self.inodes.get(*ino))
            && inode.generation != self.generation
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
        let generation = self.generation;
        let Some(inode) = self.inodes.get(ino) else { return Ok(()) };
        if inode.generation == generation {
            return Ok(());
        }
        let now = match (&inode.what, &inode.place) {
            (What::Clean(_), Some((dir, name))) => {
                let child = self.child(src, *dir, name.as_bytes())?;
                // Somebody else is what the path leads to by now.
                child.filter(|child| self.known_child(*dir, name.as_bytes(), child).is_none_or(|it| it == ino))
            }
            (What::Link(link, _), _) => match self.state().links.get(link) {
                Some(id) => self.inodes.of_node(*id).is_none().then_some(Child::Node(*id)),
                None => link_loaded(src, &self.base.links, link)?.map(|inode| Child::Link(*link, inode.into())),
            },
            _ => None,
        };
        let place = inode.place.clone();
        match now {
            Some(Child::Node(id)) if self.still_is_node(ino, id) => {
                self.inodes.become_(ino, What::Node(id), None, generation);
            }
            Some(Child::Clean(entry)) if self.still_is(ino, &entry) => {
                self.inodes.become_(ino, What::Clean(entry), place, generation);
            }
            Some(Child::Link(link, inode)) if self.still_is(ino, &inode.entry) => {
                self.inodes.become_(ino, What::Link(link, inode), None, generation);
            }
            _ => self.detach(ino),
        }
        Ok(())
    }

    /// True if an inode that was found earlier can go on as this entry: the same content, or both directories.
    pub fn still_is(&self, ino: Ino, now: &Entry) -> bool {
        let Some(inode) = self.inodes.get(ino) else { return false };
        match &inode.what {
            What::Clean(entry) => same_thing(entry, now),
            What::Link(_, link) => same_thing(&link.entry, now),
            What::Node(_) | What::Gone(_) => false,
        }
    }

    /// The same for a node of the overlay.
    pub fn still_is_node(&self, ino: Ino, id: NodeId) -> bool {
        let (Some(inode), Some(node)) = (self.inodes.get(ino), self.state().node(id)) else {
            return false;
        };
        let has_body = matches!(&node.body, NodeBody::File(file) if file.body.is_some());
        match &inode.what {
            // Local bytes are compared by nothing: such a file is a new one.
            What::Clean(entry) => !has_body && same_thing(entry, &self.entry_of(inode, id, node)),
            What::Link(_, link) => !has_body && same_thing(&link.entry, &self.entry_of(inode, id, node)),
            What::Node(_) | What::Gone(_) => false,
        }
    }
}

fn same_thing(a: &Entry, b: &Entry) -> bool {
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
