//! Numbers of inodes: what they mean through commits and reloads, and what is shown of them.

use super::cases::{dir, file, known};
use super::harness::{CALLER, World, errno, run};
use super::model::ROOT;
use crate::model::FileId;
use crate::view::OpenFlags;
use crate::view::{ROOT_INO, View};
use std::collections::{BTreeMap, HashSet};

const RW: OpenFlags = OpenFlags::READ_WRITE;
const RO: OpenFlags = OpenFlags::READ;

#[test]
fn reload_keeps_directories_and_gives_changed_files_new_numbers() {
    let mut world = World::new(|fs| {
        let a = dir(fs, ROOT, "a");
        file(fs, a, "same", b"same".to_vec());
        file(fs, a, "changed", b"before".to_vec());
        file(fs, a, "removed", b"removed".to_vec());
        dir(fs, ROOT, "gone");
    });
    let view = world.view();
    let a = known(&view, ROOT_INO, "a").ino;
    let gone = known(&view, ROOT_INO, "gone").ino;
    let same = known(&view, a, "same");
    let changed = known(&view, a, "changed");
    let removed = known(&view, a, "removed").ino;
    let open = run(view.open(&CALLER, changed.ino, RO)).unwrap();
    let listing = run(view.opendir(&CALLER, a)).unwrap();
    assert!(!listing.keep_cache);
    assert!(run(view.opendir(&CALLER, a)).unwrap().keep_cache);
    run(view.mkdir(&CALLER, a, b"local", 0o755)).unwrap();
    let file_id = changed.attr.ino;
    world.reload(|fs| {
        let a = fs.walk(&[b"a"]).unwrap();
        let id = fs.walk(&[b"a", b"changed"]).unwrap();
        fs.write(id, 0, b"after!");
        fs.unlink(a, b"removed").unwrap();
        fs.rmdir(ROOT, b"gone").unwrap();
        file(fs, a, "new", b"new".to_vec());
    });
    // A working directory sees the new names; one that is gone behaves as removed.
    assert_eq!(run(view.getattr(&CALLER, a, None)).unwrap().nlink, 2);
    assert!(run(view.lookup(&CALLER, a, b"new")).unwrap().is_some());
    assert!(run(view.lookup(&CALLER, a, b"local")).unwrap().is_none());
    assert!(!run(view.opendir(&CALLER, a)).unwrap().keep_cache);
    assert_eq!(run(view.getattr(&CALLER, gone, None)).unwrap().nlink, 0);
    assert_eq!(
        errno(run(view.mkdir(&CALLER, gone, b"x", 0o755))).unwrap_err(),
        libc::ENOENT
    );
    // The listing that was open is the old one.
    let names: Vec<_> = run(view.readdir(a, listing.fh, 2, 4096)).unwrap();
    assert_eq!(
        names.iter().map(|line| &*line.name).collect::<Vec<_>>(),
        [&b"changed"[..], b"removed", b"same"]
    );
    // Same content: same number. Changed while somebody has it open: another, also for stat.
    assert_eq!(known(&view, a, "same").ino, same.ino);
    let now = known(&view, a, "changed");
    assert_ne!(now.ino, changed.ino);
    assert!(now.settled);
    assert_ne!(now.attr.ino, file_id);
    assert!(now.attr.ino < FileId::SHOWN_END);
    assert_eq!(
        run(view.read(changed.ino, open.fh, 0, 100)).unwrap(),
        &b"before"[..]
    );
    assert_eq!(world.read_all(now.ino), b"after!");
    assert_eq!(run(view.getattr(&CALLER, removed, None)).unwrap().nlink, 0);
    assert_eq!(run(view.getattr(&CALLER, changed.ino, None)).unwrap().nlink, 0);
    // Writing to what is no longer there finds the new file by its path.
    assert_eq!(
        errno(run(view.open(&CALLER, changed.ino, RW))).unwrap_err(),
        libc::ESTALE
    );
    view.release(changed.ino, open.fh);
    view.releasedir(a, listing.fh);
}

#[test]
fn a_file_that_nobody_has_open_goes_on_under_its_number_with_other_bytes() {
    let mut world = World::new(|fs| {
        file(fs, ROOT, "f", b"before".to_vec());
        file(fs, ROOT, "replaced", b"before".to_vec());
    });
    let view = world.view();
    let before = known(&view, ROOT_INO, "f");
    let replaced = known(&view, ROOT_INO, "replaced");
    let open = |ino| run(view.open(&CALLER, ino, RO)).unwrap();
    let first = open(before.ino);
    assert!(first.keep_cache);
    view.release(before.ino, first.fh);
    world.reload(|fs| {
        let id = fs.walk(&[b"f"]).unwrap();
        fs.write(id, 0, b"after and longer");
        fs.unlink(ROOT, b"replaced").unwrap();
        file(fs, ROOT, "replaced", b"by another".to_vec());
    });
    // What the kernel kept of the former bytes is forgotten with each opening until one of them was closed.
    let (one, two) = (open(before.ino), open(before.ino));
    assert!(!one.keep_cache && !two.keep_cache);
    assert_eq!(
        run(view.read(before.ino, one.fh, 0, 100)).unwrap(),
        &b"after and longer"[..]
    );
    view.release(before.ino, one.fh);
    assert!(open(before.ino).keep_cache);
    let now = known(&view, ROOT_INO, "f");
    assert_eq!(
        (now.ino, now.attr.ino, now.attr.size),
        (before.ino, before.attr.ino, 16)
    );
    // Another file under the same name: the name's node, the file's st_ino.
    let now = known(&view, ROOT_INO, "replaced");
    assert_eq!(now.ino, replaced.ino);
    assert!(now.attr.ino != replaced.attr.ino && !now.settled);
    assert_eq!(world.read_all(now.ino), b"by another");
}

#[test]
fn two_files_with_one_file_id_show_two_numbers() {
    let world = World::new(|fs| {
        for name in ["x", "y"] {
            let id = file(fs, ROOT, name, name.as_bytes().to_vec());
            fs.at_mut(id).file_id = FileId(4711);
        }
    });
    let view = world.view();
    let (x, y) = (known(&view, ROOT_INO, "x"), known(&view, ROOT_INO, "y"));
    assert_eq!((x.ino, x.attr.ino), (4711, 4711));
    assert_ne!(y.attr.ino, 4711);
    assert_eq!(y.ino, y.attr.ino);
    assert!(x.settled && y.settled);
    assert!(y.attr.ino < FileId::SHOWN_END);
}

/// What the root directory lists: names and numbers.
fn listed(view: &View) -> BTreeMap<String, u64> {
    let listing = run(view.opendir(&CALLER, ROOT_INO)).unwrap();
    let lines = run(view.readdir(ROOT_INO, listing.fh, 2, 1 << 16)).unwrap();
    view.releasedir(ROOT_INO, listing.fh);
    let name = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
    lines.iter().map(|line| (name(&line.name), line.ino)).collect()
}

/// The same, of all that was looked up, one after the other.
fn looked_up(view: &View) -> BTreeMap<String, u64> {
    let names = listed(view).into_keys();
    let found: BTreeMap<String, u64> = names
        .map(|name| {
            let ino = known(view, ROOT_INO, &name).attr.ino;
            (name, ino)
        })
        .collect();
    assert_eq!(listed(view), found);
    found
}

#[test]
fn stored_ids_of_every_size_are_shown_below_2_to_52_and_alike_in_every_mount() {
    let ids = [
        300,
        FileId::END - 1,
        FileId::END + 7,
        (1 << 52) + 300,
        (1 << 53) + 1,
        (1 << 62) - 1,
        (1 << 62) + 12345,
        u64::MAX,
        // Two that are shown as one number; ids of one file, as copies of a directory leave them; none at all.
        (1 << 52) | 700,
        701,
        5000,
        5000,
        2,
        255,
    ];
    let mut world = World::new(|fs| {
        for (at, id) in ids.into_iter().enumerate() {
            let file = file(fs, ROOT, &format!("f{at:02}"), vec![at as u8]);
            fs.at_mut(file).file_id = FileId(id);
        }
        // Two names of one file of a large id.
        let file = file(fs, ROOT, "link1", b"x".to_vec());
        fs.at_mut(file).file_id = FileId(1 << 60);
        fs.link(file, ROOT, b"link2").unwrap();
    });
    let view = world.view();
    let first = looked_up(&view);
    let shown: HashSet<u64> = first.values().copied().collect();
    assert_eq!(shown.len(), ids.len() + 1, "{first:?}");
    assert!(shown.iter().all(|ino| *ino < 1 << 52), "{first:?}");
    assert_eq!(first["link1"], first["link2"]);
    for (at, id) in ids.into_iter().enumerate().take(8) {
        assert_eq!(Some(first[&format!("f{at:02}")]), FileId(id).shown());
    }
    // A listing tells what a lookup will find.
    view.forget(known(&view, ROOT_INO, "f11").ino, 2);
    assert_eq!(listed(&view), first);
    assert_eq!(looked_up(&view), first);
    drop(view);
    // Another mount of the same record, and the same mount after a reload.
    let parts = crate::view::ViewParts {
        source: world.source.clone(),
        room: None,
        clock: world.clock.clone(),
    };
    let options = crate::view::ViewOptions {
        read_only: true,
        first_file_id: 0,
        quota_bytes: 0,
        shown_owner: Default::default(),
    };
    let second = View::read_only(options, world.base.clone(), world.base_ref(), parts);
    assert_eq!(looked_up(&second), first);
    world.reload(|_| ());
    assert_eq!(looked_up(&world.view()), first);
}
