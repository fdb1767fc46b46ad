//! The volume's life around a program.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use fuse_tests::pod::Pod;
use tempfile::TempDir;

use super::program::{Event, Step};
use super::side::{Answer, Side, exact_tree};

/// A volume with the pod under test, another pod that publishes elsewhere, and the plain directory.
pub struct World {
    /// The store.
    work: TempDir,
    /// The plain directory, on a disk: a filesystem in memory knows fewer calls.
    plain: TempDir,
    pod: Pod,
    other: Pod,
    runs: Cell<u64>,
    published: Cell<u64>,
    counts: RefCell<BTreeMap<Event, u64>>,
}

impl World {
    /// A new volume.
    pub fn new() -> World {
        let work = tempfile::tempdir().unwrap();
        let store = format!("file://{}/store", work.path().display());
        let world = World {
            pod: Pod::new(&store),
            other: Pod::new(&store),
            runs: Cell::new(0),
            published: Cell::new(0),
            counts: RefCell::default(),
            work,
            plain: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        };
        world.other.mount("data", &["--create"]);
        fs::create_dir(world.other.path("elsewhere")).unwrap();
        world.other.commit("elsewhere");
        world.mount(&world.pod);
        world
    }

    fn mount(&self, pod: &Pod) {
        let more = std::env::var("SAILVOL_DIFF_MOUNT").unwrap_or_default();
        let options: Vec<&str> = more.split_whitespace().collect();
        pod.mount("data", &options);
    }

    /// How often what happened.
    pub fn counts(&self) -> BTreeMap<Event, u64> {
        self.counts.borrow().clone()
    }

    /// Plays a program on both sides. `Err`: the step that made a difference, and which.
    pub fn play(&self, steps: &[Step]) -> Result<(), (usize, String)> {
        let run = self.runs.get() + 1;
        self.runs.set(run);
        let name = format!("run-{run}");
        let (mounted, plain) = (self.pod.path(&name), self.plain.path().join(&name));
        fs::create_dir(&mounted).unwrap();
        fs::create_dir(&plain).unwrap();
        let mut sides = (Side::new(mounted.clone()), Side::new(plain.clone()));
        let mut outcome = Ok(());
        for (number, step) in steps.iter().enumerate() {
            let difference = match step {
                Step::Event(event) => self.happen(*event, &name, &mut sides),
                step => compare(&sides.0.run(step), &sides.1.run(step)),
            };
            if let Err(difference) = difference {
                outcome = Err((number, format!("{step:?}: {difference}")));
                break;
            }
        }
        if outcome.is_ok() {
            outcome = same_tree(&sides.0.tree(), &sides.1.tree())
                .map_err(|difference| (steps.len().saturating_sub(1), format!("at the end: {difference}")));
        }
        drop(sides);
        fs::remove_dir_all(mounted).unwrap();
        fs::remove_dir_all(plain).unwrap();
        outcome
    }

    /// Something happens to the volume; everything must look as before.
    fn happen(&self, event: Event, name: &str, sides: &mut (Side, Side)) -> Result<(), String> {
        *self.counts.borrow_mut().entry(event).or_default() += 1;
        if matches!(event, Event::Remount | Event::Kill) {
            sides.0.close_all();
            sides.1.close_all();
        }
        let root = self.pod.path(name);
        let before = exact_tree(&root);
        match event {
            Event::Commit => drop(self.pod.commit("commit")),
            Event::ReloadKeep => {
                self.publish_elsewhere();
                self.pod.reload(&["--keep"]);
            }
            Event::CommitReload => {
                self.pod.commit("commit");
                self.publish_elsewhere();
                let answer = self.pod.reload(&[]);
                // A file that is still open for writing stays a local change; nothing else may be left.
                if !answer["stash"].is_null() {
                    return Err(format!("a commit left something behind: {answer}"));
                }
            }
            Event::Remount => {
                self.pod.umount(&[]);
                self.mount(&self.pod);
            }
            Event::Kill => {
                self.pod.kill_daemon();
                self.mount(&self.pod);
            }
            Event::Fresh => return self.look_from_a_fresh_pod(name, &before),
        }
        let after = exact_tree(&root);
        same_tree(&after, &before).map_err(|difference| format!("after, before: {difference}"))?;
        if matches!(event, Event::ReloadKeep | Event::CommitReload) {
            let theirs = fs::read_to_string(self.pod.path("elsewhere/number")).map_err(|e| e.to_string())?;
            compare(&Ok(theirs), &Ok(self.published.get().to_string()))?;
        }
        Ok(())
    }

    fn publish_elsewhere(&self) {
        self.published.set(self.published.get() + 1);
        let number = self.published.get().to_string();
        fs::write(self.other.path("elsewhere/number"), &number).unwrap();
        if self.published.get().is_multiple_of(2) {
            fs::write(self.other.path(format!("elsewhere/{number}")), &number).unwrap();
        }
        self.other.commit("elsewhere");
    }

    fn look_from_a_fresh_pod(&self, name: &str, before: &BTreeMap<PathBuf, String>) -> Result<(), String> {
        self.pod.commit("for a fresh pod");
        let fresh = Pod::new(&format!("file://{}/store", self.work.path().display()));
        fresh.mount("data", &["--read-only"]);
        let seen = exact_tree(&fresh.path(name));
        fresh.umount(&[]);
        same_tree(&seen, before).map_err(|difference| format!("fresh pod, mount: {difference}"))
    }
}

fn compare(mount: &Answer, plain: &Answer) -> Result<(), String> {
    if mount == plain {
        return Ok(());
    }
    Err(format!("the mount says {mount:?}, the local directory {plain:?}"))
}

/// Equal trees, or the first names that differ.
fn same_tree(left: &BTreeMap<PathBuf, String>, right: &BTreeMap<PathBuf, String>) -> Result<(), String> {
    if left == right {
        return Ok(());
    }
    let names: std::collections::BTreeSet<&PathBuf> = left.keys().chain(right.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name));
    let lines = differing
        .take(3)
        .map(|name| format!("{name:?}: {:?} and {:?}", left.get(name), right.get(name)));
    Err(lines.collect::<Vec<_>>().join("; "))
}
