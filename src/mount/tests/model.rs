//! What a pod should see, on the reference model of the merge.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::Seq;
use crate::tree::merge_model::{
    ATTRS, Attrs, Dir, File, Hint, Node, Origin, merge, merge_with, net_moves, origin_on, under, untouched,
};

/// Contents by number: the model compares numbers.
#[derive(Default)]
pub struct Contents {
    bytes: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, u32>,
}

impl Contents {
    pub fn number(&mut self, bytes: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let number = u32::try_from(self.bytes.len()).unwrap();
        self.bytes.push(bytes.to_vec());
        self.numbers.insert(bytes.to_vec(), number);
        number
    }

    pub fn bytes(&self, number: u32) -> &[u8] {
        &self.bytes[number as usize]
    }
}

/// Of the attributes only the permissions are compared: the rest are times, which the real clock gives.
pub fn attrs(mode: u16) -> Attrs {
    let mut attrs = [0; ATTRS];
    attrs[0] = u32::from(mode);
    attrs
}

/// What one commit wants to publish.
#[derive(Debug)]
pub struct Attempt {
    pub pod: usize,
    pub base: Dir,
    pub frozen: Dir,
    pub moves: Moves,
    /// Files that were open for writing at the freeze: published as they were when they were read.
    pub open: Vec<String>,
    /// The record that has it.
    pub published: Option<Seq>,
}

/// Moves of a view against its base.
#[derive(Clone, Debug)]
pub enum Moves {
    Known(Vec<Hint>),
    /// Names were made anew by the restore of a stash that moved something: which moves are still known is up to the
    /// mount.
    Unsure,
}

/// Local changes that were put away.
pub struct Stash {
    pub base: Dir,
    pub view: Dir,
    pub moves: Moves,
    local: BTreeSet<String>,
    changed: BTreeSet<String>,
}

/// What a pod should see and stand on.
pub struct Model {
    pub view: Dir,
    pub base: Dir,
    /// Where the entries of the view come from, in the base; and in what was frozen, while a commit runs.
    origin: Origin,
    since: Option<Origin>,
    unsure: bool,
    /// Files with local bytes, and those of them that a commit under way does not make clean. In a merge (`reload --keep`,
    /// restore) local bytes count as changed, unless nobody can write them and the base has the same.
    local: BTreeSet<String>,
    local_since: Option<BTreeSet<String>>,
    pub stashes: BTreeMap<u64, Stash>,
    /// The commit that is frozen.
    pub attempt: Option<usize>,
}

impl Model {
    pub fn at(record: &Dir) -> Model {
        Model {
            view: record.clone(),
            base: record.clone(),
            origin: untouched(record),
            since: None,
            unsure: false,
            local: BTreeSet::new(),
            local_since: None,
            stashes: BTreeMap::new(),
            attempt: None,
        }
    }

    pub fn stand_at(&mut self, record: &Dir) {
        self.view = record.clone();
        self.base = record.clone();
        self.origin = untouched(record);
        self.unsure = false;
        self.local.clear();
    }

    fn moves(&self) -> Moves {
        match self.unsure {
            true => Moves::Unsure,
            false => Moves::Known(net_moves(&self.origin)),
        }
    }

    fn origins(&mut self) -> impl Iterator<Item = &mut Origin> {
        std::iter::once(&mut self.origin).chain(&mut self.since)
    }

    fn locals(&mut self) -> impl Iterator<Item = &mut BTreeSet<String>> {
        std::iter::once(&mut self.local).chain(&mut self.local_since)
    }

    // ---- what programs do

    /// The file has local bytes from now on.
    pub fn touch(&mut self, path: &str) {
        for local in self.locals() {
            local.insert(path.to_owned());
        }
    }

    /// A name that comes from nowhere.
    pub fn put_new(&mut self, path: &str, node: Node) {
        if !node.is_dir() {
            self.touch(path);
        }
        self.view.put(path, node);
        for origin in self.origins() {
            origin.retain(|view, _| !under(view, path));
        }
    }

    pub fn write(&mut self, path: &str, content: u32) {
        let Some(Node::File(file)) = self.view.get(path).cloned() else {
            panic!("{path} is no file");
        };
        self.view.put(path, Node::File(File { content, ..file }));
        self.touch(path);
    }

    pub fn chmod(&mut self, path: &str, mode: u16) {
        let mut node = self.view.get(path).cloned().expect("it is there");
        match &mut node {
            Node::File(file) => file.attrs = attrs(mode),
            Node::Dir(dir) => dir.attrs = attrs(mode),
            Node::Link(_) => panic!("no hard links here"),
        }
        self.view.put(path, node);
    }

    pub fn remove(&mut self, path: &str) {
        self.view.remove(path);
        for origin in self.origins() {
            origin.retain(|view, _| !under(view, path));
        }
        for local in self.locals() {
            local.retain(|view| !under(view, path));
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let node = self.view.remove(from).expect("it is there");
        self.view.put(to, node);
        for local in self.locals() {
            local.retain(|view| !under(view, to));
            let moved: Vec<String> = local.iter().filter(|view| under(view, from)).cloned().collect();
            for view in moved {
                local.remove(&view);
                local.insert(format!("{to}{}", &view[from.len()..]));
            }
        }
        for origin in self.origins() {
            origin.retain(|view, _| !under(view, to));
            let moved: Vec<String> = origin.keys().filter(|view| under(view, from)).cloned().collect();
            for view in moved {
                let source = origin.remove(&view).expect("just listed");
                origin.insert(format!("{to}{}", &view[from.len()..]), source);
            }
        }
    }

    // ---- commands

    pub fn freeze(&mut self, pod: usize, number: usize, open: Vec<String>) -> Attempt {
        self.attempt = Some(number);
        self.since = Some(untouched(&self.view));
        self.local_since = Some(
            self.local
                .iter()
                .filter(|path| open.contains(path))
                .cloned()
                .collect(),
        );
        Attempt {
            pod,
            base: self.base.clone(),
            frozen: self.view.clone(),
            moves: self.moves(),
            open,
            published: None,
        }
    }

    /// The frozen commit is over; with `published`, that is the base now.
    pub fn thaw(&mut self, published: Option<&Attempt>) {
        self.attempt = None;
        let (since, local) = (self.since.take(), self.local_since.take());
        if let Some(attempt) = published {
            self.base = attempt.frozen.clone();
            self.origin = since.expect("frozen");
            self.local = local.expect("frozen");
            self.unsure = false;
        }
    }

    /// Local changes go; into this stash if one was made. Files that the mount takes for still being written stay: for a
    /// moment that may also be one whose body the overlay's own thread is putting on disk.
    pub fn reload(&mut self, record: &Dir, stash: Option<u64>, kept: &[String]) {
        let mut stay: Vec<(String, Node)> = Vec::new();
        for path in kept.iter().filter(|path| self.local.contains(*path)) {
            stay.extend(self.view.get(path).map(|node| (path.clone(), node.clone())));
        }
        if let Some(id) = stash {
            let stash = Stash {
                base: self.base.clone(),
                view: self.view.clone(),
                moves: match stay.is_empty() {
                    true => self.moves(),
                    false => Moves::Unsure,
                },
                changed: self.changed(&[]),
                local: std::mem::take(&mut self.local),
            };
            self.stashes.insert(id, stash);
        }
        self.stand_at(record);
        for (path, node) in stay {
            for (at, _) in path.match_indices('/') {
                if self.view.dir_at(&path[..at]).is_none() {
                    let made = Dir {
                        attrs: attrs(0o755),
                        ..Dir::default()
                    };
                    self.view.put(&path[..at], Node::Dir(made));
                }
            }
            self.view.put(&path, node);
            self.touch(&path);
        }
    }

    /// Files whose bytes a merge takes for changed, given those that are open.
    fn changed(&self, open: &[String]) -> BTreeSet<String> {
        let content = |dir: &Dir, path: &str| match dir.get(path) {
            Some(Node::File(file)) => Some(file.content),
            _ => None,
        };
        let is_changed = |path: &&String| {
            let base = self.origin.get(*path).and_then(|from| content(&self.base, from));
            open.contains(path) || base.is_none() || base != content(&self.view, path)
        };
        self.local.iter().filter(is_changed).cloned().collect()
    }

    /// Local changes on top of another record; files that are open for writing count as changed. False: which moves count
    /// is not known.
    pub fn reload_keep(&mut self, record: &Dir, open: &[String]) -> bool {
        let Moves::Known(hints) = self.moves() else {
            return false;
        };
        let merged = merge(
            &self.base,
            record,
            &marked(&self.view, &self.changed(open)),
            &hints,
        );
        self.view = unmarked(merged.root);
        let flat = self.view.flat();
        self.local.retain(|path| flat.contains_key(path));
        self.origin = origin_on(&self.view, &record.flat(), &merged.used);
        self.base = record.clone();
        true
    }

    /// Which moves the mount still knows is not known here.
    pub fn forget_moves(&mut self) {
        self.unsure |= !net_moves(&self.origin).is_empty();
    }

    /// This is what should be seen, where the model cannot tell.
    pub fn adopt(&mut self, seen: Dir) {
        self.view = seen;
        self.unsure = true;
        let flat = self.view.flat();
        self.origin.retain(|path, _| flat.contains_key(path));
    }

    /// A stash on top of the view. False: which moves count is not known.
    pub fn restore(&mut self, id: u64) -> bool {
        let stash = self.stashes.remove(&id).expect("it is in the list");
        let Moves::Known(hints) = &stash.moves else {
            return false;
        };
        let merged = merge(
            &stash.base,
            &self.view,
            &marked(&stash.view, &stash.changed),
            hints,
        );
        let moved = !net_moves(&self.origin).is_empty();
        self.unsure |= !merged.used.is_empty() || moved;
        self.view = unmarked(merged.root);
        let flat = self.view.flat();
        self.origin.retain(|path, _| flat.contains_key(path));
        self.local.extend(stash.local);
        self.local.retain(|path| flat.contains_key(path));
        true
    }
}

/// Contents that are like no other.
const MARK: u32 = 1 << 31;

fn marked(view: &Dir, local: &BTreeSet<String>) -> Dir {
    let mut view = view.clone();
    for path in local {
        if let Some(Node::File(file)) = view.get(path).cloned() {
            let content = file.content | MARK;
            view.put(path, Node::File(File { content, ..file }));
        }
    }
    view
}

fn unmarked(mut view: Dir) -> Dir {
    for (path, item) in view.flat() {
        if let Some(file) = item.file().filter(|file| file.content & MARK != 0).cloned() {
            let content = file.content & !MARK;
            view.put(&path, Node::File(File { content, ..file }));
        }
    }
    view
}

impl Attempt {
    /// Files that were open for writing are published as they were when they were read.
    pub fn take_as_read(&mut self, record: &Dir) {
        for path in &self.open {
            if let (Some(Node::File(read)), Some(Node::File(frozen))) =
                (record.get(path), self.frozen.get(path).cloned())
            {
                let file = File {
                    content: read.content,
                    ..frozen
                };
                self.frozen.put(path, Node::File(file));
            }
        }
    }

    /// The tree of the record that follows `head`, by the rules of the merge. `hints` are the moves that the record
    /// says were used.
    pub fn replay(&self, head: &Dir, hints: &[Hint]) -> Result<Dir, String> {
        if self.base == *head {
            return Ok(self.frozen.clone());
        }
        if let Moves::Known(known) = &self.moves {
            let should = merge(&self.base, head, &self.frozen, known).used;
            let sorted = |hints: &[Hint]| hints.iter().cloned().collect::<BTreeSet<Hint>>();
            if sorted(&should) != sorted(hints) {
                return Err(format!("moves used: {hints:?}, should be {should:?}"));
            }
        }
        Ok(merge_with(&self.base, head, &self.frozen, hints.to_vec()).root)
    }
}
