//! Random programs on two mounts of one volume, against the model: the real commit, merged with the other's, several
//! without a reload, while programs go on; reload, `--keep`, stash and restore, remount, and `kill -9` at every point.
//!
//! Each mount works below a directory of its own, so that what a merge must give is plain (what it gives on one path is
//! the matter of `tree/merge`). While a commit or a reload is under way, each time that the journal has grown its state
//! directory is copied, as it would be found after `kill -9`, and cut at each end of a frame since the last copy and
//! inside of the last frame. A mount opened on each must show what the model says, and commit it.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::pod::{JournalEnd, Pod, quiet, reload_request};
use super::shown::{self, Shown, graft};
use crate::answer::{CommitRequest, FailureKind, LocalChanges};
use crate::mount::tests::{new_dir, new_volume_of_small_nodes, number};
use crate::store::MemoryStore;
use crate::view::tests::model::{Body, Fs, ROOT};
use crate::view::tests::programs::Rng;
use crate::volume::testing::{Fault, ScriptedStore, Verb};

const TOPS: [&[u8]; 2] = [b"p0", b"p1"];

/// A commit that may be in the log.
struct Unsettled {
    fs: Fs,
    records: usize,
}

struct Pair {
    store: Arc<ScriptedStore>,
    pods: Vec<Pod>,
    /// What each has published last.
    published: Vec<Fs>,
    unsettled: Vec<Option<Unsettled>>,
    rng: Rng,
    /// State directories opened after a crash.
    crashes: usize,
    merged: usize,
    /// Bodies and kept bytes of all copies that one command's crashes have made. What a frame allows to be deleted is still
    /// there at each cut in front of it.
    before: tempfile::TempDir,
}

/// What a mount that is found after a crash may show, and what the volume holds after its next commit.
struct Expected {
    states: Vec<Fs>,
    others: Fs,
    other_top: &'static [u8],
}

impl Pair {
    async fn new(seed: u64) -> Pair {
        let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
        if !seed.is_multiple_of(3) {
            new_volume_of_small_nodes(store.clone()).await;
        }
        let mut fs = Fs::new(Default::default());
        let mut first = Pod::fresh(&store, "a", fs.clone()).await;
        for top in TOPS {
            let view = first.mount.view();
            let caller = &crate::view::tests::harness::CALLER;
            let known = view
                .mkdir(caller, crate::view::ROOT_INO, top, 0o755)
                .await
                .unwrap();
            view.forget(known.ino, 1);
            fs.make(ROOT, top, Body::Dir(Default::default()), 0o755).unwrap();
        }
        first.commit().await.unwrap();
        first.side.fs = fs.clone();
        let second = Pod::fresh(&store, "b", fs.clone()).await;
        let mut pods = vec![first, second];
        for (pod, top) in pods.iter_mut().zip(TOPS) {
            pod.side.top = vec![top];
        }
        Pair {
            store,
            pods,
            published: vec![fs.clone(), fs],
            unsettled: vec![None, None],
            rng: Rng(seed),
            crashes: 0,
            merged: 0,
            before: new_dir(),
        }
    }

    fn log(&self, at: usize, what: std::fmt::Arguments<'_>) {
        let pod = &self.pods[at];
        pod.side.log(format_args!(
            "{}, on {:?}: {what}",
            pod.name,
            pod.mount.base_ref()
        ));
    }

    fn records(&self) -> usize {
        let keys = self.store.memory.keys();
        keys.iter().filter(|key| key.contains("/log/")).count()
    }

    /// A command settles what is not known: it is published exactly if its number was free.
    fn settle(&mut self, at: usize) {
        if let Some(unsettled) = self.unsettled[at].take()
            && unsettled.records == self.records()
        {
            self.published[at] = unsettled.fs;
        }
    }

    /// What was late arrives: before its commit is settled, or in vain.
    async fn deliver(&mut self) {
        for done in self.store.deliver().await {
            let unsettled = self.unsettled.iter_mut().enumerate();
            let waiting = unsettled.filter_map(|(at, unsettled)| Some((at, unsettled.take()?)));
            match (done, waiting.last()) {
                (true, Some((at, unsettled))) => self.published[at] = unsettled.fs,
                (true, None) => panic!("a record that was settled arrived after all"),
                (false, Some((at, unsettled))) => self.unsettled[at] = Some(unsettled),
                (false, None) => {}
            }
        }
    }

    fn expected(&self, at: usize, states: Vec<Fs>) -> Expected {
        Expected {
            states,
            others: self.published[1 - at].clone(),
            other_top: TOPS[1 - at],
        }
    }

    async fn step(&mut self) {
        let at = self.rng.below(2);
        if self.rng.chance(3) {
            self.deliver().await;
        }
        match self.rng.below(100) {
            0..84 => step(&mut self.pods[at], &mut self.rng).await,
            84..92 => self.commit(at).await,
            92..97 => self.reload(at).await,
            _ => self.remount(at).await,
        }
        self.compare(at, "after a step").await;
    }

    async fn compare(&self, at: usize, what: &str) {
        let pod = &self.pods[at];
        shown::same(&pod.seen().await, &shown::model(&pod.side.fs), what);
    }

    async fn commit(&mut self, at: usize) {
        self.settle(at);
        let fate = self.rng.below(10);
        let beside = self.rng.chance(50);
        if beside {
            // What can still be written is published as it is read, which nobody knows then.
            self.pods[at].side.release_all();
        }
        let fault = match fate {
            0 => Some(Fault::AnswerLost),
            1 => Some(Fault::NeverArrives),
            2 if !beside && self.unsettled.iter().all(Option::is_none) => Some(Fault::LateThenDark),
            3 if !beside => Some(Fault::AnswerLostThenDark),
            _ => None,
        };
        let dark = matches!(fault, Some(Fault::LateThenDark | Fault::AnswerLostThenDark));
        self.log(
            at,
            format_args!("commits, while it works: {beside}, fault: {fault:?}"),
        );
        if let Some(fault) = fault {
            self.store.plan(Verb::PutIfAbsent, "/log/", fault);
        }
        let request = CommitRequest {
            timeout_secs: dark.then_some(0),
            ..CommitRequest::default()
        };
        let records = self.records();
        let mount = self.pods[at].mount.clone();
        self.before = new_dir();
        self.pods[at].keep_files(self.pods[at].copy_state().0.path(), self.before.path());
        let commits = mount.overlay.as_ref().unwrap().read().last_commit;
        let mut commit = pin!(mount.commit(request, quiet()));
        let mut frozen: Option<Fs> = None;
        let mut end = self.pods[at].journal_end();
        let done = loop {
            if let Poll::Ready(done) = futures::poll!(commit.as_mut()) {
                break done;
            }
            let is_frozen = mount.overlay.as_ref().unwrap().read().last_commit > commits;
            if is_frozen && frozen.is_none() {
                frozen = Some(self.pods[at].side.fs.clone());
            }
            let expected = self.expected(at, vec![self.pods[at].side.fs.clone()]);
            // (In the dark nobody can look.)
            let stepped = beside && frozen.is_some();
            if !dark {
                end = self.crash(at, end, &expected, !stepped).await;
            }
            if stepped {
                step(&mut self.pods[at], &mut self.rng).await;
            }
            tokio::task::yield_now().await;
        };
        let frozen = frozen.unwrap_or_else(|| self.pods[at].side.fs.clone());
        self.store.light();
        self.store.unplan();
        self.log(at, format_args!("{done:?}"));
        match done {
            Ok(answer) => {
                self.published[at] = frozen;
                self.merged += usize::from(!answer.merged_with.is_empty());
            }
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::OutcomeUnknown, "{failure}");
                assert!(dark, "{failure}");
                match fault {
                    Some(Fault::AnswerLostThenDark) => self.published[at] = frozen,
                    _ => self.unsettled[at] = Some(Unsettled { fs: frozen, records }),
                }
            }
        }
    }

    async fn reload(&mut self, at: usize) {
        self.settle(at);
        let local = match self.rng.below(2) {
            0 => LocalChanges::Keep,
            _ => LocalChanges::Stash,
        };
        self.log(at, format_args!("reloads, {local:?}"));
        if local == LocalChanges::Stash {
            self.pods[at].side.release_all();
        }
        let mut after = match local {
            LocalChanges::Keep => self.pods[at].side.fs.clone(),
            _ => self.published[at].clone(),
        };
        graft(&mut after, &self.published[1 - at], TOPS[1 - at]);
        let before = self.pods[at].side.fs.clone();
        let mount = self.pods[at].mount.clone();
        let mut reload = pin!(mount.reload(reload_request(local), quiet()));
        let mut end = self.pods[at].journal_end();
        let answer = loop {
            if let Poll::Ready(done) = futures::poll!(reload.as_mut()) {
                break done.unwrap();
            }
            let expected = self.expected(at, vec![before.clone(), after.clone()]);
            end = self.crash(at, end, &expected, false).await;
            tokio::task::yield_now().await;
        };
        let expected = self.expected(at, vec![after.clone()]);
        self.crash(at, end, &expected, false).await;
        self.pods[at].side.fs = after;
        self.compare(at, "after a reload").await;
        if let (Some(stash), true) = (answer.stash, self.rng.chance(50)) {
            let answer = mount.stash_restore(stash.id).await.unwrap();
            self.log(at, format_args!("restores a stash, {answer:?}"));
            let mut restored = before;
            graft(&mut restored, &self.published[1 - at], TOPS[1 - at]);
            self.pods[at].side.fs = restored;
        }
    }

    async fn remount(&mut self, at: usize) {
        self.settle(at);
        let killed = self.rng.chance(50);
        self.log(at, format_args!("mounts again, killed: {killed}"));
        let copied = killed.then(|| self.pods[at].copy_state().0);
        let pod = self.pods.remove(at);
        let mut fs = pod.side.fs.clone();
        let name = pod.name.clone();
        let stopped = pod.close().await;
        let dir = copied.unwrap_or(stopped);
        let mut pod = Pod::open(&self.store, dir, &name, fs.clone()).await;
        pod.side.top = vec![TOPS[at]];
        if pod.is_clean() {
            // Without local changes a mount begins at the newest record.
            graft(&mut fs, &self.published[1 - at], TOPS[1 - at]);
        }
        pod.side.fs = fs;
        self.pods.insert(at, pod);
    }

    /// Opens what a `kill -9` now would leave, if the journal has grown since `from`. `exact`: nothing but the command has
    /// changed anything since, so that every prefix is a state that was.
    async fn crash(&mut self, at: usize, from: JournalEnd, expected: &Expected, exact: bool) -> JournalEnd {
        let now = self.pods[at].journal_end();
        if now == from {
            return now;
        }
        let (copy, end) = self.pods[at].copy_state();
        let mut cuts = vec![end.2];
        if exact && (end.0, end.1) == (from.0, from.1) && end.2 > from.2 {
            cuts = self.pods[at].frame_ends(copy.path(), end.0, from.2);
            // Inside of the last frame: its head, its payload, its checksum.
            let (last, before) = (cuts[cuts.len() - 1], cuts[cuts.len() - 2]);
            cuts.extend([before + 5, before + (last - before) / 2, last - 1]);
            self.pods[at].keep_files(copy.path(), self.before.path());
        }
        for cut in cuts {
            let store = self.store.fork().await;
            let dir = new_dir();
            super::pod::copy_dir(copy.path(), dir.path());
            if cut < end.2 {
                self.pods[at].keep_files(self.before.path(), dir.path());
                self.pods[at].cut(dir.path(), end.0, cut);
            }
            let pod = &self.pods[at];
            open_crashed(&store, dir, &pod.name, expected, TOPS[at], cut).await;
            self.crashes += 1;
        }
        end
    }

    async fn finish(mut self) -> (usize, usize) {
        for at in 0..2 {
            self.pods[at].side.release_all();
            self.settle(at);
            self.commit_quietly(at).await;
        }
        self.deliver().await;
        let mut fs = self.published[0].clone();
        graft(&mut fs, &self.published[1], TOPS[1]);
        let fresh = Pod::fresh(&self.store, "c", fs.clone()).await;
        shown::same(&fresh.seen().await, &shown::model(&fs), "what the volume holds");
        fresh.close().await;
        for pod in self.pods {
            pod.close().await;
        }
        (self.crashes, self.merged)
    }

    async fn commit_quietly(&mut self, at: usize) {
        self.pods[at].commit().await.unwrap();
        self.published[at] = self.pods[at].side.fs.clone();
    }
}

async fn step(pod: &mut Pod, rng: &mut Rng) {
    pod.side.tick();
    let dice = rng.below(92);
    pod.side.step(rng, dice).await;
}

async fn open_crashed(
    store: &Arc<ScriptedStore>,
    dir: tempfile::TempDir,
    name: &str,
    expected: &Expected,
    top: &[u8],
    cut: u64,
) {
    let what = format!("after a crash at byte {cut}");
    let pod = Pod::open(store, dir, name, expected.states[0].clone()).await;
    let seen = pod.seen().await;
    let mut shown: Vec<(Fs, Shown)> = Vec::new();
    for state in &expected.states {
        let mut state = state.clone();
        if pod.is_clean() {
            graft(&mut state, &expected.others, expected.other_top);
        }
        let text = shown::model(&state);
        shown.push((state, text));
    }
    let found = shown.iter().find(|(_, text)| *text == seen);
    let Some((fs, _)) = found else {
        shown::same(&seen, &shown[0].1, &what);
        return;
    };
    let base = pod.mount.base_ref();
    let answer = pod.commit().await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut all = fs.clone();
    graft(&mut all, &expected.others, expected.other_top);
    let fresh = Pod::fresh(store, "fresh", all.clone()).await;
    let top = String::from_utf8_lossy(top);
    let what = format!("the volume, {what}, after a commit of {top} on {base:?} ({answer:?})");
    shown::same(&fresh.seen().await, &shown::model(&all), &what);
    fresh.close().await;
    pod.close().await;
}

async fn program(seed: u64, steps: u64) -> (usize, usize) {
    let mut pair = Pair::new(seed).await;
    for _ in 0..steps {
        pair.step().await;
    }
    pair.finish().await
}

#[tokio::test]
async fn two_mounts_do_what_the_model_does_through_commits_reloads_and_crashes() {
    // To replay one: SAILVOL_SEED=n cargo test --lib mount::tests::scripted::programs
    let steps = number("SAILVOL_STEPS").unwrap_or(80);
    if let Some(seed) = number("SAILVOL_SEED") {
        program(seed, steps).await;
        return;
    }
    let (mut crashes, mut merged) = (0, 0);
    for seed in 1..=number("SAILVOL_PROGRAMS").unwrap_or(20) {
        eprintln!("seed {seed}");
        let (some, more) = program(seed, steps).await;
        crashes += some;
        merged += more;
    }
    eprintln!("{crashes} crashes, {merged} merged commits");
    assert!(crashes > 30 && merged > 0, "{crashes} {merged}");
}
