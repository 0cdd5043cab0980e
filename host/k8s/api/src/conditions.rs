//! Types and reasons of conditions. Reasons of failed tasks are the task's own (`redkeep_core::Classify::reason`).

/// On runs and standing kinds: the spec can be followed. `False` says which field cannot, and why.
pub const ACCEPTED: &str = "Accepted";
/// On runs: done.
pub const COMPLETE: &str = "Complete";
/// On runs: ended without being done.
pub const FAILED: &str = "Failed";
/// On RedisBackups and schedules: what a verification said. `False` is an alert.
pub const VERIFIED: &str = "Verified";
/// On RedisBackups that are being deleted: whether their artifacts are gone. `False` says why they cannot be deleted.
pub const ARTIFACTS_DELETED: &str = "ArtifactsDeleted";
/// On standing kinds: usable now.
pub const READY: &str = "Ready";
/// On RedisClusters: work goes on that the spec asked for.
pub const PROGRESSING: &str = "Progressing";
/// On RedisClusters: filled from its backup.
pub const RESTORED: &str = "Restored";
/// On BackupMethods: the plugin's signature holds.
pub const SIGNED: &str = "Signed";
/// On RedisScheduledBackups and BackupStorages: the last retention or garbage run went through. `Unknown`: one is due and had to wait.
pub const PRUNED: &str = "Pruned";

/// Reasons: CamelCase, stable, alike in condition, Event and metric label.
pub mod reasons {
    /// The spec can be followed.
    pub const VALID: &str = "Valid";
    /// Backups are made, and cannot be verified as asked.
    pub const VERIFICATION_NOT_POSSIBLE: &str = "VerificationNotPossible";
    /// A field says what cannot be followed.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The object cannot be read as its kind.
    pub const UNREADABLE: &str = "Unreadable";
    /// No such RedisCluster, or not yet.
    pub const CLUSTER_NOT_FOUND: &str = "ClusterNotFound";
    /// The cluster cannot serve a backup now.
    pub const CLUSTER_NOT_READY: &str = "ClusterNotReady";
    /// No such service, StatefulSet or RedisFailover, or none of its pods has an address.
    pub const SOURCE_NOT_FOUND: &str = "SourceNotFound";
    /// No such BackupStorage.
    pub const STORAGE_NOT_FOUND: &str = "StorageNotFound";
    /// The BackupStorage is not usable.
    pub const STORAGE_NOT_READY: &str = "StorageNotReady";
    /// No such BackupMethod, and none that is bundled.
    pub const METHOD_NOT_FOUND: &str = "MethodNotFound";
    /// The BackupMethod is not usable.
    pub const METHOD_NOT_READY: &str = "MethodNotReady";
    /// No such RedisBackup, or none that fits.
    pub const BACKUP_NOT_FOUND: &str = "BackupNotFound";
    /// The RedisBackup is not Completed.
    pub const BACKUP_NOT_COMPLETED: &str = "BackupNotCompleted";
    /// The in-process executor may not read Secrets.
    pub const SECRETS_NOT_READABLE: &str = "SecretsNotReadable";
    /// Another run holds the target.
    pub const TARGET_BUSY: &str = "TargetBusy";
    /// The budget of tasks is used up; the run waits.
    pub const WAITING_FOR_SLOT: &str = "WaitingForSlot";
    /// The server whose files are read is being chosen.
    pub const PLANNING: &str = "Planning";
    /// The pod whose files were to be read was replaced again and again.
    pub const POD_REPLACED: &str = "PodReplaced";
    /// The task is prepared.
    pub const PREPARING: &str = "Preparing";
    /// The task's pod is not running yet.
    pub const STARTING: &str = "Starting";
    /// The task runs.
    pub const RUNNING: &str = "Running";
    /// Done.
    pub const COMPLETED: &str = "Completed";
    /// Ended at `activeDeadlineSeconds`.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// Not started within `startDeadlineSeconds`.
    pub const START_DEADLINE_EXCEEDED: &str = "StartDeadlineExceeded";
    /// No node took the pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The image cannot be pulled.
    pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
    /// The API server refused the task's pod or Job (pod security, quota, admission).
    pub const FORBIDDEN: &str = "Forbidden";
    /// A volume cannot be mounted.
    pub const MOUNT_FAILED: &str = "MountFailed";
    /// The Job was deleted by somebody else.
    pub const JOB_VANISHED: &str = "JobVanished";
    /// The pod was evicted.
    pub const EVICTED: &str = "Evicted";
    /// The node was lost.
    pub const NODE_LOST: &str = "NodeLost";
    /// The task ran out of memory.
    pub const OUT_OF_MEMORY: &str = "OutOfMemory";
    /// The task ended without a report and no manifest is there.
    pub const NO_REPORT: &str = "NoReport";
    /// The namespace is going away.
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
    /// Cancelled by its user or by `concurrencyPolicy: Replace`.
    pub const CANCELLED: &str = "Cancelled";
    /// The schedule waits for its next slot.
    pub const SCHEDULED: &str = "Scheduled";
    /// `suspend: true`.
    pub const SUSPENDED: &str = "Suspended";
    /// A slot passed while the backup before it ran (`concurrencyPolicy: Forbid`).
    pub const SKIPPED: &str = "Skipped";
    /// Retention is due, and waits for verifications that were going on when it became so.
    pub const POSTPONED: &str = "Postponed";
    /// The probe wrote, read and deleted.
    pub const PROBED: &str = "Probed";
    /// The plugin is compiled and described.
    pub const LOADED: &str = "Loaded";
    /// The plugin asks for what it cannot do without and is not granted.
    pub const NOT_GRANTED: &str = "NotGranted";
    /// All instances serve.
    pub const HEALTHY: &str = "Healthy";
    /// Some instances do not serve.
    pub const DEGRADED: &str = "Degraded";
    /// The primary changes.
    pub const FAILING_OVER: &str = "FailingOver";
    /// The first claim is filled from a backup.
    pub const RESTORING: &str = "Restoring";
    /// The claim holds data already.
    pub const CLAIM_NOT_EMPTY: &str = "ClaimNotEmpty";
    /// The server has other keys than the backup.
    pub const KEYS_DIFFER: &str = "KeysDiffer";
    /// Pods are made, or do not serve yet.
    pub const CREATING: &str = "Creating";
    /// No primary, and none that may become one.
    pub const NO_PRIMARY: &str = "NoPrimary";
    /// Pods are exchanged for newer ones, one by one.
    pub const ROLLING_UPDATE: &str = "RollingUpdate";
    /// The primary hands over to a replica.
    pub const SWITCHING_OVER: &str = "SwitchingOver";
    /// The number of instances changes.
    pub const SCALING: &str = "Scaling";
    /// Nothing is left to do.
    pub const AS_WANTED: &str = "AsWanted";
    /// The object was born without a backup.
    pub const NO_BOOTSTRAP: &str = "NoBootstrap";
    /// An object of that name belongs to somebody else.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The image does not run Redis, or an instance says why it cannot.
    pub const INSTANCE_FAILED: &str = "InstanceFailed";
    /// A claim is smaller than the spec wants, and its storage class does not let it grow.
    pub const CLAIM_NOT_GROWN: &str = "ClaimNotGrown";
    /// Redis refused a directive of `redisConfig`, or a certificate.
    pub const CONFIG_REFUSED: &str = "ConfigRefused";
    /// The storage class is not there, or the claim is not bound for another reason.
    pub const CLAIM_PENDING: &str = "ClaimPending";
}
