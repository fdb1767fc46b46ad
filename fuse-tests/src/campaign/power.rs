//! Power cuts: the disk below state and cache directory loses what was not flushed, at any moment.
//!
//! Workers write and call fsync, commits run beside them; then the disk is cut off ([`super::disk`]) while everything
//! runs on, and the machine starts again from what was left, with another boot id. Then:
//!
//! 1. the mount comes up without any handwork;
//! 2. names are those of one moment, not earlier than the last fsync that had returned;
//! 3. the bytes of a file are those of its last fsync that had returned, or were written to it later, each byte for itself;
//!    what grew since may be zeros, or within the last block that was there then anything that the file held before;
//! 4. the same of a file that was renamed over another one, with its bytes then: if it has the name, it has the bytes. And of a
//!    file with bytes that was rewritten (O_TRUNC, write, close) before an fsync of another one that had returned.
//!
//! Needs root, loop devices and mkfs.ext4. Runs in a mount namespace of its own, in which the boot id can be another one.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::disk::{PowerCut, succeed};
use super::program::{Durable, DurableMoment, Track, Worker};
use super::random::Random;
use super::tree::{FileId, Node, Tree, bytes_difference};
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod};

/// Workers beside each other.
const WORKERS: usize = 2;
/// Size of the disk, bytes.
const DISK_BYTES: u64 = 192 << 20;
/// Blocks of the file system on it, bytes.
const BLOCK_BYTES: usize = 4096;
/// Where the kernel tells the boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What may be found after a cut.
struct Moment(Durable);

/// Runs the campaign, in a thread and mount namespace of its own.
///
/// # Panics
/// Where a promise is broken, with the seed of the round.
pub fn run(plan: &Plan) -> Tally {
    let plan = plan.clone();
    let running = std::thread::spawn(move || {
        own_namespace().expect("a mount namespace (as root)");
        let mut world = World::new(&plan);
        for seed in plan.seed..plan.seed + plan.rounds {
            let began = Instant::now();
            world.round(seed);
            plan.say(format_args!(
                "cut of seed {seed}: {:.1} s; {}",
                began.elapsed().as_secs_f64(),
                world.tally
            ));
        }
        world.pod.umount(&[]);
        std::mem::take(&mut world.tally)
    });
    running
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// This thread, and what it starts, has mounts of its own.
fn own_namespace() -> io::Result<()> {
    // SAFETY: mounts and working directory of this thread only; nothing here depends on sharing them.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    succeed(Command::new("mount").args(["--make-rprivate", "/"]))
}

struct World<'a> {
    plan: &'a Plan,
    // Dropped in this order: what is mounted on the disk before the disk.
    pod: Pod,
    disk: PowerCut,
    _cluster: Cluster,
    dir: tempfile::TempDir,
    workers: Vec<Worker>,
    boots: u64,
    tally: Tally,
}

impl World<'_> {
    fn new(plan: &Plan) -> World<'_> {
        let dir = tempfile::Builder::new()
            .prefix("sailvol-power-")
            .tempdir()
            .expect("a temporary directory");
        let mut disk = PowerCut::new(dir.path(), DISK_BYTES).expect("a disk (as root, with mkfs.ext4)");
        let cluster = Cluster::start();
        let at = dir.path().join("disk");
        fs::create_dir(&at).expect("a fresh directory");
        disk.mount(&at).expect("a fresh file system");
        let pod = cluster.pod().with_local_dir(&at);
        let mut world = World {
            plan,
            pod,
            disk,
            _cluster: cluster,
            dir,
            workers: (0..WORKERS as u64)
                .map(|n| Worker::new(plan.seed * 1000 + n))
                .collect(),
            boots: 0,
            tally: Tally::default(),
        };
        world.boot();
        world.mount(&["--create"]);
        for n in 0..WORKERS {
            fs::create_dir(world.root(n)).expect("a directory in a fresh volume");
        }
        world.pod.commit("begin");
        world
    }

    fn root(&self, worker: usize) -> PathBuf {
        self.pod.path(format!("w{worker}"))
    }

    /// The kernel tells another boot id from now on.
    fn boot(&mut self) {
        self.boots += 1;
        let file = self.dir.path().join("boot_id");
        let id = format!("{:08x}-0000-4000-8000-{:012x}\n", self.boots, self.plan.seed);
        fs::write(&file, id).expect("a file for the boot id");
        if self.boots == 1 {
            let mut bind = Command::new("mount");
            bind.arg("--bind").arg(file).arg(BOOT_ID);
            succeed(&mut bind).expect("a bind mount in the own namespace");
        }
    }

    fn mount(&self, more: &[&str]) {
        let mut options: Vec<&str> = vec!["--cache-size", "32M", "--cache-floor", "1M"];
        options.extend(more);
        options.extend(self.plan.options());
        self.pod.mount("data", &options);
    }

    fn round(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let ms = random.range(5..900);
        let with_commit = random.chance(50);
        for worker in &mut self.workers {
            worker.begin_counting_durable();
        }
        let moments = self.work_and_cut(seed, &mut random, ms, with_commit);
        self.disk
            .replace()
            .expect("nothing uses the disk that was cut off");
        self.boot();
        self.disk
            .mount(&self.dir.path().join("disk"))
            .expect("ext4 comes up after a power cut");
        self.mount(&[]);
        for (n, moment) in moments.iter().enumerate() {
            let root = self.root(n);
            let found = Tree::read(&root).unwrap_or_else(|e| panic!("seed {seed}: worker {n}: {e}"));
            if let Err(lost) = moment.check(&found) {
                let trail = moment.0.trail.join("\n");
                panic!("seed {seed}: worker {n}, cut after {ms} ms: {lost}; what was done:\n{trail}");
            }
            self.tally.add("fsyncs", moment.0.count);
            self.workers[n].go_on_from(found);
        }
        self.tally.add("power cuts", 1);
    }

    fn work_and_cut(&mut self, seed: u64, random: &mut Random, ms: u64, with_commit: bool) -> Vec<Moment> {
        let stop = AtomicBool::new(false);
        let roots: Vec<PathBuf> = (0..WORKERS).map(|n| self.root(n)).collect();
        let tracks: Vec<Arc<Mutex<Track>>> = self.workers.iter().map(Worker::track).collect();
        let (pod, disk, workers) = (&self.pod, &self.disk, &mut self.workers);
        let (moments, committed) = std::thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .zip(&roots)
                .map(|(worker, root)| scope.spawn(|| worker.work(root, &stop)))
                .collect();
            let committing = with_commit.then(|| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(ms / 2));
                    let dir = pod.mount_dir();
                    let commit = [
                        "commit".as_ref(),
                        dir.as_os_str(),
                        "--timeout".as_ref(),
                        "20s".as_ref(),
                    ];
                    pod.run(commit).status.success()
                })
            });
            std::thread::sleep(Duration::from_millis(ms));
            // What had returned by now must survive; what is under way now may. Workers wait at their next line.
            let mut locked: Vec<_> = tracks.iter().map(|track| track.lock()).collect();
            disk.cut(random);
            let moments: Vec<Moment> = locked.iter_mut().map(|track| Moment::of(track)).collect();
            drop(locked);
            let committed = committing.map(|committing| committing.join().expect("the commit is waited for"));
            pod.kill_daemon();
            stop.store(true, Ordering::Release);
            for running in running {
                running
                    .join()
                    .unwrap_or_else(|_| panic!("seed {seed}: a worker panicked"));
            }
            (moments, committed)
        });
        self.tally.add("commits", u64::from(committed == Some(true)));
        // Through files that are open the kernel may hold bodies on the disk itself (passthrough).
        self.workers.iter_mut().for_each(Worker::close);
        // The dead mount holds nothing of the disk, but hides where the next one goes.
        let dir = self.pod.mount_dir();
        let unmounted = rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH);
        unmounted.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        moments
    }
}

impl Moment {
    fn of(track: &mut Track) -> Moment {
        let mut durable = track.durable.take().unwrap_or_default();
        if let Some(step) = &track.under_way {
            let mut done = track.tree.clone();
            done.apply(step);
            durable.changed(step, &track.tree, &done);
        }
        Moment(durable)
    }

    fn check(&self, found: &Tree) -> Result<(), String> {
        let any_bytes = |_: &Path| true;
        let mut said = Vec::new();
        for moment in &self.0.moments {
            let lost = match moment.tree.difference(found, &any_bytes) {
                Some(difference) => format!("names: {difference}"),
                None => match self.check_all_bytes(moment, found) {
                    Ok(()) => return Ok(()),
                    Err(lost) => lost,
                },
            };
            said.push(lost);
        }
        let count = said.len();
        // What is said of bytes tells more than what is said of the names of other moments.
        let most = said.iter().rev().find(|lost| !lost.starts_with("names:"));
        let lost = most.or(said.last()).cloned().unwrap_or_default();
        Err(format!("none of {count} moments since the last fsync; {lost}"))
    }

    fn check_all_bytes(&self, moment: &DurableMoment, found: &Tree) -> Result<(), String> {
        for (path, node) in &moment.tree.names {
            let (Node::File(id), Some(Node::File(there))) = (node, found.names.get(path)) else {
                continue;
            };
            self.check_bytes(*id, moment.floors.get(id).copied(), &found.files[there].bytes)
                .map_err(|lost| format!("{}, file {id}: {lost}", path.display()))?;
        }
        Ok(())
    }

    /// Each byte is that of the version `floor` or was written later.
    fn check_bytes(&self, id: FileId, floor: Option<usize>, found: &[u8]) -> Result<(), String> {
        let history = self.0.history.get(&id).map_or(&[][..], |history| &history[..]);
        let from = floor.unwrap_or(0);
        let versions: Vec<&Vec<u8>> = history.iter().skip(from).map(|bytes| &**bytes).collect();
        let most = versions.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
        let (Some(_), Some(whole)) = (floor, versions.first()) else {
            // Neither synced nor in the place of another: what the disk has of it, but nothing of other files.
            return fits(found, &versions, 0, 0..=most);
        };
        let least = versions.iter().map(|bytes| bytes.len()).min().unwrap_or(0);
        fits(found, &versions, whole.len().min(least), least..=most).map_err(|e| {
            format!(
                "{e}; against what must be whole: {}",
                bytes_difference(whole, found)
            )
        })
    }
}

/// Every byte is one of the versions'; from `zeros_from` on, where the file grew since, it may be zero too.
fn fits(
    found: &[u8],
    versions: &[&Vec<u8>],
    zeros_from: usize,
    lens: RangeInclusive<usize>,
) -> Result<(), String> {
    if !lens.contains(&found.len()) {
        return Err(format!("{} bytes, not within {lens:?}", found.len()));
    }
    // The file system writes a new length without the bytes of a block that the file had already: there may still be what
    // an earlier life of the file had written behind its end before it lost power the first time.
    let last_block_ends = zeros_from.next_multiple_of(BLOCK_BYTES);
    let is_right = |(at, byte): &(usize, &u8)| {
        (*at >= zeros_from && (**byte == 0 || *at < last_block_ends))
            || versions.iter().any(|bytes| bytes.get(*at) == Some(*byte))
    };
    match found.iter().enumerate().find(|place| !is_right(place)) {
        None => Ok(()),
        Some((at, byte)) => Err(format!("byte {at} is {byte}, which was never written there")),
    }
}
