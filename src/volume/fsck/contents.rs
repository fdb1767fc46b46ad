//! Packs and chunks: in the listing, then byte for byte.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::check::stopped;
use super::referred::{Chunk, Content, Pack, Referred};
use super::report::{FsckOptions, FsckProgress, FsckReport};
use crate::format::limits::PACK_BYTES_MAX;
use crate::format::{
    Key, PACK_TRAILER_BYTES, chunk_header_len, content_id, decode_blob, decode_chunk, pack_footer_range,
    parse_pack_footer, volume_prefix,
};
use crate::model::{Epoch, Hash, PackRef};
use crate::store::LIST_LIMIT_MAX;
use crate::tree::TreeError;
use crate::volume::{Volume, VolumeError, fetch_error};

/// Bytes of objects in memory, MiB; the plain bytes of as many come on top.
const BUDGET_MIB: u64 = 192;
/// Objects that are checked at the same time.
const OBJECTS_AT_ONCE: usize = 16;

/// An object, and what is expected of it.
enum Object {
    Pack(PackRef, Pack),
    Chunk(Epoch, Hash, Chunk),
}

/// What is wrong, and which contents are concerned.
type Fault = (String, Vec<Content>);

struct Checked {
    key: String,
    read: u64,
    faults: Vec<Fault>,
}

impl Volume {
    /// Which objects there are.
    pub(super) async fn check_listing(
        &self,
        referred: &mut Referred,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let mut done = 0;
        for part in ["d/", "p/"] {
            let prefix = format!("{}{part}", volume_prefix(&self.id()));
            let mut after: Option<String> = None;
            loop {
                let page = self
                    .store()
                    .list(&prefix, after.as_deref(), LIST_LIMIT_MAX)
                    .await?;
                for object in &page.objects {
                    let known = match Key::parse(&object.key) {
                        Some(Key::Pack(_, pack)) => {
                            referred.packs.get_mut(&pack).map(|pack| &mut pack.listed)
                        }
                        Some(Key::Chunk(_, epoch, id)) => referred
                            .chunks
                            .get_mut(&(epoch, id))
                            .map(|chunk| &mut chunk.listed),
                        _ => None,
                    };
                    match known {
                        Some(listed) => *listed = Some(object.len),
                        None => {
                            report.unreferenced += 1;
                            report.unreferenced_bytes = report.unreferenced_bytes.saturating_add(object.len);
                        }
                    }
                }
                done += page.objects.len() as u64;
                progress(FsckProgress {
                    stage: "listing",
                    done,
                    ..FsckProgress::default()
                });
                after = page.objects.last().map(|object| object.key.clone());
                if !page.truncated || after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Every object that is referred to; gives what is damaged, by place in the report.
    pub(super) async fn check_contents(
        &self,
        referred: Referred,
        options: FsckOptions,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<HashMap<Content, usize>, VolumeError> {
        let budget = Arc::new(Semaphore::new(BUDGET_MIB as usize));
        let Referred { packs, chunks, .. } = referred;
        let total = (packs.len() + chunks.len()) as u64;
        let packs = packs.into_iter().map(|(pack, what)| Object::Pack(pack, what));
        let chunks = chunks
            .into_iter()
            .map(|((epoch, id), what)| Object::Chunk(epoch, id, what));
        let mut checks = futures::stream::iter(packs.chain(chunks))
            .map(|object| self.check_object(object, options.quick, &budget))
            .buffer_unordered(OBJECTS_AT_ONCE);
        let mut damaged = HashMap::new();
        let mut done = 0;
        while let Some(Checked { key, read, faults }) = checks.try_next().await? {
            done += 1;
            report.bytes_read += read;
            progress(FsckProgress {
                stage: "contents",
                done,
                total,
                bytes: report.bytes_read,
            });
            for (rule, contents) in faults {
                if let Some(at) = report.add(key.clone(), rule, None) {
                    damaged.extend(contents.into_iter().map(|content| (content, at)));
                }
            }
        }
        Ok(damaged)
    }

    async fn check_object(
        &self,
        object: Object,
        quick: bool,
        budget: &Semaphore,
    ) -> Result<Checked, VolumeError> {
        let (key, listed) = match &object {
            Object::Pack(pack, what) => (Key::Pack(self.id(), *pack), what.listed),
            Object::Chunk(epoch, id, what) => (Key::Chunk(self.id(), *epoch, *id), what.listed),
        };
        let key = key.to_string();
        let all = |rule: String| Checked {
            key: key.clone(),
            read: 0,
            faults: vec![(rule, object.contents())],
        };
        let Some(len) = listed else {
            return Ok(all("is missing".to_owned()));
        };
        if let Some(rule) = object.wrong_len(len) {
            return Ok(all(rule));
        }
        if quick {
            return Ok(Checked {
                key,
                read: 0,
                faults: Vec::new(),
            });
        }
        let mib = u32::try_from(len.div_ceil(1 << 20).clamp(1, BUDGET_MIB)).unwrap_or(1);
        let permit = budget.acquire_many(mib).await;
        // One byte more than was listed: it would be another object.
        let fetched = self.store().get(&key, Some(0..len.saturating_add(1))).await;
        let bytes = match fetched.map_err(fetch_error) {
            Ok(fetched) => fetched.bytes,
            Err(TreeError::Expired { .. }) => return Ok(all("is missing".to_owned())),
            Err(TreeError::Damaged { rule, .. }) => return Ok(all(rule)),
            Err(error) => return Err(stopped(error)),
        };
        let read = bytes.len() as u64;
        let told = key.clone();
        let checked = tokio::task::spawn_blocking(move || object.faults(&bytes, &told)).await;
        drop(permit);
        let failed = |e: tokio::task::JoinError| {
            stopped(TreeError::Unreachable {
                reason: e.to_string(),
            })
        };
        Ok(Checked {
            key,
            read,
            faults: checked.map_err(failed)?,
        })
    }
}

impl Object {
    fn contents(&self) -> Vec<Content> {
        match self {
            Object::Pack(pack, what) => what.blobs.iter().map(|at| Content::Blob(*pack, *at)).collect(),
            Object::Chunk(epoch, id, what) => {
                let lens = what.raw_lens.iter();
                lens.map(|raw_len| Content::Chunk(*epoch, *id, *raw_len))
                    .collect()
            }
        }
    }

    /// A length that cannot be right.
    fn wrong_len(&self, len: u64) -> Option<String> {
        match self {
            Object::Pack(_, what) if len < what.end.saturating_add(PACK_TRAILER_BYTES) => {
                Some(format!("has {len} bytes, but byte {} is referred to", what.end))
            }
            Object::Pack(..) if len > PACK_BYTES_MAX => Some(format!("has {len} bytes, which no pack has")),
            Object::Pack(..) => None,
            Object::Chunk(_, _, what) => {
                // Frames are stored in at most their plain length.
                let fits = |raw_len: &u32| {
                    let header = u64::from(chunk_header_len(*raw_len));
                    (header + 1..=header + u64::from(*raw_len)).contains(&len)
                };
                (!what.raw_lens.iter().any(fits))
                    .then(|| format!("has {len} bytes, which do not fit its length"))
            }
        }
    }

    fn faults(&self, bytes: &[u8], key: &str) -> Vec<Fault> {
        match self {
            Object::Chunk(epoch, id, what) => {
                let wrong = |raw_len: &u32| {
                    let corrupt = decode_chunk(bytes, *raw_len, id, key).err()?;
                    let content = Content::Chunk(*epoch, *id, *raw_len);
                    Some((corrupt.rule.to_string(), vec![content]))
                };
                what.raw_lens.iter().filter_map(wrong).collect()
            }
            Object::Pack(pack, what) => {
                let mut faults = Vec::new();
                for at in &what.blobs {
                    let start = usize::try_from(at.offset).unwrap_or(usize::MAX);
                    let stored = start
                        .checked_add(at.stored_len as usize)
                        .and_then(|end| bytes.get(start..end));
                    let rule = match stored.map(|stored| decode_blob(stored, at.raw_len, &at.id, key)) {
                        Some(Ok(_)) => continue,
                        Some(Err(corrupt)) => corrupt.rule.to_string(),
                        None => "the pack ends before it".to_owned(),
                    };
                    faults.push((
                        format!("content at byte {}: {rule}", at.offset),
                        vec![Content::Blob(*pack, *at)],
                    ));
                }
                if content_id(bytes) != pack.id {
                    let rule = "its bytes do not have the hash that names it".to_owned();
                    faults.push((rule, Vec::new()));
                } else if let Err(rule) = check_footer(bytes, key) {
                    faults.push((rule, Vec::new()));
                }
                faults
            }
        }
    }
}

fn check_footer(bytes: &[u8], key: &str) -> Result<(), String> {
    let len = bytes.len() as u64;
    let trailer = bytes
        .len()
        .saturating_sub(usize::try_from(PACK_TRAILER_BYTES).unwrap_or(0));
    let range = pack_footer_range(&bytes[trailer..], len, key).map_err(|e| e.rule.to_string())?;
    let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
    let footer = start
        .ok()
        .zip(end.ok())
        .and_then(|(start, end)| bytes.get(start..end));
    let footer = footer.ok_or("its footer is not in it")?;
    parse_pack_footer(footer, len, key)
        .map(drop)
        .map_err(|e| e.rule.to_string())
}
