//! Names of directory entries and paths inside a volume.

use std::fmt;

/// Longest name, bytes (as on Linux filesystems).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target, bytes (PATH_MAX without its NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Deepest path, directories (SPEC.md 14).
pub const PATH_DEPTH_MAX: usize = 1024;

/// Why bytes cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name must not be empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("a name must not be longer than 255 bytes")]
    TooLong,
    /// `.`, `..`, or a name with `/` or NUL.
    #[error("a name must not be \".\" or \"..\" nor contain \"/\" or NUL")]
    Forbidden,
}

/// A valid name of a directory entry: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. Ordered by bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks the bytes.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        Name::check(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// The rule alone.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b if b.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
            b"." | b".." => Err(NameError::Forbidden),
            b if b.iter().any(|&c| c == b'/' || c == 0) => Err(NameError::Forbidden),
            _ => Ok(()),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    /// As it is shown: [`super::unshow`] gives the bytes back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::shown::write_shown(f, &self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path inside a volume; empty is the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VolPath(pub Vec<Name>);

impl VolPath {
    /// The root directory.
    pub const fn root() -> VolPath {
        VolPath(Vec::new())
    }

    /// Reads `a/b/c`, with or without slashes in front, behind or doubled; `.` components are dropped.
    ///
    /// # Errors
    /// A component that is no name, `..` among them: a volume path is never relative to anything.
    pub fn parse(bytes: &[u8]) -> Result<VolPath, NameError> {
        bytes
            .split(|&c| c == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .map(Name::new)
            .collect::<Result<_, _>>()
            .map(VolPath)
    }

    /// This path with one more component.
    pub fn join(&self, name: &Name) -> VolPath {
        let mut names = Vec::with_capacity(self.0.len() + 1);
        names.extend_from_slice(&self.0);
        names.push(name.clone());
        VolPath(names)
    }

    /// Directory and last component; `None` for the root.
    pub fn split_last(&self) -> Option<(VolPath, &Name)> {
        let (last, dir) = self.0.split_last()?;
        Some((VolPath(dir.to_vec()), last))
    }

    /// True for `dir` itself and everything below it.
    pub fn is_under(&self, dir: &VolPath) -> bool {
        self.0.starts_with(&dir.0)
    }

    /// The bytes with `/` between the names, without a leading one.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts: Vec<&[u8]> = self.0.iter().map(Name::as_bytes).collect();
        parts.join(&b'/')
    }
}

impl fmt::Display for VolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for name in &self.0 {
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_directory_can_hold_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"\xff\xfe", &[b'x'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn paths_ignore_extra_slashes_and_refuse_dotdot() {
        assert_eq!(VolPath::parse(b"//a/./b/").unwrap().to_string(), "/a/b");
        assert_eq!(VolPath::parse(b"/").unwrap(), VolPath::root());
        assert_eq!(VolPath::parse(b"a/../b"), Err(NameError::Forbidden));
    }

    #[test]
    fn display_escapes_what_is_not_text() {
        assert_eq!(Name::new(b"a\xffb\n").unwrap().to_string(), "a\\xffb\\x0a");
    }
}
