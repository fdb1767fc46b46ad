//! Random programs of ops, and a plain model of the tree that they make: what the overlay shows on its base.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Attrs, Content, FileId, Hash, Kind, LinkId, Name, Timestamp};
use crate::overlay::{
    BaseRef, Change, NewBody, NodeBody, NodeId, Op, Origin, OverlayState, Place, ROOT_NODE,
};

/// A small generator of pseudo-random numbers (splitmix64): a failing seed can be replayed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            Some(&items[self.below(items.len() as u64) as usize])
        }
    }
}

/// An inode of a plain tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub attrs: Attrs,
    pub what: What,
    pub nlink: u64,
    /// It is in the links tree under this id.
    pub link: Option<LinkId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Dir(BTreeMap<Name, u64>),
    /// Content by its text.
    File(String),
    Symlink(Vec<u8>),
}

/// A plain tree: inodes by number, 1 is the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub inodes: BTreeMap<u64, Inode>,
}

/// A tree without inode numbers: what a process can see. Two names of one inode share its canonical number.
pub type Shown = BTreeMap<Vec<Vec<u8>>, (Attrs, String, u64, Option<Vec<Vec<u8>>>)>;

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub fn attrs(id: u64, stamp: u64) -> Attrs {
    let time = Timestamp {
        secs: 1_000_000 + stamp as i64,
        nanos: 0,
    };
    Attrs {
        mode: 0o644,
        mtime: time,
        ctime: time,
        file_id: FileId(id),
        ..Attrs::default()
    }
}

pub fn base_ref(seq: u64) -> BaseRef {
    BaseRef {
        seq,
        record: Hash([seq as u8; 32]),
        prepared: None,
        sources: vec![seq],
    }
}

pub fn content(text: &str) -> (u64, Content) {
    (text.len() as u64, Content::Tiny(Arc::from(text.as_bytes())))
}

pub fn text_of(content: &(u64, Content)) -> String {
    match &content.1 {
        Content::Tiny(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("not a text: {other:?}"),
    }
}

impl Tree {
    pub fn empty() -> Tree {
        let root = Inode {
            attrs: attrs(1, 0),
            what: What::Dir(BTreeMap::new()),
            nlink: 1,
            link: None,
        };
        Tree {
            inodes: BTreeMap::from([(1, root)]),
        }
    }

    pub fn root_attrs(&self) -> Attrs {
        self.inodes[&1].attrs.clone()
    }

    pub fn dir(&self, id: u64) -> &BTreeMap<Name, u64> {
        match &self.inodes[&id].what {
            What::Dir(names) => names,
            other => panic!("{id} is {other:?}"),
        }
    }

    pub fn kind(&self, id: u64) -> Kind {
        match &self.inodes[&id].what {
            What::Dir(_) => Kind::Dir,
            What::File(_) => Kind::File,
            What::Symlink(_) => Kind::Symlink,
        }
    }

    /// Kind of the entry that names an inode.
    pub fn entry_kind(&self, id: u64) -> Kind {
        if self.inodes[&id].link.is_some() {
            Kind::HardLink
        } else {
            self.kind(id)
        }
    }

    pub fn by_link(&self, link: LinkId) -> Option<u64> {
        self.inodes
            .iter()
            .find(|(_, inode)| inode.link == Some(link))
            .map(|(id, _)| *id)
    }

    pub fn shown(&self) -> Shown {
        let mut shown = Shown::new();
        let mut first: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
        let mut todo = vec![(Vec::new(), 1)];
        while let Some((path, id)) = todo.pop() {
            let inode = &self.inodes[&id];
            let what = match &inode.what {
                What::Dir(names) => {
                    // In reverse, so that the first name of an inode is met first.
                    for (name, id) in names.iter().rev() {
                        let mut path = path.clone();
                        path.push(name.as_bytes().to_vec());
                        todo.push((path, *id));
                    }
                    format!(
                        "dir of {}",
                        names.values().filter(|id| self.kind(**id) == Kind::Dir).count()
                    )
                }
                other => format!("{other:?}"),
            };
            let same = inode
                .link
                .map(|_| first.entry(id).or_insert_with(|| path.clone()).clone());
            shown.insert(path, (inode.attrs.clone(), what, inode.nlink, same));
        }
        shown
    }
}

/// The tree that `state` shows on `base`. `files`: the text of each node's bytes where they are local.
pub fn build(base: &Tree, state: &OverlayState, files: &HashMap<NodeId, String>) -> Tree {
    let mut out = Tree::default();
    let mut made: HashMap<NodeId, u64> = HashMap::new();
    let mut copied: HashMap<u64, u64> = HashMap::new();
    let mut builder = Builder {
        base,
        state,
        files,
        out: &mut out,
        made: &mut made,
        copied: &mut copied,
        next: 2,
    };
    builder.node_at(ROOT_NODE, 1);
    out
}

struct Builder<'a> {
    base: &'a Tree,
    state: &'a OverlayState,
    files: &'a HashMap<NodeId, String>,
    out: &'a mut Tree,
    made: &'a mut HashMap<NodeId, u64>,
    copied: &'a mut HashMap<u64, u64>,
    next: u64,
}

impl Builder<'_> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Inode of the base that a node is.
    fn base_of(&self, id: NodeId) -> Option<u64> {
        match self.state.nodes[&id].origin.as_ref()? {
            Origin::Root => Some(1),
            Origin::Entry { parent, name } => {
                let dir = self
                    .base_of(*parent)
                    .expect("an origin's directory is in the base");
                Some(*self.base.dir(dir).get(name).expect("an origin is in the base"))
            }
            Origin::Link(link) => Some(self.base.by_link(*link).expect("a link id is in the base")),
        }
    }

    fn node(&mut self, id: NodeId) -> u64 {
        if let Some(done) = self.made.get(&id) {
            return *done;
        }
        let number = self.number();
        self.made.insert(id, number);
        self.node_at(id, number);
        number
    }

    fn node_at(&mut self, id: NodeId, number: u64) {
        let node = self.state.nodes[&id].clone();
        assert!(node.nlink > 0, "node {id} is shown but unlinked");
        let base = self.base_of(id);
        if let (Some(base), Some(attrs)) = (base, &node.base_attrs) {
            assert_eq!(
                self.base.inodes[&base].attrs, *attrs,
                "base attributes of node {id}"
            );
        }
        assert_eq!(base.is_some(), node.base_attrs.is_some(), "node {id}");
        let what = match &node.body {
            NodeBody::Dir(dir) => {
                let none = BTreeMap::new();
                let below = base.map_or(&none, |base| self.base.dir(base));
                let mut names = BTreeMap::new();
                for (name, target) in below {
                    match dir.changes.get(name) {
                        None => {
                            let target = self.copy(*target);
                            names.insert(name.clone(), target);
                        }
                        Some(
                            Change::Whiteout(kind)
                            | Change::Node {
                                hides: Some(kind), ..
                            },
                        ) => {
                            assert_eq!(*kind, self.base.entry_kind(*target), "{name} in node {id}");
                        }
                        Some(Change::Node { hides: None, .. }) => {
                            panic!("{name} in node {id} hides something")
                        }
                    }
                }
                for (name, change) in &dir.changes {
                    match change {
                        Change::Whiteout(_) => assert!(below.contains_key(name), "{name} in node {id}"),
                        Change::Node { id: child, hides } => {
                            assert_eq!(hides.is_some(), below.contains_key(name), "{name} in node {id}");
                            let names_of = &self.state.nodes[child].names;
                            assert!(names_of.contains(&(id, name.clone())), "{name} in node {id}");
                            let child = self.node(*child);
                            names.insert(name.clone(), child);
                        }
                    }
                }
                let subdirs = |names: &BTreeMap<Name, u64>, tree: &Tree| {
                    names.values().filter(|id| tree.kind(**id) == Kind::Dir).count() as i64
                };
                let delta = subdirs(&names, self.out) - subdirs(below, self.base);
                assert_eq!(dir.subdirs_delta, delta, "subdirectories of node {id}");
                What::Dir(names)
            }
            NodeBody::File(file) => What::File(match (&file.body, &file.base) {
                (Some(_), _) if file.dirty => self.files[&id].clone(),
                (_, Some(content)) => text_of(content),
                (_, None) => String::new(),
            }),
            NodeBody::Symlink(target) => What::Symlink(target.to_vec()),
            other => panic!("no such nodes in these tests: {other:?}"),
        };
        let inode = Inode {
            attrs: node.attrs.clone(),
            what,
            nlink: node.nlink,
            link: node.link,
        };
        self.out.inodes.insert(number, inode);
    }

    /// An entry of the base that the overlay does not touch, with all below.
    fn copy(&mut self, id: u64) -> u64 {
        if let Some(link) = self.base.inodes[&id].link
            && let Some(node) = self.state.links.get(&link)
        {
            return self.node(*node);
        }
        if let Some(done) = self.copied.get(&id) {
            return *done;
        }
        let number = self.number();
        self.copied.insert(id, number);
        let mut inode = self.base.inodes[&id].clone();
        if let What::Dir(names) = &mut inode.what {
            for target in names.values_mut() {
                *target = self.copy(*target);
            }
        }
        self.out.inodes.insert(number, inode);
        number
    }
}

/// A process's doings: the tree it should see, kept plainly, and the ops that a view would make of them.
pub struct Program {
    pub rng: Rng,
    pub base: Tree,
    pub state: OverlayState,
    /// The plain tree: the definition of what is right.
    pub plain: Tree,
    /// Plain inode of each node, and back.
    node_of: HashMap<u64, NodeId>,
    /// Text of dirty files.
    pub files: HashMap<NodeId, String>,
    next_inode: u64,
    next_body: u64,
    stamp: u64,
    /// Inodes of the plain tree that are open though unlinked.
    pub open: Vec<u64>,
    /// All ops so far.
    pub ops: Vec<Op>,
}

impl Program {
    pub fn new(seed: u64, base: Tree) -> Program {
        let state = OverlayState::new(base_ref(1), base.root_attrs());
        Program::on(seed, base, state)
    }

    fn on(seed: u64, base: Tree, state: OverlayState) -> Program {
        let next_inode = base.inodes.keys().max().unwrap() + 1000;
        Program {
            rng: Rng(seed),
            plain: base.clone(),
            node_of: HashMap::from([(1, ROOT_NODE)]),
            base,
            state,
            files: HashMap::new(),
            next_inode,
            next_body: 1,
            stamp: 10,
            open: Vec::new(),
            ops: Vec::new(),
        }
    }

    fn time(&mut self) -> Timestamp {
        self.stamp += 1;
        Timestamp {
            secs: 2_000_000 + self.stamp as i64,
            nanos: 7,
        }
    }

    pub fn apply(&mut self, op: Op) {
        self.state.apply(&op).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        self.ops.push(op);
    }

    /// The plain directory that holds a name of an inode, with the name.
    fn parents(&self, id: u64) -> Vec<(u64, Name)> {
        let mut found = Vec::new();
        for (dir, inode) in &self.plain.inodes {
            if let What::Dir(names) = &inode.what {
                found.extend(
                    names
                        .iter()
                        .filter(|(_, t)| **t == id)
                        .map(|(n, _)| (*dir, n.clone())),
                );
            }
        }
        found
    }

    fn reachable(&self) -> Vec<u64> {
        let mut all = vec![1];
        let mut at = 0;
        while at < all.len() {
            if let What::Dir(names) = &self.plain.inodes[&all[at]].what {
                for id in names.values() {
                    if !all.contains(id) {
                        all.push(*id);
                    }
                }
            }
            at += 1;
        }
        all
    }

    /// Kind of the base's entry at a name of an adopted directory.
    fn base_kind(&self, dir: NodeId, name: &Name) -> Option<Kind> {
        let none = HashMap::new();
        let mut out = Tree::default();
        let builder = Builder {
            base: &self.base,
            state: &self.state,
            files: &none,
            out: &mut out,
            made: &mut HashMap::new(),
            copied: &mut HashMap::new(),
            next: 2,
        };
        let base = builder.base_of(dir)?;
        self.base.dir(base).get(name).map(|id| self.base.entry_kind(*id))
    }

    fn place(&mut self, dir: u64, name: &Name) -> Place {
        let parent = self.adopt(dir);
        Place {
            parent,
            name: name.clone(),
            base: self.base_kind(parent, name),
        }
    }

    /// The overlay's node of a plain inode, adopted with all above it if need be.
    pub fn adopt(&mut self, id: u64) -> NodeId {
        if let Some(node) = self.node_of.get(&id) {
            return *node;
        }
        let inode = self.plain.inodes[&id].clone();
        let origin = match inode.link {
            Some(link) => Origin::Link(link),
            None => {
                let (dir, name) = self.parents(id)[0].clone();
                Origin::Entry {
                    parent: self.adopt(dir),
                    name,
                }
            }
        };
        let body = match &inode.what {
            What::Dir(_) => NewBody::Dir,
            What::File(text) => NewBody::File(Some(content(text))),
            What::Symlink(target) => NewBody::Symlink(target.clone().into()),
        };
        let node = self.state.next_node;
        self.apply(Op::Adopt {
            id: node,
            origin,
            attrs: inode.attrs,
            nlink: inode.nlink,
            body,
        });
        self.node_of.insert(id, node);
        node
    }

    fn touch_dir(&mut self, dir: u64, time: Timestamp) {
        let attrs = &mut self.plain.inodes.get_mut(&dir).unwrap().attrs;
        attrs.mtime = time;
        attrs.ctime = time;
    }

    fn names_mut(&mut self, dir: u64) -> &mut BTreeMap<Name, u64> {
        match &mut self.plain.inodes.get_mut(&dir).unwrap().what {
            What::Dir(names) => names,
            other => panic!("{other:?}"),
        }
    }

    /// A name is gone: the plain tree's part of it.
    fn drop_name(&mut self, dir: u64, name: &Name, time: Timestamp) {
        let id = self.names_mut(dir).remove(name).unwrap();
        let keeps_open = self.rng.below(3) == 0;
        let inode = self.plain.inodes.get_mut(&id).unwrap();
        inode.nlink -= 1;
        inode.attrs.ctime = time;
        if inode.nlink == 0 {
            if keeps_open {
                self.open.push(id);
            } else {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: u64) {
        self.plain.inodes.remove(&id);
        if let Some(node) = self.node_of.remove(&id) {
            self.apply(Op::Forget { id: node });
            self.files.remove(&node);
        }
    }

    fn in_overlay(&mut self, id: u64) -> Option<NodeId> {
        if self.plain.inodes[&id].link.is_some() {
            return Some(self.adopt(id));
        }
        self.node_of.get(&id).copied()
    }

    fn removable(&self, id: u64) -> bool {
        !matches!(&self.plain.inodes[&id].what, What::Dir(names) if !names.is_empty())
    }

    fn is_below(&self, id: u64, ancestor: u64) -> bool {
        let mut at = id;
        loop {
            if at == ancestor {
                return true;
            }
            match self.parents(at).first() {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    /// One random step.
    pub fn step(&mut self) {
        let all = self.reachable();
        let dirs: Vec<u64> = all
            .iter()
            .copied()
            .filter(|id| self.plain.kind(*id) == Kind::Dir)
            .collect();
        let files: Vec<u64> = all
            .iter()
            .copied()
            .filter(|id| self.plain.kind(*id) == Kind::File)
            .collect();
        let dir = *self.rng.pick(&dirs).unwrap();
        let fresh = name(["a", "b", "c", "d", "e"][self.rng.below(5) as usize]);
        let names: Vec<Name> = self.plain.dir(dir).keys().cloned().collect();
        let old = self.rng.pick(&names).cloned();
        match self.rng.below(12) {
            0..=2 => self.create(dir, fresh),
            3 | 4 => {
                if let Some(old) = old {
                    self.remove(dir, old);
                }
            }
            5 | 6 => {
                let to = *self.rng.pick(&dirs).unwrap();
                if let Some(old) = old {
                    self.rename((dir, old), (to, fresh));
                }
            }
            7 => {
                let to = *self.rng.pick(&dirs).unwrap();
                let others: Vec<Name> = self.plain.dir(to).keys().cloned().collect();
                if let (Some(a), Some(b)) = (old, self.rng.pick(&others).cloned()) {
                    self.exchange((dir, a), (to, b));
                }
            }
            8 => {
                if let Some(file) = self.rng.pick(&files).copied() {
                    self.link(file, dir, fresh);
                }
            }
            9 | 10 => {
                if let Some(file) = self.rng.pick(&files).copied() {
                    self.write(file);
                }
            }
            _ => {
                let id = *self.rng.pick(&all).unwrap();
                self.set_attrs(id);
            }
        }
        if self.rng.below(8) == 0
            && let Some(id) = self.open.pop()
        {
            self.forget(id);
        }
    }

    fn create(&mut self, dir: u64, name: Name) {
        if self.plain.dir(dir).contains_key(&name) {
            return;
        }
        let (what, body) = match self.rng.below(4) {
            0 | 1 => (What::Dir(BTreeMap::new()), NewBody::Dir),
            2 => (What::File(String::new()), NewBody::File(None)),
            _ => (
                What::Symlink(b"there".to_vec()),
                NewBody::Symlink(b"there"[..].into()),
            ),
        };
        let place = self.place(dir, &name);
        let inode = self.next_inode;
        self.next_inode += 1;
        let time = self.time();
        let attrs = attrs(inode, self.stamp);
        let id = self.state.next_node;
        self.apply(Op::Create {
            id,
            place,
            attrs: attrs.clone(),
            body,
            time,
        });
        self.node_of.insert(inode, id);
        self.plain.inodes.insert(
            inode,
            Inode {
                attrs,
                what,
                nlink: 1,
                link: None,
            },
        );
        self.names_mut(dir).insert(name, inode);
        self.touch_dir(dir, time);
    }

    fn remove(&mut self, dir: u64, name: Name) {
        let id = self.plain.dir(dir)[&name];
        if !self.removable(id) {
            return;
        }
        let node = self.in_overlay(id);
        let place = self.place(dir, &name);
        let time = self.time();
        self.apply(Op::Remove { place, node, time });
        self.touch_dir(dir, time);
        self.drop_name(dir, &name, time);
    }

    fn rename(&mut self, from: (u64, Name), to: (u64, Name)) {
        let id = self.plain.dir(from.0)[&from.1];
        let over = self.plain.dir(to.0).get(&to.1).copied();
        let is_dir = self.plain.kind(id) == Kind::Dir;
        if over == Some(id) || (is_dir && self.is_below(to.0, id)) {
            return;
        }
        if let Some(over) = over {
            let over_dir = self.plain.kind(over) == Kind::Dir;
            if over_dir != is_dir || !self.removable(over) {
                return;
            }
        }
        let node = self.adopt(id);
        let replaced = over.and_then(|over| self.in_overlay(over));
        let (from_place, to_place) = (self.place(from.0, &from.1), self.place(to.0, &to.1));
        let time = self.time();
        self.apply(Op::Rename {
            node,
            from: from_place,
            to: to_place,
            replaced,
            time,
        });
        if over.is_some() {
            self.drop_name(to.0, &to.1, time);
        }
        self.names_mut(from.0).remove(&from.1);
        self.names_mut(to.0).insert(to.1, id);
        self.touch_dir(from.0, time);
        self.touch_dir(to.0, time);
        self.plain.inodes.get_mut(&id).unwrap().attrs.ctime = time;
    }

    fn exchange(&mut self, a: (u64, Name), b: (u64, Name)) {
        let (a_id, b_id) = (self.plain.dir(a.0)[&a.1], self.plain.dir(b.0)[&b.1]);
        if a_id == b_id || self.is_below(b.0, a_id) || self.is_below(a.0, b_id) {
            return;
        }
        let (a_node, b_node) = (self.adopt(a_id), self.adopt(b_id));
        let (a_place, b_place) = (self.place(a.0, &a.1), self.place(b.0, &b.1));
        let time = self.time();
        self.apply(Op::Exchange {
            a: (a_node, a_place),
            b: (b_node, b_place),
            time,
        });
        self.names_mut(a.0).insert(a.1, b_id);
        self.names_mut(b.0).insert(b.1, a_id);
        for id in [a.0, b.0] {
            self.touch_dir(id, time);
        }
        for id in [a_id, b_id] {
            self.plain.inodes.get_mut(&id).unwrap().attrs.ctime = time;
        }
    }

    fn link(&mut self, file: u64, dir: u64, name: Name) {
        if self.plain.dir(dir).contains_key(&name) {
            return;
        }
        let id = self.adopt(file);
        let place = self.place(dir, &name);
        let time = self.time();
        let link = match self.plain.inodes[&file].link {
            Some(_) => None,
            None => Some(LinkId(
                [self.rng.next().to_le_bytes(), self.rng.next().to_le_bytes()]
                    .concat()
                    .try_into()
                    .unwrap(),
            )),
        };
        self.apply(Op::Link {
            id,
            place,
            link,
            time,
        });
        let inode = self.plain.inodes.get_mut(&file).unwrap();
        inode.nlink += 1;
        inode.link = inode.link.or(link);
        inode.attrs.ctime = time;
        self.names_mut(dir).insert(name, file);
        self.touch_dir(dir, time);
    }

    fn write(&mut self, file: u64) {
        let id = self.adopt(file);
        let has_body = self.state.nodes[&id].body.as_file().unwrap().body;
        let frozen_body = self.state.frozen.as_ref().and_then(|frozen| {
            frozen
                .state
                .nodes
                .get(&id)
                .and_then(|node| node.body.as_file()?.body)
        });
        if has_body.is_none() || has_body == frozen_body {
            let body = self.next_body;
            self.next_body += 1;
            self.apply(Op::GiveBody {
                id,
                body,
                present: None,
                base_valid: 0,
                dirty: false,
            });
        }
        self.apply(Op::MarkDirty { id });
        let text = format!("text {}", self.rng.below(1000));
        self.files.insert(id, text.clone());
        self.plain.inodes.get_mut(&file).unwrap().what = What::File(text);
        if self.rng.below(2) == 0 {
            self.set_attrs(file);
        }
    }

    fn set_attrs(&mut self, id: u64) {
        let node = self.adopt(id);
        let time = self.time();
        let attrs = Attrs {
            mode: self.rng.below(0o1000) as u16,
            ctime: time,
            ..self.plain.inodes[&id].attrs.clone()
        };
        self.apply(Op::SetAttrs {
            id: node,
            attrs: attrs.clone(),
        });
        self.plain.inodes.get_mut(&id).unwrap().attrs = attrs;
    }

    /// The overlay shows on its base exactly what the plain tree says.
    pub fn check(&self, context: &str) {
        let shown = build(&self.base, &self.state, &self.files).shown();
        assert_eq!(shown, self.plain.shown(), "{context}");
        // Inodes of the base's links tree that have no name any more are known to be gone.
        for (id, inode) in &self.base.inodes {
            if let Some(link) = inode.link
                && !self
                    .plain
                    .inodes
                    .values()
                    .any(|now| now.link == Some(link) && now.nlink > 0)
            {
                let node = self.state.links.get(&link).map(|node| &self.state.nodes[node]);
                assert_eq!(
                    node.map(|node| node.nlink),
                    Some(0),
                    "{context}: inode {id} of the links tree"
                );
            }
        }
        // Origins are in the base, also those of what nothing shows.
        let none = HashMap::new();
        let mut out = Tree::default();
        let (mut made, mut copied) = (HashMap::new(), HashMap::new());
        let (base, state) = (&self.base, &self.state);
        let builder = Builder {
            base,
            state,
            files: &none,
            out: &mut out,
            made: &mut made,
            copied: &mut copied,
            next: 2,
        };
        for (id, node) in &self.state.nodes {
            assert_eq!(
                builder.base_of(*id).is_some(),
                node.base_attrs.is_some(),
                "{context}: node {id}"
            );
        }
    }

    pub fn freeze(&mut self) -> (OverlayState, HashMap<NodeId, String>) {
        let commit = self.state.last_commit + 1;
        self.apply(Op::Freeze { commit });
        let frozen = (*self.state.frozen.as_ref().unwrap().state).clone();
        (frozen, self.files.clone())
    }

    /// The commit is published: the base is now what base and frozen state make.
    pub fn publish(&mut self, frozen: &OverlayState, files: &HashMap<NodeId, String>) {
        let tree = build(&self.base, frozen, files);
        let contents: Vec<_> = frozen
            .nodes
            .iter()
            .filter(|(_, node)| node.body.as_file().is_some_and(|file| file.dirty))
            .filter_map(|(id, _)| {
                let (size, content) = content(files.get(id)?);
                Some((*id, size, content))
            })
            .collect();
        let (first, second) = contents.split_at(contents.len() / 2);
        let commit = self.state.last_commit;
        self.apply(Op::Uploaded {
            commit,
            contents: first.to_vec(),
        });
        self.apply(Op::Published {
            commit,
            base: base_ref(commit + 1),
            contents: second.to_vec(),
        });
        self.base = tree;
        let nodes = &self.state.nodes;
        self.node_of.retain(|_, node| nodes.contains_key(node));
        self.node_of.insert(1, ROOT_NODE);
    }
}

/// A random tree.
pub fn random_tree(seed: u64) -> Tree {
    let mut program = Program::new(seed, Tree::empty());
    for _ in 0..25 {
        program.step();
    }
    while let Some(id) = program.open.pop() {
        program.forget(id);
    }
    let mut tree = build(&program.base, &program.state, &program.files);
    // As if published: every file has a text.
    for (id, inode) in &mut tree.inodes {
        if let What::File(text) = &mut inode.what
            && text.is_empty()
        {
            *text = format!("base {id}");
        }
    }
    tree
}

#[test]
fn an_overlay_shows_what_the_plain_tree_says() {
    for seed in 0..300 {
        let mut program = Program::new(seed, random_tree(seed + 1_000_000));
        for step in 0..40 {
            program.step();
            program.check(&format!("seed {seed} step {step}"));
        }
    }
}

#[test]
fn what_is_left_after_a_publish_shows_the_same_tree_on_the_new_base() {
    for seed in 0..400 {
        let mut program = Program::new(seed, random_tree(seed + 2_000_000));
        for round in 0..3 {
            for _ in 0..program.rng.below(15) {
                program.step();
            }
            let (frozen, files) = program.freeze();
            for _ in 0..program.rng.below(15) {
                program.step();
            }
            let context = format!("seed {seed} round {round}");
            program.check(&context);
            program.publish(&frozen, &files);
            program.check(&format!("{context}, published"));
        }
    }
}

#[test]
fn a_commit_without_later_changes_leaves_nothing() {
    for seed in 0..200 {
        let mut program = Program::new(seed, random_tree(seed + 3_000_000));
        for _ in 0..20 {
            program.step();
        }
        while let Some(id) = program.open.pop() {
            program.forget(id);
        }
        let (frozen, files) = program.freeze();
        program.publish(&frozen, &files);
        program.check(&format!("seed {seed}"));
        assert_eq!(
            program.state.nodes.len(),
            1,
            "seed {seed}: {:?}",
            program.state.nodes
        );
        assert!(
            program.state.is_clean() && program.state.links.is_empty() && program.state.forgotten.is_empty()
        );
    }
}
