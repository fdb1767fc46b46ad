//! `sailvol get`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use clap_complete::engine::ArgValueCompleter;
use futures::stream::StreamExt;
use serde::Serialize;
use tokio::signal::unix::SignalKind;

use super::complete;
use super::context::Context;
use super::extract::{Done, Extractor};
use super::gather::local_failure;
use super::progress::ProgressView;
use super::remote::Remote;
use super::table::count;
use crate::answer::{Failure, FailureKind, Progress};
use crate::config::format_bytes;
use crate::model::{
    ChunkRef, Content, EXTENT_PAGE_CHUNKS, Entry, EntryBody, LinkId, Name, VolPath, chunk_count, chunk_len,
    show,
};
use crate::tree;

/// Time between two displays of progress.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Files and directories that are made on a disk that does not say how many it has room for.
const NAMES_MAX: u64 = 1 << 32;
/// Things that are looked at for holes, when the disk seems too small.
const HOLES_LOOKS_MAX: u64 = 1_000_000;

/// Copy files and directories of a volume to this machine without a mount
///
/// A directory comes with all that is in it. A local directory is copied into; a missing one is made when the target
/// ends in a slash. Modes, times, links, holes and user attributes are kept, owners only as root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path
    #[arg(value_name = "VOLUME:/PATH", add = ArgValueCompleter::new(complete::volume_paths))]
    source: OsString,
    /// Where to, or - for standard output
    #[arg(default_value = ".")]
    local: PathBuf,
    /// Replace files that are there already (never directories, devices, fifos and sockets)
    #[arg(short, long)]
    force: bool,
}

/// What was brought.
#[derive(Debug, Serialize)]
struct Answer {
    to: String,
    files: u64,
    dirs: u64,
    bytes: u64,
    seconds: f64,
    /// What this machine did not take.
    not_kept: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let place = context.volume_path("get", &args.source)?;
    context.refuse_volume_path("get", "a place on this machine", args.local.as_os_str())?;
    let remote = Remote::open(&place.volume, context).await?;
    let path = remote.path(&place.path).await?;
    // A hard link stays one: its other names may be among what is copied.
    let entry = remote.find(&path).await?.ok_or_else(|| remote.missing(&path))?;
    if args.local.as_os_str() == "-" {
        return to_stdout(&remote, &path, entry, context).await;
    }
    let (dir, name) = target(&args.local, path.0.last())?;
    check_inodes(&dir, &entry)?;
    let size = Size::of(&remote, &path, &entry).await?;
    check_room(&remote, &path, &dir, &entry, size).await?;
    let started = Instant::now();
    let done = Arc::new(Done::default());
    let extractor = Extractor::new(&remote, args.force, done.clone());
    let view = ProgressView::new(context);
    let work = extractor.extract(&dir, name.clone(), &path, entry);
    let mut work = std::pin::pin!(work);
    let mut ended = std::pin::pin!(told_to_end()?);
    let mut ticks = tokio::time::interval(SHOW_EVERY);
    loop {
        tokio::select! {
            result = &mut work => break result?,
            _ = ticks.tick() => view.show(&Progress {
                stage: "fetching".into(),
                done_files: done.files.load(Relaxed),
                total_files: size.files,
                done_bytes: done.bytes.load(Relaxed),
                total_bytes: size.bytes,
                sent_bytes: 0,
            }),
            () = &mut ended => {
                return Err(Failure::new(FailureKind::Failed, "interrupted: files that are there are complete"));
            }
        }
    }
    drop(view);
    let to = name.map_or(dir.clone(), |name| {
        dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
            name.as_bytes(),
        ))
    });
    let answer = Answer {
        to: show(to.as_os_str().as_encoded_bytes()),
        files: done.files.load(Relaxed),
        dirs: done.dirs.load(Relaxed),
        bytes: done.bytes.load(Relaxed),
        seconds: started.elapsed().as_secs_f64(),
        not_kept: done
            .not_kept
            .lock()
            .iter()
            .map(|(what, times)| format!("{what} ({})", count(*times, "time")))
            .collect(),
    };
    for what in &answer.not_kept {
        context.note(format!("not kept here: {what}"));
    }
    context.print(&answer, |a| {
        let files = count(a.files, "file");
        format!(
            "{files}, {} in {:.1} s: {}\n",
            format_bytes(a.bytes),
            a.seconds,
            a.to
        )
    })
}

/// Ends when this process is told to end: what it has under way is taken back then.
fn told_to_end() -> Result<impl Future<Output = ()>, Failure> {
    let signal = |kind| {
        tokio::signal::unix::signal(kind)
            .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot watch for signals: {e}")))
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn to_stdout(remote: &Remote, path: &VolPath, entry: Entry, context: &Context) -> Result<(), Failure> {
    let inode = remote.inode(entry).await?;
    let EntryBody::File { size, content } = &inode.body else {
        return Err(Failure::new(
            FailureKind::Usage,
            format!("{}:{path} is not a file", remote.volume.name()),
        )
        .hint("only a file goes to standard output"));
    };
    let mut pieces = std::pin::pin!(remote.pieces(*size, content));
    while let Some(piece) = pieces.next().await {
        context.write(&piece?)?;
    }
    Ok(())
}

/// The local directory, and the name in it; no name when a volume's root goes into a directory.
fn target(local: &Path, name: Option<&Name>) -> Result<(PathBuf, Option<Name>), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let slash = local.as_os_str().as_bytes().ends_with(b"/");
    match std::fs::metadata(local) {
        Ok(metadata) if metadata.is_dir() => return Ok((local.to_owned(), name.cloned())),
        Ok(_) if slash => {
            let text = format!("{}: is not a directory", local.display());
            return Err(Failure::new(FailureKind::Refused, text));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if slash {
                std::fs::create_dir(local).map_err(|e| local_failure(local, &e))?;
                return Ok((local.to_owned(), name.cloned()));
            }
        }
        Err(error) => return Err(local_failure(local, &error)),
    }
    let own = local
        .file_name()
        .ok_or_else(|| Failure::new(FailureKind::Usage, format!("{} names no file", local.display())))?;
    let above = match local.parent() {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    };
    if !above.is_dir() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("{}: no such directory", above.display()),
        )
        .hint(format!("mkdir -p {}", above.display())));
    }
    Ok((above, Some(super::gather::volume_name(own, local)?)))
}

/// How much is to be brought.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    files: u64,
    bytes: u64,
}

impl Size {
    /// Without opening directories that have no names of hard-linked files.
    async fn of(remote: &Remote, path: &VolPath, entry: &Entry) -> Result<Size, Failure> {
        let mut size = Size::default();
        let mut links: HashSet<LinkId> = HashSet::new();
        match entry.as_dir() {
            Some((totals, _)) => {
                size = Size {
                    files: totals.files,
                    bytes: totals.bytes,
                }
            }
            None => size.files = 1,
        }
        let mut open = vec![(path.clone(), entry.clone())];
        let mut top = true;
        while let Some((path, entry)) = open.pop() {
            match &entry.body {
                EntryBody::File { size: bytes, .. } if top => size.bytes = *bytes,
                EntryBody::HardLink(id) if links.insert(*id) => {
                    if let EntryBody::File { size: bytes, .. } = remote.inode(entry).await?.body {
                        size.bytes = size.bytes.saturating_add(bytes);
                    }
                }
                EntryBody::Dir { totals, tree } if totals.links > 0 => {
                    let below = remote.listed(&path, totals, tree).await?;
                    open.extend(below.into_iter().map(|(name, entry)| (path.join(&name), entry)));
                }
                _ => {}
            }
            top = false;
        }
        Ok(size)
    }
}

/// The disk has room for so many names: asked before anything is counted that only a walk can count.
fn check_inodes(dir: &Path, entry: &Entry) -> Result<(), Failure> {
    let Some((totals, _)) = entry.as_dir() else {
        return Ok(());
    };
    let room = rustix::fs::statvfs(dir).map_err(|e| local_failure(dir, &e.into()))?;
    let names = totals.files.saturating_add(totals.dirs);
    // Some file systems do not count their inodes: no disk has room for that many.
    let free = match room.f_files {
        0 => NAMES_MAX,
        _ => room.f_favail,
    };
    if names <= free {
        return Ok(());
    }
    let text = format!(
        "{} are to be made, and the disk of {} has room for {free}; nothing was written",
        count(names, "file"),
        dir.display(),
    );
    Err(Failure::new(FailureKind::Refused, text).hint("get less"))
}

/// The disk has room for that; when it does not seem so, holes are looked for.
async fn check_room(
    remote: &Remote,
    path: &VolPath,
    dir: &Path,
    entry: &Entry,
    size: Size,
) -> Result<(), Failure> {
    let room = rustix::fs::statvfs(dir).map_err(|e| local_failure(dir, &e.into()))?;
    let bytes = size.bytes;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if bytes <= free {
        return Ok(());
    }
    let needed = bytes.saturating_sub(holes(remote, path.clone(), entry.clone()).await?);
    if needed <= free {
        return Ok(());
    }
    let text = format!(
        "{} are needed, and the disk of {} has {} free; nothing was written",
        format_bytes(needed),
        dir.display(),
        format_bytes(free)
    );
    Err(Failure::new(FailureKind::Refused, text).hint("make room, or get less"))
}

/// Bytes of chunks that are holes, below an entry; of a huge tree as far as it was looked at.
async fn holes(remote: &Remote, path: VolPath, entry: Entry) -> Result<u64, Failure> {
    let mut found = 0u64;
    let mut looked = 0;
    let mut links: HashSet<LinkId> = HashSet::new();
    let mut open = vec![(path, entry)];
    while let Some((path, entry)) = open.pop()
        && looked < HOLES_LOOKS_MAX
    {
        looked += 1;
        if let EntryBody::HardLink(id) = &entry.body
            && !links.insert(*id)
        {
            continue;
        }
        match remote.inode(entry).await?.body {
            EntryBody::File {
                size,
                content: content @ (Content::Chunks { .. } | Content::Paged { .. }),
            } => {
                found = found.saturating_add(holes_of(remote, &content, size).await?);
            }
            EntryBody::Dir { totals, tree } => {
                let below = remote.listed(&path, &totals, &tree).await?;
                open.extend(below.into_iter().map(|(name, entry)| (path.join(&name), entry)));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The same of one file, some chunks at a time: a list may have 2^24.
async fn holes_of(remote: &Remote, content: &Content, size: u64) -> Result<u64, Failure> {
    let mut found = 0u64;
    let mut at = 0;
    while at < chunk_count(size) {
        let some = at..at + 64 * EXTENT_PAGE_CHUNKS;
        let chunks = tree::chunks(&remote.nodes, content, size, some).await?;
        if chunks.is_empty() {
            break;
        }
        let is_hole = |(_, chunk): &(u64, &ChunkRef)| matches!(chunk, ChunkRef::Hole);
        let holes = (at..).zip(&chunks).filter(is_hole);
        found += holes.map(|(index, _)| chunk_len(index, size)).sum::<u64>();
        at += chunks.len() as u64;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_cp() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new(b"n").unwrap();
        let shown = |local: PathBuf, name: Option<&Name>| {
            let (at, name) = target(&local, name).unwrap();
            (at, name.map(|n| n.to_string()))
        };
        let at = |name: &str| dir.path().join(name);
        assert_eq!(shown(at(""), Some(&name)), (at(""), Some("n".into())));
        assert_eq!(shown(at(""), None), (at(""), None));
        assert_eq!(
            shown(at("new"), Some(&name)),
            (dir.path().to_path_buf(), Some("new".into()))
        );
        assert_eq!(shown(at("made/"), Some(&name)), (at("made/"), Some("n".into())));
        assert!(at("made").is_dir());
        assert_eq!(
            target(&at("x/y"), Some(&name)).unwrap_err().kind,
            FailureKind::NotFound
        );
        std::fs::write(at("file"), b"").unwrap();
        assert_eq!(
            target(&at("file/"), Some(&name)).unwrap_err().kind,
            FailureKind::Failed
        );
    }
}
