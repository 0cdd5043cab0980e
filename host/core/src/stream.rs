//! Byte streams between the parts of a task: what a plugin reads from and writes to.
//!
//! Both are pulled and pushed in chunks of at most [`MAX_READ`] bytes; 256 KiB is the best size (WASM.md 1).

use async_trait::async_trait;
use bytes::Bytes;

use crate::attribute::Attribute;
use crate::method::MethodError;

/// The most that one read returns, in bytes.
pub const MAX_READ: usize = 1 << 20;
/// The chunk size that is fastest everywhere, in bytes.
pub const CHUNK: usize = 256 << 10;

/// A stream of bytes with a known end: anything cut short is an error, never an end.
#[async_trait]
pub trait Source: Send {
    /// At least one byte and at most `max` (capped at [`MAX_READ`]); empty means the end.
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError>;
    /// Bytes read so far.
    fn position(&self) -> u64;
    /// Length in bytes, where it is known.
    fn size(&self) -> Option<u64>;
}

/// What the host measured of the bytes written to one sink, before compression and encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The name given at its creation.
    pub name: String,
    /// Bytes written.
    pub size: u64,
    /// SHA-256 of them, as lower-case hexadecimal.
    pub sha256: String,
    /// Given at creation, joined by those given at the finish.
    pub attributes: Vec<Attribute>,
}

/// Takes bytes until it is finished. Dropped without [`Sink::finish`]: what was written is thrown away.
#[async_trait]
pub trait Sink: Send {
    /// Takes the bytes, waiting while what lies behind is slower.
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError>;
    /// Makes what was written whole and durable. `attributes` join those given at creation; the later value wins.
    async fn finish(self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError>;
}
