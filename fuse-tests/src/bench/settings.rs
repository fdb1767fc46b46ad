//! What is measured, and how large.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// sailvol against ext4, s5cmd, rclone, s3fs and restic, on an S3 server of its own on loopback.
#[derive(Clone, Debug, clap::Parser)]
pub struct Args {
    /// Workloads or beginnings of their names; all of them by default
    pub workloads: Vec<String>,
    /// Says which workloads there are
    #[arg(long)]
    pub list: bool,
    /// A hundredth of the size: to see that everything works
    #[arg(long)]
    pub small: bool,
    /// Pairs of runs
    #[arg(long, default_value_t = 3)]
    pub pairs: usize,
    /// Networks: `free` (no delay), `delay` (30 ms a request), `link` (30 ms and 200 MB/s)
    #[arg(long, value_delimiter = ',', default_value = "free,delay,link")]
    pub net: Vec<String>,
    /// Where files go: on the kind of disk that is to be measured, with some GiB free
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Also writes the rows as JSON lines
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Serves the empty file system there: how this program starts one of its controls
    #[arg(long, hide = true)]
    pub serve_empty: Option<PathBuf>,
    /// The python3 whose `venv` and `pip` make the environment with numpy
    #[arg(long, default_value = "python3")]
    pub python: String,
}

/// How far the store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Net {
    pub name: &'static str,
    /// Before every answer, milliseconds.
    pub delay_ms: u64,
    /// Shared by both directions, bytes per second; 0 is no limit.
    pub bandwidth: u64,
}

/// No delay.
pub(super) const FREE: Net = Net {
    name: "free",
    delay_ms: 0,
    bandwidth: 0,
};
/// Another zone.
pub(super) const DELAY: Net = Net {
    name: "delay",
    delay_ms: 30,
    bandwidth: 0,
};
/// Another zone, over a link.
pub(super) const LINK: Net = Net {
    name: "link",
    delay_ms: 30,
    bandwidth: 200_000_000,
};

impl Args {
    pub(super) fn nets(&self) -> Result<Vec<Net>> {
        let known = |name: &String| match [FREE, DELAY, LINK].into_iter().find(|net| net.name == *name) {
            Some(net) => Ok(net),
            None => bail!("no network is called {name}: free, delay, link"),
        };
        self.net.iter().map(known).collect()
    }

    pub(super) fn sizes(&self) -> Sizes {
        if self.small { Sizes::SMALL } else { Sizes::FULL }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The large file, bytes.
    pub big: u64,
    /// Each of eight, bytes.
    pub eighth: u64,
    /// Random reads or writes.
    pub accesses: u64,
    /// Small files, and many of them.
    pub files: u64,
    pub many: u64,
    /// Files created in the row about creating.
    pub created: u64,
    /// Names that are listed and looked up.
    pub names: u64,
    /// Names looked up in the row about memory.
    pub lookups: u64,
    /// Copied through the mount in the row about memory, bytes.
    pub copied: u64,
    /// The cache's cap in its row, bytes.
    pub cap: u64,
}

impl Sizes {
    const FULL: Sizes = Sizes {
        big: 1 << 30,
        eighth: 128 << 20,
        accesses: 500,
        files: 10_000,
        many: 100_000,
        created: 20_000,
        names: 100_000,
        lookups: 1_000_000,
        copied: 4 << 30,
        cap: 256 << 20,
    };
    const SMALL: Sizes = Sizes {
        big: 48 << 20,
        eighth: 9 << 20,
        accesses: 50,
        files: 300,
        many: 1000,
        created: 300,
        names: 2000,
        lookups: 5000,
        copied: 128 << 20,
        cap: 32 << 20,
    };
}

/// Files of a directory.
pub(super) const DIR_FILES: u64 = 100;
/// A small file, bytes.
pub(super) const SMALL_BYTES: usize = 4096;
