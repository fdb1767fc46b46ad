//! Credentials of the AWS default chain, read again when they near their end or are refused, without a restart.
//!
//! The SDK's providers read a profile's file once and keep keys without an expiry for ever; a file that is rewritten
//! (a rotated Kubernetes secret, `aws sso login`) would count only after a restart. So each reading builds the chain
//! anew, and the SDK's own cache is switched off.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Credentials are read again this long before they end; role tokens live for an hour or more.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// Longest reading: metadata services answer within seconds or not at all.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// After a reading that brought nothing new, refusals wait this long before they cause another one.
const REREAD_PAUSE: Duration = Duration::from_secs(1);

/// Why there are no credentials, in words for the user.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoCredentials(String);

#[derive(Debug, Default)]
struct State {
    current: Option<Credentials>,
    /// Changes when `current` does.
    generation: u64,
    unchanged_at: Option<Instant>,
}

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    region: Region,
    /// What asks for them, where that is not the SDK's own.
    http: Option<SharedHttpClient>,
    /// Held while credentials are read, so that many requests cause one reading.
    state: Mutex<State>,
}

/// A provider for the SDK that can be told to read again.
#[derive(Clone, Debug)]
pub(super) struct RenewedCredentials {
    inner: Arc<Inner>,
}

impl RenewedCredentials {
    /// From a file in the AWS format, or from the default chain. Reads nothing yet.
    pub(super) fn new(
        file: Option<PathBuf>,
        region: Region,
        http: Option<SharedHttpClient>,
    ) -> RenewedCredentials {
        RenewedCredentials {
            inner: Arc::new(Inner {
                file,
                region,
                http,
                state: Mutex::default(),
            }),
        }
    }

    /// Where the credentials come from, as the SDK names it; never any of them.
    pub(super) async fn source(&self) -> Result<String, NoCredentials> {
        let (credentials, _) = self.get().await?;
        // The SDK tells it nowhere else.
        let provider = format!("{credentials:?}");
        let name = provider
            .split("provider_name: \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        Ok(name.unwrap_or("unknown").to_string())
    }

    /// Makes sure that there are credentials; the generation is for [`Self::renew`].
    pub(super) async fn generation(&self) -> Result<u64, NoCredentials> {
        let (_, generation) = self.get().await?;
        Ok(generation)
    }

    /// The credentials of that generation were refused: reads again; true when there are other ones now.
    pub(super) async fn renew(&self, generation: u64) -> bool {
        let mut state = self.inner.state.lock().await;
        if state.generation != generation {
            return true;
        }
        // Read a moment ago, in vain. They may have come since: whoever rotates keys tries at once.
        if let Some(read_at) = state.unchanged_at.filter(|at| at.elapsed() < REREAD_PAUSE) {
            drop(state);
            tokio::time::sleep_until(read_at + REREAD_PAUSE).await;
            state = self.inner.state.lock().await;
            if state.generation != generation {
                return true;
            }
            if state.unchanged_at != Some(read_at) {
                // Another request has read meanwhile.
                return false;
            }
        }
        match self.inner.read().await {
            Ok(new) if state.current.as_ref().is_some_and(|old| same(old, &new)) => {
                state.unchanged_at = Some(Instant::now());
                false
            }
            Ok(new) => {
                state.replace(new);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "credentials were refused and cannot be read again");
                state.unchanged_at = Some(Instant::now());
                false
            }
        }
    }

    async fn get(&self) -> Result<(Credentials, u64), NoCredentials> {
        let mut state = self.inner.state.lock().await;
        let now = SystemTime::now();
        if let Some(current) = &state.current
            && (!ends_before(current, now + RENEW_BEFORE)
                || state.unchanged_at.is_some_and(|at| at.elapsed() < REREAD_PAUSE))
        {
            return Ok((current.clone(), state.generation));
        }
        match self.inner.read().await {
            Ok(new) => {
                if state.current.as_ref().is_some_and(|old| same(old, &new)) {
                    state.unchanged_at = Some(Instant::now());
                } else {
                    state.replace(new);
                }
            }
            // What we have is good until it ends; a refusal then says what is wrong.
            Err(error) if state.current.is_some() => {
                state.unchanged_at = Some(Instant::now());
                tracing::warn!(%error, "credentials cannot be renewed");
            }
            Err(error) => return Err(error),
        }
        let current = state
            .current
            .clone()
            .ok_or_else(|| NoCredentials("no credentials".to_string()))?;
        Ok((current, state.generation))
    }
}

impl State {
    fn replace(&mut self, new: Credentials) {
        self.current = Some(new);
        self.generation += 1;
        self.unchanged_at = None;
    }
}

impl Inner {
    async fn read(&self) -> Result<Credentials, NoCredentials> {
        let reading = async {
            match &self.file {
                Some(file) => {
                    let files = EnvConfigFiles::builder()
                        .with_file(EnvConfigFileKind::Credentials, file)
                        .build();
                    let provider = ProfileFileCredentialsProvider::builder()
                        .profile_files(files)
                        .build();
                    provider.provide_credentials().await
                }
                None => {
                    let mut chain = DefaultCredentialsChain::builder();
                    if let Some(http) = &self.http {
                        chain = chain.configure(ProviderConfig::default().with_http_client(http.clone()));
                    }
                    let chain = chain.region(self.region.clone()).build().await;
                    chain.provide_credentials().await
                }
            }
        };
        let place = match &self.file {
            Some(file) => format!("in {}", file.display()),
            None => "in the environment, ~/.aws, web identity, container or instance metadata".to_string(),
        };
        match tokio::time::timeout(READ_LIMIT, reading).await {
            Ok(Ok(credentials)) => Ok(credentials),
            // What each part of the chain lacks is of no use: all are named in the message.
            Ok(Err(error @ CredentialsError::CredentialsNotLoaded(_))) => {
                tracing::debug!(reason = causes(&error), "no credentials");
                Err(NoCredentials(format!(
                    "no credentials found {place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"
                )))
            }
            Ok(Err(error)) => Err(NoCredentials(format!(
                "no credentials found {place} ({}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`",
                causes(&error)
            ))),
            Err(_) => Err(NoCredentials(format!(
                "no credentials within {} s {place}: is the metadata service reachable?",
                READ_LIMIT.as_secs()
            ))),
        }
    }
}

impl ProvideCredentials for RenewedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let (credentials, _) = self.get().await.map_err(CredentialsError::provider_error)?;
            Ok(credentials)
        })
    }
}

fn same(a: &Credentials, b: &Credentials) -> bool {
    a.access_key_id() == b.access_key_id()
        && a.secret_access_key() == b.secret_access_key()
        && a.session_token() == b.session_token()
}

fn ends_before(credentials: &Credentials, time: SystemTime) -> bool {
    credentials.expiry().is_some_and(|end| end < time)
}

/// The innermost cause: the outer ones of these errors only repeat that there are none.
fn causes(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().chars().take(200).collect()
}

/// The region to sign for when the URL names none.
pub(super) fn region_of(config: &SdkConfig) -> Region {
    config
        .region()
        .cloned()
        .unwrap_or(Region::from_static("us-east-1"))
}
