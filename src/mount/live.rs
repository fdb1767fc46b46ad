//! The mount. Signatures; the bodies are being filled in.
#![allow(clippy::unimplemented, unused_variables)]
use super::*;
use crate::store::ObjectStore;
use crate::view::View;
use std::sync::Arc;

/// Takes progress; may be called often and from any thread.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// One live mount.
#[derive(Debug)]
pub struct Mount {}

impl Mount {
    pub async fn open(options: MountOptions, store: Arc<dyn ObjectStore>) -> Result<OpenedMount, Failure> {
        unimplemented!()
    }
    pub fn view(&self) -> Arc<View> {
        unimplemented!()
    }
    pub fn attach_kernel(&self, kernel: Box<dyn KernelCaches>) {
        unimplemented!()
    }
    pub fn store_description(&self) -> String {
        unimplemented!()
    }
    pub fn summary(&self) -> MountSummary {
        unimplemented!()
    }
    pub async fn commit(
        &self,
        request: CommitRequest,
        progress: ProgressSink,
    ) -> Result<CommitAnswer, Failure> {
        unimplemented!()
    }
    pub async fn reload(
        &self,
        request: ReloadRequest,
        progress: ProgressSink,
    ) -> Result<ReloadAnswer, Failure> {
        unimplemented!()
    }
    pub async fn status(&self, ask_store: bool) -> Result<StatusAnswer, Failure> {
        unimplemented!()
    }
    pub async fn diff(&self, limit: usize) -> Result<DiffAnswer, Failure> {
        unimplemented!()
    }
    pub async fn log(&self, limit: usize) -> Result<Vec<LogEntry>, Failure> {
        unimplemented!()
    }
    pub fn stashes(&self) -> Vec<StashSummary> {
        unimplemented!()
    }
    pub async fn stash_show(&self, id: u64, limit: usize) -> Result<DiffAnswer, Failure> {
        unimplemented!()
    }
    pub async fn stash_restore(&self, id: u64) -> Result<ReloadAnswer, Failure> {
        unimplemented!()
    }
    pub async fn stash_drop(&self, id: u64) -> Result<(), Failure> {
        unimplemented!()
    }
    pub async fn prefetch(
        &self,
        path: &str,
        force: bool,
        progress: ProgressSink,
    ) -> Result<PrefetchAnswer, Failure> {
        unimplemented!()
    }
    pub async fn close(&self) {
        unimplemented!()
    }
}
