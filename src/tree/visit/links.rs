//! Inodes with several names.

use std::collections::BTreeMap;

use super::pages::{Page, Repeats};
use super::walk::{Stopped, Walk};
use super::{Item, Place, Visit};
use crate::format::Node;
use crate::model::{EntryBody, LinkInode, LinksTree};
use crate::tree::fetch::{self, FETCHES_MAX};

impl Walk<'_> {
    pub(super) async fn links(&mut self, links: &LinksTree) -> Result<(), Stopped> {
        self.complete = true;
        let mut inodes = BTreeMap::new();
        if let Some((root, _)) = links.stored {
            let leaves = self
                .leaves(Place::Links, Page::root(root), Repeats::Never)
                .await?;
            for some in leaves.chunks(FETCHES_MAX) {
                for (page, node) in some
                    .iter()
                    .zip(self.read(some.iter().map(|page| (Place::Links, page))).await?)
                {
                    match node.as_deref() {
                        Some(Node::Links(leaf)) => {
                            let keys = leaf.inodes.iter().map(|(id, _)| &id.0[..]);
                            self.check_leaf(Place::Links, page, leaf.inodes.len() as u64, keys)?;
                            inodes.extend(leaf.inodes.iter().cloned());
                        }
                        Some(_) => self.trouble(Place::Links, fetch::wrong_kind(&page.ptr))?,
                        None => {}
                    }
                }
            }
        }
        for (id, edit) in &links.edits {
            match edit {
                Some(inode) => inodes.insert(*id, inode.clone()),
                None => inodes.remove(id),
            };
        }
        let mut bytes = 0u64;
        for (id, LinkInode { nlink, entry }) in &inodes {
            let place = Place::Inode(id);
            if let EntryBody::File { size, .. } = &entry.body {
                bytes = bytes.saturating_add(*size);
            }
            if self.complete && self.all_names {
                let names = self.names.get(id).copied().unwrap_or_default();
                self.require(
                    place,
                    names == *nlink,
                    "it has other than as many names as it counts",
                )?;
            }
            match self.visitor.item(place, Item::Entry(entry)) {
                Visit::Enter => {}
                Visit::Skip => continue,
                Visit::Stop => return Err(Stopped),
            }
            self.xattrs(place, &entry.attrs.xattrs)?;
            if let EntryBody::File { size, content } = &entry.body {
                self.content(place, *size, content).await?;
            }
        }
        if self.complete {
            let counted = (inodes.len() as u64, bytes) == (links.count, links.bytes);
            self.require(
                Place::Links,
                counted,
                "their number or bytes are other than the super node says",
            )?;
        }
        if self.complete && self.all_names {
            let unknown = self.names.keys().filter(|id| !inodes.contains_key(id));
            for id in unknown.copied().collect::<Vec<_>>() {
                self.require(
                    Place::Inode(&id),
                    false,
                    "names refer to it, but the links tree does not hold it",
                )?;
            }
        }
        Ok(())
    }
}
