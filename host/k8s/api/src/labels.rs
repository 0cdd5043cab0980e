//! Labels, annotations, finalizers and the field manager: every name that this project writes on objects.

/// The field manager of everything applied.
pub const FIELD_MANAGER: &str = "redkeep";

/// On every object of ours, with [`PART_OF_VALUE`]; a CRD without it is another operator's.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// The value of [`PART_OF`].
pub const PART_OF_VALUE: &str = "redkeep";
/// On Jobs, pods and what a RedisCluster is made of, with [`MANAGED_BY_VALUE`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "redkeep";
/// What an object is within the whole: `task`, `redis`, `operator`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// [`COMPONENT`] of task pods; NetworkPolicies select by it.
pub const COMPONENT_TASK: &str = "task";
/// [`COMPONENT`] of Redis pods.
pub const COMPONENT_REDIS: &str = "redis";

/// The RedisCluster that an object belongs to.
pub const CLUSTER: &str = "redis.io/cluster";
/// On RedisBackups and pods: the schedule that made them.
pub const SCHEDULE: &str = "redis.io/schedule";
/// On task Jobs and pods: the RedisBackup.
pub const BACKUP: &str = "redis.io/backup";
/// On task Jobs and pods: the RedisRestore.
pub const RESTORE: &str = "redis.io/restore";
/// On pods of a restore: the Lease of their target.
pub const RESTORE_TARGET: &str = "redis.io/restore-target";
/// On task Jobs and pods: the BackupStorage.
pub const STORAGE: &str = "redis.io/storage";
/// On task Jobs and pods: the BackupMethod.
pub const METHOD: &str = "redis.io/method";
/// On task Jobs and pods: `backup`, `restore`, `verify`, `prune`, `delete`, `probe`, `inspect`, `load`.
pub const PURPOSE: &str = "redis.io/purpose";
/// On RedisBackups and RedisRestores that ended: [`OUTCOME_COMPLETED`] or [`OUTCOME_FAILED`], so that metadata is enough
/// to count and to prune them.
pub const OUTCOME: &str = "redis.io/outcome";
/// [`OUTCOME`] of a run that completed.
pub const OUTCOME_COMPLETED: &str = "completed";
/// [`OUTCOME`] of a run that failed.
pub const OUTCOME_FAILED: &str = "failed";
/// On RedisBackups that were to be verified: `true`, `false`, or `unknown` where nobody could tell.
pub const VERIFIED: &str = "redis.io/verified";
/// On pods of a managed Redis: `primary` or `replica`.
pub const ROLE: &str = "redis.io/role";

/// On a RedisBackup made by a schedule: the slot in UTC, RFC 3339.
pub const SLOT: &str = "redis.io/slot";
/// On a RedisBackup: when it was completed, RFC 3339, so that metadata is enough.
pub const COMPLETED_AT: &str = "redis.io/completed-at";
/// On a RedisBackup that ended: whether its backup in storage is pinned, `true` or `false`; `changing` while a task is at it,
/// `failed-TIME` and `gone-GENERATION` when it could not.
pub const PINNED: &str = "redis.io/pinned";
/// On a RedisScheduledBackup: changing its value makes a backup now.
pub const RUN_NOW: &str = "redis.io/run-now";
/// On a RedisBackup that is being deleted, with value `true`: let go of the object although its storage is gone.
pub const ABANDON_ARTIFACTS: &str = "redis.io/abandon-artifacts";
/// On a RedisBackup: history limits removed the object, so its artifacts stay whatever `deletionPolicy` says.
pub const KEEP_ARTIFACTS: &str = "redis.io/keep-artifacts";
/// On a BackupStorage: changing its value probes and counts now.
pub const PROBE_NOW: &str = "redis.io/probe-now";
/// On a RedisCluster: the instance that shall become primary, without lost writes.
pub const SWITCH_OVER: &str = "redis.io/switch-over";

/// On RedisBackups with `deletionPolicy: Delete`: the artifacts go first.
pub const DELETE_ARTIFACTS_FINALIZER: &str = "redis.io/delete-artifacts";

/// The longest name of a RedisBackup, RedisRestore, BackupStorage, BackupMethod: a Job's is `NAME-<5>-<purpose>`.
pub const MAX_RUN_NAME: usize = 52;
/// The longest name of a RedisScheduledBackup: a child's is `NAME-<slot>`.
pub const MAX_SCHEDULE_NAME: usize = 39;
/// The longest name of a RedisCluster: its pods carry `NAME-N` and a revision hash in labels.
pub const MAX_CLUSTER_NAME: usize = 45;
