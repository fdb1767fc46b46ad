//! The tables in front of a node's body, through which its entries name packs, owners, times and file ids (SPEC.md,
//! "Nodes").
//!
//! One encoding serves two places. In a node (*slots*), packs and owners are numbers in the node's tables, times and
//! file ids are differences. In a local file (*absolute*, the overlay's journal) every value stands for itself.

use std::collections::HashMap;

use super::limits::NODE_ENTRIES_MAX;
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{Epoch, LOCAL_EPOCH, PackRef};

/// Why a value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A limit of the format would be exceeded.
    #[error("{what}: over the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The most there may be.
        limit: u64,
    },
    /// A pack of the state directory is named where only the remote volume may be.
    #[error("a node would name a pack that exists only on this machine")]
    LocalPack,
    /// The pack being written is named where it has no slot.
    #[error("an unfinished pack is named outside its own nodes")]
    OpenPack,
    /// A content that is not uploaded yet.
    #[error("a content that is not uploaded yet cannot be stored")]
    LocalContent,
    /// A directory that was not stored or partitioned before.
    #[error("an edited directory must be stored before what is above it")]
    NotStored,
    /// The value breaks a rule of the format.
    #[error("not a value of the format: {0}")]
    Invalid(&'static str),
}

pub(super) fn ensure(holds: bool, rule: &'static str) -> Result<(), EncodeError> {
    if holds {
        Ok(())
    } else {
        Err(EncodeError::Invalid(rule))
    }
}

pub(super) fn limit(count: u64, limit: u64, what: &'static str) -> Result<(), EncodeError> {
    if count <= limit {
        Ok(())
    } else {
        Err(EncodeError::Limit { what, limit })
    }
}

/// How an encoder names packs, owners, times and file ids.
#[derive(Debug)]
pub struct EncodeTables {
    slots: Option<Slots>,
    local_allowed: bool,
    open_allowed: bool,
    pub(super) base_mtime: i64,
    pub(super) previous: u64,
    entries: usize,
}

#[derive(Debug, Default)]
struct Slots {
    packs: Vec<PackRef>,
    pack_of: HashMap<PackRef, u64>,
    owners: Vec<(u32, u32)>,
    owner_of: HashMap<(u32, u32), u64>,
}

impl EncodeTables {
    /// Every value stands for itself: for local files. Unfinished packs are refused, packs of the state directory too
    /// unless `local_allowed`.
    pub fn absolute(local_allowed: bool) -> EncodeTables {
        EncodeTables {
            slots: None,
            local_allowed,
            open_allowed: false,
            base_mtime: 0,
            previous: 0,
            entries: 0,
        }
    }

    /// Numbers in tables that are written in front of the body.
    pub(super) fn slots(local_allowed: bool, open_allowed: bool, base_mtime: i64, base_file_id: u64) -> Self {
        EncodeTables {
            slots: Some(Slots::default()),
            local_allowed,
            open_allowed,
            base_mtime,
            previous: base_file_id,
            entries: 0,
        }
    }

    /// The tables, as they stand in front of the body.
    pub(super) fn write(&self, w: &mut Writer) {
        let Some(slots) = &self.slots else { return };
        w.uv(slots.packs.len() as u64);
        for pack in &slots.packs {
            w.uv(u64::from(pack.epoch));
            w.hash(&pack.id);
        }
        w.uv(slots.owners.len() as u64);
        for (uid, gid) in &slots.owners {
            w.uv(u64::from(*uid));
            w.uv(u64::from(*gid));
        }
    }

    /// True if values stand for themselves.
    pub(super) fn is_absolute(&self) -> bool {
        self.slots.is_none()
    }

    /// True for a node of the state directory.
    pub(super) fn is_local(&self) -> bool {
        self.slots.is_some() && self.local_allowed
    }

    /// Counts one more entry of the node.
    pub(super) fn count_entry(&mut self) -> Result<(), EncodeError> {
        if self.slots.is_some() {
            self.entries += 1;
        }
        limit(self.entries as u64, NODE_ENTRIES_MAX as u64, "entries of a node")
    }

    /// A file id as it is written: the difference to the one before.
    pub(super) fn file_id(&mut self, id: u64) -> i64 {
        let difference = id.wrapping_sub(self.previous).cast_signed();
        if self.slots.is_some() {
            self.previous = id;
        }
        difference
    }

    pub(super) fn pack(&mut self, w: &mut Writer, pack: &PackRef) -> Result<(), EncodeError> {
        if pack.is_open() {
            // Slot 0 is "the pack that this node is in": only a node can say that.
            if !self.open_allowed {
                return Err(EncodeError::OpenPack);
            }
            w.uv(0);
            return Ok(());
        }
        if pack.is_local() && !self.local_allowed {
            return Err(EncodeError::LocalPack);
        }
        match &mut self.slots {
            None => {
                w.uv(u64::from(pack.epoch));
                w.hash(&pack.id);
            }
            Some(slots) => {
                let slot = *slots.pack_of.entry(*pack).or_insert_with(|| {
                    slots.packs.push(*pack);
                    slots.packs.len() as u64
                });
                w.uv(slot);
            }
        }
        Ok(())
    }

    pub(super) fn owner(&mut self, w: &mut Writer, uid: u32, gid: u32) {
        match &mut self.slots {
            None => {
                w.uv(u64::from(uid));
                w.uv(u64::from(gid));
            }
            Some(slots) => {
                let slot = *slots.owner_of.entry((uid, gid)).or_insert_with(|| {
                    slots.owners.push((uid, gid));
                    slots.owners.len() as u64 - 1
                });
                w.uv(slot);
            }
        }
    }
}

/// How a decoder finds packs, owners, times and file ids; the counterpart of [`EncodeTables`].
#[derive(Debug)]
pub struct DecodeTables {
    slots: Option<DecodeSlots>,
    own: Option<PackRef>,
    local_allowed: bool,
    pub(super) base_mtime: i64,
    pub(super) previous: u64,
    entries: usize,
}

#[derive(Debug)]
struct DecodeSlots {
    packs: Vec<PackRef>,
    owners: Vec<(u32, u32)>,
}

impl DecodeTables {
    /// What [`EncodeTables::absolute`] wrote.
    pub fn absolute(local_allowed: bool) -> DecodeTables {
        DecodeTables {
            slots: None,
            own: None,
            local_allowed,
            base_mtime: 0,
            previous: 0,
            entries: 0,
        }
    }

    /// Reads the tables and the two base values in front of a node's body. `own` is what slot 0 means, `None` where
    /// slot 0 is illegal.
    pub(super) fn read(
        r: &mut Reader<'_>,
        own: Option<PackRef>,
        local_allowed: bool,
    ) -> Result<DecodeTables, Corrupt> {
        let mut packs = Vec::with_capacity(r.count(33)?);
        for _ in 0..packs.capacity() {
            packs.push(read_pack(r, local_allowed)?);
        }
        let mut owners = Vec::with_capacity(r.count(2)?);
        for _ in 0..owners.capacity() {
            owners.push((r.uv32()?, r.uv32()?));
        }
        Ok(DecodeTables {
            slots: Some(DecodeSlots { packs, owners }),
            own,
            local_allowed,
            base_mtime: r.zz()?,
            previous: r.uv()?,
            entries: 0,
        })
    }

    pub(super) fn pack(&self, r: &mut Reader<'_>) -> Result<PackRef, Corrupt> {
        let Some(DecodeSlots { packs, .. }) = &self.slots else {
            return read_pack(r, self.local_allowed);
        };
        match r.uv()? {
            0 => self
                .own
                .ok_or_else(|| r.corrupt("slot 0 where there is no own pack")),
            slot => usize::try_from(slot - 1)
                .ok()
                .and_then(|slot| packs.get(slot).copied())
                .ok_or_else(|| r.corrupt("a pack slot is not in the table")),
        }
    }

    pub(super) fn owner(&self, r: &mut Reader<'_>) -> Result<(u32, u32), Corrupt> {
        let Some(DecodeSlots { owners, .. }) = &self.slots else {
            return Ok((r.uv32()?, r.uv32()?));
        };
        let slot = r.uv32()?;
        owners
            .get(slot as usize)
            .copied()
            .ok_or_else(|| r.corrupt("an owner slot is not in the table"))
    }

    /// The file id that was written as this difference.
    pub(super) fn file_id(&mut self, difference: i64) -> u64 {
        let id = self.previous.wrapping_add(difference.cast_unsigned());
        if self.slots.is_some() {
            self.previous = id;
        }
        id
    }

    /// Counts one more entry of the node.
    pub(super) fn count_entry(&mut self, r: &Reader<'_>) -> Result<(), Corrupt> {
        if self.slots.is_some() {
            self.entries += 1;
        }
        r.require(
            self.entries <= NODE_ENTRIES_MAX,
            "a node has more than 65,536 entries",
        )
    }
}

fn read_pack(r: &mut Reader<'_>, local_allowed: bool) -> Result<PackRef, Corrupt> {
    let epoch: Epoch = r.uv32()?;
    r.require(
        epoch != LOCAL_EPOCH || local_allowed,
        "a pack of some machine's state directory is named",
    )?;
    let pack = PackRef { epoch, id: r.hash()? };
    r.require(!pack.is_open(), "a pack id of zeros")?;
    Ok(pack)
}
