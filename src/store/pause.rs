//! Waiting between two attempts.

use std::time::Duration;

#[cfg(test)]
thread_local! {
    /// Nobody on this thread waits between attempts: a scheduler decides who goes on, and time stands still.
    pub static IMPATIENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Waits before a request is made again.
pub async fn pause(wait: Duration) {
    #[cfg(test)]
    if IMPATIENT.get() {
        return tokio::task::yield_now().await;
    }
    tokio::time::sleep(wait).await;
}
