//! `BackupStorage`: a bucket or folder, what it can do, what it holds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{LocalReference, TaskSettings};
use crate::destination::Destination;
use crate::run::StoredBackup;

fn an_hour() -> String {
    "1h".to_owned()
}

fn concurrent_tasks() -> i32 {
    10
}

/// Longer than a run may last (`activeDeadlineSeconds` is at most seven days).
fn grace_period() -> String {
    "8d".to_owned()
}

/// A bucket or folder, and how it is looked after.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "BackupStorage",
    plural = "backupstorages",
    shortname = "bst",
    category = "redkeep",
    namespaced,
    status = "BackupStorageStatus",
    derive = "PartialEq",
    doc = "A bucket or folder that keeps backups.",
    label("app.kubernetes.io/part-of", "redkeep"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Backups", type_ = "integer", json_path = ".status.backups"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Newest", type_ = "date", json_path = ".status.newest.time"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = "1", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    validation = cel::name_length(52, "the task's name is made from it"),
)]
#[serde(rename_all = "camelCase")]
pub struct BackupStorageSpec {
    /// The bucket or folder.
    pub destination: Destination,
    /// The Secret with its credentials; without one, workload identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_credentials_secret: Option<LocalReference>,
    /// How often it is probed and counted.
    #[serde(default = "an_hour")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub probe_interval: String,
    /// How many backups, restores and verifications may use it at once; further ones wait, the oldest first, and fail after their
    /// `activeDeadlineSeconds`. Probes, retention, pins and deletions are not counted.
    #[serde(default = "concurrent_tasks")]
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub max_concurrent_tasks: i32,
    /// When what aborted runs left behind is removed; by default never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub garbage: Option<GarbagePolicy>,
    /// The pod that probes, counts and prunes; backups into this storage take its service account too, unless they name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSettings>,
}

/// Removing what aborted runs left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarbagePolicy {
    /// Five fields of cron, in UTC.
    #[x_kube(validation = cel::cron())]
    #[schemars(extend("minLength" = 1, "maxLength" = 100))]
    pub schedule: String,
    /// Younger garbage stays: longer than any run may last, or a running one loses its artifacts. At least eight days.
    #[serde(default = "grace_period")]
    #[x_kube(validation = Rule::new("self.matches('^(0*([89]|[1-9][0-9]+)d|0*([2-9]|[1-9][0-9]+)w|0*(19[2-9]|[2-9][0-9]{2}|[1-9][0-9]{3,})h|0*1w0*[1-9][0-9]*d)')").message("must be at least eight days (such as 8d or 192h): longer than any run may last"))]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub grace_period: String,
}

/// What it can do and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStorageStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its address: `s3://bucket/path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub address: Option<String>,
    /// When it was last probed, whatever came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Time>,
    /// The last value of annotation `redis.io/probe-now` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub probe_now: Option<String>,
    /// The probe's Job while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub task_name: Option<String>,
    /// What the endpoint supports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub capabilities: Vec<Capability>,
    /// How many backups it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<i64>,
    /// Their stored bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The same for people: `1.4 TiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32))]
    pub size: Option<String>,
    /// The oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<StoredBackup>,
    /// The newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<StoredBackup>,
    /// The newest that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_verified: Option<StoredBackup>,
    /// Cluster by cluster, as many as fit a task's report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 100, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "name"]))]
    pub clusters: Vec<ClusterCount>,
    /// How many clusters there are, those not shown included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_count: Option<i32>,
    /// Tasks that use it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_tasks: Option<i32>,
    /// The last removal of garbage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub garbage: Option<GarbageStatus>,
    /// `Accepted`, `Ready`, `Pruned`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One thing that endpoints differ in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// What: `put`, `put if absent`, `multipart` and the like.
    #[schemars(extend("maxLength" = 64))]
    pub name: String,
    /// Whether backups need it.
    #[serde(default)]
    pub required: bool,
    /// Whether it works here.
    pub supported: bool,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub detail: Option<String>,
}

/// The backups of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCount {
    /// Its namespace in storage.
    #[schemars(extend("maxLength" = 200))]
    pub namespace: String,
    /// Its name in storage.
    #[schemars(extend("maxLength" = 200))]
    pub name: String,
    /// How many.
    #[serde(default)]
    pub backups: i64,
    /// Their stored bytes.
    #[serde(default)]
    pub bytes: i64,
    /// When the newest was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
}

/// A removal of garbage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarbageStatus {
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Objects removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<i64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The next removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 4096))]
    pub error: Option<String>,
}
