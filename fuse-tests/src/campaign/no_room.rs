//! A state disk without a free byte, without a free inode, or without either: everything that makes room, and everything that
//! a mount has to get through to be there again, goes on, and nothing that was acknowledged is lost.
//!
//! A seed decides what is lacking, on which file system, and in which order a mount commits (with and without changes of others to
//! merge), reloads, sets aside and restores, is unmounted, killed, mounted again, and has files deleted. After each of these the
//! disk is filled up again, and the contents are compared with the worker's model.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::succeed;
use super::full::Bench;
use super::random::Random;
use super::tree::Tree;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod, wait_until};

/// What a program may be told while there is no room.
const NO_ROOM: [i32; 2] = [libc::ENOSPC, libc::EDQUOT];
/// Steps of one round.
const STEPS: u64 = 9;
/// Calls of the worker before each.
const CALLS: usize = 12;
/// Bytes of the file that is deleted to make room, and of the one that is written then.
const GIVEN_BYTES: usize = 2 << 20;
const TAKEN_BYTES: usize = 64 << 10;
/// Names of a tree that is larger than what is always set aside.
const MANY: usize = 6000;

/// What there is nothing of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Bytes,
    Inodes,
    Both,
}

/// A small file system with ballast on it. Unmounted when dropped, also while it is in use; a loop device goes with the last use.
pub(super) struct Small {
    dir: PathBuf,
    ballast: PathBuf,
    count: u64,
}

impl Small {
    /// In memory.
    pub(super) fn in_memory(dir: &Path, options: &str) -> Small {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir);
        succeed(&mut command).expect("a small file system (as root)");
        Small::at(dir)
    }

    /// ext4 on a file of its own, beside the directory.
    fn ext4(dir: &Path, mib: u64, inodes: u64) -> Small {
        let image = dir.with_extension("img");
        let file = File::create(&image).expect("a file for the disk");
        file.set_len(mib << 20).expect("a sparse file");
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-m", "0", "-N", &inodes.to_string()])
            .arg(&image);
        succeed(&mut make).expect("mkfs.ext4 is installed");
        let mut command = Command::new("mount");
        command.args(["-o", "loop"]).arg(&image).arg(dir);
        succeed(&mut command).expect("a loop device (as root)");
        Small::at(dir)
    }

    fn at(dir: &Path) -> Small {
        Small {
            dir: dir.to_path_buf(),
            ballast: dir.join("ballast"),
            count: 0,
        }
    }

    pub(super) fn resize(&self, size: &str) {
        let mut command = Command::new("mount");
        command
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.dir);
        succeed(&mut command).expect("the file system takes another size");
    }

    /// Takes all that is left.
    fn fill(&mut self, lack: Lack) {
        let made = fs::create_dir(&self.ballast);
        assert!(made.is_ok() || self.ballast.exists(), "{made:?}");
        if lack != Lack::Inodes {
            let path = self.next_path();
            if let Ok(mut file) = File::create(&path) {
                for piece in [1 << 20, 64 << 10, 4 << 10, 512] {
                    while file.write_all(&vec![1; piece]).is_ok() {}
                }
            }
        }
        if lack != Lack::Bytes {
            while File::create(self.next_path()).is_ok() {}
        }
    }

    fn next_path(&mut self) -> PathBuf {
        self.count += 1;
        self.ballast.join(self.count.to_string())
    }

    fn relieve(&self) {
        if self.ballast.exists() {
            fs::remove_dir_all(&self.ballast).expect("the ballast is ours");
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.dir, flags) {
            eprintln!("{} stays mounted: {error}", self.dir.display());
        }
    }
}

/// One round.
struct Round<'a> {
    plan: &'a Plan,
    context: String,
    random: Random,
    other: Pod,
    pod: Pod,
    // Dropped before the pod, whose directories hold it.
    small: Small,
    bench: Bench,
    lack: Lack,
    others: u64,
}

/// Runs both parts.
pub(super) fn run(plan: &Plan, seed: u64, tally: &mut Tally) {
    round(plan, seed, tally);
    plan.say(format_args!("seed {seed}: no room; {tally}"));
    large_tree(plan, seed, tally);
    plan.say(format_args!("seed {seed}: a large tree without room; {tally}"));
}

fn options(plan: &Plan) -> Vec<&str> {
    let mut options = vec!["--cache-floor", "0"];
    options.extend(plan.options());
    options
}

fn round(plan: &Plan, seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let lack = [Lack::Bytes, Lack::Inodes, Lack::Both][(seed % 3) as usize];
    let cluster = Cluster::start();
    let (pod, other) = (cluster.pod(), cluster.pod());
    let in_memory = random.chance(50);
    let small = match in_memory {
        true => Small::in_memory(&pod.local_dir("state"), "size=40m,nr_inodes=700"),
        false => Small::ext4(&pod.local_dir("state"), 48, 700),
    };
    let context = format!(
        "seed {seed}, no {lack:?} on {}",
        if in_memory { "tmpfs" } else { "ext4" }
    );
    let mut mount = options(plan);
    mount.push("--create");
    pod.mount("data", &mount);
    let bench = Bench::new(seed, &pod);
    other.mount("data", &[]);
    let mut round = Round {
        plan,
        context,
        random,
        other,
        pod,
        small,
        bench,
        lack,
        others: 0,
    };
    round.suffer(60, tally);
    // What is set aside is there, as in any mount that was not born on a full disk.
    let state = round.small.dir.clone();
    wait_until("room is set aside", || reserved(&state) >= 16);
    for _ in 0..STEPS {
        round.step(tally);
    }
    round.end(&cluster);
}

/// What is in a directory; nothing where there is none.
fn below(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Files that the state directory below `dir` has in reserve.
fn reserved(dir: &Path) -> usize {
    let states = below(dir.to_path_buf()).flat_map(below);
    states
        .map(|state| below(state.join("reserve")).count())
        .max()
        .unwrap_or(0)
}

impl Round<'_> {
    fn suffer(&mut self, calls: usize, tally: &mut Tally) {
        let (worker, root) = (&mut self.bench.worker, &self.bench.root);
        let errors = worker.calls_with_errors(root, calls, &NO_ROOM, Tree::read);
        let errors = errors.unwrap_or_else(|lost| panic!("{}: {lost}", self.context));
        tally.add("calls refused for want of room", errors);
    }

    fn step(&mut self, tally: &mut Tally) {
        self.suffer(CALLS, tally);
        let given = self.pod.path("given");
        // Not refused in the middle: what is deleted later must have its room.
        let is_given = fs::write(&given, vec![7; GIVEN_BYTES]).is_ok();
        self.small.fill(self.lack);
        self.suffer(CALLS, tally);
        self.small.fill(self.lack);
        let what = self.random.range(0..7);
        let context = format!("{}: step {what}", self.context);
        match what {
            0 => drop(self.pod.commit("without room")),
            1 => self.merge(),
            2 => drop(self.pod.reload(&["--keep"])),
            3 => self.stash_and_restore(),
            4 => {
                self.bench.worker.close();
                self.pod.umount(&[]);
                self.pod.mount("data", &options(self.plan));
            }
            5 => {
                self.bench.worker.close();
                self.pod.kill_daemon();
                self.pod.mount("data", &options(self.plan));
            }
            _ => self.delete(is_given, &context),
        }
        tally.add("steps without room", 1);
        self.bench.check(&context);
        // Or there is nothing that it could be.
        let _gone = fs::remove_file(given);
        self.small.relieve();
    }

    fn merge(&mut self) {
        self.others += 1;
        let name = format!("other{}", self.others);
        fs::write(self.other.path(&name), &name).expect("the other has room");
        self.other.commit("of another");
        let answer = self.pod.commit("merged without room");
        assert!(answer["seq"].is_number(), "{}: {answer}", self.context);
        // Its files come into view, and whatever the reload sets aside is brought back.
        self.stash_and_restore();
        let found = fs::read_to_string(self.pod.path(&name)).expect("a reload shows it");
        assert_eq!(found, name, "{}", self.context);
        self.other.reload(&[]);
    }

    fn stash_and_restore(&mut self) {
        self.bench.worker.close();
        let answer = self.pod.reload(&[]);
        if let Some(id) = answer["stash"]["id"].as_u64() {
            let dir = self.pod.mount_dir().into_os_string();
            let words = ["stash", "restore", &id.to_string()].map(Into::into);
            self.pod.json(words.into_iter().chain([dir]));
        }
    }

    /// What a file had is there for another soon after.
    fn delete(&mut self, is_given: bool, context: &str) {
        if !is_given {
            return;
        }
        fs::remove_file(self.pod.path("given")).expect("deleting needs no room");
        let taken = self.pod.path("taken");
        wait_until(&format!("{context}: there is room again"), || {
            fs::write(&taken, vec![8; TAKEN_BYTES]).is_ok()
        });
        fs::remove_file(taken).expect("deleting needs no room");
    }

    fn end(mut self, cluster: &Cluster) {
        self.small.relieve();
        self.bench.go_on(30, &self.context);
        self.bench
            .commit_and_compare(cluster, &self.pod, self.plan, &self.context);
        self.other.umount(&[]);
        self.pod.umount(&[]);
    }
}

/// A commit that has to merge leaves a tree in the state directory, as large as what was changed: more than the 2 MiB that are
/// always set aside.
fn large_tree(plan: &Plan, seed: u64, tally: &mut Tally) {
    let context = format!("seed {seed}, a large tree without room");
    let mut random = Random::new(seed);
    let cluster = Cluster::start();
    let (pod, other) = (cluster.pod(), cluster.pod());
    let mut small = Small::in_memory(&pod.local_dir("state"), "size=64m,nr_inodes=2000");
    let mut mount = options(plan);
    mount.push("--create");
    pod.mount("data", &mount);
    fs::create_dir(pod.path("many")).expect("a directory in a fresh volume");
    pod.commit("begin");
    other.mount("data", &[]);
    let targets: Vec<PathBuf> = (0..MANY)
        .map(|_| {
            random
                .bytes(500)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
        .map(|text: String| PathBuf::from(text))
        .collect();
    for (n, target) in targets.iter().enumerate() {
        symlink(target, pod.path(format!("many/{n}"))).expect("the mount makes links");
    }
    fs::write(other.path("other"), "of another").expect("the mount writes");
    other.commit("of another");
    let state = pod.local_dir("state");
    // As much as is wanted for such a journal.
    wait_until("room is set aside", || reserved(&state) >= 18);
    small.fill(Lack::Both);
    pod.commit("merged without room");
    let tree_bytes = kept_bytes(&state);
    assert!(
        tree_bytes > 2 << 20,
        "{context}: only {tree_bytes} bytes of a tree"
    );
    tally.add("KiB of trees without room", tree_bytes >> 10);
    let check = |when: &str| {
        for (n, target) in targets.iter().enumerate() {
            let found = fs::read_link(pod.path(format!("many/{n}")));
            let found = found.unwrap_or_else(|e| panic!("{context}, {when}: {n}: {e}"));
            assert_eq!(found, *target, "{context}, {when}: {n}");
        }
    };
    check("after the commit");
    small.fill(Lack::Both);
    pod.kill_daemon();
    pod.mount("data", &options(plan));
    check("after a kill");
    pod.reload(&[]);
    assert!(pod.path("other").exists(), "{context}");
    check("after a reload");
    pod.umount(&[]);
    other.umount(&[]);
}

/// Bytes of kept records and trees.
fn kept_bytes(dir: &Path) -> u64 {
    let states = below(dir.to_path_buf()).flat_map(below);
    let kept = states.flat_map(|state| below(state.join("base")));
    kept.filter_map(|path| fs::metadata(path).ok())
        .map(|meta| meta.len())
        .sum()
}
