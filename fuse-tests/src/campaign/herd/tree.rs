//! What a mount or a record holds: names of all directories. Copies share what is alike, so that every moment of a mount can
//! be kept, with directories of a hundred thousand names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::content::Node;
use crate::campaign::random::Random;

/// Pieces of a directory; a change copies one of them.
const SHARDS: usize = 64;

/// A name in a directory. The path of the volume's root is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path of the directory.
    pub dir: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl Place {
    /// A name in a directory.
    pub fn new(dir: &str, name: &str) -> Place {
        Place {
            dir: dir.into(),
            name: name.into(),
        }
    }

    /// Of a path, with or without a slash at its ends.
    pub fn of_path(path: &str) -> Place {
        let path = path.trim_matches('/');
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Place::new(dir, name)
    }

    /// From the volume's root.
    pub fn path(&self) -> String {
        join(&self.dir, &self.name)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// The path of a name in a directory.
pub fn join(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        _ => format!("{dir}/{name}"),
    }
}

/// What changes at places; `None`: the name goes.
pub type Changes = BTreeMap<Place, Option<Node>>;

type Shard = BTreeMap<Arc<str>, Node>;

/// The names of one directory.
#[derive(Clone)]
pub struct Dir {
    shards: Arc<Vec<Arc<Shard>>>,
    len: usize,
}

impl Default for Dir {
    fn default() -> Dir {
        Dir {
            shards: Arc::new(vec![Arc::default(); SHARDS]),
            len: 0,
        }
    }
}

fn shard_of(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as usize % SHARDS
}

impl Dir {
    /// Names.
    pub fn len(&self) -> usize {
        self.len
    }

    /// What a name stands for.
    pub fn get(&self, name: &str) -> Option<Node> {
        self.shards[shard_of(name)].get(name).copied()
    }

    /// Makes a name stand for something, or nothing.
    pub fn set(&mut self, name: &Arc<str>, node: Option<Node>) {
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard_of(name)]);
        let before = match node {
            Some(node) => shard.insert(name.clone(), node),
            None => shard.remove(name),
        };
        match (before, node) {
            (None, Some(_)) => self.len += 1,
            (Some(_), None) => self.len -= 1,
            _ => {}
        }
    }

    /// All names, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Node)> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| shard.iter().map(|(name, node)| (name, *node)))
    }

    /// One copy of the other that nothing was changed in since.
    pub fn same(&self, other: &Dir) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// Any name.
    pub fn pick(&self, random: &mut Random) -> Option<(Arc<str>, Node)> {
        let begin = random.range(0..SHARDS as u64) as usize;
        let shards = (0..SHARDS).map(|n| &self.shards[(begin + n) % SHARDS]);
        let shard = shards.into_iter().find(|shard| !shard.is_empty())?;
        let at = random.range(0..shard.len() as u64) as usize;
        shard.iter().nth(at).map(|(name, node)| (name.clone(), *node))
    }
}

/// All directories.
#[derive(Clone, Default)]
pub struct Tree {
    dirs: BTreeMap<Arc<str>, Dir>,
}

impl Tree {
    /// A volume with nothing in it.
    pub fn empty() -> Tree {
        Tree {
            dirs: [("".into(), Dir::default())].into(),
        }
    }

    /// A directory, if there is one.
    pub fn dir(&self, path: &str) -> Option<&Dir> {
        self.dirs.get(path)
    }

    /// Every directory with its path.
    pub fn dirs(&self) -> impl Iterator<Item = (&Arc<str>, &Dir)> {
        self.dirs.iter()
    }

    /// What is at a place.
    pub fn get(&self, place: &Place) -> Option<Node> {
        self.dirs.get(&place.dir)?.get(&place.name)
    }

    /// Changes a place. As a merge does it: a directory that is missing on the way is made, and is told; one that holds
    /// anything stays.
    pub fn set(&mut self, place: &Place, node: Option<Node>) -> Vec<Place> {
        let mut made = Vec::new();
        if node.is_some() && !self.dirs.contains_key(&place.dir) {
            let above = Place::of_path(&place.dir);
            made = self.set(&above, Some(Node::Dir));
            made.push(above);
        }
        let path: Arc<str> = place.path().into();
        let is_dir = self.dirs.contains_key(&path);
        if is_dir && node.is_none() {
            if self.dirs[&path].len() > 0 {
                return made;
            }
            self.dirs.remove(&path);
        }
        if node == Some(Node::Dir) && !is_dir {
            self.dirs.insert(path, Dir::default());
        }
        if let Some(dir) = self.dirs.get_mut(&place.dir) {
            dir.set(&place.name, node);
        }
        made
    }

    /// With all of these changes, each on its own.
    pub fn with(&self, changes: &Changes) -> Tree {
        let mut tree = self.clone();
        for (place, node) in changes {
            tree.set(place, *node);
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::Tag;
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let file = |n| Some(Node::File(Tag::new(1, n, 8)));
        let mut tree = Tree::empty();
        for n in 0..500 {
            tree.set(&Place::new("d", &format!("f{n}")), file(n));
        }
        let before = tree.clone();
        tree.set(&Place::new("d", "f7"), file(1000));
        tree.set(&Place::new("d", "f8"), None);
        assert_eq!(before.get(&Place::new("d", "f7")), file(7));
        assert_eq!(before.dir("d").unwrap().len(), 500);
        assert_eq!(tree.dir("d").unwrap().len(), 499);
        assert_eq!(tree.get(&Place::new("d", "f7")), file(1000));
        assert_eq!(tree.get(&Place::new("d", "f8")), None);
        assert!(!tree.dir("d").unwrap().same(before.dir("d").unwrap()));
        assert!(tree.dir("").unwrap().same(before.dir("").unwrap()));
    }

    #[test]
    fn directories_are_made_on_the_way_and_stay_while_they_hold_anything() {
        let mut tree = Tree::empty();
        let made = tree.set(&Place::new("a/b", "f"), Some(Node::File(Tag::new(1, 1, 8))));
        assert_eq!(made, [Place::new("", "a"), Place::new("a", "b")]);
        tree.set(&Place::new("a", "b"), None);
        assert_eq!(tree.get(&Place::new("a", "b")), Some(Node::Dir));
        tree.set(&Place::new("a/b", "f"), None);
        tree.set(&Place::new("a", "b"), None);
        assert!(tree.dir("a/b").is_none() && tree.get(&Place::new("a", "b")).is_none());
    }
}
