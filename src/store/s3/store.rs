//! The port over the client.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RequestChecksumCalculation, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::error::Error;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

use super::client::S3Client;
use super::failure::{self, Failure, Kind};
use super::progress::Gate;
use super::retry::{Attempts, Repeat};
use crate::model::Timestamp;
use crate::store::key::{READ_BYTES_MAX, check_key, check_list, check_range};
use crate::store::port::is_same;
use crate::store::{
    Arrived, Fetched, LastMoves, Listed, ListedObject, ObjectStore, PutDone, PutMode, S3Url, StoreError,
    StoreOptions,
};

/// Keys of one DeleteObjects request.
const DELETE_KEYS_MAX: usize = 1000;
/// Empty pages of a listing one after the other.
const EMPTY_PAGES_MAX: u32 = 1000;
/// Single deletions at a time, where a store cannot delete many.
const DELETES_PARALLEL: usize = 16;

/// A bucket or a prefix in it.
#[derive(Debug)]
pub struct S3Store {
    url: S3Url,
    client: S3Client,
    attempts_max: u32,
    requests: Semaphore,
    /// This store refused DeleteObjects once.
    deletes_singly: AtomicBool,
    /// This store refused a body without a checksum once.
    wants_checksums: AtomicBool,
}

impl S3Store {
    /// Reads configuration, sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the certificates that are to be trusted cannot be read.
    pub async fn open(url: &S3Url, options: &StoreOptions) -> Result<S3Store, StoreError> {
        Ok(S3Store {
            url: url.clone(),
            client: S3Client::new(url, options).await?,
            attempts_max: options.attempts_max.max(1),
            requests: Semaphore::new(options.requests_max.max(1)),
            deletes_singly: AtomicBool::new(false),
            wants_checksums: AtomicBool::new(false),
        })
    }

    /// Where the credentials come from, in the SDK's words; never any of them.
    ///
    /// # Errors
    /// There are none.
    pub async fn credentials_source(&self) -> Result<String, StoreError> {
        let denied = |error: super::credentials::NoCredentials| StoreError::Denied {
            reason: error.to_string(),
        };
        self.client.credentials.source().await.map_err(denied)
    }

    fn full_key(&self, key: &str) -> String {
        match self.url.prefix.as_str() {
            "" => key.to_string(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// One request with its retries.
    async fn request<T, F>(&self, repeat: Repeat, mut send: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = Attempts::new(&self.client.credentials, self.attempts_max, repeat);
        loop {
            attempts.begin().await?;
            let result = {
                let _permit = self.requests.acquire().await.map_err(closed)?;
                send().await
            };
            match result {
                Ok(done) => {
                    self.client.connector.line().received();
                    return Ok(done);
                }
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    fn failure<E>(&self, error: SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        failure::of_sdk(&self.url, &error)
    }

    async fn put_once(
        &self,
        client: &Client,
        key: &str,
        body: Bytes,
        mode: PutMode,
    ) -> Result<PutDone, Failure> {
        let with_checksum = self.wants_checksums.load(Ordering::Relaxed);
        let sent = self
            .send_put(client, key, body.clone(), mode, with_checksum)
            .await;
        match sent {
            Err(failure) if failure.wants_checksum() && !with_checksum => {
                tracing::debug!(reason = %failure.reason, "this store wants checksums, sending them from now on");
                self.wants_checksums.store(true, Ordering::Relaxed);
                self.send_put(client, key, body, mode, true).await
            }
            sent => sent,
        }
    }

    async fn send_put(
        &self,
        client: &Client,
        key: &str,
        body: Bytes,
        mode: PutMode,
        with_checksum: bool,
    ) -> Result<PutDone, Failure> {
        let date = AnswerDate::default();
        let mut put = client
            .put_object()
            .bucket(&self.url.bucket)
            .key(key)
            .body(ByteStream::from(body));
        if mode == PutMode::IfAbsent {
            put = put.if_none_match("*");
        }
        if with_checksum {
            put = put.checksum_algorithm(ChecksumAlgorithm::Crc32);
        }
        let second = SecondLook::new(&self.url);
        let mut put = put
            .customize()
            .interceptor(date.clone())
            .interceptor(second.clone());
        if with_checksum {
            // Of a body in memory it goes into a header: no trailer, which some stores do not take.
            let calculation = RequestChecksumCalculation::WhenSupported;
            let config = aws_sdk_s3::config::Builder::new().request_checksum_calculation(calculation);
            put = put.config_override(config);
        }
        if self.client.is_tls {
            put = put.disable_payload_signing();
        }
        put.send().await.map_err(|error| self.failure(error))?;
        second.result()?;
        Ok(PutDone {
            server_time: date.get(),
        })
    }

    /// Reads a range to its end into `sink`. A transfer that breaks off goes on where it broke, as long as the object is
    /// the same.
    async fn get_range(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        sink: &mut Sink<'_>,
    ) -> Result<Fetched, Failure> {
        let mut attempts = Attempts::new(&self.client.credentials, self.attempts_max, Repeat::Freely);
        let mut part: Option<Part> = None;
        loop {
            attempts.begin().await?;
            let before = part.as_ref().map_or(0, |part| part.got);
            let result = {
                let _permit = self.requests.acquire().await.map_err(closed)?;
                self.get_once(key, &range, &mut part, sink).await
            };
            match (result, part.take()) {
                (Ok(()), Some(done)) => return Ok(done.into_fetched(sink)),
                // Impossible: a finished answer leaves its part.
                (Ok(()), None) => return Err(Failure::new(Kind::Broken, "empty answer")),
                // Another object took its place: what was given out of the first cannot be taken back.
                (Err(failure), None) if before > 0 && !sink.begin_again() => return Err(failure),
                (Err(failure), left) => {
                    if left.as_ref().is_some_and(|left| left.got > before) {
                        attempts.progressed();
                    }
                    part = left;
                    attempts.after(failure).await?;
                }
            }
        }
    }

    /// Asks for what `part` lacks and adds what arrives.
    async fn get_once(
        &self,
        key: &str,
        range: &Option<Range<u64>>,
        part: &mut Option<Part>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let wanted = match (range, &*part) {
            (_, Some(part)) if part.got > 0 => Some(part.range.start + part.got..part.range.end),
            (range, _) => range.clone(),
        };
        let date = AnswerDate::default();
        let mut get = self.client.sdk.get_object().bucket(&self.url.bucket).key(key);
        if let Some(wanted) = &wanted {
            get = get.range(format!("bytes={}-{}", wanted.start, wanted.end - 1));
        }
        let mut answer = get
            .customize()
            .interceptor(date.clone())
            .send()
            .await
            .map_err(|error| self.failure(error))?;
        let mut body = std::mem::take(&mut answer.body);
        let told = Told::of(&answer, wanted.as_ref())?;
        let part = match part {
            Some(part) if part.is_same(&told) => part,
            // Another object took its place meanwhile: start over with that if it is asked for whole, else with the range.
            Some(_) if wanted != *range => {
                *part = None;
                return Err(Failure::new(Kind::Server, "the object changed while it was read"));
            }
            _ => part.insert(Part::new(told, date.get(), &answer)),
        };
        if matches!(sink, Sink::Whole(_)) && part.range.end - part.range.start > READ_BYTES_MAX {
            let len = part.range.end - part.range.start;
            let reason = format!("{len} bytes are too long to be read at once: no object of a volume is");
            return Err(Failure::new(Kind::Broken, reason));
        }
        sink.expect(part.missing());
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| failure::of_transport(&self.url, &error))?;
            if piece.len() as u64 > part.missing() {
                return Err(Failure::new(Kind::Broken, "more bytes than the answer announced"));
            }
            self.client.connector.line().received();
            part.got += piece.len() as u64;
            sink.add(piece);
        }
        match part.missing() {
            0 => Ok(()),
            missing => Err(Failure::new(
                Kind::Transport,
                format!("the answer ended {missing} bytes too early"),
            )),
        }
    }

    async fn list_once(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, Failure> {
        let date = AnswerDate::default();
        let mut token = None;
        let mut empty_pages = 0;
        let answer = loop {
            let list = self
                .client
                .sdk
                .list_objects_v2()
                .bucket(&self.url.bucket)
                .prefix(prefix)
                .set_start_after(after.map(str::to_string))
                .set_continuation_token(token)
                .max_keys(i32::try_from(limit).unwrap_or(i32::MAX));
            let sent = list.customize().interceptor(date.clone()).send().await;
            let answer = sent.map_err(|error| self.failure(error))?;
            if !answer.is_truncated().unwrap_or(false) || !answer.contents().is_empty() {
                break answer;
            }
            // Some stores look at so many keys for a page, and at more for the next.
            empty_pages += 1;
            token = answer.next_continuation_token().map(str::to_string);
            if token.is_none() || empty_pages > EMPTY_PAGES_MAX {
                let reason = "a page of a listing is empty, and says that there is more";
                return Err(Failure::new(Kind::Server, reason));
            }
        };
        let own = self.full_key("");
        let mut objects = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            let full = object.key().unwrap_or("");
            let Some(key) = full.strip_prefix(&own).filter(|_| full.starts_with(prefix)) else {
                return Err(Failure::new(Kind::Broken, "listed a key that was not asked for"));
            };
            objects.push(ListedObject {
                key: key.to_string(),
                len: object.size().and_then(|len| u64::try_from(len).ok()).unwrap_or(0),
                modified: object.last_modified().map(timestamp),
            });
        }
        let truncated = answer.is_truncated().unwrap_or(false);
        if objects.len() > limit {
            return Err(Failure::new(
                Kind::Broken,
                "a page of a listing has an impossible length",
            ));
        }
        Ok(Listed {
            objects,
            truncated,
            server_time: date.get(),
        })
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<String>, Failure> {
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key).build());
        let objects = objects
            .collect::<Result<Vec<_>, _>>()
            .and_then(|objects| Delete::builder().quiet(true).set_objects(Some(objects)).build())
            .map_err(|error| Failure::new(Kind::Broken, error.to_string()))?;
        let answer = self
            .request(Repeat::Freely, || async {
                let delete = self
                    .client
                    .sdk
                    .delete_objects()
                    .bucket(&self.url.bucket)
                    .delete(objects.clone());
                delete.send().await.map_err(|error| self.failure(error))
            })
            .await?;
        let failed = answer
            .errors()
            .iter()
            .filter(|error| error.code() != Some("NoSuchKey"));
        Ok(failed
            .filter_map(|error| error.key().map(str::to_string))
            .collect())
    }

    /// A store says that it does not know DeleteObjects in many ways; what is really wrong shows at the single deletions.
    async fn delete_page(&self, keys: &[String]) -> Result<(), Failure> {
        let left = if keys.len() == 1 || self.deletes_singly.load(Ordering::Relaxed) {
            keys.to_vec()
        } else {
            match self.delete_many(keys).await {
                Ok(failed) => failed,
                Err(failure) if matches!(failure.kind, Kind::NotImplemented | Kind::Misconfigured) => {
                    tracing::debug!(reason = %failure.reason, "cannot delete many objects at once, deleting singly");
                    self.delete_singly(keys).await?;
                    self.deletes_singly.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
        };
        self.delete_singly(&left).await
    }

    async fn delete_singly(&self, keys: &[String]) -> Result<(), Failure> {
        stream::iter(keys.to_vec())
            .map(|key| async move {
                let sent = self.request(Repeat::Freely, || async {
                    let delete = self.client.sdk.delete_object().bucket(&self.url.bucket).key(&key);
                    let second = SecondLook::new(&self.url);
                    let sent = delete.customize().interceptor(second.clone()).send().await;
                    sent.map_err(|error| self.failure(error))?;
                    second.result()
                });
                match sent.await {
                    Err(failure) if failure.kind == Kind::NoSuchKey => Ok(()),
                    result => result,
                }
            })
            .buffer_unordered(DELETES_PARALLEL)
            .try_collect::<()>()
            .await
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        check_key(key)?;
        check_range(key, &range)?;
        self.get_range(&self.full_key(key), range, &mut Sink::Whole(BytesMut::new()))
            .await
            .map_err(|failure| failure.into_store_error(key))
    }

    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        check_key(key)?;
        let range = Some(range);
        check_range(key, &range)?;
        self.get_range(&self.full_key(key), range, &mut Sink::Streamed(arrived))
            .await
            .map_err(|failure| failure.into_store_error(key))
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        check_key(key)?;
        let full = self.full_key(key);
        let repeat = match mode {
            PutMode::Overwrite => Repeat::Freely,
            PutMode::IfAbsent => Repeat::IfNotApplied,
        };
        let sent = self.request(repeat, || {
            self.put_once(&self.client.sdk, &full, body.clone(), mode)
        });
        sent.await.map_err(|failure| match mode {
            PutMode::Overwrite => failure.into_store_error(key),
            PutMode::IfAbsent => failure.into_create_error(key),
        })
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        check_key(key)?;
        let full = self.full_key(key);
        let sent = self.request(Repeat::Freely, || async {
            let head = self.client.sdk.head_object().bucket(&self.url.bucket).key(&full);
            head.send().await.map_err(|error| self.failure(error))
        });
        match sent.await {
            Ok(head) => match head.content_length().and_then(|len| u64::try_from(len).ok()) {
                Some(len) => Ok(Some(len)),
                None => Err(StoreError::Broken {
                    key: key.to_string(),
                    reason: "no length told".into(),
                }),
            },
            Err(failure) if failure.kind == Kind::NoSuchKey => Ok(None),
            Err(failure) => Err(failure.into_store_error(key)),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        check_list(prefix, start_after, limit)?;
        let full = self.full_key(prefix);
        let after = start_after.map(|after| self.full_key(after));
        let sent = self.request(Repeat::Freely, || self.list_once(&full, after.as_deref(), limit));
        sent.await.map_err(|failure| failure.into_store_error(prefix))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        for page in keys.chunks(DELETE_KEYS_MAX) {
            let full: Vec<String> = page.iter().map(|key| self.full_key(key)).collect();
            self.delete_page(&full)
                .await
                .map_err(|failure| failure.into_store_error(&page[0]))?;
        }
        Ok(())
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        // Many a store does not know the condition and takes it for none.
        if !is_same(self, key, seen).await? {
            return Ok(false);
        }
        let full = self.full_key(key);
        let sent = self.request(Repeat::Freely, || async {
            let delete = self
                .client
                .sdk
                .delete_object()
                .bucket(&self.url.bucket)
                .key(&full);
            let delete = delete.set_if_match(seen.etag.clone());
            let second = SecondLook::new(&self.url);
            let sent = delete.customize().interceptor(second.clone()).send().await;
            sent.map_err(|error| self.failure(error))?;
            second.result()
        });
        match sent.await {
            Ok(()) => Ok(true),
            Err(failure) if matches!(failure.kind, Kind::ConditionFailed | Kind::NoSuchKey) => Ok(false),
            // It says that it does not: then the look must do.
            Err(failure) if failure.kind == Kind::NotImplemented => {
                self.delete(&[key.to_owned()]).await?;
                Ok(true)
            }
            Err(failure) => Err(failure.into_store_error(key)),
        }
    }

    async fn race_to_create(&self, key: &str, bodies: Vec<Bytes>) -> Vec<Result<PutDone, StoreError>> {
        if let Err(error) = check_key(key) {
            return vec![Err(error)];
        }
        if let Err(error) = self.client.credentials.generation().await {
            return vec![Err(Failure::from(error).into_create_error(key))];
        }
        let full = self.full_key(key);
        let client = self.client.gated(Gate::new(bodies.len()));
        // All at once and beyond the limit of requests, or they would wait for each other for ever.
        let creators = bodies
            .into_iter()
            .map(|body| self.put_once(&client, &full, body, PutMode::IfAbsent));
        let results = futures::future::join_all(creators).await;
        results
            .into_iter()
            .map(|result| result.map_err(|failure| failure.into_create_error(key)))
            .collect()
    }

    fn last_moves(&self) -> Option<LastMoves> {
        Some(self.client.connector.line().last_moves())
    }

    fn describe(&self) -> String {
        crate::store::StoreUrl::S3(self.url.clone()).to_string()
    }
}

/// What an answer says of its object and of the part of it that follows.
#[derive(Debug)]
struct Told {
    range: Range<u64>,
    object_len: u64,
    etag: Option<String>,
}

impl Told {
    fn of(answer: &GetObjectOutput, wanted: Option<&Range<u64>>) -> Result<Told, Failure> {
        let broken = |reason: &str| Failure::new(Kind::Broken, reason);
        let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
        let len = len.ok_or_else(|| broken("the answer tells no length"))?;
        let (range, object_len) = match (wanted, answer.content_range()) {
            (Some(wanted), Some(told)) => {
                let (told, object_len) = parse_content_range(told)
                    .ok_or_else(|| broken("the answer's Content-Range makes no sense"))?;
                let expected = wanted.start..wanted.end.min(object_len);
                if told != expected || told.end - told.start != len {
                    return Err(broken("the answer has another range than was asked for"));
                }
                (told, object_len)
            }
            // Whoever asks for a beginning that is longer than the object may be given the object.
            (Some(wanted), None) if wanted.start == 0 && len <= wanted.end => (0..len, len),
            (Some(_), None) => return Err(broken("the store ignores byte ranges")),
            (None, _) => (0..len, len),
        };
        Ok(Told {
            range,
            object_len,
            etag: answer.e_tag().map(str::to_string),
        })
    }
}

/// Where the bytes of a range go.
enum Sink<'a> {
    /// To the caller, when all are there.
    Whole(BytesMut),
    /// To the caller as they come.
    Streamed(Arrived<'a>),
}

impl Sink<'_> {
    /// So many bytes more are on their way: their number was checked against what was asked for, and against the limit of
    /// what is read at once.
    fn expect(&mut self, bytes: u64) {
        if let Sink::Whole(whole) = self {
            whole.reserve(usize::try_from(bytes).unwrap_or(0));
        }
    }

    fn add(&mut self, piece: Bytes) {
        match self {
            Sink::Whole(whole) => whole.extend_from_slice(&piece),
            Sink::Streamed(arrived) => arrived(piece),
        }
    }

    /// False when what was added has been given out.
    fn begin_again(&mut self) -> bool {
        match self {
            Sink::Whole(whole) => {
                whole.clear();
                true
            }
            Sink::Streamed(_) => false,
        }
    }

    fn take(&mut self) -> Bytes {
        match self {
            Sink::Whole(whole) => std::mem::take(whole).freeze(),
            Sink::Streamed(_) => Bytes::new(),
        }
    }
}

/// What has arrived of a range.
#[derive(Debug)]
struct Part {
    /// What is read in all, within the object.
    range: Range<u64>,
    object_len: u64,
    etag: Option<String>,
    /// How much of the range is in the sink, bytes.
    got: u64,
    server_time: Option<Timestamp>,
    modified: Option<Timestamp>,
}

impl Part {
    fn new(told: Told, server_time: Option<Timestamp>, answer: &GetObjectOutput) -> Part {
        Part {
            range: told.range,
            object_len: told.object_len,
            etag: told.etag,
            got: 0,
            server_time,
            modified: answer.last_modified().map(timestamp),
        }
    }

    /// Whether an answer goes on where this part ends.
    fn is_same(&self, told: &Told) -> bool {
        told.object_len == self.object_len
            && told.etag == self.etag
            && told.range == (self.range.start + self.got..self.range.end)
    }

    fn missing(&self) -> u64 {
        (self.range.end - self.range.start).saturating_sub(self.got)
    }

    fn into_fetched(self, sink: &mut Sink<'_>) -> Fetched {
        Fetched {
            bytes: sink.take(),
            object_len: self.object_len,
            server_time: self.server_time,
            modified: self.modified,
            etag: self.etag,
        }
    }
}

/// `bytes 0-9/100` as 0..10 and 100.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, len.parse().ok()?);
    (first <= last && last < len).then(|| (first..last + 1, len))
}

fn timestamp(time: &DateTime) -> Timestamp {
    Timestamp {
        secs: time.secs(),
        nanos: time.subsec_nanos(),
    }
}

fn closed(_: tokio::sync::AcquireError) -> Failure {
    Failure::new(Kind::Transport, "the store is closed")
}

/// Takes the `Date` header of an answer, which the SDK does not show.
#[derive(Clone, Debug, Default)]
struct AnswerDate {
    date: Arc<OnceLock<Timestamp>>,
}

impl AnswerDate {
    fn get(&self) -> Option<Timestamp> {
        self.date.get().copied()
    }
}

impl Intercept for AnswerDate {
    fn name(&self) -> &'static str {
        "answer date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let text = context.response().headers().try_get("date").and_then(Result::ok);
        let date = text.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date {
            // One attempt per interceptor, so it is never set twice.
            let _ = self.date.set(timestamp(&date));
        }
        Ok(())
    }
}

/// Looks into the body of an answer that says "done", which the SDK does not do where none is expected.
#[derive(Clone, Debug)]
struct SecondLook {
    url: S3Url,
    found: Arc<OnceLock<Failure>>,
}

impl SecondLook {
    fn new(url: &S3Url) -> SecondLook {
        SecondLook {
            url: url.clone(),
            found: Arc::default(),
        }
    }

    fn result(&self) -> Result<(), Failure> {
        self.found.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

impl Intercept for SecondLook {
    fn name(&self) -> &'static str {
        "second look"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        if answer.status().is_success()
            && let Some(failure) = failure::of_success(&self.url, answer)
        {
            // One attempt per interceptor, so it is never set twice.
            let _ = self.found.set(failure);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-9/100"), Some((0..10, 100)));
        for text in [
            "bytes 0-9/*",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "0-9/100",
            "bytes 0-/5",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
