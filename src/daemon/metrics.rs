//! Prometheus metrics of one mount, where somebody asks for them: `--metrics 127.0.0.1:PORT` or `unix:/path`.
//!
//! Everything is read from the mount at the moment of a scrape; nothing is kept here, and a scrape never waits for the
//! store. Only loopback addresses are taken: names of volumes and directories are nobody else's business.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::answer::{Failure, FailureKind};
use crate::config::MetricsAddress;
use crate::fuse::RequestCount;
use crate::mount::{Mount, Statistics};

/// Scrapes at once.
const CONNECTIONS_MAX: usize = 8;
/// Time for a client to say what it wants.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Time for one connection in all.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Where the numbers come from.
pub trait Source: Send + Sync + 'static {
    /// The mount.
    fn mount(&self) -> &Arc<Mount>;

    /// Requests of the kernel so far, by operation.
    fn requests(&self) -> Vec<RequestCount>;
}

/// A bound place for scrapes.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds; a socket that a dead daemon left is replaced.
    ///
    /// # Errors
    /// The address is taken, or not to be had.
    pub async fn bind(address: &MetricsAddress) -> Result<Listener, Failure> {
        let bound = match address {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            MetricsAddress::Unix(path) => bind_unix(path),
        };
        bound.map_err(|error| {
            Failure::new(FailureKind::Failed, format!("--metrics {address}: {error}"))
                .hint("another process may use it: name another port or path")
        })
    }

    /// The address, with the port that was really taken.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener
                .local_addr()
                .as_ref()
                .map_or_else(ToString::to_string, SocketAddr::to_string),
            Listener::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Answers scrapes until the future is dropped.
    pub async fn serve(self, source: Arc<dyn Source>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let source = source.clone();
            let accepted = match &self {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        serve_connection(stream, source).await;
                        drop(place);
                    })
                }),
                Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        serve_connection(stream, source).await;
                        drop(place);
                    })
                }),
            };
            if let Err(error) = accepted {
                tracing::debug!(%error, "metrics: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> std::io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        // Nobody listens any more, or the address would be in use.
        Ok(found) if found.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(std::io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path)?,
        },
        Ok(_) => return Err(std::io::ErrorKind::AlreadyExists.into()),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, source: Arc<dyn Source>) {
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &*source).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, serving).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "metrics"),
    }
}

async fn answer(method: &Method, path: &str, source: &dyn Source) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => match scrape(source).await {
            Ok(body) => (
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body,
            ),
            Err(text) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text),
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".to_owned()),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "GET /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// All metrics as text.
async fn scrape(source: &dyn Source) -> Result<String, String> {
    let statistics = source.mount().statistics().await.map_err(|f| f.to_string())?;
    encode(Snapshot {
        statistics,
        requests: source.requests(),
    })
    .map_err(|e| e.to_string())
}

fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let status = &snapshot.statistics.status;
    let labels = [("volume", &status.volume), ("mount", &status.dir)];
    let labels = labels.map(|(name, value)| (name.into(), escaped(value).into()));
    let mut registry = Registry::with_prefix_and_labels("sailvol", labels.into_iter());
    registry.register_collector(Box::new(snapshot));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// The library writes values of labels as they are; a directory may hold anything (OpenMetrics, "escaped-string").
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// One moment of a mount.
#[derive(Debug)]
struct Snapshot {
    statistics: Statistics,
    requests: Vec<RequestCount>,
}

/// Writes metrics one after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let encoder = self.0.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(encoder)
    }

    /// One counter for each value of a label.
    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let kind = <ConstCounter<u64> as TypedMetric>::TYPE;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (value, count) in values {
            let labels = [(label, value)];
            let encoder = family.encode_family(&labels)?;
            ConstCounter::new(count).encode(encoder)?;
        }
        Ok(())
    }

    fn version(&mut self, version: &str) -> fmt::Result {
        let mut family = self.0.encode_descriptor(
            "build",
            "Version of the program, as a label; always 1.",
            None,
            MetricType::Gauge,
        )?;
        let labels = [("version", version)];
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut w = Writer(encoder);
        w.version(&self.statistics.status.version)?;
        self.work(&mut w)?;
        self.position(&mut w)?;
        self.store(&mut w)?;
        self.cache(&mut w)?;
        w.counters(
            "fuse_requests",
            "Requests of the kernel, by operation.",
            "operation",
            self.requests
                .iter()
                .map(|count| (count.operation, count.requests)),
        )
    }
}

impl Snapshot {
    /// Commits, reloads, failures.
    fn work(&self, w: &mut Writer<'_>) -> fmt::Result {
        let counts = &self.statistics.counts;
        let by_hand = |all: u64, automatic: u64| [("no", all.saturating_sub(automatic)), ("yes", automatic)];
        w.counters(
            "commits",
            "Records published from this mount.",
            "automatic",
            by_hand(counts.commits, counts.automatic_commits),
        )?;
        w.counters(
            "reloads",
            "Times the view moved to another record.",
            "automatic",
            by_hand(counts.reloads, counts.automatic_reloads),
        )?;
        let kinds = FailureKind::ALL.iter().map(|kind| kind.name());
        w.counters(
            "errors",
            "Commits and reloads that failed, by kind.",
            "kind",
            kinds.zip(counts.failures),
        )
    }

    /// Where the mount stands.
    fn position(&self, w: &mut Writer<'_>) -> fmt::Result {
        let s = &self.statistics.status;
        w.gauge(
            "base_record",
            "Number of the record that the mount stands on.",
            s.base,
        )?;
        let head = s.head.unwrap_or(s.base);
        w.gauge("head_record", "Number of the newest record that is known.", head)?;
        w.gauge(
            "head_age_seconds",
            "Seconds since the store was last asked for the newest record.",
            s.head_age_secs.unwrap_or(0),
        )?;
        w.gauge(
            "behind_seconds",
            "Seconds since a record newer than the mount's own became known; 0 when none is.",
            s.behind_secs.unwrap_or(0),
        )?;
        w.gauge(
            "offline_seconds",
            "Seconds since the store stopped answering; 0 when it answers.",
            s.offline_secs.unwrap_or(0),
        )?;
        w.gauge(
            "dirty_changes",
            "Changed and removed files and directories that are not committed.",
            s.dirty,
        )?;
        w.gauge(
            "dirty_bytes",
            "Bytes of uncommitted files on local disk.",
            s.dirty_bytes,
        )?;
        w.gauge(
            "stashes",
            "Sets of changes that reloads have set aside.",
            s.stashes,
        )?;
        let held = |status: &Option<crate::answer::AutomaticStatus>| {
            u64::from(status.as_ref().is_some_and(|auto| auto.held.is_some()))
        };
        w.gauge(
            "autocommit_held",
            "1 while autocommit is held; `sailvol status` says why.",
            held(&s.autocommit),
        )?;
        w.gauge("uptime_seconds", "Seconds since the mount.", s.uptime_secs)
    }

    /// Requests to the store.
    fn store(&self, w: &mut Writer<'_>) -> fmt::Result {
        let c = &self.statistics.store;
        let verbs = [
            ("get", c.get),
            ("put", c.put),
            ("put-if-absent", c.put_if_absent),
            ("head", c.head),
            ("list", c.list),
            ("delete", c.delete),
        ];
        w.counters(
            "store_requests",
            "Requests to the store, by kind; repeats within one are not counted.",
            "kind",
            verbs.map(|(name, verb)| (name, verb.calls)),
        )?;
        w.counters(
            "store_errors",
            "Requests to the store that failed, by kind.",
            "kind",
            verbs.map(|(name, verb)| (name, verb.failed)),
        )?;
        w.counter(
            "store_received_bytes",
            "Bytes of objects received.",
            c.bytes_received(),
        )?;
        w.counter("store_sent_bytes", "Bytes of objects sent.", c.bytes_sent())?;
        w.gauge(
            "store_requests_running",
            "Requests to the store that have no answer yet.",
            c.in_flight,
        )
    }

    fn cache(&self, w: &mut Writer<'_>) -> fmt::Result {
        let c = &self.statistics.cache;
        w.gauge("cache_bytes", "Clean bytes on local disk.", c.bytes_used)?;
        w.gauge(
            "cache_limit_bytes",
            "Upper limit of clean bytes (--cache-size).",
            c.bytes_max,
        )?;
        w.gauge(
            "cache_memory_bytes",
            "Memory that holds decoded nodes and small contents.",
            c.memory_bytes,
        )?;
        w.counter("cache_hits", "Reads answered from local bytes.", c.hits)?;
        w.counter("cache_misses", "Reads that had to wait for the store.", c.misses)?;
        w.counter("cache_evictions", "Contents evicted to make room.", c.evictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_names_help_and_labels() {
        let mut statistics = Statistics::default();
        statistics.status.volume = "data\"sets".into();
        statistics.status.dir = "/shared".into();
        statistics.status.base = 7;
        statistics.counts.commits = 3;
        statistics.counts.automatic_commits = 1;
        statistics.store.get.calls = 5;
        let requests = vec![RequestCount {
            operation: "lookup",
            requests: 9,
        }];
        let text = encode(Snapshot { statistics, requests }).unwrap();
        let labels = r#"volume="data\"sets",mount="/shared""#;
        for line in [
            format!("sailvol_base_record{{{labels}}} 7"),
            format!("sailvol_commits_total{{{labels},automatic=\"no\"}} 2"),
            format!("sailvol_commits_total{{{labels},automatic=\"yes\"}} 1"),
            format!("sailvol_store_requests_total{{{labels},kind=\"get\"}} 5"),
            format!("sailvol_fuse_requests_total{{{labels},operation=\"lookup\"}} 9"),
            "# HELP sailvol_base_record Number of the record that the mount stands on.".to_owned(),
            "# TYPE sailvol_commits counter".to_owned(),
            "# EOF".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let described = text.lines().filter(|l| l.starts_with("# HELP")).count();
        assert_eq!(
            described,
            text.lines().filter(|l| l.starts_with("# TYPE")).count()
        );
        assert!(described > 25, "{described}");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let address = MetricsAddress::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&address).await.unwrap();
        assert!(Listener::bind(&address).await.is_err(), "somebody listens there");
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(Listener::bind(&address).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
