//! Writes seeds for every target into `corpus/`: the golden files, in the form that the target takes.

use std::fs;
use std::io::{Error, Result};
use std::path::Path;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/format/golden");
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

/// Bytes of a pack in front of its trailer, which is 24 bytes long and begins with the footer's length.
fn footer_seed(pack: &[u8]) -> Option<Vec<u8>> {
    let listing_end = pack.len().checked_sub(24)?;
    let len = u32::from_le_bytes(pack.get(listing_end..listing_end + 4)?.try_into().ok()?) as usize;
    let listing_start = listing_end.checked_sub(len)?;
    let before = u16::try_from(listing_start).ok()?.to_le_bytes();
    Some([&before, &pack[listing_start..listing_end]].concat())
}

/// Payloads of a journal's frames behind byte `from`, each behind its length in two bytes.
fn frames(journal: &[u8], from: usize) -> Vec<u8> {
    let name = usize::from(u16::from_le_bytes([journal[48], journal[49]]));
    let mut at = 50 + name + 4;
    let mut out = Vec::new();
    while let Some(head) = journal.get(at..at + 12) {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if at >= from {
            out.extend_from_slice(&(len as u16).to_le_bytes());
            out.extend_from_slice(&journal[at + 12..at + 12 + len]);
        }
        at += 16 + len;
    }
    out
}

fn main() -> Result<()> {
    let golden = |name: &str| fs::read(Path::new(GOLDEN).join(name));
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = Path::new(CORPUS).join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };
    // Behind magic, type and flags.
    let body = |bytes: Vec<u8>| bytes.get(6..).map(<[u8]>::to_vec).unwrap_or_default();
    for (target, name) in [
        ("node_dir", "dir-page.raw"),
        ("node_index", "index-page.raw"),
        ("node_index", "index-extents.raw"),
        ("node_extent", "extent-page.raw"),
        ("node_links", "link-page.raw"),
        ("super_node", "super.raw"),
    ] {
        put(target, name, &body(golden(name)?))?;
    }
    for (target, name) in [
        ("absolute", "entries-absolute.bin"),
        ("chunk", "chunk-one-frame.bin"),
        ("chunk", "chunk-three-frames.bin"),
        ("record", "record-0.bin"),
        ("record", "record-4711.bin"),
        ("descriptor", "vol.json"),
        ("descriptor", "name.json"),
        ("lease", "lease.json"),
        ("wire", "keys-and-hashes.txt"),
    ] {
        put(target, name, &golden(name)?)?;
    }
    for (n, key) in String::from_utf8(golden("keys-and-hashes.txt")?)
        .map_err(Error::other)?
        .lines()
        .take(8)
        .enumerate()
    {
        put("descriptor", &format!("key-{n}"), key.as_bytes())?;
    }
    let footer = footer_seed(&golden("pack.bin")?).ok_or_else(|| Error::other("the golden pack is cut"))?;
    put("pack_footer", "pack", &footer)?;
    let text = b"a line of text that zstd shrinks\n".repeat(40);
    let packed = zstd::bulk::compress(&text, 3)?;
    let len = (text.len() as u16).to_le_bytes();
    put("blob", "zstd", &[&len, &[1][..], &packed].concat())?;
    put("blob", "raw", b"\x03\x00\x00abc")?;
    let len = ((text.len() - 1) as u32).to_le_bytes();
    put("frame", "zstd", &[&len[..3], &packed].concat())?;
    put("frame", "raw", b"\x02\x00\x00abc")?;
    let journal = fs::read(Path::new(GOLDEN).join("../../overlay/testdata/journal-v1.bin"))?;
    put("journal", "whole", &[&[0], journal.as_slice()].concat())?;
    for (how, from) in [(1, 0), (2, 200)] {
        put("journal", &format!("frames-{how}"), &[&[how], frames(&journal, from).as_slice()].concat())?;
    }
    put("state_dir", "journal", &[&[0, 0], journal.as_slice()].concat())?;
    for (n, request) in [
        r#"{"jsonrpc":"2.0","id":1,"method":"commit","params":{"message":"m","dry_run":true}}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"reload","params":{"to":4}}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"status","params":{"ask_store":true}}"#,
        r#"{"jsonrpc":"2.0","id":4,"method":"diff","params":{"limit":9,"from":1,"to":2}}"#,
        r#"{"jsonrpc":"2.0","id":5,"method":"unmount","params":{"commit":true,"timeout_secs":3}}"#,
        r#"{"jsonrpc":"2.0","id":6,"method":"prefetch","params":{"path":"/a","force":true}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"stash-restore","params":{"id":1}}"#,
    ]
    .iter()
    .enumerate()
    {
        put("protocol", &format!("request-{n}"), request.as_bytes())?;
    }
    for (n, name) in [
        "datasets:/a/b",
        "s3://bucket/prefix/name?endpoint=http://127.0.0.1:9000&region=here&path_style=true:/x",
        "file:///srv/volumes/name:/x",
        "s3://bucket",
    ]
    .iter()
    .enumerate()
    {
        put("names", &format!("name-{n}"), name.as_bytes())?;
    }
    for n in 0..8u8 {
        let bytes: Vec<u8> = (0..240u32).map(|at| (at as u8).wrapping_mul(31 + n * 16)).collect();
        put("merge", &format!("trees-{n}"), &bytes)?;
        put("ledger", &format!("entries-{n}"), &bytes)?;
    }
    Ok(())
}
