//! Memory that the allocator keeps although nobody uses it.
//!
//! glibc gives threads heaps of their own (arenas), eight per processor, and each keeps what was freed in it, up to some
//! ten MiB, for the next one of its threads. Frames of 1 MiB and chunks of 8 MiB pass through a hundred threads here, so that
//! most of the memory of a large transfer was of that kind: a commit of 4 GiB held 109 MiB and took 315, a cold copy of
//! 4 GiB 142 and 220.
//!
//! 1. There are few arenas ([`limit_arenas`]): one on a small machine. Small blocks come from each thread's own cache, which asks
//!    no arena.
//! 2. What is free is given back to the machine after a large commit, and when fetches have come to rest after many bytes: a
//!    pod's limit would count it until the daemon ends.
//!
//! (Blocks of 256 KiB and more by mmap, and another allocator, were tried: as little memory, but the kernel clears each page
//! anew, for half as much processor time again.)

use std::sync::Arc;
use std::time::Duration;

use super::Mount;

/// Changed files of a commit from which on giving back is worth the time: they took some MiB (200,000 small
/// ones left 360 of 580 MiB between blocks that were in use).
const CHANGES: usize = 5_000;
/// Bytes sent or fetched, likewise.
const BYTES: u64 = 64 << 20;
/// Fetches that bring nothing for this long have come to rest.
const REST: Duration = Duration::from_secs(5);

/// Sets how many arenas there are. To be called before there are threads.
pub fn limit_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const PROCESSORS_PER_ARENA: usize = 4;
        const ARENAS_MAX: usize = 4;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = processors.div_ceil(PROCESSORS_PER_ARENA).min(ARENAS_MAX);
        // SAFETY: takes two numbers; no other thread allocates yet.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(1));
        }
    }
}

/// After a commit of so many files, of which so many bytes were sent.
pub(super) fn give_back_after(changes: usize, bytes: u64) {
    if changes >= CHANGES || bytes >= BYTES {
        give_back();
    }
}

/// Gives freed memory back to the machine, on a thread of its own. It takes a millisecond for some MiB; nobody waits for it.
fn give_back() {
    tokio::task::spawn_blocking(|| {
        // SAFETY: takes a number and touches only what the allocator knows to be free.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::malloc_trim(0);
        }
    });
}

impl Mount {
    /// Gives memory back whenever many bytes were fetched and no more come.
    pub(super) fn watch_memory(self: &Arc<Self>) {
        let mount = Arc::downgrade(self);
        self.adopt_task(tokio::spawn(async move {
            let (mut last, mut given_back) = (0, 0);
            loop {
                tokio::time::sleep(REST).await;
                let Some(mount) = mount.upgrade() else { return };
                let fetched = mount.source.cache().fetched_bytes();
                if fetched == last && fetched - given_back >= BYTES {
                    given_back = fetched;
                    give_back();
                }
                last = fetched;
            }
        }));
    }
}
