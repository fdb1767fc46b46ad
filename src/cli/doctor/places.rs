//! The three directories of this machine.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Check, Status};
use crate::cli::context::Context;
use crate::config::format_bytes;

/// statfs(2) magic numbers.
const OVERLAY_FS: i64 = 0x794c_7630;
const TMP_FS: i64 = 0x0102_1994;
const NFS: i64 = 0x6969;

/// Less free space than this deserves a word, bytes.
const STATE_FREE_MIN: u64 = 1 << 30;
/// The same for clean bytes.
const CACHE_FREE_MIN: u64 = 4 << 30;

/// State, cache and runtime directory.
pub fn checks(context: &Context) -> Vec<Check> {
    match context.places() {
        Err(failure) => {
            let fix = "set HOME, or SAILVOL_STATE_DIR and SAILVOL_CACHE_DIR";
            vec![Check::fail("directories", failure.message, fix)]
        }
        Ok(places) => vec![
            check("state directory", &places.state, Use::State),
            check("cache directory", &places.cache, Use::Cache),
            check("runtime directory", &places.runtime, Use::Runtime),
        ],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    State,
    Cache,
    Runtime,
}

impl Use {
    fn option(self) -> &'static str {
        match self {
            Use::State => "--state-dir or SAILVOL_STATE_DIR",
            Use::Cache => "--cache-dir or SAILVOL_CACHE_DIR",
            Use::Runtime => "--runtime-dir or SAILVOL_RUNTIME_DIR",
        }
    }
}

fn check(name: &'static str, dir: &Path, used_for: Use) -> Check {
    let shown = dir.display();
    let elsewhere = format!("name another one with {}", used_for.option());
    let Some(there) = nearest(dir) else {
        return Check::fail(name, format!("{shown}: no part of this path exists"), elsewhere);
    };
    let missing = there != dir;
    if let Err(error) = try_writing(&there) {
        let what = if missing {
            format!("{shown} cannot be created in {}", there.display())
        } else {
            shown.to_string()
        };
        return Check::fail(name, format!("{what}: {error}"), elsewhere);
    }
    let uid = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(&there).map_or(uid, |metadata| metadata.uid());
    if !missing && owner != uid {
        let text = format!("{shown} belongs to user {owner}, not to {uid}");
        return Check::fail(name, text, format!("chown {uid} {shown}, or {elsewhere}"));
    }
    let free = free_bytes(&there);
    let mut check = Check::ok(name, describe(dir, missing, free));
    if let Some((what, fix)) = weakness(used_for, file_system(&there), free) {
        check.status = Status::Warn;
        check.detail = format!("{}: {what}", check.detail);
        check.fix = Some(format!("{fix}: {elsewhere}"));
    }
    check
}

fn describe(dir: &Path, missing: bool, free: Option<u64>) -> String {
    let will = if missing { " (will be created)" } else { "" };
    let free = free
        .map(|bytes| format!(", {} free", format_bytes(bytes)))
        .unwrap_or_default();
    format!("{}{will}{free}", dir.display())
}

/// What speaks against a place, and what to use instead.
fn weakness(used_for: Use, kind: Option<i64>, free: Option<u64>) -> Option<(&'static str, &'static str)> {
    let little = |least| free.is_some_and(|free| free < least);
    match (used_for, kind) {
        (Use::State, Some(OVERLAY_FS)) => Some((
            "on the container's own layer; uncommitted changes are lost with the container",
            "use a volume that outlives it",
        )),
        (Use::State, Some(TMP_FS)) => Some((
            "in memory; uncommitted changes are lost when the machine restarts",
            "use a disk",
        )),
        (Use::Cache, Some(TMP_FS)) => Some(("in memory, which it will fill", "use a disk")),
        (Use::State | Use::Cache, Some(NFS)) => Some((
            "on a network file system: slow, and locks may fail",
            "use a local disk",
        )),
        (Use::State, _) if little(STATE_FREE_MIN) => {
            Some(("little space for changes", "make room, or use a larger disk"))
        }
        (Use::Cache, _) if little(CACHE_FREE_MIN) => {
            Some(("little space for the cache", "make room, or use a larger disk"))
        }
        _ => None,
    }
}

/// The directory, or the first one above it that is there.
fn nearest(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned)
}

fn try_writing(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".sailvol-doctor-{}", std::process::id()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(&probe)
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(dir).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the width of the field differs between machines"
)]
fn file_system(dir: &Path) -> Option<i64> {
    rustix::fs::statfs(dir).ok().map(|found| found.f_type as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_judged_by_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("a/b");
        assert_eq!(nearest(&wanted).as_deref(), Some(dir.path()));
        let found = check("state directory", &wanted, Use::State);
        assert_ne!(found.status, Status::Fail, "{found:?}");
        assert!(found.detail.contains("will be created"), "{found:?}");
        assert!(!wanted.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn places_that_do_not_last_are_named() {
        let lots = Some(1 << 40);
        assert!(weakness(Use::State, Some(OVERLAY_FS), lots).is_some());
        assert!(weakness(Use::State, Some(TMP_FS), lots).is_some());
        assert!(weakness(Use::Runtime, Some(TMP_FS), Some(0)).is_none());
        assert!(weakness(Use::Cache, Some(OVERLAY_FS), lots).is_none());
        assert!(weakness(Use::Cache, Some(0xef53), Some(1)).is_some());
        assert!(weakness(Use::State, Some(0xef53), lots).is_none());
    }
}
