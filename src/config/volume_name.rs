//! `VOLUME` and `VOLUME:/path` on the command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::places::Environment;
use crate::model::{GivenPath, NameError, show};
use crate::store::{StoreUrl, StoreUrlError, VolumeUrl, check_volume_name, split_volume_path};

/// Why a text names no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeNameError {
    /// Not a name, not a URL.
    #[error(transparent)]
    Url(#[from] StoreUrlError),
    /// The variable is set to something else.
    #[error("SAILVOL_STORE: {0}")]
    Store(StoreUrlError),
    /// No store and no home directory.
    #[error(
        "no store: set SAILVOL_STORE to a URL such as s3://bucket/prefix, or HOME for a store in your data directory"
    )]
    NoStore,
    /// The part behind `VOLUME:`.
    #[error("\"{path}\" is no path inside a volume: {reason}")]
    BadPath {
        /// What was typed.
        path: String,
        /// The rule.
        reason: NameError,
    },
}

/// The store that bare names are looked up in.
///
/// # Errors
/// Neither `SAILVOL_STORE` nor a home directory, or the variable is no store's URL.
pub fn default_store(environment: &Environment) -> Result<StoreUrl, VolumeNameError> {
    match &environment.store {
        Some(text) => StoreUrl::parse(text).map_err(VolumeNameError::Store),
        None => environment
            .default_store_dir()
            .map(StoreUrl::Dir)
            .ok_or(VolumeNameError::NoStore),
    }
}

/// Reads `VOLUME`: a URL or a bare name.
///
/// # Errors
/// See [`VolumeNameError`].
pub fn parse_volume(text: &str, environment: &Environment) -> Result<VolumeUrl, VolumeNameError> {
    if StoreUrl::is_url(text) {
        return Ok(VolumeUrl::parse(text)?);
    }
    check_volume_name(text)?;
    Ok(VolumeUrl::in_store(default_store(environment)?, text)?)
}

/// `VOLUME:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePath {
    /// The volume.
    pub volume: VolumeUrl,
    /// The path in it, as it was given.
    pub path: GivenPath,
}

impl VolumePath {
    /// True when a text has the form `VOLUME:/path` rather than that of a local path: `:/` follows a bare name or a URL.
    /// A local path with that in it can be written `./a:/b`.
    pub fn looks_like(text: &OsStr) -> bool {
        let (text, _) = text_and_rest(text);
        let (volume, path) = split_volume_path(text);
        (path.is_some() || text.ends_with(':'))
            && (StoreUrl::is_url(volume) || check_volume_name(volume.trim_end_matches(':')).is_ok())
    }

    /// Reads `VOLUME:/path`; `VOLUME:` and `VOLUME` alone are the root.
    ///
    /// # Errors
    /// See [`VolumeNameError`].
    pub fn parse(given: &OsStr, environment: &Environment) -> Result<VolumePath, VolumeNameError> {
        let (text, rest) = text_and_rest(given);
        let (volume, path) = split_volume_path(text);
        if path.is_none() && !rest.is_empty() {
            // Only paths may be other bytes than text.
            return Err(StoreUrlError::Name {
                name: show(given.as_bytes()),
            }
            .into());
        }
        let volume = if path.is_none() {
            volume.trim_end_matches(':')
        } else {
            volume
        };
        let path = [path.unwrap_or("").as_bytes(), rest].concat();
        let bad = |reason| VolumeNameError::BadPath {
            path: show(&path),
            reason,
        };
        Ok(VolumePath {
            volume: parse_volume(volume, environment)?,
            path: GivenPath::parse(&path).map_err(bad)?,
        })
    }
}

/// The part up to the first byte that is no text, and what comes then.
fn text_and_rest(given: &OsStr) -> (&str, &[u8]) {
    let bytes = given.as_bytes();
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    (text, &bytes[text.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let store = "s3://team/volumes?endpoint=http://127.0.0.1:9000".to_owned();
        Environment {
            store: Some(store),
            ..Environment::default()
        }
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_store() {
        let volume = parse_volume("datasets", &environment()).unwrap();
        assert_eq!(
            volume.to_string(),
            "s3://team/volumes/datasets?endpoint=http://127.0.0.1:9000"
        );
        let at_home = Environment {
            is_root: true,
            ..Environment::default()
        };
        assert_eq!(
            parse_volume("v", &at_home).unwrap().to_string(),
            "file:///var/lib/sailvol/volumes/v"
        );
        assert_eq!(
            parse_volume("v", &Environment::default()),
            Err(VolumeNameError::NoStore)
        );
    }

    #[test]
    fn paths_in_volumes_are_found_behind_the_right_colon() {
        let parsed = |text: &str| {
            let v = VolumePath::parse(OsStr::new(text), &environment()).unwrap();
            (v.volume.name, v.path.meant().to_string())
        };
        assert_eq!(parsed("datasets:/a/b"), ("datasets".into(), "/a/b".into()));
        assert_eq!(parsed("datasets:"), ("datasets".into(), "/".into()));
        assert_eq!(parsed("datasets"), ("datasets".into(), "/".into()));
        assert_eq!(
            parsed("s3://bucket/p/name?endpoint=http://127.0.0.1:9000:/x/y"),
            ("name".into(), "/x/y".into())
        );
        assert_eq!(
            parsed("file:///srv/volumes/name:/x"),
            ("name".into(), "/x".into())
        );
        let looks_like = |text: &str| VolumePath::looks_like(OsStr::new(text));
        assert!(looks_like("datasets:/a") && looks_like("s3://bucket/n:/p"));
        assert!(!looks_like("plain") && !looks_like("./a:/b"));
        let raw = OsStr::from_bytes(b"datasets:/caf\xe9/x:/y");
        let parsed = VolumePath::parse(raw, &environment()).unwrap();
        assert_eq!(parsed.path.meant().to_bytes(), b"caf\xe9/x:/y");
        assert!(VolumePath::parse(OsStr::from_bytes(b"caf\xe9:/x"), &environment()).is_err());
    }

    #[test]
    fn a_wrong_store_in_the_environment_is_named_as_such() {
        let environment = Environment {
            store: Some("nonsense".into()),
            ..Environment::default()
        };
        let text = parse_volume("v", &environment).unwrap_err().to_string();
        assert!(text.starts_with("SAILVOL_STORE"), "{text}");
    }
}
