//! Single cases.

use super::harness::{CALLER, World, at_once, errno, last, peek, run};
use super::model::{Body, Fs, ROOT};
use crate::model::{PATH_DEPTH_MAX, Timestamp, VolumeId};
use crate::overlay::{Change, Found, NewBody, NodeBody, Op, Overlay, OverlayOptions, OverlayState};
use crate::view::inodes::What;
use crate::view::{
    Caller, Clock, CopySide, Ino, NodeKind, OpenFlags, ROOT_INO, RenameMode, Seek, SetAttr, SetTime, View,
    XattrMode,
};
use std::sync::atomic::Ordering;

const RW: OpenFlags = OpenFlags::READ_WRITE;
const RO: OpenFlags = OpenFlags::READ;

pub(super) fn dir(fs: &mut Fs, at: u64, name: &str) -> u64 {
    fs.make(at, name.as_bytes(), Body::Dir(Default::default()), 0o755)
        .unwrap()
}

pub(super) fn file(fs: &mut Fs, at: u64, name: &str, data: Vec<u8>) -> u64 {
    fs.make(at, name.as_bytes(), Body::File(data), 0o644).unwrap()
}

pub(super) fn known(view: &View, at: Ino, name: &str) -> crate::view::Known {
    run(view.lookup(&CALLER, at, name.as_bytes())).unwrap().unwrap()
}

fn chunky(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 1000) as u8 | 1).collect()
}

#[test]
fn what_is_here_is_answered_at_once() {
    let world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        file(fs, a, "f", b"hello".to_vec());
    });
    let view = world.view();
    let a = known(&view, ROOT_INO, "a").ino;
    known(&view, a, "f");
    let f = at_once(view.lookup(&CALLER, a, b"f")).unwrap().unwrap().ino;
    let open = at_once(view.open(&CALLER, f, RW)).unwrap();
    assert_eq!(at_once(view.read(f, open.fh, 0, 100)).unwrap(), &b"hello"[..]);
    assert_eq!(at_once(view.write(f, open.fh, 5, b" world", false)).unwrap(), 6);
    assert_eq!(at_once(view.getattr(&CALLER, f, None)).unwrap().size, 11);
    at_once(view.rename(&CALLER, (a, b"f"), (ROOT_INO, b"g"), RenameMode::Replace)).unwrap();
    at_once(view.mkdir(&CALLER, a, b"new", 0o755)).unwrap();
    at_once(view.unlink(&CALLER, ROOT_INO, b"g")).unwrap();
    assert_eq!(
        at_once(view.read(f, open.fh, 0, 100)).unwrap(),
        &b"hello world"[..]
    );
    view.release(f, open.fh);
}

#[test]
fn what_a_commit_would_refuse_is_refused_here() {
    let world = World::new(|_| ());
    let view = world.view();
    let long = [b'x'; 256];
    assert_eq!(
        errno(run(view.mkdir(&CALLER, ROOT_INO, &long, 0o755))).unwrap_err(),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        errno(run(view.lookup(&CALLER, ROOT_INO, &long))).unwrap_err(),
        libc::ENAMETOOLONG
    );
    let target = vec![b'x'; 4096];
    assert_eq!(
        errno(run(view.symlink(&CALLER, ROOT_INO, b"s", &target))).unwrap_err(),
        libc::ENAMETOOLONG
    );
    assert!(run(view.symlink(&CALLER, ROOT_INO, b"s", &target[1..])).is_ok());
    let set =
        |name: &[u8], value: &[u8]| errno(run(view.setxattr(&CALLER, ROOT_INO, name, value, XattrMode::Any)));
    assert_eq!(set(b"user.a", &[0; 65537]).unwrap_err(), libc::E2BIG);
    set(b"user.a", &[0; 60000]).unwrap();
    assert_eq!(set(b"user.b", &[0; 6000]).unwrap_err(), libc::ENOSPC);
    assert_eq!(
        set(b"system.posix_acl_access", b"x").unwrap_err(),
        libc::EOPNOTSUPP
    );
    let open = run(view.create(&CALLER, ROOT_INO, b"f", 0o644, RW)).unwrap();
    let (f, fh) = (open.0.ino, open.1.fh);
    assert_eq!(
        errno(run(view.write(f, fh, u64::MAX - 2, b"abc", false))).unwrap_err(),
        libc::EFBIG
    );
    view.release(f, fh);
}

#[test]
fn paths_do_not_get_too_deep_by_mkdir_nor_by_rename() {
    let world = World::new(|fs| {
        let top = dir(fs, ROOT, "wide");
        for i in 0..1100 {
            dir(fs, top, &format!("{i}"));
        }
    });
    let view = world.view();
    let mut at = ROOT_INO;
    for _ in 0..PATH_DEPTH_MAX {
        at = run(view.mkdir(&CALLER, at, b"d", 0o755)).unwrap().ino;
    }
    assert_eq!(
        errno(run(view.mkdir(&CALLER, at, b"d", 0o755))).unwrap_err(),
        libc::ENAMETOOLONG
    );
    let mut parents = vec![ROOT_INO];
    for _ in 0..PATH_DEPTH_MAX {
        parents.push(known(&view, parents[parents.len() - 1], "d").ino);
    }
    // A directory with more directories than there is room for below, but none of them deep: it fits by one.
    let wide = |depth: usize| {
        run(view.rename(
            &CALLER,
            (ROOT_INO, b"wide"),
            (parents[depth], b"w"),
            RenameMode::Replace,
        ))
    };
    assert_eq!(errno(wide(PATH_DEPTH_MAX - 1)).unwrap_err(), libc::ENAMETOOLONG);
    wide(PATH_DEPTH_MAX - 2).unwrap();
}

#[test]
fn setgid_directories_hand_down_their_group() {
    let world = World::new(|_| ());
    let view = world.view();
    let d = run(view.mkdir(&CALLER, ROOT_INO, b"d", 0o2775)).unwrap().ino;
    let set = SetAttr {
        gid: Some(50),
        ..SetAttr::default()
    };
    run(view.setattr(&CALLER, d, &set)).unwrap();
    let user = Caller {
        uid: 7,
        gid: 8,
        ..CALLER
    };
    let sub = run(view.mkdir(&user, d, b"sub", 0o755)).unwrap();
    assert_eq!((sub.attr.mode, sub.attr.uid, sub.attr.gid), (0o2755, 7, 50));
    let f = run(view.mknod(&user, d, b"f", NodeKind::File, 0o644)).unwrap();
    assert_eq!((f.attr.mode, f.attr.gid), (0o644, 50));
}

#[test]
fn writes_chown_and_truncation_take_setuid_off() {
    let world = World::new(|fs| {
        let f = file(fs, ROOT, "f", b"program".to_vec());
        fs.at_mut(f).mode = 0o6755;
    });
    let view = world.view();
    let user = Caller {
        uid: 7,
        gid: 8,
        ..CALLER
    };
    let f = known(&view, ROOT_INO, "f").ino;
    let mode = |mode: u16| {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        run(view.setattr(&CALLER, f, &set)).unwrap()
    };
    let now = || run(view.getattr(&CALLER, f, None)).unwrap().mode;
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    run(view.write(f, open.fh, 0, b"P", false)).unwrap();
    assert_eq!(now(), 0o6755);
    run(view.write(f, open.fh, 0, b"P", true)).unwrap();
    assert_eq!(now(), 0o755);
    mode(0o6745);
    run(view.write(f, open.fh, 0, b"P", true)).unwrap();
    // Without group execute setgid is no such bit.
    assert_eq!(now(), 0o2745);
    view.release(f, open.fh);
    mode(0o6755);
    let chown = SetAttr {
        uid: Some(9),
        ..SetAttr::default()
    };
    assert_eq!(run(view.setattr(&CALLER, f, &chown)).unwrap().mode, 0o755);
    mode(0o4755);
    let cut = SetAttr {
        size: Some(3),
        ..SetAttr::default()
    };
    assert_eq!(run(view.setattr(&user, f, &cut)).unwrap().mode, 0o755);
    // A passthrough write tells by asking for nothing, and so does a chown without an owner, also of root's.
    for caller in [&CALLER, &user] {
        mode(0o4755);
        let asked = run(view.setattr(caller, f, &SetAttr::default())).unwrap();
        assert_eq!(asked.mode, 0o755);
    }
    mode(0o4755);
    let truncate = OpenFlags { truncate: true, ..RW };
    let open = run(view.open(&user, f, truncate)).unwrap();
    assert_eq!(now(), 0o755);
    view.release(f, open.fh);
}

#[test]
fn a_small_write_into_a_large_file_fetches_one_frame() {
    let world = World::new(|fs| {
        file(fs, ROOT, "large", chunky(20 << 20));
    });
    let view = world.view();
    let f = known(&view, ROOT_INO, "large").ino;
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    // A frame covered whole needs nothing.
    run(view.write(f, open.fh, 3 << 20, &vec![9; 1 << 20], false)).unwrap();
    assert_eq!(world.source.reads.load(Ordering::Relaxed), 0);
    run(view.write(f, open.fh, (7 << 20) + 5, b"xyz", false)).unwrap();
    assert_eq!(world.source.reads.load(Ordering::Relaxed), 1 << 20);
    let mut expected = chunky(20 << 20);
    expected[3 << 20..4 << 20].fill(9);
    expected[(7 << 20) + 5..][..3].copy_from_slice(b"xyz");
    assert!(run(view.read(f, open.fh, 0, 20 << 20)).unwrap() == expected);
    view.release(f, open.fh);
}

#[test]
fn copies_share_content() {
    let world = World::new(|fs| {
        file(fs, ROOT, "small", chunky(100_000));
        file(fs, ROOT, "large", chunky(20 << 20));
    });
    let view = world.view();
    for (name, len, pieces) in [("small", 100_000u64, 1), ("large", 20 << 20, 2)] {
        let from = known(&view, ROOT_INO, name).ino;
        let open = run(view.open(&CALLER, from, RO)).unwrap();
        let copy = format!("{name}-copy");
        let (to, to_open) = run(view.create(&CALLER, ROOT_INO, copy.as_bytes(), 0o644, RW)).unwrap();
        let mut at = 0;
        let mut calls = 0;
        while at < len {
            let side = |ino, fh| CopySide { ino, fh, offset: at };
            let want = (len / pieces + 100).min(len - at);
            at += run(view.copy_file_range(side(from, open.fh), side(to.ino, to_open.fh), want)).unwrap();
            calls += 1;
            assert!(calls < 10);
        }
        view.release(from, open.fh);
        view.release(to.ino, to_open.fh);
        let shared = peek(&view, |look| match &look.inode(to.ino)?.what {
            What::Node(id) => Ok(match &look.node(*id)?.body {
                NodeBody::File(file) => {
                    file.body.is_none() && file.base.as_ref().is_some_and(|base| base.0 == len)
                }
                _ => false,
            }),
            _ => Ok(false),
        });
        assert!(shared, "{name} was copied byte by byte");
        assert_eq!(run(view.getattr(&CALLER, to.ino, None)).unwrap().size, len);
    }
    assert_eq!(world.source.reads.load(Ordering::Relaxed), 0);
    let copy = known(&view, ROOT_INO, "large-copy").ino;
    assert!(world.read_all(copy) == chunky(20 << 20));
}

#[test]
fn a_write_keeps_its_time_and_size_through_a_kill() {
    let mut world = World::new(|fs| {
        let f = file(fs, ROOT, "f", b"old".to_vec());
        let long_ago = Timestamp { secs: 1000, nanos: 0 };
        (fs.at_mut(f).mtime, fs.at_mut(f).ctime) = (long_ago, long_ago);
    });
    let view = world.view();
    let f = known(&view, ROOT_INO, "f").ino;
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    run(view.write(f, open.fh, 3, b" and new", false)).unwrap();
    // Killed: nothing is released or settled.
    drop(view);
    world.view = None;
    last(world.overlay.take().unwrap());
    world.handles.clear();
    world.mount();
    let view = world.view();
    let f = known(&view, ROOT_INO, "f");
    assert_eq!(f.attr.size, 11);
    // The body was stamped by the machine's clock.
    assert!(f.attr.mtime.secs > 1_000_000_000, "{:?}", f.attr.mtime);
    assert_eq!(world.read_all(f.ino), b"old and new");
    // A time that a program sets afterwards is the later word.
    let past = Timestamp { secs: 77, nanos: 0 };
    let set = SetAttr {
        mtime: Some(SetTime::At(past)),
        ..SetAttr::default()
    };
    run(view.setattr(&CALLER, f.ino, &set)).unwrap();
    drop(view);
    world.view = None;
    last(world.overlay.take().unwrap());
    world.mount();
    assert_eq!(known(&world.view(), ROOT_INO, "f").attr.mtime, past);
}

/// The campaign of power cuts, seed 44: while a commit ran the file was cut, and after the cut it had the bytes of the base.
#[test]
fn a_file_that_is_cut_during_a_commit_never_goes_back_behind_its_last_fsync() {
    for len in [3000, 3 << 20] {
        let mut world = World::new(|fs| {
            file(fs, ROOT, "f", b"base".to_vec());
        });
        let view = world.view();
        let f = known(&view, ROOT_INO, "f").ino;
        let open = run(view.open(&CALLER, f, RW)).unwrap();
        run(view.write(f, open.fh, 0, &chunky(len), false)).unwrap();
        run(view.fsync(f, open.fh, false)).unwrap();
        view.release(f, open.fh);
        let frozen = view.freeze().unwrap();
        let cutting = OpenFlags { truncate: true, ..RW };
        let open = run(view.open(&CALLER, f, cutting)).unwrap();
        run(view.write(f, open.fh, 0, b"later", false)).unwrap();
        // The commit goes on with what it froze.
        let node = frozen
            .state
            .nodes
            .iter()
            .find(|(_, node)| node.body.as_file().is_some());
        let node = *node.expect("the frozen file").0;
        let there = run(view.read_frozen(&frozen, node, 0, len)).unwrap();
        assert!(there == chunky(len), "{len}");
        // The power fails, after the journal got to the disk for another reason.
        let overlay = world.overlay.take().unwrap();
        overlay.sync().unwrap();
        drop(view);
        world.view = None;
        last(overlay);
        let options = OverlayOptions {
            boot: [9; 16],
            ..OverlayOptions::new(world.dir.path().join("state"), VolumeId([7; 16]), "test")
        };
        let Found::Overlay(opened) = Overlay::open(options).unwrap() else {
            panic!("there was an overlay");
        };
        assert!(opened.recovery.rebooted, "{len}");
        assert!(opened.recovery.reverted.is_empty(), "{len}");
        let state = opened.overlay.read();
        let body = state.nodes[&node].body.as_file().unwrap().body;
        let body = opened.overlay.body(body.expect("it is dirty")).unwrap();
        assert_eq!(body.len().unwrap(), 5, "{len}");
    }
}

/// A file that was synced is cut to nothing and written anew, which is not synced; the journal gets to the disk by itself. Or
/// something else is synced after that.
#[test]
fn a_synced_file_that_is_written_anew_is_the_old_or_the_new_one_after_a_power_cut() {
    for synced in [false, true] {
        let mut world = World::new(|_| ());
        let view = world.view();
        let (f, open) = run(view.create(&CALLER, ROOT_INO, b"f", 0o644, RW)).unwrap();
        run(view.write(f.ino, open.fh, 0, b"the old bytes", false)).unwrap();
        run(view.fsync(f.ino, open.fh, false)).unwrap();
        view.release(f.ino, open.fh);
        let cutting = OpenFlags { truncate: true, ..RW };
        let open = run(view.open(&CALLER, f.ino, cutting)).unwrap();
        run(view.write(f.ino, open.fh, 0, b"new", false)).unwrap();
        view.release(f.ino, open.fh);
        let overlay = world.overlay.take().unwrap();
        if synced {
            overlay.sync().unwrap();
        }
        drop(view);
        world.view = None;
        last(overlay);
        let options = OverlayOptions {
            boot: [9; 16],
            ..OverlayOptions::new(world.dir.path().join("state"), VolumeId([7; 16]), "test")
        };
        let Found::Overlay(opened) = Overlay::open(options).unwrap() else {
            panic!("there was an overlay");
        };
        assert_eq!(opened.recovery.taken_back == 0, synced);
        let state = opened.overlay.read();
        let file = state.nodes.values().find_map(|node| node.body.as_file());
        let body = opened
            .overlay
            .body(file.and_then(|file| file.body).unwrap())
            .unwrap();
        let bytes = std::fs::read(body.path()).unwrap();
        let wanted: &[u8] = if synced { b"new" } else { b"the old bytes" };
        assert_eq!(bytes, wanted);
    }
}

/// The campaign of power cuts, seed 60: a commit was published before the power failed, a file of it had never been synced
/// and had got another mode since. It had the bytes that the disk had, and later those that were published.
#[test]
fn after_a_power_cut_a_file_has_the_bytes_that_were_published() {
    for killed_again in [false, true] {
        let mut world = World::new(|_| ());
        let view = world.view();
        let (f, open) = run(view.create(&CALLER, ROOT_INO, b"f", 0o644, RW)).unwrap();
        run(view.write(f.ino, open.fh, 0, &chunky(3000), false)).unwrap();
        view.release(f.ino, open.fh);
        let frozen = view.freeze().unwrap();
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        run(view.setattr(&CALLER, f.ino, &mode)).unwrap();
        let overlay = world.overlay.take().unwrap();
        overlay.sync().unwrap();
        drop(view);
        world.view = None;
        last(overlay);

        let options = |boot: u8| OverlayOptions {
            boot: [boot; 16],
            ..OverlayOptions::new(world.dir.path().join("state"), VolumeId([7; 16]), "test")
        };
        let open = |boot: u8| match Overlay::open(options(boot)).unwrap() {
            Found::Overlay(opened) => opened,
            Found::Empty(_) => panic!("there was an overlay"),
        };
        let opened = open(9);
        let [node] = opened.recovery.incomplete[..] else {
            panic!("one file was never synced");
        };
        let mut overlay = opened.overlay;
        let body = overlay.read().nodes[&node].body.as_file().unwrap().body;
        let body = overlay.body(body.unwrap()).unwrap();
        body.set_len(0).unwrap();
        let content = world.source.content(&chunky(3000));
        world.seq += 1;
        let published = Op::Published {
            commit: frozen.commit,
            base: world.base_ref(),
            contents: vec![(node, 3000, content.clone())],
        };
        drop(overlay.apply_freeing(&published).unwrap());
        if killed_again {
            last(overlay);
            overlay = open(9).overlay;
        } else {
            overlay.drop_clean_bodies().unwrap();
        }
        let state = overlay.read();
        let file = state.nodes[&node].body.as_file().unwrap();
        let (size, base) = file.base.as_ref().unwrap();
        assert!(file.body.is_none() && *size == 3000 && base.same(&content));
    }
}

#[test]
fn without_the_store_nothing_is_half_done() {
    let world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        for i in 0..50 {
            file(fs, a, &format!("f{i}"), chunky(3000));
        }
        dir(fs, ROOT, "b");
    });
    let view = world.view();
    let a = known(&view, ROOT_INO, "a").ino;
    let f = known(&view, a, "f7").ino;
    let before = run(view.getattr(&CALLER, f, None)).unwrap();
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    world.source.cool();
    world.source.offline.store(true, Ordering::Relaxed);
    let io = |result: Result<(), crate::view::ViewError>| assert_eq!(result.unwrap_err().errno(), libc::EIO);
    io(run(view.write(f, open.fh, 1, b"x", false)).map(|_| ()));
    io(run(view.read(f, open.fh, 0, 10)).map(|_| ()));
    io(run(view.rename(
        &CALLER,
        (a, b"f7"),
        (ROOT_INO, b"g"),
        RenameMode::Replace,
    )));
    io(run(view.unlink(&CALLER, a, b"f8")));
    // What needs nothing goes on: new files, and overwriting whole.
    run(view.create(&CALLER, ROOT_INO, b"new", 0o644, RW)).unwrap();
    assert_eq!(run(view.getattr(&CALLER, f, None)).unwrap(), before);
    world.source.offline.store(false, Ordering::Relaxed);
    assert_eq!(run(view.read(f, open.fh, 0, 5000)).unwrap(), chunky(3000));
    view.release(f, open.fh);
    let changes = peek(&view, |look| {
        let root = look.node(crate::overlay::ROOT_NODE)?;
        Ok(root.body.as_dir().map(|dir| dir.changes.len()))
    });
    assert_eq!(changes, Some(1), "a refused change left something behind");
}

#[test]
fn seeking_finds_holes() {
    let world = World::new(|fs| {
        let mut data = vec![0; 24 << 20];
        data[..5].copy_from_slice(b"start");
        data[17 << 20] = 1;
        file(fs, ROOT, "holes", data);
    });
    let view = world.view();
    let f = known(&view, ROOT_INO, "holes");
    assert_eq!(
        f.attr.blocks,
        (16 << 20) / 512,
        "the chunk that is a hole takes no blocks"
    );
    let open = run(view.open(&CALLER, f.ino, RW)).unwrap();
    let seek = |at: u64, what| errno(run(view.lseek(f.ino, open.fh, at, what)));
    let mib = |n: u64| n << 20;
    assert_eq!(seek(0, Seek::Hole), Ok(4096));
    assert_eq!(seek(mib(9), Seek::Data), Ok(mib(17)));
    assert_eq!(seek(mib(17), Seek::Hole), Ok(mib(17) + 4096));
    assert_eq!(seek(mib(24), Seek::Data), Err(libc::ENXIO));
    let (n, n_open) = run(view.create(&CALLER, ROOT_INO, b"new", 0o644, RW)).unwrap();
    run(view.write(n.ino, n_open.fh, mib(5), b"x", false)).unwrap();
    assert_eq!(
        errno(run(view.lseek(n.ino, n_open.fh, 0, Seek::Data))),
        Ok(mib(5))
    );
    assert_eq!(errno(run(view.lseek(n.ino, n_open.fh, 0, Seek::Hole))), Ok(0));
}

#[test]
fn holes_of_the_base_stay_holes_beside_a_write() {
    let sparse = |len: usize| {
        let mut data = vec![0; len];
        data[0] = 1;
        data[(512 << 10) + 3] = 1;
        data
    };
    // Brought in whole, and frame by frame.
    for len in [1 << 20, 9 << 20] {
        let world = World::new(|fs| {
            file(fs, ROOT, "f", sparse(len));
        });
        let view = world.view();
        let f = known(&view, ROOT_INO, "f").ino;
        let open = run(view.open(&CALLER, f, RW)).unwrap();
        run(view.write(f, open.fh, 9, b"new", false)).unwrap();
        let seek = |at: u64, what| errno(run(view.lseek(f, open.fh, at, what)));
        let data = 512 << 10;
        let found = [
            seek(0, Seek::Hole),
            seek(4096, Seek::Data),
            seek(data, Seek::Hole),
        ];
        assert_eq!(found, [Ok(4096), Ok(data), Ok(data + 4096)], "{len}");
        let mut bytes = sparse(len);
        bytes[9..12].copy_from_slice(b"new");
        assert!(run(view.read(f, open.fh, 0, len)).unwrap() == bytes, "{len}");
    }
}

#[test]
fn inodes_leave_the_table_with_their_last_reference() {
    let mut world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        let b = dir(fs, a, "b");
        file(fs, b, "f", b"x".to_vec());
    });
    let view = world.view();
    world.walk(&[b"a", b"b", b"f"]).unwrap();
    assert_eq!(view.inodes(), 4);
    world.forget_all();
    assert_eq!(view.inodes(), 1);
    // An unlinked file that was open leaves the overlay with its last handle.
    let (f, open) = run(view.create(&CALLER, ROOT_INO, b"t", 0o600, RW)).unwrap();
    run(view.write(f.ino, open.fh, 0, b"temporary", false)).unwrap();
    run(view.unlink(&CALLER, ROOT_INO, b"t")).unwrap();
    view.forget(f.ino, 1);
    assert_eq!(run(view.read(f.ino, open.fh, 0, 100)).unwrap(), &b"temporary"[..]);
    view.release(f.ino, open.fh);
    assert_eq!(view.inodes(), 1);
    let nodes = peek(&view, |look| Ok(look.state.nodes.len()));
    assert_eq!(nodes, 1);
    let used = view.statfs().unwrap();
    assert_eq!(used.files - used.files_free, 4);
}

#[test]
fn a_read_only_view_refuses_every_change() {
    let world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        file(fs, a, "f", b"x".to_vec());
    });
    let parts = crate::view::ViewParts {
        source: world.source.clone(),
        room: None,
        clock: world.clock.clone(),
    };
    let options = crate::view::ViewOptions {
        read_only: false,
        first_file_id: 1,
        quota_bytes: 0,
        shown_owner: Default::default(),
    };
    let view = View::read_only(options, world.base.clone(), world.base_ref(), parts);
    let a = known(&view, ROOT_INO, "a").ino;
    let f = known(&view, a, "f").ino;
    assert_eq!(errno(run(view.unlink(&CALLER, a, b"f"))), Err(libc::EROFS));
    assert_eq!(
        errno(run(view.open(&CALLER, f, RW)).map(|_| ())),
        Err(libc::EROFS)
    );
    assert_eq!(
        errno(run(view.setattr(&CALLER, f, &SetAttr::default())).map(|_| ())),
        Err(libc::EROFS)
    );
    assert_eq!(
        errno(run(view.mkdir(&CALLER, a, b"d", 0o755)).map(|_| ())),
        Err(libc::EROFS)
    );
    let open = run(view.open(&CALLER, f, RO)).unwrap();
    assert_eq!(run(view.read(f, open.fh, 0, 9)).unwrap(), &b"x"[..]);
    view.release(f, open.fh);
}

#[test]
fn quota_stops_growth_and_nothing_else() {
    let world = World::new(|fs| {
        file(fs, ROOT, "f", vec![1; 1000]);
    });
    let parts = crate::view::ViewParts {
        source: world.source.clone(),
        room: None,
        clock: world.clock.clone(),
    };
    let options = crate::view::ViewOptions {
        read_only: false,
        first_file_id: 1,
        quota_bytes: 1500,
        shown_owner: Default::default(),
    };
    let view = View::new(options, world.overlay.clone().unwrap(), world.base.clone(), parts);
    let f = known(&view, ROOT_INO, "f").ino;
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    assert_eq!(
        errno(run(view.write(f, open.fh, 1000, &[2; 501], false))),
        Err(libc::EDQUOT)
    );
    run(view.write(f, open.fh, 1000, &[2; 500], false)).unwrap();
    run(view.write(f, open.fh, 0, &[3; 1500], false)).unwrap();
    let cut = SetAttr {
        size: Some(10),
        ..SetAttr::default()
    };
    run(view.setattr(&CALLER, f, &cut)).unwrap();
    run(view.write(f, open.fh, 10, &[2; 1490], false)).unwrap();
    view.release(f, open.fh);
}

#[test]
fn a_file_open_for_writing_stays_through_a_reload() {
    let mut world = World::new(|fs| {
        file(fs, ROOT, "log", chunky(6 << 20));
        file(fs, ROOT, "other", b"x".to_vec());
    });
    let view = world.view();
    let log = known(&view, ROOT_INO, "log").ino;
    let open = run(view.open(&CALLER, log, RW)).unwrap();
    run(view.write(log, open.fh, 5, b"first", false)).unwrap();
    run(view.mkdir(&CALLER, ROOT_INO, b"dropped", 0o755)).unwrap();
    view.settle().unwrap();
    let kept = view.open_for_write();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].path.as_ref().unwrap().to_string(), "/log");
    // The state that the mount makes: the file on the new base, under its number.
    let overlay = world.overlay.clone().unwrap();
    let (old, node) = {
        let state = overlay.read();
        (state.clone(), state.node(kept[0].node).unwrap().clone())
    };
    // A frame comes in meanwhile.
    run(view.write(log, open.fh, 3 << 20, b"second", false)).unwrap();
    world.seq += 1;
    let base_ref = world.base_ref();
    let mut fresh = OverlayState::succeeding(&old, base_ref.clone(), world.base.attrs.clone());
    fresh
        .apply(&Op::Adopt {
            id: fresh.next_node,
            origin: node.origin.clone().unwrap(),
            attrs: node.attrs.clone(),
            nlink: 1,
            body: NewBody::File(node.body.as_file().unwrap().base.clone()),
        })
        .unwrap();
    let mut nodes = fresh.nodes.clone();
    let made = fresh.next_node - 1;
    let mut root = (*nodes[&crate::overlay::ROOT_NODE]).clone();
    if let NodeBody::Dir(dir) = &mut root.body {
        for change in dir.changes.values_mut() {
            if let Change::Node { id, .. } = change {
                *id = kept[0].node;
            }
        }
    }
    nodes.insert(crate::overlay::ROOT_NODE, root.into());
    nodes.remove(&made);
    nodes.insert(kept[0].node, node);
    let state = OverlayState::from_nodes(&old, base_ref, nodes);
    let base = world.base.clone();
    view.reload(base, |overlay, _| {
        let moved = overlay.stash_current(state, &[kept[0].node], world.clock.now());
        moved.map_err(crate::view::ViewError::from)
    })
    .unwrap();
    assert!(run(view.lookup(&CALLER, ROOT_INO, b"dropped")).unwrap().is_none());
    assert_eq!(known(&view, ROOT_INO, "log").ino, log);
    run(view.write(log, open.fh, 100, b"third", false)).unwrap();
    let mut expected = chunky(6 << 20);
    expected[5..10].copy_from_slice(b"first");
    expected[3 << 20..][..6].copy_from_slice(b"second");
    expected[100..105].copy_from_slice(b"third");
    assert!(world.read_all(log) == expected);
    view.release(log, open.fh);
    // Also for whoever takes the overlay up.
    drop(view);
    drop(overlay);
    world.seq += 1;
    world.stop(false);
    world.mount();
    let log = known(&world.view(), ROOT_INO, "log").ino;
    assert!(world.read_all(log) == expected);
}

#[test]
fn a_file_that_looked_itself_up_again_can_be_unlinked_while_open() {
    let mut world = World::new(|fs| {
        let d = dir(fs, ROOT, "d");
        file(fs, d, "f", b"before".to_vec());
    });
    let view = world.view();
    let d = known(&view, ROOT_INO, "d").ino;
    let f = known(&view, d, "f").ino;
    world.reload(|_| ());
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    run(view.unlink(&CALLER, d, b"f")).unwrap();
    assert_eq!(run(view.write(f, open.fh, 6, b" after", false)).unwrap(), 6);
    assert_eq!(run(view.read(f, open.fh, 0, 100)).unwrap(), &b"before after"[..]);
    assert_eq!(run(view.getattr(&CALLER, f, None)).unwrap().nlink, 0);
    view.release(f, open.fh);
}

#[test]
fn what_is_written_to_a_replaced_file_ends_with_its_handle() {
    let mut world = World::new(|fs| {
        file(fs, ROOT, "f", b"before".to_vec());
    });
    let view = world.view();
    let f = known(&view, ROOT_INO, "f").ino;
    // Opened for writing, not written yet: nothing is in the overlay that could be kept.
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    world.reload(|fs| {
        let id = fs.walk(&[b"f"]).unwrap();
        fs.write(id, 0, b"after!");
    });
    run(view.write(f, open.fh, 0, b"BEF", false)).unwrap();
    assert_eq!(run(view.read(f, open.fh, 0, 100)).unwrap(), &b"BEFore"[..]);
    let now = known(&view, ROOT_INO, "f").ino;
    assert_eq!(world.read_all(now), b"after!");
    view.release(f, open.fh);
    assert!(world.overlay.as_ref().unwrap().read().is_clean());
}

/// What one operation costs. Run it by hand: cargo test --lib what_operations_cost -- --ignored --nocapture
#[test]
#[ignore = "measures"]
fn what_operations_cost() {
    let world = World::new(|fs| {
        for i in 0..1000 {
            file(fs, ROOT, &format!("base-{i}"), chunky(2000));
        }
    });
    let view = world.view();
    let count = 2000u32;
    let measure = |what: &str, count: u32, run: &mut dyn FnMut(u32)| {
        let start = std::time::Instant::now();
        (0..count).for_each(run);
        println!(
            "{what}: {:.1} us",
            start.elapsed().as_secs_f64() * 1e6 / f64::from(count)
        );
    };
    let mut made = Vec::new();
    measure("lookup and forget, clean", 1000, &mut |i| {
        let known = known(&view, ROOT_INO, &format!("base-{i}"));
        view.forget(known.ino, 1);
    });
    let one = known(&view, ROOT_INO, "base-7").ino;
    measure("lookup, known", count, &mut |_| {
        known(&view, ROOT_INO, "base-7");
    });
    measure("getattr", count, &mut |_| {
        run(view.getattr(&CALLER, one, None)).unwrap();
    });
    measure("create and close", count, &mut |i| {
        let (known, open) =
            run(view.create(&CALLER, ROOT_INO, format!("n{i}").as_bytes(), 0o644, RW)).unwrap();
        view.release(known.ino, open.fh);
        made.push(known.ino);
    });
    measure("open, first write of 4 KiB, close", count, &mut |i| {
        let ino = made[i as usize];
        let open = run(view.open(&CALLER, ino, RW)).unwrap();
        run(view.write(ino, open.fh, 0, &[7; 4096], false)).unwrap();
        view.release(ino, open.fh);
    });
    let open = run(view.open(&CALLER, made[0], RW)).unwrap();
    let data = vec![1; 128 << 10];
    measure("write of 128 KiB", count, &mut |i| {
        run(view.write(made[0], open.fh, u64::from(i % 64) << 17, &data, false)).unwrap();
    });
    measure("read of 128 KiB", count, &mut |i| {
        run(view.read(made[0], open.fh, u64::from(i % 64) << 17, 128 << 10)).unwrap();
    });
    measure("readdirplus, an entry", 1, &mut |_| {
        let open = run(view.opendir(&CALLER, ROOT_INO)).unwrap();
        let (mut cookie, mut lines) = (0, 0);
        let start = std::time::Instant::now();
        loop {
            let some = run(view.readdirplus(ROOT_INO, open.fh, cookie, 128 << 10)).unwrap();
            let Some(last) = some.last() else { break };
            cookie = last.item.cookie;
            lines += some.len();
        }
        println!(
            "{lines} lines, {:.1} us each",
            start.elapsed().as_secs_f64() * 1e6 / lines as f64
        );
    });
    measure("rename", count, &mut |i| {
        let (from, to) = (format!("n{i}"), format!("m{i}"));
        let (from, to) = ((ROOT_INO, from.as_bytes()), (ROOT_INO, to.as_bytes()));
        run(view.rename(&CALLER, from, to, RenameMode::Replace)).unwrap();
    });
    measure("unlink", count, &mut |i| {
        run(view.unlink(&CALLER, ROOT_INO, format!("m{i}").as_bytes())).unwrap();
    });
    measure("statfs", count, &mut |_| {
        view.statfs().unwrap();
    });
}
