//! Pins: a small object beside the manifest that keeps a backup from retention and deletion.

use std::sync::Arc;

use redkeep_core::catalog::BackupRef;
use redkeep_core::provider::Providers;
use redkeep_core::task::{BackupSelector, StorageSpec};

use crate::backup::put_pin;
use crate::cancel;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::opened;

/// Pins a backup. A pinned one stays pinned.
pub async fn pin(
    storage: &StorageSpec,
    backup: &BackupSelector,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<BackupRef, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(storage).await?;
        let backup = opened::find(&storage, backup).await?;
        put_pin(storage.as_ref(), &backup, providers.now()).await?;
        Ok(backup)
    })
    .await
}

/// Unpins a backup. One that is not pinned stays so.
pub async fn unpin(
    storage: &StorageSpec,
    backup: &BackupSelector,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<BackupRef, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(storage).await?;
        let backup = opened::find(&storage, backup).await?;
        storage
            .delete(&[backup.folder().pin()])
            .await
            .map_err(EngineError::storage(format!("unpin the backup {}", backup.backup_id)))?;
        Ok(backup)
    })
    .await
}
