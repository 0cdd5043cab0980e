//! A RedisBackup that is being deleted with `deletionPolicy: Delete`: its artifacts go first, and it always goes.

use std::time::Duration;

use crate::runtime::Action;
use jiff::Timestamp;
use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::task::Outcome as TaskOutcome;
use redkeep_k8s_api::common::DeletionPolicy;
use redkeep_k8s_api::conditions::{ARTIFACTS_DELETED, reasons};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::run::Phase;

use super::build::Stored;
use super::pause::{PAUSE, left_of_pause};
use super::{apply, build, dereference, identity, pin, plan};
use crate::apply::{ConditionUpdate, set_condition};
use crate::common::ReconcileError;
use crate::common::report;
use crate::context::Context;
use crate::executor::{ExecutorError, Purpose, TaskKey, TaskState};
use crate::outcome::{Outcome, publish};

/// The object changed while it was looked at; the newer one is on its way.
const OUTDATED: Duration = Duration::from_secs(1);

/// What to do about the artifacts: pure.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deletion {
    /// They stay, or there are none: the object may go.
    Release { reason: &'static str, message: &'static str },
    /// They go first.
    DeleteFirst,
}

fn decide(backup: &RedisBackup) -> Deletion {
    let is_set = |annotation: &str| backup.annotations().get(annotation).is_some_and(|value| value == "true");
    let release = |reason, message| Deletion::Release { reason, message };
    if backup.spec.deletion_policy != DeletionPolicy::Delete {
        return release("Retained", "the artifacts stay, as deletionPolicy says now");
    }
    if is_set(labels::KEEP_ARTIFACTS) {
        return release("Retained", "a history limit removed the object; its artifacts are left to retention");
    }
    if is_set(labels::ABANDON_ARTIFACTS) {
        return release("Abandoned", "the object was let go by annotation; its artifacts, if any, stay");
    }
    if backup.spec.pin && pin::is_due(backup) {
        return release("Retained", "the artifacts stay, but their pin did not reach storage: `redkeep pin` does it");
    }
    if backup.spec.pin {
        return release("Retained", "the backup is pinned: its artifacts stay");
    }
    if backup.status.as_ref().is_none_or(|status| status.backup_id.is_none()) {
        return release("NothingToDelete", "the backup was never begun");
    }
    Deletion::DeleteFirst
}

pub(super) async fn reconcile(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    if !apply::has_finalizer(backup) {
        // Its Jobs go with it by their owner.
        return Ok(Action::await_change());
    }
    stop_run(backup, context).await?;
    match decide(backup) {
        Deletion::Release { reason, message } => {
            let released = release(backup, context, Outcome::normal("Delete", reason, message)).await?;
            Ok(after(released))
        }
        Deletion::DeleteFirst => delete_first(backup, context).await,
    }
}

/// A run that goes on would write after the deletion.
async fn stop_run(backup: &RedisBackup, context: &Context) -> Result<(), ReconcileError> {
    let has_ended = backup.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_terminal);
    if !has_ended {
        context.executor.cancel(&build::key(backup, Purpose::Backup)).await?;
        context.executor.cancel(&build::key(backup, Purpose::Inspect)).await?;
        if plan::of_files(&backup.spec).is_some() {
            context.executor.cancel(&build::key(backup, Purpose::Plan)).await?;
        }
    }
    Ok(())
}

/// Whether it was: an object that changed meanwhile is looked at again, for what it says now may be that the artifacts stay.
async fn release(backup: &RedisBackup, context: &Context, outcome: Outcome) -> Result<bool, ReconcileError> {
    let is_released = apply::release(context, backup).await?;
    if is_released {
        publish(context, backup, &outcome).await;
    }
    Ok(is_released)
}

fn after(is_released: bool) -> Action {
    if is_released { Action::await_change() } else { Action::requeue(OUTDATED) }
}

/// In this order: a task forgotten while its object is still there would be begun again.
async fn release_after(
    task: &TaskKey,
    backup: &RedisBackup,
    context: &Context,
    outcome: Outcome,
) -> Result<Action, ReconcileError> {
    let is_released = release(backup, context, outcome).await?;
    if is_released {
        context.executor.forget(task).await?;
    }
    Ok(after(is_released))
}

async fn delete_first(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    let key = build::key(backup, Purpose::Delete);
    let task = context.executor.observe(&key).await?;
    let poll = Action::requeue(context.settings.poll_interval);
    match &task {
        TaskState::Missing => start(backup, context).await,
        TaskState::Waiting { .. } | TaskState::Running { .. } => Ok(poll),
        TaskState::Ended { report: heard, .. } => match &heard.outcome {
            TaskOutcome::Done | TaskOutcome::Planned => {
                let outcome = Outcome::normal("Delete", "Deleted", "the artifacts are deleted");
                release_after(&key, backup, context, outcome).await
            }
            TaskOutcome::Failed { reason, .. } if report::backup_is_gone(reason) => {
                let outcome = Outcome::normal("Delete", "NothingToDelete", "there were no artifacts");
                release_after(&key, backup, context, outcome).await
            }
            TaskOutcome::Failed { reason, message, .. } => {
                again(backup, context, reason, message, Some(heard.ended_at)).await
            }
            TaskOutcome::Running { .. } => {
                let message = "the task ended without its last report";
                again(backup, context, reasons::NO_REPORT, message, Some(heard.ended_at)).await
            }
        },
        TaskState::Failed { reason, message } => {
            let failed = context.executor.failed_at(&key).await?;
            again(backup, context, reason, message, failed).await
        }
    }
}

async fn start(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    let poll = Action::requeue(context.settings.poll_interval);
    let (storage, pod) = match dereference::storage_and_pod(context, backup).await {
        Ok(resolved) => resolved,
        Err(error) if matches!(error, crate::common::Unresolved::Read { .. }) => return Err(error.into()),
        // The storage may have gone first, and would never come back to a namespace that goes as well.
        Err(_) if apply::namespace_is_terminating(context, backup).await? => return terminating(backup, context).await,
        Err(error) => {
            warn(backup, context, error.reason(), &error.to_string()).await?;
            return Ok(Action::requeue(PAUSE));
        }
    };
    let Some(identity) = identity(backup) else {
        let outcome = Outcome::warning("Delete", "NothingToDelete", "the backup's id cannot be one of ours");
        return Ok(after(release(backup, context, outcome).await?));
    };
    let stored = Stored { backup, storage: &storage, pod: &pod, identity: &identity, settings: &context.settings };
    match context.executor.start(&stored.delete()).await {
        Ok(()) => Ok(poll),
        Err(ExecutorError::NamespaceTerminating { .. }) => terminating(backup, context).await,
        Err(error) if error.retryable() => Err(error.into()),
        Err(error) => {
            warn(backup, context, error.reason(), &error.to_string()).await?;
            Ok(Action::requeue(PAUSE))
        }
    }
}

/// Nothing can run there any more: the object must not keep the namespace.
async fn terminating(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    let message = "its namespace is being deleted, where no task can run: the artifacts stay";
    let outcome = Outcome::warning("Delete", reasons::NAMESPACE_TERMINATING, message);
    Ok(after(release(backup, context, outcome).await?))
}

/// Says why it failed, and tries again after a pause.
async fn again(
    backup: &RedisBackup,
    context: &Context,
    reason: &str,
    message: &str,
    ended: Option<Timestamp>,
) -> Result<Action, ReconcileError> {
    note(backup, context, reason, message).await?;
    if let Some(left) = ended.and_then(|ended| left_of_pause(ended, context.now())) {
        return Ok(Action::requeue(left));
    }
    tell(backup, context, reason, message).await;
    context.executor.cancel(&build::key(backup, Purpose::Delete)).await?;
    Ok(Action::requeue(context.settings.poll_interval))
}

/// Says why in the object, for as long as it is there, and as an Event.
async fn warn(backup: &RedisBackup, context: &Context, reason: &str, message: &str) -> Result<(), ReconcileError> {
    note(backup, context, reason, message).await?;
    tell(backup, context, reason, message).await;
    Ok(())
}

async fn tell(backup: &RedisBackup, context: &Context, reason: &str, message: &str) {
    publish(context, backup, &Outcome::warning("Delete", reason, failure_text(message))).await;
}

async fn note(backup: &RedisBackup, context: &Context, reason: &str, message: &str) -> Result<(), ReconcileError> {
    let mut next = backup.status.clone().unwrap_or_default();
    let message = report::error_text(&failure_text(message));
    let update = ConditionUpdate { kind: ARTIFACTS_DELETED, status: Some(false), reason, message };
    set_condition(&mut next.conditions, update, backup.metadata.generation, context.now());
    apply::write_status(context, backup, &next).await?;
    Ok(())
}

fn failure_text(message: &str) -> String {
    let annotation = labels::ABANDON_ARTIFACTS;
    format!("unable to delete the artifacts: {message}; annotate {annotation}=true to let the object go without")
}

#[cfg(test)]
mod tests;
