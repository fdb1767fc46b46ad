//! A directory store whose disk is not there: the mount says so, loses nothing, and goes on when the disk is back. Nothing is
//! ever written where the disk was.

use std::fs;
use std::path::{Path, PathBuf};

use fuse_tests::pod::{Pod, wait_until};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// A pod with a mount of a volume whose store lies on a disk that can be taken away.
struct World {
    pod: Pod,
    root: PathBuf,
    elsewhere: PathBuf,
    _dir: TempDir,
}

impl World {
    fn new(options: &[&str]) -> World {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk/store");
        let pod = Pod::new(&format!("file://{}", root.display()));
        let world = World {
            pod,
            elsewhere: dir.path().join("elsewhere"),
            root,
            _dir: dir,
        };
        world.pod.json(["volume", "create", "v"]);
        world.pod.mount("v", options);
        fs::write(world.pod.path("before"), "before").unwrap();
        world
    }

    /// The message of a commit that must fail because the store is away.
    fn commit_fails(&self) -> String {
        let dir = self.pod.mount_dir();
        let dir = dir.to_str().unwrap();
        let said = self.pod.fails(5, ["commit", dir, "--timeout", "2s"]);
        assert!(said.contains("is its disk mounted?"), "{said}");
        assert!(said.contains(&self.root.display().to_string()), "{said}");
        said
    }

    /// What was written while the store was away goes out, and another pod reads it and what was there before.
    fn assert_goes_on(&self) {
        self.pod.commit("again");
        assert_eq!(self.pod.status()["dirty"], 0);
        let other = Pod::new(&format!("file://{}", self.root.display()));
        other.mount("v", &[]);
        for file in ["before", "away"] {
            assert_eq!(fs::read_to_string(other.path(file)).unwrap(), file);
        }
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_store_that_was_moved_away_is_not_made_anew() {
    for leaves_directory in [false, true] {
        let world = World::new(&[]);
        world.pod.commit("before");
        fs::rename(&world.root, &world.elsewhere).unwrap();
        if leaves_directory {
            fs::create_dir(&world.root).unwrap();
        }
        fs::write(world.pod.path("away"), "away").unwrap();
        world.commit_fails();
        assert_eq!(world.pod.status()["dirty"], 1);
        // Neither does anybody else: what is not there cannot be opened.
        for arguments in [
            vec!["put", "/etc/hostname", "v:/x"],
            vec!["get", "v:/before", "/tmp/"],
            vec!["ls", "v:/"],
        ] {
            let said = world.pod.fails(8, arguments);
            assert!(said.contains("is its disk mounted?"), "{said}");
        }
        match leaves_directory {
            true => {
                assert!(is_empty(&world.root));
                fs::remove_dir(&world.root).unwrap();
            }
            false => assert!(!world.root.exists()),
        }
        fs::rename(&world.elsewhere, &world.root).unwrap();
        world.assert_goes_on();
    }
}

/// Ends with what was mounted, also when a test fails.
struct Covered(PathBuf);

impl Covered {
    fn new(dir: &Path) -> Covered {
        let options = c"size=1m";
        rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options).unwrap();
        Covered(dir.to_path_buf())
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_store_that_another_disk_covers_is_left_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(&[]);
    world.pod.commit("before");
    let covered = Covered::new(&world.root);
    fs::write(world.pod.path("away"), "away").unwrap();
    world.commit_fails();
    assert!(is_empty(&world.root));
    // What another program keeps there is no store either.
    fs::write(world.root.join("other"), "x").unwrap();
    world.commit_fails();
    // Nor is another store, be it one of a volume of the same name.
    fs::remove_file(world.root.join("other")).unwrap();
    world.pod.json(["volume", "create", "v"]);
    world.commit_fails();
    assert_eq!(world.pod.status()["dirty"], 1);
    drop(covered);
    world.assert_goes_on();
}

#[test]
fn autocommit_takes_a_store_that_is_gone_for_an_outage() {
    let world = World::new(&["--autocommit", "1s"]);
    let committed = || {
        let status = world.pod.status();
        status["dirty"] == 0 && status["base"].as_u64() > Some(0)
    };
    wait_until("published", committed);
    fs::rename(&world.root, &world.elsewhere).unwrap();
    fs::write(world.pod.path("away"), "away").unwrap();
    wait_until("said", || {
        let held = world.pod.status()["autocommit"]["held"].clone();
        held.as_str()
            .is_some_and(|held| held.contains("is its disk mounted?"))
    });
    assert_eq!(world.pod.status()["last_failure"]["kind"], "store-unreachable");
    assert!(!world.root.exists());
    fs::rename(&world.elsewhere, &world.root).unwrap();
    wait_until("published by itself", committed);
    world.assert_goes_on();
}

/// Only what makes a volume makes a store.
#[test]
fn what_reads_or_tries_a_store_does_not_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/there");
    let pod = Pod::new(&format!("file://{}", root.display()));
    let mount_dir = pod.mount_dir();
    let listed = pod.run(["volume", "list"]);
    assert!(listed.status.success());
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("there is no store yet"), "{text}");
    let said = pod.fails(8, ["mount", "v", mount_dir.to_str().unwrap()]);
    assert!(said.contains("is its disk mounted?"), "{said}");
    let doctor = pod.run(["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("volume create"), "{text}");
    assert!(!dir.path().join("not").exists());
    pod.json(["volume", "create", "v"]);
    assert!(root.is_dir());
}
