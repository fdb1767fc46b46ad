//! What programs ask of a local filesystem: holes, and who owns what.

use std::sync::atomic::Ordering;

use super::harness::{CALLER, World, errno, run};
use super::model::{Body, ROOT};
use crate::view::{Allocate, Caller, Ino, OpenFlags, ROOT_INO, Seek, SetAttr, ShownOwner, View, ViewOptions};

const RW: OpenFlags = OpenFlags::READ_WRITE;

fn with_file(data: Vec<u8>) -> (World, std::sync::Arc<View>, Ino) {
    let world = World::new(|fs| {
        fs.make(ROOT, b"f", Body::File(data), 0o4640).unwrap();
    });
    let view = world.view();
    let ino = run(view.lookup(&CALLER, ROOT_INO, b"f")).unwrap().unwrap().ino;
    (world, view, ino)
}

/// All data of a file, as a program finds it by seeking.
fn data_runs(view: &View, ino: Ino, fh: u64) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = run(view.lseek(ino, fh, at, Seek::Data)) {
        at = run(view.lseek(ino, fh, start, Seek::Hole)).unwrap();
        assert!(at > start);
        runs.push((start, at));
    }
    runs
}

#[test]
fn a_block_of_zeros_is_a_hole_in_clean_bytes_of_every_size() {
    for size in [3 << 20, 20 << 20] {
        let mut data = vec![0u8; size];
        let block = |n: u64| (n * 4096, n * 4096 + 4096);
        for n in [0, 3, 300] {
            data[n * 4096 + 4095] = 1;
        }
        data[4 * 4096] = 1;
        let (_world, view, ino) = with_file(data);
        let open = run(view.open(&CALLER, ino, RW)).unwrap();
        let runs = data_runs(&view, ino, open.fh);
        assert_eq!(runs, [block(0), (3 * 4096, 5 * 4096), block(300)]);
        // In the middle of a block too.
        let seek = |at, what| run(view.lseek(ino, open.fh, at, what)).unwrap();
        assert_eq!(seek(100, Seek::Data), 100);
        assert_eq!(seek(100, Seek::Hole), 4096);
        assert_eq!(seek(5000, Seek::Hole), 5000);
    }
}

#[test]
fn a_seek_reads_only_so_much_and_takes_the_rest_for_data() {
    let mut data = vec![1u8; 72 << 20];
    // Behind what is looked at: a small hole, and a chunk that is one.
    data[20 << 20..21 << 20].fill(0);
    data[64 << 20..].fill(0);
    let (world, view, ino) = with_file(data);
    let open = run(view.open(&CALLER, ino, RW)).unwrap();
    let before = world.source.reads.load(Ordering::Relaxed);
    assert_eq!(run(view.lseek(ino, open.fh, 0, Seek::Hole)).unwrap(), 64 << 20);
    assert!(world.source.reads.load(Ordering::Relaxed) - before <= 16 << 20);
    assert_eq!(
        run(view.lseek(ino, open.fh, 17 << 20, Seek::Hole)).unwrap(),
        20 << 20
    );
}

#[test]
fn a_seek_needs_no_store() {
    let mut data = vec![0u8; 20 << 20];
    data[10 << 20] = 1;
    let (world, view, ino) = with_file(data);
    let open = run(view.open(&CALLER, ino, RW)).unwrap();
    world.source.offline.store(true, Ordering::Relaxed);
    // The first chunk is known to be a hole, the second is data as far as anybody can tell.
    assert_eq!(run(view.lseek(ino, open.fh, 0, Seek::Data)).unwrap(), 8 << 20);
    assert_eq!(
        run(view.lseek(ino, open.fh, 8 << 20, Seek::Hole)).unwrap(),
        16 << 20
    );
}

#[test]
fn seeking_where_a_file_is_partly_local() {
    let mut data = vec![1u8; 20 << 20];
    data[4 << 20..5 << 20].fill(0);
    let (_world, view, ino) = with_file(data);
    let open = run(view.open(&CALLER, ino, RW)).unwrap();
    let punch = Allocate::PunchHole;
    run(view.fallocate(ino, open.fh, (2 << 20) + 4096, 8192, punch)).unwrap();
    let set = SetAttr {
        size: Some(6 << 20),
        fh: Some(open.fh),
        ..SetAttr::default()
    };
    run(view.setattr(&CALLER, ino, &set)).unwrap();
    let longer = SetAttr {
        size: Some(9 << 20),
        ..set
    };
    run(view.setattr(&CALLER, ino, &longer)).unwrap();
    let mib = |n: u64| n << 20;
    assert_eq!(
        data_runs(&view, ino, open.fh),
        [(0, mib(2) + 4096), (mib(2) + 3 * 4096, mib(4)), (mib(5), mib(6))]
    );
    assert_eq!(
        errno(run(view.lseek(ino, open.fh, mib(9), Seek::Data))),
        Err(libc::ENXIO)
    );
}

#[test]
fn a_shown_owner_changes_what_is_seen_and_nothing_that_is_stored() {
    let (world, _, _) = with_file(b"x".to_vec());
    let parts = crate::view::ViewParts {
        source: world.source.clone(),
        room: None,
        clock: world.clock.clone(),
    };
    let options = ViewOptions {
        read_only: false,
        first_file_id: 1 << 50,
        quota_bytes: 0,
        shown_owner: ShownOwner {
            uid: Some(1000),
            gid: Some(100),
        },
    };
    let overlay = world.overlay.clone().unwrap();
    let view = View::new(options, overlay.clone(), world.base.clone(), parts);
    let owner = |ino| {
        let attr = run(view.getattr(&CALLER, ino, None)).unwrap();
        (attr.uid, attr.gid)
    };
    let f = run(view.lookup(&CALLER, ROOT_INO, b"f")).unwrap().unwrap();
    assert_eq!((f.attr.uid, f.attr.gid), (1000, 100));
    assert_eq!(owner(ROOT_INO), (1000, 100));
    let root = Caller {
        uid: 0,
        gid: 0,
        ..CALLER
    };
    let chown = |uid, gid| {
        let set = SetAttr {
            uid,
            gid,
            ..SetAttr::default()
        };
        run(view.setattr(&root, f.ino, &set)).unwrap()
    };
    // To whom it belongs already: nothing becomes dirty, but for the setuid bit that every chown takes.
    let clear = SetAttr {
        mode: Some(0o640),
        ..SetAttr::default()
    };
    run(view.setattr(&root, f.ino, &clear)).unwrap();
    let journal = || {
        let state = overlay.read();
        state
            .nodes
            .values()
            .map(|node| node.attrs.clone())
            .collect::<Vec<_>>()
    };
    let before = journal();
    chown(Some(1000), Some(100));
    assert_eq!(journal(), before);
    // To somebody else: stored, not shown.
    let attr = chown(Some(7), Some(8));
    assert_eq!((attr.uid, attr.gid), (1000, 100));
    assert!(journal().iter().any(|attrs| (attrs.uid, attrs.gid) == (7, 8)));
    // Made here: stored as the maker's.
    let maker = Caller {
        uid: 1000,
        gid: 5,
        ..CALLER
    };
    let d = run(view.mkdir(&maker, ROOT_INO, b"d", 0o755)).unwrap();
    assert_eq!((d.attr.uid, d.attr.gid), (1000, 100));
    assert!(journal().iter().any(|attrs| (attrs.uid, attrs.gid) == (1000, 5)));
}
