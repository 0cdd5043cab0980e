//! What a RedisBackup names, read from the API server. Takes a client; decides nothing.

use kube::{Api, Client, ResourceExt};
use redkeep_k8s_api::common::LocalReference;
use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupSpec};
use redkeep_k8s_api::redis_cluster::RedisCluster;

use crate::common::Unresolved;
use crate::common::method::{self, MethodAccess};
use crate::common::placement::{TaskPod, task_pod};
use crate::common::source::{self, SourceAccess};
use crate::common::storage::{self, StorageAccess, StorageChoice};
use crate::context::Context;
use crate::settings::Settings;

/// Both ends of a backup, and the way between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dereferenced {
    pub(super) source: SourceAccess,
    pub(super) storage: StorageAccess,
    pub(super) method: MethodAccess,
}

/// Source and storage; the storage first, as it needs less.
pub(super) async fn dereference(
    client: &Client,
    namespace: &str,
    spec: &RedisBackupSpec,
    settings: &Settings,
) -> Result<Dereferenced, Unresolved> {
    if spec.destination.is_none() {
        // Without an inline destination the cluster's credentials play no part: the missing storage is named first.
        storage::resolve(client, namespace, choice(spec, None)).await?;
    }
    let source =
        source::resolve(client, namespace, spec.cluster_name.as_deref(), spec.source.as_ref(), spec.target.into())
            .await?;
    let storage = storage::resolve(client, namespace, choice(spec, source.credentials.as_ref())).await?;
    let method = method::resolve(client, &spec.method, settings).await?;
    Ok(Dereferenced { source, storage, method })
}

/// The storage alone, for what comes after a backup. A RedisCluster that is gone meanwhile takes its default credentials along.
pub(crate) async fn dereference_storage(
    client: &Client,
    namespace: &str,
    spec: &RedisBackupSpec,
) -> Result<StorageAccess, Unresolved> {
    let mut inherited = None;
    if spec.destination.is_some()
        && spec.backup_credentials_secret.is_none()
        && let Some(name) = &spec.cluster_name
    {
        let api: Api<RedisCluster> = Api::namespaced(client.clone(), namespace);
        let cluster = api.get_opt(name).await.map_err(Unresolved::read(format!("RedisCluster {name}")))?;
        inherited = cluster.and_then(|cluster| cluster.spec.backup_credentials_secret);
    }
    storage::resolve(client, namespace, choice(spec, inherited.as_ref())).await
}

/// The storage, and the pod of a task that works there.
pub(super) async fn storage_and_pod(
    context: &Context,
    backup: &RedisBackup,
) -> Result<(StorageAccess, TaskPod), Unresolved> {
    let storage = dereference_storage(&context.client, &backup.namespace().unwrap_or_default(), &backup.spec).await?;
    let pod = task_pod(backup.spec.task.as_ref(), storage.service_account.as_deref(), &context.settings)?;
    Ok((storage, pod))
}

fn choice<'a>(spec: &'a RedisBackupSpec, inherited: Option<&'a LocalReference>) -> StorageChoice<'a> {
    StorageChoice {
        destination: spec.destination.as_ref(),
        storage_ref: spec.storage_ref.as_ref(),
        credentials: spec.backup_credentials_secret.as_ref().or(inherited),
    }
}
