//! What a process has in its hands when a commit is published goes on.

use super::cases::{dir, file, known};
use super::harness::{CALLER, World, run};
use super::model::{Body, ROOT};
use crate::view::{OpenFlags, ROOT_INO, RenameMode};

const RW: OpenFlags = OpenFlags::READ_WRITE;

/// Seeds 10 and 19 of the campaign of kills.
#[test]
fn a_write_to_a_file_that_stayed_after_a_publish_is_in_the_next_commit() {
    let mut world = World::new(|_| ());
    let view = world.view();
    let (f, open) = run(view.create(&CALLER, ROOT_INO, b"f", 0o644, RW)).unwrap();
    run(view.write(f.ino, open.fh, 0, b"first", false)).unwrap();
    view.release(f.ino, open.fh);
    world
        .fs
        .make(ROOT, b"f", Body::File(b"first".to_vec()), 0o644)
        .unwrap();
    world.freeze();
    // So the node stays in the overlay, with a body that is clean from then on.
    run(view.rename(&CALLER, (ROOT_INO, b"f"), (ROOT_INO, b"g"), RenameMode::Replace)).unwrap();
    world.publish();
    let open = run(view.open(&CALLER, f.ino, RW)).unwrap();
    run(view.write(f.ino, open.fh, 5, b" second", false)).unwrap();
    view.release(f.ino, open.fh);
    let frozen = view.freeze().unwrap();
    let is_dirty = |node: &crate::overlay::OverlayNode| node.body.as_file().is_some_and(|file| file.dirty);
    assert!(frozen.state.nodes.values().any(|node| is_dirty(node)));
}

/// Seed 133 of the campaign of kills: the write went round and round, a new body each time.
#[test]
fn a_write_below_a_directory_that_left_the_overlay_at_a_publish_ends() {
    let mut world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        let b = dir(fs, a, "b");
        file(fs, b, "f", b"hello".to_vec());
    });
    let view = world.view();
    let a = known(&view, ROOT_INO, "a").ino;
    let b = known(&view, a, "b").ino;
    let f = known(&view, b, "f").ino;
    let (made, open) = run(view.create(&CALLER, a, b"new", 0o644, RW)).unwrap();
    view.release(made.ino, open.fh);
    let at = world.fs.lookup(ROOT, b"a").unwrap();
    world.fs.make(at, b"new", Body::File(Vec::new()), 0o644).unwrap();
    world.freeze();
    world.publish();
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    assert_eq!(run(view.write(f, open.fh, 5, b" world", false)).unwrap(), 6);
    assert_eq!(run(view.read(f, open.fh, 0, 100)).unwrap(), &b"hello world"[..]);
    view.release(f, open.fh);
}

/// Seed 7843 of the simulation: the kernel had dropped the directory that an open file had been moved to. After the commit its
/// path led to another inode, and what was written there was not seen by who had the file open.
#[test]
fn an_open_file_that_was_moved_is_the_same_after_a_publish_though_its_directory_was_forgotten() {
    let mut world = World::new(|fs| {
        let from = dir(fs, ROOT, "from");
        file(fs, from, "f", b"hello".to_vec());
        let to = dir(fs, ROOT, "to");
        dir(fs, to, "below");
    });
    let view = world.view();
    let from = known(&view, ROOT_INO, "from").ino;
    let f = known(&view, from, "f").ino;
    let open = run(view.open(&CALLER, f, RW)).unwrap();
    let to = known(&view, ROOT_INO, "to").ino;
    let below = known(&view, to, "below").ino;
    run(view.rename(&CALLER, (from, b"f"), (below, b"g"), RenameMode::Replace)).unwrap();
    view.forget(below, 1);
    view.forget(to, 1);
    let model_from = world.fs.lookup(ROOT, b"from").unwrap();
    let model_to = world.fs.lookup(ROOT, b"to").unwrap();
    let model_below = world.fs.lookup(model_to, b"below").unwrap();
    world
        .fs
        .rename((model_from, b"f"), (model_below, b"g"), RenameMode::Replace)
        .unwrap();
    world.freeze();
    world.publish();

    let to = known(&view, ROOT_INO, "to").ino;
    let below = known(&view, to, "below").ino;
    assert_eq!(known(&view, below, "g").ino, f);
    let writer = run(view.open(&CALLER, f, RW)).unwrap();
    run(view.write(f, writer.fh, 5, b" world", false)).unwrap();
    assert_eq!(run(view.read(f, open.fh, 0, 100)).unwrap(), &b"hello world"[..]);
    for fh in [open.fh, writer.fh] {
        view.release(f, fh);
    }
}
