//! The kernel side: requests of /dev/fuse go to the view, invalidations go back. The only place that knows fuser.
//!
//! # Concurrency
//! Each loop thread reads a request and polls the view's future once, right there: names and local bytes are answered
//! without a hand-off (a hand-off costs 7 to 18 us). A future that waits moves with its reply into a task, so loop
//! threads never wait for the network. What blocks on the local disk (fsync) goes to a blocking thread.
//!
//! Notifications are sent by dedicated threads that hold no lock and that no request waits for: one that is sent
//! from a handler, or while a handler waits for a lock of the sender, deadlocks beyond kill -9. (The second one may have to
//! wait for readers of a directory, who wait for us.)
//!
//! The kernel does not tell all at once: what it holds back of closes and of stores through mappings is asked for before a
//! commit (`hearing.rs`).
//!
//! # Passthrough
//! What the view offers is registered with the kernel (`passthrough.rs`), which then reads and writes the file without us.
//! An answer to OPEN with such a file never lets the kernel keep cached pages of the inode: writes do not reach them.
//!
//! # Caching
//! The kernel may keep what it was told until it is told otherwise ([`TTL`]): nothing changes in a view but by its own
//! operations, which pass through the kernel, and by a reload, which tells before it is answered (`notify.rs`). With epochs
//! (Linux 6.16) one message makes all names old. Without, and where the view knows the kernel to have few names, each is
//! dropped by itself: an overlayfs on top of the mount asks again for such a name, and takes one of an older epoch for stale
//! for good. Where dropping single names takes long (each waits for whoever is in its directory) the epoch is bumped after all.
//!
//! | what is kept | filled by | dropped at a reload by | why no answer of before comes in behind that |
//! |---|---|---|---|
//! | names | LOOKUP, CREATE, MKNOD, MKDIR, SYMLINK, LINK, RENAME | the epoch, or INVAL_ENTRY of each | The kernel notes the epoch before it asks. For single names: it holds the directory's lock from before it asks until the name is entered, and INVAL_ENTRY takes that lock |
//! | names | READDIRPLUS | the same | Here the epoch is noted when the answer has come. So directories with lines under way (`view/dirs.rs`, 4) are waited for with an INVAL_ENTRY that takes their lock, which a reader holds until its lines are entered; then the epoch is bumped once more. A line whose name is gone is told with a time to live of 0 |
//! | that a name is not there; names of hard links | LOOKUP and the like | the epoch, or INVAL_ENTRY of each | As above. No inode knows these names, so they are noted as they are told (`view/noted.rs`), up to a number; with more it is the epoch. Without epochs they are told with a time to live of 0 |
//! | attributes | nearly every answer | the question for the name, which is answered with attributes; INVAL_INODE where no name leads (directories, open files), and of all with single names | INVAL_INODE makes the inode's version newer than that of questions under way, whose answers are not taken then. An answer to SETATTR is always taken: of a change that a reload put away while its caller still waited for it |
//! | listings | READDIR and READDIRPLUS of a handle with FOPEN_CACHE_DIR, line by line | INVAL_INODE with pages; an OPENDIR without FOPEN_KEEP_CACHE, once in each generation | Lines under way are waited for as above. A handle in the middle of a listing adds old lines only behind pages that are gone by then; a listing without its first page is thrown away at the next read from the start, which is also when the kernel looks whether the directory was changed |
//! | bytes of files | READ, writes, NOTIFY_STORE with OPEN | the next OPEN | While somebody has a file open its number stands for those bytes: with others it is another number. One that nobody has open can get other bytes under its number (`view/inodes.rs`, 4): then pages and size are dropped with each OPEN, before its answer is used, until a handle of those was closed. Nobody reads pages without a handle. With passthrough the kernel keeps no pages of ours |
//! | targets of symbolic links | READLINK | nothing | A link with another target has another number |
//!
//! `fuse-tests/tests/listings.rs` tries all of it on real mounts, with and without epochs and passthrough.

mod convert;
mod counts;
mod device;
mod driver;
mod flags;
mod hearing;
mod holders;
mod mountpoint;
mod notify;
mod passthrough;
mod session;

pub use counts::RequestCount;
pub use device::{FuseDevice, device_mount_point, device_number};
pub use flags::{KernelFlag, Remount, remount};
pub use hearing::Hearing;
pub use mountpoint::{
    MountPointError, Unmount, clear_stale, is_dead_mount, is_sailvol_mount, mounts_by_privilege,
    prepare_mount_point, sailvol_mounts, unmount,
};
pub use notify::{Notifications, NotifyError};
pub use passthrough::LocalPlaces;
pub use session::{FuseOptions, FuseSession, SessionError};

use std::time::Duration;

/// How long the kernel may keep what it was told: for ever, as far as it can count (the protocol has no "for ever").
const TTL: Duration = Duration::from_secs(10 * 365 * 86_400);
