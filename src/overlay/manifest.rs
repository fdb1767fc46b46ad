//! `CURRENT`: which overlay is current and which are stashes. One file, replaced by rename, so that a switch is one step.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{AtPath, OverlayError};
use super::journal::sync_dir;
use super::reserve::Reserve;
use super::state::BaseRef;
use crate::model::{Hash, Seq, Timestamp, VolumeId};

pub(super) const MANIFEST: &str = "CURRENT";
const MANIFEST_VERSION: u32 = 1;
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Version.
    pub sailvol_state: u32,
    pub volume: VolumeId,
    pub mount_name: String,
    pub current: Option<u64>,
    pub next_overlay: u64,
    pub next_node: u64,
    pub next_body: u64,
    pub last_commit: u64,
    pub stashes: Vec<StashLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StashLine {
    pub id: u64,
    pub made_secs: i64,
    pub made_nanos: u32,
    pub seq: Seq,
    pub record: Hash,
    pub prepared: Option<Hash>,
    pub sources: Vec<Seq>,
    pub changes: u64,
    pub files: u64,
    pub bytes: u64,
    pub disk_bytes: u64,
}

/// One stash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StashInfo {
    /// Its number; also that of its overlay.
    pub id: u64,
    /// When it was made.
    pub made: Timestamp,
    /// What it stands on.
    pub base: BaseRef,
    /// Nodes that differ from the base.
    pub changes: u64,
    /// Files with local bytes.
    pub files: u64,
    /// Bytes of those, logical.
    pub bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

impl StashLine {
    pub(super) fn from_info(info: &StashInfo) -> StashLine {
        StashLine {
            id: info.id,
            made_secs: info.made.secs,
            made_nanos: info.made.nanos,
            seq: info.base.seq,
            record: info.base.record,
            prepared: info.base.prepared,
            sources: info.base.sources.clone(),
            changes: info.changes,
            files: info.files,
            bytes: info.bytes,
            disk_bytes: info.disk_bytes,
        }
    }

    pub(super) fn info(&self) -> StashInfo {
        StashInfo {
            id: self.id,
            made: Timestamp {
                secs: self.made_secs,
                nanos: self.made_nanos,
            },
            base: BaseRef {
                seq: self.seq,
                record: self.record,
                prepared: self.prepared,
                sources: self.sources.clone(),
            },
            changes: self.changes,
            files: self.files,
            bytes: self.bytes,
            disk_bytes: self.disk_bytes,
        }
    }
}

impl Manifest {
    /// Of a new state directory.
    pub(super) fn new(volume: VolumeId, mount_name: &str) -> Manifest {
        Manifest {
            sailvol_state: MANIFEST_VERSION,
            volume,
            mount_name: mount_name.to_owned(),
            current: None,
            next_overlay: 1,
            next_node: 2,
            next_body: 1,
            last_commit: 0,
            stashes: Vec::new(),
        }
    }

    /// Reads it; `None` where there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Manifest>, OverlayError> {
        let path = dir.join(MANIFEST);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at(&path)?,
        };
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).at(&path)?;
        let damaged = |offset: u64, reason: String| OverlayError::Damaged {
            path: path.clone(),
            offset,
            reason,
            dir: dir.to_owned(),
        };
        Manifest::decode(&bytes)
            .map_err(|e| match e {
                BadManifest::TooNew(version) => OverlayError::TooNew {
                    path: path.clone(),
                    version,
                    known: MANIFEST_VERSION,
                },
                BadManifest::Damaged(reason) => damaged(0, reason),
            })
            .map(Some)
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, BadManifest> {
        let damaged = |reason: &str| BadManifest::Damaged(reason.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let line = text
            .find('\n')
            .map(|end| &text[..=end])
            .ok_or_else(|| damaged("no line"))?;
        let json: serde_json::Value = serde_json::from_str(line).map_err(|e| damaged(&e.to_string()))?;
        let version = json.get("sailvol_state").and_then(serde_json::Value::as_u64);
        let version = version
            .and_then(|v| u32::try_from(v).ok())
            .ok_or_else(|| damaged("no version"))?;
        if version > MANIFEST_VERSION {
            return Err(BadManifest::TooNew(version));
        }
        if text[line.len()..] != checksum(line) {
            return Err(damaged("wrong checksum"));
        }
        serde_json::from_value(json).map_err(|e| damaged(&e.to_string()))
    }

    fn encode(&self) -> Result<String, OverlayError> {
        let json = serde_json::to_string(self).map_err(|e| OverlayError::Encode(e.to_string()))?;
        let line = json + "\n";
        Ok(format!("{line}{}", checksum(&line)))
    }

    /// Replaces the file; on disk when this returns.
    pub(super) fn write(&self, dir: &Path) -> Result<(), OverlayError> {
        let (path, new) = (dir.join(MANIFEST), dir.join("CURRENT.new"));
        let text = self.encode()?;
        if text.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(OverlayError::Encode("too many stashes".into()));
        }
        let reserve = Reserve::of(dir);
        reserve.write_file(&new, text.as_bytes())?;
        reserve.make_room_for(|| std::fs::rename(&new, &path).at(&path))?;
        sync_dir(dir)
    }
}

enum BadManifest {
    TooNew(u32),
    Damaged(String),
}

fn checksum(line: &str) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(line.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_damage_is_seen() {
        let mut manifest = Manifest::new(VolumeId([7; 16]), "data");
        manifest.current = Some(3);
        let text = manifest.encode().unwrap();
        assert!(matches!(Manifest::decode(text.as_bytes()), Ok(m) if m == manifest));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Manifest::decode(&bytes).is_err(), "byte {at}");
            assert!(Manifest::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_not_called_damaged() {
        let manifest = Manifest {
            sailvol_state: 2,
            ..Manifest::new(VolumeId([7; 16]), "data")
        };
        let text = manifest.encode().unwrap();
        assert!(matches!(
            Manifest::decode(text.as_bytes()),
            Err(BadManifest::TooNew(2))
        ));
    }
}
