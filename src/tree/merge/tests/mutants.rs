//! The histories notice rules that are done wrong.

use super::Rules;
use super::histories::{MOVING, Mutant, PLAIN, history};
use super::links;
use super::random::Habits;

/// Some history out of this many must fail.
const HISTORIES: u64 = 400;

fn caught(mutant: Mutant, habits: Habits) {
    let failed = (0..HISTORIES).find(|seed| history(*seed, habits, Some(mutant)).is_err());
    assert!(
        failed.is_some(),
        "{mutant:?} was not noticed in {HISTORIES} histories"
    );
}

#[test]
fn the_published_record_as_base_is_noticed() {
    caught(Mutant::PublishedBase, PLAIN);
}

#[test]
fn the_live_view_as_base_is_noticed() {
    caught(Mutant::LiveBase, PLAIN);
}

#[test]
fn a_stash_restored_against_the_current_base_is_noticed() {
    caught(Mutant::StashHead, PLAIN);
}

#[test]
fn an_old_base_after_reload_keep_is_noticed() {
    caught(Mutant::KeepOldBase, PLAIN);
}

#[test]
fn hints_without_the_check_against_mine_are_noticed() {
    caught(Mutant::ChronoHints, MOVING);
}

#[test]
fn attributes_that_bring_deleted_files_back_are_noticed() {
    caught(Mutant::Resurrect, PLAIN);
}

#[test]
fn written_inodes_that_lose_their_last_name_are_noticed() {
    let rules = Rules {
        no_revival: true,
        ..Rules::default()
    };
    let failed = (0..HISTORIES).find(|seed| links::single(*seed, false, rules).is_err());
    assert!(failed.is_some(), "not noticed in {HISTORIES} merges");
}
