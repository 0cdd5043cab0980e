//! The capabilities `redis` and `files` of the contract, as traits. `host/redis` implements them.
//!
//! What each call guarantees stands in `wit/v0.1/plugin.wit`; grants are checked before these are called.

use async_trait::async_trait;
use bytes::Bytes;

use crate::attribute::Attribute;
use crate::method::MethodError;
use crate::stream::{Sink, Source};

/// One command: its name and arguments.
pub type Command = Vec<Bytes>;

/// One Redis or Valkey server (in a restore perhaps a cluster), connected and authenticated.
#[async_trait]
pub trait RedisServer: Send + Sync {
    /// `INFO`, one attribute a line.
    async fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, MethodError>;
    /// One command; the reply as RESP2, at most 1 MiB. An error reply is the error `server-reply`.
    async fn command(&self, command: Command) -> Result<Bytes, MethodError>;
    /// Several commands in one go; their replies in order as RESP2, error replies among them.
    async fn pipeline(&self, commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError>;
    /// A full resynchronisation.
    async fn replicate(&self, snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError>;
    /// Commands alone, from `offset` on; `not-found` when the server has them no more.
    async fn resume(&self, id: &str, offset: u64) -> Result<Box<dyn Replication>, MethodError>;
    /// Write commands to run on the target, as RESP.
    async fn load(&self, options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError>;
}

/// A replication link, kept alive and acknowledged by the host. Dropping it closes the link.
#[async_trait]
pub trait Replication: Send {
    /// The replication id.
    fn id(&self) -> String;
    /// Offset at which the snapshot was taken or the link resumed.
    fn start_offset(&self) -> u64;
    /// Exactly the RDB. `not-found` on a resumed link. The source stays good while this handle lives.
    async fn snapshot(&mut self) -> Result<Box<dyn Source>, MethodError>;
    /// The write commands that follow, as RESP, up to `until` or for `within_ms`; ends between commands and outside
    /// transactions.
    async fn commands(&mut self, until: Option<u64>, within_ms: Option<u32>) -> Result<Box<dyn Source>, MethodError>;
    /// How far the commands have been read, dropped ones included.
    fn offset(&self) -> u64;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the data directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the epoch.
    pub modified_ms: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// More of it.
    pub attributes: Vec<Attribute>,
}

/// The data directory of source or target. Relative paths, no symbolic links, nothing outside.
#[async_trait]
pub trait Files: Send + Sync {
    /// The entries of one directory (`""`: the data directory itself).
    async fn list_directory(&self, path: &str) -> Result<Vec<FileEntry>, MethodError>;
    /// Opened at once and read up to the length it has now.
    async fn open(&self, path: &str) -> Result<Box<dyn Source>, MethodError>;
    /// In an empty staging folder, whole and synced at `finish`.
    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError>;
    /// Removes one file of the staging folder.
    async fn remove(&self, path: &str) -> Result<(), MethodError>;
}
