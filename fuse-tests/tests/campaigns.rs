//! A small fixed share of every campaign; `cargo run --release -p fuse-tests --bin campaign` runs them at any length.
//!
//! Kills, damage and hangs are the same seeds each time. On a busy machine allowed times are multiplied: what is tested
//! here is that everything ends at all.

use std::time::Duration;

use fuse_tests::campaign::herd::{self, Size};
use fuse_tests::campaign::trouble::Outage;
use fuse_tests::campaign::{Plan, damage, full, hangs, kills, power, trouble};

/// Multiplies allowed times.
const SLACK: u32 = 8;

#[test]
fn kills_lose_nothing() {
    let tally = kills::run(&Plan::new(1, 8));
    assert_eq!(tally.get("kills"), 8);
    assert!(tally.get("fsck") > 0 && tally.get("calls") > 0);
}

#[test]
fn power_cuts_lose_nothing_that_was_synced() {
    let tally = power::run(&Plan::new(1, 10));
    assert_eq!(tally.get("power cuts"), 10);
    assert!(tally.get("fsyncs") > 0, "{tally}");
}

#[test]
fn damage_never_gives_wrong_bytes() {
    let tally = damage::run(&Plan::new(1, 4));
    assert_eq!(tally.get("damaged objects"), 4);
}

#[test]
fn full_disks_lose_nothing_and_work_goes_on() {
    let tally = full::run(&Plan::new(1, 1));
    assert!(tally.get("calls refused for want of room") > 0);
    assert!(tally.get("steps without room") > 0);
    assert!(tally.get("KiB of trees without room") > 2 << 10);
}

#[test]
fn nothing_hangs() {
    assert_eq!(hangs::run(&Plan::new(1, 6), SLACK).get("ends in time"), 6);
}

#[test]
fn store_trouble_ends() {
    let outage = Outage {
        length: Duration::from_secs(6),
        remote_timeout: Duration::from_secs(4),
        slack: SLACK,
    };
    assert_eq!(trouble::run(&Plan::new(1, 1), outage).get("outages"), 3);
}

#[test]
fn a_herd_sees_only_what_may_be_seen() {
    let tally = herd::run(&Plan::new(4, 1), &Size::small());
    for what in [
        "merged commits",
        "reloads",
        "kills",
        "listings",
        "files read",
        "copies",
    ] {
        assert!(tally.get(what) > 0, "{what}: {tally}");
    }
}
