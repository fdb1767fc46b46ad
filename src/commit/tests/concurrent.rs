//! Many committers at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::mount::*;
use crate::commit::*;
use crate::model::{Seq, TxnId};
use crate::tree::{self, Register};
use crate::volume::testing::*;

/// The base of a mount refers to nothing that only its own upload brought and no record took: equal bytes of two.
#[tokio::test]
async fn what_a_merge_does_not_take_is_not_referred_to() {
    let store = scripted();
    let mut first = Mount::new(new_volume(&store, "v").await);
    let (old, new) = ("old ".repeat(100), "new ".repeat(100));
    first.write("/again", old.clone()).await;
    first.commit().await.unwrap();
    let mut second = Mount::new(reopen(&store, "v").await);
    let before = content_at(&first, "/again").await;

    second.rename("/again", "/elsewhere").await;
    second.write("/both", new.clone()).await;
    second.commit().await.unwrap();
    first.remove("/again").await;
    first.write("/again", old).await;
    first.write("/both", new).await;
    first.write("/mine", "mine ".repeat(100)).await;
    let done = first.commit().await.unwrap();

    assert_eq!(content_at(&first, "/again").await, before);
    let theirs = content_at(&second, "/both").await;
    assert_eq!(content_at(&first, "/both").await, theirs);
    first.reload().await;
    assert_eq!(first.head.seq(), done.record.seq());
    assert_eq!(content_at(&first, "/both").await, theirs);
    assert_eq!(content_at(&first, "/elsewhere").await, before);
}

async fn content_at(mount: &Mount, at: &str) -> String {
    let entry = tree::walk(&mount.nodes, &mount.base, &path(at)).await.unwrap();
    format!("{:?}", entry.expect("a file").body)
}

/// What one mount knows that it has published.
struct Published {
    txn: TxnId,
    seq: Seq,
    writes: BTreeMap<String, String>,
    overwrote: BTreeSet<String>,
    /// Newest record whose value of each path the mount had seen.
    seen: HashMap<String, Seq>,
}

const SHARED: [&str; 3] = ["/shared/one", "/shared/two", "/shared/three"];

async fn committer(store: Arc<ScriptedStore>, no: u64, commits: u64, seed: u64) -> Vec<Published> {
    let mut rng = Rng::new(seed * 100 + no);
    let mut mount = Mount::new(reopen(&store, "v").await);
    mount.by = format!("m{no}");
    mount.tick = no as i64 * 1_000_000;
    let mut loaded = mount.head.seq();
    let mut own: HashMap<String, Seq> = HashMap::new();
    let mut done = Vec::new();
    for round in 0..commits {
        if rng.chance(15) {
            mount.reload().await;
            loaded = mount.head.seq();
            own.clear();
        }
        let mut writes = BTreeMap::new();
        writes.insert(format!("/own/{no}-{}", rng.below(3)), format!("{no}.{round}"));
        if rng.chance(50) {
            let shared = SHARED[rng.below(3) as usize];
            writes.insert(shared.to_owned(), format!("{no}.{round}.s"));
        }
        for (path, bytes) in &writes {
            mount.write(path, bytes.clone()).await;
        }
        let outcome = loop {
            match mount.commit().await {
                Err(CommitError::Contended { .. }) => {}
                other => break other,
            }
        };
        let outcome = outcome.unwrap_or_else(|e| panic!("seed {seed} mount {no}: {e}"));
        let seq = outcome.record.seq();
        let overwrote = outcome
            .overwrote
            .iter()
            .filter(|over| over.register == Register::Content)
            .map(|over| over.path.to_string())
            .collect();
        let seen = writes
            .keys()
            .map(|path| (path.clone(), *own.get(path).unwrap_or(&loaded)))
            .collect();
        own.extend(writes.keys().map(|path| (path.clone(), seq)));
        done.push(Published {
            txn: outcome.txn,
            seq,
            writes,
            overwrote,
            seen,
        });
        for path in done[done.len() - 1].writes.keys() {
            let mine = &done[done.len() - 1].writes[path];
            let shown = &mount.view().await[path];
            assert!(
                shown.ends_with(mine),
                "seed {seed} mount {no}: {path} shows {shown}"
            );
        }
    }
    done
}

/// Every acknowledged commit is in the log once, the last tree is the replay of what each wrote in the order of the log,
/// and what went under was reported, no more.
async fn check(store: &Arc<ScriptedStore>, all: Vec<Published>, seed: u64) {
    store.by_chance(0, 0, 0);
    let opened = reopen(store, "v").await;
    let log = opened.volume.log(&opened.head, 10_000).await.unwrap();
    let mut count: HashMap<TxnId, u32> = HashMap::new();
    for logged in &log {
        *count.entry(logged.record.txn).or_default() += 1;
    }
    assert!(
        count.values().all(|n| *n == 1),
        "seed {seed}: a transaction twice"
    );
    let mut all = all;
    all.sort_by_key(|published| published.seq);
    assert_eq!(
        log.len(),
        all.len() + 2,
        "seed {seed}: records that nobody knows of"
    );
    let mut replay: BTreeMap<String, String> = BTreeMap::new();
    let mut history: BTreeMap<String, Vec<Seq>> = BTreeMap::new();
    for published in &all {
        assert_eq!(
            count.get(&published.txn),
            Some(&1),
            "seed {seed}: a commit is lost"
        );
        for (path, bytes) in &published.writes {
            let before = history.entry(path.clone()).or_default();
            let unseen = before.last().is_some_and(|last| *last > published.seen[path]);
            assert_eq!(
                published.overwrote.contains(path),
                unseen,
                "seed {seed}: report of {path} at {}",
                published.seq
            );
            before.push(published.seq);
            replay.insert(path.clone(), bytes.clone());
        }
    }
    let last = Mount::new(opened);
    let shown = last.view().await;
    for (path, bytes) in &replay {
        assert!(
            shown[path].ends_with(bytes),
            "seed {seed}: {path}: {} is not {bytes}",
            shown[path]
        );
    }
    assert_eq!(shown.len(), replay.len() + 3, "seed {seed}: {shown:?}");
}

async fn run(mounts: u64, commits: u64, lost_percent: u64, seed: u64) {
    let store = scripted();
    let mut first = Mount::new(new_volume(&store, "v").await);
    first.mkdir("/own").await;
    first.mkdir("/shared").await;
    first.commit().await.unwrap();
    store.by_chance(seed, lost_percent, 5);
    let tasks: Vec<_> = (0..mounts)
        .map(|no| tokio::spawn(committer(store.clone(), no, commits, seed)))
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    check(&store, all, seed).await;
}

#[tokio::test]
async fn sixteen_committers_lose_nothing_and_report_what_goes_under() {
    run(16, 6, 0, 1).await;
}

#[tokio::test]
async fn lost_answers_publish_nothing_twice() {
    for seed in seeds(2, 3) {
        run(5, 5, 15, seed).await;
    }
}

#[tokio::test]
async fn a_commit_that_never_wins_says_so() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    let mut other = Mount::new(reopen(&store, "v").await);
    mount.write("/a", "1").await;
    let frozen = mount.freeze();
    let mut commit = mount.commit_context();
    commit.options.deadline = Duration::ZERO;
    other.write("/b", "1").await;
    other.commit().await.unwrap();
    // The head that it knows is old, but the look at the log finds the new one: no race is lost.
    let uploaded = frozen.clone().upload(&commit, 1).await.unwrap();
    assert_eq!(
        uploaded
            .publish(&commit, mount.head.clone())
            .await
            .unwrap()
            .merged_with,
        [1]
    );
}
