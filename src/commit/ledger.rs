//! The upload ledger: what of an interrupted commit is in the store already.
//!
//! Bytes for the state directory, opaque to whoever keeps them: a run of entries, each `u32` length, 8 bytes of blake3
//! over the rest, and the rest: `u8` kind, then for a chunk (1) `uv` epoch and 32 bytes of id, for a pack (2) `uv` epoch,
//! 32 bytes of pack id, `uv` count and for each blob in it 32 bytes of id, `uv` raw length, `uv` offset, `uv` stored
//! length. An entry is appended after its object was stored, so a lost one costs an upload; a torn one ends the
//! ledger.

use std::collections::HashMap;
use std::io;

use crate::format::{Corrupt, FinishedPack, ItemKind, Reader, Writer, content_id};
use crate::model::{BlobRef, Epoch, Hash, PackRef};

/// Where the mount keeps the ledger of one frozen commit. It begins empty, and goes with the commit.
pub trait UploadLedger: Send + Sync + std::fmt::Debug {
    /// Everything that was appended since the freeze.
    ///
    /// # Errors
    /// What the local disk says.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Appends. Need not be on the disk when it returns: what is lost is uploaded again.
    ///
    /// # Errors
    /// What the local disk says.
    fn append(&self, entry: &[u8]) -> io::Result<()>;
}

/// A ledger for commits that are not resumed.
#[derive(Debug, Default)]
pub struct NoLedger;

impl UploadLedger for NoLedger {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn append(&self, _entry: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

const CHUNK: u8 = 1;
const PACK: u8 = 2;
/// Bytes of hash in front of an entry.
const CHECK_BYTES: usize = 8;
/// An entry is at most that of a full pack: 2^20 blobs of 32 bytes and three numbers.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// What a ledger says.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Chunk objects by id.
    pub chunks: HashMap<Hash, Epoch>,
    /// Blobs by id, with their raw length.
    pub blobs: HashMap<Hash, (u32, BlobRef)>,
}

impl Arrived {
    /// Reads a ledger, as far as it is whole; only epochs for which `usable` holds.
    pub fn parse(bytes: &[u8], usable: impl Fn(Epoch) -> bool) -> Arrived {
        let mut arrived = Arrived::default();
        let mut r = Reader::new(bytes, "upload ledger");
        while let Ok(entry) = next_entry(&mut r) {
            if arrived.add(entry, &usable).is_err() {
                break;
            }
        }
        arrived
    }

    fn add(&mut self, entry: &[u8], usable: &impl Fn(Epoch) -> bool) -> Result<(), Corrupt> {
        let mut r = Reader::new(entry, "upload ledger");
        match r.u8()? {
            CHUNK => {
                let epoch = r.uv32()?;
                let id = r.hash()?;
                if usable(epoch) {
                    self.chunks.insert(id, epoch);
                }
            }
            PACK => {
                let epoch = r.uv32()?;
                let pack = PackRef { epoch, id: r.hash()? };
                for _ in 0..r.count(35)? {
                    let id = r.hash()?;
                    let raw_len = r.uv32()?;
                    let blob = BlobRef {
                        pack,
                        offset: r.uv()?,
                        stored_len: r.uv32()?,
                        id,
                    };
                    if usable(epoch) {
                        self.blobs.insert(id, (raw_len, blob));
                    }
                }
            }
            _ => return Err(r.corrupt("an entry of unknown kind")),
        }
        r.finish()
    }
}

fn next_entry<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Corrupt> {
    let len = r.u32()? as usize;
    r.require(len <= ENTRY_BYTES_MAX, "an entry is too long")?;
    let check = r.raw(CHECK_BYTES)?;
    let entry = r.raw(len)?;
    r.require(
        content_id(entry).0[..CHECK_BYTES] == *check,
        "an entry has not its hash",
    )?;
    Ok(entry)
}

fn framed(entry: &Writer) -> Vec<u8> {
    let mut framed = Writer::new();
    framed.u32(entry.len() as u32);
    framed.raw(&content_id(entry.as_slice()).0[..CHECK_BYTES]);
    framed.raw(entry.as_slice());
    framed.into_vec()
}

/// The entry that says "this chunk object is there".
pub(super) fn chunk_entry(epoch: Epoch, id: &Hash) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(CHUNK);
    w.uv(u64::from(epoch));
    w.hash(id);
    framed(&w)
}

/// The entry that says "this pack is there".
pub(super) fn pack_entry(pack: &FinishedPack) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(PACK);
    w.uv(u64::from(pack.pack.epoch));
    w.hash(&pack.pack.id);
    let blobs: Vec<_> = pack
        .items
        .iter()
        .filter(|item| item.kind == ItemKind::Blob)
        .collect();
    w.uv(blobs.len() as u64);
    for item in blobs {
        w.hash(&item.id);
        w.uv(u64::from(item.raw_len));
        w.uv(item.offset);
        w.uv(u64::from(item.stored_len));
    }
    framed(&w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PackBuilder;

    #[test]
    fn what_was_appended_is_found_and_a_torn_end_is_cut() {
        let chunk = content_id(b"chunk");
        let mut pack = PackBuilder::new(3);
        pack.add_blob(b"one").unwrap();
        pack.add_blob(&[7; 5000]).unwrap();
        let pack = pack.finish();
        let mut ledger = chunk_entry(2, &content_id(b"old"));
        ledger.extend(chunk_entry(3, &chunk));
        ledger.extend(pack_entry(&pack));
        let whole = Arrived::parse(&ledger, |epoch| epoch >= 3);
        assert_eq!(whole.chunks, HashMap::from([(chunk, 3)]));
        let (raw_len, blob) = whole.blobs[&content_id(&[7; 5000])];
        assert_eq!((raw_len, blob.pack, whole.blobs.len()), (5000, pack.pack, 2));
        for cut in 0..ledger.len() {
            let part = Arrived::parse(&ledger[..cut], |_| true);
            assert!(part.blobs.is_empty() && part.chunks.len() <= 2);
        }
        let last = ledger.len() - 1;
        ledger[last] ^= 1;
        assert!(Arrived::parse(&ledger, |_| true).blobs.is_empty());
    }
}
