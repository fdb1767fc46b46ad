//! Finds out whether a store keeps the obligations that volumes rest on, by trying.
//!
//! What only a race shows is raced: several rounds of creators of one key whose last bytes are held back until all have
//! sent the rest (where the adapter goes over a network), of which one may win. A store that passes may still be wrong
//! rarely; one that ignores conditions, checks them before the body has arrived, or lists in an order of its own is found
//! out.

use bytes::Bytes;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{ObjectStore, PutMode, StoreError};

/// Creators in a race.
const RACERS: usize = 12;
/// Races.
const ROUNDS: usize = 3;
/// Keys in an order in which naive sorting (by path parts, by case) goes wrong, sorted by bytes.
const LIST_KEYS: [&str; 8] = ["A", "a", "a-b", "a.c", "a0", "b/a", "b/b", "b0"];

/// What a store does with put-if-absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateVerdict {
    /// Exactly one creator won each race, and no later one did.
    Atomic,
    /// A second create of an existing key succeeded: conditions are ignored.
    Ignored,
    /// Several creators of one key were told that they won.
    Racy {
        /// How many did, in the worst race.
        winners: usize,
    },
    /// The winner's bytes were not what was there afterwards, or nobody won although nothing was there.
    Inconsistent {
        /// What was seen.
        seen: String,
    },
    /// The store refuses such requests.
    Refused {
        /// What it said.
        reason: String,
    },
}

/// What a store does with listings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListVerdict {
    /// Sorted by key bytes, complete, and paged as asked.
    Sorted,
    /// Complete, but in another order, or not after the key it was told.
    Unsorted {
        /// What was seen.
        seen: String,
    },
    /// Something was missing, twice there, or too much.
    Wrong {
        /// What was seen.
        seen: String,
    },
}

/// What the probe found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// Put-if-absent.
    pub create: CreateVerdict,
    /// Listings.
    pub list: ListVerdict,
    /// `Some`: a finished write or deletion was not seen by the next read; what.
    pub stale_read: Option<String>,
    /// The store's clock minus this machine's, seconds; `None` when the store tells no time.
    pub clock_ahead_s: Option<i64>,
}

impl ProbeReport {
    /// Whether volumes may live in this store.
    pub fn is_fit(&self) -> bool {
        self.problems().is_empty()
    }

    /// What is wrong, each with what follows from it; empty when nothing is.
    pub fn problems(&self) -> Vec<String> {
        let create = match &self.create {
            CreateVerdict::Atomic => None,
            CreateVerdict::Ignored => Some("ignores conditional writes (If-None-Match: *)".to_string()),
            CreateVerdict::Racy { winners } => Some(format!(
                "let {winners} racing conditional writes of one key succeed, where only one may"
            )),
            CreateVerdict::Inconsistent { seen } => {
                Some(format!("is wrong about conditional writes: {seen}"))
            }
            CreateVerdict::Refused { reason } => Some(format!("refuses conditional writes: {reason}")),
        };
        let create =
            create.map(|what| format!("the store {what}; concurrent commits would overwrite each other"));
        let list = match &self.list {
            ListVerdict::Sorted => None,
            ListVerdict::Unsorted { seen } => Some(format!(
                "the store does not list by key ({seen}); the newest commit could not be found"
            )),
            ListVerdict::Wrong { seen } => Some(format!("the store lists wrongly: {seen}")),
        };
        let stale = self.stale_read.as_ref();
        let stale = stale.map(|seen| format!("the store does not show finished writes at once: {seen}"));
        [create, list, stale].into_iter().flatten().collect()
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems().as_slice() {
            [] => out.write_str("conditional writes, listings and reads are as they must be"),
            problems => out.write_str(&problems.join("; ")),
        }
    }
}

/// Tries the store below `probe/`, and removes what it wrote. Errors are those of a store that cannot be reached or does
/// not let us write; what a store does wrong is in the report.
pub async fn probe(store: &dyn ObjectStore) -> Result<ProbeReport, StoreError> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| StoreError::Misconfigured {
        reason: format!("no randomness: {error}"),
    })?;
    let root = format!("probe/{}/", hex::encode(random));
    let result = run(store, &root).await;
    let keys = written_keys(&root);
    if let Err(error) = store.delete(&keys).await {
        // A key without the permission to delete is good enough for committing.
        tracing::warn!(%error, %root, "cannot remove what the probe wrote");
    }
    result
}

async fn run(store: &dyn ObjectStore, root: &str) -> Result<ProbeReport, StoreError> {
    let (clock_ahead_s, stale_write) = try_reads(store, &format!("{root}read")).await?;
    let create = try_creates(store, root).await?;
    let list = try_lists(store, &list_root(root)).await?;
    let stale_delete = try_delete(store, &format!("{root}read")).await?;
    Ok(ProbeReport {
        create,
        list,
        stale_read: stale_write.or(stale_delete),
        clock_ahead_s,
    })
}

fn list_root(root: &str) -> String {
    format!("{root}list/")
}

fn race_key(root: &str, round: usize) -> String {
    format!("{root}race{round}")
}

fn written_keys(root: &str) -> Vec<String> {
    let races = (0..ROUNDS).map(|round| race_key(root, round));
    let listed = LIST_KEYS.iter().map(|key| format!("{}{key}", list_root(root)));
    races.chain(listed).chain([format!("{root}read")]).collect()
}

async fn try_reads(store: &dyn ObjectStore, key: &str) -> Result<(Option<i64>, Option<String>), StoreError> {
    for text in ["first", "second body"] {
        store.put(key, Bytes::from(text), PutMode::Overwrite).await?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let whole = store.get(key, None).await?;
        if whole.bytes != text || whole.object_len != text.len() as u64 {
            return Ok((None, Some("a write was not seen by the next read".to_string())));
        }
        let part = store.get(key, Some(1..4)).await?;
        if part.bytes != text[1..4] || part.object_len != text.len() as u64 {
            return Ok((None, Some("a byte range was answered wrongly".to_string())));
        }
        if text != "first" {
            let ahead = whole
                .server_time
                .map(|time| time.secs.saturating_sub_unsigned(now));
            return Ok((ahead, None));
        }
    }
    Ok((None, None))
}

async fn try_delete(store: &dyn ObjectStore, key: &str) -> Result<Option<String>, StoreError> {
    match store.delete(&[key.to_string()]).await {
        // Committing needs no deletions.
        Err(StoreError::Denied { .. }) => return Ok(None),
        result => result?,
    }
    let left = store.head(key).await?;
    Ok(left.map(|_| "a deletion was not seen by the next read".to_string()))
}

async fn try_creates(store: &dyn ObjectStore, root: &str) -> Result<CreateVerdict, StoreError> {
    let mut worst = CreateVerdict::Atomic;
    for round in 0..ROUNDS {
        let key = race_key(root, round);
        match race(store, &key).await? {
            CreateVerdict::Atomic => {}
            CreateVerdict::Racy { winners } => {
                let before = if let CreateVerdict::Racy { winners } = worst {
                    winners
                } else {
                    0
                };
                worst = CreateVerdict::Racy {
                    winners: winners.max(before),
                };
            }
            verdict => return Ok(verdict),
        }
        match store
            .put(&key, Bytes::from_static(b"too late"), PutMode::IfAbsent)
            .await
        {
            Err(StoreError::AlreadyExists { .. }) => {}
            Ok(_) => return Ok(CreateVerdict::Ignored),
            // Undecided: what is there decides.
            Err(StoreError::Unknown { reason, .. }) => match store.get(&key, None).await {
                Ok(found) if found.bytes != "too late" => {}
                Ok(_) => return Ok(CreateVerdict::Ignored),
                // No create was ever applied, nor refused in a way that says why.
                Err(StoreError::NotFound { .. }) => return Ok(CreateVerdict::Refused { reason }),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(worst)
}

async fn race(store: &dyn ObjectStore, key: &str) -> Result<CreateVerdict, StoreError> {
    let bodies: Vec<Bytes> = (0..RACERS)
        .map(|racer| Bytes::from(format!("racer {racer:02}")))
        .collect();
    let results = store.race_to_create(key, bodies.clone()).await;
    let mut winners = Vec::new();
    let mut undecided = Vec::new();
    for (body, result) in bodies.iter().zip(results) {
        match result {
            Ok(_) => winners.push(body),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(StoreError::Unknown { .. }) => undecided.push(body),
            Err(StoreError::Misconfigured { reason }) => return Ok(CreateVerdict::Refused { reason }),
            Err(error) => return Err(error),
        }
    }
    if winners.len() > 1 {
        return Ok(CreateVerdict::Racy {
            winners: winners.len(),
        });
    }
    let there = match store.get(key, None).await {
        Ok(fetched) => Some(fetched.bytes),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let seen = match (winners.first(), &there) {
        (Some(winner), Some(there)) if *winner == there => return Ok(CreateVerdict::Atomic),
        (None, Some(there)) if undecided.contains(&there) => return Ok(CreateVerdict::Atomic),
        // All were told to try again, and none was applied.
        (None, None) if undecided.len() == RACERS => return Ok(CreateVerdict::Atomic),
        (_, None) => "the key that was created is not there",
        (Some(_), Some(_)) => "the key holds the bytes of a creator that was told to have lost",
        (None, Some(_)) => "nobody was told to have won, and yet somebody did",
    };
    Ok(CreateVerdict::Inconsistent {
        seen: seen.to_string(),
    })
}

async fn try_lists(store: &dyn ObjectStore, root: &str) -> Result<ListVerdict, StoreError> {
    // Neither in order nor in reverse.
    for index in [3, 0, 6, 1, 7, 4, 2, 5] {
        let key = format!("{root}{}", LIST_KEYS[index]);
        store
            .put(&key, Bytes::from_static(b"x"), PutMode::Overwrite)
            .await?;
    }
    let expected: Vec<String> = LIST_KEYS.iter().map(|key| format!("{root}{key}")).collect();
    // The newest record of a log is found by a page of one.
    for limit in [1, 3, 1000] {
        let seen = list_paged(store, root, limit).await?;
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        if sorted != expected {
            let seen = format!(
                "{} keys in pages of {limit} where {} are",
                seen.len(),
                expected.len()
            );
            // An order of its own also confuses where a page begins, so look for that first.
            return Ok(match first_page_is_sorted(store, root).await? {
                true => ListVerdict::Wrong { seen },
                false => ListVerdict::Unsorted { seen },
            });
        }
        if seen != expected {
            return Ok(ListVerdict::Unsorted {
                seen: format!("a wrong order in pages of {limit}"),
            });
        }
    }
    let middle = store
        .list(&format!("{root}b/"), Some(&format!("{root}b/a")), 10)
        .await?;
    let keys: Vec<&str> = middle.objects.iter().map(|object| object.key.as_str()).collect();
    if keys != [format!("{root}b/b")] {
        return Ok(ListVerdict::Wrong {
            seen: "prefix and start of a listing are not kept".to_string(),
        });
    }
    Ok(ListVerdict::Sorted)
}

async fn first_page_is_sorted(store: &dyn ObjectStore, root: &str) -> Result<bool, StoreError> {
    let page = store.list(root, None, 1000).await?;
    Ok(page.objects.is_sorted_by(|a, b| a.key < b.key))
}

async fn list_paged(store: &dyn ObjectStore, root: &str, limit: usize) -> Result<Vec<String>, StoreError> {
    let mut keys: Vec<String> = Vec::new();
    let mut after: Option<String> = None;
    // A store that never ends must not keep us.
    while keys.len() <= 2 * LIST_KEYS.len() {
        let page = store.list(root, after.as_deref(), limit).await?;
        keys.extend(page.objects.into_iter().map(|object| object.key));
        after = keys.last().cloned();
        if !page.truncated {
            break;
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirStore, MemoryStore};

    #[tokio::test]
    async fn the_own_stores_are_fit_and_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn ObjectStore>; 2] =
            [Box::new(MemoryStore::new()), Box::new(DirStore::open(dir.path()))];
        for store in stores {
            store.establish().await.unwrap();
            let report = probe(store.as_ref()).await.unwrap();
            assert!(report.is_fit(), "{report}");
            assert!(report.clock_ahead_s.unwrap().abs() < 60);
            assert!(store.list("", None, 10).await.unwrap().objects.is_empty());
        }
    }

    #[test]
    fn every_fault_is_a_problem() {
        let good = ProbeReport {
            create: CreateVerdict::Atomic,
            list: ListVerdict::Sorted,
            stale_read: None,
            clock_ahead_s: None,
        };
        assert!(good.is_fit());
        for create in [
            CreateVerdict::Ignored,
            CreateVerdict::Racy { winners: 2 },
            CreateVerdict::Inconsistent { seen: "x".into() },
            CreateVerdict::Refused { reason: "x".into() },
        ] {
            assert!(
                !ProbeReport {
                    create,
                    ..good.clone()
                }
                .is_fit()
            );
        }
        assert!(
            !ProbeReport {
                list: ListVerdict::Wrong { seen: "x".into() },
                ..good.clone()
            }
            .is_fit()
        );
        assert!(
            !ProbeReport {
                stale_read: Some("x".into()),
                ..good
            }
            .is_fit()
        );
    }
}
