//! What stands behind the guest's handles.

#![expect(unreachable_pub, reason = "generated code re-exports these under their names in the contract")]

use redkeep_core::redis::Replication;
use redkeep_core::socket::Connection;
use redkeep_core::stream::{Sink, Source};
use tokio::sync::OwnedSemaphorePermit;

/// The guest's `source`.
pub struct SourceHandle {
    /// Empty only while the host splices from it.
    pub(crate) source: Option<Box<dyn Source>>,
    /// Where it is an artifact's: see [`OpenArtifact`].
    pub(crate) _place: Option<OwnedSemaphorePermit>,
}

/// The guest's `sink`.
pub struct SinkHandle {
    /// Empty only while the host splices into it.
    pub(crate) sink: Option<Box<dyn Sink>>,
    /// Where it is an artifact's.
    pub(crate) artifact: Option<OpenArtifact>,
}

/// What an artifact that is being written takes of the limits of its call.
pub(crate) struct OpenArtifact {
    /// How many attributes it was created with.
    pub(crate) attributes: usize,
    /// Its place among those that are open at once: free again when this is dropped.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// The guest's `replication`.
pub struct ReplicationHandle(pub(crate) Box<dyn Replication>);

/// The guest's `connection`.
pub struct ConnectionHandle(pub(crate) Box<dyn Connection>);
