//! Where a mount keeps its files on this machine.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The environment variables that sailvol reads for places, taken once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Effective uid is 0.
    pub is_root: bool,
    /// Real uid, for `/tmp/sailvol-<uid>`.
    pub uid: u32,
    /// `SAILVOL_STORE`.
    pub store: Option<String>,
    /// `SAILVOL_STATE_DIR`.
    pub state_dir: Option<PathBuf>,
    /// `SAILVOL_CACHE_DIR`.
    pub cache_dir: Option<PathBuf>,
    /// `SAILVOL_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    pub(super) home: Option<PathBuf>,
    pub(super) xdg_state: Option<PathBuf>,
    pub(super) xdg_cache: Option<PathBuf>,
    pub(super) xdg_runtime: Option<PathBuf>,
    pub(super) xdg_data: Option<PathBuf>,
}

impl Environment {
    /// Reads the process environment.
    pub fn read() -> Environment {
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let absolute = |name: &str| path(name).filter(|p| p.is_absolute());
        Environment {
            is_root: rustix::process::geteuid().is_root(),
            uid: rustix::process::getuid().as_raw(),
            store: std::env::var("SAILVOL_STORE").ok().filter(|v| !v.is_empty()),
            state_dir: path("SAILVOL_STATE_DIR"),
            cache_dir: path("SAILVOL_CACHE_DIR"),
            runtime_dir: path("SAILVOL_RUNTIME_DIR"),
            home: absolute("HOME"),
            xdg_state: absolute("XDG_STATE_HOME"),
            xdg_cache: absolute("XDG_CACHE_HOME"),
            xdg_runtime: absolute("XDG_RUNTIME_DIR"),
            xdg_data: absolute("XDG_DATA_HOME"),
        }
    }

    /// Where volumes live when no store is named: the user's data directory.
    pub fn default_store_dir(&self) -> Option<PathBuf> {
        if self.is_root && self.xdg_data.is_none() {
            return Some("/var/lib/sailvol/volumes".into());
        }
        let data = self
            .xdg_data
            .clone()
            .or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(data.join("sailvol/volumes"))
    }

    fn default_state_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/lib/sailvol".into());
        }
        let base = self
            .xdg_state
            .clone()
            .or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(base.join("sailvol"))
    }

    fn default_cache_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/cache/sailvol".into());
        }
        let base = self
            .xdg_cache
            .clone()
            .or_else(|| Some(self.home.as_ref()?.join(".cache")))?;
        Some(base.join("sailvol"))
    }

    fn default_runtime_dir(&self) -> PathBuf {
        if self.is_root {
            return "/run/sailvol".into();
        }
        match &self.xdg_runtime {
            Some(dir) => dir.join("sailvol"),
            None => PathBuf::from(format!("/tmp/sailvol-{}", self.uid)),
        }
    }
}

/// What the command line says about places.
#[derive(Clone, Debug, Default)]
pub struct PlaceOptions {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--cache-dir`.
    pub cache_dir: Option<PathBuf>,
    /// `--runtime-dir`.
    pub runtime_dir: Option<PathBuf>,
}

/// A place cannot be decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot tell where to keep the {what}: HOME is not set; name a directory with {option}")]
pub struct PlaceError {
    what: &'static str,
    option: &'static str,
}

/// Roots of the three directories; each mount has its own below them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Dirty work: must survive.
    pub state: PathBuf,
    /// Clean bytes: may be deleted at any time.
    pub cache: PathBuf,
    /// Sockets.
    pub runtime: PathBuf,
}

impl Places {
    /// Command line before environment before the defaults of systemd (root) or XDG (others).
    ///
    /// # Errors
    /// Without a home directory and without an explicit place there is no default.
    pub fn resolve(options: &PlaceOptions, environment: &Environment) -> Result<Places, PlaceError> {
        let state = options
            .state_dir
            .clone()
            .or_else(|| environment.state_dir.clone())
            .or_else(|| environment.default_state_dir())
            .ok_or(PlaceError {
                what: "state",
                option: "--state-dir",
            })?;
        let cache = options
            .cache_dir
            .clone()
            .or_else(|| environment.cache_dir.clone())
            .or_else(|| environment.default_cache_dir())
            .ok_or(PlaceError {
                what: "cache",
                option: "--cache-dir",
            })?;
        let runtime = options
            .runtime_dir
            .clone()
            .or_else(|| environment.runtime_dir.clone())
            .unwrap_or_else(|| environment.default_runtime_dir());
        Ok(Places {
            state: absolute(state),
            cache: absolute(cache),
            runtime: absolute(runtime),
        })
    }

    /// Runtime directories in which a socket may be found: the resolved one, the user's own, root's.
    pub fn runtime_search(&self, environment: &Environment) -> Vec<PathBuf> {
        let mut dirs = vec![self.runtime.clone()];
        for dir in [environment.default_runtime_dir(), "/run/sailvol".into()] {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The name of a mount by its directory, escaped as systemd escapes paths (systemd.unit(5)): `/` becomes `-`, other
/// bytes than letters, digits, `:`, `_` and `.` become `\xNN`.
pub fn escape_mount_dir(dir: &Path) -> OsString {
    let bytes = dir.as_os_str().as_bytes();
    let parts: Vec<&[u8]> = bytes.split(|&b| b == b'/').filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        return "-".into();
    }
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push('-');
        }
        for (at, &byte) in part.iter().enumerate() {
            let plain = byte.is_ascii_alphanumeric()
                || b":_".contains(&byte)
                || (byte == b'.' && (index, at) != (0, 0));
            if plain {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }
    out.into()
}

/// Longest name of a mount, bytes: it names directories, and files with something before and behind it.
pub const MOUNT_NAME_BYTES_MAX: usize = 200;

/// The name of a mount that was given none: its directory escaped; one that is too long is cut, and told apart by its hash.
pub fn default_mount_name(dir: &Path) -> String {
    let name = escape_mount_dir(dir).to_string_lossy().into_owned();
    if name.len() <= MOUNT_NAME_BYTES_MAX {
        return name;
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let end = name.floor_char_boundary(MOUNT_NAME_BYTES_MAX - 17);
    format!("{}~{}", &name[..end], &hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_deep_directories_are_short_and_differ() {
        let name =
            |last: char| default_mount_name(Path::new(&format!("/mnt/{}{last}", "deep-er/".repeat(60))));
        assert_eq!(name('a').len(), MOUNT_NAME_BYTES_MAX);
        assert_ne!(name('a'), name('b'));
        assert_eq!(default_mount_name(Path::new("/mnt/b/")), "mnt-b");
    }

    #[test]
    fn mount_names_are_escaped_as_systemd_does() {
        for (dir, name) in [
            ("/shared", "shared"),
            ("/mnt/b/", "mnt-b"),
            ("/mnt/a-b", "mnt-a\\x2db"),
            ("/.hidden/x.y", "\\x2ehidden-x.y"),
            ("/", "-"),
        ] {
            assert_eq!(escape_mount_dir(Path::new(dir)), OsString::from(name), "{dir}");
        }
    }

    #[test]
    fn options_win_over_environment_over_defaults() {
        let environment = Environment {
            is_root: true,
            state_dir: Some("/e/state".into()),
            cache_dir: Some("/e/cache".into()),
            ..Environment::default()
        };
        let options = PlaceOptions {
            state_dir: Some("/o/state".into()),
            ..PlaceOptions::default()
        };
        let places = Places::resolve(&options, &environment).unwrap();
        assert_eq!(places.state, PathBuf::from("/o/state"));
        assert_eq!(places.cache, PathBuf::from("/e/cache"));
        assert_eq!(places.runtime, PathBuf::from("/run/sailvol"));
    }

    #[test]
    fn without_a_home_the_missing_option_is_named() {
        let error = Places::resolve(&PlaceOptions::default(), &Environment::default()).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
