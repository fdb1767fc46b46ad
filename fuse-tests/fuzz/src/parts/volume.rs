//! Errors.

#[path = "../../../../src/volume/error.rs"]
mod error;

pub use error::VolumeError;
