//! Reads what a restore names: the backup and its storage, the target, the task, the Lease.

use kube::{Api, ResourceExt};
use redkeep_core::task::NodePreference;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_restore::RedisRestore;
use redkeep_k8s_api::run::Phase;

use super::RestoreError;
use super::lease::{self, LeaseState};
use crate::common::Unresolved;
use crate::common::method::{self, MethodAccess};
use crate::common::source::{self, SourceAccess};
use crate::common::storage::{self, StorageAccess, StorageChoice};
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
    /// `None`: whichever reads the artifacts.
    pub(super) method: Option<MethodAccess>,
}

pub(super) async fn dereference(restore: &RedisRestore, context: &Context) -> Result<Observed, RestoreError> {
    let name = restore.name_any();
    let key = task_key(restore);
    let task = context.executor.observe(&key).await;
    let task = task.map_err(|source| RestoreError::Task { name: name.clone(), source })?;
    let lease = lease::look(restore, context).await?;
    let is_begun = restore.status.as_ref().is_some_and(|status| status.started_at.is_some());
    let found = if is_begun || task != TaskState::Missing {
        // It was all found when the task was made; that it may be gone by now must not end the task.
        Err(Unresolved::not_yet(reasons::RUNNING, "the task was made"))
    } else {
        match find(restore, context).await {
            Err(source @ Unresolved::Read { .. }) => return Err(RestoreError::Dereference { name, source }),
            other => other,
        }
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
    let (storage, backup, made_by) = match (&spec.from.backup_name, &spec.from.storage_ref) {
        (Some(name), None) => of_backup(restore, context, &namespace, name).await?,
        (None, Some(_)) => {
            let choice =
                StorageChoice { destination: None, storage_ref: spec.from.storage_ref.as_ref(), credentials: None };
            let storage = storage::resolve(&context.client, &namespace, choice).await?;
            (storage, spec.from.backup_id.clone().unwrap_or_else(|| "latest".to_owned()), None)
        }
        _ => return Err(Unresolved::invalid("spec", "exactly one of backupName and storageRef must be set")),
    };
    let target = &spec.target;
    let (cluster, source) = (target.cluster_name.as_deref(), target.source.as_ref());
    let target = source::resolve(&context.client, &namespace, cluster, source, NodePreference::Primary).await?;
    // A plugin that does not come with the program has its grants only from its BackupMethod.
    let method = match spec.method.clone().or(made_by.filter(|name| !method::is_bundled(name))) {
        Some(name) => Some(method::resolve(&context.client, &name, &context.settings).await?),
        None => None,
    };
    Ok(Found { storage, backup, target, method })
}

/// The storage, the id and the method of a Completed RedisBackup.
async fn of_backup(
    restore: &RedisRestore,
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<(StorageAccess, String, Option<String>), Unresolved> {
    let api: Api<RedisBackup> = Api::namespaced(context.client.clone(), namespace);
    let Some(backup) = api.get_opt(name).await.map_err(Unresolved::read(format!("RedisBackup {name}")))? else {
        let message = format!(
            "there is no RedisBackup {name} in namespace {namespace}; a backup without its object is restored by storageRef and backupId"
        );
        return Err(Unresolved::not_yet(reasons::BACKUP_NOT_FOUND, message));
    };
    let status = backup.status.unwrap_or_default();
    let id = match (status.phase, status.backup_id) {
        (Some(Phase::Completed), Some(id)) => id,
        (Some(Phase::Failed), _) => {
            let why = format!("RedisBackup {name} failed, so there is nothing to restore");
            return Err(Unresolved::invalid("spec.backupName", why));
        }
        _ => {
            let message = format!("RedisBackup {name} is not Completed");
            return Err(Unresolved::not_yet(reasons::BACKUP_NOT_COMPLETED, message));
        }
    };
    let of_cluster = match (&backup.spec.backup_credentials_secret, &backup.spec.cluster_name, &backup.spec.destination)
    {
        (None, Some(cluster), Some(_)) => {
            let api: Api<RedisCluster> = Api::namespaced(context.client.clone(), namespace);
            let found = api.get_opt(cluster).await.map_err(Unresolved::read(format!("RedisCluster {cluster}")))?;
            found.and_then(|cluster| cluster.spec.backup_credentials_secret)
        }
        _ => None,
    };
    let named = restore.spec.backup_credentials_secret.as_ref();
    let choice = StorageChoice {
        destination: backup.spec.destination.as_ref(),
        storage_ref: backup.spec.storage_ref.as_ref(),
        credentials: named.or(backup.spec.backup_credentials_secret.as_ref()).or(of_cluster.as_ref()),
    };
    Ok((storage::resolve(&context.client, namespace, choice).await?, id, Some(backup.spec.method)))
}
