//! The remote volume against a scripted store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::testing::*;
use super::*;
use crate::format::{Features, GcState, Key, RecordKind, SuperNode, Usage, encode_chunk, txn_id};
use crate::model::{Attrs, DirTree, Entry, EntryBody, Hash, LeaseId, Name, Seq, Totals, TreeRoot, TxnId};
use crate::store::{DirStore, ObjectStore, PutMode};
use crate::tree::{self, NodeParams, NodeWriter, TreeError};

mod ends;
mod fscks;

fn txn(n: u64) -> TxnId {
    let mut random = [0; 32];
    random[..8].copy_from_slice(&n.to_le_bytes());
    txn_id(&random, "test", &Default::default(), &Default::default())
}

fn next(head: &Head, n: u64) -> NextRecord {
    NextRecord {
        kind: RecordKind::Commit,
        txn: txn(n),
        base: head.seq(),
        by: "test".to_owned(),
        message: format!("number {n}"),
        root: head.record().root.clone(),
        usage: Usage::default(),
        gc: None,
        config: None,
        features: None,
        renames: Vec::new(),
    }
}

async fn publish(volume: &Volume, head: &Head, record: NextRecord) -> PublishOutcome {
    let prepared = volume.prepare(head, record).unwrap();
    volume
        .publish(&RemoteSource::new(volume.clone()), &prepared)
        .await
        .unwrap()
}

async fn publish_ok(volume: &Volume, head: &Head, n: u64) -> Head {
    match publish(volume, head, next(head, n)).await {
        PublishOutcome::Published { record, head } => {
            assert_eq!(record.record.txn, txn(n));
            head
        }
        other => panic!("{other:?}"),
    }
}

/// A collector's fence after `head` that keeps `keep`, with the history tree that it has to extend.
pub(crate) async fn publish_fence(volume: &Volume, head: &Head, keep: &[Seq]) -> Head {
    match try_fence(volume, head, keep).await.unwrap() {
        PublishOutcome::Published { head, .. } => head,
        other => panic!("{other:?}"),
    }
}

/// What a slot of the log holds now.
pub(crate) async fn slot(volume: &Volume, seq: Seq) -> Result<Option<LoggedRecord>, VolumeError> {
    Ok(volume.fetch_record(seq).await?.map(|(logged, _)| logged))
}

/// As [`publish_fence`], among others who publish, collect and trim.
pub(crate) async fn try_fence(
    volume: &Volume,
    head: &Head,
    keep: &[Seq],
) -> Result<PublishOutcome, VolumeError> {
    let src = RemoteSource::new(volume.clone());
    let old = head.record().root.history;
    let tree = old.map_or(DirTree::empty(), |(ptr, index)| DirTree::stored(ptr, index));
    let mut entries = Vec::new();
    for seq in head.record().gc.fence..=head.seq() {
        let Some(logged) = slot(volume, seq).await? else {
            return Ok(PublishOutcome::Lost); // a newer collector trimmed it: the head is old
        };
        let (name, entry) = HistoryEntry::of(&logged).to_entry(seq);
        entries.push((name, Some(entry)));
    }
    let failed = |e: tree::TreeError| match e {
        tree::TreeError::Expired { .. } => VolumeError::Busy {
            object: "history".to_owned(),
        },
        other => panic!("{other}"),
    };
    let tree = tree::edit_dir(&src, &tree, entries).await.map_err(failed)?;
    // Stored as what it is, a directory of its own: inline_max 0 keeps it out of its parent.
    let params = NodeParams {
        inline_max: 0,
        page_max: 4096,
        ..NodeParams::default()
    };
    let totals = tree::recount(&tree::entries(&src, &tree).await.map_err(failed)?);
    let history = Entry {
        attrs: Attrs::default(),
        body: EntryBody::Dir { totals, tree },
    };
    let holder = vec![(Name::new(b"h").unwrap(), Some(history))];
    let (holder, totals) = tree::edit_dir_entry(&src, &DirTree::empty(), &Totals::default(), holder)
        .await
        .map_err(failed)?;
    let root = TreeRoot {
        attrs: Default::default(),
        totals,
        tree: holder,
        links: Default::default(),
    };
    let stored = tree::store(&src, &root, NodeWriter::new(head.record().gc.epoch + 1, params))
        .await
        .map_err(failed)?;
    for pack in &stored.packs {
        volume.put_pack(pack).await?;
    }
    let DirTree::Inline(page) = &stored.root.tree else {
        panic!("one entry")
    };
    let (_, DirTree::Stored { ptr, index }) = page.entries[0].1.as_dir().unwrap() else {
        panic!("stored")
    };
    let fence = head.seq() + 1;
    let gc = GcState {
        epoch: head.record().gc.epoch + 1,
        fence,
        retained: keep.iter().copied().chain([fence]).collect(),
    };
    let record = NextRecord {
        kind: RecordKind::Gc,
        txn: fence_txn(head),
        root: SuperNode {
            history: Some((**ptr, *index)),
            ..head.record().root.clone()
        },
        gc: Some(gc),
        features: Some(Features::collected()),
        ..next(head, 0)
    };
    let prepared = volume.prepare(head, record)?;
    volume.publish(&src, &prepared).await
}

/// Collectors of the same moment differ.
fn fence_txn(head: &Head) -> TxnId {
    static FENCES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = FENCES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    txn(1_000_000 * (head.seq() + 2) + number % 1_000_000)
}

/// Deletes records as a collector would.
pub(crate) async fn trim(volume: &Volume, seqs: impl IntoIterator<Item = Seq>) {
    let keys: Vec<String> = seqs
        .into_iter()
        .map(|seq| crate::format::Key::Record(volume.id(), seq).to_string())
        .collect();
    volume.store().delete(&keys).await.unwrap();
}

#[tokio::test]
async fn a_volume_is_opened_by_name_with_three_requests_and_by_id_with_two() {
    let store = scripted();
    let made = new_volume(&store, "data").await;
    store.take_calls();
    let opened = reopen(&store, "data").await;
    assert_eq!(store.take_calls().len(), 3);
    assert_eq!((opened.volume.id(), opened.head.seq()), (made.volume.id(), 0));
    let id = VolumeRef::parse(&made.volume.id().to_string());
    let by_id = Volume::open(store.clone(), clock_of(&store), &id).await.unwrap();
    assert_eq!(store.take_calls().len(), 2);
    assert_eq!(by_id.descriptor().name, "data");
    let wrong = Volume::open(store.clone(), clock_of(&store), &VolumeRef::parse("dat")).await;
    assert!(matches!(wrong, Err(VolumeError::NotFound { nearest: Some(n), .. }) if n == "data"));
    let bad = Volume::open(store.clone(), clock_of(&store), &VolumeRef::parse("a/b")).await;
    assert!(matches!(bad, Err(VolumeError::BadName { .. })));
    let all = Volume::list(&(store.clone() as _), &clock_of(&store))
        .await
        .unwrap();
    assert_eq!(all.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["data"]);
}

/// What is damaged of a volume in the tests of deleting it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Damage {
    Newest,
    Name,
    Both,
}

impl Damage {
    const ALL: [Damage; 3] = [Damage::Newest, Damage::Name, Damage::Both];

    async fn inflict(self, store: &Arc<ScriptedStore>, id: crate::model::VolumeId, newest: u64) {
        let garbage = bytes::Bytes::from_static(b"{ not what was written");
        let mut keys = Vec::new();
        if self != Damage::Name {
            keys.push(Key::Record(id, newest).to_string());
        }
        if self != Damage::Newest {
            keys.push(Key::Name("data".to_owned()).to_string());
        }
        for key in keys {
            let put = store.memory.put(&key, garbage.clone(), PutMode::Overwrite);
            put.await.unwrap();
        }
    }
}

/// One that is damaged hides no other, and says so.
#[tokio::test]
async fn a_damaged_volume_is_listed_beside_the_others() {
    for damage in Damage::ALL {
        let store = scripted();
        let Opened { volume, head } = new_volume(&store, "data").await;
        publish_ok(&volume, &head, 1).await;
        new_volume(&store, "before").await;
        new_volume(&store, "later").await;
        damage.inflict(&store, volume.id(), 1).await;
        let all = Volume::list(&(store.clone() as _), &clock_of(&store))
            .await
            .unwrap();
        let told: Vec<(&str, bool)> = all.iter().map(|v| (v.name.as_str(), v.head.is_ok())).collect();
        assert_eq!(
            told,
            [("before", true), ("data", false), ("later", true)],
            "{damage:?}"
        );
        assert!(
            matches!(all[1].head, Err(VolumeError::Damaged { .. })),
            "{:?}",
            all[1]
        );
        assert_eq!(all[1].id.is_none(), damage != Damage::Newest);
    }
}

#[tokio::test]
async fn of_racing_creators_one_makes_the_volume_and_all_open_it() {
    for seed in seeds(0, 10) {
        let store = scripted();
        store.by_chance(seed, 20, 6);
        let creates = (0..6).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                Volume::create(store.clone(), clock_of(&store), &create_options("data")).await
            })
        });
        let mut ids = BTreeSet::new();
        let mut new = 0;
        for create in creates.collect::<Vec<_>>() {
            // A creator may give up after too many lost answers; it must not have made a second volume.
            if let Ok(created) = create.await.unwrap() {
                new += u32::from(matches!(created, Created::New(_)));
                ids.insert(created.into_opened().volume.id().to_string());
            }
        }
        assert!(ids.len() <= 1 && new <= 1, "seed {seed}: {ids:?} {new}");
        store.by_chance(seed, 0, 0);
        let all = Volume::list(&(store.clone() as _), &clock_of(&store))
            .await
            .unwrap();
        assert!(
            all.len() <= 1 && all.iter().all(|v| v.head.is_ok()),
            "seed {seed}"
        );
    }
}

/// A live mount must not build on a record that a restored bucket does not have.
#[tokio::test]
async fn a_look_notices_that_the_record_it_knows_is_gone() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let first = publish_ok(&volume, &head, 1).await;
    let second = publish_ok(&volume, &first, 2).await;
    let key = crate::format::Key::Record(volume.id(), 2).to_string();
    crate::store::ObjectStore::delete(&*store.memory, &[key])
        .await
        .unwrap();
    store.memory.advance_time(Duration::from_secs(61));
    assert!(matches!(
        volume.refresh(&second).await,
        Err(VolumeError::RolledBack {
            seen: 2,
            found: 1,
            ..
        })
    ));
    assert_eq!(volume.refresh(&first).await.unwrap().head.seq(), 1);
}

#[tokio::test]
async fn a_look_that_finds_nothing_new_costs_one_request() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let mut newest = volume.head().await.unwrap();
    store.take_calls();
    let seen = volume.refresh(&newest).await.unwrap();
    assert_eq!((seen.head.seq(), store.take_calls().len()), (0, 1));
    for n in 1..=3 {
        newest = publish_ok(&volume, &newest, n).await;
    }
    store.take_calls();
    let seen = volume.refresh(&head).await.unwrap();
    assert_eq!(
        seen.newer.iter().map(LoggedRecord::seq).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(seen.complete);
    for n in 4..=30 {
        newest = publish_ok(&volume, &newest, n).await;
    }
    store.take_calls();
    let seen = volume.refresh(&head).await.unwrap();
    assert_eq!((seen.head.seq(), seen.complete), (30, false));
    assert_eq!(store.take_calls().len() as u64, rules::STEPS_MAX + 2);
    // After an hour "not there" would mean nothing.
    store.memory.advance_time(Duration::from_secs(3601));
    let seen = volume.refresh(&seen.head).await.unwrap();
    assert_eq!((seen.head.seq(), store.take_calls().len()), (30, 2));
    let log = volume.log(&seen.head, 5).await.unwrap();
    assert_eq!(
        log.iter().map(LoggedRecord::seq).collect::<Vec<_>>(),
        [30, 29, 28, 27, 26]
    );
    assert_eq!(volume.record(&seen.head, 7).await.unwrap().seq(), 7);
    assert!(matches!(
        volume.record(&seen.head, 31).await,
        Err(VolumeError::NotKept { .. })
    ));
    assert!(check_not_back(&head, 30, seen.head.hash()).is_err());
    assert!(check_not_back(&seen.head, 7, head.hash()).is_ok());
}

#[tokio::test]
async fn a_head_whose_get_took_too_long_is_read_again() {
    let store = scripted();
    let Opened { volume, .. } = new_volume(&store, "data").await;
    store.take_calls();
    store.plan(Verb::Get, "/log/", Fault::Slow(4000));
    volume.head().await.unwrap();
    assert_eq!(store.take_calls().len(), 4);
}

#[tokio::test]
async fn a_record_is_published_once_whatever_happens_to_the_answers() {
    for fault in [Fault::AnswerLost, Fault::NeverArrives] {
        let store = scripted();
        let Opened { volume, head } = new_volume(&store, "data").await;
        store.plan(Verb::PutIfAbsent, "/log/", fault);
        let head = publish_ok(&volume, &head, 1).await;
        assert_eq!(volume.head().await.unwrap().hash(), head.hash(), "{fault:?}");
    }
    // Answers lost all the time, and then a store that does not answer.
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    store.plan(Verb::PutIfAbsent, "/log/", Fault::AnswerLost);
    store.plan(Verb::Get, "/log/", Fault::Unreachable);
    let outcome = publish(&volume, &head, next(&head, 1)).await;
    assert!(matches!(outcome, PublishOutcome::Unknown { .. }));
    let newest = volume.head().await.unwrap();
    let src = RemoteSource::new(volume.clone());
    assert_eq!(
        volume
            .find_txn(&src, &newest, txn(1), 0)
            .await
            .unwrap()
            .map(|f| f.seq),
        Some(1)
    );
    assert_eq!(volume.find_txn(&src, &newest, txn(2), 0).await.unwrap(), None);
    // The number is another's.
    let outcome = publish(&volume, &head, next(&head, 2)).await;
    assert!(matches!(outcome, PublishOutcome::Lost));
}

#[tokio::test]
async fn a_search_below_the_fence_reads_the_list_once_in_order() {
    const RECORDS: u64 = 200;
    let store = scripted();
    let Opened { volume, mut head } = new_volume(&store, "data").await;
    for n in 1..=RECORDS {
        head = publish_ok(&volume, &head, n).await;
    }
    store.memory.advance_time(Duration::from_secs(3 * 86400));
    let fence = publish_fence(&volume, &volume.head().await.unwrap(), &[]).await;
    trim(&volume, 0..RECORDS).await;
    for wanted in [1, 2, 57, RECORDS - 1] {
        for since in [0, wanted - 1, wanted / 2] {
            let src = RemoteSource::new(volume.clone());
            let found = volume.find_txn(&src, &fence, txn(wanted), since).await.unwrap();
            assert_eq!(found.map(|f| f.seq), Some(wanted), "since {since}");
        }
        let src = RemoteSource::new(volume.clone());
        let found = volume.find_txn(&src, &fence, txn(wanted), wanted).await.unwrap();
        assert_eq!(found, None, "published before the search begins");
    }
    // As many requests as the list has windows, whatever the number of records.
    store.take_calls();
    let src = RemoteSource::new(volume.clone());
    assert_eq!(volume.find_txn(&src, &fence, txn(9999), 0).await.unwrap(), None);
    let calls = store.take_calls().len();
    assert!(calls <= 8, "{calls} requests");
}

#[tokio::test]
async fn a_search_that_sleeps_for_an_hour_begins_again_under_a_new_head() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let first = publish_ok(&volume, &head, 1).await;
    publish_ok(&volume, &first, 2).await;
    let newest = volume.head().await.unwrap();
    let src = RemoteSource::new(volume.clone());
    store.plan(Verb::Get, "/log/", Fault::Slow(4000));
    let slept = volume.find_txn(&src, &newest, txn(9), 0).await;
    assert!(matches!(slept, Err(VolumeError::Busy { .. })), "{slept:?}");
    let newest = volume.head().await.unwrap();
    assert_eq!(volume.find_txn(&src, &newest, txn(9), 0).await.unwrap(), None);
}

#[tokio::test]
async fn a_slow_writer_in_a_reused_slot_is_sent_back_and_a_fenced_record_is_found() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let first = publish_ok(&volume, &head, 1).await;
    let second = publish_ok(&volume, &first, 2).await;
    store.memory.advance_time(Duration::from_secs(3 * 86400));
    let fence = publish_fence(&volume, &volume.head().await.unwrap(), &[second.seq()]).await;
    assert_eq!((second.seq(), fence.seq()), (2, 3));
    trim(&volume, [0, 1]).await;
    let src = RemoteSource::new(volume.clone());
    // Below the fence the history tells.
    let found = volume.find_txn(&src, &fence, txn(1), 0).await.unwrap().unwrap();
    assert_eq!(
        (found.seq, found.hash, found.record.is_none()),
        (1, first.hash(), true)
    );
    assert_eq!(volume.find_txn(&src, &fence, txn(9), 0).await.unwrap(), None);
    // A writer that slept since it knew record 0 creates number 1 again.
    let outcome = publish(&volume, &head, next(&head, 5)).await;
    assert!(matches!(outcome, PublishOutcome::Lost), "{outcome:?}");
    assert!(
        volume.fetch_record(1).await.unwrap().is_none(),
        "the slot is empty again"
    );
    // One whose record was fenced before it could be confirmed is not sent back.
    let late = publish_ok(&volume, &fence, 6).await;
    store.memory.advance_time(Duration::from_secs(3 * 86400));
    let newer = publish_fence(&volume, &volume.head().await.unwrap(), &[]).await;
    assert!(late.seq() < newer.record().gc.fence);
    let outcome = publish(&volume, &fence, next(&fence, 6)).await;
    assert!(matches!(outcome, PublishOutcome::Published { record, .. } if record.hash == late.hash()));
}

#[tokio::test]
async fn records_are_held_only_after_a_head_confirmed_them() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let one = publish_ok(&volume, &head, 1).await;
    let two = publish_ok(&volume, &one, 2).await;
    let mut lease = LeaseHolder::new(LeaseId([7; 16]), "test".to_owned());
    let now = || store.memory.time();
    assert!(lease.held(now()).is_empty() && lease.is_due(now(), &BTreeSet::from([1])));
    // The PUT went through, the head could not be read: nothing is held.
    store.plan(Verb::List, "/log/", Fault::Unreachable);
    assert!(volume.write_lease(&mut lease, BTreeSet::from([1])).await.is_err());
    assert!(lease.held(now()).is_empty() && lease.named().contains(&1));
    volume.write_lease(&mut lease, BTreeSet::from([1])).await.unwrap();
    assert_eq!(lease.held(now()), BTreeSet::from([1]));
    // A fence that does not keep record 1 leaves it unheld; one that is kept stays.
    let fence = publish_fence(&volume, &two, &[2]).await;
    volume
        .write_lease(&mut lease, BTreeSet::from([1, 2, fence.seq()]))
        .await
        .unwrap();
    assert_eq!(lease.held(now()), BTreeSet::from([2, fence.seq()]));
    assert!(!lease.is_due(now(), lease.named()));
    store.memory.advance_time(Duration::from_secs(9 * 3600));
    assert!(lease.is_due(now(), lease.named()));
    // A late renewal holds nothing until it is confirmed.
    store.memory.advance_time(Duration::from_secs(20 * 3600));
    assert!(lease.held(now()).is_empty());
    store.plan(Verb::List, "/log/", Fault::Unreachable);
    assert!(volume.write_lease(&mut lease, BTreeSet::from([2])).await.is_err());
    assert!(lease.held(now()).is_empty());
    volume.write_lease(&mut lease, BTreeSet::from([2])).await.unwrap();
    assert_eq!(lease.held(now()), BTreeSet::from([2]));
    volume.drop_lease(lease).await.unwrap();
    assert!(!store.memory.keys().iter().any(|key| key.contains("/lease/")));
}

#[tokio::test]
async fn a_deleted_volume_says_so_until_nothing_is_left() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let head = publish_ok(&volume, &head, 1).await;
    store.plan(Verb::Delete, &volume.id().to_string(), Fault::Unreachable);
    assert!(volume.delete("data", "me").await.is_err());
    let gone = Volume::open(store.clone(), clock_of(&store), &VolumeRef::parse("data")).await;
    assert!(matches!(gone, Err(VolumeError::Deleted { by, .. }) if by == "me"));
    assert!(matches!(
        volume.refresh(&head).await,
        Err(VolumeError::Deleted { .. })
    ));
    volume.delete("data", "me").await.unwrap();
    assert!(store.memory.keys().is_empty(), "{:?}", store.memory.keys());
    let gone = Volume::open(store.clone(), clock_of(&store), &VolumeRef::parse("data")).await;
    assert!(matches!(gone, Err(VolumeError::NotFound { .. })));
}

#[tokio::test]
async fn a_deletion_that_is_killed_at_any_request_is_finished_by_the_next_one() {
    let delete = async |store: &Arc<ScriptedStore>, wanted: &VolumeRef| {
        let found = Volume::find_to_delete(store.clone(), clock_of(store), wanted).await?;
        let volume = match found {
            ToDelete::Whole(opened) => opened.volume,
            ToDelete::Begun(volume) => volume,
            other => panic!("nothing is damaged: {other:?}"),
        };
        volume.delete(&wanted.to_string(), "me").await
    };
    for (by_id, done) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut cuts = 0;
        loop {
            let store = scripted();
            let Opened { volume, head } = new_volume(&store, "data").await;
            let head = publish_ok(&volume, &head, 1).await;
            publish_ok(&volume, &head, 2).await;
            let stray = format!("{}/log/README", volume.id());
            let body = bytes::Bytes::from_static(b"by hand");
            store.memory.put(&stray, body, PutMode::Overwrite).await.unwrap();
            let name = VolumeRef::parse("data");
            let wanted = match by_id {
                true => VolumeRef::Id(volume.id()),
                false => name.clone(),
            };
            store.dark_after(cuts, done);
            let first = delete(&store, &wanted).await;
            let was_cut = store.is_dark();
            store.light();
            if !was_cut {
                first.unwrap();
                break;
            }
            let left = store.memory.keys();
            // By its identity nothing is found that has nothing left but its name.
            let only_name = left.iter().all(|key| key.starts_with("names/"));
            let again = if only_name { &name } else { &wanted };
            match delete(&store, again).await {
                Ok(_) => {}
                Err(VolumeError::NotFound { .. }) if left.is_empty() => {}
                Err(error) => panic!("killed at request {cuts}, {left:?}: {error}"),
            }
            assert!(
                store.memory.keys().is_empty(),
                "killed at request {cuts}: {:?}",
                store.memory.keys()
            );
            new_volume(&store, "data").await;
            cuts += 1;
        }
        assert!(cuts > 8, "{cuts}");
    }
}

/// A newest record that cannot be read hinders no deletion, wherever that is killed.
#[tokio::test]
async fn a_damaged_volume_is_deleted_and_a_killed_deletion_of_it_goes_on() {
    let wanted = VolumeRef::parse("data");
    let delete = async |store: &Arc<ScriptedStore>| match Volume::find_to_delete(
        store.clone(),
        clock_of(store),
        &wanted,
    )
    .await?
    {
        ToDelete::Whole(opened) => opened.volume.delete("data", "me").await,
        ToDelete::Begun(volume) | ToDelete::Damaged(volume, _) => volume.delete("data", "me").await,
    };
    let mut cuts = 0;
    loop {
        let store = scripted();
        let Opened { volume, head } = new_volume(&store, "data").await;
        publish_ok(&volume, &head, 1).await;
        Damage::Newest.inflict(&store, volume.id(), 1).await;
        store.dark_after(cuts, false);
        let first = delete(&store).await;
        let was_cut = store.is_dark();
        store.light();
        match was_cut {
            false => drop(first.unwrap()),
            true => match delete(&store).await {
                Ok(_) | Err(VolumeError::NotFound { .. }) => {}
                Err(error) => panic!("killed at request {cuts}: {error}"),
            },
        }
        let left = store.memory.keys();
        assert!(left.is_empty(), "killed at request {cuts}: {left:?}");
        if !was_cut {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 4, "{cuts}");
}

#[tokio::test]
async fn what_is_no_record_is_passed_over_in_the_log() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let head = publish_ok(&volume, &head, 1).await;
    let log = format!("{}/log", volume.id());
    // Before and behind all records, and more than one page of them.
    let strays = (0..2100).map(|n| format!("{log}/0-copy-{n}")).chain(
        ["README", "x.tmp", "fffffffffffffff", "0/ffffffffffffffff"].map(|name| format!("{log}/{name}")),
    );
    for key in strays {
        let body = bytes::Bytes::from_static(b"by hand");
        store.memory.put(&key, body, PutMode::Overwrite).await.unwrap();
    }
    let opened = Volume::open(store.clone(), clock_of(&store), &VolumeRef::parse("data")).await;
    let opened = opened.unwrap();
    assert_eq!(opened.head.hash(), head.hash());
    let head = publish_ok(&opened.volume, &opened.head, 2).await;
    let report = volume.fsck(&head, FsckOptions::default(), &|_| ()).await.unwrap();
    assert_eq!(report.damaged, 0, "{:?}", report.damage);
    assert_eq!(report.warnings.len(), 100);
    assert!(
        report.warnings[0].contains("is no record"),
        "{:?}",
        report.warnings
    );
}

/// Whatever kind of object claims to be of a terabyte: it is refused before there is memory for it.
#[tokio::test]
async fn objects_that_claim_to_be_huge_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(DirStore::open(dir.path()));
    let created = Volume::create(store.clone(), Clock::system(), &create_options("data")).await;
    let Opened { volume, .. } = created.unwrap().into_opened();
    let id = volume.id();
    let huge = |key: Key| {
        let path = dir.path().join(key.to_string());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let whole = std::fs::read(&path).ok();
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        (path, whole)
    };
    let mend = |(path, whole): (std::path::PathBuf, Option<Vec<u8>>)| match whole {
        Some(whole) => std::fs::write(path, whole).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    };
    let wanted = VolumeRef::parse("data");
    let open = || Volume::open(store.clone(), Clock::system(), &wanted);
    for key in [Key::Name("data".into()), Key::Record(id, 0), Key::Record(id, 7)] {
        let changed = huge(key.clone());
        let error = open().await.unwrap_err();
        assert!(matches!(error, VolumeError::Damaged { .. }), "{key}: {error:?}");
        assert!(error.to_string().contains(&key.to_string()), "{error}");
        mend(changed);
    }
    open().await.unwrap();
    let hash = Hash([7; 32]);
    huge(Key::Chunk(id, 1, hash));
    let error = volume.chunk(1, &hash, 64 << 20).await.unwrap_err();
    assert!(matches!(error, TreeError::Damaged { .. }), "{error:?}");
    // Ours takes its place.
    let chunk = encode_chunk(&[1; 100_000]).unwrap();
    huge(Key::Chunk(id, 1, chunk.id));
    volume.put_chunk(1, &chunk, 100_000).await.unwrap();
    assert_eq!(
        volume.chunk(1, &chunk.id, 100_000).await.unwrap(),
        [1; 100_000][..]
    );
}
