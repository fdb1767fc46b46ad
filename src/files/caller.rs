//! What whoever works with a volume hands in: nothing here prints, reads the environment or listens to signals.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::answer::{Failure, Progress, STORE_TIME, no_answer};

/// Takes progress; may be called often and from any thread. What shows it ends when this is dropped.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// Somebody who works with volumes.
#[derive(Clone)]
pub struct Caller {
    /// For how long a store may be silent.
    pub deadline: Duration,
    /// The name of who publishes, unless a change names another.
    pub host: String,
    /// Takes what is worth saying and no result: one sentence at a time.
    pub note: Arc<dyn Fn(&str) + Send + Sync>,
    /// Begins to show the progress of one piece of work.
    pub progress: Arc<dyn Fn() -> ProgressSink + Send + Sync>,
    /// Ends when the caller does not want a change any more.
    pub stopped: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Caller {
    /// One who waits for [`STORE_TIME`], hears and shows nothing, and always wants what was asked for.
    pub fn silent(host: impl Into<String>) -> Caller {
        Caller {
            deadline: STORE_TIME,
            host: host.into(),
            note: Arc::new(|_| {}),
            progress: Arc::new(|| Arc::new(|_| {})),
            stopped: Arc::new(|| Box::pin(std::future::pending())),
        }
    }
}

/// Waits for something that ends soon unless the store is silent.
///
/// # Errors
/// [`crate::answer::FailureKind::StoreUnreachable`] at the deadline.
pub async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = tokio::time::timeout(deadline, work).await;
    done.map_err(|_| no_answer(deadline))?
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("deadline", &self.deadline)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
