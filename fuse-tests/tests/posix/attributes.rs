//! Modes, times and extended attributes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use fuse_tests::pod::Pod;
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, getxattr, listxattr, setxattr,
    utimensat,
};
use rustix::io::Errno;

use crate::{NOBODY, Site, sh_as_nobody};

fn mode(pod: &Pod, path: &str) -> u32 {
    fs::metadata(pod.path(path)).unwrap().mode() & 0o7777
}

fn chmod(pod: &Pod, path: &str, mode: u32) {
    fs::set_permissions(pod.path(path), Permissions::from_mode(mode)).unwrap();
}

#[test]
fn in_a_sticky_directory_everybody_removes_their_own_only() {
    let Some(site) = Site::new() else { return };
    fs::create_dir(site.pod.path("tmp")).unwrap();
    chmod(&site.pod, "tmp", 0o1777);
    site.everywhere(|pod, when| {
        assert_eq!(mode(pod, "tmp"), 0o1777, "{when}");
        fs::write(pod.path("tmp/roots"), "r").unwrap();
        chmod(pod, "tmp/roots", 0o666);
        assert!(sh_as_nobody("echo x > $1", pod.path("tmp/theirs")), "{when}");
        assert!(!sh_as_nobody("rm -f $1", pod.path("tmp/roots")), "{when}");
        assert!(!sh_as_nobody("mv $1 $1.moved", pod.path("tmp/roots")), "{when}");
        assert!(sh_as_nobody("rm $1", pod.path("tmp/theirs")), "{when}");
        fs::remove_file(pod.path("tmp/roots")).unwrap();
    });
}

#[test]
fn a_setgid_directory_hands_down_its_group() {
    let Some(site) = Site::new() else { return };
    fs::create_dir(site.pod.path("team")).unwrap();
    chown(site.pod.path("team"), None, Some(4242)).unwrap();
    chmod(&site.pod, "team", 0o2777);
    let made = |pod: &Pod, name: &str| {
        File::create(pod.path(format!("team/{name}"))).unwrap();
        fs::create_dir(pod.path(format!("team/{name}.d"))).unwrap();
    };
    made(&site.pod, "here");
    site.pod.commit("team");
    let fresh = site.fresh();
    made(&fresh, "there");
    for name in ["here", "there"] {
        assert_eq!(
            fs::metadata(fresh.path(format!("team/{name}"))).unwrap().gid(),
            4242
        );
        let dir = fs::metadata(fresh.path(format!("team/{name}.d"))).unwrap();
        assert_eq!((dir.gid(), dir.mode() & 0o2000), (4242, 0o2000));
    }
}

#[test]
fn setuid_and_setgid_go_with_a_write_and_a_new_owner() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    let make = |name: &str, bits: u32| {
        fs::write(pod.path(name), "program").unwrap();
        chown(pod.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        chmod(pod, name, bits);
    };
    let check = |name: &str, expected: u32, what: &str| assert_eq!(mode(pod, name), expected, "{what}");
    for (name, committed) in [("dirty", false), ("clean", true)] {
        make(name, 0o6777);
        if committed {
            pod.commit("with setuid");
        }
        check(name, 0o6777, "set");
        assert!(sh_as_nobody("echo x >> $1", pod.path(name)));
        check(name, 0o777, "an ordinary user wrote");
        make(name, 0o6777);
        assert!(sh_as_nobody("truncate -s 3 $1", pod.path(name)));
        check(name, 0o777, "an ordinary user cut it");
        make(name, 0o6777);
        chown(pod.path(name), Some(5), None).unwrap();
        check(name, 0o777, "it has another owner");
        // Without execution by the group setgid is no privilege.
        make(name, 0o6767);
        chown(pod.path(name), Some(5), None).unwrap();
        check(
            name,
            0o2767,
            "it has another owner, and no execution by the group",
        );
        make(name, 0o6777);
        fs::write(pod.path(name), "root may").unwrap();
        check(name, 0o6777, "root wrote");
    }
    fs::create_dir(pod.path("dir")).unwrap();
    chmod(pod, "dir", 0o2755);
    chown(pod.path("dir"), Some(5), Some(5)).unwrap();
    site.everywhere(|pod, when| {
        assert_eq!(mode(pod, "dir"), 0o2755, "{when}");
        assert_eq!(
            (mode(pod, "dirty"), mode(pod, "clean")),
            (0o6777, 0o6777),
            "{when}"
        );
    });
}

#[test]
fn times_to_the_nanosecond_and_left_alone() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    let set = |path: &str, atime: (i64, i64), mtime: (i64, i64)| {
        let of = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: of(atime),
            last_modification: of(mtime),
        };
        utimensat(CWD, pod.path(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    let mtime = |pod: &Pod, path: &str| {
        let meta = fs::symlink_metadata(pod.path(path)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let times = [
        ("f0", (0, 0)),
        ("f1", (1_700_000_000, 123_456_789)),
        ("f2", (-1, 999_999_999)),
        ("f3", (4_102_444_800, 5)),
        ("f4", (-5_000_000_000, 1)),
    ];
    for (name, time) in times {
        fs::write(pod.path(name), "x").unwrap();
        set(name, (0, UTIME_OMIT), time);
    }
    std::os::unix::fs::symlink("f1", pod.path("link")).unwrap();
    set("link", (5, 5), (77, 7));
    // Both left alone: nothing changes. The present: it does.
    set("f1", (0, UTIME_OMIT), (0, UTIME_OMIT));
    fs::write(pod.path("now"), "x").unwrap();
    set("now", (1, 0), (1, 0));
    set("now", (0, UTIME_OMIT), (0, UTIME_NOW));
    assert!(mtime(pod, "now").0 > 1_700_000_000);
    // An access time that was set is told, while the inode is in use.
    assert_eq!(fs::metadata(pod.path("now")).unwrap().atime(), 1);
    let before = fs::metadata(pod.path("f1")).unwrap();
    chmod(pod, "f1", 0o600);
    let after = fs::metadata(pod.path("f1")).unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec())
    );
    assert!((before.ctime(), before.ctime_nsec()) < (after.ctime(), after.ctime_nsec()));
    let (when_made, ctime) = (mtime(pod, "now"), (after.ctime(), after.ctime_nsec()));
    site.everywhere(|pod, when| {
        for (name, time) in times {
            assert_eq!(mtime(pod, name), time, "{name} {when}");
        }
        assert_eq!(
            (mtime(pod, "link"), mtime(pod, "now")),
            ((77, 7), when_made),
            "{when}"
        );
        let meta = fs::metadata(pod.path("f1")).unwrap();
        assert_eq!((meta.ctime(), meta.ctime_nsec()), ctime, "{when}");
    });
}

#[test]
fn extended_attributes_up_to_the_limits() {
    let Some(site) = Site::new() else { return };
    let pod = &site.pod;
    fs::write(pod.path("f"), "x").unwrap();
    fs::create_dir(pod.path("d")).unwrap();
    let set = |name: &str, key: &str, value: &[u8], flags| setxattr(pod.path(name), key, value, flags);
    let any = XattrFlags::empty();
    let long = format!("user.{}", "n".repeat(250));
    let large: Vec<u8> = (0..60_000).map(|n| n as u8).collect();
    for name in ["f", "d"] {
        set(name, "user.empty", b"", any).unwrap();
        set(name, &long, b"long name", any).unwrap();
        set(name, "user.large", &large, any).unwrap();
        set(name, "user.gone", b"x", any).unwrap();
        rustix::fs::removexattr(pod.path(name), "user.gone").unwrap();
    }
    let too_long = format!("user.{}", "n".repeat(251));
    assert_eq!(set("f", &too_long, b"", any), Err(Errno::RANGE));
    assert_eq!(set("f", "user.more", &[0; 6000], any), Err(Errno::NOSPC));
    assert_eq!(set("f", "user.empty", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("f", "user.not", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    // Neither POSIX ACLs nor anything else that is not the user's.
    for key in [
        "system.posix_acl_access",
        "system.posix_acl_default",
        "trusted.overlay.opaque",
        "security.selinux",
    ] {
        assert_eq!(set("d", key, b"\x02\0\0\0", any), Err(Errno::OPNOTSUPP), "{key}");
    }
    site.everywhere(|pod, when| {
        for name in ["f", "d"] {
            let path = pod.path(name);
            let mut list = vec![0u8; 1000];
            let len = listxattr(&path, &mut list[..]).unwrap();
            let mut keys: Vec<&[u8]> = list[..len]
                .split(|byte| *byte == 0)
                .filter(|key| !key.is_empty())
                .collect();
            keys.sort();
            assert_eq!(
                keys,
                [&b"user.empty"[..], b"user.large", long.as_bytes()],
                "{name} {when}"
            );
            let value = |key: &str| {
                let mut value = vec![0u8; 65_536];
                let len = getxattr(&path, key, &mut value[..])?;
                value.truncate(len);
                Ok(value)
            };
            assert_eq!(value("user.empty"), Ok(vec![]));
            assert_eq!(value(&long), Ok(b"long name".to_vec()));
            assert!(value("user.large") == Ok(large.clone()), "{name} {when}");
            assert_eq!(value("user.gone"), Err(Errno::NODATA));
            assert_eq!(
                getxattr(&path, "user.large", &mut [0u8; 10][..]),
                Err(Errno::RANGE)
            );
        }
    });
}
