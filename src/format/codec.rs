//! Compression of one item: nodes, blobs and frames are each one zstd frame, or kept raw.

use std::cell::RefCell;

use super::limits::ZSTD_WINDOW_LOG_MAX;
use super::wire::Corrupt;

/// Codec byte: payload is the plaintext.
pub const RAW: u8 = 0;
/// Codec byte: payload is one zstd frame.
pub const ZSTD: u8 = 1;

/// Level of every compression; the format does not depend on it.
const LEVEL: i32 = 3;
/// Bytes at the start of an item that are tried before all of it is compressed.
const PROBE_BYTES: usize = 64 << 10;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One zstd frame, if it could be made; contexts are kept per thread, as making one costs more than a small item.
pub(super) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        slot.as_mut()?.compress(raw).ok()
    })
}

/// One zstd frame if that saves at least 5 %. Long inputs that do not shrink at their start are not tried in full.
pub(super) fn compress_if_worth(raw: &[u8]) -> Option<Vec<u8>> {
    let worth = |packed: &Vec<u8>, of: usize| packed.len() + of / 20 <= of;
    if raw.len() > 2 * PROBE_BYTES {
        compress(&raw[..PROBE_BYTES]).filter(|packed| worth(packed, PROBE_BYTES))?;
    }
    compress(raw).filter(|packed| packed.len() < raw.len() && worth(packed, raw.len()))
}

/// Codec byte and payload, zstd when that is smaller.
pub(super) fn seal(raw: &[u8]) -> Vec<u8> {
    let packed = compress(raw).filter(|packed| packed.len() < raw.len());
    let (codec, payload) = match &packed {
        Some(packed) => (ZSTD, packed.as_slice()),
        None => (RAW, raw),
    };
    let mut stored = Vec::with_capacity(1 + payload.len());
    stored.push(codec);
    stored.extend_from_slice(payload);
    stored
}

/// Plaintext of codec byte and payload; it must have exactly `raw_len` bytes. The caller has bounded `raw_len`.
pub(super) fn unseal(stored: &[u8], raw_len: usize, object: &str) -> Result<Vec<u8>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, 0, rule);
    match stored.split_first() {
        None => Err(corrupt("an item has no codec byte")),
        Some((&RAW, payload)) if payload.len() == raw_len => Ok(payload.to_vec()),
        Some((&RAW, _)) => Err(corrupt("an item has not the length that its pointer says")),
        Some((&ZSTD, payload)) => decompress(payload, raw_len, object),
        Some(_) => Err(corrupt("an item has a codec that this version does not know")),
    }
}

/// Plaintext of one zstd frame; it must have exactly `raw_len` bytes. The caller has bounded `raw_len`.
pub(super) fn decompress(frame: &[u8], raw_len: usize, object: &str) -> Result<Vec<u8>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, 0, rule);
    if window_log(frame).is_none_or(|log| log > ZSTD_WINDOW_LOG_MAX) {
        return Err(corrupt(
            "compressed data asks for a window over 8 MiB, or is none",
        ));
    }
    match zstd::zstd_safe::find_frame_compressed_size(frame) {
        Ok(len) if len == frame.len() => {}
        _ => return Err(corrupt("compressed data is not exactly one zstd frame")),
    }
    if let Ok(Some(said)) = zstd::zstd_safe::get_frame_content_size(frame)
        && said != raw_len as u64
    {
        return Err(corrupt(
            "compressed data has not the length that its pointer says",
        ));
    }
    let raw = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        slot.as_mut()?.decompress(frame, raw_len).ok()
    });
    match raw {
        Some(raw) if raw.len() == raw_len => Ok(raw),
        Some(_) => Err(corrupt(
            "compressed data has not the length that its pointer says",
        )),
        None => Err(corrupt(
            "compressed data cannot be decompressed within its length",
        )),
    }
}

/// Power of two that holds the frame's window; 0 for a frame that is its own window. `None`: not a zstd frame.
fn window_log(frame: &[u8]) -> Option<u32> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] = *frame else {
        return None;
    };
    if descriptor & 0x20 != 0 {
        return Some(0); // single segment: bounded by the content size, which is compared with raw_len
    }
    let (exponent, mantissa) = (u32::from(window >> 3), window & 7);
    Some(10 + exponent + u32::from(mantissa != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_and_wrong_lengths_are_refused() {
        for raw in [&b""[..], b"x", &[7; 5000], b"0123456789abcdef"] {
            let stored = seal(raw);
            assert!(stored.len() <= raw.len() + 1);
            assert_eq!(unseal(&stored, raw.len(), "t").unwrap(), raw);
            assert!(unseal(&stored, raw.len() + 1, "t").is_err());
            if !raw.is_empty() {
                assert!(unseal(&stored, raw.len() - 1, "t").is_err());
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_its_stated_length() {
        let bomb = compress(&vec![0; 8 << 20]).unwrap();
        assert!(decompress(&bomb, 1000, "t").is_err());
    }

    #[test]
    fn frames_with_a_large_window_or_company_are_refused() {
        let frame = compress(&[1; 300]).unwrap();
        let two = [frame.clone(), frame.clone()].concat();
        assert!(decompress(&two, 600, "t").is_err());
        // A frame header without content size, window of 2^24.
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (14 << 3), 0x01, 0x00, 0x00];
        assert_eq!(window_log(&wide), Some(24));
        assert!(decompress(&wide, 0, "t").is_err());
        let narrow = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (13 << 3), 0x01, 0x00, 0x00];
        assert_eq!(decompress(&narrow, 0, "t").unwrap(), b"");
    }

    #[test]
    fn unknown_codecs_are_refused() {
        for codec in [2, 3, 4, 255] {
            assert!(unseal(&[codec, 1, 2], 2, "t").is_err());
        }
        assert!(unseal(&[], 0, "t").is_err());
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut noise = vec![0u8; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(compress_if_worth(&noise).is_none());
        assert!(compress_if_worth(&vec![5; 300_000]).is_some());
    }
}
