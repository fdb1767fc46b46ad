//! The server side of a control socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::address::Address;
use super::peer::Access;
use super::protocol::{Hello, Line, REQUEST_BYTES_MAX, Request, code, parse_request, too_long};
use crate::answer::{Event, Failure, FailureKind, Progress};
use crate::mount::ProgressSink;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Of these, watchers: others must find a place to commit.
const WATCHERS_MAX: usize = 16;
/// Time for the first request.
const FIRST_REQUEST_TIME: Duration = Duration::from_secs(30);
/// Time between an answer and the next request.
const NEXT_REQUEST_TIME: Duration = Duration::from_secs(600);
/// Time for a client to take anything at all of what it is sent.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// A client that takes an answer more slowly than this, bytes a second, is given up: what it is owed stays in memory.
const TAKEN_PER_SECOND: u64 = 64 << 10;
/// Answers of many paths that are in memory at the same time; who asks for one more waits. Commits are none of them.
const LISTINGS_MAX: usize = 4;
/// Most that is read, and thrown away, of a request that is too long, bytes; and for how long. A client that is still
/// sending does not hear why it was refused.
const DISCARDED_BYTES_MAX: u64 = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What answers requests: a mount, or a double in tests.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// The first line for every client.
    fn hello(&self) -> Hello;

    /// Does what is asked, and gives the answer's JSON. Runs to its end also when the client has gone.
    async fn call(&self, request: Request, progress: ProgressSink) -> Result<Vec<u8>, Failure>;

    /// What happens from now on; ends with the mount.
    fn events(&self) -> BoxStream<'static, Arc<Event>>;
}

/// A bound control socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    access: Access,
    places: Places,
}

/// How many things may be done at the same time.
#[derive(Clone, Debug)]
struct Places {
    answering: Arc<Semaphore>,
    watching: Arc<Semaphore>,
    listing: Arc<Semaphore>,
}

/// Waits for answers that are on their way.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Semaphore>);

impl Drain {
    /// Returns when no request is being answered, or after `limit`.
    pub async fn wait(&self, limit: Duration) {
        // One permit for each answer: all of them are here when nothing is under way.
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if tokio::time::timeout(limit, self.0.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!("a control request is cut off by the end of the mount");
        }
    }
}

impl Server {
    /// Binds `path`, replacing a socket that a dead daemon left. Everybody may connect; `access` decides who is heard.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(path: &Path, access: Access) -> std::io::Result<Server> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(Address::of(path)?.path())?;
        open_to_all(path)?;
        Ok(Server {
            listener,
            access,
            places: Places {
                answering: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
                watching: Arc::new(Semaphore::new(WATCHERS_MAX)),
                listing: Arc::new(Semaphore::new(LISTINGS_MAX)),
            },
        })
    }

    /// For the end of the process.
    pub fn drain(&self) -> Drain {
        Drain(self.places.answering.clone())
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, service: Arc<dyn Service>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: whoever holds them must be given time to close some.
                    tracing::warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = connections.clone().try_acquire_owned() else {
                tokio::spawn(refuse(
                    stream,
                    "too many connections to this mount at once; try again".into(),
                ));
                continue;
            };
            match self.access.check(&stream) {
                Err(reason) => {
                    tokio::spawn(refuse(stream, reason));
                }
                Ok(()) => {
                    let (service, places) = (service.clone(), self.places.clone());
                    tokio::spawn(async move {
                        serve_connection(stream, service, places).await;
                        drop(place);
                    });
                }
            }
        }
    }
}

/// Lets everybody connect. In a directory that others may write to, somebody may have put another file or a symbolic link
/// there since: the socket is held while it is changed, and nothing but a socket is.
fn open_to_all(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&held)?;
    let is_ours = found.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket || !is_ours {
        return Err(std::io::Error::other("somebody else put something in its place"));
    }
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

async fn refuse(mut stream: UnixStream, reason: String) {
    let failure = Failure::new(FailureKind::NoAccess, reason);
    send(&mut stream, &Line::failure(None, code::MOUNT, failure)).await;
}

/// False when the client does not take it.
async fn send<W: tokio::io::AsyncWrite + Unpin>(writer: &mut W, line: &Line) -> bool {
    let Ok(mut bytes) = serde_json::to_vec(line) else {
        return false;
    };
    bytes.push(b'\n');
    send_bytes(writer, &bytes).await
}

/// However long it is: what counts is that the client goes on taking it. False when it does not.
async fn send_bytes<W: tokio::io::AsyncWrite + Unpin>(writer: &mut W, mut bytes: &[u8]) -> bool {
    let whole = WRITE_TIME + Duration::from_secs(bytes.len() as u64 / TAKEN_PER_SECOND);
    let sending = async {
        while !bytes.is_empty() {
            match tokio::time::timeout(WRITE_TIME, writer.write(bytes)).await {
                Ok(Ok(taken)) if taken > 0 => bytes = &bytes[taken..],
                _ => return false,
            }
        }
        true
    };
    tokio::time::timeout(whole, sending).await.unwrap_or(false)
}

async fn serve_connection(stream: UnixStream, service: Arc<dyn Service>, places: Places) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let hello = serde_json::to_value(service.hello()).unwrap_or_default();
    if !send(&mut writer, &Line::notification("hello", hello)).await {
        return;
    }
    let mut patience = FIRST_REQUEST_TIME;
    loop {
        let mut bytes = Vec::new();
        let mut limited = (&mut reader).take(REQUEST_BYTES_MAX as u64 + 1);
        let got = tokio::time::timeout(patience, limited.read_until(b'\n', &mut bytes)).await;
        if !matches!(got, Ok(Ok(n)) if n > 0) {
            return;
        }
        if bytes.len() > REQUEST_BYTES_MAX {
            let failure = too_long(bytes.len());
            send(&mut writer, &Line::failure(None, code::INVALID_REQUEST, failure)).await;
            return discard(&mut reader).await;
        }
        let (id, request) = match parse_request(&bytes) {
            Ok(parsed) => parsed,
            Err(answer) => {
                let fatal = answer.error.as_ref().is_some_and(|e| e.code == code::PARSE);
                if !send(&mut writer, &answer).await || fatal {
                    return;
                }
                continue;
            }
        };
        if matches!(request, Request::Watch {}) {
            let Ok(_place) = places.watching.try_acquire() else {
                let text = format!("{WATCHERS_MAX} others watch this mount already");
                let failure = Failure::new(FailureKind::Refused, text);
                send(&mut writer, &Line::failure(Some(id), code::MOUNT, failure)).await;
                return;
            };
            // Not one of the answers that the end of the mount waits for.
            return tell_events(&mut reader, &mut writer, service.events(), id).await;
        }
        let listing = match request.lists_paths() {
            true => Some(places.listing.acquire().await),
            false => None,
        };
        let under_way = places.answering.acquire().await;
        let open = answer(&mut writer, &service, id, request).await;
        drop((under_way, listing));
        if !open {
            return;
        }
        patience = NEXT_REQUEST_TIME;
    }
}

/// Reads on to the end of a request that is not heard.
async fn discard(reader: &mut BufReader<OwnedReadHalf>) {
    let discarding = async {
        let mut left = DISCARDED_BYTES_MAX;
        while left > 0 {
            let there = match reader.fill_buf().await {
                Ok(bytes) if !bytes.is_empty() => bytes,
                _ => return,
            };
            let ends = there.contains(&b'\n');
            let taken = there.len();
            reader.consume(taken);
            if ends {
                return;
            }
            left = left.saturating_sub(taken as u64);
        }
    };
    // The answer is sent: what is lost is only that a client that sends on forever does not hear it.
    let _ = tokio::time::timeout(DISCARD_TIME, discarding).await;
}

/// A line of JSON around an answer that is JSON already: the paths of a large one are written once.
fn result_line(id: u64, result: &[u8]) -> Vec<u8> {
    let mut line = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#).into_bytes();
    line.reserve_exact(result.len() + 2);
    line.extend_from_slice(result);
    line.extend_from_slice(b"}\n");
    line
}

/// Events until they end, the client goes or says anything, or does not take one within [`WRITE_TIME`].
async fn tell_events(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    mut events: BoxStream<'static, Arc<Event>>,
    id: u64,
) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = reader.fill_buf() => return,
        };
        let Some(event) = event else { break };
        let params = serde_json::to_value(&*event).unwrap_or_default();
        if !send(writer, &Line::notification("event", params)).await {
            return;
        }
    }
    let end = Line {
        id: Some(id),
        result: Some(serde_json::json!({})),
        ..Line::empty()
    };
    send(writer, &end).await;
}

/// Runs one request, forwarding progress; false when the client has gone.
async fn answer(writer: &mut OwnedWriteHalf, service: &Arc<dyn Service>, id: u64, request: Request) -> bool {
    let (sender, mut progress) = mpsc::channel::<Progress>(16);
    // A client that reads slowly loses progress, never the answer.
    let sink: ProgressSink = Arc::new(move |p| drop(sender.try_send(p)));
    let service = service.clone();
    // A task of its own: it ends by itself when the client goes.
    let mut work = tokio::spawn(async move { service.call(request, sink).await });
    let mut open = true;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(p) = progress.recv(), if open => {
                let params = serde_json::to_value(&p).unwrap_or_default();
                open = send(writer, &Line::notification("progress", params)).await;
            }
        }
    };
    if !open {
        return false;
    }
    match done {
        Ok(Ok(result)) => {
            let line = result_line(id, &result);
            drop(result);
            send_bytes(writer, &line).await
        }
        Ok(Err(failure)) => send(writer, &Line::failure(Some(id), code::MOUNT, failure)).await,
        Err(panic) => {
            let text = format!("a bug in sailvol: {panic}");
            send(writer, &Line::error(Some(id), code::MOUNT, text)).await
        }
    }
}
