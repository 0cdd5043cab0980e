//! What several commands take: clap pieces that are flattened into them, and how they become parts of a `TaskSpec`.
//!
//! Everything here is pure: it reads no file, no variable (clap reads those that it names) and no clock.

pub(crate) mod address;
pub(crate) mod connection;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod method;
pub(crate) mod parameters;
pub(crate) mod registry;
pub(crate) mod selector;
pub(crate) mod storage;
pub(crate) mod values;

pub(crate) use connection::ConnectionArgs;
pub(crate) use keys::KeyArgs;
pub(crate) use method::PluginArgs;
pub(crate) use selector::{BackupArgs, ScopeArgs};
pub(crate) use storage::{S3Args, StorageArgs};
