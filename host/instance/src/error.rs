//! What ends the program, each with its exit code and what to do.

use std::io;
use std::path::PathBuf;

/// Why the instance cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("failed to find a Redis server: the image holds neither redis-server nor valkey-server in PATH")]
    NotRedis,
    #[error("failed to use {program}: it does not answer `--version` as Redis does but with `{answer}`")]
    NotRedisEither { program: PathBuf, answer: String },
    #[error("failed to use {program}: {server} {version} is older than 6.2")]
    TooOld { program: PathBuf, server: String, version: String },
    #[error(
        "failed to load {manifest}: {server} {version} does not know it and would start empty, for there is nothing else"
    )]
    NewerFiles { manifest: PathBuf, server: String, version: String },
    #[error("failed to take the password from {folder}: {why}")]
    Password { folder: PathBuf, why: String },
    #[error("failed to use the certificates in {folder}: {name} is missing")]
    Tls { folder: PathBuf, name: &'static str },
    #[error("failed to read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to start {program}")]
    Start { program: PathBuf, source: io::Error },
    #[error("Redis ended {times} times within a minute, last with {status}: {lines}")]
    KeepsEnding { times: usize, status: String, lines: String },
    #[error("failed to use the identity in {folder}: {why}")]
    Identity { folder: PathBuf, why: String },
    #[error("failed to listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("failed to {act}")]
    System { act: &'static str, source: io::Error },
}

impl InstanceError {
    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotRedis | Self::NotRedisEither { .. } => 3,
            Self::TooOld { .. } => 4,
            Self::Password { .. } | Self::Tls { .. } | Self::Identity { .. } => 5,
            Self::KeepsEnding { .. } => 6,
            Self::NewerFiles { .. } => 7,
            _ => 1,
        }
    }

    /// What to do.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::NotRedis | Self::NotRedisEither { .. } => "set spec.imageName to an image of Redis or Valkey",
            Self::TooOld { .. } => "set spec.imageName to Redis 6.2 or newer, or to Valkey",
            Self::NewerFiles { .. } => {
                "set spec.imageName to Redis 7.0 or newer, or to Valkey, as the data was written by"
            }
            Self::Password { .. } => "put the password under the key `password` of the Secret that spec.auth names",
            Self::Tls { .. } => "the Secret that spec.tls names needs the keys tls.crt, tls.key and ca.crt",
            Self::Read { .. } | Self::Write { .. } => "look at the pod's volumes and its user",
            Self::Start { .. } => "look at the image: its server must be executable by the pod's user",
            Self::KeepsEnding { .. } => {
                "the lines above are Redis' own; a setting of spec.redisConfig or a damaged file is the usual cause"
            }
            Self::Identity { .. } => {
                "delete the Secret that the operator made for the cluster's instances: it makes another"
            }
            Self::Listen { .. } => "another process of the pod has the port",
            Self::System { .. } => "look at the node",
        }
    }

    /// The error and what caused it.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
