//! What stands behind the guest's handles.

#![expect(unreachable_pub, reason = "generated code re-exports these under their names in the contract")]

use redkeep_core::redis::Replication;
use redkeep_core::socket::Connection;
use redkeep_core::stream::{Sink, Source};

/// The guest's `source`. Empty only while the host splices from it.
pub struct SourceHandle(pub(crate) Option<Box<dyn Source>>);

/// The guest's `sink`. Empty only while the host splices into it.
pub struct SinkHandle(pub(crate) Option<Box<dyn Sink>>);

/// The guest's `replication`.
pub struct ReplicationHandle(pub(crate) Box<dyn Replication>);

/// The guest's `connection`.
pub struct ConnectionHandle(pub(crate) Box<dyn Connection>);
