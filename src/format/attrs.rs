//! Attributes and extended attributes (SPEC.md 7.1).

use super::content::{decode_blob_ref, encode_blob_ref};
use super::limits::{XATTR_BLOB_BYTES_MAX, XATTR_NAME_BYTES_MAX};
use super::tables::{DecodeTables, EncodeError, EncodeTables, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    Attrs, FileId, MODE_MASK, Timestamp, XATTR_BYTES_MAX, XATTR_INLINE_BYTES_MAX, XattrMap, Xattrs,
};

const MODE: u64 = 1 << 0;
const OWNER: u64 = 1 << 1;
const MTIME: u64 = 1 << 2;
const MTIME_NANOS: u64 = 1 << 3;
const XATTRS: u64 = 1 << 4;
const XATTRS_OUT: u64 = 1 << 5;
const CTIME: u64 = 1 << 6;
const CTIME_FAR: u64 = 1 << 7;
/// From this bit on a reader that does not know the bit must not guess.
pub(super) const MUST_UNDERSTAND: u64 = !0xffff;

/// Nanoseconds from `mtime` to `ctime`, when 64 bits hold them.
pub(super) fn ctime_nanos_after(mtime: Timestamp, ctime: Timestamp) -> Option<i64> {
    i64::try_from(ctime.as_nanos() - mtime.as_nanos()).ok()
}

/// Writes attributes: the present bits, then what they announce.
pub fn encode_attrs(w: &mut Writer, tables: &mut EncodeTables, attrs: &Attrs) -> Result<(), EncodeError> {
    ensure(attrs.mode & !MODE_MASK == 0, "a mode has 12 bits")?;
    for time in [attrs.mtime, attrs.ctime] {
        ensure(time.nanos < 1_000_000_000, "nanoseconds are below 10^9")?;
    }
    let mtime_diff = attrs.mtime.secs.wrapping_sub(tables.base_mtime);
    let ctime_diff = ctime_nanos_after(attrs.mtime, attrs.ctime);
    let mut present = 0;
    let mut set = |bit, wanted: bool| present |= if wanted { bit } else { 0 };
    set(MODE, attrs.mode != 0);
    set(OWNER, (attrs.uid, attrs.gid) != (0, 0));
    set(MTIME, mtime_diff != 0);
    set(MTIME_NANOS, attrs.mtime.nanos != 0);
    set(
        XATTRS,
        matches!(&attrs.xattrs, Xattrs::Inline(map) if !map.is_empty()),
    );
    set(XATTRS_OUT, matches!(attrs.xattrs, Xattrs::OutOfLine { .. }));
    set(CTIME, ctime_diff.is_some_and(|diff| diff != 0));
    set(CTIME_FAR, ctime_diff.is_none());
    w.uv(present);
    if present & MODE != 0 {
        w.uv(u64::from(attrs.mode));
    }
    if present & OWNER != 0 {
        tables.owner(w, attrs.uid, attrs.gid);
    }
    if present & MTIME != 0 {
        w.zz(mtime_diff);
    }
    if present & MTIME_NANOS != 0 {
        w.uv(u64::from(attrs.mtime.nanos));
    }
    w.zz(tables.file_id(attrs.file_id.0));
    match ctime_diff {
        Some(0) => {}
        Some(diff) => w.zz(diff),
        None => {
            w.zz(attrs.ctime.secs);
            w.uv(u64::from(attrs.ctime.nanos));
        }
    }
    match &attrs.xattrs {
        Xattrs::None => Ok(()),
        Xattrs::Inline(map) if map.is_empty() => Ok(()),
        Xattrs::Inline(map) => {
            // A node of the state directory may hold them all: no blob in the store has them.
            if !tables.is_absolute() && !tables.is_local() {
                limit(
                    Xattrs::map_bytes(map) as u64,
                    XATTR_INLINE_BYTES_MAX as u64,
                    "bytes of inline xattrs",
                )?;
            }
            encode_xattr_map(w, map)
        }
        Xattrs::OutOfLine { blob, raw_len } => {
            limit(
                u64::from(*raw_len),
                XATTR_BLOB_BYTES_MAX as u64,
                "bytes of xattrs",
            )?;
            w.uv(u64::from(*raw_len));
            encode_blob_ref(w, tables, blob, u64::from(*raw_len))
        }
    }
}

/// Reads attributes.
pub fn decode_attrs(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<Attrs, Corrupt> {
    let present = r.uv()?;
    r.require(
        present & MUST_UNDERSTAND == 0,
        "an extension that a reader must understand, and this one does not",
    )?;
    let has = |bit| present & bit != 0;
    let mut attrs = Attrs::default();
    if has(MODE) {
        attrs.mode = r.uv_max(u64::from(MODE_MASK), "a mode has more than 12 bits")? as u16;
    }
    if has(OWNER) {
        (attrs.uid, attrs.gid) = tables.owner(r)?;
    }
    let diff = if has(MTIME) { r.zz()? } else { 0 };
    attrs.mtime.secs = tables.base_mtime.wrapping_add(diff);
    if has(MTIME_NANOS) {
        attrs.mtime.nanos = decode_nanos(r)?;
    }
    attrs.file_id = FileId(tables.file_id(r.zz()?));
    attrs.ctime = match (has(CTIME), has(CTIME_FAR)) {
        (false, false) => attrs.mtime,
        (true, false) => {
            let nanos = attrs.mtime.as_nanos() + i128::from(r.zz()?);
            let secs = i64::try_from(nanos.div_euclid(1_000_000_000))
                .map_err(|_| r.corrupt("a ctime beyond 64 bits of seconds"))?;
            Timestamp {
                secs,
                nanos: nanos.rem_euclid(1_000_000_000) as u32,
            }
        }
        (false, true) => Timestamp {
            secs: r.zz()?,
            nanos: decode_nanos(r)?,
        },
        (true, true) => return Err(r.corrupt("a ctime in two forms")),
    };
    attrs.xattrs = match (has(XATTRS), has(XATTRS_OUT)) {
        (false, false) => Xattrs::None,
        (true, false) => {
            let map = decode_xattr_map(r)?;
            r.require(!map.is_empty(), "xattrs are announced but empty")?;
            Xattrs::from_map(map)
        }
        (false, true) => {
            let raw_len = r.uv_max(XATTR_BLOB_BYTES_MAX as u64, "xattrs are over their limit")?;
            Xattrs::OutOfLine {
                blob: Box::new(decode_blob_ref(r, tables, raw_len)?),
                raw_len: raw_len as u32,
            }
        }
        (true, true) => return Err(r.corrupt("xattrs in two forms")),
    };
    Ok(attrs)
}

fn decode_nanos(r: &mut Reader<'_>) -> Result<u32, Corrupt> {
    Ok(r.uv_max(999_999_999, "nanoseconds of 10^9 or more")? as u32)
}

/// Writes extended attributes, sorted by name. This is also the raw form of the blob of those out of line.
pub fn encode_xattr_map(w: &mut Writer, map: &XattrMap) -> Result<(), EncodeError> {
    limit(
        Xattrs::map_bytes(map) as u64,
        XATTR_BYTES_MAX as u64,
        "bytes of xattrs",
    )?;
    w.uv(map.len() as u64);
    for (name, value) in map {
        ensure(
            !name.is_empty() && !name.contains(&0),
            "an xattr name has bytes, none of them NUL",
        )?;
        limit(
            name.len() as u64,
            XATTR_NAME_BYTES_MAX as u64,
            "bytes of an xattr name",
        )?;
        w.bytes(name);
        w.bytes(value);
    }
    Ok(())
}

/// Reads extended attributes.
pub fn decode_xattr_map(r: &mut Reader<'_>) -> Result<XattrMap, Corrupt> {
    let count = r.count(3)?;
    let mut map = XattrMap::new();
    let mut left = XATTR_BYTES_MAX;
    for _ in 0..count {
        let name = r.bytes(XATTR_NAME_BYTES_MAX.min(left))?;
        r.require(
            !name.is_empty() && !name.contains(&0),
            "an xattr name is empty or has a NUL",
        )?;
        left -= name.len();
        let value = r.bytes(left)?;
        left -= value.len();
        let sorted = map.keys().next_back().is_none_or(|last| **last < *name);
        r.require(sorted, "xattrs are not sorted by name")?;
        map.insert(name.into(), value.into());
    }
    Ok(map)
}
