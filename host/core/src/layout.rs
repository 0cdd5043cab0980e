//! Where each object of a backup lies (DESIGN 5, `docs/format.md`): builds its key. [`crate::catalog::place`] takes keys apart.

use crate::catalog::VerificationSummary;
use crate::identifier::{ArtifactName, AttemptId, BackupId, ClusterName, Namespace, ShardName};

/// Name of the object that makes a backup exist.
pub const MANIFEST: &str = "manifest.json";
/// Name of the pin.
pub const PIN: &str = "pin.json";
/// With what the names of verification results begin.
pub const VERIFICATION_PREFIX: &str = "verify-";

/// The folder of one cluster: `<namespace>/<cluster>/`.
pub fn cluster_folder(namespace: &Namespace, cluster: &ClusterName) -> String {
    format!("{namespace}/{cluster}/")
}

/// The folder of a cluster's index: `<namespace>/<cluster>/index/`. It can be rebuilt from the manifests.
pub fn index_folder(namespace: &Namespace, cluster: &ClusterName) -> String {
    format!("{namespace}/{cluster}/index/")
}

/// Where a third-party plugin is kept beside its backups.
pub fn plugin_key(sha256: &str) -> String {
    format!("plugins/{sha256}.wasm")
}

/// The keys of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFolder {
    folder: String,
}

impl BackupFolder {
    /// `<namespace>/<cluster>/<backup-id>/`.
    pub fn new(namespace: &Namespace, cluster: &ClusterName, backup: &BackupId) -> Self {
        Self { folder: format!("{namespace}/{cluster}/{backup}/") }
    }

    /// The folder itself, ending in `/`.
    pub fn prefix(&self) -> &str {
        &self.folder
    }

    /// The commit.
    pub fn manifest(&self) -> String {
        format!("{}{MANIFEST}", self.folder)
    }

    /// The pin.
    pub fn pin(&self) -> String {
        format!("{}{PIN}", self.folder)
    }

    /// The result of a verification.
    pub fn verification(&self, result: &VerificationSummary) -> String {
        format!("{}{}", self.folder, result.object_name())
    }

    /// An artifact; `suffix` is what compression and encryption append, e.g. `.zst.age`.
    pub fn artifact(&self, attempt: &AttemptId, shard: &ShardName, name: &ArtifactName, suffix: &str) -> String {
        format!("{}{attempt}/{shard}/{name}{suffix}", self.folder)
    }

    /// Whether a key under this folder is a pin or a verification result, which come and go.
    pub fn is_annotation(&self, key: &str) -> bool {
        key.strip_prefix(&self.folder).is_some_and(|name| {
            name == PIN || (name.starts_with(VERIFICATION_PREFIX) && name.ends_with(".json") && !name.contains('/'))
        })
    }
}
