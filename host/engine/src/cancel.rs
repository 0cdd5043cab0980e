//! Stopping a task from outside.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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

/// Runs work that sees the token itself: once it is cancelled, the work has until `limit` to end in its own way. Work that was
/// not begun before is not begun.
pub(crate) async fn gently<T>(
    token: &CancellationToken,
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    if token.is_cancelled() {
        return Err(EngineError::Cancelled);
    }
    let too_late = async {
        token.cancelled().await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        result = work => result,
        () = too_late => Err(EngineError::Cancelled),
    }
}

/// [`until`] for a task that leaves nothing to clean up.
pub(crate) async fn cancellable<T>(
    events: &Arc<dyn TaskEvents>,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    until(&events.cancellation(), work).await
}
