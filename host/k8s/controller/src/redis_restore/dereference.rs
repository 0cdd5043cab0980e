//! Reads what a restore names: the backup and its storage, the target, the task, the Lease.

use kube::ResourceExt;
use redkeep_core::task::NodePreference;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_restore::RedisRestore;

use super::lease::{self, LeaseState};
use super::target;
use crate::common::ReconcileError;
use crate::common::Unresolved;
use crate::common::method::{self, MethodAccess};
use crate::common::selection::{self, FoundBackup};
use crate::common::source::{self, SourceAccess};
use crate::common::storage::StorageAccess;
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskState};

/// What there is.
pub(super) struct Observed {
    /// What the spec names.
    pub(super) found: Result<Found, Unresolved>,
    /// The task.
    pub(super) task: TaskState,
    /// Who may write the target.
    pub(super) lease: LeaseState,
}

/// What the spec names, found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) storage: StorageAccess,
    /// What the task looks for: an id, a unique prefix, a name, or `latest`.
    pub(super) backup: String,
    pub(super) target: SourceAccess,
    /// The Leases of the target, in the order in which they are taken.
    pub(super) leases: Vec<String>,
    /// `None`: whichever reads the artifacts.
    pub(super) method: Option<MethodAccess>,
}

pub(super) async fn dereference(restore: &RedisRestore, context: &Context) -> Result<Observed, ReconcileError> {
    let key = task_key(restore);
    let task = context.executor.observe(&key).await?;
    let is_begun = restore.status.as_ref().is_some_and(|status| status.started_at.is_some());
    let found = if is_begun || task != TaskState::Missing {
        // It was all found when the task was made; that it may be gone by now must not end the task.
        Err(Unresolved::not_yet(reasons::RUNNING, "the task was made"))
    } else {
        find(restore, context).await
    };
    let mut lease = LeaseState::Free;
    let found = match found {
        Ok(found) => match lease::look(restore, context, &found.leases).await {
            Ok(state) => {
                lease = state;
                Ok(found)
            }
            // What cannot be read is waited for, and not for ever, as whatever is not there.
            Err(ReconcileError::Api { what, source, .. }) => Err(Unresolved::Read { what, source }),
            Err(error) => return Err(error),
        },
        Err(error) => Err(error),
    };
    Ok(Observed { found, task, lease })
}

/// The name of a restore's task.
pub(super) fn task_key(restore: &RedisRestore) -> TaskKey {
    let namespace = restore.namespace().unwrap_or_default();
    TaskKey::new(&namespace, &restore.name_any(), &restore.uid().unwrap_or_default(), Purpose::Restore)
}

async fn find(restore: &RedisRestore, context: &Context) -> Result<Found, Unresolved> {
    let namespace = restore.namespace().unwrap_or_default();
    let spec = &restore.spec;
    let named = spec.backup_credentials_secret.as_ref();
    let FoundBackup { storage, backup, made_by } =
        selection::find(&context.client, &namespace, &spec.from, named).await?;
    let (cluster, source) = (spec.target.cluster_name.as_deref(), spec.target.source.as_ref());
    if source.and_then(|source| source.stateful_set.as_ref()).is_some_and(|set| set.files.is_some()) {
        let why = "a restore writes to the running server: leave it out";
        return Err(Unresolved::invalid("spec.target.source.statefulSet.files", why));
    }
    let target = source::resolve(&context.client, &namespace, cluster, source, NodePreference::Primary).await?;
    let servers =
        target::servers(&context.client, &namespace, target.endpoint.url.as_deref().unwrap_or_default()).await?;
    let leases = lease::names(&spec.target, &servers);
    // A plugin that does not come with the program has its grants only from its BackupMethod.
    let method = match spec.method.clone().or(made_by.filter(|name| !method::is_bundled(name))) {
        Some(name) => Some(method::resolve(&context.client, &name, &context.settings).await?),
        None => None,
    };
    Ok(Found { storage, backup, target, leases, method })
}
