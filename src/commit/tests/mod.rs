//! Commits against a scripted store.

mod concurrent;
mod cost;
mod crash;
mod edits;
mod gc_model;
mod mount;
mod roundtrip;
