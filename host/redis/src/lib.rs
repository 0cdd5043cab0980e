//! Redis and Valkey: commands, replication, bulk loading, data directories, discovery of sentinel and cluster
//! deployments, and throw-away servers.
//!
//! Protocols are sans-IO ([`resp`], [`replication`], `command_scanner`); IO sits in files named for it. Implements the
//! traits of `redkeep_core::redis` and the Redis part of `redkeep_core::provider`.

mod boot;
mod cluster_server;
mod command_scanner;
mod connection;
mod discovery;
mod endpoint;
mod error;
mod files;
mod link;
mod load;
pub mod replication;
pub mod resp;
mod server;
mod socket;
mod target;
mod transport;

pub use boot::{LocalBootCheck, RemoteBootCheck, serve_boots};
pub use discovery::resolve;
pub use endpoint::{Address, Deployment, EndpointUrl};
pub use error::{AccessError, LEAST_ACL};
pub use files::{LocalFiles, stage};
pub use target::connect_target;
