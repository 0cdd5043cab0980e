//! How artifacts are encoded on their way to storage: compression and encryption, as users write them and manifests keep them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::secret::SecretRef;

/// Compression of the stored bytes, written `none`, `gzip[:LEVEL]` or `zstd[:LEVEL]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As captured.
    None,
    /// gzip, level 1 to 9.
    Gzip(u8),
    /// zstd, level 1 to 19, in independent frames.
    Zstd(u8),
}

impl Compression {
    /// What the command line uses unless told.
    pub const DEFAULT: Self = Self::Zstd(1);

    /// What it appends to an artifact's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip(_) => ".gz",
            Self::Zstd(_) => ".zst",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Gzip(level) => write!(formatter, "gzip:{level}"),
            Self::Zstd(level) => write!(formatter, "zstd:{level}"),
        }
    }
}

/// A compression that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a compression; use none, gzip, gzip:1 to gzip:9, zstd or zstd:1 to zstd:19")]
pub struct InvalidCompression {
    /// What was given.
    pub given: String,
}

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCompression { given: text.to_owned() };
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level.parse::<u8>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        match (name, level) {
            ("none", None) => Ok(Self::None),
            ("gzip", level) => match level.unwrap_or(6) {
                level @ 1..=9 => Ok(Self::Gzip(level)),
                _ => Err(invalid()),
            },
            ("zstd", level) => match level.unwrap_or(1) {
                level @ 1..=19 => Ok(Self::Zstd(level)),
                _ => Err(invalid()),
            },
            _ => Err(invalid()),
        }
    }
}

impl Serialize for Compression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// To whom a backup is encrypted (age). Recipients and a passphrase exclude each other (age's own rule).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Encryption {
    /// X25519 (`age1…`) or ssh (`ssh-ed25519 …`, `ssh-rsa …`) public keys.
    pub recipients: Vec<String>,
    /// Where the passphrase is found.
    pub passphrase: Option<SecretRef>,
}

impl Encryption {
    /// Whether anything is encrypted at all.
    pub fn is_none(&self) -> bool {
        self.recipients.is_empty() && self.passphrase.is_none()
    }
}

/// With what an encrypted backup is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DecryptionKeys {
    /// Files of age identities or ssh private keys.
    pub identities: Vec<std::path::PathBuf>,
    /// Where the passphrase is found.
    pub passphrase: Option<SecretRef>,
}
