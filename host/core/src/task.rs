//! The one contract between those who ask and the engine that does (DESIGN D1): `TaskSpec` in, `TaskReport` out.
//!
//! A spec names files and environment variables for secrets, never their values. A report fits 4 KiB.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::classify::Class;
use crate::encoding::{Compression, DecryptionKeys, Encryption};
use crate::identifier::{AttemptId, BackupId, ClusterName, Namespace, ShardName};
use crate::manifest::SlotRange;
use crate::secret::SecretRef;

/// The version of the spec that this code reads.
pub const SPEC_VERSION: u32 = 1;
/// The most bytes a report takes as JSON: Kubernetes cuts a termination message at 4096.
pub const MAX_REPORT_BYTES: usize = 4096;
/// Parameters of a restore that options and fields give: what they allow is checked, and some allow more than the method alone.
pub const RESTORE_OPTIONS: [&str; 5] = ["match", "db", "on-conflict", "ttl", "until"];

/// What to do, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// When the task must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The task.
    pub task: Task,
}

/// The kinds of task; each is one file of `host/engine`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Task {
    /// Capture and commit.
    Backup(BackupTask),
    /// Put back.
    Restore(RestoreTask),
    /// Check a stored backup.
    Verify(VerifyTask),
    /// Ask the plugin about a stored backup.
    Inspect(InspectTask),
    /// Retention and garbage.
    Prune(PruneTask),
    /// Delete one backup.
    Delete(DeleteTask),
    /// Pin one backup, or unpin it.
    Pin(PinTask),
    /// Copy backups to another storage.
    Copy(CopyTask),
    /// Try a storage and sum up what it holds.
    Probe(ProbeTask),
    /// See whether a backup is there.
    Find(FindTask),
    /// Capture one shard of a backup whose shards are captured by tasks of their own.
    Capture(CaptureTask),
    /// Commit what such tasks captured.
    Commit(CommitTask),
    /// Fetch, check, compile and describe a plugin.
    Load(LoadTask),
}

/// Where backups live. Everything that a provider needs to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StorageSpec {
    /// A folder, `file:///dir`, `memory://NAME`, `s3://bucket/prefix`, `gs://…`, `az://…`.
    pub url: String,
    /// S3 endpoint, where it is not AWS.
    pub endpoint: Option<String>,
    /// S3 region.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: Option<bool>,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A folder with one file for each credential, as a mounted Secret has; without it the standard variables and workload identity.
    pub credentials_dir: Option<PathBuf>,
}

/// TLS towards Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TlsSpec {
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Without both files there is no client certificate; otherwise it is an error that they are missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_certificate_if_present: bool,
    /// Trust any certificate.
    pub insecure_skip_verify: bool,
}

/// Which node of a shard is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodePreference {
    /// The primary.
    Primary,
    /// A replica in good order, else the primary with a warning.
    #[default]
    PreferReplica,
}

/// A server, a set of servers, or a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EndpointSpec {
    /// `redis://`, `rediss://`, `unix://`, `redis-sentinel://`, `redis-cluster://`, `redis-nodes://`; without a password.
    /// `tcp://host:port` or `tls://host:port` for methods of other systems.
    pub url: Option<String>,
    /// The server's data directory, where it is readable here.
    pub data_dir: Option<PathBuf>,
    /// ACL user.
    pub username: Option<String>,
    /// Where the ACL user stands, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<SecretRef>,
    /// Password.
    pub password: Option<SecretRef>,
    /// Password of the Sentinels, where they have one of their own.
    pub sentinel_password: Option<SecretRef>,
    /// TLS.
    pub tls: TlsSpec,
    /// Which node of a source that has several.
    pub node: NodePreference,
    /// `NAME=new name` of renamed commands.
    pub renamed_commands: BTreeMap<String, String>,
}

/// A component in an OCI registry, and how that is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OciSpec {
    /// `oci://registry/name@sha256:…`, or with a tag, which is resolved once a task.
    pub reference: String,
    /// Credentials as docker keeps them (`config.json`, a Secret's `.dockerconfigjson`).
    pub config_file: Option<PathBuf>,
    /// The user, where the credentials are given one by one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<SecretRef>,
    /// Certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// Hosts that downloads may be redirected to.
    pub redirect_hosts: Vec<String>,
    /// The public key (PEM, ECDSA P-256) whose signature is demanded.
    pub public_key_file: Option<PathBuf>,
    /// The same as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// What a plugin may use; what is missing has the host's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MethodLimits {
    /// Linear memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time without a call of the host in between, in milliseconds.
    pub cpu_slice_milliseconds: Option<u64>,
    /// Time of one call, in milliseconds.
    pub wall_clock_milliseconds: Option<u64>,
    /// Bytes written in one call.
    pub output_bytes: Option<u64>,
    /// Log lines of one call.
    pub log_lines: Option<u64>,
}

impl MethodLimits {
    /// Whether everything has the host's default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MethodSpec {
    /// `rdb`, `aof`, or the name of a bundled method; for restores empty means: whichever reads the artifacts.
    pub name: String,
    /// A component's file instead.
    pub file: Option<PathBuf>,
    /// A component in a registry instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSpec>,
    /// Demand exactly this digest.
    pub digest: Option<String>,
    /// What a plugin from a file is granted; bundled plugins have theirs.
    pub grants: Vec<String>,
    /// What it may use.
    #[serde(skip_serializing_if = "MethodLimits::is_default")]
    pub limits: MethodLimits,
}

/// Which backup: an id, a unique prefix of one, a name, or `latest`; of those that had ended at some time, where one is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupSelector {
    /// As the user wrote it.
    pub backup: String,
    /// Needed where several clusters match.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// Namespace; `None`: any.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Only backups that ended before this time; with `latest` the newest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Only backups that were made by this origin (see [`BackupTask::origin`]); `None`: whoever made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// `redkeep backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupTask {
    /// From where.
    pub source: EndpointSpec,
    /// How.
    pub method: MethodSpec,
    /// To where.
    pub storage: StorageSpec,
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster; `None`: from the source's address.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// The backup's name; `None`: the cluster's.
    #[serde(default)]
    pub name: Option<String>,
    /// A backup id chosen by the caller (Kubernetes: every retry of one RedisBackup writes the same backup).
    #[serde(default)]
    pub backup_id: Option<BackupId>,
    /// Who makes it.
    pub origin: String,
    /// Compression.
    pub compression: Compression,
    /// Encryption.
    #[serde(default)]
    pub encryption: Encryption,
    /// Parameters for the plugin. `redkeep task` gives those that are text the type that the method's schema says.
    #[serde(default)]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Take the capture to this folder at full speed first.
    #[serde(default)]
    pub spool: Option<PathBuf>,
    /// Bytes a second towards storage.
    #[serde(default)]
    pub limit_rate: Option<u64>,
    /// How long the server may be held by slow storage, in seconds.
    #[serde(default)]
    pub hold_limit_seconds: Option<u64>,
    /// Pin it.
    #[serde(default)]
    pub pin: bool,
    /// Stop after the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a live restore does with a key that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Stop.
    #[default]
    Fail,
    /// Keep the target's.
    Skip,
    /// Take the backup's.
    Replace,
}

/// Where a restore goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum TargetSpec {
    /// A data directory, laid out for a server that is not running.
    Directory(DirectoryTarget),
    /// A running server or cluster.
    Live {
        /// The target.
        endpoint: EndpointSpec,
    },
}

/// The data directory and what its server will run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DirectoryTarget {
    /// The folder: empty, or not there yet.
    pub path: PathBuf,
    /// `appendonly` of the server; `None`: laid out so that both work.
    pub appendonly: Option<bool>,
    /// Whatever `appendonly` says, the server is started so that it loads an append-only file that is there, as
    /// `redkeep-instance` does.
    pub loads_append_only_files: bool,
    /// Its version; `None`: the source's.
    pub server_version: Option<String>,
    /// `dbfilename`; `None`: `dump.rdb`.
    pub dbfilename: Option<String>,
    /// `appenddirname`; `None`: `appendonlydir`.
    pub appenddirname: Option<String>,
    /// `appendfilename`; `None`: `appendonly.aof`.
    pub appendfilename: Option<String>,
    /// `user:group`, names or numbers; `None`: the directory's owner.
    pub owner: Option<String>,
}

/// `redkeep restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreTask {
    /// From where.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
    /// To where.
    pub target: TargetSpec,
    /// Which plugin; empty: whichever reads the artifacts.
    #[serde(default)]
    pub method: MethodSpec,
    /// With what an encrypted backup is opened.
    #[serde(default)]
    pub keys: DecryptionKeys,
    /// Parameters for the plugin: [`RESTORE_OPTIONS`], and its own, typed as those of a backup.
    #[serde(default)]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// A live restore first checks every stored digest; this leaves that out.
    #[serde(default)]
    pub skip_preverify: bool,
    /// The live target may hold keys already.
    #[serde(default)]
    pub allow_non_empty: bool,
    /// Only this shard into a directory, where the backup has several.
    #[serde(default)]
    pub shard: Option<String>,
    /// Stop after the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// How much a verification proves; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// Every stored byte has the digest that the manifest says.
    Checksum,
    /// The plugin read every artifact whole, and it holds what the manifest says.
    #[default]
    Parse,
    /// A throw-away server loaded it, and has the keys that the manifest says.
    Boot,
}

/// `redkeep verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyTask {
    /// Where it lies.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
    /// How much.
    pub level: VerifyLevel,
    /// Which plugin; empty: whichever reads the artifacts.
    #[serde(default)]
    pub method: MethodSpec,
    /// With what an encrypted backup is opened.
    #[serde(default)]
    pub keys: DecryptionKeys,
    /// Whether the result is written beside the backup.
    #[serde(default)]
    pub record: bool,
    /// For level `boot`: the folder shared with the program that starts the throw-away server ([`crate::boot`]); `None`: a
    /// server of this machine is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<PathBuf>,
}

/// `redkeep inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InspectTask {
    /// Where it lies.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
    /// Which plugin; empty: whichever reads the artifacts.
    #[serde(default)]
    pub method: MethodSpec,
    /// With what an encrypted backup is opened.
    #[serde(default)]
    pub keys: DecryptionKeys,
    /// The question, as the plugin takes it.
    pub query: serde_json::Map<String, serde_json::Value>,
}

/// How many backups are kept, and of which ages. A backup kept by any rule is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KeepRules {
    /// The newest N.
    pub last: Option<u32>,
    /// The newest of each of the last N hours that have one.
    pub hourly: Option<u32>,
    /// Of days.
    pub daily: Option<u32>,
    /// Of ISO weeks.
    pub weekly: Option<u32>,
    /// Of months.
    pub monthly: Option<u32>,
    /// Of years.
    pub yearly: Option<u32>,
    /// Everything younger than this, in seconds.
    pub within_seconds: Option<u64>,
}

impl KeepRules {
    /// Whether no rule is set: then retention deletes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `redkeep prune`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PruneTask {
    /// Where.
    pub storage: StorageSpec,
    /// Namespace; `None`: all.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Cluster; `None`: each for itself.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// What is kept; with none set only garbage goes.
    pub keep: KeepRules,
    /// Retention touches only backups of this origin; `None`: of all.
    #[serde(default)]
    pub origin: Option<String>,
    /// Garbage younger than this stays, in seconds: longer than any backup may run, or a running one loses its artifacts.
    pub grace_seconds: u64,
    /// Ages are taken at this time, or at that of the machine's clock where that is earlier: of two clocks the one by which more stays.
    #[serde(default)]
    pub as_of: Option<Timestamp>,
    /// Show only.
    #[serde(default)]
    pub dry_run: bool,
}

/// `redkeep delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteTask {
    /// Where it lies.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
    /// Even when it is pinned, or the last of its cluster.
    #[serde(default)]
    pub force: bool,
}

/// `redkeep pin` and `redkeep unpin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinTask {
    /// Where it lies.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
    /// What it is to be.
    pub pinned: bool,
}

/// `redkeep copy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyTask {
    /// From.
    pub storage: StorageSpec,
    /// To.
    pub to: StorageSpec,
    /// Which ones; empty: all.
    pub backups: Vec<BackupSelector>,
}

/// Tries what a storage supports, and sums up what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeTask {
    /// Which one.
    pub storage: StorageSpec,
    /// Only backups in this namespace are summed up; `None`: all.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Only of this cluster; `None`: of all.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// Only sum up: nothing is written.
    #[serde(default)]
    pub catalog_only: bool,
}

/// Sees whether a backup is there; its report has the facts of the backup's own. Class `notFound` says that it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FindTask {
    /// Where it would lie.
    pub storage: StorageSpec,
    /// Which one.
    pub backup: BackupSelector,
}

/// Captures one shard, where its files are; nothing counts before a [`CommitTask`]. Cluster and id of the backup must be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaptureTask {
    /// The backup, with this shard alone as its source.
    pub backup: BackupTask,
    /// The shard's name in the backup.
    pub shard: ShardName,
    /// The slots it serves, where the source cannot say.
    #[serde(default)]
    pub slots: Vec<SlotRange>,
}

/// What a capture left to be committed; its report says both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartRef {
    /// The shard.
    pub shard: ShardName,
    /// The attempt that captured it.
    pub attempt: AttemptId,
}

/// Commits captured shards as one backup: all of them or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommitTask {
    /// The backup, as its captures had it; the source is not asked.
    pub backup: BackupTask,
    /// One for each shard.
    pub parts: Vec<PartRef>,
}

/// Fetches a plugin, checks it, compiles it and asks what it is; its report has [`crate::loaded::LoadFacts`]. What it asks for
/// and is not granted is no failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadTask {
    /// Which one, with what it would be granted.
    pub method: MethodSpec,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskReport {
    /// Whether it is done.
    pub outcome: Outcome,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The backup it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<BackupId>,
    /// Its manifest's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// What is worth a line each: sizes, counts, the way chosen.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Warnings, oldest first; cut to fit.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl TaskReport {
    /// Whether it is the word of a task that ended, not of one that was killed after it.
    pub fn is_final(&self) -> bool {
        !matches!(self.outcome, Outcome::Running { .. })
    }
}

/// Done, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Outcome {
    /// Not ended: what a task wrote last before it was killed. `endedAt` is when it was written.
    #[serde(rename_all = "camelCase")]
    Running {
        /// The stage that it was in.
        stage: String,
    },
    /// Whole.
    Done,
    /// Planned only (`--dry-run`).
    Planned,
    /// Not done.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// The kind of failure.
        class: Class,
        /// A stable word.
        reason: String,
        /// For people.
        message: String,
        /// What can be done.
        help: Option<String>,
        /// Whether the same task may succeed when tried again.
        retryable: bool,
    },
}
