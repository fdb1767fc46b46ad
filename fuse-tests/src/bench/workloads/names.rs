//! Names and attributes: stat, readdir, ls, reload.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::bench::files::*;
use crate::bench::measure::Pairs;
use crate::bench::peers::run;
use crate::bench::place::{Bench, Mounted, PLAIN};
use crate::bench::report::Row;
use crate::bench::settings::DELAY;

/// Bytes of a file whose name is what matters.
const FEW_BYTES: usize = 20;
const LOCAL: &str = "local";

/// `ls -lR`, its output thrown away.
fn ls(dir: &Path) -> Result<()> {
    let mut command = Command::new("ls");
    command.arg("-lR").arg(dir).stdout(Stdio::null());
    run(command)
}

/// A committed volume of `count` files, and the same files locally.
fn named(bench: &Bench, count: u64) -> Result<Mounted> {
    let local = bench.fresh(LOCAL)?;
    create_files(&local, count, FEW_BYTES, 1)?;
    let mounted = bench.volume()?;
    create_files(&mounted.dir(), count, FEW_BYTES, 1)?;
    mounted.commit();
    Ok(mounted)
}

pub(super) fn stats(bench: &Bench) -> Result<()> {
    let count = bench.sizes.names;
    let mounted = named(bench, count)?;
    let (ours, local) = (mounted.dir(), bench.scratch(LOCAL));
    let (our_files, local_files) = (files_below(&ours)?, files_below(&local)?);
    stat_all(&our_files)?;
    stat_all(&local_files)?;
    let pairs = Pairs::run(
        bench.pairs,
        || bench.ours(&mounted, || stat_all(&our_files)),
        || bench.control(|| stat_all(&local_files)),
    )?;
    let requests = pairs.ours.iter().map(|s| s.all()).max().unwrap_or(0);
    let row = Row::of(format!("stat of {count} cached names"), "-", "ext4", &pairs)
        .at_least(0.5)
        .at_most("requests", 0.0, requests as f64);
    bench.report.row(row);
    let list = |dir: &Path| list_all(dir).map(drop);
    let pairs = Pairs::run(
        bench.pairs,
        || bench.ours(&mounted, || list(&ours)),
        || bench.control(|| list(&local)),
    )?;
    let row = Row::of(format!("readdir again, {count} names"), "-", "ext4", &pairs).at_least(0.5);
    bench.report.row(row);
    Ok(())
}

pub(super) fn ls_warm(bench: &Bench) -> Result<()> {
    let count = bench.sizes.names;
    let mounted = named(bench, count)?;
    let (ours, local) = (mounted.dir(), bench.scratch(LOCAL));
    ls(&ours)?;
    ls(&local)?;
    let pairs = Pairs::run(
        bench.pairs,
        || {
            mounted.remount_warm();
            bench.ours(&mounted, || ls(&ours))
        },
        || bench.control(|| ls(&local)),
    )?;
    let row = Row::of(
        format!("ls -lR of {count}, fresh mount, warm nodes"),
        "-",
        "ext4",
        &pairs,
    )
    .at_least(1.0 / 6.0);
    bench.report.row(row);
    Ok(())
}

pub(super) fn ls_cold(bench: &Bench) -> Result<()> {
    let count = bench.sizes.names;
    let mounted = named(bench, count)?;
    let has_s5cmd = bench.peers.has("s5cmd");
    if has_s5cmd {
        let from = format!("{}/", bench.scratch(LOCAL).display());
        bench
            .peers
            .s5cmd(["cp", &from, &format!("s3://{PLAIN}/names/")])?;
    }
    let ours = mounted.dir();
    for net in bench.nets.clone() {
        let name = format!("ls -lR of {count}, cold");
        let run_ours = || {
            bench.set_net(None);
            mounted.remount_cold(&[])?;
            bench.set_net(Some(net));
            bench.ours(&mounted, || ls(&ours))
        };
        let row = if has_s5cmd {
            let theirs = || {
                bench.set_net(Some(net));
                bench.control(|| bench.peers.s5cmd(["ls", &format!("s3://{PLAIN}/names/*")]))
            };
            let pairs = Pairs::run(bench.pairs, run_ours, theirs)?;
            let gets = pairs.ours.iter().map(|s| s.gets()).max().unwrap_or(0);
            let row = Row::of(name, net.name, "s5cmd ls", &pairs).at_most("GETs", 99.0, gets as f64);
            match net == DELAY {
                true => row.at_least(1.0),
                false => row,
            }
        } else {
            Row::alone(name, net.name, &[run_ours()?])
        };
        bench.set_net(None);
        bench.report.row(row);
    }
    if has_s5cmd {
        bench.peers.s5cmd(["rm", &format!("s3://{PLAIN}/names/*")])?;
    } else {
        bench.report.skipped("ls-cold", "s5cmd is not installed");
    }
    Ok(())
}

/// Reload with `names` names in the kernel's cache after `changed` changes by another pod.
pub(super) fn reload(bench: &Bench) -> Result<()> {
    let few = 1000.min(bench.sizes.names / 2);
    let cases = [(few, 10), (bench.sizes.names, 10), (bench.sizes.names, few)];
    let mut times = Vec::new();
    for (names, changed) in cases {
        let mounted = named(bench, names)?;
        let other = bench.mount_of(&mounted.volume, &[])?;
        let all = files_below(&mounted.dir())?;
        let mut runs = Vec::new();
        for round in 0..bench.pairs as u64 {
            for n in 0..changed {
                let path = small_path(&other.dir(), n);
                std::fs::write(path, noise(mix(round) ^ n, FEW_BYTES))?;
            }
            other.commit();
            stat_all(&all)?;
            runs.push(bench.ours(&mounted, || {
                mounted.pod.reload(&[]);
                Ok(())
            })?);
            other.pod.reload(&[]);
        }
        times.push(crate::bench::measure::middle(&runs).seconds);
        let row = Row::alone(
            format!("reload, {changed} changed, {names} names cached"),
            "-",
            &runs,
        );
        let slower = times
            .last()
            .zip(times.first())
            .map_or(1.0, |(last, first)| last / first);
        bench
            .report
            .row(row.at_most("times as long as the first", 1.5, slower));
        if (names, changed) == cases[2] {
            let nothing = bench.ours(&mounted, || {
                mounted.pod.reload(&[]);
                Ok(())
            })?;
            let requests = nothing.all() as f64;
            let row = Row::alone("reload, nothing new", "-", &[nothing]);
            bench.report.row(row.at_most("requests", 1.0, requests));
        }
    }
    Ok(())
}
