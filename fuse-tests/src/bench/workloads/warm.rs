//! Local work, against the same on the local file system.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bench::files::*;
use crate::bench::floor;
use crate::bench::measure::{Pairs, Sample, measure, median};
use crate::bench::place::Bench;
use crate::bench::report::Row;
use crate::bench::settings::SMALL_BYTES;
use crate::pod::wait_until;

const MIB: usize = 1 << 20;
const LOCAL: &str = "local";

/// Reads of a committed file that is cached.
pub(super) fn reads(bench: &Bench) -> Result<()> {
    let (size, accesses) = (bench.sizes.big, bench.sizes.accesses * 20);
    let local_dir = bench.fresh(LOCAL)?;
    let local = local_dir.join("big");
    write_file(&local, size, MIB, 1)?;
    let mounted = bench.volume()?;
    let ours = mounted.path("big");
    write_file(&ours, size, MIB, 1)?;
    mounted.commit();
    mounted.remount_cold(&[])?;
    read_file(&ours, 1)?;
    let forget = || {
        mounted
            .forget_pages(&mounted.dir())
            .and_then(|()| forget_pages(&local_dir))
    };
    // What is read, whether the kernel's pages are dropped before, what is to be reached.
    type Read<'a> = &'a dyn Fn(&PathBuf, u64) -> Result<()>;
    let sequential: Read = &|path, _| read_file(path, 1);
    let mapped: Read = &|path, _| read_mapped(path, 1);
    let random: Read = &|path, order| read_random(path, size, accesses, 1, order);
    let cases = [
        ("sequential, page cache", sequential, false, 0.9),
        ("sequential, local disk", sequential, true, 0.9),
        ("random 4 KiB, page cache", random, false, 0.9),
        ("random 4 KiB, local disk", random, true, 0.9),
        ("mmap, page cache", mapped, false, 0.9),
        ("mmap, local disk", mapped, true, 0.9),
    ];
    for (name, read, dropped, target) in cases {
        let before = |path: &PathBuf| match dropped {
            true => forget(),
            false => read_file(path, 1),
        };
        let mut pairs = Pairs::default();
        for order in 1..=bench.pairs as u64 {
            before(&ours)?;
            pairs.ours.push(bench.ours(&mounted, || read(&ours, order))?);
            before(&local)?;
            pairs.control.push(bench.control(|| read(&local, order))?);
        }
        let row = Row::of(format!("warm read, {name}"), "-", "ext4", &pairs).at_least(target);
        let requests = pairs.ours.iter().map(|s| s.all()).max().unwrap_or(0);
        bench.report.row(row.at_most("requests", 0.0, requests as f64));
    }
    Ok(())
}

/// Writes of new bytes.
pub(super) fn writes(bench: &Bench) -> Result<()> {
    let (size, accesses) = (bench.sizes.big, bench.sizes.accesses * 20);
    let local = bench.fresh(LOCAL)?.join("big");
    let mounted = bench.volume()?;
    let ours = mounted.path("big");
    type Write<'a> = (&'a str, bool, &'a dyn Fn(&PathBuf, u64) -> Result<()>);
    let cases: [Write; 3] = [
        ("new file, 1 MiB records", true, &|path, seed| {
            write_file(path, size, MIB, seed)
        }),
        ("new file, 4 KiB records", true, &|path, seed| {
            write_file(path, size, SMALL_BYTES, seed)
        }),
        ("random 4 KiB in it", false, &|path, order| {
            write_random(path, size, accesses, order)
        }),
    ];
    for (name, anew, write) in cases {
        let clean = |path: &PathBuf| -> Result<()> {
            if anew && path.exists() {
                std::fs::remove_file(path)?;
            }
            if anew && *path == ours {
                // Its body goes a little later: that is no part of the next write.
                let bodies = mounted.pod.local_dir("state");
                wait_until("the removed file is gone from the disk", || {
                    let bytes = files_below(&bodies).map(|all| {
                        let len = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
                        all.iter().map(len).sum::<u64>()
                    });
                    bytes.is_ok_and(|bytes| bytes < size)
                });
            }
            Ok(())
        };
        let mut pairs = Pairs::default();
        for seed in 1..=bench.pairs as u64 {
            clean(&ours)?;
            pairs.ours.push(bench.ours(&mounted, || write(&ours, seed))?);
            clean(&local)?;
            pairs.control.push(bench.control(|| write(&local, seed))?);
        }
        let row = Row::of(format!("write, {name}"), "-", "ext4", &pairs);
        bench.report.row(row.at_least(0.95));
    }
    Ok(())
}

/// Many small new files.
pub(super) fn creates(bench: &Bench) -> Result<()> {
    let count = bench.sizes.created;
    let local = bench.fresh(LOCAL)?;
    let mounted = bench.volume()?;
    let floor = floor::mount(&bench.scratch("empty"))?;
    let (mut pairs, mut least) = (Pairs::default(), Pairs::default());
    for n in 0..bench.pairs as u64 {
        let name = format!("set-{n}");
        let create = |dir: &Path| create_files(&dir.join(&name), count, SMALL_BYTES, n);
        pairs.ours.push(bench.ours(&mounted, || create(&mounted.dir()))?);
        let control = bench.control(|| create(&local))?;
        pairs.control.push(control.clone());
        least.control.push(control);
        let daemon = [floor.daemon()];
        least
            .ours
            .push(measure(bench, &daemon, || create(floor.dir()).map(|()| None))?);
    }
    let us_each = |samples: &[Sample]| {
        let each: Vec<f64> = samples
            .iter()
            .map(|s| s.cpu_seconds * 1e6 / count as f64)
            .collect();
        median(&each)
    };
    let name = format!("create {count} files of 4 KiB");
    let row = Row::of(&name, "-", "ext4", &pairs).at_least(0.25).at_most(
        "daemon us each",
        45.0,
        us_each(&pairs.ours),
    );
    bench.report.row(row);
    // What the kernel's questions alone take: no file system in user space can do better.
    let row = Row::of(
        format!("{name}, by an empty FUSE file system"),
        "-",
        "ext4",
        &least,
    );
    let us = format!("{:.1}", us_each(&least.ours));
    bench.report.row(row.holds("daemon us each", true, us));
    Ok(())
}
