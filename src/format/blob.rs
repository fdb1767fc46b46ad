//! Blobs: small contents, tail chunks and large xattrs inside packs (SPEC.md 9).

use super::codec;
use super::content::content_id;
use super::tables::{EncodeError, limit};
use super::wire::Corrupt;
use crate::model::{Hash, ITEM_BYTES_MAX};

/// A blob as it goes into a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBlob {
    /// Codec byte and payload.
    pub stored: Vec<u8>,
    /// Length of the plaintext, bytes.
    pub raw_len: u32,
    /// blake3 of the plaintext.
    pub id: Hash,
}

/// Encodes up to 4 MiB.
pub fn encode_blob(plain: &[u8]) -> Result<EncodedBlob, EncodeError> {
    encode_hashed_blob(plain, content_id(plain))
}

/// The same for bytes that were hashed already: `id` is theirs.
pub fn encode_hashed_blob(plain: &[u8], id: Hash) -> Result<EncodedBlob, EncodeError> {
    limit(plain.len() as u64, ITEM_BYTES_MAX, "bytes of a blob")?;
    let packed = codec::compress_if_worth(plain);
    let (codec, payload) = match &packed {
        Some(packed) => (codec::ZSTD, packed.as_slice()),
        None => (codec::RAW, plain),
    };
    let mut stored = Vec::with_capacity(1 + payload.len());
    stored.push(codec);
    stored.extend_from_slice(payload);
    Ok(EncodedBlob {
        stored,
        raw_len: plain.len() as u32,
        id,
    })
}

/// Decodes a blob of `raw_len` bytes and compares it with its id. `object` is the pack's key, for errors.
pub fn decode_blob(stored: &[u8], raw_len: u64, id: &Hash, object: &str) -> Result<Vec<u8>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, 0, rule);
    let raw_len = match usize::try_from(raw_len) {
        Ok(len) if raw_len <= ITEM_BYTES_MAX => len,
        _ => return Err(corrupt("a blob is over 4 MiB")),
    };
    let plain = codec::unseal(stored, raw_len, object)?;
    if content_id(&plain) != *id {
        return Err(corrupt("a blob has not the hash that its reference says"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_come_back_and_damage_is_found() {
        for plain in [&b""[..], b"a", &[9; 100_000]] {
            let blob = encode_blob(plain).unwrap();
            let decode = |stored: &[u8], len: usize| decode_blob(stored, len as u64, &blob.id, "t");
            assert_eq!(decode(&blob.stored, plain.len()).unwrap(), plain);
            assert!(decode(&blob.stored, plain.len() + 1).is_err());
            for at in 0..blob.stored.len() {
                let mut bad = blob.stored.clone();
                bad[at] ^= 1;
                assert_ne!(decode(&bad, plain.len()).as_deref(), Ok(&b"other"[..]));
                assert!(decode(&bad, plain.len()).is_err() || decode(&bad, plain.len()).unwrap() == plain);
            }
        }
    }

    #[test]
    fn blobs_over_4_mib_are_refused() {
        assert!(encode_blob(&vec![0; (4 << 20) + 1]).is_err());
        assert!(decode_blob(&[0], u64::MAX, &Hash([0; 32]), "t").is_err());
    }
}
