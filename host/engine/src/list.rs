//! List: the catalog, and one manifest of it.

use std::sync::Arc;

use redkeep_core::manifest::Manifest;
use redkeep_core::provider::Providers;
use redkeep_core::task::{BackupSelector, StorageSpec};

use crate::cancel;
use crate::catalog::{self, Catalog, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::opened;

/// Lists the backups in scope, by namespace, cluster and time. An empty storage is an empty catalog; one that is not there is
/// an error.
pub async fn list(
    storage: &StorageSpec,
    scope: &Scope,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<Catalog, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(storage).await?;
        catalog::load(&storage, scope).await
    })
    .await
}

/// Finds one backup and reads its manifest.
pub async fn manifest(
    storage: &StorageSpec,
    backup: &BackupSelector,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<Manifest, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(storage).await?;
        let backup = opened::find(&storage, backup).await?;
        opened::manifest(storage.as_ref(), &backup).await
    })
    .await
}
