//! The S3 operations over [`Objects`].

use futures::TryStreamExt;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use std::collections::VecDeque;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use parking_lot::RwLock;

use super::objects::{Condition, Incoming, Listed, Metadata, Object as Stored, Objects, Refused};
use super::settings::{Conditions, Settings};

/// A piece of an answer, bytes.
const PIECE_BYTES: usize = 128 * 1024;
/// Most keys of a page.
const PAGE_KEYS_MAX: i32 = 1000;

/// The S3 side; the settings are shared with the front.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) objects: Arc<Objects>,
    pub(super) settings: Arc<RwLock<Settings>>,
}

/// Knows the secret keys of the settings.
#[derive(Debug)]
pub(super) struct Keys(pub(super) Arc<RwLock<Settings>>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let secret = self.0.read().keys.get(access_key).cloned();
        secret
            .map(SecretKey::from)
            .ok_or_else(|| s3_error!(InvalidAccessKeyId, "unknown access key"))
    }
}

impl From<Refused> for S3Error {
    fn from(refused: Refused) -> S3Error {
        match refused {
            Refused::NoSuchBucket => s3_error!(NoSuchBucket, "no such bucket"),
            Refused::NoSuchKey => s3_error!(NoSuchKey, "no such key"),
            Refused::ConditionFailed => s3_error!(PreconditionFailed, "a condition does not hold"),
            Refused::NoSuchUpload => s3_error!(NoSuchUpload, "no such upload"),
            Refused::KeyTooLong => s3_error!(KeyTooLongError, "key too long"),
            Refused::Io(error) => S3Error::internal_error(error),
        }
    }
}

/// The clock that the server tells.
pub(super) fn server_time(settings: &Settings) -> SystemTime {
    let offset = Duration::from_secs(settings.clock_offset_s.unsigned_abs());
    let now = SystemTime::now();
    if settings.clock_offset_s < 0 {
        now - offset
    } else {
        now + offset
    }
}

impl Service {
    async fn receive(&self, body: Option<StreamingBlob>, len: Option<i64>) -> S3Result<Incoming> {
        let incoming = self.objects.incoming();
        let mut file = tokio::fs::File::create(&incoming.path)
            .await
            .map_err(S3Error::internal_error)?;
        let mut received: i64 = 0;
        if let Some(mut body) = body {
            while let Some(piece) = body.try_next().await.map_err(bad_body)? {
                received += i64::try_from(piece.len()).unwrap_or(i64::MAX);
                file.write_all(&piece).await.map_err(S3Error::internal_error)?;
            }
        }
        file.flush().await.map_err(S3Error::internal_error)?;
        match len {
            Some(len) if len != received => Err(s3_error!(IncompleteBody, "{received} of {len} bytes")),
            _ => Ok(incoming),
        }
    }

    fn condition(&self, input: &PutObjectInput) -> S3Result<Option<Condition>> {
        let condition = match (&input.if_none_match, &input.if_match) {
            (None, None) => None,
            (Some(ETagCondition::Any), None) => Some(Condition::Absent),
            (None, Some(ETagCondition::Any)) => Some(Condition::Present),
            (None, Some(ETagCondition::ETag(etag))) => Some(Condition::Etag(etag.value().to_string())),
            _ => return Err(s3_error!(NotImplemented, "unsupported condition")),
        };
        match self.settings.read().conditions {
            Conditions::Ignored => Ok(None),
            Conditions::Refused if condition.is_some() => Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented"
            )),
            _ => Ok(condition),
        }
    }

    fn page(&self, asked: &Asked<'_>) -> S3Result<Page> {
        let scrambled = self.settings.read().unsorted_lists;
        let limit = usize::try_from(asked.max.clamp(0, PAGE_KEYS_MAX)).unwrap_or(0);
        let mut page = Page::default();
        let delimiter = asked.delimiter.filter(|delimiter| !delimiter.is_empty());
        let (listed, more) = match delimiter {
            Some(delimiter) => {
                self.objects
                    .list_grouped(asked.bucket, asked.prefix, asked.after, limit, delimiter)?
            }
            None => {
                let (objects, more) =
                    self.objects
                        .list(asked.bucket, asked.prefix, asked.after, limit, scrambled)?;
                let objects = objects.into_iter();
                (
                    objects.map(|(key, object)| Listed::Object(key, object)).collect(),
                    more,
                )
            }
        };
        for one in listed {
            match one {
                Listed::Object(key, object) => {
                    page.last = Some(key.clone());
                    page.objects.push(Object {
                        key: Some(key),
                        size: signed(object.len),
                        e_tag: Some(ETag::Strong(object.etag)),
                        last_modified: Some(object.modified.into()),
                        ..Default::default()
                    });
                }
                Listed::Prefix(prefix) => {
                    page.last = Some(prefix.clone());
                    page.prefixes.push(CommonPrefix { prefix: Some(prefix) });
                }
            }
        }
        page.more = more && limit > 0;
        Ok(page)
    }
}

/// What a listing asks for.
struct Asked<'a> {
    bucket: &'a str,
    prefix: &'a str,
    after: &'a str,
    delimiter: Option<&'a str>,
    max: i32,
}

#[derive(Default)]
struct Page {
    objects: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// The last key or common prefix.
    last: Option<String>,
    more: bool,
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        match self.objects.create_bucket(&request.input.bucket)? {
            true => Ok(S3Response::new(CreateBucketOutput::default())),
            false => Err(s3_error!(BucketAlreadyOwnedByYou, "the bucket exists")),
        }
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        match self.objects.has_bucket(&request.input.bucket) {
            true => Ok(S3Response::new(HeadBucketOutput::default())),
            false => Err(s3_error!(NoSuchBucket, "no such bucket")),
        }
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut input = request.input;
        let metadata = kept(input.content_type.take(), input.metadata.take());
        let mut condition = self.condition(&input)?;
        let mode = self.settings.read().conditions;
        // A write that is bound to fail does not need its body, but its sender wants to send it.
        if mode == Conditions::Racy {
            self.objects
                .check(&input.bucket, &input.key, condition.as_ref())?;
            condition = None;
        }
        let body = self.receive(input.body.take(), input.content_length).await?;
        let modified = server_time(&self.settings.read());
        let object = self.objects.commit(
            &input.bucket,
            &input.key,
            body,
            modified,
            condition.as_ref(),
            metadata,
        )?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(object.etag)),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let metadata = kept(input.content_type, input.metadata);
        let upload_id = self.objects.begin_parts(&input.bucket, metadata)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload_id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let mut input = request.input;
        let body = self.receive(input.body.take(), input.content_length).await?;
        self.objects.add_part(&input.upload_id, input.part_number, body)?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(format!("part-{}", input.part_number))),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let modified = server_time(&self.settings.read());
        let made = self
            .objects
            .finish_parts(&input.bucket, &input.key, &input.upload_id, modified)?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(made.etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.objects.abort_parts(&request.input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        _: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (object, files) = self.objects.open_object(&input.bucket, &input.key)?;
        check_read(&object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let (range, content_range) = match &input.range {
            Some(range) => {
                let range = range.check(object.len)?;
                let told = format!("bytes {}-{}/{}", range.start, range.end - 1, object.len);
                (range, Some(told))
            }
            None => (0..object.len, None),
        };
        let len = range.end - range.start;
        let files = parts_of(files, range.start, len).map_err(S3Error::internal_error)?;
        let metadata = object.metadata.as_deref().cloned().unwrap_or_default();
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_string()),
            body: Some(pieces(files)),
            content_type: metadata.content_type,
            metadata: Some(metadata.user),
            content_length: signed(len),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let object = self.objects.stat(&input.bucket, &input.key)?;
        check_read(&object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let metadata = object.metadata.as_deref().cloned().unwrap_or_default();
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_string()),
            content_type: metadata.content_type,
            metadata: Some(metadata.user),
            content_length: signed(object.len),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.objects.delete(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        if self.settings.read().no_delete_many {
            return Err(s3_error!(NotImplemented, "DeleteObjects is not implemented"));
        }
        let delete = request.input.delete;
        let mut deleted = Vec::new();
        for object in delete.objects {
            self.objects.delete(&request.input.bucket, &object.key)?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        let deleted = (delete.quiet != Some(true)).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let token = match &input.continuation_token {
            Some(token) => {
                let bytes = hex::decode(token)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok());
                Some(bytes.ok_or_else(|| s3_error!(InvalidArgument, "bad continuation token"))?)
            }
            None => None,
        };
        let after = token.or_else(|| input.start_after.clone()).unwrap_or_default();
        let prefix = input.prefix.clone().unwrap_or_default();
        let max = input.max_keys.unwrap_or(PAGE_KEYS_MAX);
        let page = self.page(&Asked {
            bucket: &input.bucket,
            prefix: &prefix,
            after: &after,
            delimiter: input.delimiter.as_deref(),
            max,
        })?;
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: Some(max),
            key_count: i32::try_from(page.objects.len() + page.prefixes.len()).ok(),
            delimiter: input.delimiter,
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            is_truncated: Some(page.more),
            next_continuation_token: page.last.filter(|_| page.more).map(hex::encode),
            contents: Some(page.objects),
            common_prefixes: Some(page.prefixes),
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let after = input.marker.clone().unwrap_or_default();
        let prefix = input.prefix.clone().unwrap_or_default();
        let max = input.max_keys.unwrap_or(PAGE_KEYS_MAX);
        let page = self.page(&Asked {
            bucket: &input.bucket,
            prefix: &prefix,
            after: &after,
            delimiter: input.delimiter.as_deref(),
            max,
        })?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix,
            marker: input.marker,
            max_keys: Some(max),
            is_truncated: Some(page.more),
            next_marker: page.last.filter(|_| page.more && input.delimiter.is_some()),
            delimiter: input.delimiter,
            contents: Some(page.objects),
            common_prefixes: Some(page.prefixes),
            ..Default::default()
        }))
    }
}

fn signed(len: u64) -> Option<i64> {
    i64::try_from(len).ok()
}

fn bad_body(error: s3s::StdError) -> S3Error {
    let text = error.to_string();
    if text.to_ascii_lowercase().contains("mismatch") {
        s3_error!(BadDigest, "{text}")
    } else {
        s3_error!(IncompleteBody, "{text}")
    }
}

fn check_read(
    object: &Stored,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    };
    if if_match.is_some_and(|condition| !is(condition)) {
        return Err(s3_error!(PreconditionFailed, "a condition does not hold"));
    }
    if if_none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// What a client wants kept with its object.
fn kept(content_type: Option<String>, user: Option<s3s::dto::Metadata>) -> Option<Arc<Metadata>> {
    let user = user.unwrap_or_default();
    (content_type.is_some() || !user.is_empty()).then(|| Arc::new(Metadata { content_type, user }))
}

/// The files that hold `len` bytes from `start` on, where in each they begin, and how many are taken.
fn parts_of(files: Vec<std::fs::File>, mut start: u64, mut len: u64) -> std::io::Result<VecDeque<Part>> {
    let mut parts = VecDeque::new();
    for mut file in files {
        let here = file.metadata()?.len();
        if start < here && len > 0 {
            file.seek(SeekFrom::Start(start))?;
            let take = len.min(here - start);
            parts.push_back((tokio::fs::File::from_std(file), take));
            len -= take;
        }
        start = start.saturating_sub(here);
    }
    Ok(parts)
}

/// A file and how many of its next bytes are sent.
type Part = (tokio::fs::File, u64);

/// The bytes of parts, one after the other.
fn pieces(parts: VecDeque<Part>) -> StreamingBlob {
    let stream = futures::stream::try_unfold(parts, |mut parts| async move {
        let Some((file, left)) = parts.front_mut() else {
            return Ok::<_, std::io::Error>(None);
        };
        let take = usize::try_from(*left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let mut piece = vec![0; take];
        file.read_exact(&mut piece).await?;
        *left -= take as u64;
        if *left == 0 {
            parts.pop_front();
        }
        Ok(Some((bytes::Bytes::from(piece), parts)))
    });
    StreamingBlob::wrap(SyncStream(std::sync::Mutex::new(Box::pin(stream))))
}

type PieceStream =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, std::io::Error>> + Send>>;

/// `s3s` wants streams that are `Sync`, which futures of file I/O are not; nobody polls them from two threads.
struct SyncStream(std::sync::Mutex<PieceStream>);

impl futures::Stream for SyncStream {
    type Item = Result<bytes::Bytes, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match self.0.get_mut() {
            Ok(stream) => stream.as_mut().poll_next(context),
            Err(_) => std::task::Poll::Ready(None),
        }
    }
}
