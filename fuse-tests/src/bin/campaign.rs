//! Campaigns as a program, at any length; see `fuse_tests::campaign`.

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use fuse_tests::campaign::herd::{self, Size};
use fuse_tests::campaign::trouble::Outage;
use fuse_tests::campaign::{Plan, damage, full, hangs, kills, power, trouble};

/// Breaks things on purpose and checks that nothing is lost. Ends with an error, and the seed, where a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// What is to be broken
    campaign: Campaign,
    /// Seed of the first round; the following count up
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// For store trouble: how long the store is away, seconds
    #[arg(long, default_value_t = 600)]
    outage_secs: u64,
    /// For store trouble: the mounts' --remote-timeout, seconds
    #[arg(long, default_value_t = 300)]
    remote_timeout_secs: u64,
    /// Multiplies allowed times, for busy machines
    #[arg(long, default_value_t = 1)]
    slack: u32,
    /// For the herd: a small volume and few steps
    #[arg(long)]
    small: bool,
    /// Say nothing until the end
    #[arg(long)]
    quiet: bool,
    /// Options for every mount, such as --passthrough=off (after `--`)
    #[arg(last = true)]
    mount_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Campaign {
    /// kill -9 of the daemon, with a store that fails now and then
    Kills,
    /// Power cuts below state and cache directory
    Power,
    /// No store for a while, a throttling one, keys that change
    Trouble,
    /// Damaged objects and cache files, a log that goes back
    Damage,
    /// Full disks, no descriptors
    Full,
    /// System calls of the daemon that fail from the N-th on (needs strace)
    Calls,
    /// A memory limit on the daemon
    Memory,
    /// Every end of a mount with a store that does not answer
    Hangs,
    /// Many mounts of one volume, each answer of each of them against a model
    Herd,
}

fn main() {
    let args = Args::parse();
    let plan = Plan {
        seed: args.seed,
        rounds: args.rounds,
        mount_options: args.mount_options,
        verbose: !args.quiet,
    };
    let outage = Outage {
        length: Duration::from_secs(args.outage_secs),
        remote_timeout: Duration::from_secs(args.remote_timeout_secs),
        slack: args.slack,
    };
    let began = Instant::now();
    let tally = match args.campaign {
        Campaign::Kills => kills::run(&plan),
        Campaign::Power => power::run(&plan),
        Campaign::Trouble => trouble::run(&plan, outage),
        Campaign::Damage => damage::run(&plan),
        Campaign::Full => full::run(&plan),
        Campaign::Calls => full::run_failing_calls(&plan),
        Campaign::Memory => full::run_memory(&plan),
        Campaign::Hangs => hangs::run(&plan, args.slack),
        Campaign::Herd if args.small => herd::run(&plan, &Size::small()),
        Campaign::Herd => herd::run(&plan, &Size::large()),
    };
    println!(
        "{:?}: {tally}; {:.0} s",
        args.campaign,
        began.elapsed().as_secs_f64()
    );
}
