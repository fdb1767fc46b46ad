//! Telling the kernel what it must forget, from threads of its own, and what it may keep ([`Notifications::fill`]).

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;

use crate::model::Name;
use crate::view::Invalidations;

/// `FUSE_NOTIFY_INC_EPOCH` of linux/fuse.h (Linux 6.16): all names that the kernel knows are asked again at next use.
const NOTIFY_INC_EPOCH: i32 = 8;
/// `off` in this variable of the environment: the kernel is treated as one without epochs. For tests of that path.
const EPOCHS_VARIABLE: &str = "SAILVOL_KERNEL_EPOCHS";
/// A name that nobody has.
const NO_NAME: &[u8] = b"\x01\x02\x03 nobody \x03\x02\x01";
/// Longest wait of a reload for readers of directories. They wait for nothing but us, for whom their directory may have to be
/// fetched.
const UNDER_WAY_MAX: Duration = Duration::from_secs(5);
/// How long names are dropped one by one where all could be dropped at once.
const NAMES_TIME: Duration = Duration::from_millis(300);
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

/// Whoever asked hears how it went; `Some`: and then when what was under way has been dropped too.
type Told = Result<Option<oneshot::Receiver<()>>, NotifyError>;

#[derive(Debug)]
struct Job {
    what: Message,
    done: oneshot::Sender<Told>,
}

/// What takes locks of directories, and may have to wait for whoever is in there, who waits for us.
#[derive(Debug)]
enum Waiting {
    /// Names that are dropped one by one.
    Names(
        Vec<(u64, Name)>,
        std::sync::mpsc::SyncSender<Result<(), NotifyError>>,
    ),
    /// Directories that somebody may be reading by an answer of before a reload; their names may look like new ones.
    UnderWay(Vec<u64>, bool, oneshot::Sender<()>),
}

/// The way to the notification threads, which end when the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Notifications {
    notifier: Notifier,
    jobs: std::sync::mpsc::SyncSender<Job>,
    epochs: Arc<AtomicBool>,
}

/// What a notification thread works with.
struct Kernel {
    notifier: Notifier,
    device: std::fs::File,
    epochs: Arc<AtomicBool>,
}

impl Notifications {
    /// Starts the threads. `device` is the session's /dev/fuse.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(notifier: Notifier, device: OwnedFd) -> std::io::Result<Notifications> {
        let (jobs, queue) = std::sync::mpsc::sync_channel::<Job>(QUEUE_MAX);
        let (waits, waiting) = std::sync::mpsc::channel::<Waiting>();
        let epochs = Arc::new(AtomicBool::new(kernel_has_epochs()));
        let of_waiter = Kernel {
            notifier: notifier.clone(),
            device: std::fs::File::from(device.try_clone()?),
            epochs: epochs.clone(),
        };
        let mut of_thread = Kernel {
            notifier: notifier.clone(),
            device: std::fs::File::from(device),
            epochs: epochs.clone(),
        };
        thread("fuse-notify", move || {
            for job in queue {
                let told = match job.what {
                    Message::Moved(what) => of_thread.tell(what, &waits),
                    Message::Attributes(ino) => of_thread.forget_attributes(ino).map(|()| None),
                };
                // A reload that gave up waiting does not listen any more.
                drop(job.done.send(told));
            }
        })?;
        thread("fuse-under-way", move || {
            let mut kernel = of_waiter;
            for what in waiting {
                match what {
                    // Nobody listens to what took too long.
                    Waiting::Names(names, done) => drop(done.try_send(kernel.forget_names(&names))),
                    Waiting::UnderWay(directories, bump, done) => {
                        if let Err(error) = kernel.drop_under_way(&directories, bump) {
                            tracing::warn!(%error, "lines of before a reload may stay with the kernel");
                        }
                        done.send(()).unwrap_or_default();
                    }
                }
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
        let Some(dropped) = self.queue(Message::Moved(what)).await? else {
            return Ok(());
        };
        // An error of the receiver: the threads end.
        if tokio::time::timeout(UNDER_WAY_MAX, dropped).await.is_err() {
            tracing::warn!(
                "somebody waits in a directory that is being read: lines of before the reload are dropped after that"
            );
        }
        Ok(())
    }

    /// Returns when the kernel has forgotten size and times of an inode.
    ///
    /// # Errors
    /// See [`NotifyError`].
    pub async fn forget_attributes(&self, ino: u64) -> Result<(), NotifyError> {
        self.queue(Message::Attributes(ino)).await.map(drop)
    }

    /// Puts all bytes of a file into the kernel's pages, on this thread. Other than what the kernel is told to forget, this
    /// may be said while a request is answered, if nobody reads or changes the file meanwhile: the kernel locks its pages
    /// and nothing else. Bytes that the kernel does not take are asked for later.
    pub fn fill(&self, ino: u64, bytes: &[u8]) {
        if let Err(error) = self.notifier.store(INodeNo(ino), 0, bytes) {
            tracing::debug!(ino, %error, "the kernel did not take the bytes of a file");
        }
    }

    /// The kernel forgets size and times of an inode, on this thread. May be said while an opening of it is answered: who opens
    /// an inode holds it, so that the kernel waits for nothing to find it.
    pub fn forget_attributes_now(&self, ino: u64) {
        if let Err(error) = ignore_unknown(self.notifier.inval_inode(INodeNo(ino), -1, 0)) {
            tracing::debug!(ino, %error, "the times of a file");
        }
    }

    async fn queue(&self, what: Message) -> Told {
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

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
}

/// Linux 6.16 and later, by the running kernel's release. [`EPOCHS_VARIABLE`] says otherwise.
pub fn kernel_has_epochs() -> bool {
    if std::env::var_os(EPOCHS_VARIABLE).is_some_and(|value| value == "off") {
        return false;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 16)
}

impl Kernel {
    /// Drops names first: in one step by the epoch, or one by one. Where that takes long (somebody is in a directory, and waits
    /// for the store) the epoch is bumped after all, if there is one.
    fn tell(&mut self, what: Invalidations, waits: &std::sync::mpsc::Sender<Waiting>) -> Told {
        let epochs = self.epochs.load(Ordering::Relaxed);
        let mut bumped = what.all_names && self.bump()?;
        if !what.all_names {
            let (done, told) = std::sync::mpsc::sync_channel(1);
            if waits.send(Waiting::Names(what.names, done)).is_err() {
                return Err(NotifyError::Gone);
            }
            if !epochs {
                told.recv().unwrap_or(Err(NotifyError::Gone))?;
            } else {
                match told.recv_timeout(NAMES_TIME) {
                    Ok(told) => told?,
                    Err(_) => bumped = self.bump()?,
                }
            }
        }
        for ino in &what.inodes {
            self.forget_attributes(*ino)?;
        }
        what.directories
            .iter()
            .try_for_each(|dir| self.forget_listing(*dir))?;
        if what.under_way.is_empty() {
            return Ok(None);
        }
        let (done, dropped) = oneshot::channel();
        let waiting = Waiting::UnderWay(what.under_way, bumped, done);
        Ok(waits.send(waiting).is_ok().then_some(dropped))
    }

    fn forget_names(&self, names: &[(u64, Name)]) -> Result<(), NotifyError> {
        let mut names = names.iter();
        names.try_for_each(|(dir, name)| self.forget_name(*dir, name.as_bytes()))
    }

    /// Waits until nobody takes in lines of these directories that were answered before, and drops what came of them: names
    /// that were entered after the epoch was bumped look like new ones, and so do listings.
    fn drop_under_way(&mut self, directories: &[u64], bump: bool) -> Result<(), NotifyError> {
        for dir in directories {
            // A reader holds the directory's lock from before it asks until it has taken in the answer, and this takes it.
            self.forget_name(*dir, NO_NAME)?;
        }
        if bump {
            self.bump()?;
        }
        directories.iter().try_for_each(|dir| self.forget_listing(*dir))
    }

    /// All names are old, if the kernel knows epochs.
    fn bump(&mut self) -> Result<bool, NotifyError> {
        if !self.epochs.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match bump_epoch(&mut self.device) {
            Ok(()) => Ok(true),
            Err(error) if gone(&error) => Err(NotifyError::Gone),
            Err(error) => {
                tracing::info!(%error, "no epochs in this kernel: a reload names every entry");
                self.epochs.store(false, Ordering::Relaxed);
                Ok(false)
            }
        }
    }

    fn forget_name(&self, dir: u64, name: &[u8]) -> Result<(), NotifyError> {
        ignore_unknown(self.notifier.inval_entry(INodeNo(dir), OsStr::from_bytes(name)))
    }

    /// A negative offset means attributes alone: no page is locked, so this cannot wait for a reader that waits for us.
    fn forget_attributes(&self, ino: u64) -> Result<(), NotifyError> {
        ignore_unknown(self.notifier.inval_inode(INodeNo(ino), -1, 0))
    }

    /// Attributes and pages of a directory. Its pages are locked only while lines are copied.
    fn forget_listing(&self, dir: u64) -> Result<(), NotifyError> {
        ignore_unknown(self.notifier.inval_inode(INodeNo(dir), 0, 0))
    }
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
