//! Signals as messages: all but those that mean a fault of this process itself are held back and read from a descriptor,
//! which tells where each comes from.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Signals that are left as they are: faults of this process, and what the kernel does not let anybody hold back anyway.
const LEFT_ALONE: [i32; 9] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
    // A closed pipe is an error of a write here.
    libc::SIGPIPE,
    libc::SIGPROF,
];

/// Sent by the kernel itself, as for keys of a terminal (`SI_KERNEL` of sigaction(2)).
const BY_KERNEL: i32 = 0x80;

/// Signals that were held back when this process began.
static BEFORE: OnceLock<libc::sigset_t> = OnceLock::new();

/// Holds back in a child what was held back before [`Signals::take`]; to be called between fork and exec.
///
/// # Errors
/// What the system says.
pub fn as_before() -> io::Result<()> {
    let Some(before) = BEFORE.get() else { return Ok(()) };
    // SAFETY: sigprocmask(2) with a set that lives as long as the process.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A signal that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Which one.
    pub number: i32,
    /// By the terminal, which sends it to the whole process group.
    by_terminal: bool,
}

impl Received {
    /// It asks for an end.
    pub fn ends(self) -> bool {
        [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP].contains(&self.number)
    }

    /// The command has not got it yet. (A terminal that goes away tells the first process of its session only.)
    pub fn is_for_the_command(self) -> bool {
        self.number != libc::SIGCHLD && (!self.by_terminal || self.number == libc::SIGHUP)
    }

    /// It stops whoever does nothing about it.
    pub fn stops(self) -> bool {
        [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&self.number)
    }
}

/// Held-back signals, or where they are read.
pub enum Signals {
    /// Before there is a runtime.
    Held(OwnedFd),
    /// In one.
    Listening(AsyncFd<OwnedFd>),
}

impl Signals {
    /// Holds them back, in this thread and in those that it starts. Processes that are started inherit that: see
    /// [`as_before`].
    ///
    /// # Errors
    /// No more descriptors.
    pub fn take() -> io::Result<Signals> {
        // SAFETY: a set on the stack is filled, and handed to calls that read it.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            for signal in LEFT_ALONE {
                libc::sigdelset(&raw mut set, signal);
            }
            let mut before: libc::sigset_t = std::mem::zeroed();
            let held = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            if held != 0 {
                return Err(io::Error::from_raw_os_error(held));
            }
            BEFORE.get_or_init(|| before);
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was opened just now.
        Ok(Signals::Held(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// To be called inside a runtime.
    ///
    /// # Errors
    /// The runtime's.
    pub fn listen(self) -> io::Result<Signals> {
        match self {
            // SAFETY: the descriptor is owned by what is made here, and open as long as that lives.
            Signals::Held(fd) => {
                let listening = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
                Ok(Signals::Listening(listening?))
            }
            listening => Ok(listening),
        }
    }

    /// Waits for the next one. `None`: there was none after all.
    pub async fn next(&mut self) -> Option<Received> {
        let Signals::Listening(fd) = self else {
            return std::future::pending().await;
        };
        let mut ready = match fd.readable().await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "cannot receive signals");
                return std::future::pending().await;
            }
        };
        let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut bytes)?));
        match read {
            Ok(Ok(n)) if n == bytes.len() => Some(received(&bytes)),
            _ => None,
        }
    }
}

fn received(bytes: &[u8; size_of::<libc::signalfd_siginfo>()]) -> Received {
    // SAFETY: the kernel has filled a buffer of exactly this type's size; any bytes are a value of it.
    let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    Received {
        number: i32::try_from(info.ssi_signo).unwrap_or(0),
        by_terminal: info.ssi_code == BY_KERNEL,
    }
}

/// Stops this process as the command was stopped, so that the shell that started it has the terminal again. Not where
/// nobody could continue it: the first process of a session or of a container.
pub fn stop_as_well() {
    let me = rustix::process::getpid();
    // Not rustix's `getsid`, which takes no 0: that is what the kernel answers for a session that began outside the
    // container, as one of `kubectl exec`.
    // SAFETY: getsid(2) of this process, which changes nothing.
    let session = unsafe { libc::getsid(0) };
    if me.is_init() || session == me.as_raw_pid() {
        return;
    }
    if let Err(error) = rustix::process::kill_process(me, rustix::process::Signal::STOP) {
        tracing::debug!(%error, "stopping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_sends_is_not_sent_twice() {
        let by = |number, by_terminal| Received { number, by_terminal };
        for (received, handed_on) in [
            (by(libc::SIGINT, true), false),
            (by(libc::SIGINT, false), true),
            (by(libc::SIGTERM, false), true),
            (by(libc::SIGHUP, true), true),
            (by(libc::SIGWINCH, true), false),
            (by(libc::SIGWINCH, false), true),
            (by(libc::SIGCHLD, false), false),
        ] {
            assert_eq!(received.is_for_the_command(), handed_on, "{received:?}");
        }
        assert!(by(libc::SIGTERM, false).ends() && !by(libc::SIGTSTP, true).ends());
        assert!(by(libc::SIGTSTP, true).stops());
    }
}
