//! `BackupMethod`: a plugin is registered once for each spec: fetched, its tag pinned, checked, compiled, asked what it is. That is
//! a task in the operator's namespace; the operator itself runs no plugin. One that does not load fails alone.
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
use redkeep_k8s_api::backup_method::BackupMethod;
use tokio_util::sync::CancellationToken;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::runtime::{Action, Drive, drive, watch};
use crate::server::Readiness;

/// A look is never further away: clocks jump, and timers here do not see it.
const LONGEST_SLEEP: Duration = Duration::from_mins(5);

/// Runs the controller until it is cancelled.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let api: Api<DeserializeGuard<BackupMethod>> = Api::all(context.client.clone());
    let watched = watch(api, watcher::Config::default());
    drive(Drive { name: "backupmethod", shutdown, readiness }, context, watched, reconcile).await;
}

/// One look at one method.
///
/// # Errors
/// When the API server or the executor did not answer; the method is looked at again.
pub async fn reconcile(method: Arc<BackupMethod>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if method.metadata.deletion_timestamp.is_some() {
        // Its task is its dependent and goes with it. Runs that began with it go on: they have their copy.
        context.metrics.method_registered(&method.name_any(), None);
        return Ok(Action::await_change());
    }
    let now = context.now();
    let task = dereference::dereference(&method, &context).await?;
    let validated = validate::validate(&method, &context.settings);
    let step = decide::decide(now, &context.settings.image, &method, validated.as_ref().map(drop), &task);
    let (next, outcome) = status::next(&method, &step, &context.settings.image, now);
    let pause = if step.is_busy() { context.settings.poll_interval } else { decide::sleep(now, &next) };
    apply::apply(&method, &context, validated.ok(), step, next, outcome).await?;
    Ok(Action::requeue(pause.clamp(Duration::from_secs(1), LONGEST_SLEEP)))
}
