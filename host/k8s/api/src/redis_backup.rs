//! `RedisBackup`: one run. Its spec does not change, but for `deletionPolicy` and `pin`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{DeletionPolicy, EncryptionSettings, LocalReference, Target, TaskSettings, Verification};
use crate::destination::Destination;
use crate::endpoint::RedisEndpoint;
use crate::run::{Phase, Progress, ShardStatus, VerificationStatus};

pub(crate) fn rdb() -> String {
    "rdb".to_owned()
}

pub(crate) fn no_compression() -> String {
    "none".to_owned()
}

/// Six hours. A longer run says so; garbage in storage is younger than a run may last.
pub(crate) fn active_deadline() -> i64 {
    6 * 60 * 60
}

/// What a node needs to pull an image and mount volumes, and no more.
pub(crate) fn start_deadline() -> i64 {
    300
}

fn backoff_limit() -> i32 {
    2
}

/// What is backed up, how, and to where.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "RedisBackup",
    plural = "redisbackups",
    shortname = "rb",
    category = "redkeep",
    namespaced,
    status = "RedisBackupStatus",
    derive = "PartialEq",
    doc = "One backup of a Redis: made once, kept in storage.",
    label("app.kubernetes.io/part-of", "redkeep"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Method", type_ = "string", json_path = ".spec.method"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Verified", type_ = "string", priority = "1", json_path = ".status.conditions[?(@.type==\"Verified\")].status"),
    printcolumn(name = "Error", type_ = "string", priority = "1", json_path = ".status.error"),
    selectable = ".spec.clusterName",
    validation = cel::name_length(52, "the task's name is made from it"),
    validation = Rule::new("!has(self.spec.verification) || !has(self.spec.verification.schedule)").message("spec.verification.schedule goes with a RedisScheduledBackup"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = cel::exactly_one(&["clusterName", "source"]),
    validation = cel::exactly_one(&["destination", "storageRef"]),
    validation = Rule::new("!has(self.storageRef) || !has(self.backupCredentialsSecret)").message("backupCredentialsSecret goes with destination; a BackupStorage has its own"),
)]
pub struct RedisBackupSpec {
    /// The RedisCluster of the namespace that is backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub cluster_name: Option<String>,
    /// A Redis that is no RedisCluster, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RedisEndpoint>,
    /// Which node of each shard is read.
    #[serde(default)]
    pub target: Target,
    /// `rdb`, `aof`, or the name of a BackupMethod.
    #[serde(default = "rdb")]
    #[schemars(extend("minLength" = 1, "maxLength" = 52, "pattern" = cel::LABEL_PATTERN))]
    pub method: String,
    /// Parameters of the method, written as on the command line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
    /// Where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// A BackupStorage of the namespace, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_ref: Option<LocalReference>,
    /// The Secret with the credentials of `destination`; by default the RedisCluster's. Without any, workload identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_credentials_secret: Option<LocalReference>,
    /// `none`, `gzip[:1-9]` or `zstd[:1-19]`.
    #[serde(default = "no_compression")]
    #[schemars(extend("minLength" = 1, "maxLength" = 16, "pattern" = cel::COMPRESSION_PATTERN))]
    pub compression: String,
    /// To whom it is encrypted; by default not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSettings>,
    /// Bytes a second towards storage, such as `50M`; goes with `task.spool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = cel::SIZE_PATTERN))]
    pub limit_rate: Option<String>,
    /// How long slow storage may hold the server before the run fails, such as `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub hold_limit: Option<String>,
    /// The run fails when it lasts longer.
    #[serde(default = "active_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 604_800))]
    pub active_deadline_seconds: i64,
    /// The run fails when its pod does not start within this.
    #[serde(default = "start_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 86_400))]
    pub start_deadline_seconds: i64,
    /// How often a failed attempt is tried again, within the deadline.
    #[serde(default = "backoff_limit")]
    #[schemars(extend("minimum" = 0, "maximum" = 10))]
    pub backoff_limit: i32,
    /// Read the stored backup again after its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What happens to the artifacts when this object is deleted. May change.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Retention never deletes it. May change.
    #[serde(default)]
    pub pin: bool,
    /// The pod that does the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSettings>,
}

/// The pod whose files are read, as a task chose it before the backup's own was made; its name is `targetPod`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesPlan {
    /// The pod's uid: one of the same name that came after it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub pod_uid: Option<String>,
    /// The address of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 300))]
    pub node: Option<String>,
    /// How often the choice was made again, because the pod was replaced before its files were read.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 100))]
    pub repeats: i32,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisBackupStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The name under which storage keeps the backups of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 200))]
    pub cluster: Option<String>,
    /// The Redis pod, or the address, that is read; of several shards the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 300))]
    pub target_pod: Option<String>,
    /// Which pod's files are read; with `source.statefulSet.files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<FilesPlan>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended, whichever way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Stored bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_size: Option<i64>,
    /// The same for people: `1.4 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32))]
    pub size: Option<String>,
    /// Where it lies: `s3://bucket/…`; of one artifact its own address, else the manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 2048))]
    pub backup_path: Option<String>,
    /// `rdb`, `aof`, `aof-archive`, or what the method says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub artifact_type: Option<String>,
    /// SHA-256 of the stored object, of one artifact; else of the manifest.
    #[serde(rename = "checksumSHA256", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub checksum_sha256: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 4096))]
    pub error: Option<String>,
    /// Its id in storage, fixed before the task was made: every retry writes the same backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 200))]
    pub backup_id: Option<String>,
    /// The task's Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub task_name: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Its shards, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 1000, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["shard"]))]
    pub shards: Vec<ShardStatus>,
    /// Keys in it; absent where nobody has counted what the commands of an append-only file make of its snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// The plugin that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 71))]
    pub method_digest: Option<String>,
    /// The server's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub server_version: Option<String>,
    /// What a person should know although it went well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 20, "items" = {"type": "string", "maxLength": 1024}))]
    pub warnings: Vec<String>,
    /// The last verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
    /// `Accepted`, `Complete`, `Failed`, `Verified`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
