//! Single merges of random trees against the model and against the flat rule.

use super::model::{merge, net_moves, replay, untouched};
use super::random::{Habits, Random, change};
use super::real::{Sharing, World};
use super::{for_seeds, same};

fn single(seed: u64, habits: Habits) -> Result<(), String> {
    let mut random = Random::new(seed);
    let base = random.dir(0);
    let (mut head, mut mine) = (base.clone(), base.clone());
    let mut origin = untouched(&base);
    change(&mut random, &mut head, &mut untouched(&base), habits);
    change(&mut random, &mut mine, &mut origin, habits);
    let hints = net_moves(&origin);
    let should = merge(&base, &head, &mine, &hints);
    let (shared, stored) = *random.pick(&[(0, 0), (100, 0), (100, 100), (70, 40)]);
    let mut world = World::new(seed, Sharing { shared, stored });
    let trees = [base, head, mine].map(super::model::Tree::from);
    let outcome = world.merge([&trees[0], &trees[1], &trees[2]], &hints)?;
    same("tree", &outcome.tree.root, &should.root)?;
    same("report", &outcome.report, &should.report)?;
    same("used hints", &outcome.used, &should.used)?;
    if !habits.moves && !habits.mixed {
        let [base, head, mine] = trees.map(|tree| tree.root.flat());
        let (flat, over) = replay(&head, &base, &mine);
        same("tree by the flat rule", &outcome.tree.root.flat(), &flat)?;
        same("report by the flat rule", &outcome.report, &over)?;
    }
    Ok(())
}

#[test]
fn merges_are_those_of_the_flat_rule() {
    for_seeds(300, |seed| {
        single(
            seed,
            Habits {
                moves: false,
                mixed: false,
            },
        )
    });
}

#[test]
fn merges_with_kind_clashes_are_those_of_the_model() {
    for_seeds(300, |seed| {
        single(
            seed,
            Habits {
                moves: false,
                mixed: true,
            },
        )
    });
}

#[test]
fn merges_with_moves_are_those_of_the_model() {
    for_seeds(300, |seed| {
        single(
            seed,
            Habits {
                moves: true,
                mixed: false,
            },
        )
    });
    for_seeds(300, |seed| {
        single(
            seed,
            Habits {
                moves: true,
                mixed: true,
            },
        )
    });
}
