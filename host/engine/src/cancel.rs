//! Stopping a task from outside.

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::EngineError;
use crate::events::TaskEvents;

/// Runs `work` until it ends or the token is cancelled, whichever is first. Cancelled work is dropped where it stands.
pub(crate) async fn until<T>(
    token: &CancellationToken,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::select! {
        biased;
        () = token.cancelled() => Err(EngineError::Cancelled),
        result = work => result,
    }
}

/// The same for a task that leaves nothing to clean up.
pub(crate) async fn cancellable<T>(
    events: &Arc<dyn TaskEvents>,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    until(&events.cancellation(), work).await
}
