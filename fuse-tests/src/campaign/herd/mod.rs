//! Many mounts of one volume, each changed by a driver of its own and looked at all the while: what they show, what they
//! publish and what they bring in is held against a model, answer by answer.
//!
//! A round is a fresh volume with directories of a thousand names and more. Each mount has a driver, whose steps a seed
//! decides: local changes, commits (which merge with those of the others), reloads (plain, `--keep`, `--to N`), stashes,
//! `kill -9` idle and in the middle of a commit or reload, unmounts with and without the cache, while the store fails now
//! and then. Watchers beside it list (getdents in steps of any size, slowly, by handles held across reloads, after
//! rewinddir), read, map, walk and copy with `cp -r`. What is promised:
//!
//! 1. A listing is whole: it is the directory of one moment of its first read, every name once, none without an inode
//!    number; only names that local calls change until its end may be there or not.
//! 2. A path is what it was at some moment of the call: kind, size, target, and bytes, which tell of themselves which write
//!    they are of. No error but ENOENT, and that only for a name that may have been absent.
//! 3. What is held open or mapped across a move of the view stays what it was.
//! 4. `cp -r` says that it is done only when everything is there.
//! 5. A mount shows the record that it stands on with its own changes, also after a commit that was merged, after kills and
//!    new mounts; a reload shows the record that it names, which is what all commits up to it have changed, in their order.
//! 6. Every acknowledged commit is in the log once, one of unknown outcome at most once; whoever overwrote what it had not
//!    seen was told; the newest record and others read right through an empty cache; `fsck` finds nothing.
//!
//! How it is known: [`tree`] holds what is shown, [`ledger`] what each record holds, [`story`] what a mount has shown from
//! moment to moment, so that a call which took a while is compared with every moment that it may have seen.

mod alarm;
mod audit;
mod changes;
mod checks;
mod content;
mod driver;
mod ledger;
mod listing;
mod mapped;
mod mount;
mod story;
mod tree;
mod watch;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::alarm::Alarm;
use self::content::{Node, Tag};
use self::driver::Driver;
use self::ledger::Ledger;
use self::mount::Member;
use self::tree::{Place, Tree};
use self::watch::Watcher;
use super::random::Random;
use super::{Plan, Tally, kills};
use crate::pod::Cluster;

/// Names in each shared directory that all mounts change.
const HOT_NAMES: u64 = 40;
/// A round that takes longer hangs somewhere.
const ROUND_TIME: Duration = Duration::from_secs(1800);

/// How much a round is.
#[derive(Clone, Debug)]
pub struct Size {
    /// Mounts.
    pub mounts: usize,
    /// Names in each of the shared directories.
    pub names: Vec<usize>,
    /// Steps of each driver.
    pub steps: u64,
    /// Watchers of each mount.
    pub watchers: usize,
    /// The largest files, bytes, below 16 MiB.
    pub large_bytes: usize,
}

impl Size {
    /// What a small machine does in half a minute.
    pub fn small() -> Size {
        Size {
            mounts: 12,
            names: vec![1000, 1000, 1200, 6000],
            steps: 10,
            watchers: 1,
            large_bytes: 5 << 20,
        }
    }

    /// A round of minutes.
    pub fn large() -> Size {
        Size {
            mounts: 14,
            names: vec![1000, 1400, 5000, 20_000, 100_000],
            steps: 60,
            watchers: 2,
            large_bytes: 12 << 20,
        }
    }
}

/// What all threads of a round know.
pub(crate) struct Herd<'a> {
    plan: &'a Plan,
    size: &'a Size,
    cluster: Cluster,
    ledger: Ledger,
    alarm: Alarm,
    /// The drivers have taken their steps.
    done: AtomicBool,
}

/// Runs the campaign.
///
/// # Panics
/// Where a promise is broken, with the seed of the round.
pub fn run(plan: &Plan, size: &Size) -> Tally {
    let mut tally = Tally::default();
    for seed in plan.seed..plan.seed + plan.rounds {
        let began = Instant::now();
        let round = round(plan, size, seed).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        plan.say(format_args!(
            "round of seed {seed}: {:.0} s; {round}",
            began.elapsed().as_secs_f64()
        ));
        tally.include(&round);
        tally.add("rounds", 1);
    }
    tally
}

fn round(plan: &Plan, size: &Size, seed: u64) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let herd = Herd {
        plan,
        size,
        cluster: Cluster::start(),
        ledger: Ledger::default(),
        alarm: Alarm::default(),
        done: AtomicBool::new(false),
    };
    let (first, tree) = herd.populate(seed)?;
    herd.ledger.begin(first, tree.clone());
    let members = herd.mounts(&mut random);
    for member in &members {
        member.mount()?;
        member.begin(tree.clone(), first);
    }
    let faults = random.chance(70);
    if faults {
        kills::fail_now_and_then(&herd.cluster.server);
    }
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        let mut drivers = Vec::new();
        for member in &members {
            let number = member.number as u64;
            let (herd, tally) = (&herd, &tally);
            drivers.push(scope.spawn(move || {
                let _guard = herd.alarm.guard("a driver");
                let mut driver = Driver::new(herd, member, seed * 1000 + number);
                if let Err(wrong) = driver.run() {
                    member.accuse(&herd.alarm, &wrong);
                }
                tally.lock().include(&driver.tally);
            }));
            for n in 0..size.watchers as u64 {
                scope.spawn(move || {
                    let _guard = herd.alarm.guard("a watcher");
                    let mut watcher = Watcher::new(herd, member, seed * 1000 + 100 * (n + 1) + number);
                    if let Err(wrong) = watcher.run() {
                        member.accuse(&herd.alarm, &wrong);
                    }
                    tally.lock().include(&watcher.tally);
                });
            }
        }
        let deadline = Instant::now() + ROUND_TIME;
        while !drivers.iter().all(|driver| driver.is_finished()) {
            if Instant::now() > deadline && !herd.alarm.is_set() {
                herd.alarm.raise(format!("not done within {ROUND_TIME:?}"));
                // Whoever waits for one of them is told.
                members.iter().for_each(|member| member.pod.kill_daemon());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        herd.done.store(true, Ordering::Release);
    });
    if let Some(wrong) = herd.alarm.said() {
        return Err(wrong);
    }
    herd.cluster.server.clear_faults();
    let mut tally = tally.into_inner();
    herd.audit(&members, &mut random, &mut tally)?;
    tally.add("rounds with a store that fails now and then", u64::from(faults));
    Ok(tally)
}

impl Herd<'_> {
    /// Path of the shared directory of this number: at the root, or some levels down.
    fn dir_path(number: usize) -> String {
        match number % 3 {
            2 => format!("deep/er/d{number}"),
            _ => format!("d{number}"),
        }
    }

    /// One of the directories that all mounts change.
    fn shared_dir(&self, random: &mut Random) -> String {
        Herd::dir_path(random.range(0..self.size.names.len() as u64) as usize)
    }

    /// A name that all mounts change; it may be absent.
    fn hot_place(&self, random: &mut Random) -> Place {
        let dir = self.shared_dir(random);
        Place::new(&dir, &format!("h{}", random.range(0..HOT_NAMES)))
    }

    /// The first record, with what it holds: put into a volume from a local directory.
    fn populate(&self, seed: u64) -> Result<(u64, Arc<Tree>), String> {
        let mut random = Random::new(seed ^ 0x5eed);
        let local = tempfile::Builder::new().prefix("sailvol-herd-").tempdir();
        let local = local.map_err(|e| format!("a temporary directory: {e}"))?;
        let mut tree = Tree::empty();
        let mut writes = 0;
        for (number, names) in self.size.names.iter().enumerate() {
            let dir = Herd::dir_path(number);
            make_dir(local.path(), &mut tree, &dir)?;
            for n in 0..*names {
                writes += 1;
                let len = match n {
                    0 => self.size.large_bytes as u64 - 1,
                    1..5 => random.range(50_000..300_000),
                    _ => random.range(8..200),
                };
                let tag = Tag::new(0, writes, len as usize);
                let place = Place::new(&dir, &format!("f{n:06}"));
                let path = local.path().join(place.path());
                fs::write(&path, tag.bytes()).map_err(|e| format!("{}: {e}", path.display()))?;
                tree.set(&place, Some(Node::File(tag)));
            }
        }
        for number in 1..=self.size.mounts {
            make_dir(local.path(), &mut tree, &format!("own{number}"))?;
        }
        let pod = self.cluster.pod();
        pod.json(["volume", "create", "data"]);
        let source = format!("{}/.", local.path().display());
        let answer = pod.json(["put", &source, "data:/"]);
        let seq = answer["seq"].as_u64().ok_or_else(|| format!("put: {answer}"))?;
        Ok((seq, Arc::new(tree)))
    }

    fn mounts(&self, random: &mut Random) -> Vec<Member> {
        let mount = |number| {
            let mut options = self.plan.mount_options.clone();
            if random.chance(50) {
                options.push("--passthrough=off".to_owned());
            }
            Member::new(number, self.cluster.pod(), options)
        };
        (1..=self.size.mounts).map(mount).collect()
    }
}

/// A directory, on disk and in the model.
fn make_dir(root: &Path, tree: &mut Tree, dir: &str) -> Result<(), String> {
    fs::create_dir_all(root.join(dir)).map_err(|e| format!("{dir}: {e}"))?;
    tree.set(&Place::of_path(dir), Some(Node::Dir));
    Ok(())
}
