//! What lies on this machine or comes from it: the overlay's journal, the upload ledger, requests, what users type.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::config::{Environment, VolumePath, escape_mount_dir, parse_volume};
use crate::format::content_id;
use crate::overlay::{ReplayError, replay};
use crate::{commit, control, overlay, store};

const GOLDEN_JOURNAL: &[u8] = include_bytes!("../../../src/overlay/testdata/journal-v1.bin");

/// Where the header of a journal ends, and the crc of what is before that.
fn header(journal: &[u8]) -> (usize, u32) {
    // Magic, version, volume, overlay, boot, and a name behind its length.
    let fixed = 4 + 4 + 16 + 8 + 16;
    let name = usize::from(u16::from_le_bytes([journal[fixed], journal[fixed + 1]]));
    let end = fixed + 2 + name;
    let crc = u32::from_le_bytes(journal[end..end + 4].try_into().expect("4 bytes"));
    (end + 4, crc)
}

/// Where its last frame ends: offset, sequence number and crc to go on from.
fn tail(journal: &[u8]) -> (usize, u64, u32) {
    let (mut at, mut crc) = header(journal);
    let mut sequence = 0;
    while let Some(head) = journal.get(at..at + 12) {
        let len = u32::from_le_bytes(head[..4].try_into().expect("4 bytes")) as usize;
        sequence = u64::from_le_bytes(head[4..].try_into().expect("8 bytes"));
        let end = at + 12 + len;
        crc = u32::from_le_bytes(journal[end..end + 4].try_into().expect("4 bytes"));
        at = end + 4;
    }
    (at, sequence, crc)
}

/// Appends frames, each two bytes of length and its payload in `data`, with the sequence numbers and checksums that make
/// them good.
fn append(journal: &mut Vec<u8>, (mut sequence, mut crc): (u64, u32), mut data: &[u8]) {
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        data = rest;
        let start = journal.len();
        sequence = sequence.wrapping_add(1);
        journal.extend_from_slice(&(len as u32).to_le_bytes());
        journal.extend_from_slice(&sequence.to_le_bytes());
        journal.extend_from_slice(payload);
        crc = crc32c::crc32c_append(crc, &journal[start..]);
        journal.extend_from_slice(&crc.to_le_bytes());
    }
}

fn replayed(journal: &[u8]) {
    let state = match replay(journal) {
        Ok(replayed) => {
            assert!(replayed.cut_bytes <= journal.len() as u64);
            replayed.state
        }
        Err(ReplayError::Damaged { offset, before, .. }) => {
            assert!(offset <= journal.len() as u64);
            before.state
        }
        Err(_) => return,
    };
    // What is looked at after a replay.
    for (id, node) in &state.nodes {
        let _ = state.differs(*id, node);
    }
    let _ = state.bodies();
}

/// Journals: as they are; as good frames behind a good header; and behind a whole journal.
pub fn journal(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    match how % 3 {
        0 => replayed(data),
        1 => {
            let (end, crc) = header(GOLDEN_JOURNAL);
            let mut journal = GOLDEN_JOURNAL[..end].to_vec();
            append(&mut journal, (0, crc), data);
            replayed(&journal);
        }
        _ => {
            let (end, sequence, crc) = tail(GOLDEN_JOURNAL);
            let mut journal = GOLDEN_JOURNAL[..end].to_vec();
            append(&mut journal, (sequence, crc), data);
            replayed(&journal);
        }
    }
}

/// Upload ledgers: as they are, and as entries with the hashes that make them good.
pub fn ledger(data: &[u8]) {
    let _ = commit::arrived(data);
    let mut good = Vec::new();
    let mut rest = data;
    while let Some((len, behind)) = rest.split_first() {
        let (entry, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        good.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        good.extend_from_slice(&content_id(entry).0[..8]);
        good.extend_from_slice(entry);
    }
    let _ = commit::arrived(&good);
}

/// Whole state directories: the manifest, a journal and a stash's list of bodies come from the input.
pub fn state_dir(data: &[u8]) {
    thread_local!(static DIR: RefCell<Option<PathBuf>> = const { RefCell::new(None) });
    DIR.with_borrow_mut(|dir| {
        let dir = dir.get_or_insert_with(|| {
            // In memory where that can be: a disk takes a hundred times as long.
            let memory = PathBuf::from("/dev/shm");
            let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
            let dir = parent.join(format!("sailvol-fuzz-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("overlay-1")).expect("a temporary directory");
            dir
        });
        let Some((split, data)) = data.split_first_chunk::<2>() else { return };
        let (manifest, rest) = data.split_at(usize::from(split[0]).min(data.len()));
        let (list, journal) = rest.split_at(usize::from(split[1]).min(rest.len()));
        // A line and its checksum, which a fuzzer does not guess.
        let mut text = manifest.to_vec();
        text.retain(|byte| *byte != b'\n');
        text.push(b'\n');
        let crc = format!("crc32c {:08x}\n", crc32c::crc32c(&text));
        text.extend_from_slice(crc.as_bytes());
        let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("a temporary file");
        put("CURRENT", &text);
        put("overlay-1/bodies", list);
        put("overlay-1/journal", journal);
        overlay::check(Path::new(dir)).expect("the directory can be read");
    });
}

/// Lines of the control protocol.
pub fn protocol(data: &[u8]) {
    match control::parse(data) {
        Ok((id, request)) => {
            let mut message = serde_json::to_value(&request).expect("requests are JSON");
            message["jsonrpc"] = "2.0".into();
            message["id"] = id.into();
            let again = control::parse(message.to_string().as_bytes()).expect("own request");
            assert_eq!(format!("{again:?}"), format!("{:?}", (id, request)));
        }
        Err(answer) => assert!(answer["error"]["code"].is_number()),
    }
    let _ = serde_json::from_slice::<control::Hello>(data);
}

/// What users type for volumes, stores and paths; a URL is shown as one that means the same.
pub fn names(data: &[u8]) {
    let _ = escape_mount_dir(Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(data)));
    let mut environment = Environment::default();
    environment.store = Some("s3://bucket/prefix?region=here".into());
    let words = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(data);
    let _ = VolumePath::looks_like(words);
    if let Ok(path) = VolumePath::parse(words, &environment) {
        assert!(store::check_volume_name(&path.volume.name).is_ok());
        let shown = format!("v:{}", path.path.meant());
        let again = VolumePath::parse(shown.as_ref(), &environment).unwrap();
        assert_eq!(again.path.meant(), path.path.meant(), "{shown}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(volume) = parse_volume(text, &environment) {
        let shown = volume.to_string();
        assert_eq!(store::VolumeUrl::parse(&shown).as_ref(), Ok(&volume), "{shown}");
    }
    if let Ok(url) = store::StoreUrl::parse(text) {
        let shown = url.to_string();
        assert_eq!(store::StoreUrl::parse(&shown).as_ref(), Ok(&url), "{shown}");
    }
}
