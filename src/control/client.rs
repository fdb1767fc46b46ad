//! The client side of a control socket.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::address::Address;
use super::protocol::{Hello, Line, PROTOCOL, REQUEST_BYTES_MAX, Request, too_long};
use crate::answer::{Event, Failure, FailureKind, Progress};

/// Longest greeting, bytes.
const HELLO_BYTES_MAX: u64 = 64 << 10;
/// Longest line of an answer, bytes: four times what the lists of any answer may take (PROTOCOL.md, limits). Whoever sends
/// more is no daemon of ours, and must not fill the memory.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Time for the daemon to accept and say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// Why the daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("{socket}: the mount's daemon does not answer: {reason}")]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It speaks another version.
    #[error(
        "the mount's daemon speaks protocol {theirs}, this program {PROTOCOL}: use the sailvol that made the mount"
    )]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// What it said makes no sense.
    #[error("the mount's daemon gave an answer that cannot be read: {0}")]
    Garbled(String),
    /// It refused or failed.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Failure(failure) => failure,
            ClientError::NoDaemon { .. } => Failure::new(FailureKind::Failed, error.to_string())
                .hint("`sailvol list` shows the mounts; `sailvol umount --force DIR` clears one whose daemon is gone"),
            other => Failure::new(FailureKind::Failed, other.to_string()),
        }
    }
}

/// What the daemon behind a socket says of itself; blocks, for `patience` at most.
///
/// # Errors
/// Nobody listens, or says nothing that can be read.
pub fn greeting(socket: &Path, patience: Duration) -> std::io::Result<Hello> {
    use std::io::{BufRead, Read};
    let stream = std::os::unix::net::UnixStream::connect(Address::of(socket)?.path())?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    std::io::BufReader::new(stream.take(HELLO_BYTES_MAX)).read_line(&mut line)?;
    let line: Line = serde_json::from_str(&line)?;
    Ok(serde_json::from_value(line.params.unwrap_or_default())?)
}

/// A connection to one mount.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
    hello: Hello,
    next_id: u64,
}

impl Client {
    /// The daemon's process: readable once it has ended. `None` when it cannot be seen from here (in another container).
    pub fn daemon(&self) -> Option<AsyncFd<OwnedFd>> {
        let pid = self.stream.get_ref().peer_cred().ok()?.pid()?;
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        // SAFETY: the descriptor is owned by what is made here, and open as long as that lives.
        unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.ok()
    }

    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// See [`ClientError`]; a refusal by access rules is a [`ClientError::Failure`].
    pub async fn connect(socket: &Path) -> Result<Client, ClientError> {
        let gone = |reason: String| ClientError::NoDaemon {
            socket: socket.to_path_buf(),
            reason,
        };
        let address = Address::of(socket).map_err(|e| gone(e.to_string()))?;
        let connected = tokio::time::timeout(HELLO_TIME, UnixStream::connect(address.path())).await;
        let stream = connected
            .map_err(|_| gone("timed out".into()))?
            .map_err(|e| gone(e.to_string()))?;
        let mut stream = BufReader::new(stream);
        let read = tokio::time::timeout(HELLO_TIME, read_line(&mut stream, HELLO_BYTES_MAX)).await;
        let text = read
            .map_err(|_| gone("it accepted the connection, then said nothing".into()))?
            .map_err(|e| gone(e.to_string()))?;
        let line: Line = serde_json::from_slice(&text).map_err(|e| ClientError::Garbled(e.to_string()))?;
        if let Some(error) = line.error {
            let failure = error
                .data
                .unwrap_or_else(|| Failure::new(FailureKind::Failed, error.message));
            return Err(ClientError::Failure(failure));
        }
        let hello: Hello = serde_json::from_value(line.params.unwrap_or_default())
            .map_err(|e| ClientError::Garbled(e.to_string()))?;
        if hello.protocol != PROTOCOL {
            return Err(ClientError::Version {
                theirs: hello.protocol,
            });
        }
        Ok(Client {
            stream,
            socket: socket.to_path_buf(),
            hello,
            next_id: 1,
        })
    }

    /// What the daemon said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks, hands progress to `on_progress`, and waits for the answer without a limit of its own: the daemon gives up
    /// by the time limits in the request.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<T, ClientError> {
        self.exchange(request, |method, params| {
            if method == "progress"
                && let Ok(progress) = serde_json::from_value(params)
            {
                on_progress(progress);
            }
            ControlFlow::Continue(())
        })
        .await
        .map(|answer| answer.expect("never broken off"))
    }

    /// Hands every event to `on_event` until the mount ends, or it breaks off. The connection can do nothing else after.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(
        &mut self,
        mut on_event: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let answer = self.exchange(&Request::Watch {}, |method, params| {
            match (method, serde_json::from_value(params)) {
                ("event", Ok(event)) => on_event(event),
                // An event of a newer version.
                _ => ControlFlow::Continue(()),
            }
        });
        let _: Option<serde_json::Value> = answer.await?;
        Ok(())
    }

    /// Sends a request, hands over notifications, and gives the answer; `None` when a notification broke it off.
    async fn exchange<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut on_notification: impl FnMut(&str, serde_json::Value) -> ControlFlow<()>,
    ) -> Result<Option<T>, ClientError> {
        let garbled = |e: serde_json::Error| ClientError::Garbled(e.to_string());
        let id = self.next_id;
        self.next_id += 1;
        let mut message = serde_json::to_value(request).map_err(garbled)?;
        message["jsonrpc"] = "2.0".into();
        message["id"] = id.into();
        let gone = |socket: &Path, reason: String| ClientError::NoDaemon {
            socket: socket.to_path_buf(),
            reason,
        };
        let text = format!("{message}\n");
        if text.len() > REQUEST_BYTES_MAX {
            return Err(too_long(text.len()).into());
        }
        // A daemon that hangs up while this is sent may have said why.
        let sent = self.stream.write_all(text.as_bytes()).await;
        loop {
            let text = match (read_line(&mut self.stream, ANSWER_BYTES_MAX).await, &sent) {
                (Ok(text), Ok(())) => text,
                (Ok(text), Err(_)) if !text.is_empty() => text,
                (_, Err(error)) => return Err(gone(&self.socket, error.to_string())),
                (Err(error), _) => return Err(gone(&self.socket, error.to_string())),
            };
            if text.is_empty() {
                return Err(gone(
                    &self.socket,
                    "it closed the connection before it answered".into(),
                ));
            }
            let line: Line = serde_json::from_slice(&text).map_err(garbled)?;
            if let Some(method) = &line.method {
                if on_notification(method, line.params.unwrap_or_default()).is_break() {
                    return Ok(None);
                }
                continue;
            }
            if let Some(error) = line.error {
                let failure = error
                    .data
                    .unwrap_or_else(|| Failure::new(FailureKind::Failed, error.message));
                return Err(ClientError::Failure(failure));
            }
            if line.id == Some(id) {
                return serde_json::from_value(line.result.unwrap_or_default())
                    .map(Some)
                    .map_err(garbled);
            }
        }
    }
}

/// One line, empty at the end of the connection; whoever listens there may be no daemon of ours.
async fn read_line(stream: &mut BufReader<UnixStream>, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(bytes_max).read_until(b'\n', &mut line).await?;
    if line.len() as u64 == bytes_max {
        return Err(std::io::Error::other(format!(
            "it sent a line of {bytes_max} bytes or more"
        )));
    }
    Ok(line)
}
