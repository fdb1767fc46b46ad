//! `sailvol ls`.

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::complete;
use super::context::Context;
use super::table::{local_time, table};
use crate::answer::Failure;
use crate::config::format_bytes;
use crate::files::{ListOptions, Session, list};
use crate::model::{Entry, EntryBody, Kind, VolPath, show};

/// List files of a volume without a mount
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path
    #[arg(add = ArgValueCompleter::new(complete::volume_paths))]
    path: OsString,
    /// With mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Also what is below subdirectories
    #[arg(short, long)]
    recursive: bool,
    /// At most this many names
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

/// One line.
#[derive(Debug, Serialize)]
struct Item {
    path: String,
    kind: &'static str,
    size: u64,
    mode: String,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// What is listed.
#[derive(Debug, Serialize)]
struct Listing {
    entries: Vec<Item>,
    truncated: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let place = context.volume_path("ls", &args.path)?;
    let session = Session::open(&place.volume, context.caller()).await?;
    let path = session.path(&place.path).await?;
    let options = ListOptions {
        recursive: args.recursive,
        limit: args.limit,
    };
    let found = list(&session, path, options).await?;
    let listing = Listing {
        entries: found
            .entries
            .iter()
            .map(|(path, entry)| item(path, entry))
            .collect(),
        truncated: found.truncated,
    };
    context.print(&listing, |listing| text(listing, args.long))
}

fn item(path: &VolPath, entry: &Entry) -> Item {
    let (kind, letter) = match entry.kind() {
        Kind::File | Kind::HardLink => ("file", '-'),
        Kind::Symlink => ("symlink", 'l'),
        Kind::Dir => ("directory", 'd'),
        Kind::Fifo => ("fifo", 'p'),
        Kind::Socket => ("socket", 's'),
        Kind::CharDev => ("char-device", 'c'),
        Kind::BlockDev => ("block-device", 'b'),
    };
    let (size, target) = match &entry.body {
        EntryBody::File { size, .. } => (*size, None),
        EntryBody::Symlink { target } => (target.len() as u64, Some(show(target))),
        EntryBody::Dir { totals, .. } => (totals.bytes, None),
        _ => (0, None),
    };
    Item {
        path: path.to_string(),
        kind,
        size,
        mode: format!("{letter}{}", permissions(entry.attrs.mode)),
        uid: entry.attrs.uid,
        gid: entry.attrs.gid,
        mtime: entry.attrs.mtime.secs,
        target,
    }
}

/// `rwxr-xr-x`, with the letters of `ls` for setuid, setgid and sticky.
fn permissions(mode: u16) -> String {
    let mut out = String::with_capacity(9);
    for (class, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> class;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    out
}

fn text(listing: &Listing, long: bool) -> String {
    let mut out = if long {
        let rows: Vec<Vec<String>> = listing
            .entries
            .iter()
            .map(|i| {
                let arrow = i.target.as_ref().map(|t| format!(" -> {t}")).unwrap_or_default();
                vec![
                    i.mode.clone(),
                    format!("{}:{}", i.uid, i.gid),
                    format_bytes(i.size),
                    local_time(i.mtime),
                    format!("{}{arrow}", i.path),
                ]
            })
            .collect();
        table(&rows)
    } else {
        let line = |i: &Item| format!("{}{}\n", i.path, if i.kind == "directory" { "/" } else { "" });
        listing.entries.iter().map(line).collect()
    };
    if listing.truncated {
        out.push_str("... and more (--limit)\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4711, "rws--x--x"),
            (0o2670, "rw-rws---"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }
}
