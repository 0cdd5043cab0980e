//! `BackupStorage`: probed and counted in intervals, and cleared of garbage by its schedule. It only looks after the storage;
//! backups and their retention belong to who made them.
//!
//! Six steps: dereference (reads), validate, decide, build (pure), apply (writes), status (pure).

mod apply;
mod build;
mod decide;
mod dereference;
mod status;
mod validate;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use redkeep_k8s_api::backup_storage::BackupStorage;
use tokio_util::sync::CancellationToken;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::runtime::{Action, Drive, drive, watch};
use crate::server::Readiness;

/// A look is never further away: clocks jump, and timers here do not see it.
const LONGEST_SLEEP: Duration = Duration::from_secs(300);

/// Runs the controller until it is cancelled.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let client = context.client.clone();
    let api: Api<DeserializeGuard<BackupStorage>> = match &context.settings.watch_namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let watched = watch(api, watcher::Config::default());
    drive(Drive { name: "backupstorage", shutdown, readiness }, context, watched, reconcile).await;
}

/// One look at one storage.
///
/// # Errors
/// When the API server or the executor did not answer; the storage is looked at again.
pub async fn reconcile(storage: Arc<BackupStorage>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if storage.metadata.deletion_timestamp.is_some() {
        // Its tasks are its dependents and go with it; what lies in the bucket stays.
        context.metrics.storage_probed(&storage.namespace().unwrap_or_default(), &storage.name_any(), None);
        return Ok(Action::await_change());
    }
    let now = context.now();
    let tasks = dereference::dereference(&storage, &context).await?;
    let validated = validate::validate(&storage, &context.settings);
    let steps = decide::decide(now, &storage, validated.as_ref(), &tasks);
    let is_busy = steps.iter().any(decide::Step::is_busy);
    let (next, outcomes) = status::next(&storage, validated.as_ref(), &steps, now);
    apply::apply(&storage, &context, validated.ok(), &steps, next.clone(), outcomes).await?;
    let pause = if is_busy { context.settings.poll_interval } else { decide::sleep(now, &storage, &next) };
    Ok(Action::requeue(pause.clamp(Duration::from_secs(1), LONGEST_SLEEP)))
}
