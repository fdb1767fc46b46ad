//! The table of promises in `docs/src/semantics.md`, a test of its name for each row, on real mounts.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use fuse_tests::pod::{Cluster, Pod, wait_until};
use fuse_tests::s3d::{Action, FaultRule, Verb};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// Two pods on one volume.
fn two() -> (Cluster, Pod, Pod) {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    b.mount("data", &[]);
    (cluster, a, b)
}

/// Bytes that do not compress and are different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
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

#[test]
fn isolation() {
    let (_cluster, a, b) = two();
    fs::write(a.path("f"), "one").unwrap();
    assert!(!b.path("f").exists(), "not committed");
    a.commit("f");
    assert!(!b.path("f").exists(), "not reloaded");
    fs::write(b.path("g"), "two").unwrap();
    let answer = b.commit("g");
    assert_eq!(answer["merged_with"].as_array().unwrap().len(), 1);
    assert!(
        !b.path("f").exists(),
        "a commit that merged does not show what others did"
    );
    b.reload(&[]);
    assert_eq!(
        (read(b.path("f")), read(b.path("g"))),
        ("one".into(), "two".into())
    );
    a.reload(&[]);
    assert_eq!(read(a.path("g")), "two");
}

#[test]
fn local_writes() {
    let (_cluster, a, _b) = two();
    fs::create_dir_all(a.path("d/e")).unwrap();
    fs::write(a.path("d/e/f"), noise(1, 3 << 20)).unwrap();
    fs::rename(a.path("d/e/f"), a.path("d/g")).unwrap();
    fs::set_permissions(a.path("d/g"), fs::Permissions::from_mode(0o640)).unwrap();
    a.kill_daemon();
    a.mount("data", &[]);
    assert_eq!(fs::read(a.path("d/g")).unwrap(), noise(1, 3 << 20));
    assert_eq!(fs::metadata(a.path("d/g")).unwrap().mode() & 0o7777, 0o640);
    assert!(a.path("d/e").is_dir() && !a.path("d/e/f").exists());
    a.commit("after a kill");
    a.kill_daemon();
    let answer = a.mount("data", &[]);
    assert_eq!(answer["dirty"], 0);
    assert_eq!(fs::read(a.path("d/g")).unwrap(), noise(1, 3 << 20));
}

#[test]
fn commit() {
    let (cluster, a, b) = two();
    for n in 0..50 {
        fs::write(a.path(format!("f{n}")), noise(n, 10_000)).unwrap();
    }
    fs::write(a.path("large"), noise(99, 20 << 20)).unwrap();
    let dry = {
        let dir = a.mount_dir();
        a.json(["commit".as_ref(), dir.as_os_str(), "--dry-run".as_ref()])
    };
    assert_eq!(
        (dry["files"].as_u64(), dry["dry_run"].as_bool()),
        (Some(51), Some(true))
    );
    // Interrupted: the uploads arrive, the record does not.
    cluster.server.fault(
        FaultRule::new(Action::Reject {
            status: 500,
            code: None,
            retry_after_s: None,
        })
        .verb(Verb::PutIf)
        .key("log/"),
    );
    let dir = a.mount_dir();
    let output = a.run([
        "commit".as_ref(),
        dir.as_os_str(),
        "--timeout".as_ref(),
        "2s".as_ref(),
    ]);
    assert!(!output.status.success());
    cluster.server.clear_faults();
    let before = cluster.server.counters();
    let answer = a.commit("again");
    // What had been sent is published as it was; there is nothing else.
    assert_eq!(
        (&answer["seq"], &answer["settled"]),
        (&1.into(), &1.into()),
        "{answer}"
    );
    assert!(
        answer["bytes_sent"].as_u64().unwrap() < 2 << 20,
        "chunks that had arrived were sent again: {answer}"
    );
    drop(before);
    // A lost answer is found out about.
    fs::write(a.path("g"), "g").unwrap();
    cluster.server.fault(
        FaultRule::new(Action::DropAfter)
            .verb(Verb::PutIf)
            .key("log/")
            .times(1),
    );
    assert_eq!(a.commit("lost answer")["seq"], 2);
    let log = a.json(["log".as_ref(), dir.as_os_str()]);
    assert_eq!(log.as_array().unwrap().len(), 3, "each commit once: {log}");
    b.reload(&[]);
    for n in 0..50 {
        assert_eq!(fs::read(b.path(format!("f{n}"))).unwrap(), noise(n, 10_000));
    }
    assert_eq!(fs::read(b.path("large")).unwrap(), noise(99, 20 << 20));
    assert_eq!(a.commit("nothing")["seq"], serde_json::Value::Null);
}

#[test]
fn commit_under_writers() {
    let (_cluster, a, b) = two();
    let mut log = File::create(a.path("log")).unwrap();
    log.write_all(b"first\n").unwrap();
    fs::write(a.path("closed"), "closed").unwrap();
    let answer = a.commit("under a writer");
    assert_eq!(answer["still_written"], serde_json::json!(["/log"]));
    log.write_all(b"second\n").unwrap();
    assert_eq!(read(a.path("log")), "first\nsecond\n");
    b.reload(&[]);
    assert_eq!(
        (read(b.path("log")), read(b.path("closed"))),
        ("first\n".into(), "closed".into())
    );
    drop(log);
    a.commit("the rest");
    b.reload(&[]);
    assert_eq!(read(b.path("log")), "first\nsecond\n");
}

#[test]
fn merge() {
    let (_cluster, a, b) = two();
    fs::write(a.path("same"), "base").unwrap();
    fs::write(a.path("mode"), "base").unwrap();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/x"), "x").unwrap();
    a.commit("base");
    b.reload(&[]);
    fs::write(a.path("same"), "from a").unwrap();
    fs::write(a.path("mode"), "edited by a").unwrap();
    fs::write(a.path("d/x"), "x edited by a").unwrap();
    fs::write(a.path("only-a"), "a").unwrap();
    a.commit("a");
    fs::write(b.path("same"), "from b").unwrap();
    fs::set_permissions(b.path("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(b.path("d"), b.path("moved")).unwrap();
    fs::write(b.path("only-b"), "b").unwrap();
    let answer = b.commit("b");
    let overwrote: Vec<(&str, &str)> = answer["overwrote"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (o["path"].as_str().unwrap(), o["register"].as_str().unwrap()))
        .collect();
    assert!(overwrote.contains(&("/same", "content")), "{answer}");
    assert!(
        !overwrote
            .iter()
            .any(|(path, register)| *path == "/mode" && *register == "content"),
        "{answer}"
    );
    a.reload(&[]);
    b.reload(&[]);
    for pod in [&a, &b] {
        assert_eq!(read(pod.path("same")), "from b");
        assert_eq!(read(pod.path("mode")), "edited by a");
        assert_eq!(fs::metadata(pod.path("mode")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            read(pod.path("moved/x")),
            "x edited by a",
            "an edit moves along with the directory"
        );
        assert!(!pod.path("d").exists());
        assert_eq!(
            (read(pod.path("only-a")), read(pod.path("only-b"))),
            ("a".into(), "b".into())
        );
    }
}

#[test]
fn reload() {
    let (_cluster, a, b) = two();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), "old").unwrap();
    fs::write(a.path("gone"), "gone").unwrap();
    a.commit("old");
    b.reload(&[]);
    let mut open = File::open(b.path("d/f")).unwrap();
    let mut gone = File::open(b.path("gone")).unwrap();
    let dir = File::open(b.path("d")).unwrap();
    fs::write(a.path("d/f"), "newer content").unwrap();
    fs::write(a.path("d/n"), "n").unwrap();
    fs::remove_file(a.path("gone")).unwrap();
    a.commit("new");
    // Looked at before, so that the kernel has it all in its caches.
    assert!(!b.path("d/n").exists() && b.path("gone").exists());
    assert_eq!(read(b.path("d/f")), "old");
    b.reload(&[]);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old", "an open file keeps the content it opened");
    text.clear();
    gone.read_to_string(&mut text).unwrap();
    assert_eq!(text, "gone");
    assert_eq!(read(b.path("d/f")), "newer content");
    assert_eq!(fs::metadata(b.path("d/f")).unwrap().len(), 13);
    assert!(!b.path("gone").exists());
    let through = format!("/proc/self/fd/{}/n", std::os::fd::AsRawFd::as_raw_fd(&dir));
    assert_eq!(read(through), "n", "an open directory is live");
    let mut names: Vec<_> = fs::read_dir(b.path("d"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["f", "n"]);
    assert_eq!(b.reload(&[])["from"], b.reload(&[])["to"], "nothing new");
    let between = b.json([
        "diff".as_ref(),
        b.mount_dir().as_os_str(),
        "--from".as_ref(),
        "1".as_ref(),
    ]);
    let changes: Vec<(&str, &str)> = between["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["change"].as_str().unwrap(), c["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        changes,
        [("modified", "/d/f"), ("added", "/d/n"), ("removed", "/gone")]
    );
    b.reload(&["--to", "1"]);
    assert_eq!(read(b.path("d/f")), "old");
}

#[test]
fn reload_and_local_changes() {
    let (_cluster, a, b) = two();
    fs::write(a.path("shared"), "a").unwrap();
    a.commit("a");
    fs::write(b.path("local"), "mine").unwrap();
    let mut open = File::create(b.path("open")).unwrap();
    open.write_all(b"still ").unwrap();
    assert!(
        b.fails(
            3,
            [
                "reload".as_ref(),
                b.mount_dir().as_os_str(),
                "--if-clean".as_ref()
            ]
        )
        .contains("local changes")
    );
    let answer = b.reload(&[]);
    assert!(answer["stash"]["changed"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(answer["kept"], serde_json::json!(["/open"]));
    assert!(!b.path("local").exists());
    assert_eq!(read(b.path("shared")), "a");
    open.write_all(b"written").unwrap();
    drop(open);
    assert_eq!(read(b.path("open")), "still written");
    let dir = b.mount_dir();
    let id = answer["stash"]["id"].to_string();
    let listed = b.json(["stash".as_ref(), "list".as_ref(), dir.as_os_str()]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let shown = b.json(["stash".as_ref(), "show".as_ref(), id.as_ref(), dir.as_os_str()]);
    assert_eq!(shown["changes"][0]["path"], "/local");
    b.json(["stash".as_ref(), "restore".as_ref(), id.as_ref(), dir.as_os_str()]);
    assert_eq!(
        (read(b.path("local")), read(b.path("open"))),
        ("mine".into(), "still written".into())
    );
    fs::write(a.path("shared"), "a2").unwrap();
    a.commit("a2");
    let answer = b.reload(&["--keep"]);
    assert_eq!(answer["stash"], serde_json::Value::Null);
    assert_eq!(
        (read(b.path("local")), read(b.path("shared"))),
        ("mine".into(), "a2".into())
    );
    b.commit("kept");
    a.reload(&[]);
    assert_eq!(
        (read(a.path("local")), read(a.path("open"))),
        ("mine".into(), "still written".into())
    );
}

#[test]
fn laziness() {
    let (cluster, a, b) = two();
    for n in 0..300 {
        fs::create_dir_all(a.path(format!("d{}", n % 10))).unwrap();
        fs::write(a.path(format!("d{}/f{n}", n % 10)), noise(n, 5000)).unwrap();
    }
    a.commit("files");
    b.umount(&[]);
    let before = cluster.server.counters();
    b.mount("data", &[]);
    let mounted = cluster.server.counters();
    assert!(
        mounted.requests() - before.requests() <= 3,
        "mounting costs at most 3 requests"
    );
    assert_eq!(fs::read_dir(b.mount_dir()).unwrap().count(), 10);
    let listed = cluster.server.counters();
    assert!(
        listed.requests() - mounted.requests() <= 2,
        "listing one directory"
    );
    assert_eq!(fs::read(b.path("d7/f7")).unwrap(), noise(7, 5000));
    assert!(
        cluster.server.counters().requests() - listed.requests() <= 4,
        "one small file"
    );
}

#[test]
fn verification() {
    let (cluster, a, b) = two();
    fs::write(a.path("small"), noise(1, 100_000)).unwrap();
    fs::write(a.path("large"), noise(2, 9 << 20)).unwrap();
    a.commit("files");
    b.reload(&[]);
    // One flipped byte on the way is noticed and fetched again.
    cluster.server.fault(
        FaultRule::new(Action::Flip { offset: 5000 })
            .verb(Verb::Get)
            .times(1),
    );
    assert_eq!(fs::read(b.path("large")).unwrap(), noise(2, 9 << 20));
    assert_eq!(fs::read(b.path("small")).unwrap(), noise(1, 100_000));
}

#[test]
fn names_and_attributes() {
    let (_cluster, a, b) = two();
    let root = a.mount_dir();
    fs::write(root.join("file"), "x").unwrap();
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("file"), root.join("link")).unwrap();
    symlink("some/where", root.join("symlink")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(
        root.join("file"),
        "user.note",
        b"value",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(
        root.join("file"),
        "user.big",
        &noise(1, 5000),
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let odd = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff; 255]);
    fs::write(root.join(&odd), "odd").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 40 << 20).unwrap();
    drop(sparse);
    let time = rustix::fs::Timespec {
        tv_sec: 1_234_567_890,
        tv_nsec: 123_456_789,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(
        rustix::fs::CWD,
        root.join("file"),
        &times,
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    a.commit("kinds");
    b.reload(&[]);
    let there = b.mount_dir();
    for name in ["file", "link", "symlink", "fifo", "sparse"] {
        let (old, new) = (
            fs::symlink_metadata(root.join(name)).unwrap(),
            fs::symlink_metadata(there.join(name)).unwrap(),
        );
        let of = |m: &fs::Metadata| {
            (
                m.mode(),
                m.uid(),
                m.gid(),
                m.size(),
                m.mtime(),
                m.mtime_nsec(),
                m.ino(),
                m.nlink(),
            )
        };
        assert_eq!(of(&old), of(&new), "{name}");
        assert_eq!(
            (old.ctime(), old.ctime_nsec()),
            (new.ctime(), new.ctime_nsec()),
            "{name}"
        );
    }
    assert_eq!(fs::metadata(there.join("link")).unwrap().nlink(), 2);
    assert_eq!(
        fs::read_link(there.join("symlink")).unwrap(),
        Path::new("some/where")
    );
    assert_eq!(read(there.join(&odd)), "odd");
    let mut value = vec![0; 6000];
    let len = rustix::fs::getxattr(there.join("file"), "user.big", &mut value[..]).unwrap();
    assert_eq!(&value[..len], &noise(1, 5000)[..]);
    assert!(
        fs::metadata(there.join("sparse")).unwrap().blocks() * 512 < 1 << 20,
        "a hole stays a hole"
    );
    let mut tail = File::open(there.join("sparse")).unwrap();
    tail.seek(SeekFrom::Start(40 << 20)).unwrap();
    let mut text = String::new();
    tail.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end");
    // A valid list (linux/posix_acl_xattr.h): the kernel itself refuses others.
    let mut list = vec![2, 0, 0, 0];
    for (tag, mode) in [(1u16, 7u16), (4, 5), (0x20, 5)] {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&mode.to_le_bytes());
        list.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    let acl = rustix::fs::setxattr(
        root.join("file"),
        "system.posix_acl_access",
        &list,
        rustix::fs::XattrFlags::empty(),
    );
    assert_eq!(acl, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn locks() {
    let (_cluster, a, _b) = two();
    fs::write(a.path("f"), "").unwrap();
    let (one, two) = (File::open(a.path("f")).unwrap(), File::open(a.path("f")).unwrap());
    rustix::fs::flock(&one, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let refused = rustix::fs::flock(&two, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK));
    drop(one);
    rustix::fs::flock(&two, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn df() {
    let (_cluster, a, _b) = two();
    let used = |pod: &Pod| {
        let s = rustix::fs::statvfs(pod.mount_dir()).unwrap();
        (s.f_blocks - s.f_bfree) * s.f_frsize
    };
    let before = used(&a);
    fs::write(a.path("f"), noise(1, 8 << 20)).unwrap();
    assert_eq!(used(&a) - before, 8 << 20);
    a.commit("f");
    assert_eq!(used(&a) - before, 8 << 20);
    let free = rustix::fs::statvfs(a.mount_dir()).unwrap();
    let disk = rustix::fs::statvfs(a.local_dir("state")).unwrap();
    let (mount_free, disk_free) = (free.f_bavail * free.f_frsize, disk.f_bavail * disk.f_frsize);
    assert!(
        mount_free <= disk_free + (1 << 30) && mount_free > disk_free / 2,
        "{mount_free} of {disk_free}"
    );
}

#[test]
fn offline() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    fs::write(a.path("seen"), noise(1, 50_000)).unwrap();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/unseen"), noise(2, 9 << 20)).unwrap();
    a.commit("files");
    b.mount("data", &["--remote-timeout", "3s"]);
    assert_eq!(fs::read(b.path("seen")).unwrap(), noise(1, 50_000));
    assert_eq!(fs::metadata(b.path("d/unseen")).unwrap().len(), 9 << 20);
    cluster.server.fault(FaultRule::new(Action::DropBefore));
    assert_eq!(
        fs::read(b.path("seen")).unwrap(),
        noise(1, 50_000),
        "cached reads go on"
    );
    fs::write(b.path("written"), "offline").unwrap();
    assert_eq!(read(b.path("written")), "offline");
    let error = fs::read(b.path("d/unseen")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(libc_eio()),
        "a read that needs the store ends"
    );
    assert_eq!(fs::metadata(b.path("d/unseen")).unwrap().len(), 9 << 20);
    let output = b.run([
        "commit".as_ref(),
        b.mount_dir().as_os_str(),
        "--timeout".as_ref(),
        "2s".as_ref(),
    ]);
    assert!(matches!(output.status.code(), Some(5 | 6)), "{output:?}");
    cluster.server.clear_faults();
    assert!(b.commit("back online")["seq"].as_u64().is_some());
    assert_eq!(fs::read(b.path("d/unseen")).unwrap(), noise(2, 9 << 20));
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

#[test]
fn cache() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    for n in 0..12 {
        fs::write(a.path(format!("f{n}")), noise(n, 8 << 20)).unwrap();
    }
    a.commit("files");
    b.mount("data", &["--cache-size", "24M"]);
    for n in 0..12 {
        assert_eq!(fs::read(b.path(format!("f{n}"))).unwrap(), noise(n, 8 << 20));
        let used = b.status()["cache"]["used_bytes"].as_u64().unwrap();
        assert!(used <= 24 << 20, "{used} bytes are over the cap");
    }
    fs::remove_dir_all(b.local_dir("cache")).unwrap();
    for n in [0, 11] {
        assert_eq!(
            fs::read(b.path(format!("f{n}"))).unwrap(),
            noise(n, 8 << 20),
            "a deleted cache is fetched again"
        );
    }
}

#[test]
fn unmount() {
    let (_cluster, a, b) = two();
    fs::write(a.path("f"), "kept").unwrap();
    let answer = a.umount(&[]);
    assert!(answer["dirty"].as_u64().unwrap() > 0, "{answer}");
    let answer = a.mount("data", &[]);
    assert!(answer["dirty"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(read(a.path("f")), "kept");
    let held = File::open(a.path("f")).unwrap();
    assert!(
        a.fails(3, ["umount".as_ref(), a.mount_dir().as_os_str()])
            .contains("in use")
    );
    drop(held);
    assert_eq!(a.umount(&["--commit", "-m", "last"])["committed"], 1);
    b.reload(&[]);
    assert_eq!(read(b.path("f")), "kept");
    // A dead daemon's mount point is cleaned by the next mount.
    b.kill_daemon();
    assert!(rustix::fs::statvfs(b.mount_dir()).is_err(), "nobody answers");
    b.mount("data", &[]);
    assert_eq!(read(b.path("f")), "kept");
}

#[test]
fn sigterm() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create", "--commit-on-exit"]);
    b.mount("data", &[]);
    fs::write(a.path("f"), "committed on exit").unwrap();
    a.signal_daemon(rustix::process::Signal::TERM);
    b.reload(&[]);
    assert_eq!(read(b.path("f")), "committed on exit");
    fs::write(b.path("g"), "kept").unwrap();
    b.signal_daemon(rustix::process::Signal::TERM);
    wait_until("the mount is gone", || !b.path("f").exists());
    b.mount("data", &[]);
    assert_eq!(read(b.path("g")), "kept");
}

/// A mount namespace with a copy of its own keeps the kernel's side alive; the daemon must not wait for that.
#[test]
fn an_unmount_ends_the_daemon_though_the_mount_is_seen_elsewhere() {
    let cluster = Cluster::start();
    let a = cluster.pod();
    a.mount("data", &["--create"]);
    fs::write(a.path("f"), "kept").unwrap();
    let mut elsewhere = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            "echo copied && exec cat",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    std::io::Read::read_exact(elsewhere.stdout.as_mut().unwrap(), &mut line).unwrap();
    a.umount(&[]);
    a.mount("data", &[]);
    assert_eq!(read(a.path("f")), "kept");
    drop(elsewhere.stdin.take());
    assert!(elsewhere.wait().unwrap().success());
}

/// The same row, for umount(8), which is how systemd and administrators end a mount; `sailvol umount` says itself
/// whether to commit.
#[test]
fn an_unmount_from_outside_commits_on_exit_too() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create", "--commit-on-exit"]);
    b.mount("data", &[]);
    fs::write(a.path("f"), "committed on exit").unwrap();
    rustix::mount::unmount(a.mount_dir(), rustix::mount::UnmountFlags::empty()).unwrap();
    wait_until("the daemon ends", || a.daemon().is_none());
    b.reload(&[]);
    assert_eq!(read(b.path("f")), "committed on exit");
    a.mount("data", &["--commit-on-exit"]);
    fs::write(a.path("g"), "kept").unwrap();
    a.umount(&[]);
    b.reload(&[]);
    assert!(!b.path("g").exists());
    a.mount("data", &[]);
    assert_eq!(read(a.path("g")), "kept");
}
