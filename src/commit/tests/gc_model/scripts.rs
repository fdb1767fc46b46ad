//! For each rule the shortest schedule in which leaving it out does harm: the same schedule is clean with the rule.

use std::sync::Arc;
use std::time::Duration;

use super::actors::{Actor, Life, Stop};
use super::world::{Gate, Stepped, World, Wrong};
use super::*;
use crate::format::lease_prefix;
use crate::model::Seq;
use crate::volume::rules::Mutant;

/// The file whose bytes nobody but the mount of the script needs any more, and where it is moved.
const KEPT: &str = "/d/p0";
const MOVED: &str = "/e/p1";

struct Stage {
    world: Arc<World>,
    actors: u64,
}

type Played = Result<(), Stop>;

impl Stage {
    async fn new(wrong: Option<Wrong>) -> Stage {
        let world = World::new(wrong);
        first_state(&world).await;
        Stage { world, actors: 0 }
    }

    /// Somebody whose requests are answered at once.
    fn free(&mut self) -> Actor {
        self.actors += 1;
        let store = Arc::new(Stepped {
            world: self.world.clone(),
            gate: Gate::default(),
            free: true,
        });
        Actor {
            store,
            strict: true,
            ..actor(&self.world, self.actors, 0)
        }
    }

    /// Somebody who goes step by step.
    fn stepped<F: Future<Output = Played> + 'static>(&mut self, job: impl FnOnce(Actor) -> F) -> Running {
        self.actors += 1;
        let mut actor = actor(&self.world, self.actors, 0);
        actor.strict = true;
        let (gate, world) = (actor.gate.clone(), self.world.clone());
        let job = job(actor);
        Running {
            gate,
            weight: 1,
            collects: false,
            until_sweeps: 0,
            future: Box::pin(async move {
                match job.await {
                    Err(Stop::Bug(what)) => world.violated(what),
                    Err(Stop::Stale(why)) => world.count(why),
                    Ok(()) => {}
                }
            }),
        }
    }

    /// A mount that changes a file and commits, step by step.
    fn committer(&mut self) -> Running {
        self.stepped(|mut actor| async move {
            let mut life = actor.begin().await?;
            life.mount.write(KEPT, "late").await;
            actor.commit(&mut life.mount, false).await
        })
    }

    fn pass(&self, hours: u64) {
        self.world.memory.advance_time(Duration::from_secs(hours * 3600));
    }

    /// Somebody else makes a change and publishes it.
    async fn publish(&mut self, change: impl AsyncFnOnce(&mut Mount)) -> Result<Seq, Stop> {
        let mut actor = self.free();
        let mut life = actor.begin().await?;
        change(&mut life.mount).await;
        actor.commit(&mut life.mount, false).await?;
        self.world.check();
        Ok(life.mount.head.seq())
    }

    /// Collects so many times, retaining as little as may be.
    async fn collect(&mut self, times: u64, checkpoints: &[Seq]) -> Played {
        for _ in 0..times {
            let mut actor = self.free();
            actor.checkpoints = checkpoints.to_vec();
            actor.collect().await?;
            self.world.check();
        }
        Ok(())
    }

    /// A day and a bit, in which somebody renews a lease in time.
    async fn a_day_with(&mut self, actor: &mut Actor, life: &mut Life) -> Played {
        for _ in 0..4 {
            self.pass(7);
            actor.lease(life, []).await?;
        }
        Ok(())
    }

    /// A mount that moved [`KEPT`], which others have removed since.
    async fn mover(&mut self) -> Result<(Actor, Life), Stop> {
        self.publish(async |mount| mount.write(KEPT, vec![b'k'; 3000]).await)
            .await?;
        let mut actor = self.free();
        let mut life = actor.begin().await?;
        life.mount.rename(KEPT, MOVED).await;
        self.publish(async |mount| mount.remove(KEPT).await).await?;
        Ok((actor, life))
    }
}

/// One step after the other until the actor stands before the `nth` such request.
async fn until(running: &mut Running, nth: u64, verb: Verb, part: &str) {
    let mut left = nth;
    loop {
        assert!(!step(running).await, "it ended before {verb:?} {part}");
        let there = running.gate.request();
        if there.is_some_and(|(asked, key)| asked == verb && key.contains(part)) {
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

async fn to_the_end(running: &mut Running) {
    while !step(running).await {}
}

/// A committer that slept before its PUT, while its number was used, superseded and trimmed.
async fn a_trimmed_number_is_used_again(stage: &mut Stage) -> Played {
    let mut late = stage.committer();
    until(&mut late, 1, Verb::Put, "/log/").await;
    stage.publish(async |mount| mount.write(MOVED, "a").await).await?;
    stage.publish(async |mount| mount.write(MOVED, "b").await).await?;
    for _ in 0..2 {
        stage.pass(25);
        stage.collect(1, &[]).await?;
    }
    to_the_end(&mut late).await;
    Ok(())
}

/// A committer that slept while it read what is new, number by number: the last one that it finds was superseded before
/// that, and what follows is trimmed just before it asks.
async fn a_number_is_trimmed_before_the_eyes_of_a_sleeper(stage: &mut Stage) -> Played {
    let mut late = stage.committer();
    until(&mut late, 2, Verb::Get, "/log/").await;
    for text in ["a", "b", "c", "d"] {
        stage
            .publish(async |mount| mount.write(MOVED, text).await)
            .await?;
    }
    until(&mut late, 1, Verb::Get, "/log/").await;
    stage.pass(25);
    until(&mut late, 1, Verb::Get, "/log/").await;
    stage.collect(1, &[]).await?;
    to_the_end(&mut late).await;
    Ok(())
}

/// The fence that was just created, when the next record is there already.
async fn a_fence_is_superseded_before_it_is_confirmed(stage: &mut Stage) -> Played {
    let mut collector = stage.stepped(|mut actor| async move { actor.collect().await });
    until(&mut collector, 1, Verb::Put, "/log/").await;
    stage.pass(1);
    until(&mut collector, 1, Verb::List, "/log/").await;
    stage.publish(async |mount| mount.write(MOVED, "a").await).await?;
    to_the_end(&mut collector).await;
    Ok(())
}

/// A collector that slept before it marked, while a newer one trimmed what it would mark from.
async fn a_collector_marks_from_trimmed_records(stage: &mut Stage) -> Played {
    stage
        .publish(async |mount| mount.write(KEPT, vec![b'k'; 3000]).await)
        .await?;
    stage.pass(25);
    stage.collect(2, &[]).await?;
    let mut old = stage.stepped(|mut actor| async move { actor.collect().await });
    until(&mut old, 2, Verb::List, "/lease/").await;
    for _ in 0..2 {
        stage.pass(25);
        stage.collect(1, &[]).await?;
    }
    to_the_end(&mut old).await;
    Ok(())
}

/// Uploads that are older than two fences.
async fn an_upload_gets_old(stage: &mut Stage) -> Played {
    let mut late = stage.stepped(|mut actor| async move {
        let mut life = actor.begin().await?;
        life.mount.write(KEPT, vec![b'k'; 4 << 20]).await;
        actor.commit(&mut life.mount, false).await
    });
    until(&mut late, 1, Verb::Put, "/log/").await;
    stage.pass(25);
    stage.collect(3, &[]).await?;
    to_the_end(&mut late).await;
    Ok(())
}

/// A moved file of a record that is not kept any more.
async fn an_old_reference_is_published(stage: &mut Stage) -> Played {
    let (mut actor, mut life) = stage.mover().await?;
    stage.pass(25);
    stage.collect(3, &[]).await?;
    actor.commit(&mut life.mount, false).await
}

/// The same after `reload --keep`, so that the newest source is kept and an older one is not.
async fn an_older_source_is_not_kept(stage: &mut Stage) -> Played {
    let (mut actor, mut life) = stage.mover().await?;
    actor.reload(&mut life, true, false).await?;
    let newest = life.mount.head.seq();
    // As if the lease had lapsed.
    stage.world.mounts.lock().clear();
    let raw = stage.world.raw();
    for lease in raw
        .store()
        .list(&lease_prefix(&raw.id()), None, 10)
        .await
        .unwrap()
        .objects
    {
        raw.store().delete(&[lease.key]).await.unwrap();
    }
    stage.pass(25);
    stage.collect(3, &[newest]).await?;
    actor.commit(&mut life.mount, false).await
}

/// A reload that keeps a moved file: the mount still draws from the record that the file came from.
async fn a_reload_keeps_what_came_from_before(stage: &mut Stage) -> Played {
    let (mut actor, mut life) = stage.mover().await?;
    actor.reload(&mut life, true, false).await?;
    life.handles.clear();
    stage.a_day_with(&mut actor, &mut life).await?;
    stage.collect(3, &[]).await
}

/// A stash that was made before a reload and is restored after it.
async fn a_stash_brings_its_sources(stage: &mut Stage) -> Played {
    let (mut actor, mut life) = stage.mover().await?;
    actor.reload(&mut life, false, true).await?;
    life.handles.clear();
    actor.restore_stash(&mut life).await?;
    actor.lease(&mut life, []).await?;
    stage.a_day_with(&mut actor, &mut life).await?;
    stage.collect(3, &[]).await
}

/// As [`a_reload_keeps_what_came_from_before`], and the lease is not written again before the check.
async fn a_lease_names_every_source(stage: &mut Stage) -> Played {
    a_reload_keeps_what_came_from_before(stage).await
}

/// A lease that is written when the record that it names is not kept any more.
async fn a_lease_comes_too_late(stage: &mut Stage) -> Played {
    stage
        .publish(async |mount| mount.write(KEPT, vec![b'k'; 3000]).await)
        .await?;
    let mut late = stage.stepped(|mut actor| async move {
        let mut life = actor.begin().await?;
        let first = life.mount.head.seq();
        actor.lease(&mut life, [first]).await?;
        actor.gate.turn().await;
        Ok(())
    });
    until(&mut late, 1, Verb::Put, "/lease/").await;
    stage.publish(async |mount| mount.remove(KEPT).await).await?;
    stage.pass(25);
    stage.collect(3, &[]).await?;
    to_the_end(&mut late).await;
    Ok(())
}

/// A lease that is written and confirmed between a collector's look at the leases and its fence.
async fn a_lease_comes_before_the_fence(stage: &mut Stage) -> Played {
    let kept = stage
        .publish(async |mount| mount.write(KEPT, vec![b'k'; 3000]).await)
        .await?;
    let mut actor = stage.free();
    let mut life = actor.begin().await?;
    stage.publish(async |mount| mount.remove(KEPT).await).await?;
    stage.pass(25);
    stage.collect(1, &[kept]).await?;
    let mut collector = stage.stepped(|mut actor| async move { actor.collect().await });
    until(&mut collector, 1, Verb::Put, "/log/").await;
    actor.lease(&mut life, [kept]).await?;
    to_the_end(&mut collector).await;
    Ok(())
}

/// Plays a script with and without the rule.
fn matters<S>(rule: Option<Mutant>, wrong: Option<Wrong>, script: S)
where
    S: AsyncFn(&mut Stage) -> Played,
{
    for (rule, wrong) in [(None, None), (rule, wrong)] {
        let clean = (rule, wrong) == (None, None);
        let played = with_rules(rule, async {
            let mut stage = Stage::new(wrong).await;
            if let Err(Stop::Bug(what)) = script(&mut stage).await {
                stage.world.violated(what);
            }
            stage
                .world
                .changed
                .store(true, std::sync::atomic::Ordering::Relaxed);
            stage.world.check();
            stage.world.found.lock().take()
        });
        match played {
            Ok(found) => assert_eq!(found.is_none(), clean, "{rule:?} {wrong:?}: {found:?}"),
            Err(panic) => panic!("{rule:?} {wrong:?}: {panic}"),
        }
    }
}

macro_rules! scripts {
    ($($name:ident: $script:ident, $rule:expr, $wrong:expr;)*) => {
        $(#[test] fn $name() { matters($rule, $wrong, $script); })*
    };
}

scripts! {
    r1: an_upload_gets_old, Some(Mutant::NoR1), None;
    r2: an_old_reference_is_published, Some(Mutant::NoR2), None;
    r2_for_all_sources: an_older_source_is_not_kept, Some(Mutant::R2Newest), None;
    r4: a_trimmed_number_is_used_again, Some(Mutant::NoR4), None;
    r4_at_the_fence_itself: a_fence_is_superseded_before_it_is_confirmed, Some(Mutant::StrictFence), None;
    walks_that_sleep: a_number_is_trimmed_before_the_eyes_of_a_sleeper, Some(Mutant::SleepyWalk), None;
    the_stop_rule: a_collector_marks_from_trimmed_records, None, Some(Wrong::NoStopRule);
    sources_after_keep: a_reload_keeps_what_came_from_before, None, Some(Wrong::KeepForgets);
    sources_after_restore: a_stash_brings_its_sources, None, Some(Wrong::RestoreForgets);
    leases_on_all_sources: a_lease_names_every_source, None, Some(Wrong::LeaseNewestOnly);
    leases_are_confirmed: a_lease_comes_too_late, None, Some(Wrong::LeaseNotConfirmed);
    leases_after_the_fence: a_lease_comes_before_the_fence, None, Some(Wrong::LeasesBeforeFence);
}
