//! Names as they are shown, and back.
//!
//! A name is any bytes; what is shown of it is text on one line that no terminal takes for a command, and from which the
//! bytes come back exactly:
//!
//! 1. Text is shown as it is. Bytes that are no UTF-8, and those of control characters and of characters that turn or
//!    break a line, are shown as `\xNN`, two hexadecimal digits.
//! 2. A backslash is shown as it is, unless `x` and two hexadecimal digits follow it: then as `\x5c`.
//! 3. So each `\xNN` in what is shown stands for that byte, everything else for itself.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::{Name, NameError, VolPath};

/// Writes bytes as they are shown.
pub(super) fn write_shown(f: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    let mut at = 0;
    for part in bytes.utf8_chunks() {
        for letter in part.valid().chars() {
            let escaped = match letter {
                '\\' => byte_at(bytes, at).is_some(),
                letter => is_hidden(letter),
            };
            if escaped {
                write_escaped(f, letter.encode_utf8(&mut [0; 4]).as_bytes())?;
            } else {
                f.write_char(letter)?;
            }
            at += letter.len_utf8();
        }
        write_escaped(f, part.invalid())?;
        at += part.invalid().len();
    }
    Ok(())
}

fn write_escaped(f: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// Characters that are not to be seen, or change how others look: controls, line ends, overrides of the writing direction,
/// and those that are no characters.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fdd0}'..='\u{fdef}')
}

/// The byte that `\xNN` at a place stands for.
fn byte_at(text: &[u8], at: usize) -> Option<u8> {
    let [b'\\', b'x', high, low] = text.get(at..at + 4)? else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Bytes as they are shown.
pub fn show(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    // Writing to a string cannot fail.
    let _ = write_shown(&mut out, bytes);
    out
}

/// The bytes of which this is shown; bytes that are never shown stand for themselves.
pub fn unshow(shown: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(shown.len());
    let mut at = 0;
    while at < shown.len() {
        match byte_at(shown, at) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(shown[at]);
                at += 1;
            }
        }
    }
    out
}

/// A path inside a volume as somebody gave it: the bytes of its names, or what is shown of them.
///
/// What is shown wins, so that each path that the program prints can be given back to it. A name that really has `\xNN` in
/// it is found by its bytes too, unless there is one of which they are what is shown.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GivenPath(Vec<GivenName>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenName {
    /// Taken as what is shown.
    meant: Name,
    /// Taken as bytes, where that is another name.
    bytes: Option<Name>,
}

impl GivenPath {
    /// Reads `a/b/c` as [`VolPath::parse`] does.
    ///
    /// # Errors
    /// As there.
    pub fn parse(given: &[u8]) -> Result<GivenPath, NameError> {
        let names = VolPath::parse(given)?.0.into_iter().map(|bytes| {
            match Name::new(&unshow(bytes.as_bytes())) {
                Ok(meant) if meant != bytes => GivenName {
                    meant,
                    bytes: Some(bytes),
                },
                // What cannot be a name is not meant.
                _ => GivenName {
                    meant: bytes,
                    bytes: None,
                },
            }
        });
        Ok(GivenPath(names.collect()))
    }

    /// The path, taken as what is shown.
    pub fn meant(&self) -> VolPath {
        VolPath(self.0.iter().map(|name| name.meant.clone()).collect())
    }

    /// True when it can be taken in one way only.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|name| name.bytes.is_none())
    }

    /// Its names in order: taken as what is shown, and as bytes where those differ.
    pub fn names(&self) -> impl Iterator<Item = (&Name, Option<&Name>)> {
        self.0.iter().map(|name| (&name.meant, name.bytes.as_ref()))
    }
}

/// Paths of this machine in JSON, which has no bytes: as they are shown. For `#[serde(with = "...")]`.
pub mod shown_path {
    use super::{Path, PathBuf, show, unshow};
    use serde::{Deserialize, Deserializer, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    /// Writes a path.
    ///
    /// # Errors
    /// What the serializer says.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show(path.as_os_str().as_bytes()))
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is no text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let shown = String::deserialize(deserializer)?;
        Ok(OsString::from_vec(unshow(shown.as_bytes())).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_shown_is_readable_and_safe() {
        for (bytes, shown) in [
            (&b"plain"[..], "plain"),
            ("\u{fc} \u{1f600}".as_bytes(), "\u{fc} \u{1f600}"),
            (b"caf\xe9", "caf\\xe9"),
            (b"new\nline\ttab", "new\\x0aline\\x09tab"),
            (b"esc\x1b[31m", "esc\\x1b[31m"),
            (b"back\\slash", "back\\slash"),
            (b"a\\xffb", "a\\x5cxffb"),
            (b"\\\xff", "\\\\xff"),
            ("\u{9b}\u{202e}".as_bytes(), "\\xc2\\x9b\\xe2\\x80\\xae"),
        ] {
            assert_eq!(show(bytes), shown);
            assert_eq!(unshow(shown.as_bytes()), bytes);
        }
    }

    #[test]
    fn a_path_is_taken_as_what_is_shown_or_as_bytes() {
        let given = |text: &[u8]| {
            let path = GivenPath::parse(text).unwrap();
            let meant = path.meant().to_bytes();
            (meant, path.is_plain())
        };
        assert_eq!(given(b"/a/caf\xe9"), (b"a/caf\xe9".to_vec(), true));
        assert_eq!(given(b"/a/caf\\xe9"), (b"a/caf\xe9".to_vec(), false));
        assert_eq!(given(b"/a\\x5cxe9"), (b"a\\xe9".to_vec(), false));
        // No name: neither a slash nor a parent is hidden in it.
        assert_eq!(given(b"/a\\x2fb"), (b"a\\x2fb".to_vec(), true));
        assert_eq!(given(b"/\\x2e\\x2e/b"), (b"\\x2e\\x2e/b".to_vec(), true));
        assert!(GivenPath::parse(b"/../x").is_err());
    }

    /// Backslashes, digits and pieces of escapes more often than chance would have them.
    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|letter| letter.to_string().into_bytes()),
            prop::sample::select(vec![
                "\\", "\\x", "x", "5c", "\\x5c", "ff", "\\xFF", "\\xe", "\u{202e}"
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_bytes_come_back_exactly(bytes in tricky()) {
            let shown = show(&bytes);
            prop_assert_eq!(unshow(shown.as_bytes()), bytes);
            prop_assert!(!shown.chars().any(is_hidden));
        }

        #[test]
        fn two_names_are_never_shown_alike(one in tricky(), other in tricky()) {
            prop_assert_eq!(show(&one) == show(&other), one == other);
        }
    }
}
