//! Pods, the store between them, and the ledger of what was committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Attempt, Contents, Model};
use super::network::{Fate, Network};
use super::pod::{Answer, Pod};
use super::process::Process;
use super::program::{Doing, act};
use super::{new_volume_of_small_nodes, same};
use crate::answer::{FailureKind, LocalChanges, ReloadAnswer};
use crate::model::Seq;
use crate::mount::OpenedMount;
use crate::tree::merge_model::Dir;
use crate::volume::FsckOptions;
use crate::volume::testing::{Rng, Verb};

type Res<T> = Result<T, String>;

/// Turns that everything which can go on without an answer of the store is given, at least and at most.
const TURNS_MIN: usize = 3;
const TURNS_MAX: usize = 20_000;

pub struct World {
    rng: Rng,
    network: Arc<Network>,
    contents: Contents,
    pods: Vec<Pod>,
    /// Reads every record through a way without faults.
    auditor: Pod,
    /// Trees of the log, by number.
    log: BTreeMap<Seq, Dir>,
    attempts: Vec<Option<Attempt>>,
    faults: bool,
    large: bool,
    crowded: bool,
    /// What has happened.
    pub trail: Vec<String>,
}

impl World {
    pub async fn new(seed: u64) -> Res<World> {
        let mut rng = Rng::new(seed);
        let network = Network::new(seed);
        let empty = Model::at(&Dir::default());
        if rng.chance(80) {
            new_volume_of_small_nodes(network.direct()).await;
        }
        let mut auditor = Pod::new(99, empty, 64 << 20);
        // The first to come makes the volume.
        opened(&mut auditor, &network).await?.mount.close().await;
        auditor.read_only = true;
        let open = opened(&mut auditor, &network).await?;
        auditor.opened(open);
        let mut contents = Contents::default();
        let tree = auditor
            .process()
            .look(&mut contents)
            .await
            .map_err(|e| e.to_string())?;
        let first = auditor.live().base_ref().seq;
        let mut pods = Vec::new();
        for number in 0..2 + rng.below(3) as usize {
            let cache_bytes = [1 << 20, 16 << 20][rng.below(2) as usize];
            let mut pod = Pod::new(number, Model::at(&tree), cache_bytes);
            pod.read_only = number == 3;
            pod.passthrough = rng.chance(50);
            pods.push(pod);
        }
        Ok(World {
            faults: rng.chance(80),
            large: rng.chance(30),
            crowded: rng.chance(40),
            rng,
            network,
            contents,
            pods,
            auditor,
            log: BTreeMap::from([(first, tree)]),
            attempts: Vec::new(),
            trail: Vec::new(),
        })
    }

    fn say(&mut self, what: String) {
        if std::env::var_os("SAILVOL_LOG").is_some() {
            eprintln!("{what}");
        }
        self.trail.push(what);
    }

    // ---- the scheduler

    pub async fn run(&mut self, steps: u64) -> Res<()> {
        for _ in 0..steps {
            self.step().await?;
        }
        self.end().await
    }

    async fn step(&mut self) -> Res<()> {
        let at = self.rng.below(self.pods.len() as u64) as usize;
        match self.rng.below(100) {
            0..40 => self.work(at).await?,
            40..48 => self.command(at).await?,
            48..94 => self.answer(),
            94..96 => self.kill(at).await?,
            96..98 => self.evict(at),
            _ => self.arrive_late(),
        }
        self.follow().await
    }

    /// A program in a pod does something; a pod that is down is started.
    async fn work(&mut self, at: usize) -> Res<()> {
        let pod = &mut self.pods[at];
        if pod.mount.is_none() {
            if pod.command.is_none() {
                pod.open(&self.network);
                self.say(format!("pod {at}: open"));
            }
            return Ok(());
        }
        if pod.read_only || pod.closing {
            return Ok(());
        }
        let commits = pod
            .command
            .as_ref()
            .is_none_or(|command| command.attempt.is_some());
        let mut doing = Doing {
            rng: &mut self.rng,
            contents: &mut self.contents,
            large: self.large,
            crowded: self.crowded,
            may_hold: commits,
        };
        let done = act(pod, &mut doing).await.map_err(|e| format!("pod {at}: {e}"))?;
        if done != "nothing" {
            self.say(format!("pod {at}: {done}"));
        }
        Ok(())
    }

    async fn command(&mut self, at: usize) -> Res<()> {
        if !self.pods[at].is_idle() {
            return self.work(at).await;
        }
        let patience = [Some(0), None][self.rng.below(2) as usize];
        let dice = match self.pods[at].read_only {
            true => 60,
            false => self.rng.below(100),
        };
        let stashes: Vec<u64> = self.pods[at].model.stashes.keys().copied().collect();
        let what = match dice {
            0..60 => {
                let number = self.attempts.len();
                self.attempts.push(None);
                self.pods[at].commit(number, patience);
                format!("commit {number}")
            }
            60..75 => {
                self.pods[at].close_all().await;
                self.pods[at].reload(LocalChanges::Stash, None);
                "reload".to_owned()
            }
            75..85 => {
                self.pods[at].close_all().await;
                self.pods[at].reload(LocalChanges::Keep, None);
                "reload --keep".to_owned()
            }
            85..88 => {
                self.pods[at].close_all().await;
                self.pods[at].reload(LocalChanges::IfClean, None);
                "reload --if-clean".to_owned()
            }
            88..91 => {
                self.pods[at].close_all().await;
                self.pods[at].close();
                "unmount".to_owned()
            }
            _ if !stashes.is_empty() => {
                let id = stashes[self.rng.below(stashes.len() as u64) as usize];
                self.pods[at].close_all().await;
                self.pods[at].restore(id);
                format!("restore stash {id}")
            }
            _ => return Ok(()),
        };
        self.say(format!("pod {at}: {what}"));
        Ok(())
    }

    fn fate(&mut self, verb: Verb) -> Fate {
        if !self.faults {
            return Fate::Done;
        }
        let dice = self.rng.below(100);
        match (verb, dice) {
            (_, 0..70) => Fate::Done,
            (Verb::PutIfAbsent, 70..78) => Fate::AnswerLost,
            (Verb::PutIfAbsent, 78..82) => Fate::DoneTwice,
            (Verb::PutIfAbsent, 82..89) => Fate::NeverArrives,
            (Verb::PutIfAbsent, 89..95) => Fate::ArrivesLate,
            (Verb::Put, 70..76) => Fate::AnswerLost,
            (Verb::Put, 76..80) => Fate::NeverArrives,
            (Verb::Put, 80..84) => Fate::ArrivesLate,
            (_, 90..) => Fate::Unreachable,
            _ => Fate::Done,
        }
    }

    /// One request goes on.
    fn answer(&mut self) {
        let waiting = self.network.waiting();
        if waiting.is_empty() {
            return;
        }
        let at = self.rng.below(waiting.len() as u64) as usize;
        let (pod, verb, _) = waiting[at];
        let fate = self.fate(verb);
        self.network.release(at, fate);
        self.say(format!("pod {pod}: {verb:?} {fate:?}"));
    }

    fn arrive_late(&mut self) {
        let late = self.network.late();
        if late.is_empty() {
            return;
        }
        let at = self.rng.below(late.len() as u64) as usize;
        // While a pod looks whether its commit was published, that does not change.
        if self.pods[late[at]].command.is_none() {
            self.network.arrive_late(at);
            self.say(format!("pod {}: a PUT arrives", late[at]));
        }
    }

    fn evict(&mut self, at: usize) {
        if self.pods[at].mount.is_some() {
            let source = &self.pods[at].live().source;
            let freed = source.cache().make_room(u64::MAX >> 8);
            // Nor does memory stand in for what the state directory must have.
            source.forget_all_local();
            self.say(format!("pod {at}: evict, {freed} bytes"));
        }
    }

    async fn kill(&mut self, at: usize) -> Res<()> {
        let mut fates = Vec::new();
        for _ in 0..64 {
            let fate = [Fate::Done, Fate::NeverArrives, Fate::ArrivesLate][self.rng.below(3) as usize];
            fates.push(fate);
        }
        self.take_note_of_freeze(at);
        let gone = self.pods[at].kill();
        self.network
            .cut_off(at, || fates.pop().unwrap_or(Fate::NeverArrives));
        self.say(format!("pod {at}: killed"));
        self.until_gone(at, gone).await
    }

    async fn until_gone(&self, at: usize, gone: impl Fn() -> bool) -> Res<()> {
        for _ in 0..TURNS_MAX {
            if gone() {
                return Ok(());
            }
            turn().await;
        }
        Err(format!("pod {at} does not go away"))
    }

    // ---- what comes of it

    /// Lets everything go on that needs no answer of the store, and takes note of what has come of it.
    async fn follow(&mut self) -> Res<()> {
        for turns in 0..TURNS_MAX {
            turn().await;
            let waiting = self.network.waiting();
            let busy = self.pods.iter().filter(|pod| {
                let runs = pod
                    .command
                    .as_ref()
                    .is_some_and(|command| !command.task.is_finished());
                runs && !waiting.iter().any(|(number, ..)| *number == pod.number)
            });
            if turns >= TURNS_MIN && busy.count() == 0 {
                break;
            }
        }
        // Records first: one may have settled the commit before the one that was frozen since. (That one needs another request
        // to get into the log.)
        self.audit().await?;
        for at in 0..self.pods.len() {
            self.take_note_of_freeze(at);
        }
        for at in 0..self.pods.len() {
            let ended = self.pods[at]
                .command
                .as_ref()
                .is_some_and(|c| c.task.is_finished());
            if ended {
                self.finish(at).await?;
                self.check(at).await?;
            } else if self.rng.chance(15) {
                self.check(at).await?;
            }
        }
        Ok(())
    }

    async fn check(&mut self, at: usize) -> Res<()> {
        match self.pods[at].mount.is_some() {
            true if !self.pods[at].closing => self.pods[at].check(&mut self.contents).await,
            _ => Ok(()),
        }
    }

    fn take_note_of_freeze(&mut self, at: usize) {
        let Some(number) = self.pods[at].has_frozen() else {
            return;
        };
        // What was not settled before is settled now.
        self.thaw(at);
        let pod = &mut self.pods[at];
        let open = pod.open_paths();
        let attempt = pod.model.freeze(at, number, open);
        self.attempts[number] = Some(attempt);
    }

    /// The commit that was frozen is settled: published if the log has it.
    fn thaw(&mut self, at: usize) {
        let Some(number) = self.pods[at].model.attempt else {
            return;
        };
        let attempt = self.attempts[number].as_ref().expect("it was frozen");
        let published = attempt.published.is_some().then_some(attempt);
        self.pods[at].model.thaw(published);
    }

    /// Reads what is new in the log: each record is one commit, and its tree is that commit on the record before.
    async fn audit(&mut self) -> Res<()> {
        while self.network.records() > self.log.len() {
            let (last, head) = self.log.last_key_value().expect("the first record");
            let (seq, head) = (*last + 1, head.clone());
            let mount = self.auditor.live().clone();
            self.auditor.reload(LocalChanges::Stash, Some(seq));
            let Answer::Reloaded(_, answer) = finished(&mut self.auditor).await? else {
                return Err("a reload ended as something else".to_owned());
            };
            answer.map_err(|e| format!("auditing record {seq}: {e}"))?;
            let seen = Process::new(mount.view()).look(&mut self.contents).await;
            let seen = seen.map_err(|e| format!("auditing record {seq}: {e}"))?;
            let (known, _) = mount.known_head();
            let record = mount
                .volume
                .record(&known, seq)
                .await
                .map_err(|e| e.to_string())?
                .record;
            let number: usize = record
                .message
                .parse()
                .map_err(|_| "a record of nobody".to_owned())?;
            let hints: Vec<(String, String)> = record
                .renames
                .iter()
                .map(|(from, to)| (path_of(&from.to_string()), path_of(&to.to_string())))
                .collect();
            let attempt = self.attempts[number].as_mut();
            let attempt = attempt.ok_or_else(|| format!("record {seq}: commit {number} froze nothing"))?;
            if let Some(before) = attempt.published {
                return Err(format!(
                    "commit {number} is in the log twice, at {before} and {seq}"
                ));
            }
            attempt.published = Some(seq);
            let what = format!("tree of record {seq}, commit {number} of pod {}", attempt.pod);
            let replay = |attempt: &Attempt| {
                let should = attempt
                    .replay(&head, &hints)
                    .map_err(|e| format!("record {seq}: {e}"))?;
                same(&what, &seen, &should)
            };
            if replay(attempt).is_err() {
                attempt.take_as_read(&seen);
                replay(attempt)?;
            }
            self.log.insert(seq, seen);
            self.say(format!("record {seq} is commit {number}"));
        }
        Ok(())
    }

    fn record(&self, seq: Seq) -> Res<Dir> {
        let tree = self.log.get(&seq).cloned();
        tree.ok_or_else(|| format!("there is no record {seq}"))
    }

    async fn finish(&mut self, at: usize) -> Res<()> {
        let command = self.pods[at].command.take().expect("it has ended");
        let answer = command.task.await.map_err(|e| format!("pod {at}: {e}"))?;
        let told = match &answer {
            Answer::Opened(answer) => answer.as_ref().map(|_| "open".to_owned()).map_err(Clone::clone),
            Answer::Closed => Ok("unmounted".to_owned()),
            Answer::Committed(answer) => match answer {
                Ok(answer) => Ok(format!("committed {:?}", answer.seq)),
                Err(failure) => Err(failure.clone()),
            },
            Answer::Reloaded(_, answer) | Answer::Restored(_, answer) => match answer {
                Ok(answer) => Ok(format!("moved {} to {}", answer.from, answer.to)),
                Err(failure) => Err(failure.clone()),
            },
        };
        match told {
            Ok(told) => self.say(format!("pod {at}: {told}")),
            Err(failure) => {
                self.say(format!("pod {at}: {:?}: {failure}", failure.kind));
                let expected = match failure.kind {
                    FailureKind::OutcomeUnknown => self.faults,
                    // Whoever has no patience, too.
                    FailureKind::StoreUnreachable | FailureKind::Refused => true,
                    _ => false,
                };
                if !expected {
                    return Err(format!("pod {at}: {:?}: {failure}", failure.kind));
                }
            }
        }
        if let Answer::Opened(Ok(opened)) = answer {
            self.pods[at].opened(opened);
            self.thaw(at);
            return self.begin(at);
        }
        if let Answer::Closed = answer {
            let gone = self.pods[at].kill();
            return self.until_gone(at, gone).await;
        }
        if self.pods[at].mount.is_none() {
            return Ok(());
        }
        // A commit of unknown outcome stays frozen until the next command has settled it.
        if !self.pods[at].is_frozen() {
            if let (Answer::Committed(Err(failure)), Some(number)) = (&answer, command.attempt)
                && failure.kind != FailureKind::OutcomeUnknown
                && let Some(attempt) = &self.attempts[number]
                && attempt.published.is_some()
            {
                return Err(format!("commit {number} failed ({failure}), but is in the log"));
            }
            if let (Answer::Committed(Ok(answer)), Some(number)) = (&answer, command.attempt) {
                let published = self.attempts[number]
                    .as_ref()
                    .and_then(|attempt| attempt.published);
                // The number of an earlier commit that was settled, when there was nothing else.
                let own = answer.seq.filter(|seq| Some(*seq) != answer.settled);
                if published != own {
                    return Err(format!(
                        "commit {number}: answered {:?}, is at {published:?}",
                        answer.seq
                    ));
                }
            }
            self.thaw(at);
        } else if self.pods[at].model.attempt.is_none() {
            return Err(format!("pod {at} is frozen, and nobody knows why"));
        }
        match answer {
            Answer::Committed(Ok(answer)) if answer.seq.is_none() => {
                let model = &self.pods[at].model;
                if command.attempt != model.attempt && self.pods[at].held.is_empty() {
                    same("nothing to commit", &model.view, &model.base)?;
                }
                Ok(())
            }
            Answer::Reloaded(local, Ok(answer)) => self.reloaded(at, local, &answer).await,
            Answer::Restored(id, Ok(_)) => {
                if !self.pods[at].model.restore(id) {
                    self.adopt(at).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A mount begins where it stood, or at the newest record when there was nothing local.
    fn begin(&mut self, at: usize) -> Res<()> {
        let base = self.pods[at].live().base_ref();
        let record = self.record(base.seq)?;
        let read_only = self.pods[at].read_only;
        let model = &mut self.pods[at].model;
        if read_only || (model.view == model.base && base.prepared.is_none()) {
            model.stand_at(&record);
        }
        Ok(())
    }

    async fn reloaded(&mut self, at: usize, local: LocalChanges, answer: &ReloadAnswer) -> Res<()> {
        let record = self.record(answer.to)?;
        let read_only = self.pods[at].read_only;
        let open = self.pods[at].open_paths();
        let model = &mut self.pods[at].model;
        if read_only {
            model.stand_at(&record);
            return Ok(());
        }
        let known = match local {
            LocalChanges::Stash => {
                let stash = answer.stash.as_ref().map(|stash| stash.id);
                let kept: Vec<String> = answer.kept.iter().map(|path| path_of(path)).collect();
                if stash.is_none() && kept.is_empty() {
                    same("reloaded without a stash", &model.view, &model.base)?;
                }
                model.reload(&record, stash, &kept);
                true
            }
            LocalChanges::IfClean => {
                same("reloaded as clean", &model.view, &model.base)?;
                model.reload(&record, None, &[]);
                true
            }
            LocalChanges::Keep if answer.from == answer.to && model.base == record => {
                // It may have been the same record, or our own tree that is as the record's.
                model.forget_moves();
                true
            }
            LocalChanges::Keep => model.reload_keep(&record, &open),
        };
        if !known {
            self.adopt(at).await?;
            self.pods[at].model.base = record;
        }
        Ok(())
    }

    /// Takes what is seen for what should be, where the model cannot know.
    async fn adopt(&mut self, at: usize) -> Res<()> {
        let seen = self.pods[at].process().look(&mut self.contents).await;
        self.pods[at].model.adopt(seen.map_err(|e| e.to_string())?);
        Ok(())
    }

    // ---- the end

    /// The store is well again: everything ends, everybody commits, and all is in the log.
    async fn end(&mut self) -> Res<()> {
        self.faults = false;
        self.say("calm".to_owned());
        for round in 0.. {
            for at in 0..self.pods.len() {
                if self.pods[at].mount.is_none() && self.pods[at].command.is_none() {
                    self.pods[at].open(&self.network);
                }
            }
            self.answer();
            self.follow().await?;
            let open = self.pods.iter().all(Pod::is_idle);
            if open && self.network.waiting().is_empty() {
                break;
            }
            if round > 10_000 {
                return Err("it does not come to an end".to_owned());
            }
        }
        while !self.network.late().is_empty() {
            self.network.arrive_late(0);
        }
        self.audit().await?;
        for at in 0..self.pods.len() {
            self.check(at).await?;
            if self.pods[at].read_only {
                continue;
            }
            self.pods[at].close_all().await;
            let number = self.attempts.len();
            self.attempts.push(None);
            self.pods[at].commit(number, None);
            self.until_idle().await?;
            self.check(at).await?;
        }
        for at in 0..self.pods.len() {
            self.pods[at].reload(LocalChanges::IfClean, None);
            self.until_idle().await?;
            self.check(at).await?;
            let (_, head) = self.log.last_key_value().expect("the first record");
            same("the end", &self.pods[at].model.view, head)?;
        }
        self.fsck().await
    }

    async fn until_idle(&mut self) -> Res<()> {
        while !self.pods.iter().all(Pod::is_idle) {
            self.answer();
            self.follow().await?;
        }
        Ok(())
    }

    async fn fsck(&self) -> Res<()> {
        let volume = &self.auditor.live().volume;
        let head = volume.head().await.map_err(|e| e.to_string())?;
        let options = FsckOptions {
            quick: false,
            all_records: true,
        };
        let report = volume
            .fsck(&head, options, &|_| {})
            .await
            .map_err(|e| e.to_string())?;
        match report.damage.is_empty() {
            true => Ok(()),
            false => Err(format!("fsck: {:?}", report.damage)),
        }
    }
}

fn path_of(shown: &str) -> String {
    shown.trim_start_matches('/').to_owned()
}

/// Everything that is ready goes on, and so does what local disks are asked for.
async fn turn() {
    // The one thread for blocking work takes its jobs in order.
    tokio::task::spawn_blocking(|| ()).await.expect("nothing");
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

/// Opens the mount of a pod by a way without faults.
async fn opened(pod: &mut Pod, network: &Arc<Network>) -> Res<OpenedMount> {
    pod.open_by(network.direct());
    match finished(pod).await? {
        Answer::Opened(opened) => opened.map_err(|e| e.to_string()),
        _ => Err("an open ended as something else".to_owned()),
    }
}

async fn finished(pod: &mut Pod) -> Res<Answer> {
    let command = pod.command.take().expect("a command");
    command.task.await.map_err(|e| e.to_string())
}
