//! Memory and the cache's cap.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::bench::files::*;
use crate::bench::measure::status_mib;
use crate::bench::place::Bench;
use crate::bench::report::{Row, mib};

const MIB: usize = 1 << 20;

pub(super) fn memory(bench: &Bench) -> Result<()> {
    let count = bench.sizes.lookups;
    let mounted = bench.volume()?;
    create_files(&mounted.dir(), count, 1, 1)?;
    mounted.commit();
    mounted.remount_cold(&[])?;
    let dir = mounted.dir();
    let run = bench.ours(&mounted, || {
        for n in 0..count {
            std::fs::symlink_metadata(small_path(&dir, n))?;
        }
        Ok(())
    })?;
    let daemon = mounted.pod.daemon().unwrap_or(0);
    let now = status_mib(daemon, "VmRSS:");
    let most = 60.0 + 130.0 * count as f64 / MIB as f64;
    let row = Row::alone(format!("{count} names looked up"), "-", &[run]);
    bench.report.row(row.at_most("MiB after it", most, now));
    drop(mounted);

    let bytes = bench.sizes.copied;
    let mounted = bench.volume()?;
    let path = mounted.path("big");
    write_file(&path, bytes, MIB, 1)?;
    let commit = bench.ours(&mounted, || {
        mounted.commit();
        Ok(())
    })?;
    let peak = commit.rss_mib;
    let row = Row::alone(format!("commit of {} MiB", bytes >> 20), "-", &[commit]);
    bench.report.row(row.at_most("peak MiB", 200.0, peak));
    mounted.remount_cold(&[])?;
    let copy = bench.ours(&mounted, || read_file(&path, 1))?;
    let peak = copy.rss_mib;
    let row = Row::alone(format!("cold copy of {} MiB", bytes >> 20), "-", &[copy]);
    bench.report.row(row.at_most("peak MiB", 200.0, peak));
    Ok(())
}

pub(super) fn cap(bench: &Bench) -> Result<()> {
    let cap = bench.sizes.cap;
    let mounted = bench.volume()?;
    let files: Vec<_> = (0..20u64)
        .map(|n| (n, mounted.path(&format!("file-{n}"))))
        .collect();
    for (n, path) in &files {
        write_file(path, cap / 2, MIB, *n)?;
    }
    mounted.commit();
    mounted.remount_cold(&["--cache-size", &cap.to_string()])?;
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let cache = mounted.pod.local_dir("cache");
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(disk_bytes(&cache), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let run = bench.ours(&mounted, || {
            files.iter().try_for_each(|(n, path)| read_file(path, *n))
        });
        done.store(true, Ordering::Relaxed);
        run
    })?;
    let row = Row::alone(format!("read of 10 x a cache of {} MiB", cap >> 20), "-", &[run]);
    bench
        .report
        .row(row.at_most("MiB on disk", mib(cap), mib(most.into_inner())));
    Ok(())
}
