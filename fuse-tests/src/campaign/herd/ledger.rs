//! What every record holds, worked out from what each commit changed: on different paths both stay, on the same path the
//! later one wins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::alarm::Alarm;
use super::tree::{Changes, Tree};

/// How long a record may lack its commit's answer: until the mount that made it, which may have been killed, has found out.
const SETTLE_TIME: Duration = Duration::from_secs(300);

/// One commit that is in the log.
#[derive(Clone)]
pub struct Published {
    /// The mount.
    pub by: usize,
    /// Its message, which no other commit has.
    pub message: String,
    /// What the mount's base held.
    pub base: Arc<Tree>,
    /// What it changed.
    pub changes: Changes,
    /// Paths that it was told to have overwritten; `None` if there was no answer.
    pub overwrote: Option<Vec<String>>,
}

#[derive(Default)]
struct Inner {
    trees: BTreeMap<u64, Arc<Tree>>,
    published: BTreeMap<u64, Published>,
}

/// All records.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Ledger {
    /// Begins with a record.
    pub fn begin(&self, seq: u64, tree: Arc<Tree>) {
        self.inner.lock().trees.insert(seq, tree);
    }

    /// A commit is this record.
    ///
    /// # Errors
    /// Another commit is it too.
    pub fn publish(&self, seq: u64, commit: Published) -> Result<(), String> {
        let mut inner = self.inner.lock();
        if let Some(other) = inner.published.get(&seq) {
            return Err(format!(
                "record {seq} is {} of mount {}, and {} of mount {} too",
                other.message, other.by, commit.message, commit.by
            ));
        }
        inner.published.insert(seq, commit);
        while let Some((newest, tree)) = inner.trees.last_key_value().map(|(n, t)| (*n, t.clone()))
            && let Some(next) = inner.published.get(&(newest + 1))
        {
            let tree = Arc::new(tree.with(&next.changes));
            inner.trees.insert(newest + 1, tree);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// What a record holds; waits until every commit up to it is known.
    ///
    /// # Errors
    /// The campaign has failed meanwhile, or a record belongs to no commit.
    pub fn tree(&self, seq: u64, alarm: &Alarm) -> Result<Arc<Tree>, String> {
        let mut inner = self.inner.lock();
        let deadline = Instant::now() + SETTLE_TIME;
        loop {
            if let Some(tree) = inner.trees.get(&seq) {
                return Ok(tree.clone());
            }
            let newest = inner.trees.keys().last().copied().unwrap_or_default();
            if alarm.is_set() {
                return Err("ended".to_owned());
            }
            if seq <= newest || Instant::now() > deadline {
                return Err(format!("record {seq}: of no commit is record {}", newest + 1));
            }
            self.changed.wait_for(&mut inner, Duration::from_millis(200));
        }
    }

    /// Every commit by its record, and the first record.
    pub fn all(&self) -> BTreeMap<u64, Published> {
        self.inner.lock().published.clone()
    }

    /// Numbers from the first record to the newest that is known.
    pub fn span(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let first = inner.trees.keys().next().copied().unwrap_or_default();
        (first, inner.trees.keys().last().copied().unwrap_or_default())
    }
}

/// Paths of the head that a commit changed although its mount had seen something else there.
pub fn unseen(commit: &Published, head: &Tree) -> Vec<String> {
    let differs = |(place, node): &(&super::tree::Place, &Option<super::content::Node>)| {
        let is = head.get(place);
        is != commit.base.get(place) && is != **node
    };
    let places = commit.changes.iter().filter(differs);
    places.map(|(place, _)| place.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::content::{Node, Tag};
    use super::super::tree::Place;
    use super::*;

    #[test]
    fn records_are_worked_out_in_their_order_whenever_the_answers_come() {
        let (ledger, alarm) = (Ledger::default(), Alarm::default());
        let base = Arc::new(Tree::empty());
        ledger.begin(2, base.clone());
        let place = Place::new("", "f");
        let file = |n| Some(Node::File(Tag::new(1, n, 8)));
        let commit = |n: u64| Published {
            by: 1,
            message: n.to_string(),
            base: base.clone(),
            changes: [(place.clone(), file(n))].into(),
            overwrote: None,
        };
        ledger.publish(4, commit(4)).unwrap();
        ledger.publish(3, commit(3)).unwrap();
        assert!(ledger.publish(3, commit(5)).is_err());
        assert_eq!(ledger.tree(3, &alarm).unwrap().get(&place), file(3));
        assert_eq!(ledger.tree(4, &alarm).unwrap().get(&place), file(4));
        let head = ledger.tree(3, &alarm).unwrap();
        assert_eq!(unseen(&commit(4), &head), ["f"]);
        assert!(unseen(&commit(3), &base).is_empty());
    }
}
