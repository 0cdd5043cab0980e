//! A storage that reads and only pretends to write: for `--dry-run`.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};

use crate::key::check_key;

/// Passes reads on and swallows writes.
#[derive(Clone)]
pub struct DryRunLayer {
    inner: Arc<dyn WriteStorage>,
}

impl DryRunLayer {
    /// Over `inner`, which is never written to.
    pub fn new(inner: Arc<dyn WriteStorage>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl ReadStorage for DryRunLayer {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn address_of(&self, key: &str) -> String {
        self.inner.address_of(key)
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        self.inner.list_after(prefix, after)
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.inner.list_folder(prefix).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        self.inner.get(key, range).await
    }
}

fn would(act: &str, address: &str) {
    tracing::info!(storage.key = address, act, "dry run: left out");
}

#[async_trait]
impl WriteStorage for DryRunLayer {
    async fn put(&self, key: &str, _data: Bytes) -> Result<(), StorageError> {
        check_key(key)?;
        would("put", &self.address_of(key));
        Ok(())
    }

    /// Says truly whether there is one.
    async fn put_if_absent(&self, key: &str, _data: Bytes) -> Result<PutOutcome, StorageError> {
        match self.inner.head(key).await {
            Ok(_) => Ok(PutOutcome::Exists),
            Err(error) if error.kind == StorageErrorKind::NotFound => {
                would("put-if-absent", &self.address_of(key));
                Ok(PutOutcome::Created)
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        check_key(key)?;
        would("upload", &self.address_of(key));
        Ok(Box::new(DryUpload { key: key.to_owned(), size: 0 }))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        for key in keys {
            check_key(key)?;
            would("delete", &self.address_of(key));
        }
        Ok(())
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        self.inner.unfinished_uploads(prefix).await
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        self.inner.last_written(upload).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        would("abort-unfinished", &self.address_of(&upload.key));
        Ok(())
    }
}

struct DryUpload {
    key: String,
    size: u64,
}

#[async_trait]
impl Upload for DryUpload {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        self.size += data.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        Ok(ObjectMeta { key: self.key, size: self.size, modified: Timestamp::now(), etag: None })
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}
