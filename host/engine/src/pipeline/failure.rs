//! The first failure of several stages that end one another: the one that the user must hear of.

use std::sync::{Arc, Mutex, PoisonError};

use super::error::PipelineError;

/// Holds the first failure; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Failure {
    first: Arc<Mutex<Option<Arc<PipelineError>>>>,
}

impl Failure {
    /// Notes a failure, unless there was one before.
    pub(crate) fn set(&self, error: PipelineError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(match error {
                PipelineError::Earlier(error) => error,
                error => Arc::new(error),
            });
        }
    }

    /// The failure, if there was one.
    pub(crate) fn get(&self) -> Option<PipelineError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.as_ref().map(|error| PipelineError::Earlier(Arc::clone(error)))
    }

    /// The failure, or that `stage` ended without one.
    pub(crate) fn get_or_internal(&self, stage: &'static str) -> PipelineError {
        self.get().unwrap_or(PipelineError::Internal { stage })
    }
}
