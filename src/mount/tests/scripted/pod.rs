//! A mount with its directories and a process that works in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::shown;
use crate::answer::{CommitAnswer, CommitRequest, Failure, LocalChanges, ReloadAnswer, ReloadRequest};
use crate::model::VolumeId;
use crate::mount::tests::{gone, new_dir, options};
use crate::mount::{Mount, MountOptions, ProgressSink};
use crate::view::tests::model::Fs;
use crate::view::tests::side::Side;
use crate::view::tests::source::TestClock;
use crate::volume::testing::ScriptedStore;

pub fn quiet() -> ProgressSink {
    Arc::new(|_| {})
}

/// Where the journal of the live overlay ends: overlay, inode of the file, bytes.
pub type JournalEnd = (u64, u64, u64);

pub struct Pod {
    pub mount: Arc<Mount>,
    pub side: Side,
    pub dir: tempfile::TempDir,
    pub name: String,
    pub warnings: Vec<String>,
}

impl Pod {
    /// Mounts the volume `v`, made if it is not there.
    pub async fn open(store: &Arc<ScriptedStore>, dir: tempfile::TempDir, name: &str, fs: Fs) -> Pod {
        let options = options(dir.path(), name);
        Pod::open_with(store, dir, options, fs).await
    }

    /// The same, with other options.
    pub async fn open_with(
        store: &Arc<ScriptedStore>,
        dir: tempfile::TempDir,
        options: MountOptions,
        fs: Fs,
    ) -> Pod {
        let name = options.name.clone();
        let options = MountOptions {
            remote_timeout: Duration::from_secs(30),
            open_timeout: Duration::from_secs(30),
            ..options
        };
        let opened = Mount::open(options, store.clone()).await;
        let opened = opened.unwrap_or_else(|e| panic!("{e}"));
        let mount = opened.mount;
        let mut side = Side::new(fs, Arc::new(TestClock::default()));
        side.view = Some(mount.view());
        side.large = false;
        Pod {
            mount,
            side,
            dir,
            name,
            warnings: opened.warnings,
        }
    }

    pub async fn fresh(store: &Arc<ScriptedStore>, name: &str, fs: Fs) -> Pod {
        Pod::open(store, new_dir(), name, fs).await
    }

    /// Ends it as an unmount does; gives back the directories.
    pub async fn close(self) -> tempfile::TempDir {
        let Pod {
            mount, mut side, dir, ..
        } = self;
        side.release_all();
        mount.close().await;
        let view = side.view.take();
        drop((side, view));
        let is_gone = gone(&mount);
        drop(mount);
        while !is_gone() {
            tokio::task::yield_now().await;
        }
        dir
    }

    pub async fn seen(&self) -> shown::Shown {
        shown::view(&self.side).await
    }

    pub async fn commit(&self) -> Result<CommitAnswer, Failure> {
        self.mount.commit(CommitRequest::default(), quiet()).await
    }

    pub async fn reload(&self, local: LocalChanges) -> Result<ReloadAnswer, Failure> {
        self.mount.reload(reload_request(local), quiet()).await
    }

    fn volume_dir(&self, id: VolumeId) -> PathBuf {
        self.dir.path().join("state").join(id.to_string())
    }

    pub fn is_clean(&self) -> bool {
        self.mount.overlay.as_ref().unwrap().read().is_clean()
    }

    pub fn journal_end(&self) -> JournalEnd {
        let number = self.mount.overlay.as_ref().unwrap().number();
        let path = journal_in(&self.volume_dir(self.mount.volume.id()), number);
        let stat = rustix::fs::stat(&path).unwrap();
        (number, stat.st_ino, u64::try_from(stat.st_size).unwrap())
    }

    /// What a `kill -9` now leaves on disk.
    pub fn copy_state(&self) -> (tempfile::TempDir, JournalEnd) {
        loop {
            let before = self.journal_end();
            let dir = new_dir();
            copy_dir(&self.dir.path().join("state"), &dir.path().join("state"));
            // Threads of the overlay tidy up meanwhile.
            if self.journal_end() == before {
                return (dir, before);
            }
        }
    }

    /// Copies bodies and kept bytes of one copied state directory to another, as far as they are not there.
    pub fn keep_files(&self, from: &Path, to: &Path) {
        let id = self.mount.volume.id();
        let [from, to] = [from, to].map(|dir| dir.join("state").join(id.to_string()));
        for kind in ["bodies", "base"] {
            if from.join(kind).is_dir() {
                copy_missing(&from.join(kind), &to.join(kind), false);
            }
        }
    }

    /// Cuts a copied state's journal.
    pub fn cut(&self, dir: &Path, overlay: u64, len: u64) {
        let path = journal_in(
            &dir.join("state").join(self.mount.volume.id().to_string()),
            overlay,
        );
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(len).unwrap();
    }

    /// Ends of the journal's frames in a copied state, from the end of one on.
    pub fn frame_ends(&self, dir: &Path, overlay: u64, from: u64) -> Vec<u64> {
        let path = journal_in(
            &dir.join("state").join(self.mount.volume.id().to_string()),
            overlay,
        );
        let bytes = std::fs::read(path).unwrap();
        let mut at = usize::try_from(from).unwrap();
        let mut ends = vec![from];
        while let Some(len) = bytes.get(at..at + 4) {
            // Length, sequence number, payload, checksum.
            at += u32::from_le_bytes(len.try_into().unwrap()) as usize + 16;
            ends.push(at as u64);
        }
        assert_eq!(*ends.last().unwrap(), bytes.len() as u64, "whole frames");
        ends
    }
}

pub fn reload_request(local: LocalChanges) -> ReloadRequest {
    ReloadRequest {
        local,
        ..ReloadRequest::default()
    }
}

fn journal_in(volume_dir: &Path, overlay: u64) -> PathBuf {
    volume_dir.join(format!("overlay-{overlay}/journal"))
}

pub fn copy_dir(from: &Path, to: &Path) {
    copy_missing(from, to, true);
}

/// Copies what is not there, or all.
fn copy_missing(from: &Path, to: &Path, all: bool) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        // What the overlay deletes meanwhile is not needed any more.
        match std::fs::symlink_metadata(&from) {
            Ok(found) if found.is_dir() => copy_missing(&from, &to, all),
            Ok(_) if !all && to.exists() => {}
            Ok(_) => match std::fs::copy(&from, &to) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => panic!("{}: {e}", from.display()),
        }
    }
}
