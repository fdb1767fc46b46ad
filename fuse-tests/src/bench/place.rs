//! The server, our mounts, and scratch directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::files::{forget_pages, fresh_dir};
use super::measure::{Sample, measure};
use super::peers::Peers;
use super::report::Report;
use super::settings::{Args, Net, Sizes};
use crate::pod::Pod;
use crate::s3d::{S3d, S3dOptions};

/// Bucket of our volumes.
const OURS: &str = "volumes";
/// Bucket of plain objects, one per file.
pub(super) const PLAIN: &str = "plain";
/// Bucket of restic.
pub(super) const RESTIC: &str = "restic";

/// Everything a workload uses.
pub(super) struct Bench {
    pub sizes: Sizes,
    pub pairs: usize,
    pub nets: Vec<Net>,
    pub python: String,
    pub report: Report,
    pub peers: Peers,
    pub server: S3d,
    credentials: PathBuf,
    volumes: AtomicU64,
    /// Removed last.
    scratch: TempDir,
}

impl Bench {
    pub fn new(args: &Args) -> Result<Bench> {
        let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new()
            .prefix("sailvol-bench-")
            .tempdir_in(&parent)
            .with_context(|| parent.display().to_string())?;
        let server = S3d::start_blocking(S3dOptions {
            data: Some(scratch.path().join("s3d")),
            buckets: [OURS, PLAIN, RESTIC].map(str::to_owned).to_vec(),
            ..S3dOptions::default()
        })?;
        let credentials = server.credentials_file()?;
        Ok(Bench {
            sizes: args.sizes(),
            pairs: args.pairs,
            nets: args.nets()?,
            python: args.python.clone(),
            report: Report::default(),
            peers: Peers::new(&server.endpoint(), &credentials),
            server,
            credentials,
            volumes: AtomicU64::new(1),
            scratch,
        })
    }

    /// How far the store is from now on.
    pub fn set_net(&self, net: Option<Net>) {
        self.server.set(|settings| {
            settings.delay_ms = net.map_or(0, |net| net.delay_ms);
            settings.bandwidth = net.map_or(0, |net| net.bandwidth);
        });
    }

    /// A path in the scratch directory, which lies on the disk that is measured.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The same, made anew as an empty directory.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch(name);
        fresh_dir(&dir)?;
        Ok(dir)
    }

    /// A mount of a new, empty volume.
    pub fn volume(&self) -> Result<Mounted> {
        let number = self.volumes.fetch_add(1, Ordering::Relaxed);
        self.mount_of(&format!("bench-{number}"), &["--create"])
    }

    /// A mount of a volume, from a pod of its own.
    pub fn mount_of(&self, volume: &str, options: &[&str]) -> Result<Mounted> {
        let pod = Pod::new_in(self.scratch.path(), &self.server.url(OURS))
            .env("AWS_SHARED_CREDENTIALS_FILE", &self.credentials.to_string_lossy())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_REGION", "us-east-1");
        let mounted = Mounted {
            pod,
            volume: volume.to_owned(),
        };
        mounted.mount(options);
        Ok(mounted)
    }

    /// Writes back what earlier runs have written, so that it is not done while the next is measured.
    pub fn settle(&self) -> Result<()> {
        rustix::fs::syncfs(std::fs::File::open(self.scratch.path())?)?;
        Ok(())
    }

    /// One run of ours.
    pub fn ours(&self, on: &Mounted, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        let daemons: Vec<u32> = on.pod.daemon().into_iter().collect();
        measure(self, &daemons, || work().map(|()| None))
    }

    /// One run without a daemon of ours.
    pub fn control(&self, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        measure(self, &[], || work().map(|()| None))
    }
}

/// A mounted volume.
pub(super) struct Mounted {
    pub pod: Pod,
    pub volume: String,
}

impl Mounted {
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.pod.path(name)
    }

    pub fn dir(&self) -> PathBuf {
        self.pod.mount_dir()
    }

    fn mount(&self, options: &[&str]) {
        // A short name: control sockets have it in their path, which may have 107 bytes.
        self.pod
            .mount(&self.volume, &[&["--name", "bench"], options].concat());
    }

    /// Commits; the answer.
    pub fn commit(&self) -> Value {
        self.pod.commit("bench")
    }

    /// Mounts again, with nothing cached.
    pub fn remount_cold(&self, options: &[&str]) -> Result<()> {
        self.pod.umount(&[]);
        let cache = self.pod.local_dir("cache");
        for entry in fs::read_dir(&cache)? {
            fs::remove_dir_all(entry?.path())?;
        }
        self.mount(options);
        Ok(())
    }

    /// Mounts again; the cache on disk stays.
    pub fn remount_warm(&self) {
        self.pod.umount(&[]);
        self.mount(&[]);
    }

    /// The kernel forgets all pages, of the mount and of what lies below; names and attributes stay.
    pub fn forget_pages(&self, below: &Path) -> Result<()> {
        forget_pages(below)?;
        for name in ["cache", "state"] {
            forget_pages(&self.pod.local_dir(name))?;
        }
        Ok(())
    }
}
