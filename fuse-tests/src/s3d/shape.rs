//! Bodies that are counted, paced, cut, corrupted or stalled.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

use super::front::Held;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A piece at a time, so that pacing is even, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// Long enough for loopback to take what the connection has buffered, some 400 KiB.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

/// A line that all bodies share.
#[derive(Debug, Default)]
pub(super) struct Line {
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    /// When a piece that is sent now has passed.
    fn pass(&self, bytes: usize, bytes_per_s: u64) -> Instant {
        let mut free_at = self.free_at.lock();
        let now = Instant::now();
        let start = free_at.map_or(now, |at| at.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        *free_at = Some(end);
        end
    }
}

/// What happens to a body at some offset.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Fail, which closes the connection.
    Cut { at: u64 },
    /// Invert one byte.
    Flip { at: u64 },
    /// Send nothing more until released.
    Stall { at: u64, held: Held },
}

/// A body on its way through the line.
pub(super) struct ShapedBody {
    inner: Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>,
    line: Arc<Line>,
    /// Bytes per second; 0 is no limit.
    bandwidth: u64,
    counted: Arc<AtomicU64>,
    flaw: Option<Flaw>,
    piece: Bytes,
    passed: u64,
    wait: Option<Pin<Box<Sleep>>>,
    /// Waited before a cut.
    flushed: bool,
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl ShapedBody {
    pub(super) fn new(
        inner: impl Body<Data = Bytes, Error = BoxError> + Send + 'static,
        line: Arc<Line>,
        bandwidth: u64,
        counted: Arc<AtomicU64>,
        flaw: Option<Flaw>,
    ) -> ShapedBody {
        ShapedBody {
            inner: Box::pin(inner),
            line,
            bandwidth,
            counted,
            flaw,
            piece: Bytes::new(),
            passed: 0,
            wait: None,
            flushed: false,
            stalled: None,
        }
    }

    /// Applies the flaw to the next piece, which has `left` bytes; the bytes that may pass.
    fn flawed(&mut self, take: usize) -> Result<usize, BoxError> {
        let room = |at: u64, passed: u64| usize::try_from(at.saturating_sub(passed)).unwrap_or(usize::MAX);
        match &self.flaw {
            Some(Flaw::Cut { at }) => match room(*at, self.passed) {
                // While we wait the connection sends what it has buffered; it would throw that away.
                0 if self.passed > 0 && !self.flushed => {
                    self.flushed = true;
                    self.wait = Some(Box::pin(tokio::time::sleep(FLUSH_WAIT)));
                    Ok(0)
                }
                0 => Err("cut by a fault".into()),
                room => Ok(take.min(room)),
            },
            Some(Flaw::Stall { at, .. }) => match room(*at, self.passed) {
                0 => {
                    if let Some(Flaw::Stall { held, .. }) = self.flaw.take() {
                        self.stalled = Some(Box::pin(held.released()));
                    }
                    Ok(0)
                }
                room => Ok(take.min(room)),
            },
            Some(Flaw::Flip { at }) => {
                if (self.passed..self.passed + take as u64).contains(at) {
                    let index = room(*at, self.passed);
                    let mut changed = BytesMut::from(self.piece.as_ref());
                    changed[index] ^= 0xff;
                    self.piece = changed.freeze();
                    self.flaw = None;
                }
                Ok(take)
            }
            None => Ok(take),
        }
    }
}

impl Body for ShapedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(stalled) = this.stalled.as_mut() {
                match stalled.as_mut().poll(context) {
                    Poll::Ready(()) => this.stalled = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if let Some(wait) = this.wait.as_mut() {
                match wait.as_mut().poll(context) {
                    Poll::Ready(()) => this.wait = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if this.piece.is_empty() {
                match this.inner.as_mut().poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => this.piece = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    Poll::Ready(None) => {
                        // A cut at or behind the end still closes the connection without a proper end.
                        return match this.flaw.take() {
                            Some(Flaw::Cut { .. }) => Poll::Ready(Some(Err("cut by a fault".into()))),
                            _ => Poll::Ready(None),
                        };
                    }
                    other => return other,
                }
                continue;
            }
            let take = this.piece.len().min(PIECE_BYTES);
            let take = match this.flawed(take) {
                Ok(0) => continue,
                Ok(take) => take,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let piece = this.piece.split_to(take);
            this.passed += take as u64;
            this.counted.fetch_add(take as u64, Ordering::Relaxed);
            if this.bandwidth > 0 {
                // The piece passes at once and the next one waits for the time that it took.
                let passed_at = this.line.pass(take, this.bandwidth);
                this.wait = Some(Box::pin(tokio::time::sleep_until(passed_at)));
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        match inner.exact() {
            Some(left) => SizeHint::with_exact(left + self.piece.len() as u64),
            None => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.flaw.is_none() && self.stalled.is_none() && self.inner.is_end_stream()
    }
}
