//! Files that the kernel reads and writes without the daemon: every state that a file can be in, with everything that
//! programs do to it, on real mounts. Needs a kernel and a file system that can do it (`status` says why not).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use fuse_tests::mapping::Mapping;
use fuse_tests::pod::{Cluster, Pod, wait_until};
use fuse_tests::s3d::{Action, FaultRule, Verb};

/// A file of chunks, which the cache has in a file of its own.
const LARGE: usize = 5 << 20;

/// The states in which a file is met.
#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Clean,
    Dirty,
    /// A commit is under way that has it.
    Frozen,
    /// Clean, and gone from the cache while somebody reads it.
    Evicted,
    /// A reload has put it aside while somebody reads it.
    Stashed,
}

const STATES: [State; 5] = [
    State::Clean,
    State::Dirty,
    State::Frozen,
    State::Evicted,
    State::Stashed,
];

/// What is done to it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Deed {
    Read,
    Write,
    /// Written through a mapping whose file is closed.
    Map,
    Truncate,
    Rename,
    Unlink,
}

const DEEDS: [Deed; 6] = [
    Deed::Read,
    Deed::Write,
    Deed::Map,
    Deed::Truncate,
    Deed::Rename,
    Deed::Unlink,
];

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn mounted() -> (Cluster, Pod) {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    let passthrough = pod.status()["passthrough"].as_str().unwrap().to_owned();
    assert_eq!(passthrough, "on", "these tests are about it");
    (cluster, pod)
}

/// A commit that waits at its first upload.
fn held_commit(cluster: &Cluster, pod: &Pod) -> Child {
    for verb in [Verb::Put, Verb::PutIf] {
        cluster.server.fault(FaultRule::new(Action::Stall).verb(verb));
    }
    let puts = || {
        let counted = cluster.server.counters();
        counted.verb(Verb::Put).requests + counted.verb(Verb::PutIf).requests
    };
    let before = puts();
    let dir = pod.mount_dir();
    let mut command = pod.command([std::ffi::OsStr::new("commit"), dir.as_os_str()]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the commit waits for the store", || puts() > before);
    child
}

fn let_commit_go(cluster: &Cluster, child: Child) {
    cluster.server.clear_faults();
    cluster.server.release();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn evict(pod: &Pod) {
    fn walk(dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "index") {
                walk(&path);
            } else if path
                .parent()
                .is_some_and(|p| p.ends_with("contents") || p.ends_with("packs"))
            {
                fs::remove_file(&path).unwrap();
            }
        }
    }
    walk(&pod.local_dir("cache"));
}

/// What is seen at a path.
fn seen(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

fn meet(state: State, deed: Deed, len: usize) {
    let (cluster, pod) = mounted();
    let path = pod.path("f");
    let committed = bytes(1, len);
    let mut now = bytes(2, len);
    fs::write(&path, &committed).unwrap();
    pod.commit("first");
    if matches!(state, State::Dirty | State::Frozen | State::Stashed) {
        fs::write(&path, &now).unwrap();
    } else {
        now = committed.clone();
    }
    let context = format!("{state:?} {deed:?} {len}");
    let reader = File::open(&path).unwrap();
    let held = (state == State::Frozen).then(|| held_commit(&cluster, &pod));
    let opened = now.clone();
    match state {
        State::Evicted => evict(&pod),
        State::Stashed => {
            pod.reload(&[]);
            now = committed.clone();
        }
        State::Clean | State::Dirty | State::Frozen => {}
    }
    let mut mapping = None;
    match deed {
        Deed::Read => {}
        Deed::Write => {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            file.write_all_at(b"written", 10).unwrap();
            now[10..17].copy_from_slice(b"written");
            let mut appended = File::options().append(true).open(&path).unwrap();
            appended.write_all(b"appended").unwrap();
            now.extend_from_slice(b"appended");
        }
        Deed::Map => {
            let mut map = Mapping::of(&path);
            map.store(20, b"stored");
            now[20..26].copy_from_slice(b"stored");
            mapping = Some(map);
        }
        Deed::Truncate => {
            fs::write(&path, b"short").unwrap();
            now = b"short".to_vec();
        }
        Deed::Rename => fs::rename(&path, pod.path("g")).unwrap(),
        Deed::Unlink => fs::remove_file(&path).unwrap(),
    }
    let place = pod.path(if deed == Deed::Rename { "g" } else { "f" });
    let expected = (deed != Deed::Unlink).then_some(now.clone());
    assert!(seen(&place) == expected, "{context}: before the commit ends");
    // Who reads sees what was there when it was opened, or what was written since: the same file either way.
    let mut read = vec![0; 64];
    let read_len = reader.read_at(&mut read, 0).unwrap();
    let followed = &now[..64.min(now.len())];
    assert!(
        read[..read_len] == opened[..64.min(len)] || read[..read_len] == *followed,
        "{context}: an open file shows what was never in it"
    );
    if let Some(child) = held {
        let_commit_go(&cluster, child);
        assert!(seen(&place) == expected, "{context}: after the commit");
        // What was frozen is what was committed.
        let other = cluster.pod();
        other.mount("data", &[]);
        assert!(
            seen(&other.path("f")) == Some(opened),
            "{context}: the commit is as of its freeze"
        );
    }
    if let Some(map) = &mut mapping {
        let answer = pod.commit("mapped");
        let told = answer["still_written"].as_array().unwrap();
        // Through the daemon a store is in the kernel's pages until that writes them: nobody can tell of it before.
        let known = matches!(state, State::Dirty | State::Frozen) || (state == State::Clean && len == LARGE);
        assert!(
            told.len() == 1 || (told.is_empty() && !known),
            "{context}: a mapping can still store"
        );
        map.store(30, b"later");
        now[30..35].copy_from_slice(b"later");
        assert!(
            seen(&place) == Some(now.clone()),
            "{context}: a store after the commit"
        );
    }
    drop(mapping);
    drop(reader);
    let expected = (deed != Deed::Unlink).then_some(now);
    // Until the kernel is done with closing, it may be told as being written, and the next commit brings the rest.
    wait_until("everything is committed", || {
        pod.commit("last")["still_written"].as_array().unwrap().is_empty() && pod.status()["dirty"] == 0
    });
    assert!(seen(&place) == expected, "{context}: committed");
    let other = cluster.pod();
    other.mount("data", &[]);
    let there = other.path(if deed == Deed::Rename { "g" } else { "f" });
    assert!(seen(&there) == expected, "{context}: in another pod");
    other.umount(&[]);
    // And after kill -9 and a new start.
    pod.kill_daemon();
    pod.mount("data", &[]);
    assert!(seen(&place) == expected, "{context}: after a kill");
}

#[test]
fn every_state_with_every_deed_on_large_files() {
    for state in STATES {
        for deed in DEEDS {
            meet(state, deed, LARGE);
        }
    }
}

#[test]
#[ignore = "as long again as the one on large files; see fuse-tests/README.md"]
fn every_state_with_every_deed_on_small_files() {
    for state in STATES {
        for deed in DEEDS {
            meet(state, deed, 3000);
        }
    }
}

#[test]
fn what_was_written_without_the_daemon_survives_its_end() {
    let (_cluster, pod) = mounted();
    let path = pod.path("f");
    let file = File::create(&path).unwrap();
    file.write_all_at(&bytes(1, 100_000), 0).unwrap();
    let mut map = {
        fs::write(pod.path("m"), vec![0; 8192]).unwrap();
        Mapping::of(&pod.path("m"))
    };
    map.store(4096, b"mapped");
    pod.kill_daemon();
    // The kernel goes on without it.
    file.write_all_at(b"afterwards", 200_000).unwrap();
    map.store(0, b"too");
    drop((file, map));
    pod.mount("data", &[]);
    let mut expected = bytes(1, 100_000);
    expected.resize(200_000, 0);
    expected.extend_from_slice(b"afterwards");
    assert!(seen(&path) == Some(expected.clone()));
    let mapped = seen(&pod.path("m")).unwrap();
    assert_eq!((&mapped[..3], &mapped[4096..4102]), (&b"too"[..], &b"mapped"[..]));
    pod.commit("found again");
    assert!(seen(&path) == Some(expected));
}

#[test]
fn readers_follow_a_writer_and_times_move() {
    let (_cluster, pod) = mounted();
    for len in [3000, LARGE] {
        let path = pod.path(format!("f{len}"));
        fs::write(&path, bytes(1, len)).unwrap();
        pod.commit("first");
        let reader = File::open(&path).unwrap();
        let before = fs::metadata(&path).unwrap();
        for round in 0..3u8 {
            let mut writer = File::options().append(true).open(&path).unwrap();
            writer.write_all(&[round; 5]).unwrap();
            drop(writer);
            pod.commit("appended");
            let mut last = [0; 5];
            reader
                .read_exact_at(&mut last, (len + 5 * usize::from(round)) as u64)
                .unwrap();
            assert_eq!(last, [round; 5]);
        }
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.len(), len as u64 + 15);
        assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
        assert_eq!(after.ino(), before.ino());
    }
}

/// make compares times of files that the daemon stamps (new, empty) with those that the kernel writes by itself.
#[test]
fn times_are_in_the_order_of_the_changes() {
    let (_cluster, pod) = mounted();
    let mut last = SystemTime::UNIX_EPOCH;
    for round in 0..200 {
        let (touched, written) = (
            pod.path(format!("touched{round}")),
            pod.path(format!("written{round}")),
        );
        for (path, content) in [(&touched, &b""[..]), (&written, b"once"), (&written, b"again")] {
            fs::write(path, content).unwrap();
            let now = fs::metadata(path).unwrap().modified().unwrap();
            assert!(now >= last, "round {round}: {now:?} after {last:?}");
            last = now;
        }
    }
}

/// The shortest program that a random one was cut down to: the time was that of the creation afterwards.
#[test]
fn a_kill_moves_no_time() {
    let (_cluster, pod) = mounted();
    let times = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    };
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let paths: Vec<PathBuf> = (0..40).map(|at| pod.path(format!("f{at}"))).collect();
    for (at, path) in paths.iter().enumerate() {
        fs::write(path, b"new").unwrap();
        let open = || File::options().write(true).open(path).unwrap();
        match at % 4 {
            1 => open().set_modified(past).unwrap(),
            2 => {
                open().set_modified(past).unwrap();
                open().write_all(b"old").unwrap();
            }
            3 => fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
            _ => {}
        }
    }
    let before: Vec<_> = paths.iter().map(|path| times(path)).collect();
    pod.kill_daemon();
    pod.mount("data", &[]);
    let after: Vec<_> = paths.iter().map(|path| times(path)).collect();
    assert_eq!(after, before);
}

#[test]
fn what_was_only_opened_for_writing_overwrites_nothing() {
    let (cluster, pod) = mounted();
    let others = cluster.pod();
    let files = [("small", 3000), ("large", LARGE)];
    for (name, len) in files {
        fs::write(pod.path(name), bytes(1, len)).unwrap();
    }
    pod.commit("first");
    others.mount("data", &[]);
    for (name, len) in files {
        // Opened by readers before, and still a body: both are given to the kernel.
        let reader = File::open(pod.path(name)).unwrap();
        drop(File::options().append(true).open(pod.path(name)).unwrap());
        drop(reader);
        fs::write(others.path(name), bytes(2, len)).unwrap();
    }
    others.commit("second");
    fs::write(pod.path("mine"), b"mine").unwrap();
    let answer = pod.reload(&["--keep"]);
    assert_eq!(answer["overwrote"], serde_json::json!([]), "{answer}");
    assert_eq!(answer["kept"], serde_json::json!(["/mine"]), "{answer}");
    for (name, len) in files {
        assert!(seen(&pod.path(name)) == Some(bytes(2, len)), "{name}");
    }
    // With one byte written it is a change.
    let file = File::options().write(true).open(pod.path("large")).unwrap();
    file.write_all_at(b"!", LARGE as u64 / 2).unwrap();
    drop(file);
    fs::write(others.path("large"), bytes(3, LARGE)).unwrap();
    others.commit("third");
    let answer = pod.reload(&["--keep"]);
    assert_eq!(answer["overwrote"][0]["path"], "/large", "{answer}");
    let mut mine = bytes(2, LARGE);
    mine[LARGE / 2] = b'!';
    assert!(seen(&pod.path("large")) == Some(mine));
}

#[test]
fn off_is_off_and_says_so() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create", "--passthrough", "off"]);
    let said = pod.status()["passthrough"].as_str().unwrap().to_owned();
    assert!(said.starts_with("off (--passthrough off"), "{said}");
    fs::write(pod.path("f"), bytes(1, LARGE)).unwrap();
    pod.commit("through the daemon");
    assert!(seen(&pod.path("f")) == Some(bytes(1, LARGE)));
}

/// What takes the local disk long is not done on the threads that answer everybody.
#[test]
fn large_local_files_are_cut_and_written_anew() {
    for options in [&["--passthrough", "off"][..], &[]] {
        let cluster = Cluster::start();
        let pod = cluster.pod();
        pod.mount("data", &[&["--create"], options].concat());
        let path = pod.path("f");
        let large = bytes(3, 70 << 20);
        fs::write(&path, &large).unwrap();
        fs::write(&path, &large[..9000]).unwrap();
        assert!(fs::read(&path).unwrap() == large[..9000], "{options:?}");
        fs::write(&path, &large).unwrap();
        pod.commit("large");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_len(5000).unwrap();
        drop(file);
        assert!(fs::read(&path).unwrap() == large[..5000], "{options:?}");
        let other = pod.path("g");
        fs::write(&other, &large).unwrap();
        let end = u64::try_from(large.len()).unwrap();
        let made = File::options().write(true).open(&other).unwrap();
        rustix::fs::fallocate(&made, rustix::fs::FallocateFlags::empty(), 0, end + 10).unwrap();
        drop(made);
        assert_eq!(fs::metadata(&other).unwrap().len(), end + 10);
        pod.commit("cut");
        assert!(fs::read(&path).unwrap() == large[..5000], "{options:?}");
        pod.umount(&[]);
    }
}
