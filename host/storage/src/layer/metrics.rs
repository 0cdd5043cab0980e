//! Counts calls, outcomes, seconds and bytes for whoever keeps metrics; this crate knows no registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Classify;
use redkeep_core::storage::StorageError;

use super::intercept::{Intercept, Operation, Span};

/// Takes the counts.
pub trait StorageMetrics: Send + Sync + 'static {
    /// A call ended. `outcome` is `ok`, `dropped` (cancelled, or a body that was not read to its end) or the error's reason.
    fn call(&self, operation: Operation, outcome: &'static str, elapsed: Duration);
    /// Bytes went through a body, a put or an upload.
    fn bytes(&self, operation: Operation, count: u64);
}

/// Tells every call to a [`StorageMetrics`].
pub struct Metrics {
    sink: Arc<dyn StorageMetrics>,
}

impl Metrics {
    /// Counts into `sink`.
    pub fn new(sink: Arc<dyn StorageMetrics>) -> Self {
        Self { sink }
    }
}

#[async_trait]
impl Intercept for Metrics {
    async fn begin(&self, operation: Operation, _key: &str) -> Result<Box<dyn Span>, StorageError> {
        Ok(Box::new(Counted { sink: self.sink.clone(), operation, since: Instant::now(), outcome: "dropped" }))
    }
}

struct Counted {
    sink: Arc<dyn StorageMetrics>,
    operation: Operation,
    since: Instant,
    outcome: &'static str,
}

#[async_trait]
impl Span for Counted {
    async fn data(&mut self, data: Bytes) -> Result<Option<Bytes>, StorageError> {
        self.sink.bytes(self.operation, data.len() as u64);
        Ok(Some(data))
    }

    async fn succeeded(&mut self) -> Result<(), StorageError> {
        self.outcome = "ok";
        Ok(())
    }

    fn failed(&mut self, error: &StorageError) {
        self.outcome = error.reason();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sink.call(self.operation, self.outcome, self.since.elapsed());
    }
}
