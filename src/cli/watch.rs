//! `sailvol watch`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::table::{count, local_time};
use crate::answer::{Event, Failure, Happening};
use crate::config::format_bytes;

/// Show what happens to a mount as it happens
///
/// One line for each commit, reload, newer record in the store, change of the number of local changes, and failure; with
/// --json one JSON object a line. Ends with the mount. While somebody watches, the store is asked for the newest record
/// every 30 s. A reader that is too slow misses events and is told how many; the mount never waits.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (_, mut client) = context.connect(args.dir.as_deref()).await?;
    let mut told = 0;
    let mut outcome = Ok(());
    client
        .watch(|event| {
            outcome = context.print(&event, text);
            told += 1;
            match outcome.is_err() || args.count.is_some_and(|limit| told >= limit) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await?;
    outcome
}

fn text(event: &Event) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
    let time = local_time(event.time as i64);
    format!("{time}  {}\n", what(&event.what))
}

fn what(happening: &Happening) -> String {
    let by_itself = |automatic: &bool| if *automatic { " by itself" } else { "" };
    match happening {
        Happening::Watching { base, head, changes } => format!(
            "watching: at record {base}, newest {head}, {} not committed",
            count(*changes, "change")
        ),
        Happening::Committed {
            seq,
            changed,
            bytes_sent,
            seconds,
            merged_with,
            automatic,
            ..
        } => {
            let merged = match merged_with.len() as u64 {
                0 => String::new(),
                n => format!(", merged with {} by others", count(n, "record")),
            };
            format!(
                "committed record {seq}{}: {}, {} sent in {seconds:.1} s{merged}",
                by_itself(automatic),
                count(*changed, "change"),
                format_bytes(*bytes_sent),
            )
        }
        Happening::Reloaded {
            from,
            to,
            stash,
            kept,
            automatic,
        } => {
            let stash = stash
                .map(|id| format!(", local changes are in stash {id}"))
                .unwrap_or_default();
            let kept = match kept {
                0 => String::new(),
                n => format!(", {} kept", count(*n, "local change")),
            };
            format!(
                "reloaded{} from record {from} to {to}{stash}{kept}",
                by_itself(automatic)
            )
        }
        Happening::HeadMoved { from, to } => format!("record {to} is now the newest (was {from})"),
        Happening::Dirty { changes: 0, .. } => "no changes to commit".to_owned(),
        Happening::Dirty { changes, bytes } => format!(
            "{} to commit, {} on local disk",
            count(*changes, "change"),
            format_bytes(*bytes)
        ),
        Happening::Error { during, failure, .. } => {
            let hint = failure
                .hint
                .as_ref()
                .map(|hint| format!("; {hint}"))
                .unwrap_or_default();
            format!("{during} failed: {}{hint}", failure.message)
        }
        Happening::Missed { events } => format!("(missed {})", count(*events, "event")),
        Happening::Ended => "the mount has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_happened() {
        let committed = Happening::Committed {
            seq: 4,
            record: "ab".into(),
            changed: 1,
            files: 1,
            bytes_changed: 10,
            bytes_sent: 2048,
            seconds: 0.25,
            merged_with: vec![2, 3],
            still_written: 0,
            automatic: true,
        };
        assert_eq!(
            what(&committed),
            "committed record 4 by itself: 1 change, 2.0 KiB sent in 0.2 s, merged with 2 records by others"
        );
        assert_eq!(
            what(&Happening::Dirty { changes: 0, bytes: 0 }),
            "no changes to commit"
        );
    }
}
