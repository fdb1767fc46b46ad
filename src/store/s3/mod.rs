//! A bucket, or a prefix in one, through aws-sdk-s3; the only place that speaks S3.
//!
//! Rules:
//! 1. One retry loop, [`retry`], with the SDK's own switched off: it also covers the body of an answer, honours
//!    `Retry-After`, and reads credentials again when they were refused. It repeats what may be repeated; a
//!    put-if-absent is repeated only when it is certain that nothing of its body left this machine, or when the store
//!    itself, in an error document of S3 with a code that it gives before it writes, refused the credentials. Any other
//!    answer may come from a proxy that lost its patience with a store that had done what it was asked
//!    ([`failure`], `KNOWN_REFUSALS`): the outcome is not known then, and the caller looks it up.
//! 2. Time limits go by progress ([`progress`]): connecting, the next piece of a body in either direction, and the first
//!    byte of the answer each have a limit; a whole transfer has none.
//! 3. Checksums are sent only when an operation requires them, and payloads are not signed over TLS, which protects
//!    them: several servers refuse the trailing checksums that the SDK would send. Over plain HTTP payloads are signed. A
//!    store that asks for checksums (a bucket with Object Lock does) is sent them from then on, as headers.
//! 4. No error text holds a secret: they consist of the store's error code and message and of the causes that the
//!    transport gives.
//! 5. A certificate that is not trusted is no matter of trying again, and neither is a file of trusted certificates that cannot
//!    be read ([`trust`]): both are said at once, with the file and the setting that names it.
//! 6. Requests in flight are bounded by `StoreOptions::requests_max`; idle connections are kept for as many.

mod client;
mod credentials;
mod failure;
mod progress;
mod retry;
mod store;
mod trust;

pub use store::S3Store;
