//! Sends packs of nodes to the store as they are finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;

use crate::format::FinishedPack;
use crate::tree::{PackSink, TreeError};
use crate::volume::{Volume, VolumeError};

/// Uploads, counted.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    volume: Volume,
    sent: Arc<AtomicU64>,
}

impl Uploads {
    pub fn new(volume: Volume) -> Uploads {
        Uploads {
            volume,
            sent: Arc::default(),
        }
    }

    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

#[async_trait]
impl PackSink for Uploads {
    async fn take(&mut self, pack: FinishedPack) -> Result<(), TreeError> {
        self.volume.put_pack(&pack).await.map_err(|error| match error {
            VolumeError::Store(error) => crate::volume::fetch_error(error),
            other => TreeError::Unreachable {
                reason: other.to_string(),
            },
        })?;
        self.sent.fetch_add(pack.bytes.len() as u64, Relaxed);
        Ok(())
    }
}
