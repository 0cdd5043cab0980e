//! Pieces that several kinds share: references, keys, the task's pod, policies.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;

/// Another object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Its name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub name: String,
    /// The key in it.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::KEY_PATTERN))]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".to_owned()
}

/// Certificate authorities (PEM) in a Secret or a ConfigMap of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["secret", "configMap"]))]
pub struct CertificateAuthority {
    /// A Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalReference>,
    /// A ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalReference>,
    /// The key in it.
    #[serde(default = "ca_key")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::KEY_PATTERN))]
    pub key: String,
}

/// To whom a backup is encrypted (age). Public recipients need no secret in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["recipients", "passphraseSecret"]))]
pub struct EncryptionSettings {
    /// X25519 (`age1…`) or ssh (`ssh-ed25519 …`, `ssh-rsa …`) public keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("minItems" = 1, "maxItems" = 16, "items" = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": "^(age1[0-9a-z]+|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?)$"}))]
    pub recipients: Vec<String>,
    /// A passphrase instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_secret: Option<SecretKey>,
}

/// With what an encrypted backup is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["identitySecret", "passphraseSecret"]))]
pub struct DecryptionSettings {
    /// A Secret of which every key is a file of age identities or an ssh private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_secret: Option<LocalReference>,
    /// A passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_secret: Option<SecretKey>,
}

/// What happens to the artifacts when the object is deleted by its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay in storage.
    #[default]
    Retain,
    /// They are deleted first.
    Delete,
}

/// Which node of a shard is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The primary.
    Primary,
    /// A replica in good order, else the primary with a warning.
    #[default]
    PreferReplica,
}

impl From<Target> for redkeep_core::task::NodePreference {
    fn from(target: Target) -> Self {
        match target {
            Target::Primary => Self::Primary,
            Target::PreferReplica => Self::PreferReplica,
        }
    }
}

/// How much a verification proves; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerificationLevel {
    /// Every stored byte has the digest that the manifest says.
    Checksum,
    /// The plugin read every artifact whole, and it holds what the manifest says.
    #[default]
    Parse,
    /// A throw-away server loaded it, and has the keys that the manifest says.
    Boot,
}

impl From<VerificationLevel> for redkeep_core::task::VerifyLevel {
    fn from(level: VerificationLevel) -> Self {
        match level {
            VerificationLevel::Checksum => Self::Checksum,
            VerificationLevel::Parse => Self::Parse,
            VerificationLevel::Boot => Self::Boot,
        }
    }
}

/// Reading stored backups again, to know that they can be restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// How much is proved.
    #[serde(default)]
    pub level: VerificationLevel,
    /// When the newest backup is verified (only of a RedisScheduledBackup). Without it every backup is verified after its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = cel::cron())]
    #[schemars(extend("minLength" = 1, "maxLength" = 100))]
    pub schedule: Option<String>,
    /// With what an encrypted backup is opened; without it only level `checksum` works for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<DecryptionSettings>,
    /// The image of the throw-away server of level `boot`, pinned by digest. It must be on the operator's list. By default that of
    /// the RedisCluster which `clusterName` names, else the first one of the operator's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 512, "pattern" = "^[^@\\s]+@sha256:[0-9a-f]{64}$"))]
    pub image: Option<String>,
    /// Requests and limits of that server. It holds all data of the backup in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Which backups of this source stay in storage; one that any rule keeps stays. Pinned ones and the floor (the newest
/// verified, else the newest) always stay. Days, weeks, months and years are those of UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.keepLast) || has(self.keepHourly) || has(self.keepDaily) || has(self.keepWeekly) || has(self.keepMonthly) || has(self.keepYearly) || has(self.keepWithin)").message("at least one rule must be set"))]
pub struct Retention {
    /// The newest N.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_last: Option<i32>,
    /// The newest of each of the last N hours that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_hourly: Option<i32>,
    /// Of days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_daily: Option<i32>,
    /// Of ISO weeks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_weekly: Option<i32>,
    /// Of months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_monthly: Option<i32>,
    /// Of years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub keep_yearly: Option<i32>,
    /// Everything younger than this, such as `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub keep_within: Option<String>,
}

/// The pod that does the work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskSettings {
    /// For workload identity. It must be on the operator's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub service_account_name: Option<String>,
    /// Requests and limits; by default the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes to run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Nodes and pods to be near to or far from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that do not keep it away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32))]
    pub tolerations: Vec<Toleration>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the operator's image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8))]
    pub image_pull_secrets: Vec<LocalReference>,
    /// Labels of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('redis.io/') && !key.startsWith('app.kubernetes.io/'))").message("labels below redis.io/ and app.kubernetes.io/ are the operator's"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Take the capture to a volume of the pod at full speed first, for storage slower than the server may be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<Spool>,
}

/// The volume for a spooled capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spool {
    /// How large it may become, such as `50Gi`; compressed and encrypted data lie there.
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = "^[0-9]+([kMGT]|[KMGT]i)?$"))]
    pub size_limit: String,
}
