//! An object of unknown length into a folder: bytes are gathered into large writes, and one write is on its way while
//! the next is gathered. Memory is bounded by two such batches.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::storage::{ObjectMeta, StorageError, StorageErrorKind, Upload};
use tokio::task::JoinHandle;

use super::blocking;
use super::place::Temporary;

/// Bytes of one write.
const BATCH: usize = 1024 * 1024;
/// Pieces below this are copied together: many small ones would cost more in bookkeeping than in copying.
const COPY_BELOW: usize = 32 * 1024;
/// The kernel is told to write out after this many bytes, so that the last sync does not find gigabytes.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

type Written = (Temporary, Result<(), StorageError>);

pub(super) struct FolderUpload {
    file: State,
    address: String,
    batch: Vec<Bytes>,
    small: BytesMut,
    gathered: usize,
    since_sync: u64,
}

enum State {
    Idle(Temporary),
    Writing(JoinHandle<Written>),
    Failed,
}

impl FolderUpload {
    pub(super) fn new(temporary: Temporary) -> Self {
        let address = temporary.address();
        Self {
            file: State::Idle(temporary),
            address,
            batch: Vec::new(),
            small: BytesMut::new(),
            gathered: 0,
            since_sync: 0,
        }
    }

    fn failed(&self) -> StorageError {
        StorageError::new(StorageErrorKind::Other, format!("failed to write {}: an earlier write failed", self.address))
    }

    /// Waits for the write that is on its way. Cancelled, it keeps waiting at the next call.
    async fn settle(&mut self) -> Result<(), StorageError> {
        let State::Writing(handle) = &mut self.file else {
            return if matches!(self.file, State::Failed) { Err(self.failed()) } else { Ok(()) };
        };
        match handle.await {
            Ok((temporary, Ok(()))) => {
                self.file = State::Idle(temporary);
                Ok(())
            }
            Ok((_, Err(error))) => {
                self.file = State::Failed;
                Err(error)
            }
            Err(error) => {
                self.file = State::Failed;
                Err(self.failed().caused_by(error))
            }
        }
    }

    fn take_small(&mut self) {
        if !self.small.is_empty() {
            self.batch.push(self.small.split().freeze());
        }
    }

    async fn flush(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        self.take_small();
        if self.batch.is_empty() {
            return Ok(());
        }
        match std::mem::replace(&mut self.file, State::Failed) {
            State::Idle(mut temporary) => {
                let batch = std::mem::take(&mut self.batch);
                self.since_sync += std::mem::take(&mut self.gathered) as u64;
                let sync = self.since_sync >= SYNC_EVERY;
                if sync {
                    self.since_sync = 0;
                }
                self.file = State::Writing(tokio::task::spawn_blocking(move || {
                    let result = temporary.write(&batch);
                    let result = if sync { result.and_then(|()| temporary.sync_data()) } else { result };
                    (temporary, result)
                }));
                Ok(())
            }
            other => {
                self.file = other;
                Err(self.failed())
            }
        }
    }
}

#[async_trait]
impl Upload for FolderUpload {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        if self.gathered >= BATCH {
            self.flush().await?;
        }
        self.gathered += data.len();
        if data.len() < COPY_BELOW {
            self.small.extend_from_slice(&data);
        } else {
            self.take_small();
            self.batch.push(data);
        }
        if self.gathered >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        self.flush().await?;
        self.settle().await?;
        match std::mem::replace(&mut self.file, State::Failed) {
            State::Idle(temporary) => {
                let act = format!("failed to finish {}", self.address);
                tracing::debug!(storage.key = temporary.key(), "object complete");
                blocking(act, move || temporary.finish()).await
            }
            _ => Err(self.failed()),
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        // The failure of a write that is thrown away anyway is none of the caller's concern.
        let _ = self.settle().await;
        self.file = State::Failed;
        Ok(())
    }
}
