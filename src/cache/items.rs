//! Nodes and small contents: out of pack windows, verified at every use.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::packs::{Gap, ItemState, Packs, Window, WindowWait};
use super::remote::damaged;
use super::space::charge;
use super::stats::count;
use super::{ATTEMPTS_MAX, Cache, PieceKey};
use crate::format::limits::PACK_BYTES_MAX;
use crate::format::{Corrupt, Node, decode_blob, decode_node};
use crate::model::{BlobRef, Hash, PackRef, Ptr};
use crate::tree::TreeError;

/// Blobs up to this many bytes are decoded where they are asked for: some 100 us, cheaper than a change of threads and
/// never a wait.
const INLINE_BYTES_MAX: u64 = 256 << 10;
/// A decoded node takes about this many times its raw length in memory.
const NODE_MEMORY_FACTOR: u64 = 3;
/// What a decoded node takes besides, bytes.
const NODE_MEMORY_BASE: u64 = 512;

impl Cache {
    /// A node that is not in memory.
    pub(super) async fn fetch_node(self: &Arc<Self>, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        let (pack, range) = (ptr.pack, item_range(ptr.offset, ptr.stored_len));
        let node = self
            .verified(pack, range, |stored, key| decode_node(stored, ptr, key))
            .await?;
        let node = Arc::new(node);
        let weight = u64::from(ptr.raw_len) * NODE_MEMORY_FACTOR + NODE_MEMORY_BASE;
        self.nodes.lock().insert(*ptr, node.clone(), weight);
        Ok(node)
    }

    /// A blob, all of it.
    pub(super) async fn fetch_blob(
        self: &Arc<Self>,
        blob: &BlobRef,
        raw_len: u64,
    ) -> Result<Bytes, TreeError> {
        if let Some(bytes) = self.pieces.lock().get(&PieceKey::Blob(blob.id)) {
            count(&self.remote.counters.hits);
            return right_length(blob, raw_len, bytes);
        }
        let range = item_range(blob.offset, blob.stored_len);
        let id = blob.id;
        let bytes = match raw_len {
            0..=INLINE_BYTES_MAX => {
                self.verified(blob.pack, range, |stored, key| {
                    decode_blob(stored, raw_len, &id, key)
                })
                .await?
            }
            _ => self.verified_aside(blob.pack, range, raw_len, id).await?,
        };
        Ok(self.keep_blob(id, bytes))
    }

    /// A blob that is in memory, or small and in a window on disk.
    pub(super) fn blob_local(&self, blob: &BlobRef, raw_len: u64) -> Option<Bytes> {
        if let Some(bytes) = self.pieces.lock().get(&PieceKey::Blob(blob.id)) {
            return right_length(blob, raw_len, bytes).ok();
        }
        if raw_len > INLINE_BYTES_MAX {
            return None;
        }
        let range = item_range(blob.offset, blob.stored_len);
        let window = self.packs.on_disk(&self.disk, blob.pack, &range)?;
        if let Some(gap) = self.packs.ahead(&self.disk, blob.pack, &range) {
            self.shared().fetch_gaps(blob.pack, [gap]);
        }
        let stored = window.read(&self.disk, &range).ok()?;
        let plain = decode_blob(&stored, raw_len, &blob.id, "").ok()?;
        Some(self.keep_blob(blob.id, plain))
    }

    /// True when a blob can be had without the store, as far as one can tell without reading it.
    pub(super) fn has_blob(&self, blob: &BlobRef) -> bool {
        let range = item_range(blob.offset, blob.stored_len);
        self.pieces.lock().get(&PieceKey::Blob(blob.id)).is_some()
            || self.packs.on_disk(&self.disk, blob.pack, &range).is_some()
    }

    fn keep_blob(&self, id: Hash, plain: Vec<u8>) -> Bytes {
        let bytes = Bytes::from(plain);
        self.pieces
            .lock()
            .insert(PieceKey::Blob(id), bytes.clone(), bytes.len() as u64 + 128);
        bytes
    }

    /// Decodes a large blob on a blocking thread.
    async fn verified_aside(
        self: &Arc<Self>,
        pack: PackRef,
        range: Range<u64>,
        raw_len: u64,
        id: Hash,
    ) -> Result<Vec<u8>, TreeError> {
        let mut again = false;
        loop {
            let (stored, window) = self.item(pack, range.clone()).await?;
            let key = self.pack_key(pack);
            let decoding = move || decode_blob(&stored, raw_len, &id, &key);
            let decoded = tokio::task::spawn_blocking(decoding).await.map_err(given_up)?;
            match self.judge(pack, &range, window, decoded, &mut again).await {
                Some(result) => return result,
                None => continue,
            }
        }
    }

    /// An item, decoded and verified by `decode`; one that fails is fetched once more.
    async fn verified<T>(
        self: &Arc<Self>,
        pack: PackRef,
        range: Range<u64>,
        decode: impl Fn(&[u8], &str) -> Result<T, Corrupt> + Send + Sync,
    ) -> Result<T, TreeError> {
        let mut again = false;
        loop {
            let (stored, window) = self.item(pack, range.clone()).await?;
            let decoded = decode(&stored, &self.pack_key(pack));
            match self.judge(pack, &range, window, decoded, &mut again).await {
                Some(result) => return result,
                None => continue,
            }
        }
    }

    /// What to do with a decoded item: give it out, look again without the window that it came from, or fail.
    async fn judge<T>(
        self: &Arc<Self>,
        pack: PackRef,
        range: &Range<u64>,
        window: Option<Arc<Window>>,
        decoded: Result<T, Corrupt>,
        again: &mut bool,
    ) -> Option<Result<T, TreeError>> {
        let corrupt = match decoded {
            Ok(item) => return Some(Ok(item)),
            Err(corrupt) => corrupt,
        };
        let from_disk = window.is_some();
        self.packs.reject(pack, range);
        let window = window.or_else(|| self.packs.on_disk(&self.disk, pack, range));
        if let Some(window) = window {
            self.discard_window(window, from_disk).await;
        }
        if std::mem::replace(again, true) && !from_disk {
            let rule = format!("item at byte {}: {}", range.start, corrupt.rule);
            return Some(Err(damaged(&self.pack_key(pack), rule)));
        }
        None
    }

    async fn discard_window(self: &Arc<Self>, window: Arc<Window>, local_damage: bool) {
        if local_damage {
            count(&self.remote.counters.local_damage);
            tracing::warn!(pack = %window.pack.id, "a cached window is damaged; fetching it again");
        }
        let this = self.clone();
        let discarding = tokio::task::spawn_blocking(move || this.packs.discard(&this.disk, &window));
        discarding.await.unwrap_or_default();
    }

    /// The stored bytes of an item, not verified, and the window on disk that they came from.
    async fn item(
        self: &Arc<Self>,
        pack: PackRef,
        range: Range<u64>,
    ) -> Result<(Bytes, Option<Arc<Window>>), TreeError> {
        if pack.is_local() || pack.is_open() {
            return Err(damaged(
                &self.pack_key(pack),
                "a pack that was never uploaded is asked of the store",
            ));
        }
        if range.is_empty() || range.end > PACK_BYTES_MAX {
            return Err(damaged(
                &self.pack_key(pack),
                format!("no item can be at {range:?}"),
            ));
        }
        for _ in 0..ATTEMPTS_MAX {
            let (sender, wait) = watch::channel(None);
            let (state, gaps) = self.packs.claim(&self.disk, pack, &range, &wait);
            if let ItemState::Fetch(window, number) = &state {
                let claim = self.window_claim(pack, window.clone(), *number, true);
                self.runtime.spawn(claim.fetch(sender));
            }
            // After it: nobody waits for these.
            self.fetch_gaps(pack, gaps);
            let (wait, start) = match state {
                ItemState::OnDisk(window) => {
                    let (this, from, wanted) = (self.clone(), window.clone(), range.clone());
                    let reading = tokio::task::spawn_blocking(move || from.read(&this.disk, &wanted));
                    match reading.await.map_err(given_up)? {
                        Ok(bytes) => {
                            count(&self.remote.counters.hits);
                            return Ok((bytes, Some(window)));
                        }
                        Err(_) => self.discard_window(window, true).await,
                    }
                    continue;
                }
                ItemState::Fetching(wait, start) => (wait, start),
                ItemState::Fetch(window, _) => (wait, window.start),
            };
            if let Some(found) = self.slice(pack, wait, start, &range).await? {
                return Ok((found, None));
            }
        }
        Err(given_up("the fetch was given up again and again"))
    }

    /// Fetches windows that nobody waits for yet.
    fn fetch_gaps(self: &Arc<Self>, pack: PackRef, gaps: impl IntoIterator<Item = Gap>) {
        for gap in gaps {
            let claim = self.window_claim(pack, gap.range, gap.number, false);
            self.runtime.spawn(claim.fetch(gap.sender));
        }
    }

    fn window_claim(
        self: &Arc<Self>,
        pack: PackRef,
        range: Range<u64>,
        number: u64,
        needed: bool,
    ) -> WindowClaim {
        WindowClaim {
            cache: self.clone(),
            pack,
            range,
            number,
            needed,
            begun: Instant::now(),
        }
    }

    /// Waits for a window and takes an item out; `None`: its fetch was given up.
    async fn slice(
        &self,
        pack: PackRef,
        mut wait: WindowWait,
        start: u64,
        item: &Range<u64>,
    ) -> Result<Option<Bytes>, TreeError> {
        count(&self.remote.counters.misses);
        let Ok(arrived) = wait.wait_for(Option::is_some).await.map(|value| value.clone()) else {
            return Ok(None);
        };
        let Some(window) = arrived.transpose()? else {
            return Ok(None);
        };
        let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
        let (from, to) = (at(item.start), at(item.end));
        if to > window.len() {
            return Err(damaged(
                &self.pack_key(pack),
                format!("ends before the item at {item:?}"),
            ));
        }
        Ok(Some(window.slice(from..to)))
    }

    /// Keeps the bytes of a pack that was just uploaded, so that nobody has to fetch what we have sent.
    pub async fn insert_pack(&self, pack: &PackRef, bytes: &Bytes) {
        let this = self.shared();
        let Some(room) = this.reserve(charge(bytes.len() as u64, 1)).await else {
            return;
        };
        let (pack, bytes) = (*pack, bytes.clone());
        let keeping =
            tokio::task::spawn_blocking(move || this.packs.keep(&this.disk, (pack, 0, None), &bytes, room));
        if let Ok(Err(e)) = keeping.await {
            tracing::debug!(error = %e, "an uploaded pack is not kept");
        }
    }
}

/// The task that fetches a window; dropping it ends the claim, so nobody waits for what does not come.
struct WindowClaim {
    cache: Arc<Cache>,
    pack: PackRef,
    range: Range<u64>,
    number: u64,
    /// Somebody waits for a part of it. What nobody waits for is fetched only if it can be kept.
    needed: bool,
    begun: Instant,
}

impl WindowClaim {
    async fn fetch(self, sender: watch::Sender<Option<Result<Bytes, TreeError>>>) {
        let cache = self.cache.clone();
        let len = self.range.end - self.range.start;
        let _memory = cache.remote.memory(len).await;
        let room = cache.reserve(charge(len, 1)).await;
        // The flight itself has a receiver.
        if room.is_none() && !self.needed && sender.receiver_count() <= 1 {
            return;
        }
        let (bytes, object_len) = match cache
            .remote
            .get(&cache.pack_key(self.pack), self.range.clone(), self.begun)
            .await
        {
            Ok(fetched) => fetched,
            Err(e) => {
                drop(self);
                sender.send_replace(Some(Err(e)));
                return;
            }
        };
        let rest = cache.packs.learned(&cache.disk, self.pack, object_len);
        cache.fetch_gaps(self.pack, rest);
        sender.send_replace(Some(Ok(bytes.clone())));
        let Some(room) = room else {
            return count(&cache.remote.counters.unkept);
        };
        let place = (self.pack, self.range.start, Some(self.number));
        let keeper = cache.clone();
        let keeping = move || keeper.packs.keep(&keeper.disk, place, &bytes, room);
        if let Ok(Err(e)) = tokio::task::spawn_blocking(keeping).await {
            count(&cache.remote.counters.unkept);
            tracing::warn!(error = %e, "cannot keep fetched bytes in the cache");
        }
    }
}

impl Drop for WindowClaim {
    fn drop(&mut self) {
        let packs: &Packs = &self.cache.packs;
        packs.unclaim(self.pack, self.number);
    }
}

fn item_range(offset: u64, stored_len: u32) -> Range<u64> {
    offset..offset.saturating_add(u64::from(stored_len))
}

fn right_length(blob: &BlobRef, raw_len: u64, bytes: Bytes) -> Result<Bytes, TreeError> {
    if bytes.len() as u64 == raw_len {
        return Ok(bytes);
    }
    let rule = format!("has {} bytes where {raw_len} are named", bytes.len());
    Err(damaged(&format!("blob {}", blob.id), rule))
}

/// "The task that worked on this ended without an answer", which only the end of the process brings about.
pub(super) fn given_up(reason: impl std::fmt::Display) -> TreeError {
    TreeError::Unreachable {
        reason: reason.to_string(),
    }
}
