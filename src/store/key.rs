//! Which keys, ranges and limits the port accepts: the same for every adapter, so that what works against one works
//! against all.

use std::ops::Range;

use super::StoreError;

/// Longest key, bytes. S3 allows 1,024 with the configured prefix in front.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest part of a key between slashes, bytes: a file name of a directory store.
const KEY_PART_BYTES_MAX: usize = 200;
/// Longest object, or part of one, that is read into memory at once, bytes: four times the largest chunk or pack. What
/// claims to be longer is none of ours.
pub(super) const READ_BYTES_MAX: u64 = 256 << 20;
/// Most objects of one page of a listing: what S3 answers.
pub const LIST_LIMIT_MAX: usize = 1000;

fn broken(key: &str, reason: &str) -> StoreError {
    StoreError::Broken {
        key: key.to_string(),
        reason: reason.to_string(),
    }
}

fn legal_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Refuses what could not be a file name in a directory store, escape from its root, or meet its temporary files: a
/// part that is empty, longer than 200 bytes, begins with a dot, or has other bytes than `[A-Za-z0-9._-]`.
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(broken(key, "key is too long"));
    }
    for part in key.split('/') {
        if part.is_empty() || part.starts_with('.') || part.len() > KEY_PART_BYTES_MAX {
            return Err(broken(key, "illegal key"));
        }
        if !part.bytes().all(legal_byte) {
            return Err(broken(key, "illegal byte in key"));
        }
    }
    Ok(())
}

/// A prefix is the beginning of a legal key, or empty; `start_after` may be any string of its bytes.
pub(super) fn check_list(prefix: &str, start_after: Option<&str>, limit: usize) -> Result<(), StoreError> {
    for text in [prefix, start_after.unwrap_or("")] {
        if text.len() > KEY_BYTES_MAX || !text.bytes().all(|byte| byte == b'/' || legal_byte(byte)) {
            return Err(broken(text, "illegal prefix or start of a listing"));
        }
    }
    if prefix.split('/').any(|part| part.starts_with('.')) || prefix.starts_with('/') || prefix.contains("//")
    {
        return Err(broken(prefix, "illegal prefix of a listing"));
    }
    if limit == 0 || limit > LIST_LIMIT_MAX {
        return Err(broken(prefix, "a listing asks for 1 to 1,000 objects"));
    }
    Ok(())
}

/// An empty range cannot be asked of S3, so nobody may ask it.
pub(super) fn check_range(key: &str, range: &Option<Range<u64>>) -> Result<(), StoreError> {
    match range {
        Some(range) if range.start >= range.end => Err(broken(key, "empty range")),
        _ => Ok(()),
    }
}

/// The part of an object of `len` bytes that a range means: cut at the end; [`StoreError::Broken`] when it begins there
/// or later, or is longer than [`READ_BYTES_MAX`].
pub(super) fn clip(key: &str, range: Option<Range<u64>>, len: u64) -> Result<Range<u64>, StoreError> {
    let range = match range {
        None => 0..len,
        Some(range) if range.start >= len => {
            let reason = format!("range begins at {} but the object has {len} bytes", range.start);
            return Err(broken(key, &reason));
        }
        Some(range) => range.start..range.end.min(len),
    };
    check_read_len(key, range.end - range.start)?;
    Ok(range)
}

/// Refuses what is too long to be read into memory: asked before there is any for it.
pub(super) fn check_read_len(key: &str, bytes: u64) -> Result<(), StoreError> {
    if bytes > READ_BYTES_MAX {
        let reason = format!("{bytes} bytes are too long to be read at once: no object of a volume is");
        return Err(broken(key, &reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_a_directory_are_refused() {
        for key in [
            "", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a/.b", "a b", "ä", "a\\b", "a\0",
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in [
            "a",
            "vol.json",
            "names/My_vol-1.json",
            "p/00000001/ab/abcd",
            "a..b",
        ] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        assert!(check_key(&"a/".repeat(300)).is_err());
        assert!(check_key(&"a".repeat(201)).is_err());
    }

    #[test]
    fn ranges_are_clipped_at_the_end_and_refused_behind_it() {
        assert_eq!(clip("k", Some(2..9), 5).unwrap(), 2..5);
        assert_eq!(clip("k", None, 5).unwrap(), 0..5);
        assert!(matches!(clip("k", Some(5..6), 5), Err(StoreError::Broken { .. })));
        assert!(check_range("k", &Some(3..3)).is_err());
        assert_eq!(clip("k", None, READ_BYTES_MAX).unwrap(), 0..READ_BYTES_MAX);
        for range in [None, Some(1..u64::MAX)] {
            let error = clip("k", range, 1 << 40).unwrap_err();
            assert!(matches!(error, StoreError::Broken { .. }), "{error}");
        }
    }
}
