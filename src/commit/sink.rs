//! Sends packs of nodes to the store as they are finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::format::FinishedPack;
use crate::tree::{PackSink, TreeError};
use crate::volume::{Volume, VolumeError};

/// Uploads, counted.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    volume: Volume,
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<VolumeError>>>,
}

impl Uploads {
    pub fn new(volume: Volume) -> Uploads {
        Uploads {
            volume,
            sent: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// What went wrong, more exactly than the error that ended the storing.
    pub fn take_error(&self) -> Option<VolumeError> {
        self.failed.lock().take()
    }

    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

#[async_trait]
impl PackSink for Uploads {
    async fn take(&mut self, pack: FinishedPack) -> Result<(), TreeError> {
        if let Err(error) = self.volume.put_pack(&pack).await {
            let reason = error.to_string();
            *self.failed.lock() = Some(error);
            return Err(TreeError::Unreachable { reason });
        }
        self.sent.fetch_add(pack.bytes.len() as u64, Relaxed);
        Ok(())
    }
}
