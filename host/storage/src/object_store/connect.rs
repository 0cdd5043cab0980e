//! Building the clients of `object_store`: credentials, endpoint, TLS by ring, no retries of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use redkeep_core::storage::{StorageError, StorageErrorKind};
use redkeep_core::task::StorageSpec;

use super::error::Context;
use super::{Inner, Store};
use crate::open::{Address, Service, read_ca_file};
use crate::s3::read_credential;

const AZURE_ACCOUNT: [&str; 4] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", "accountName", "account_name"];
const AZURE_KEY: [&str; 4] = ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "accountKey", "account_key"];
const AZURE_SAS: [&str; 4] = ["AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "sasToken", "sas_token"];
const GOOGLE_KEY: [&str; 6] = [
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "service-account.json",
    "serviceAccountKey",
    "service_account_key",
    "key.json",
    "credentials.json",
];

pub(super) fn connect(spec: &StorageSpec) -> Result<Inner, StorageError> {
    // reqwest comes without a provider of its own, so that no second one is built. Another one that is set already stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Address::Bucket { service, bucket, prefix } = Address::parse(&spec.url)? else {
        return Err(invalid(spec, "it is not a bucket"));
    };
    let (store, scheme): (Arc<dyn Store>, _) = match service {
        Service::Gcs => (google(spec, &bucket)?, "gs"),
        Service::Azure => (azure(spec, &bucket)?, "az"),
        Service::S3 => return Err(invalid(spec, "S3 has a provider of its own")),
    };
    let folder = prefix.trim_end_matches('/');
    let address =
        if folder.is_empty() { format!("{scheme}://{bucket}") } else { format!("{scheme}://{bucket}/{folder}") };
    let context = Context { service, bucket, endpoint: spec.endpoint.clone() };
    Ok(Inner { store, prefix, address, context })
}

fn invalid(spec: &StorageSpec, why: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid, format!("failed to use {} as a storage: {why}", spec.url))
}

fn options(spec: &StorageSpec) -> Result<ClientOptions, StorageError> {
    // The whole-request timeout would cut off long bodies; standing still is what counts.
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10))
        .with_read_timeout(Duration::from_secs(60))
        .with_allow_http(spec.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(path) = &spec.ca_file {
        let certificates = Certificate::from_pem_bundle(&read_ca_file(path)?).map_err(|error| {
            let act = format!("failed to read the certificate authorities in {}", path.display());
            StorageError::new(StorageErrorKind::Invalid, act).caused_by(error)
        })?;
        options = certificates.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

/// One retry loop is enough: ours.
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::from_secs(1) }
}

fn google(spec: &StorageSpec, bucket: &str) -> Result<Arc<dyn Store>, StorageError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(options(spec)?)
        .with_retry(no_retries());
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        if endpoint.starts_with("http://") {
            // An emulator takes any token; a real one must not travel in clear, nor be asked of the metadata service.
            builder = builder.with_bearer_token("emulator");
        }
    }
    if let Some(folder) = &spec.credentials_dir {
        // Found even where an emulator leaves it unused: a missing key is told in any case.
        builder = builder.with_service_account_key(require(folder, "Google service account key", &GOOGLE_KEY)?);
    }
    let store = builder.build().map_err(|error| build_error(spec, error, "set GOOGLE_APPLICATION_CREDENTIALS"))?;
    Ok(Arc::new(store))
}

fn azure(spec: &StorageSpec, container: &str) -> Result<Arc<dyn Store>, StorageError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_client_options(options(spec)?)
        .with_retry(no_retries());
    if let Some(endpoint) = &spec.endpoint {
        let allow_http = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()).with_allow_http(allow_http);
    }
    if let Some(folder) = &spec.credentials_dir {
        builder = builder.with_account(require(folder, "Azure account name", &AZURE_ACCOUNT)?);
        builder = match read_credential(folder, &AZURE_SAS)? {
            Some(token) => builder.with_config(AzureConfigKey::SasKey, token),
            None => builder.with_access_key(require(folder, "Azure account key", &AZURE_KEY)?),
        };
    }
    let help = "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or a workload identity";
    Ok(Arc::new(builder.build().map_err(|error| build_error(spec, error, help))?))
}

fn build_error(spec: &StorageSpec, error: object_store::Error, help: &str) -> StorageError {
    invalid(spec, "its options do not fit").caused_by(error).with_help(help)
}

fn require(folder: &Path, what: &str, names: &[&str]) -> Result<String, StorageError> {
    read_credential(folder, names)?.ok_or_else(|| {
        let act = format!("failed to find the {what} in {}", folder.display());
        StorageError::new(StorageErrorKind::Denied, act)
            .with_help(format!("the credentials need one of these keys (files): {}", names.join(", ")))
    })
}
