//! Collects blobs into packs and uploads full ones while the next is being filled.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::error::CommitError;
use super::ledger::{self, UploadLedger};
use super::progress::Progress;
use crate::format::{EncodedBlob, FinishedPack, PackBuilder, Resolve};
use crate::model::{BlobRef, ChunkRef, Epoch, PackRef};
use crate::volume::{Volume, VolumeError};

/// A data pack is finished at this many bytes (SPEC.md 10).
pub(super) const PACK_TARGET_BYTES: u64 = 16 << 20;
/// Up to this many bytes of blobs share the pack of the nodes (SPEC.md 10).
pub(super) const SHARED_BYTES_MAX: u64 = 4 << 20;
/// Packs in flight: with the one being filled, 5 x 16 MiB of memory.
const UPLOADS_MAX: usize = 4;

/// A blob in the pack of that number.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedBlob {
    number: usize,
    blob: BlobRef,
}

pub(super) struct Packer {
    volume: Volume,
    epoch: Epoch,
    open: PackBuilder,
    /// Of finished packs, in the order of their numbers.
    finished: Vec<PackRef>,
    uploads: JoinSet<Result<Arc<FinishedPack>, VolumeError>>,
}

/// All packs, known by number.
pub(super) struct Packs {
    finished: Vec<PackRef>,
    /// The last one, not uploaded: at most [`SHARED_BYTES_MAX`].
    pub open: PackBuilder,
}

impl Packer {
    pub fn new(volume: Volume, epoch: Epoch) -> Packer {
        Packer {
            volume,
            epoch,
            open: PackBuilder::new(epoch),
            finished: Vec::new(),
            uploads: JoinSet::new(),
        }
    }

    /// Adds a blob, waiting while too many packs are in flight.
    pub async fn add(
        &mut self,
        blob: &EncodedBlob,
        ledger: &dyn UploadLedger,
        progress: &Progress,
    ) -> Result<PackedBlob, CommitError> {
        if !self.open.is_empty() && self.open.len() + blob.stored.len() as u64 > PACK_TARGET_BYTES {
            self.turn_over(ledger, progress).await?;
        }
        let number = self.finished.len();
        Ok(PackedBlob {
            number,
            blob: self.open.add_encoded_blob(blob)?,
        })
    }

    async fn turn_over(&mut self, ledger: &dyn UploadLedger, progress: &Progress) -> Result<(), CommitError> {
        while self.uploads.len() >= UPLOADS_MAX {
            self.settle_one(ledger, progress).await?;
        }
        let open = std::mem::replace(&mut self.open, PackBuilder::new(self.epoch));
        let pack = tokio::task::spawn_blocking(move || open.finish())
            .await
            .map_err(|_| CommitError::Stopped)?;
        let pack = Arc::new(pack);
        self.finished.push(pack.pack);
        let volume = self.volume.clone();
        self.uploads.spawn(async move {
            volume.put_pack(&pack).await?;
            Ok(pack)
        });
        Ok(())
    }

    async fn settle_one(
        &mut self,
        ledger: &dyn UploadLedger,
        progress: &Progress,
    ) -> Result<(), CommitError> {
        if let Some(ended) = self.uploads.join_next().await {
            let pack = ended.map_err(|_| CommitError::Stopped)??;
            progress.sent_bytes(pack.bytes.len() as u64);
            ledger
                .append(&ledger::pack_entry(&pack))
                .map_err(CommitError::ledger)?;
        }
        Ok(())
    }

    /// Uploads all packs, the last one too.
    pub async fn finish_all(
        mut self,
        ledger: &dyn UploadLedger,
        progress: &Progress,
    ) -> Result<Packs, CommitError> {
        if !self.open.is_empty() {
            self.turn_over(ledger, progress).await?;
        }
        self.finish(ledger, progress).await
    }

    /// Waits for all uploads; what is left is small enough to go with the nodes.
    pub async fn finish(
        mut self,
        ledger: &dyn UploadLedger,
        progress: &Progress,
    ) -> Result<Packs, CommitError> {
        if self.open.len() > SHARED_BYTES_MAX {
            self.turn_over(ledger, progress).await?;
        }
        while !self.uploads.is_empty() {
            self.settle_one(ledger, progress).await?;
        }
        Ok(Packs {
            finished: self.finished,
            open: self.open,
        })
    }
}

impl Packs {
    /// The true place of a blob; `PackRef::open` for those of the last pack.
    pub fn blob(&self, packed: PackedBlob) -> BlobRef {
        let mut blob = packed.blob;
        if let Some(pack) = self.finished.get(packed.number) {
            blob.resolve(*pack);
        }
        blob
    }

    pub fn chunk(&self, packed: PackedBlob) -> ChunkRef {
        ChunkRef::Packed(self.blob(packed))
    }
}
