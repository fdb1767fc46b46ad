//! Small files whose bytes the kernel gets with their opening: how often it asks, and that it never has old bytes.

use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

use fuse_tests::pod::{Cluster, Pod, http_get, metric};

const FILES: usize = 200;

/// Bytes of a file that differ between files, places and versions.
fn bytes(file: usize, version: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(31) ^ file.wrapping_mul(7)) as u8 ^ version)
        .collect()
}

fn name(file: usize) -> String {
    format!("d{}/f{file}", file % 4)
}

/// One to five pages, the last one full or not.
fn len(file: usize) -> usize {
    (1 + file % 5) * 4096 - (file % 3) * 700
}

/// A pod whose disk cache has all of the files, in the first version, and whose kernel has nothing.
fn committed(cluster: &Cluster) -> Pod {
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    for dir in 0..4 {
        fs::create_dir(pod.path(format!("d{dir}"))).unwrap();
    }
    for file in 0..FILES {
        fs::write(pod.path(name(file)), bytes(file, 0, len(file))).unwrap();
    }
    pod.commit("small files");
    pod.umount(&[]);
    pod
}

/// Requests of this kind since the mount.
fn requests(address: &str, operation: &str) -> u64 {
    let text = http_get(address, "/metrics");
    metric(
        &text,
        "sailvol_fuse_requests_total",
        &format!("operation=\"{operation}\""),
    ) as u64
}

#[test]
fn an_opening_brings_the_bytes() {
    let cluster = Cluster::start();
    let pod = committed(&cluster);
    pod.mount("data", &["--metrics", "127.0.0.1:0"]);
    let address = pod.status()["metrics"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        for file in 0..FILES {
            assert_eq!(fs::read(pod.path(name(file))).unwrap(), bytes(file, 0, len(file)));
        }
    }
    assert_eq!(requests(&address, "open"), 2 * FILES as u64);
    assert_eq!(requests(&address, "read"), 0);
    let attributes = requests(&address, "getattr");
    assert!(
        attributes <= 10,
        "{attributes}: what the kernel has got is not asked again"
    );
    pod.umount(&[]);
}

/// Written past the end of what was there.
const LONGER: usize = 5000;

/// What a writer does to a file that others read; gives what the file is then.
fn change(path: &Path, file: usize) -> Vec<u8> {
    let mut written = bytes(file, 1, len(file) + LONGER);
    match file % 3 {
        0 => {
            let open = OpenOptions::new().write(true).open(path).unwrap();
            open.write_all_at(&written, 0).unwrap();
        }
        1 => fs::write(path, &written).unwrap(),
        _ => {
            // By its path: no handle tells of it.
            let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: a path that ends.
            assert_eq!(unsafe { libc::truncate(name.as_ptr(), 100) }, 0);
            written = bytes(file, 0, 100);
        }
    }
    written
}

/// Each file is opened and read by two while a third changes it: whoever opens it afterwards finds what was written.
fn nobody_finds_old_bytes(options: &[&str]) {
    let cluster = Cluster::start();
    let pod = committed(&cluster);
    for _ in 0..4 {
        // Each time with a kernel that knows nothing, on the same base.
        pod.mount("data", options);
        let barrier = Barrier::new(3);
        let read = || {
            let read = |file| {
                barrier.wait();
                fs::read(pod.path(name(file))).map(|found| found.len())
            };
            (0..FILES).map(read).collect::<Vec<_>>()
        };
        let mut wrong = Vec::new();
        std::thread::scope(|scope| {
            let readers = [scope.spawn(read), scope.spawn(read)];
            for file in 0..FILES {
                let path = pod.path(name(file));
                barrier.wait();
                let expected = change(&path, file);
                let found = fs::read(&path).unwrap();
                let told = fs::metadata(&path).unwrap().len();
                if found != expected || told != expected.len() as u64 {
                    wrong.push((file, found.len(), told, expected.len()));
                }
            }
            for reader in readers {
                for found in reader.join().unwrap() {
                    assert!(found.unwrap() <= 5 * 4096 + LONGER);
                }
            }
        });
        assert_eq!(wrong, [], "file, bytes read, bytes told, bytes written");
        pod.reload(&[]);
        for file in 0..FILES {
            let found = fs::read(pod.path(name(file))).unwrap();
            assert!(found == bytes(file, 0, len(file)), "{file} after the reload");
        }
        pod.umount(&[]);
    }
}

#[test]
fn nobody_finds_old_bytes_through_the_daemon() {
    nobody_finds_old_bytes(&["--passthrough", "off"]);
}

#[test]
fn nobody_finds_old_bytes_through_the_kernel() {
    nobody_finds_old_bytes(&[]);
}
