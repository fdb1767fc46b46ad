//! Whether the disk of this machine has room for what is to be brought to it.

use std::collections::HashSet;
use std::path::Path;

use super::Session;
use super::local::local_failure;
use crate::answer::{Failure, FailureKind};
use crate::model::{
    ChunkRef, Content, EXTENT_PAGE_CHUNKS, Entry, EntryBody, LinkId, VolPath, chunk_count, chunk_len,
    format_bytes, format_count,
};
use crate::tree;

/// Files and directories that are made on a disk that does not say how many it has room for.
const NAMES_MAX: u64 = 1 << 32;
/// Things that are looked at for holes, when the disk seems too small.
const HOLES_LOOKS_MAX: u64 = 1_000_000;

/// How much is to be brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Everything but directories.
    pub files: u64,
    /// Logical bytes.
    pub bytes: u64,
}

impl Size {
    /// Without opening directories that have no names of hard-linked files.
    pub async fn of(session: &Session, path: &VolPath, entry: &Entry) -> Result<Size, Failure> {
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
                    if let EntryBody::File { size: bytes, .. } = session.inode(entry).await?.body {
                        size.bytes = size.bytes.saturating_add(bytes);
                    }
                }
                EntryBody::Dir { totals, tree } if totals.links > 0 => {
                    let below = session.listed(&path, totals, tree).await?;
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
pub fn check_inodes(dir: &Path, entry: &Entry) -> Result<(), Failure> {
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
        format_count(names, "file"),
        dir.display(),
    );
    Err(Failure::new(FailureKind::Refused, text).hint("get less"))
}

/// The disk has room for that; when it does not seem so, holes are looked for.
pub async fn check_room(
    session: &Session,
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
    let needed = bytes.saturating_sub(holes(session, path.clone(), entry.clone()).await?);
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
async fn holes(session: &Session, path: VolPath, entry: Entry) -> Result<u64, Failure> {
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
        match session.inode(entry).await?.body {
            EntryBody::File {
                size,
                content: content @ (Content::Chunks { .. } | Content::Paged { .. }),
            } => {
                found = found.saturating_add(holes_of(session, &content, size).await?);
            }
            EntryBody::Dir { totals, tree } => {
                let below = session.listed(&path, &totals, &tree).await?;
                open.extend(below.into_iter().map(|(name, entry)| (path.join(&name), entry)));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The same of one file, some chunks at a time: a list may have 2^24.
async fn holes_of(session: &Session, content: &Content, size: u64) -> Result<u64, Failure> {
    let mut found = 0u64;
    let mut at = 0;
    while at < chunk_count(size) {
        let some = at..at + 64 * EXTENT_PAGE_CHUNKS;
        let chunks = tree::chunks(&session.nodes, content, size, some).await?;
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
