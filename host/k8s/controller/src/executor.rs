//! The one way from a decision to the data plane: a task is started, observed, cancelled, forgotten.
//!
//! Implemented by Kubernetes Jobs ([`job::JobExecutor`]) and, in the composition root, by the process itself.

pub mod job;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, SELinuxOptions, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use redkeep_core::classify::{Class, Classify};
pub use redkeep_core::progress::{ShardProgress, TaskProgress};
use redkeep_core::task::{Task, TaskReport, TaskSpec};

/// Where the credentials of a storage are mounted.
pub const CREDENTIALS_PATH: &str = "/backup-credentials";
/// Where the authority of a storage's TLS is mounted.
pub const STORAGE_CA_PATH: &str = "/storage-ca";
/// Where the password of Redis is mounted.
pub const REDIS_AUTH_PATH: &str = "/redis-auth";
/// Where the volume of a Redis pod is mounted whose files are read.
pub const REDIS_DATA_PATH: &str = "/redis-data";
/// Where the TLS files for Redis are mounted.
pub const REDIS_TLS_PATH: &str = "/redis-tls";
/// Where age identities are mounted.
pub const KEYS_PATH: &str = "/backup-keys";
/// Where a folder destination's claim is mounted.
pub const FOLDER_PATH: &str = "/backup-folder";
/// Where the credentials of a plugin's registry are mounted.
pub const REGISTRY_PATH: &str = "/method-registry";
/// Where the authority of its TLS is mounted.
pub const REGISTRY_CA_PATH: &str = "/method-registry-ca";
/// Where the `ConfigMap` of a plugin is mounted.
pub const METHOD_PATH: &str = "/method";
/// What a task shares with the container of its throw-away server.
pub const SERVER_PATH: &str = "/redkeep-boot";
/// Room of a task for what it spools.
pub const SCRATCH_PATH: &str = "/var/lib/redkeep";

/// Runs tasks. Every call may be repeated; none waits for a task's end.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Starts a task. Idempotent: the same key finds the task that runs already, and another owner's task of that name is an error.
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError>;
    /// How a task stands.
    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError>;
    /// When a task failed that left no report; `None`: there is no such task, or nobody knows. The default never knows.
    async fn failed_at(&self, _key: &TaskKey) -> Result<Option<Timestamp>, ExecutorError> {
        Ok(None)
    }
    /// Stops a task, and whatever it started. One that is not there is no error.
    async fn cancel(&self, key: &TaskKey) -> Result<(), ExecutorError>;
    /// The report was read and is kept elsewhere: the task's remains may go.
    async fn forget(&self, key: &TaskKey) -> Result<(), ExecutorError>;
    /// Owners whose task changed, for as long as it is polled. The default never says anything: controllers then poll.
    fn changes(&self) -> BoxStream<'static, ChangedOwner> {
        Box::pin(stream::pending())
    }
}

/// Whose task changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedOwner {
    /// Kind of the owner.
    pub kind: String,
    /// The namespace of its task, and its own where its kind has namespaces.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A task's name, unique in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// Namespace.
    pub namespace: String,
    /// Name, at most 63 characters.
    pub name: String,
}

impl TaskKey {
    /// `NAME-<5 of the owner's uid>[-purpose]`, cut to what a Job's name may have.
    pub fn new(namespace: &str, owner: &str, uid: &str, purpose: Purpose) -> Self {
        const LONGEST: usize = 63;
        let short: String = uid.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
        let suffix = match purpose {
            Purpose::Backup | Purpose::Restore => format!("-{short}"),
            other => format!("-{short}-{other}"),
        };
        let kept: String = owner.chars().take(LONGEST.saturating_sub(suffix.len())).collect();
        Self { namespace: namespace.to_owned(), name: format!("{}{suffix}", kept.trim_end_matches(['-', '.'])) }
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// What a task is for; part of its name and its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Choose the server whose files a backup is made from.
    Plan,
    /// Make a backup.
    Backup,
    /// Restore one.
    Restore,
    /// Verify one.
    Verify,
    /// Apply retention.
    Prune,
    /// Delete one.
    Delete,
    /// Pin one, or unpin it.
    Pin,
    /// Try a storage and count what it holds.
    Probe,
    /// Find out whether a backup whose report was lost exists.
    Inspect,
    /// Register a plugin.
    Load,
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Plan => "plan",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Prune => "prune",
            Self::Delete => "delete",
            Self::Pin => "pin",
            Self::Probe => "probe",
            Self::Inspect => "inspect",
            Self::Load => "load",
        })
    }
}

/// A task and everything it needs to run somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRequest {
    /// Its name.
    pub key: TaskKey,
    /// The custom resource that it is for.
    pub owner: OwnerReference,
    /// What for.
    pub purpose: Purpose,
    /// What to do.
    pub spec: TaskSpec,
    /// What it reads.
    pub mounts: Vec<Mount>,
    /// Where and as whom it runs.
    pub placement: Placement,
    /// How long one attempt may run once it started.
    pub deadline: Duration,
    /// How long it may take to start.
    pub start_deadline: Duration,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// Workload identity; already held against the allow-list.
    pub service_account: Option<String>,
    /// Requests and limits.
    pub resources: Option<ResourceRequirements>,
    /// The throw-away server that a verification has beside it.
    pub server: Option<ThrowAwayServer>,
}

impl TaskRequest {
    /// A verification with this server beside it; any other task stays as it is.
    #[must_use]
    pub fn beside(mut self, server: Option<ThrowAwayServer>) -> Self {
        if let (Some(server), Task::Verify(task)) = (server, &mut self.spec.task) {
            task.server = Some(SERVER_PATH.into());
            self.placement.image_pull_secrets.extend(server.image_pull_secrets.iter().cloned());
            self.server = Some(server);
        }
        self
    }
}

/// A container of somebody else's image, in which redkeep starts that image's server on a backup. It is given nothing but what
/// the task lays out for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThrowAwayServer {
    /// An image of Redis or Valkey.
    pub image: String,
    /// Requests and limits.
    pub resources: Option<ResourceRequirements>,
    /// Secrets for pulling it.
    pub image_pull_secrets: Vec<String>,
}

/// A volume and where it appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// From where.
    pub source: MountSource,
    /// To where.
    pub path: PathBuf,
}

impl Mount {
    /// A Secret at a path.
    pub fn secret(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { source: MountSource::Secret(name.into()), path: path.into() }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// All keys of a Secret; one that is missing leaves an empty folder, and the task says what it looked for.
    Secret(String),
    /// All keys of a `ConfigMap`, likewise.
    ConfigMap(String),
    /// A claim.
    Claim {
        /// Its name.
        name: String,
        /// Whether the task may not write.
        read_only: bool,
    },
    /// Scratch space.
    EmptyDir,
}

/// Where and as whom a task runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// Numeric user; `None`: the image's.
    pub run_as_user: Option<i64>,
    /// Its group.
    pub run_as_group: Option<i64>,
    /// The group that a claim is given to; `None`: ours, where one of ours is written.
    pub fs_group: Option<i64>,
    /// Other groups that the user is in.
    pub supplemental_groups: Vec<i64>,
    /// As the pod's whose files are read.
    pub se_linux_options: Option<SELinuxOptions>,
    /// Near whom.
    pub affinity: Option<Affinity>,
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// On which node.
    pub node_name: Option<String>,
    /// On which nodes.
    pub node_selector: BTreeMap<String, String>,
    /// How important it is.
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the image.
    pub image_pull_secrets: Vec<String>,
    /// Labels of the pod besides ours.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// How large the scratch space may become.
    pub scratch_limit: Option<String>,
}

/// Why a task failed that had run: what it did may be done, and its retry did not start.
pub const RETRY_NOT_STARTED: &str = "RetryNotStarted";

/// How a task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// There is none of this name.
    Missing,
    /// It has not started yet.
    Waiting {
        /// A stable word: what it waits for.
        reason: String,
        /// For people.
        message: String,
        /// Since when.
        since: Timestamp,
    },
    /// It runs.
    Running {
        /// Where.
        pod: Option<String>,
        /// How far it is, where it says.
        progress: Option<TaskProgress>,
    },
    /// It ended with a report, whatever that says.
    Ended {
        /// The report.
        report: TaskReport,
        /// Where it ran.
        pod: Option<String>,
    },
    /// It ended, or will never start, and there is no report.
    Failed {
        /// A stable word.
        reason: String,
        /// For people.
        message: String,
    },
}

/// A task could not be started, seen or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// Something else has the name.
    #[error("the name {key} is taken by another owner's task")]
    NameTaken {
        /// The name.
        key: TaskKey,
    },
    /// The namespace is going away; nothing can be created in it.
    #[error("namespace {namespace} is being deleted")]
    NamespaceTerminating {
        /// Which.
        namespace: String,
    },
    /// This executor, or the cluster, will not run it.
    #[error("task {key} was refused: {message}")]
    Refused {
        /// Which.
        key: TaskKey,
        /// A stable word.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// The Kubernetes API did not answer as it should.
    #[error("failed to {act} task {key}")]
    Api {
        /// What was tried.
        act: &'static str,
        /// Which.
        key: TaskKey,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ExecutorError {
    /// Whether room, or a moment, may put it right: it is waited for as long as anything else is before a task is begun.
    pub fn may_pass(&self) -> bool {
        matches!(self.reason(), "QuotaExceeded" | "PolicyRefused")
    }
}

impl Classify for ExecutorError {
    fn class(&self) -> Class {
        match self {
            Self::NameTaken { .. } | Self::NamespaceTerminating { .. } | Self::Refused { .. } => Class::Refused,
            Self::Api { .. } => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "NameTaken",
            Self::NamespaceTerminating { .. } => "NamespaceTerminating",
            Self::Refused { reason, .. } => reason,
            Self::Api { .. } => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Self::Api { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const UID: &str = "0f8e-9c1d-rest";

    #[rstest]
    #[case("nightly", Purpose::Backup, "nightly-0f8e9")]
    #[case("nightly", Purpose::Inspect, "nightly-0f8e9-inspect")]
    #[case(
        "a-name-of-fifty-two-characters-which-is-the-longest1",
        Purpose::Verify,
        "a-name-of-fifty-two-characters-which-is-the-longe-0f8e9-verify"
    )]
    fn a_tasks_name_says_owner_and_purpose(#[case] owner: &str, #[case] purpose: Purpose, #[case] expected: &str) {
        let key = TaskKey::new("ns", owner, UID, purpose);
        assert!(key.name.len() <= 63, "{}", key.name.len());
        assert_eq!(key.name.get(..20), expected.get(..20));
        assert!(key.name.ends_with(expected.rsplit_once("0f8e9").map_or("", |(_, end)| end)), "{}", key.name);
    }
}
