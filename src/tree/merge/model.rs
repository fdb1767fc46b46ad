//! The reference model of the merge, over plain maps: what "correct" means here. Hard links aside, whose rules are
//! checked by scenarios and invariants.
//!
//! Written from the rules (MERGE.md), not from the code beside it. [`merge`] goes name by name; [`replay`] is the
//! flat rule, register by register, and does not know of directories inside one another: where nobody moves anything
//! and no name is a file here and a directory there, both must agree.

use std::collections::{BTreeMap, BTreeSet};

/// Mode, owner, mtime, and two extended attributes, of which 0 is "not there".
pub const ATTRS: usize = 5;
pub const MTIME: usize = 2;
pub const FIRST_XATTR: usize = 3;
pub type Attrs = [u32; ATTRS];

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct File {
    pub content: u32,
    pub attrs: Attrs,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    File(File),
    Link(u32),
    Dir(Dir),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Dir {
    pub attrs: Attrs,
    pub names: BTreeMap<String, Node>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    pub root: Dir,
    pub inodes: BTreeMap<u32, File>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reg {
    Content,
    Attr(usize),
}

pub type Report = BTreeSet<(String, Reg)>;
pub type Hint = (String, String);

pub fn up(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

pub fn under(path: &str, dir: &str) -> bool {
    path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

impl Node {
    pub fn is_dir(&self) -> bool {
        matches!(self, Node::Dir(_))
    }

    pub fn dir(&self) -> Option<&Dir> {
        match self {
            Node::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn file(&self) -> Option<&File> {
        match self {
            Node::File(file) => Some(file),
            _ => None,
        }
    }
}

impl Dir {
    pub fn get(&self, path: &str) -> Option<&Node> {
        match path.split_once('/') {
            None => self.names.get(path),
            Some((first, rest)) => self.names.get(first)?.dir()?.get(rest),
        }
    }

    pub fn dir_at(&self, path: &str) -> Option<&Dir> {
        if path.is_empty() {
            Some(self)
        } else {
            self.get(path)?.dir()
        }
    }

    pub fn dir_mut(&mut self, path: &str) -> Option<&mut Dir> {
        let mut dir = self;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match dir.names.get_mut(name) {
                Some(Node::Dir(below)) => dir = below,
                _ => return None,
            }
        }
        Some(dir)
    }

    /// Puts an entry into a directory that is there.
    pub fn put(&mut self, path: &str, node: Node) {
        let name = path.rsplit('/').next().unwrap().to_owned();
        self.dir_mut(up(path))
            .expect("the directory is there")
            .names
            .insert(name, node);
    }

    pub fn remove(&mut self, path: &str) -> Option<Node> {
        self.dir_mut(up(path))?.names.remove(path.rsplit('/').next()?)
    }

    /// All paths, with directories as they are without their entries.
    pub fn flat(&self) -> Flat {
        let mut flat = Flat::new();
        self.flat_into("", &mut flat);
        flat
    }

    fn flat_into(&self, at: &str, flat: &mut Flat) {
        for (name, node) in &self.names {
            let path = join(at, name);
            match node {
                Node::Dir(dir) => {
                    flat.insert(path.clone(), Item::Dir(dir.attrs));
                    dir.flat_into(&path, flat);
                }
                Node::File(file) => drop(flat.insert(path, Item::File(file.clone()))),
                Node::Link(id) => drop(flat.insert(path, Item::Link(*id))),
            }
        }
    }
}

pub type Flat = BTreeMap<String, Item>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    File(File),
    Dir(Attrs),
    Link(u32),
}

impl Item {
    pub fn attrs(&self) -> &Attrs {
        match self {
            Item::File(file) => &file.attrs,
            Item::Dir(attrs) => attrs,
            Item::Link(_) => panic!("the flat rule knows no hard links"),
        }
    }

    pub fn file(&self) -> Option<&File> {
        match self {
            Item::File(file) => Some(file),
            _ => None,
        }
    }
}

// ---- the merge

fn m3<T: PartialEq + Copy>(base: Option<T>, head: T, mine: T) -> (T, bool) {
    let lost = base != Some(mine) && base != Some(head) && head != mine;
    (if base == Some(mine) { head } else { mine }, lost)
}

fn merge_attrs(
    base: Option<&Attrs>,
    head: &Attrs,
    mine: &Attrs,
    is_dir: bool,
    at: &str,
    rep: &mut Report,
) -> Attrs {
    let mut out = [0; ATTRS];
    for i in 0..ATTRS {
        let was = base.map(|base| base[i]).or((i >= FIRST_XATTR).then_some(0));
        let (value, lost) = m3(was, head[i], mine[i]);
        out[i] = value;
        if is_dir && i == MTIME {
            if lost {
                out[i] = head[i].max(mine[i]);
            }
        } else if lost {
            rep.insert((at.to_owned(), Reg::Attr(i)));
        }
    }
    out
}

fn report_attrs(was: &Attrs, is: &Attrs, is_dir: bool, at: &str, rep: &mut Report) {
    for i in (0..ATTRS).filter(|i| was[*i] != is[*i] && !(is_dir && *i == MTIME)) {
        rep.insert((at.to_owned(), Reg::Attr(i)));
    }
}

fn merge_node(
    base: Option<&Node>,
    head: Option<&Node>,
    mine: Option<&Node>,
    at: &str,
    rep: &mut Report,
) -> Option<Node> {
    if mine == base {
        return head.cloned();
    }
    if head == base || head == mine {
        return mine.cloned();
    }
    let content = |rep: &mut Report| rep.insert((at.to_owned(), Reg::Content));
    let dir = |node: Option<&'_ Node>| node.and_then(Node::dir).cloned();
    match mine {
        Some(Node::Dir(_)) => {
            if head.is_some_and(|head| !head.is_dir()) {
                // The head put a file where I have a directory: only what I changed inside, or the directory I made.
                let out = merge_dir(dir(base), None, dir(mine), at, rep);
                if out.is_none() {
                    return head.cloned();
                }
                content(rep);
                return out.map(Node::Dir);
            }
            merge_dir(dir(base), dir(head), dir(mine), at, rep).map(Node::Dir)
        }
        None => match (base, head) {
            (Some(Node::Dir(_)), Some(Node::Dir(_))) => {
                merge_dir(dir(base), dir(head), None, at, rep).map(Node::Dir)
            }
            (_, Some(Node::Dir(_))) => head.cloned(),
            // It became a file meanwhile, which I never saw.
            (Some(Node::Dir(_)), _) => head.cloned(),
            (Some(base), Some(head)) => {
                let (base, head) = (base.file().unwrap(), head.file().unwrap());
                if base.content != head.content {
                    content(rep);
                }
                report_attrs(&base.attrs, &head.attrs, false, at, rep);
                None
            }
            _ => unreachable!("mine is not the base"),
        },
        Some(mine) => {
            let mine_file = mine.file().expect("no hard links here");
            let base_file = base.and_then(Node::file);
            let edited = base_file.is_none_or(|base| base.content != mine_file.content);
            let Some(head_file) = head.and_then(Node::file) else {
                if !edited {
                    return head.cloned();
                }
                if base.is_none() || base_file.is_some() || head.is_some() {
                    content(rep);
                }
                return Some(mine.clone());
            };
            let (value, lost) = m3(
                base_file.map(|base| base.content),
                head_file.content,
                mine_file.content,
            );
            if lost {
                content(rep);
            }
            let attrs = merge_attrs(
                base_file.map(|base| &base.attrs),
                &head_file.attrs,
                &mine_file.attrs,
                false,
                at,
                rep,
            );
            Some(Node::File(File {
                content: value,
                attrs,
            }))
        }
    }
}

fn merge_dir(
    base: Option<Dir>,
    head: Option<Dir>,
    mine: Option<Dir>,
    at: &str,
    rep: &mut Report,
) -> Option<Dir> {
    let get = |dir: &Option<Dir>, name: &str| dir.as_ref().and_then(|dir| dir.names.get(name).cloned());
    let names: BTreeSet<&String> = [&base, &head, &mine]
        .into_iter()
        .flatten()
        .flat_map(|dir| dir.names.keys())
        .collect();
    let mut out = Dir::default();
    for name in names {
        let (b, h, m) = (get(&base, name), get(&head, name), get(&mine, name));
        if let Some(node) = merge_node(b.as_ref(), h.as_ref(), m.as_ref(), &join(at, name), rep) {
            out.names.insert(name.clone(), node);
        }
    }
    // That there is a directory is a register too.
    let exists = if mine.is_some() != base.is_some() {
        mine.is_some()
    } else {
        head.is_some()
    };
    if out.names.is_empty() && !exists {
        if let (Some(base), Some(head), None) = (&base, &head, &mine) {
            report_attrs(&base.attrs, &head.attrs, true, at, rep);
        }
        return None;
    }
    out.attrs = match (&head, &mine) {
        (Some(head), Some(mine)) => merge_attrs(
            base.as_ref().map(|base| &base.attrs),
            &head.attrs,
            &mine.attrs,
            true,
            at,
            rep,
        ),
        _ => head.or(mine).or(base).map(|dir| dir.attrs).unwrap_or_default(),
    };
    Some(out)
}

// ---- moves

/// All sources out, deepest first, then in, shallowest first. Fails with the first target whose place is taken.
fn apply_hints(tree: &Dir, hints: &[Hint], mine: &Dir) -> Result<Dir, String> {
    let mut tree = tree.clone();
    let depth = |path: &str| path.matches('/').count();
    let mut sources: Vec<&Hint> = hints.iter().collect();
    sources.sort_by_key(|(from, _)| std::cmp::Reverse(depth(from)));
    let mut carried: Vec<(&String, Option<Node>)> = sources
        .into_iter()
        .map(|(from, to)| (to, tree.remove(from)))
        .collect();
    carried.sort_by_key(|(to, _)| depth(to));
    for (to, node) in carried {
        for (at, _) in to.match_indices('/') {
            let above = &to[..at];
            match tree.get(above) {
                None => {
                    let attrs = mine.dir_at(above).expect("mine has the target").attrs;
                    tree.put(
                        above,
                        Node::Dir(Dir {
                            attrs,
                            names: BTreeMap::new(),
                        }),
                    );
                }
                Some(Node::Dir(_)) => {}
                Some(_) => return Err(to.clone()),
            }
        }
        match node {
            Some(node) if tree.get(to).is_none() => tree.put(to, node),
            _ => return Err(to.clone()),
        }
    }
    Ok(tree)
}

pub fn usable_hints(base: &Dir, head: &Dir, mine: &Dir, renames: &[Hint]) -> Vec<Hint> {
    let is_dir = |dir: &Dir, path: &str| dir.get(path).map(Node::is_dir);
    let holds = |(from, to): &&Hint| {
        let (Some(moved), Some(was), Some(theirs)) =
            (is_dir(mine, to), is_dir(base, from), is_dir(head, from))
        else {
            return false;
        };
        let again = renames.iter().any(|(_, other)| other == from);
        (was || again || mine.get(from).is_none()) && was == theirs && was == moved
    };
    let mut hints: Vec<Hint> = renames.iter().filter(holds).cloned().collect();
    loop {
        let taken = [base, head]
            .into_iter()
            .find_map(|tree| apply_hints(tree, &hints, mine).err());
        let Some(taken) = taken else { return hints };
        hints.retain(|(_, to)| *to != taken);
    }
}

pub struct Merged {
    pub root: Dir,
    pub report: Report,
    pub used: Vec<Hint>,
}

pub fn merge(base: &Dir, head: &Dir, mine: &Dir, renames: &[Hint]) -> Merged {
    merge_with(base, head, mine, usable_hints(base, head, mine, renames))
}

/// The same with the hints that were found usable: alone they may not look so, as one of a file whose old name is taken by
/// a move that is not usable.
pub fn merge_with(base: &Dir, head: &Dir, mine: &Dir, used: Vec<Hint>) -> Merged {
    let moved = |tree: &Dir| Node::Dir(apply_hints(tree, &used, mine).expect("usable"));
    let (base, head, mine) = (moved(base), moved(head), Node::Dir(mine.clone()));
    let mut report = Report::new();
    let root = merge_node(Some(&base), Some(&head), Some(&mine), "", &mut report);
    Merged {
        root: root.and_then(|root| root.dir().cloned()).expect("the root stays"),
        report,
        used,
    }
}

/// The rule of the first draft, which is wrong: a log of moves, applied one after the other, no look at what mine has.
pub fn apply_in_turn(base: &Dir, head: &Dir, hints: &[Hint]) -> (Dir, Dir) {
    let (mut base, mut head) = (base.clone(), head.clone());
    for (from, to) in hints {
        if head.get(from).is_none() || head.get(to).is_some() {
            continue;
        }
        for tree in [&mut base, &mut head] {
            let Some(node) = tree.remove(from) else { continue };
            for (at, _) in to.match_indices('/') {
                if !tree.get(&to[..at]).is_some_and(Node::is_dir) {
                    tree.put(&to[..at], Node::Dir(Dir::default()));
                }
            }
            tree.put(to, node);
        }
    }
    (base, head)
}

// ---- where entries come from

/// For each path of a view its path in the base, for everything that was not made since.
pub type Origin = BTreeMap<String, String>;

pub fn untouched(dir: &Dir) -> Origin {
    dir.flat().into_keys().map(|path| (path.clone(), path)).collect()
}

/// Outermost pairs (path in the base, path in the view) that the move of a directory above does not already say.
pub fn net_moves(origin: &Origin) -> Vec<Hint> {
    let said = |view: &str, from: &str| {
        let dir = up(view);
        let name = view.rsplit('/').next().unwrap();
        let above = if dir.is_empty() {
            Some("")
        } else {
            origin.get(dir).map(String::as_str)
        };
        above.is_some_and(|above| join(above, name) == from)
    };
    let moved = origin.iter().filter(|(view, from)| !said(view, from));
    moved.map(|(view, from)| (from.clone(), view.clone())).collect()
}

/// Where the entries of a view that was put onto a new base come from: used hints are still moves.
pub fn origin_on(view: &Dir, base: &Flat, used: &[Hint]) -> Origin {
    let mut origin = untouched(view);
    origin.retain(|path, _| {
        base.contains_key(path) && !used.iter().any(|(from, to)| under(path, to) || under(path, from))
    });
    for (from, to) in used {
        for path in view.flat().into_keys().filter(|path| under(path, to)) {
            let source = format!("{from}{}", &path[to.len()..]);
            let nearer = used
                .iter()
                .any(|(_, other)| under(&path, other) && other.len() > to.len());
            if base.contains_key(&source) && !nearer {
                origin.insert(path, source);
            }
        }
    }
    origin
}

// ---- the flat rule

/// Applies to `onto` what changed from `base` to `mine`, register by register; gives what was overwritten too.
pub fn replay(onto: &Flat, base: &Flat, mine: &Flat) -> (Flat, Report) {
    let (mut onto, mut over) = (onto.clone(), Report::new());
    replay_files(&mut onto, base, mine, &mut over);
    for (path, item) in mine {
        let Item::Dir(attrs) = item else { continue };
        let was = base.get(path);
        if was == Some(item) {
            continue;
        }
        match onto.get(path) {
            None if was.is_none() => drop(onto.insert(path.clone(), item.clone())),
            None => {}
            Some(there) => {
                let merged = merge_attrs(was.map(Item::attrs), there.attrs(), attrs, true, path, &mut over);
                onto.insert(path.clone(), Item::Dir(merged));
            }
        }
    }
    // What exists needs its directories.
    let paths: Vec<String> = onto.keys().cloned().collect();
    for path in &paths {
        let mut dir = up(path);
        while !dir.is_empty() && !onto.contains_key(dir) {
            let item = mine
                .get(dir)
                .or(base.get(dir))
                .expect("one of them had the directory")
                .clone();
            onto.insert(dir.to_owned(), item);
            dir = up(dir);
        }
    }
    for (path, was) in base.iter().rev() {
        let removed = matches!(was, Item::Dir(_)) && !mine.contains_key(path);
        if removed && onto.contains_key(path) && !onto.keys().any(|other| other != path && under(other, path))
        {
            let there = onto.remove(path).expect("just seen");
            report_attrs(was.attrs(), there.attrs(), true, path, &mut over);
        }
    }
    (onto, over)
}

fn replay_files(onto: &mut Flat, base: &Flat, mine: &Flat, over: &mut Report) {
    let paths: BTreeSet<&String> = base.keys().chain(mine.keys()).collect();
    for path in paths {
        let (was, is) = (base.get(path), mine.get(path));
        if was == is || matches!(was.or(is), Some(Item::Dir(_))) {
            continue;
        }
        let there = onto.get(path).and_then(Item::file).cloned();
        let was = was.and_then(Item::file);
        let Some(is) = is.and_then(Item::file) else {
            if let (Some(there), Some(was)) = (there, was) {
                if there.content != was.content {
                    over.insert((path.clone(), Reg::Content));
                }
                report_attrs(&was.attrs, &there.attrs, false, path, over);
                onto.remove(path);
            }
            continue;
        };
        let Some(there) = there else {
            if was.is_none_or(|was| was.content != is.content) {
                if was.is_some() {
                    // I bring back what another deleted.
                    over.insert((path.clone(), Reg::Content));
                }
                onto.insert(path.clone(), Item::File(is.clone()));
            }
            continue;
        };
        let (content, lost) = m3(was.map(|was| was.content), there.content, is.content);
        if lost {
            over.insert((path.clone(), Reg::Content));
        }
        let attrs = merge_attrs(
            was.map(|was| &was.attrs),
            &there.attrs,
            &is.attrs,
            false,
            path,
            over,
        );
        onto.insert(path.clone(), Item::File(File { content, attrs }));
    }
}
