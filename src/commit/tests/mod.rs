//! Commits against a scripted store.

mod concurrent;
mod cost;
mod crash;
mod edits;
mod mount;
mod roundtrip;
