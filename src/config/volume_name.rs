//! `VOLUME` and `VOLUME:/path` on the command line.

use super::places::Environment;
use crate::model::{NameError, VolPath};

/// Why a text names no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeNameError {
    /// The name has characters that no volume has.
    #[error(
        "{0:?} is no volume name: use 1 to 100 letters, digits, '.', '_' and '-' (beginning with a letter or digit), \
         or a URL such as s3://bucket/prefix/name or file:///dir/name"
    )]
    BadName(String),
    /// A URL without a volume name.
    #[error(
        "{0:?} does not name a volume: its last part must be the volume's name, as in s3://bucket/prefix/name"
    )]
    NoName(String),
    /// No store and no home directory.
    #[error(
        "no store: set SAILVOL_STORE to a URL such as s3://bucket/prefix, or HOME for a store in your data directory"
    )]
    NoStore,
    /// Not a URL that a store has.
    #[error("{url:?} is no store: {reason}")]
    BadUrl {
        /// What was typed.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The part behind `VOLUME:`.
    #[error("{path:?} is no path inside a volume: {reason}")]
    BadPath {
        /// What was typed.
        path: String,
        /// The rule.
        reason: NameError,
    },
    /// `VOLUME:/path` was expected.
    #[error("{0:?} names no file of a volume: write VOLUME:/path")]
    NoPath(String),
}

/// A volume in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeName {
    /// URL of the store (bucket and prefix, or directory), parameters included.
    pub store_url: String,
    /// Name of the volume in it.
    pub name: String,
}

/// The store that bare names are looked up in.
///
/// # Errors
/// Neither `SAILVOL_STORE` nor a home directory.
pub fn default_store_url(environment: &Environment) -> Result<String, VolumeNameError> {
    if let Some(url) = &environment.store {
        check_url(url)?;
        return Ok(url.clone());
    }
    let dir = environment.default_store_dir().ok_or(VolumeNameError::NoStore)?;
    let url = url::Url::from_directory_path(&dir).map_err(|()| VolumeNameError::NoStore)?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn check_url(text: &str) -> Result<url::Url, VolumeNameError> {
    let bad = |reason: String| VolumeNameError::BadUrl {
        url: text.to_owned(),
        reason,
    };
    let url =
        url::Url::parse(text).map_err(|e| bad(format!("{e}; write s3://bucket/prefix or file:///dir")))?;
    match url.scheme() {
        "s3" if url.host_str().is_none_or(str::is_empty) => Err(bad("it names no bucket".into())),
        "s3" | "file" => Ok(url),
        other => Err(bad(format!(
            "{other}:// is not known; stores are s3:// and file://"
        ))),
    }
}

impl VolumeName {
    /// Reads a URL or a bare name.
    ///
    /// # Errors
    /// See [`VolumeNameError`].
    pub fn parse(text: &str, environment: &Environment) -> Result<VolumeName, VolumeNameError> {
        if !text.contains("://") {
            check_name(text)?;
            return Ok(VolumeName {
                store_url: default_store_url(environment)?,
                name: text.to_owned(),
            });
        }
        let mut url = check_url(text)?;
        let path = url.path().trim_end_matches('/').to_owned();
        let (dir, name) = path
            .rsplit_once('/')
            .ok_or_else(|| VolumeNameError::NoName(text.to_owned()))?;
        if name.is_empty() {
            return Err(VolumeNameError::NoName(text.to_owned()));
        }
        check_name(name)?;
        url.set_path(dir);
        Ok(VolumeName {
            store_url: url.to_string(),
            name: name.to_owned(),
        })
    }
}

fn check_name(name: &str) -> Result<(), VolumeNameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() <= 100 && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(VolumeNameError::BadName(name.to_owned()))
    }
}

/// `VOLUME:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePath {
    /// The volume.
    pub volume: VolumeName,
    /// The path in it.
    pub path: VolPath,
}

impl VolumePath {
    /// True when a text has the form `VOLUME:/path` rather than that of a local path: a colon follows a bare name or a
    /// URL. A local path with a colon can be written `./a:b`.
    pub fn looks_like(text: &str) -> bool {
        split(text).is_some_and(|(volume, _)| volume.contains("://") || check_name(volume).is_ok())
    }

    /// Reads `VOLUME:/path`; `VOLUME:` and `VOLUME` alone are the root.
    ///
    /// # Errors
    /// See [`VolumeNameError`].
    pub fn parse(text: &str, environment: &Environment) -> Result<VolumePath, VolumeNameError> {
        let (volume, path) = split(text).unwrap_or((text, ""));
        let bad = |reason| VolumeNameError::BadPath {
            path: path.to_owned(),
            reason,
        };
        Ok(VolumePath {
            volume: VolumeName::parse(volume, environment)?,
            path: VolPath::parse(path.as_bytes()).map_err(bad)?,
        })
    }
}

/// Cuts at the colon that ends the volume: not the one of `://`, nor one of a port or a query.
fn split(text: &str) -> Option<(&str, &str)> {
    let from = text.find("://").map_or(0, |at| at + 3);
    let tail = &text[from..];
    let at = if from == 0 {
        tail.find(':')?
    } else {
        // In a URL the path part begins at ":/" that follows a "/" (an authority's port is never followed by one
        // before the first slash; a query's endpoint=http://host:port is followed by "//").
        let mut search = 0;
        loop {
            let found = search + tail[search..].find(":/")?;
            let is_scheme = tail[found..].starts_with("://");
            if !is_scheme && tail[..found].contains('/') {
                break found;
            }
            search = found + 2;
        }
    };
    Some((&text[..from + at], &tail[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            store: Some("s3://team/volumes?endpoint=http://127.0.0.1:9000".into()),
            ..Environment::default()
        }
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_store() {
        let volume = VolumeName::parse("datasets", &environment()).unwrap();
        assert_eq!(
            volume.store_url,
            "s3://team/volumes?endpoint=http://127.0.0.1:9000"
        );
        assert_eq!(volume.name, "datasets");
    }

    #[test]
    fn a_url_carries_its_own_store() {
        let volume = VolumeName::parse("s3://b/p/q/name?region=x", &environment()).unwrap();
        assert_eq!(
            (volume.store_url.as_str(), volume.name.as_str()),
            ("s3://b/p/q?region=x", "name")
        );
        let volume = VolumeName::parse("file:///srv/volumes/name", &environment()).unwrap();
        assert_eq!(
            (volume.store_url.as_str(), volume.name.as_str()),
            ("file:///srv/volumes", "name")
        );
        let volume = VolumeName::parse("s3://b/name", &environment()).unwrap();
        assert_eq!(
            (volume.store_url.as_str(), volume.name.as_str()),
            ("s3://b", "name")
        );
    }

    #[test]
    fn paths_in_volumes_are_found_behind_the_right_colon() {
        let parsed = |text: &str| {
            let v = VolumePath::parse(text, &environment()).unwrap();
            (v.volume.name, v.path.to_string())
        };
        assert_eq!(parsed("datasets:/a/b"), ("datasets".into(), "/a/b".into()));
        assert_eq!(parsed("datasets:a"), ("datasets".into(), "/a".into()));
        assert_eq!(parsed("datasets"), ("datasets".into(), "/".into()));
        assert_eq!(
            parsed("s3://b/p/name?endpoint=http://127.0.0.1:9000:/x/y"),
            ("name".into(), "/x/y".into())
        );
        assert_eq!(
            parsed("file:///srv/volumes/name:/x"),
            ("name".into(), "/x".into())
        );
        assert!(VolumePath::looks_like("datasets:/a") && !VolumePath::looks_like("./a:b"));
        assert!(!VolumePath::looks_like("plain") && VolumePath::looks_like("s3://b/n:/p"));
    }

    #[test]
    fn what_names_no_volume_is_refused_with_advice() {
        for bad in ["", "a/b", "-x", "s3://", "s3://bucket", "ftp://x/y", "a b"] {
            let error = VolumeName::parse(bad, &environment()).unwrap_err().to_string();
            assert!(
                error.contains("s3://") || error.contains("stores are"),
                "{bad}: {error}"
            );
        }
    }
}
