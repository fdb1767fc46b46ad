//! Random users who make hard links, too. There is no second implementation to compare with here: names, link counts
//! and the links tree must belong together, nothing may be lost unsaid, names follow the rule of names, and sharing and
//! storing must make no difference.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{ATTRS, File, Hint, Item, Node, Origin, Reg, Tree, join, net_moves, under, untouched, up};
use super::random::{Random, dirs_of};
use super::real::{Outcome, Sharing, World, names_of, paths_of};
use super::{Rules, for_seeds, same};

/// One user's tree: what it is now, and where its names come from.
#[derive(Clone)]
struct View {
    tree: Tree,
    origin: Origin,
}

impl View {
    fn new(tree: &Tree) -> View {
        View {
            tree: tree.clone(),
            origin: untouched(&tree.root),
        }
    }

    fn files(&self) -> Vec<String> {
        let flat = self.tree.root.flat().into_iter();
        flat.filter(|(_, item)| !matches!(item, Item::Dir(_)))
            .map(|(path, _)| path)
            .collect()
    }

    /// A free name in some directory, or the name of a file there.
    fn place(&self, random: &mut Random) -> String {
        let dirs = dirs_of(&self.tree.root);
        join(&dirs[random.below(dirs.len())], ["a", "b", "c"][random.below(3)])
    }

    fn inode(&mut self, path: &str) -> Option<&mut File> {
        let dir = self.tree.root.dir_mut(up(path))?;
        match dir.names.get_mut(path.rsplit('/').next()?)? {
            Node::File(file) => Some(file),
            Node::Link(id) => self.tree.inodes.get_mut(id),
            Node::Dir(_) => None,
        }
    }

    fn remove(&mut self, path: &str) {
        self.tree.root.remove(path);
        self.origin.retain(|view, _| !under(view, path));
        let names = names_of(&self.tree.root);
        self.tree.inodes.retain(|id, _| names.contains_key(id));
    }

    fn put(&mut self, path: &str, node: Node) {
        self.remove(path);
        self.tree.root.put(path, node);
    }

    fn link(&mut self, random: &mut Random, from: &str, to: &str) {
        if self.tree.root.get(to).is_some() {
            return;
        }
        let id = match self.tree.root.get(from) {
            Some(Node::Link(id)) => *id,
            Some(Node::File(file)) => {
                let (id, file) = (random.fresh(), file.clone());
                self.tree.inodes.insert(id, file);
                self.tree.root.put(from, Node::Link(id));
                id
            }
            _ => return,
        };
        self.tree.root.put(to, Node::Link(id));
    }

    fn rename(&mut self, from: &str, to: &str) {
        if under(from, to) || under(to, from) || self.tree.root.get(to).is_some_and(Node::is_dir) {
            return;
        }
        let Some(node) = self.tree.root.get(from).cloned() else {
            return;
        };
        if node.is_dir() && self.tree.root.get(to).is_some() {
            return;
        }
        let two_names_of_one =
            matches!((&node, self.tree.root.get(to)), (Node::Link(a), Some(Node::Link(b))) if a == b);
        if two_names_of_one {
            return;
        }
        let moved: Vec<(String, String)> = self
            .origin
            .iter()
            .filter(|(view, _)| under(view, from))
            .map(|(v, o)| (v.clone(), o.clone()))
            .collect();
        self.put(to, node);
        self.tree.root.remove(from);
        for (view, origin) in moved {
            self.origin.remove(&view);
            self.origin.insert(format!("{to}{}", &view[from.len()..]), origin);
        }
    }

    fn change(&mut self, random: &mut Random, moves: bool) {
        for _ in 0..1 + random.below(4) {
            let files = self.files();
            let place = self.place(random);
            let file = if files.is_empty() {
                place.clone()
            } else {
                random.pick(&files).clone()
            };
            match random.below(100) {
                0..15 => self.put_file(random, &place),
                15..35 => {
                    let content = random.fresh();
                    if let Some(inode) = self.inode(&file) {
                        inode.content = content;
                    }
                }
                35..45 => {
                    if let Some(inode) = self.inode(&file) {
                        random.change_attrs(&mut inode.attrs, 30);
                    }
                }
                45..60 => self.remove(&file),
                60..80 => self.link(random, &file, &place),
                80..85 => {
                    let dirs = dirs_of(&self.tree.root);
                    let dir = random.pick(&dirs).clone();
                    if !dir.is_empty() {
                        self.remove(&dir);
                    }
                }
                _ if moves && random.chance(60) => self.rename(&file, &place),
                _ if moves => {
                    let dirs = dirs_of(&self.tree.root);
                    let (from, into) = (random.pick(&dirs).clone(), random.pick(&dirs).clone());
                    if !from.is_empty() {
                        self.rename(&from, &join(&into, ["d", "e"][random.below(2)]));
                    }
                }
                // Saved by rename-over.
                _ => self.put_file(random, &file),
            }
        }
    }

    fn put_file(&mut self, random: &mut Random, path: &str) {
        if !self.tree.root.get(path).is_some_and(Node::is_dir) {
            let file = random.file();
            self.put(path, Node::File(file));
        }
    }
}

fn random_tree(random: &mut Random) -> Tree {
    let mut view = View::new(&random.dir(0).into());
    for _ in 0..random.below(4) {
        let (files, place) = (view.files(), view.place(random));
        if !files.is_empty() {
            let file = random.pick(&files).clone();
            view.link(random, &file, &place);
        }
    }
    view.tree
}

fn file_at<'a>(tree: &'a Tree, path: &str) -> Option<&'a File> {
    match tree.root.get(path)? {
        Node::File(file) => Some(file),
        Node::Link(id) => tree.inodes.get(id),
        Node::Dir(_) => None,
    }
}

fn files(tree: &Tree) -> BTreeMap<String, File> {
    let paths = tree.root.flat().into_keys();
    paths
        .filter_map(|path| Some((path.clone(), file_at(tree, &path)?.clone())))
        .collect()
}

fn value(file: &File, reg: Reg) -> u32 {
    match reg {
        Reg::Content => file.content,
        Reg::Attr(at) => file.attrs[at],
    }
}

fn check(what: &str, [base, head, mine]: [&Tree; 3], outcome: &Outcome) -> Result<(), String> {
    let [was, theirs, ours, after] = [base, head, mine, &outcome.tree].map(files);
    let known: BTreeSet<u32> = was.values().map(|file| file.content).collect();
    for (path, file) in ours.iter().filter(|(_, file)| !known.contains(&file.content)) {
        let alone = matches!(mine.root.get(path), Some(Node::File(_)));
        let kept = if alone {
            after.get(path).is_some_and(|after| after.content == file.content)
        } else {
            after.values().any(|after| after.content == file.content)
        };
        // Two files of mine that the head made one, or an inode that the head made of one that I wrote and removed
        // elsewhere, cannot make mine's contents vanish either.
        if !kept {
            return Err(format!("{what}: own {path}, {file:?}, is not in the result"));
        }
    }
    let mut reported: BTreeSet<String> = outcome.report.iter().map(|(path, _)| path.clone()).collect();
    for (path, _) in &outcome.report {
        let moved = outcome.used.iter().filter(|(_, to)| under(path, to));
        reported.extend(moved.map(|(from, to)| format!("{from}{}", &path[to.len()..])));
    }
    let names: Vec<BTreeMap<u32, Vec<String>>> = [base, head, mine]
        .iter()
        .map(|tree| paths_of(&tree.root))
        .collect();
    for reg in std::iter::once(Reg::Content).chain((0..ATTRS).map(Reg::Attr)) {
        let values =
            |files: &BTreeMap<String, File>| files.values().map(|f| value(f, reg)).collect::<BTreeSet<_>>();
        let (known, there) = (values(&was), values(&after));
        for (path, file) in &theirs {
            let value = value(file, reg);
            if value == 0 || known.contains(&value) || there.contains(&value) {
                continue;
            }
            let mut paths = vec![path.clone()];
            if let Some(Node::Link(id)) = head.root.get(path) {
                paths.extend(names.iter().filter_map(|names| names.get(id)).flatten().cloned());
            }
            let said = paths.iter().any(|path| {
                reported
                    .iter()
                    .any(|other| under(other, path) || under(path, other))
            });
            // The attributes of a lost new file go with it.
            if !said && (reg == Reg::Content || was.contains_key(path)) {
                return Err(format!(
                    "{what}: {path} {reg:?} of the head, {file:?}, is lost and not reported"
                ));
            }
        }
    }
    Ok(())
}

/// The rule of names, where nobody moved a directory.
fn check_names(what: &str, [base, head, mine]: [&Tree; 3], outcome: &Outcome) -> Result<(), String> {
    let id = |tree: &Tree, path: &str| match tree.root.get(path) {
        None => None,
        Some(Node::Link(id)) => Some(Some(*id)),
        Some(_) => Some(None),
    };
    let paths: BTreeSet<String> = [base, head, mine]
        .iter()
        .flat_map(|tree| files(tree).into_keys())
        .collect();
    for path in &paths {
        let (was, theirs, ours) = (id(base, path), id(head, path), id(mine, path));
        let is = id(&outcome.tree, path);
        let written =
            file_at(base, path).map(|file| file.content) != file_at(mine, path).map(|file| file.content);
        let fine = match (was, theirs, ours) {
            // Added or relinked by me; removed by me and left alone by the head.
            (None, _, Some(ours)) if ours.is_some() || theirs.is_none() => is == Some(ours),
            (Some(was), _, Some(Some(link))) if was != Some(link) && theirs.is_some() => {
                is == Some(Some(link))
            }
            (Some(_), _, None) => is.is_none(),
            // I left the name alone: as the head has it, unless I wrote the inode and it came back.
            (Some(Some(link)), theirs, Some(Some(same))) if link == same => {
                is == theirs || written && is == ours
            }
            (None, theirs, None) => is == theirs,
            _ => true,
        };
        if !fine {
            return Err(format!(
                "{what}: name {path}: {was:?}, {theirs:?}, {ours:?} became {is:?}"
            ));
        }
    }
    Ok(())
}

/// Merges twice, sharing and storing as it comes and nothing at all, and looks at the result.
fn merged(
    what: &str,
    seed: u64,
    world: &mut World,
    trees: [&Tree; 3],
    hints: &[Hint],
) -> Result<Tree, String> {
    let outcome = world.merge(trees, hints).map_err(|e| format!("{what}: {e}"))?;
    let mut apart = World::new(seed, Sharing { shared: 0, stored: 0 });
    apart.rules = world.rules;
    let unpruned = apart.merge(trees, hints).map_err(|e| format!("{what}: {e}"))?;
    same(&format!("{what}, shared and not"), &outcome.tree, &unpruned.tree)?;
    same(
        &format!("{what}, shared and not"),
        &outcome.report,
        &unpruned.report,
    )?;
    same(&format!("{what}, shared and not"), &outcome.used, &unpruned.used)?;
    check(what, trees, &outcome)?;
    if hints.is_empty() {
        check_names(what, trees, &outcome)?;
    }
    Ok(outcome.tree)
}

pub fn single(seed: u64, moves: bool, rules: Rules) -> Result<(), String> {
    let mut random = Random::new(seed);
    let base = random_tree(&mut random);
    let (mut head, mut mine) = (View::new(&base), View::new(&base));
    head.change(&mut random, moves);
    mine.change(&mut random, moves);
    let hints = if moves {
        net_moves(&mine.origin)
    } else {
        Vec::new()
    };
    let (shared, stored) = *random.pick(&[(100, 0), (100, 100), (70, 40)]);
    let mut world = World::new(seed, Sharing { shared, stored });
    world.rules = rules;
    merged("merge", seed, &mut world, [&base, &head.tree, &mine.tree], &hints)?;
    Ok(())
}

struct Mount {
    base: Tree,
    view: View,
    stash: Vec<(Tree, View)>,
}

fn history(seed: u64, moves: bool) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut head = random_tree(&mut random);
    let mut world = World::new(
        seed,
        Sharing {
            shared: 90,
            stored: 20,
        },
    );
    let mut mounts: Vec<Mount> = (0..2 + random.below(2))
        .map(|_| Mount {
            base: head.clone(),
            view: View::new(&head),
            stash: Vec::new(),
        })
        .collect();
    for _ in 0..6 + random.below(15) {
        let at = random.below(mounts.len());
        let mount = &mut mounts[at];
        let hints = if moves {
            net_moves(&mount.view.origin)
        } else {
            Vec::new()
        };
        match random.below(100) {
            0..45 => mount.view.change(&mut random, moves),
            45..70 => {
                let frozen = mount.view.tree.clone();
                head = merged("commit", seed, &mut world, [&mount.base, &head, &frozen], &hints)?;
                mount.base = frozen;
                mount.view.origin = untouched(&mount.view.tree.root);
            }
            70..80 => {
                if mount.view.tree != mount.base {
                    mount.stash.push((mount.base.clone(), mount.view.clone()));
                }
                mount.base = head.clone();
                mount.view = View::new(&head);
            }
            80..90 => {
                let kept = merged(
                    "keep",
                    seed,
                    &mut world,
                    [&mount.base, &head, &mount.view.tree],
                    &hints,
                )?;
                mount.base = head.clone();
                mount.view = View::new(&kept);
                let flat = head.root.flat();
                mount.view.origin.retain(|path, _| flat.contains_key(path));
            }
            _ => {
                let Some((base, stashed)) = mount.stash.pop() else {
                    continue;
                };
                let hints = if moves {
                    net_moves(&stashed.origin)
                } else {
                    Vec::new()
                };
                let restored = merged(
                    "restore",
                    seed,
                    &mut world,
                    [&base, &mount.view.tree, &stashed.tree],
                    &hints,
                )?;
                let flat = restored.root.flat();
                mount.view.origin.retain(|path, _| flat.contains_key(path));
                mount.view.tree = restored;
            }
        }
    }
    Ok(())
}

#[test]
fn merges_with_hard_links_keep_names_counts_and_contents() {
    for_seeds(200, |seed| single(seed, false, Rules::default()));
}

#[test]
fn merges_with_hard_links_and_moves_keep_names_counts_and_contents() {
    for_seeds(200, |seed| single(seed, true, Rules::default()));
}

#[test]
fn histories_with_hard_links_keep_names_counts_and_contents() {
    for_seeds(30, |seed| history(seed, false));
    for_seeds(30, |seed| history(seed, true));
}
