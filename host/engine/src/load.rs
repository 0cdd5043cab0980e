//! Load: a plugin is fetched, checked, compiled and asked what it is, as every run with it will find it.

use std::sync::Arc;

use redkeep_core::loaded::LoadedMethod;
use redkeep_core::provider::Providers;
use redkeep_core::task::LoadTask;

use crate::cancel;
use crate::error::EngineError;
use crate::events::TaskEvents;

/// Loads.
///
/// # Errors
/// When it cannot be fetched, is another than the one demanded, carries no signature that holds, or is no plugin.
pub async fn load(
    task: &LoadTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<LoadedMethod, EngineError> {
    cancel::cancellable(events, async {
        events.stage("load", &task.method.name);
        Ok(providers.load_method(&task.method).await?)
    })
    .await
}
