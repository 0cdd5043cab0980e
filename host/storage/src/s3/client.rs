//! The SDK's client as we want it: ring for TLS, one retry loop (ours), timeouts, checksums only when required.

use std::path::Path;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use redkeep_core::storage::{StorageError, StorageErrorKind};
use redkeep_core::task::StorageSpec;

use super::credentials::FolderCredentials;

/// Where nothing says otherwise. Endpoints that are not AWS take any; AWS names the right one in its refusal.
const DEFAULT_REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the answer's head has come. Completing an upload of thousands of parts takes S3 minutes, but it sends blanks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an upload may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Connected {
    pub(super) client: Client,
    /// `None`: AWS.
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
}

pub(super) async fn connect(spec: &StorageSpec) -> Result<Connected, StorageError> {
    let http = http_client(spec.ca_file.as_deref())?;
    if let Some(endpoint) = &spec.endpoint {
        check_endpoint(endpoint)?;
    }
    let region = match &spec.region {
        Some(region) => Region::new(region.clone()),
        // Not the instance metadata service: off EC2 it answers after seconds or never.
        None => RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::builder().build())
            .or_else(Region::new(DEFAULT_REGION))
            .region()
            .await
            .unwrap_or(Region::new(DEFAULT_REGION)),
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region.clone())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(ANSWER_TIMEOUT).build())
        .stalled_stream_protection(
            // Downloads are watched where they are read: a caller may take its time between two reads.
            StalledStreamProtectionConfig::enabled()
                .upload_enabled(true)
                .download_enabled(false)
                .grace_period(STALL_LIMIT)
                .build(),
        );
    if let Some(endpoint) = &spec.endpoint {
        loader = loader.endpoint_url(endpoint.trim_end_matches('/'));
    }
    if let Some(folder) = &spec.credentials_dir {
        let credentials = FolderCredentials::new(folder);
        credentials.read()?;
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    // The service's own variable is looked up by the SDK when it builds its client; here only whether it is set counts.
    let endpoint = spec.endpoint.clone().or_else(|| std::env::var("AWS_ENDPOINT_URL_S3").ok());
    let endpoint =
        endpoint.or_else(|| shared.endpoint_url().map(str::to_owned)).filter(|endpoint| !endpoint.is_empty());
    let config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(spec.path_style.unwrap_or(endpoint.is_some()))
        // Ceph, R2, GCS and older MinIO refuse or miscount the trailers of the default.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok(Connected { client: Client::from_conf(config), endpoint, region: region.to_string() })
}

fn check_endpoint(endpoint: &str) -> Result<(), StorageError> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(()),
        _ => Err(StorageError::new(StorageErrorKind::Invalid, format!("failed to use the S3 endpoint {endpoint:?}"))
            .with_help("an endpoint is https://HOST[:PORT] or http://HOST[:PORT]")),
    }
}

pub(super) fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, StorageError> {
    let mut trust = TrustStore::default();
    if let Some(path) = ca_file {
        trust = trust.with_pem_certificate(crate::open::read_ca_file(path)?);
    }
    let context = TlsContext::builder().with_trust_store(trust).build().map_err(|error| {
        StorageError::new(StorageErrorKind::Invalid, "failed to set TLS up for S3").caused_by(error)
    })?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}
