//! What a mount tells about itself: status, diff, log, stashes, prefetch.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt, TryStreamExt};

use super::live::ProgressSink;
use super::local::local_tree;
use super::reload::{open_stash, summary};
use super::{Counts, Mount};
use crate::answer::{
    CacheStatus, ChangeKind, ChangedPath, DiffAnswer, Failure, FailureKind, LogEntry, PrefetchAnswer,
    Progress, RecordAt, StashSummary, StatusAnswer, TransferStatus,
};
use crate::cache::CacheStats;
use crate::model::{
    Content, DirTree, Entry, EntryBody, GivenPath, Seq, TreeRoot, VolPath, format_bytes, show,
};
use crate::store::StoreCounters;
use crate::tree::{self, Change, Hint, NodeSource};
use crate::view::{BaseHold, Standing};

/// Paths that an answer lists at most when nobody says how many.
pub(super) const LISTED_MAX: usize = 1000;
/// Time for the store to tell the newest record to `status`.
const STATUS_TIME: Duration = Duration::from_secs(3);
/// Files that a prefetch brings at the same time.
const PREFETCHES_AT_ONCE: usize = 16;

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// Everything that is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// The state, without asking the store.
    pub status: StatusAnswer,
    /// Requests to the store by verb.
    pub store: StoreCounters,
    /// The cache.
    pub cache: CacheStats,
    /// Commands.
    pub counts: Counts,
}

impl Mount {
    /// The state at a glance. Never waits for the store for more than 3 s, and not at all unless asked to.
    ///
    /// # Errors
    /// The state directory cannot be looked at.
    pub async fn status(&self, ask_store: bool) -> Result<StatusAnswer, Failure> {
        let mut head_error = None;
        if ask_store {
            let (known, _) = self.known_head();
            match tokio::time::timeout(STATUS_TIME, self.volume.refresh(&known)).await {
                Ok(Ok(refreshed)) => self.learn_head(&refreshed.head),
                Ok(Err(error)) => head_error = Some(error.to_string()),
                Err(_) => head_error = Some("the store does not answer".to_owned()),
            }
        }
        let (head, asked) = self.known_head();
        let base = self.base_ref();
        let cache = self.source.cache().stats();
        let counters = self.counting.counters();
        let mut warnings = self.warnings.clone();
        let (mut dirty_bytes, mut stashes) = (0, 0);
        if let Some(overlay) = &self.overlay {
            let disk = overlay.disk().map_err(failed)?;
            dirty_bytes = disk.body_bytes;
            stashes = overlay.stashes().len() as u64;
            if disk.available < 64 << 20 {
                warnings.push("the state directory's disk is nearly full: writes will fail".to_owned());
            }
        }
        Ok(StatusAnswer {
            volume: self.volume_name.clone(),
            volume_id: self.volume.id(),
            store: self.store_description(),
            dir: show(self.options.dir.as_os_str().as_encoded_bytes()),
            name: self.options.name.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.started.elapsed().as_secs(),
            read_only: self.overlay.is_none(),
            base: base.seq,
            base_record: base.record,
            head: Some(head.seq()),
            head_age_secs: Some(asked.as_secs()),
            head_error,
            unshown: self.unshown(),
            dirty: self.dirty_count(),
            dirty_bytes,
            stashes,
            busy: self.running().map(str::to_owned),
            cache: CacheStatus {
                used_bytes: cache.bytes_used,
                max_bytes: cache.bytes_max,
                hits: cache.hits,
                misses: cache.misses,
            },
            transfers: TransferStatus {
                requests: counters.calls(),
                received_bytes: counters.bytes_received(),
                sent_bytes: counters.bytes_sent(),
                errors: counters.failed(),
                last_error: cache.last_error,
            },
            behind_secs: self.behind().map(|time| time.as_secs()),
            offline_secs: self.counting.offline().map(|time| time.as_secs()),
            passthrough: self.passthrough_explained(),
            autocommit: self.autocommit_status(),
            autoreload: self.autoreload_status(),
            last_failure: self.last_failure(),
            lacks: Vec::new(),
            metrics: None,
            warnings,
        })
    }

    /// All numbers; never asks the store.
    ///
    /// # Errors
    /// The state directory cannot be looked at.
    pub async fn statistics(&self) -> Result<Statistics, Failure> {
        Ok(Statistics {
            status: self.status(false).await?,
            store: self.counting.counters(),
            cache: self.source.cache().stats(),
            counts: self.counts(),
        })
    }

    /// Bytes of uncommitted files on local disk, as far as they can be told.
    pub(super) fn dirty_bytes(&self) -> u64 {
        let disk = self.overlay.as_ref().and_then(|overlay| overlay.disk().ok());
        disk.map_or(0, |disk| disk.body_bytes)
    }

    /// What a commit would publish.
    ///
    /// # Errors
    /// Parts of the base that are needed cannot be fetched.
    pub async fn diff(&self, limit: usize) -> Result<DiffAnswer, Failure> {
        self.diff_below(None, limit).await
    }

    /// The same at and below a path, as somebody gave it.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] when nothing of that name is there, nor was in the base.
    pub async fn diff_below(&self, below: Option<&str>, limit: usize) -> Result<DiffAnswer, Failure> {
        let Some(overlay) = &self.overlay else {
            let base = self.view.base();
            self.place(below, (&base, &base)).await?;
            return Ok(DiffAnswer::default());
        };
        self.catch_up().await;
        self.view.settle().map_err(failed)?;
        let Standing { base, state } = self.view.standing();
        let mine = local_tree(&*self.source, overlay, &base, &state, overlay.number()).await?;
        let trees = (&*base, &mine.tree);
        let place = self.place(below, trees).await?;
        list_changes(&*self.source, trees, &mine.moves, place.as_ref(), limit).await
    }

    /// The path that somebody gave, in one of two trees; `None` for all of them.
    async fn place(
        &self,
        given: Option<&str>,
        (old, new): (&TreeRoot, &TreeRoot),
    ) -> Result<Option<VolPath>, Failure> {
        let Some(given) = given else { return Ok(None) };
        let given = given_path(given)?;
        let src = &*self.source;
        for tree in [new, old] {
            let path = tree::path_given(src, tree, &given).await?;
            if tree::walk(src, tree, &path).await?.is_some() {
                return Ok((!path.0.is_empty()).then_some(path));
            }
        }
        Err(not_found(&given.meant()))
    }

    /// The number of a record that somebody named.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] for one before the first.
    pub(super) fn number_of(&self, at: RecordAt) -> Result<Seq, Failure> {
        let base = self.base_ref().seq;
        match at {
            RecordAt::Number(seq) => Ok(seq),
            RecordAt::Back(back) => base.checked_sub(back).ok_or_else(|| {
                let text = format!("the mount stands on record {base}: there is none {back} before it");
                Failure::new(FailureKind::NotFound, text).hint("`sailvol log` lists the newest records")
            }),
        }
    }

    /// What differs between two records that the volume keeps; `to` is by default the record that the view stands on.
    ///
    /// # Errors
    /// A record is not kept; parts of the trees that are needed cannot be fetched.
    pub async fn diff_records(
        &self,
        (from, to): (RecordAt, Option<RecordAt>),
        below: Option<&str>,
        limit: usize,
    ) -> Result<DiffAnswer, Failure> {
        let from = self.number_of(from)?;
        let to = self.number_of(to.unwrap_or(RecordAt::Back(0)))?;
        self.look_for_head().await?;
        let (head, _) = self.known_head();
        let old = self.volume.record(&head, from).await?;
        let new = self.volume.record(&head, to).await?;
        let trees = (&old.record.root.root, &new.record.root.root);
        let place = self.place(below, trees).await?;
        // Which moves led from one to the other is not known: a moved path is a removed and an added one.
        list_changes(&*self.source, trees, &[], place.as_ref(), limit).await
    }

    /// The newest records.
    ///
    /// # Errors
    /// What the store says.
    pub async fn log(&self, limit: usize) -> Result<Vec<LogEntry>, Failure> {
        self.look_for_head().await?;
        let (head, _) = self.known_head();
        Ok(self
            .volume
            .log(&head, limit)
            .await?
            .iter()
            .map(log_entry)
            .collect())
    }

    /// The stashes, newest first.
    pub fn stashes(&self) -> Vec<StashSummary> {
        self.overlay
            .iter()
            .flat_map(|overlay| overlay.stashes())
            .map(|stash| summary(&stash))
            .collect()
    }

    /// What a stash would change.
    ///
    /// # Errors
    /// No such stash; parts of its base cannot be fetched.
    pub async fn stash_show(&self, id: u64, limit: usize) -> Result<DiffAnswer, Failure> {
        let overlay = self.writable()?;
        let state = Arc::new(open_stash(overlay, id)?);
        let (known, _) = self.known_head();
        // It may be dropped meanwhile.
        let _hold = self.kept.as_ref().map(|kept| kept.hold(&state.base));
        let base = super::kept::load_base(overlay, &self.volume, &known, &state.base).await?;
        let mine = local_tree(&*self.source, overlay, &base, &state, id).await?;
        list_changes(&*self.source, (&base, &mine.tree), &mine.moves, None, limit).await
    }

    /// Deletes a stash.
    ///
    /// # Errors
    /// No such stash; the state directory refuses.
    pub async fn stash_drop(&self, id: u64) -> Result<(), Failure> {
        let overlay = self.writable()?.clone();
        let _turn = self.exclusive("a stash drop", false, None).await?;
        open_stash(&overlay, id)?;
        overlay.drop_stash(id).map_err(failed)?;
        self.drop_unneeded()
    }

    /// Brings the bytes below a path into the cache.
    ///
    /// # Errors
    /// No such path; more than the cache can hold, unless forced; what the store says.
    pub async fn prefetch(
        &self,
        path: &str,
        force: bool,
        progress: ProgressSink,
    ) -> Result<PrefetchAnswer, Failure> {
        let given = given_path(path)?;
        let src = &*self.source;
        let (root, _hold) = self.visible_tree().await?;
        let path = tree::path_given(src, &root, &given).await?;
        let entry = tree::walk(src, &root, &path).await?;
        let entry = entry.ok_or_else(|| not_found(&path))?;
        let mut answer = PrefetchAnswer::default();
        let mut missing: Vec<(Content, u64)> = Vec::new();
        collect_files(src, &root, entry, |content, size| {
            answer.files += 1;
            answer.bytes += size;
            // What a node or the overlay holds is here already.
            let is_here = matches!(content, Content::Local(_) | Content::Tiny(_))
                || src.cache().contains_fully(&content, size);
            if !is_here {
                missing.push((content, size));
            }
        })
        .await?;
        let wanted: u64 = missing.iter().map(|(_, size)| size).sum();
        let stats = src.cache().stats();
        let room = self.cache_room(&stats);
        if wanted > room && !force {
            let text = format!(
                "{} are to be fetched, and the cache has room for {}: at most {} (--cache-size), {} free on its disk, of \
                 which {} stay free (--cache-floor); nothing was fetched",
                format_bytes(wanted),
                format_bytes(room),
                format_bytes(stats.bytes_max),
                format_bytes(self.cache_disk_free()),
                format_bytes(self.options.cache_free_floor_bytes),
            );
            return Err(Failure::new(FailureKind::Refused, text)
                .hint("mount with a larger --cache-size or on a larger disk, name less, or use --force to fetch what fits"));
        }
        let mut told = Progress {
            stage: "fetching".into(),
            total_files: missing.len() as u64,
            total_bytes: wanted,
            ..Progress::default()
        };
        let cache = src.cache();
        let mut fetches = futures::stream::iter(missing)
            .map(|(content, size)| async move { cache.prefetch(&content, size).await.map(|_| size) })
            .buffer_unordered(PREFETCHES_AT_ONCE);
        while let Some(size) = fetches.try_next().await? {
            told.done_files += 1;
            told.done_bytes += size;
            progress(told.clone());
        }
        drop(fetches);
        Ok(answer)
    }

    /// Clean bytes that the cache could hold if all that is in it now went.
    fn cache_room(&self, stats: &CacheStats) -> u64 {
        let usable = self
            .cache_disk_free()
            .saturating_sub(self.options.cache_free_floor_bytes);
        stats.bytes_max.min(stats.bytes_used + usable)
    }

    fn cache_disk_free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.options.cache_dir);
        // A file system that does not tell is tried.
        disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// What the mount shows, as one tree, and what keeps it readable.
    async fn visible_tree(&self) -> Result<(TreeRoot, BaseHold), Failure> {
        let Standing { base, state } = self.view.standing();
        let tree = match &self.overlay {
            Some(overlay) => {
                local_tree(&*self.source, overlay, &base, &state, overlay.number())
                    .await?
                    .tree
            }
            None => base.clone().into_tree(),
        };
        Ok((tree, base.hold().clone()))
    }
}

/// Tells content and size of each file below an entry.
async fn collect_files(
    src: &dyn NodeSource,
    root: &TreeRoot,
    entry: Entry,
    mut tell: impl FnMut(Content, u64),
) -> Result<(), Failure> {
    let mut pending = vec![entry];
    while let Some(entry) = pending.pop() {
        match tree::inode_of(src, &root.links, entry).await?.body {
            EntryBody::File { size, content } => tell(content, size),
            EntryBody::Dir { tree, .. } => {
                pending.extend(
                    tree::entries(src, &tree)
                        .await?
                        .into_iter()
                        .map(|(_, child)| child),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// The path that a client gave.
fn given_path(text: &str) -> Result<GivenPath, Failure> {
    let bad = |e| {
        Failure::new(
            FailureKind::Usage,
            format!("{text:?} is no path in a volume: {e}"),
        )
    };
    GivenPath::parse(text.as_bytes()).map_err(bad)
}

fn not_found(path: &VolPath) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("{path}: no such file or directory"),
    )
}

/// What differs between an old and a new tree, at and below a place.
pub(super) async fn list_changes(
    src: &dyn NodeSource,
    (base, mine): (&TreeRoot, &TreeRoot),
    moves: &[Hint],
    below: Option<&VolPath>,
    limit: usize,
) -> Result<DiffAnswer, Failure> {
    let mut answer = DiffAnswer::default();
    let mut added_dirs: Vec<(VolPath, DirTree)> = Vec::new();
    let is_asked = |path: &VolPath| below.is_none_or(|place| path.is_under(place));
    // Something asked for lies below: the place itself, or what moved away from there.
    let leads = |path: &VolPath| {
        let moved = || moves.iter().any(|(from, to)| is_asked(from) && to.is_under(path));
        below.is_some_and(|place| place.is_under(path) || moved())
    };
    let mut list = |path: &VolPath, change: &Change| {
        let left = moves.iter().find(|(_, to)| to == path).map(|(from, _)| from);
        if !is_asked(path) && !left.is_some_and(&is_asked) {
            if let Change::Added(entry) = change
                && let (EntryBody::Dir { tree, .. }, true) = (&entry.body, leads(path))
            {
                added_dirs.push((path.clone(), tree.clone()));
            }
            // What was in a directory went with it.
            if let (Change::Removed(_), Some(place)) = (change, below)
                && place.is_under(path)
            {
                answer.changes.push(ChangedPath {
                    path: place.to_string(),
                    change: ChangeKind::Removed,
                    came_from: None,
                    size: None,
                });
            }
            return ControlFlow::Continue(());
        }
        if answer.changes.len() >= limit {
            answer.truncated = true;
            return ControlFlow::Break(());
        }
        if let Change::Changed { new, registers, .. } = change
            && new.is_dir()
            && !(registers.mode || registers.owner || registers.xattrs)
        {
            // Something in it changed: that is listed by itself.
            return ControlFlow::Continue(());
        }
        let came_from = left.map(ToString::to_string);
        if moves.iter().any(|(from, _)| from == path) && matches!(change, Change::Removed(_)) {
            // The other end of a move says it.
            return ControlFlow::Continue(());
        }
        let (kind, entry) = match change {
            Change::Added(entry) if came_from.is_some() => (ChangeKind::Moved, entry),
            Change::Added(entry) => {
                if let EntryBody::Dir { tree, .. } = &entry.body {
                    added_dirs.push((path.clone(), tree.clone()));
                }
                (ChangeKind::Added, entry)
            }
            Change::Removed(entry) => (ChangeKind::Removed, entry),
            Change::Changed { new, registers, .. } if registers.content => (ChangeKind::Modified, new),
            Change::Changed { new, .. } => (ChangeKind::Attributes, new),
        };
        let size = match &entry.body {
            EntryBody::File { size, .. } if kind != ChangeKind::Removed => Some(*size),
            _ => None,
        };
        let slash = if entry.is_dir() && !path.0.is_empty() {
            "/"
        } else {
            ""
        };
        answer.changes.push(ChangedPath {
            path: format!("{path}{slash}"),
            change: kind,
            came_from,
            size,
        });
        ControlFlow::Continue(())
    };
    tree::diff(src, base, mine, &mut list).await?;
    // What is in new directories.
    while let Some((path, dir)) = added_dirs.pop() {
        for (name, entry) in tree::entries(src, &dir).await? {
            let at = path.join(&name);
            let left = moves.iter().find(|(_, to)| *to == at).map(|(from, _)| from);
            let asked = is_asked(&at) || left.is_some_and(&is_asked);
            if !asked && !leads(&at) {
                continue;
            }
            if answer.changes.len() >= limit {
                answer.truncated = true;
                break;
            }
            let came_from = left.map(ToString::to_string);
            let change = if came_from.is_some() {
                ChangeKind::Moved
            } else {
                ChangeKind::Added
            };
            let size = match &entry.body {
                EntryBody::File { size, .. } => Some(*size),
                _ => None,
            };
            let slash = if entry.is_dir() { "/" } else { "" };
            if asked {
                answer.changes.push(ChangedPath {
                    path: format!("{at}{slash}"),
                    change,
                    came_from,
                    size,
                });
            }
            if let (EntryBody::Dir { tree, .. }, ChangeKind::Added) = (entry.body, change) {
                added_dirs.push((at, tree));
            }
        }
    }
    answer.changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(answer)
}

pub(super) fn log_entry(logged: &crate::volume::LoggedRecord) -> LogEntry {
    let record = &logged.record;
    LogEntry {
        seq: record.seq,
        record: logged.hash,
        kind: format!("{:?}", record.kind).to_lowercase(),
        time: record.time.secs,
        by: record.by.clone(),
        message: record.message.clone(),
        files: record.root.root.totals.files,
        bytes: record.root.root.bytes(),
    }
}
