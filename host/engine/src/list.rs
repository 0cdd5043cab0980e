//! List: the catalog, and one manifest of it.

use std::sync::Arc;

use redkeep_core::identifier::{ClusterName, Namespace};
use redkeep_core::manifest::Manifest;
use redkeep_core::provider::Providers;
use redkeep_core::selection::{LATEST, select};
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

/// Whether a scope in which nothing was found is one that this storage knows: a name that it does not know is a slip of the pen,
/// and "nothing" would be read as an answer. A storage without any backup knows every name.
///
/// # Errors
/// Of class `NotFound`, naming the clusters that have backups.
pub async fn check_scope(
    storage: &StorageSpec,
    scope: &Scope,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<(), EngineError> {
    cancel::cancellable(events, async {
        if scope.namespace.is_none() && scope.cluster.is_none() {
            return Ok(());
        }
        let storage = providers.storage(storage).await?;
        let backups = catalog::backups(&storage, &Scope::default()).await?;
        let is_meant = |namespace: &Namespace, cluster: &ClusterName| {
            scope.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
                && scope.cluster.as_ref().is_none_or(|wanted| wanted == cluster)
        };
        if backups.is_empty() || backups.iter().any(|backup| is_meant(&backup.namespace, &backup.cluster)) {
            return Ok(());
        }
        let selector = BackupSelector {
            backup: LATEST.to_owned(),
            cluster: scope.cluster.clone(),
            namespace: scope.namespace.clone(),
            before: None,
            origin: None,
        };
        select(&backups, &selector)?;
        Ok(())
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
