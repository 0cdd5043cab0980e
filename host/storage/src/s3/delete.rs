//! Deleting: in batches where the endpoint takes them, else one by one.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::{FutureExt, StreamExt};
use redkeep_core::storage::{StorageError, StorageErrorKind};

use super::Inner;
use crate::key::check_key;

/// The most keys of one request (S3's limit).
const BATCH: usize = 1000;
/// Below this many, single requests are as fast and every endpoint knows them.
const BATCH_FROM: usize = 4;
/// Single deletes at once.
const PARALLEL: usize = 8;

impl Inner {
    /// Returns the first failure after all were tried.
    pub(super) async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        for key in keys {
            check_key(key)?;
        }
        let mut first = Ok(());
        for batch in keys.chunks(BATCH) {
            let done = if batch.len() < BATCH_FROM || self.single_deletes.load(Ordering::Relaxed) {
                self.delete_singly(batch).await
            } else {
                match self.delete_batch(batch).await {
                    Err(error) if refuses_batches(&error) => {
                        // GCS and some gateways have no DeleteObjects, or want a digest that we do not send.
                        tracing::debug!(storage = %self.context.address, "the endpoint does not delete in batches");
                        let done = self.delete_singly(batch).await;
                        if done.is_ok() {
                            self.single_deletes.store(true, Ordering::Relaxed);
                        }
                        done
                    }
                    other => other,
                }
            };
            first = first.and(done);
        }
        first
    }

    async fn delete_singly(&self, keys: &[String]) -> Result<(), StorageError> {
        let deletions: Vec<_> = keys.iter().map(|key| self.delete_one(key).boxed()).collect();
        let results: Vec<_> = futures::stream::iter(deletions).buffered(PARALLEL).collect().await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, key: &str) -> Result<(), StorageError> {
        match self.client.delete_object().bucket(&self.bucket).key(self.key(key)).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let code =
                    error.as_service_error().and_then(|error| error.meta().code()).unwrap_or_default().to_owned();
                let error = self.context.map(format!("failed to delete {}", self.address_of(key)), error);
                if error.kind == StorageErrorKind::NotFound && code != "NoSuchBucket" { Ok(()) } else { Err(error) }
            }
        }
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), StorageError> {
        let act = || format!("failed to delete {} objects in {}", keys.len(), self.context.address);
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(self.key(key)).build());
        let objects = objects.collect::<Result<Vec<_>, _>>();
        let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
        let delete = delete.map_err(|error| StorageError::new(StorageErrorKind::Invalid, act()).caused_by(error))?;
        let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        let answer = answer.map_err(|error| self.context.map(act(), error))?;
        let mut failed = answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
        let Some(error) = failed.next() else { return Ok(()) };
        let key = error.key().and_then(|key| self.relative(key)).unwrap_or_default();
        let kind = match error.code() {
            Some("AccessDenied") => StorageErrorKind::Denied,
            Some("InternalError" | "SlowDown" | "ServiceUnavailable") => StorageErrorKind::Busy,
            _ => StorageErrorKind::Other,
        };
        let why = format!("{}: {}", error.code().unwrap_or("no code"), error.message().unwrap_or("no message"));
        Err(StorageError::new(kind, format!("failed to delete {}", self.address_of(key))).caused_by(why))
    }
}

/// Anything that says "not like this": the single deletes that follow tell real troubles apart.
fn refuses_batches(error: &StorageError) -> bool {
    matches!(error.kind, StorageErrorKind::Unsupported | StorageErrorKind::Other | StorageErrorKind::Invalid)
}
