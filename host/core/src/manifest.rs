//! The manifest: the object whose existence makes a backup exist (DESIGN D4, `docs/format.md`).
//!
//! Written once, last, and never edited. Unknown fields are ignored; a newer major format is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::classify::{Class, Classify};
use crate::encoding::Compression;
use crate::identifier::{ArtifactName, AttemptId, BackupId, ClusterName, Namespace, ShardName};

/// The major version of the format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Elements (`,`, `[` and `{`) of the largest manifest that is read. Each can take many times its bytes in memory; a thousand
/// shards with two artifacts each have about 50,000.
const MAX_ELEMENTS: usize = 1 << 20;

/// A range of hash slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
}

/// The plugin that captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodRecord {
    /// Its name, e.g. `redis-rdb`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the component: provenance, not a condition of restoring.
    pub digest: String,
}

/// Where the data came from; addresses without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRecord {
    /// E.g. `redis://10.0.0.5:6379`.
    pub address: String,
    /// `standalone`, `sentinel`, `cluster` or `directory`.
    pub mode: String,
}

/// One shard and what `capture` said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardRecord {
    /// Its name; `0` where there is only one.
    pub name: ShardName,
    /// The node that was read, without secrets.
    pub node: String,
    /// The slots it served; empty outside cluster mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotRange>,
    /// What `capture` reported: versions, counts, positions.
    pub facts: BTreeMap<String, String>,
}

/// One stored object of an artifact that needed several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredObject {
    /// Relative to the storage's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
}

/// Where an artifact's part table lies, and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartTableRecord {
    /// Relative to the storage's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the table's bytes.
    pub sha256: String,
    /// Parts in it.
    pub count: u64,
}

/// One artifact: what was captured and what is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRecord {
    /// The shard it belongs to.
    pub shard: ShardName,
    /// The name its plugin gave, e.g. `dump.rdb`.
    pub name: ArtifactName,
    /// Attribute `type`: `rdb`, `aof`, `aof-archive`, …
    #[serde(rename = "type")]
    pub artifact_type: String,
    /// The stored object (the first, where there are several).
    pub key: String,
    /// All stored objects in order, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<StoredObject>,
    /// Plain bytes.
    pub size: u64,
    /// SHA-256 of the plain bytes.
    pub sha256: String,
    /// Stored bytes.
    pub stored_size: u64,
    /// SHA-256 of the stored bytes.
    pub stored_sha256: String,
    /// How it is compressed.
    pub compression: Compression,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The part table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartTableRecord>,
    /// What the plugin said of it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl ArtifactRecord {
    /// Every stored object in order, whether there is one or several.
    pub fn stored_objects(&self) -> Vec<StoredObject> {
        if self.objects.is_empty() {
            vec![StoredObject { key: self.key.clone(), size: self.stored_size, sha256: self.stored_sha256.clone() }]
        } else {
            self.objects.clone()
        }
    }
}

/// To whom the artifacts are encrypted: public keys, never anything that opens them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionRecord {
    /// `age`.
    pub format: String,
    /// Public keys; empty where a passphrase was used.
    pub recipients: Vec<String>,
    /// Whether a passphrase opens it.
    pub passphrase: bool,
}

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Major version of the format.
    pub format_version: u32,
    /// The backup's id.
    pub backup_id: BackupId,
    /// The name given by the user, or the cluster's.
    pub name: String,
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster.
    pub cluster: ClusterName,
    /// Who made it: a Kubernetes cluster's uid, or `host:NAME`. Retention touches only its own origin unless told.
    pub origin: String,
    /// The folder of the attempt that won.
    pub attempt: AttemptId,
    /// When the backup began.
    pub started_at: Timestamp,
    /// When its last artifact was stored.
    pub completed_at: Timestamp,
    /// `redkeep 0.1.0`.
    pub tool_version: String,
    /// The plugin.
    pub method: MethodRecord,
    /// The parameters it was given.
    #[serde(default)]
    pub parameters: serde_json::Value,
    /// The source.
    pub source: SourceRecord,
    /// The shards, by name.
    pub shards: Vec<ShardRecord>,
    /// The artifacts, by shard, in the order in which they were finished.
    pub artifacts: Vec<ArtifactRecord>,
    /// Facts of the whole backup: those of the shards where they agree, sums where they count.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Encryption, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionRecord>,
    /// Warnings of the run, as the user saw them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Reserved for increments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// Reserved: how shards relate in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<String>,
}

/// A manifest that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or fields missing.
    #[error("failed to read the manifest {key}")]
    Malformed {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a newer redkeep.
    #[error("the manifest {key} has format {found}, this redkeep reads up to {FORMAT_VERSION}")]
    Newer {
        /// Its key.
        key: String,
        /// Its format.
        found: u64,
    },
}

impl Classify for ManifestError {
    fn class(&self) -> Class {
        match self {
            Self::Malformed { .. } => Class::Damaged,
            Self::Newer { .. } => Class::Refused,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "ManifestDamaged",
            Self::Newer { .. } => "ManifestNewer",
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Malformed { .. } => {
                Some("the manifest is damaged: restore from another backup, or from a copy of this one".to_owned())
            }
            Self::Newer { .. } => Some("use the redkeep that made this backup, or a newer one".to_owned()),
        }
    }
}

impl Manifest {
    /// Reads a manifest found at `key`.
    pub fn parse(key: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            format_version: u64,
        }
        let malformed = |source| ManifestError::Malformed { key: key.to_owned(), source };
        if bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_ELEMENTS {
            return Err(malformed(serde::de::Error::custom("it has more elements than any manifest")));
        }
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.format_version > u64::from(FORMAT_VERSION) {
            return Err(ManifestError::Newer { key: key.to_owned(), found: head.format_version });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// Its bytes as stored: JSON, two spaces of indent, a final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings, numbers and maps with string keys always serializes.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Plain and stored bytes of all artifacts; the largest number where a hostile manifest says more.
    pub fn sizes(&self) -> (u64, u64) {
        self.artifacts.iter().fold((0_u64, 0_u64), |(plain, stored), artifact| {
            (plain.saturating_add(artifact.size), stored.saturating_add(artifact.stored_size))
        })
    }
}
