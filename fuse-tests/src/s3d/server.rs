//! Starting and stopping.

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::control;
use super::front::{Counters, Front, LogEntry};
use super::objects::Objects;
use super::service::{Keys, Service};
use super::settings::{FaultRule, Settings};

/// Threads that serve; they mostly wait.
const THREADS: usize = 2;

/// How a server starts.
#[derive(Clone, Debug)]
pub struct S3dOptions {
    /// Where objects are kept; `None`: a temporary directory that goes with the server.
    pub data: Option<PathBuf>,
    /// 0: any free one.
    pub port: u16,
    /// Created when they are not there.
    pub buckets: Vec<String>,
    /// How it behaves.
    pub settings: Settings,
    /// Faults from the start.
    pub faults: Vec<FaultRule>,
    /// Of the chances of faults.
    pub seed: u64,
}

impl Default for S3dOptions {
    fn default() -> S3dOptions {
        S3dOptions {
            data: None,
            port: 0,
            buckets: vec!["bucket".to_string()],
            settings: Settings::default(),
            faults: Vec::new(),
            seed: 1,
        }
    }
}

/// A running server; stops when it is dropped.
#[derive(Debug)]
pub struct S3d {
    address: SocketAddr,
    data: PathBuf,
    front: Arc<Front>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Removed last.
    _temporary: Option<TempDir>,
}

impl S3d {
    /// Starts a server on a loopback port, on threads of its own.
    pub async fn start(options: S3dOptions) -> io::Result<S3d> {
        tokio::task::spawn_blocking(move || S3d::start_blocking(options))
            .await
            .map_err(io::Error::other)?
    }

    /// The same for callers without a runtime.
    pub fn start_blocking(options: S3dOptions) -> io::Result<S3d> {
        let (data, temporary) = match options.data {
            Some(data) => (data, None),
            None => {
                let dir = TempDir::with_prefix("s3d-")?;
                (dir.path().to_path_buf(), Some(dir))
            }
        };
        let objects = Arc::new(Objects::open(data.clone())?);
        for bucket in &options.buckets {
            objects
                .create_bucket(bucket)
                .map_err(|refused| io::Error::other(format!("{refused:?}")))?;
        }
        let settings = Arc::new(RwLock::new(options.settings));
        let mut builder = S3ServiceBuilder::new(Service {
            objects,
            settings: settings.clone(),
        });
        builder.set_auth(Keys(settings.clone()));
        // Clients follow the clock that we tell, which `clock_offset_s` moves.
        let mut config = S3Config::default();
        config.presigned_url_max_skew_time_secs = u32::MAX;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let front = Arc::new(Front::new(settings, builder.build(), options.seed));
        for rule in options.faults {
            front.faults.lock().add(rule);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let serving = front.clone();
        let thread = std::thread::Builder::new()
            .name("s3d".to_string())
            .spawn(move || {
                runtime.block_on(accept(listener, serving, stopped));
                runtime.shutdown_background();
            })?;
        Ok(S3d {
            address,
            data,
            front,
            stop: Some(stop),
            thread: Some(thread),
            _temporary: temporary,
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port, to start again on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// URL of a store or volume: `path` is the bucket and what follows.
    pub fn url(&self, path: &str) -> String {
        format!(
            "s3://{path}?endpoint={}&region=us-east-1&path_style=true",
            self.endpoint()
        )
    }

    /// Writes a file in the format of `~/.aws/credentials` with one of the keys and tells its path.
    pub fn credentials_file(&self) -> io::Result<PathBuf> {
        let path = self.data.join("credentials");
        let keys = self.front.settings.read().keys.clone();
        let (access, secret) = keys
            .first_key_value()
            .ok_or_else(|| io::Error::other("the server has no keys"))?;
        write_credentials(&path, access, secret)?;
        Ok(path)
    }

    /// Changes settings.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.front.settings.write());
    }

    /// Adds a fault behind those that are there.
    pub fn fault(&self, rule: FaultRule) {
        self.front.faults.lock().add(rule);
    }

    /// Removes all faults; what is stalled stays so.
    pub fn clear_faults(&self) {
        self.front.faults.lock().clear();
    }

    /// Lets go what is stalled or held now.
    pub fn release(&self) {
        self.front.release();
    }

    /// Requests that are stalled or held now.
    pub fn held(&self) -> usize {
        self.front.held_count()
    }

    /// Keys of the requests that are under way now, held ones too.
    pub fn waiting(&self) -> Vec<String> {
        self.front.waiting()
    }

    /// Counters since the start or the last reset.
    pub fn counters(&self) -> Counters {
        self.front.counters()
    }

    /// Sets counters and log to nothing.
    pub fn reset(&self) {
        self.front.reset();
    }

    /// Finished requests, oldest first; the oldest of more than 100,000 are gone.
    pub fn log(&self) -> Vec<LogEntry> {
        self.front.log()
    }

    /// Stops accepting and closes all connections.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("s3d: the server's thread panicked");
        }
    }
}

impl Drop for S3d {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A file in the format of `~/.aws/credentials`; replaced in one step.
pub(crate) fn write_credentials(path: &Path, access: &str, secret: &str) -> io::Result<()> {
    let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

async fn accept(listener: TcpListener, front: Arc<Front>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Sent or dropped, both mean the end.
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => continue,
        };
        // Out of descriptors, or the client is gone already: the next one may work.
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        // Only latency suffers when this fails.
        let _ = stream.set_nodelay(true);
        front.connected();
        let front = front.clone();
        connections.spawn(async move {
            let serve =
                service_fn(|request: hyper::Request<hyper::body::Incoming>| serve(front.clone(), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(None);
            // Clients that go away and faults that close the connection are ordinary here.
            let _ = http.serve_connection(TokioIo::new(stream), serve).await;
        });
    }
    connections.shutdown().await;
}

/// Boxed, because the compiler cannot prove the nested futures to be `Send` otherwise.
fn serve(
    front: Arc<Front>,
    request: hyper::Request<hyper::body::Incoming>,
) -> BoxFuture<'static, io::Result<hyper::Response<s3s::Body>>> {
    Box::pin(async move {
        let answer = if request.uri().path().starts_with(control::ROOT) {
            control::serve(&front, request).await
        } else {
            front.serve(request).await
        };
        answer.map_err(|error| io::Error::other(error.to_string()))
    })
}
