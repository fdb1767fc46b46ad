//! `sailvol status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::style::Tone;
use super::table::{count, table};
use crate::answer::{AutomaticStatus, Failure, FailureKind, StatusAnswer, Unshown};
use crate::config::{format_bytes, format_duration};
use crate::control::Request;
use crate::fuse;

/// Show the state of a mount
///
/// The volume, the record the mount stands on and how far behind the newest it is, local changes, cache, transfers, what
/// it does by itself, and what deserves attention, with what to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Do not ask the store for the newest record
    #[arg(long)]
    local: bool,
    /// For probes: one line; exit code 0 when daemon and mount answer within 5 s (a silent store is no failure)
    #[arg(long, conflicts_with = "local")]
    check: bool,
}

/// Time for all of `--check`.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if args.check {
        return check(args.dir.as_deref(), context).await;
    }
    let (_, mut client) = context.connect(args.dir.as_deref()).await?;
    let ask_store = !args.local;
    let answer: StatusAnswer = client.call(&Request::Status { ask_store }, |_| {}).await?;
    context.print(&answer, text)
}

/// The daemon answers, and the kernel's way to it works. A probe that fails gets a container restarted, which does not
/// mend a store: so only what a restart mends counts.
async fn check(dir: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let looking = async {
        let (record, mut client) = context.connect(dir).await?;
        let status: StatusAnswer = client.call(&Request::Status { ask_store: false }, |_| {}).await?;
        // In another container than the daemon's the mount may be elsewhere, or not there.
        if fuse::is_sailvol_mount(&record.dir) {
            answers(&record.dir).await?;
        }
        Ok::<_, Failure>(status)
    };
    let silent = |_| {
        Failure::new(
            FailureKind::Failed,
            format!("no answer within {} s", CHECK_TIME.as_secs()),
        )
    };
    let status = tokio::time::timeout(CHECK_TIME, looking)
        .await
        .map_err(silent)??;
    let answer = serde_json::json!({
        "ok": true, "dir": status.dir, "base": status.base, "dirty": status.dirty, "offline_secs": status.offline_secs,
    });
    context.print(&answer, |_| {
        let offline = match status.offline_secs {
            Some(secs) => format!(", the store has not answered for {}", format_duration(secs)),
            None => String::new(),
        };
        format!("ok: {} at record {}{offline}\n", status.dir, status.base)
    })
}

/// statfs(2) always reaches the daemon. It is asked on a thread of its own: it may never come back.
async fn answers(dir: &Path) -> Result<(), Failure> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let path = dir.to_owned();
    std::thread::spawn(move || tell.send(rustix::fs::statfs(&path).map(drop)));
    let failed = |why: String| {
        Failure::new(
            FailureKind::Failed,
            format!("{} does not answer: {why}", dir.display()),
        )
    };
    match told.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the question was lost".to_owned())),
    }
}

fn head_text(s: &StatusAnswer) -> String {
    let head = match s.head {
        Some(head) if head == s.base && s.unshown.is_some() => "yours, the newest".to_owned(),
        Some(head) if head == s.base => "the newest".to_owned(),
        Some(head) if head > s.base => {
            let behind = count(head - s.base, "record");
            let since = s.behind_secs.filter(|secs| *secs >= 60).map(format_duration);
            let since = since.map(|time| format!(" for {time}")).unwrap_or_default();
            format!("{behind} behind the newest, {head}{since} (`sailvol reload`)")
        }
        Some(head) => format!("the newest known is {head}"),
        None => "the newest is not known".to_owned(),
    };
    let age = match (&s.head_error, s.head_age_secs) {
        (Some(_), Some(age)) => format!(" (asked {} ago)", format_duration(age)),
        (None, Some(age)) if age > 5 => format!(" (asked {} ago)", format_duration(age)),
        _ => String::new(),
    };
    format!(
        "record {} ({}), {head}{age}",
        s.base,
        &s.base_record.to_string()[..12]
    )
}

/// "Published, not shown yet".
fn unshown_text(unshown: &Unshown) -> String {
    let shows = match unshown.shows {
        Some(seq) => format!("shows record {seq} and what you committed since; "),
        None => String::new(),
    };
    let others: Vec<String> = unshown.others.iter().map(u64::to_string).collect();
    let from = match others.len() as u64 {
        0 => String::new(),
        n => format!(
            " ({} {})",
            if n == 1 { "record" } else { "records" },
            others.join(", ")
        ),
    };
    format!(
        "{shows}record {}, yours, holds changes by others{from}: `sailvol reload`",
        unshown.record
    )
}

/// What a mount does by itself, and how that stands.
fn automatic_text(auto: &AutomaticStatus, verb: &str) -> String {
    let mut out = format!("every {}", format_duration(auto.every_secs));
    if let (Some(seq), Some(age)) = (auto.last_seq, auto.last_age_secs) {
        out.push_str(&format!(", {verb} record {seq} {} ago", format_duration(age)));
    }
    out.push_str(&format!(", next look in {}", format_duration(auto.next_secs)));
    if auto.failures > 0 {
        out.push_str(&format!(", failed {}", count(u64::from(auto.failures), "time")));
    }
    if let Some(held) = &auto.held {
        out.push_str(&format!("; HELD: {held}"));
    }
    out
}

/// One word for the whole.
fn summary_text(s: &StatusAnswer) -> String {
    let mut words = vec![match s.dirty {
        0 => Tone::Good.paint("clean"),
        _ => "uncommitted changes".to_owned(),
    }];
    if s.head.is_some_and(|head| head > s.base) || s.unshown.is_some() {
        words.push(Tone::Warning.paint("behind"));
    }
    if let Some(secs) = s.offline_secs {
        words.push(Tone::Bad.paint(&format!("OFFLINE for {}", format_duration(secs))));
    }
    if s.autocommit.as_ref().is_some_and(|auto| auto.held.is_some()) {
        words.push(Tone::Bad.paint("AUTOCOMMIT HELD"));
    }
    words.join(", ")
}

fn text(s: &StatusAnswer) -> String {
    let mode = if s.read_only { ", read-only" } else { "" };
    let dirty = match s.dirty {
        0 => "none".to_owned(),
        n => format!(
            "{}, {} on local disk",
            count(n, "change"),
            format_bytes(s.dirty_bytes)
        ),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("state", summary_text(s));
    row("mount", format!("{} ({}{mode})", s.dir, s.name));
    row("volume", format!("{} in {}", s.volume, s.store));
    row("base", head_text(s));
    if let Some(unshown) = &s.unshown {
        row("not shown yet", unshown_text(unshown));
    }
    row("uncommitted", dirty);
    if let Some(auto) = &s.autocommit {
        row("autocommit", automatic_text(auto, "published"));
    }
    if let Some(auto) = &s.autoreload {
        row("autoreload", automatic_text(auto, "moved to"));
    }
    if s.stashes > 0 {
        row("stashes", format!("{} (`sailvol stash list`)", s.stashes));
    }
    let looked = s.cache.hits + s.cache.misses;
    let hits = match (s.cache.hits * 100).checked_div(looked) {
        Some(percent) => format!(", {percent} % of reads answered locally"),
        None => String::new(),
    };
    row(
        "cache",
        format!(
            "{} of {}{hits}",
            format_bytes(s.cache.used_bytes),
            format_bytes(s.cache.max_bytes)
        ),
    );
    row(
        "transfers",
        format!(
            "{}, {} received, {} sent, {}",
            count(s.transfers.requests, "request"),
            format_bytes(s.transfers.received_bytes),
            format_bytes(s.transfers.sent_bytes),
            count(s.transfers.errors, "error")
        ),
    );
    row("passthrough", s.passthrough.clone());
    for lack in &s.lacks {
        row("lacks", lack.clone());
    }
    row(
        "daemon",
        format!(
            "pid {}, sailvol {}, up {}",
            s.pid,
            s.version,
            format_duration(s.uptime_secs)
        ),
    );
    if let Some(metrics) = &s.metrics {
        row("metrics", metrics.clone());
    }
    if let Some(busy) = &s.busy {
        row("running", busy.clone());
    }
    for (name, value) in attention(s) {
        row(&Tone::Warning.paint(name), value);
    }
    table(&rows)
}

/// What went wrong, and what to do about it.
fn attention(s: &StatusAnswer) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(error) = &s.head_error {
        out.push(("store", error.clone()));
    }
    if let Some(secs) = s.offline_secs {
        let text = format!(
            "no answer for {}; reads of what is cached, writes and unmounting go on; `sailvol doctor` looks for the cause",
            format_duration(secs)
        );
        out.push(("store", text));
    } else if let Some(error) = &s.transfers.last_error {
        out.push(("last error", error.clone()));
    }
    if let Some(last) = &s.last_failure {
        let hint = last
            .failure
            .hint
            .as_ref()
            .map(|hint| format!("; {hint}"))
            .unwrap_or_default();
        out.push((
            "failed",
            format!(
                "{}, {} ago: {}{hint}",
                last.during,
                format_duration(last.age_secs),
                last.failure.message
            ),
        ));
    }
    out.extend(s.warnings.iter().map(|warning| ("warning", warning.clone())));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::LastFailure;
    use crate::cli::style::finish;

    #[test]
    fn the_state_is_told_at_a_glance_with_what_to_do() {
        let status = StatusAnswer {
            base: 3,
            head: Some(5),
            behind_secs: Some(120),
            dirty: 2,
            unshown: Some(Unshown {
                shows: Some(1),
                record: 3,
                others: vec![2],
            }),
            offline_secs: Some(90),
            autocommit: Some(AutomaticStatus {
                every_secs: 60,
                failures: 3,
                held: Some("no answer".into()),
                ..AutomaticStatus::default()
            }),
            last_failure: Some(LastFailure {
                during: "commit".into(),
                age_secs: 5,
                failure: Failure::new(FailureKind::StoreUnreachable, "no answer").hint("wait"),
            }),
            ..StatusAnswer::default()
        };
        let text = finish(&text(&status), false);
        for part in [
            "uncommitted changes, behind, OFFLINE for 1 min 30 s, AUTOCOMMIT HELD",
            "2 records behind the newest, 5 for 2 min 0 s (`sailvol reload`)",
            "every 1 min 0 s, next look in 0 s, failed 3 times; HELD: no answer",
            "commit, 5 s ago: no answer; wait",
            "shows record 1 and what you committed since; record 3, yours, holds changes by others (record 2): `sailvol reload`",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
