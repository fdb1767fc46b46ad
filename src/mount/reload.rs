//! `reload` and stash restore: the view on another base, in one step.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Mount;
use super::compare::Compared;
use super::kept::{keep_record, load_base};
use super::live::{Exclusive, ProgressSink};
use super::open::base_of;
use super::unshown::Stood;
use crate::answer::overwritten;
use crate::answer::{
    Failure, FailureKind, LocalChanges, OverwrittenPath, Progress, RecordAt, ReloadAnswer, ReloadRequest,
    StashSummary,
};
use crate::commit::{Target, build, carry_over, restore};
use crate::model::{
    Attrs, Content, DirTree, Entry, EntryBody, LinkInode, LocalContent, Totals, TreeRoot, VolPath,
    format_count,
};
use crate::overlay::{BaseRef, NodeBody, NodeId, Overlay, OverlayState, StashInfo};
use crate::tree::{self, NodeSource};
use crate::view::{HeldBase, OpenForWrite, Standing, ViewError};
use crate::volume::{Clock, LoggedRecord};

/// A reload that keeps local changes starts again when something was changed meanwhile, this often.
const TRIES: usize = 50;
/// Longest wait for the store, when a commit of unknown outcome has to be settled before a stash is restored.
const SETTLE_TIME: Duration = Duration::from_secs(30);

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// Why the step to the new base did not happen.
enum Switch {
    /// The overlay was changed since the new state was made.
    Changed,
    Failed(Failure),
}

impl From<ViewError> for Switch {
    fn from(error: ViewError) -> Switch {
        Switch::Failed(failed(error))
    }
}

/// What the mount shows while a new overlay is made.
struct Live {
    state: Arc<OverlayState>,
    /// Its generation.
    from: u64,
    base: HeldBase,
    compared: Compared,
}

/// A new overlay, ready to be stood on.
struct Prepared {
    state: OverlayState,
    /// Generation of the state that it was made from.
    from: u64,
    /// What that took for unchanged.
    compared: Compared,
    /// The same of a stash, which nothing has open.
    put_away: Option<Compared>,
    overwrote: Vec<OverwrittenPath>,
}

impl Mount {
    /// Moves the view to the newest record, or another.
    ///
    /// # Errors
    /// Nothing has moved then.
    pub async fn reload(
        &self,
        request: ReloadRequest,
        progress: ProgressSink,
    ) -> Result<ReloadAnswer, Failure> {
        let turn = self
            .exclusive("a reload", request.no_wait, request.timeout_secs)
            .await?;
        let before = Some(self.stood());
        let done = self.reload_in_turn(turn, &request, progress, before).await;
        match &done {
            Ok(answer) => self.tell_reloaded(answer, false),
            Err(failure) => self.tell_failed("reload", failure, false),
        }
        done
    }

    /// The reload itself. With `named`, where the view stood before, the answer names what it brought.
    pub(super) async fn reload_in_turn(
        &self,
        turn: Exclusive<'_>,
        request: &ReloadRequest,
        progress: ProgressSink,
        named: Option<Stood>,
    ) -> Result<ReloadAnswer, Failure> {
        let started = std::time::Instant::now();
        let looking = Progress {
            stage: "looking for the newest record".into(),
            ..Default::default()
        };
        progress(looking);
        let limit = request
            .timeout_secs
            .map_or(crate::answer::STORE_TIME, Duration::from_secs);
        // First: what comes of it may be the newest record.
        self.settle_commit(limit).await?;
        let asked = tokio::time::timeout(limit, self.target_record(request.to)).await;
        let target = asked.map_err(|_| crate::answer::no_answer(limit))??;
        let Some(overlay) = self.overlay.clone() else {
            return self.reload_read_only(&target, named.as_ref()).await;
        };
        // Named before anything is looked at, and not after the view has moved: what is written meanwhile is seen, and the
        // answer comes at once.
        let brought = self.brought(named.as_ref(), &target).await;
        // It holds the base, which goes when the view has left it.
        drop(named);
        self.catch_up().await;
        self.view.settle().map_err(failed)?;
        let from = self.base_ref();
        let dirty = !overlay.read().is_clean();
        if dirty && request.local == LocalChanges::IfClean {
            let changes = self.dirty_count();
            let verb = if changes == 1 { "is" } else { "are" };
            let message = format!("there {verb} {}", format_count(changes, "local change"));
            return Err(Failure::new(FailureKind::Refused, message).hint(
                "`sailvol commit` publishes local changes, `reload --keep` keeps them, `reload` alone stashes them",
            ));
        }
        let same = from.record == target.hash && from.prepared.is_none();
        let mut answer = ReloadAnswer {
            from: from.seq,
            to: target.seq(),
            record: target.hash,
            ..ReloadAnswer::default()
        };
        if same && (!dirty || request.local == LocalChanges::Keep) {
            return Ok(answer);
        }
        answer.brought = brought;
        self.lease_before_moving(&BTreeSet::from([target.seq()])).await?;
        keep_record(&overlay, &target).map_err(failed)?;
        match request.local {
            LocalChanges::Keep if dirty => {
                let overwrote = self.move_keeping(&overlay, &target).await?;
                answer.overwrote = overwrote;
                answer.kept = self
                    .diff(super::report::LISTED_MAX)
                    .await?
                    .changes
                    .into_iter()
                    .map(|c| c.path)
                    .collect();
            }
            _ => self.move_stashing(&overlay, &target, &mut answer).await?,
        }
        self.bound_sources(&turn).await;
        self.drop_unneeded()?;
        tracing::info!(
            from = answer.from,
            to = answer.to,
            record = %answer.record,
            stash = answer.stash.as_ref().map(|s| s.id),
            stashed = answer.stash.as_ref().map(|s| s.changed),
            kept = answer.kept.len(),
            seconds = format_args!("{:.3}", started.elapsed().as_secs_f64()),
            "reloaded"
        );
        Ok(answer)
    }

    async fn target_record(&self, to: Option<RecordAt>) -> Result<LoggedRecord, Failure> {
        let (known, _) = self.known_head();
        let head = self.volume.refresh(&known).await?.head;
        self.seen.check(&head)?;
        self.learn_head(&head);
        match to {
            Some(at) => Ok(self.volume.record(&head, self.number_of(at)?).await?),
            None => Ok(head.newest),
        }
    }

    async fn reload_read_only(
        &self,
        target: &LoggedRecord,
        named: Option<&Stood>,
    ) -> Result<ReloadAnswer, Failure> {
        let from = self.base_ref();
        let mut answer = ReloadAnswer {
            from: from.seq,
            to: target.seq(),
            record: target.hash,
            ..ReloadAnswer::default()
        };
        if from.record == target.hash {
            return Ok(answer);
        }
        answer.brought = self.brought(named, target).await;
        self.lease_before_moving(&BTreeSet::from([target.seq()])).await?;
        let tree = target.record.root.root.clone();
        let base = base_of(target);
        self.view.reload_read_only(tree, base.clone()).map_err(failed)?;
        *self.fixed_base.lock() = base;
        self.tell_kernel().await?;
        Ok(answer)
    }

    /// Local changes leave the view, but for files that something can still write.
    async fn move_stashing(
        &self,
        overlay: &Arc<Overlay>,
        target: &LoggedRecord,
        answer: &mut ReloadAnswer,
    ) -> Result<(), Failure> {
        let tree = target.record.root.root.clone();
        for _ in 0..TRIES {
            self.view.settle().map_err(failed)?;
            let open = self.view.open_for_write();
            let (state, from) = snapshot(overlay);
            let kept: Vec<&OpenForWrite> = open
                .iter()
                .filter(|file| is_dirty_file(&state, file.node))
                .collect();
            let base = match kept.is_empty() {
                true => base_of(target),
                // What they were made of stays among the sources.
                false => joined(&base_of(target), &state.base),
            };
            let prepared = if kept.is_empty() {
                OverlayState::succeeding(&state, base, tree.attrs.clone())
            } else {
                let result = self.with_kept(overlay, &tree, &state, &kept).await?;
                let made = Target {
                    head: &tree,
                    base,
                    result: &result,
                    moves: &[],
                    live: &state,
                    others: &[],
                };
                restore(&*self.source, made).await?
            };
            let ids: Vec<NodeId> = kept.iter().map(|file| file.node).collect();
            let now = Clock::system().now();
            let moved = self.view.reload(tree.clone(), |overlay, written| {
                // A file that was opened since stays too.
                let opened = |id: &NodeId| !ids.contains(id) && is_dirty_file(&state, *id);
                if overlay.read().generation != from || written.iter().any(opened) {
                    return Err(Switch::Changed);
                }
                overlay
                    .stash_current(prepared, &ids, now)
                    .map_err(|e| Switch::Failed(failed(e)))
            });
            match moved {
                Ok((stashed, _)) => {
                    self.stands_anew();
                    answer.stash = stashed.stash.as_ref().map(summary);
                    answer.dropped_stashes = stashed.dropped.iter().map(|s| s.id).collect();
                    answer.kept = open
                        .iter()
                        .filter_map(|file| Some(file.path.as_ref()?.to_string()))
                        .collect();
                    return self.tell_kernel().await;
                }
                Err(Switch::Changed) => {}
                Err(Switch::Failed(failure)) => return Err(failure),
            }
        }
        Err(never_quiet())
    }

    /// The target's tree with the files that stay.
    async fn with_kept(
        &self,
        overlay: &Overlay,
        tree: &TreeRoot,
        state: &OverlayState,
        kept: &[&OpenForWrite],
    ) -> Result<TreeRoot, Failure> {
        let mut root = tree.as_entry();
        let mut links = tree.links.clone();
        for file in kept {
            let Some(node) = state.node(file.node) else {
                continue;
            };
            let size = match &node.body {
                NodeBody::File(file) => match file.body {
                    Some(body) => overlay.body_stat(body).map_err(failed)?.len,
                    None => continue,
                },
                _ => continue,
            };
            let local = LocalContent {
                overlay: overlay.number(),
                node: file.node,
                generation: node.generation,
            };
            let entry = Entry {
                attrs: node.attrs.clone(),
                body: EntryBody::File {
                    size,
                    content: Content::Local(local),
                },
            };
            // All its names stay names of it; where the target has fewer or others, those.
            if let Some(link) = node.link
                && let Some(known) = tree::link(&*self.source, &links, &link).await?
            {
                let inode = LinkInode { entry, ..known };
                links = tree::edit_links(&*self.source, &links, [(link, Some(inode))]).await?;
            } else if let Some(path) = &file.path {
                root = put_at(&*self.source, root, path, entry).await?;
            }
        }
        let EntryBody::Dir {
            totals,
            tree: entries,
        } = root.body
        else {
            return Err(failed("the root is no directory"));
        };
        Ok(TreeRoot {
            attrs: root.attrs,
            totals,
            tree: entries,
            links,
        })
    }

    /// Local changes on top of another record.
    async fn move_keeping(
        &self,
        overlay: &Arc<Overlay>,
        target: &LoggedRecord,
    ) -> Result<Vec<OverwrittenPath>, Failure> {
        let head = target.record.root.root.clone();
        for _ in 0..TRIES {
            self.view.settle().map_err(failed)?;
            let Live {
                state,
                from,
                base,
                compared,
            } = self.compare_live(overlay).await?;
            let carried = carry_over(
                &*self.source,
                &base,
                &state,
                &compared.contents,
                &head,
                base_of(target),
            )
            .await?;
            let prepared = Prepared {
                state: carried.overlay,
                from,
                compared,
                put_away: None,
                overwrote: carried.overwritten.iter().map(overwritten).collect(),
            };
            if let Some(overwrote) = self.switch(head.clone(), prepared, None).await? {
                return Ok(overwrote);
            }
        }
        Err(never_quiet())
    }

    /// Puts a stash's changes on top of what the mount shows, and drops the stash.
    ///
    /// # Errors
    /// Nothing has changed then; the stash is still there.
    pub async fn stash_restore(&self, id: u64) -> Result<ReloadAnswer, Failure> {
        let overlay = self.writable()?.clone();
        let turn = self.exclusive("a stash restore", false, None).await?;
        self.settle_commit(SETTLE_TIME).await?;
        self.catch_up().await;
        let (known, _) = self.known_head();
        for _ in 0..TRIES {
            self.view.settle().map_err(failed)?;
            let stashed = Arc::new(open_stash(&overlay, id)?);
            let stash_base = load_base(&overlay, &self.volume, &known, &stashed.base).await?;
            let put_away = (&*stashed, id);
            let unsure =
                Compared::new(&self.source, &overlay, &stash_base, put_away, &HashSet::new()).await?;
            let theirs = build(&*self.source, &stash_base, &stashed, &unsure.contents).await?;
            let Live {
                state,
                from,
                base,
                compared,
            } = self.compare_live(&overlay).await?;
            let mine = build(&*self.source, &base, &state, &compared.contents).await?;
            let merged = tree::merge(
                &*self.source,
                &stash_base,
                &mine.tree,
                &theirs.tree,
                &theirs.moves,
            )
            .await?;
            // Moves of the live overlay still hold when the stash moved nothing; else names are made anew.
            let moves = if merged.used_hints.is_empty() {
                mine.moves.as_slice()
            } else {
                &[]
            };
            let mut base_ref = joined(&state.base, &stashed.base);
            base_ref.prepared = state.base.prepared;
            let made = Target {
                head: &base,
                base: base_ref,
                result: &merged.root,
                moves,
                live: &state,
                others: &[&stashed],
            };
            let prepared = Prepared {
                state: restore(&*self.source, made).await?,
                from,
                compared,
                put_away: Some(unsure),
                overwrote: merged.overwritten.iter().map(overwritten).collect(),
            };
            if let Some(overwrote) = self.switch(base.into_tree(), prepared, Some(id)).await? {
                self.bound_sources(&turn).await;
                let at = self.base_ref();
                let kept = self
                    .diff(super::report::LISTED_MAX)
                    .await?
                    .changes
                    .into_iter()
                    .map(|c| c.path)
                    .collect();
                return Ok(ReloadAnswer {
                    from: at.seq,
                    to: at.seq,
                    record: at.record,
                    kept,
                    overwrote,
                    ..Default::default()
                });
            }
        }
        Err(never_quiet())
    }

    /// The live overlay as it is now, compared with its base.
    async fn compare_live(&self, overlay: &Arc<Overlay>) -> Result<Live, Failure> {
        let open = self.view.open_for_write();
        let open = open.into_iter().map(|file| file.node).collect();
        let Standing { base, state } = self.view.standing();
        let from = state.generation;
        let numbered = (&*state, overlay.number());
        let compared = Compared::new(&self.source, overlay, &base, numbered, &open).await?;
        Ok(Live {
            state,
            from,
            base,
            compared,
        })
    }

    /// Stands on a prepared overlay; `None` when it has to be made again.
    async fn switch(
        &self,
        base: TreeRoot,
        prepared: Prepared,
        restored: Option<u64>,
    ) -> Result<Option<Vec<OverwrittenPath>>, Failure> {
        let Prepared {
            state,
            from,
            compared,
            put_away,
            overwrote,
        } = prepared;
        let moved = self.view.reload(base.clone(), |overlay, written| {
            let put_away = put_away.is_none_or(|stash| stash.hold(&HashSet::new()));
            if overlay.read().generation != from || !compared.hold(written) || !put_away {
                return Err(Switch::Changed);
            }
            overlay
                .replace(state, restored)
                .map_err(|e| Switch::Failed(failed(e)))
        });
        match moved {
            Ok(((), _)) => {
                self.stands_anew();
                self.tell_kernel().await?;
                Ok(Some(overwrote))
            }
            Err(Switch::Changed) => Ok(None),
            Err(Switch::Failed(failure)) => Err(failure),
        }
    }
}

fn never_quiet() -> Failure {
    Failure::new(
        FailureKind::Refused,
        "names were changed all the time while the reload was prepared",
    )
    .hint("try again when fewer programs work in the mount")
}

pub(super) fn snapshot(overlay: &Overlay) -> (Arc<OverlayState>, u64) {
    let state = overlay.read();
    (Arc::new(state.clone()), state.generation)
}

pub(super) fn open_stash(overlay: &Overlay, id: u64) -> Result<OverlayState, Failure> {
    if !overlay.stashes().iter().any(|stash| stash.id == id) {
        return Err(
            Failure::new(FailureKind::NotFound, format!("there is no stash {id}"))
                .hint("`sailvol stash list` shows them"),
        );
    }
    overlay.open_stash(id).map_err(failed)
}

/// The first base, drawn also from the sources of the second.
fn joined(base: &BaseRef, other: &BaseRef) -> BaseRef {
    let mut sources: Vec<u64> = base.sources.iter().chain(&other.sources).copied().collect();
    sources.sort_unstable();
    sources.dedup();
    BaseRef {
        sources,
        ..base.clone()
    }
}

fn is_dirty_file(state: &OverlayState, node: NodeId) -> bool {
    state
        .node(node)
        .is_some_and(|n| n.nlink > 0 && matches!(&n.body, NodeBody::File(file) if file.body.is_some()))
}

/// A stash as it is shown.
pub(super) fn summary(stash: &StashInfo) -> StashSummary {
    StashSummary {
        id: stash.id,
        made_at: stash.made.secs,
        base: stash.base.seq,
        changed: stash.changes,
        bytes: stash.disk_bytes,
    }
}

/// `root` with `entry` at `path`; directories that are not there (any more) are made.
async fn put_at(src: &dyn NodeSource, root: Entry, path: &VolPath, entry: Entry) -> Result<Entry, Failure> {
    // Down: the directories on the way, as they are.
    let mut way = vec![root];
    let Some((dirs, _)) = path.0.split_last().map(|(name, dirs)| (dirs, name)) else {
        return Err(failed("the root is no file"));
    };
    for name in dirs {
        let found = match way.last().and_then(Entry::as_dir) {
            Some((_, tree)) => tree::lookup(src, tree, name.as_bytes()).await?,
            None => None,
        };
        way.push(
            found
                .filter(Entry::is_dir)
                .unwrap_or_else(|| new_dir(&entry.attrs)),
        );
    }
    // Up: each with its changed child.
    let mut child = entry;
    for (mut dir, name) in way.into_iter().zip(&path.0).rev() {
        if let EntryBody::Dir { totals, tree } = &mut dir.body {
            let (new_tree, new_totals) =
                tree::edit_dir_entry(src, tree, totals, vec![(name.clone(), Some(child))]).await?;
            (*tree, *totals) = (new_tree, new_totals);
        }
        child = dir;
    }
    Ok(child)
}

/// A directory for a kept file whose own directory is gone; owned as the file.
fn new_dir(file: &Attrs) -> Entry {
    let attrs = Attrs {
        mode: 0o755,
        xattrs: crate::model::Xattrs::None,
        ..file.clone()
    };
    Entry {
        attrs,
        body: EntryBody::Dir {
            totals: Totals::default(),
            tree: DirTree::empty(),
        },
    }
}
