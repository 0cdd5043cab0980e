//! Secrets: referred to by place in everything that is stored or printed, held in a type that never shows its value.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A secret value. `Debug` prints `***`, and it can be neither displayed nor serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: for the wire, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}

/// Where a secret is found. A task names places, never values (DESIGN D1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file; one trailing newline is not part of the secret.
    File(PathBuf),
    /// A folder with a file for each key, as a mounted Secret has: the first of [`PASSWORD_KEYS`] that is there and not empty.
    Folder(PathBuf),
}

/// The keys under which a Redis password is looked for in a Secret, in this order.
pub const PASSWORD_KEYS: [&str; 8] = [
    "password",
    "redis-password",
    "redisPassword",
    "redis_password",
    "REDIS_PASSWORD",
    "REDISCLI_AUTH",
    "valkey-password",
    "VALKEY_PASSWORD",
];
