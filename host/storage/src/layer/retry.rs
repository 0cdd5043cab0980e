//! Another try where that can help: after failures that may pass by themselves, with growing, random pauses.
//!
//! Nothing is repeated blindly: a put-if-absent whose outcome is unclear is settled by reading back, and a broken body is
//! read on from where it broke. Bytes already given to an upload cannot be sent again from here; providers retry parts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use redkeep_core::Classify;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};
use tokio::time::Instant;

/// How often, and how long between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// Longest pause after the first failure; it doubles with each.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// No try begins later than this after the first failure: how long a user waits for a storage that is gone.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    /// For single requests: about five seconds in all, so that a wrong address is told soon.
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            patience: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// For parts of an upload: half a minute, for hours of work hang on them. A storage server that is restarted is back by then;
    /// and no longer, for the server that is backed up waits too, and closes a replica that takes nothing for a minute.
    pub fn uploads() -> Self {
        Self { attempts: 20, patience: Duration::from_secs(30), ..Self::default() }
    }

    /// For what is done on the way out of a failure: about a second.
    pub fn brief() -> Self {
        Self { attempts: 3, ..Self::default() }
    }

    /// The pause after failure `failures` (from 1): random between half of the step and the whole, so that many clients
    /// of a busy endpoint do not come back at once.
    fn pause(&self, failures: u32) -> Duration {
        let step = self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest_pause);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Runs an act that may be repeated, until it is done, fails for good, or was tried often enough.
    pub async fn run<T, Work, Attempt>(&self, mut work: Work) -> Result<T, StorageError>
    where
        Work: FnMut() -> Attempt + Send,
        Attempt: Future<Output = Result<T, StorageError>> + Send,
    {
        let mut failures = 0;
        let mut first_failure = None;
        loop {
            match work().await {
                Err(error) if error.retryable() && failures + 1 < self.attempts => {
                    failures += 1;
                    let pause = self.pause(failures);
                    let since = first_failure.get_or_insert_with(Instant::now).elapsed();
                    if since + pause > self.patience {
                        return Err(error);
                    }
                    tracing::debug!(error = %error, failures, ?pause, "storage call failed, trying again");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }
}

/// Retries calls of the storage below.
#[derive(Clone)]
pub struct RetryLayer {
    inner: Arc<dyn WriteStorage>,
    policy: RetryPolicy,
}

impl RetryLayer {
    /// Over `inner`.
    pub fn new(inner: Arc<dyn WriteStorage>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

#[async_trait]
impl ReadStorage for RetryLayer {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn address_of(&self, key: &str) -> String {
        self.inner.address_of(key)
    }

    /// A listing that failed before its first object is begun again; one that broke later has shown objects already, so
    /// providers ask for single pages again themselves.
    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let (layer, prefix, after) = (self.clone(), prefix.to_owned(), after.to_owned());
        let begin = async move {
            let begun = layer.policy.run(|| async {
                let mut listing = layer.inner.list_after(&prefix, &after).fuse();
                Ok((listing.next().await.transpose()?, listing))
            });
            match begun.await {
                Ok((first, listing)) => stream::iter(first.map(Ok)).chain(listing).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(begin).flatten().boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.policy.run(|| self.inner.list_folder(prefix)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.policy.run(|| self.inner.head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        let body = self.policy.run(|| self.inner.get(key, range.clone())).await?;
        let (start, end) = range.map_or((0, None), |range| (range.start, Some(range.end)));
        let resumed =
            Resumed { layer: self.clone(), key: key.to_owned(), at: start, end, failures: 0, body: Some(body) };
        Ok(stream::unfold(resumed, Resumed::next).boxed())
    }
}

/// A body that is opened again where it broke. Only digests above can tell if the object changed in between.
struct Resumed {
    layer: RetryLayer,
    key: String,
    at: u64,
    end: Option<u64>,
    /// Since bytes last came.
    failures: u32,
    body: Option<ObjectStream>,
}

impl Resumed {
    async fn next(mut self) -> Option<(Result<Bytes, StorageError>, Self)> {
        loop {
            match self.body.as_mut()?.next().await? {
                Ok(data) => {
                    self.at += data.len() as u64;
                    self.failures = 0;
                    return Some((Ok(data), self));
                }
                Err(error) if error.retryable() && self.failures + 1 < self.layer.policy.attempts => {
                    self.failures += 1;
                    tokio::time::sleep(self.layer.policy.pause(self.failures)).await;
                    match self.reopen().await {
                        Ok(body) => self.body = Some(body),
                        Err(error) => {
                            self.body = None;
                            return Some((Err(error), self));
                        }
                    }
                }
                Err(error) => {
                    self.body = None;
                    return Some((Err(error), self));
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<ObjectStream, StorageError> {
        let layer = self.layer.clone();
        let key = self.key.clone();
        let end = match self.end {
            Some(end) => end,
            None => layer.policy.run(|| layer.inner.head(&key)).await?.size,
        };
        self.end = Some(end);
        tracing::debug!(storage.key = key, at = self.at, "reading on where the connection broke");
        let at = self.at;
        layer.policy.run(|| layer.inner.get(&key, Some(at..end))).await
    }
}

#[async_trait]
impl WriteStorage for RetryLayer {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.policy.run(|| self.inner.put(key, data.clone())).await
    }

    /// After an unclear failure the object is read back: ours means created, another's means it exists, none means that
    /// it may be tried again.
    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        let mut failures = 0;
        loop {
            let error = match self.inner.put_if_absent(key, data.clone()).await {
                // An earlier try of ours may be the one that is there.
                Ok(PutOutcome::Exists) if failures > 0 => return self.whose(key, &data).await,
                Ok(outcome) => return Ok(outcome),
                Err(error) if !error.retryable() => return Err(error),
                Err(error) => error,
            };
            failures += 1;
            if failures >= self.policy.attempts {
                // The last word belongs to what is there; if even that cannot be read, the put's own failure is told.
                return match self.whose(key, &data).await {
                    Ok(outcome) => Ok(outcome),
                    Err(_) => Err(error),
                };
            }
            tokio::time::sleep(self.policy.pause(failures)).await;
            match self.whose(key, &data).await {
                Ok(outcome) => return Ok(outcome),
                Err(unread) if unread.kind == StorageErrorKind::NotFound => {}
                Err(_) => return Err(error),
            }
        }
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        self.policy.run(|| self.inner.create(key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        self.policy.run(|| self.inner.delete(keys)).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        self.policy.run(|| self.inner.unfinished_uploads(prefix)).await
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        self.policy.run(|| self.inner.last_written(upload)).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        self.policy.run(|| self.inner.abort_unfinished(upload)).await
    }
}

impl RetryLayer {
    /// Whose object is there: `Created` if its bytes are ours.
    async fn whose(&self, key: &str, data: &Bytes) -> Result<PutOutcome, StorageError> {
        self.policy
            .run(|| async {
                // Never read more than could be ours.
                if self.inner.head(key).await?.size != data.len() as u64 {
                    return Ok(PutOutcome::Exists);
                }
                let stored: Vec<Bytes> = self.inner.get(key, None).await?.try_collect().await?;
                Ok(if stored.concat() == *data { PutOutcome::Created } else { PutOutcome::Exists })
            })
            .await
    }
}
