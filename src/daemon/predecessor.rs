//! Mounting again while the mount of the same name before is still ending: its daemon commits, puts everything on disk, and
//! has the local directories until then. After `kill -9` it has them until its last thread is gone.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{CLOSE_TIME, MountSettings};
use crate::control::{greeting, list_mounts};
use crate::fuse;
use crate::mount::WhileTaken;

/// For how long the kernel may take to tell a daemon that its mount was taken away.
const NOTICE_TIME: Duration = Duration::from_secs(2);
/// For how long a holder is waited for of which nothing is known: it has taken its files away already, or has them elsewhere.
const UNKNOWN_TIME: Duration = Duration::from_secs(20);
/// Time for a daemon to say hello.
const HELLO_TIME: Duration = Duration::from_secs(1);

/// How long opening a mount may take at most before it begins to answer: for the store, and for a mount of the same name to
/// end, with its last commit.
pub fn waits_at_most(settings: &MountSettings) -> Duration {
    Duration::from_secs(settings.open_timeout_secs) + ending_time(settings)
}

/// The mount before is taken to have the settings of this one.
fn ending_time(settings: &MountSettings) -> Duration {
    Duration::from_secs(settings.exit_grace_secs) + CLOSE_TIME
}

/// What the holder of the local directories is found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    /// Its mount is there, and it answers.
    Lives,
    /// It answers, and says that it does not end; but its mount is not to be seen here.
    Unmounted,
    /// It ends, or does not answer any more.
    Ending,
    /// No mount of that name is written down.
    Unknown,
}

/// For opening a mount with these settings.
pub(super) fn patience(settings: &MountSettings) -> WhileTaken {
    let settings = settings.clone();
    let since = Mutex::new(None);
    WhileTaken::ask(move || {
        let mut since = since.lock();
        let first = since.is_none();
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        let holder = look(&settings);
        if first {
            tracing::info!(
                name = settings.name,
                ?holder,
                "another process is using the local directories"
            );
        }
        goes_on(holder, waited, ending_time(&settings))
    })
}

fn goes_on(holder: Holder, waited: Duration, ending_time: Duration) -> bool {
    let limit = match holder {
        Holder::Lives => return false,
        Holder::Unmounted => NOTICE_TIME,
        Holder::Ending => ending_time,
        Holder::Unknown => UNKNOWN_TIME,
    };
    waited < limit
}

fn look(settings: &MountSettings) -> Holder {
    let me = std::process::id();
    let known = list_mounts(std::slice::from_ref(&settings.runtime_root));
    let Some(record) = known.into_iter().find(|r| r.name == settings.name && r.pid != me) else {
        return Holder::Unknown;
    };
    match greeting(&record.socket, HELLO_TIME) {
        Ok(hello) if hello.ending => Holder::Ending,
        Ok(_) if fuse::is_sailvol_mount(&record.dir) => Holder::Lives,
        Ok(_) => Holder::Unmounted,
        Err(error) => {
            tracing::debug!(%error, "the mount before does not answer");
            Holder::Ending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_is_not_waited_for_and_who_ends_is() {
        let (none, long) = (Duration::ZERO, Duration::from_secs(3600));
        let limit = Duration::from_secs(55);
        assert!(!goes_on(Holder::Lives, none, limit));
        for holder in [Holder::Unmounted, Holder::Ending, Holder::Unknown] {
            assert!(
                goes_on(holder, none, limit) && !goes_on(holder, long, limit),
                "{holder:?}"
            );
        }
        assert!(goes_on(Holder::Ending, Duration::from_secs(54), limit));
    }
}
