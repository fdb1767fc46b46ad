//! The SDK's client, configured.

use aws_config::identity::IdentityCache;
use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{RenewedCredentials, region_of};
use super::progress::{Gate, ProgressConnector};
use crate::store::{S3Url, StoreOptions};

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
    pub(super) async fn new(url: &S3Url, options: &StoreOptions) -> S3Client {
        let connector = ProgressConnector::new(http_connector(options.requests_max), options.stall_timeout);
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
        if let Some(region) = &url.region {
            loader = loader.region(Region::new(region.clone()));
        } else if url.endpoint.is_some() {
            // The default chain would end at the instance metadata service, which is of no use for another provider.
            let from_environment = ["AWS_REGION", "AWS_DEFAULT_REGION"]
                .iter()
                .find_map(|name| std::env::var(name).ok());
            let region = Region::new(from_environment.unwrap_or_else(|| "us-east-1".to_string()));
            loader = loader.region(RegionProviderChain::first_try(region));
        }
        let shared = loader.load().await;
        let region = region_of(&shared);
        let credentials = RenewedCredentials::new(options.credentials_file.clone(), region.clone());
        let endpoint = endpoint_of(url, &shared);
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .region(region)
            .credentials_provider(credentials.clone())
            .force_path_style(url.path_style.unwrap_or(endpoint.is_some()));
        config.set_endpoint_url(endpoint.clone());
        let config = config.build();
        let is_tls = endpoint.is_none_or(|endpoint| endpoint.starts_with("https://"));
        S3Client {
            sdk: Client::from_conf(config),
            credentials,
            connector,
            is_tls,
        }
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
        std::env::var("AWS_ENDPOINT_URL_S3")
            .ok()
            .filter(|endpoint| !endpoint.is_empty())
    };
    let of_all = || shared.endpoint_url().map(str::to_string);
    url.endpoint.clone().or_else(of_service).or_else(of_all)
}

fn http_client(connector: ProgressConnector) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(connector);
    http_client_fn(move |_, _| connector.clone())
}

/// Connections are reused by all requests of the store; proxies are taken from the environment as other tools do.
fn http_connector(idle_max: usize) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder()
        .connect_timeout(CONNECT_LIMIT)
        .build();
    let connector = Connector::builder()
        .connector_settings(settings)
        .sleep_impl(TokioSleep)
        .proxy_config(ProxyConfig::from_env())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(idle_max)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
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
