//! What became of a `RedisCluster`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalReference;
use crate::run::Progress;

/// Where a cluster stands. For `kubectl get`; derived from the conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClusterPhase {
    /// Not begun.
    #[default]
    Pending,
    /// The first claim is filled from a backup.
    Restoring,
    /// Its instances are made.
    Creating,
    /// Every instance serves.
    Healthy,
    /// The primary serves, some instance does not.
    Degraded,
    /// The primary is being replaced.
    FailingOver,
    /// Nothing goes on without a person.
    Failed,
}

impl ClusterPhase {
    /// Whether a backup can be taken: there is something to read.
    pub fn serves(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

/// What became of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisClusterStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ClusterPhase>,
    /// The pod that takes writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub primary: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_since: Option<Time>,
    /// The pod that is to take writes next, while the primary changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub next_primary: Option<String>,
    /// The number of the last grant; a greater one wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The start of Redis that the last grant is for; none while the primary is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 128))]
    pub primary_process: Option<String>,
    /// The uid of the pod that the last grant was for: another pod of that name is no proof that this one stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub granted_pod_uid: Option<String>,
    /// The primary is being replaced; since the last decision about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_since: Option<Time>,
    /// The replication id of the last primary: offsets compare only within one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub replication_id: Option<String>,
    /// Pods there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<i32>,
    /// Pods that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_instances: Option<i32>,
    /// Selects them, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub selector: Option<String>,
    /// Pod by pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,
    /// The Secret with the password (key `password`) and the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret: Option<LocalReference>,
    /// The Secret with the certificate and the token by which operator and instances know one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_secret: Option<LocalReference>,
    /// SHA-256 of that certificate (DER, hexadecimal): an instance that shows another is not spoken to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub certificate_digest: Option<String>,
    /// The server's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub server_version: Option<String>,
    /// The restore that it was born from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapStatus>,
    /// The last value of annotation `redis.io/switch-over` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub switch_over: Option<String>,
    /// `Accepted`, `Ready`, `Progressing`, `Restored`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The pod.
    #[schemars(extend("maxLength" = 253))]
    pub name: String,
    /// `primary`, `replica`, or `none` before its first grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16))]
    pub role: Option<String>,
    /// Whether it serves.
    #[serde(default)]
    pub ready: bool,
    /// Its replication id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub replication_id: Option<String>,
    /// Seconds behind the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub message: Option<String>,
}

/// The restore that a cluster was born from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapStatus {
    /// The backup chosen; fixed before the task was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 200))]
    pub backup_id: Option<String>,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 2048))]
    pub backup_path: Option<String>,
    /// The task's Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub task_name: Option<String>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// The start of Redis that it fills, for clusters without claims: another one is empty again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 128))]
    pub process: Option<String>,
    /// When it ended, whichever way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Keys that the backup holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_expected: Option<i64>,
    /// Keys that the server loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_loaded: Option<i64>,
    /// Keys that had expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_expired: Option<i64>,
    /// How many attempts failed so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// Of those keys, how many had a time to live: no more can be missing from a server that does not count the expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_expected: Option<i64>,
    /// Whether the counts can be compared: commands behind a snapshot add and delete keys that nobody counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparable: Option<bool>,
    /// Whether a live restore has ended, for clusters without claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<bool>,
    /// Only the first instance has had what was restored, for clusters without claims: clients are not led to it yet, and if it restarts,
    /// that is restored again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_copy: Option<bool>,
    /// The word for why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub reason: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 4096))]
    pub error: Option<String>,
}
