//! Find: whether a backup is there. What a backup's own report says can be said again by whoever lost it.

use std::sync::Arc;

use redkeep_core::manifest::Manifest;
use redkeep_core::provider::Providers;
use redkeep_core::task::FindTask;

use crate::cancel;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::opened;

/// A backup that is there.
#[derive(Clone, Debug)]
pub struct FindOutcome {
    /// Its manifest.
    pub manifest: Box<Manifest>,
    /// Where that lies.
    pub address: String,
}

/// Finds it.
///
/// # Errors
/// Of class `NotFound` with the reason `BackupNotFound` or `NoBackups` where it is known not to be there; anything else leaves
/// that open.
pub async fn find(
    task: &FindTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<FindOutcome, EngineError> {
    cancel::cancellable(events, async {
        events.stage("plan", &format!("looking for {}", task.backup.backup));
        let storage = providers.storage(&task.storage).await?;
        let backup = opened::find(&storage, &task.backup).await?;
        let manifest = opened::manifest(storage.as_ref(), &backup).await?;
        Ok(FindOutcome { manifest: Box::new(manifest), address: storage.address_of(&backup.folder().manifest()) })
    })
    .await
}
