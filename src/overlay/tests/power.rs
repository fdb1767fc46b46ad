//! Power cuts by a model of the disk: whatever was not synced is lost, for each file by itself, while anything else may be
//! durable. Random programs replace files by rename, exchange, link and truncation, with syncs of other files between and
//! in the middle of syncs; after the cut every file that replaced another one, or was synced, has whole bytes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::crash::copy_dir;
use super::program::{Rng, attrs, name};
use super::store::{begin, kill, options, reopen};
use crate::model::{Kind, LinkId};
use crate::overlay::disk::watch;
use crate::overlay::*;

/// What is durable: by inode number, since files move.
type Durable = HashMap<u64, Vec<u8>>;
/// Paths of files, relative to the root.
type Names = BTreeMap<String, NodeId>;

/// What may be found after a cut.
#[derive(Clone)]
struct Moment {
    names: Names,
    /// Of each file that must be whole: the first of its versions that may be found.
    floors: HashMap<NodeId, usize>,
}

struct Program {
    rng: Rng,
    overlay: Arc<Overlay>,
    /// Whole bytes that each file had, oldest first.
    versions: HashMap<NodeId, Vec<Vec<u8>>>,
    floors: HashMap<NodeId, usize>,
    /// Of each file that was written anew: that version.
    replaced: HashMap<NodeId, usize>,
    /// Since the last sync that has returned, the one then included.
    moments: Vec<Moment>,
    durable: Durable,
    made: u64,
    /// Syncs under way.
    depth: u32,
}

type Shared = Rc<RefCell<Program>>;

fn place(parent: NodeId, text: &str) -> Place {
    // Three names are taken in the base.
    let base = (parent == ROOT_NODE && text.starts_with('b')).then_some(Kind::File);
    let name = name(text);
    Place { parent, name, base }
}

fn walk(state: &OverlayState, dir: NodeId, at: &str, names: &mut Names) {
    let changes = &state.nodes[&dir].body.as_dir().unwrap().changes;
    for (name, change) in changes {
        let Change::Node { id, .. } = change else { continue };
        let path = format!("{at}/{name}");
        if state.nodes[id].kind() == Kind::Dir {
            walk(state, *id, &path, names);
        } else {
            names.insert(path, *id);
        }
    }
}

fn names_of(state: &OverlayState) -> Names {
    let mut names = Names::new();
    walk(state, ROOT_NODE, "", &mut names);
    names
}

impl Program {
    fn changed(&mut self) {
        let moment = Moment {
            names: names_of(&self.overlay.read()),
            floors: self.floors.clone(),
        };
        self.moments.push(moment);
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.made += 1;
        let word = self.made.to_le_bytes();
        word.repeat(1 + self.rng.below(600) as usize)
    }

    fn dirs(&self) -> Vec<NodeId> {
        let state = self.overlay.read();
        let dirs = state
            .nodes
            .iter()
            .filter(|(_, node)| node.kind() == Kind::Dir && node.nlink > 0);
        let mut dirs: Vec<NodeId> = dirs.map(|(id, _)| *id).collect();
        dirs.sort_unstable();
        dirs
    }

    fn any_place(&mut self) -> Place {
        let dirs = self.dirs();
        let parent = *self.rng.pick(&dirs).unwrap();
        let text = ["b0", "b1", "b2", "n0", "n1", "n2", "n3"][self.rng.below(7) as usize];
        place(parent, text)
    }

    fn held(&self, place: &Place) -> Option<(NodeId, Kind)> {
        let state = self.overlay.read();
        match state.change(place.parent, place.name.as_bytes()) {
            Some(Change::Node { id, .. }) => Some((*id, state.nodes[id].kind())),
            _ => None,
        }
    }

    fn any_file(&mut self) -> Option<(Place, NodeId)> {
        for _ in 0..20 {
            let place = self.any_place();
            if let Some((id, Kind::File)) = self.held(&place) {
                return Some((place, id));
            }
        }
        None
    }

    fn body(&self, id: NodeId) -> BodyId {
        let state = self.overlay.read();
        state.nodes[&id].body.as_file().unwrap().body.unwrap()
    }

    /// Nothing but whole bytes is seen of it from here on.
    fn is_whole(&mut self, id: NodeId) {
        self.floors.insert(id, self.versions[&id].len() - 1);
    }

    fn give(&self, id: NodeId) -> Arc<Body> {
        let body = self.overlay.create_body().unwrap();
        let give = Op::GiveBody {
            id,
            body: body.id(),
            present: None,
            base_valid: 0,
            dirty: true,
        };
        self.overlay.apply(&give).unwrap();
        body
    }

    fn create(&mut self) {
        let place = self.any_place();
        let taken = self
            .overlay
            .read()
            .change(place.parent, place.name.as_bytes())
            .is_some();
        if taken || place.base.is_some() {
            return;
        }
        let id = self.overlay.read().next_node;
        let attrs = attrs(id, 1);
        let time = attrs.mtime;
        let body = NewBody::File(None);
        let create = Op::Create {
            id,
            place,
            attrs,
            body,
            time,
        };
        self.overlay.apply(&create).unwrap();
        let bytes = self.bytes();
        self.give(id).write_at(&bytes, 0).unwrap();
        self.versions.insert(id, vec![Vec::new(), bytes]);
        self.changed();
    }

    fn mkdir(&mut self) {
        let place = self.any_place();
        if self.dirs().len() > 3 || self.held(&place).is_some() || place.base.is_some() {
            return;
        }
        let id = self.overlay.read().next_node;
        let attrs = attrs(id, 1);
        let time = attrs.mtime;
        let body = NewBody::Dir;
        let create = Op::Create {
            id,
            place,
            attrs,
            body,
            time,
        };
        self.overlay.apply(&create).unwrap();
        self.changed();
    }

    /// Of a file, to any name; of a directory, with all that is in it.
    fn rename(&mut self) {
        let from = self.any_place();
        let to = self.any_place();
        let Some((id, kind)) = self.held(&from) else {
            return;
        };
        let target = self.held(&to);
        let same = target.is_some_and(|(target, _)| target == id);
        if same || target.is_some_and(|(_, target)| target != Kind::File || kind != Kind::File) {
            return;
        }
        if kind == Kind::Dir && to.base.is_some() {
            return;
        }
        let replaced = target.map(|(id, _)| id);
        let time = attrs(1, 2).mtime;
        let rename = Op::Rename {
            node: id,
            from,
            to,
            replaced,
            time,
        };
        if self.overlay.apply(&rename).is_err() {
            // A directory into itself.
            return;
        }
        if kind == Kind::File {
            self.is_whole(id);
        } else {
            let moved: Vec<NodeId> = self.overlay.read().nodes.keys().copied().collect();
            let below: Vec<NodeId> = moved
                .into_iter()
                .filter(|file| self.is_below(*file, id))
                .collect();
            below.into_iter().for_each(|file| self.is_whole(file));
        }
        self.let_go(replaced);
        self.changed();
    }

    fn is_below(&self, file: NodeId, dir: NodeId) -> bool {
        let state = self.overlay.read();
        if !self.versions.contains_key(&file) {
            return false;
        }
        let mut at: Vec<NodeId> = state.nodes[&file]
            .names
            .iter()
            .map(|(parent, _)| *parent)
            .collect();
        while let Some(id) = at.pop() {
            if id == dir {
                return true;
            }
            at.extend(state.nodes[&id].names.iter().map(|(parent, _)| *parent));
        }
        false
    }

    fn let_go(&self, id: Option<NodeId>) {
        if let Some(id) = id {
            self.overlay.apply(&Op::Forget { id }).unwrap();
        }
    }

    fn exchange(&mut self) {
        let (Some(a), Some(b)) = (self.any_file(), self.any_file()) else {
            return;
        };
        if a.1 == b.1 {
            return;
        }
        let time = attrs(1, 2).mtime;
        let (one, other) = (a.1, b.1);
        let exchange = Op::Exchange {
            a: (a.1, a.0),
            b: (b.1, b.0),
            time,
        };
        self.overlay.apply(&exchange).unwrap();
        self.is_whole(one);
        self.is_whole(other);
        self.changed();
    }

    fn link(&mut self) {
        let Some((_, id)) = self.any_file() else { return };
        let to = self.any_place();
        let taken = self
            .overlay
            .read()
            .change(to.parent, to.name.as_bytes())
            .is_some();
        if taken || to.base.is_some() {
            return;
        }
        let first = self.overlay.read().nodes[&id].link.is_none();
        self.made += 1;
        let mut drawn = [0; 16];
        drawn[..8].copy_from_slice(&self.made.to_le_bytes());
        let link = first.then_some(LinkId(drawn));
        let time = attrs(1, 2).mtime;
        let link = Op::Link {
            id,
            place: to,
            link,
            time,
        };
        self.overlay.apply(&link).unwrap();
        self.is_whole(id);
        self.changed();
    }

    fn unlink(&mut self) {
        let Some((place, id)) = self.any_file() else {
            return;
        };
        let time = attrs(1, 2).mtime;
        let node = Some(id);
        self.overlay.apply(&Op::Remove { place, node, time }).unwrap();
        self.let_go(node);
        self.changed();
    }

    /// As an opening with O_TRUNC does, and one write.
    fn replace(&mut self) {
        let Some((_, id)) = self.any_file() else { return };
        let bytes = self.bytes();
        self.give(id).write_at(&bytes, 0).unwrap();
        let versions = self.versions.get_mut(&id).unwrap();
        versions.push(bytes);
        self.replaced.insert(id, versions.len() - 1);
        self.changed();
    }

    fn change(&mut self) {
        match self.rng.below(20) {
            0..5 => self.create(),
            5..6 => self.mkdir(),
            6..12 => self.rename(),
            12..14 => self.exchange(),
            14..15 => self.link(),
            15..16 => self.unlink(),
            _ => self.replace(),
        }
    }
}

/// A sync, with changes in the middle of it; what was there when it began is confirmed when it returns.
fn sync(shared: &Shared) {
    let (overlay, bodies, ids, from, what) = {
        let mut program = shared.borrow_mut();
        let mut ids = Vec::new();
        for _ in 0..program.rng.below(3) {
            ids.extend(program.any_file().map(|(_, id)| id));
        }
        let overlay = program.overlay.clone();
        let bodies: Vec<_> = ids
            .iter()
            .map(|id| overlay.body(program.body(*id)).unwrap())
            .collect();
        program.depth += 1;
        // One thread writes journals anew.
        let what = match program.rng.below(12) {
            1 | 2 if program.depth > 1 => 3,
            what => what,
        };
        (overlay, bodies, ids, program.moments.len() - 1, what)
    };
    let floors: Vec<(NodeId, usize)> = {
        let program = shared.borrow();
        // What was written anew is whole after a sync of anything.
        let replaced = program.replaced.iter().map(|(id, version)| (*id, *version));
        ids.iter()
            .map(|id| (*id, program.versions[id].len() - 1))
            .chain(replaced)
            .collect()
    };
    match what {
        0 => overlay.sync_all().unwrap(),
        1 => overlay.maintain().unwrap(),
        2 => overlay.compact().unwrap(),
        _ => overlay.sync_bodies(&bodies).unwrap(),
    }
    let mut program = shared.borrow_mut();
    program.depth -= 1;
    // The background's own work and a compaction promise nothing.
    if !matches!(what, 1 | 2) {
        // What a sync in the middle of this one confirmed stays so.
        let begun = program.moments.len().min(from + 1) - 1;
        program.moments.drain(..begun);
        if what != 0 {
            for (id, version) in floors {
                let at_least = |floors: &mut HashMap<NodeId, usize>| {
                    let floor = floors.entry(id).or_insert(version);
                    *floor = version.max(*floor);
                };
                at_least(&mut program.floors);
                program
                    .moments
                    .iter_mut()
                    .for_each(|moment| at_least(&mut moment.floors));
            }
        }
    }
}

/// Takes note of what a sync made durable, and lets the program go on in the middle of it.
fn saw(shared: &Shared, state_dir: &Path, file: Option<BorrowedFd<'_>>) {
    {
        let mut program = shared.borrow_mut();
        match file {
            None => {
                for path in files(state_dir) {
                    let Ok(meta) = fs::metadata(&path) else { continue };
                    program.durable.insert(meta.ino(), fs::read(&path).unwrap());
                }
            }
            Some(file) => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let ino = fs::metadata(&path).unwrap().ino();
                program.durable.insert(ino, fs::read(&path).unwrap());
            }
        }
    }
    let overlay = shared.borrow().overlay.clone();
    let is_free = overlay.journal.try_lock().is_some() && overlay.state.try_write().is_some();
    if !is_free || shared.borrow().depth > 1 {
        return;
    }
    let more = shared.borrow_mut().rng.below(3);
    for _ in 0..more {
        let act = shared.borrow_mut().rng.below(8);
        match act {
            0 if overlay.syncing.try_write().is_some() && overlay.flush.try_lock().is_some() => sync(shared),
            _ => shared.borrow_mut().change(),
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// What the disk has after the cut: of each body what was synced or what is there now, of the journal any part behind what
/// was synced.
fn cut(program: &mut Program, from: &Path, to: &Path) {
    copy_dir(from, to);
    for path in files(&to.join("state")) {
        let relative = path.strip_prefix(to).unwrap().to_owned();
        let now = fs::read(&path).unwrap();
        let ino = fs::metadata(from.join(&relative)).unwrap().ino();
        let synced = program.durable.get(&ino).cloned();
        if relative.ends_with("overlay-1/journal") {
            let least = synced.map_or(0, |synced| synced.len());
            let len = least + program.rng.below((now.len() - least + 1) as u64) as usize;
            // Most often the whole of it: the kernel wrote it, whatever it did of bodies.
            if program.rng.below(3) == 0 {
                fs::write(&path, &now[..len]).unwrap();
            }
        } else if relative.starts_with("state/bodies") {
            match (program.rng.below(2), synced) {
                (0, Some(synced)) => fs::write(&path, synced).unwrap(),
                (0, None) => match program.rng.below(3) {
                    0 => fs::remove_file(&path).unwrap(),
                    1 => fs::write(&path, b"").unwrap(),
                    _ => fs::write(&path, vec![0; now.len()]).unwrap(),
                },
                _ => {}
            }
        }
    }
}

fn check(program: &Program, overlay: &Overlay, seed: u64) {
    let state = overlay.read();
    let found = names_of(&state);
    let bytes = |id: NodeId| {
        let file = state.nodes[&id].body.as_file().unwrap();
        let body = overlay.body(file.body.unwrap()).unwrap();
        fs::read(body.path()).unwrap()
    };
    let mut said = "names of no moment".to_owned();
    let fits = |moment: &&Moment| {
        moment.names == found
            && found.iter().all(|(path, id)| {
                let Some(floor) = moment.floors.get(id) else {
                    return true;
                };
                let there = bytes(*id);
                let is_whole = program.versions[id][*floor..].contains(&there);
                if !is_whole {
                    let zeros = there.iter().all(|byte| *byte == 0);
                    said = format!("{path}: {} bytes, zeros: {zeros}", there.len());
                }
                is_whole
            })
    };
    let fitting = program.moments.iter().find(fits).is_some();
    assert!(
        fitting,
        "seed {seed}: {said}; of {} moments",
        program.moments.len()
    );
}

#[test]
fn j9_what_replaced_a_file_is_whole_after_a_power_cut_or_the_old_file_is_there() {
    // By hand more of them.
    let more = std::env::var("POWER_ROUNDS").ok();
    let rounds = more.and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let taken_back = (0..rounds).filter(|seed| round(*seed)).count() as u64;
    assert!(
        taken_back > rounds / 8,
        "{taken_back} of {rounds} cuts were of interest"
    );
}

/// True if changes were taken back.
fn round(seed: u64) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    // Everything in this thread.
    overlay.stop();
    let shared = Rc::new(RefCell::new(Program {
        rng: Rng(seed),
        overlay,
        versions: HashMap::new(),
        floors: HashMap::new(),
        replaced: HashMap::new(),
        moments: Vec::new(),
        durable: Durable::new(),
        made: 0,
        depth: 0,
    }));
    shared.borrow_mut().changed();
    let (watching, state_dir) = (shared.clone(), options(dir.path()).dir);
    watch::set(Some(Rc::new(move |file| saw(&watching, &state_dir, file))));
    // The journal as it was made.
    let overlay = shared.borrow().overlay.clone();
    overlay.sync_all().unwrap();
    drop(overlay);
    for _ in 0..60 {
        if shared.borrow_mut().rng.below(8) == 0 {
            sync(&shared);
        } else {
            shared.borrow_mut().change();
        }
    }
    watch::set(None);
    let program = Rc::into_inner(shared)
        .expect("nobody watches any more")
        .into_inner();
    recovered(program, dir.path(), seed)
}

fn recovered(mut program: Program, dir: &Path, seed: u64) -> bool {
    let after = tempfile::tempdir().unwrap();
    cut(&mut program, dir, after.path());
    let again = |boot: u8| OverlayOptions {
        boot: [boot; 16],
        ..options(after.path())
    };
    let opened = reopen(again(2));
    check(&program, &opened.overlay, seed);
    let taken_back = opened.recovery.taken_back > 0;
    let state = super::crash::bytes_of(&opened.overlay.read());
    kill(opened.overlay);
    // And so it stays.
    let opened = reopen(again(3));
    assert_eq!(opened.recovery.taken_back, 0, "seed {seed}");
    assert!(
        super::crash::bytes_of(&opened.overlay.read()) == state,
        "seed {seed}"
    );
    kill(opened.overlay);
    // A process that dies takes nothing back.
    let names = names_of(&program.overlay.read());
    kill(program.overlay);
    let opened = reopen(options(dir));
    assert_eq!(names_of(&opened.overlay.read()), names, "seed {seed}");
    kill(opened.overlay);
    taken_back
}
