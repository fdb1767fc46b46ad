//! Who owns what, and who gets at it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use fuse_tests::pod::Pod;

use crate::{NOBODY, Site, as_nobody, sh_as_nobody};

fn owner(pod: &Pod, path: &str) -> (u32, u32) {
    let meta = fs::symlink_metadata(pod.path(path)).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn the_root_directory_has_an_owner_and_a_mode_like_any_other() {
    let Some(site) = Site::new() else { return };
    let root = site.pod.mount_dir();
    chown(&root, Some(NOBODY), Some(77)).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o2750)).unwrap();
    site.everywhere(|pod, when| {
        assert_eq!(owner(pod, ""), (NOBODY, 77), "{when}");
        assert_eq!(
            fs::metadata(pod.mount_dir()).unwrap().mode() & 0o7777,
            0o2750,
            "{when}"
        );
        assert!(sh_as_nobody("touch $1 && rm $1", pod.path("mine")), "{when}");
    });
    fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
    chown(&root, Some(0), Some(0)).unwrap();
    assert!(!sh_as_nobody("ls $1", &root));
}

#[test]
fn a_mount_with_an_owner_shows_everything_as_theirs_and_stores_what_is_true() {
    let Some(site) = Site::new() else { return };
    let a = &site.pod;
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/roots"), "root's").unwrap();
    fs::write(a.path("d/fives"), "5").unwrap();
    fs::set_permissions(a.path("d/roots"), Permissions::from_mode(0o600)).unwrap();
    chown(a.path("d/fives"), Some(5), Some(6)).unwrap();
    a.commit("by root");
    let b = crate::pod(&site.work);
    let (uid, gid) = (NOBODY.to_string(), "1234".to_owned());
    b.mount("posix", &["--uid", &uid, "--gid", &gid]);
    for path in ["", "d", "d/roots", "d/fives"] {
        assert_eq!(owner(&b, path), (NOBODY, 1234), "{path:?}");
    }
    // The container's user works in it as in a directory of their own.
    assert!(sh_as_nobody(
        "cat $1 && echo more >> $1 && chmod 640 $1",
        b.path("d/roots")
    ));
    assert!(sh_as_nobody(
        "mkdir $1 && echo x > $1/f && mv $1/f $1/g",
        b.path("new")
    ));
    assert_eq!(owner(&b, "new/g"), (NOBODY, 1234));
    // What an image's entry point does on its start: it works, and makes nothing dirty.
    let dirty = b.status()["dirty_files"].clone();
    chown(b.path("d/fives"), Some(NOBODY), Some(1234)).unwrap();
    chown(b.mount_dir(), Some(NOBODY), Some(1234)).unwrap();
    assert_eq!(b.status()["dirty_files"], dirty);
    // The user may commit too.
    let mut commit = b.command(["commit".as_ref(), b.mount_dir().as_os_str()]);
    let output = commit.uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Elsewhere everything is whose it is.
    a.reload(&[]);
    assert_eq!((owner(a, "d"), owner(a, "d/roots")), ((0, 0), (0, 0)));
    assert_eq!(
        (owner(a, "d/fives"), owner(a, "new/g")),
        ((5, 6), (NOBODY, NOBODY))
    );
    assert_eq!(fs::read_to_string(a.path("d/roots")).unwrap(), "root'smore\n");
    assert_eq!(fs::metadata(a.path("d/roots")).unwrap().mode() & 0o777, 0o640);
    // An owner given by root is stored; this mount goes on showing its own.
    chown(b.path("d/fives"), Some(7), None).unwrap();
    assert_eq!(owner(&b, "d/fives"), (NOBODY, 1234));
    b.commit("given away");
    a.reload(&[]);
    assert_eq!(owner(a, "d/fives"), (7, 6));
}

/// Everything below a directory, itself included.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            all.extend(below(&path));
        } else {
            all.push(path);
        }
    }
    all
}

#[test]
fn another_user_reads_neither_what_modes_forbid_nor_what_lies_beside_the_mount() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    fs::write(pod.path("secret"), vec![7; 5 << 20]).unwrap();
    fs::set_permissions(pod.path("secret"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(pod.path("closed")).unwrap();
    fs::write(pod.path("closed/f"), "x").unwrap();
    fs::set_permissions(pod.path("closed"), Permissions::from_mode(0o700)).unwrap();
    fs::write(pod.path("open"), "everybody's").unwrap();
    pod.commit("a body in the state, bytes in the cache");
    fs::write(pod.path("secret"), vec![8; 5 << 20]).unwrap();
    fs::read(pod.path("secret")).unwrap();
    for (script, path) in [
        ("cat $1", "secret"),
        ("echo x >> $1", "secret"),
        ("truncate -s 0 $1", "secret"),
        ("ls $1", "closed"),
        ("cat $1", "closed/f"),
        ("rm -f $1", "open"),
        ("touch $1", "new"),
        ("chmod 666 $1", "open"),
        ("chown 65534 $1", "open"),
    ] {
        assert!(!sh_as_nobody(script, pod.path(path)), "{script} {path}");
    }
    assert!(sh_as_nobody("cat $1", pod.path("open")));
    // Not a byte of state and cache, whatever their own modes are: the way there is closed.
    let mut files = 0;
    for place in ["state", "cache"] {
        for path in below(&pod.local_dir(place)).split_off(1) {
            files += 1;
            assert!(!sh_as_nobody("cat $1 || ls $1", &path), "{}", path.display());
        }
    }
    assert!(files > 5);
    // The socket may be seen; who asks is told apart by it.
    let dir = pod.mount_dir();
    for command in ["status", "commit", "umount"] {
        let mut ask = pod.command([command.as_ref(), dir.as_os_str()]);
        let output = ask.uid(NOBODY).gid(NOBODY).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{command}: {said}");
        assert!(said.contains("--uid 65534"), "{said}");
    }
    // Nor the daemon's memory, where keys are.
    let pid = pod.daemon().unwrap();
    for file in ["environ", "mem", "maps"] {
        assert!(!as_nobody("cat", [format!("/proc/{pid}/{file}")]), "{file}");
    }
    File::open(pod.path("secret")).unwrap();
}
