//! Looking for transactions: in the records from the newest fence on, and below it in the head's history tree.
//!
//! Slots below the fence are never asked by number: one of them may be a re-used one (FORMAT.md 6.1).
//!
//! The history tree is a directory tree like any other: a name for each record, 16 hexadecimal digits of its number, and
//! what is known of the record as target of a symbolic link, as that is the kind of entry that carries up to 4,095 bytes
//! of its own (none of them NUL: a NUL is written as 1 1, a 1 as 1 2). So it is edited, partitioned and read by the code
//! that serves files. Only records of a collector change it.

use futures::stream::{StreamExt, TryStreamExt};

use super::{Head, LoggedRecord, Volume, VolumeError};
use crate::format::{Corrupt, FormatError, Key, Reader, Writer};
use crate::model::{Attrs, DirTree, Entry, EntryBody, Hash, Name, Seq, TxnId};
use crate::tree::{self, NodeSource, TreeError};

/// Records read at the same time.
const RECORDS_AT_ONCE: usize = 16;
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

impl Volume {
    /// Was this transaction published after record `since`? Always decidable for heads of which every record below the
    /// fence is in the history tree; costs a request for each record after `since`.
    ///
    /// # Errors
    /// [`VolumeError::Undecidable`]; [`VolumeError::Busy`] when `head` is so old that records after it were trimmed.
    pub async fn find_txn(
        &self,
        src: &dyn NodeSource,
        head: &Head,
        txn: TxnId,
        since: Seq,
    ) -> Result<Option<FoundTxn>, VolumeError> {
        let fence = head.record().gc.fence;
        for seq in since + 1..fence.min(head.seq() + 1) {
            let entry = self
                .history_entry(src, head, seq)
                .await
                .map_err(|error| match error {
                    VolumeError::NotKept { .. } => VolumeError::Undecidable {
                        txn: txn.to_string(),
                        since,
                        reason: "the records were trimmed and the volume has no list of them",
                    },
                    other => other,
                })?;
            if entry.txns.contains(&txn) {
                return Ok(Some(FoundTxn {
                    seq,
                    hash: entry.hash,
                    record: None,
                }));
            }
        }
        let first = fence.max(since + 1);
        let reads = (first..=head.seq()).map(|seq| async move {
            match seq == head.seq() {
                true => Ok(head.newest.clone()),
                false => match self.fetch_record(seq).await? {
                    Some((record, _)) => Ok(record),
                    None => Err(VolumeError::Busy {
                        object: Key::Record(self.id, seq).to_string(),
                    }),
                },
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(RECORDS_AT_ONCE);
        while let Some(logged) = reads.try_next().await? {
            if logged.record.txn == txn || logged.record.merged.contains(&txn) {
                return Ok(Some(FoundTxn {
                    seq: logged.seq(),
                    hash: logged.hash,
                    record: Some(logged),
                }));
            }
        }
        Ok(None)
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
        let object = format!("history of record {}", head.seq());
        let not_kept = || VolumeError::NotKept {
            seq,
            head: head.seq(),
        };
        let (ptr, index) = head.record().root.history.ok_or_else(not_kept)?;
        let tree = DirTree::stored(ptr, index);
        let found = tree::lookup(src, &tree, history_name(seq).as_bytes()).await;
        match found.map_err(|e| tree_error(&object, e))?.map(|entry| entry.body) {
            Some(EntryBody::Symlink { target }) => {
                Ok(HistoryEntry::parse(&target, &object).map_err(FormatError::from)?)
            }
            Some(_) => Err(VolumeError::damaged(&object, "an entry of the wrong kind")),
            None => Err(not_kept()),
        }
    }
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
