//! The reference: what a local filesystem does, on plain maps.

use std::collections::{BTreeMap, HashMap};

use crate::model::{
    Attrs, DirPage, DirTree, Entry, EntryBody, FileId, Kind, LinkId, LinkInode, LinksTree, Name, Timestamp,
    TreeRoot, Xattrs,
};
use crate::tree::recount_page;
use crate::view::RenameMode;

use super::source::TestSource;

pub type Id = u64;
pub const ROOT: Id = 1;

/// Body of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Dir(BTreeMap<Vec<u8>, Id>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub body: Body,
    pub mode: u16,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub nlink: u64,
    pub file_id: FileId,
    /// Its identity once it got a second name.
    pub link: Option<LinkId>,
}

/// A filesystem.
#[derive(Clone, Debug)]
pub struct Fs {
    pub inodes: BTreeMap<Id, Inode>,
    pub next: Id,
    pub now: Timestamp,
}

/// errno of a refusal.
pub type Res<T> = Result<T, i32>;

impl Fs {
    pub fn new(now: Timestamp) -> Fs {
        let root = Inode {
            body: Body::Dir(BTreeMap::new()),
            mode: 0o755,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            nlink: 1,
            file_id: FileId::ROOT,
            link: None,
        };
        Fs {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: 2,
            now,
        }
    }

    pub fn at(&self, id: Id) -> &Inode {
        &self.inodes[&id]
    }

    pub fn at_mut(&mut self, id: Id) -> &mut Inode {
        self.inodes.get_mut(&id).unwrap()
    }

    fn entries(&self, dir: Id) -> Res<&BTreeMap<Vec<u8>, Id>> {
        match &self.at(dir).body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.at_mut(dir).body {
            Body::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn is_dir(&self, id: Id) -> bool {
        matches!(self.at(id).body, Body::Dir(_))
    }

    pub fn lookup(&self, dir: Id, name: &[u8]) -> Res<Id> {
        self.entries(dir)?.get(name).copied().ok_or(libc::ENOENT)
    }

    pub fn walk(&self, path: &[&[u8]]) -> Res<Id> {
        path.iter().try_fold(ROOT, |dir, name| self.lookup(dir, name))
    }

    fn touch_dir(&mut self, dir: Id) {
        let now = self.now;
        let dir = self.at_mut(dir);
        (dir.mtime, dir.ctime) = (now, now);
    }

    pub fn make(&mut self, dir: Id, name: &[u8], body: Body, mode: u16) -> Res<Id> {
        if self.entries(dir)?.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        let inode = Inode {
            body,
            mode,
            mtime: self.now,
            ctime: self.now,
            xattrs: BTreeMap::new(),
            nlink: 1,
            file_id: FileId(0),
            link: None,
        };
        self.inodes.insert(id, inode);
        self.entries_mut(dir).insert(name.to_vec(), id);
        self.touch_dir(dir);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Res<()> {
        if self.is_dir(id) {
            return Err(libc::EPERM);
        }
        if self.entries(dir)?.contains_key(name) {
            return Err(libc::EEXIST);
        }
        self.entries_mut(dir).insert(name.to_vec(), id);
        self.touch_dir(dir);
        let now = self.now;
        let inode = self.at_mut(id);
        inode.nlink += 1;
        inode.ctime = now;
        inode.link.get_or_insert(LinkId([id as u8; 16]));
        Ok(())
    }

    /// Takes the name; the inode stays for handles when `nlink` is 0.
    fn drop_name(&mut self, dir: Id, name: &[u8]) {
        let id = self.entries_mut(dir).remove(name).unwrap();
        self.touch_dir(dir);
        let now = self.now;
        let inode = self.at_mut(id);
        inode.nlink -= 1;
        inode.ctime = now;
    }

    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Res<()> {
        if self.is_dir(self.lookup(dir, name)?) {
            return Err(libc::EISDIR);
        }
        self.drop_name(dir, name);
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Res<()> {
        let id = self.lookup(dir, name)?;
        if !self.entries(id)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.drop_name(dir, name);
        Ok(())
    }

    fn is_below(&self, id: Id, top: Id) -> bool {
        id == top
            || match &self.at(top).body {
                Body::Dir(entries) => entries
                    .values()
                    .any(|child| self.is_dir(*child) && self.is_below(id, *child)),
                _ => false,
            }
    }

    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), mode: RenameMode) -> Res<()> {
        // The paths are walked first.
        self.entries(from.0)?;
        self.entries(to.0)?;
        let moved = self.lookup(from.0, from.1)?;
        let target = match self.lookup(to.0, to.1) {
            Err(libc::ENOENT) => None,
            other => Some(other?),
        };
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            (_, Some(target)) if target == moved => return Ok(()),
            _ => {}
        }
        if self.is_dir(moved) && self.is_below(to.0, moved) {
            return Err(libc::EINVAL);
        }
        let now = self.now;
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                if self.is_dir(target) && self.is_below(from.0, target) {
                    return Err(libc::EINVAL);
                }
                self.entries_mut(from.0).insert(from.1.to_vec(), target);
                self.entries_mut(to.0).insert(to.1.to_vec(), moved);
                self.touch_dir(from.0);
                self.touch_dir(to.0);
                self.at_mut(moved).ctime = now;
                self.at_mut(target).ctime = now;
                return Ok(());
            }
            match (self.is_dir(moved), self.is_dir(target)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target)?.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            self.drop_name(to.0, to.1);
        }
        self.entries_mut(from.0).remove(from.1);
        self.entries_mut(to.0).insert(to.1.to_vec(), moved);
        self.touch_dir(from.0);
        self.touch_dir(to.0);
        self.at_mut(moved).ctime = now;
        Ok(())
    }

    pub fn data(&self, id: Id) -> &Vec<u8> {
        match &self.at(id).body {
            Body::File(data) => data,
            other => panic!("{other:?} has no data"),
        }
    }

    fn data_mut(&mut self, id: Id) -> &mut Vec<u8> {
        let now = self.now;
        let inode = self.at_mut(id);
        (inode.mtime, inode.ctime) = (now, now);
        match &mut inode.body {
            Body::File(data) => data,
            other => panic!("{other:?} has no data"),
        }
    }

    pub fn write(&mut self, id: Id, offset: usize, bytes: &[u8]) {
        let data = self.data_mut(id);
        if data.len() < offset + bytes.len() {
            data.resize(offset + bytes.len(), 0);
        }
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn truncate(&mut self, id: Id, size: usize) {
        self.data_mut(id).resize(size, 0);
    }

    pub fn zero(&mut self, id: Id, offset: usize, len: usize) {
        let data = self.data_mut(id);
        let end = (offset + len).min(data.len());
        if offset < end {
            data[offset..end].fill(0);
        }
    }

    /// Names in order, with kinds.
    pub fn list(&self, dir: Id) -> Vec<(Vec<u8>, Kind)> {
        let kind = |id: &Id| match self.at(*id).body {
            Body::Dir(_) => Kind::Dir,
            Body::File(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
            Body::Fifo => Kind::Fifo,
        };
        let entries = self.entries(dir).unwrap();
        entries
            .iter()
            .map(|(name, id)| (name.clone(), kind(id)))
            .collect()
    }

    pub fn nlink(&self, id: Id) -> u64 {
        match &self.at(id).body {
            Body::Dir(entries) => 2 + entries.values().filter(|child| self.is_dir(**child)).count() as u64,
            _ => self.at(id).nlink,
        }
    }

    // ---- as a tree of the volume ----

    /// What a commit of all this publishes.
    pub fn to_tree(&self, source: &TestSource) -> TreeRoot {
        let mut links: HashMap<LinkId, LinkInode> = HashMap::new();
        let page = self.page(ROOT, source, &mut links);
        let totals = recount_page(&page);
        let bytes = links
            .values()
            .map(|inode| match inode.entry.body {
                EntryBody::File { size, .. } => size,
                _ => 0,
            })
            .sum();
        TreeRoot {
            attrs: self.attrs(ROOT),
            totals,
            tree: DirTree::Inline(page.into()),
            links: LinksTree {
                stored: None,
                count: links.len() as u64,
                bytes,
                edits: links.into_iter().map(|(id, inode)| (id, Some(inode))).collect(),
            },
        }
    }

    fn page(&self, dir: Id, source: &TestSource, links: &mut HashMap<LinkId, LinkInode>) -> DirPage {
        let mut page = DirPage::default();
        for (name, id) in self.entries(dir).unwrap() {
            let mut entry = Entry {
                attrs: self.attrs(*id),
                body: match &self.at(*id).body {
                    Body::Dir(_) => {
                        let page = self.page(*id, source, links);
                        EntryBody::Dir {
                            totals: recount_page(&page),
                            tree: DirTree::Inline(page.into()),
                        }
                    }
                    Body::File(data) => EntryBody::File {
                        size: data.len() as u64,
                        content: source.content(data),
                    },
                    Body::Symlink(target) => EntryBody::Symlink {
                        target: target.as_slice().into(),
                    },
                    Body::Fifo => EntryBody::Fifo,
                },
            };
            if let Some(link) = self.at(*id).link {
                let inode = LinkInode {
                    nlink: self.at(*id).nlink,
                    entry,
                };
                links.insert(link, inode);
                entry = Entry {
                    attrs: Attrs::default(),
                    body: EntryBody::HardLink(link),
                };
            }
            page.entries.push((Name::new(name).unwrap(), entry));
        }
        page
    }

    fn attrs(&self, id: Id) -> Attrs {
        let inode = self.at(id);
        let xattrs = inode
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_slice().into(), value.as_slice().into()));
        Attrs {
            mode: inode.mode,
            uid: 0,
            gid: 0,
            mtime: inode.mtime,
            ctime: inode.ctime,
            file_id: inode.file_id,
            xattrs: Xattrs::from_map(xattrs.collect()),
        }
    }
}
