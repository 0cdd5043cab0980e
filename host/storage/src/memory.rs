//! A storage in memory: for tests, demonstrations and dry runs. It keeps every promise but durability.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};

use crate::key::{check_folder, check_key, check_prefix};
use crate::range::check_range;

/// How the bytes of a read are cut, so that callers never come to rely on whole objects arriving at once.
const READ_BLOCK: usize = 64 * 1024;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    unfinished: BTreeMap<u64, Begun>,
    counter: u64,
}

/// An upload that was neither finished nor aborted.
struct Begun {
    key: String,
    started: Timestamp,
    written: Timestamp,
}

#[derive(Clone)]
struct Object {
    data: Bytes,
    modified: Timestamp,
    version: u64,
}

impl Object {
    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: self.data.len() as u64,
            modified: self.modified,
            etag: Some(format!("v{}", self.version)),
        }
    }
}

impl State {
    fn put(&mut self, key: &str, data: Bytes) -> ObjectMeta {
        self.counter += 1;
        let object = Object { data, modified: Timestamp::now(), version: self.counter };
        let meta = object.meta(key);
        self.objects.insert(key.to_owned(), object);
        meta
    }
}

/// Objects in this process's memory. Clones share them.
#[derive(Clone)]
pub struct MemoryStorage {
    name: String,
    state: Arc<Mutex<State>>,
}

impl MemoryStorage {
    /// An empty one. The name stands in its address, `memory://NAME`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), state: Arc::default() }
    }

    /// The one of this process that bears this name; made at the first call.
    pub fn named(name: &str) -> Self {
        static NAMED: Mutex<BTreeMap<String, MemoryStorage>> = Mutex::new(BTreeMap::new());
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.entry(name.to_owned()).or_insert_with(|| Self::new(name)).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one call on a map, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, act: &str, key: &str) -> StorageError {
        StorageError::new(
            StorageErrorKind::NotFound,
            format!("failed to {act} {}: there is none", self.address_of(key)),
        )
    }
}

#[async_trait]
impl ReadStorage for MemoryStorage {
    fn address(&self) -> String {
        format!("memory://{}", self.name)
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let found: Vec<_> = match check_prefix(prefix) {
            Err(error) => vec![Err(error)],
            Ok(()) => self
                .state()
                .objects
                .range(prefix.to_owned()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| key.as_str() > after)
                .map(|(key, object)| Ok(object.meta(key)))
                .collect(),
        };
        stream::iter(found).boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        check_folder(prefix)?;
        let state = self.state();
        let mut objects = Vec::new();
        let mut folders = BTreeSet::new();
        for (key, object) in state.objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)) {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            match rest.split_once('/') {
                Some((folder, _)) => {
                    folders.insert(format!("{prefix}{folder}/"));
                }
                None => objects.push(object.meta(key)),
            }
        }
        Ok(Listing { objects, folders: folders.into_iter().collect() })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        check_key(key)?;
        self.state().objects.get(key).map(|object| object.meta(key)).ok_or_else(|| self.missing("look up", key))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        check_key(key)?;
        let data = self.state().objects.get(key).map(|object| object.data.clone());
        let data = data.ok_or_else(|| self.missing("read", key))?;
        let range = check_range(&self.address_of(key), range, data.len() as u64)?;
        let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(data.len());
        let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(data.len());
        let mut rest = data.slice(start..end);
        Ok(stream::iter(std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(READ_BLOCK))))
        }))
        .boxed())
    }
}

#[async_trait]
impl WriteStorage for MemoryStorage {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        check_key(key)?;
        self.state().put(key, data);
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        check_key(key)?;
        let mut state = self.state();
        if state.objects.contains_key(key) {
            return Ok(PutOutcome::Exists);
        }
        state.put(key, data);
        Ok(PutOutcome::Created)
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        check_key(key)?;
        let mut state = self.state();
        state.counter += 1;
        let id = state.counter;
        let started = Timestamp::now();
        state.unfinished.insert(id, Begun { key: key.to_owned(), started, written: started });
        Ok(Box::new(MemoryUpload { storage: self.clone(), key: key.to_owned(), id, data: BytesMut::new() }))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        let mut first = Ok(());
        for key in keys {
            match check_key(key) {
                Ok(()) => {
                    self.state().objects.remove(key);
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        check_prefix(prefix)?;
        let state = self.state();
        let uploads = state.unfinished.iter().filter(|(_, begun)| begun.key.starts_with(prefix));
        Ok(uploads
            .map(|(id, begun)| UnfinishedUpload {
                key: begun.key.clone(),
                upload_id: id.to_string(),
                started: begun.started,
            })
            .collect())
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        let state = self.state();
        let begun = upload.upload_id.parse().ok().and_then(|id: u64| state.unfinished.get(&id));
        begun.map(|begun| begun.written).ok_or_else(|| {
            let act = format!("failed to look at the upload of {}", upload.key);
            StorageError::new(StorageErrorKind::NotFound, act)
        })
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        if let Ok(id) = upload.upload_id.parse() {
            self.state().unfinished.remove(&id);
        }
        Ok(())
    }
}

struct MemoryUpload {
    storage: MemoryStorage,
    key: String,
    id: u64,
    data: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        self.data.extend_from_slice(&data);
        if let Some(begun) = self.storage.state().unfinished.get_mut(&self.id) {
            begun.written = Timestamp::now();
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        let data = std::mem::take(&mut self.data).freeze();
        let mut state = self.storage.state();
        if state.unfinished.remove(&self.id).is_none() {
            return Err(StorageError::new(
                StorageErrorKind::NotFound,
                format!("failed to finish {}: the upload was aborted", self.storage.address_of(&self.key)),
            ));
        }
        Ok(state.put(&self.key, data))
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        self.storage.state().unfinished.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Abilities;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn memory_passes_the_suite() {
        crate::test_servers::pass(Arc::new(MemoryStorage::new("suite")), Abilities::default()).await;
    }
}
