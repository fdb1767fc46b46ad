//! Large files with nothing cached.

use std::path::Path;

use anyhow::Result;

use crate::bench::files::*;
use crate::bench::measure::{Pairs, Sample, measure, median};
use crate::bench::peers::Peer;
use crate::bench::place::{Bench, Mounted, PLAIN};
use crate::bench::report::Row;
use crate::bench::settings::{LINK, Net};

const MIB: usize = 1 << 20;

/// A volume and a bucket with the same files `file-0` ... of `size` bytes.
fn stored(bench: &Bench, files: u64, size: u64) -> Result<Mounted> {
    let local = bench.fresh("source")?;
    let mounted = bench.volume()?;
    for n in 0..files {
        write_file(&local.join(format!("file-{n}")), size, MIB, n)?;
        std::fs::copy(
            local.join(format!("file-{n}")),
            mounted.path(&format!("file-{n}")),
        )?;
    }
    mounted.commit();
    if bench.peers.has("s5cmd") {
        bench.peers.s5cmd([
            "cp",
            &format!("{}/", local.display()),
            &format!("s3://{PLAIN}/large/"),
        ])?;
    }
    std::fs::remove_dir_all(local)?;
    Ok(mounted)
}

fn clean(bench: &Bench) -> Result<()> {
    bench.set_net(None);
    if bench.peers.has("s5cmd") {
        bench.peers.s5cmd(["rm", &format!("s3://{PLAIN}/large/*")])?;
    }
    Ok(())
}

/// A run of ours, nothing cached.
fn cold(bench: &Bench, mounted: &Mounted, net: Net, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    bench.set_net(None);
    mounted.remount_cold(&[])?;
    bench.set_net(Some(net));
    bench.ours(mounted, work)
}

/// Objects to a local directory.
fn fetched(bench: &Bench, net: Net, from: &str) -> Result<Sample> {
    let to = bench.fresh("fetched")?;
    bench.set_net(Some(net));
    bench.control(|| {
        bench.peers.s5cmd([
            "cp",
            &format!("s3://{PLAIN}/large/{from}"),
            &format!("{}/", to.display()),
        ])
    })
}

/// Through a mount of others.
fn mounted_by(bench: &Bench, net: Net, peer: Peer, work: impl FnOnce(&Path) -> Result<()>) -> Result<Sample> {
    bench.set_net(None);
    let mount = bench.peers.mount(peer, PLAIN, &bench.scratch(peer.name()))?;
    bench.set_net(Some(net));
    let sample = measure(bench, &[mount.daemon()], || {
        work(&mount.dir().join("large")).map(|()| None)
    })?;
    bench.set_net(None);
    Ok(sample)
}

fn target(net: Net) -> f64 {
    if net == LINK { 0.9 } else { 0.7 }
}

fn cpu_per_gib(runs: &[Sample], bytes: u64) -> f64 {
    let cpu: Vec<f64> = runs.iter().map(|s| s.cpu_seconds).collect();
    median(&cpu) / (bytes as f64 / f64::from(1 << 30))
}

pub(super) fn one_file(bench: &Bench) -> Result<()> {
    let size = bench.sizes.big;
    let mounted = stored(bench, 1, size)?;
    let ours = mounted.path("file-0");
    for net in bench.nets.clone() {
        let name = format!("cold read of {} MiB", size >> 20);
        let run_ours = || cold(bench, &mounted, net, || read_file(&ours, 0));
        if bench.peers.has("s5cmd") {
            let pairs = Pairs::run(bench.pairs, run_ours, || fetched(bench, net, "file-0"))?;
            let per_gib = format!("{:.2}", cpu_per_gib(&pairs.ours, size));
            let row = Row::of(&name, net.name, "s5cmd", &pairs)
                .at_least(target(net))
                .holds("CPU s per GiB", true, per_gib);
            bench.report.row(row);
        } else {
            bench.report.skipped("cold-read", "s5cmd is not installed");
        }
        for peer in [Peer::S3fs, Peer::Rclone] {
            if !bench.peers.has(peer.name()) || !bench.peers.has("s5cmd") {
                bench
                    .report
                    .skipped("cold-read", &format!("{} or s5cmd is not installed", peer.name()));
                continue;
            }
            let theirs = || mounted_by(bench, net, peer, |dir| read_file(&dir.join("file-0"), 0));
            let pairs = Pairs::run(bench.pairs.min(2), run_ours, theirs)?;
            bench
                .report
                .row(Row::of(&name, net.name, peer.name(), &pairs).at_least(1.0));
        }
    }
    clean(bench)
}

pub(super) fn eight_files(bench: &Bench) -> Result<()> {
    let size = bench.sizes.eighth;
    let mounted = stored(bench, 8, size)?;
    if !bench.peers.has("s5cmd") {
        bench.report.skipped("cold-eight", "s5cmd is not installed");
        return Ok(());
    }
    let read_eight = |dir: &Path| {
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|n| scope.spawn(move || read_file(&dir.join(format!("file-{n}")), n)))
                .collect();
            let join = |reader: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                reader
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("a reader panicked"))
            };
            readers.into_iter().map(join).collect::<Result<Vec<()>>>()
        })
        .map(drop)
    };
    for net in bench.nets.clone() {
        let pairs = Pairs::run(
            bench.pairs,
            || cold(bench, &mounted, net, || read_eight(&mounted.dir())),
            || fetched(bench, net, "*"),
        )?;
        let per_gib = format!("{:.2}", cpu_per_gib(&pairs.ours, size * 8));
        let name = format!("cold read of 8 x {} MiB at once", size >> 20);
        let row = Row::of(name, net.name, "s5cmd", &pairs)
            .at_least(target(net))
            .holds("CPU s per GiB", true, per_gib);
        bench.report.row(row);
    }
    clean(bench)
}

pub(super) fn random(bench: &Bench) -> Result<()> {
    let (size, accesses) = (bench.sizes.big, bench.sizes.accesses.min(200));
    let mounted = stored(bench, 1, size)?;
    let ours = mounted.path("file-0");
    for net in bench.nets.clone() {
        bench.set_net(None);
        mounted.remount_cold(&[])?;
        bench.set_net(Some(net));
        let first = bench.ours(&mounted, || read_random(&ours, size, 1, 0, 99))?;
        let rest = bench.ours(&mounted, || read_random(&ours, size, accesses, 0, 7))?;
        bench.set_net(None);
        let (requests, bytes) = (rest.gets() as f64, rest.down as f64);
        // The header of a chunk is needed before its first frame is known: some KiB besides.
        let name = format!("cold random 4 KiB reads, {accesses} after the first");
        let row = Row::alone(name, net.name, &[rest])
            .at_most("GETs of the first", 3.0, first.gets() as f64)
            .at_most("GETs each", 1.0, requests / accesses as f64)
            .at_most("MiB each", 1.0, bytes / accesses as f64 / MIB as f64);
        bench.report.row(row);
    }
    clean(bench)
}
