//! Random trees, and users who change them.

use std::collections::BTreeMap;

use super::model::{ATTRS, Attrs, Dir, FIRST_XATTR, File, Node, Origin, join, under, up};

/// A small generator (splitmix64): the same numbers for the same seed, everywhere.
pub struct Random {
    state: u64,
    fresh: u32,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random {
            state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5851_f42d,
            fresh: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A value that no register had before; always growing, as times do.
    pub fn fresh(&mut self) -> u32 {
        self.fresh += 1;
        assert!(self.fresh < 0o7777, "a mode has 12 bits");
        self.fresh
    }

    pub fn attrs(&mut self) -> Attrs {
        let mut attrs = [0; ATTRS];
        self.change_attrs(&mut attrs, 100);
        attrs
    }

    /// Changes each attribute with this probability, and at least one.
    pub fn change_attrs(&mut self, attrs: &mut Attrs, percent: usize) {
        let at_least = self.below(ATTRS);
        for (i, attr) in attrs.iter_mut().enumerate() {
            if i == at_least || self.chance(percent) {
                let removed = i >= FIRST_XATTR && self.chance(30);
                *attr = if removed { 0 } else { self.fresh() };
            }
        }
    }

    pub fn file(&mut self) -> File {
        File {
            content: self.fresh(),
            attrs: self.attrs(),
        }
    }

    /// Files `a b c`, directories `d e`.
    pub fn dir(&mut self, depth: usize) -> Dir {
        let mut dir = Dir {
            attrs: self.attrs(),
            names: BTreeMap::new(),
        };
        for name in ["a", "b", "c"] {
            if self.chance(50) {
                dir.names.insert(name.to_owned(), Node::File(self.file()));
            }
        }
        for name in ["d", "e"] {
            if depth < 2 && self.chance(50) {
                dir.names.insert(name.to_owned(), Node::Dir(self.dir(depth + 1)));
            }
        }
        dir
    }
}

/// What users may do.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub moves: bool,
    /// Any name may be a file or a directory, in turn.
    pub mixed: bool,
}

pub fn dirs_of(root: &Dir) -> Vec<String> {
    let flat = root.flat();
    let dirs = flat
        .into_iter()
        .filter(|(_, item)| item.file().is_none() && matches!(item, super::model::Item::Dir(_)));
    std::iter::once(String::new())
        .chain(dirs.map(|(path, _)| path))
        .collect()
}

/// A few operations of a user, in place.
pub fn change(random: &mut Random, root: &mut Dir, origin: &mut Origin, habits: Habits) {
    for _ in 0..1 + random.below(4) {
        let dirs = dirs_of(root);
        let dir = random.pick(&dirs).clone();
        let name = *random.pick(&["a", "b", "c", "d", "e"]);
        let path = join(&dir, name);
        let wants_dir = if habits.mixed {
            random.chance(40)
        } else {
            name == "d" || name == "e"
        };
        match random.below(100) {
            0..35 => write(random, root, origin, &path, wants_dir),
            35..50 => change_attrs_at(random, root, &path),
            50..75 => {
                root.remove(&path);
                origin.retain(|view, _| !under(view, &path));
            }
            _ if habits.moves => {
                let to = random.pick(&dirs).clone();
                move_to(random, root, origin, &path, &to, habits);
            }
            _ => {}
        }
    }
}

fn write(random: &mut Random, root: &mut Dir, origin: &mut Origin, path: &str, wants_dir: bool) {
    let old = root.get(path).cloned();
    let file = match old {
        None if wants_dir => {
            let attrs = random.attrs();
            return root.put(
                path,
                Node::Dir(Dir {
                    attrs,
                    names: BTreeMap::new(),
                }),
            );
        }
        _ if wants_dir => return,
        Some(Node::File(old)) => {
            if random.chance(40) {
                // Saved by rename-over: a new file.
                origin.remove(path);
            }
            let mut attrs = old.attrs;
            if random.chance(50) {
                random.change_attrs(&mut attrs, 30);
            }
            File {
                content: random.fresh(),
                attrs,
            }
        }
        Some(_) => return,
        None => random.file(),
    };
    root.put(path, Node::File(file));
}

fn change_attrs_at(random: &mut Random, root: &mut Dir, path: &str) {
    let Some(dir) = root.dir_mut(up(path)) else { return };
    match dir.names.get_mut(path.rsplit('/').next().unwrap()) {
        Some(Node::File(file)) => random.change_attrs(&mut file.attrs, 30),
        Some(Node::Dir(dir)) => random.change_attrs(&mut dir.attrs, 30),
        _ => {}
    }
}

fn move_to(random: &mut Random, root: &mut Dir, origin: &mut Origin, path: &str, dir: &str, habits: Habits) {
    let Some(is_dir) = root.get(path).map(Node::is_dir) else {
        return;
    };
    let names: &[&str] = match (habits.mixed, is_dir) {
        (true, _) => &["a", "b", "c", "d", "e"],
        (false, true) => &["d", "e"],
        (false, false) => &["a", "b", "c"],
    };
    let to = join(dir, names[random.below(names.len())]);
    let there = root.get(&to).map(Node::is_dir);
    if under(&to, path) || under(path, &to) || there.is_some_and(|there| there || is_dir) {
        return;
    }
    let node = root.remove(path).expect("just seen");
    root.put(&to, node);
    origin.retain(|view, _| !under(view, &to));
    let moved: Vec<String> = origin.keys().filter(|view| under(view, path)).cloned().collect();
    for view in moved {
        let from = origin.remove(&view).expect("just listed");
        origin.insert(format!("{to}{}", &view[path.len()..]), from);
    }
}
