//! The state directory on a real filesystem.

use std::path::Path;
use std::sync::Arc;

use super::program::{attrs, base_ref, name};
use crate::model::VolumeId;
use crate::overlay::*;

pub fn options(dir: &Path) -> OverlayOptions {
    OverlayOptions {
        bodies_ahead: 4,
        // Every second write finds its body closed.
        bodies_open: 1,
        handles_open: 1,
        boot: [1; 16],
        ..OverlayOptions::new(dir.join("state"), VolumeId([9; 16]), "data")
    }
}

pub fn begin(dir: &Path) -> Arc<Overlay> {
    match Overlay::open(options(dir)).unwrap() {
        Found::Empty(empty) => empty.begin(base_ref(1), attrs(1, 0)).unwrap(),
        Found::Overlay(_) => panic!("there is an overlay already"),
    }
}

pub fn reopen(options: OverlayOptions) -> Opened {
    match Overlay::open(options).unwrap() {
        Found::Overlay(opened) => opened,
        Found::Empty(_) => panic!("the overlay is gone"),
    }
}

/// The daemon dies: what the kernel has stays.
pub fn kill(overlay: Arc<Overlay>) {
    overlay.stop();
    assert_eq!(Arc::strong_count(&overlay), 1, "the lock must go");
}

pub fn create_file(overlay: &Overlay, text: &str) -> NodeId {
    let mut writer = overlay.write();
    let id = writer.next_node;
    let place = Place {
        parent: ROOT_NODE,
        name: name(text),
        base: None,
    };
    let attrs = attrs(id, 1);
    let time = attrs.mtime;
    writer
        .apply(&Op::Create {
            id,
            place,
            attrs,
            body: NewBody::File(None),
            time,
        })
        .unwrap();
    id
}

/// Writes to a new body of the file.
pub fn write_file(overlay: &Overlay, id: NodeId, bytes: &[u8]) -> Arc<Body> {
    let body = overlay.create_body().unwrap();
    overlay
        .apply(&Op::GiveBody {
            id,
            body: body.id(),
            present: None,
            base_valid: 0,
            dirty: true,
        })
        .unwrap();
    body.write_at(bytes, 0).unwrap();
    body
}

pub fn read_file(overlay: &Overlay, id: NodeId) -> Vec<u8> {
    let body = overlay.read().nodes[&id].body.as_file().unwrap().body.unwrap();
    let body = overlay.body(body).unwrap();
    let mut bytes = vec![0; body.len().unwrap() as usize];
    body.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_was_done_is_there_after_the_daemon_died() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    write_file(&overlay, id, b"hello");
    kill(overlay);
    let opened = reopen(options(dir.path()));
    assert!(!opened.recovery.clean_stop && !opened.recovery.rebooted);
    assert_eq!(opened.recovery.ops, 2);
    assert_eq!(read_file(&opened.overlay, id), b"hello");
    assert!(opened.overlay.read().change(ROOT_NODE, b"a").is_some());
}

#[test]
fn a_second_daemon_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let Err(e) = Overlay::open(options(dir.path())) else {
        panic!("opened twice")
    };
    assert!(
        matches!(&e, OverlayError::Busy { holder, .. } if holder.contains(&std::process::id().to_string())),
        "{e}"
    );
    kill(overlay);
    assert!(Overlay::open(options(dir.path())).is_ok());
}

#[test]
fn a_directory_that_others_can_change_or_that_is_a_link_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    kill(begin(dir.path()));
    let state = options(dir.path()).dir;
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(
        Overlay::open(options(dir.path())),
        Err(OverlayError::Refused { .. })
    ));
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
    let link = OverlayOptions {
        dir: dir.path().join("link"),
        ..options(dir.path())
    };
    symlink(&state, &link.dir).unwrap();
    assert!(matches!(Overlay::open(link), Err(OverlayError::Refused { .. })));
    let other = OverlayOptions {
        volume: VolumeId([8; 16]),
        ..options(dir.path())
    };
    assert!(matches!(Overlay::open(other), Err(OverlayError::Refused { .. })));
}

#[test]
fn a_clean_unmount_without_changes_leaves_a_small_directory() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    write_file(&overlay, id, b"x");
    let place = Place {
        parent: ROOT_NODE,
        name: name("a"),
        base: None,
    };
    let time = attrs(1, 0).mtime;
    overlay
        .apply(&Op::Remove {
            place,
            node: Some(id),
            time,
        })
        .unwrap();
    overlay.apply(&Op::Forget { id }).unwrap();
    overlay
        .apply(&Op::SetAttrs {
            id: ROOT_NODE,
            attrs: attrs(1, 0),
        })
        .unwrap();
    overlay.close().unwrap();
    assert!(overlay.apply(&Op::Forget { id }).is_err(), "closed");
    kill(overlay);
    let state = options(dir.path()).dir;
    let mut left: Vec<String> = walk(&state)
        .into_iter()
        // The reserve stays: the next start must go through on a full disk.
        .filter(|path| path.is_file() && !path.starts_with(state.join("reserve")))
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["CURRENT", "lock"]);
    // Numbers go on in the next one.
    let overlay = begin(dir.path());
    assert!(overlay.read().next_node > id && overlay.number() == 2);
    assert!(list_parked(dir.path(), VolumeId([9; 16])).is_empty());
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let below: Vec<_> = all
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|path| walk(path))
        .collect();
    all.extend(below);
    all
}

#[test]
fn a_dirty_unmount_keeps_everything_and_is_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let here = OverlayOptions {
        dir: root.join(VolumeId([9; 16]).to_string()),
        ..options(dir.path())
    };
    let Found::Empty(empty) = Overlay::open(here.clone()).unwrap() else {
        panic!("not empty")
    };
    let overlay = empty.begin(base_ref(1), attrs(1, 0)).unwrap();
    let id = create_file(&overlay, "a");
    write_file(&overlay, id, b"x");
    overlay.close().unwrap();
    kill(overlay);
    let parked = list_parked(dir.path(), VolumeId([9; 16]));
    assert_eq!(parked.len(), 1);
    assert!(parked[0].overlay && !parked[0].in_use && parked[0].mount_name == "data");
    // After a clean stop and a reboot nothing is void.
    let opened = reopen(OverlayOptions {
        boot: [2; 16],
        ..here
    });
    assert!(opened.recovery.clean_stop);
    assert_eq!(opened.recovery.incomplete, Vec::<NodeId>::new());
    assert_eq!(read_file(&opened.overlay, id), b"x");
    assert!(list_parked(dir.path(), VolumeId([9; 16]))[0].in_use);
}

#[test]
fn inodes_that_were_open_are_gone_after_a_crash_and_their_bodies_too() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    let body = write_file(&overlay, id, b"x");
    let place = Place {
        parent: ROOT_NODE,
        name: name("a"),
        base: None,
    };
    overlay
        .apply(&Op::Remove {
            place,
            node: Some(id),
            time: attrs(1, 5).mtime,
        })
        .unwrap();
    assert_eq!(read_file(&overlay, id), b"x");
    kill(overlay);
    let opened = reopen(options(dir.path()));
    assert!(!opened.overlay.read().nodes.contains_key(&id));
    opened.overlay.reclaim().unwrap();
    assert!(!body.path().exists());
}

#[test]
fn an_op_that_does_not_fit_changes_neither_state_nor_journal() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    create_file(&overlay, "a");
    let before = super::crash::bytes_of(&overlay.read());
    let len = overlay.journal.lock().bytes();
    assert!(matches!(
        overlay.apply(&Op::MarkDirty { id: 77 }),
        Err(OverlayError::Apply(_))
    ));
    assert!(super::crash::bytes_of(&overlay.read()) == before);
    assert_eq!(overlay.journal.lock().bytes(), len);
    create_file(&overlay, "b");
    kill(overlay);
    assert!(
        reopen(options(dir.path()))
            .overlay
            .read()
            .change(ROOT_NODE, b"b")
            .is_some()
    );
}

#[test]
fn kept_bytes_come_back_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let (a, b) = (crate::model::Hash([1; 32]), crate::model::Hash([2; 32]));
    overlay.put_base(&a, b"record").unwrap();
    overlay.put_base(&b, b"pack").unwrap();
    assert_eq!(overlay.get_base(&a).unwrap().unwrap(), &b"record"[..]);
    overlay.retain_bases(&[b].into()).unwrap();
    assert_eq!(overlay.get_base(&a).unwrap(), None);
    assert_eq!(overlay.get_base(&b).unwrap().unwrap(), &b"pack"[..]);
}

#[test]
fn a_damaged_directory_can_be_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "early");
    write_file(&overlay, id, b"early bytes");
    overlay.sync().unwrap();
    let damage_from = overlay.journal.lock().bytes() as usize;
    let id = create_file(&overlay, "late");
    write_file(&overlay, id, b"late bytes");
    overlay.sync().unwrap();
    kill(overlay);
    let state = options(dir.path()).dir;
    let journal = state.join("overlay-1/journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[damage_from + 20] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    assert!(matches!(
        Overlay::open(options(dir.path())),
        Err(OverlayError::Damaged { .. })
    ));
    let out = dir.path().join("out");
    let saved = salvage(&state, &out).unwrap();
    assert_eq!((saved.files, saved.unnamed, saved.failures.len()), (1, 1, 1));
    assert_eq!(
        std::fs::read(out.join("overlay-1/tree/early")).unwrap(),
        b"early bytes"
    );
    let unnamed = walk(&out.join("bodies"));
    assert_eq!(std::fs::read(&unnamed[0]).unwrap(), b"late bytes");
    assert!(
        std::fs::read_to_string(out.join("overlay-1/changes.txt"))
            .unwrap()
            .contains("new /early")
    );
}

/// A small filesystem of its own, unmounted at the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir(at).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str())) {
            Ok(()) => Some(SmallDisk(at.to_owned())),
            Err(e) => {
                eprintln!("skipped: a tmpfs cannot be mounted here ({e})");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn on_a_full_disk_what_makes_things_fails_cleanly_and_what_removes_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 6 << 20) else {
        return;
    };
    let overlay = begin(&disk.0);
    let mut made = Vec::new();
    for i in 0..8 {
        made.push(create_file(&overlay, &format!("f{i}")));
    }
    let big = overlay.create_body().unwrap();
    overlay
        .apply(&Op::GiveBody {
            id: made[0],
            body: big.id(),
            present: None,
            base_valid: 0,
            dirty: true,
        })
        .unwrap();
    let filler = vec![1; 64 << 10];
    let mut at = 0;
    while big.write_at(&filler, at).is_ok() {
        at += filler.len() as u64;
    }
    // Until nothing more can be made.
    let mut more = 0;
    let failed = loop {
        let mut writer = overlay.write();
        let id = writer.next_node;
        let place = Place {
            parent: ROOT_NODE,
            name: name(&format!("more{more}")),
            base: None,
        };
        let attrs = attrs(id, 1);
        let time = attrs.mtime;
        let len = overlay.journal.lock().bytes();
        match writer.apply(&Op::Create {
            id,
            place,
            attrs,
            body: NewBody::File(None),
            time,
        }) {
            Ok(()) => more += 1,
            Err(e) => {
                assert_eq!(overlay.journal.lock().bytes(), len);
                assert!(!writer.nodes.contains_key(&id));
                break e;
            }
        }
        assert!(more < 100_000, "the disk does not fill");
    };
    assert_eq!(
        failed.errno(),
        Some(rustix::io::Errno::NOSPC.raw_os_error()),
        "{failed}"
    );
    // Removing works, and gives room.
    let place = Place {
        parent: ROOT_NODE,
        name: name("f0"),
        base: None,
    };
    overlay
        .apply(&Op::Remove {
            place,
            node: Some(made[0]),
            time: attrs(1, 5).mtime,
        })
        .unwrap();
    overlay.apply(&Op::Forget { id: made[0] }).unwrap();
    drop(big);
    overlay.reclaim().unwrap();
    create_file(&overlay, "after");
    let state = super::crash::bytes_of(&overlay.read());
    kill(overlay);
    let opened = reopen(options(&disk.0));
    assert!(super::crash::bytes_of(&opened.overlay.read()) == state);
}

/// Prints what ops cost; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_an_op() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let count = 20_000;
    let start = std::time::Instant::now();
    let ids: Vec<NodeId> = (0..count)
        .map(|i| create_file(&overlay, &format!("file-{i}")))
        .collect();
    eprintln!("create: {:?}", start.elapsed() / count);
    let start = std::time::Instant::now();
    for id in &ids {
        let attrs = overlay.read().nodes[id].attrs.clone();
        overlay.apply(&Op::SetAttrs { id: *id, attrs }).unwrap();
    }
    eprintln!("set attributes: {:?}", start.elapsed() / count);
    let start = std::time::Instant::now();
    for id in &ids {
        write_file(&overlay, *id, b"x");
    }
    eprintln!("body, give, first write: {:?}", start.elapsed() / count);
    let start = std::time::Instant::now();
    overlay.apply(&Op::Freeze { commit: 1 }).unwrap();
    eprintln!("freeze of {count}: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    overlay.sync().unwrap();
    eprintln!("sync: {:?}", start.elapsed());
    let bytes = overlay.journal.lock().bytes();
    let start = std::time::Instant::now();
    overlay.compact().unwrap();
    eprintln!(
        "compaction: {:?}, {} to {} bytes",
        start.elapsed(),
        bytes,
        overlay.journal.lock().bytes()
    );
    kill(overlay);
    let start = std::time::Instant::now();
    let opened = reopen(options(dir.path()));
    eprintln!(
        "open: {:?} for {} nodes",
        start.elapsed(),
        opened.overlay.read().nodes.len()
    );
}

#[test]
fn a_body_that_somebody_deleted_does_not_empty_the_file_of_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = overlay.read().next_node;
    let origin = Origin::Entry {
        parent: ROOT_NODE,
        name: name("old"),
    };
    let body = NewBody::File(Some(super::program::content("base")));
    overlay
        .apply(&Op::Adopt {
            id,
            origin,
            attrs: attrs(id, 1),
            nlink: 1,
            body,
        })
        .unwrap();
    let gone = write_file(&overlay, id, b"changed");
    let new = create_file(&overlay, "new");
    let gone_too = write_file(&overlay, new, b"new");
    kill(overlay);
    std::fs::remove_file(gone.path()).unwrap();
    std::fs::remove_file(gone_too.path()).unwrap();
    let opened = reopen(options(dir.path()));
    assert_eq!(opened.recovery.missing, [id, new]);
    let file = opened.overlay.read().nodes[&id].body.as_file().unwrap().clone();
    assert!(file.body.is_none() && super::program::text_of(&file.base.unwrap()) == "base");
    assert_eq!(read_file(&opened.overlay, new), b"");
}
