//! Commits.

use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::bench::files::*;
use crate::bench::measure::{Pairs, Sample, measure, median};
use crate::bench::place::{Bench, PLAIN, RESTIC};
use crate::bench::report::{Row, mib};
use crate::bench::settings::{LINK, Net, SMALL_BYTES};

const MIB: usize = 1 << 20;

pub(super) fn big(bench: &Bench) -> Result<()> {
    if !bench.peers.has("s5cmd") {
        bench.report.skipped("commit-big", "s5cmd is not installed");
        return Ok(());
    }
    let size = bench.sizes.big;
    let mounted = bench.volume()?;
    let local = bench.fresh("local")?.join("big");
    for net in bench.nets.clone() {
        let seed = std::cell::Cell::new(net.delay_ms + net.bandwidth);
        let next = || {
            seed.set(seed.get() + 1);
            seed.get()
        };
        let ours = || {
            write_file(&mounted.path("big"), size, MIB, next())?;
            bench.set_net(Some(net));
            let sample = bench.ours(&mounted, || {
                mounted.commit();
                Ok(())
            });
            bench.set_net(None);
            sample
        };
        let theirs = || {
            write_file(&local, size, MIB, 7)?;
            bench.set_net(Some(net));
            let to = format!("s3://{PLAIN}/big");
            let sample = bench.control(|| bench.peers.s5cmd(["cp", &local.to_string_lossy(), &to]));
            bench.set_net(None);
            sample
        };
        let pairs = Pairs::run(bench.pairs, ours, theirs)?;
        let cpu: Vec<f64> = pairs.ours.iter().map(|s| s.cpu_seconds).collect();
        let per_gib = median(&cpu) / (size as f64 / f64::from(1 << 30));
        let row = Row::of(format!("commit of {} MiB", size >> 20), net.name, "s5cmd", &pairs)
            .at_least(if net == LINK { 0.95 } else { 1.0 })
            .holds("CPU s per GiB", true, format!("{per_gib:.2}"));
        bench.report.row(row);
    }
    bench.peers.s5cmd(["rm", &format!("s3://{PLAIN}/big")])
}

/// Write and commit of `count` files.
fn of_files(bench: &Bench, net: Net, count: u64) -> Result<()> {
    let mounted = bench.volume()?;
    let commits = std::cell::RefCell::new(Vec::<Sample>::new());
    let seed = std::cell::Cell::new(net.delay_ms + net.bandwidth + count);
    let next = || {
        seed.set(seed.get() + 1);
        seed.get()
    };
    let ours = || -> Result<Sample> {
        let seed = next();
        let dir = mounted.path(&format!("set-{seed}"));
        bench.set_net(Some(net));
        let mut whole = bench.ours(&mounted, || create_files(&dir, count, SMALL_BYTES, seed))?;
        let commit = bench.ours(&mounted, || {
            mounted.commit();
            Ok(())
        })?;
        bench.set_net(None);
        whole.seconds += commit.seconds;
        whole.cpu_seconds += commit.cpu_seconds;
        whole.requests.clone_from(&commit.requests);
        (whole.up, whole.down) = (commit.up, commit.down);
        whole.rss_mib = whole.rss_mib.max(commit.rss_mib);
        commits.borrow_mut().push(commit);
        Ok(whole)
    };
    let with_targets = |row: Row| {
        let commits = commits.borrow();
        let puts = commits.iter().map(|c| c.puts()).max().unwrap_or(0);
        let bytes = count * SMALL_BYTES as u64;
        let cpu: Vec<f64> = commits
            .iter()
            .map(|c| c.cpu_seconds * 1e6 / count as f64)
            .collect();
        let seconds: Vec<f64> = commits.iter().map(|c| c.seconds).collect();
        row.at_most("PUTs", (bytes.div_ceil(16 << 20) + 4) as f64, puts as f64)
            .holds("commit alone, s", true, format!("{:.3}", median(&seconds)))
            .holds("commit us CPU a file", true, format!("{:.1}", median(&cpu)))
    };
    let name = format!("write and commit of {count} files of 4 KiB");
    if bench.peers.has("s5cmd") {
        let theirs = || -> Result<Sample> {
            let local = bench.fresh("local")?;
            let seed = next();
            bench.set_net(Some(net));
            let to = format!("s3://{PLAIN}/set/");
            let sample = bench.control(|| {
                create_files(&local, count, SMALL_BYTES, seed)?;
                bench.peers.s5cmd(["cp", &format!("{}/", local.display()), &to])
            });
            bench.set_net(None);
            sample
        };
        let pairs = Pairs::run(bench.pairs, ours, theirs)?;
        bench
            .report
            .row(with_targets(Row::of(&name, net.name, "s5cmd", &pairs)).at_least(5.0));
        bench.peers.s5cmd(["rm", &format!("s3://{PLAIN}/set/*")])?;
    } else {
        bench.report.skipped("commit-files", "s5cmd is not installed");
    }
    if bench.peers.has("restic") {
        let theirs = || -> Result<Sample> {
            let (local, cache) = (bench.fresh("local")?, bench.fresh("restic-cache")?);
            // Each backup is the first of its repository, as each commit is of new files.
            bench
                .peers
                .s5cmd(["rm", &format!("s3://{RESTIC}/*")])
                .unwrap_or(());
            bench.peers.restic(&cache, ["init"])?;
            let seed = next();
            bench.set_net(Some(net));
            let dir = local.to_string_lossy().into_owned();
            let sample = measure(bench, &[], || {
                create_files(&local, count, SMALL_BYTES, seed)?;
                bench.peers.restic(&cache, ["backup", &dir])?;
                Ok(None)
            });
            bench.set_net(None);
            sample
        };
        let pairs = Pairs::run(bench.pairs, ours, theirs)?;
        bench
            .report
            .row(with_targets(Row::of(&name, net.name, "restic", &pairs)).at_least(1.2));
    } else {
        bench.report.skipped("commit-files", "restic is not installed");
    }
    Ok(())
}

pub(super) fn files(bench: &Bench) -> Result<()> {
    for net in bench.nets.clone() {
        of_files(bench, net, bench.sizes.files)?;
    }
    // The large set once: nothing but its number differs.
    let first = bench.nets.first().copied().context("a network")?;
    of_files(bench, first, bench.sizes.many)
}

pub(super) fn changes(bench: &Bench) -> Result<()> {
    let size = bench.sizes.big;
    let mounted = bench.volume()?;
    let path = mounted.path("big");
    write_file(&path, size, MIB, 1)?;
    mounted.commit();
    for net in bench.nets.clone() {
        let mut changed = Vec::new();
        let mut appended = Vec::new();
        for n in 0..bench.pairs as u64 {
            let at = mix(net.bandwidth + net.delay_ms + n) % (size / 4096) * 4096;
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&noise(n, 4096), at)?;
            drop(file);
            let commit = || {
                bench.set_net(Some(net));
                let sample = bench.ours(&mounted, || {
                    mounted.commit();
                    Ok(())
                });
                bench.set_net(None);
                sample
            };
            changed.push(commit()?);
            let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
            file.write_all(&noise(n, MIB))?;
            drop(file);
            appended.push(commit()?);
        }
        for (name, runs) in [("4 KiB changed", &changed), ("1 MiB appended", &appended)] {
            let puts = runs.iter().map(|s| s.puts()).max().unwrap_or(0);
            let up = runs.iter().map(|s| s.up).max().unwrap_or(0);
            let row = Row::alone(format!("commit, {name} in {} MiB", size >> 20), net.name, runs)
                .at_most("PUTs", 3.0, puts as f64)
                .at_most("MiB sent", 8.5, mib(up));
            bench.report.row(row);
        }
    }
    Ok(())
}
