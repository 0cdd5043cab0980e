//! A host in memory for the native tests of a method, with faults to inject.
//!
//! [`FakeHost`] holds artifacts, files, a scripted server and what was logged; [`Fault`]s make a source or sink fail at
//! a byte.

mod fake;
mod server;
mod socket;

pub use fake::{FakeFiles, FakeHost, Fault, MemorySource, Shared, StoredArtifact};
pub use server::{CommandScript, FakeRedis};
pub use socket::{Conversation, FakeSocket};
