//! Nothing hangs: every way to end a mount ends it in time, whatever it is in the middle of and however the store
//! behaves.
//!
//! For each of reading, committing and reloading, with a store that takes requests and never answers: SIGTERM, SIGKILL,
//! `umount`, `umount --force`, `umount --commit`. Afterwards no daemon, no mount, and no process that waits. A daemon
//! that is stopped (SIGSTOP) cannot end anything itself: `umount --force` does.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::random::Random;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod, wait_until};
use crate::s3d::{Action, FaultRule};

/// `--remote-timeout` of the mounts.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time beyond it that every end may take.
const GRACE: Duration = Duration::from_secs(2);

/// What the mount is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    Reading,
    Committing,
    Reloading,
    Idle,
}

/// How it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Term,
    Kill,
    Umount,
    UmountForce,
    UmountCommit,
    /// Stopped, then cleared.
    StopForce,
    /// Stopped, then asked without force, which must give up in time.
    StopUmount,
}

/// All combinations, in the order of a seed.
fn cases(random: &mut Random) -> Vec<(During, End)> {
    let mut all = Vec::new();
    for during in [
        During::Reading,
        During::Committing,
        During::Reloading,
        During::Idle,
    ] {
        for end in [
            End::Term,
            End::Kill,
            End::Umount,
            End::UmountForce,
            End::UmountCommit,
            End::StopForce,
            End::StopUmount,
        ] {
            all.push((random.any(), (during, end)));
        }
    }
    all.sort_by_key(|(order, _)| *order);
    all.into_iter().map(|(_, case)| case).collect()
}

/// Runs `plan.rounds` of the 28 cases (all of them, again and again, if there are more), in the order of the seed.
/// `slack` multiplies the allowed times: 1 on an idle machine.
///
/// # Panics
/// Where something took too long or was left behind.
pub fn run(plan: &Plan, slack: u32) -> Tally {
    let cluster = Cluster::start();
    let writer = cluster.pod();
    writer.mount("data", &["--create"]);
    let mut random = Random::new(plan.seed);
    for n in 0..6 {
        fs::write(writer.path(format!("file{n}")), random.bytes(9 << 20)).expect("the mount writes");
    }
    writer.commit("files");
    let mut tally = Tally::default();
    let mut left = plan.rounds;
    while left > 0 {
        for (during, end) in cases(&mut random) {
            if left == 0 {
                break;
            }
            left -= 1;
            let took = case(&cluster, during, end, slack);
            plan.say(format_args!("{during:?}, {end:?}: {:.2} s", took.as_secs_f64()));
            tally.add("ends in time", 1);
        }
    }
    tally
}

/// One case; gives how long the end took.
fn case(cluster: &Cluster, during: During, end: End, slack: u32) -> Duration {
    let pod = cluster.pod();
    let seconds = format!("{}s", TIMEOUT.as_secs());
    pod.mount("data", &["--remote-timeout", &seconds]);
    // Names are known, bytes are not.
    let names = fs::read_dir(pod.mount_dir()).expect("the mount lists").count();
    assert!(names >= 6);
    fs::write(pod.path("local"), b"uncommitted").expect("the mount writes");
    let daemon = pod.daemon().expect("the daemon runs");
    cluster.server.fault(FaultRule::new(Action::Stall));
    let mut waiting = begin(&pod, during);
    // Readers have files of a chunk each; a command's first question to the store comes on top.
    let (least, command) = match during {
        During::Idle => (0, false),
        During::Reading => (1, false),
        During::Committing | During::Reloading => (1, true),
    };
    wait_until("the store is asked", || cluster.server.held() >= least);
    if command {
        wait_until("the command is under way", || asks_for_log(cluster));
    }
    let began = Instant::now();
    let limit = (TIMEOUT + GRACE) * slack;
    finish(&pod, daemon, end, limit);
    // A command waits for its daemon's answer, and a stopped one gives none: it ends when that goes on.
    let is_stopped = matches!(end, End::StopForce | End::StopUmount);
    let must_end = |what: &str| what.starts_with("a reader") || !is_stopped;
    for (what, child) in waiting.iter_mut().filter(|(what, _)| must_end(what)) {
        let left = limit.saturating_sub(began.elapsed());
        assert!(
            ends_within(child, left),
            "{during:?}, {end:?}: {what} still waits after {:?}, {}",
            began.elapsed(),
            state_of(child.id())
        );
    }
    let took = began.elapsed();
    if matches!(end, End::Umount | End::UmountCommit | End::StopUmount) {
        // In use, or a commit that could not be: it says so, and the mount stays. Once nothing waits it goes.
        cluster.server.clear_faults();
        cluster.server.release();
        if is_mounted(&pod.mount_dir()) {
            pod.umount(&[]);
        }
    }
    wait_until("the daemon ends", || {
        pod.daemon().is_none() || end == End::StopForce
    });
    assert!(
        end == End::Kill || !is_mounted(&pod.mount_dir()),
        "{during:?}, {end:?}: the mount is left"
    );
    cluster.server.clear_faults();
    cluster.server.release();
    if matches!(end, End::StopForce) {
        signal(daemon, Signal::CONT);
        wait_until("the daemon whose mount was cleared ends by itself", || {
            !Path::new(&format!("/proc/{daemon}")).exists()
        });
    }
    // What was written is there again.
    pod.mount("data", &[]);
    if during == During::Reloading && !pod.path("local").exists() {
        // A daemon that was stopped had its answer when it went on, and the reload has set the changes aside.
        let dir = pod.mount_dir();
        let listed = pod.json(["stash".as_ref(), "list".as_ref(), dir.as_os_str()]);
        let id = listed[0]["id"].to_string();
        pod.json(["stash".as_ref(), "restore".as_ref(), id.as_ref(), dir.as_os_str()]);
    }
    let kept = fs::read(pod.path("local")).expect("local changes are kept");
    assert_eq!(kept, b"uncommitted", "{during:?}, {end:?}");
    pod.umount(&[]);
    took
}

/// A commit or a reload has come to its first question: for the log.
fn asks_for_log(cluster: &Cluster) -> bool {
    cluster.server.waiting().iter().any(|key| key.contains("/log/"))
}

/// Processes that wait for the store.
fn begin(pod: &Pod, during: During) -> Vec<(String, Child)> {
    let quiet = |mut command: Command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("a program starts")
    };
    let dir = pod.mount_dir();
    let mut waiting = Vec::new();
    if during != During::Idle {
        for n in 0..3 {
            let mut cat = Command::new("cat");
            cat.arg(pod.path(format!("file{n}")));
            waiting.push((format!("a reader of file{n}"), quiet(cat)));
        }
    }
    let command = match during {
        During::Reading | During::Idle => return waiting,
        During::Committing => "commit",
        During::Reloading => "reload",
    };
    let limit = format!("{}s", TIMEOUT.as_secs());
    let asked = pod.command([
        OsStr::new(command),
        dir.as_os_str(),
        OsStr::new("--timeout"),
        OsStr::new(&limit),
    ]);
    waiting.push((command.to_owned(), quiet(asked)));
    waiting
}

/// Ends the mount, or tries to.
fn finish(pod: &Pod, daemon: u32, end: End, limit: Duration) {
    let dir = pod.mount_dir();
    let umount = |more: &[&str]| {
        let mut command = pod.command([OsStr::new("umount"), dir.as_os_str()]);
        command
            .args(more)
            .args(["--timeout", &format!("{}s", TIMEOUT.as_secs())]);
        let began = Instant::now();
        let output = command.output().expect("the program runs");
        let took = began.elapsed();
        assert!(took <= limit, "{command:?} took {took:?}: {output:?}");
        output
    };
    match end {
        End::Term => {
            signal(daemon, Signal::TERM);
            let began = Instant::now();
            wait_until("the daemon ends", || !alive(daemon));
            let took = began.elapsed();
            assert!(took <= limit, "SIGTERM took {took:?}");
        }
        End::Kill => signal(daemon, Signal::KILL),
        End::Umount => drop(umount(&[])),
        End::UmountCommit => drop(umount(&["--commit"])),
        End::UmountForce => {
            let output = umount(&["--force"]);
            assert!(output.status.success(), "{output:?}");
        }
        End::StopForce => {
            signal(daemon, Signal::STOP);
            let output = umount(&["--force"]);
            assert!(output.status.success(), "{output:?}");
        }
        End::StopUmount => {
            signal(daemon, Signal::STOP);
            let output = umount(&[]);
            assert!(!output.status.success(), "{output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("--force"), "{said}");
            signal(daemon, Signal::CONT);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(raw.expect("a process number"), signal).expect("the process is ours");
}

fn alive(pid: u32) -> bool {
    !matches!(state_of(pid).as_str(), "gone" | "Z")
}

/// The state letter of a process, as the kernel tells it.
fn state_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').next());
    state
        .filter(|state| !state.is_empty())
        .unwrap_or("gone")
        .to_owned()
}

fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if child.try_wait().expect("the child is ours").is_some() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Never touches the mount.
fn is_mounted(dir: &Path) -> bool {
    // Somebody else's mount point may be no UTF-8.
    let mounts = fs::read("/proc/self/mountinfo").expect("the kernel tells its mounts");
    let mounts = String::from_utf8_lossy(&mounts);
    mounts.contains(&*dir.to_string_lossy())
}
