//! Full disks and other limits: the caller is told, what was acknowledged stays, and work goes on when there is room
//! again, without a restart.
//!
//! The state directory and the cache each on a small file system that fills; commits, reloads and restarts without any room
//! (`no_room`); descriptors that run out; a memory limit;
//! and (where strace is installed) each system call by which the daemon changes its disk failing from the N-th on.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::no_room::{self, Small};
use super::program::Worker;
use super::random::Random;
use super::tree::Tree;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod, wait_until};

/// Calls of a worker in one phase.
const CALLS: usize = 150;
/// Errors that a full disk, or a limit, may give.
const EXPECTED: [i32; 5] = [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EMFILE, libc::ENFILE];
/// Calls that change a disk; ENOSPC is what they say first.
const CHANGING_CALLS: &str = "pwrite64,ftruncate,fallocate,openat,mkdir,mkdirat,rename,renameat,renameat2";
/// Memory that the daemon may use in all, bytes.
const MEMORY_BYTES: u64 = 256 << 20;

/// Runs all parts, `plan.rounds` times with other seeds. Needs root.
///
/// # Panics
/// Where a promise is broken, with the seed.
pub fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for seed in plan.seed..plan.seed + plan.rounds {
        full_state(plan, seed, &mut tally);
        plan.say(format_args!("seed {seed}: state directory full; {tally}"));
        full_cache(plan, seed, &mut tally);
        plan.say(format_args!("seed {seed}: cache full; {tally}"));
        no_descriptors(plan, seed, &mut tally);
        plan.say(format_args!("seed {seed}: no descriptors; {tally}"));
        no_room::run(plan, seed, &mut tally);
    }
    tally
}

/// Runs the part with failing system calls: for each of `plan.rounds`, all changing calls from that number on.
///
/// # Panics
/// Where a promise is broken, with the seed; without strace.
pub fn run_failing_calls(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for number in 1..=plan.rounds {
        failing_calls(plan, number, &mut tally);
        plan.say(format_args!("calls from number {number} on; {tally}"));
    }
    tally
}

fn options(plan: &Plan) -> Vec<&str> {
    let mut options = vec!["--create", "--cache-floor", "0"];
    options.extend(plan.options());
    options
}

/// A worker beside its directory.
pub(super) struct Bench {
    pub(super) worker: Worker,
    pub(super) root: PathBuf,
}

impl Bench {
    pub(super) fn new(seed: u64, pod: &Pod) -> Bench {
        let root = pod.path("w");
        fs::create_dir(&root).expect("a directory in a fresh volume");
        Bench {
            worker: Worker::new(seed),
            root,
        }
    }

    /// With errors; gives how many.
    fn suffer(&mut self, calls: usize, context: &str) -> u64 {
        self.suffer_and_read(calls, context, Tree::read)
    }

    /// The same, where reading needs relief.
    fn suffer_and_read(
        &mut self,
        calls: usize,
        context: &str,
        read: impl Fn(&Path) -> io::Result<Tree>,
    ) -> u64 {
        let errors = self.worker.calls_with_errors(&self.root, calls, &EXPECTED, read);
        errors.unwrap_or_else(|lost| panic!("{context}: {lost}"))
    }

    /// Without any.
    pub(super) fn go_on(&mut self, calls: usize, context: &str) {
        let went = self.worker.calls(&self.root, calls);
        went.unwrap_or_else(|e| panic!("{context}: there is room again, but: {e}"));
        self.check(context);
    }

    pub(super) fn check(&mut self, context: &str) {
        let right = self.worker.recover(&self.root);
        right.unwrap_or_else(|lost| panic!("{context}: {lost}"));
    }

    /// Commits, and reads it from another pod and after a kill.
    pub(super) fn commit_and_compare(&mut self, cluster: &Cluster, pod: &Pod, plan: &Plan, context: &str) {
        self.worker.close();
        pod.commit("all of it");
        let other = cluster.pod();
        other.mount("data", &["--read-only"]);
        let root = other.path("w");
        let right = self.worker.recover(&root);
        right.unwrap_or_else(|lost| panic!("{context}: of what was committed: {lost}"));
        other.umount(&[]);
        pod.kill_daemon();
        pod.mount("data", &options(plan));
        self.check(context);
    }
}

fn full_state(plan: &Plan, seed: u64, tally: &mut Tally) {
    let context = format!("seed {seed}, state directory full");
    let cluster = Cluster::start();
    let pod = cluster.pod();
    let small = Small::in_memory(&pod.local_dir("state"), "size=12m");
    pod.mount("data", &options(plan));
    let mut bench = Bench::new(seed, &pod);
    let mut errors = 0;
    for _ in 0..20 {
        errors += bench.suffer(CALLS, &context);
        if errors > 30 {
            break;
        }
    }
    assert!(errors > 0, "{context}: it never was");
    tally.add("calls refused for want of room", errors);
    // Full as it is, it can be killed and is found again.
    pod.kill_daemon();
    pod.mount("data", &options(plan));
    bench.check(&context);
    small.resize("256m");
    bench.go_on(CALLS, &context);
    bench.commit_and_compare(&cluster, &pod, plan, &context);
    pod.umount(&[]);
    drop(pod);
    drop(small);
}

fn full_cache(plan: &Plan, seed: u64, tally: &mut Tally) {
    let context = format!("seed {seed}, cache full");
    let cluster = Cluster::start();
    let writer = cluster.pod();
    writer.mount("data", &["--create"]);
    let mut random = Random::new(seed);
    let files: Vec<Vec<u8>> = (0..12)
        .map(|n| random.bytes([2000, 300_000, 9 << 20][n % 3]))
        .collect();
    for (n, bytes) in files.iter().enumerate() {
        fs::write(writer.path(format!("f{n}")), bytes).expect("the mount writes");
    }
    writer.commit("files");
    let pod = cluster.pod();
    let small = Small::in_memory(&pod.local_dir("cache"), "size=16m");
    let mut given = options(plan);
    given.extend(["--cache-size", "1G"]);
    pod.mount("data", &given);
    let read_all = |when: &str| -> u64 {
        let mut errors = 0;
        for (n, wanted) in files.iter().enumerate() {
            match fs::read(pod.path(format!("f{n}"))) {
                Ok(found) => assert!(found == *wanted, "{context}, {when}: wrong bytes in f{n}"),
                Err(error) => {
                    let code = error.raw_os_error().unwrap_or(0);
                    assert!(EXPECTED.contains(&code), "{context}, {when}: f{n}: {error}");
                    errors += 1;
                }
            }
        }
        errors
    };
    // More than it holds, but what is clean goes first.
    assert_eq!(
        read_all("with room for some"),
        0,
        "{context}: clean bytes did not make room"
    );
    // Somebody else takes all of it.
    let ballast = pod.local_dir("cache").join("ballast");
    let filled = fs::write(&ballast, vec![1; 64 << 20]);
    assert!(filled.is_err(), "{context}: it never was");
    tally.add("reads refused for want of room", read_all("without any"));
    let mut bench = Bench::new(seed, &pod);
    bench.go_on(50, &context);
    fs::remove_file(&ballast).expect("the file is ours");
    assert_eq!(
        read_all("with room again"),
        0,
        "{context}: no read after there was room again"
    );
    bench.commit_and_compare(&cluster, &pod, plan, &context);
    pod.umount(&[]);
    drop(pod);
    drop(small);
}

fn no_descriptors(plan: &Plan, seed: u64, tally: &mut Tally) {
    let context = format!("seed {seed}, no descriptors");
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &options(plan));
    let mut bench = Bench::new(seed, &pod);
    bench.go_on(CALLS, &context);
    let daemon = pod.daemon().expect("the daemon runs");
    let pid = i32::try_from(daemon).ok().and_then(Pid::from_raw);
    let open = fs::read_dir(format!("/proc/{daemon}/fd"))
        .expect("as root")
        .count() as u64;
    let limit = |current| Rlimit {
        current: Some(current),
        ..rustix::process::getrlimit(Resource::Nofile)
    };
    let set = |limit| rustix::process::prlimit(pid, Resource::Nofile, limit).expect("as root");
    let before = set(limit(open));
    let errors = bench.suffer_and_read(CALLS, &context, |root| {
        let tight = set(before);
        let found = Tree::read(root);
        set(tight);
        found
    });
    tally.add("calls refused for want of descriptors", errors);
    set(before);
    bench.go_on(CALLS, &context);
    bench.commit_and_compare(&cluster, &pod, plan, &context);
}

fn failing_calls(plan: &Plan, number: u64, tally: &mut Tally) {
    let context = format!("seed {}, calls from number {number} on", plan.seed);
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &options(plan));
    let mut bench = Bench::new(plan.seed + number, &pod);
    bench.go_on(60, &context);
    let daemon = pod.daemon().expect("the daemon runs");
    // A quota that is used up is a full disk, too.
    let error = ["ENOSPC", "EDQUOT"][(number % 2) as usize];
    let rule = format!("inject={CHANGING_CALLS}:error={error}:when={number}+");
    let strace = RefCell::new(trace(daemon, &rule));
    // Opening a file to read it is among these calls: what is there is read without them.
    let errors = bench.suffer_and_read(60, &context, |root| {
        let mut strace = strace.borrow_mut();
        detach(&mut strace);
        let found = Tree::read(root);
        *strace = trace(daemon, &rule);
        found
    });
    tally.add("calls refused", errors);
    // A commit meanwhile: done, or refused.
    let dir = pod.mount_dir();
    let meanwhile = pod.run([
        OsStr::new("commit"),
        dir.as_os_str(),
        OsStr::new("--timeout"),
        OsStr::new("20s"),
    ]);
    tally.add("commits refused", u64::from(!meanwhile.status.success()));
    detach(&mut strace.into_inner());
    bench.check(&context);
    bench.go_on(60, &context);
    bench.commit_and_compare(&cluster, &pod, plan, &context);
    pod.umount(&[]);
}

/// Ends strace, which lets go of the process.
fn detach(strace: &mut Child) {
    let raw = i32::try_from(strace.id()).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(raw.expect("a process number"), Signal::INT).expect("strace is ours");
    strace.wait().expect("strace is ours");
}

/// strace on all threads of a process; attached when this returns.
fn trace(pid: u32, rule: &str) -> Child {
    let strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={CHANGING_CALLS}"),
            "-e",
            rule,
        ])
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    wait_until("strace is attached", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
        tasks.flatten().all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    });
    strace
}

/// Runs the part with a memory limit on the daemon.
///
/// # Panics
/// Where the daemon dies or bytes are wrong; without a control group that can be written.
pub fn run_memory(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let group = MemoryGroup::make(MEMORY_BYTES);
    let cluster = Cluster::start();
    let pod = cluster.pod().in_group(&group.dir);
    pod.mount("data", &options(plan));
    let mut random = Random::new(plan.seed);
    let files: Vec<Vec<u8>> = (0..6).map(|_| random.bytes(64 << 20)).collect();
    for (n, bytes) in files.iter().enumerate() {
        fs::write(pod.path(format!("large{n}")), bytes).expect("the mount writes");
    }
    for n in 0..3000u64 {
        fs::write(pod.path(format!("small{n}")), random.bytes(2000)).expect("the mount writes");
    }
    pod.commit("under a limit");
    let reader = cluster.pod().in_group(&group.dir);
    reader.mount("data", &[]);
    std::thread::scope(|scope| {
        for (n, bytes) in files.iter().enumerate() {
            let path = reader.path(format!("large{n}"));
            scope.spawn(move || assert!(fs::read(path).expect("a read") == *bytes));
        }
    });
    tally.add("MiB at most", group.peak() >> 20);
    reader.umount(&[]);
    pod.umount(&[]);
    tally
}

/// A control group with a memory limit, of either version.
struct MemoryGroup {
    dir: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    fn make(limit: u64) -> MemoryGroup {
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if is_v2 {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/memory"
        };
        let dir = Path::new(root).join(format!("sailvol-campaign-{}", std::process::id()));
        fs::create_dir(&dir).expect("a control group (as root)");
        let file = if is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::write(dir.join(file), limit.to_string()).expect("a memory limit");
        MemoryGroup { dir, is_v2 }
    }

    fn peak(&self) -> u64 {
        let file = if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let text = fs::read_to_string(self.dir.join(file)).expect("the kernel counts");
        text.trim().parse().expect("a number")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("{} stays: {error}", self.dir.display());
        }
    }
}
