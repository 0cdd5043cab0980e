//! How an operator is configured. Nothing here reads the environment: the composition root fills it in.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A task that never started is given up after this: long enough to pull an image or add a node.
pub const START_DEADLINE: Duration = Duration::from_secs(300);
/// A run whose spec names no deadline.
pub const RUN_DEADLINE: Duration = Duration::from_hours(6);

/// Where plugins lie in the image that the operator and its tasks run.
pub const PLUGIN_FOLDER: &str = "/usr/local/share/redkeep/plugins";

/// The operator's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of task pods: this operator's own.
    pub image: String,
    /// This process, as it signs Events and its Lease.
    pub instance: String,
    /// Where the operator itself runs (its Lease lies there).
    pub operator_namespace: String,
    /// The operator's own service account: instances of managed Redis obey no other.
    pub service_account: String,
    /// Only this namespace is watched; `None`: all.
    pub watch_namespace: Option<String>,
    /// Who makes backups here: `k8s:UID of namespace kube-system`.
    pub origin: String,
    /// How long a task may take to start.
    pub start_deadline: Duration,
    /// How long a run may take whose spec does not say.
    pub run_deadline: Duration,
    /// Service accounts that custom resources may ask for; naming any other would be a way to more rights.
    pub task_service_accounts: BTreeSet<String>,
    /// Images that may load a backup at level `boot`; one without tag and digest means every one of that repository.
    pub verification_images: Vec<String>,
    /// Where plugins lie in the image of operator and tasks.
    pub plugin_folder: PathBuf,
    /// How many objects of one kind are reconciled at once.
    pub concurrency: u16,
    /// How often a waiting or running task is looked at when nothing was heard of it.
    pub poll_interval: Duration,
}

impl Settings {
    /// Everything that has a sensible value anyway.
    pub fn new(image: impl Into<String>, operator_namespace: impl Into<String>, origin: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            instance: "redkeep".to_owned(),
            operator_namespace: operator_namespace.into(),
            service_account: "redkeep-operator".to_owned(),
            watch_namespace: None,
            origin: origin.into(),
            start_deadline: START_DEADLINE,
            run_deadline: RUN_DEADLINE,
            task_service_accounts: BTreeSet::new(),
            verification_images: Vec::new(),
            plugin_folder: PLUGIN_FOLDER.into(),
            concurrency: 32,
            poll_interval: Duration::from_secs(10),
        }
    }
}
