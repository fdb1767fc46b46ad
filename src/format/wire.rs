//! Primitives of the binary structures (SPEC.md 3): a bounded reader over a slice and a writer into a vector.
//!
//! The reader never allocates for a length that its remaining input could not hold, accepts one encoding of each
//! value only, and reports where in which object a rule was broken.

use std::sync::Arc;

use crate::model::Hash;

/// An object of the volume (or of local state) that breaks a rule of its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}, byte {offset}: {rule}")]
pub struct Corrupt {
    /// Key or path of the object.
    pub object: Arc<str>,
    /// Where in the object, or in the decompressed form of the item that was read, bytes.
    pub offset: u64,
    /// The rule that is broken.
    pub rule: &'static str,
}

impl Corrupt {
    /// An error at a place.
    pub fn new(object: &str, offset: u64, rule: &'static str) -> Corrupt {
        Corrupt {
            object: object.into(),
            offset,
            rule,
        }
    }
}

/// Bytes of the longest `uv`.
pub const UV_BYTES_MAX: usize = 10;

/// Length of `value` as `uv`, bytes.
pub const fn uv_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Maps a signed number to an unsigned one, small magnitudes to small numbers.
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Inverse of [`zigzag`].
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Appends primitives to a vector.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what was written, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Unsigned LEB128 in its shortest form.
    pub fn uv(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Signed number, zigzag then `uv`.
    pub fn zz(&mut self, value: i64) {
        self.uv(zigzag(value));
    }

    /// Length as `uv`, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.uv(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Bytes whose length the reader knows.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// A hash.
    pub fn hash(&mut self, value: &Hash) {
        self.bytes.extend_from_slice(&value.0);
    }
}

/// Reads primitives from a slice, never past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    whole: &'a [u8],
    at: usize,
    end: usize,
    object: &'a str,
}

impl<'a> Reader<'a> {
    /// Over all of `bytes`; `object` is its key or path, for errors.
    pub fn new(bytes: &'a [u8], object: &'a str) -> Reader<'a> {
        Reader {
            whole: bytes,
            at: 0,
            end: bytes.len(),
            object,
        }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// Offset of the next byte in the outermost slice.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Key or path of what is read.
    pub fn object(&self) -> &'a str {
        self.object
    }

    /// An error at the present place.
    pub fn corrupt(&self, rule: &'static str) -> Corrupt {
        Corrupt::new(self.object, self.at as u64, rule)
    }

    /// Fails with `rule` unless `holds`.
    pub fn require(&self, holds: bool, rule: &'static str) -> Result<(), Corrupt> {
        if holds { Ok(()) } else { Err(self.corrupt(rule)) }
    }

    /// The next `len` bytes.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        self.require(len <= self.remaining(), "the input ends inside a value")?;
        let found = &self.whole[self.at..self.at + len];
        self.at += len;
        Ok(found)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let mut out = [0; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, Corrupt> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Unsigned LEB128; only the shortest form is accepted.
    pub fn uv(&mut self) -> Result<u64, Corrupt> {
        let start = self.clone();
        let mut value = 0u64;
        for index in 0..UV_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if index == UV_BYTES_MAX - 1 && bits > 1 {
                return Err(start.corrupt("a number does not fit 64 bits"));
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(start.corrupt("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(start.corrupt("a number is longer than 10 bytes"))
    }

    /// A `uv` of at most `max`, else `rule` is broken.
    pub fn uv_max(&mut self, max: u64, rule: &'static str) -> Result<u64, Corrupt> {
        let start = self.clone();
        let value = self.uv()?;
        start.require(value <= max, rule)?;
        Ok(value)
    }

    /// A `uv` that fits 32 bits.
    pub fn uv32(&mut self) -> Result<u32, Corrupt> {
        let start = self.clone();
        u32::try_from(self.uv()?).map_err(|_| start.corrupt("a number does not fit 32 bits"))
    }

    /// Signed number.
    pub fn zz(&mut self) -> Result<i64, Corrupt> {
        Ok(unzigzag(self.uv()?))
    }

    /// A number of items of at least `item_bytes` each: never more than the remaining input could hold, so it is safe
    /// to reserve memory for.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, Corrupt> {
        let start = self.clone();
        let count = self.uv()?;
        start.require(
            count <= (self.remaining() / item_bytes.max(1)) as u64,
            "more items are announced than the input can hold",
        )?;
        Ok(count as usize)
    }

    /// Length as `uv` (at most `max`), then the bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], Corrupt> {
        let len = self.uv_max(max as u64, "a byte string is longer than its limit")?;
        self.raw(len as usize)
    }

    /// A hash.
    pub fn hash(&mut self) -> Result<Hash, Corrupt> {
        Ok(Hash(self.array()?))
    }

    /// A reader over the next `len` bytes, which this one skips.
    pub fn part(&mut self, len: u64) -> Result<Reader<'a>, Corrupt> {
        self.require(len <= self.remaining() as u64, "the input ends inside a value")?;
        let part = Reader {
            whole: self.whole,
            at: self.at,
            end: self.at + len as usize,
            object: self.object,
        };
        self.at = part.end;
        Ok(part)
    }

    /// Fails unless everything was read.
    pub fn finish(&self) -> Result<(), Corrupt> {
        self.require(self.remaining() == 0, "bytes follow the end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back_and_uv_len_is_exact(value: u64, signed: i64) {
            let mut w = Writer::new();
            w.uv(value);
            prop_assert_eq!(w.len(), uv_len(value));
            w.zz(signed);
            let bytes = w.into_vec();
            let mut r = Reader::new(&bytes, "t");
            prop_assert_eq!(r.uv().unwrap(), value);
            prop_assert_eq!(r.zz().unwrap(), signed);
            prop_assert!(r.finish().is_ok());
        }

        #[test]
        fn what_is_read_is_the_shortest_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut r = Reader::new(&bytes, "t");
            if let Ok(value) = r.uv() {
                let mut w = Writer::new();
                w.uv(value);
                prop_assert_eq!(w.as_slice(), &bytes[..r.offset()]);
            }
        }
    }

    #[test]
    fn long_forms_and_overflow_are_refused() {
        for bad in [
            &[0x80, 0][..],
            &[0xff; 10],
            &[0x80; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert!(Reader::new(bad, "t").uv().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn counts_and_lengths_are_bounded_by_the_input() {
        let mut w = Writer::new();
        w.uv(1 << 40);
        let bytes = w.into_vec();
        assert!(Reader::new(&bytes, "t").count(1).is_err());
        assert!(Reader::new(&bytes, "t").bytes(usize::MAX).is_err());
        assert_eq!(Reader::new(&bytes, "t").bytes(10).unwrap_err().offset, 0);
    }

    #[test]
    fn a_part_ends_where_it_was_told_and_keeps_offsets() {
        let bytes = [1, 2, 3, 4];
        let mut r = Reader::new(&bytes, "t");
        r.u8().unwrap();
        let mut part = r.part(2).unwrap();
        assert_eq!((part.u8().unwrap(), part.u8().unwrap()), (2, 3));
        assert_eq!(part.u8().unwrap_err().offset, 3);
        assert_eq!(r.u8().unwrap(), 4);
    }
}
