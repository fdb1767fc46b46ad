//! What ops do to the bytes of files: bodies, marks of presence, contents.

use std::sync::Arc;

use super::apply::ApplyError;
use super::codec::PRESENT_WORDS_MAX;
use super::state::{BodyId, FileState, NodeId, OverlayState};
use crate::model::Content;

/// Frames of one file that a presence map may tell of.
const FRAMES_MAX: u64 = 64 * PRESENT_WORDS_MAX as u64;

impl OverlayState {
    pub(super) fn change_bytes(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut FileState),
    ) -> Result<(), ApplyError> {
        if self.file(id)?.body.is_none() {
            return Err(ApplyError::Rule(id, "has no body"));
        }
        let node = self.touch(id);
        let generation = node.generation;
        let file = node.file_mut();
        file.bytes_generation = generation;
        change(file);
        Ok(())
    }

    pub(super) fn give_body(
        &mut self,
        id: NodeId,
        body: BodyId,
        present: Option<Arc<Vec<u64>>>,
        base_valid: u64,
        dirty: bool,
    ) -> Result<(), ApplyError> {
        let file = self.file(id)?;
        if file.body == Some(body) || body == 0 || body == BodyId::MAX {
            return Err(ApplyError::BodyTaken(body));
        }
        let base_size = file.base.as_ref().map_or(0, |(size, _)| *size);
        if base_valid > base_size {
            return Err(ApplyError::Rule(id, "more of the base counts than there is"));
        }
        if present
            .as_ref()
            .is_some_and(|bits| bits.len() as u64 > FRAMES_MAX / 64)
        {
            return Err(ApplyError::Rule(id, "presence map is too long"));
        }
        let node = self.touch(id);
        let generation = node.generation;
        let file = node.file_mut();
        file.body = Some(body);
        file.present = present;
        file.base_valid = base_valid;
        if dirty {
            file.dirty = true;
            file.bytes_generation = generation;
        }
        self.next_body = self.next_body.max(body + 1);
        Ok(())
    }

    pub(super) fn set_present(
        &mut self,
        id: NodeId,
        body: BodyId,
        frames: &[(u64, u64)],
    ) -> Result<(), ApplyError> {
        for (first, count) in frames {
            if first.checked_add(*count).is_none_or(|end| end > FRAMES_MAX) {
                return Err(ApplyError::Rule(id, "frame beyond the largest file"));
            }
        }
        let Ok(file) = self.file(id) else { return Ok(()) };
        if file.body != Some(body) || file.present.is_none() {
            return Ok(());
        }
        // Which frames are here is no change of the bytes: no new generation.
        let file = self.node_mut(id).file_mut();
        if let Some(bits) = &mut file.present {
            let bits = Arc::make_mut(bits);
            for (first, count) in frames {
                set_bits(bits, *first, *count);
            }
        }
        Ok(())
    }

    pub(super) fn replace_content(
        &mut self,
        id: NodeId,
        size: u64,
        content: &Content,
    ) -> Result<(), ApplyError> {
        self.file(id)?;
        if matches!(content, Content::Local(_)) {
            return Err(ApplyError::Rule(id, "local content has no meaning here"));
        }
        let node = self.touch(id);
        let generation = node.generation;
        *node.file_mut() = FileState {
            bytes_generation: generation,
            ..FileState::of_base(Some((size, content.clone())))
        };
        Ok(())
    }

    pub(super) fn drop_body(&mut self, id: NodeId) -> Result<(), ApplyError> {
        if self.file(id)?.dirty {
            return Err(ApplyError::Rule(id, "is dirty"));
        }
        let file = self.touch(id).file_mut();
        file.body = None;
        file.present = None;
        file.base_valid = file.base.as_ref().map_or(0, |(size, _)| *size);
        Ok(())
    }
}

impl FileState {
    /// True if the body holds nothing but what the base says.
    pub(super) fn has_clean_body(&self) -> bool {
        self.body.is_some() && !self.dirty && self.base.is_some()
    }

    /// A file without local bytes.
    pub(super) fn of_base(base: Option<(u64, Content)>) -> FileState {
        FileState {
            base_valid: base.as_ref().map_or(0, |(size, _)| *size),
            base,
            body: None,
            dirty: false,
            bytes_generation: 0,
            present: None,
        }
    }
}

fn set_bits(bits: &mut Vec<u64>, first: u64, count: u64) {
    let end = first + count;
    let words = usize::try_from(end.div_ceil(64)).expect("at most FRAMES_MAX / 64");
    if bits.len() < words {
        bits.resize(words, 0);
    }
    let mut at = first;
    while at < end {
        let word = usize::try_from(at / 64).expect("below the length");
        let low = at % 64;
        let run = (64 - low).min(end - at);
        let mask = if run == 64 {
            u64::MAX
        } else {
            ((1 << run) - 1) << low
        };
        bits[word] |= mask;
        at += run;
    }
}
