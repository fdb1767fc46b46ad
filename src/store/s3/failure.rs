//! What went wrong with one request, and what the user is told.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;
use std::time::Duration;

use super::credentials::NoCredentials;
use super::progress::NotSent;
use crate::store::{S3Url, StoreError};

/// Longest text that is taken over from the store.
const MESSAGE_CHARS_MAX: usize = 300;
/// Longest wait that a store may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Kinds of failure, by what the retry loop and the port do about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    NoSuchKey,
    /// 412.
    ConditionFailed,
    /// 416.
    RangeBehindEnd,
    /// The key was not accepted; other credentials may be.
    Refused,
    /// Signed with a time that the store does not accept; the SDK has learnt the difference by now.
    ClockSkew,
    Misconfigured,
    /// The store does not know the operation or one of its options (501).
    NotImplemented,
    NoSpace,
    /// 429, 503 and the like: ask again more slowly.
    Throttled,
    /// 409, 500, and answers cut short.
    Server,
    /// The connection failed.
    Transport,
    /// The store broke the rules of the protocol.
    Broken,
}

/// One failed request.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// In words for the user.
    pub(super) reason: String,
    /// The store asked to wait this long.
    pub(super) retry_after: Option<Duration>,
    /// Nothing that could change an object has left this machine.
    pub(super) not_sent: bool,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Failure {
        Failure {
            kind,
            reason: reason.into(),
            retry_after: None,
            not_sent: false,
        }
    }

    /// Whether the same request may succeed if it is sent again.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            Kind::Throttled | Kind::Server | Kind::Transport | Kind::ClockSkew
        )
    }

    /// Whether it is certain that a write was not applied.
    pub(super) fn proves_nothing_written(&self) -> bool {
        self.not_sent || !matches!(self.kind, Kind::Throttled | Kind::Server | Kind::Transport)
    }

    /// As the port says it, for a request that changes nothing or may be repeated.
    pub(super) fn into_store_error(self, key: &str) -> StoreError {
        let (key, reason) = (key.to_string(), self.reason);
        match self.kind {
            Kind::NoSuchKey => StoreError::NotFound { key },
            Kind::ConditionFailed => StoreError::AlreadyExists { key },
            Kind::RangeBehindEnd | Kind::Broken => StoreError::Broken { key, reason },
            Kind::Refused | Kind::ClockSkew => StoreError::Denied { reason },
            Kind::Misconfigured | Kind::NotImplemented => StoreError::Misconfigured { reason },
            Kind::NoSpace => StoreError::NoSpace { reason },
            Kind::Throttled | Kind::Server | Kind::Transport => StoreError::Unreachable { reason },
        }
    }

    /// As the port says it, for a put-if-absent.
    pub(super) fn into_create_error(self, key: &str) -> StoreError {
        if self.proves_nothing_written() {
            self.into_store_error(key)
        } else {
            StoreError::Unknown {
                key: key.to_string(),
                reason: self.reason,
            }
        }
    }
}

impl From<NoCredentials> for Failure {
    fn from(error: NoCredentials) -> Failure {
        Failure {
            not_sent: true,
            ..Failure::new(Kind::Refused, error.to_string())
        }
    }
}

/// Understands the SDK's error. `url` is for the messages.
pub(super) fn of_sdk<E>(url: &S3Url, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let metadata = service.err().meta();
            of_answer(url, service.raw(), metadata.code(), metadata.message())
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status();
            let text = causes(error);
            // Whatever the status: an answer that was cut short says nothing, not even "no such key".
            if is_cut_short(&text) {
                return of_transport(url, error);
            }
            if status.is_success() {
                let reason = format!("{} answers, but not as an object store does ({text})", place(url));
                return Failure::new(Kind::Misconfigured, reason);
            }
            of_answer(url, answer.raw(), None, None)
        }
        SdkError::ConstructionFailure(_) => Failure {
            not_sent: true,
            ..Failure::new(
                Kind::Misconfigured,
                format!("cannot make a request: {}", causes(error)),
            )
        },
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(cause) => of_transport(url, cause),
            None => of_transport(url, error),
        },
        _ => of_transport(url, error),
    }
}

/// The connection failed, or the body of an answer did.
pub(super) fn of_transport(url: &S3Url, error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut not_sent = false;
    while let Some(error) = cause {
        not_sent |= error.is::<NotSent>();
        cause = error.source();
    }
    Failure {
        not_sent,
        ..Failure::new(Kind::Transport, format!("{}: {}", place(url), causes(error)))
    }
}

fn of_answer(url: &S3Url, answer: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Failure {
    let status = answer.status().as_u16();
    let shown = shown(status, code, message);
    let by_store = || format!("{}: {shown}", place(url));
    let header = |name: &str| answer.headers().try_get(name).and_then(Result::ok);
    let (kind, reason) = match (status, code.unwrap_or("")) {
        (_, "NoSuchBucket") => (
            Kind::Misconfigured,
            format!(
                "bucket {} does not exist at {}: create it or mend the URL",
                url.bucket,
                place(url)
            ),
        ),
        (_, "RequestTimeTooSkewed") => (
            Kind::ClockSkew,
            format!("{shown}: this machine's clock differs from the store's; set it by NTP"),
        ),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired") => (
            Kind::Refused,
            format!("{shown}: the credentials have expired; renew them"),
        ),
        (
            _,
            "InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId" | "UnrecognizedClientException",
        ) => (
            Kind::Refused,
            format!("{shown}: {} does not know this access key", place(url)),
        ),
        (_, "SignatureDoesNotMatch") => (
            Kind::Refused,
            format!("{shown}: the secret key does not fit the access key"),
        ),
        (_, "AuthorizationHeaderMalformed") | (301 | 307 | 308, _) => {
            let region = header("x-amz-bucket-region").unwrap_or("the bucket's region");
            let reason = format!(
                "{shown}: bucket {} is elsewhere; add region={region} to the URL",
                url.bucket
            );
            (Kind::Misconfigured, reason)
        }
        (404, "NoSuchKey" | "NotFound" | "NoSuchVersion") => (Kind::NoSuchKey, shown),
        (404, _) => (
            Kind::Misconfigured,
            format!("{shown}: {} answers, but not as an object store does", place(url)),
        ),
        (412, _) => (Kind::ConditionFailed, shown),
        (416, _) => (
            Kind::RangeBehindEnd,
            format!("{shown}: the range begins behind the end"),
        ),
        (429, _) | (_, "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling") => {
            (Kind::Throttled, by_store())
        }
        (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") => {
            (Kind::NoSpace, by_store())
        }
        (501, _) | (_, "NotImplemented") => (Kind::NotImplemented, by_store()),
        (503, _) => (Kind::Throttled, by_store()),
        (401 | 403, _) => {
            let reason = format!(
                "{shown}: the access key has no permission for this in bucket {} (AWS answers so for a missing object too \
                 when the key may not list the bucket)",
                url.bucket
            );
            (Kind::Refused, reason)
        }
        // A request or a connection that took too long to arrive.
        (408 | 409 | 425, _) | (400, "RequestTimeout" | "IncompleteBody" | "BadDigest") => {
            (Kind::Server, by_store())
        }
        // HEAD has no body: an expired token is a bare 400 there.
        (400, "") => (
            Kind::Refused,
            format!("{shown}: the request was refused, maybe its credentials"),
        ),
        (500..=599, _) => (Kind::Server, by_store()),
        _ => (
            Kind::Misconfigured,
            format!("{} refuses the request: {shown}", place(url)),
        ),
    };
    let wait = header("retry-after")
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let retry_after = wait.map(|wait| wait.min(RETRY_AFTER_MAX));
    Failure {
        retry_after,
        ..Failure::new(kind, reason)
    }
}

fn shown(status: u16, code: Option<&str>, message: Option<&str>) -> String {
    let mut text = match code {
        Some(code) => format!("{status} {code}"),
        None => format!("status {status}"),
    };
    if let Some(message) = message {
        text.push_str(": ");
        text.extend(
            message
                .chars()
                .filter(|char| !char.is_control())
                .take(MESSAGE_CHARS_MAX),
        );
    }
    text
}

fn place(url: &S3Url) -> &str {
    url.endpoint.as_deref().unwrap_or("the store")
}

/// The chain of causes in one line, without repetitions.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.ends_with(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        cause = error.source();
    }
    text.chars().take(2 * MESSAGE_CHARS_MAX).collect()
}

fn is_cut_short(text: &str) -> bool {
    ["connection", "stream", "body", "arrived", "reset", "eof"]
        .iter()
        .any(|word| text.contains(word))
}
