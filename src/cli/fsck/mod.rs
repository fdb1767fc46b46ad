//! `sailvol fsck`.

mod cache;
mod state;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::context::Context;
use super::table::count;
use crate::answer::{Failure, FailureKind, PROGRESS_EVERY, Progress};
use crate::cli::complete;
use crate::config::{format_bytes, parse_volume};
use crate::files::Session;
use crate::model::Seq;
use crate::volume::{Damage, FsckOptions, FsckProgress, FsckReport};

/// Read a volume and check every byte of it
///
/// Everything that the newest record refers to is read and compared with its hash, and counts are counted again. What
/// is damaged is listed with the files concerned; nothing is changed. Exit code 7 when anything is damaged.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a name or URL
    #[arg(required_unless_present_any = ["state", "cache"], add = ArgValueCompleter::new(complete::volumes))]
    volume: Option<String>,
    /// Check local changes instead: the state directory of a mount, or one above it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["volume", "quick", "all_records"])]
    state: Option<PathBuf>,
    /// Check clean bytes instead: the cache directory of a mount, or the one above it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["volume", "state", "all_records"])]
    cache: Option<PathBuf>,
    /// With --state: copy what is readable to this directory
    #[arg(long, value_name = "OUT", requires = "state")]
    salvage: Option<PathBuf>,
    /// Do not read contents: only look whether they are there and as long as they must be
    #[arg(long)]
    quick: bool,
    /// Check the trees of all records that are kept, not of the newest only
    #[arg(long)]
    all_records: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Answer {
    volume: String,
    head: Seq,
    quick: bool,
    records: u64,
    trees: u64,
    files: u64,
    dirs: u64,
    nodes: u64,
    packs: u64,
    contents: u64,
    chunks: u64,
    bytes_read: u64,
    unreferenced: u64,
    unreferenced_bytes: u64,
    damaged: u64,
    warnings: Vec<String>,
    damage: Vec<DamageItem>,
    seconds: f64,
    #[serde(skip)]
    all_records: bool,
}

#[derive(Debug, Serialize)]
struct DamageItem {
    object: String,
    rule: String,
    paths: Vec<String>,
    more_paths: u64,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if let Some(dir) = &args.state {
        return state::run(dir, args.salvage.as_deref(), context);
    }
    if let Some(dir) = &args.cache {
        return cache::run(dir, args.quick, context);
    }
    let named = args.volume.unwrap_or_default();
    let url = parse_volume(&named, &context.environment)
        .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
    let started = Instant::now();
    let session = Session::open(&url, context.caller()).await?;
    let options = FsckOptions {
        quick: args.quick,
        all_records: args.all_records,
    };
    let view = context.progress_view();
    let shown = parking_lot::Mutex::new(started);
    let show = |now: FsckProgress| {
        let mut last = shown.lock();
        if last.elapsed() < PROGRESS_EVERY {
            return;
        }
        *last = Instant::now();
        view.show(&Progress {
            stage: now.stage.into(),
            done_files: now.done,
            total_files: now.total,
            done_bytes: now.bytes,
            total_bytes: 0,
            sent_bytes: 0,
        });
    };
    let report = session.volume.fsck(&session.head, options, &show).await?;
    drop(view);
    let answer = answer(
        url.to_string(),
        session.head.seq(),
        options,
        report,
        started.elapsed(),
    );
    context.print(&answer, text)?;
    match answer.damaged {
        0 => Ok(()),
        n => Err(Failure::new(
            FailureKind::Damaged,
            format!("{}: {} damaged", url, count(n, "thing")),
        )
        .hint("older records may still hold undamaged files; keep the bucket as it is until they are saved")),
    }
}

fn answer(volume: String, head: Seq, options: FsckOptions, report: FsckReport, elapsed: Duration) -> Answer {
    let item = |d: Damage| DamageItem {
        object: d.object,
        rule: d.rule,
        paths: d.paths,
        more_paths: d.more_paths,
    };
    Answer {
        volume,
        head,
        quick: options.quick,
        records: report.records,
        trees: report.trees,
        files: report.files,
        dirs: report.dirs,
        nodes: report.nodes,
        packs: report.packs,
        contents: report.blobs,
        chunks: report.chunks,
        bytes_read: report.bytes_read,
        unreferenced: report.unreferenced,
        unreferenced_bytes: report.unreferenced_bytes,
        damaged: report.damaged,
        warnings: report.warnings,
        damage: report.damage.into_iter().map(item).collect(),
        seconds: elapsed.as_secs_f64(),
        all_records: options.all_records,
    }
}

fn text(a: &Answer) -> String {
    let mut out = String::new();
    for warning in &a.warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    for item in &a.damage {
        out.push_str(&format!("DAMAGED {}: {}\n", item.object, item.rule));
        for path in &item.paths {
            out.push_str(&format!("    {path}\n"));
        }
        if item.more_paths > 0 {
            out.push_str(&format!("    and {}\n", count(item.more_paths, "more path")));
        }
    }
    let listed = a.damage.len() as u64;
    if listed < a.damaged {
        out.push_str(&format!("... and {} more\n", a.damaged - listed));
    }
    let verdict = match (a.damaged, a.quick) {
        (0, false) => "everything exists and matches its hash".to_owned(),
        (0, true) => "everything exists (contents were not read)".to_owned(),
        (n, _) => format!("{n} damaged"),
    };
    let trees = if a.trees == 1 {
        format!("record {}", a.head)
    } else {
        count(a.trees, "tree")
    };
    let dirs = if a.dirs == 1 {
        "1 directory".to_owned()
    } else {
        format!("{} directories", a.dirs)
    };
    out.push_str(&format!(
        "{}: {verdict}\n  {trees}: {}, {dirs}; {} in {} and {}, {} read in {:.1} s\n  chain of {}\n",
        a.volume,
        count(a.files, "name"),
        count(a.contents, "content"),
        count(a.packs, "pack"),
        count(a.chunks, "chunk"),
        format_bytes(a.bytes_read),
        a.seconds,
        count(a.records, "record"),
    ));
    if a.unreferenced > 0 {
        let whose = if a.all_records {
            "no record that is kept"
        } else {
            "not the newest record"
        };
        out.push_str(&format!(
            "  {} ({}) for {whose}: older records, and uploads that are running or were interrupted\n",
            count(a.unreferenced, "object"),
            format_bytes(a.unreferenced_bytes)
        ));
    }
    out
}
