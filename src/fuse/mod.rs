//! The kernel side: requests of /dev/fuse go to the view, invalidations go back. The only place that knows fuser.
//!
//! # Concurrency
//! Each loop thread reads a request and polls the view's future once, right there: names and local bytes are answered
//! without a hand-off (a hand-off costs 7 to 18 us). A future that waits moves with its reply into a task, so loop
//! threads never wait for the network. What blocks on the local disk (fsync) goes to a blocking thread.
//!
//! Notifications are sent by one dedicated thread that holds no lock and that no request waits for: one that is sent
//! from a handler, or while a handler waits for a lock of the sender, deadlocks beyond kill -9.
//!
//! # Passthrough
//! What the view offers is registered with the kernel (`passthrough.rs`), which then reads and writes the file without us.
//! An answer to OPEN with such a file never lets the kernel keep cached pages of the inode: writes do not reach them.
//!
//! # Caching
//! The kernel may keep names, attributes, negative answers, listings and pages until it is told otherwise ([`TTL`]):
//! nothing changes in a view but by its own operations, which pass through the kernel, and by a reload, which tells.

mod convert;
mod counts;
mod device;
mod driver;
mod mountpoint;
mod notify;
mod passthrough;
mod session;

pub use counts::RequestCount;
pub use device::{FuseDevice, device_mount_point, device_number};
pub use mountpoint::{
    MountPointError, clear_stale, is_sailvol_mount, mounts_by_privilege, prepare_mount_point, sailvol_mounts,
    unmount,
};
pub use notify::{Notifications, NotifyError};
pub use passthrough::LocalPlaces;
pub use session::{FuseOptions, FuseSession, SessionError};

use std::time::Duration;

/// How long the kernel may keep what it was told: for ever, as far as it can count (the protocol has no "for ever").
const TTL: Duration = Duration::from_secs(10 * 365 * 86_400);
