//! Entries and dir pages (SPEC.md 7.1).

use std::sync::Arc;

use super::attrs::{MUST_UNDERSTAND, decode_attrs, encode_attrs};
use super::content::{decode_content, decode_ptr, encode_content, encode_ptr};
use super::limits::{NESTING_MAX, NODE_ENTRIES_MAX, NODE_RAW_BYTES_MAX, TOTAL_BYTES_MAX, TOTAL_COUNT_MAX};
use super::tables::{DecodeTables, EncodeError, EncodeTables, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    Attrs, DirPage, DirTree, Entry, EntryBody, Kind, LinkId, NAME_BYTES_MAX, Name, SYMLINK_BYTES_MAX, Totals,
};

/// Writes kind, attributes and body of an entry, without its name.
pub fn encode_entry(w: &mut Writer, tables: &mut EncodeTables, entry: &Entry) -> Result<(), EncodeError> {
    encode_entry_at(w, tables, entry, 1)
}

/// As [`encode_entry`], inside a page that is `depth` directories deep in its node.
pub(super) fn encode_entry_at(
    w: &mut Writer,
    tables: &mut EncodeTables,
    entry: &Entry,
    depth: usize,
) -> Result<(), EncodeError> {
    tables.count_entry()?;
    w.u8(entry.kind() as u8);
    if let EntryBody::HardLink(id) = &entry.body {
        w.uv(0); // its attributes are those of the inode
        w.raw(&id.0);
        return Ok(());
    }
    encode_attrs(w, tables, &entry.attrs)?;
    match &entry.body {
        EntryBody::File { size, content } => {
            w.uv(*size);
            encode_content(w, tables, *size, content)
        }
        EntryBody::Symlink { target } => {
            check_target(target).map_err(EncodeError::Invalid)?;
            w.bytes(target);
            Ok(())
        }
        EntryBody::Dir { totals, tree } => {
            encode_totals(w, totals)?;
            encode_dir_tree(w, tables, tree, depth)
        }
        EntryBody::CharDev { major, minor } | EntryBody::BlockDev { major, minor } => {
            w.uv(u64::from(*major));
            w.uv(u64::from(*minor));
            Ok(())
        }
        EntryBody::Fifo | EntryBody::Socket | EntryBody::HardLink(_) => Ok(()),
    }
}

/// Reads kind, attributes and body of an entry. Bytes that follow in `r` are left there.
pub fn decode_entry(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<Entry, Corrupt> {
    decode_entry_at(r, tables, 1)
}

/// As [`decode_entry`], inside a page that is `depth` directories deep in its node.
pub(super) fn decode_entry_at(
    r: &mut Reader<'_>,
    tables: &mut DecodeTables,
    depth: usize,
) -> Result<Entry, Corrupt> {
    tables.count_entry(r)?;
    let kind = decode_kind(r)?;
    if kind == Kind::HardLink {
        let present = r.uv()?;
        r.require(
            present & (MUST_UNDERSTAND | 0xff) == 0,
            "a name of a hard link has attributes",
        )?;
        return Ok(Entry {
            attrs: Attrs::default(),
            body: EntryBody::HardLink(LinkId(r.array()?)),
        });
    }
    let attrs = decode_attrs(r, tables)?;
    let body = match kind {
        Kind::File => {
            let size = r.uv()?;
            EntryBody::File {
                size,
                content: decode_content(r, tables, size)?,
            }
        }
        Kind::Symlink => {
            let target = r.bytes(SYMLINK_BYTES_MAX)?;
            check_target(target).map_err(|rule| r.corrupt(rule))?;
            EntryBody::Symlink {
                target: target.into(),
            }
        }
        Kind::Dir => EntryBody::Dir {
            totals: decode_totals(r)?,
            tree: decode_dir_tree(r, tables, depth)?,
        },
        Kind::Fifo => EntryBody::Fifo,
        Kind::Socket => EntryBody::Socket,
        Kind::CharDev => EntryBody::CharDev {
            major: r.uv32()?,
            minor: r.uv32()?,
        },
        Kind::BlockDev => EntryBody::BlockDev {
            major: r.uv32()?,
            minor: r.uv32()?,
        },
        Kind::HardLink => return Err(r.corrupt("a name of a hard link inside an inode")),
    };
    Ok(Entry { attrs, body })
}

fn decode_kind(r: &mut Reader<'_>) -> Result<Kind, Corrupt> {
    Ok(match r.u8()? {
        1 => Kind::File,
        2 => Kind::Symlink,
        3 => Kind::Dir,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDev,
        7 => Kind::BlockDev,
        8 => Kind::HardLink,
        _ => return Err(r.corrupt("an entry of unknown kind")),
    })
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > SYMLINK_BYTES_MAX || target.contains(&0) {
        return Err("a symlink target has 1 to 4,095 bytes, none of them NUL");
    }
    Ok(())
}

/// Writes the totals of a directory.
pub(super) fn encode_totals(w: &mut Writer, totals: &Totals) -> Result<(), EncodeError> {
    let Totals {
        files,
        dirs,
        bytes,
        links,
        subdirs,
    } = *totals;
    for count in [files, dirs, links, subdirs] {
        limit(count, TOTAL_COUNT_MAX, "entries below a directory")?;
    }
    limit(bytes, TOTAL_BYTES_MAX, "bytes below a directory")?;
    for value in [files, dirs, bytes, links, subdirs] {
        w.uv(value);
    }
    Ok(())
}

/// Reads the totals of a directory.
pub(super) fn decode_totals(r: &mut Reader<'_>) -> Result<Totals, Corrupt> {
    const RULE: &str = "totals of a directory are over their limit";
    Ok(Totals {
        files: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        dirs: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        bytes: r.uv_max(TOTAL_BYTES_MAX, RULE)?,
        links: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        subdirs: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
    })
}

fn encode_dir_tree(
    w: &mut Writer,
    tables: &mut EncodeTables,
    tree: &DirTree,
    depth: usize,
) -> Result<(), EncodeError> {
    match tree {
        DirTree::Inline(page) => {
            limit(
                depth as u64 + 1,
                NESTING_MAX as u64,
                "directories inside one another in a node",
            )?;
            let mut body = Writer::new();
            let resume = tables.previous;
            encode_dir_body(&mut body, tables, page, depth + 1)?;
            tables.previous = resume;
            w.u8(0);
            w.bytes(body.as_slice());
            Ok(())
        }
        DirTree::Stored { ptr, index } => {
            w.u8(if *index { 2 } else { 1 });
            encode_ptr(w, tables, ptr)
        }
        DirTree::Pages(_) => Err(EncodeError::NotStored),
    }
}

fn decode_dir_tree(r: &mut Reader<'_>, tables: &mut DecodeTables, depth: usize) -> Result<DirTree, Corrupt> {
    match r.u8()? {
        0 => {
            r.require(
                depth < NESTING_MAX,
                "more than 64 directories inside one another in a node",
            )?;
            let len = r.uv()?;
            let mut body = r.part(len)?;
            let resume = tables.previous;
            let page = decode_dir_body(&mut body, tables, depth + 1)?;
            tables.previous = resume;
            body.finish()?;
            Ok(DirTree::Inline(Arc::new(page)))
        }
        form @ (1 | 2) => Ok(DirTree::stored(decode_ptr(r, tables)?, form == 2)),
        _ => Err(r.corrupt("a directory of unknown form")),
    }
}

/// Writes a dir page's body. The outermost page of a node has depth 1.
pub(super) fn encode_dir_body(
    w: &mut Writer,
    tables: &mut EncodeTables,
    page: &DirPage,
    depth: usize,
) -> Result<(), EncodeError> {
    w.uv(page.entries.len() as u64);
    let mut last: Option<&Name> = None;
    let mut one = Writer::new();
    for (name, entry) in &page.entries {
        ensure(
            last.is_none_or(|last| last < name),
            "entries are sorted by name, each name once",
        )?;
        last = Some(name);
        one.clear();
        one.bytes(name.as_bytes());
        encode_entry_at(&mut one, tables, entry, depth)?;
        w.bytes(one.as_slice());
        limit(
            w.len() as u64,
            u64::from(NODE_RAW_BYTES_MAX),
            "raw bytes of a node",
        )?;
    }
    Ok(())
}

/// Reads a dir page's body.
pub(super) fn decode_dir_body(
    r: &mut Reader<'_>,
    tables: &mut DecodeTables,
    depth: usize,
) -> Result<DirPage, Corrupt> {
    let count = r.count(6)?;
    r.require(count <= NODE_ENTRIES_MAX, "a node has more than 65,536 entries")?;
    let mut entries: Vec<(Name, Entry)> = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let len = r.uv()?;
        let mut part = r.part(len)?;
        let bytes = part.bytes(NAME_BYTES_MAX)?;
        let name = Name::new(bytes).map_err(|_| part.corrupt("not a name of an entry"))?;
        let sorted = entries.last().is_none_or(|(last, _)| *last < name);
        part.require(sorted, "entries are not sorted by name, or a name is there twice")?;
        // What follows the known fields belongs to a later version that did not demand to be understood.
        entries.push((name, decode_entry_at(&mut part, tables, depth)?));
    }
    Ok(DirPage { entries })
}
