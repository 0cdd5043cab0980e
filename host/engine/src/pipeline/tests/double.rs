//! A storage in memory whose n-th call fails, whose writes can be held, and whose objects can be damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};
use tokio::sync::Semaphore;

pub(super) struct State {
    pub(super) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(super) uploads: Mutex<BTreeSet<String>>,
    calls: AtomicUsize,
    fail_at: AtomicUsize,
    /// What every upload says it can still take at first.
    pub(super) room: AtomicU64,
    gate: Semaphore,
    gated: std::sync::atomic::AtomicBool,
    pub(super) written: AtomicU64,
}

#[derive(Clone)]
pub(super) struct Double(pub(super) Arc<State>);

impl Double {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            objects: Mutex::default(),
            uploads: Mutex::default(),
            calls: AtomicUsize::new(0),
            fail_at: AtomicUsize::new(usize::MAX),
            room: AtomicU64::new(u64::MAX),
            gate: Semaphore::new(0),
            gated: false.into(),
            written: AtomicU64::new(0),
        }))
    }

    /// From now on the n-th call (from 0) fails, once.
    pub(super) fn fail_call(&self, number: usize) {
        self.0.calls.store(0, Ordering::SeqCst);
        self.0.fail_at.store(number, Ordering::SeqCst);
    }

    /// Whether the call that was to fail was made.
    pub(super) fn has_failed(&self) -> bool {
        self.0.calls.load(Ordering::SeqCst) > self.0.fail_at.load(Ordering::SeqCst)
    }

    /// Holds every write until [`Double::release`].
    pub(super) fn hold(&self) {
        self.0.gated.store(true, Ordering::SeqCst);
    }

    pub(super) fn release(&self) {
        self.0.gated.store(false, Ordering::SeqCst);
        self.0.gate.add_permits(1 << 20);
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.0.objects.lock().unwrap().keys().cloned().collect()
    }

    pub(super) fn object(&self, key: &str) -> Bytes {
        self.0.objects.lock().unwrap()[key].clone()
    }

    pub(super) fn set(&self, key: &str, bytes: impl Into<Bytes>) {
        self.0.objects.lock().unwrap().insert(key.to_owned(), bytes.into());
    }

    /// Neither objects nor uploads.
    pub(super) fn is_empty(&self) -> bool {
        self.0.objects.lock().unwrap().is_empty() && self.0.uploads.lock().unwrap().is_empty()
    }

    fn call(&self, act: &str) -> Result<(), StorageError> {
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst);
        if number == self.0.fail_at.load(Ordering::SeqCst) {
            return Err(StorageError::new(StorageErrorKind::Unreachable, format!("failed to {act}: injected")));
        }
        Ok(())
    }

    fn meta(key: &str, size: u64) -> ObjectMeta {
        ObjectMeta { key: key.to_owned(), size, modified: redkeep_core::Timestamp::UNIX_EPOCH, etag: None }
    }
}

#[async_trait]
impl ReadStorage for Double {
    fn address(&self) -> String {
        "double://".to_owned()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let failure = self.call("list").err();
        let objects = self.0.objects.lock().unwrap();
        let found = objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let mut items: Vec<_> = found.map(|(key, bytes)| Ok(Self::meta(key, bytes.len() as u64))).collect();
        if let Some(failure) = failure {
            items = vec![Err(failure)];
        }
        futures::stream::iter(items).boxed()
    }

    async fn list_folder(&self, _prefix: &str) -> Result<Listing, StorageError> {
        unimplemented!("the pipeline lists no folders")
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.call("head")?;
        match self.0.objects.lock().unwrap().get(key) {
            Some(bytes) => Ok(Self::meta(key, bytes.len() as u64)),
            None => Err(StorageError::new(StorageErrorKind::NotFound, "failed to head")),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        self.call("get")?;
        let Some(bytes) = self.0.objects.lock().unwrap().get(key).cloned() else {
            return Err(StorageError::new(StorageErrorKind::NotFound, "failed to get"));
        };
        let range = range.unwrap_or(0..bytes.len() as u64);
        let end = usize::try_from(range.end).unwrap().min(bytes.len());
        let start = usize::try_from(range.start).unwrap().min(end);
        let bytes = bytes.slice(start..end);
        let mut items = Vec::new();
        for chunk in bytes.chunks(100_000) {
            items.push(self.call("get a piece").map(|()| Bytes::copy_from_slice(chunk)));
        }
        Ok(futures::stream::iter(items).boxed())
    }
}

#[async_trait]
impl WriteStorage for Double {
    async fn put(&self, _key: &str, _data: Bytes) -> Result<(), StorageError> {
        unimplemented!("the pipeline does not overwrite")
    }

    async fn put_if_absent(&self, _key: &str, _data: Bytes) -> Result<PutOutcome, StorageError> {
        unimplemented!("the pipeline does not commit")
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        self.call("create")?;
        assert!(self.0.uploads.lock().unwrap().insert(key.to_owned()), "{key} is uploaded twice");
        let room = self.0.room.load(Ordering::SeqCst);
        Ok(Box::new(DoubleUpload { storage: self.clone(), key: key.to_owned(), bytes: Vec::new(), room }))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        self.call("delete")?;
        for key in keys {
            self.0.objects.lock().unwrap().remove(key);
        }
        Ok(())
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        self.call("list uploads")?;
        let uploads = self.0.uploads.lock().unwrap();
        let found = uploads.iter().filter(|key| key.starts_with(prefix)).map(|key| UnfinishedUpload {
            key: key.clone(),
            upload_id: key.clone(),
            started: redkeep_core::Timestamp::UNIX_EPOCH,
        });
        Ok(found.collect())
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        self.call("abort an upload")?;
        self.0.uploads.lock().unwrap().remove(&upload.key);
        Ok(())
    }
}

/// Leaves its upload behind when it is dropped, as an endpoint does for which there was no time.
struct DoubleUpload {
    storage: Double,
    key: String,
    bytes: Vec<u8>,
    room: u64,
}

#[async_trait]
impl Upload for DoubleUpload {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        self.storage.call("write")?;
        if self.storage.0.gated.load(Ordering::SeqCst) {
            self.storage.0.gate.acquire().await.unwrap().forget();
        }
        self.storage.0.written.fetch_add(data.len() as u64, Ordering::SeqCst);
        self.room = self.room.checked_sub(data.len() as u64).expect("an object took more than it can");
        self.bytes.extend_from_slice(&data);
        Ok(())
    }

    fn remaining(&self) -> u64 {
        self.room
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        self.storage.call("finish")?;
        let size = self.bytes.len() as u64;
        self.storage.0.uploads.lock().unwrap().remove(&self.key);
        self.storage.set(&self.key, self.bytes);
        Ok(Double::meta(&self.key, size))
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.storage.call("abort")?;
        self.storage.0.uploads.lock().unwrap().remove(&self.key);
        Ok(())
    }
}
