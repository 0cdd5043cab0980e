//! Beside a task that verifies at level `boot`: starts throw-away servers of this image on what the task lays out (ADR 21).
//!
//! What they load may be forged and may take the server over. It then has this container: no credentials, no network, a
//! folder with the backup's own data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use redkeep_core::provider::{BootCheck, ProviderError};
use redkeep_core::{Attribute, Class};
use redkeep_redis::{LocalBootCheck, serve_boots};

use crate::command::runtime;
use crate::confine;
use crate::error::InstanceError;

/// Where images have their servers, besides the folders of `PATH`.
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/opt/bitnami/redis/bin", "/opt/bitnami/valkey/bin"];

/// Until it is told to end.
pub(crate) fn run(folder: &Path) -> Result<(), InstanceError> {
    // Before there is a second thread: a filter is a thread's, and inherited.
    let check: Arc<dyn BootCheck> = match confine::confine() {
        Ok(()) => Arc::new(LocalBootCheck::new(FOLDERS.map(PathBuf::from).to_vec())),
        // Said to whoever asks: nobody reads the log of a container that keeps ending.
        Err(why) => {
            eprintln!("error: {why}");
            Arc::new(Unconfined(why))
        }
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|source| InstanceError::System { act: "watch signals", source })?;
        tokio::select! {
            served = serve_boots(folder, check.as_ref(), &confine::end_others) => served
                .map(|never| match never {})
                .map_err(|source| InstanceError::Listen { address: folder.display().to_string(), source }),
            // The task has ended; as process 1 nothing but this ends it.
            _ = terminate.recv() => Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

/// Starts nothing.
struct Unconfined(String);

#[async_trait]
impl BootCheck for Unconfined {
    async fn boot(&self, _: &Path, _: bool, _: &str, _: &str) -> Result<Vec<Attribute>, ProviderError> {
        Err(ProviderError::new(Class::Failed, "BootFailed", self.0.clone())
            .with_help("verify with level parse on nodes whose kernel has no seccomp"))
    }
}
