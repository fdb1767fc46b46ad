//! `sailvol volume`.

use std::io::{BufRead, IsTerminal};

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::complete;
use super::context::Context;
use super::style::Tone;
use super::table::{count, local_time, table};
use crate::answer::{Failure, FailureKind};
use crate::config::{default_store, format_bytes, parse_volume};
use crate::files::{Session, create_volume, open_limited};
use crate::model::{Attrs, Seq, VolumeId};
use crate::store::StoreUrl;
use crate::volume::{Clock, ToDelete, Volume, VolumeError, VolumeRef};

/// Create, list, inspect and delete volumes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make an empty volume
    ///
    /// The store is tested first: it must let exactly one of several racing writers create an object.
    Create {
        /// The volume: a name or URL
        volume: String,
        /// No error if it already exists
        #[arg(long)]
        if_missing: bool,
        /// Owner of its root directory
        #[arg(long)]
        uid: Option<u32>,
        /// Group of its root directory
        #[arg(long)]
        gid: Option<u32>,
    },
    /// List the volumes of a store
    List {
        /// URL of the store (default: SAILVOL_STORE)
        store: Option<String>,
    },
    /// Show size, age and newest record of a volume
    Info {
        /// The volume
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
    },
    /// Delete a volume with all its records, for everybody and for ever
    Delete {
        /// The volume
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// A volume at a glance.
#[derive(Debug, Serialize)]
struct VolumeSummary {
    name: String,
    /// `None` when the entry of the names index is damaged.
    id: Option<VolumeId>,
    created: Option<i64>,
    head: Option<Seq>,
    modified: Option<i64>,
    files: u64,
    dirs: u64,
    bytes: u64,
    stored_bytes: u64,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.action {
        Action::Create {
            volume,
            if_missing,
            uid,
            gid,
        } => create(&volume, if_missing, (uid, gid), context).await,
        Action::List { store } => list(store.as_deref(), context).await,
        Action::Info { volume } => info(&volume, context).await,
        Action::Delete { volume, yes } => delete(&volume, yes, context).await,
    }
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, error.to_string())
}

async fn create(
    volume: &str,
    if_missing: bool,
    (uid, gid): (Option<u32>, Option<u32>),
    context: &Context,
) -> Result<(), Failure> {
    let url = parse_volume(volume, &context.environment).map_err(usage)?;
    let store = open_limited(&url.store, &context.caller()).await?;
    let root = Attrs {
        mode: 0o755,
        uid: uid.unwrap_or(rustix::process::getuid().as_raw()),
        gid: gid.unwrap_or(rustix::process::getgid().as_raw()),
        ..Attrs::default()
    };
    let places = (store, Clock::system());
    let (opened, made) = create_volume(places, &url.name, "sailvol volume create", root).await?;
    if !made && !if_missing {
        return Err(
            Failure::new(FailureKind::Exists, format!("there is already a volume {url}"))
                .hint("with --if-missing that is not an error"),
        );
    }
    let answer = serde_json::json!({ "name": url.name, "id": opened.volume.id(), "created": made });
    context.print(&answer, |_| {
        let verb = if made { "created" } else { "found" };
        format!("{verb} {url} ({})\n", opened.volume.id())
    })
}

async fn list(store: Option<&str>, context: &Context) -> Result<(), Failure> {
    let url = match store {
        Some(text) => StoreUrl::parse(text).map_err(usage)?,
        None => default_store(&context.environment).map_err(usage)?,
    };
    let store = open_limited(&url, &context.caller()).await?;
    let found = Volume::list(&store, &Clock::system()).await?;
    let mut worst: Option<Failure> = None;
    let mut damaged = 0;
    let mut rows = Vec::new();
    for listed in found {
        rows.push(match listed.head {
            Ok(head) => summary(listed.name, listed.id, head.record()),
            Err(error) => {
                let row = unreadable(listed.name, listed.id, &error);
                // What is half deleted, or of a later version, is as somebody left it.
                let is_as_left = matches!(
                    error,
                    VolumeError::Deleted { .. } | VolumeError::NotFound { .. } | VolumeError::Features { .. }
                );
                if !is_as_left {
                    let failure = Failure::from(error);
                    damaged += u64::from(failure.kind == FailureKind::Damaged);
                    worst = worst
                        .filter(|known| known.kind == FailureKind::Damaged)
                        .or(Some(failure));
                }
                row
            }
        });
    }
    let place = match rows.is_empty() && !store.is_established().await? {
        true => format!("{url}, where there is no store yet (or its disk is not mounted)"),
        false => url.to_string(),
    };
    context.print(&rows, |rows| {
        if rows.is_empty() {
            return format!("no volumes in {place}\n");
        }
        let mut lines = vec![
            ["VOLUME", "RECORD", "FILES", "SIZE", "CHANGED"]
                .map(|title| Tone::Head.paint(title))
                .to_vec(),
        ];
        lines.extend(rows.iter().map(|v| match &v.error {
            Some(error) => vec![
                v.name.clone(),
                "?".into(),
                String::new(),
                String::new(),
                error.clone(),
            ],
            None => vec![
                v.name.clone(),
                v.head.map(|h| h.to_string()).unwrap_or_default(),
                v.files.to_string(),
                format_bytes(v.bytes),
                v.modified.map(local_time).unwrap_or_default(),
            ],
        }));
        table(&lines)
    })?;
    match worst {
        None => Ok(()),
        Some(failure) if failure.kind == FailureKind::Damaged => Err(Failure::new(
            FailureKind::Damaged,
            format!("damaged: {} of those listed", count(damaged, "volume")),
        )
        .hint("`sailvol fsck VOLUME` tells more; `sailvol volume delete VOLUME` deletes one whose newest record is damaged")),
        Some(failure) => Err(failure),
    }
}

/// A row of a volume whose newest record cannot be had.
fn unreadable(name: String, id: Option<VolumeId>, error: &VolumeError) -> VolumeSummary {
    VolumeSummary {
        name,
        id,
        created: None,
        head: None,
        modified: None,
        files: 0,
        dirs: 0,
        bytes: 0,
        stored_bytes: 0,
        error: Some(error.to_string()),
    }
}

fn summary(name: String, id: Option<VolumeId>, record: &crate::format::Record) -> VolumeSummary {
    VolumeSummary {
        name,
        id,
        created: Some(record.descriptor.created.secs),
        head: Some(record.seq),
        modified: Some(record.time.secs),
        files: record.root.root.totals.files,
        dirs: record.root.root.totals.dirs,
        bytes: record.root.root.bytes(),
        stored_bytes: record.usage.stored,
        error: None,
    }
}

async fn info(volume: &str, context: &Context) -> Result<(), Failure> {
    let url = parse_volume(volume, &context.environment).map_err(usage)?;
    let session = Session::open(&url, context.caller()).await?;
    let answer = summary(url.name.clone(), Some(session.volume.id()), session.head.record());
    context.print(&answer, |v| {
        let rows = [
            ("volume", url.to_string()),
            ("id", v.id.map(|id| id.to_string()).unwrap_or_default()),
            ("created", v.created.map(local_time).unwrap_or_default()),
            ("newest record", v.head.map(|h| h.to_string()).unwrap_or_default()),
            ("changed", v.modified.map(local_time).unwrap_or_default()),
            (
                "content",
                format!(
                    "{}, {}, {}",
                    count(v.files, "file"),
                    match v.dirs {
                        1 => "1 directory".to_owned(),
                        n => format!("{n} directories"),
                    },
                    format_bytes(v.bytes)
                ),
            ),
            (
                "stored",
                format!(
                    "about {} in the store, history included",
                    format_bytes(v.stored_bytes)
                ),
            ),
        ];
        table(&rows.map(|(name, value)| vec![name.to_owned(), value]))
    })
}

async fn delete(volume: &str, yes: bool, context: &Context) -> Result<(), Failure> {
    let url = parse_volume(volume, &context.environment).map_err(usage)?;
    let store = open_limited(&url.store, &context.caller()).await?;
    let wanted = VolumeRef::parse(&url.name);
    let found = Volume::find_to_delete(store, Clock::system(), &wanted).await?;
    let what = match &found {
        ToDelete::Whole(opened) => {
            let root = &opened.head.record().root.root;
            let size = (count(root.totals.files, "file"), format_bytes(root.bytes()));
            format!("{url} ({}, {})", size.0, size.1)
        }
        ToDelete::Begun(_) => {
            context.note(format!(
                "an earlier deletion of {url} was interrupted: continuing it"
            ));
            format!("what is left of {url}")
        }
        ToDelete::Damaged(_, reason) => {
            context.note(format!(
                "{url} is damaged: its newest record cannot be read, so what it holds cannot be told ({reason})"
            ));
            format!("{url} (damaged)")
        }
    };
    if !yes {
        confirm(&url.name, &what, context)?;
    }
    let by = "sailvol volume delete";
    let deleted = match found {
        ToDelete::Whole(opened) => opened.volume.delete(&url.name, by).await?,
        ToDelete::Begun(volume) | ToDelete::Damaged(volume, _) => volume.delete(&url.name, by).await?,
    };
    context.print(
        &serde_json::json!({ "deleted": url.name, "objects": deleted }),
        |_| format!("deleted {url}: {}\n", count(deleted, "object")),
    )
}

/// The user types the name, or says --yes.
fn confirm(name: &str, what: &str, context: &Context) -> Result<(), Failure> {
    let refused = |text: &str| Failure::new(FailureKind::Refused, text);
    if !std::io::stdin().is_terminal() {
        return Err(
            refused("nothing was deleted: there is no terminal to ask for confirmation")
                .hint("--yes deletes without asking"),
        );
    }
    context.note(format!(
        "This deletes {what} with its whole history, for everybody and forever."
    ));
    context.note(
        "Mounts of it keep what they have cached and can no longer commit. Type the volume's name to continue:",
    );
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == name {
        return Ok(());
    }
    Err(refused("nothing was deleted: the name did not match"))
}
