//! One object of unknown length into a bucket: a single PUT while it is small, else a multipart upload.
//!
//! Parts grow from 8 to 32 MiB, so that 10,000 of them carry 220 GiB. What one upload holds, gathered and on its way
//! together, is bounded; whoever writes waits when the endpoint is slower.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::storage::{ObjectMeta, StorageError, StorageErrorKind, Upload};
use tokio::task::{JoinError, JoinSet};

use crate::layer::retry::RetryPolicy;

const MIB: u64 = 1024 * 1024;
/// S3's limit.
const MAX_PARTS: u32 = 10_000;
/// What one upload holds at most, besides the chunk that is being written.
const HELD_BYTES: u64 = 40 * MIB;
/// Parts on their way at once: two keep the line busy while the next is gathered, more only cost memory.
const MAX_IN_FLIGHT: usize = 3;

/// How long an abort waits for parts on their way before it cuts them off.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// Size of a part, from 1. All parts but the last have exactly this size, which R2 wants of neighbours at least.
fn part_size(number: u32) -> u64 {
    match number {
        0..=2500 => 8 * MIB,
        2501..=5000 => 16 * MIB,
        _ => 32 * MIB,
    }
}

/// Bytes that parts `number` to 10,000 take.
fn capacity_from(number: u32) -> u64 {
    (number..=MAX_PARTS).map(part_size).sum()
}

/// What an endpoint does for an upload. Each call is one try.
#[async_trait]
pub(crate) trait Multipart: Send + Sync + 'static {
    /// What the endpoint answers to a part and wants back at the end.
    type Part: Clone + Send + Sync + 'static;

    /// As a user would write it.
    fn address_of(&self, key: &str) -> String;
    /// Retries of parts: no layer above could send them again.
    fn retry(&self) -> RetryPolicy;
    /// A small object whole.
    async fn put_whole(&self, key: &str, data: Bytes) -> Result<(), StorageError>;
    /// Begins; returns the endpoint's name for the upload.
    async fn begin(&self, key: &str) -> Result<String, StorageError>;
    /// A part, numbered from 1.
    async fn send(&self, key: &str, id: &str, number: u32, data: Bytes) -> Result<Self::Part, StorageError>;
    /// All parts in their order.
    async fn complete(&self, key: &str, id: &str, parts: Vec<Self::Part>) -> Result<(), StorageError>;
    /// Throws it away; gone already is no error.
    async fn abort(&self, key: &str, id: &str) -> Result<(), StorageError>;
    /// What is there in the end.
    async fn look(&self, key: &str) -> Result<ObjectMeta, StorageError>;
}

/// A part that is through.
struct Sent<P> {
    number: u32,
    part: P,
    /// Its bytes: their memory takes the next part, for that of the system must be cleared page by page each time.
    data: Bytes,
}

pub(crate) struct MultipartUpload<M: Multipart> {
    inner: Arc<M>,
    key: String,
    /// The part being gathered.
    gathered: BytesMut,
    /// Memory of a part that is through.
    spare: Option<BytesMut>,
    /// Its number.
    number: u32,
    /// What the parts before it took.
    sent: u64,
    remaining_parts: u64,
    in_flight_bytes: u64,
    in_flight: JoinSet<Result<Sent<M::Part>, StorageError>>,
    completed: Vec<(u32, M::Part)>,
    upload_id: Option<String>,
    failed: bool,
}

impl<M: Multipart> MultipartUpload<M> {
    pub(crate) fn new(inner: Arc<M>, key: String) -> Self {
        Self {
            inner,
            key,
            gathered: BytesMut::new(),
            spare: None,
            number: 1,
            sent: 0,
            remaining_parts: capacity_from(1),
            in_flight_bytes: 0,
            in_flight: JoinSet::new(),
            completed: Vec::new(),
            upload_id: None,
            failed: false,
        }
    }

    fn room(&self) -> u64 {
        part_size(self.number).saturating_sub(self.gathered.len() as u64)
    }

    fn error(&self, kind: StorageErrorKind, why: &str) -> StorageError {
        StorageError::new(kind, format!("failed to write {}: {why}", self.inner.address_of(&self.key)))
    }

    /// Takes in one part that is through.
    async fn settle_one(&mut self) -> Result<(), StorageError> {
        match self.in_flight.join_next().await {
            None => Ok(()),
            Some(done) => self.settled(done),
        }
    }

    fn settled(&mut self, done: Result<Result<Sent<M::Part>, StorageError>, JoinError>) -> Result<(), StorageError> {
        let ended = |error: JoinError| self.error(StorageErrorKind::Other, "a part's task ended").caused_by(error);
        let sent = done.map_err(ended)??;
        self.in_flight_bytes -= sent.data.len() as u64;
        // One that is still held elsewhere is not ours to write to; one is enough, and a smaller one would grow, which copies.
        if self.spare.is_none()
            && sent.data.len() as u64 >= part_size(self.number)
            && let Ok(mut memory) = sent.data.try_into_mut()
        {
            memory.clear();
            self.spare = Some(memory);
        }
        self.completed.push((sent.number, sent.part));
        Ok(())
    }

    async fn begin(&mut self) -> Result<String, StorageError> {
        if let Some(id) = &self.upload_id {
            return Ok(id.clone());
        }
        let (inner, key) = (&self.inner, &self.key);
        let id = inner.retry().run(|| inner.begin(key)).await?;
        self.upload_id = Some(id.clone());
        Ok(id)
    }

    /// Sends the gathered bytes as the next part.
    async fn send_part(&mut self) -> Result<(), StorageError> {
        if self.number > MAX_PARTS {
            return Err(self.error(StorageErrorKind::Invalid, "an object has at most 10,000 parts"));
        }
        let id = self.begin().await?;
        while self.in_flight.len() >= MAX_IN_FLIGHT {
            self.settle_one().await?;
        }
        let data = std::mem::take(&mut self.gathered).freeze();
        let (number, size) = (self.number, data.len() as u64);
        self.number += 1;
        self.sent += size;
        self.remaining_parts = self.remaining_parts.saturating_sub(part_size(number));
        self.in_flight_bytes += size;
        let (inner, key) = (self.inner.clone(), self.key.clone());
        self.in_flight.spawn(async move {
            let part = inner.retry().run(|| inner.send(&key, &id, number, data.clone())).await?;
            Ok(Sent { number, part, data })
        });
        Ok(())
    }

    async fn take(&mut self, mut data: Bytes) -> Result<(), StorageError> {
        while !data.is_empty() {
            if self.room() == 0 {
                // Only now, when more bytes are known to follow: an object of exactly one part is one PUT.
                self.send_part().await?;
            }
            let count = usize::try_from(self.room()).unwrap_or(usize::MAX).min(data.len());
            while self.in_flight_bytes + (self.gathered.len() + count) as u64 > HELD_BYTES && !self.in_flight.is_empty()
            {
                self.settle_one().await?;
            }
            if self.number > 1 && self.gathered.capacity() == 0 {
                // More than one part it is: no growing, which copies.
                self.gathered = self.spare.take().unwrap_or_default();
                self.gathered.reserve(usize::try_from(part_size(self.number)).unwrap_or(0));
            }
            self.gathered.extend_from_slice(&data.split_to(count));
        }
        // Failures show early, and what is through frees its memory.
        while let Some(done) = self.in_flight.try_join_next() {
            self.settled(done)?;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<ObjectMeta, StorageError> {
        self.spare = None;
        let total = self.sent + self.gathered.len() as u64;
        if self.upload_id.is_none() {
            let data = self.gathered.split().freeze();
            self.inner.retry().run(|| self.inner.put_whole(&self.key, data.clone())).await?;
        } else {
            if !self.gathered.is_empty() {
                self.send_part().await?;
            }
            while !self.in_flight.is_empty() {
                self.settle_one().await?;
            }
            let mut parts = std::mem::take(&mut self.completed);
            parts.sort_by_key(|(number, _)| *number);
            if parts.len() != (self.number - 1) as usize {
                return Err(self.error(StorageErrorKind::Other, "a part is missing"));
            }
            let id = self.begin().await?;
            let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
            let completed = self.inner.retry().run(|| self.inner.complete(&self.key, &id, parts.clone())).await;
            if let Err(error) = completed {
                // A first try whose answer was lost leaves "no such upload" for the second: what is there decides.
                match self.inner.look(&self.key).await {
                    Ok(meta) if error.kind == StorageErrorKind::NotFound && meta.size == total => {}
                    _ => return Err(error),
                }
            }
        }
        let meta = self.inner.retry().run(|| self.inner.look(&self.key)).await?;
        if meta.size != total {
            let why = format!("{total} bytes were sent, the endpoint says {}", meta.size);
            return Err(self.error(StorageErrorKind::Damaged, &why));
        }
        self.upload_id = None;
        Ok(meta)
    }

    /// Stops what is on its way and tells the endpoint to forget it.
    async fn discard(&mut self) -> Result<(), StorageError> {
        self.failed = true;
        (self.gathered, self.spare) = (BytesMut::new(), None);
        // Kept until it is through: whoever cancels here leaves it to `drop`.
        let Some(id) = self.upload_id.clone() else { return Ok(()) };
        let aborted = throw_away(self.inner.as_ref(), &self.key, &id, &mut self.in_flight).await;
        if aborted.is_ok() {
            self.upload_id = None;
        }
        aborted
    }
}

/// Aborts, once no part is on its way any more: one that arrives after the abort would stay for ever (S3 says so of
/// itself, and servers on a file system make the upload's folder anew).
async fn throw_away<M: Multipart>(
    inner: &M,
    key: &str,
    id: &str,
    in_flight: &mut JoinSet<Result<Sent<M::Part>, StorageError>>,
) -> Result<(), StorageError> {
    let settled = tokio::time::timeout(SETTLE_LIMIT, async { while in_flight.join_next().await.is_some() {} }).await;
    in_flight.shutdown().await;
    RetryPolicy::brief().run(|| inner.abort(key, id)).await?;
    if settled.is_err() {
        tokio::time::sleep(SETTLE_LIMIT / 4).await;
        RetryPolicy::brief().run(|| inner.abort(key, id)).await?;
    }
    Ok(())
}

#[async_trait]
impl<M: Multipart> Upload for MultipartUpload<M> {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        if self.failed {
            return Err(self.error(StorageErrorKind::Other, "an earlier write failed"));
        }
        let taken = self.take(data).await;
        if taken.is_err() {
            // The first failure is the one to report; an abort that fails too is left to `prune`.
            let _ = self.discard().await;
        }
        taken
    }

    fn remaining(&self) -> u64 {
        self.remaining_parts.saturating_sub(self.gathered.len() as u64)
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        if self.failed {
            return Err(self.error(StorageErrorKind::Other, "an earlier write failed"));
        }
        let completed = self.complete().await;
        if completed.is_err() {
            let _ = self.discard().await;
        }
        completed
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        self.discard().await
    }
}

impl<M: Multipart> Drop for MultipartUpload<M> {
    fn drop(&mut self) {
        let Some(id) = self.upload_id.take() else { return };
        let (inner, key) = (self.inner.clone(), std::mem::take(&mut self.key));
        let mut in_flight = std::mem::take(&mut self.in_flight);
        // Nobody waits for this; should the process end first, `prune` finds the upload.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = throw_away(inner.as_ref(), &key, &id, &mut in_flight).await {
                    tracing::debug!(storage.key = key, error = %error, "unable to abort an upload");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_carry_over_two_hundred_gibibytes() {
        assert_eq!(capacity_from(1), (2500 * 8 + 2500 * 16 + 5000 * 32) * MIB);
        assert_eq!(capacity_from(MAX_PARTS), 32 * MIB);
        assert_eq!(capacity_from(MAX_PARTS + 1), 0);
    }

    #[test]
    fn a_part_always_fits_into_what_an_upload_may_hold() {
        assert!((1..=MAX_PARTS).all(|number| part_size(number) <= HELD_BYTES));
    }
}
