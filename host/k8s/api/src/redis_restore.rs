//! `RedisRestore`: one restore into a Redis that runs.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{DecryptionSettings, LocalReference, TaskSettings};
use crate::endpoint::RedisEndpoint;
use crate::redis_backup::{active_deadline, start_deadline};
use crate::run::{Phase, Progress, ShardStatus};

/// Which backup: a RedisBackup of the namespace, or one that lies in a BackupStorage, whoever made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = cel::exactly_one(&["backupName", "storageRef"]),
    validation = Rule::new("!has(self.storageRef) || (has(self.backupId) ? 1 : 0) + (has(self.latest) && self.latest ? 1 : 0) + (has(self.before) ? 1 : 0) == 1").message("with storageRef exactly one of backupId, latest: true, before must be set"),
    validation = Rule::new("has(self.storageRef) || !(has(self.backupId) || has(self.latest) || has(self.before) || has(self.fromNamespace) || has(self.fromCluster))").message("backupId, latest, before, fromNamespace and fromCluster go with storageRef"),
)]
pub struct BackupSelection {
    /// A Completed RedisBackup of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub backup_name: Option<String>,
    /// A BackupStorage of the namespace: no RedisBackup is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_ref: Option<LocalReference>,
    /// An id, a unique prefix of one, or a name, in that storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 200, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub backup_id: Option<String>,
    /// The newest in that storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// The newest that was begun before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Time>,
    /// The namespace under which that storage keeps it; by default this object's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub from_namespace: Option<String>,
    /// The cluster under which that storage keeps it; needed where it holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 200, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub from_cluster: Option<String>,
    /// Only up to here: a time (RFC 3339) or a replication offset. Needs a backup of method `aof`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 64, "pattern" = "^([0-9]+|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))$"))]
    pub until: Option<String>,
}

/// The Redis that is filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = cel::exactly_one(&["clusterName", "source"]),
    validation = Rule::new("!has(self.source) || !has(self.source.statefulSet) || !has(self.source.statefulSet.files)").message("a restore writes to the running server, so statefulSet.files has no meaning"),
)]
pub struct RestoreTarget {
    /// A RedisCluster of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub cluster_name: Option<String>,
    /// A Redis that is no RedisCluster, written as a RedisBackup's `source` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RedisEndpoint>,
}

/// What a live restore does with a key that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Stop.
    #[default]
    Fail,
    /// Keep the target's.
    Skip,
    /// Take the backup's.
    Replace,
}

/// What becomes of expiry times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeToLive {
    /// They stay: what expired meanwhile is not restored.
    #[default]
    Keep,
    /// They are moved by the age of the backup.
    Shift,
    /// They are dropped.
    Persist,
}

/// What is restored, and to where.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "RedisRestore",
    plural = "redisrestores",
    shortname = "rr",
    category = "redkeep",
    namespaced,
    status = "RedisRestoreStatus",
    derive = "PartialEq",
    doc = "One restore of a backup into a Redis that runs.",
    label("app.kubernetes.io/part-of", "redkeep"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backupId"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keysRestored"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Error", type_ = "string", priority = "1", json_path = ".status.error"),
    validation = cel::name_length(52, "the task's name is made from it"),
)]
#[serde(rename_all = "camelCase")]
pub struct RedisRestoreSpec {
    /// Which backup.
    #[serde(flatten)]
    pub from: BackupSelection,
    /// The Redis that is filled.
    pub target: RestoreTarget,
    /// Only keys that match one of these patterns.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("minItems" = 1, "maxItems" = 32, "items" = {"type": "string", "minLength": 1, "maxLength": 512}))]
    pub patterns: Vec<String>,
    /// Only these databases: `N`, or `N:M` for database N into M.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("minItems" = 1, "maxItems" = 64, "items" = {"type": "string", "minLength": 1, "maxLength": 16, "pattern": "^[0-9]+(:[0-9]+)?$"}))]
    pub databases: Vec<String>,
    /// What happens to a key that exists.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// What becomes of expiry times.
    #[serde(default)]
    pub ttl: TimeToLive,
    /// The target may hold keys already.
    #[serde(default)]
    pub allow_non_empty: bool,
    /// Do not check every stored digest before the first key is written. Saves a download.
    #[serde(default)]
    pub skip_preverify: bool,
    /// The BackupMethod that reads it; by default whichever reads its artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 52, "pattern" = cel::LABEL_PATTERN))]
    pub method: Option<String>,
    /// Demand exactly this plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 71, "pattern" = cel::DIGEST_PATTERN))]
    pub method_digest: Option<String>,
    /// With what an encrypted backup is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<DecryptionSettings>,
    /// The Secret with the credentials of the RedisBackup's destination; by default the one that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_credentials_secret: Option<LocalReference>,
    /// Further parameters of the method, written as on the command line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
    /// The run fails when it lasts longer.
    #[serde(default = "active_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 604_800))]
    pub active_deadline_seconds: i64,
    /// The run fails when its pod does not start within this. A restore is never tried again by itself.
    #[serde(default = "start_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 86_400))]
    pub start_deadline_seconds: i64,
    /// The pod that does the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSettings>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisRestoreStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The backup chosen; fixed before the task was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 200))]
    pub backup_id: Option<String>,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 2048))]
    pub backup_path: Option<String>,
    /// The Redis that is filled, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 300))]
    pub target: Option<String>,
    /// The pod, or the address, that was written; of several shards the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 300))]
    pub target_pod: Option<String>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended, whichever way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Keys that the backup holds, of those asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_expected: Option<i64>,
    /// Keys written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_restored: Option<i64>,
    /// Keys that had expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_expired: Option<i64>,
    /// Keys left out because the target had them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_skipped: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 4096))]
    pub error: Option<String>,
    /// The task's Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub task_name: Option<String>,
    /// The Lease that keeps other restores from the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub lease_name: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Its shards, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 1000, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["shard"]))]
    pub shards: Vec<ShardStatus>,
    /// What a person should know although it went well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 20, "items" = {"type": "string", "maxLength": 1024}))]
    pub warnings: Vec<String>,
    /// `Accepted`, `Complete`, `Failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
