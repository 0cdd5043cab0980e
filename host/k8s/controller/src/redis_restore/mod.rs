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
mod target;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use redkeep_k8s_api::labels::OUTCOME;
use redkeep_k8s_api::redis_restore::RedisRestore;
use redkeep_k8s_api::run::Phase;
use tokio_util::sync::CancellationToken;

use crate::common::ReconcileError;
use crate::common::overdue::{self, OVERDUE_AFTER};
use crate::context::Context;
use crate::metrics::RunLabels;
use crate::runtime::{Action, Drive, drive, watch};
use crate::server::Readiness;
use decide::Decision;

/// How often those are counted that are past their deadline.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// Runs the controller until it is cancelled. Restores that ended are not watched.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let client = context.client.clone();
    let api: Api<DeserializeGuard<RedisRestore>> = match &context.settings.watch_namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let watched = watch(api, watcher::Config::default().labels(&format!("!{OUTCOME}")));
    let active = watched.0.clone();
    let counting = async {
        let mut before = HashSet::new();
        let mut ticks = tokio::time::interval(COUNT_EVERY);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            count_overdue(&context, &active.state(), context.now(), &mut before);
        }
    };
    let how = Drive { name: "redisrestore", shutdown: shutdown.clone(), readiness };
    tokio::join!(drive(how, Arc::clone(&context), watched, reconcile), counting);
}

type Active = Arc<DeserializeGuard<RedisRestore>>;

fn count_overdue(context: &Context, active: &[Active], now: Timestamp, before: &mut HashSet<RunLabels>) {
    let runs = active.iter().filter_map(|guarded| guarded.0.as_ref().ok()).map(|restore| {
        let status = restore.status.as_ref();
        let has_ended = status.and_then(|status| status.phase).is_some_and(Phase::is_terminal);
        let started = overdue::since(status.and_then(|status| status.started_at.as_ref()), &restore.metadata);
        let deadline = restore.spec.active_deadline_seconds;
        let is_overdue = !has_ended && overdue::is_overdue(started, deadline, now, OVERDUE_AFTER);
        (restore.namespace().unwrap_or_default(), is_overdue)
    });
    overdue::count(&context.metrics, "RedisRestore", runs, before);
}

/// One look at one restore.
///
/// # Errors
/// When the API server or the executor did not answer; the restore is looked at again.
pub async fn reconcile(restore: Arc<RedisRestore>, context: Arc<Context>) -> Result<Action, ReconcileError> {
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
