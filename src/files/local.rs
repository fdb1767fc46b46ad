//! Paths of this machine, and its randomness.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::answer::{Failure, FailureKind};
use crate::model::Name;

/// The name that a local path's last component has in a volume.
///
/// # Errors
/// Names that no volume can hold.
pub fn volume_name(text: &OsStr, local: &Path) -> Result<Name, Failure> {
    let bad = |e| Failure::new(FailureKind::Refused, format!("{}: {e}", local.display()));
    Name::new(text.as_bytes()).map_err(bad)
}

/// What the system said about a local path.
pub fn local_failure(local: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::of_io(error), format!("{}: {error}", local.display()))
}

/// Random bytes for identifiers.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    let failed = |e| Failure::new(FailureKind::Failed, format!("no randomness: {e}"));
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
