//! Which mounts there are: one small file beside each socket.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the file beside a socket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The mount's name.
    pub name: String,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Name of the volume.
    pub volume: String,
    /// The store, without secrets.
    pub store: String,
    /// The daemon.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
}

/// A mount cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The named directory is in no mount.
    #[error("{dir} is not in a sailvol mount{known}")]
    NotMounted {
        /// What was named.
        dir: PathBuf,
        /// The mounts there are, for the message.
        known: String,
    },
    /// None was named, and the current directory is in none.
    #[error("no mount: {0}")]
    NoneNamed(String),
}

/// The socket of a mount.
pub fn socket_path(runtime: &Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.sock"))
}

/// The file that describes a mount.
pub fn record_path(runtime: &Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.json"))
}

impl MountRecord {
    /// Writes the file so that others may read it.
    pub fn write(&self, runtime: &Path) -> io::Result<()> {
        let temporary = runtime.join(format!(".{}.json.{}", self.name, std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&temporary, record_path(runtime, &self.name))
    }
}

/// All mounts whose daemon answers to a look at its process, sorted by directory.
pub fn list_mounts(runtime_dirs: &[PathBuf]) -> Vec<MountRecord> {
    let mut found: Vec<MountRecord> = Vec::new();
    for dir in runtime_dirs {
        // A runtime directory that is not there, or not ours to read, holds no mount of ours.
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let Ok(record) = serde_json::from_slice::<MountRecord>(&bytes) else {
                continue;
            };
            let alive = Path::new("/proc").join(record.pid.to_string()).exists();
            if alive
                && !found
                    .iter()
                    .any(|other| other.dir == record.dir && other.pid == record.pid)
            {
                found.push(record);
            }
        }
    }
    found.sort_by(|a, b| a.dir.cmp(&b.dir));
    found
}

/// The mount that contains `named` (or the current directory), or the only one when none is named.
///
/// Paths are compared without touching the mount, so that a mount whose daemon hangs can still be found.
///
/// # Errors
/// See [`RegistryError`].
pub fn find_mount(runtime_dirs: &[PathBuf], named: Option<&Path>) -> Result<MountRecord, RegistryError> {
    let mounts = list_mounts(runtime_dirs);
    let containing = |dir: &Path| {
        mounts
            .iter()
            .filter(|m| dir.starts_with(&m.dir))
            .max_by_key(|m| m.dir.as_os_str().len())
            .cloned()
    };
    let names = || {
        mounts
            .iter()
            .map(|m| m.dir.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(dir) = named {
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        let clean = clean_path(&absolute);
        return containing(&clean).ok_or_else(|| RegistryError::NotMounted {
            dir: clean,
            known: match mounts.len() {
                0 => "; nothing is mounted (or its runtime directory is elsewhere: --runtime-dir)".into(),
                _ => format!("; mounted: {}", names()),
            },
        });
    }
    if let Some(found) = std::env::current_dir().ok().and_then(|dir| containing(&dir)) {
        return Ok(found);
    }
    match mounts.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(RegistryError::NoneNamed(
            "nothing is mounted; see `sailvol mount --help`".into(),
        )),
        _ => Err(RegistryError::NoneNamed(format!(
            "name one of {}, or change into it",
            names()
        ))),
    }
}

/// Resolves the symlinks of a path as far as that can be done without touching its last component, which may be a
/// mount that does not answer.
fn clean_path(path: &Path) -> PathBuf {
    let Some(name) = path.file_name() else {
        return path.to_path_buf();
    };
    match path.parent().map(std::fs::canonicalize) {
        Some(Ok(parent)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, dir: &str, pid: u32) -> MountRecord {
        MountRecord {
            name: name.into(),
            dir: dir.into(),
            volume: "v".into(),
            store: "file:///x".into(),
            pid,
            socket: format!("/x/{name}.sock").into(),
        }
    }

    #[test]
    fn the_innermost_mount_of_a_live_daemon_is_found() {
        let runtime = tempfile::tempdir().unwrap();
        let me = std::process::id();
        record("a", "/no-such/a", me).write(runtime.path()).unwrap();
        record("ab", "/no-such/a/b", me).write(runtime.path()).unwrap();
        record("dead", "/no-such/dead", u32::MAX - 1)
            .write(runtime.path())
            .unwrap();
        let dirs = [runtime.path().to_path_buf()];
        let found = |dir: &str| find_mount(&dirs, Some(Path::new(dir))).map(|m| m.name);
        assert_eq!(found("/no-such/a/b/c").unwrap(), "ab");
        assert_eq!(found("/no-such/a/x").unwrap(), "a");
        assert!(
            found("/no-such/dead")
                .unwrap_err()
                .to_string()
                .contains("mounted: /no-such/a")
        );
        assert!(
            find_mount(&dirs, None)
                .unwrap_err()
                .to_string()
                .contains("/no-such/a, /no-such/a/b")
        );
    }
}
