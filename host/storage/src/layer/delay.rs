//! A pause before every call and after every so many bytes: a far or slow storage, for tests.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::storage::StorageError;

use super::intercept::{Intercept, Operation, Span};

/// Makes every call take longer.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// Before every call.
    pub call: Duration,
    /// Before every piece of a body or an upload.
    pub data: Duration,
}

#[async_trait]
impl Intercept for Delay {
    async fn begin(&self, _operation: Operation, _key: &str) -> Result<Box<dyn Span>, StorageError> {
        tokio::time::sleep(self.call).await;
        Ok(Box::new(*self))
    }
}

#[async_trait]
impl Span for Delay {
    async fn data(&mut self, data: Bytes) -> Result<Option<Bytes>, StorageError> {
        if !self.data.is_zero() {
            tokio::time::sleep(self.data).await;
        }
        Ok(Some(data))
    }
}
