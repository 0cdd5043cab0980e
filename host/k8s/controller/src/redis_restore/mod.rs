//! `RedisRestore`: one restore into a Redis that runs. Written once, never retried by itself: a second try would write
//! into a target that is half filled.
//!
//! Six steps: dereference (reads), validate, decide, build (pure), apply (writes), status (pure).

mod apply;
mod build;
mod decide;
mod dereference;
mod lease;
mod status;
mod validate;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use redkeep_core::classify::{Class, Classify};
use redkeep_k8s_api::labels::OUTCOME;
use redkeep_k8s_api::redis_restore::RedisRestore;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::executor::ExecutorError;
use crate::runtime::{Drive, drive, watch};
use crate::server::Readiness;
use decide::Decision;

/// Why a look at a restore failed; what is wrong with the restore itself is in its status instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Reading.
    #[error("failed to read what restore {name} needs")]
    Dereference {
        /// Which restore.
        name: String,
        /// Why not.
        #[source]
        source: crate::common::Unresolved,
    },
    /// The Lease of the target.
    #[error("failed to {act} the Lease {lease} of the restore's target")]
    Lease {
        /// What was tried.
        act: &'static str,
        /// Its name.
        lease: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The task.
    #[error("failed to handle the task of restore {name}")]
    Task {
        /// Which restore.
        name: String,
        /// Why not.
        #[source]
        source: ExecutorError,
    },
    /// The status.
    #[error("failed to write the status of restore {name}")]
    Status {
        /// Which restore.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Classify for RestoreError {
    fn class(&self) -> Class {
        Class::Failed
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Task { source, .. } => source.reason(),
            _ => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Self::Task { source, .. } => source.retryable(),
            _ => true,
        }
    }
}

/// Runs the controller until it is cancelled. Restores that ended are not watched.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let client = context.client.clone();
    let api: Api<DeserializeGuard<RedisRestore>> = match &context.settings.watch_namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let watched = watch(api, watcher::Config::default().labels(&format!("!{OUTCOME}")));
    drive(Drive { name: "redisrestore", shutdown, readiness }, context, watched, reconcile).await;
}

/// One look at one restore.
///
/// # Errors
/// When the API server or the executor did not answer; the restore is looked at again.
pub async fn reconcile(restore: Arc<RedisRestore>, context: Arc<Context>) -> Result<Action, RestoreError> {
    if restore.metadata.deletion_timestamp.is_some() {
        // The task and the Lease are its dependents and go with it.
        return Ok(Action::await_change());
    }
    let now = context.now();
    let observed = dereference::dereference(&restore, &context).await?;
    let validated = observed.found.and_then(|found| validate::validate(&restore, found, &context.settings));
    let decision = decide::decide(now, &restore, validated, observed.task, observed.lease);
    let (next, outcome) = status::next(&restore, &decision, now);
    let wait = match &decision {
        Decision::Wait { .. } | Decision::Begin(_) | Decision::Follow { .. } => {
            Action::requeue(context.settings.poll_interval)
        }
        Decision::Done | Decision::Fail { .. } | Decision::End { .. } => Action::await_change(),
    };
    tracing::debug!(restore = restore.name_any(), decision = decision.name(), "decided");
    apply::apply(&restore, &context, decision, next, outcome).await?;
    Ok(wait)
}
