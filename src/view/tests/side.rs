//! The view and the model, side by side: what a process does to one it does to the other, and both must look the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::harness::{CALLER, Handle, errno};
use super::listings::Listing;
use super::model::{Fs, Id, ROOT, Res};
use super::programs::{NAMES, Rng};
use super::source::TestClock;
use crate::model::Kind;
use crate::view::{Attr, Clock, Ino, OpenFlags, ROOT_INO, View};

/// A process that works in a view.
pub struct Side {
    pub view: Option<Arc<View>>,
    pub fs: Fs,
    pub clock: Arc<TestClock>,
    pub handles: Vec<Handle>,
    /// Directories that are being listed.
    pub listings: Vec<Listing>,
    /// References that the "kernel" has.
    pub held: Vec<Ino>,
    /// The directory below which it works; it stays where it is.
    pub top: Vec<&'static [u8]>,
    /// Files of several frames too.
    pub large: bool,
    /// Tell every step.
    pub logging: bool,
}

impl Side {
    pub fn new(fs: Fs, clock: Arc<TestClock>) -> Side {
        Side {
            view: None,
            fs,
            clock,
            handles: Vec::new(),
            listings: Vec::new(),
            held: Vec::new(),
            top: Vec::new(),
            large: true,
            logging: std::env::var("SAILVOL_LOG").is_ok(),
        }
    }

    pub fn view(&self) -> Arc<View> {
        self.view.clone().unwrap()
    }

    /// A path to work on.
    pub fn path(&self, rng: &mut Rng) -> Vec<&'static [u8]> {
        let len = 1 + rng.below(3);
        let below = (0..len).map(|_| NAMES[rng.below(NAMES.len())]);
        self.top.iter().copied().chain(below).collect()
    }

    pub fn tick(&mut self) {
        self.clock.tick();
        self.fs.now = self.clock.now();
    }

    // ---- paths ----

    /// A path as the kernel walks it.
    pub async fn walk(&mut self, path: &[&[u8]]) -> Res<Ino> {
        let mut at = ROOT_INO;
        for name in path {
            match errno(self.view().lookup(&CALLER, at, name).await)? {
                Some(known) => {
                    self.held.push(known.ino);
                    at = known.ino;
                }
                None => return Err(libc::ENOENT),
            }
        }
        Ok(at)
    }

    /// The directory of a path, and its last name.
    pub async fn dir_of<'a>(&mut self, path: &[&'a [u8]]) -> (Res<Ino>, Res<Id>, &'a [u8]) {
        let (last, dir) = path.split_last().unwrap();
        let ino = self.walk(dir).await;
        let id = self.fs.walk(dir);
        assert_eq!(ino.is_ok(), id.is_ok(), "walk {path:?}: {ino:?} {id:?}");
        (ino, id, last)
    }

    /// The kernel's memory is short.
    pub fn forget_all(&mut self) {
        if self.handles.is_empty() && self.listings.is_empty() {
            for ino in self.held.drain(..).rev() {
                self.view.as_ref().unwrap().forget(ino, 1);
            }
        }
    }

    /// Closes what is open, and the kernel forgets.
    pub fn release_all(&mut self) {
        for handle in std::mem::take(&mut self.handles) {
            self.view().release(handle.ino, handle.fh);
        }
        for listing in std::mem::take(&mut self.listings) {
            self.view().releasedir(listing.ino, listing.fh);
        }
        self.forget_all();
    }

    // ---- comparison ----

    /// Everything that can be seen is as the model says.
    pub async fn check(&mut self) {
        let view = self.view();
        view.space.read().inodes.check();
        let mut todo = vec![(ROOT_INO, ROOT, String::new())];
        let mut held = Vec::new();
        let mut seen: BTreeMap<Id, Ino> = BTreeMap::new();
        let mut numbers: BTreeMap<u64, Id> = BTreeMap::new();
        while let Some((ino, id, path)) = todo.pop() {
            let attr = view.getattr(&CALLER, ino, None).await.unwrap();
            self.same_attr(&attr, id, &path);
            let open = view.opendir(&CALLER, ino).await.unwrap();
            let mut lines = Vec::new();
            let mut cookie = 0;
            loop {
                let some = view.readdirplus(ino, open.fh, cookie, 700).await;
                let some = some.unwrap_or_else(|error| panic!("listing {path}: {error}"));
                let Some(last) = some.last() else { break };
                cookie = last.item.cookie;
                lines.extend(some);
            }
            let plain = self.list_plain(ino).await;
            view.releasedir(ino, open.fh);
            assert_eq!(
                (&*lines[0].item.name, &*lines[1].item.name),
                (&b"."[..], &b".."[..])
            );
            let names: Vec<(Vec<u8>, Kind)> = lines[2..]
                .iter()
                .map(|line| (line.item.name.to_vec(), line.item.kind))
                .collect();
            assert_eq!(names, self.fs.list(id), "listing of {path}");
            assert_eq!(names, plain, "plain listing of {path}");
            for line in &lines[2..] {
                let name = &line.item.name;
                let child = self.fs.lookup(id, name).unwrap();
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                let known = line
                    .known
                    .unwrap_or_else(|| panic!("{path} has no attributes in the listing"));
                held.push(known.ino);
                assert_eq!(line.item.ino, known.attr.ino, "d_ino of {path}");
                self.same_attr(&known.attr, child, &path);
                // One number for one inode, however many names lead to it.
                assert_eq!(
                    *seen.entry(child).or_insert(known.ino),
                    known.ino,
                    "{path} has two numbers"
                );
                assert_eq!(
                    *numbers.entry(known.attr.ino).or_insert(child),
                    child,
                    "st_ino of {path} is another's"
                );
                match &self.fs.at(child).body {
                    super::model::Body::Dir(_) => todo.push((known.ino, child, path.clone())),
                    super::model::Body::File(data) => {
                        assert!(self.read_all(known.ino).await == *data, "content of {path}");
                    }
                    super::model::Body::Symlink(target) => {
                        assert_eq!(
                            view.readlink(&CALLER, known.ino).await.unwrap(),
                            target.as_slice()
                        );
                    }
                    super::model::Body::Fifo => {}
                }
                let list = view.listxattr(&CALLER, known.ino).await.unwrap();
                let mut model = Vec::new();
                for (name, value) in &self.fs.at(child).xattrs {
                    model.extend_from_slice(name);
                    model.push(0);
                    assert_eq!(
                        view.getxattr(&CALLER, known.ino, name).await.unwrap(),
                        value.as_slice()
                    );
                }
                assert_eq!(list, model, "xattrs of {path}");
            }
        }
        for ino in held.into_iter().rev() {
            view.forget(ino, 1);
        }
        for handle in self.handles.clone() {
            if handle.flags.read {
                let data = self.fs.data(handle.id).clone();
                let read = view
                    .read(handle.ino, handle.fh, 0, data.len() + 10)
                    .await
                    .unwrap();
                assert!(read == data.as_slice(), "content of open file {}", handle.id);
            }
        }
    }

    async fn list_plain(&self, ino: Ino) -> Vec<(Vec<u8>, Kind)> {
        let view = self.view();
        let open = view.opendir(&CALLER, ino).await.unwrap();
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let some = view.readdir(ino, open.fh, cookie, 100).await.unwrap();
            let Some(last) = some.last() else { break };
            cookie = last.cookie;
            names.extend(some.iter().map(|line| (line.name.to_vec(), line.kind)));
        }
        view.releasedir(ino, open.fh);
        names.split_off(2)
    }

    fn same_attr(&self, attr: &Attr, id: Id, path: &str) {
        let inode = self.fs.at(id);
        let size = match &inode.body {
            super::model::Body::File(data) => data.len() as u64,
            super::model::Body::Symlink(target) => target.len() as u64,
            super::model::Body::Dir(_) => attr.size,
            super::model::Body::Fifo => 0,
        };
        assert_eq!(
            (
                attr.mode,
                attr.size,
                u64::from(attr.nlink),
                attr.mtime,
                attr.ctime
            ),
            (inode.mode, size, self.fs.nlink(id), inode.mtime, inode.ctime),
            "mode, size, nlink, mtime, ctime of {path}"
        );
    }

    pub async fn read_all(&self, ino: Ino) -> Vec<u8> {
        let view = self.view();
        let flags = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let open = view.open(&CALLER, ino, flags).await.unwrap();
        let mut all = Vec::new();
        loop {
            let some = view.read(ino, open.fh, all.len() as u64, 100_000).await.unwrap();
            if some.is_empty() {
                break;
            }
            all.extend_from_slice(&some);
        }
        view.release(ino, open.fh);
        all
    }
}
