//! How a task has a throw-away server started that it does not have itself (ADR 21): a program in a container beside it, which
//! has one, listens on a Unix socket in a folder that both see. One line of JSON asks, one answers; whoever asks and goes away
//! ends the server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attribute::Attribute;
use crate::classify::Class;

/// The socket's name in the shared folder.
pub const SOCKET: &str = "boot.sock";

/// What [`crate::provider::BootCheck::boot`] is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootRequest {
    /// The data directory, below the shared folder.
    pub directory: PathBuf,
    /// `appendonly` of the server.
    pub appendonly: bool,
    /// Who wrote the data: `redis` or `valkey`.
    pub server_name: String,
    /// Its version.
    pub server_version: String,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum BootAnswer {
    /// The server loaded the directory.
    Loaded {
        /// What it has.
        found: Vec<Attribute>,
    },
    /// It did not, or there is none.
    Failed {
        /// The kind of failure.
        class: Class,
        /// A stable word.
        reason: String,
        /// What failed, and why.
        message: String,
        /// What can be done.
        help: Option<String>,
    },
}
