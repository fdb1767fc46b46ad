//! An S3 server for loopback, over crate `s3s`: real enough that the SDK speaks to it over HTTP with signed requests,
//! and able to delay, drop, fail, corrupt and reorder on demand.
//!
//! - [`objects`]: buckets and objects as files of a data directory. A body goes to a temporary file first; then the
//!   condition is checked and the file renamed under one lock, so conditional writes are truly atomic. Nothing is synced:
//!   the server stands for a remote one, and survives a kill of its clients, not a power cut.
//! - [`service`]: the S3 operations over them. ETags are opaque, checksums are not verified.
//! - [`settings`]: what can be set at start and while it runs: delays, bandwidth, keys, and [`FaultRule`]s.
//! - [`shape`]: bodies that are paced, cut, corrupted or stalled.
//! - [`front`]: HTTP, with the faults around each request, counters and the request log.
//! - [`control`]: the same settings over HTTP, below `/_s3d/`.
//! - [`server`]: starting and stopping, on threads of its own, so that a test may block its own runtime.
//!
//! Memory does not grow with the size of objects: bodies pass through in pieces.

mod control;
mod front;
mod objects;
mod server;
mod service;
mod settings;
mod shape;

pub use front::{Counters, LogEntry, VerbCounters};
pub(crate) use server::write_credentials;
pub use server::{S3d, S3dOptions};
pub use settings::{Action, Conditions, FaultRule, GatewayBody, Settings, Verb};
