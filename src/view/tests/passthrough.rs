//! What is offered to the kernel, with the test as the kernel: it opens the offered file itself.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::harness::{CALLER, World, run};
use super::model::{Body, Fs, ROOT};
use crate::view::{Caller, Ino, Known, Offer, OpenFile, OpenFlags, Passthrough, ROOT_INO, View, ViewError};

const READ: OpenFlags = OpenFlags::READ;
const WRITE: OpenFlags = OpenFlags::READ_WRITE;
/// Another thread than the one that has just read a clean file, which would be taken for one that copies.
const MAKER: Caller = Caller { pid: 2, ..CALLER };
const LARGE: usize = 5 << 20;

fn bytes() -> Vec<u8> {
    (0..LARGE).map(|i| (i / 1000) as u8 | 1).collect()
}

/// A mount of one large file, all of it here.
fn world() -> (World, Ino) {
    let world = World::new(|fs: &mut Fs| {
        fs.make(ROOT, b"f", Body::File(bytes()), 0o644).unwrap();
    });
    let view = world.view();
    let ino = known(&view, "f").ino;
    assert!(world.read_all(ino) == bytes());
    view.set_passthrough(Passthrough {
        clean: true,
        bodies: true,
    });
    (world, ino)
}

fn known(view: &View, name: &str) -> Known {
    run(view.lookup(&CALLER, ROOT_INO, name.as_bytes()))
        .unwrap()
        .unwrap()
}

fn open(view: &View, ino: Ino, flags: OpenFlags) -> OpenFile {
    run(view.open(&CALLER, ino, flags)).unwrap()
}

fn size(view: &View, ino: Ino) -> u64 {
    run(view.getattr(&CALLER, ino, None)).unwrap().size
}

#[test]
fn a_new_file_is_written_without_the_view_and_committed_when_nobody_can_write_it() {
    let (world, _) = world();
    let view = world.view();
    let (made, handle) = run(view.create(&MAKER, ROOT_INO, b"new", 0o644, WRITE)).unwrap();
    let offer = handle.offer.expect("new files are offered");
    assert!(matches!(offer, Offer::Write(_)));
    let file = offer.open();
    file.write_all_at(&[1; 1000], 500).unwrap();
    let attr = run(view.getattr(&CALLER, made.ino, None)).unwrap();
    assert!((attr.size, attr.live) == (1500, true) && attr.mtime != made.attr.mtime);
    let frozen = view.freeze().unwrap();
    assert_eq!(frozen.open_for_write.len(), 1);
    view.unfreeze(frozen.commit).unwrap();
    // The handle is closed, but the "kernel" has the file: as with a mapping.
    view.release(made.ino, handle.fh);
    assert!(view.settle_closed(), "it can still be written");
    assert_eq!(view.open_for_write().len(), 1);
    file.write_all_at(&[2; 10], 1500).unwrap();
    drop(file);
    assert!(!view.settle_closed() && !view.has_live_files());
    let attr = run(view.getattr(&CALLER, made.ino, None)).unwrap();
    assert_eq!((attr.size, attr.live), (1510, false));
    let frozen = view.freeze().unwrap();
    assert!(frozen.open_for_write.is_empty());
    view.unfreeze(frozen.commit).unwrap();
}

#[test]
fn files_that_were_closed_are_settled_together_but_for_what_can_still_be_written() {
    let (world, _) = world();
    let view = world.view();
    let names: Vec<String> = (0..80).map(|n| format!("new {n}")).collect();
    let mut mapped = None;
    let mut inos = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let (made, handle) = run(view.create(&MAKER, ROOT_INO, name.as_bytes(), 0o644, WRITE)).unwrap();
        let file = handle.offer.expect("new files are offered").open();
        file.write_all_at(&[1; 10], n as u64).unwrap();
        if n == 41 {
            mapped = Some(file);
        }
        view.release(made.ino, handle.fh);
        inos.push(made.ino);
    }
    let seen = |ino: &Ino| run(view.getattr(&CALLER, *ino, None)).unwrap();
    let before: Vec<_> = inos.iter().map(seen).collect();
    assert!(view.settle_closed(), "one can still be written");
    assert_eq!(view.open_for_write().len(), 1);
    for (n, (ino, before)) in inos.iter().zip(before).enumerate() {
        let after = seen(ino);
        assert_eq!((after.live, after.size), (n == 41, n as u64 + 10));
        assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
        // What the overlay says by itself is what a restart will say.
        let state = world.overlay.as_ref().unwrap().read();
        let times = state
            .nodes
            .values()
            .filter(|node| node.attrs.mtime == before.mtime);
        assert!(times.count() > 0, "{n}");
    }
    drop(mapped);
    assert!(!view.settle_closed() && !view.has_live_files());
}

#[test]
fn a_file_that_is_not_made_leaves_no_body() {
    let (world, _) = world();
    let view = world.view();
    let overlay = world.overlay.as_ref().unwrap();
    let bodies = || {
        overlay.maintain().unwrap();
        let shards = std::fs::read_dir(overlay.dir().join("bodies")).unwrap();
        let files = shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count());
        files.sum::<usize>()
    };
    let exclusive = OpenFlags {
        exclusive: true,
        ..WRITE
    };
    let (made, handle) = run(view.create(&MAKER, ROOT_INO, b"new", 0o644, exclusive)).unwrap();
    let before = bodies();
    for _ in 0..5 {
        let refused = run(view.create(&MAKER, ROOT_INO, b"new", 0o644, exclusive));
        assert!(matches!(refused, Err(ViewError::Exists)));
        let (again, opened) = run(view.create(&MAKER, ROOT_INO, b"new", 0o644, WRITE)).unwrap();
        view.release(again.ino, opened.fh);
    }
    // Ten were made for nothing. Bodies are made ahead beside this, one more or less at a time.
    assert!(bodies() <= before + 2, "{} after {before}", bodies());
    view.release(made.ino, handle.fh);
}

#[test]
fn what_is_frozen_is_copied_before_it_is_written_again() {
    let (world, _) = world();
    let view = world.view();
    let (made, handle) = run(view.create(&MAKER, ROOT_INO, b"new", 0o644, WRITE)).unwrap();
    handle.offer.unwrap().open().write_all_at(b"first", 0).unwrap();
    view.release(made.ino, handle.fh);
    let frozen = view.freeze().unwrap();
    let (node, _) = frozen
        .state
        .nodes
        .iter()
        .find(|(_, node)| node.body.as_file().is_some_and(|file| file.body.is_some()))
        .unwrap();
    let reader = open(&view, made.ino, READ);
    let reading = reader.offer.as_ref().expect("a body is offered").open();
    let again = open(&view, made.ino, WRITE);
    again.offer.unwrap().open().write_all_at(b"other", 0).unwrap();
    assert_eq!(
        run(view.read_frozen(&frozen, *node, 0, 5)).unwrap(),
        &b"first"[..]
    );
    let mut seen = [0; 5];
    reading.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"other", "readers follow");
    view.unfreeze(frozen.commit).unwrap();
    view.release(made.ino, again.fh);
    view.release(made.ino, reader.fh);
}

#[test]
fn the_file_that_is_read_becomes_the_one_that_is_written() {
    let (world, ino) = world();
    let view = world.view();
    let reader = open(&view, ino, READ);
    let reading = match reader.offer.as_ref().expect("complete and clean") {
        offer @ Offer::Read(_) => offer.open(),
        Offer::Write(_) => panic!("a clean content must never be written"),
    };
    let writer = open(&view, ino, WRITE);
    let offer = writer.offer.expect("it is a body now");
    offer.open().write_all_at(b"written", 3).unwrap();
    let mut seen = [0; 7];
    reading.read_exact_at(&mut seen, 3).unwrap();
    assert_eq!(&seen, b"written");
    run(view.setattr(
        &CALLER,
        ino,
        &crate::view::SetAttr {
            size: Some(100),
            fh: Some(writer.fh),
            ..Default::default()
        },
    ))
    .unwrap();
    assert_eq!((reading.metadata().unwrap().len(), size(&view, ino)), (100, 100));
    view.release(ino, writer.fh);
    view.release(ino, reader.fh);
}

#[test]
fn readers_are_left_behind_where_their_file_cannot_be_written() {
    let (world, ino) = world();
    let view = world.view();
    world.source.keeps_files.store(true, Ordering::Relaxed);
    let reader = open(&view, ino, READ);
    let reading = reader.offer.as_ref().expect("complete and clean").open();
    let refused = run(view.open(&CALLER, ino, WRITE)).unwrap_err();
    assert!(matches!(refused, ViewError::LeftBehind { .. }));
    // What the kernel does then: it asks twice for the name, and forgets the first answer.
    let first = known(&view, "f").ino;
    view.forget(first, 1);
    let now = known(&view, "f");
    assert!(now.ino != ino && now.attr.ino != 0);
    let other = open(&view, now.ino, READ);
    assert!(other.offer.is_none(), "or the writer would be refused again");
    let writer = open(&view, now.ino, WRITE);
    run(view.write(now.ino, writer.fh, 0, b"written", false)).unwrap();
    assert_eq!(run(view.read(now.ino, other.fh, 0, 7)).unwrap(), &b"written"[..]);
    let mut seen = vec![0; LARGE];
    reading.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == bytes());
    for (ino, fh) in [(now.ino, writer.fh), (now.ino, other.fh), (ino, reader.fh)] {
        view.release(ino, fh);
    }
}

/// What goes to the kernel with an opening: `Some` of the bytes.
fn given(view: &View, ino: Ino, open: &OpenFile) -> Option<Vec<u8>> {
    let mut given = None;
    view.give_small(ino, open.fh, |bytes| given = Some(bytes.to_vec()));
    given
}

#[test]
fn a_small_file_is_given_once_to_its_only_reader() {
    let world = World::new(|fs: &mut Fs| {
        fs.make(ROOT, b"f", Body::File(b"small".to_vec()), 0o644).unwrap();
        fs.make(ROOT, b"g", Body::File(b"other".to_vec()), 0o644).unwrap();
        fs.make(ROOT, b"empty", Body::File(Vec::new()), 0o644).unwrap();
        fs.make(ROOT, b"large", Body::File(bytes()), 0o644).unwrap();
    });
    let view = world.view();
    let open = |ino, flags| run(view.open(&CALLER, ino, flags)).unwrap();
    let [f, g] = ["f", "g"].map(|name| known(&view, name).ino);
    for name in ["empty", "large"] {
        let ino = known(&view, name).ino;
        world.read_all(ino);
        let opened = open(ino, READ);
        assert_eq!(given(&view, ino, &opened), None, "{name}");
        view.release(ino, opened.fh);
    }

    let first = open(f, READ);
    let second = open(f, READ);
    assert_eq!(
        given(&view, f, &first),
        None,
        "who has it open too may be reading"
    );
    view.release(f, second.fh);
    assert_eq!(given(&view, f, &first), Some(b"small".to_vec()));
    assert_eq!(given(&view, f, &first), None, "the kernel has them");
    view.release(f, first.fh);
    let again = open(f, READ);
    assert_eq!(given(&view, f, &again), None, "also at the next opening");
    view.release(f, again.fh);

    let writer = open(g, WRITE);
    assert_eq!(given(&view, g, &writer), None, "its pages are about to change");
    let reader = open(g, READ);
    assert_eq!(given(&view, g, &reader), None);
    run(view.write(g, writer.fh, 0, b"o", false)).unwrap();
    view.release(g, writer.fh);
    assert_eq!(given(&view, g, &reader), None, "a local file");
    view.release(g, reader.fh);
}
