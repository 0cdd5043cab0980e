//! Google Cloud Storage and Azure Blob Storage, by the `object_store` crate.
//!
//! Neither lists unfinished uploads through this crate: Azure drops blocks that nobody committed after a week, and a GCS
//! bucket needs its lifecycle rule `AbortIncompleteMultipartUpload`, as `docs/format.md` says.

mod connect;
mod error;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};
use redkeep_core::task::StorageSpec;

use crate::key::{check_folder, check_key, check_prefix};
use crate::layer::retry::RetryPolicy;
use crate::multipart::{Multipart, MultipartUpload};
use crate::range::{check_order, exactly, too_short};

/// Deletes at once.
const PARALLEL: usize = 8;

/// Both halves of what a provider of that crate can do.
trait Store: ObjectStore + MultipartStore {}
impl<S: ObjectStore + MultipartStore> Store for S {}

/// A bucket or container of Google or Azure, or a folder of one. Clones share the connections.
#[derive(Clone)]
pub struct CloudStorage {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    /// Empty, or ending in `/`.
    prefix: String,
    address: String,
    context: error::Context,
}

impl std::fmt::Debug for CloudStorage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CloudStorage").field("address", &self.inner.address).finish()
    }
}

impl CloudStorage {
    /// Connects to `gs://bucket/prefix` or `az://container/prefix` of `spec.url`. Nothing is sent yet.
    ///
    /// # Errors
    /// `Invalid` for a URL, endpoint or CA file that cannot work.
    pub fn open(spec: &StorageSpec) -> Result<Self, StorageError> {
        connect::connect(spec).map(|inner| Self { inner: Arc::new(inner) })
    }
}

fn meta(key: String, found: &object_store::ObjectMeta) -> ObjectMeta {
    let modified = Timestamp::new(found.last_modified.timestamp(), 0).unwrap_or(Timestamp::UNIX_EPOCH);
    ObjectMeta { key, size: found.size, modified, etag: found.e_tag.clone() }
}

impl Inner {
    fn path(&self, key: &str) -> Result<Path, StorageError> {
        check_key(key)?;
        let full = format!("{}{key}", self.prefix);
        Path::parse(&full).map_err(|error| {
            StorageError::new(StorageErrorKind::Invalid, format!("failed to use the key {full:?}")).caused_by(error)
        })
    }

    fn folder_path(&self, folder: &str) -> Result<Option<Path>, StorageError> {
        let full = format!("{}{folder}", self.prefix);
        let full = full.trim_end_matches('/');
        if full.is_empty() {
            return Ok(None);
        }
        Path::parse(full).map(Some).map_err(|error| {
            StorageError::new(StorageErrorKind::Invalid, format!("failed to use the folder {full:?}")).caused_by(error)
        })
    }

    fn relative<'a>(&self, path: &'a Path) -> Option<&'a str> {
        path.as_ref().strip_prefix(&self.prefix).filter(|key| !key.is_empty())
    }

    fn address_of(&self, key: &str) -> String {
        format!("{}/{key}", self.address)
    }

    fn failed(&self, act: &str, key: &str, error: object_store::Error) -> StorageError {
        self.context.map(format!("failed to {act} {}", self.address_of(key)), error)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let path = self.path(key)?;
        let found = self.store.head(&path).await.map_err(|error| self.failed("look up", key, error))?;
        Ok(meta(key.to_owned(), &found))
    }

    async fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), object_store::Error> {
        let path = Path::from(format!("{}{key}", self.prefix));
        self.store.put_opts(&path, data.into(), PutOptions::from(mode)).await.map(drop)
    }
}

#[async_trait]
impl ReadStorage for CloudStorage {
    fn address(&self) -> String {
        self.inner.address.clone()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        // That crate lists folders only, so the beginning of a name is looked for in its folder.
        let folder = prefix.rfind('/').map_or("", |end| prefix.get(..=end).unwrap_or_default());
        let places = check_prefix(prefix).and_then(|()| {
            Ok((self.inner.folder_path(folder)?, if after.is_empty() { None } else { Some(self.inner.path(after)?) }))
        });
        let (folder, offset) = match places {
            Ok(places) => places,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let (inner, prefix, after) = (self.inner.clone(), prefix.to_owned(), after.to_owned());
        let listing = match offset {
            Some(offset) => inner.store.list_with_offset(folder.as_ref(), &offset),
            None => inner.store.list(folder.as_ref()),
        };
        listing
            .filter_map(move |found| {
                let item = match found {
                    Err(error) => Some(Err(inner.failed("list", &prefix, error))),
                    Ok(found) => inner
                        .relative(&found.location)
                        // Azurite, for one, lists from the first whatever it is told.
                        .filter(|key| key.starts_with(&prefix) && *key > after.as_str())
                        .map(|key| Ok(meta(key.to_owned(), &found))),
                };
                std::future::ready(item)
            })
            .boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        check_folder(prefix)?;
        let inner = &self.inner;
        let folder = inner.folder_path(prefix)?;
        let found = inner.store.list_with_delimiter(folder.as_ref()).await;
        let found = found.map_err(|error| inner.failed("list", prefix, error))?;
        let objects = found.objects.iter();
        let mut listing = Listing {
            objects: objects
                .filter_map(|found| Some(meta(inner.relative(&found.location)?.to_owned(), found)))
                .collect(),
            folders: found
                .common_prefixes
                .iter()
                .filter_map(|path| Some(format!("{}/", inner.relative(path)?)))
                .collect(),
        };
        listing.objects.sort_by(|one, other| one.key.cmp(&other.key));
        listing.folders.sort();
        Ok(listing)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        let inner = self.inner.clone();
        let path = inner.path(key)?;
        let address = inner.address_of(key);
        if let Some(range) = &range {
            check_order(&address, range)?;
            let size = if range.is_empty() { inner.head(key).await?.size } else { u64::MAX };
            if range.end > size {
                return Err(too_short(&address, range, size));
            }
            if range.is_empty() {
                return Ok(stream::empty().boxed());
            }
        }
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let found = inner.store.get_opts(&path, options).await.map_err(|error| inner.failed("read", key, error))?;
        let length = found.range.end.saturating_sub(found.range.start);
        if let Some(range) = &range
            && found.range != *range
        {
            return Err(too_short(&address, range, found.meta.size));
        }
        let key = key.to_owned();
        let body = found.into_stream().map(move |item| item.map_err(|error| inner.failed("read", &key, error)));
        Ok(exactly(body, address, length))
    }
}

#[async_trait]
impl WriteStorage for CloudStorage {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.inner.put_whole(key, data).await
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        check_key(key)?;
        match self.inner.put(key, data, PutMode::Create).await {
            Ok(()) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(PutOutcome::Exists)
            }
            Err(error) => Err(self.inner.failed("write", key, error)),
        }
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        self.inner.path(key)?;
        Ok(Box::new(MultipartUpload::new(self.inner.clone(), key.to_owned())))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            paths.push(self.inner.path(key)?);
        }
        let inner = &self.inner;
        let delete = |path, key| async move {
            match inner.store.delete(path).await {
                Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(inner.failed("delete", key, error)),
            }
        };
        // One by one: batches of that crate stop at the first that is gone already.
        let deletions: Vec<_> = paths.iter().zip(keys).map(|(path, key)| delete(path, key).boxed()).collect();
        let results: Vec<Result<(), StorageError>> = stream::iter(deletions).buffered(PARALLEL).collect().await;
        results.into_iter().collect()
    }

    /// Always empty: see the module's head.
    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        check_prefix(prefix).map(|()| Vec::new())
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        self.inner.abort(&upload.key, &upload.upload_id).await
    }
}

#[async_trait]
impl Multipart for Inner {
    type Part = PartId;

    fn address_of(&self, key: &str) -> String {
        Inner::address_of(self, key)
    }

    fn retry(&self) -> RetryPolicy {
        RetryPolicy::uploads()
    }

    async fn put_whole(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        check_key(key)?;
        self.put(key, data, PutMode::Overwrite).await.map_err(|error| self.failed("write", key, error))
    }

    async fn begin(&self, key: &str) -> Result<String, StorageError> {
        self.store.create_multipart(&self.path(key)?).await.map_err(|error| self.failed("write", key, error))
    }

    async fn send(&self, key: &str, id: &str, number: u32, data: Bytes) -> Result<PartId, StorageError> {
        let index = number.saturating_sub(1) as usize;
        let sent = self.store.put_part(&self.path(key)?, &id.to_owned(), index, data.into()).await;
        sent.map_err(|error| self.failed("write", key, error))
    }

    async fn complete(&self, key: &str, id: &str, parts: Vec<PartId>) -> Result<(), StorageError> {
        let completed = self.store.complete_multipart(&self.path(key)?, &id.to_owned(), parts).await;
        completed.map(drop).map_err(|error| self.failed("finish", key, error))
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), StorageError> {
        match self.store.abort_multipart(&self.path(key)?, &id.to_owned()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("abort the upload of", key, error)),
        }
    }

    async fn look(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.head(key).await
    }
}
