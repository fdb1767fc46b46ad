//! Bytes: appending, direct I/O, holes, files without a name.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use fuse_tests::pod::Pod;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::Site;

const WRITERS: usize = 4;
const RECORDS: usize = 500;
/// Not a divisor of any page.
const RECORD_BYTES: usize = 77;

#[test]
fn appending_from_several_writers_loses_nothing() {
    let Some(site) = Site::new() else { return };
    let path = site.pod.path("log");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).create(true).open(path).unwrap();
                for record in 0..RECORDS {
                    let mut line = format!("{writer} {record} ").into_bytes();
                    line.resize(RECORD_BYTES - 1, b'.');
                    line.push(b'\n');
                    file.write_all(&line).unwrap();
                }
            });
        }
        // A commit in the middle of it changes nothing.
        site.pod.commit("while they write");
    });
    site.everywhere(|pod, when| {
        let text = fs::read_to_string(pod.path("log")).unwrap();
        assert_eq!(text.len(), WRITERS * RECORDS * RECORD_BYTES, "{when}");
        let mut next = [0; WRITERS];
        for line in text.lines() {
            let mut words = line.split(' ').map(|word| word.parse::<usize>());
            let (Some(Ok(writer)), Some(Ok(record))) = (words.next(), words.next()) else {
                panic!("a torn record {when}: {line:?}");
            };
            assert_eq!(record, next[writer], "{when}");
            next[writer] += 1;
        }
    });
}

/// Memory at the border of a page, as O_DIRECT wants it.
fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    buffer.resize(len + 4096, 0);
    let skip = buffer.as_ptr().align_offset(4096);
    &mut buffer[skip..skip + len]
}

#[test]
fn direct_io_and_the_page_cache_agree() {
    let Some(site) = Site::new() else { return };
    let len = 6 << 20;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let out = aligned(&mut ours, len);
    for (number, byte) in out.iter_mut().enumerate() {
        *byte = (number / 513) as u8;
    }
    let open = |pod: &Pod, flags| {
        rustix::fs::open(
            pod.path("direct"),
            OFlags::DIRECT | flags,
            Mode::from_raw_mode(0o644),
        )
        .unwrap()
    };
    let file = open(&site.pod, OFlags::RDWR | OFlags::CREATE);
    let mut done = 0;
    while done < len {
        done += rustix::io::pwrite(&file, &out[done..], done as u64).unwrap();
    }
    assert!(fs::read(site.pod.path("direct")).unwrap() == *out);
    // What a page holds goes when it is written past it.
    out[4096..8192].fill(9);
    assert_eq!(rustix::io::pwrite(&file, &out[4096..8192], 4096), Ok(4096));
    assert!(fs::read(site.pod.path("direct")).unwrap() == *out);
    drop(file);
    site.everywhere(|pod, when| {
        assert!(fs::read(pod.path("direct")).unwrap() == *out, "{when}");
    });
    let fresh = site.fresh();
    let file = open(&fresh, OFlags::RDONLY);
    let back = aligned(&mut theirs, len);
    let mut done = 0;
    while done < len {
        done += rustix::io::pread(&file, &mut back[done..], done as u64).unwrap();
    }
    assert!(back == out);
}

#[test]
fn a_file_without_a_name_is_refused_in_the_usual_way() {
    let Some(site) = Site::new() else { return };
    let made = rustix::fs::open(
        site.pod.mount_dir(),
        OFlags::TMPFILE | OFlags::RDWR,
        Mode::from_raw_mode(0o600),
    );
    // The error that makes programs fall back to a named file.
    assert_eq!(made.map(|_| ()), Err(Errno::OPNOTSUPP));
    // As Python's does.
    tempfile::tempfile_in(site.pod.mount_dir())
        .unwrap()
        .write_all(b"x")
        .unwrap();
}

/// Data of a file, as programs find it by SEEK_DATA and SEEK_HOLE.
fn data_runs(file: &File) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(start) => {
                at = seek(file, SeekFrom::Hole(start)).unwrap();
                runs.push((start, at));
            }
            Err(Errno::NXIO) => return runs,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A commit of a file of terabytes costs its data: it is asked for nothing that is a hole, and reads none.
#[test]
fn a_commit_reads_the_data_of_a_sparse_file_and_no_holes() {
    let Some(site) = Site::new() else { return };
    let islands = [(5u64 << 40, b"mid"), ((8 << 40) - 3, b"end")];
    let file = File::create_new(site.pod.path("huge")).unwrap();
    file.set_len(8 << 40).unwrap();
    for (at, bytes) in islands {
        file.write_all_at(bytes, at).unwrap();
    }
    drop(file);
    site.everywhere(|pod, when| {
        let file = File::open(pod.path("huge")).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 8 << 40, "{when}");
        for (at, bytes) in islands {
            let mut found = [0; 3];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(&found, bytes, "{when}");
        }
    });
}

#[test]
fn preferred_io_is_small_enough_for_reads_at_random_places() {
    let Some(site) = Site::new() else { return };
    File::create_new(site.pod.path("f")).unwrap();
    assert_eq!(fs::metadata(site.pod.path("f")).unwrap().blksize(), 8 << 10);
}

#[test]
fn holes_are_holes_also_after_a_commit() {
    let Some(site) = Site::new() else { return };
    let block = |n: u64| (n * 4096, (n + 1) * 4096);
    // In a pack, and in chunks, of which one is nothing but a hole.
    let sizes = [("small", 3u64 << 20), ("large", 40 << 20)];
    let last = |size: u64| size / 4096 - 1;
    for (name, size) in sizes {
        let file = File::create_new(site.pod.path(name)).unwrap();
        file.set_len(size).unwrap();
        for n in [0, 5, 6, last(size)] {
            file.write_all_at(&[7; 4096], n * 4096).unwrap();
        }
    }
    site.everywhere(|pod, when| {
        for (name, size) in sizes {
            let file = File::open(pod.path(name)).unwrap();
            let expected = vec![block(0), (5 * 4096, 7 * 4096), block(last(size))];
            assert_eq!(data_runs(&file), expected, "{name} {when}");
            assert_eq!(file.metadata().unwrap().size(), size);
        }
    });
    let blocks = fs::metadata(site.fresh().path("large")).unwrap().blocks();
    assert!(
        blocks <= (16 << 20) / 512,
        "chunks that are holes take no blocks: {blocks}"
    );
    // Data becomes a hole, in a file that was committed.
    let file = File::options()
        .write(true)
        .read(true)
        .open(site.pod.path("large"))
        .unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 5 * 4096, 4096).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 100, 200).unwrap();
    // Zeros that were written, not punched.
    file.write_all_at(&[0; 4096], last(40 << 20) * 4096).unwrap();
    drop(file);
    site.pod.commit("punched");
    let fresh = site.fresh();
    let file = File::open(fresh.path("large")).unwrap();
    assert_eq!(data_runs(&file), [block(0), block(6)]);
    let mut bytes = vec![1; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..100] == [7; 100] && bytes[100..300] == [0; 200] && bytes[300..] == [7; 3796]);
    file.read_exact_at(&mut bytes, 5 * 4096).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn ranges_cannot_be_inserted_or_taken_out() {
    let Some(site) = Site::new() else { return };
    let file = File::create_new(site.pod.path("f")).unwrap();
    file.set_len(1 << 20).unwrap();
    for flags in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        assert_eq!(fallocate(&file, flags, 4096, 4096), Err(Errno::OPNOTSUPP));
    }
    // Room that is asked for is there, and the size tells it or not, as asked.
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 1 << 20);
    fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 4 << 20);
}
