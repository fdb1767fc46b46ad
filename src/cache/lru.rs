//! A map that forgets what was used longest ago once its weight is over a bound.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Least-recently-used map bounded by weight. The newest value always stays, so one that is heavier than the bound
/// is kept until the next one comes.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    values: HashMap<K, Slot<V>>,
    order: BTreeMap<u64, K>,
    tick: u64,
    weight: u64,
    weight_max: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    weight: u64,
    tick: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    /// An empty map that may weigh `weight_max`.
    pub fn new(weight_max: u64) -> Lru<K, V> {
        Lru {
            values: HashMap::new(),
            order: BTreeMap::new(),
            tick: 0,
            weight: 0,
            weight_max,
        }
    }

    /// The value, which becomes the newest.
    pub fn get(&mut self, key: &K) -> Option<V> {
        let slot = self.values.get_mut(key)?;
        self.tick += 1;
        if let Some(key) = self.order.remove(&slot.tick) {
            self.order.insert(self.tick, key);
        }
        slot.tick = self.tick;
        Some(slot.value.clone())
    }

    /// Puts a value in, as the newest.
    pub fn insert(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        self.tick += 1;
        self.order.insert(self.tick, key.clone());
        self.weight += weight;
        let tick = self.tick;
        self.values.insert(key, Slot { value, weight, tick });
        while self.weight > self.weight_max && self.values.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(slot) = self.values.remove(&oldest) {
                self.weight -= slot.weight;
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) {
        if let Some(slot) = self.values.remove(key) {
            self.order.remove(&slot.tick);
            self.weight -= slot.weight;
        }
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.values.clear();
        self.order.clear();
        self.weight = 0;
    }

    /// Weight of all values.
    pub fn weight(&self) -> u64 {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_and_never_the_newest() {
        let mut lru = Lru::new(10);
        for key in 0..5 {
            lru.insert(key, key, 2);
        }
        assert_eq!(lru.get(&0), Some(0));
        lru.insert(5, 5, 2);
        assert_eq!((lru.get(&1), lru.get(&0), lru.weight()), (None, Some(0), 10));
        lru.insert(6, 6, 100);
        assert_eq!((lru.get(&6), lru.get(&0), lru.weight()), (Some(6), None, 100));
        lru.insert(7, 7, 1);
        assert_eq!((lru.get(&6), lru.weight()), (None, 1));
        lru.insert(7, 8, 3);
        assert_eq!((lru.get(&7), lru.weight()), (Some(8), 3));
        lru.remove(&7);
        assert_eq!(lru.weight(), 0);
    }
}
