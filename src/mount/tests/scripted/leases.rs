//! Which records a mount leases, and when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::late::{empty, names, write};
use super::pod::{Pod, quiet};
use crate::answer::{LocalChanges, RecordAt, ReloadRequest};
use crate::format::{Key, LEASE_TTL_SECS, Lease, lease_prefix};
use crate::model::Seq;
use crate::mount::tests::{new_dir, options};
use crate::mount::{Mount, MountOptions};
use crate::store::{MemoryStore, ObjectStore};
use crate::volume::testing::{Fault, ScriptedStore, Verb, clock_of, scripted};
use crate::volume::tests::{publish_fence, trim};

const DAY: u64 = 24 * 3600;

/// Leases as they stand in the store, by what they name and how long they last.
async fn leases(store: &Arc<ScriptedStore>, pod: &Pod) -> Vec<(BTreeSet<Seq>, u64)> {
    let volume = pod.mount.volume.id();
    let listed = store
        .memory
        .list(&lease_prefix(&volume), None, 1000)
        .await
        .unwrap();
    let mut found = Vec::new();
    for object in listed.objects {
        let Some(Key::Lease(_, id)) = Key::parse(&object.key) else {
            panic!("{}", object.key)
        };
        let bytes = store.memory.get(&object.key, None).await.unwrap();
        let lease = Lease::decode(&bytes.bytes, &volume, &id, &object.key).unwrap();
        if lease.counts(bytes.modified.unwrap(), bytes.server_time.unwrap()) {
            found.push((lease.seqs.into_iter().collect(), lease.ttl_secs));
        }
    }
    found.sort();
    found
}

fn named(leases: Vec<(BTreeSet<Seq>, u64)>) -> Vec<Vec<Seq>> {
    leases
        .into_iter()
        .map(|(seqs, _)| seqs.into_iter().collect())
        .collect()
}

/// A mount that goes by the store's clock, as everybody does here.
async fn open(store: &Arc<ScriptedStore>, dir: tempfile::TempDir, name: &str) -> Pod {
    let timed = MountOptions {
        clock: clock_of(store),
        ..options(dir.path(), name)
    };
    Pod::open_with(store, dir, timed, empty()).await
}

/// A mount, and a volume of some records.
async fn with_records() -> (Arc<ScriptedStore>, Pod, Seq) {
    let store = scripted();
    let pod = open(&store, new_dir(), "a").await;
    for round in 0..3 {
        write(&pod, b"file", format!("{round}").repeat(1000).as_bytes()).await;
        pod.commit().await.unwrap();
    }
    let last = pod.mount.summary().base;
    (store, pod, last)
}

#[tokio::test]
async fn an_older_record_is_leased_before_it_is_mounted_and_the_newest_is_not() {
    let (store, pod, last) = with_records().await;
    assert_eq!(named(leases(&store, &pod).await), [[0; 0]; 0]);
    let dir = new_dir();
    let old = MountOptions {
        read_only: true,
        at: Some(last - 1),
        clock: clock_of(&store),
        ..options(dir.path(), "old")
    };
    store.take_calls();
    let opened = Mount::open(old.clone(), store.clone()).await.unwrap();
    let calls: Vec<Verb> = store.take_calls().into_iter().map(|(verb, ..)| verb).collect();
    // Name, LIST, head, record; the lease, and the head that confirms it.
    use Verb::*;
    assert_eq!(calls, [Get, List, Get, Get, Put, List, Get]);
    assert_eq!(named(leases(&store, &pod).await), [[last - 1]]);
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    opened.mount.close().await;
    assert!(leases(&store, &pod).await.is_empty());

    // Who may not write one is told, and may work.
    store.plan(Verb::Put, "/lease/", Fault::Unreachable);
    let dir = new_dir();
    let old = MountOptions {
        cache_dir: dir.path().join("cache"),
        ..old
    };
    let opened = Mount::open(old, store.clone()).await.unwrap();
    assert!(opened.warnings[0].contains("the lease"), "{:?}", opened.warnings);
    opened.mount.close().await;
    pod.close().await;
}

/// A collector that comes between the reading of the record and the lease.
#[tokio::test]
async fn a_record_that_is_gone_when_it_is_leased_is_not_mounted() {
    let (store, pod, last) = with_records().await;
    let head = pod.mount.volume.head().await.unwrap();
    store.memory.advance_time(Duration::from_secs(2 * DAY));
    let dir = new_dir();
    let at = MountOptions {
        read_only: true,
        at: Some(last - 1),
        clock: clock_of(&store),
        ..options(dir.path(), "old")
    };
    store.hold(Verb::Put, "/lease/");
    let opening = tokio::spawn(Mount::open(at, store.clone()));
    store.until_held().await;
    publish_fence(&pod.mount.volume, &head, &[last]).await;
    store.let_go();
    let failure = opening.await.unwrap().unwrap_err();
    assert!(failure.to_string().contains("is not kept"), "{failure}");
    pod.close().await;
}

#[tokio::test]
async fn a_reload_to_an_older_record_leases_it_first() {
    let (store, other, last) = with_records().await;
    // One that has not seen when that was the newest.
    let pod = open(&store, new_dir(), "b").await;
    let to = ReloadRequest {
        to: Some(RecordAt::Number(last - 2)),
        ..ReloadRequest::default()
    };
    pod.mount.reload(to, quiet()).await.unwrap();
    let leased = named(leases(&store, &pod).await);
    assert!(leased.len() == 1 && leased[0].contains(&(last - 2)), "{leased:?}");
    pod.reload(LocalChanges::IfClean).await.unwrap();
    for pod in [pod, other] {
        pod.close().await;
    }
}

#[tokio::test]
async fn a_mount_leases_what_it_has_seen_to_be_the_newest_half_a_day_ago() {
    let (store, pod, last) = with_records().await;
    let look = async |hours: u64| {
        store.memory.advance_time(Duration::from_secs(hours * 3600));
        pod.mount.look_at_lease().await.unwrap();
        named(leases(&store, &pod).await)
    };
    assert!(look(11).await.is_empty());
    // What it stands on is the newest again: it pays nothing.
    write(&pod, b"file", b"more").await;
    pod.commit().await.unwrap();
    assert!(look(11).await.is_empty());
    assert_eq!(look(1).await, [[last + 1]]);
    // It lives for days, and renews it in time.
    for _ in 0..12 {
        assert_eq!(look(8).await, [[last + 1]]);
    }
    pod.close().await;
    assert!(store.memory.keys().iter().all(|key| !key.contains("/lease/")));
}

/// Fences that keep what the policy must and what unexpired leases name.
async fn collect(store: &Arc<ScriptedStore>, pod: &Pod) {
    let volume = &pod.mount.volume;
    for _ in 0..3 {
        store.memory.advance_time(Duration::from_secs(DAY));
        let head = volume.head().await.unwrap();
        let leased = leases(store, pod).await.into_iter().flat_map(|(seqs, _)| seqs);
        let mut keep: BTreeSet<Seq> = leased.filter(|seq| head.record().gc.protects(*seq)).collect();
        keep.insert(head.seq());
        let keep: Vec<Seq> = keep.into_iter().collect();
        let fence = publish_fence(volume, &head, &keep).await;
        trim(volume, (0..head.seq()).filter(|seq| !keep.contains(seq))).await;
        drop(fence);
    }
}

/// Local changes that wait for a mount: what they stand on is kept for as long as stashes are.
#[tokio::test]
async fn what_an_unmount_leaves_is_leased_until_the_next_session_has_leased_it() {
    let (store, other, last) = with_records().await;
    let pod = open(&store, new_dir(), "b").await;
    write(&pod, b"stashed", b"1").await;
    write(&other, b"file", b"other").await;
    other.commit().await.unwrap();
    pod.reload(LocalChanges::Stash).await.unwrap();
    write(&pod, b"dirty", b"2").await;
    let dir = pod.close().await;
    let stash_age = 30 * DAY;
    assert_eq!(
        leases(&store, &other).await,
        [(BTreeSet::from([last, last + 1]), stash_age)]
    );
    for round in 0..3 {
        write(&other, b"file", format!("other {round}").as_bytes()).await;
        other.commit().await.unwrap();
    }
    collect(&store, &other).await;

    let pod = open(&store, dir, "b").await;
    let warnings = pod.warnings.join("\n");
    assert!(
        !warnings.contains("lease") && !warnings.contains("does not keep"),
        "{warnings}"
    );
    assert_eq!(pod.mount.summary().base, last + 1, "it stands where it stood");
    pod.mount.look_at_lease().await.unwrap();
    assert_eq!(
        leases(&store, &other).await,
        [(BTreeSet::from([last, last + 1]), LEASE_TTL_SECS)],
        "one lease, of this session"
    );
    assert_eq!(names(&pod).await, ["/dirty", "/file"]);
    pod.commit().await.unwrap();
    pod.mount.stash_restore(1).await.unwrap();
    pod.commit().await.unwrap();
    assert_eq!(names(&pod).await, ["/dirty", "/file", "/stashed"]);
    pod.close().await;
    assert!(leases(&store, &other).await.is_empty(), "nothing waits any more");
    other.close().await;
}

/// After a kill the next session ends the lease of the one before.
#[tokio::test]
async fn a_killed_session_leaves_a_lease_that_the_next_one_ends() {
    let (store, other, last) = with_records().await;
    let pod = open(&store, new_dir(), "b").await;
    write(&pod, b"dirty", b"2").await;
    store.memory.advance_time(Duration::from_secs(13 * 3600));
    pod.mount.look_at_lease().await.unwrap();
    let dir = pod.copy_state().0;
    assert_eq!(named(leases(&store, &other).await), [[last]]);
    let next = open(&store, dir, "b").await;
    next.mount.look_at_lease().await.unwrap();
    assert!(leases(&store, &other).await.is_empty(), "it stands on the newest");
    for pod in [next, pod, other] {
        pod.close().await;
    }
}

/// The store that is asked for nothing but what is needed: whoever mounts the newest record pays no lease.
#[tokio::test]
async fn mounting_committing_and_reloading_write_no_lease() {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let pod = Pod::fresh(&store, "a", empty()).await;
    write(&pod, b"file", b"1").await;
    pod.commit().await.unwrap();
    pod.reload(LocalChanges::Stash).await.unwrap();
    pod.mount.look_at_lease().await.unwrap();
    pod.close().await;
    let calls = store.take_calls();
    assert!(
        calls.iter().all(|(_, key, _)| !key.contains("/lease/")),
        "{calls:?}"
    );
}
