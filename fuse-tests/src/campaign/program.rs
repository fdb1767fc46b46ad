//! Workers: random programs on a directory of a mount, each beside a model of what it must hold.
//!
//! A worker writes down what it is about to do, makes one system call, and writes down that it was completed. So after a
//! kill it is known which calls had returned, and which one was under way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::random::Random;
use super::tree::{FileId, Node, Step, Tree};

/// Versions of a file without an fsync that are kept: each is a copy.
const VERSIONS_MAX: usize = 10;
/// Files in one worker's directory, about.
const FILES_MAX: usize = 40;
/// Handles that a worker keeps open.
const HANDLES_MAX: usize = 4;
/// Longest file, bytes: over 4 MiB it is stored in chunks.
const FILE_BYTES_MAX: usize = 12 << 20;

/// What a commit may have caught of one worker.
#[derive(Clone, Debug, Default)]
pub struct Caught {
    /// Every tree from the beginning of the commit to its end, oldest first.
    pub trees: Vec<Tree>,
    /// Files that were open for writing meanwhile: their bytes in the record may be of any moment.
    pub open: BTreeSet<FileId>,
}

impl Caught {
    /// Whether a directory of a record is one of the trees.
    ///
    /// # Errors
    /// How it differs from the newest of them.
    pub fn check(&self, found: &Tree) -> Result<(), String> {
        let mut said = String::from("no tree to compare with");
        for tree in &self.trees {
            let open =
                |path: &Path| matches!(tree.names.get(path), Some(Node::File(id)) if self.open.contains(id));
            match tree.difference(found, &open) {
                None => return Ok(()),
                Some(difference) => said = difference,
            }
        }
        Err(format!(
            "none of {} moments fits; of the last: {said}",
            self.trees.len()
        ))
    }
}

/// What must survive a power cut.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    /// Calls of fsync that have returned.
    pub count: u64,
    /// Bytes of files since their last fsync that had returned, that version included; of the others since they were made.
    pub history: BTreeMap<FileId, Vec<Arc<Vec<u8>>>>,
    /// Since the last fsync of any file, oldest first.
    pub moments: Vec<DurableMoment>,
    /// What was done, one line a step; told when something is lost.
    pub trail: Vec<String>,
    floors: Floors,
    /// Files with bytes that were rewritten and closed since the last fsync of any file.
    rewritten: Floors,
}

/// Of files whose bytes must be whole: the first version in [`Durable::history`] that they may be of.
pub type Floors = BTreeMap<FileId, usize>;

/// A tree, and what of its bytes must be there if its names are.
#[derive(Clone, Debug, Default)]
pub struct DurableMoment {
    /// Names and bytes.
    pub tree: Tree,
    /// The others may have lost any bytes.
    pub floors: Floors,
}

impl Durable {
    fn begin(tree: &Tree) -> Durable {
        let history = |(id, file): (&FileId, &super::tree::File)| (*id, vec![file.bytes.clone()]);
        let floors: Floors = tree.files.keys().map(|id| (*id, 0)).collect();
        Durable {
            history: tree.files.iter().map(history).collect(),
            moments: vec![DurableMoment {
                tree: tree.clone(),
                floors: floors.clone(),
            }],
            floors,
            ..Durable::default()
        }
    }

    /// The step changed the tree.
    pub fn changed(&mut self, step: &Step, before: &Tree, tree: &Tree) {
        self.trail.push(step.told());
        let (Step::Create { file, .. }
        | Step::Write { file, .. }
        | Step::Truncate { file, .. }
        | Step::Rewrite { file, .. }) = step
        else {
            self.replaced(step, before);
            return self.moment(tree);
        };
        if let Some(now) = tree.files.get(file) {
            let versions = self.history.entry(*file).or_default();
            if matches!(step, Step::Rewrite { .. }) {
                // Where the kernel has the file open still, it is cut in place, and empty until the next sync, as on ext4 (J9b).
                versions.push(Arc::default());
            }
            versions.push(now.bytes.clone());
            // An empty file that is written is a new one: it has bytes that survive once it is synced itself.
            let had_bytes = before.files.get(file).is_some_and(|file| !file.bytes.is_empty());
            if matches!(step, Step::Rewrite { .. }) && had_bytes {
                self.rewritten.insert(*file, versions.len() - 1);
            }
        }
        self.moment(tree);
    }

    /// A file that takes the place of another one is whole there, without any fsync.
    fn replaced(&mut self, step: &Step, before: &Tree) {
        let Step::Rename { from, to } = step else { return };
        if let (Some(Node::File(moved)), Some(target)) = (before.names.get(from), before.names.get(to))
            && *target != Node::File(*moved)
        {
            let versions = self.history.get(moved).map_or(0, Vec::len);
            self.floors.insert(*moved, versions.saturating_sub(1));
        }
    }

    fn moment(&mut self, tree: &Tree) {
        self.moments.push(DurableMoment {
            tree: tree.clone(),
            floors: self.floors.clone(),
        });
    }

    /// An fsync has returned, of this file or of a directory. Nothing was changed while it ran.
    fn synced(&mut self, file: Option<FileId>, tree: &Tree) {
        self.count += 1;
        self.trail.push(match file {
            Some(file) => format!("fsync of file {file}"),
            None => "fsync of a directory".into(),
        });
        for (id, version) in std::mem::take(&mut self.rewritten) {
            let floor = self.floors.entry(id).or_insert(version);
            *floor = version.max(*floor);
        }
        if let Some(id) = file
            && let Some(now) = tree.files.get(&id)
        {
            self.floors.insert(id, 0);
            self.history.insert(id, vec![now.bytes.clone()]);
        }
        self.moments.clear();
        self.moment(tree);
    }
}

/// What others may know of a worker while it runs.
#[derive(Debug, Default)]
pub struct Track {
    /// Set where power may be cut.
    pub durable: Option<Durable>,
    /// What was completed.
    pub tree: Tree,
    /// What is under way.
    pub under_way: Option<Step>,
    /// Set while a commit runs.
    caught: Option<Caught>,
    open: BTreeSet<FileId>,
    /// Calls completed.
    pub calls: u64,
}

impl Track {
    fn done(&mut self) {
        if let Some(step) = self.under_way.take() {
            let before = self.durable.is_some().then(|| self.tree.clone());
            self.tree.apply(&step);
            if let (Some(durable), Some(before)) = (&mut self.durable, before) {
                durable.changed(&step, &before, &self.tree);
            }
            if let Some(caught) = &mut self.caught {
                caught.trees.push(self.tree.clone());
                caught.open.extend(&self.open);
            }
        }
        self.calls += 1;
    }
}

/// A worker; lives longer than the mount that it works on.
#[derive(Debug)]
pub struct Worker {
    random: Random,
    track: Arc<Mutex<Track>>,
    handles: BTreeMap<FileId, fs::File>,
    next_file: FileId,
}

impl Worker {
    /// In an empty directory.
    pub fn new(seed: u64) -> Worker {
        Worker {
            random: Random::new(seed),
            track: Arc::default(),
            handles: BTreeMap::new(),
            next_file: 1,
        }
    }

    /// What others may know.
    pub fn track(&self) -> Arc<Mutex<Track>> {
        self.track.clone()
    }

    /// Works until told to stop, or until the mount is gone; gives the error then.
    pub fn work(&mut self, root: &Path, stop: &AtomicBool) -> Option<io::Error> {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.call(root) {
                self.handles.clear();
                return Some(error);
            }
        }
        None
    }

    /// Makes a number of calls, which must all succeed.
    ///
    /// # Errors
    /// The first that does not.
    pub fn calls(&mut self, root: &Path, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.call(root))
    }

    /// Makes a number of calls, of which any may fail in one of the expected ways: then nothing is lost, and the call
    /// itself is done, or not, or (a write) done in part. Gives how many failed. `read` tells what is there.
    ///
    /// # Errors
    /// What is lost; a failure that was not expected.
    pub fn calls_with_errors(
        &mut self,
        root: &Path,
        count: usize,
        expected: &[i32],
        read: impl Fn(&Path) -> io::Result<Tree>,
    ) -> Result<u64, String> {
        let mut failed = 0;
        for _ in 0..count {
            let Err(error) = self.call(root) else { continue };
            if !error.raw_os_error().is_some_and(|code| expected.contains(&code)) {
                return Err(format!("{error}, of {:?}", self.track.lock().under_way));
            }
            failed += 1;
            let found = read(root).map_err(|e| format!("after {error}: {e}"))?;
            let mut track = self.track.lock();
            let under_way = track.under_way.take();
            track.tree = track.tree.after_crash(under_way.as_ref(), &found)?;
        }
        Ok(failed)
    }

    /// Makes a file with these bytes.
    ///
    /// # Errors
    /// What the mount says.
    pub fn put(&mut self, root: &Path, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let (path, file) = (PathBuf::from(name), self.next_file);
        self.next_file += 1;
        let at = root.join(name);
        let handle = self.step(Step::Create { path, file }, |_| fs::File::create_new(at))?;
        let bytes = Arc::new(bytes);
        let given = bytes.clone();
        let offset = 0;
        self.step(Step::Write { file, offset, bytes }, |_| {
            handle.write_all_at(&given, 0)
        })
    }

    /// Closes everything.
    pub fn close(&mut self) {
        self.handles.clear();
        let mut track = self.track.lock();
        track.open.clear();
        track.tree.forget_nameless();
    }

    /// After a crash: compares what is there with what was completed, and goes on from there.
    ///
    /// # Errors
    /// What is lost or wrong.
    pub fn recover(&mut self, root: &Path) -> Result<(), String> {
        self.close();
        let found = Tree::read(root).map_err(|e| format!("{}: {e}", root.display()))?;
        let mut track = self.track.lock();
        let under_way = track.under_way.take();
        let mut tree = track.tree.after_crash(under_way.as_ref(), &found)?;
        tree.forget_nameless();
        track.tree = tree;
        Ok(())
    }

    /// One call.
    fn call(&mut self, root: &Path) -> io::Result<()> {
        let choice = self.random.range(0..100);
        match choice {
            0..22 => self.write(),
            22..26 => self.rewrite(root),
            26..30 => self.replace(root),
            30..45 => self.create(root),
            45..55 => self.open(root),
            55..62 => self.close_one(),
            62..66 => self.truncate(),
            66..70 => self.fsync(root),
            70..75 => self.mkdir(root),
            75..82 => self.remove(root),
            82..90 => self.rename(root),
            90..93 => self.link(root),
            93..96 => self.symlink(root),
            _ => self.chmod(root),
        }
    }

    /// Writes down what is to be done, does it, writes down that it is done.
    fn step<T>(&mut self, step: Step, act: impl FnOnce(&Worker) -> io::Result<T>) -> io::Result<T> {
        self.track.lock().under_way = Some(step);
        let given = act(self)?;
        self.track.lock().done();
        Ok(given)
    }

    fn paths(&self, wanted: impl Fn(&Node) -> bool) -> Vec<PathBuf> {
        let track = self.track.lock();
        let fitting = track.tree.names.iter().filter(|(_, node)| wanted(node));
        fitting.map(|(path, _)| path.clone()).collect()
    }

    fn any_file(&mut self) -> Option<(PathBuf, FileId)> {
        let files = self.paths(|node| matches!(node, Node::File(_)));
        let path = self.random.pick(&files)?.clone();
        match self.track.lock().tree.names.get(&path) {
            Some(Node::File(id)) => Some((path, *id)),
            _ => None,
        }
    }

    /// A name that is not taken, in any directory.
    fn new_path(&mut self) -> PathBuf {
        let dirs = self.paths(|node| *node == Node::Dir);
        let dir = match self.random.chance(40) {
            true => PathBuf::new(),
            false => self.random.pick(&dirs).cloned().unwrap_or_default(),
        };
        loop {
            let path = dir.join(format!("n{}", self.random.range(0..1_000_000)));
            if !self.track.lock().tree.names.contains_key(&path) {
                return path;
            }
        }
    }

    fn keep(&mut self, id: FileId, handle: fs::File) {
        while self.handles.len() >= HANDLES_MAX {
            self.handles.pop_first();
        }
        self.handles.insert(id, handle);
        let mut track = self.track.lock();
        track.open = self.handles.keys().copied().collect();
        let open = track.open.clone();
        if let Some(caught) = &mut track.caught {
            caught.open.extend(open);
        }
    }

    fn create(&mut self, root: &Path) -> io::Result<()> {
        if self.paths(|node| matches!(node, Node::File(_))).len() >= FILES_MAX {
            return self.remove(root);
        }
        let (path, file) = (self.new_path(), self.next_file);
        self.next_file += 1;
        // From here on it may be caught while it can be written.
        self.mark_open(file);
        let at = root.join(&path);
        let handle = self.step(Step::Create { path, file }, |_| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).open(at)
        })?;
        self.keep(file, handle);
        self.write_to(file)
    }

    fn mark_open(&self, file: FileId) {
        let mut track = self.track.lock();
        track.open.insert(file);
        if let Some(caught) = &mut track.caught {
            caught.open.insert(file);
        }
    }

    fn open(&mut self, root: &Path) -> io::Result<()> {
        let Some((path, file)) = self.any_file() else {
            return Ok(());
        };
        self.mark_open(file);
        let cut = self.random.chance(25);
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(cut);
        let at = root.join(path);
        let handle = match cut {
            true => self.step(Step::Truncate { file, len: 0 }, |_| options.open(at))?,
            false => options.open(at)?,
        };
        self.keep(file, handle);
        Ok(())
    }

    /// Rewrites a file that the worker has not open, from nothing on.
    fn rewrite(&mut self, root: &Path) -> io::Result<()> {
        let Some((path, file)) = self.any_file() else {
            return Ok(());
        };
        if self.handles.contains_key(&file) {
            return Ok(());
        }
        let len = self.random.range(1..200_000) as usize;
        let bytes = Arc::new(self.random.bytes(len));
        let (at, given) = (root.join(path), bytes.clone());
        self.mark_open(file);
        self.step(Step::Rewrite { file, bytes }, |_| {
            let handle = OpenOptions::new().write(true).truncate(true).open(at)?;
            handle.write_all_at(&given, 0)
        })?;
        self.track.lock().open.remove(&file);
        Ok(())
    }

    /// Writes a new file and renames it over another one.
    fn replace(&mut self, root: &Path) -> io::Result<()> {
        let Some((to, _)) = self.any_file() else {
            return Ok(());
        };
        let (from, file) = (self.new_path(), self.next_file);
        self.next_file += 1;
        self.mark_open(file);
        let (at, path) = (root.join(&from), from.clone());
        let handle = self.step(Step::Create { path, file }, |_| fs::File::create_new(at))?;
        let len = self.random.range(1..200_000) as usize;
        let bytes = Arc::new(self.random.bytes(len));
        let given = bytes.clone();
        let offset = 0;
        self.step(Step::Write { file, offset, bytes }, |_| {
            handle.write_all_at(&given, 0)
        })?;
        drop(handle);
        self.track.lock().open.remove(&file);
        let (old, new) = (root.join(&from), root.join(&to));
        self.step(Step::Rename { from, to }, |_| fs::rename(old, new))
    }

    fn write(&mut self) -> io::Result<()> {
        let open: Vec<FileId> = self.handles.keys().copied().collect();
        match self.random.pick(&open).copied() {
            Some(file) => self.write_to(file),
            None => Ok(()),
        }
    }

    fn write_to(&mut self, file: FileId) -> io::Result<()> {
        let versions = |durable: &Durable| durable.history.get(&file).map_or(0, Vec::len);
        let kept = self.track.lock().durable.as_ref().map_or(0, versions);
        if kept >= VERSIONS_MAX {
            return self.fsync_file(file);
        }
        let held = self.len_of(file);
        let len = match self.random.range(0..100) {
            0..60 => self.random.range(1..3000),
            60..94 => self.random.range(1..200_000),
            _ => self.random.range(1..5_000_000),
        } as usize;
        let offset = match self.random.chance(60) {
            true => held,
            // Perhaps a little beyond the end, which leaves a hole.
            false => self.random.range(0..held as u64 + 10_000) as usize,
        };
        if offset + len > FILE_BYTES_MAX {
            return Ok(());
        }
        let bytes = Arc::new(self.random.bytes(len));
        let given = bytes.clone();
        self.step(Step::Write { file, offset, bytes }, |worker| {
            match worker.handles.get(&file) {
                Some(handle) => handle.write_all_at(&given, offset as u64),
                None => Err(io::Error::other("no handle")),
            }
        })
    }

    fn len_of(&self, file: FileId) -> usize {
        self.track
            .lock()
            .tree
            .files
            .get(&file)
            .map_or(0, |file| file.bytes.len())
    }

    fn truncate(&mut self) -> io::Result<()> {
        let open: Vec<FileId> = self.handles.keys().copied().collect();
        let Some(file) = self.random.pick(&open).copied() else {
            return Ok(());
        };
        let len = self.random.range(0..self.len_of(file) as u64 + 5000) as usize;
        self.step(Step::Truncate { file, len }, |worker| {
            match worker.handles.get(&file) {
                Some(handle) => handle.set_len(len as u64),
                None => Err(io::Error::other("no handle")),
            }
        })
    }

    fn fsync(&mut self, root: &Path) -> io::Result<()> {
        if self.random.chance(15) {
            fs::File::open(root)?.sync_all()?;
            self.note_synced(None);
            return Ok(());
        }
        let open: Vec<FileId> = self.handles.keys().copied().collect();
        match self.random.pick(&open).copied() {
            Some(file) => self.fsync_file(file),
            None => Ok(()),
        }
    }

    fn fsync_file(&mut self, file: FileId) -> io::Result<()> {
        if let Some(handle) = self.handles.get(&file) {
            handle.sync_all()?;
            self.note_synced(Some(file));
        }
        Ok(())
    }

    fn note_synced(&self, file: Option<FileId>) {
        let mut track = self.track.lock();
        let track = &mut *track;
        track.calls += 1;
        if let Some(durable) = &mut track.durable {
            durable.synced(file, &track.tree);
        }
    }

    /// Everything there is now counts as durable, and what follows is recorded.
    pub fn begin_counting_durable(&mut self) {
        let mut track = self.track.lock();
        let track = &mut *track;
        track.durable = Some(Durable::begin(&track.tree));
    }

    /// Takes what was found for what is.
    pub fn go_on_from(&mut self, found: Tree) {
        self.close();
        let mut track = self.track.lock();
        track.under_way = None;
        track.tree = found;
    }

    fn close_one(&mut self) -> io::Result<()> {
        let open: Vec<FileId> = self.handles.keys().copied().collect();
        if let Some(file) = self.random.pick(&open).copied() {
            self.handles.remove(&file);
            self.track.lock().open.remove(&file);
        }
        Ok(())
    }

    fn mkdir(&mut self, root: &Path) -> io::Result<()> {
        if self.paths(|node| *node == Node::Dir).len() > 8 {
            return Ok(());
        }
        let path = self.new_path();
        let at = root.join(&path);
        self.step(Step::Mkdir { path }, |_| fs::create_dir(at))
    }

    fn remove(&mut self, root: &Path) -> io::Result<()> {
        let all = self.paths(|_| true);
        let Some(path) = self.random.pick(&all).cloned() else {
            return Ok(());
        };
        let at = root.join(&path);
        let is_dir = self.track.lock().tree.names.get(&path) == Some(&Node::Dir);
        let has_children = all.iter().any(|other| other != &path && other.starts_with(&path));
        match (is_dir, has_children) {
            (true, true) => Ok(()),
            (true, false) => self.step(Step::Rmdir { path }, |_| fs::remove_dir(at)),
            (false, _) => self.step(Step::Unlink { path }, |_| fs::remove_file(at)),
        }
    }

    fn rename(&mut self, root: &Path) -> io::Result<()> {
        let all = self.paths(|_| true);
        let Some(from) = self.random.pick(&all).cloned() else {
            return Ok(());
        };
        let is_file = |node: &Node| !matches!(node, Node::Dir);
        let onto = self.paths(is_file);
        let from_dir = self.track.lock().tree.names.get(&from) == Some(&Node::Dir);
        let to = match self.random.pick(&onto) {
            Some(onto) if !from_dir && onto != &from && self.random.chance(40) => onto.clone(),
            _ => self.new_path(),
        };
        if to.starts_with(&from) {
            return Ok(());
        }
        let (old, new) = (root.join(&from), root.join(&to));
        self.step(Step::Rename { from, to }, |_| fs::rename(old, new))
    }

    fn link(&mut self, root: &Path) -> io::Result<()> {
        let Some((from, _)) = self.any_file() else {
            return Ok(());
        };
        let to = self.new_path();
        let (old, new) = (root.join(&from), root.join(&to));
        self.step(Step::Link { from, to }, |_| fs::hard_link(old, new))
    }

    fn symlink(&mut self, root: &Path) -> io::Result<()> {
        let path = self.new_path();
        let target = format!("target-{}", self.random.range(0..1000));
        let (at, to) = (root.join(&path), target.clone());
        self.step(Step::Symlink { path, target }, |_| symlink(to, at))
    }

    fn chmod(&mut self, root: &Path) -> io::Result<()> {
        let Some((path, _)) = self.any_file() else {
            return Ok(());
        };
        let mode = *self.random.pick(&[0o600, 0o644, 0o755, 0o640]).unwrap_or(&0o600);
        let at = root.join(&path);
        self.step(Step::Chmod { path, mode }, |_| {
            fs::set_permissions(at, fs::Permissions::from_mode(mode))
        })
    }
}

/// From now on every tree of the worker is kept: a commit begins.
pub fn begin_catching(track: &Mutex<Track>) {
    let mut track = track.lock();
    track.caught = Some(Caught {
        trees: vec![track.tree.clone()],
        open: track.open.clone(),
    });
}

/// The commit has ended, or everything has. A call that is still under way may have been caught too.
pub fn end_catching(track: &Mutex<Track>) -> Caught {
    let mut track = track.lock();
    let mut caught = track.caught.take().unwrap_or_default();
    if let Some(step) = &track.under_way {
        let mut done = track.tree.clone();
        done.apply(step);
        caught.trees.push(done);
        caught.open.extend(&track.open);
    }
    caught
}
