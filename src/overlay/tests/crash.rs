//! Crashes: at every byte of a journal, and power cuts that drop or reorder what was not synced.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::program::{Program, Rng, attrs, base_ref, content, name, random_tree};
use super::store::{begin, create_file, kill, options, read_file, reopen, write_file};
use crate::overlay::frame::{Header, Tail};
use crate::overlay::unsynced::Unsynced;
use crate::overlay::*;

/// The canonical bytes of a state: equal bytes, equal states.
pub fn bytes_of(state: &OverlayState) -> Vec<u8> {
    let mut tail = Tail::of_header(0, 0);
    let mut bytes = Vec::new();
    snapshot::write::<OverlayError>(state, &Unsynced::default(), 0, &mut tail, &mut |batch| {
        bytes.extend_from_slice(batch);
        Ok(())
    })
    .unwrap();
    bytes
}

/// A journal of ops in memory; gives its bytes, and where each op ends with the state after it.
pub fn journal_of(start: &OverlayState, ops: &[Op]) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
    let header = Header {
        version: crate::overlay::frame::JOURNAL_VERSION,
        volume: crate::model::VolumeId([9; 16]),
        overlay: 1,
        boot: [1; 16],
        mount_name: "data".into(),
    };
    let (mut bytes, crc) = header.encode();
    let mut tail = Tail::of_header(bytes.len(), crc);
    snapshot::write::<OverlayError>(start, &Unsynced::default(), 0, &mut tail, &mut |batch| {
        bytes.extend_from_slice(batch);
        Ok(())
    })
    .unwrap();
    let mut state = start.clone();
    let mut ends = vec![(bytes.len(), bytes_of(&state))];
    for op in ops {
        let mut w = crate::format::Writer::new();
        codec::encode_op(&mut w, op).unwrap();
        tail.frame(&mut bytes, w.as_slice());
        state.apply(op).unwrap();
        ends.push((bytes.len(), bytes_of(&state)));
    }
    (bytes, ends)
}

pub fn program_with_commits(seed: u64, steps: usize) -> (OverlayState, Program) {
    let mut program = Program::new(seed, random_tree(seed + 4_000_000));
    let start = program.state.clone();
    for _ in 0..3 {
        for _ in 0..steps {
            program.step();
        }
        let (frozen, files) = program.freeze();
        for _ in 0..steps {
            program.step();
        }
        if program.rng.below(4) == 0 {
            let commit = program.state.last_commit;
            program.apply(Op::Unfrozen { commit });
        } else {
            program.publish(&frozen, &files);
        }
    }
    (start, program)
}

#[test]
fn j1_every_prefix_of_a_journal_is_a_state_that_was_and_has_all_completed_ops() {
    let (start, program) = program_with_commits(5, 4);
    let (bytes, ends) = journal_of(&start, &program.ops);
    let mut at = 0;
    for cut in ends[0].0..=bytes.len() {
        while at + 1 < ends.len() && ends[at + 1].0 <= cut {
            at += 1;
        }
        let replayed = replay(&bytes[..cut]).unwrap();
        assert_eq!(replayed.ops, at as u64, "cut at {cut}");
        assert_eq!(replayed.cut_bytes, (cut - ends[at].0) as u64);
        assert!(bytes_of(&replayed.state) == ends[at].1, "cut at {cut}");
    }
    for cut in 0..ends[0].0 {
        assert!(
            matches!(replay(&bytes[..cut]), Err(ReplayError::NoState { .. })),
            "cut at {cut}"
        );
    }
}

#[test]
fn j2_replay_gives_the_state_that_was_and_so_does_its_snapshot() {
    for seed in 0..60 {
        let (start, mut program) = program_with_commits(seed + 100, 8);
        if seed % 2 == 0 {
            program.freeze();
            program.step();
        }
        let (bytes, _) = journal_of(&start, &program.ops);
        let replayed = replay(&bytes).unwrap();
        assert!(
            bytes_of(&replayed.state) == bytes_of(&program.state),
            "seed {seed}"
        );
        let (bytes, _) = journal_of(&program.state, &[]);
        let again = replay(&bytes).unwrap().state;
        assert!(bytes_of(&again) == bytes_of(&program.state), "seed {seed}");
        assert_eq!(again.origin_refs, program.state.origin_refs, "seed {seed}");
        assert_eq!(again.links, program.state.links, "seed {seed}");
    }
}

#[test]
fn a_changed_byte_never_gives_a_state_that_was_not() {
    let (start, program) = program_with_commits(6, 3);
    let (bytes, ends) = journal_of(&start, &program.ops);
    let states: Vec<&Vec<u8>> = ends.iter().map(|(_, state)| state).collect();
    let mut rng = Rng(1);
    for _ in 0..600 {
        let mut bad = bytes.clone();
        let at = rng.below(bytes.len() as u64) as usize;
        bad[at] ^= 1 << rng.below(8);
        if let Ok(replayed) = replay(&bad) {
            assert!(states.contains(&&bytes_of(&replayed.state)), "byte {at}");
        }
    }
}

#[test]
fn replay_takes_any_bytes() {
    let (start, program) = program_with_commits(7, 3);
    let (bytes, _) = journal_of(&start, &program.ops);
    let mut rng = Rng(2);
    for _ in 0..300 {
        // Payloads that are wrong under right checksums: what only a fuzzer or a bug makes.
        let (_, len, crc) = Header::decode(&bytes).ok().unwrap();
        let mut from = Tail::of_header(len, crc);
        let mut to = from;
        let mut out = bytes[..len].to_vec();
        while let Some(payload) = from.next(&bytes, 0) {
            let mut payload = payload.to_vec();
            if rng.below(40) == 0 {
                let at = rng.below(payload.len() as u64) as usize;
                payload[at] = rng.next() as u8;
            }
            if rng.below(100) == 0 {
                payload.truncate(1 + rng.below(payload.len() as u64) as usize);
            }
            to.frame(&mut out, &payload);
        }
        let _ = replay(&out);
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn journal_path(state: &Path, number: u64) -> PathBuf {
    state.join(format!("overlay-{number}/journal"))
}

#[test]
fn j3_damage_below_a_marker_is_said_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    create_file(&overlay, "a");
    let synced_from = fs::metadata(journal_path(&options(dir.path()).dir, 1))
        .unwrap()
        .len();
    create_file(&overlay, "b");
    overlay.sync().unwrap();
    create_file(&overlay, "c");
    kill(overlay);
    let path = journal_path(&options(dir.path()).dir, 1);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[synced_from as usize + 20] ^= 1;
    fs::write(&path, &bad).unwrap();
    let Err(e) = Overlay::open(options(dir.path())) else {
        panic!("damage was not seen")
    };
    assert!(
        matches!(&e, OverlayError::Damaged { offset, .. } if *offset == synced_from),
        "{e}"
    );
    assert!(e.to_string().contains("--salvage"), "{e}");
    assert_eq!(fs::read(&path).unwrap(), bad, "nothing may be cut");
    // The same behind the marker is an unfinished end.
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&path, &bad).unwrap();
    let opened = reopen(options(dir.path()));
    assert!(opened.recovery.cut_bytes > 0);
    let state = opened.overlay.read();
    assert!(state.change(ROOT_NODE, b"b").is_some() && state.change(ROOT_NODE, b"c").is_none());
}

/// What a power cut may leave: the journal up to any length from what was synced on, each body as of its last sync or as it
/// is now or anything between, new names there or not.
#[test]
fn j4_j6_what_was_synced_survives_a_power_cut_and_the_rest_is_void() {
    const FRAME: u64 = crate::model::FRAME_BYTES;
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let dir = tempfile::tempdir().unwrap();
        let overlay = begin(dir.path());
        let state_dir = options(dir.path()).dir;
        let old = (3 * FRAME, content_of_size(3 * FRAME));

        // Four files of the base: synced, written after its sync, never synced, and only opened.
        let mut ids = HashMap::new();
        for text in ["synced", "later", "never", "opened"] {
            let id = overlay.read().next_node;
            let origin = Origin::Entry {
                parent: ROOT_NODE,
                name: name(text),
            };
            let body = NewBody::File(Some(old.clone()));
            overlay
                .apply(&Op::Adopt {
                    id,
                    origin,
                    attrs: attrs(id, 1),
                    nlink: 1,
                    body,
                })
                .unwrap();
            let body = overlay.create_body().unwrap();
            body.set_len(3 * FRAME).unwrap();
            let present = Some(Arc::new(vec![0]));
            overlay
                .apply(&Op::GiveBody {
                    id,
                    body: body.id(),
                    present,
                    base_valid: 3 * FRAME,
                    dirty: false,
                })
                .unwrap();
            ids.insert(text, (id, body));
        }
        let put = |text: &str, frame: u64, byte: u8| {
            let (id, body) = &ids[text];
            overlay.apply(&Op::MarkDirty { id: *id }).unwrap();
            body.write_at(&vec![byte; FRAME as usize], frame * FRAME).unwrap();
            overlay
                .apply(&Op::Present {
                    id: *id,
                    body: body.id(),
                    frames: vec![(frame, 1)],
                })
                .unwrap();
        };
        put("synced", 0, 1);
        put("later", 0, 1);
        put("never", 0, 1);
        overlay
            .sync_bodies(&[ids["synced"].1.clone(), ids["later"].1.clone()])
            .unwrap();
        let floor = fs::metadata(journal_path(&state_dir, 1)).unwrap().len();
        let bodies_then: HashMap<&str, Vec<u8>> = ids
            .iter()
            .map(|(text, (_, body))| (*text, fs::read(body.path()).unwrap()))
            .collect();
        put("later", 1, 2);
        put("later", 0, 3);
        put("never", 1, 2);
        create_file(&overlay, "new");
        // The journal reached the disk, by somebody else's fsync say; the bodies may not have.
        if rng.below(2) == 0 {
            overlay.sync().unwrap();
        }
        let top = fs::metadata(journal_path(&state_dir, 1)).unwrap().len();
        kill(overlay);

        let cut = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), cut.path());
        let after = options(cut.path()).dir;
        // The marker that was written last (a frame of 53 bytes) is not synced itself.
        let least = floor.saturating_sub(53);
        let len = least + rng.below(top - least + 1);
        fs::OpenOptions::new()
            .write(true)
            .open(journal_path(&after, 1))
            .unwrap()
            .set_len(len)
            .unwrap();
        for (text, (_, body)) in &ids {
            let path = after.join(body.path().strip_prefix(&state_dir).unwrap());
            let was_synced = matches!(*text, "synced" | "later");
            match rng.below(4) {
                0 => fs::write(&path, &bodies_then[text]).unwrap(),
                1 if !was_synced => fs::write(&path, b"").unwrap(),
                2 if !was_synced => fs::remove_file(&path).unwrap(),
                3 if *text == "later" => {
                    // Zeros where the second frame was not written yet.
                    let mut bytes = bodies_then[text].clone();
                    bytes[FRAME as usize..2 * FRAME as usize].fill(0);
                    fs::write(&path, bytes).unwrap();
                }
                _ => {}
            }
        }
        let opened = reopen(OverlayOptions {
            boot: [2; 16],
            ..options(cut.path())
        });
        assert!(opened.recovery.rebooted, "seed {seed}");
        let state = opened.overlay.read();
        let file = |text: &str| state.nodes[&ids[text].0].body.as_file().unwrap().clone();
        let bytes = |text: &str| {
            let body = opened.overlay.body(file(text).body.unwrap()).unwrap();
            fs::read(body.path()).unwrap()
        };
        assert!(
            file("synced").is_present(0) && !file("synced").is_present(1),
            "seed {seed}"
        );
        assert_eq!(bytes("synced")[0], 1, "seed {seed}");
        // Its first frame was synced, so it counts whatever came later; the second does not.
        assert!(
            file("later").is_present(0) && !file("later").is_present(1),
            "seed {seed}"
        );
        assert!([1, 3].contains(&bytes("later")[0]), "seed {seed}");
        for text in ["never", "opened"] {
            let file = file(text);
            assert!(
                file.body.is_none() && !file.dirty,
                "seed {seed}: {text} goes back to the base"
            );
            assert!(file.base.unwrap().1.same(&old.1));
        }
        drop(state);
        // And so it stays.
        kill(opened.overlay);
        let again = reopen(OverlayOptions {
            boot: [3; 16],
            ..options(cut.path())
        });
        assert!(
            again.overlay.read().nodes[&ids["later"].0]
                .body
                .as_file()
                .unwrap()
                .is_present(0)
        );
        assert!(
            !again.overlay.read().nodes[&ids["later"].0]
                .body
                .as_file()
                .unwrap()
                .is_present(1)
        );
    }
}

fn content_of_size(size: u64) -> crate::model::Content {
    assert!(size < crate::model::ITEM_BYTES_MAX);
    crate::model::Content::Blob(crate::model::BlobRef {
        pack: crate::model::PackRef {
            epoch: 1,
            id: crate::model::Hash([3; 32]),
        },
        offset: 4,
        stored_len: 100,
        id: crate::model::Hash([4; 32]),
    })
}

#[test]
fn j5_a_body_that_is_shorter_than_the_state_believes_wins() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = overlay.read().next_node;
    let origin = Origin::Entry {
        parent: ROOT_NODE,
        name: name("f"),
    };
    let body = NewBody::File(Some((1 << 20, content_of_size(1 << 20))));
    overlay
        .apply(&Op::Adopt {
            id,
            origin,
            attrs: attrs(id, 1),
            nlink: 1,
            body,
        })
        .unwrap();
    let body = overlay.create_body().unwrap();
    body.set_len(1 << 20).unwrap();
    let give = Op::GiveBody {
        id,
        body: body.id(),
        present: Some(Arc::new(vec![0])),
        base_valid: 1 << 20,
        dirty: true,
    };
    overlay.apply(&give).unwrap();
    // Truncated, and killed before the op.
    body.set_len(5).unwrap();
    kill(overlay);
    let opened = reopen(options(dir.path()));
    let state = opened.overlay.read();
    assert_eq!(state.nodes[&id].body.as_file().unwrap().base_valid, 5);
    // The write stamped the body later than the last change of attributes.
    let stat = opened.overlay.body(body.id()).unwrap().stat().unwrap();
    assert_eq!(state.nodes[&id].attrs.mtime, stat.mtime);
}

#[test]
fn j7_a_clone_survives_a_power_cut_as_what_it_was_made_of_did() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    let first = write_file(&overlay, id, b"synced");
    overlay.sync_bodies(std::slice::from_ref(&first)).unwrap();
    let commit = 1;
    overlay.apply(&Op::Freeze { commit }).unwrap();
    let clone = overlay.clone_body(&first).unwrap();
    overlay
        .apply(&Op::GiveBody {
            id,
            body: clone.id(),
            present: None,
            base_valid: 0,
            dirty: true,
        })
        .unwrap();
    assert!(overlay.journal.lock().unsynced.is_empty());
    kill(overlay);
    let opened = reopen(OverlayOptions {
        boot: [2; 16],
        ..options(dir.path())
    });
    assert_eq!(opened.recovery.incomplete, Vec::<NodeId>::new());
    assert_eq!(read_file(&opened.overlay, id), b"synced");
    // J11: the frozen body is there too.
    assert!(opened.overlay.body(first.id()).is_ok());
    assert_eq!(opened.overlay.read().frozen.as_ref().unwrap().commit, commit);
}

#[test]
fn j8_a_body_goes_only_after_the_op_that_freed_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    overlay.bodies.stop();
    let id = create_file(&overlay, "a");
    let body = write_file(&overlay, id, b"x");
    overlay.sync_bodies(std::slice::from_ref(&body)).unwrap();
    let place = Place {
        parent: ROOT_NODE,
        name: name("a"),
        base: None,
    };
    overlay
        .apply(&Op::Remove {
            place,
            node: Some(id),
            time: attrs(1, 2).mtime,
        })
        .unwrap();
    overlay.apply(&Op::Forget { id }).unwrap();
    let synced = overlay.synced.load(std::sync::atomic::Ordering::Acquire);
    overlay.bodies.remove_doomed(synced).unwrap();
    let path = body.path().to_owned();
    assert!(path.exists(), "the removal is not on disk yet");
    overlay.reclaim().unwrap();
    assert!(path.exists(), "somebody may open it again by its name");
    drop(body);
    overlay.reclaim().unwrap();
    assert!(!path.exists());
}

#[test]
fn j9_bytes_that_replaced_others_by_rename_are_synced_with_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let old = create_file(&overlay, "a");
    let new = create_file(&overlay, "a.tmp");
    write_file(&overlay, new, b"new");
    let place = |text: &str| Place {
        parent: ROOT_NODE,
        name: name(text),
        base: None,
    };
    let time = attrs(1, 2).mtime;
    let rename = Op::Rename {
        node: new,
        from: place("a.tmp"),
        to: place("a"),
        replaced: Some(old),
        time,
    };
    overlay.apply(&rename).unwrap();
    assert!(!overlay.journal.lock().unsynced.is_empty());
    overlay.sync().unwrap();
    assert!(overlay.journal.lock().unsynced.is_empty());
}

#[test]
fn j10_a_compacted_journal_has_the_same_state_and_marks_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let a = create_file(&overlay, "a");
    let synced = write_file(&overlay, a, b"a");
    overlay.sync_bodies(std::slice::from_ref(&synced)).unwrap();
    let b = create_file(&overlay, "b");
    write_file(&overlay, b, b"b");
    let before = bytes_of(&overlay.read());
    let marks = overlay.journal.lock().unsynced.list();
    overlay.compact().unwrap();
    assert!(bytes_of(&overlay.read()) == before);
    let c = create_file(&overlay, "c");
    let body = write_file(&overlay, c, b"c");
    overlay.sync_bodies(std::slice::from_ref(&body)).unwrap();
    let after = bytes_of(&overlay.read());
    assert_eq!(overlay.journal.lock().unsynced.list(), marks);
    kill(overlay);
    let replayed = replay(&fs::read(journal_path(&options(dir.path()).dir, 1)).unwrap()).unwrap();
    assert!(bytes_of(&replayed.state) == after);
    assert_eq!(replayed.unsynced.list(), marks);
    assert_eq!(replayed.ops, 2, "only what came after the snapshot");
    assert_eq!(read_file(&reopen(options(dir.path())).overlay, c), b"c");
}

#[test]
fn ops_go_on_while_the_journal_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..300 {
                let id = create_file(&overlay, &format!("f{i}"));
                let body = write_file(&overlay, id, b"x");
                if i % 50 == 0 {
                    overlay.sync_bodies(&[body]).unwrap();
                }
            }
        });
        scope.spawn(|| (0..6).for_each(|_| overlay.compact().unwrap()));
    });
    let state = bytes_of(&overlay.read());
    let marks = overlay.journal.lock().unsynced.list();
    kill(overlay);
    let replayed = replay(&fs::read(journal_path(&options(dir.path()).dir, 1)).unwrap()).unwrap();
    assert!(bytes_of(&replayed.state) == state);
    assert_eq!(replayed.unsynced.list(), marks);
}

#[test]
fn a_crash_between_two_files_of_a_switch_leaves_the_old_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = begin(dir.path());
    let id = create_file(&overlay, "a");
    write_file(&overlay, id, b"x");
    kill(overlay);
    // A new overlay was written but the manifest does not name it.
    let state_dir = options(dir.path()).dir;
    copy_dir(&state_dir.join("overlay-1"), &state_dir.join("overlay-2"));
    fs::write(state_dir.join("CURRENT.new"), b"half").unwrap();
    let opened = reopen(options(dir.path()));
    assert_eq!((opened.overlay.number(), opened.recovery.ops), (1, 2));
    assert!(!state_dir.join("overlay-2").exists());
    assert_eq!(read_file(&opened.overlay, id), b"x");
}

#[test]
fn a_base_and_an_overlay_of_texts_come_back_through_the_journal() {
    let (size, text) = content("abc");
    let mut state = OverlayState::new(base_ref(4), attrs(1, 0));
    let origin = Origin::Entry {
        parent: ROOT_NODE,
        name: name("t"),
    };
    let body = NewBody::File(Some((size, text)));
    state
        .apply(&Op::Adopt {
            id: 2,
            origin,
            attrs: attrs(2, 3),
            nlink: 1,
            body,
        })
        .unwrap();
    let (bytes, _) = journal_of(&state, &[]);
    let back = replay(&bytes).unwrap().state;
    assert_eq!(back.base, base_ref(4));
    let (size, content) = back.nodes[&2].body.as_file().unwrap().base.clone().unwrap();
    assert_eq!(super::program::text_of(&(size, content)), "abc");
}
