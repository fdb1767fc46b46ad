//! HTTP: faults around each request, counters, log.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use parking_lot::{Mutex, RwLock};
use s3s::Body;
use s3s::service::S3Service;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;

use super::service::server_time;
use super::settings::{Action, Faults, GatewayBody, Settings, Verb};
use super::shape::{BoxError, Flaw, Line, ShapedBody};

/// Requests kept in the log; the oldest go first.
const LOG_ENTRIES_MAX: usize = 100_000;

/// Counters of one verb since the start or the last reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VerbCounters {
    /// Requests that arrived.
    pub requests: u64,
    /// Of these, answered with a status of 400 and more, or not at all.
    pub failed: u64,
    /// Of these, befallen by a fault.
    pub faults: u64,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
}

/// Counters of all verbs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    /// By verb; verbs never asked are not there.
    pub verbs: BTreeMap<Verb, VerbCounters>,
    /// Connections accepted.
    pub connections: u64,
    /// Requests that are under way now.
    pub in_flight: u64,
    /// Most requests that were under way at one time.
    pub in_flight_max: u64,
}

impl Counters {
    /// One verb's, zero when it was never asked.
    pub fn verb(&self, verb: Verb) -> VerbCounters {
        self.verbs.get(&verb).copied().unwrap_or_default()
    }

    /// Requests of all verbs.
    pub fn requests(&self) -> u64 {
        self.verbs.values().map(|verb| verb.requests).sum()
    }

    /// Body bytes received by all verbs.
    pub fn bytes_in(&self) -> u64 {
        self.verbs.values().map(|verb| verb.bytes_in).sum()
    }

    /// Body bytes sent by all verbs.
    pub fn bytes_out(&self) -> u64 {
        self.verbs.values().map(|verb| verb.bytes_out).sum()
    }
}

/// One finished request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LogEntry {
    /// Its kind.
    pub verb: Verb,
    /// Bucket and key, or the bucket and prefix of a listing.
    pub key: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status answered; `None`: the connection was closed, or the client went.
    pub status: Option<u16>,
    /// Milliseconds from the server's start until it arrived.
    pub at_ms: u64,
    /// Milliseconds until the head of the answer.
    pub took_ms: u64,
    /// The fault that befell it.
    pub fault: Option<Action>,
}

/// A place where requests wait until they are released.
#[derive(Clone, Debug)]
pub(super) struct Held {
    generation: watch::Receiver<u64>,
}

impl Held {
    /// Ends at the next release.
    pub(super) async fn released(mut self) {
        // An error means that the server is being stopped.
        let _ = self.generation.changed().await;
    }
}

#[derive(Clone, Debug, Default)]
struct Counted {
    requests: u64,
    failed: u64,
    faults: u64,
    bytes_in: Arc<AtomicU64>,
    bytes_out: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Statistics {
    verbs: BTreeMap<Verb, Counted>,
    connections: u64,
    in_flight: u64,
    in_flight_max: u64,
    /// Keys of the requests under way, by a number of their own.
    under_way: BTreeMap<u64, String>,
    next: u64,
    log: VecDeque<LogEntry>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) settings: Arc<RwLock<Settings>>,
    pub(super) faults: Mutex<Faults>,
    service: S3Service,
    statistics: Mutex<Statistics>,
    line: Arc<Line>,
    release: watch::Sender<u64>,
    started: Instant,
}

/// A request under way; what is not finished counts as failed.
struct Underway<'a> {
    front: &'a Front,
    entry: Option<LogEntry>,
    number: u64,
    since: Instant,
}

impl Underway<'_> {
    fn finish(&mut self, status: Option<u16>) {
        let Some(mut entry) = self.entry.take() else {
            return;
        };
        entry.status = status;
        entry.took_ms = millis(self.since.elapsed());
        let mut statistics = self.front.statistics.lock();
        statistics.in_flight = statistics.in_flight.saturating_sub(1);
        statistics.under_way.remove(&self.number);
        let counted = statistics.verbs.entry(entry.verb).or_default();
        counted.failed += u64::from(status.is_none_or(|status| status >= 400));
        if statistics.log.len() >= LOG_ENTRIES_MAX {
            statistics.log.pop_front();
        }
        statistics.log.push_back(entry);
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.finish(None);
    }
}

impl Front {
    pub(super) fn new(settings: Arc<RwLock<Settings>>, service: S3Service, seed: u64) -> Front {
        Front {
            settings,
            faults: Mutex::new(Faults::new(seed)),
            service,
            statistics: Mutex::default(),
            line: Arc::default(),
            release: watch::Sender::new(0),
            started: Instant::now(),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let statistics = self.statistics.lock();
        let verbs = statistics.verbs.iter().map(|(verb, counted)| {
            let counters = VerbCounters {
                requests: counted.requests,
                failed: counted.failed,
                faults: counted.faults,
                bytes_in: counted.bytes_in.load(Ordering::Relaxed),
                bytes_out: counted.bytes_out.load(Ordering::Relaxed),
            };
            (*verb, counters)
        });
        Counters {
            verbs: verbs.collect(),
            connections: statistics.connections,
            in_flight: statistics.in_flight,
            in_flight_max: statistics.in_flight_max,
        }
    }

    /// Requests that wait for a release.
    pub(super) fn held_count(&self) -> usize {
        self.release.receiver_count()
    }

    pub(super) fn log(&self) -> Vec<LogEntry> {
        self.statistics.lock().log.iter().cloned().collect()
    }

    pub(super) fn reset(&self) {
        let mut statistics = self.statistics.lock();
        let in_flight = statistics.in_flight;
        *statistics = Statistics {
            in_flight,
            in_flight_max: in_flight,
            under_way: std::mem::take(&mut statistics.under_way),
            next: statistics.next,
            ..Statistics::default()
        };
    }

    /// Lets go what is stalled or held now.
    pub(super) fn release(&self) {
        self.release.send_modify(|generation| *generation += 1);
    }

    pub(super) fn connected(&self) {
        self.statistics.lock().connections += 1;
    }

    fn held(&self) -> Held {
        Held {
            generation: self.release.subscribe(),
        }
    }

    /// One request. An error closes the connection without an answer.
    pub(super) async fn serve(
        &self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<Body>, BoxError> {
        let verb = verb_of(request.method(), request.uri(), request.headers());
        let key = key_of(request.uri());
        let fault = self.faults.lock().take(verb, &key);
        let (bytes_in, bytes_out) = self.begin(verb, fault.is_some());
        let since = Instant::now();
        let range = request
            .headers()
            .get("range")
            .and_then(|value| value.to_str().ok())
            .map(str::to_string);
        let at_ms = millis(since - self.started);
        let entry = LogEntry {
            verb,
            key,
            range,
            status: None,
            at_ms,
            took_ms: 0,
            fault: fault.clone(),
        };
        let mut underway = Underway {
            front: self,
            number: self.note_under_way(&entry.key),
            entry: Some(entry),
            since,
        };

        let (bandwidth, delay) = self.pace(verb);
        let flaw_in = match fault {
            Some(Action::DropMidway { bytes }) => Some(Flaw::Cut { at: bytes }),
            _ => None,
        };
        let request = request.map(|body| {
            let body = body.map_err(BoxError::from);
            Body::http_body_unsync(ShapedBody::new(
                body,
                self.line.clone(),
                bandwidth,
                bytes_in,
                flaw_in,
            ))
        });
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let response = self.answer(request, fault.as_ref()).await?;
        let flaw_out = match fault {
            Some(Action::Truncate { bytes }) => Some(Flaw::Cut { at: bytes }),
            Some(Action::Flip { offset }) => Some(Flaw::Flip { at: offset }),
            Some(Action::StallMidway { bytes }) => Some(Flaw::Stall {
                at: bytes,
                held: self.held(),
            }),
            _ => None,
        };
        let mut response = response.map(|body| {
            let body = ShapedBody::new(body, self.line.clone(), bandwidth, bytes_out, flaw_out);
            Body::http_body_unsync(body)
        });
        let date = http_date(server_time(&self.settings.read()));
        if let Ok(date) = date.parse() {
            response.headers_mut().insert("date", date);
        }
        underway.finish(Some(response.status().as_u16()));
        Ok(response)
    }

    fn note_under_way(&self, key: &str) -> u64 {
        let mut statistics = self.statistics.lock();
        statistics.next += 1;
        let number = statistics.next;
        statistics.under_way.insert(number, key.to_owned());
        number
    }

    /// Keys of the requests that are under way now.
    pub(super) fn waiting(&self) -> Vec<String> {
        self.statistics.lock().under_way.values().cloned().collect()
    }

    fn begin(&self, verb: Verb, is_fault: bool) -> (Arc<AtomicU64>, Arc<AtomicU64>) {
        let mut statistics = self.statistics.lock();
        statistics.in_flight += 1;
        statistics.in_flight_max = statistics.in_flight_max.max(statistics.in_flight);
        let counted = statistics.verbs.entry(verb).or_default();
        counted.requests += 1;
        counted.faults += u64::from(is_fault);
        (counted.bytes_in.clone(), counted.bytes_out.clone())
    }

    fn pace(&self, verb: Verb) -> (u64, Duration) {
        let settings = self.settings.read();
        let by_verb = settings.delay_ms_by_verb.get(&verb).copied().unwrap_or(0);
        (
            settings.bandwidth,
            Duration::from_millis(settings.delay_ms + by_verb),
        )
    }

    async fn answer(
        &self,
        request: Request<Body>,
        fault: Option<&Action>,
    ) -> Result<Response<Body>, BoxError> {
        match fault {
            Some(Action::Delay { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Some(Action::Stall) => self.held().released().await,
            Some(Action::Reject {
                status,
                code,
                retry_after_s,
            }) => {
                drain(request.into_body()).await?;
                return rejection(*status, code.as_deref(), *retry_after_s);
            }
            Some(Action::DropBefore) => {
                drain(request.into_body()).await?;
                return Err("dropped by a fault".into());
            }
            _ => {}
        }
        if self.settings.read().needs_checksums
            && request.method() == Method::PUT
            && !request.headers().keys().any(is_checksum)
        {
            drain(request.into_body()).await?;
            return rejection_saying(400, "InvalidRequest", CHECKSUM_WANTED, None);
        }
        let is_midway = matches!(fault, Some(Action::DropMidway { .. }));
        let result = self.service.call(request).await;
        match fault {
            Some(Action::DropAfter) => Err("dropped by a fault".into()),
            Some(Action::RejectAfter { status }) => rejection(*status, None, None),
            Some(Action::GatewayAfter { status, body }) => gateway_answer(*status, *body),
            Some(Action::HoldAnswer) => {
                self.held().released().await;
                Ok(result?)
            }
            _ if is_midway => Err("dropped by a fault".into()),
            _ => Ok(result?),
        }
    }
}

/// What S3 says of a PUT to a bucket with Object Lock that has no checksum.
const CHECKSUM_WANTED: &str = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";

fn is_checksum(name: &hyper::header::HeaderName) -> bool {
    name == "content-md5" || name.as_str().starts_with("x-amz-checksum-")
}

async fn drain(mut body: Body) -> Result<(), BoxError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

fn rejection(
    status: u16,
    code: Option<&str>,
    retry_after_s: Option<u64>,
) -> Result<Response<Body>, BoxError> {
    let code = code.unwrap_or(match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        501 => "NotImplemented",
        503 => "SlowDown",
        _ => "InternalError",
    });
    rejection_saying(status, code, "by a fault", retry_after_s)
}

fn rejection_saying(
    status: u16,
    code: &str,
    message: &str,
    retry_after_s: Option<u64>,
) -> Result<Response<Body>, BoxError> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/xml");
    if let Some(seconds) = retry_after_s {
        response = response.header("retry-after", seconds);
    }
    Ok(response.body(Body::from(Bytes::from(text)))?)
}

fn gateway_answer(status: Option<u16>, body: Option<GatewayBody>) -> Result<Response<Body>, BoxError> {
    let (kind, text) = match body {
        None | Some(GatewayBody::Empty) => ("text/plain", ""),
        Some(GatewayBody::Html) => (
            "text/html",
            "<html><head><title>Sorry</title></head><body><center>gateway</center></body></html>",
        ),
        Some(GatewayBody::Xml) => (
            "application/xml",
            "<?xml version=\"1.0\"?>\n<Error><Code>ServiceUnavailable</Code><Message>try again</Message></Error>",
        ),
    };
    let response = Response::builder()
        .status(status.unwrap_or(499))
        .header("content-type", kind);
    Ok(response.body(Body::from(Bytes::from(text)))?)
}

fn verb_of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Verb {
    let path = uri.path().trim_start_matches('/');
    let has_key = path.split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let query = uri.query().unwrap_or("");
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match (method, has_key) {
        (&Method::POST, true) if asks("uploads") || asks("uploadId") => Verb::Other,
        (&Method::GET, true) => Verb::Get,
        (&Method::HEAD, true) => Verb::Head,
        (&Method::PUT, true) if headers.contains_key("if-none-match") || headers.contains_key("if-match") => {
            Verb::PutIf
        }
        (&Method::PUT, true) => Verb::Put,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::POST, false) if asks("delete") => Verb::DeleteMany,
        (&Method::GET, false) if !path.is_empty() && !asks("location") => Verb::List,
        _ => Verb::Other,
    }
}

/// Bucket and key, of a listing with its prefix.
fn key_of(uri: &Uri) -> String {
    let mut key = uri.path().trim_start_matches('/').to_string();
    let prefix = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("prefix="));
    if let Some(prefix) = prefix {
        key = format!("{}/{}", key.trim_end_matches('/'), prefix.replace("%2F", "/"));
    }
    key
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn http_date(time: SystemTime) -> String {
    let mut text = Vec::new();
    let time = s3s::dto::Timestamp::from(time);
    match time.format(s3s::dto::TimestampFormat::HttpDate, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}
