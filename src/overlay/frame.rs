//! Header and frames of a journal: lengths, sequence numbers, chained checksums, markers.

use super::codec::PAYLOAD_BYTES_MAX;
use crate::format::wire::{Reader, Writer};
use crate::model::VolumeId;

/// Identity of one boot of the machine.
pub type BootId = [u8; 16];

/// Version of the journal that this program writes, and the newest that it reads. In one of version 1 an op may show bytes
/// that no frame says to be on disk (J9).
pub(super) const JOURNAL_VERSION: u32 = 2;
/// The first version that keeps J9.
pub(super) const SHOWS_VERSION: u32 = 2;

const MAGIC: &[u8; 4] = b"SVJ1";
const MARKER_MAGIC: &[u8; 8] = b"SVSYNCED";
/// Bytes of a frame besides its payload.
const FRAME_EXTRA_BYTES: usize = 16;

pub(super) const OPENED: u8 = 1;
pub(super) const MARKER: u8 = 2;
pub(super) const SYNCED: u8 = 3;
pub(super) const CLOSED: u8 = 4;
/// Stands where a marker was, in a journal that was copied.
pub(super) const NOTHING: u8 = 5;
/// Bytes of a marker's payload.
const MARKER_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 4;

/// What a journal begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Version of the journal.
    pub version: u32,
    /// Whose state it is.
    pub volume: VolumeId,
    /// Number of the overlay in its state directory.
    pub overlay: u64,
    /// The boot in which it was begun.
    pub boot: BootId,
    /// Name of the mount, for people.
    pub mount_name: String,
}

/// Why bytes are no header.
pub(super) enum HeaderError {
    TooNew(u32),
    Bad(&'static str),
}

impl Header {
    /// The bytes, and their crc.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut w = Writer::new();
        w.raw(MAGIC);
        w.u32(self.version);
        w.raw(&self.volume.0);
        w.u64(self.overlay);
        w.raw(&self.boot);
        let name = self.mount_name.as_bytes();
        let name = &name[..name.len().min(usize::from(u16::MAX))];
        w.u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        w.raw(name);
        let crc = crc32c::crc32c(w.as_slice());
        w.u32(crc);
        (w.into_vec(), crc)
    }

    /// Header, its length and crc.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Header, usize, u32), HeaderError> {
        let mut r = Reader::new(bytes, "journal");
        let mut read = || -> Result<_, crate::format::Corrupt> {
            r.require(r.remaining() >= 8, "too short")?;
            let magic = r.array::<4>()?;
            r.require(magic == *MAGIC, "not a journal")?;
            let version = r.u32()?;
            if version > JOURNAL_VERSION {
                return Ok(Err(version));
            }
            let volume = VolumeId(r.array()?);
            let overlay = r.u64()?;
            let boot = r.array()?;
            let len = usize::from(r.u16()?);
            let mount_name = String::from_utf8_lossy(r.raw(len)?).into_owned();
            let body = r.offset();
            let crc = r.u32()?;
            r.require(
                crc32c::crc32c(&bytes[..body]) == crc,
                "the header's checksum is wrong",
            )?;
            Ok(Ok((
                Header {
                    version,
                    volume,
                    overlay,
                    boot,
                    mount_name,
                },
                r.offset(),
                crc,
            )))
        };
        match read() {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(version)) => Err(HeaderError::TooNew(version)),
            Err(e) => Err(HeaderError::Bad(e.rule)),
        }
    }
}

/// Where a journal ends: what the next frame goes on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tail {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Sequence number of the last frame.
    pub sequence: u64,
    /// Its crc.
    pub crc: u32,
    /// The header's crc, for markers.
    pub header_crc: u32,
}

impl Tail {
    /// Behind the header.
    pub(super) fn of_header(len: usize, crc: u32) -> Tail {
        Tail {
            offset: len as u64,
            sequence: 0,
            crc,
            header_crc: crc,
        }
    }

    /// Appends a frame to `out` and moves on behind it.
    pub(super) fn frame(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        let start = out.len();
        self.sequence += 1;
        let len = u32::try_from(payload.len()).expect("payloads are at most 64 MiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(payload);
        self.crc = crc32c::crc32c_append(self.crc, &out[start..]);
        out.extend_from_slice(&self.crc.to_le_bytes());
        self.offset += (out.len() - start) as u64;
    }

    /// Appends a marker: everything in front of offset `synced` is on disk.
    pub(super) fn marker(&mut self, out: &mut Vec<u8>, synced: u64) {
        let payload = marker_payload(self.offset, self.sequence + 1, synced, self.header_crc);
        self.frame(out, &payload);
    }

    /// Reads the frame that follows in `bytes` and moves on behind it. `first`: offset in the journal of the first of the
    /// bytes. `None`: no good frame follows.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8], first: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset.checked_sub(first)?).ok()?;
        let head = bytes.get(start..start.checked_add(12)?)?;
        let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let sequence = u64::from_le_bytes(head[4..].try_into().ok()?);
        if len == 0 || len > PAYLOAD_BYTES_MAX || sequence != self.sequence.wrapping_add(1) {
            return None;
        }
        let body = bytes.get(start..start + 12 + len)?;
        let found = bytes.get(start + 12 + len..start + FRAME_EXTRA_BYTES + len)?;
        let crc = crc32c::crc32c_append(self.crc, body);
        if crc.to_le_bytes() != *found {
            return None;
        }
        self.offset += (FRAME_EXTRA_BYTES + len) as u64;
        self.sequence = sequence;
        self.crc = crc;
        Some(&body[12..])
    }

    /// True if a marker of this journal stands anywhere behind and says that what is here was on disk once. Markers can
    /// be told without the frames in front of them. `bytes`: the whole journal.
    pub(super) fn was_synced(&self, bytes: &[u8]) -> bool {
        let mut at = usize::try_from(self.offset).unwrap_or(usize::MAX);
        while let Some(rest) = bytes.get(at..) {
            let Some(found) = find(rest, MARKER_MAGIC) else {
                return false;
            };
            // In front of the magic: length, sequence, type.
            if let Some(start) = (at + found).checked_sub(13)
                && let Some(payload) = bytes.get(start + 12..start + 12 + MARKER_BYTES)
                && let [sequence, synced] = [17, 25].map(|from| le64(&payload[from..from + 8]))
                && synced > self.offset
                && *payload == marker_payload(start as u64, sequence, synced, self.header_crc)[..]
            {
                return true;
            }
            at += found + 1;
        }
        false
    }
}

fn marker_payload(offset: u64, sequence: u64, synced: u64, header_crc: u32) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(MARKER);
    w.raw(MARKER_MAGIC);
    w.u64(offset);
    w.u64(sequence);
    w.u64(synced);
    let crc = crc32c::crc32c_append(header_crc, w.as_slice());
    w.u32(crc);
    w.into_vec()
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
