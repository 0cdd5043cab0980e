//! Why a look at an object failed. What is wrong with the object itself is in its status instead.

use redkeep_core::classify::{Class, Classify};

use super::Unresolved;
use crate::executor::ExecutorError;

/// A look ended early; the object is looked at again. Which object, whoever logs it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// What it names could not be read.
    #[error("unable to resolve the spec")]
    Resolve(#[from] Unresolved),
    /// A task of it could not be started, seen or stopped.
    #[error("unable to run its task")]
    Execute(#[from] ExecutorError),
    /// The Kubernetes API did not answer as it should.
    #[error("failed to {act} the {what}")]
    Api {
        /// What was tried.
        act: &'static str,
        /// With what.
        what: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ReconcileError {
    /// For `map_err`: what was tried, with what.
    pub(crate) fn api(act: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { act, what, source: Box::new(source) }
    }
}

impl Classify for ReconcileError {
    fn class(&self) -> Class {
        match self {
            Self::Resolve(error) => error.class(),
            Self::Execute(error) => error.class(),
            Self::Api { .. } => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Resolve(error) => error.reason(),
            Self::Execute(error) => error.reason(),
            Self::Api { .. } => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Self::Resolve(error) => error.retryable(),
            Self::Execute(error) => error.retryable(),
            Self::Api { .. } => true,
        }
    }
}
