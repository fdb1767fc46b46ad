//! What has to survive a crash between "sent" and "known to be published".

use std::io;

use async_trait::async_trait;

use super::prepared::PreparedTree;
use super::publish::NewBase;
use crate::model::{Seq, TxnId};
use crate::overlay::{BaseRef, PublishedContent};
use crate::volume::LoggedRecord;

/// An attempt to publish that is about to be sent.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The transaction, the same for all attempts of a commit.
    pub txn: TxnId,
    /// The log cannot hold the transaction up to this record.
    pub since: Seq,
    /// The record as it will be if this attempt succeeds.
    pub record: LoggedRecord,
    /// The base then, if that is not the record's tree: its nodes must be in the state directory before the record is
    /// sent.
    pub prepared: Option<PreparedTree>,
    /// The bytes of dirty files then.
    pub contents: Vec<PublishedContent>,
    /// S before the commit.
    pub sources: Vec<Seq>,
}

/// Where the mount writes attempts down.
#[async_trait]
pub trait CommitJournal: Send + Sync + std::fmt::Debug {
    /// Must be on the disk when it returns. A later attempt of the same transaction replaces an earlier one, except that
    /// either may turn out to be the published one if the earlier one's outcome was not known: they then stand for the
    /// same tree.
    ///
    /// # Errors
    /// What the local disk says; nothing is sent then.
    async fn publishing(&self, attempt: &Attempt) -> io::Result<()>;
}

/// For commits that are not resumed.
#[derive(Debug, Default)]
pub struct NoJournal;

#[async_trait]
impl CommitJournal for NoJournal {
    async fn publishing(&self, _attempt: &Attempt) -> io::Result<()> {
        Ok(())
    }
}

impl Attempt {
    /// The base when `record`, this attempt's, is in the log (LOG.md 3).
    pub fn base_at(&self, record: &LoggedRecord) -> NewBase {
        let at = |prepared, sources| BaseRef {
            seq: record.seq(),
            record: record.hash,
            prepared,
            sources,
        };
        let mut all = self.sources.clone();
        all.push(record.seq());
        all.sort_unstable();
        all.dedup();
        match &self.prepared {
            None => NewBase {
                clean: at(None, vec![record.seq()]),
                dirty: at(None, all),
                tree: record.record.root.root.clone(),
                prepared: None,
            },
            Some(prepared) => NewBase {
                clean: at(Some(prepared.hash), all.clone()),
                dirty: at(Some(prepared.hash), all),
                tree: prepared.tree.clone(),
                prepared: Some(prepared.clone()),
            },
        }
    }
}
