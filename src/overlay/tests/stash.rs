//! Reload, stash and restore.

use std::fs;
use std::time::Duration;

use super::crash::bytes_of;
use super::program::{attrs, base_ref};
use super::store::{begin, create_file, kill, options, read_file, reopen, write_file};
use crate::model::Timestamp;
use crate::overlay::*;

const NOW: Timestamp = Timestamp {
    secs: 1_700_000_000,
    nanos: 0,
};

fn fresh(overlay: &Overlay, seq: u64) -> OverlayState {
    OverlayState::succeeding(&overlay.read(), base_ref(seq), attrs(1, 0))
}

fn body_of(overlay: &Overlay, id: NodeId) -> BodyId {
    overlay.read().nodes[&id].body.as_file().unwrap().body.unwrap()
}

#[test]
fn a_reload_keeps_local_work_in_a_stash_and_a_restore_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    write_file(&overlay, id, b"mine");
    let mine = bytes_of(&overlay.read());
    let stashed = overlay.stash_current(fresh(&overlay, 2), &[], NOW).unwrap();
    let stash = stashed.stash.unwrap();
    assert_eq!(
        (stash.files, stash.bytes, stash.base.seq, stash.made),
        (1, 4, 1, NOW)
    );
    assert!(overlay.read().is_clean() && overlay.number() != stash.id);
    overlay.maintain().unwrap();
    kill(overlay);

    let overlay = reopen(options(dir.path())).overlay;
    assert_eq!(overlay.read().base.seq, 2);
    assert_eq!(overlay.stashes(), vec![stash.clone()]);
    let state = overlay.open_stash(stash.id).unwrap();
    assert!(bytes_of(&state) == mine);
    overlay
        .replace(
            OverlayState {
                base: base_ref(2),
                ..state
            },
            Some(stash.id),
        )
        .unwrap();
    overlay.maintain().unwrap();
    assert_eq!(read_file(&overlay, id), b"mine");
    assert!(overlay.stashes().is_empty());
    assert!(matches!(
        overlay.open_stash(stash.id),
        Err(OverlayError::NoStash(_))
    ));
    kill(overlay);
    let overlay = reopen(options(dir.path())).overlay;
    assert_eq!(read_file(&overlay, id), b"mine");
}

#[test]
fn open_files_stay_and_are_not_in_the_stash() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let a = create_file(&overlay, "a");
    write_file(&overlay, a, b"closed");
    let b = create_file(&overlay, "b");
    let open = write_file(&overlay, b, b"open");
    let mut state = fresh(&overlay, 2);
    let place = Place {
        parent: ROOT_NODE,
        name: super::program::name("b"),
        base: None,
    };
    let attrs = attrs(9, 1);
    let time = attrs.mtime;
    let id = state.next_node;
    state
        .apply(&Op::Create {
            id,
            place,
            attrs,
            body: NewBody::File(None),
            time,
        })
        .unwrap();
    let body = open.id();
    state
        .apply(&Op::GiveBody {
            id,
            body,
            present: None,
            base_valid: 0,
            dirty: true,
        })
        .unwrap();
    let stash = overlay.stash_current(state, &[b], NOW).unwrap().stash.unwrap();
    overlay.maintain().unwrap();
    open.write_at(b"written", 0).unwrap();
    assert_eq!(read_file(&overlay, id), b"written");
    let stashed = overlay.open_stash(stash.id).unwrap();
    assert!(stashed.change(ROOT_NODE, b"a").is_some() && stashed.change(ROOT_NODE, b"b").is_none());
    // J12
    assert!(stashed.bodies().is_disjoint(&overlay.read().bodies()));
    // Nothing but the open file was dirty: no stash.
    let again = overlay.read().clone();
    let kept = overlay.stash_current(again, &[id], NOW).unwrap();
    assert!(kept.stash.is_none());
    let closed = overlay.body(*stashed.bodies().iter().next().unwrap()).unwrap();
    let path = closed.path().to_owned();
    drop(closed);
    assert!(path.exists());
    overlay.drop_stash(stash.id).unwrap();
    overlay.maintain().unwrap();
    assert!(!path.exists());
    kill(overlay);
    let opened = reopen(options(dir.path()));
    assert_eq!(read_file(&opened.overlay, id), b"written");
}

#[test]
fn stashes_are_bounded_by_age_and_size_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let bounded = OverlayOptions {
        stash_age_max: Duration::from_secs(100),
        stash_bytes_max: 250 << 10,
        ..options(dir.path())
    };
    let Found::Empty(empty) = Overlay::open(bounded).unwrap() else {
        panic!("not empty")
    };
    let overlay = empty.begin(base_ref(1), attrs(1, 0)).unwrap();
    let stash = |secs: i64, kib: usize| {
        let id = create_file(&overlay, "a");
        write_file(&overlay, id, &vec![1; kib << 10]);
        let now = Timestamp { secs, nanos: 0 };
        let stashed = overlay.stash_current(fresh(&overlay, 2), &[], now).unwrap();
        (
            stashed.stash.unwrap().id,
            stashed.dropped.iter().map(|gone| gone.id).collect::<Vec<_>>(),
        )
    };
    let (first, gone) = stash(1000, 100);
    assert!(gone.is_empty());
    let (second, gone) = stash(1050, 100);
    assert!(gone.is_empty());
    // The first is too old, the second still counts.
    let (third, gone) = stash(1101, 100);
    assert_eq!(gone, [first]);
    // Too large together: all but the newest go.
    let (fourth, gone) = stash(1102, 900);
    assert_eq!(gone, [second, third]);
    assert_eq!(
        overlay.stashes().iter().map(|stash| stash.id).collect::<Vec<_>>(),
        [fourth]
    );
    overlay.maintain().unwrap();
    assert_eq!(
        fs::read_dir(overlay.dir())
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().as_encoded_bytes().starts_with(b"overlay-"))
            .count(),
        2
    );
}

#[test]
fn a_replaced_overlay_frees_what_the_new_one_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let a = create_file(&overlay, "a");
    let (gone, path) = {
        let body = write_file(&overlay, a, b"a");
        (body.id(), body.path().to_owned())
    };
    overlay.replace(fresh(&overlay, 2), None).unwrap();
    overlay.maintain().unwrap();
    assert!(!path.exists());
    // Numbers go on.
    let b = create_file(&overlay, "b");
    let body = write_file(&overlay, b, b"b");
    assert!(b > a && body.id() > gone);
    assert_eq!(body_of(&overlay, b), body.id());
}

#[test]
fn no_exchange_while_a_commit_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    create_file(&overlay, "a");
    overlay.apply(&Op::Freeze { commit: 1 }).unwrap();
    let state = OverlayState::new(base_ref(2), attrs(1, 0));
    assert!(overlay.stash_current(state.clone(), &[], NOW).is_err());
    assert!(overlay.replace(state, None).is_err());
    assert!(overlay.read().change(ROOT_NODE, b"a").is_some());
}

#[test]
fn published_bodies_are_handed_out_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let (a, b) = (create_file(&overlay, "a"), create_file(&overlay, "b"));
    let (a_body, b_body) = (write_file(&overlay, a, b"aaa"), write_file(&overlay, b, b"bbb"));
    overlay.sync_bodies(&[a_body.clone(), b_body.clone()]).unwrap();
    let b_path = b_body.path().to_owned();
    drop((a_body, b_body));
    overlay.apply(&Op::Freeze { commit: 1 }).unwrap();
    let text = |id, text| {
        let (size, content) = super::program::content(text);
        (id, size, content)
    };
    let contents = vec![text(a, "aaa"), text(b, "bbb")];
    let freed = overlay
        .apply_freeing(&Op::Published {
            commit: 1,
            base: base_ref(2),
            contents,
        })
        .unwrap();
    assert_eq!(freed.len(), 2);
    let target = dir.path().join("cached");
    for body in freed {
        if body.node() == a {
            body.move_to(&target).unwrap();
        }
    }
    overlay.maintain().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"aaa");
    assert!(!b_path.exists());
    assert!(overlay.read().is_clean());
}
