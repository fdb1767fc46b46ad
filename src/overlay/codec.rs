//! Payloads of the journal's frames (JOURNAL.md, "Journal").

use std::sync::Arc;

use super::op::{NewBody, Op, Place, PublishedContent};
use super::state::{BaseRef, NodeId, Origin};
use crate::format::wire::{Corrupt, Reader, Writer};
use crate::format::{
    DecodeTables, EncodeError, EncodeTables, decode_attrs, decode_content, encode_attrs, encode_content,
};
use crate::model::{
    Attrs, Content, Hash, Kind, LinkId, NAME_BYTES_MAX, Name, SYMLINK_BYTES_MAX, Seq, Timestamp, TxnId,
};

/// Longest payload of a frame, bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Most words of a presence map: 2^28 frames, 256 TiB.
pub(super) const PRESENT_WORDS_MAX: usize = 1 << 22;

/// First type number of ops.
const OPS: u8 = 32;

type Encoded = Result<(), EncodeError>;
type Decoded<T> = Result<T, Corrupt>;

/// Writes an op as the payload of a frame.
pub(super) fn encode_op(w: &mut Writer, op: &Op) -> Encoded {
    match op {
        Op::Adopt {
            id,
            origin,
            attrs,
            nlink,
            body,
        } => {
            start(w, 0, *id);
            put_origin(w, origin);
            put_attrs(w, attrs)?;
            w.uv(*nlink);
            put_new_body(w, body)?;
        }
        Op::Create {
            id,
            place,
            attrs,
            body,
            time,
        } => {
            start(w, 1, *id);
            put_place(w, place);
            put_attrs(w, attrs)?;
            put_new_body(w, body)?;
            put_time(w, time);
        }
        Op::Link {
            id,
            place,
            link,
            time,
        } => {
            start(w, 2, *id);
            put_place(w, place);
            put_option(w, link.as_ref(), |w, link| w.raw(&link.0));
            put_time(w, time);
        }
        Op::Remove { place, node, time } => {
            w.u8(OPS + 3);
            put_place(w, place);
            put_option(w, node.as_ref(), |w, node| w.uv(*node));
            put_time(w, time);
        }
        Op::Rename {
            node,
            from,
            to,
            replaced,
            time,
        } => {
            start(w, 4, *node);
            put_place(w, from);
            put_place(w, to);
            put_option(w, replaced.as_ref(), |w, node| w.uv(*node));
            put_time(w, time);
        }
        Op::Exchange { a, b, time } => {
            start(w, 5, a.0);
            put_place(w, &a.1);
            w.uv(b.0);
            put_place(w, &b.1);
            put_time(w, time);
        }
        Op::SetAttrs { id, attrs } => {
            start(w, 6, *id);
            put_attrs(w, attrs)?;
        }
        Op::GiveBody {
            id,
            body,
            present,
            base_valid,
            dirty,
        } => {
            start(w, 7, *id);
            w.uv(*body);
            put_present(w, present.as_deref());
            w.uv(*base_valid);
            w.u8(u8::from(*dirty));
        }
        Op::Present { id, body, frames } => {
            start(w, 8, *id);
            w.uv(*body);
            put_runs(w, frames);
        }
        Op::MarkDirty { id } => start(w, 9, *id),
        Op::SetSize { id, size } => {
            start(w, 10, *id);
            w.uv(*size);
        }
        Op::ReplaceContent { id, size, content } => {
            start(w, 11, *id);
            put_sized_content(w, *size, content)?;
        }
        Op::DropBody { id } => start(w, 12, *id),
        Op::Forget { id } => start(w, 13, *id),
        Op::SetSources { sources } => {
            w.u8(OPS + 14);
            put_sources(w, sources);
        }
        Op::Freeze { commit } => start(w, 15, *commit),
        Op::Uploaded { commit, contents } => {
            start(w, 16, *commit);
            put_contents(w, contents)?;
        }
        Op::Prepared {
            commit,
            txn,
            after,
            tree,
        } => {
            start(w, 17, *commit);
            w.raw(&txn.0);
            w.uv(*after);
            put_option(w, tree.as_ref(), Writer::hash);
        }
        Op::Published {
            commit,
            base,
            contents,
        } => {
            start(w, 18, *commit);
            put_base(w, base);
            put_contents(w, contents)?;
        }
        Op::Unfrozen { commit } => start(w, 19, *commit),
    }
    Ok(())
}

/// Reads the rest of a payload whose first byte was `kind`; `None`: that is no op.
pub(super) fn decode_op(kind: u8, r: &mut Reader<'_>) -> Decoded<Option<Op>> {
    let Some(number) = kind.checked_sub(OPS) else {
        return Ok(None);
    };
    let op = match number {
        0 => Op::Adopt {
            id: r.uv()?,
            origin: get_origin(r)?,
            attrs: get_attrs(r)?,
            nlink: r.uv()?,
            body: get_new_body(r)?,
        },
        1 => Op::Create {
            id: r.uv()?,
            place: get_place(r)?,
            attrs: get_attrs(r)?,
            body: get_new_body(r)?,
            time: get_time(r)?,
        },
        2 => Op::Link {
            id: r.uv()?,
            place: get_place(r)?,
            link: get_option(r, |r| Ok(LinkId(r.array()?)))?,
            time: get_time(r)?,
        },
        3 => Op::Remove {
            place: get_place(r)?,
            node: get_option(r, Reader::uv)?,
            time: get_time(r)?,
        },
        4 => Op::Rename {
            node: r.uv()?,
            from: get_place(r)?,
            to: get_place(r)?,
            replaced: get_option(r, Reader::uv)?,
            time: get_time(r)?,
        },
        5 => Op::Exchange {
            a: (r.uv()?, get_place(r)?),
            b: (r.uv()?, get_place(r)?),
            time: get_time(r)?,
        },
        6 => Op::SetAttrs {
            id: r.uv()?,
            attrs: get_attrs(r)?,
        },
        7 => Op::GiveBody {
            id: r.uv()?,
            body: r.uv()?,
            present: get_present(r)?,
            base_valid: r.uv()?,
            dirty: get_bool(r)?,
        },
        8 => Op::Present {
            id: r.uv()?,
            body: r.uv()?,
            frames: get_runs(r)?,
        },
        9 => Op::MarkDirty { id: r.uv()? },
        10 => Op::SetSize {
            id: r.uv()?,
            size: r.uv()?,
        },
        11 => {
            let id = r.uv()?;
            let (size, content) = get_sized_content(r)?;
            Op::ReplaceContent { id, size, content }
        }
        12 => Op::DropBody { id: r.uv()? },
        13 => Op::Forget { id: r.uv()? },
        14 => Op::SetSources {
            sources: get_sources(r)?,
        },
        15 => Op::Freeze { commit: r.uv()? },
        16 => Op::Uploaded {
            commit: r.uv()?,
            contents: get_contents(r)?,
        },
        17 => Op::Prepared {
            commit: r.uv()?,
            txn: TxnId(r.array()?),
            after: r.uv()?,
            tree: get_option(r, Reader::hash)?,
        },
        18 => Op::Published {
            commit: r.uv()?,
            base: get_base(r)?,
            contents: get_contents(r)?,
        },
        19 => Op::Unfrozen { commit: r.uv()? },
        _ => return Err(r.corrupt("a frame of unknown type")),
    };
    Ok(Some(op))
}

fn start(w: &mut Writer, number: u8, id: u64) {
    w.u8(OPS + number);
    w.uv(id);
}

// ---- parts ----

pub(super) fn put_option<T>(w: &mut Writer, value: Option<&T>, put: impl FnOnce(&mut Writer, &T)) {
    w.u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(w, value);
    }
}

pub(super) fn get_option<'a, T>(
    r: &mut Reader<'a>,
    get: impl FnOnce(&mut Reader<'a>) -> Decoded<T>,
) -> Decoded<Option<T>> {
    Ok(if get_bool(r)? { Some(get(r)?) } else { None })
}

pub(super) fn get_bool(r: &mut Reader<'_>) -> Decoded<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.corrupt("neither 0 nor 1")),
    }
}

pub(super) fn put_attrs(w: &mut Writer, attrs: &Attrs) -> Encoded {
    encode_attrs(w, &mut EncodeTables::absolute(true), attrs)
}

pub(super) fn get_attrs(r: &mut Reader<'_>) -> Decoded<Attrs> {
    decode_attrs(r, &mut DecodeTables::absolute(true))
}

pub(super) fn put_sized_content(w: &mut Writer, size: u64, content: &Content) -> Encoded {
    w.uv(size);
    encode_content(w, &mut EncodeTables::absolute(true), size, content)
}

pub(super) fn get_sized_content(r: &mut Reader<'_>) -> Decoded<(u64, Content)> {
    let size = r.uv()?;
    Ok((size, decode_content(r, &DecodeTables::absolute(true), size)?))
}

fn put_contents(w: &mut Writer, contents: &[PublishedContent]) -> Encoded {
    w.uv(contents.len() as u64);
    for (id, size, content) in contents {
        w.uv(*id);
        put_sized_content(w, *size, content)?;
    }
    Ok(())
}

fn get_contents(r: &mut Reader<'_>) -> Decoded<Vec<PublishedContent>> {
    let count = r.count(3)?;
    let mut contents = Vec::with_capacity(count);
    for _ in 0..count {
        let id = r.uv()?;
        let (size, content) = get_sized_content(r)?;
        contents.push((id, size, content));
    }
    Ok(contents)
}

pub(super) fn put_name(w: &mut Writer, name: &Name) {
    w.bytes(name.as_bytes());
}

pub(super) fn get_name(r: &mut Reader<'_>) -> Decoded<Name> {
    let bytes = r.bytes(NAME_BYTES_MAX)?;
    Name::new(bytes).map_err(|_| r.corrupt("not a name"))
}

/// 0 for none, else the kind's number.
pub(super) fn put_kind(w: &mut Writer, kind: Option<Kind>) {
    w.u8(kind.map_or(0, |kind| kind as u8));
}

pub(super) fn get_kind(r: &mut Reader<'_>) -> Decoded<Option<Kind>> {
    Ok(Some(match r.u8()? {
        0 => return Ok(None),
        1 => Kind::File,
        2 => Kind::Symlink,
        3 => Kind::Dir,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDev,
        7 => Kind::BlockDev,
        8 => Kind::HardLink,
        _ => return Err(r.corrupt("not a kind")),
    }))
}

fn put_place(w: &mut Writer, place: &Place) {
    w.uv(place.parent);
    put_name(w, &place.name);
    put_kind(w, place.base);
}

fn get_place(r: &mut Reader<'_>) -> Decoded<Place> {
    Ok(Place {
        parent: r.uv()?,
        name: get_name(r)?,
        base: get_kind(r)?,
    })
}

fn put_time(w: &mut Writer, time: &Timestamp) {
    w.zz(time.secs);
    w.uv(u64::from(time.nanos));
}

fn get_time(r: &mut Reader<'_>) -> Decoded<Timestamp> {
    let secs = r.zz()?;
    let nanos = r.uv_max(999_999_999, "nanoseconds of 10^9 or more")?;
    Ok(Timestamp {
        secs,
        nanos: u32::try_from(nanos).map_err(|_| r.corrupt("nanoseconds"))?,
    })
}

pub(super) fn put_origin(w: &mut Writer, origin: &Origin) {
    match origin {
        Origin::Root => w.u8(0),
        Origin::Entry { parent, name } => {
            w.u8(1);
            w.uv(*parent);
            put_name(w, name);
        }
        Origin::Link(link) => {
            w.u8(2);
            w.raw(&link.0);
        }
    }
}

pub(super) fn get_origin(r: &mut Reader<'_>) -> Decoded<Origin> {
    Ok(match r.u8()? {
        0 => Origin::Root,
        1 => Origin::Entry {
            parent: r.uv()?,
            name: get_name(r)?,
        },
        2 => Origin::Link(LinkId(r.array()?)),
        _ => return Err(r.corrupt("an origin of unknown form")),
    })
}

pub(super) fn put_base_content(w: &mut Writer, base: Option<&(u64, Content)>) -> Encoded {
    w.u8(u8::from(base.is_some()));
    match base {
        Some((size, content)) => put_sized_content(w, *size, content),
        None => Ok(()),
    }
}

fn put_new_body(w: &mut Writer, body: &NewBody) -> Encoded {
    match body {
        NewBody::Dir => w.u8(Kind::Dir as u8),
        NewBody::File(base) => {
            w.u8(Kind::File as u8);
            put_base_content(w, base.as_ref())?;
        }
        NewBody::Symlink(target) => {
            w.u8(Kind::Symlink as u8);
            w.bytes(target);
        }
        NewBody::Fifo => w.u8(Kind::Fifo as u8),
        NewBody::Socket => w.u8(Kind::Socket as u8),
        NewBody::CharDev(major, minor) => put_device(w, Kind::CharDev, *major, *minor),
        NewBody::BlockDev(major, minor) => put_device(w, Kind::BlockDev, *major, *minor),
    }
    Ok(())
}

pub(super) fn put_device(w: &mut Writer, kind: Kind, major: u32, minor: u32) {
    w.u8(kind as u8);
    w.uv(u64::from(major));
    w.uv(u64::from(minor));
}

fn get_new_body(r: &mut Reader<'_>) -> Decoded<NewBody> {
    Ok(match get_kind(r)? {
        Some(Kind::Dir) => NewBody::Dir,
        Some(Kind::File) => NewBody::File(get_option(r, get_sized_content)?),
        Some(Kind::Symlink) => NewBody::Symlink(get_target(r)?),
        Some(Kind::Fifo) => NewBody::Fifo,
        Some(Kind::Socket) => NewBody::Socket,
        Some(Kind::CharDev) => NewBody::CharDev(r.uv32()?, r.uv32()?),
        Some(Kind::BlockDev) => NewBody::BlockDev(r.uv32()?, r.uv32()?),
        Some(Kind::HardLink) | None => return Err(r.corrupt("a body of no kind")),
    })
}

pub(super) fn get_target(r: &mut Reader<'_>) -> Decoded<Arc<[u8]>> {
    Ok(r.bytes(SYMLINK_BYTES_MAX)?.into())
}

/// 0: every frame is present; else the number of words and one, then the words.
pub(super) fn put_present(w: &mut Writer, present: Option<&Vec<u64>>) {
    match present {
        None => w.uv(0),
        Some(words) => {
            w.uv(words.len() as u64 + 1);
            words.iter().for_each(|word| w.u64(*word));
        }
    }
}

pub(super) fn get_present(r: &mut Reader<'_>) -> Decoded<Option<Arc<Vec<u64>>>> {
    let Some(count) = r.uv()?.checked_sub(1) else {
        return Ok(None);
    };
    let fits = count <= (r.remaining() / 8).min(PRESENT_WORDS_MAX) as u64;
    r.require(fits, "a presence map is longer than its frame")?;
    let words = (0..count).map(|_| r.u64()).collect::<Decoded<Vec<u64>>>()?;
    Ok(Some(Arc::new(words)))
}

pub(super) fn put_runs(w: &mut Writer, runs: &[(u64, u64)]) {
    w.uv(runs.len() as u64);
    for (first, count) in runs {
        w.uv(*first);
        w.uv(*count);
    }
}

pub(super) fn get_runs(r: &mut Reader<'_>) -> Decoded<Vec<(u64, u64)>> {
    let count = r.count(2)?;
    (0..count).map(|_| Ok((r.uv()?, r.uv()?))).collect()
}

fn put_sources(w: &mut Writer, sources: &[Seq]) {
    w.uv(sources.len() as u64);
    sources.iter().for_each(|seq| w.uv(*seq));
}

fn get_sources(r: &mut Reader<'_>) -> Decoded<Vec<Seq>> {
    let count = r.count(1)?;
    (0..count).map(|_| r.uv()).collect()
}

pub(super) fn put_base(w: &mut Writer, base: &BaseRef) {
    w.uv(base.seq);
    w.hash(&base.record);
    put_option(w, base.prepared.as_ref(), Writer::hash);
    put_sources(w, &base.sources);
}

pub(super) fn get_base(r: &mut Reader<'_>) -> Decoded<BaseRef> {
    Ok(BaseRef {
        seq: r.uv()?,
        record: r.hash()?,
        prepared: get_option(r, Reader::hash)?,
        sources: get_sources(r)?,
    })
}

/// A prepared commit: part of frame 11.
pub(super) fn put_prepared(w: &mut Writer, txn: &TxnId, after: Seq, tree: Option<&Hash>) {
    w.raw(&txn.0);
    w.uv(after);
    put_option(w, tree, Writer::hash);
}

/// Names where an inode hangs.
pub(super) fn put_names(w: &mut Writer, names: &[(NodeId, Name)]) {
    w.uv(names.len() as u64);
    for (parent, name) in names {
        w.uv(*parent);
        put_name(w, name);
    }
}

pub(super) fn get_names(r: &mut Reader<'_>) -> Decoded<Vec<(NodeId, Name)>> {
    let count = r.count(3)?;
    (0..count).map(|_| Ok((r.uv()?, get_name(r)?))).collect()
}
