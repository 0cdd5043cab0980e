//! At most so many calls at once, for endpoints that refuse crowds.
//!
//! Reads and writes have permits of their own: a body holds one until it ends, and a copy that holds a body while it
//! waits to write can therefore never wait for itself.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::storage::{StorageError, StorageErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::intercept::{Intercept, Operation, Span};

/// Bounds the calls that are open at once.
#[derive(Debug)]
pub struct Limit {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Limit {
    /// At most `calls` reads and `calls` writes; at least one of each.
    pub fn new(calls: usize) -> Self {
        let calls = calls.clamp(1, Semaphore::MAX_PERMITS);
        Self { reads: Arc::new(Semaphore::new(calls)), writes: Arc::new(Semaphore::new(calls)) }
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StorageError> {
    let closed =
        |error| StorageError::new(StorageErrorKind::Other, "failed to wait for a storage permit").caused_by(error);
    semaphore.clone().acquire_owned().await.map_err(closed)
}

#[async_trait]
impl Intercept for Limit {
    async fn begin(&self, operation: Operation, _key: &str) -> Result<Box<dyn Span>, StorageError> {
        let held = match operation {
            Operation::List
            | Operation::ListFolder
            | Operation::Head
            | Operation::Get
            | Operation::UnfinishedUploads => Some(permit(&self.reads).await?),
            // An upload is open for hours and idle between its writes: each write takes its own.
            Operation::Upload => None,
            _ => Some(permit(&self.writes).await?),
        };
        let each = (operation == Operation::Upload).then(|| self.writes.clone());
        Ok(Box::new(Permitted { held, each }))
    }
}

struct Permitted {
    held: Option<OwnedSemaphorePermit>,
    each: Option<Arc<Semaphore>>,
}

#[async_trait]
impl Span for Permitted {
    async fn data(&mut self, data: Bytes) -> Result<Option<Bytes>, StorageError> {
        if let Some(semaphore) = &self.each {
            self.held = Some(permit(semaphore).await?);
        }
        Ok(Some(data))
    }

    fn taken(&mut self) {
        if self.each.is_some() {
            self.held = None;
        }
    }

    fn failed(&mut self, _error: &StorageError) {
        self.held = None;
    }
}
