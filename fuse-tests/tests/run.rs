//! `sailvol run`: whatever ends its command, what that wrote is committed once, the mount is gone, and the exit code tells.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fuse_tests::pod::{Pod, program, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A pod whose volumes are a directory, and that directory.
fn pod() -> (Pod, TempDir) {
    let store = tempfile::tempdir().expect("a temporary directory");
    (Pod::new(&format!("file://{}", store.path().display())), store)
}

fn words(pod: &Pod, options: &[&str], command: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["run".into(), "--create".into()];
    words.extend(options.iter().map(OsString::from));
    words.extend(["v".into(), pod.mount_dir().into(), "--".into()]);
    words.extend(command.iter().map(OsString::from));
    words
}

fn run(pod: &Pod, options: &[&str], command: &[&str]) -> Output {
    pod.run(words(pod, options, command))
}

fn shell(pod: &Pod, options: &[&str], script: &str) -> Output {
    run(
        pod,
        options,
        &[
            "sh",
            "-c",
            &script.replace("{m}", &pod.mount_dir().display().to_string()),
        ],
    )
}

fn said(output: &Output) -> String {
    format!(
        "{:?} {} {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn committed(pod: &Pod, path: &str) -> Option<String> {
    let output = pod.run(["cat", &format!("v:{path}")]);
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap();
    String::from_utf8_lossy(&mounts).contains(&format!(" {} ", dir.display()))
}

/// Starts it, and waits until its command says `ready`.
fn start(pod: &Pod, options: &[&str], script: &str) -> Child {
    let script = script.replace("{m}", &pod.mount_dir().display().to_string());
    let inner = pod.command(words(pod, options, &["sh", "-c", &script]));
    // As an interactive shell starts a job: in a group of its own (SIGTSTP does nothing in one whose parents are gone), with no
    // signal ignored (a shell cannot trap what was ignored when it began).
    let mut command = Command::new("env");
    command
        .arg("--default-signal")
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .process_group(0);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_ready(&mut child);
    child
}

fn await_ready(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "ready" {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "it ended before it was ready"
        );
    }
    // Whoever writes there must not meet a closed pipe.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

#[test]
fn every_end_of_the_command_is_committed_and_told() {
    for (end, code) in [
        ("true", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("exit 255", 255),
    ] {
        let (pod, _store) = pod();
        let script = format!("echo work > {{m}}/f; {end}");
        let output = shell(&pod, &["-m", "by run"], &script);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", said(&output));
        assert_eq!(committed(&pod, "/f").as_deref(), Some("work\n"), "{script}");
        assert!(!is_mounted(&pod.mount_dir()), "{script}");
        let mounts = pod.json(["list"]);
        let dir = pod.mount_dir().display().to_string();
        assert!(
            mounts.as_array().unwrap().iter().all(|mount| mount["dir"] != dir),
            "{mounts}"
        );
    }
}

#[test]
fn what_a_failed_command_leaves_is_kept_or_stashed_if_that_is_wanted() {
    for what in ["keep", "stash"] {
        let (pod, _store) = pod();
        let output = shell(&pod, &["--on-failure", what], "echo half > {m}/f; exit 3");
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert_eq!(committed(&pod, "/f"), None, "{what}");
        pod.mount("v", &[]);
        let there = pod.path("f").exists();
        let stashes = pod.json(["stash".as_ref(), "list".as_ref(), pod.mount_dir().as_os_str()]);
        assert_eq!(
            (there, stashes.as_array().unwrap().len()),
            (what == "keep", usize::from(what == "stash"))
        );
        pod.umount(&[]);
        // It is about failures only.
        let output = shell(&pod, &["--on-failure", what], "echo whole > {m}/g");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(committed(&pod, "/g").as_deref(), Some("whole\n"));
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_as_shells_do() {
    let (pod, store) = pod();
    let output = run(&pod, &[], &["/no/such/program"]);
    assert_eq!(output.status.code(), Some(127), "{}", said(&output));
    let output = run(&pod, &[], &[store.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(126), "{}", said(&output));
    assert!(!is_mounted(&pod.mount_dir()));
}

#[test]
fn standard_streams_environment_limits_and_directory_are_those_of_the_caller() {
    let (pod, _store) = pod();
    let script = "read x; echo \"$x $WHO\"; echo err >&2; ulimit -c; ulimit -n; pwd";
    let mut command = pod.command(words(&pod, &[], &["sh", "-c", script]));
    let mut plain = Command::new("sh");
    plain.args(["-c", script]);
    let mut answers = Vec::new();
    for command in [&mut plain, &mut command] {
        let mut child = command
            .env("WHO", "me")
            .current_dir("/usr")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("err"));
        answers.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(answers[0], answers[1]);
    // Who stands on the directory sees what is mounted there.
    let mut command = pod.command(words(&pod, &[], &["sh", "-c", "echo here > file"]));
    assert!(command.current_dir(pod.mount_dir()).status().unwrap().success());
    assert_eq!(committed(&pod, "/file").as_deref(), Some("here\n"));
    let output = run(&pod, &["--cd"], &["cat", "file"]);
    assert_eq!(output.stdout, b"here\n", "{}", said(&output));
}

#[test]
fn signals_are_handed_on_and_sigterm_commits_within_its_time() {
    let (pod, _store) = pod();
    let script = "trap 'echo usr1 >> {m}/got' USR1; trap 'echo int >> {m}/got' INT; \
                  trap 'echo term >> {m}/got; exit 5' TERM; echo ready; for n in $(seq 1200); do sleep 0.05; done; exit 99";
    let mut child = start(&pod, &[], script);
    let got = |what: &str| fs::read_to_string(pod.path("got")).is_ok_and(|text| text.contains(what));
    kill_process(pid(&child), Signal::USR1).unwrap();
    wait_until("USR1 arrives", || got("usr1"));
    kill_process(pid(&child), Signal::INT).unwrap();
    wait_until("INT arrives", || got("int"));
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(committed(&pod, "/got").as_deref(), Some("usr1\nint\nterm\n"));

    // One that does not listen is killed when its time is over, and committed all the same.
    let script =
        "trap '' TERM; echo stubborn > {m}/f; echo ready; for n in $(seq 1200); do sleep 0.05; done; exit 99";
    let mut child = start(&pod, &["--exit-grace", "1s"], script);
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(committed(&pod, "/f").as_deref(), Some("stubborn\n"));
}

fn state_of(process: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next())
        .unwrap_or('X')
}

#[test]
fn it_stops_and_goes_on_with_its_command() {
    let (pod, _store) = pod();
    let mut child = start(
        &pod,
        &[],
        "echo $$ > {m}/pid; echo ready; for n in $(seq 1200); do sleep 0.05; done; exit 99",
    );
    let command: u32 = fs::read_to_string(pod.path("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill_process(pid(&child), Signal::TSTP).unwrap();
    wait_until("both are stopped", || {
        state_of(command) == 'T' && state_of(child.id()) == 'T'
    });
    kill_process(pid(&child), Signal::CONT).unwrap();
    wait_until("both go on", || {
        state_of(command) != 'T' && state_of(child.id()) != 'T'
    });
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn it_stops_in_a_container_whose_session_began_outside() {
    let (pod, _store) = pod();
    // As `kubectl exec` starts it: the session's number is 0 in there, and somebody else is process 1.
    let outer = "\"$@\" & while kill -CONT $! 2>/dev/null; do sleep 0.05; done; wait $!";
    let script = format!(
        "kill -TSTP $PPID; echo work > {}/f; exit 9",
        pod.mount_dir().display()
    );
    let inner = pod.command(words(&pod, &[], &["sh", "-c", &script]));
    let mut command = Command::new(tool("unshare"));
    command
        .args(["--pid", "--fork", "--mount-proc", "--", "sh", "-c", outer, "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    assert_eq!(committed(&pod, "/f").as_deref(), Some("work\n"));
}

#[test]
fn a_commit_that_fails_decides_the_exit_code_and_says_where_the_work_is() {
    let (pod, store) = pod();
    pod.json(["volume", "create", "v"]);
    let aside = store.path().with_extension("aside");
    let script = format!(
        "echo work > {{m}}/f; mv {0} {1}; echo 'no directory' > {0}",
        store.path().display(),
        aside.display()
    );
    let output = shell(&pod, &["--exit-grace", "2s"], &script);
    fs::remove_file(store.path()).unwrap();
    fs::rename(&aside, store.path()).unwrap();
    let text = said(&output);
    assert!(matches!(output.status.code(), Some(1..=7)), "{text}");
    assert!(
        text.contains("the command exited with 0") && text.contains(pod.local_dir("state").to_str().unwrap()),
        "{text}"
    );
    pod.mount("v", &[]);
    assert_eq!(fs::read_to_string(pod.path("f")).unwrap(), "work\n");
    pod.umount(&[]);
}

#[test]
fn a_daemon_that_is_killed_meanwhile_does_not_take_the_work_with_it() {
    let (pod, _store) = pod();
    let pipe = pod.local_dir("run").join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let script = format!(
        "echo work > {{m}}/f; echo ready; read x < {}; exit 4",
        pipe.display()
    );
    let mut child = start(&pod, &[], &script);
    pod.kill_daemon();
    fs::write(&pipe, "go\n").unwrap();
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(4), "{text}");
    assert_eq!(committed(&pod, "/f").as_deref(), Some("work\n"), "{text}");
}

/// A program of the system, or the test fails: a machine without it cannot tell.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is needed"))
}

#[test]
fn as_process_one_it_collects_what_others_leave_behind() {
    let (pod, _store) = pod();
    // Its children become those of process 1 as their parents end; the last look counts those that nobody has collected.
    let script = "for n in 1 2 3 4 5 6 7 8; do (sleep 0.01 & exec true); done; echo work > {m}/f; \
                  for n in 1 2 3 4 5 6 7 8 9 10; do z=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l); \
                  [ $z = 0 ] && break; sleep 0.3; done; echo zombies $z, I am below $PPID; exit 9";
    let script = script.replace("{m}", &pod.mount_dir().display().to_string());
    let inner = pod.command(words(&pod, &[], &["sh", "-c", &script]));
    let mut command = Command::new(tool("unshare"));
    command
        .args(["--pid", "--fork", "--mount-proc", "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    assert!(
        said(&output).contains("zombies 0, I am below 1"),
        "{}",
        said(&output)
    );
    assert_eq!(committed(&pod, "/f").as_deref(), Some("work\n"));
}

/// Says what it has of the terminal, and how often the key for SIGINT reaches it.
const ON_A_TERMINAL: &str = "
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
with open(sys.argv[1], 'w') as out:
    if os.isatty(0): print('tty', file=out)
    if os.tcgetpgrp(0) == os.getpgrp(): print('foreground', file=out)
print('ready', flush=True)
seconds = 60
while signal.sigtimedwait([signal.SIGINT], seconds):
    with open(sys.argv[1], 'a') as out: print('int', file=out)
    seconds = 0.5
sys.exit(0 if seconds < 60 else 99)
";

#[test]
fn the_command_has_the_terminal_and_its_keys() {
    let (pod, _store) = pod();
    let dir = pod.mount_dir();
    // In the foreground of the terminal; the key for SIGINT reaches it, once; what it does then is committed. (Not a shell: those
    // lose a signal now and then that comes while they start a process.)
    let file = dir.join("f");
    let (python, file) = (tool("python3"), file.to_str().unwrap());
    let inner = pod.command(words(
        &pod,
        &[],
        &[python.to_str().unwrap(), "-c", ON_A_TERMINAL, file],
    ));
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"));
    // `exec`: a shell that stays in between would get the key as well.
    let line = std::iter::once("exec".to_string())
        .chain(
            std::iter::once(program().as_os_str())
                .chain(inner.get_args())
                .map(quoted),
        )
        .collect::<Vec<_>>()
        .join(" ");
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(tool("script"));
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_ready(&mut child);
    let mut keys = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"\x03").unwrap();
    let status = child.wait().unwrap();
    drop(keys);
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert_eq!(committed(&pod, "/f").as_deref(), Some("tty\nforeground\nint\n"));
}
