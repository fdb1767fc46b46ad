//! What a file holds: bytes that say by themselves which write they are of, so that any reader can check them whole.

use std::fmt;

/// Spreads the tag over the bytes; odd, so that no two words of a file repeat soon.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bits of a tag that hold the length.
const LEN_BITS: u32 = 24;

/// One write of one file: who, which, how long. All bytes follow from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

impl Tag {
    /// Shortest content, bytes: the tag itself.
    pub const LEN_MIN: usize = 8;

    /// The write of this number by this writer (below 256), with this length (from [`Tag::LEN_MIN`] to below 16 MiB).
    pub fn new(writer: u64, number: u64, len: usize) -> Tag {
        let len = (len.max(Tag::LEN_MIN) as u64) & ((1 << LEN_BITS) - 1);
        Tag((writer << 56) | ((number & 0xffff_ffff) << LEN_BITS) | len)
    }

    /// Bytes of the file.
    pub fn len(self) -> usize {
        (self.0 & ((1 << LEN_BITS) - 1)) as usize
    }

    /// The whole content.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() + 8);
        let mut word = self.0;
        while bytes.len() < self.len() {
            bytes.extend_from_slice(&word.to_le_bytes());
            word = word.wrapping_mul(SPREAD).rotate_left(23) ^ self.0;
        }
        bytes.truncate(self.len());
        bytes
    }

    /// The write whose content this is.
    ///
    /// # Errors
    /// In what way it is the content of none.
    pub fn of(bytes: &[u8]) -> Result<Tag, String> {
        let Some(Ok(first)) = bytes.get(..8).map(<[u8; 8]>::try_from) else {
            return Err(format!("{} bytes, which no write leaves", bytes.len()));
        };
        let tag = Tag(u64::from_le_bytes(first));
        if tag.len() != bytes.len() {
            return Err(format!("{} bytes beginning as {tag:?}", bytes.len()));
        }
        let whole = tag.bytes();
        let Some(at) = whole.iter().zip(bytes).position(|(a, b)| a != b) else {
            return Ok(tag);
        };
        let zeros = bytes[at..].iter().take(4096).all(|byte| *byte == 0);
        let what = if zeros { "zeros" } else { "other bytes" };
        Err(format!("{tag:?}, but {what} from {at} on"))
    }

    /// As the target of a symbolic link.
    pub fn link_text(self) -> String {
        format!("tag-{:016x}", self.0)
    }

    /// The tag in a link's target.
    pub fn of_link(text: &str) -> Option<Tag> {
        let hex = text.strip_prefix("tag-")?;
        u64::from_str_radix(hex, 16).ok().map(Tag)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = (self.0 >> LEN_BITS) & 0xffff_ffff;
        write!(
            f,
            "write {number} of mount {}, {} bytes",
            self.0 >> 56,
            self.len()
        )
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory.
    Dir,
    /// A file with the content of a write.
    File(Tag),
    /// A symbolic link whose target carries the tag.
    Link(Tag),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_its_write_and_any_damage_is_seen() {
        let tag = Tag::new(3, 77, 10_001);
        let mut bytes = tag.bytes();
        assert_eq!(Tag::of(&bytes), Ok(tag));
        assert_eq!(Tag::of_link(&tag.link_text()), Some(tag));
        assert!(Tag::of(&bytes[..9_000]).is_err(), "cut");
        assert!(Tag::of(&[]).is_err(), "empty");
        bytes[8_192..].fill(0);
        assert!(Tag::of(&bytes).unwrap_err().contains("zeros from 8192"));
        let other = Tag::new(3, 78, 10_001).bytes();
        bytes.copy_from_slice(&tag.bytes());
        bytes[4_096..8_192].copy_from_slice(&other[4_096..8_192]);
        assert!(Tag::of(&bytes).unwrap_err().contains("other bytes from 4096"));
    }
}
