//! Deleting one backup: its manifest first, so that what a crash leaves is garbage and never half a backup.

use std::sync::Arc;

use futures::TryStreamExt;
use redkeep_core::catalog::{BackupRef, Place, place};
use redkeep_core::layout::PIN;
use redkeep_core::provider::Providers;
use redkeep_core::storage::{ObjectMeta, StorageErrorKind, WriteStorage};
use redkeep_core::task::DeleteTask;

use crate::cancel;
use crate::catalog::{self, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::opened;

/// How a deletion ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The backup that is gone.
    pub backup: BackupRef,
    /// Objects deleted, the manifest among them.
    pub objects: u64,
    /// Keys in its folder that are not redkeep's and were left alone.
    pub foreign: Vec<String>,
}

/// Deletes a backup.
///
/// # Errors
/// Refused when it is pinned or the last of its cluster, unless forced.
pub async fn delete(
    task: &DeleteTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<DeleteOutcome, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(&task.storage).await?;
        let backup = opened::find(&storage, &task.backup).await?;
        if !task.force {
            refuse(&storage, &backup).await?;
        }
        events.stage("delete", backup.backup_id.as_str());
        let (objects, foreign) = remove(&storage, &backup).await?;
        Ok(DeleteOutcome { backup, objects, foreign })
    })
    .await
}

async fn refuse(storage: &Arc<dyn WriteStorage>, backup: &BackupRef) -> Result<(), EngineError> {
    match storage.head(&format!("{}{PIN}", backup.folder().prefix())).await {
        Ok(_) => return Err(EngineError::Pinned { backup_id: backup.backup_id.clone() }),
        Err(error) if error.kind == StorageErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::storage("see whether the backup is pinned")(error)),
    }
    let scope = Scope { namespace: Some(backup.namespace.clone()), cluster: Some(backup.cluster.clone()) };
    let others = catalog::backups(storage, &scope).await?.into_iter().filter(|other| other != backup).count();
    if others == 0 {
        let cluster = format!("{}/{}", backup.namespace, backup.cluster);
        return Err(EngineError::LastOfCluster { backup_id: backup.backup_id.clone(), cluster });
    }
    Ok(())
}

/// Deletes everything of a backup that redkeep wrote: the manifest, then the rest. Also used by `prune`.
pub(crate) async fn remove(
    storage: &Arc<dyn WriteStorage>,
    backup: &BackupRef,
) -> Result<(u64, Vec<String>), EngineError> {
    let folder = backup.folder();
    let act = format!("delete the backup {}", backup.backup_id);
    let objects: Vec<ObjectMeta> =
        storage.list(folder.prefix()).try_collect().await.map_err(EngineError::storage(&act))?;
    let (ours, foreign): (Vec<String>, Vec<String>) =
        objects.into_iter().map(|object| object.key).partition(|key| !matches!(place(key), Place::Foreign));
    let manifest = folder.manifest();
    storage.delete(std::slice::from_ref(&manifest)).await.map_err(EngineError::storage(&act))?;
    let rest: Vec<String> = ours.iter().filter(|key| **key != manifest).cloned().collect();
    storage.delete(&rest).await.map_err(EngineError::storage(act))?;
    Ok((ours.len() as u64, foreign))
}
