//! The artifacts that a capture has begun, and what became of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redkeep_core::identifier::ArtifactName;
use redkeep_core::manifest::{PartTableRecord, StoredObject};
use redkeep_core::stream::Artifact;
use tokio::sync::watch;

use super::error::PipelineError;
use super::failure::Failure;
use super::seal::Sealed;

/// All artifacts ever begun, shared with the sinks.
#[derive(Clone, Default)]
pub(crate) struct Entries(Arc<Mutex<Vec<Entry>>>);

/// One artifact ever begun.
pub(crate) struct Entry {
    pub(crate) name: ArtifactName,
    pub(crate) state: State,
    pub(crate) failure: Failure,
    pub(crate) outcome: watch::Receiver<Outcome>,
}

/// Whether its sink is still written to.
pub(crate) enum State {
    Open,
    Dropped,
    Finished { order: usize, artifact: Artifact },
}

/// How storing one artifact ended.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// It has not.
    Running,
    /// Everything is stored and durable.
    Stored(Arc<StoredArtifact>),
    /// Nothing is.
    GivenUp,
}

/// What is stored of an artifact.
pub(crate) struct StoredArtifact {
    pub(crate) sealed: Sealed,
    pub(crate) objects: Vec<StoredObject>,
    pub(crate) parts: Option<PartTableRecord>,
}

impl Entries {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sink was finished.
    pub(crate) fn finished(&self, artifact: Artifact) {
        let mut entries = self.lock();
        let order = entries.iter().filter(|entry| matches!(entry.state, State::Finished { .. })).count();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.name.as_str() == artifact.name) {
            entry.state = State::Finished { order, artifact };
        }
    }

    /// A sink was dropped.
    pub(crate) fn dropped(&self, name: &str) {
        if let Some(entry) = self.lock().iter_mut().find(|entry| entry.name.as_str() == name) {
            entry.state = State::Dropped;
        }
    }

    pub(crate) fn in_order(&self) -> Vec<(Artifact, Failure, watch::Receiver<Outcome>)> {
        let entries = self.lock();
        let mut finished: Vec<_> = entries
            .iter()
            .filter_map(|entry| match &entry.state {
                State::Finished { order, artifact } => {
                    Some((*order, artifact.clone(), entry.failure.clone(), entry.outcome.clone()))
                }
                _ => None,
            })
            .collect();
        finished.sort_by_key(|(order, ..)| *order);
        finished.into_iter().map(|(_, artifact, failure, outcome)| (artifact, failure, outcome)).collect()
    }
}

/// Waits until storing ended.
pub(crate) async fn ended(
    mut outcome: watch::Receiver<Outcome>,
    failure: &Failure,
) -> Result<Arc<StoredArtifact>, PipelineError> {
    let ended = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Running)).await;
    match ended.as_deref() {
        Ok(Outcome::Stored(stored)) => Ok(Arc::clone(stored)),
        Ok(_) => Err(failure.get().unwrap_or(PipelineError::Cancelled)),
        Err(_) => Err(failure.get_or_internal("upload")),
    }
}
