//! Last stage of the way to storage: objects, the rate limit, and cleaning up after what was given up.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redkeep_core::manifest::StoredObject;
use redkeep_core::method::RunEvents;
use redkeep_core::storage::{StorageError, StorageErrorKind, Upload, WriteStorage};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::digest;
use super::error::PipelineError;
use super::failure::Failure;
use super::feed::FeedReceiver;
use super::seal::Stored;

/// How long cleaning up may take: a storage that is gone must not hold a run for ever.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(60);

/// At most so many bytes a second, over all who share it.
pub(crate) struct Limiter {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may go.
    async fn take(&self, bytes: usize) {
        let cost = Duration::from_nanos(
            u64::try_from(bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second)).unwrap_or(u64::MAX),
        );
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free_at).max(Instant::now());
            *free_at = turn + cost;
            turn + cost
        };
        tokio::time::sleep_until(turn).await;
    }
}

/// Counts stored bytes of all artifacts of a store and tells the user.
pub(crate) struct StoreProgress {
    pub(crate) events: Arc<dyn RunEvents>,
    pub(crate) stored: AtomicU64,
}

impl StoreProgress {
    fn add(&self, bytes: usize) {
        let done = self.stored.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.events.progress("store", "bytes", done, None);
    }
}

/// The key of the `number`th object of an artifact, from 1.
pub(crate) fn object_key(key: &str, number: usize) -> String {
    if number == 1 { key.to_owned() } else { format!("{key}.object-{number:04}") }
}

/// Everything that storing one artifact needs.
pub(crate) struct UploadJob {
    pub(crate) storage: Arc<dyn WriteStorage>,
    pub(crate) artifact: String,
    pub(crate) key: String,
    /// The first object, begun already so that a storage that refuses says so at once.
    pub(crate) current: Option<Box<dyn Upload>>,
    pub(crate) feed: Option<FeedReceiver>,
    /// An object that can take less than this ends, and another begins.
    pub(crate) largest_part: u64,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) progress: Arc<StoreProgress>,
    pub(crate) cancel: CancellationToken,
    pub(crate) failure: Failure,
}

impl UploadJob {
    /// Stores everything that is fed. On any failure, and when the artifact is given up, nothing stays.
    pub(crate) async fn run(mut self) -> Option<Vec<StoredObject>> {
        let mut objects = Vec::new();
        let cancel = self.cancel.clone();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(PipelineError::Cancelled),
            result = self.transfer(&mut objects) => result,
        };
        match result {
            Ok(()) => Some(objects),
            Err(error) => {
                if !matches!(error, PipelineError::Cancelled) {
                    self.failure.set(error);
                }
                // The stages before end one another from here; the failure must be known by then.
                self.feed = None;
                self.clean_up(objects.len()).await;
                None
            }
        }
    }

    async fn transfer(&mut self, objects: &mut Vec<StoredObject>) -> Result<(), PipelineError> {
        let mut whole = Sha256::new();
        let mut own = Sha256::new();
        let mut size = 0_u64;
        loop {
            let stored = match &mut self.feed {
                Some(feed) => feed.next().await?,
                None => None,
            };
            match stored {
                Some(Stored::Chunk(chunk)) => {
                    if let Some(limiter) = &self.limiter {
                        limiter.take(chunk.len()).await;
                    }
                    if !objects.is_empty() {
                        // Of the first object the digest comes with its parts.
                        own.update(&chunk);
                    }
                    size += chunk.len() as u64;
                    self.write(chunk, objects.len() + 1).await?;
                }
                Some(Stored::PartEnd(so_far)) => {
                    whole = so_far;
                    if self.current.as_ref().is_some_and(|upload| upload.remaining() < self.largest_part) {
                        let hasher = if objects.is_empty() { whole.clone() } else { std::mem::take(&mut own) };
                        objects.push(self.finish(objects.len() + 1, size, hasher).await?);
                        size = 0;
                    }
                }
                Some(Stored::End) => {
                    if self.current.is_some() {
                        let hasher = if objects.is_empty() { whole } else { own };
                        objects.push(self.finish(objects.len() + 1, size, hasher).await?);
                    }
                    return Ok(());
                }
                None => return Err(PipelineError::Cancelled),
            }
        }
    }

    fn failed(&self, source: StorageError) -> PipelineError {
        PipelineError::Store { artifact: self.artifact.clone(), source }
    }

    async fn write(&mut self, chunk: Bytes, number: usize) -> Result<(), PipelineError> {
        let length = chunk.len();
        if self.current.is_none() {
            let key = object_key(&self.key, number);
            let upload = self.storage.create(&key).await.map_err(|source| self.failed(source))?;
            self.current = Some(upload);
        }
        let Some(upload) = &mut self.current else {
            return Err(PipelineError::Internal { stage: "upload" });
        };
        let result = upload.write(chunk).await;
        result.map_err(|source| self.failed(source))?;
        self.progress.add(length);
        Ok(())
    }

    async fn finish(&mut self, number: usize, size: u64, hasher: Sha256) -> Result<StoredObject, PipelineError> {
        let key = object_key(&self.key, number);
        let Some(upload) = self.current.take() else {
            return Err(PipelineError::Internal { stage: "upload" });
        };
        let meta = upload.finish().await.map_err(|source| self.failed(source))?;
        if meta.size != size {
            let act = format!("{} has {} bytes of {size} after its upload", self.storage.address_of(&key), meta.size);
            return Err(self.failed(StorageError::new(StorageErrorKind::Damaged, act)));
        }
        Ok(StoredObject { key, size, sha256: digest::to_hex(&digest::finish(hasher)) })
    }

    /// Throws away the object begun and those finished. Best effort: what stays is garbage that `prune` removes.
    async fn clean_up(&mut self, finished: usize) {
        let upload = self.current.take();
        // The one after the last finished may have become visible although its finish was not heard of.
        let keys: Vec<String> = (1..=finished + 1).map(|number| object_key(&self.key, number)).collect();
        let work = async {
            if let Some(upload) = upload
                && let Err(error) = upload.abort().await
            {
                tracing::debug!(artifact = %self.artifact, %error, "unable to abort an upload");
            }
            if let Err(error) = self.storage.delete(&keys).await {
                tracing::debug!(artifact = %self.artifact, %error, "unable to delete the objects of an artifact given up");
            }
        };
        if tokio::time::timeout(CLEAN_UP_LIMIT, work).await.is_err() {
            tracing::debug!(artifact = %self.artifact, "gave up cleaning up after an artifact");
        }
    }
}

/// Stores a small object whole, by way of an upload, so that its size does not matter.
pub(crate) async fn store_small(
    storage: &Arc<dyn WriteStorage>,
    key: &str,
    data: Vec<u8>,
    chunk: usize,
) -> Result<(), StorageError> {
    let mut upload = storage.create(key).await?;
    let mut rest = Bytes::from(data);
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(chunk));
        upload.write(piece).await?;
    }
    upload.finish().await.map(|_| ())
}
