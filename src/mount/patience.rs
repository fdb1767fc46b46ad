//! Waiting for a store that is away, for as long as the caller will.
//!
//! What counts is the time without any sign of life while an answer is awaited: a transfer over a slow line may take as
//! long as it needs, and so may our own work on a million files, during which the store is asked nothing.

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
            let silent = self.silent_since(begun).unwrap_or(begun);
            if silent.elapsed() + pause >= waiting.limit {
                return Err(error);
            }
            tracing::info!(%error, ?pause, "waiting for the store");
            crate::store::pause(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Since when the store gives no sign of life although it was asked, not before `begun`; `None`: nothing is asked, or it
    /// does not tell.
    fn silent_since(&self, begun: Instant) -> Option<Instant> {
        let moves = self.volume.store().last_moves()?;
        moves.silent_since().map(|silent| silent.max(begun))
    }

    /// Ends when an answer has been awaited for the limit and nothing has moved to or from the store; never for a store that
    /// does not tell.
    async fn nothing_moves(&self, begun: Instant, limit: Duration) {
        if self.volume.store().last_moves().is_none() {
            return std::future::pending().await;
        }
        loop {
            let since = self.silent_since(begun);
            let end = since.map_or_else(|| Instant::now() + limit.min(PAUSE_MAX), |since| since + limit);
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}
