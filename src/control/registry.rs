//! Which mounts there are: one small file beside each socket, in a runtime directory or one level below it (each systemd
//! unit has a directory of its own there, so that the end of one takes nothing from the others).

use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address::Address;

/// Longest file beside a socket, bytes: three paths and three names.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What the file beside a socket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The mount's name.
    pub name: String,
    /// Where it is mounted.
    #[serde(with = "crate::model::shown_path")]
    pub dir: PathBuf,
    /// Name of the volume.
    pub volume: String,
    /// The store, without secrets.
    pub store: String,
    /// The daemon.
    pub pid: u32,
    /// Its socket.
    #[serde(with = "crate::model::shown_path")]
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

/// Longest mount name that its socket bears in full, bytes; socket addresses are short (unix(7)).
const SOCKET_NAME_BYTES_MAX: usize = 64;

/// The socket of a mount. A long name is cut, and told apart by its hash; the file beside the socket names both.
pub fn socket_path(runtime: &Path, name: &str) -> PathBuf {
    if name.len() <= SOCKET_NAME_BYTES_MAX {
        return runtime.join(format!("{name}.sock"));
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let cut = name.floor_char_boundary(SOCKET_NAME_BYTES_MAX - 17);
    runtime.join(format!("{}~{}.sock", &name[..cut], &hash[..16]))
}

/// The file that describes a mount.
pub fn record_path(runtime: &Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.json"))
}

impl MountRecord {
    /// Writes the file so that others may read it.
    pub fn write(&self, runtime: &Path) -> io::Result<()> {
        let temporary = runtime.join(format!(".{}.json.{}", self.name, std::process::id()));
        // A new file, never what somebody put there: the directory may be one that others can write to.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temporary)?;
        // Whatever the umask is: units have one that closes everything.
        file.set_permissions(Permissions::from_mode(0o644))?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&temporary, record_path(runtime, &self.name))
    }
}

/// All mounts whose daemon runs, sorted by directory.
pub fn list_mounts(runtime_dirs: &[PathBuf]) -> Vec<MountRecord> {
    let mut mounts = recorded_mounts(runtime_dirs);
    mounts.retain(runs);
    mounts
}

/// All mounts that are written down, sorted by directory: those too whose daemon was killed.
pub fn recorded_mounts(runtime_dirs: &[PathBuf]) -> Vec<MountRecord> {
    let mut found: Vec<MountRecord> = Vec::new();
    for dir in runtime_dirs {
        for record in records_in(dir) {
            let known = |other: &MountRecord| other.dir == record.dir && other.pid == record.pid;
            if !found.iter().any(known) {
                found.push(record);
            }
        }
    }
    found.sort_by(|a, b| a.dir.cmp(&b.dir));
    found
}

/// What the files of a runtime directory and of those directly below it say.
fn records_in(runtime: &Path) -> Vec<MountRecord> {
    // A directory that is not there, or not ours to read, holds no mount of ours.
    let paths = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut files = paths(runtime);
    let below: Vec<PathBuf> = files.iter().flat_map(|path| paths(path)).collect();
    files.extend(below);
    files.iter().filter_map(|path| read_record(path)).collect()
}

/// One record; nothing for what is none. Others may be able to put files there: it waits for none of them (a named pipe),
/// follows no symbolic link, and reads no more than a record has.
fn read_record(path: &Path) -> Option<MountRecord> {
    if path.extension()? != "json" {
        return None;
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return None;
    }
    let mut record: MountRecord = serde_json::from_slice(&bytes).ok()?;
    // Another container may see the directory under another path.
    record.socket = path.with_file_name(record.socket.file_name()?);
    Some(record)
}

/// Whether the daemon is a process here, or listens although its process cannot be seen (in another container of the
/// pod, which shares only the runtime directory).
fn runs(record: &MountRecord) -> bool {
    let listens =
        || Address::of(&record.socket).is_ok_and(|address| UnixStream::connect(address.path()).is_ok());
    Path::new("/proc").join(record.pid.to_string()).exists() || listens()
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
        let clean = resolved_path(dir, |path| mounts.iter().any(|mount| mount.dir == path));
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

/// Symbolic links that are followed in one path, as the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The path without symbolic links and dots, as far as that can be told without asking a mount anything, which may not
/// answer: at the directory of one (`is_mount`) it ends, and what follows is taken as it is written. (readlink(2) of a
/// directory that something is mounted on does not ask what is mounted.)
pub fn resolved_path(path: &Path, is_mount: impl Fn(&Path) -> bool) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut left: Vec<OsString> = parts(&absolute);
    let mut links = 0;
    let mut done = PathBuf::from("/");
    let mut in_mount = false;
    while let Some(part) = left.pop() {
        if part == ".." {
            done.pop();
            in_mount = done.ancestors().any(&is_mount);
            continue;
        }
        let next = done.join(&part);
        in_mount = in_mount || is_mount(&next);
        // Not even that of what is in a mount.
        let target = (!in_mount && links < LINKS_MAX).then(|| std::fs::read_link(&next).ok());
        match target.flatten() {
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            None => done = next,
        }
    }
    done
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<OsString> = named.collect();
    parts.reverse();
    parts
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
    fn a_daemon_that_only_its_socket_shows_is_found_where_the_directory_is() {
        let runtime = tempfile::tempdir().unwrap();
        let unit = runtime.path().join("unit");
        std::fs::create_dir(&unit).unwrap();
        record("a", "/no-such/a", u32::MAX - 1).write(&unit).unwrap();
        let dirs = [runtime.path().to_path_buf()];
        assert_eq!(list_mounts(&dirs), []);
        let listens = std::os::unix::net::UnixListener::bind(socket_path(&unit, "a")).unwrap();
        let found = list_mounts(&dirs);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].socket, unit.join("a.sock"));
        drop(listens);
        assert_eq!(list_mounts(&dirs), []);
    }

    #[test]
    fn sockets_of_long_names_are_short_and_differ() {
        let name = |last: char| format!("{}{last}", "\u{e4}".repeat(99));
        let path = |name: &str| socket_path(Path::new("/run/sailvol"), name);
        assert!(path(&name('a')).as_os_str().len() <= 107);
        assert_ne!(path(&name('a')), path(&name('b')));
        assert_eq!(path("shared"), Path::new("/run/sailvol/shared.sock"));
    }

    #[test]
    fn planted_files_are_neither_followed_nor_waited_for() {
        use std::os::unix::fs::symlink;
        let runtime = tempfile::tempdir().unwrap();
        let victim = runtime.path().join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        let temporary = format!(".a.json.{}", std::process::id());
        symlink(&victim, runtime.path().join(temporary)).unwrap();
        record("a", "/no-such/a", std::process::id())
            .write(runtime.path())
            .unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            runtime.path().join("pipe.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        symlink("a.json", runtime.path().join("link.json")).unwrap();
        std::fs::create_dir(runtime.path().join("dir.json")).unwrap();
        let sparse = std::fs::File::create(runtime.path().join("long.json")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let found = list_mounts(&[runtime.path().to_path_buf()]);
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["a"]);
    }

    /// Chains of links, absolute and relative, over directories and into a mount; against what the kernel says where
    /// nothing is a mount.
    #[test]
    fn links_are_followed_up_to_a_mount_and_not_into_it() {
        use std::os::unix::fs::symlink;
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("real/sub/deep")).unwrap();
        symlink("real", top.join("link")).unwrap();
        symlink(top.join("link"), top.join("again")).unwrap();
        symlink("../../again/sub", top.join("real/sub/up")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        let nowhere = |_: &Path| false;
        for path in [
            "link",
            "again",
            "again/sub",
            "real/sub/up",
            "real/sub/up/deep",
            "again/../link/./sub//deep/",
        ] {
            let path = top.join(path);
            assert_eq!(
                resolved_path(&path, nowhere),
                path.canonicalize().unwrap(),
                "{path:?}"
            );
        }
        assert_eq!(
            resolved_path(&top.join("link/new/name"), nowhere),
            top.join("real/new/name")
        );
        assert_eq!(resolved_path(&top.join("loop/x"), nowhere), top.join("loop/x"));
        // In a mount nothing is read.
        let mount = top.join("real");
        let at = |path: &str| resolved_path(&top.join(path), |dir| dir == mount);
        assert_eq!(at("again/sub/up/x"), mount.join("sub/up/x"));
        assert_eq!(at("again/sub/../../link"), mount);
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
