//! Large contents: which frames a read needs, who fetches them, and how they become checked.
//!
//! Frames are fetched in groups of adjacent absent ones, at most 8 MiB a request; one fetch per frame, whoever else
//! needs it waits for the same. A frame is given out as soon as it is verified, before it is written to disk. A frame
//! for which there is no room on disk is kept in memory for a while.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::chunks::{Claim, Run};
use super::contents::{Chunked, Part, groups};
use super::remote::AheadPermit;
use super::segment::{FrameState, FrameWait, Segment};
use super::stats::count;
use super::{ATTEMPTS_MAX, Cache, PieceKey};
use crate::format::FrameSum;
use crate::model::FRAME_BYTES;
use crate::tree::TreeError;

/// What the reader of a frame does next.
enum Wanted {
    Wait(FrameWait),
    /// It is on disk, or was evicted a moment ago: look again.
    Look,
}

/// Groups that a prefetch fetches at a time; the budgets of memory and requests hold besides.
const PREFETCH_GROUPS: usize = 16;

impl Cache {
    /// Bytes of a range that is not local as a whole. What is absent `around` the beginning of it, within one group, comes
    /// in the same requests.
    pub(super) async fn read_chunked(
        self: &Arc<Self>,
        file: &Chunked,
        range: Range<u64>,
        mut around: Option<Range<u64>>,
    ) -> Result<Bytes, TreeError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(bytes) = self.chunked_local(file, range.clone()) {
                return Ok(bytes);
            }
            if let Some(bytes) = self.assemble(file, range.clone(), around.take()).await? {
                return Ok(bytes);
            }
        }
        Err(TreeError::Local {
            path: self.dir.display().to_string(),
            reason: "files of the cache vanish faster than they can be written".to_owned(),
            errno: libc::EIO,
        })
    }

    /// Bytes that are checked on disk, or a frame that is in memory.
    pub(super) fn chunked_local(&self, file: &Chunked, range: Range<u64>) -> Option<Bytes> {
        let mut damaged = Vec::new();
        if let Some(bytes) = self
            .contents
            .read_checked(&self.disk, file, range.clone(), &mut damaged)
        {
            return Some(bytes);
        }
        for segment in damaged {
            self.discard_segment(&segment);
        }
        let frame = range.start / FRAME_BYTES;
        if (range.end - 1) / FRAME_BYTES != frame {
            return None;
        }
        let piece = self.pieces.lock().get(&PieceKey::Frame(file.cid, frame))?;
        let at = |offset: u64| usize::try_from(offset - frame * FRAME_BYTES).ok();
        let (from, to) = (at(range.start)?, at(range.end)?);
        (to <= piece.len()).then(|| piece.slice(from..to))
    }

    /// A file of the cache is not what we left: forget it, aside.
    fn discard_segment(&self, segment: &Arc<Segment>) {
        if self.contents.retire(segment) {
            self.delete_damaged(segment.clone());
        }
    }

    /// Deletes a retired segment that is not what was written.
    fn delete_damaged(&self, segment: Arc<Segment>) {
        count(&self.remote.counters.local_damage);
        tracing::warn!(path = %segment.path.display(), "a cache file is damaged; fetching it again");
        if let Some(this) = self.me.upgrade() {
            self.runtime.spawn_blocking(move || segment.delete(&this.disk));
        }
    }

    /// The segment that a part lies in; a file of another length makes way for it.
    fn segment_of(&self, part: &Part) -> Arc<Segment> {
        let (segment, misfit) = self.contents.get_or_new(&self.disk, part.key, part.segment_len);
        if let Some(misfit) = misfit {
            self.delete_damaged(misfit);
        }
        segment
    }

    /// Starts what is needed for every frame of the range, then waits; `None`: something was evicted, look again.
    async fn assemble(
        self: &Arc<Self>,
        file: &Chunked,
        range: Range<u64>,
        around: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, TreeError> {
        let mut wanted = Vec::new();
        for group in groups(range.clone(), file.size) {
            let holds = |around: &&Range<u64>| around.start <= group.start && group.end <= around.end;
            let claimed = around.as_ref().filter(holds).unwrap_or(&group).clone();
            self.want(file, claimed, &group, &mut wanted).await;
        }
        let mut whole = BytesMut::new();
        let mut at = range.start / FRAME_BYTES * FRAME_BYTES;
        for wait in wanted {
            let frame_end = (at + FRAME_BYTES).min(file.size);
            let piece = range.start.max(at)..range.end.min(frame_end);
            let bytes = match wait {
                Wanted::Look => {
                    self.open_part(file, &piece).await;
                    self.chunked_local(file, piece.clone())
                }
                Wanted::Wait(mut wait) => {
                    count(&self.remote.counters.misses);
                    let arrived = wait
                        .wait_for(Option::is_some)
                        .await
                        .ok()
                        .and_then(|value| value.clone());
                    let cut = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX);
                    let frame = arrived.transpose()?;
                    frame.map(|frame| frame.slice(cut(piece.start)..cut(piece.end)))
                }
            };
            let Some(bytes) = bytes else {
                return Ok(None);
            };
            if piece == range {
                return Ok(Some(bytes));
            }
            whole.extend_from_slice(&bytes);
            at = frame_end;
        }
        Ok(Some(whole.freeze()))
    }

    /// Opens the file that holds a piece, should it be closed.
    async fn open_part(self: &Arc<Self>, file: &Chunked, piece: &Range<u64>) {
        for part in self.contents.parts(file.cid, file.size, piece.clone()) {
            if let Some(segment) = self.contents.get(&part.key, part.segment_len) {
                let (this, opening) = (self.clone(), segment.clone());
                let opening = move || opening.open_file(&this.disk).map(drop);
                match tokio::task::spawn_blocking(opening).await {
                    Ok(Err(e)) if !is_out_of_descriptors(&e) => self.discard_segment(&segment),
                    _ => {}
                }
            }
        }
    }

    /// Sees to it that all frames of a part of a group come, and adds what to wait for of those in `needed`.
    async fn want(
        self: &Arc<Self>,
        file: &Chunked,
        group: Range<u64>,
        needed: &Range<u64>,
        wanted: &mut Vec<Wanted>,
    ) {
        for part in self.contents.parts(file.cid, file.size, group) {
            let segment = self.segment_of(&part);
            segment.touch(&self.disk);
            self.read_marks(&segment).await;
            let mut run = Vec::new();
            for frame in frames_of(&part.range) {
                let (sender, wait) = watch::channel(None);
                let state = segment.claim(frame, &wait);
                let claim = |sender| Claim::new(&segment, frame, sender);
                let offset = part.segment_start + u64::from(frame) * FRAME_BYTES;
                let mut need = |what| {
                    if needed.contains(&offset) {
                        wanted.push(what);
                    }
                };
                match state {
                    FrameState::Absent => {
                        run.push(claim(sender));
                        need(Wanted::Wait(wait));
                        continue;
                    }
                    FrameState::Marked(sum) => {
                        self.check(claim(sender), sum);
                        need(Wanted::Wait(wait));
                    }
                    FrameState::Fetching(other) => need(Wanted::Wait(other)),
                    FrameState::Checked | FrameState::Discarded => need(Wanted::Look),
                }
                self.start(file, part.segment_start, std::mem::take(&mut run), None);
            }
            self.start(file, part.segment_start, run, None);
        }
    }

    async fn read_marks(self: &Arc<Self>, segment: &Arc<Segment>) {
        if segment.needs_marks() {
            let (this, segment) = (self.clone(), segment.clone());
            let reading = tokio::task::spawn_blocking(move || segment.read_marks(&this.disk));
            reading.await.unwrap_or_default();
        }
    }

    /// Compares a frame of an earlier session with its hash. One that fails ends the use of the whole file: whoever
    /// waits looks again, and finds a new one.
    fn check(self: &Arc<Self>, claim: Claim, sum: FrameSum) {
        let this = self.clone();
        self.runtime.spawn_blocking(
            move || match claim.segment.check_frame(&this.disk, claim.frame, &sum) {
                Some(bytes) => claim.deliver(bytes),
                None => this.discard_segment(&claim.segment),
            },
        );
    }

    /// Fetches a run of claimed frames in a task of its own.
    fn start(
        self: &Arc<Self>,
        file: &Chunked,
        segment_start: u64,
        claims: Vec<Claim>,
        ahead: Option<AheadPermit>,
    ) {
        let Some(first) = claims.first() else {
            return;
        };
        let run = Run {
            file: file.clone(),
            segment: first.segment.clone(),
            segment_start,
            claims: claims.into(),
            begun: Instant::now(),
        };
        let this = self.clone();
        self.runtime.spawn(async move {
            let file = ahead.is_some().then(|| run.file.clone());
            this.fetch_run(run).await;
            drop(ahead);
            // Its place is free.
            if let Some(file) = file
                && let Some(range) = this.contents.more_ahead(&file)
            {
                this.fetch_ahead(&file, range);
            }
        });
    }

    /// Fetches ahead what is absent of a range, as far as there are places and memory that nobody waits for.
    pub(super) fn fetch_ahead(&self, file: &Chunked, range: Range<u64>) {
        if self.contents.all_checked(file) {
            return;
        }
        let (Some(this), file) = (self.me.upgrade(), file.clone()) else {
            return;
        };
        self.runtime.spawn(async move {
            for group in groups(range, file.size) {
                for part in this.contents.parts(file.cid, file.size, group) {
                    if !this.part_ahead(&file, &part).await {
                        this.contents
                            .retract(&file, part.segment_start + part.range.start);
                        return;
                    }
                }
            }
        });
    }

    /// Starts the absent runs of a part; false when there was no leave to.
    async fn part_ahead(self: &Arc<Self>, file: &Chunked, part: &Part) -> bool {
        let segment = self.segment_of(part);
        self.read_marks(&segment).await;
        let mut frames = frames_of(&part.range).peekable();
        while let Some(first) = frames.next() {
            if !segment.is_absent(first) {
                continue;
            }
            let mut run = vec![first];
            while let Some(next) = frames.next_if(|next| segment.is_absent(*next)) {
                run.push(next);
            }
            let bytes = run.iter().map(|frame| segment.frame_len(*frame)).sum();
            let Some(permit) = self.remote.try_ahead(bytes) else {
                return false;
            };
            // A frame that somebody has claimed since ends the run: what lies behind will be asked for when needed.
            let claims = run
                .iter()
                .map_while(|frame| Claim::absent(&segment, *frame))
                .collect();
            self.start(file, part.segment_start, claims, Some(permit));
        }
        true
    }

    /// Brings every frame of a content onto the disk, a few groups at a time, and checks those of earlier sessions.
    pub(super) async fn prefetch_chunked(self: &Arc<Self>, file: &Chunked) -> Result<(), TreeError> {
        let all = groups(0..file.size, file.size);
        let bring = |group: Range<u64>| async move {
            let mut wanted = Vec::new();
            self.want(file, group.clone(), &group, &mut wanted).await;
            for wait in wanted {
                if let Wanted::Wait(mut wait) = wait {
                    let arrived = wait
                        .wait_for(Option::is_some)
                        .await
                        .ok()
                        .and_then(|value| value.clone());
                    arrived.transpose()?;
                    // The claim ends when the frame is on disk (or will not be), later than it is given out.
                    while wait.changed().await.is_ok() {}
                }
            }
            Ok(())
        };
        futures::stream::iter(all.map(Ok))
            .try_for_each_concurrent(PREFETCH_GROUPS, bring)
            .await
    }
}

/// Frames that a range of a segment touches.
fn frames_of(range: &Range<u64>) -> Range<u32> {
    let frame = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    frame(range.start / FRAME_BYTES)..frame(range.end.div_ceil(FRAME_BYTES))
}

/// No fault of the file.
fn is_out_of_descriptors(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
