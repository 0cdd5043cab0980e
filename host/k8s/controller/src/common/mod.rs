//! What the kinds share: from references in a spec to what a task needs.

pub(crate) mod digest;
pub(crate) mod endpoints;
mod error;
pub mod files;
pub mod identity;
pub mod keys;
pub(crate) mod label;
pub mod method;
pub(crate) mod overdue;
pub mod placement;
pub mod report;
pub mod selection;
pub mod server;
pub mod source;
pub mod storage;
pub(crate) mod verdict;

pub use error::ReconcileError;
use redkeep_core::classify::{Class, Classify};
use redkeep_k8s_api::conditions::reasons;

/// A time so far in the future was written under a wrong clock.
const CLOCK_TOLERANCE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Whether a time was written under a clock that was ahead.
pub(crate) fn is_ahead(time: jiff::Timestamp, now: jiff::Timestamp) -> bool {
    time.duration_since(now) > CLOCK_TOLERANCE
}

/// Why a spec cannot be followed now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unresolved {
    /// A field is wrong, and only another object would be right.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// What a field names is not there, or not usable; that may change.
    #[error("{message}")]
    NotYet {
        /// A stable word.
        reason: &'static str,
        /// What is missing.
        message: String,
    },
    /// The Kubernetes API did not answer as it should.
    #[error("failed to read {what}")]
    Read {
        /// What was read.
        what: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Unresolved {
    pub(crate) fn invalid(field: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Invalid { field, why: why.to_string() }
    }

    pub(crate) fn not_yet(reason: &'static str, message: impl Into<String>) -> Self {
        Self::NotYet { reason, message: message.into() }
    }

    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source: Box::new(source) }
    }
}

impl Classify for Unresolved {
    fn class(&self) -> Class {
        match self {
            Self::Invalid { .. } => Class::Usage,
            Self::NotYet { .. } => Class::NotFound,
            Self::Read { .. } => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => reasons::INVALID_SPEC,
            Self::NotYet { reason, .. } => reason,
            Self::Read { .. } => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        !matches!(self, Self::Invalid { .. })
    }
}
