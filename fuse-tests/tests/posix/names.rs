//! Names: links, kinds, lengths, renames, listings.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use fuse_tests::pod::Pod;
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::{Site, errno};

fn nlink(pod: &Pod, path: &str) -> u64 {
    fs::symlink_metadata(pod.path(path)).unwrap().nlink()
}

fn ino(pod: &Pod, path: &str) -> u64 {
    fs::symlink_metadata(pod.path(path)).unwrap().ino()
}

#[test]
fn hard_links_are_counted_through_commit_merge_and_reload() {
    let Some(site) = Site::new() else { return };
    let a = &site.pod;
    fs::create_dir_all(a.path("d/e")).unwrap();
    fs::write(a.path("one"), "linked").unwrap();
    symlink("nowhere", a.path("l1")).unwrap();
    for (from, to) in [("one", "d/two"), ("one", "d/e/three"), ("l1", "d/l2")] {
        fs::hard_link(a.path(from), a.path(to)).unwrap();
    }
    site.everywhere(|pod, when| {
        for name in ["one", "d/two", "d/e/three"] {
            assert_eq!(
                (nlink(pod, name), ino(pod, name)),
                (3, ino(pod, "one")),
                "{name} {when}"
            );
        }
        assert_eq!(
            (nlink(pod, "d/l2"), ino(pod, "l1")),
            (2, ino(pod, "d/l2")),
            "{when}"
        );
    });
    // Both add a name, one takes one away, and one writes through its name.
    let b = site.fresh();
    fs::hard_link(a.path("one"), a.path("four")).unwrap();
    fs::remove_file(a.path("d/two")).unwrap();
    fs::hard_link(b.path("d/e/three"), b.path("five")).unwrap();
    fs::write(b.path("five"), "changed").unwrap();
    assert_eq!((nlink(a, "one"), nlink(&b, "one")), (3, 4));
    a.commit("a");
    let answer = b.commit("b");
    assert_eq!(answer["merged_with"].as_array().unwrap().len(), 1, "{answer}");
    a.reload(&[]);
    b.reload(&[]);
    for pod in [a, &b, &site.fresh()] {
        for name in ["one", "d/e/three", "four", "five"] {
            assert_eq!(nlink(pod, name), 4, "{name}");
            assert_eq!(fs::read(pod.path(name)).unwrap(), b"changed");
        }
        assert!(!pod.path("d/two").exists());
    }
    // Down to one name, it is an ordinary file again.
    for name in ["one", "four", "d/e/three"] {
        fs::remove_file(a.path(name)).unwrap();
    }
    assert_eq!(nlink(a, "five"), 1);
    a.commit("one is left");
    assert_eq!(nlink(&site.fresh(), "five"), 1);
}

#[test]
fn fifos_sockets_and_devices() {
    let Some(site) = Site::new() else { return };
    let make = |name: &str, kind, mode: u32, device| {
        rustix::fs::mknodat(CWD, site.pod.path(name), kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0o640, 0);
    make(
        "null",
        FileType::CharacterDevice,
        0o666,
        rustix::fs::makedev(1, 3),
    );
    make(
        "disk",
        FileType::BlockDevice,
        0o600,
        rustix::fs::makedev(259, 70_000),
    );
    drop(UnixListener::bind(site.pod.path("socket")).unwrap());
    site.everywhere(|pod, when| {
        let of = |name: &str| fs::symlink_metadata(pod.path(name)).unwrap();
        assert!(
            of("fifo").file_type().is_fifo() && of("socket").file_type().is_socket(),
            "{when}"
        );
        let (null, disk) = (of("null"), of("disk"));
        assert!(null.file_type().is_char_device() && disk.file_type().is_block_device());
        assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(disk.rdev(), rustix::fs::makedev(259, 70_000));
        // Nothing that a volume brings opens a device of the machine.
        assert_eq!(
            errno(File::open(pod.path("null"))),
            Some(Errno::ACCESS.raw_os_error())
        );
        let path = pod.path("fifo");
        let writer = std::thread::spawn(move || fs::write(path, "through the pipe").unwrap());
        let mut text = String::new();
        File::open(pod.path("fifo"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        writer.join().unwrap();
        assert_eq!(text, "through the pipe", "{when}");
    });
}

#[test]
fn names_of_any_bytes_up_to_255() {
    let Some(site) = Site::new() else { return };
    let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: Vec<OsString> = [
        all,
        vec![0xff; 255],
        "ü".repeat(127).into_bytes(),
        b"\n".to_vec(),
        b"u\xcc\x88".to_vec(),
        "ü".into(),
        b" ".to_vec(),
        b"...".to_vec(),
        b"-rf *".to_vec(),
    ]
    .map(OsString::from_vec)
    .to_vec();
    for (number, name) in names.iter().enumerate() {
        fs::write(site.pod.path(name), number.to_string()).unwrap();
    }
    let long = site.pod.path(OsString::from_vec(vec![b'x'; 256]));
    assert_eq!(errno(File::create(long)), Some(Errno::NAMETOOLONG.raw_os_error()));
    site.everywhere(|pod, when| {
        let listed: BTreeSet<OsString> = listed(&pod.mount_dir()).into_iter().collect();
        assert_eq!(listed, names.iter().cloned().collect(), "{when}");
        for (number, name) in names.iter().enumerate() {
            assert_eq!(
                fs::read_to_string(pod.path(name)).unwrap(),
                number.to_string(),
                "{when}"
            );
        }
    });
}

fn listed(dir: &Path) -> Vec<OsString> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect()
}

#[test]
fn symlinks_up_to_4095_bytes() {
    let Some(site) = Site::new() else { return };
    let targets = ["x".repeat(4095), "../a b/\u{1}".into(), "/".into()];
    for (number, target) in targets.iter().enumerate() {
        symlink(target, site.pod.path(format!("l{number}"))).unwrap();
    }
    let too_long = symlink("x".repeat(4096), site.pod.path("no"));
    assert_eq!(errno(too_long), Some(Errno::NAMETOOLONG.raw_os_error()));
    site.everywhere(|pod, when| {
        for (number, target) in targets.iter().enumerate() {
            let path = pod.path(format!("l{number}"));
            assert_eq!(
                fs::read_link(&path).unwrap().as_os_str(),
                target.as_str(),
                "{when}"
            );
            assert_eq!(fs::symlink_metadata(&path).unwrap().size(), target.len() as u64);
        }
    });
}

/// Opens the directory that is `depth` below another, one name at a time: no path is long enough for it.
fn descend(from: &Path, depth: usize) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(from, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    dir
}

/// As many directories as a path may have (docs/src/semantics.md, "Differences from a local file system").
const DEPTH_MAX: usize = 1024;

#[test]
fn paths_as_deep_as_they_may_be() {
    let Some(site) = Site::new() else { return };
    let mut at = descend(&site.pod.mount_dir(), 0);
    for _ in 0..DEPTH_MAX {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let deeper = rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755));
    assert_eq!(deeper, Err(Errno::NAMETOOLONG));
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "bottom", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    drop(file);
    site.everywhere(|pod, when| {
        let dir = descend(&pod.mount_dir(), DEPTH_MAX);
        let file = rustix::fs::openat(&dir, "bottom", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut bytes = [0; 10];
        assert_eq!(rustix::io::read(&file, &mut bytes), Ok(4), "{when}");
    });
}

#[test]
fn rename_without_replacing_and_exchanging() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    fs::create_dir_all(pod.path("dir/sub")).unwrap();
    fs::write(pod.path("a"), "a").unwrap();
    fs::write(pod.path("dir/b"), "b").unwrap();
    pod.commit("before");
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, pod.path(from), CWD, pod.path(to), flags)
    };
    assert_eq!(rename("a", "dir/b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename("a", "new", RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(rename("new", "dir/b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(rename("new", "gone", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    // A file and a directory change places, and the counts of subdirectories with them.
    fs::create_dir(pod.path("other")).unwrap();
    fs::write(pod.path("other/f"), "f").unwrap();
    assert_eq!(rename("dir/sub", "other/f", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(rename("dir", "dir/x", RenameFlags::empty()), Err(Errno::INVAL));
    assert_eq!(
        rename("dir", "other/f/y", RenameFlags::EXCHANGE),
        Err(Errno::NOENT)
    );
    assert_eq!(rename("new", "w", RenameFlags::WHITEOUT), Err(Errno::INVAL));
    site.everywhere(|pod, when| {
        let text = |name: &str| fs::read_to_string(pod.path(name)).unwrap();
        assert_eq!(
            (
                text("new").as_str(),
                text("dir/b").as_str(),
                text("dir/sub").as_str()
            ),
            ("b", "a", "f")
        );
        assert_eq!((nlink(pod, "dir"), nlink(pod, "other")), (2, 3), "{when}");
        assert!(pod.path("other/f").is_dir() && !pod.path("a").exists());
    });
}

#[test]
fn directories_count_their_subdirectories_and_numbers_are_the_same_everywhere() {
    let Some(site) = Site::new() else { return };
    let a = &site.pod;
    for dir in ["d/x", "d/y", "d/z/deep"] {
        fs::create_dir_all(a.path(dir)).unwrap();
    }
    fs::write(a.path("d/file"), "f").unwrap();
    assert_eq!(ino(a, "d/x/.."), ino(a, "d"));
    let names = ["", "d", "d/x", "d/z", "d/z/deep", "d/file"];
    let before: Vec<u64> = names.iter().map(|name| ino(a, name)).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), names.len());
    site.everywhere(|pod, when| {
        assert_eq!(
            (nlink(pod, "d"), nlink(pod, "d/z"), nlink(pod, "d/x")),
            (5, 3, 2),
            "{when}"
        );
        let now: Vec<u64> = names.iter().map(|name| ino(pod, name)).collect();
        assert_eq!(now, before, "{when}");
        for entry in fs::read_dir(pod.path("d")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{when}");
        }
    });
    fs::rename(a.path("d/z"), a.path("z")).unwrap();
    fs::remove_dir(a.path("d/x")).unwrap();
    let b = site.fresh();
    a.commit("moved");
    b.reload(&[]);
    for pod in [a, &b] {
        assert_eq!((nlink(pod, "d"), nlink(pod, "")), (3, 4));
        assert_eq!((ino(pod, "z"), ino(pod, "z/deep")), (before[3], before[4]));
    }
}

#[test]
fn what_is_open_lives_on_without_a_name() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    fs::create_dir(pod.path("dir")).unwrap();
    for name in ["clean", "dirty"] {
        fs::write(pod.path(name), "before ").unwrap();
        pod.commit("one is clean");
    }
    let open = |name: &str| {
        File::options()
            .read(true)
            .append(true)
            .open(pod.path(name))
            .unwrap()
    };
    let files = [open("clean"), open("dirty")];
    let dir = descend(&pod.mount_dir(), 0);
    let dir = rustix::fs::openat(&dir, "dir", OFlags::DIRECTORY, Mode::empty()).unwrap();
    for name in ["clean", "dirty"] {
        fs::remove_file(pod.path(name)).unwrap();
    }
    fs::remove_dir(pod.path("dir")).unwrap();
    let check = |text: &str| {
        for mut file in &files {
            file.write_all(b"x").unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            let mut whole = vec![0; 100];
            let len = rustix::io::pread(file, &mut whole, 0).unwrap();
            assert_eq!(String::from_utf8_lossy(&whole[..len]), text);
        }
        let made = rustix::fs::openat(&dir, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
        assert_eq!(made.map(|_| ()), Err(Errno::NOENT));
        assert_eq!(rustix::fs::fstat(&dir).unwrap().st_nlink, 0);
    };
    check("before x");
    pod.commit("they are gone");
    check("before xx");
    pod.reload(&["--keep"]);
    check("before xxx");
    drop((files, dir));
    assert_eq!(listed(&pod.mount_dir()).len(), 0);
    assert_eq!(listed(&site.fresh().mount_dir()).len(), 0);
}

/// Names and the positions behind them, from where the directory stands; read in small pieces.
fn lines(dir: &OwnedFd) -> Vec<(Vec<u8>, u64)> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut raw = RawDir::new(dir, &mut buffer);
    let mut lines = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        lines.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
    }
    lines
}

#[test]
fn positions_in_a_listing_stay_while_the_directory_changes() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    fs::create_dir(pod.path("d")).unwrap();
    for number in 0..2000 {
        File::create(pod.path(format!("d/name-{number:04}"))).unwrap();
    }
    pod.commit("names");
    let open = || {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(pod.path("d"), flags, Mode::empty()).unwrap()
    };
    let (dir, second) = (open(), open());
    let first = lines(&dir);
    assert_eq!(first.len(), 2002);
    lines(&second);
    for number in (0..2000).step_by(2) {
        fs::remove_file(pod.path(format!("d/name-{number:04}"))).unwrap();
        File::create(pod.path(format!("d/aaa-{number:04}"))).unwrap();
    }
    for (dir, at) in [(&dir, 1000), (&second, 3), (&dir, 1999), (&dir, 17)] {
        rustix::fs::seek(dir, SeekFrom::Start(first[at].1)).unwrap();
        let rest = lines(dir);
        // What was there all the time comes once, and nothing that was in front of the position.
        let names: Vec<&[u8]> = rest.iter().map(|(name, _)| &name[..]).collect();
        let distinct: BTreeSet<&[u8]> = names.iter().copied().collect();
        assert_eq!(distinct.len(), names.len());
        let stayed = |name: &&[u8]| name.starts_with(b"name-") && name[8] % 2 == 1;
        let expected = first[at + 1..].iter().map(|(name, _)| &name[..]).filter(stayed);
        assert!(
            expected.eq(names.iter().copied().filter(stayed)),
            "from line {at}"
        );
    }
    // From the start on it is the directory as it is now.
    rustix::fs::seek(&dir, SeekFrom::Start(0)).unwrap();
    let now: BTreeSet<Vec<u8>> = lines(&dir).into_iter().map(|(name, _)| name).collect();
    let there: BTreeSet<Vec<u8>> = listed(&pod.path("d"))
        .into_iter()
        .map(|name| name.as_bytes().to_vec())
        .chain([b".".to_vec(), b"..".to_vec()])
        .collect();
    assert_eq!(now, there);
}

/// `SAILVOL_DIR_ENTRIES` says how large (README of fuse-tests): a million is ten minutes in a debug build.
#[test]
fn a_large_directory() {
    let entries: usize = std::env::var("SAILVOL_DIR_ENTRIES").map_or(5_000, |text| text.parse().unwrap());
    let Some(site) = Site::new() else { return };
    let started = Instant::now();
    let timed = |what: &str| println!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    fs::create_dir(site.pod.path("large")).unwrap();
    for number in 0..entries {
        File::create(site.pod.path(format!("large/file-{number}"))).unwrap();
    }
    timed("made");
    assert_eq!(listed(&site.pod.path("large")).len(), entries);
    timed("listed");
    site.pod.commit("large");
    timed("committed");
    let fresh = site.fresh();
    assert!(fresh.path(format!("large/file-{}", entries - 1)).exists());
    assert!(!fresh.path(format!("large/file-{entries}")).exists());
    timed("mounted in a fresh pod, one name looked up");
    let names: BTreeSet<OsString> = listed(&fresh.path("large")).into_iter().collect();
    assert_eq!(names.len(), entries);
    timed("listed there");
    fs::remove_file(fresh.path("large/file-0")).unwrap();
    File::create(fresh.path("large/one more")).unwrap();
    assert_eq!(listed(&fresh.path("large")).len(), entries);
    let answer = fresh.commit("one more");
    timed("changed, listed and committed there");
    println!("{answer}");
    fs::remove_dir_all(site.pod.path("large")).unwrap();
    timed("removed in the first pod");
    site.pod.commit("removed");
    timed("committed");
}
