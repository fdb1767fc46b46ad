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
    /// It is certain that a write was not applied: nothing of it has left this machine, or the store itself says so.
    pub(super) nothing_written: bool,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Failure {
        Failure {
            kind,
            reason: reason.into(),
            retry_after: None,
            nothing_written: false,
        }
    }

    /// Whether the same request may succeed if it is sent again.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            Kind::Throttled | Kind::Server | Kind::Transport | Kind::ClockSkew
        )
    }

    /// The store takes no body without a checksum beside it, as buckets with Object Lock do.
    pub(super) fn wants_checksum(&self) -> bool {
        let names_it = ["Content-MD5", "x-amz-checksum"]
            .iter()
            .any(|name| self.reason.contains(name));
        self.nothing_written && names_it
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
        if self.nothing_written {
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
            nothing_written: true,
            ..Failure::new(Kind::Refused, error.to_string())
        }
    }
}

/// Understands the SDK's error. `url` is for the messages.
pub(super) fn of_sdk<E>(url: &S3Url, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let broken = |text: String| {
        let reason = format!("{} answers, but not as an object store does ({text})", place(url));
        Failure::new(Kind::Misconfigured, reason)
    };
    match error {
        SdkError::ServiceError(service) => {
            let (answer, metadata) = (service.raw(), service.err().meta());
            match answer.status().is_success() {
                true => of_success(url, answer).unwrap_or_else(|| broken(metadata.to_string())),
                false => {
                    let status = answer.status().as_u16();
                    of_answer(url, answer, status, metadata.code(), metadata.message())
                }
            }
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status();
            let text = causes(error);
            // Whatever the status: an answer that was cut short says nothing, not even "no such key".
            if is_cut_short(&text) {
                return of_transport(url, error);
            }
            if status.is_success() {
                return of_success(url, answer.raw()).unwrap_or_else(|| broken(text));
            }
            of_answer(url, answer.raw(), status.as_u16(), None, None)
        }
        SdkError::ConstructionFailure(_) => Failure {
            nothing_written: true,
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
    let mut nothing_written = false;
    while let Some(error) = cause {
        nothing_written |= error.is::<NotSent>();
        cause = error.source();
    }
    let causes = causes(error);
    // What the other side is does not change by asking again.
    if causes.contains("certificate") {
        let reason = format!(
            "the certificate of {} is not trusted ({causes}): a private authority is trusted when AWS_CA_BUNDLE, ca_bundle of \
             the AWS profile, or SSL_CERT_FILE names a file with its certificate, or the system's store holds it",
            place(url)
        );
        return Failure {
            nothing_written,
            ..Failure::new(Kind::Misconfigured, reason)
        };
    }
    Failure {
        nothing_written,
        ..Failure::new(Kind::Transport, format!("{}: {causes}", place(url)))
    }
}

/// What stands in the body of an answer that says "done": S3 and what imitates it begin some answers before they know how
/// they end. `None`: nothing that says otherwise. Only for answers that are no object.
pub(super) fn of_success(url: &S3Url, answer: &HttpResponse) -> Option<Failure> {
    let body = answer.body().bytes()?;
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let inside = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    let lower = text.get(..200).unwrap_or(text).to_ascii_lowercase();
    if let Some(code) = inside("Code").filter(|_| text.contains("<Error")) {
        let status = match code {
            "SlowDown" | "ServiceUnavailable" | "Busy" => 503,
            code => KNOWN_REFUSALS
                .iter()
                .find(|(_, codes)| codes.contains(&code))
                .map_or(500, |(status, _)| *status),
        };
        let failure = of_answer(url, answer, status, Some(code), inside("Message"));
        // It said "done" as well.
        return Some(Failure {
            nothing_written: false,
            ..failure
        });
    }
    let is_page = lower.starts_with("<html") || lower.starts_with("<!doctype html");
    is_page.then(|| {
        let reason = format!(
            "{} answers, but not as an object store does (a web page)",
            place(url)
        );
        Failure::new(Kind::Misconfigured, reason)
    })
}

/// How much of an answer is looked through for an error, bytes: S3's are some hundred.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// What an object store answers before it writes anything, by status and code of its error document. The status alone
/// proves nothing, and neither does a document without such a code: proxies, load balancers and gateways answer for the
/// store when they lose patience (499, 460, 504 ...) or do not like its answer, and a request that they sent twice may
/// meet what it wrote itself.
const KNOWN_REFUSALS: [(u16, &[&str]); 9] = [
    (301, &["PermanentRedirect"]),
    (307, &["TemporaryRedirect"]),
    (
        400,
        &[
            "AuthorizationHeaderMalformed",
            "EntityTooLarge",
            "EntityTooSmall",
            "ExpiredToken",
            "ExpiredTokenException",
            "IllegalLocationConstraintException",
            "InvalidArgument",
            "InvalidBucketName",
            "InvalidDigest",
            "InvalidEncryptionAlgorithmError",
            "InvalidRequest",
            "InvalidStorageClass",
            "InvalidToken",
            "InvalidURI",
            "KeyTooLongError",
            "MalformedXML",
            "MetadataTooLarge",
            "MissingSecurityHeader",
            "RequestExpired",
            "TokenRefreshRequired",
            "UnsupportedSignature",
            "XAmzContentSHA256Mismatch",
            "XMinioInvalidObjectName",
        ],
    ),
    (
        401,
        &[
            "AccessDenied",
            "InvalidAccessKeyId",
            "Unauthorized",
            "UnauthorizedAccess",
        ],
    ),
    (
        403,
        &[
            "AccessDenied",
            "AccountProblem",
            "AllAccessDisabled",
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidPayer",
            "InvalidSecurity",
            "InvalidToken",
            "NotSignedUp",
            "QuotaExceeded",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ],
    ),
    (404, &["NoSuchBucket"]),
    (412, &["PreconditionFailed"]),
    (413, &["EntityTooLarge", "MaxMessageLengthExceeded"]),
    (501, &["NotImplemented"]),
];

fn is_known_refusal(status: u16, code: Option<&str>) -> bool {
    let mut of_status = KNOWN_REFUSALS.iter().filter(|(known, _)| *known == status);
    code.is_some_and(|code| of_status.any(|(_, codes)| codes.contains(&code)))
}

fn of_answer(
    url: &S3Url,
    answer: &HttpResponse,
    status: u16,
    code: Option<&str>,
    message: Option<&str>,
) -> Failure {
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
        (413, _) => (
            Kind::Misconfigured,
            format!(
                "{} refuses the request: {shown}: it is too long for something before the store (nginx: \
                 client_max_body_size), which must let bodies of 64 MiB pass",
                place(url)
            ),
        ),
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
        (500..=599, _) | (_, "InternalError" | "OperationAborted") => (Kind::Server, by_store()),
        // No object store answers so: something between does, and may not the next time.
        (418..=421 | 423 | 424 | 427..=430 | 432..=450 | 452..=499, _) => (
            Kind::Server,
            format!("{shown}, which comes from a proxy or gateway before the store"),
        ),
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
        nothing_written: is_known_refusal(status, code),
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
