//! Benchmarks: each workload in alternating pairs against its control.
//!
//! A pair is one run of ours and one of the control, in turns of who begins; what counts is the median of the pairs'
//! ratios, for only that means something on a machine with other work to do. Requests and bytes are counted by the S3
//! server, which runs in this process and delays and shapes; CPU time and peak memory are those of the daemon that
//! serves the mount (of a command: its own). `fuse-tests/bench/README.md` says how to run it and what came out.
//!
//! - [`settings`]: sizes, networks, which workloads.
//! - [`place`]: the server, our mounts, scratch directories.
//! - [`peers`]: the controls that are programs.
//! - [`floor`]: a control that is a file system in user space and does nothing.
//! - [`files`]: what is done to files.
//! - [`measure`]: one run, pairs, medians.
//! - [`report`]: what is printed: measured values beside their targets.
//! - [`workloads`]: what is measured, each with its control and its target.

mod files;
mod floor;
mod measure;
mod peers;
mod place;
mod report;
mod settings;
mod workloads;

use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use settings::Args;

/// Runs what was asked for; a workload that fails is told as a row and does not end the others.
///
/// # Errors
/// There is no such workload or network, or the server cannot be started.
pub fn run(args: &Args) -> Result<()> {
    if let Some(dir) = &args.serve_empty {
        return floor::serve(dir);
    }
    let chosen = workloads::chosen(&args.workloads)?;
    if args.list {
        for workload in &chosen {
            println!("{:<14} {}", workload.name, workload.what);
        }
        return Ok(());
    }
    let bench = place::Bench::new(args)?;
    for workload in chosen {
        eprintln!("# {}: {}", workload.name, workload.what);
        let done = catch_unwind(AssertUnwindSafe(|| (workload.run)(&bench)));
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(_) => "panicked".to_owned(),
            }),
        };
        if let Some(why) = failed {
            bench.report.failed(workload.name, &why);
        }
    }
    bench.report.finish(args.json.as_deref())
}
