//! After a crash or a lost answer: was it published?

use super::error::CommitError;
use crate::model::{Seq, TxnId};
use crate::tree::NodeSource;
use crate::volume::{FoundTxn, Head, Volume, VolumeError};

/// The answer.
#[derive(Clone, Debug)]
pub enum Settled {
    /// It is in the log. The journaled attempt with that record's hash says what the base is now.
    Published {
        /// Where.
        found: FoundTxn,
        /// The newest record.
        head: Head,
    },
    /// It is not, up to this head. A PUT that is still on its way could only create the number after the head that it was
    /// made for; commit again only after that number is taken by another, or with the same transaction id.
    NotPublished {
        /// The newest record.
        head: Head,
    },
}

/// The head is so old that records after it were trimmed: look again, this often.
const TRIES: usize = 4;

/// Looks for a transaction that can only be in records after `since`. A fresh LIST, then one GET for each record since.
///
/// # Errors
/// What the store says; [`VolumeError::Undecidable`].
pub async fn settle(
    volume: &Volume,
    nodes: &dyn NodeSource,
    txn: TxnId,
    since: Seq,
) -> Result<Settled, CommitError> {
    let mut tries = 1;
    loop {
        let head = volume.head().await?;
        match volume.find_txn(nodes, &head, txn, since).await {
            Ok(Some(found)) => return Ok(Settled::Published { found, head }),
            Ok(None) => return Ok(Settled::NotPublished { head }),
            Err(VolumeError::Busy { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}
