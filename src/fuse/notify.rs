//! Telling the kernel what it must forget, from a thread of its own, and what it may keep ([`Notifications::fill`]).

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;

use crate::view::Invalidations;

/// `FUSE_NOTIFY_INC_EPOCH` of linux/fuse.h (Linux 6.16): all names that the kernel knows are asked again at next use.
const NOTIFY_INC_EPOCH: i32 = 8;
/// Jobs that may wait; reloads come one at a time.
const QUEUE_MAX: usize = 16;

/// The kernel was not told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The mount is gone, and with it what the kernel knew.
    #[error("the mount is gone")]
    Gone,
    /// The kernel refused.
    #[error("the kernel did not take an invalidation: {0}")]
    Kernel(std::io::Error),
}

/// What the kernel is told.
#[derive(Debug)]
enum Message {
    /// All names, and what else changed.
    Moved(Invalidations),
    /// The attributes of one inode: what became of a call that failed is not what the kernel believes.
    Attributes(u64),
}

#[derive(Debug)]
struct Job {
    what: Message,
    done: oneshot::Sender<Result<(), NotifyError>>,
}

/// The way to the notification thread, which ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Notifications {
    notifier: Notifier,
    jobs: std::sync::mpsc::SyncSender<Job>,
    epochs: Arc<AtomicBool>,
}

impl Notifications {
    /// Starts the thread. `device` is the session's /dev/fuse.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(notifier: Notifier, device: OwnedFd) -> std::io::Result<Notifications> {
        let (jobs, queue) = std::sync::mpsc::sync_channel::<Job>(QUEUE_MAX);
        let epochs = Arc::new(AtomicBool::new(kernel_has_epochs()));
        let known = epochs.clone();
        let of_thread = notifier.clone();
        std::thread::Builder::new()
            .name("fuse-notify".into())
            .spawn(move || {
                let mut device = std::fs::File::from(device);
                for job in queue {
                    let told = match &job.what {
                        Message::Moved(what) => tell(&of_thread, &mut device, &known, what),
                        Message::Attributes(ino) => forget_attributes(&of_thread, *ino),
                    };
                    // A reload that gave up waiting does not listen any more.
                    drop(job.done.send(told));
                }
            })?;
        Ok(Notifications {
            notifier,
            jobs,
            epochs,
        })
    }

    /// Returns when the kernel has been told: from then on every path walk asks again. Must not be called while holding
    /// a lock that a request may wait for.
    ///
    /// # Errors
    /// See [`NotifyError`].
    pub async fn send(&self, what: Invalidations) -> Result<(), NotifyError> {
        self.queue(Message::Moved(what)).await
    }

    /// Returns when the kernel has forgotten size and times of an inode.
    ///
    /// # Errors
    /// See [`NotifyError`].
    pub async fn forget_attributes(&self, ino: u64) -> Result<(), NotifyError> {
        self.queue(Message::Attributes(ino)).await
    }

    /// Puts all bytes of a file into the kernel's pages, on this thread. Other than what the kernel is told to forget, this
    /// may be said while a request is answered, if nobody reads or changes the file meanwhile: the kernel locks its pages
    /// and nothing else. Bytes that the kernel does not take are asked for later.
    pub fn fill(&self, ino: u64, bytes: &[u8]) {
        if let Err(error) = self.notifier.store(INodeNo(ino), 0, bytes) {
            tracing::debug!(ino, %error, "the kernel did not take the bytes of a file");
        }
    }

    async fn queue(&self, what: Message) -> Result<(), NotifyError> {
        let (done, told) = oneshot::channel();
        let jobs = self.jobs.clone();
        let job = Job { what, done };
        // Queues only when sixteen reloads are behind; still not on a thread that serves requests.
        let queued = tokio::task::spawn_blocking(move || jobs.send(job).is_ok()).await;
        if !queued.unwrap_or(false) {
            return Err(NotifyError::Gone);
        }
        told.await.unwrap_or(Err(NotifyError::Gone))
    }

    /// Whether the kernel forgets all names at one message, as far as is known.
    pub fn uses_epochs(&self) -> bool {
        self.epochs.load(Ordering::Relaxed)
    }
}

/// Linux 6.16 and later, by the running kernel's release.
pub fn kernel_has_epochs() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 16)
}

/// Bumps the epoch, or names every entry one by one on kernels that have none.
fn tell(
    notifier: &Notifier,
    device: &mut std::fs::File,
    epochs: &AtomicBool,
    what: &Invalidations,
) -> Result<(), NotifyError> {
    let mut bumped = false;
    if epochs.load(Ordering::Relaxed) {
        match bump_epoch(device) {
            Ok(()) => bumped = true,
            Err(error) if gone(&error) => return Err(NotifyError::Gone),
            Err(error) => {
                tracing::info!(%error, "no epochs in this kernel: a reload names every entry");
                epochs.store(false, Ordering::Relaxed);
            }
        }
    }
    if !bumped {
        for (dir, name) in &what.names {
            ignore_unknown(notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name.as_bytes())))?;
        }
    }
    for ino in &what.inodes {
        forget_attributes(notifier, *ino)?;
    }
    Ok(())
}

/// A negative offset means attributes alone: no page is locked, so this cannot wait for a reader that waits for us.
fn forget_attributes(notifier: &Notifier, ino: u64) -> Result<(), NotifyError> {
    ignore_unknown(notifier.inval_inode(INodeNo(ino), -1, 0))
}

/// `struct fuse_out_header`: length, code, and request number 0, which marks a notification.
fn bump_epoch(device: &mut std::fs::File) -> std::io::Result<()> {
    let mut message = [0u8; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
    device.write_all(&message)
}

fn gone(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOTCONN | libc::EBADF)
    )
}

/// What the kernel does not know needs no invalidation.
fn ignore_unknown(told: std::io::Result<()>) -> Result<(), NotifyError> {
    match told {
        Err(error) if gone(&error) => Err(NotifyError::Gone),
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(NotifyError::Kernel(error)),
        _ => Ok(()),
    }
}
