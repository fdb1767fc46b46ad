//! The SDK's client, configured.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::TlsContext;
use aws_smithy_http_client::{Builder as HttpBuilder, Connector, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_types::service_config::ServiceConfigKey;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{RenewedCredentials, region_of};
use super::progress::{Gate, ProgressConnector};
use super::trust::Trust;
use crate::store::{S3Url, StoreError, StoreOptions};

/// TCP and TLS handshakes take a few round trips.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Shorter than what servers and load balancers grant, so that we rarely write into a connection that they close.
const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// The client and what the adapter needs besides.
#[derive(Debug)]
pub(super) struct S3Client {
    pub(super) sdk: Client,
    pub(super) credentials: RenewedCredentials,
    pub(super) connector: ProgressConnector,
    /// Over TLS, which protects payloads: they need no hash.
    pub(super) is_tls: bool,
}

impl S3Client {
    /// Reads configuration files and the environment, sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the certificates that are to be trusted cannot be read and the store has TLS.
    pub(super) async fn new(url: &S3Url, options: &StoreOptions) -> Result<S3Client, StoreError> {
        let endpoint = url.endpoint.clone().or_else(endpoint_of_environment);
        let (trust, distrust) = match Trust::read().await {
            Ok(trust) => (trust, None),
            Err(error) => (Trust::nobody(), Some(error)),
        };
        let http = http_connector(
            options.requests_max,
            proxies(endpoint.as_deref()),
            trust.context()?,
        );
        let connector = ProgressConnector::new(http, options.stall_timeout);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_LIMIT)
            .disable_read_timeout()
            .disable_operation_timeout()
            .disable_operation_attempt_timeout()
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client(connector.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .identity_cache(IdentityCache::no_cache());
        match &url.region {
            Some(region) => loader = loader.region(Region::new(region.clone())),
            // The default chain ends at the instance metadata service, which is of no use for another provider: where it
            // does not answer, every command would wait for it.
            None if url.endpoint.is_some() || endpoint_of_environment().is_some() => {
                let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                    .or_else(ProfileFileRegionProvider::new())
                    .or_else(Region::new("us-east-1"));
                loader = loader.region(chain);
            }
            None => {}
        }
        let shared = loader.load().await;
        let region = region_of(&shared);
        let endpoint = endpoint_of(url, &shared);
        let is_tls = endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.starts_with("https://"));
        if let Some(error) = distrust.filter(|_| is_tls) {
            return Err(error);
        }
        let http = match trust.has_bundle() {
            true => Some(credentials_client(trust.context()?)),
            false => None,
        };
        let credentials = RenewedCredentials::new(options.credentials_file.clone(), region.clone(), http);
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .region(region)
            .credentials_provider(credentials.clone())
            .force_path_style(url.path_style.unwrap_or(endpoint.is_some()));
        config.set_endpoint_url(endpoint);
        let config = config.build();
        Ok(S3Client {
            sdk: Client::from_conf(config),
            credentials,
            connector,
            is_tls,
        })
    }

    /// A client on the same connections whose uploads wait at a gate before their last byte.
    pub(super) fn gated(&self, gate: Arc<Gate>) -> Client {
        let connector = self.connector.gated(gate);
        Client::from_conf(
            self.sdk
                .config()
                .to_builder()
                .http_client(http_client(connector))
                .build(),
        )
    }
}

/// The endpoint of the URL, else of the environment or profile as the SDKs understand them.
fn endpoint_of(url: &S3Url, shared: &SdkConfig) -> Option<String> {
    let of_service = || {
        let key = ServiceConfigKey::builder()
            .service_id("S3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok()?;
        shared.service_config()?.load_config(key)
    };
    let of_all = || shared.endpoint_url().map(str::to_string);
    let configured = of_service().filter(|endpoint| !endpoint.is_empty());
    url.endpoint.clone().or(configured).or_else(of_all)
}

/// The endpoint that environment variables name.
fn endpoint_of_environment() -> Option<String> {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|endpoint| !endpoint.is_empty()))
}

/// Proxies of the environment, as other tools understand it: a `*` in `NO_PROXY` stands for every host, and an entry with a
/// port for that port of a host, which the HTTP client does not know.
fn proxies(endpoint: Option<&str>) -> ProxyConfig {
    let exceptions = ["NO_PROXY", "no_proxy"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    match exceptions {
        Some(exceptions) if is_excepted(&exceptions, endpoint) => ProxyConfig::disabled(),
        _ => ProxyConfig::from_env(),
    }
}

fn is_excepted(exceptions: &str, endpoint: Option<&str>) -> bool {
    let place = endpoint.and_then(|endpoint| {
        let (scheme, rest) = endpoint.split_once("://")?;
        let place = rest.split('/').next()?.to_ascii_lowercase();
        // Behind the brackets of an IPv6 address.
        let has_port = place.rsplit(']').next()?.contains(':');
        match (has_port, scheme) {
            (true, _) => Some(place),
            (false, "https") => Some(format!("{place}:443")),
            (false, _) => Some(format!("{place}:80")),
        }
    });
    let mut entries = exceptions
        .split(',')
        .map(|entry| entry.trim().to_ascii_lowercase());
    entries.any(|entry| entry == "*" || place.as_ref() == Some(&entry))
}

fn http_client(connector: ProgressConnector) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(connector);
    http_client_fn(move |_, _| connector.clone())
}

/// What asks for credentials, with time limits of its own.
fn credentials_client(trust: TlsContext) -> SharedHttpClient {
    HttpBuilder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .tls_context(trust)
        .build_https()
}

/// Connections are reused by all requests of the store.
fn http_connector(idle_max: usize, proxies: ProxyConfig, trust: TlsContext) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder()
        .connect_timeout(CONNECT_LIMIT)
        .build();
    let connector = Connector::builder()
        .connector_settings(settings)
        .sleep_impl(TokioSleep)
        .proxy_config(proxies)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(idle_max)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .tls_context(trust)
        .build();
    SharedHttpConnector::new(connector)
}

/// Tokio's timer behind the SDK's interface.
#[derive(Debug)]
struct TokioSleep;

impl aws_sdk_s3::config::AsyncSleep for TokioSleep {
    fn sleep(&self, duration: Duration) -> aws_sdk_s3::config::Sleep {
        aws_sdk_s3::config::Sleep::new(tokio::time::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_from_proxies_may_be_all_hosts_or_have_a_port() {
        let endpoint = Some("http://127.0.0.1:9000/path");
        for (exceptions, endpoint, is) in [
            ("*", None, true),
            ("localhost, *", endpoint, true),
            ("127.0.0.1:9000", endpoint, true),
            ("a.b,127.0.0.1:9000", endpoint, true),
            ("127.0.0.1:9001", endpoint, false),
            ("127.0.0.1", endpoint, false),
            ("store.example:443", Some("https://Store.example"), true),
            ("store.example:80", Some("https://store.example"), false),
            ("[::1]:80", Some("http://[::1]"), true),
            ("[::1]:9000", Some("http://[::1]:9000"), true),
            ("", endpoint, false),
            ("*.internal", None, false),
        ] {
            assert_eq!(is_excepted(exceptions, endpoint), is, "{exceptions} {endpoint:?}");
        }
    }
}
