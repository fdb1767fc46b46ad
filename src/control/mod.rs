#![doc = include_str!("PROTOCOL.md")]

mod address;
mod client;
mod peer;
mod protocol;
mod registry;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, greeting};
pub use peer::Access;
pub use protocol::{Hello, PROTOCOL, REQUEST_BYTES_MAX, Request, UnmountAnswer, UnmountRequest};
pub use registry::{
    MountRecord, RegistryError, find_mount, list_mounts, record_path, recorded_mounts, resolved_path,
    socket_path,
};
pub use server::{Drain, Server, Service};
