//! Waiting for a store that is away, for as long as the caller will.
//!
//! What counts is the time without any sign of life: a transfer over a slow line may take as long as it needs.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::Mount;

/// Pauses between two attempts, the first and the longest: the first success comes soon after the store's return.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How somebody waits.
pub(super) struct Waiting<A, C> {
    /// Longest time without a sign of life.
    pub limit: Duration,
    /// True for errors after which trying again is right and may help.
    pub is_away: A,
    /// The error when nothing has moved for the limit and the attempt was given up in the middle.
    pub cut_off: C,
}

impl Mount {
    /// Tries until it succeeds, fails for another reason than an absent store, or the store has been away for the limit.
    /// An attempt may be dropped at any point.
    pub(super) async fn wait_for_store<T, E, F>(
        &self,
        waiting: &Waiting<impl Fn(&E) -> bool, impl Fn() -> E>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let tried = tokio::select! {
                done = attempt() => done,
                () = self.nothing_moves(begun, waiting.limit) => Err((waiting.cut_off)()),
            };
            let error = match tried {
                Err(error) if (waiting.is_away)(&error) => error,
                other => return other,
            };
            if self.last_move(begun).elapsed() + pause >= waiting.limit {
                return Err(error);
            }
            tracing::info!(%error, ?pause, "waiting for the store");
            crate::store::pause(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// When the store gave a sign of life last, not before `begun`.
    fn last_move(&self, begun: Instant) -> Instant {
        let moved = self.volume.store().last_moves().and_then(|moves| moves.any());
        moved.map_or(begun, |moved| moved.max(begun))
    }

    /// Ends when nothing has moved to or from the store for the limit; never for a store that does not tell.
    async fn nothing_moves(&self, begun: Instant, limit: Duration) {
        if self.volume.store().last_moves().is_none() {
            return std::future::pending().await;
        }
        loop {
            let end = self.last_move(begun) + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}
