//! Campaigns against the promise that nothing is lost, nothing is mixed up and nothing hangs: the real program on real
//! mounts and a real S3 server, with kills, power cuts, store trouble, damage and full disks.
//!
//! Each is a function from a [`Plan`] (a seed and a size) to a [`Tally`]; it panics with the seed and the round where a
//! promise is broken. `cargo run --release -p fuse-tests --bin campaign -- NAME --seed N --rounds M` runs one at any
//! length; `tests/campaigns.rs` runs a small fixed share of each.
//!
//! What a seed decides is the program of every worker, its contents, and where the fault falls as far as that is counted
//! in requests or calls. Real threads and a real kernel decide the rest, so that a failing seed fails again often, not
//! always; the round's own seed is printed, and `--seed` with `--rounds 1` begins there.

pub mod damage;
mod disk;
pub mod full;
pub mod hangs;
pub mod herd;
pub mod kills;
mod no_room;
pub mod power;
pub mod program;
pub mod random;
pub mod tree;
pub mod trouble;

use std::fmt;

/// How long a campaign runs, and from where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first round's seed; the next ones count up.
    pub seed: u64,
    /// Rounds.
    pub rounds: u64,
    /// Options for every mount.
    pub mount_options: Vec<String>,
    /// Says what it does as it goes.
    pub verbose: bool,
}

impl Plan {
    /// Rounds from a seed, quietly.
    pub fn new(seed: u64, rounds: u64) -> Plan {
        Plan {
            seed,
            rounds,
            mount_options: Vec::new(),
            verbose: false,
        }
    }

    pub(crate) fn options(&self) -> Vec<&str> {
        self.mount_options.iter().map(String::as_str).collect()
    }

    pub(crate) fn say(&self, text: impl fmt::Display) {
        if self.verbose {
            eprintln!("{text}");
        }
    }
}

/// What a campaign has done, in numbers with names.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    /// Adds to a number.
    pub fn add(&mut self, what: &'static str, count: u64) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((what, count)),
        }
    }

    /// Adds all numbers of another.
    pub fn include(&mut self, other: &Tally) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }

    /// A number; zero if it was never added to.
    pub fn get(&self, what: &str) -> u64 {
        self.0
            .iter()
            .find(|(name, _)| *name == what)
            .map_or(0, |(_, sum)| *sum)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, sum)| format!("{sum} {name}")).collect();
        f.write_str(&parts.join(", "))
    }
}
