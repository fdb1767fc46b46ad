//! Overlay to tree and back, and whole commits, against a model of plain maps.

use std::collections::BTreeMap;

use super::mount::*;
use crate::commit::*;
use crate::model::Content;
use crate::volume::testing::*;

/// What the view must show: path to kind, and for files mode and inode number, bytes by inode number.
#[derive(Clone, Debug, Default)]
struct Model {
    dirs: BTreeMap<String, u16>,
    files: BTreeMap<String, usize>,
    /// Mode, bytes, ever had two names.
    inodes: Vec<(u16, String, bool)>,
}

impl Model {
    fn shown(&self) -> BTreeMap<String, String> {
        let dirs = self
            .dirs
            .iter()
            .map(|(path, mode)| (path.clone(), format!("d {mode:o}")));
        let files = self.files.iter().map(|(path, inode)| {
            let (mode, bytes, linked) = &self.inodes[*inode];
            (
                path.clone(),
                format!("{} {mode:o} {bytes}", if *linked { "l" } else { "f" }),
            )
        });
        let root = std::iter::once(("/".to_owned(), "d 755".to_owned()));
        root.chain(dirs).chain(files).collect()
    }

    fn is_free(&self, path: &str) -> bool {
        !self.dirs.contains_key(path) && !self.files.contains_key(path)
    }

    fn move_dir(&mut self, from: &str, to: &str) {
        let below = |path: &str| path == from || path.starts_with(&format!("{from}/"));
        let renamed = |path: &str| format!("{to}{}", &path[from.len()..]);
        let dirs = std::mem::take(&mut self.dirs);
        self.dirs = dirs
            .into_iter()
            .map(|(p, v)| (if below(&p) { renamed(&p) } else { p }, v))
            .collect();
        let files = std::mem::take(&mut self.files);
        self.files = files
            .into_iter()
            .map(|(p, v)| (if below(&p) { renamed(&p) } else { p }, v))
            .collect();
    }
}

/// One random change of both.
async fn step(rng: &mut Rng, mount: &mut Mount, model: &mut Model) {
    let pick = |rng: &mut Rng, keys: Vec<&String>| -> Option<String> {
        if keys.is_empty() {
            None
        } else {
            Some(keys[rng.below(keys.len() as u64) as usize].clone())
        }
    };
    let dir = match rng.below(3) {
        0 => String::new(),
        _ => pick(rng, model.dirs.keys().collect()).unwrap_or_default(),
    };
    let target = format!("{dir}/{}", ["a", "b", "c", "d", "e"][rng.below(5) as usize]);
    if target.matches('/').count() > 4 {
        return;
    }
    let file = pick(rng, model.files.keys().collect());
    let some_dir = pick(rng, model.dirs.keys().collect());
    let bytes = format!("{}-{}", mount.by, mount.tick);
    match rng.below(10) {
        0..=2 if !model.dirs.contains_key(&target) => {
            mount.write(&target, bytes.clone()).await;
            match model.files.get(&target) {
                Some(inode) => model.inodes[*inode].1 = bytes,
                None => {
                    model.inodes.push((0o644, bytes, false));
                    model.files.insert(target, model.inodes.len() - 1);
                }
            }
        }
        3 if model.is_free(&target) => {
            mount.mkdir(&target).await;
            model.dirs.insert(target, 0o755);
        }
        4 => {
            if let Some(file) = file {
                mount.remove(&file).await;
                model.files.remove(&file);
            }
        }
        5 => {
            if let Some(file) = file.filter(|file| *file != target && !model.dirs.contains_key(&target)) {
                if model.files.get(&target) == model.files.get(&file) {
                    return; // renaming one name of an inode over another does nothing
                }
                mount.rename(&file, &target).await;
                let inode = model.files.remove(&file).unwrap();
                model.files.insert(target, inode);
            }
        }
        6 => {
            if let Some(from) = some_dir
                && model.is_free(&target)
                && !target.starts_with(&format!("{from}/"))
                && !model.dirs.keys().any(|d| d.matches('/').count() > 2)
            {
                mount.rename(&from, &target).await;
                model.move_dir(&from, &target);
            }
        }
        7 => {
            if let Some(file) = file.filter(|_| model.is_free(&target)) {
                mount.link(&file, &target).await;
                let inode = model.files[&file];
                model.inodes[inode].2 = true;
                model.files.insert(target, inode);
            }
        }
        8 => {
            if let Some(dir) = some_dir
                && !model
                    .dirs
                    .keys()
                    .chain(model.files.keys())
                    .any(|p| p.starts_with(&format!("{dir}/")))
            {
                mount.remove(&dir).await;
                model.dirs.remove(&dir);
            }
        }
        _ => {
            let mode = [0o600, 0o640, 0o700][rng.below(3) as usize];
            if rng.chance(50)
                && let Some(dir) = some_dir
            {
                mount.chmod(&dir, mode).await;
                model.dirs.insert(dir, mode);
            } else if let Some(file) = file {
                mount.chmod(&file, mode).await;
                model.inodes[model.files[&file]].0 = mode;
            }
        }
    }
}

#[tokio::test]
async fn what_a_mount_shows_is_what_it_builds_restores_and_publishes() {
    for seed in seeds(0, 40) {
        let mut rng = Rng::new(seed);
        let store = scripted();
        let mut mount = Mount::new(new_volume(&store, "v").await);
        let mut model = Model::default();
        for round in 0..4 {
            for _ in 0..rng.below(25) {
                step(&mut rng, &mut mount, &mut model).await;
            }
            let built = mount.build().await;
            let want = model.shown();
            assert_eq!(
                mount.flat(&built.tree).await,
                want,
                "seed {seed} round {round}: build"
            );
            // Restore on the same base must give the same view, with the same files.
            let target = Target {
                head: &mount.base,
                base: mount.overlay.base.clone(),
                result: &built.tree,
                moves: &built.moves,
                live: &mount.overlay,
                others: &[],
            };
            let restored = restore(&mount.nodes, target).await.unwrap();
            let contents = mount.local_contents();
            let again = build(&mount.nodes, &mount.base, &restored, &contents)
                .await
                .unwrap();
            assert_eq!(
                mount.flat(&again.tree).await,
                want,
                "seed {seed} round {round}: restore"
            );
            assert_eq!(again.moves, built.moves, "seed {seed} round {round}: moves");
            for (node, (_, content)) in &contents {
                let hangs = mount.overlay.nodes[node].nlink > 0;
                assert!(
                    !hangs || restored.nodes.contains_key(node),
                    "seed {seed}: {content:?}"
                );
            }
            if rng.chance(30) {
                mount.overlay = restored;
            }
            if rng.chance(60) {
                let done = mount
                    .commit()
                    .await
                    .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert_eq!(
                    mount.flat(&done.record.record.root.root).await,
                    want,
                    "seed {seed} round {round}: record"
                );
                assert_eq!(mount.view().await, want, "seed {seed} round {round}: view after");
                assert!(mount.overlay.is_clean(), "seed {seed} round {round}");
                let fresh = Mount::new(reopen(&store, "v").await);
                assert_eq!(fresh.view().await, want, "seed {seed} round {round}: fresh mount");
            }
        }
    }
}

#[tokio::test]
async fn two_mounts_that_keep_their_changes_over_reloads_meet_in_one_tree() {
    for seed in seeds(0, 25) {
        let mut rng = Rng::new(1000 + seed);
        let store = scripted();
        let opened = new_volume(&store, "v").await;
        let mut first = Mount::new(opened.clone());
        let mut model = Model::default();
        for _ in 0..15 {
            step(&mut rng, &mut first, &mut model).await;
        }
        first.commit().await.unwrap();
        let mut mounts = [first, Mount::new(reopen(&store, "v").await)];
        mounts[1].by = "other".to_owned();
        mounts[1].tick = 50_000;
        mounts[1].overlay.next_node = 10_000;
        let mut models = [model.clone(), model];
        for round in 0..3 {
            for (mount, model) in mounts.iter_mut().zip(&mut models) {
                for _ in 0..rng.below(8) {
                    step(&mut rng, mount, model).await;
                }
            }
            let at = rng.below(2) as usize;
            let [a, b] = &mut mounts;
            let (one, two) = if at == 0 { (a, b) } else { (b, a) };
            one.commit().await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            // What the other shows after keeping its changes is the merge, and what its commit publishes.
            let (old, built) = (two.base.clone(), two.build().await);
            two.reload_keep().await;
            let shown = two.view().await;
            let theirs = two.base.clone();
            let merged = crate::tree::merge(&two.nodes, &old, &theirs, &built.tree, &built.moves)
                .await
                .unwrap();
            assert_eq!(
                shown,
                two.flat(&merged.root).await,
                "seed {seed} round {round}: kept"
            );
            let moves = two.build().await.moves;
            for used in &merged.used_hints {
                // What became a name of an inode with several is known by that, not by where it was.
                let (theirs, result) = (&theirs, &merged.root);
                let linked = is_link(two, theirs, &used.0).await || is_link(two, result, &used.1).await;
                assert!(linked || moves.contains(used), "seed {seed}: {used:?} {moves:?}");
            }
            let done = two.commit().await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(
                two.flat(&done.record.record.root.root).await,
                shown,
                "seed {seed} round {round}"
            );
            assert!(done.overwrote.is_empty(), "seed {seed}: already reported");
            one.reload().await;
            let now = one.view().await;
            assert_eq!(now, shown, "seed {seed} round {round}: reload");
            let model = model_of(one).await;
            models = [model.clone(), model];
            // Inodes are known by path from here on.
        }
    }
}

async fn is_link(mount: &Mount, root: &crate::model::TreeRoot, at: &crate::model::VolPath) -> bool {
    let entry = crate::tree::walk(&mount.nodes, root, at).await.unwrap();
    entry.is_some_and(|entry| entry.kind() == crate::model::Kind::HardLink)
}

/// A model of what a mount shows, links told apart by their identity.
async fn model_of(mount: &Mount) -> Model {
    use crate::model::{EntryBody, VolPath};
    let root = &mount.base;
    let mut model = Model::default();
    let mut inodes = BTreeMap::new();
    let mut open = vec![(VolPath::root(), root.as_entry())];
    while let Some((at, entry)) = open.pop() {
        let (entry, link) = match entry.body {
            EntryBody::HardLink(id) => {
                let inode = crate::tree::link(&mount.nodes, &root.links, &id)
                    .await
                    .unwrap()
                    .unwrap();
                (inode.entry, Some(id))
            }
            _ => (entry, None),
        };
        match &entry.body {
            EntryBody::Dir { tree, .. } => {
                let below = crate::tree::entries(&mount.nodes, tree).await.unwrap();
                open.extend(below.into_iter().map(|(name, entry)| (at.join(&name), entry)));
                if !at.0.is_empty() {
                    model.dirs.insert(at.to_string(), entry.attrs.mode);
                }
            }
            EntryBody::File {
                content: Content::Tiny(bytes),
                ..
            } => {
                let known = link.and_then(|id| inodes.get(&id).copied());
                let inode = known.unwrap_or_else(|| {
                    let bytes = String::from_utf8(bytes.to_vec()).unwrap();
                    model.inodes.push((entry.attrs.mode, bytes, link.is_some()));
                    model.inodes.len() - 1
                });
                if let Some(id) = link {
                    inodes.insert(id, inode);
                }
                model.files.insert(at.to_string(), inode);
            }
            other => panic!("{other:?}"),
        }
    }
    model
}
