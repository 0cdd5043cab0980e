//! S3 and what speaks like it (Ceph, R2, Garage, versitygw and many more), by the AWS SDK.
//!
//! Endpoints differ, so only what all of them know is relied on: checksums only where S3 demands them, single deletes
//! where a batch is refused, and a look before every conditional put. An `ETag` is never taken for a digest.

mod client;
mod credentials;
mod delete;
mod error;
mod read;
#[cfg(test)]
mod tests;
mod upload;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_sdk_s3::Client;
use redkeep_core::storage::{StorageError, StorageErrorKind};
use redkeep_core::task::StorageSpec;

use crate::layer::retry::RetryPolicy;
use error::Context;

/// A bucket, or a folder of one. Clones share the connections.
#[derive(Clone)]
pub struct S3Storage {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    bucket: String,
    /// Empty, or ending in `/`.
    prefix: String,
    /// Bytes of the body are hashed for the signature only where TLS does not protect them already.
    unsigned_payload: bool,
    /// For the parts of an upload, which no layer above could send again.
    retry: RetryPolicy,
    /// Set once the endpoint refused to delete several objects at once.
    single_deletes: AtomicBool,
    context: Context,
}

impl std::fmt::Debug for S3Storage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3Storage")
            .field("bucket", &self.inner.bucket)
            .field("prefix", &self.inner.prefix)
            .finish()
    }
}

impl S3Storage {
    /// Connects to `s3://bucket/prefix` of `spec.url`. Nothing is sent yet but what finding credentials takes.
    ///
    /// # Errors
    /// `Invalid` for a URL, endpoint or CA file that cannot work, `Denied` for credentials that are not there.
    pub async fn open(spec: &StorageSpec) -> Result<Self, StorageError> {
        let address = crate::open::Address::parse(&spec.url)?;
        let crate::open::Address::Bucket { bucket, prefix, .. } = address else {
            return Err(StorageError::new(
                StorageErrorKind::Invalid,
                format!("failed to use {} as an S3 bucket", spec.url),
            ));
        };
        let connected = client::connect(spec).await?;
        let folder = prefix.trim_end_matches('/');
        let context = Context {
            address: if folder.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{folder}") },
            bucket: bucket.clone(),
            endpoint: connected.endpoint.clone(),
            region: connected.region,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                client: connected.client,
                bucket,
                prefix,
                unsigned_payload: !connected.endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")),
                retry: RetryPolicy::uploads(),
                single_deletes: AtomicBool::new(false),
                context,
            }),
        })
    }
}

impl Inner {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix).filter(|relative| !relative.is_empty())
    }

    fn address_of(&self, key: &str) -> String {
        format!("{}/{key}", self.context.address)
    }
}
pub(crate) use credentials::read_any as read_credential;
