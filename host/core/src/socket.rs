//! The capability `socket` of the contract, as traits: a byte stream to the run's source or target, for methods of other
//! systems. `host/redis` implements them.
//!
//! What each call guarantees stands in `wit/v0.1/plugin.wit`; the grant is checked before these are called.

use async_trait::async_trait;
use bytes::Bytes;

use crate::method::MethodError;

/// Where the run's source or target listens: address, TLS and proxies are the host's.
#[async_trait]
pub trait Socket: Send + Sync {
    /// One more connection. Dropping it closes it.
    async fn connect(&self) -> Result<Box<dyn Connection>, MethodError>;
}

/// A connected byte stream. A call whose future is dropped is cancelled.
#[async_trait]
pub trait Connection: Send {
    /// At least one byte and at most `max` (capped at [`crate::stream::MAX_READ`]); empty means that the peer closed.
    /// `timeout` when nothing came within so many milliseconds; the connection stays good, and no byte is lost.
    async fn read(&mut self, max: usize, within_ms: Option<u32>) -> Result<Bytes, MethodError>;
    /// Sends all of it.
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError>;
}
