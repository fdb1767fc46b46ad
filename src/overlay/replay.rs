//! From a journal's bytes to the state that it tells of.

use super::codec::decode_op;
use super::frame::{
    BootId, CLOSED, Header, HeaderError, MARKER, NOTHING, OPENED, SHOWS_VERSION, SYNCED, Tail,
};
use super::snapshot::Builder;
use super::state::OverlayState;
use super::unsynced::{Unsynced, Voided};
use crate::format::wire::Reader;

/// What a journal holds.
#[derive(Debug)]
pub struct Replayed {
    /// What it begins with.
    pub header: Header,
    /// The state after the last good op.
    pub state: OverlayState,
    /// Ops applied, the snapshot not counted.
    pub ops: u64,
    /// Bytes behind the last good frame, or the last that counts: an unfinished end.
    pub cut_bytes: u64,
    /// Ops that do not count although they can be read: the first of them showed bytes that a power cut took (J9).
    pub taken_back: u64,
    /// It ends with the frame of a clean stop.
    pub closed: bool,
    /// The boot in which it was opened last.
    pub boot: BootId,
    pub(super) unsynced: Unsynced,
    pub(super) tail: Tail,
}

/// Why a journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A newer program wrote it.
    #[error("version {0}")]
    TooNew(u32),
    /// Its beginning is unreadable: no state can be had.
    #[error("byte {offset}: {reason}")]
    NoState {
        /// Where.
        offset: u64,
        /// Why.
        reason: String,
    },
    /// Something that was on disk is damaged; what came before it is still good.
    #[error("byte {offset}: {reason}")]
    Damaged {
        /// Where.
        offset: u64,
        /// Why.
        reason: String,
        /// Everything before.
        before: Box<Replayed>,
    },
}

/// Replays a journal. For any bytes it returns or fails; it never panics, and needs memory in proportion to their length.
///
/// # Errors
/// See [`ReplayError`]. An unfinished end is no error.
pub fn replay(bytes: &[u8]) -> Result<Replayed, ReplayError> {
    let mut replayed = begin(bytes)?;
    loop {
        let mut next = replayed.tail;
        let reason = match next.next(bytes, 0) {
            None if next.offset == bytes.len() as u64 => return Ok(replayed),
            None => "unreadable".to_owned(),
            Some(payload) => match replayed.step(payload, &next) {
                Ok(()) => {
                    replayed.tail = next;
                    continue;
                }
                Err(reason) => reason,
            },
        };
        let offset = replayed.tail.offset;
        if replayed.tail.was_synced(bytes) {
            return Err(ReplayError::Damaged {
                offset,
                reason,
                before: Box::new(replayed),
            });
        }
        replayed.cut_bytes = bytes.len() as u64 - offset;
        return Ok(replayed);
    }
}

/// As [`replay`], for going on in this boot of the machine. After a power cut the ops from the first one on that shows bytes
/// which are not on disk did not happen (J9).
///
/// # Errors
/// As [`replay`].
pub fn replay_in(bytes: &[u8], boot: BootId) -> Result<Replayed, ReplayError> {
    let whole = replay(bytes)?;
    match whole.unsynced.first_shown() {
        Some(first) if whole.boot != boot => before(bytes, first, &whole),
        _ => Ok(whole),
    }
}

/// The state before the frame of that number. What frames behind it say to be on disk is, all the same.
fn before(bytes: &[u8], sequence: u64, whole: &Replayed) -> Result<Replayed, ReplayError> {
    let mut replayed = begin(bytes)?;
    let mut tail = replayed.tail;
    while tail.offset < whole.tail.offset
        && let Some(payload) = tail.next(bytes, 0)
    {
        let counts = tail.sequence < sequence;
        if !counts && payload.first() != Some(&SYNCED) {
            continue;
        }
        let offset = replayed.tail.offset;
        let no_state = |reason| ReplayError::NoState { offset, reason };
        // The whole was replayed without an error.
        replayed.step(payload, &tail).map_err(no_state)?;
        if counts {
            replayed.tail = tail;
        }
    }
    replayed.cut_bytes = bytes.len() as u64 - replayed.tail.offset;
    replayed.taken_back = whole.ops - replayed.ops;
    replayed.closed = false;
    // Numbers of frames go on behind those that were taken back.
    replayed.tail.sequence = whole.tail.sequence;
    Ok(replayed)
}

/// Header and snapshot.
fn begin(bytes: &[u8]) -> Result<Replayed, ReplayError> {
    let (header, len, crc) = Header::decode(bytes).map_err(|e| match e {
        HeaderError::TooNew(version) => ReplayError::TooNew(version),
        HeaderError::Bad(reason) => ReplayError::NoState {
            offset: 0,
            reason: reason.into(),
        },
    })?;
    let mut tail = Tail::of_header(len, crc);
    let (state, unsynced) = snapshot(bytes, &mut tail)?;
    let boot = header.boot;
    let unsynced = unsynced.with_shown(header.version >= SHOWS_VERSION);
    Ok(Replayed {
        header,
        state,
        ops: 0,
        cut_bytes: 0,
        taken_back: 0,
        closed: false,
        boot,
        unsynced,
        tail,
    })
}

fn snapshot(bytes: &[u8], tail: &mut Tail) -> Result<(OverlayState, Unsynced), ReplayError> {
    let mut builder = Builder::default();
    loop {
        let offset = tail.offset;
        let no_state = |reason: String| ReplayError::NoState { offset, reason };
        let payload = tail
            .next(bytes, 0)
            .ok_or_else(|| no_state("the snapshot is unreadable".into()))?;
        let mut r = Reader::new(payload, "journal");
        let done = r.u8().and_then(|kind| builder.step(kind, &mut r));
        if let Some((state, unsynced, sequence)) = done.map_err(|e| no_state(e.to_string()))? {
            tail.sequence = sequence;
            return Ok((state, unsynced));
        }
    }
}

impl Replayed {
    /// Takes one frame in; on an error nothing was changed.
    fn step(&mut self, payload: &[u8], tail: &Tail) -> Result<(), String> {
        let mut r = Reader::new(payload, "journal");
        let kind = r.u8().map_err(|e| e.to_string())?;
        let closed = kind == CLOSED || (kind == MARKER && self.closed);
        match kind {
            OPENED => {
                let boot = r.array().map_err(|e| e.to_string())?;
                r.finish().map_err(|e| e.to_string())?;
                self.open_in(boot);
            }
            MARKER | NOTHING => {}
            CLOSED => self.unsynced.all_synced(),
            SYNCED => {
                let synced = super::codec::get_runs(&mut r).map_err(|e| e.to_string())?;
                r.finish().map_err(|e| e.to_string())?;
                for (body, sequence) in synced {
                    self.unsynced.synced(body, sequence);
                }
            }
            _ => {
                let op = decode_op(kind, &mut r).map_err(|e| e.to_string())?;
                let op = op.ok_or("a frame out of place")?;
                r.finish().map_err(|e| e.to_string())?;
                self.unsynced.note(&self.state, &op, tail.sequence, 0);
                self.state.apply(&op).map_err(|e| e.to_string())?;
                self.ops += 1;
            }
        }
        self.closed = closed;
        Ok(())
    }

    /// The overlay is taken up in this boot.
    pub(super) fn open_in(&mut self, boot: BootId) -> Voided {
        let changed = self.boot != boot;
        self.boot = boot;
        if changed {
            self.unsynced.void(&mut self.state)
        } else {
            Voided::default()
        }
    }
}
