//! `kill -9` of the daemon, at any time and at every request, with a store that fails now and then.
//!
//! One pod is killed and mounted again, round after round, on the same local state; two workers write all the while,
//! another pod commits beside it. After each kill:
//!
//! 1. every call that had returned is there at the next mount (the one under way is done, or not);
//! 2. a commit that was acknowledged is in the log once, whole, and reads right through an empty cache; of one that was
//!    not, nothing is in the log or all of it, once;
//! 3. a commit that was interrupted is repeated without sending again what had arrived;
//! 4. nothing that the other pod committed is lost; `fsck` finds nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::program::{Caught, Worker, begin_catching, end_catching};
use super::random::Random;
use super::tree::Tree;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod, wait_until};
use crate::s3d::{Action, FaultRule, Verb};

/// Workers beside each other.
const WORKERS: usize = 2;
/// The log is compared with what was acknowledged after so many rounds.
const AUDIT_EVERY: u64 = 5;
/// A new volume after so many rounds: the S3 server holds in memory whatever was ever committed, some 90 MB a round.
const VOLUME_ROUNDS: u64 = 50;
/// Bytes that a repeated commit may send beyond what had not arrived: what shares a pack with the nodes, twice.
const RESENT_BYTES_MAX: u64 = 9 << 20;

/// Where the kill falls.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// While workers write and, from the middle on, a commit runs.
    AtTime { ms: u64 },
    /// During a commit, at its request of this number, before the store applies it or after.
    AtRequest { number: u64, applied: bool, quiet: bool },
    /// While it is being mounted.
    Mounting { number: u64 },
    /// During a reload, that keeps local changes or stashes them.
    Reloading { ms: u64, keep: bool },
}

impl Kill {
    fn choose(random: &mut Random) -> Kill {
        match random.range(0..100) {
            0..40 => Kill::AtTime {
                ms: random.range(1..700),
            },
            40..80 => Kill::AtRequest {
                number: random.range(0..18),
                applied: random.chance(50),
                quiet: random.chance(50),
            },
            80..90 => Kill::Mounting {
                number: random.range(0..3),
            },
            _ => Kill::Reloading {
                ms: random.range(0..60),
                keep: random.chance(50),
            },
        }
    }
}

/// One commit that was begun.
struct Attempt {
    message: String,
    /// The number that was acknowledged.
    acknowledged: Option<u64>,
    /// What it may have caught, by worker.
    caught: Vec<Caught>,
}

/// What an interrupted commit had brought to the store.
struct Interrupted {
    keys: Vec<String>,
    bytes: u64,
    /// Its last PUT may have arrived without the daemon knowing.
    applied: bool,
}

struct World<'a> {
    plan: &'a Plan,
    cluster: Cluster,
    pod: Pod,
    other: Pod,
    others_files: BTreeMap<String, Vec<u8>>,
    workers: Vec<Worker>,
    attempts: Vec<Attempt>,
    interrupted: Option<Interrupted>,
    audited: usize,
    tally: Tally,
}

/// Runs the campaign.
///
/// # Panics
/// Where a promise is broken, with the seed of the round.
pub fn run(plan: &Plan) -> Tally {
    let mut world = World::new(plan, plan.seed, Tally::default());
    for seed in plan.seed..plan.seed + plan.rounds {
        if seed > plan.seed && (seed - plan.seed).is_multiple_of(VOLUME_ROUNDS) {
            let tally = world.tally;
            world = World::new(plan, seed, tally);
        }
        let began = Instant::now();
        let kill = world.round(seed);
        plan.say(format_args!(
            "round of seed {seed}: {kill:?}, {:.1} s; {}",
            began.elapsed().as_secs_f64(),
            world.tally
        ));
        if (seed + 1 - plan.seed).is_multiple_of(AUDIT_EVERY) || seed + 1 == plan.seed + plan.rounds {
            world.audit(seed);
        }
    }
    world.tally
}

impl World<'_> {
    fn new(plan: &Plan, seed: u64, tally: Tally) -> World<'_> {
        let cluster = Cluster::start();
        let (pod, other) = (cluster.pod(), cluster.pod());
        other.mount("data", &["--create"]);
        fs::create_dir(other.path("other")).expect("a directory in a fresh volume");
        for n in 0..=WORKERS {
            fs::create_dir(other.path(format!("w{n}"))).expect("a directory in a fresh volume");
        }
        other.commit("begin");
        World {
            plan,
            pod,
            other,
            cluster,
            others_files: BTreeMap::new(),
            // The last one does not run by itself: it holds large files.
            workers: (0..=WORKERS as u64)
                .map(|n| Worker::new(seed * 1000 + n))
                .collect(),
            attempts: Vec::new(),
            interrupted: None,
            audited: 0,
            tally,
        }
    }

    fn root(&self, worker: usize) -> PathBuf {
        self.pod.path(format!("w{worker}"))
    }

    fn round(&mut self, seed: u64) -> Kill {
        let mut random = Random::new(seed);
        let kill = Kill::choose(&mut random);
        if let Kill::Mounting { number } = kill {
            self.kill_mounting(number);
        }
        self.sometimes_fail();
        let options = self.plan.options();
        self.pod.mount("data", &options);
        self.recover(seed, kill);
        if let Some(interrupted) = self.interrupted.take() {
            self.repeat(seed, &interrupted);
        }
        if random.chance(40) {
            self.commit_of_other(&mut random);
        }
        match kill {
            Kill::AtTime { ms } => self.kill_working(seed, Some(Duration::from_millis(ms))),
            Kill::Mounting { .. } => self.kill_working(seed, None),
            Kill::AtRequest {
                number,
                applied,
                quiet,
            } => self.kill_committing(seed, &mut random, number, applied, quiet),
            Kill::Reloading { ms, keep } => self.kill_reloading(seed, ms, keep),
        }
        self.cluster.server.clear_faults();
        self.cluster.server.release();
        self.tally.add("kills", 1);
        kill
    }

    fn sometimes_fail(&self) {
        fail_now_and_then(&self.cluster.server);
    }

    /// What was completed is there.
    fn recover(&mut self, seed: u64, kill: Kill) {
        let stashes = self.pod.json([
            OsStr::new("stash"),
            OsStr::new("list"),
            self.pod.mount_dir().as_os_str(),
        ]);
        for stash in stashes.as_array().into_iter().flatten() {
            // A reload was killed after it had moved local changes there.
            let id = stash["id"].to_string();
            let dir = self.pod.mount_dir();
            self.pod
                .json(["stash".as_ref(), "restore".as_ref(), id.as_ref(), dir.as_os_str()]);
            self.tally.add("stashes restored", 1);
        }
        for n in 0..self.workers.len() {
            let root = self.root(n);
            if let Err(lost) = self.workers[n].recover(&root) {
                panic!("seed {seed}, before {kill:?}: worker {n}: {lost}");
            }
        }
    }

    /// The interrupted commit again, before anything else is written.
    fn repeat(&mut self, seed: u64, interrupted: &Interrupted) {
        self.cluster.server.clear_faults();
        let before = self.cluster.server.log().len();
        let sent_before = self.cluster.server.counters().verb(Verb::Put).bytes_in;
        let answer = self.commit_quietly(&format!("repeated-{seed}"));
        let log = self.cluster.server.log();
        let again: Vec<&String> = log[before..]
            .iter()
            .filter(|entry| entry.verb == Verb::Put)
            .map(|entry| &entry.key)
            .filter(|key| interrupted.keys.contains(key))
            .collect();
        assert!(again.is_empty(), "seed {seed}: sent again: {again:?}");
        let sent = self.cluster.server.counters().verb(Verb::Put).bytes_in - sent_before;
        if let Some(changed) = answer["bytes_changed"].as_u64()
            && answer["seq"].is_u64()
            && !interrupted.applied
        {
            let missing = changed.saturating_sub(interrupted.bytes);
            assert!(
                sent <= missing + RESENT_BYTES_MAX,
                "seed {seed}: {sent} bytes were sent although only {missing} of {changed} had not arrived"
            );
        }
        self.tally.add("interrupted commits repeated", 1);
        self.sometimes_fail();
    }

    /// A commit while nobody writes.
    fn commit_quietly(&mut self, message: &str) -> Value {
        for worker in &mut self.workers {
            worker.close();
            begin_catching(&worker.track());
        }
        let output = commit_command(&self.pod, message)
            .output()
            .expect("the program runs");
        self.took(message, &output)
    }

    /// Notes what came of a commit.
    fn took(&mut self, message: &str, output: &std::process::Output) -> Value {
        let caught = self.workers.iter().map(|w| end_catching(&w.track())).collect();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let acknowledged = match output.status.success() {
            true => answer["seq"].as_u64(),
            false => None,
        };
        self.tally
            .add("commits acknowledged", u64::from(acknowledged.is_some()));
        self.attempts.push(Attempt {
            message: message.to_owned(),
            acknowledged,
            caught,
        });
        answer
    }

    fn commit_of_other(&mut self, random: &mut Random) {
        for _ in 0..3 {
            let name = format!("other/f{}", random.range(0..8));
            let len = random.range(0..30_000) as usize;
            let bytes = random.bytes(len);
            fs::write(self.other.path(&name), &bytes).expect("the other pod writes");
            self.others_files.insert(name, bytes);
        }
        self.other.commit("other");
    }

    fn kill_mounting(&mut self, number: u64) {
        let hold = FaultRule::new(Action::HoldAnswer).skip(number).times(1);
        self.cluster.server.fault(hold);
        let dir = self.pod.mount_dir();
        let mut command = self.pod.command([
            OsStr::new("mount"),
            OsStr::new("--foreground"),
            OsStr::new("data"),
            dir.as_os_str(),
        ]);
        let mut daemon = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        wait_until("the mount asks the store", || {
            self.cluster.server.held() > 0 || self.pod.daemon().is_some()
        });
        daemon.kill().expect("the daemon is ours");
        daemon.wait().expect("the daemon is ours");
        self.cluster.server.clear_faults();
        self.cluster.server.release();
    }

    /// Workers write and a commit runs; then the daemon is killed: after a time, or when the commit is done.
    fn kill_working(&mut self, seed: u64, after: Option<Duration>) {
        let message = format!("commit-{seed}");
        let (stop, killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let roots: Vec<PathBuf> = (0..WORKERS).map(|n| self.root(n)).collect();
        let tracks: Vec<_> = self.workers.iter().map(Worker::track).collect();
        let (pod, workers) = (&self.pod, &mut self.workers);
        let output = std::thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .zip(&roots)
                .map(|(worker, root)| scope.spawn(|| worker.work(root, &stop)))
                .collect();
            let committing = scope.spawn(|| {
                std::thread::sleep(after.unwrap_or(Duration::from_millis(200)) / 3);
                tracks.iter().for_each(|track| begin_catching(track));
                commit_command(pod, &message).output().expect("the program runs")
            });
            match after {
                Some(after) => std::thread::sleep(after),
                None => wait_until("the commit ends", || committing.is_finished()),
            }
            killed.store(true, Ordering::Release);
            pod.kill_daemon();
            stop.store(true, Ordering::Release);
            for (n, running) in running.into_iter().enumerate() {
                let ended = running.join().expect("workers do not panic");
                // Stopped between two calls, or in one that the kill cut off.
                if let Some(error) = ended {
                    let code = error.raw_os_error();
                    let gone = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO, libc::ENOTDIR].map(Some);
                    assert!(gone.contains(&code), "seed {seed}: worker {n}: {error}");
                }
            }
            committing.join().expect("the commit is waited for")
        });
        let calls: u64 = tracks
            .iter()
            .map(|track| std::mem::take(&mut track.lock().calls))
            .sum();
        self.tally.add("calls", calls);
        self.took(&message, &output);
    }

    fn kill_committing(&mut self, seed: u64, random: &mut Random, number: u64, applied: bool, quiet: bool) {
        if !quiet {
            return self.kill_at_request_while_working(seed, number, applied);
        }
        for n in 0..WORKERS {
            let root = self.root(n);
            self.workers[n]
                .calls(&root, 60)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        let root = self.root(WORKERS);
        for n in 0..3 {
            let len = random.range(5 << 20..12 << 20) as usize;
            let put = self.workers[WORKERS].put(&root, &format!("large-{seed}-{n}"), random.bytes(len));
            put.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        let message = format!("commit-{seed}");
        for worker in &mut self.workers {
            worker.close();
            begin_catching(&worker.track());
        }
        let server = &self.cluster.server;
        server.clear_faults();
        server.fault(hold(number, applied));
        let before = server.log().len();
        let sent_before = server.counters().verb(Verb::Put).bytes_in;
        let (pod, done) = (&self.pod, AtomicBool::new(false));
        let mut interrupted = None;
        let output = std::thread::scope(|scope| {
            let committing = scope.spawn(|| {
                let output = commit_command(pod, &message).output().expect("the program runs");
                done.store(true, Ordering::Release);
                output
            });
            wait_until("the commit comes to the request", || {
                server.held() > 0 || done.load(Ordering::Acquire)
            });
            if !done.load(Ordering::Acquire) {
                // Everything else that is on its way arrives; nothing more is begun for long.
                wait_quiet(server);
                let log = server.log();
                let arrived = log[before..]
                    .iter()
                    .filter(|entry| entry.verb == Verb::Put && entry.status == Some(200));
                interrupted = Some(Interrupted {
                    keys: arrived.map(|entry| entry.key.clone()).collect(),
                    bytes: server.counters().verb(Verb::Put).bytes_in - sent_before,
                    applied,
                });
            }
            pod.kill_daemon();
            server.release();
            committing.join().expect("the commit is waited for")
        });
        self.took(&message, &output);
        self.interrupted = interrupted;
    }

    fn kill_at_request_while_working(&mut self, seed: u64, number: u64, applied: bool) {
        // First of all rules; the others stay.
        self.cluster.server.clear_faults();
        self.cluster.server.fault(hold(number, applied));
        self.sometimes_fail();
        self.kill_when_held(seed);
    }

    fn kill_when_held(&mut self, seed: u64) {
        let message = format!("commit-{seed}");
        let stop = AtomicBool::new(false);
        let roots: Vec<PathBuf> = (0..WORKERS).map(|n| self.root(n)).collect();
        let tracks: Vec<_> = self.workers.iter().map(Worker::track).collect();
        let (pod, workers, server) = (&self.pod, &mut self.workers, &self.cluster.server);
        let output = std::thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .zip(&roots)
                .map(|(worker, root)| scope.spawn(|| worker.work(root, &stop)))
                .collect();
            let committing = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                tracks.iter().for_each(|track| begin_catching(track));
                commit_command(pod, &message).output().expect("the program runs")
            });
            wait_until("the commit comes to the request", || {
                server.held() > 0 || committing.is_finished()
            });
            pod.kill_daemon();
            server.release();
            stop.store(true, Ordering::Release);
            for running in running {
                running.join().expect("workers do not panic");
            }
            committing.join().expect("the commit is waited for")
        });
        self.took(&message, &output);
    }

    fn kill_reloading(&mut self, seed: u64, ms: u64, keep: bool) {
        for n in 0..WORKERS {
            let root = self.root(n);
            self.workers[n]
                .calls(&root, 30)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            // What is open stays in the view at a reload.
            self.workers[n].close();
        }
        let dir = self.pod.mount_dir();
        let mut command = self.pod.command([OsStr::new("reload"), dir.as_os_str()]);
        if keep {
            command.arg("--keep");
        }
        let mut reload = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(ms));
        self.pod.kill_daemon();
        reload.wait().expect("the command ends with its daemon");
    }

    /// Compares the log with what was acknowledged, through an empty cache.
    fn audit(&mut self, seed: u64) {
        let reader = self.cluster.pod();
        let head = self.pod_log(seed);
        let by_message: BTreeMap<&str, Vec<u64>> =
            head.iter().fold(BTreeMap::new(), |mut map, (seq, message)| {
                map.entry(message.as_str()).or_insert_with(Vec::new).push(*seq);
                map
            });
        for attempt in &self.attempts[self.audited..] {
            let found = by_message
                .get(attempt.message.as_str())
                .cloned()
                .unwrap_or_default();
            assert!(
                found.len() <= 1,
                "seed {seed}: {} is in the log as {found:?}",
                attempt.message
            );
            if let Some(seq) = attempt.acknowledged {
                assert_eq!(found, [seq], "seed {seed}: {} was acknowledged", attempt.message);
            }
            for seq in found {
                check_record(&reader, seed, seq, attempt);
                self.tally.add("records read through an empty cache", 1);
            }
        }
        self.audited = self.attempts.len();
        reader.mount("data", &["--read-only"]);
        for (name, bytes) in &self.others_files {
            let found = fs::read(reader.path(name)).unwrap_or_else(|e| panic!("seed {seed}: {name}: {e}"));
            assert!(
                found == *bytes,
                "seed {seed}: {name} of the other pod is not what it committed"
            );
        }
        reader.umount(&[]);
        let report = reader.json(["fsck", "data"]);
        assert_eq!(report["damaged"], 0, "seed {seed}: {report}");
        self.tally.add("fsck", 1);
    }

    /// Numbers and messages of all records.
    fn pod_log(&self, seed: u64) -> Vec<(u64, String)> {
        let dir = self.other.mount_dir();
        let log = self.other.json([
            OsStr::new("log"),
            dir.as_os_str(),
            OsStr::new("--limit"),
            OsStr::new("100000"),
        ]);
        let entries = log.as_array().unwrap_or_else(|| panic!("seed {seed}: {log}"));
        entries
            .iter()
            .map(|entry| {
                (
                    entry["seq"].as_u64().expect("a number"),
                    entry["message"].as_str().unwrap_or("").to_owned(),
                )
            })
            .collect()
    }
}

/// A few of all requests fail, in every way.
pub(super) fn fail_now_and_then(server: &crate::s3d::S3d) {
    let reject = |status| Action::Reject {
        status,
        code: None,
        retry_after_s: None,
    };
    for rule in [
        FaultRule::new(reject(503)).chance(0.03),
        FaultRule::new(reject(500)).chance(0.01),
        FaultRule::new(Action::DropBefore).chance(0.01),
        FaultRule::new(Action::DropAfter).chance(0.01),
        FaultRule::new(Action::RejectAfter { status: 500 })
            .verb(Verb::PutIf)
            .chance(0.1),
        FaultRule::new(Action::GatewayAfter {
            status: None,
            body: None,
        })
        .verb(Verb::PutIf)
        .chance(0.1),
        FaultRule::new(Action::Truncate { bytes: 100 })
            .verb(Verb::Get)
            .chance(0.01),
        // Of an error's text nobody can tell that it was altered.
        FaultRule::new(Action::Flip { offset: 50 })
            .verb(Verb::Get)
            .key("/p/")
            .chance(0.05),
    ] {
        server.fault(rule);
    }
}

/// The request of a commit that is held.
fn hold(number: u64, applied: bool) -> FaultRule {
    let action = if applied {
        Action::HoldAnswer
    } else {
        Action::Stall
    };
    FaultRule::new(action).skip(number).times(1)
}

fn commit_command(pod: &Pod, message: &str) -> Command {
    let dir = pod.mount_dir();
    pod.command([
        OsStr::new("commit"),
        dir.as_os_str(),
        OsStr::new("--json"),
        OsStr::new("--timeout"),
        OsStr::new("60s"),
        OsStr::new("-m"),
        OsStr::new(message),
    ])
}

/// Waits until nothing but held requests has been under way for a moment.
fn wait_quiet(server: &crate::s3d::S3d) {
    let mut since = Instant::now();
    wait_until("the requests beside the held one arrive", || {
        if server.counters().in_flight > server.held() as u64 {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_millis(150)
    });
}

fn check_record(reader: &Pod, seed: u64, seq: u64, attempt: &Attempt) {
    reader.forget_local_state();
    reader.mount("data", &["--read-only", "--at", &seq.to_string()]);
    for (n, caught) in attempt.caught.iter().enumerate() {
        let root = reader.path(format!("w{n}"));
        let found = read_tree(&root).unwrap_or_else(|e| panic!("seed {seed}, record {seq}: {e}"));
        if let Err(difference) = caught.check(&found) {
            panic!(
                "seed {seed}, record {seq} ({}), worker {n}: {difference}",
                attempt.message
            );
        }
    }
    reader.umount(&[]);
}

fn read_tree(root: &Path) -> Result<Tree, String> {
    Tree::read(root).map_err(|e| format!("{}: {e}", root.display()))
}
