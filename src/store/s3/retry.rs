//! The one retry loop for requests to S3.

use std::time::Duration;

use super::credentials::RenewedCredentials;
use super::failure::{Failure, Kind};

/// First pause, doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// First pause when the store asked to slow down.
const PAUSE_FIRST_THROTTLED: Duration = Duration::from_millis(400);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// What may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeat {
    /// Everything transient: the request may be applied twice.
    Freely,
    /// Only what was certainly not applied.
    IfNotApplied,
}

/// Attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    credentials: &'a RenewedCredentials,
    attempts_max: u32,
    repeat: Repeat,
    failed: u32,
    generation: u64,
    renewed: bool,
    skewed: bool,
}

impl<'a> Attempts<'a> {
    /// Before the first attempt; `attempts_max` is at least 1.
    pub(super) fn new(
        credentials: &'a RenewedCredentials,
        attempts_max: u32,
        repeat: Repeat,
    ) -> Attempts<'a> {
        Attempts {
            credentials,
            attempts_max,
            repeat,
            failed: 0,
            generation: 0,
            renewed: false,
            skewed: false,
        }
    }

    /// Before each attempt: makes sure that there are credentials.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.generation = self.credentials.generation().await?;
        Ok(())
    }

    /// Something arrived: the line works, so earlier failures do not count any more.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// After a failed attempt: waits as long as it should before the next, or gives the failure back for good.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let allowed = self.repeat == Repeat::Freely || failure.nothing_written;
        match failure.kind {
            _ if !allowed => return Err(failure),
            Kind::Refused if !self.renewed => {
                self.renewed = true;
                if self.credentials.renew(self.generation).await {
                    return Ok(());
                }
                return Err(failure);
            }
            // The SDK corrects its clock by the answer; once is enough.
            Kind::ClockSkew if !self.skewed => {
                self.skewed = true;
                return Ok(());
            }
            Kind::ClockSkew => return Err(failure),
            _ => {}
        }
        self.failed += 1;
        if !failure.is_transient() || self.failed >= self.attempts_max {
            return Err(failure);
        }
        let pause = self.pause(&failure);
        tracing::debug!(reason = %failure.reason, attempt = self.failed, ?pause, "request failed, trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Exponential, between half of it and all of it at random, and never shorter than the store asked for.
    fn pause(&self, failure: &Failure) -> Duration {
        let first = match failure.kind {
            Kind::Throttled => PAUSE_FIRST_THROTTLED,
            _ => PAUSE_FIRST,
        };
        let full = first
            .saturating_mul(1 << (self.failed - 1).min(16))
            .min(PAUSE_MAX);
        let pause = full.mul_f64(0.5 + random_fraction() / 2.0);
        pause.max(failure.retry_after.unwrap_or(Duration::ZERO))
    }
}

/// In [0, 1); without a source of randomness many clients would retry in step, which is no reason to fail.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / (f64::from(u32::MAX) + 1.0))
}
