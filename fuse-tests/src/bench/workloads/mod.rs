//! The workloads: what is measured, each with its control and its target.

mod cold;
mod commits;
mod limits;
mod names;
mod small;
mod warm;

use anyhow::{Result, bail};

use super::place::Bench;

/// One or more rows.
#[derive(Clone, Copy)]
pub(super) struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&Bench) -> Result<()>,
}

const ALL: [Workload; 18] = [
    Workload {
        name: "warm-read",
        what: "sequential, random 4 KiB and mmap read of a cached large file, against ext4",
        run: warm::reads,
    },
    Workload {
        name: "warm-write",
        what: "write of a new large file in records of 1 MiB and 4 KiB, random 4 KiB writes, against ext4",
        run: warm::writes,
    },
    Workload {
        name: "warm-create",
        what: "create, write 4 KiB, close, in fresh directories, against ext4",
        run: warm::creates,
    },
    Workload {
        name: "warm-stat",
        what: "stat of cached names, readdir again, against ext4",
        run: names::stats,
    },
    Workload {
        name: "ls-warm",
        what: "ls -lR on a fresh mount with warm node cache, against ext4",
        run: names::ls_warm,
    },
    Workload {
        name: "ls-cold",
        what: "ls -lR with nothing cached, against s5cmd ls",
        run: names::ls_cold,
    },
    Workload {
        name: "cold-read",
        what: "one large file with nothing cached, against s5cmd, s3fs, rclone",
        run: cold::one_file,
    },
    Workload {
        name: "cold-eight",
        what: "eight files at once with nothing cached, against s5cmd",
        run: cold::eight_files,
    },
    Workload {
        name: "cold-random",
        what: "random 4 KiB reads with nothing cached: requests",
        run: cold::random,
    },
    Workload {
        name: "commit-big",
        what: "commit of a new large file, against s5cmd",
        run: commits::big,
    },
    Workload {
        name: "commit-files",
        what: "write and commit of small files, against s5cmd and restic",
        run: commits::files,
    },
    Workload {
        name: "commit-change",
        what: "4 KiB changed in a committed large file, 1 MiB appended: requests and bytes",
        run: commits::changes,
    },
    Workload {
        name: "small-read",
        what: "small files with nothing cached, in name order and random order, against a tar, s3fs, rclone",
        run: small::read,
    },
    Workload {
        name: "small-import",
        what: "import numpy from an environment with nothing cached, against a tar, s3fs, rclone",
        run: small::import,
    },
    Workload {
        name: "git-status",
        what: "git status in a fresh mount of a committed repository: contents read",
        run: small::git_status,
    },
    Workload {
        name: "reload",
        what: "reload: nothing new, and many changes with many cached names",
        run: names::reload,
    },
    Workload {
        name: "memory",
        what: "peak memory: names looked up, bytes copied",
        run: limits::memory,
    },
    Workload {
        name: "cache-cap",
        what: "the cache's size while ten times its cap is read",
        run: limits::cap,
    },
];

/// Workloads by beginnings of their names; all when nothing is named.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Workload>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    for name in names {
        if !ALL
            .iter()
            .any(|workload| workload.name.starts_with(name.as_str()))
        {
            bail!("no workload is called {name}; --list says which there are");
        }
    }
    let wanted = |workload: &&Workload| names.iter().any(|name| workload.name.starts_with(name.as_str()));
    Ok(ALL.iter().filter(wanted).copied().collect())
}
