//! One pod: directories of its own, the mount that lives in them, and what should be seen there.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::model::{Contents, Model};
use super::network::Network;
use super::process::{Handle, Listing, Process, Way};
use crate::answer::{CommitAnswer, CommitRequest, Failure, LocalChanges, ReloadAnswer, ReloadRequest};
use crate::model::Seq;
use crate::mount::{Mount, MountOptions, OpenedMount};
use crate::store::ObjectStore;
use crate::view::Passthrough;

/// Name of the volume.
pub const VOLUME: &str = "v";

/// A command that runs, with what it will answer.
pub struct Command {
    pub task: JoinHandle<Answer>,
    /// The number of its commit, if it is one.
    pub attempt: Option<usize>,
    /// Freezes of this overlay before it began.
    pub freezes: u64,
}

pub enum Answer {
    Opened(Result<OpenedMount, Failure>),
    Committed(Result<CommitAnswer, Failure>),
    Reloaded(LocalChanges, Result<ReloadAnswer, Failure>),
    Restored(u64, Result<ReloadAnswer, Failure>),
    Closed,
}

/// A file that a program has open for writing.
pub struct Held {
    pub handle: Handle,
    /// Handles of one file have one number.
    pub file: usize,
    /// Where it is now; `None`: it was removed or replaced.
    pub path: Option<String>,
    pub content: u32,
}

pub struct Pod {
    pub number: usize,
    pub read_only: bool,
    pub passthrough: bool,
    /// The mount is ending: no program works in it.
    pub closing: bool,
    cache_bytes: u64,
    dir: tempfile::TempDir,
    pub mount: Option<Arc<Mount>>,
    pub command: Option<Command>,
    pub model: Model,
    pub held: Vec<Held>,
    /// Mappings that outlived their handles, by path.
    pub mapped: Vec<(String, File)>,
    /// What the kernel has in memory since the last look.
    remembered: Way,
    /// A directory that somebody has read the beginning of, and the names that were in it then.
    pub listing: Option<(Listing, BTreeSet<String>)>,
}

impl Pod {
    pub fn new(number: usize, model: Model, cache_bytes: u64) -> Pod {
        Pod {
            number,
            read_only: false,
            passthrough: false,
            closing: false,
            cache_bytes,
            dir: super::new_dir(),
            mount: None,
            command: None,
            model,
            held: Vec::new(),
            mapped: Vec::new(),
            remembered: Way::default(),
            listing: None,
        }
    }

    pub fn options(&self) -> MountOptions {
        MountOptions {
            read_only: self.read_only,
            cache_bytes_max: self.cache_bytes,
            ..super::options(self.dir.path(), &format!("pod-{}", self.number))
        }
    }

    pub fn process(&self) -> Process {
        Process::new(self.live().view())
    }

    pub fn live(&self) -> &Arc<Mount> {
        self.mount.as_ref().expect("it is mounted")
    }

    /// It works, and nothing is asked of it.
    pub fn is_idle(&self) -> bool {
        self.mount.is_some() && self.command.is_none()
    }

    fn freezes(&self) -> u64 {
        let overlay = self.mount.as_ref().and_then(|mount| mount.overlay.clone());
        overlay.map_or(0, |overlay| overlay.read().last_commit)
    }

    /// The running commit has frozen the overlay since it began, and nobody has taken note yet.
    pub fn has_frozen(&self) -> Option<usize> {
        let command = self.command.as_ref()?;
        let number = command.attempt?;
        (self.model.attempt != Some(number) && self.freezes() > command.freezes).then_some(number)
    }

    pub fn is_frozen(&self) -> bool {
        let overlay = self.mount.as_ref().and_then(|mount| mount.overlay.clone());
        overlay.is_some_and(|overlay| overlay.read().frozen.is_some())
    }

    fn run(&mut self, attempt: Option<usize>, work: impl Future<Output = Answer> + Send + 'static) {
        assert!(self.command.is_none(), "one at a time");
        self.command = Some(Command {
            freezes: self.freezes(),
            attempt,
            task: tokio::spawn(work),
        });
    }

    // ---- commands

    pub fn open(&mut self, network: &Arc<Network>) {
        self.open_by(network.wire(self.number));
    }

    pub fn open_by(&mut self, store: Arc<dyn ObjectStore>) {
        let options = self.options();
        self.run(
            None,
            async move { Answer::Opened(Mount::open(options, store).await) },
        );
    }

    pub fn opened(&mut self, opened: OpenedMount) {
        let offered = Passthrough {
            clean: self.passthrough,
            bodies: self.passthrough && !self.read_only,
        };
        opened.mount.view().set_passthrough(offered);
        self.mount = Some(opened.mount);
    }

    pub fn commit(&mut self, attempt: usize, timeout_secs: Option<u64>) {
        let mount = self.live().clone();
        let request = CommitRequest {
            message: attempt.to_string(),
            timeout_secs,
            ..CommitRequest::default()
        };
        self.run(Some(attempt), async move {
            Answer::Committed(mount.commit(request, Arc::new(|_| {})).await)
        });
    }

    pub fn reload(&mut self, local: LocalChanges, to: Option<Seq>) {
        let mount = self.live().clone();
        let request = ReloadRequest {
            local,
            to: to.map(crate::answer::RecordAt::Number),
            ..ReloadRequest::default()
        };
        self.run(None, async move {
            Answer::Reloaded(local, mount.reload(request, Arc::new(|_| {})).await)
        });
    }

    pub fn restore(&mut self, stash: u64) {
        let mount = self.live().clone();
        self.run(None, async move {
            Answer::Restored(stash, mount.stash_restore(stash).await)
        });
    }

    /// Files that can be written now.
    pub fn open_paths(&self) -> Vec<String> {
        let held = self.held.iter().filter_map(|held| held.path.clone());
        held.chain(self.mapped.iter().map(|(path, _)| path.clone()))
            .collect()
    }

    /// Programs end: nothing is open.
    pub async fn close_all(&mut self) {
        let process = self.process();
        for held in std::mem::take(&mut self.held) {
            drop(process.close(held.handle).await.expect("close"));
        }
        self.mapped.clear();
        self.live().view().settle_closed();
    }

    /// The mount ends in good order.
    pub fn close(&mut self) {
        let mount = self.live().clone();
        self.run(None, async move {
            mount.close().await;
            Answer::Closed
        });
        self.closing = true;
    }

    /// The daemon is killed: nothing runs any more, what is on disk stays as it is.
    pub fn kill(&mut self) -> impl Fn() -> bool + use<> {
        if let Some(command) = self.command.take() {
            command.task.abort();
        }
        self.closing = false;
        // Programs lose their files with the mount.
        self.held.clear();
        self.mapped.clear();
        self.remembered = Way::default();
        self.listing = None;
        let mount = self.mount.take();
        for task in mount
            .iter()
            .flat_map(|mount| mount.tasks.lock().drain(..).collect::<Vec<_>>())
        {
            task.abort();
        }
        let is_gone = mount.as_deref().map(super::gone);
        move || is_gone.as_ref().is_none_or(|is_gone| is_gone())
    }

    // ---- checks

    /// What is seen is what should be.
    pub async fn check(&mut self, contents: &mut Contents) -> Result<(), String> {
        let process = self.process();
        let looked = process.look_and_remember(contents).await;
        let (seen, remembered) = looked.map_err(|e| format!("looking, pod {}: {e}", self.number))?;
        process.forget(std::mem::replace(&mut self.remembered, remembered));
        super::same(&format!("view of pod {}", self.number), &seen, &self.model.view)?;
        let mut stashes: Vec<u64> = self.live().stashes().iter().map(|stash| stash.id).collect();
        stashes.sort_unstable();
        let should: Vec<u64> = self.model.stashes.keys().copied().collect();
        if stashes != should {
            return Err(format!(
                "stashes of pod {}: {stashes:?}, should be {should:?}",
                self.number
            ));
        }
        for held in &self.held {
            let bytes = self
                .process()
                .read(&held.handle)
                .await
                .map_err(|e| e.to_string())?;
            if contents.number(&bytes) != held.content {
                return Err(format!("open file {:?} of pod {}", held.path, self.number));
            }
        }
        Ok(())
    }
}
