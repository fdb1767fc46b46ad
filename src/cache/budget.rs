//! How much memory bytes on their way may take.

use std::path::Path;

/// Most of it, bytes: nine groups of frames ahead, at 30 ms three times what a link of 1 GB/s has under way. With 128 MiB
/// a copy was no faster (32, 64 and 96 took less processor time), and took 50 MiB more.
const BYTES_MAX: u64 = 96 << 20;
/// Least of it, bytes: two groups of frames.
const BYTES_MIN: u64 = 16 << 20;
/// In a small cgroup this part of its limit: page cache, nodes and the program itself live there too.
const CGROUP_SHARE: u64 = 8;

/// Bytes that fetches may hold at a time: 96 MiB, less in a cgroup of less than 1 GiB.
pub(super) fn memory_budget() -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_limit(Path::new("/sys/fs/cgroup"), &own);
    limit.map_or(BYTES_MAX, |limit| {
        (limit / CGROUP_SHARE).clamp(BYTES_MIN, BYTES_MAX)
    })
}

/// The least memory limit of a process's cgroup and those above it, bytes. `own` is its `/proc/self/cgroup`; both versions
/// of the hierarchy are looked at, and what cannot be read limits nothing.
fn cgroup_limit(root: &Path, own: &str) -> Option<u64> {
    let limits = own.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (top, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let dirs = Path::new(path.trim_start_matches('/')).ancestors();
        // "max", and a missing file, are no number.
        let read = |dir: &Path| std::fs::read_to_string(top.join(dir).join(file)).ok();
        dirs.filter_map(|dir| read(dir)?.trim().parse().ok()).collect()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts_in_both_hierarchies() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("pods/one/memory.max", "max\n");
        write("pods/memory.max", "536870912\n");
        write("memory/old/memory.limit_in_bytes", "300\n");
        assert_eq!(cgroup_limit(dir.path(), "0::/pods/one\n"), Some(512 << 20));
        assert_eq!(cgroup_limit(dir.path(), "0::/\n"), None);
        assert_eq!(
            cgroup_limit(dir.path(), "4:cpu:/x\n3:hugetlb,memory:/old\n0::/\n"),
            Some(300)
        );
    }

    #[test]
    fn the_budget_is_within_its_bounds() {
        assert!((BYTES_MIN..=BYTES_MAX).contains(&memory_budget()));
    }
}
