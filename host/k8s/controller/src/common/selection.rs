//! From what a restore says of its backup to the storage where it lies and the name by which the task finds it.

use kube::{Api, Client};
use redkeep_core::Timestamp;
use redkeep_core::identifier::{ClusterName, Namespace};
use redkeep_core::task::BackupSelector;
use redkeep_k8s_api::common::LocalReference;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_restore::BackupSelection;
use redkeep_k8s_api::run::Phase;

use super::Unresolved;
use super::storage::{self, StorageAccess, StorageChoice};

/// A backup, found.
#[derive(Clone, Debug)]
pub struct FoundBackup {
    /// Where it lies.
    pub storage: StorageAccess,
    /// What the task looks for: an id, a unique prefix, a name, or `latest`.
    pub backup: String,
    /// The method that made it, where the selection says so.
    pub made_by: Option<String>,
}

/// Reads what the selection names. `named`: credentials that the restore itself brings along.
///
/// # Errors
/// What is not there, not ready, or cannot be followed.
pub async fn find(
    client: &Client,
    namespace: &str,
    from: &BackupSelection,
    named: Option<&LocalReference>,
) -> Result<FoundBackup, Unresolved> {
    match (&from.backup_name, &from.storage_ref) {
        (Some(name), None) => of_backup(client, namespace, name, named).await,
        (None, Some(reference)) => {
            let choice = StorageChoice { destination: None, storage_ref: Some(reference), credentials: None };
            let storage = storage::resolve(client, namespace, choice).await?;
            let backup = from.backup_id.clone().unwrap_or_else(|| "latest".to_owned());
            Ok(FoundBackup { storage, backup, made_by: None })
        }
        _ => Err(Unresolved::invalid("spec", "exactly one of backupName and storageRef must be set")),
    }
}

/// The storage and the id of a Completed RedisBackup.
async fn of_backup(
    client: &Client,
    namespace: &str,
    name: &str,
    named: Option<&LocalReference>,
) -> Result<FoundBackup, Unresolved> {
    let api: Api<RedisBackup> = Api::namespaced(client.clone(), namespace);
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
            let api: Api<RedisCluster> = Api::namespaced(client.clone(), namespace);
            let found = api.get_opt(cluster).await.map_err(Unresolved::read(format!("RedisCluster {cluster}")))?;
            found.and_then(|cluster| cluster.spec.backup_credentials_secret)
        }
        _ => None,
    };
    let choice = StorageChoice {
        destination: backup.spec.destination.as_ref(),
        storage_ref: backup.spec.storage_ref.as_ref(),
        credentials: named.or(backup.spec.backup_credentials_secret.as_ref()).or(of_cluster.as_ref()),
    };
    let storage = storage::resolve(client, namespace, choice).await?;
    Ok(FoundBackup { storage, backup: id, made_by: Some(backup.spec.method) })
}

/// How the task finds it. `own`: the namespace of whoever restores.
///
/// # Errors
/// A namespace or a cluster that storage cannot have.
pub fn selector(from: &BackupSelection, own: &str, backup: String) -> Result<BackupSelector, Unresolved> {
    let namespace = from.from_namespace.as_deref().unwrap_or(own);
    let namespace: Namespace = namespace.parse().map_err(|why| Unresolved::invalid("spec.fromNamespace", why))?;
    let cluster: Option<ClusterName> = match &from.from_cluster {
        Some(cluster) => Some(cluster.parse().map_err(|why| Unresolved::invalid("spec.fromCluster", why))?),
        None => None,
    };
    let before: Option<Timestamp> = from.before.as_ref().map(|time| time.0);
    Ok(BackupSelector { backup, cluster, namespace: Some(namespace), before, origin: None })
}
