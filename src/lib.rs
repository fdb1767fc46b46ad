//! sailvol: a shared, committable volume over an object store, mounted through FUSE.
//!
//! The layers, bottom up; a module uses only those above it in this list, and siblings never meet
//! (`fuse-tests/tests/layers.rs` checks it):

// Values: names and paths, entries and attributes, contents. No I/O, clock, locks or async.
pub mod model;

// The bytes of the remote volume, with their specification; bounded decoders.
pub mod format;

// The object-store port and its adapters: S3, a directory, memory.
pub mod store;

// The tree over nodes: lookup, list, edit and partition, diff, merge.
pub mod tree;

// One remote volume: create, open, head, log, leases, publish.
pub mod volume;

// Clean bytes on local disk: nodes and contents; safe to delete at any time.
pub mod cache;

// Dirty names and bytes: journal, bodies, stash, recovery. Must survive.
pub mod overlay;

// The tree that a process sees: base plus overlay, over the cache. No fuser type in it.
pub mod view;

// Freeze, upload, publish.
pub mod commit;

// What is told: failures with their exit codes, answers, events. Values, and nothing that does anything.
pub mod answer;

// One volume without a mount and without a terminal: list, read, import, export, copy, remove.
pub mod files;

// One live mount: orders commit, reload, stash and status.
pub mod mount;

// Driver: kernel requests to the view.
pub mod fuse;

// Driver: socket requests to the mount; protocol, server and client.
pub mod control;

// What the user typed and set, resolved.
pub mod config;

// Logs.
pub mod telemetry;

// The process that serves one mount.
pub mod daemon;

// One file per command.
pub mod cli;
