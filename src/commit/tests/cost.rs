//! What commits cost, in requests and bytes.

use bytes::Bytes;

use super::mount::*;
use crate::commit::*;
use crate::model::*;
use crate::overlay::NodeId;
use crate::volume::testing::*;

fn count(calls: &[(Verb, String, u64)], verbs: &[Verb]) -> usize {
    calls.iter().filter(|(verb, ..)| verbs.contains(verb)).count()
}

fn bytes(calls: &[(Verb, String, u64)]) -> u64 {
    calls.iter().map(|(_, _, bytes)| bytes).sum()
}

const PUTS: [Verb; 2] = [Verb::Put, Verb::PutIfAbsent];

fn attrs(n: u64) -> Attrs {
    let at = Timestamp {
        secs: 1_700_000_000 + n as i64,
        nanos: n as u32,
    };
    Attrs {
        mode: 0o644,
        mtime: at,
        ctime: at,
        file_id: FileId(10_000 + n),
        ..Attrs::default()
    }
}

/// A volume of `dirs` directories of `files` files each, of `size` bytes.
async fn volume_of(store: &std::sync::Arc<ScriptedStore>, dirs: u64, files: u64, size: usize) -> Mount {
    let mount = Mount::new(new_volume(store, "v").await);
    store.take_calls();
    let mut edits = Vec::new();
    for n in 0..dirs * files {
        let mut body = vec![0u8; size];
        blake3::Hasher::new()
            .update(&n.to_le_bytes())
            .finalize_xof()
            .fill(&mut body);
        mount.bodies.files.lock().insert(n as NodeId, Bytes::from(body));
        edits.push(Edit::Put {
            path: path(&format!("/d{:04}/f{:06}", n / files, n % files)),
            node: n,
            attrs: attrs(n),
            parents: Some(Attrs {
                mode: 0o755,
                ..attrs(n)
            }),
        });
    }
    let frozen = Frozen::edits(&mount.head, edits);
    mount
        .commit_context()
        .run(frozen, mount.head.clone())
        .await
        .unwrap();
    Mount::new(reopen(store, "v").await)
}

#[tokio::test]
async fn in_a_large_volume_a_small_change_is_small() {
    let store = scripted();
    let mut mount = volume_of(&store, 100, 200, 40).await;
    store.take_calls();
    let fresh = Mount::new(reopen(&store, "v").await);
    assert!(store.take_calls().len() <= 3);
    drop(fresh);

    mount.write("/d0042/f000100", "changed").await;
    store.take_calls();
    mount.commit().await.unwrap();
    let calls = store.take_calls();
    println!(
        "one file in 20,000: {} PUTs, {} requests, {} bytes",
        count(&calls, &PUTS),
        calls.len(),
        bytes(&calls)
    );
    assert!(
        count(&calls, &PUTS) <= 2 && bytes(&calls) <= 200 << 10,
        "{calls:?}"
    );

    let mut huge = Mount::new(reopen(&store, "v").await);
    huge.mkdir("/all").await;
    for n in 0..100 {
        huge.rename(&format!("/d{n:04}"), &format!("/all/d{n:04}")).await;
    }
    huge.commit().await.unwrap();
    let mut mount = Mount::new(reopen(&store, "v").await);
    mount.rename("/all", "/everything").await;
    store.take_calls();
    mount.commit().await.unwrap();
    let calls = store.take_calls();
    println!(
        "rename of 20,000: {} PUTs, {} requests, {} bytes",
        count(&calls, &PUTS),
        calls.len(),
        bytes(&calls)
    );
    assert!(
        count(&calls, &PUTS) <= 2 && bytes(&calls) <= 200 << 10,
        "{calls:?}"
    );
    store.take_calls();
    mount.volume.refresh(&mount.head).await.unwrap();
    assert_eq!(store.take_calls().len(), 1);
}

async fn small_files(dirs: u64, files: u64, puts_max: usize) {
    let store = scripted();
    drop(volume_of(&store, dirs, files, 4096).await);
    let calls = store.take_calls();
    let puts = count(&calls, &PUTS);
    println!(
        "{} files of 4 KiB: {puts} PUTs, {} bytes",
        dirs * files,
        bytes(&calls)
    );
    assert!(puts <= puts_max, "{puts}");
}

#[tokio::test]
async fn small_files_share_packs() {
    // 20 MB of contents in two packs, the nodes, and the record.
    small_files(20, 250, 4).await;
}

/// `cargo test --lib -- --ignored hundred_thousand`.
#[tokio::test]
#[ignore = "takes 10 s and 1 GiB of memory"]
async fn a_hundred_thousand_files_cost_forty_puts() {
    small_files(100, 1000, 40).await;
}

#[tokio::test]
async fn only_chunks_that_dirty_frames_touch_are_read_and_sent() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    let size = 5 * (8 << 20) + 1000;
    let mut body = vec![0u8; size];
    blake3::Hasher::new().finalize_xof().fill(&mut body);
    mount.write("/big", body.clone()).await;
    mount.write("/copy", body.clone()).await;
    mount.write("/zeros", vec![0u8; 3 * (8 << 20)]).await;
    store.take_calls();
    mount.commit().await.unwrap();
    let calls = store.take_calls();
    let chunks = calls
        .iter()
        .filter(|(verb, key, _)| *verb == Verb::PutIfAbsent && key.contains("/d/"))
        .count();
    assert_eq!(chunks, 5, "equal chunks once, zeros never");
    // One byte in the third chunk, as the daemon's data path writes it: one frame is present.
    let at = 2 * (8 << 20) + (3 << 20) + 5;
    body[at] ^= 1;
    let id = mount.node(&path("/big")).await.unwrap();
    let body_id = mount.overlay.next_body;
    mount.apply(crate::overlay::Op::GiveBody {
        id,
        body: body_id,
        present: Some(std::sync::Arc::new(vec![0])),
        base_valid: size as u64,
        dirty: true,
    });
    mount.apply(crate::overlay::Op::Present {
        id,
        body: body_id,
        frames: vec![((at >> 20) as u64, 1)],
    });
    mount.bodies.files.lock().insert(id, Bytes::from(body));
    *mount.bodies.read.lock() = 0;
    store.take_calls();
    let done = mount.commit().await.unwrap();
    let calls = store.take_calls();
    assert_eq!(*mount.bodies.read.lock(), 8 << 20);
    assert_eq!(
        count(&calls, &PUTS),
        2,
        "a chunk and the record, whose root page holds the entry: {calls:?}"
    );
    assert_eq!(
        (done.counted.files, done.counted.contents, done.counted.bytes),
        (1, 1, size as u64)
    );
    let fresh = Mount::new(reopen(&store, "v").await);
    let shown = fresh.view().await;
    assert_eq!(shown["/big"], mount.view().await["/big"]);
    assert_ne!(shown["/big"], shown["/copy"]);
    assert_eq!(
        shown["/zeros"],
        format!(
            "f 644 {}:{}",
            3 << 23,
            crate::format::content_id(&vec![0; 3 << 23])
        )
    );
}

#[tokio::test]
async fn a_file_that_is_still_written_is_published_as_read_and_listed() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    mount.write("/log", "line 1\n").await;
    let id = mount.node(&path("/log")).await.unwrap();
    mount.bodies.still_written.lock().insert(id);
    let done = mount.commit().await.unwrap();
    assert_eq!(done.still_written, [path("/log")]);
}
