//! A view with its surroundings, and the model beside it.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;

use super::model::{Fs, Id, ROOT, Res};
use super::programs::Rng;
use super::side::Side;
use super::source::{TestClock, TestSource};
use crate::model::{Hash, TreeRoot, VolumeId};
use crate::overlay::{BaseRef, FileState, Found, Overlay, OverlayOptions, OverlayState};
use crate::view::space::{Ask, Child};
use crate::view::{
    Caller, Clock, FrozenView, Ino, OpenFlags, ROOT_INO, View, ViewError, ViewOptions, ViewParts,
};

pub const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};

/// Runs an operation that has nothing to wait for but the memory source.
pub fn run<T>(operation: impl Future<Output = T>) -> T {
    futures::executor::block_on(operation)
}

/// Runs an operation that must not wait for anything.
pub fn at_once<T>(operation: impl Future<Output = T>) -> T {
    operation
        .now_or_never()
        .expect("an operation on what is here waited")
}

pub fn errno<T>(result: Result<T, ViewError>) -> Res<T> {
    result.map_err(|error| {
        assert!(
            !matches!(error, ViewError::Local { .. } | ViewError::Tree(_)),
            "trouble below: {error}"
        );
        error.errno()
    })
}

/// An open file in both worlds.
#[derive(Clone, Debug)]
pub struct Handle {
    pub fh: u64,
    pub ino: Ino,
    pub id: Id,
    pub flags: OpenFlags,
}

/// A mount without a kernel.
pub struct World {
    pub side: Side,
    pub source: Arc<TestSource>,
    pub dir: tempfile::TempDir,
    pub overlay: Option<Arc<Overlay>>,
    /// What the base holds.
    pub base_fs: Fs,
    pub base: TreeRoot,
    pub seq: u64,
    pub frozen: Option<(FrozenView, Fs)>,
    pub next_file_id: u64,
}

impl Deref for World {
    type Target = Side;

    fn deref(&self) -> &Side {
        &self.side
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Side {
        &mut self.side
    }
}

impl World {
    /// A mount of a volume that holds `fs`.
    pub fn new(build: impl FnOnce(&mut Fs)) -> World {
        let clock = Arc::new(TestClock::default());
        let source = Arc::new(TestSource::default());
        let mut fs = Fs::new(clock.now());
        build(&mut fs);
        let mut next_file_id = 1000;
        number(&mut fs, &mut next_file_id);
        let base = run(source.store(&fs.to_tree(&source)));
        let mut world = World {
            source,
            dir: tempfile::tempdir().unwrap(),
            overlay: None,
            base_fs: fs.clone(),
            side: Side::new(fs, clock),
            base,
            seq: 1,
            frozen: None,
            next_file_id,
        };
        world.mount();
        world
    }

    pub fn base_ref(&self) -> BaseRef {
        BaseRef {
            seq: self.seq,
            record: Hash([self.seq as u8; 32]),
            prepared: None,
            sources: vec![self.seq],
        }
    }

    pub fn mount(&mut self) {
        let overlay = open_overlay(self.dir.path(), self.base_ref(), &self.base);
        let options = ViewOptions {
            read_only: false,
            first_file_id: 1 << 40 | self.next_file_id << 16,
            quota_bytes: 0,
            shown_owner: Default::default(),
        };
        self.next_file_id += 1;
        let parts = ViewParts {
            source: self.source.clone(),
            room: None,
            clock: self.clock.clone(),
        };
        let view = View::new(options, overlay.clone(), self.base.clone(), parts);
        self.view = Some(Arc::new(view));
        self.overlay = Some(overlay);
        self.source.cool();
    }

    /// The daemon is gone: after a clean stop, or killed.
    pub fn stop(&mut self, clean: bool) {
        self.view().settle().unwrap();
        if clean {
            for handle in std::mem::take(&mut self.handles) {
                self.view().release(handle.ino, handle.fh);
            }
            for listing in std::mem::take(&mut self.listings) {
                self.view().releasedir(listing.ino, listing.fh);
            }
        }
        self.handles.clear();
        self.listings.clear();
        self.held.clear();
        self.frozen = None;
        self.view = None;
        let overlay = self.overlay.take().unwrap();
        if clean {
            overlay.close().unwrap();
        }
        last(overlay);
    }

    pub fn step(&mut self, rng: &mut Rng) {
        self.tick();
        let dice = rng.below(100);
        match dice {
            0..92 => run(self.side.step(rng, dice)),
            92..95 => self.source.cool(),
            95 => self.freeze(),
            96 => self.publish(),
            97 => self.unfreeze(),
            98 => self.step_remount(rng),
            _ => self.step_reload(rng),
        }
    }

    pub fn walk(&mut self, path: &[&[u8]]) -> Res<Ino> {
        run(self.side.walk(path))
    }

    pub fn check(&mut self) {
        run(self.side.check());
    }

    pub fn read_all(&self, ino: Ino) -> Vec<u8> {
        run(self.side.read_all(ino))
    }

    // ---- commit and reload ----

    /// Numbers and link ids that the view drew.
    pub fn learn_numbers(&mut self) {
        let view = self.view();
        let mut todo = vec![(ROOT_INO, ROOT)];
        let mut held = Vec::new();
        while let Some((ino, id)) = todo.pop() {
            let super::model::Body::Dir(entries) = self.fs.at(id).body.clone() else {
                continue;
            };
            for (name, child_id) in entries {
                let (file_id, link) = run(view.look(|src, look| {
                    Ok(match look.child(src, ino, &name)?.unwrap() {
                        Child::Node(id) => {
                            let node = look.node(id)?;
                            (node.attrs.file_id, node.link)
                        }
                        Child::Clean(entry) => (entry.attrs.file_id, None),
                        Child::Link(link, inode) => (inode.entry.attrs.file_id, Some(link)),
                    })
                }))
                .unwrap();
                let inode = self.fs.at_mut(child_id);
                inode.file_id = file_id;
                inode.link = link;
                if self.fs.is_dir(child_id) {
                    let known = run(view.lookup(&CALLER, ino, &name)).unwrap().unwrap();
                    held.push(known.ino);
                    todo.push((known.ino, child_id));
                }
            }
        }
        for ino in held.into_iter().rev() {
            view.forget(ino, 1);
        }
    }

    pub fn freeze(&mut self) {
        if self.frozen.is_none() {
            self.learn_numbers();
            let frozen = self.view().freeze().unwrap();
            self.frozen = Some((frozen, self.fs.clone()));
        }
    }

    /// Reads every frozen file as a commit does and compares it with the model of the freeze. Files that were open for
    /// writing are published as they are read.
    pub fn check_frozen(&mut self) -> Vec<(u64, u64, crate::model::Content)> {
        let (frozen, fs) = self.frozen.clone().unwrap();
        let view = self.view();
        let open: HashSet<u64> = frozen.open_for_write.iter().map(|open| open.node).collect();
        let mut contents = Vec::new();
        for (id, node) in &frozen.state.nodes {
            let Some(file) = node.body.as_file() else { continue };
            if node.nlink == 0 || file.body.is_none() {
                continue;
            }
            if !file.dirty {
                self.check_clean_body(&frozen, *id, file);
                continue;
            }
            let size = view.frozen_size(&frozen, *id).unwrap();
            let bytes = run(view.read_frozen(&frozen, *id, 0, size as usize)).unwrap();
            if !open.contains(id) {
                let model = fs
                    .inodes
                    .values()
                    .find(|inode| inode.file_id == node.attrs.file_id);
                let super::model::Body::File(data) = &model.unwrap().body else {
                    panic!("no file")
                };
                assert!(
                    bytes == data.as_slice(),
                    "frozen file {id} is not what it was at the freeze"
                );
            }
            contents.push((*id, size, self.source.content(&bytes)));
        }
        contents
    }

    /// A body that a commit leaves out must hold what the base says.
    fn check_clean_body(&self, frozen: &FrozenView, id: u64, file: &FileState) {
        let (size, content) = file.base.as_ref().expect("a clean body is that of a base");
        let bytes = run(self.view().read_frozen(frozen, id, 0, *size as usize)).unwrap();
        assert_eq!(self.view().frozen_size(frozen, id).unwrap(), *size);
        assert!(
            bytes == self.source.all(content).as_slice(),
            "file {id} was written, and no commit would know"
        );
    }

    pub fn publish(&mut self) {
        if self.frozen.is_none() {
            return;
        }
        let contents = self.check_frozen();
        let (frozen, mut fs) = self.frozen.take().unwrap();
        // What was open for writing is published as it was read.
        for (node, _, content) in &contents {
            let file_id = frozen.state.node(*node).unwrap().attrs.file_id;
            let inode = fs
                .inodes
                .values_mut()
                .find(|inode| inode.file_id == file_id)
                .unwrap();
            if let super::model::Body::File(data) = &mut inode.body {
                *data = self.source.all(content);
            }
        }
        let tree = fs.to_tree(&self.source);
        self.seq += 1;
        self.base_fs = fs;
        self.base = tree.clone();
        let freed = self
            .view()
            .published(frozen.commit, self.base_ref(), tree, contents)
            .unwrap();
        drop(freed);
    }

    pub fn unfreeze(&mut self) {
        if let Some((frozen, _)) = self.frozen.take() {
            drop(self.view().unfreeze(frozen.commit).unwrap());
        }
    }

    /// Others publish; the view moves there and drops what is local.
    pub fn reload(&mut self, change: impl FnOnce(&mut Fs)) {
        self.unfreeze();
        let mut fs = self.base_fs.clone();
        fs.now = self.clock.now();
        change(&mut fs);
        number(&mut fs, &mut self.next_file_id);
        self.seq += 1;
        let base = run(self.source.store(&fs.to_tree(&self.source)));
        let base_ref = self.base_ref();
        let attrs = base.attrs.clone();
        self.view().settle().unwrap();
        self.view()
            .reload(base.clone(), |overlay, _| {
                let state = OverlayState::succeeding(&overlay.read(), base_ref, attrs);
                overlay.replace(state, None).map_err(ViewError::from)
            })
            .unwrap();
        self.base = base;
        self.base_fs = fs.clone();
        // Handles read on what they opened. What the path leads to is still the same file if it has the same content;
        // else the handle is the last that knows it.
        let view = self.view();
        let side = &mut self.side;
        for handle in &mut side.handles {
            let old = side.fs.at(handle.id).clone();
            let attr = run(view.getattr(&CALLER, handle.ino, None)).unwrap();
            // By its place; hard links, which have none, by what they are.
            let path = view.path_of(handle.ino).filter(|_| attr.nlink > 0);
            let of_path = path.and_then(|path| {
                let path: Vec<&[u8]> = path.0.iter().map(|name| name.as_bytes()).collect();
                fs.walk(&path).ok()
            });
            let of_link = || {
                let mut inodes = fs.inodes.iter();
                let same = |inode: &super::model::Inode| inode.link.is_some() && inode.body == old.body;
                inodes.find_map(|(id, inode)| (attr.nlink > 0 && same(inode)).then_some(*id))
            };
            if let Some(id) = of_path.or_else(of_link) {
                assert!(fs.at(id).body == old.body, "an open file has become another");
                handle.id = id;
                continue;
            }
            assert_eq!(
                attr.nlink, 0,
                "an open file has a name that the model does not know"
            );
            let id = fs.next;
            fs.next += 1;
            fs.inodes.insert(id, old);
            handle.id = id;
        }
        side.fs = fs;
        run(side.listings_moved());
        self.source.cool();
    }
}

/// Drops an overlay for good: its own thread may hold it for a moment.
pub fn last(overlay: Arc<Overlay>) {
    while Arc::strong_count(&overlay) > 1 {
        std::thread::yield_now();
    }
}

/// Gives numbers to what others made.
fn number(fs: &mut Fs, next: &mut u64) {
    for inode in fs.inodes.values_mut() {
        if inode.file_id.0 == 0 {
            inode.file_id.0 = *next;
            *next += 1;
        }
    }
}

pub fn open_overlay(dir: &Path, base: BaseRef, tree: &TreeRoot) -> Arc<Overlay> {
    let options = OverlayOptions {
        // Bodies are closed and opened again all the time.
        bodies_open: 1,
        handles_open: 1,
        ..OverlayOptions::new(dir.join("state"), VolumeId([7; 16]), "test")
    };
    match Overlay::open(options).unwrap() {
        Found::Overlay(opened) => opened.overlay,
        Found::Empty(empty) => empty.begin(base, tree.attrs.clone()).unwrap(),
    }
}

/// A question over the namespace, for looking behind the answers.
pub(super) fn peek<T>(view: &View, question: impl Fn(&crate::view::space::Look<'_>) -> Result<T, Ask>) -> T {
    match view.with_look(|look| question(&look)) {
        Ok(answer) => answer,
        Err(ask) => panic!("{ask:?}"),
    }
}
