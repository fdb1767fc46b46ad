//! After a crash or a lost answer: was it published?
//!
//! A record that was sent may arrive long after its sender has stopped waiting, for as long as its number is free. A commit
//! that was given up as "not published" and came into the log afterwards would be a stranger's to the mount that made it:
//! the next merge would take what it made for changes of others, and bring back what was deleted meanwhile. So a commit is
//! given up only when its number is another's: while it is free the same bytes are sent again ([`finish`]), which is always
//! allowed, because the number fixes the record before it (LOG.md 4, step 8).

use super::error::CommitError;
use crate::model::{Seq, TxnId};
use crate::tree::NodeSource;
use crate::volume::{FoundTxn, Head, LoggedRecord, PublishOutcome, Volume, VolumeError};

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
    /// It is not, up to this head. From [`settle`], a PUT that is still on its way could yet create the number after the
    /// head that it was made for.
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
/// What the store says; [`VolumeError::Undecidable`]; [`VolumeError::Deleted`]: it was not published and never will be.
pub async fn settle(
    volume: &Volume,
    nodes: &dyn NodeSource,
    txn: TxnId,
    since: Seq,
) -> Result<Settled, CommitError> {
    let mut tries = 1;
    loop {
        // What was published before a deletion was published: an undelete would bring it back.
        let head = volume.last_head().await?;
        match volume.find_txn(nodes, &head, txn, since).await {
            Ok(Some(found)) => return Ok(Settled::Published { found, head }),
            // Its records may be going; none of what was sent can come after it.
            Ok(None) | Err(VolumeError::Busy { .. } | VolumeError::Undecidable { .. }) if head.is_end() => {
                return Err(volume.deleted(&head).into());
            }
            Ok(None) => return Ok(Settled::NotPublished { head }),
            Err(VolumeError::Busy { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// As [`settle`], and with the records that were sent under the transaction: one whose number is still free is published
/// now. [`Settled::NotPublished`] means that none of them can come into the log any more.
///
/// # Errors
/// As [`settle`]; [`CommitError::Unknown`] when sending it again did not tell either.
pub async fn finish(
    volume: &Volume,
    nodes: &dyn NodeSource,
    (txn, since): (TxnId, Seq),
    sent: &[LoggedRecord],
) -> Result<Settled, CommitError> {
    loop {
        let head = match settle(volume, nodes, txn, since).await? {
            Settled::NotPublished { head } => head,
            published => return Ok(published),
        };
        let again = sent.iter().find_map(|record| volume.send_again(&head, record));
        let Some(record) = again else {
            return Ok(Settled::NotPublished { head });
        };
        match volume.publish(nodes, &record).await? {
            PublishOutcome::Published { record, head } => {
                let found = FoundTxn {
                    seq: record.seq(),
                    hash: record.hash,
                    record: Some(record),
                };
                return Ok(Settled::Published { found, head });
            }
            // Another has the number now, or it is ours: each turn follows a record that was not there before.
            PublishOutcome::Lost => {}
            PublishOutcome::Unknown { reason } => return Err(CommitError::Unknown { txn, since, reason }),
        }
    }
}
