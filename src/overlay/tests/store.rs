//! The state directory on a real filesystem.

use std::path::Path;
use std::sync::Arc;

use super::program::{attrs, base_ref, name};
use crate::model::VolumeId;
use crate::overlay::*;

pub fn options(dir: &Path) -> OverlayOptions {
    OverlayOptions {
        bodies_ahead: 4,
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
    // Dropped without close: what the kernel has is what a killed daemon leaves.
    drop(overlay);
    let opened = reopen(options(dir.path()));
    assert!(!opened.recovery.clean_stop && !opened.recovery.rebooted);
    assert_eq!(opened.recovery.ops, 2);
    assert_eq!(read_file(&opened.overlay, id), b"hello");
    assert!(opened.overlay.read().change(ROOT_NODE, b"a").is_some());
}
