//! HTTP with time limits that go by progress: a decorator of the SDK's connector.
//!
//! The SDK's read time limit counts from the first byte sent to the first byte received, so it would limit how long an
//! upload may take. Here a request's body is handed to the connection in pieces, each of which shows progress, and the
//! wait for the answer begins after the last one. What the kernel has buffered by then (up to some MiB) is not seen, so
//! that wait is longer than the others.
//!
//! An answer has an end in every case: what the SDK reads whole (listings, errors) has a greatest length, and any answer has
//! a time that no honest store needs, so that one that never ends, or brings a byte now and then, is a failure.
//!
//! [`Gate`] lets racing uploads wait for each other before their last byte, for the probe of put-if-absent.

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::store::LastMoves;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A piece of a request's body, bytes: small beside what the slowest usable line sends within the limit.
const PIECE_BYTES: usize = 128 * 1024;
/// The wait for the answer to a body is this many limits: 120 s by default, in which 64 parallel uploads that share a line
/// of 1 MB/s bring 2 MB each out of the kernel's buffers.
const ANSWER_LIMITS: u32 = 4;
/// A request without a body is answered at once or, on a line that was cut, never: after this part of the limit it is
/// sent again on another connection, so that the first success comes soon after the line's return.
const BODYLESS_PART: u32 = 3;
/// Longest answer that is no object, bytes: a page of a listing has 1,000 keys of up to 1,024 bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// An answer's body may take [`ANSWER_LIMITS`] limits and what it takes at this rate, bytes per second: 64 transfers on the
/// slowest usable line.
const RATE_MIN: u64 = 1024;
/// Longest that racing uploads wait for one another.
const GATE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The transport failed before anything of the request's body was taken: the store cannot have applied it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotSent(#[source] BoxError);

/// Nothing moved for too long.
#[derive(Debug, thiserror::Error)]
#[error("{what} for {limit:?}")]
pub(super) struct Stalled {
    what: &'static str,
    limit: Duration,
}

/// Where racing uploads wait for each other before their last byte.
#[derive(Debug)]
pub(super) struct Gate {
    missing: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Gate {
    /// For a number of uploads.
    pub(super) fn new(uploads: usize) -> Arc<Gate> {
        Arc::new(Gate {
            missing: AtomicUsize::new(uploads),
            open: watch::Sender::new(uploads == 0),
        })
    }

    fn arrive(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.open.send_replace(true);
        }
    }
}

/// One upload's place at the gate; arrives when it has sent all but its last byte, or is given up before.
struct Racer {
    gate: Arc<Gate>,
    arrived: bool,
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Racer {
    fn new(gate: Arc<Gate>) -> Racer {
        Racer {
            gate,
            arrived: false,
            wait: None,
        }
    }

    fn arrive(&mut self) {
        if !self.arrived {
            self.arrived = true;
            self.gate.arrive();
        }
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.arrive();
        let gate = &self.gate;
        let wait = self.wait.get_or_insert_with(|| {
            let mut open = gate.open.subscribe();
            Box::pin(async move {
                let opened = open.wait_for(|open| *open);
                // Opens by itself when an upload cannot even connect; an error means that nobody waits any more.
                let _ = tokio::time::timeout(GATE_WAIT_MAX, opened).await;
            })
        });
        wait.as_mut().poll(context)
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.arrive();
    }
}

/// When bytes moved last, by all requests of a store.
#[derive(Debug)]
pub(super) struct Line {
    moves: Mutex<LastMoves>,
}

impl Default for Line {
    fn default() -> Line {
        // Who waits is not known here: always.
        let awaited = Some(Instant::now());
        Line {
            moves: Mutex::new(LastMoves {
                awaited,
                ..LastMoves::default()
            }),
        }
    }
}

impl Line {
    pub(super) fn received(&self) {
        self.moves.lock().received = Some(Instant::now());
    }

    fn sent(&self) {
        self.moves.lock().sent = Some(Instant::now());
    }

    /// Bytes of a body were taken.
    fn taken(&self, bytes: u64) {
        self.moves.lock().unanswered += bytes;
    }

    /// A body of which so many were taken was answered, or given up.
    fn settled(&self, bytes: u64) {
        let mut moves = self.moves.lock();
        moves.unanswered = moves.unanswered.saturating_sub(bytes);
    }

    pub(super) fn last_moves(&self) -> LastMoves {
        *self.moves.lock()
    }
}

/// How far a request is; shared by its body and its watch.
#[derive(Debug)]
struct Progress {
    state: Mutex<ProgressState>,
    line: Arc<Line>,
}

#[derive(Clone, Copy, Debug)]
struct ProgressState {
    moved_at: Instant,
    /// Bytes of the body.
    taken: u64,
    body_taken: bool,
    body_done: bool,
}

impl ProgressState {
    /// When the request counts as stalled if nothing moves until then.
    fn end(&self, limit: Duration) -> (Instant, Stalled) {
        let (what, limit) = match (self.body_taken, self.body_done) {
            (_, false) => ("nothing could be sent", limit),
            (false, true) => ("no answer", limit / BODYLESS_PART),
            (true, true) => ("no answer", limit * ANSWER_LIMITS),
        };
        (self.moved_at + limit, Stalled { what, limit })
    }
}

impl Progress {
    /// Without a body only the answer is awaited from the start.
    fn new(has_body: bool, line: Arc<Line>) -> Arc<Progress> {
        let state = ProgressState {
            moved_at: Instant::now(),
            taken: 0,
            body_taken: false,
            body_done: !has_body,
        };
        Arc::new(Progress {
            state: Mutex::new(state),
            line,
        })
    }

    /// So many bytes of the body were taken, and it is `done` with them.
    fn moved(&self, bytes: usize, done: bool) {
        self.line.sent();
        self.line.taken(bytes as u64);
        let mut state = self.state.lock();
        *state = ProgressState {
            moved_at: Instant::now(),
            taken: state.taken + bytes as u64,
            body_taken: true,
            body_done: done,
        };
    }

    fn body_taken(&self) -> bool {
        self.state.lock().body_taken
    }

    /// Ends when nothing has moved for the limit.
    async fn stalled(&self, limit: Duration) -> Stalled {
        loop {
            let (end, stalled) = self.state.lock().end(limit);
            if Instant::now() >= end {
                return stalled;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.settled(self.state.get_mut().taken);
    }
}

/// A request's body in pieces that show progress.
struct SentBody {
    inner: SdkBody,
    piece: Bytes,
    /// Bytes that `inner` has not given yet, when known.
    left: u64,
    len: Option<u64>,
    progress: Arc<Progress>,
    racer: Option<Racer>,
}

impl SentBody {
    fn new(inner: SdkBody, progress: Arc<Progress>, gate: Option<Arc<Gate>>) -> SentBody {
        let len = inner.content_length();
        let left = len.unwrap_or(0);
        SentBody {
            inner,
            piece: Bytes::new(),
            left,
            len,
            progress,
            racer: gate.map(Racer::new),
        }
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while this.piece.is_empty() {
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        this.left = this.left.saturating_sub(data.len() as u64);
                        this.piece = data;
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    this.progress.moved(0, true);
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        let mut take = this.piece.len().min(PIECE_BYTES);
        let is_last = this.left == 0 && take == this.piece.len();
        if let Some(racer) = this.racer.as_mut()
            && is_last
        {
            if take > 1 {
                take -= 1;
            } else if racer.poll_open(context).is_pending() {
                return Poll::Pending;
            }
        }
        let piece = this.piece.split_to(take);
        this.progress
            .moved(piece.len(), this.left == 0 && this.piece.is_empty());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.len {
            Some(_) => SizeHint::with_exact(self.left + self.piece.len() as u64),
            None => SizeHint::default(),
        }
    }
}

/// An answer is longer than any of its kind.
#[derive(Debug, thiserror::Error)]
#[error("an answer of more than {ANSWER_BYTES_MAX} bytes that is no object")]
struct TooLong;

/// An answer's body that fails when its next piece takes too long, all of it does, or it never ends.
struct ReceivedBody {
    inner: SdkBody,
    limit: Duration,
    /// Bytes that may still come.
    left: u64,
    /// When all of it must have come.
    ends: Instant,
    /// Runs while the next piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ReceivedBody {
    fn new(inner: SdkBody, limit: Duration, is_object: bool) -> ReceivedBody {
        let left = if is_object { u64::MAX } else { ANSWER_BYTES_MAX };
        let told = inner.content_length().unwrap_or(ANSWER_BYTES_MAX).min(left);
        // A length that is a lie ends as one of the longest objects.
        let time = Duration::from_secs((told / RATE_MIN).min(1 << 20));
        ReceivedBody {
            inner,
            limit,
            left,
            ends: Instant::now() + ANSWER_LIMITS * limit + time,
            timer: None,
        }
    }

    fn stalled(&self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let error = Stalled {
            what: "nothing, or too little, of the answer arrived",
            limit: self.limit,
        };
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                this.timer = None;
                if let Some(Ok(frame)) = &frame {
                    let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                    let Some(left) = this.left.checked_sub(len) else {
                        return Poll::Ready(Some(Err(TooLong.into())));
                    };
                    this.left = left;
                    if Instant::now() > this.ends {
                        return this.stalled();
                    }
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let limit = this.limit;
                let timer = this
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                match timer.as_mut().poll(context) {
                    Poll::Ready(()) => this.stalled(),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.content_length() {
            Some(len) => SizeHint::with_exact(len),
            None => SizeHint::default(),
        }
    }
}

/// The decorator.
#[derive(Clone, Debug)]
pub(super) struct ProgressConnector {
    inner: SharedHttpConnector,
    limit: Duration,
    gate: Option<Arc<Gate>>,
    line: Arc<Line>,
}

impl ProgressConnector {
    /// `limit` is the longest time without progress.
    pub(super) fn new(inner: SharedHttpConnector, limit: Duration) -> ProgressConnector {
        ProgressConnector {
            inner,
            limit,
            gate: None,
            line: Arc::default(),
        }
    }

    /// When bytes moved last.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// The same, whose uploads wait at a gate.
    pub(super) fn gated(&self, gate: Arc<Gate>) -> ProgressConnector {
        ProgressConnector {
            gate: Some(gate),
            ..self.clone()
        }
    }
}

impl HttpConnector for ProgressConnector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let has_body = request.body().content_length() != Some(0);
        let asks_for_object = request.method() == "GET" && !request.uri().contains("list-type=");
        let progress = Progress::new(has_body, self.line.clone());
        if has_body {
            let body = SentBody::new(request.take_body(), progress.clone(), self.gate.clone());
            *request.body_mut() = SdkBody::from_body_1_x(body);
        }
        let call = self.inner.call(request);
        let limit = self.limit;
        HttpConnectorFuture::new(async move {
            let result = tokio::select! {
                result = call => result,
                stalled = progress.stalled(limit) => Err(ConnectorError::timeout(stalled.into())),
            };
            match result {
                Ok(mut response) => {
                    let is_object = asks_for_object && response.status().is_success();
                    let body = ReceivedBody::new(response.take_body(), limit, is_object);
                    *response.body_mut() = SdkBody::from_body_1_x(body);
                    Ok(response)
                }
                Err(error) if has_body && !progress.body_taken() => {
                    Err(ConnectorError::io(NotSent(error.into_source()).into()))
                }
                Err(error) => Err(error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn next(body: &mut SentBody) -> Option<Bytes> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        frame.unwrap().into_data().ok()
    }

    #[tokio::test]
    async fn bodies_are_sent_in_pieces_and_whole() {
        let bytes: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
        let line = Arc::<Line>::default();
        let progress = Progress::new(true, line.clone());
        let mut body = SentBody::new(SdkBody::from(bytes.clone()), progress.clone(), None);
        let mut sent = Vec::new();
        while let Some(piece) = next(&mut body).await {
            assert!(piece.len() <= PIECE_BYTES);
            sent.extend_from_slice(&piece);
            assert_eq!(body.size_hint().exact(), Some((bytes.len() - sent.len()) as u64));
            assert_eq!(line.last_moves().unanswered, sent.len() as u64);
        }
        assert_eq!(sent, bytes);
        assert!(progress.state.lock().body_done);
        drop((body, progress));
        assert_eq!(line.last_moves().unanswered, 0);
    }

    #[tokio::test]
    async fn the_last_byte_waits_for_every_racer() {
        let gate = Gate::new(2);
        let mut first = SentBody::new(
            SdkBody::from("abc"),
            Progress::new(true, Arc::default()),
            Some(gate.clone()),
        );
        assert_eq!(next(&mut first).await.unwrap(), "ab");
        let pending = poll_fn(|context| Poll::Ready(Pin::new(&mut first).poll_frame(context).is_pending()));
        assert!(pending.await);
        let second = SentBody::new(
            SdkBody::from("xyz"),
            Progress::new(true, Arc::default()),
            Some(gate),
        );
        // Given up before it arrived: the others must not wait for it.
        drop(second);
        assert_eq!(next(&mut first).await.unwrap(), "c");
        assert!(next(&mut first).await.is_none());
    }

    #[test]
    fn the_limit_counts_from_the_last_move_and_is_longer_for_the_answer() {
        let limit = Duration::from_secs(10);
        let progress = Progress::new(true, Arc::default());
        let at_start = *progress.state.lock();
        assert_eq!(at_start.end(limit).0, at_start.moved_at + limit);
        progress.moved(1, false);
        let moved = *progress.state.lock();
        assert!(moved.moved_at >= at_start.moved_at);
        assert_eq!(moved.end(limit).0, moved.moved_at + limit);
        progress.moved(1, true);
        let done = *progress.state.lock();
        assert_eq!(done.end(limit).0, done.moved_at + ANSWER_LIMITS * limit);
        let bodyless = *Progress::new(false, Arc::default()).state.lock();
        assert_eq!(bodyless.end(limit).0, bodyless.moved_at + limit / BODYLESS_PART);
    }

    #[tokio::test]
    async fn a_body_that_never_moves_ends() {
        let stalled = Progress::new(true, Arc::default())
            .stalled(Duration::from_millis(5))
            .await;
        assert_eq!(stalled.limit, Duration::from_millis(5));
    }
}
