//! The sink that a plugin writes an artifact into, and how long slow storage held it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::Attribute;
use redkeep_core::attribute;
use redkeep_core::method::MethodError;
use redkeep_core::stream::{Artifact, Sink};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::digest;
use super::encode::{Plain, PlainTotals};
use super::entries::{Entries, Outcome, ended};
use super::error::PipelineError;
use super::failure::Failure;
use super::seal::Stored;

/// How often a blocked write looks at what blocks it.
const HOLD_TICK: Duration = Duration::from_millis(100);

/// How long writes were blocked by storage, over all sinks of a store.
pub(crate) struct HoldMeter {
    limit: Option<Duration>,
    held_microseconds: AtomicU64,
}

impl HoldMeter {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, held_microseconds: AtomicU64::new(0) }
    }

    /// Adds time; the error says that it is too much now.
    fn add(&self, artifact: &str, time: Duration) -> Result<(), PipelineError> {
        let more = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let held = Duration::from_micros(self.held_microseconds.fetch_add(more, Ordering::Relaxed) + more);
        match self.limit {
            Some(limit) if held > limit => Err(PipelineError::HeldTooLong {
                artifact: artifact.to_owned(),
                held_seconds: held.as_secs(),
                limit_seconds: limit.as_secs(),
            }),
            _ => Ok(()),
        }
    }
}

/// Takes the plain bytes of one artifact.
pub(crate) struct ArtifactSink {
    pub(crate) name: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) encrypted: bool,
    pub(crate) input: Option<mpsc::Sender<Plain>>,
    /// Small writes, joined.
    pub(crate) pending: BytesMut,
    pub(crate) chunk: usize,
    /// The queue in front of the storage; `None` where there is a spool.
    pub(crate) observer: Option<mpsc::WeakSender<Stored>>,
    pub(crate) hold: Arc<HoldMeter>,
    pub(crate) sealed: Option<oneshot::Receiver<PlainTotals>>,
    pub(crate) outcome: watch::Receiver<Outcome>,
    pub(crate) failure: Failure,
    pub(crate) cancel: CancellationToken,
    pub(crate) entries: Entries,
    pub(crate) finished: bool,
}

impl ArtifactSink {
    /// Why nothing more is taken.
    fn stopped(&self) -> PipelineError {
        match self.failure.get() {
            Some(failure) => failure,
            None if self.cancel.is_cancelled() => PipelineError::Cancelled,
            None => PipelineError::Internal { stage: "encode" },
        }
    }

    fn storage_is_behind(&self) -> bool {
        self.observer.as_ref().and_then(mpsc::WeakSender::upgrade).is_some_and(|queue| queue.capacity() == 0)
    }

    async fn send(&self, message: Plain) -> Result<(), PipelineError> {
        let Some(input) = &self.input else { return Err(self.stopped()) };
        let message = match input.try_send(message) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.stopped()),
            Err(mpsc::error::TrySendError::Full(message)) => message,
        };
        let mut place = std::pin::pin!(input.reserve());
        loop {
            let behind = self.storage_is_behind();
            let started = Instant::now();
            let waited = tokio::time::timeout(HOLD_TICK, &mut place).await;
            if (behind || self.storage_is_behind())
                && let Err(error) = self.hold.add(&self.name, started.elapsed())
            {
                self.failure.set(error);
                self.cancel.cancel();
                return Err(self.stopped());
            }
            match waited {
                Ok(Ok(place)) => {
                    place.send(message);
                    return Ok(());
                }
                Ok(Err(_)) => return Err(self.stopped()),
                Err(_) if self.cancel.is_cancelled() => return Err(self.stopped()),
                Err(_) => {}
            }
        }
    }

    async fn send_pending(&mut self) -> Result<(), PipelineError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = self.pending.split().freeze();
        self.send(Plain::Chunk(chunk)).await
    }

    async fn take(&mut self, mut data: Bytes) -> Result<(), PipelineError> {
        // Chunks of some size go on as they are; small ones are joined, so that a plugin that writes byte by byte costs copies, not tasks.
        let small = self.chunk / 4;
        if !self.pending.is_empty() || data.len() < small {
            let room = self.chunk.saturating_sub(self.pending.len());
            let now = data.split_to(room.min(data.len()));
            if self.pending.capacity() == 0 {
                self.pending.reserve(self.chunk);
            }
            self.pending.extend_from_slice(&now);
            if self.pending.len() >= self.chunk {
                self.send_pending().await?;
            }
        }
        while data.len() >= small && !data.is_empty() {
            let chunk = data.split_to(self.chunk.min(data.len()));
            self.send(Plain::Chunk(chunk)).await?;
        }
        self.pending.extend_from_slice(&data);
        Ok(())
    }

    async fn end(&mut self, attributes: &[Attribute]) -> Result<Artifact, PipelineError> {
        let attributes = attribute::merge(&self.attributes, attributes);
        if !self.encrypted && attribute::find(&attributes, "secret") == Some("yes") {
            return Err(PipelineError::SecretInClear { artifact: self.name.clone() });
        }
        self.send_pending().await?;
        self.send(Plain::End).await?;
        self.input = None;
        let Some(sealed) = self.sealed.take() else { return Err(self.stopped()) };
        let Ok(plain) = sealed.await else { return Err(self.stopped()) };
        if self.observer.is_some() {
            ended(self.outcome.clone(), &self.failure).await?;
        }
        let sha256 = digest::to_hex(&plain.sha256);
        Ok(Artifact { name: self.name.clone(), size: plain.size, sha256, attributes })
    }
}

#[async_trait]
impl Sink for ArtifactSink {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        Ok(self.take(data).await?)
    }

    async fn finish(mut self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        let artifact = self.end(&attributes).await?;
        self.finished = true;
        self.entries.finished(artifact.clone());
        Ok(artifact)
    }
}

impl Drop for ArtifactSink {
    fn drop(&mut self) {
        if !self.finished {
            self.cancel.cancel();
            self.entries.dropped(&self.name);
        }
    }
}
