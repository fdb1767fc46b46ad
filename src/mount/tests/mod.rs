//! Whole mounts without a kernel: pods on one store, crashes and all, from a seed.
//!
//! Everything is the product's own but three things: the kernel ([`process`]), the network with the store behind it
//! ([`network`]), and the pauses between attempts, which are left out. A scheduler drawn from the seed decides step by
//! step what happens next: a program works in a pod, a command begins, one request to the store goes on and meets its
//! fate, a pod is killed or loses its cache, a PUT that was given up arrives.
//!
//! After each step:
//! - a record that has appeared is one commit, in the log once, and its tree is the reference merge of that commit's frozen
//!   view with the record before;
//! - an acknowledged commit is at the number that was answered, one that failed is not in the log, and one of unknown
//!   outcome is settled by the next command or mount;
//! - what a pod sees is its model: base and local changes, stashes and open files; always of the pod whose command has just
//!   ended, else of some.
//!
//! What is compared is all that can be seen, read through the view by whoever remembers directories since the last look, as a
//! kernel does; nodes that only the state directory has are read from there again after an eviction. Most volumes have small
//! nodes, and some worlds have directories of many pages, so that a prepared tree has packs and what a commit leaves alone
//! stays in packs of older ones. (With trees that fit into their super node there is nothing that could be deleted too early.)
//!
//! At the end, with a store that is well again, everybody commits, all see the same, and fsck finds nothing.
//!
//! A kill falls between two steps: whatever waits for the store ends there, what is under way on the local disk is still
//! done, and the pod begins again from its directories. Crashes inside a step, and power cuts, are tested where the
//! journal is (`overlay/tests/crash.rs`) and by the campaigns with real mounts.
//!
//! What a seed determines: programs, data, commands, kills, the order in which requests go on and their fates. What it does
//! not: ids, hashes and times, which are random and real; which of a commit's parallel uploads comes first; when the
//! overlay's own thread tidies up. Nothing that is decided here depends on these, but a seed that failed for them may pass
//! the next time.

mod model;
mod network;
mod pod;
mod process;
mod program;
mod scripted;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::format::NodeSizes;
use crate::mount::{Mount, MountOptions, Unattended, WhileTaken};
use crate::store::{IMPATIENT, ObjectStore};
use crate::tree::merge_model::Dir;
use crate::view::ShownOwner;
use crate::volume::testing::create_options;
use crate::volume::{Clock, CreateOptions, Volume};
use pod::VOLUME;
use world::World;

/// Seeds that CI runs; `SAILVOL_SIM_SEEDS` runs as many, from `SAILVOL_SIM_SEED` on.
const SEEDS: u64 = 150;
/// Seeds that failed once, whoever was wrong: run before the others. What they met has tests of its own as well, for a seed
/// means something else when the mount asks the store for other things.
const FOUND: &[u64] = &[2530, 2686, 3664, 4068, 7843, 23870, 25103];
const STEPS: u64 = 150;

/// A directory in memory where there is one: what a power cut takes is tested elsewhere, `kill -9` takes nothing, and a
/// busy disk takes its time for each sync.
fn new_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    dir.expect("a directory")
}

/// A mount of the volume [`VOLUME`], made if it is not there, that lives in `dir`.
fn options(dir: &Path, name: &str) -> MountOptions {
    MountOptions {
        volume: VOLUME.to_owned(),
        dir: "/nowhere".into(),
        name: name.to_owned(),
        create: true,
        read_only: false,
        at: None,
        state_dir: dir.join("state"),
        cache_dir: dir.join("cache"),
        shown_owner: ShownOwner::default(),
        root_owner: (0, 0),
        cache_bytes_max: 256 << 20,
        cache_free_floor_bytes: 0,
        remote_timeout: Duration::from_secs(300),
        open_timeout: Duration::from_secs(300),
        stash_age_max: Duration::from_secs(1 << 30),
        stash_bytes_max: 1 << 40,
        by: name.to_owned(),
        unattended: Unattended::default(),
        while_taken: WhileTaken::default(),
        clock: Clock::system(),
    }
}

/// Makes the volume [`VOLUME`] with nodes so small that every directory has its own, and those of a dozen names have index
/// pages: a mount then meets what large directories are, without being slow.
async fn new_volume_of_small_nodes(store: Arc<dyn ObjectStore>) {
    let options = CreateOptions {
        nodes: NodeSizes {
            inline_max: 0,
            page_max: 1 << 10,
            ..NodeSizes::default()
        },
        ..create_options(VOLUME)
    };
    let made = Volume::create(store, Clock::system(), &options).await;
    made.expect("a volume");
}

/// Says whether nothing of a mount is left: tasks may hold its overlay and cache for a moment after it, and the locks of
/// their directories with them.
fn gone(mount: &Mount) -> impl Fn() -> bool + use<> {
    let overlay = mount.overlay.as_ref().map(Arc::downgrade);
    let cache = Arc::downgrade(mount.source.cache());
    move || overlay.as_ref().is_none_or(|overlay| overlay.strong_count() == 0) && cache.strong_count() == 0
}

fn same(what: &str, is: &Dir, should: &Dir) -> Result<(), String> {
    if is == should {
        return Ok(());
    }
    let (is_flat, should_flat) = (is.flat(), should.flat());
    let mut text = format!("{what}:");
    if is.attrs != should.attrs {
        text += &format!("\n  the root is {:?}, should be {:?}", is.attrs, should.attrs);
    }
    for path in is_flat.keys().chain(should_flat.keys()) {
        let (one, other) = (is_flat.get(path), should_flat.get(path));
        if one != other {
            text += &format!("\n  {path} is {one:?}, should be {other:?}");
        }
    }
    Err(text)
}

/// One world; panics with what is wrong and how to see it again.
fn simulate(seed: u64) {
    IMPATIENT.set(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    let replay =
        format!("SAILVOL_SIM_SEED={seed} SAILVOL_SIM_SEEDS=1 cargo test --workspace --lib mount::tests");
    let mut trail = Vec::new();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut world = World::new(seed).await?;
            let ran = AssertUnwindSafe(world.run(STEPS));
            let ran = futures::FutureExt::catch_unwind(ran).await;
            trail = std::mem::take(&mut world.trail);
            ran.unwrap_or_else(|_| Err("a panic, see above".to_owned()))
        })
    }));
    let failure = match ended {
        Ok(Ok(())) => return,
        Ok(Err(failure)) => failure,
        Err(_) => "a panic, see above".to_owned(),
    };
    let last = trail.len().saturating_sub(60);
    panic!("{replay}\n{}\n{failure}", trail[last..].join("\n"));
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_or_mixed_up_whatever_happens() {
    let said = number("SAILVOL_SIM_SEED");
    let first = said.unwrap_or(0);
    let range = first..first + number("SAILVOL_SIM_SEEDS").unwrap_or(SEEDS);
    let found = if said.is_none() { FOUND } else { &[] };
    let seeds: Vec<u64> = found.iter().copied().chain(range).collect();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let failed = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return failed;
                };
                if catch_unwind(|| simulate(seed)).is_err() {
                    failed.push(seed);
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let failed = workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker"));
        failed.collect::<Vec<u64>>()
    });
    assert!(failed.is_empty(), "seeds {failed:?} failed, see above");
}
