//! What a commit remembers of its uploads.

#[path = "../../../../src/commit/ledger.rs"]
mod ledger;

/// Reads a ledger; gives the number of chunks and blobs that it names.
pub fn arrived(bytes: &[u8]) -> (usize, usize) {
    let arrived = ledger::Arrived::parse(bytes, |epoch| epoch % 2 == 1);
    assert!(arrived.chunks.values().all(|epoch| epoch % 2 == 1));
    (arrived.chunks.len(), arrived.blobs.len())
}
