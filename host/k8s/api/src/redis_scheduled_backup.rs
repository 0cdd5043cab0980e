//! `RedisScheduledBackup`: a cron line that makes RedisBackups, verifies them and lets go of old ones.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::Retention;
use crate::redis_backup::RedisBackupSpec;
use crate::run::VerificationStatus;

fn utc() -> String {
    "UTC".to_owned()
}

fn successful_limit() -> i32 {
    7
}

fn failed_limit() -> i32 {
    3
}

/// When backups are made, and all that a RedisBackup says.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "RedisScheduledBackup",
    plural = "redisscheduledbackups",
    shortname = "rsb",
    category = "redkeep",
    namespaced,
    status = "RedisScheduledBackupStatus",
    derive = "PartialEq",
    doc = "Backups of a Redis by a schedule.",
    label("app.kubernetes.io/part-of", "redkeep"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Successful", type_ = "date", json_path = ".status.lastSuccessfulTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Next", type_ = "string", priority = "1", json_path = ".status.nextScheduleTime"),
    printcolumn(name = "TimeZone", type_ = "string", priority = "1", json_path = ".spec.timeZone"),
    validation = cel::name_length(39, "the names of its backups are made from it"),
)]
#[serde(rename_all = "camelCase")]
pub struct RedisScheduledBackupSpec {
    /// Minute, hour, day of month, month, day of week (0 and 7 are Sunday), or `@daily` and the like. Day of month and
    /// day of week are joined by OR where both are restricted, as cron does.
    #[x_kube(validation = cel::cron())]
    #[schemars(extend("minLength" = 1, "maxLength" = 100))]
    pub schedule: String,
    /// The zone in which the schedule is read, of the IANA database. At the change to summer time a slot that does not
    /// exist fires once at the first moment after the gap; at the change back a slot that comes twice fires once.
    #[serde(default = "utc")]
    #[x_kube(validation = cel::time_zone_shape(), validation = cel::time_zone_known())]
    #[schemars(extend("minLength" = 1, "maxLength" = 64))]
    pub time_zone: String,
    /// No new backups are begun.
    #[serde(default)]
    pub suspend: bool,
    /// A first backup at once, without waiting for a slot.
    #[serde(default)]
    pub immediate: bool,
    /// Slots are moved by a fixed part of this, different for each schedule and shown in the status, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub jitter: Option<String>,
    /// What happens in a slot while the backup before it still runs.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// A slot that could not be begun within this is left out. Without it the newest slot missed is made good once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 10, "maximum" = 31_536_000))]
    pub starting_deadline_seconds: Option<i64>,
    /// How many completed RedisBackups are kept as objects. Their artifacts stay: `retention` decides about those.
    #[serde(default = "successful_limit")]
    #[schemars(extend("minimum" = 0, "maximum" = 1000))]
    pub successful_backups_history_limit: i32,
    /// How many failed RedisBackups are kept as objects.
    #[serde(default = "failed_limit")]
    #[schemars(extend("minimum" = 0, "maximum" = 1000))]
    pub failed_backups_history_limit: i32,
    /// Which backups stay in storage; without it all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// What each backup is.
    #[serde(flatten)]
    pub backup: RedisBackupSpec,
}

impl RedisScheduledBackupSpec {
    /// The spec of a child. A verification with a schedule of its own is the schedule's to do, not each backup's.
    pub fn child(&self) -> RedisBackupSpec {
        let mut child = self.backup.clone();
        child.verification = child.verification.filter(|verification| verification.schedule.is_none());
        child
    }
}

/// What happens in a slot while the backup before it still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// The slot begins when that one has ended; it is left out when the next slot, or `startingDeadlineSeconds`, comes first.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The one that runs is cancelled.
    Replace,
}

/// What the schedule did and will do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisScheduledBackupStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The name under which storage keeps the backups of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 200))]
    pub cluster: Option<String>,
    /// The schedule that is followed, and since when. Slots from before an edit or from a suspension are not made good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
    /// Its RedisBackups that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 100, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub active: Vec<ActiveBackup>,
    /// The last slot for which a backup was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// The next slot, jitter included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
    /// When its last completed backup ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
    /// The name of its last completed backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub last_successful_backup: Option<String>,
    /// The name of its last failed backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub last_failed_backup: Option<String>,
    /// Failed backups since the last completed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_in_row: Option<i32>,
    /// By how much each slot is moved, such as `3m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32))]
    pub jitter: Option<String>,
    /// The last value of annotation `redis.io/run-now` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub run_now: Option<String>,
    /// The last retention run: its plan and its reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionStatus>,
    /// The last verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
    /// The next verification, with `verification.schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_verification_time: Option<Time>,
    /// `Accepted`, `Ready`, `Verified`, `Pruned`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A schedule that is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// As in the spec.
    #[schemars(extend("maxLength" = 100))]
    pub schedule: String,
    /// As in the spec.
    #[schemars(extend("maxLength" = 64))]
    pub time_zone: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A RedisBackup that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveBackup {
    /// Its name.
    #[schemars(extend("maxLength" = 253))]
    pub name: String,
    /// Its uid: a namesake is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub uid: Option<String>,
    /// Its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Time>,
}

/// A retention run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended; missing while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Its Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub task_name: Option<String>,
    /// Backups that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<i32>,
    /// Backups that went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<i32>,
    /// Bytes that went, garbage included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_bytes: Option<i64>,
    /// Backup by backup, newest first, as many as fit a task's report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 200))]
    pub plan: Vec<RetentionDecision>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 4096))]
    pub error: Option<String>,
}

/// One backup and why it stays or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionDecision {
    /// Which.
    #[schemars(extend("maxLength" = 200))]
    pub backup_id: String,
    /// Whether it stays.
    pub keep: bool,
    /// Why: `daily 2026-11-21 (3 of 7)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "items" = {"type": "string", "maxLength": 128}))]
    pub reasons: Vec<String>,
}
