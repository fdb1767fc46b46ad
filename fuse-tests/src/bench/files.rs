//! What is done to files, the same on every file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::settings::DIR_FILES;

const PAGE: usize = 4096;
/// Records of bulk reads and writes, bytes.
const BLOCK: usize = 1 << 20;

/// The next number of a fixed sequence (splitmix64).
pub(super) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes that do not compress.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut n = seed;
    while bytes.len() < len {
        n = mix(n);
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What begins a page of a file: no two are alike, and a reader knows what must be there.
fn stamp(seed: u64, offset: u64) -> [u8; 8] {
    mix(mix(seed) ^ (offset / PAGE as u64)).to_le_bytes()
}

fn stamp_pages(block: &mut [u8], seed: u64, offset: u64) {
    for (n, page) in block.chunks_mut(PAGE).enumerate() {
        let stamp = stamp(seed, offset + (n * PAGE) as u64);
        page[..8].copy_from_slice(&stamp);
    }
}

fn check_pages(block: &[u8], seed: u64, offset: u64) -> Result<()> {
    for (n, page) in block.chunks(PAGE).enumerate() {
        let at = offset + (n * PAGE) as u64;
        ensure!(
            page.len() >= 8 && page[..8] == stamp(seed, at),
            "wrong bytes at {at}"
        );
    }
    Ok(())
}

/// A new file of `size` bytes (whole pages) in records of `record` bytes.
pub(super) fn write_file(path: &Path, size: u64, record: usize, seed: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut block = noise(seed, BLOCK);
    let mut at = 0;
    while at < size {
        let here = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        stamp_pages(&mut block[..here], seed, at);
        for piece in block[..here].chunks(record) {
            file.write_all(piece)?;
        }
        at += here as u64;
    }
    Ok(())
}

/// Reads and checks a whole file.
pub(super) fn read_file(path: &Path, seed: u64) -> Result<()> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let mut got = 0;
        while got < block.len() {
            match file.read(&mut block[got..])? {
                0 => break,
                n => got += n,
            }
        }
        check_pages(&block[..got], seed, at)?;
        at += got as u64;
        if got < block.len() {
            return Ok(());
        }
    }
}

/// Reads single pages here and there.
pub(super) fn read_random(path: &Path, size: u64, count: u64, seed: u64, order: u64) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut page = [0; PAGE];
    for n in 0..count {
        let at = mix(order ^ n) % (size / PAGE as u64) * PAGE as u64;
        file.read_exact_at(&mut page, at)?;
        check_pages(&page, seed, at)?;
    }
    Ok(())
}

/// Overwrites single pages here and there.
pub(super) fn write_random(path: &Path, size: u64, count: u64, order: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let page = noise(order, PAGE);
    for n in 0..count {
        let at = mix(order ^ n) % (size / PAGE as u64) * PAGE as u64;
        file.write_all_at(&page, at)?;
    }
    Ok(())
}

/// Touches every page of a mapping.
pub(super) fn read_mapped(path: &Path, seed: u64) -> Result<()> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len())?;
    let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: a new mapping of a file that is open; its result is checked.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) };
    ensure!(start != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    // SAFETY: the mapping has `len` bytes, and nobody writes or cuts the file meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) };
    let checked = check_pages(bytes, seed, 0);
    // SAFETY: `bytes` is not used any more.
    unsafe { libc::munmap(start, len) };
    checked
}

/// Path of small file `n` below a directory.
pub(super) fn small_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("d{:05}/f{n:07}.dat", n / DIR_FILES))
}

/// Small files in fresh directories of 100, no two alike.
pub(super) fn create_files(dir: &Path, count: u64, bytes: usize, seed: u64) -> Result<()> {
    let mut content = noise(seed, bytes);
    for n in 0..count {
        let path = small_path(dir, n);
        if n % DIR_FILES == 0
            && let Some(parent) = path.parent()
        {
            fs::create_dir_all(parent)?;
        }
        let own = mix(seed ^ n).to_le_bytes();
        content
            .iter_mut()
            .zip(own.iter().cycle())
            .for_each(|(byte, own)| *byte ^= own);
        File::create(&path)?.write_all(&content)?;
    }
    Ok(())
}

/// Reads whole files; how many bytes they had.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<u64> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    for path in paths {
        buffer.clear();
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        bytes += file.read_to_end(&mut buffer)? as u64;
    }
    Ok(bytes)
}

/// Attributes of everything that `paths` name.
pub(super) fn stat_all(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Lists every directory below, without attributes; how many names there were.
pub(super) fn list_all(dir: &Path) -> Result<u64> {
    let mut names = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        names += 1;
        if entry.file_type()?.is_dir() {
            names += list_all(&entry.path())?;
        }
    }
    Ok(names)
}

/// Plain files below a directory, by path.
pub(super) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = below(dir)?.into_iter();
    let mut files: Vec<PathBuf> = found
        .filter_map(|(path, kind)| kind.is_file().then_some(path))
        .collect();
    files.sort();
    Ok(files)
}

/// A directory and all those below it.
pub(super) fn dirs_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = below(dir)?.into_iter();
    let dirs = found.filter_map(|(path, kind)| kind.is_dir().then_some(path));
    Ok(std::iter::once(dir.to_owned()).chain(dirs).collect())
}

/// Everything below a directory.
fn below(dir: &Path) -> Result<Vec<(PathBuf, fs::FileType)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            found.extend(below(&path)?);
        }
        found.push((path, kind));
    }
    Ok(found)
}

/// In an order that has nothing to do with the names.
pub(super) fn shuffled(mut paths: Vec<PathBuf>, seed: u64) -> Vec<PathBuf> {
    for n in (1..paths.len()).rev() {
        let other = usize::try_from(mix(seed ^ n as u64) % (n as u64 + 1)).unwrap_or(0);
        paths.swap(n, other);
    }
    paths
}

/// Lets the kernel forget the cached pages of all files below, and of no others: this machine has other users.
pub(super) fn forget_pages(dir: &Path) -> Result<()> {
    for path in files_below(dir)? {
        let file = File::open(&path)?;
        // Dirty pages stay.
        rustix::fs::fdatasync(&file)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Bytes on disk of everything below.
pub(super) fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = files_below(dir).unwrap_or_default();
    let blocks = files
        .iter()
        .filter_map(|f| fs::metadata(f).ok())
        .map(|m| m.blocks());
    blocks.sum::<u64>() * 512
}

/// Makes a directory anew, empty.
pub(super) fn fresh_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(dir)?;
    Ok(())
}
