//! What `get` and `put` leave, replace and refuse.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Stdio};

use fuse_tests::pod::{Cluster, Pod, wait_until};
use fuse_tests::s3d::{Action, FaultRule, Verb};
use rustix::process::{Pid, Signal, kill_process};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_get_that_is_ended_leaves_nothing_and_one_that_is_killed_leaves_it_to_the_next() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    let out = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20u32 << 20).map(|at| (at >> 7) as u8).collect();
    fs::write(out.path().join("source"), &large).unwrap();
    pod.json(["volume", "create", "v"]);
    let source = out.path().join("source");
    pod.json(["put", source.to_str().unwrap(), "v:/large"]);
    fs::write(&source, b"small").unwrap();
    pod.json(["put", source.to_str().unwrap(), "v:/small"]);
    fs::remove_file(&source).unwrap();
    let get = || {
        let child = pod
            .command(["get".as_ref(), "v:/large".as_ref(), out.path().as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("a file is on its way", || {
            names(out.path())
                .iter()
                .any(|name| name.starts_with(".sailvol-get-"))
        });
        child
    };
    let stall = || FaultRule::new(Action::Stall).verb(Verb::Get).key("/d/");
    for ending in [Signal::TERM, Signal::INT, Signal::HUP] {
        cluster.server.fault(stall());
        let mut child = get();
        signal(&child, ending);
        assert!(!child.wait().unwrap().success());
        assert_eq!(names(out.path()), Vec::<String>::new(), "{ending:?}");
        cluster.server.clear_faults();
        cluster.server.release();
    }
    cluster.server.fault(stall());
    let mut killed = get();
    signal(&killed, Signal::KILL);
    killed.wait().unwrap();
    assert_eq!(names(out.path()).len(), 1);
    // One that is still at work is not disturbed by what clears the rest of the other.
    let before = names(out.path());
    let mut living = pod
        .command(["get".as_ref(), "v:/large".as_ref(), out.path().as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the rest is gone and the next file is on its way", || {
        let now = names(out.path());
        now.len() == 1 && now != before
    });
    let his = names(out.path());
    // What is small lies in a pack, which is not held back.
    pod.json([
        "get".as_ref(),
        "v:/small".as_ref(),
        out.path().join("second").as_os_str(),
    ]);
    assert_eq!(names(out.path()), [his[0].as_str(), "second"]);
    cluster.server.clear_faults();
    cluster.server.release();
    assert!(living.wait().unwrap().success());
    assert_eq!(names(out.path()), ["large", "second"]);
    assert!(fs::read(out.path().join("large")).unwrap() == large);
    assert_eq!(fs::read(out.path().join("second")).unwrap(), b"small");
}

struct Bench {
    pod: Pod,
    work: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let work = tempfile::tempdir().unwrap();
        let pod = Pod::new(&format!("file://{}/store", work.path().display()));
        pod.json(["volume", "create", "v"]);
        Bench { pod, work }
    }

    fn text(&self, name: &str) -> String {
        self.work.path().join(name).to_str().unwrap().to_owned()
    }
}

fn special(at: &str, kind: rustix::fs::FileType, device: u64) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, device).unwrap();
}

#[test]
fn get_with_force_replaces_files_and_links_and_nothing_else() {
    use rustix::fs::FileType::{BlockDevice, CharacterDevice, Fifo};
    let bench = Bench::new();
    let file = bench.text("file");
    fs::write(&file, b"bytes").unwrap();
    bench.pod.json(["put", &file, "v:/file"]);
    let (null, disk, fifo, link) = (
        bench.text("null"),
        bench.text("disk"),
        bench.text("fifo"),
        bench.text("link"),
    );
    special(&null, CharacterDevice, rustix::fs::makedev(1, 3));
    special(&disk, BlockDevice, rustix::fs::makedev(7, 250));
    special(&fifo, Fifo, 0);
    std::os::unix::fs::symlink(&null, &link).unwrap();
    for target in [&null, &disk, &fifo, &link] {
        let before = fs::symlink_metadata(target).unwrap();
        let said = bench.pod.fails(9, ["get", "--force", "v:/file", target]);
        assert!(said.contains("is there as a"), "{said}");
        assert_eq!(fs::symlink_metadata(target).unwrap().ino(), before.ino());
    }
    // A link to a file, one to nothing, and what was brought before.
    let (old, good, dangling) = (bench.text("old"), bench.text("good"), bench.text("dangling"));
    fs::write(&old, b"old").unwrap();
    std::os::unix::fs::symlink(&old, &good).unwrap();
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    for target in [&good, &dangling] {
        bench.pod.json(["get", "--force", "v:/file", target]);
        assert!(fs::symlink_metadata(target).unwrap().is_file());
    }
    assert_eq!(fs::read(&old).unwrap(), b"old");
    bench.pod.json(["put", "--special", &fifo, "v:/fifo"]);
    bench.pod.json(["get", "--force", "v:/fifo", &fifo]);
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    bench.pod.fails(9, ["get", "--force", "v:/fifo", &null]);
}

#[test]
fn put_refuses_what_bytes_come_out_of_and_an_input_that_is_closed() {
    let bench = Bench::new();
    let fifo = bench.text("fifo");
    special(&fifo, rustix::fs::FileType::Fifo, 0);
    let link = bench.text("link");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    for source in [fifo.as_str(), &link, "/dev/null", "/dev/zero"] {
        let said = bench.pod.fails(3, ["put", source, "v:/x"]);
        assert!(said.contains("sailvol put -"), "{said}");
    }
    let shell = |redirection: &str| {
        let script = format!("exec \"$0\" put - v:/x {redirection}");
        let mut command = bench.pod.command([""; 0]);
        let program = command.get_program().to_owned();
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = std::process::Command::new("sh");
        command.envs(environment).arg("-c").arg(script).arg(program);
        command.output().unwrap()
    };
    let closed = shell("<&-");
    assert_eq!(closed.status.code(), Some(3), "{closed:?}");
    assert!(
        String::from_utf8_lossy(&closed.stderr).contains("closed"),
        "{closed:?}"
    );
    bench.pod.fails(8, ["cat", "v:/x"]);
    let empty = shell("</dev/null");
    assert!(empty.status.success(), "{empty:?}");
    let bytes = shell("<<END\nbytes\nEND");
    assert_eq!(bytes.status.code(), Some(9), "it is there already: {bytes:?}");
    // In a directory a fifo is a thing like others.
    let dir = bench.text("dir");
    fs::create_dir(&dir).unwrap();
    special(&format!("{dir}/p"), rustix::fs::FileType::Fifo, 0);
    bench.pod.json(["put", &dir, "v:/"]);
    bench.pod.json(["put", "--special", &fifo, "v:/fifo"]);
    let listed = bench.pod.json(["ls", "--recursive", "v:/"]).to_string();
    assert_eq!(listed.matches("\"fifo\"").count(), 2, "{listed}");
}
