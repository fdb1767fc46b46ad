//! Looking for transactions: in the records from the newest fence on, and below it in the head's history tree.
//!
//! Slots below the fence are never asked by number: one of them may be a re-used one (LOG.md 2.3).
//!
//! The history tree is a directory tree like any other: a name for each record, 16 hexadecimal digits of its number, and
//! what is known of the record as target of a symbolic link, as that is the kind of entry that carries up to 4,095 bytes
//! of its own (none of them NUL: a NUL is written as 1 1, a 1 as 1 2). So it is edited, partitioned and read by the code
//! that serves files. Only records of a collector change it.

use std::ops::Range;

use futures::stream::{StreamExt, TryStreamExt};

use super::rules;
use super::{Head, LoggedRecord, Volume, VolumeError};
use crate::format::{Corrupt, FormatError, Key, Reader, Writer};
use crate::model::{Attrs, DirTree, Entry, EntryBody, Hash, Name, Seq, TxnId};
use crate::tree::{self, ListFrom, NodeSource, TreeError};

/// Records read at the same time.
const RECORDS_AT_ONCE: usize = 16;
/// Pages of the history tree that are fetched together: some 14,000 records.
const PAGES_AHEAD: usize = tree::FETCHES_MAX;
/// Bytes of `by` and `msg` that an entry keeps of each: two of them (twice as long if they hold nothing but NULs), 129
/// transactions and the rest stay below the 4,095 bytes of an entry.
const TEXT_BYTES_MAX: usize = 400;

/// What the history tree keeps of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Hash of the record.
    pub hash: Hash,
    /// Its own transaction and those that it merged.
    pub txns: Vec<TxnId>,
    /// Who published it, perhaps cut.
    pub by: String,
    /// What was said about it, perhaps cut.
    pub msg: String,
}

/// A record that holds a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTxn {
    /// Its number.
    pub seq: Seq,
    /// Its hash.
    pub hash: Hash,
    /// The record, unless only the history tree tells of it.
    pub record: Option<LoggedRecord>,
}

impl PartialEq for LoggedRecord {
    fn eq(&self, other: &LoggedRecord) -> bool {
        self.hash == other.hash
    }
}

impl Eq for LoggedRecord {}

impl HistoryEntry {
    /// What is kept of this record.
    pub fn of(logged: &LoggedRecord) -> HistoryEntry {
        let record = &logged.record;
        HistoryEntry {
            hash: logged.hash,
            txns: std::iter::once(record.txn)
                .chain(record.merged.iter().copied())
                .collect(),
            by: cut(&record.by),
            msg: cut(&record.message),
        }
    }

    /// The name and entry by which it stands in the history tree.
    pub fn to_entry(&self, seq: Seq) -> (Name, Entry) {
        let mut w = Writer::new();
        w.hash(&self.hash);
        w.uv(self.txns.len() as u64);
        self.txns.iter().for_each(|txn| w.raw(&txn.0));
        w.bytes(self.by.as_bytes());
        w.bytes(self.msg.as_bytes());
        let entry = Entry {
            attrs: Attrs::default(),
            body: EntryBody::Symlink {
                target: without_nul(w.as_slice()).into(),
            },
        };
        (history_name(seq), entry)
    }

    fn of_body(body: &EntryBody, object: &str) -> Result<HistoryEntry, VolumeError> {
        match body {
            EntryBody::Symlink { target } => {
                Ok(HistoryEntry::parse(target, object).map_err(FormatError::from)?)
            }
            _ => Err(VolumeError::damaged(object, "an entry of the wrong kind")),
        }
    }

    fn parse(target: &[u8], object: &str) -> Result<HistoryEntry, Corrupt> {
        let bytes = with_nul(target);
        let mut r = Reader::new(&bytes, object);
        let hash = r.hash()?;
        let count = r.count(16)?;
        let txns = (0..count)
            .map(|_| Ok(TxnId(r.array()?)))
            .collect::<Result<_, Corrupt>>()?;
        let by = String::from_utf8_lossy(r.bytes(TEXT_BYTES_MAX)?).into_owned();
        let msg = String::from_utf8_lossy(r.bytes(TEXT_BYTES_MAX)?).into_owned();
        Ok(HistoryEntry { hash, txns, by, msg })
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes of a text, cut between characters.
fn cut(text: &str) -> String {
    let end = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= TEXT_BYTES_MAX)
        .last();
    text[..end.unwrap_or(0)].to_owned()
}

fn without_nul(bytes: &[u8]) -> Vec<u8> {
    let pairs = bytes.iter().map(|byte| match byte {
        0 => (1, Some(1)),
        1 => (1, Some(2)),
        other => (*other, None),
    });
    pairs
        .flat_map(|(first, second)| std::iter::once(first).chain(second))
        .collect()
}

fn with_nul(target: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(target.len());
    let mut rest = target.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            1 => rest.next().map_or(0, |second| second.saturating_sub(1)),
            other => *other,
        });
    }
    bytes
}

fn history_name(seq: Seq) -> Name {
    Name::new(format!("{seq:016x}").as_bytes()).expect("hexadecimal digits are a name")
}

/// The record that an entry of the history tree tells of; `None` for names of other forms.
fn seq_of_name(name: &Name) -> Option<Seq> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let is_number = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_number.then(|| Seq::from_str_radix(text, 16).ok())?
}

impl Volume {
    /// Was this transaction published after record `since`? Always decidable for heads of which every record below the
    /// fence is in the history tree, which is read as one listing; costs a request for each record after the fence.
    ///
    /// # Errors
    /// [`VolumeError::Undecidable`]; [`VolumeError::Busy`] when `head` is so old that numbers after its fence may have been
    /// trimmed and used again: search under a new head.
    pub async fn find_txn(
        &self,
        src: &dyn NodeSource,
        head: &Head,
        txn: TxnId,
        since: Seq,
    ) -> Result<Option<FoundTxn>, VolumeError> {
        let fence = head.record().gc.fence;
        let below = since + 1..fence.min(head.seq() + 1);
        if !below.is_empty()
            && let Some(found) = self.search_history(src, head, txn, below).await?
        {
            return Ok(Some(found));
        }
        self.search_log(head, txn, fence.max(since + 1)).await
    }

    /// Looks through the history tree: pages in order, some of them ahead.
    async fn search_history(
        &self,
        src: &dyn NodeSource,
        head: &Head,
        txn: TxnId,
        seqs: Range<Seq>,
    ) -> Result<Option<FoundTxn>, VolumeError> {
        let object = history_object(head);
        let no_list = || VolumeError::Undecidable {
            txn: txn.to_string(),
            since: seqs.start - 1,
            reason: "the records were trimmed and the volume has no list of them",
        };
        let failed = |error| tree_error(&object, error);
        let (ptr, index) = head.record().root.history.ok_or_else(no_list)?;
        let tree = DirTree::stored(ptr, index);
        let before = history_name(seqs.start - 1);
        let first = tree::run(src, &tree, ListFrom::After(before.as_bytes()));
        let first = first.await.map_err(failed)?.ok_or_else(no_list)?.first_ordinal();
        let leaves = tree::leaves(src, &tree).await.map_err(failed)?;
        let from = leaves.partition_point(|leaf| leaf.ordinal.saturating_add(leaf.count) <= first);
        let mut wanted = seqs.clone();
        for some in leaves[from..].chunks(PAGES_AHEAD) {
            tree::prefetch(src, some).await.map_err(failed)?;
            for leaf in some {
                let page = tree::leaf_entries(src, leaf).await.map_err(failed)?;
                for (name, entry) in &page.entries {
                    let Some(seq) = seq_of_name(name).filter(|seq| *seq >= wanted.start) else {
                        continue;
                    };
                    if wanted.is_empty() {
                        return Ok(None);
                    }
                    if seq != wanted.start {
                        return Err(no_list());
                    }
                    wanted.start += 1;
                    let entry = HistoryEntry::of_body(&entry.body, &object)?;
                    if entry.txns.contains(&txn) {
                        return Ok(Some(FoundTxn {
                            seq,
                            hash: entry.hash,
                            record: None,
                        }));
                    }
                }
            }
        }
        match wanted.is_empty() {
            true => Ok(None),
            false => Err(no_list()),
        }
    }

    /// Looks through the records from `first` on, none of which was trimmed when `head` was the newest. An answer counts
    /// for an hour after that, and only if each record names the one before it: later a slot may be a re-used one (LOG.md 2.4).
    async fn search_log(&self, head: &Head, txn: TxnId, first: Seq) -> Result<Option<FoundTxn>, VolumeError> {
        let reads = (first..=head.seq()).map(|seq| async move {
            if seq == head.seq() {
                return Ok(head.newest.clone());
            }
            let busy = || VolumeError::Busy {
                object: Key::Record(self.id, seq).to_string(),
            };
            let (logged, answered_at) = self.fetch_record(seq).await?.ok_or_else(busy)?;
            let own = (head.looked_at, self.clock.steady());
            match rules::is_walk_sure(own, (head.read_at, answered_at)) {
                true => Ok(logged),
                false => Err(busy()),
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(RECORDS_AT_ONCE);
        let mut before: Option<Hash> = None;
        let mut found = None;
        while let Some(logged) = reads.try_next().await? {
            if before.is_some_and(|before| logged.record.parent != Some(before)) {
                return Err(VolumeError::Busy {
                    object: Key::Record(self.id, logged.seq()).to_string(),
                });
            }
            before = Some(logged.hash);
            if found.is_none() && (logged.record.txn == txn || logged.record.merged.contains(&txn)) {
                found = Some(FoundTxn {
                    seq: logged.seq(),
                    hash: logged.hash,
                    record: Some(logged),
                });
            }
        }
        Ok(found)
    }

    /// What the history tree of `head` keeps of a record below the fence.
    ///
    /// # Errors
    /// [`VolumeError::NotKept`] when it has nothing of that number.
    pub async fn history_entry(
        &self,
        src: &dyn NodeSource,
        head: &Head,
        seq: Seq,
    ) -> Result<HistoryEntry, VolumeError> {
        let object = history_object(head);
        let not_kept = || VolumeError::NotKept {
            seq,
            head: head.seq(),
        };
        let (ptr, index) = head.record().root.history.ok_or_else(not_kept)?;
        let tree = DirTree::stored(ptr, index);
        let found = tree::lookup(src, &tree, history_name(seq).as_bytes()).await;
        let found = found.map_err(|e| tree_error(&object, e))?.ok_or_else(not_kept)?;
        HistoryEntry::of_body(&found.body, &object)
    }
}

fn history_object(head: &Head) -> String {
    format!("history of record {}", head.seq())
}

fn tree_error(object: &str, error: TreeError) -> VolumeError {
    VolumeError::Damaged {
        object: object.to_owned(),
        rule: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_fit_with_as_many_drafts_as_a_record_may_have() {
        let entry = HistoryEntry {
            hash: Hash([0; 32]),
            txns: (0..129u8).map(|i| TxnId([i; 16])).collect(),
            by: cut(&"ä".repeat(2000)),
            msg: cut(&"x".repeat(5000)),
        };
        assert_eq!((entry.by.len(), entry.msg.len()), (400, 400));
        let (name, stored) = entry.to_entry(258);
        assert_eq!(name.as_bytes(), b"0000000000000102");
        let EntryBody::Symlink { target } = stored.body else {
            panic!("kind")
        };
        assert!(target.len() <= crate::model::SYMLINK_BYTES_MAX && !target.contains(&0));
        assert_eq!(HistoryEntry::parse(&target, "t").unwrap(), entry);
    }
}
