//! Directory stores in which something else stands where an object should be, and trees that say they are small: every
//! command ends by itself, says what is wrong, and takes little memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_tests::hostile::*;
use fuse_tests::pod::Pod;
use sailvol::format::{Key, LinkPage, Node};
use sailvol::model::{
    ChunkRef, Content, DirTree, Entry, EntryBody, LinkId, LinkInode, LinksTree, Totals, TreeRoot,
};
use sailvol::tree::recount;
use tempfile::TempDir;

/// No command waits for anything here; a loaded machine may take its time.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Address space of a command, bytes: far below what lies claim, far above what the program maps at its start.
const MEMORY_MAX: u64 = 24 << 30;

struct Bench {
    pod: Pod,
    work: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let work = tempfile::tempdir().unwrap();
        let pod = Pod::new(&format!("file://{}/store", work.path().display()));
        pod.json(["volume", "create", "v"]);
        Bench { pod, work }
    }

    fn hostile(&self) -> Hostile {
        Hostile::open(&self.work.path().join("store"))
    }

    fn text(&self, name: &str) -> String {
        self.work.path().join(name).to_str().unwrap().to_owned()
    }

    /// Exit code and both outputs of a command that ends by itself.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.work.path().join("output");
        let file = || File::options().append(true).create(true).open(&output).unwrap();
        fs::remove_file(&output).ok();
        let mut child = self
            .pod
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let limit = rustix::process::Rlimit {
            current: Some(MEMORY_MAX),
            maximum: Some(MEMORY_MAX),
        };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::As, limit).unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > TIME_MAX {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{arguments:?} does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = fs::read_to_string(&output).unwrap();
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        let code = status
            .code()
            .unwrap_or_else(|| panic!("{arguments:?}: {status}: {text}"));
        (code, text)
    }
}

type Make = fn(&Path);

/// What can stand at a path that is no object.
fn things() -> [(&'static str, Make); 6] {
    [
        ("a terabyte", |at| {
            File::create(at).unwrap().set_len(1 << 40).unwrap();
        }),
        ("a fifo", |at| {
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
            rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, 0).unwrap();
        }),
        ("a socket", |at| {
            // The path of a socket is short.
            let short = tempfile::tempdir().unwrap();
            drop(std::os::unix::net::UnixListener::bind(short.path().join("s")).unwrap());
            fs::rename(short.path().join("s"), at).unwrap();
        }),
        ("a directory", |at| fs::create_dir(at).unwrap()),
        ("a link to a device that never ends", |at| {
            std::os::unix::fs::symlink("/dev/zero", at).unwrap();
        }),
        ("a link to itself", |at| {
            std::os::unix::fs::symlink(at, at).unwrap()
        }),
    ]
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// A volume with all kinds of objects; gives their paths.
fn volume(bench: &Bench) -> Vec<(&'static str, PathBuf)> {
    let mut h = bench.hostile();
    let below = page([(name("in"), tiny(b"in"))]);
    let totals = recount(&below.entries);
    let (at, small, large) = (
        h.encoded(&Node::Dir(Arc::new(below))),
        h.blob(&[3; 5000]),
        h.chunk(&[5; 3 << 20]),
    );
    let chunks: Arc<[ChunkRef]> = [large].into();
    let cid = sailvol::format::chunks_cid(3 << 20, 0, &chunks);
    let content = Content::Chunks { tier: 0, chunks, cid };
    h.publish(root([
        (name("dir"), dir_with(totals, DirTree::stored(at, false))),
        (name("small"), file(5000, Content::Blob(small))),
        (name("large"), file(3 << 20, content)),
    ]));
    let ChunkRef::Object { epoch, id } = large else {
        unreachable!("a chunk of its own")
    };
    let v = h.volume();
    vec![
        ("name", h.path(&Key::Name("v".into()))),
        ("head", h.path(&Key::Record(v, 1))),
        ("next", h.path(&Key::Record(v, 2))),
        ("node", h.path(&Key::Pack(v, at.pack))),
        ("blob", h.path(&Key::Pack(v, small.pack))),
        ("chunk", h.path(&Key::Chunk(v, epoch, id))),
    ]
}

#[test]
fn nothing_that_stands_in_place_of_an_object_hangs_or_fills_the_memory() {
    let bench = Bench::new();
    let objects = volume(&bench);
    assert_eq!(bench.run(&["fsck", "v"]).0, 0);
    for (object, path) in &objects {
        let whole = fs::read(path).ok();
        for (what, make) in things() {
            remove(path);
            make(path);
            let case = format!("{what} as {object}");
            let target = bench.text("out");
            fs::create_dir_all(&target).unwrap();
            let fsck = bench.run(&["fsck", "v", "--timeout", "20s"]);
            // A listing leaves out what is no file: then the record before the head is the newest one.
            let is_hidden = *object == "head" && what != "a terabyte";
            assert_eq!(fsck.0, 7, "{case}: {}", fsck.1);
            for command in [&["volume", "list"][..], &["cat", "v:/large"]] {
                let (code, text) = bench.run(command);
                assert!([0, 1, 7, 8].contains(&code), "{case}: {command:?}: {code} {text}");
            }
            let get = bench.run(&["get", "v:/", &target, "--force"]);
            let is_read = !is_hidden && (*object != "next" || what == "a terabyte");
            assert_eq!(get.0, if is_read { 7 } else { 0 }, "{case}: get: {}", get.1);
            let file = bench.text("file");
            fs::write(&file, b"new").unwrap();
            let (code, text) = bench.run(&["put", &file, "v:/new", "--timeout", "20s"]);
            let in_the_way = matches!(*object, "name" | "head" | "next");
            assert_eq!(code == 0, !in_the_way, "{case}: put: {code} {text}");
            if code == 0 {
                let (code, text) = bench.run(&["rm", "v:/new"]);
                assert_eq!(code, 0, "{case}: {text}");
            }
            // What a mount reads is read as these commands do: two kinds are enough there.
            if ["a fifo", "a terabyte"].contains(&what) {
                look_through_a_mount(&bench, &case);
            }
            bench.pod.forget_local_state();
            remove(path);
            if let Some(whole) = &whole {
                fs::write(path, whole).unwrap();
            }
        }
    }
}

fn look_through_a_mount(bench: &Bench, case: &str) {
    let mount = bench.pod.mount_dir().to_str().unwrap().to_owned();
    let (code, text) = bench.run(&["mount", "v", &mount, "--timeout", "20s"]);
    assert!([0, 7].contains(&code), "{case}: mount: {code} {text}");
    if code == 0 {
        fs::read_dir(&mount).unwrap().for_each(drop);
        let _ = fs::read(format!("{mount}/large"));
        let _ = fs::read(format!("{mount}/dir/in"));
        bench.run(&["status", &mount]);
        let (code, text) = bench.run(&["umount", &mount]);
        assert_eq!(code, 0, "{case}: the daemon lives: {text}");
    }
}

#[test]
fn other_names_in_the_log_are_passed_over_and_told_by_fsck() {
    let bench = Bench::new();
    volume(&bench);
    let h = bench.hostile();
    let log = h
        .path(&Key::Record(h.volume(), 0))
        .parent()
        .unwrap()
        .to_path_buf();
    for stray in ["README", "0-copy", "core.tmp", "sub/ffffffffffffffff"] {
        let path = log.join(stray);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"by hand").unwrap();
    }
    for (at, (_, make)) in things().into_iter().enumerate() {
        make(&log.join(format!("0-thing-{at}")));
    }
    let (code, text) = bench.run(&["fsck", "v"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("/log/README: is no record"), "{text}");
    bench.pod.mount("v", &[]);
    fs::write(bench.pod.path("new"), b"new").unwrap();
    bench.pod.commit("beside strays");
    bench.pod.umount(&[]);
    assert_eq!(bench.run(&["cat", "v:/new"]), (0, "new".to_owned()));
    let (code, text) = bench.run(&["volume", "delete", "v", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(bench.run(&["volume", "create", "v"]).0, 0);
}

/// Directories that each hold the one below twice, with totals as `told` makes them of the true ones.
fn bomb(h: &Hostile, leaf: Entry, told: impl Fn(Totals) -> Totals) -> Entry {
    let mut below = inline([(name("f"), leaf)]);
    for _ in 0..60 {
        let both = page([(name("left"), below.clone()), (name("right"), below)]);
        let totals = told(recount(&both.entries));
        let at = h.encoded(&Node::Dir(Arc::new(both)));
        below = dir_with(totals, DirTree::stored(at, false));
    }
    below
}

#[test]
fn a_tree_that_says_it_is_small_is_refused_when_it_is_walked() {
    let bench = Bench::new();
    let mut h = bench.hostile();
    let id = LinkId([0x22; 16]);
    let linked = Entry {
        attrs: Default::default(),
        body: EntryBody::HardLink(id),
    };
    // The totals of one directory with one name in it, told by each.
    let one = |links| Totals {
        files: 1,
        dirs: 2,
        bytes: 1 - links,
        links,
        subdirs: 2,
    };
    let small = bomb(&h, tiny(b"x"), |_| one(0));
    let links = bomb(&h, linked, |_| one(1));
    // Each tells the truth, but for one deep below.
    let mut deep = bomb(&h, tiny(b"x"), |_| one(0));
    for _ in 0..5 {
        deep = inline([(name("d"), deep)]);
    }
    let mut root: TreeRoot = root([
        (name("small"), small),
        (name("links"), links),
        (name("deep"), deep),
    ]);
    let inode = LinkInode {
        nlink: 1,
        entry: tiny(b"linked"),
    };
    let page = LinkPage {
        inodes: vec![(id, inode)],
    };
    root.links = LinksTree {
        stored: Some((h.encoded(&Node::Links(Arc::new(page))), false)),
        count: 1,
        bytes: 6,
        ..LinksTree::default()
    };
    h.publish(root);
    let target = bench.text("out");
    fs::create_dir(&target).unwrap();
    for what in ["small", "links", "deep"] {
        let at = format!("v:/{what}");
        let (code, text) = bench.run(&["get", &at, &target]);
        assert_eq!(code, 7, "{what}: {text}");
        assert!(text.contains("totals"), "{what}: {text}");
        assert_eq!(bench.run(&["ls", &at]).0, 0);
        assert_eq!(bench.run(&["fsck", "v"]).0, 7);
    }
    for command in [
        &["rm", "-r", "v:/links"][..],
        &["cp", "-r", "v:/links", "v:/copy"],
    ] {
        let (code, text) = bench.run(command);
        assert_eq!(code, 7, "{command:?}: {text}");
    }
}
