//! What a program has done before counts at once: a file that it closed is closed for the commit that follows, what it stored
//! through a mapping is in it, and a time that it gave stays. The kernel tells the daemon none of that in time by itself.
//!
//! Each in both ways in which file data goes, with other programs writing meanwhile. `SAILVOL_CLOSES` says how many files
//! each program closes (300 unless told).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuse_tests::control::{Control, still_written};
use fuse_tests::mapping::Mapping;
use fuse_tests::pod::{Pod, wait_until};
use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, statx};
use tempfile::TempDir;

const WAYS: [&[&str]; 2] = [&[], &["--passthrough", "off"]];

/// Programs that write at the same time.
const WRITERS: usize = 3;
/// Files that are closed before each commit.
const FILES: usize = 10;

fn closes() -> usize {
    let told = std::env::var("SAILVOL_CLOSES").ok();
    told.map_or(100, |text| text.parse().expect("SAILVOL_CLOSES is a number"))
}

/// A pod that has mounted a new volume.
fn mounted(way: &[&str]) -> (TempDir, Pod) {
    let store = tempfile::tempdir().unwrap();
    let pod = Pod::new(&format!("file://{}/store", store.path().display()));
    pod.mount("data", &[&["--create"], way].concat());
    (store, pod)
}

/// What the newest record has at a path.
fn published(pod: &Pod, path: &str) -> Vec<u8> {
    let output = pod.run(["cat", &format!("data:{path}")]);
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Runs `work` while other threads write files and close them.
fn while_others_write(pod: &Pod, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for other in 0..WRITERS {
            let (done, path) = (&done, pod.path(format!("other-{other}")));
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    fs::write(&path, b"something else").unwrap();
                }
            });
        }
        // Also when it fails.
        let _last = Last(&done);
        work();
    });
}

struct Last<'a>(&'a AtomicBool);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn files_that_threads_have_closed_are_closed() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let pod = &pod;
                scope.spawn(move || {
                    let mut control = Control::connect(pod);
                    for round in 0..closes() / FILES / WRITERS {
                        for file in 0..FILES {
                            // Made anew, cut, and changed: each goes its own way through the daemon.
                            let path = pod.path(format!("{writer}-{}", (round + file) % (2 * FILES)));
                            let mut options = File::options();
                            let options = options.write(true).create(true).truncate(file % 3 == 0);
                            let opened = options.open(&path).unwrap();
                            opened
                                .write_all_at(format!("{writer} {round} {file}").as_bytes(), 0)
                                .unwrap();
                        }
                        let mine = format!("/{writer}-");
                        let mut open = still_written(&control.commit());
                        open.retain(|path| path.starts_with(&mine));
                        assert_eq!(open, [""; 0], "{way:?}: round {round}");
                    }
                });
            }
        });
    }
}

/// Its own arguments: the control socket, the directory, how many files, whether to close them.
const PYTHON: &str = r#"
import json, socket, sys
path, top, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
control = socket.socket(socket.AF_UNIX); control.connect(path); lines = control.makefile("rw")
json.loads(lines.readline())
bad = []
for i in range(count):
    with open(f"{top}/python-{i % 7}", "wb") as f:
        f.write(b"%d" % i)
    lines.write(json.dumps({"jsonrpc": "2.0", "id": i, "method": "commit", "params": {"message": "m"}}) + "\n"); lines.flush()
    while True:
        line = json.loads(lines.readline())
        if "method" not in line:
            break
    bad += [f"{i}: {name}" for name in line["result"]["still_written"] if "python" in name]
sys.exit("; ".join(bad) or 0)
"#;

#[test]
fn files_that_python_has_closed_are_closed() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        while_others_write(&pod, || {
            let mut python = Command::new("python3");
            python.args(["-c", PYTHON]).args([pod.socket(), pod.mount_dir()]);
            let output = python.arg((closes() / 3).to_string()).output().unwrap();
            assert!(output.status.success(), "{way:?}: {output:?}");
        });
    }
}

#[test]
fn files_that_a_shell_has_closed_are_closed() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        let script = r#"
            dir=$1; count=$2; shift 2
            for i in $(seq "$count"); do
                echo "$i" >"$dir/shell"; echo "$i" >>"$dir/log"
                "$@" | grep -F '"still_written":["' && exit 1
            done; true"#;
        let mut commit = pod.command(["commit"]);
        commit.arg(pod.mount_dir()).args(["-m", "m", "--json"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(pod.mount_dir());
        shell
            .arg((closes() / 15).to_string())
            .arg(commit.get_program())
            .args(commit.get_args());
        for (name, value) in commit.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{way:?}: {output:?}");
    }
}

#[test]
fn a_file_that_another_process_has_inherited_is_open() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        let mut control = Control::connect(&pod);
        let open = File::create(pod.path("held")).unwrap();
        (&open).write_all(b"by two").unwrap();
        let mut holder = Command::new("sleep").arg("600").stdin(open).spawn().unwrap();
        for _ in 0..5 {
            // A commit that changes nothing says nothing.
            let mut appended = File::options().append(true).open(pod.path("held")).unwrap();
            appended.write_all(b"!").unwrap();
            drop(appended);
            assert_eq!(still_written(&control.commit()), ["/held"], "{way:?}");
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        let answer = control.commit();
        assert_eq!(still_written(&answer), [""; 0], "{way:?}: {answer}");
        assert_eq!(published(&pod, "/held"), b"by two!!!!!");
    }
}

/// A time that comes after the close is not overruled by that of the last write, which is looked up later.
#[test]
fn times_that_were_given_after_a_close_stay() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        let given = |file: usize| SystemTime::UNIX_EPOCH + Duration::new(1_000_000 + file as u64, 5);
        let count = closes() * 5;
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let pod = &pod;
                scope.spawn(move || {
                    for file in 0..count / WRITERS {
                        let path = pod.path(format!("{writer}-{file}"));
                        fs::write(&path, b"unpacked").unwrap();
                        set_mtime(&path, given(file));
                    }
                });
            }
            let mut control = Control::connect(&pod);
            for _ in 0..5 {
                control.commit();
            }
        });
        Control::connect(&pod).commit();
        let check = |pod: &Pod, place: &str| {
            for file in 0..count / WRITERS {
                for writer in 0..WRITERS {
                    let name = format!("{writer}-{file}");
                    let found = fs::metadata(pod.path(&name)).unwrap().modified().unwrap();
                    assert_eq!(found, given(file), "{way:?} {place}: {name}");
                }
            }
        };
        check(&pod, "here");
        pod.umount(&[]);
        pod.forget_local_state();
        pod.mount("data", way);
        check(&pod, "published");
    }
}

/// By name, as programs that unpack do.
fn set_mtime(path: &Path, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap(),
        tv_nsec: since.subsec_nanos().into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// A commit brings what was stored through a mapping that is still held, whatever the file was before.
#[test]
fn stores_through_a_mapping_are_committed() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        let mut control = Control::connect(&pod);
        let files: Vec<PathBuf> = ["committed", "changed", "new"].map(|name| pod.path(name)).into();
        fs::write(&files[0], vec![0; 3 << 20]).unwrap();
        fs::write(&files[1], vec![0; 8192]).unwrap();
        control.commit();
        fs::write(&files[1], vec![1; 8192]).unwrap();
        fs::write(&files[2], vec![2; 8192]).unwrap();
        let mut mappings: Vec<Mapping> = files.iter().map(|path| Mapping::of(path)).collect();
        for round in 0..10u8 {
            let text = format!("round {round}");
            for mapping in &mut mappings {
                mapping.store(4090, text.as_bytes());
            }
            let answer = control.commit();
            assert_eq!(
                still_written(&answer),
                ["/changed", "/committed", "/new"],
                "{way:?}"
            );
            for name in ["/committed", "/changed", "/new"] {
                let found = published(&pod, name);
                assert_eq!(
                    &found[4090..4090 + text.len()],
                    text.as_bytes(),
                    "{way:?} {name} {round}"
                );
            }
        }
        drop(mappings);
        assert_eq!(still_written(&control.commit()), [""; 0], "{way:?}");
    }
}

/// So do the commits that nobody asks for.
#[test]
fn stores_through_a_mapping_are_committed_unattended() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        fs::write(pod.path("f"), vec![0; 8192]).unwrap();
        pod.commit("zeros");
        pod.umount(&[]);
        pod.mount(
            "data",
            &[&["--autocommit", "1s", "--commit-on-exit"], way].concat(),
        );
        let mut mapping = Mapping::of(&pod.path("f"));
        mapping.store(5000, b"stored");
        wait_until("an automatic commit brings it", || {
            &published(&pod, "/f")[5000..5006] == b"stored"
        });
        mapping.store(6000, b"at the end");
        pod.signal_daemon(rustix::process::Signal::TERM);
        assert_eq!(&published(&pod, "/f")[6000..6010], b"at the end", "{way:?}");
        // The mount is detached, and nobody answers what the mapping might ask.
        drop(mapping);
    }
}

/// What a reload would put aside, and a difference, count what is stored as well.
#[test]
fn a_reload_does_not_lose_what_is_stored() {
    for way in WAYS {
        let (store, pod) = mounted(way);
        fs::write(pod.path("f"), vec![0; 8192]).unwrap();
        pod.commit("zeros");
        let others = Pod::new(&format!("file://{}/store", store.path().display()));
        others.mount("data", way);
        fs::write(others.path("g"), b"theirs").unwrap();
        others.commit("theirs");
        let mut mapping = Mapping::of(&pod.path("f"));
        mapping.store(100, b"mine");
        let refused = pod.fails(3, ["reload", "--if-clean", pod.mount_dir().to_str().unwrap()]);
        assert!(refused.contains("local change"), "{way:?}: {refused}");
        pod.reload(&[]);
        mapping.store(200, b"more");
        drop(mapping);
        assert_eq!(fs::read(pod.path("g")).unwrap(), b"theirs");
        pod.commit("mine");
        let found = published(&pod, "/f");
        assert_eq!(
            (&found[100..104], &found[200..204]),
            (&b"mine"[..], &b"more"[..]),
            "{way:?}"
        );
    }
}

/// mtime and ctime, asked for alone: the kernel answers from what it keeps as long as it may.
fn times_alone(path: &Path) -> [(i64, u32); 2] {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MTIME | StatxFlags::CTIME).unwrap();
    [found.stx_mtime, found.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))
}

/// The clock of file times has moved on.
fn next_tick() {
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let before = now();
    wait_until("the clock moves", || now() != before);
}

#[test]
fn times_of_stores_through_a_mapping_are_told() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        for state in ["local", "committed", "opened by creat"] {
            let path = pod.path(state);
            fs::write(&path, vec![0; 8192]).unwrap();
            if state == "committed" {
                pod.commit("m");
            }
            // Everything is settled, and the kernel keeps what it was told.
            wait_until("the file is closed", || {
                let answer = pod.json(["commit", "--dry-run", pod.mount_dir().to_str().unwrap()]);
                still_written(&answer).is_empty()
            });
            let before = times_alone(&path);
            let file = match state {
                "opened by creat" => {
                    // The kernel asks by name when it does not know it.
                    drop(fs::rename(&path, pod.path("x")));
                    fs::rename(pod.path("x"), &path).unwrap();
                    File::options()
                        .read(true)
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .open(&path)
                }
                _ => File::options().read(true).write(true).open(&path),
            }
            .unwrap();
            let mut mapping = Mapping::of_file(&file);
            drop(file);
            let opened = times_alone(&path);
            assert_eq!(opened[0], before[0], "{way:?} {state}: nothing is written yet");
            next_tick();
            mapping.store(4096, b"stored");
            drop(mapping);
            let after = times_alone(&path);
            assert!(
                after[0] > opened[0] && after[1] > opened[1],
                "{way:?} {state}: {opened:?} {after:?}"
            );
            let whole = fs::metadata(&path).unwrap();
            assert_eq!(
                (whole.mtime(), whole.mtime_nsec()),
                (after[0].0, i64::from(after[0].1))
            );
        }
    }
}

/// While a mapping is held its stores have told their times by msync(2) at the latest.
#[test]
fn times_of_stores_are_told_while_the_mapping_is_held() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        let path = pod.path("f");
        fs::write(&path, vec![0; 8192]).unwrap();
        pod.commit("m");
        for round in 0..3 {
            fs::write(&path, vec![round; 8192]).unwrap();
            let mut mapping = Mapping::of(&path);
            let before = times_alone(&path);
            next_tick();
            mapping.store(100, b"stored");
            mapping.sync();
            let after = times_alone(&path);
            assert!(
                after[0] > before[0] && after[1] > before[1],
                "{way:?}: {before:?} {after:?}"
            );
        }
    }
}

/// Nothing that a commit asks of its own mount keeps that from going away.
#[test]
fn a_mount_can_be_taken_away_at_any_time() {
    for way in WAYS {
        let (_store, pod) = mounted(way);
        for round in 0..5 {
            let held = File::create(pod.path("open")).unwrap();
            let mut commit = pod.command(["commit"]);
            commit
                .arg(pod.mount_dir())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut commit = commit.spawn().unwrap();
            rustix::mount::unmount(pod.mount_dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
            drop(held);
            commit.wait().unwrap();
            wait_until("the daemon ends", || pod.daemon().is_none());
            pod.mount("data", way);
            assert_eq!(fs::read(pod.path("open")).unwrap(), b"", "{way:?} {round}");
        }
    }
}
