//! A folder of a storage as a storage of its own.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};

use crate::key::{check_folder, check_key, check_prefix};

/// Puts a folder before every key on the way down and takes it off on the way up.
#[derive(Clone)]
pub struct PrefixLayer {
    inner: Arc<dyn WriteStorage>,
    prefix: String,
}

impl PrefixLayer {
    /// The folder `prefix` (empty, or ending in `/`) of `inner`.
    ///
    /// # Errors
    /// `Invalid` for another prefix.
    pub fn new(inner: Arc<dyn WriteStorage>, prefix: impl Into<String>) -> Result<Self, StorageError> {
        let prefix = prefix.into();
        check_folder(&prefix)?;
        Ok(Self { inner, prefix })
    }

    fn down(&self, key: &str) -> Result<String, StorageError> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn up(&self, key: String) -> Result<String, StorageError> {
        match key.strip_prefix(&self.prefix) {
            Some(relative) => Ok(relative.to_owned()),
            None => Err(StorageError::new(
                StorageErrorKind::Damaged,
                format!("failed to list {}: {key} does not lie there", self.address()),
            )),
        }
    }

    fn up_meta(&self, mut meta: ObjectMeta) -> Result<ObjectMeta, StorageError> {
        meta.key = self.up(meta.key)?;
        Ok(meta)
    }
}

#[async_trait]
impl ReadStorage for PrefixLayer {
    fn address(&self) -> String {
        self.inner.address_of(self.prefix.trim_end_matches('/'))
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let layer = self.clone();
        let after = if after.is_empty() { String::new() } else { format!("{}{after}", self.prefix) };
        self.inner.list_after(&format!("{}{prefix}", self.prefix), &after).map(move |item| layer.up_meta(item?)).boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        check_folder(prefix)?;
        let listing = self.inner.list_folder(&format!("{}{prefix}", self.prefix)).await?;
        Ok(Listing {
            objects: listing.objects.into_iter().map(|meta| self.up_meta(meta)).collect::<Result<_, _>>()?,
            folders: listing.folders.into_iter().map(|folder| self.up(folder)).collect::<Result<_, _>>()?,
        })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.up_meta(self.inner.head(&self.down(key)?).await?)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        self.inner.get(&self.down(key)?, range).await
    }
}

#[async_trait]
impl WriteStorage for PrefixLayer {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.inner.put(&self.down(key)?, data).await
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        self.inner.put_if_absent(&self.down(key)?, data).await
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.inner.create(&self.down(key)?).await?;
        Ok(Box::new(PrefixUpload { layer: self.clone(), inner }))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        let keys = keys.iter().map(|key| self.down(key)).collect::<Result<Vec<_>, _>>()?;
        self.inner.delete(&keys).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        check_prefix(prefix)?;
        let uploads = self.inner.unfinished_uploads(&format!("{}{prefix}", self.prefix)).await?;
        uploads.into_iter().map(|upload| Ok(UnfinishedUpload { key: self.up(upload.key)?, ..upload })).collect()
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        let upload = UnfinishedUpload { key: self.down(&upload.key)?, ..upload.clone() };
        self.inner.last_written(&upload).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        let upload = UnfinishedUpload { key: self.down(&upload.key)?, ..upload.clone() };
        self.inner.abort_unfinished(&upload).await
    }
}

struct PrefixUpload {
    layer: PrefixLayer,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for PrefixUpload {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        self.inner.write(data).await
    }

    fn remaining(&self) -> u64 {
        self.inner.remaining()
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        let Self { layer, inner } = *self;
        layer.up_meta(inner.finish().await?)
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.abort().await
    }
}
