//! Buckets and objects as files.
//!
//! `<data>/objects/<bucket>/<escaped key>` holds an object's bytes, `<data>/incoming/` bodies that arrive. The index in
//! memory is read from the directories at start. Concurrency: the lock on the index is what makes a condition and its
//! write one step; no I/O but rename and unlink happens under it.
//!
//! An object of a multipart upload stays the files of its parts, so that completing it costs no copy. Those, and user
//! metadata, are for other clients in benchmarks: they are known to the index only, and gone after a restart.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// Longest escaped key: a file name.
const NAME_BYTES_MAX: usize = 250;

/// Why a write or read is refused.
#[derive(Debug)]
pub(super) enum Refused {
    NoSuchBucket,
    NoSuchKey,
    ConditionFailed,
    NoSuchUpload,
    KeyTooLong,
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Io(error)
    }
}

/// The condition of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Absent,
    Etag(String),
    Present,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) len: u64,
    pub(super) etag: String,
    pub(super) modified: SystemTime,
    pub(super) metadata: Option<Arc<Metadata>>,
    /// Of a multipart upload; its bytes are these files one after the other.
    parts: Option<Arc<[Incoming]>>,
}

/// What clients keep with an object.
#[derive(Clone, Default, Debug)]
pub(super) struct Metadata {
    pub(super) content_type: Option<String>,
    pub(super) user: HashMap<String, String>,
}

/// A part of a listing.
#[derive(Clone, Debug)]
pub(super) enum Listed {
    Object(String, Object),
    /// All keys that have this in common up to the delimiter.
    Prefix(String),
}

type Bucket = BTreeMap<String, Object>;

#[derive(Debug)]
pub(super) struct Objects {
    data: PathBuf,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    uploads: Mutex<HashMap<String, Multipart>>,
    next: AtomicU64,
}

/// A body that has arrived; its file is removed unless it becomes an object.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) path: PathBuf,
}

/// Parts by number, and what the object will keep.
#[derive(Debug, Default)]
struct Multipart {
    metadata: Option<Arc<Metadata>>,
    parts: BTreeMap<i32, Incoming>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone when it became an object.
        let _ = fs::remove_file(&self.path);
    }
}

impl Objects {
    pub(super) fn open(data: PathBuf) -> io::Result<Objects> {
        let incoming = data.join("incoming");
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        fs::create_dir_all(&incoming)?;
        let root = data.join("objects");
        fs::create_dir_all(&root)?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            let mut bucket = Bucket::new();
            for file in fs::read_dir(entry.path())? {
                let file = file?;
                let stat = file.metadata()?;
                let modified = stat.modified()?;
                let since = modified
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO);
                let etag = format!("{:x}-{:x}", since.as_nanos(), stat.len());
                let key = unescape(&file.file_name().to_string_lossy());
                bucket.insert(
                    key,
                    Object {
                        len: stat.len(),
                        etag,
                        modified,
                        metadata: None,
                        parts: None,
                    },
                );
            }
            buckets.insert(entry.file_name().to_string_lossy().into_owned(), bucket);
        }
        // Later etags must differ from those of an earlier run.
        let start = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let next = AtomicU64::new(u64::try_from(start.as_nanos()).unwrap_or(0));
        Ok(Objects {
            data,
            buckets: Mutex::new(buckets),
            uploads: Mutex::default(),
            next,
        })
    }

    pub(super) fn create_bucket(&self, bucket: &str) -> Result<bool, Refused> {
        let mut buckets = self.buckets.lock();
        if buckets.contains_key(bucket) {
            return Ok(false);
        }
        fs::create_dir_all(self.data.join("objects").join(bucket))?;
        buckets.insert(bucket.to_string(), Bucket::new());
        Ok(true)
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.lock().contains_key(bucket)
    }

    /// A file for a body to arrive in.
    pub(super) fn incoming(&self) -> Incoming {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Incoming {
            path: self.data.join("incoming").join(number.to_string()),
        }
    }

    /// Whether a write would be allowed now.
    pub(super) fn check(
        &self,
        bucket: &str,
        key: &str,
        condition: Option<&Condition>,
    ) -> Result<(), Refused> {
        let buckets = self.buckets.lock();
        allowed(
            buckets.get(bucket).ok_or(Refused::NoSuchBucket)?.get(key),
            condition,
        )
    }

    /// Makes a body that has arrived an object, if its condition holds.
    pub(super) fn commit(
        &self,
        bucket: &str,
        key: &str,
        body: Incoming,
        modified: SystemTime,
        condition: Option<&Condition>,
        metadata: Option<Arc<Metadata>>,
    ) -> Result<Object, Refused> {
        let path = self.path(bucket, key)?;
        let len = fs::metadata(&body.path)?.len();
        let object = Object {
            len,
            etag: self.etag(len),
            modified,
            metadata,
            parts: None,
        };
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(Refused::NoSuchBucket)?;
        allowed(objects.get(key), condition)?;
        fs::rename(&body.path, path)?;
        objects.insert(key.to_string(), object.clone());
        Ok(object)
    }

    fn etag(&self, len: u64) -> String {
        format!("{:x}-{len:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Begins a multipart upload; its id.
    pub(super) fn begin_parts(
        &self,
        bucket: &str,
        metadata: Option<Arc<Metadata>>,
    ) -> Result<String, Refused> {
        if !self.has_bucket(bucket) {
            return Err(Refused::NoSuchBucket);
        }
        let id = self.etag(0);
        let upload = Multipart {
            metadata,
            parts: BTreeMap::new(),
        };
        self.uploads.lock().insert(id.clone(), upload);
        Ok(id)
    }

    /// Adds a part that has arrived, or replaces it.
    pub(super) fn add_part(&self, upload: &str, number: i32, body: Incoming) -> Result<(), Refused> {
        let mut uploads = self.uploads.lock();
        let upload = uploads.get_mut(upload).ok_or(Refused::NoSuchUpload)?;
        upload.parts.insert(number, body);
        Ok(())
    }

    /// Makes the parts an object.
    pub(super) fn finish_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        modified: SystemTime,
    ) -> Result<Object, Refused> {
        let upload = self.uploads.lock().remove(upload).ok_or(Refused::NoSuchUpload)?;
        let mut len = 0;
        for part in upload.parts.values() {
            len += fs::metadata(&part.path)?.len();
        }
        let object = Object {
            len,
            etag: self.etag(len),
            modified,
            metadata: upload.metadata,
            parts: Some(upload.parts.into_values().collect()),
        };
        let path = self.path(bucket, key)?;
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(Refused::NoSuchBucket)?;
        if objects
            .insert(key.to_string(), object.clone())
            .is_some_and(|old| old.parts.is_none())
        {
            fs::remove_file(path)?;
        }
        Ok(object)
    }

    /// Forgets a multipart upload.
    pub(super) fn abort_parts(&self, upload: &str) {
        self.uploads.lock().remove(upload);
    }

    pub(super) fn stat(&self, bucket: &str, key: &str) -> Result<Object, Refused> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).ok_or(Refused::NoSuchBucket)?;
        objects.get(key).cloned().ok_or(Refused::NoSuchKey)
    }

    /// The object and the files that hold its bytes as they are now; a later write does not change them.
    pub(super) fn open_object(&self, bucket: &str, key: &str) -> Result<(Object, Vec<File>), Refused> {
        let path = self.path(bucket, key)?;
        let buckets = self.buckets.lock();
        let object = buckets
            .get(bucket)
            .ok_or(Refused::NoSuchBucket)?
            .get(key)
            .ok_or(Refused::NoSuchKey)?;
        let files = match &object.parts {
            Some(parts) => parts
                .iter()
                .map(|part| File::open(&part.path))
                .collect::<io::Result<_>>()?,
            None => vec![File::open(path)?],
        };
        Ok((object.clone(), files))
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) -> Result<(), Refused> {
        let path = self.path(bucket, key)?;
        let mut buckets = self.buckets.lock();
        let deleted = buckets.get_mut(bucket).ok_or(Refused::NoSuchBucket)?.remove(key);
        if deleted.is_some_and(|object| object.parts.is_none()) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// At most `limit` objects with a prefix after a key, and whether there are more. `scrambled`: in an order that has
    /// nothing to do with the keys, in which `after` then counts too.
    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        limit: usize,
        scrambled: bool,
    ) -> Result<(Vec<(String, Object)>, bool), Refused> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).ok_or(Refused::NoSuchBucket)?;
        let of_pair = |(key, object): (&String, &Object)| (key.clone(), object.clone());
        let mut page: Vec<(String, Object)> = if scrambled {
            let mut all: Vec<_> = objects
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(of_pair)
                .collect();
            all.sort_by_key(|(key, _)| scramble(key));
            let start = match after {
                "" => 0,
                after => all.partition_point(|(key, _)| scramble(key) <= scramble(after)),
            };
            all.drain(..start);
            all.truncate(limit + 1);
            all
        } else {
            let from = if after < prefix {
                Bound::Included(prefix)
            } else {
                Bound::Excluded(after)
            };
            let range = objects.range::<str, _>((from, Bound::Unbounded));
            range
                .take_while(|(key, _)| key.starts_with(prefix))
                .take(limit + 1)
                .map(of_pair)
                .collect()
        };
        let more = page.len() > limit;
        page.truncate(limit);
        Ok((page, more))
    }

    /// The same sorted, with keys that go on after a `delimiter` behind the prefix shown as what they have in common.
    /// `after` is the last key or common prefix of the page before.
    pub(super) fn list_grouped(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        limit: usize,
        delimiter: &str,
    ) -> Result<(Vec<Listed>, bool), Refused> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).ok_or(Refused::NoSuchBucket)?;
        let mut page = Vec::new();
        let mut from = match after {
            after if after < prefix => Bound::Included(prefix.to_string()),
            after if after.ends_with(delimiter) => past(after),
            after => Bound::Excluded(after.to_string()),
        };
        loop {
            let next = objects.range::<String, _>((from, Bound::Unbounded)).next();
            let Some((key, object)) = next.filter(|(key, _)| key.starts_with(prefix)) else {
                return Ok((page, false));
            };
            if page.len() >= limit {
                return Ok((page, true));
            }
            match key[prefix.len()..].find(delimiter) {
                Some(at) => {
                    let common = &key[..prefix.len() + at + delimiter.len()];
                    from = past(common);
                    page.push(Listed::Prefix(common.to_string()));
                }
                None => {
                    from = Bound::Excluded(key.clone());
                    page.push(Listed::Object(key.clone(), object.clone()));
                }
            }
        }
    }

    fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, Refused> {
        let name = escape(key);
        if name.len() > NAME_BYTES_MAX {
            return Err(Refused::KeyTooLong);
        }
        Ok(self.data.join("objects").join(bucket).join(name))
    }
}

fn allowed(current: Option<&Object>, condition: Option<&Condition>) -> Result<(), Refused> {
    match (condition, current) {
        (None, _) | (Some(Condition::Absent), None) | (Some(Condition::Present), Some(_)) => Ok(()),
        (Some(Condition::Etag(etag)), Some(object)) if *etag == object.etag => Ok(()),
        (Some(Condition::Present | Condition::Etag(_)), None) => Err(Refused::NoSuchKey),
        (Some(_), Some(_)) => Err(Refused::ConditionFailed),
    }
}

/// Behind every key that begins with `prefix`, whose last character is ASCII.
fn past(prefix: &str) -> Bound<String> {
    let mut next = prefix.to_string();
    match next.pop() {
        Some(last) => {
            next.push(char::from_u32(u32::from(last) + 1).unwrap_or(char::MAX));
            Bound::Included(next)
        }
        None => Bound::Unbounded,
    }
}

/// FNV-1a, which is stable.
fn scramble(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A key as a file name: everything but letters, digits, `-`, `_` and inner dots as `%XX`.
fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for (index, byte) in key.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || (byte == b'.' && index > 0) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' {
            rest.next().zip(rest.next())
        } else {
            None
        };
        match digits.and_then(|(high, low)| {
            let pair = [high, low];
            u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()
        }) {
            Some(escaped) => bytes.push(escaped),
            None => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_file_names_and_back() {
        for key in ["a", "a/b.c", ".hidden", "ä%41", "x y"] {
            assert_eq!(unescape(&escape(key)), key);
            assert!(!escape(key).contains('/') && !escape(key).starts_with('.'));
        }
    }

    #[test]
    fn objects_are_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let objects = Objects::open(dir.path().to_path_buf()).unwrap();
            objects.create_bucket("bucket").unwrap();
            let body = objects.incoming();
            fs::write(&body.path, b"12345").unwrap();
            objects
                .commit(
                    "bucket",
                    "a/b",
                    body,
                    SystemTime::now(),
                    Some(&Condition::Absent),
                    None,
                )
                .unwrap();
            let body = objects.incoming();
            fs::write(&body.path, b"x").unwrap();
            let again = objects.commit(
                "bucket",
                "a/b",
                body,
                SystemTime::now(),
                Some(&Condition::Absent),
                None,
            );
            assert!(matches!(again, Err(Refused::ConditionFailed)));
            assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
        }
        let objects = Objects::open(dir.path().to_path_buf()).unwrap();
        assert_eq!(objects.stat("bucket", "a/b").unwrap().len, 5);
        let (page, more) = objects.list("bucket", "a/", "", 1, false).unwrap();
        assert_eq!((page[0].0.as_str(), more), ("a/b", false));
    }

    #[test]
    fn parts_become_one_object_and_listings_are_grouped() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path().to_path_buf()).unwrap();
        objects.create_bucket("bucket").unwrap();
        for key in ["d/a/1", "d/a/2", "d/b", "d/c/x/y", "e"] {
            let upload = objects.begin_parts("bucket", None).unwrap();
            for (number, bytes) in [(2, "two"), (1, "one-"), (2, "zwei")] {
                let body = objects.incoming();
                fs::write(&body.path, bytes).unwrap();
                objects.add_part(&upload, number, body).unwrap();
            }
            let made = objects.finish_parts("bucket", key, &upload, SystemTime::now());
            assert_eq!(made.unwrap().len, 8);
        }
        let (_, files) = objects.open_object("bucket", "d/b").unwrap();
        let whole: Vec<String> = files
            .into_iter()
            .map(|f| io::read_to_string(f).unwrap())
            .collect();
        assert_eq!(whole.concat(), "one-zwei");
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let (page, more) = objects.list_grouped("bucket", "d/", &after, 1, "/").unwrap();
            for listed in page {
                after = match listed {
                    Listed::Object(key, _) => key,
                    Listed::Prefix(prefix) => prefix,
                };
                all.push(after.clone());
            }
            if !more {
                break;
            }
        }
        assert_eq!(all, ["d/a/", "d/b", "d/c/"]);
        for key in ["d/a/1", "d/a/2", "d/b", "d/c/x/y", "e"] {
            objects.delete("bucket", key).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
    }
}
