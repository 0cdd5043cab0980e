//! `spec.pin` of a backup that is done: an object beside it in storage says so, which a task writes or takes away.

use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use redkeep_core::classify::{Class, Classify};
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::run::Phase;

use super::dereference::dereference_storage;
use super::{apply, build, identity};
use crate::common::placement::task_pod;
use crate::common::{ReconcileError, Unresolved};
use crate::context::Context;
use crate::executor::{Purpose, TaskState};
use crate::outcome::{Outcome, publish};

/// How long a pin that failed is left alone.
const PAUSE: Duration = Duration::from_secs(120);

/// Whether storage may say otherwise than the spec: pure. The task of the backup itself pinned it as the spec was then, so this is
/// asked only of a spec that was changed.
fn is_due(backup: &RedisBackup) -> bool {
    let Some(status) = &backup.status else { return false };
    let in_storage = backup.annotations().get(labels::PINNED).map(String::as_str);
    status.phase == Some(Phase::Completed)
        && status.backup_id.is_some()
        && in_storage != Some(labels::PINNED_GONE)
        && in_storage != Some(if backup.spec.pin { "true" } else { "false" })
}

pub(super) async fn reconcile(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    if !is_due(backup) {
        return Ok(Action::await_change());
    }
    let key = build::key(backup, Purpose::Pin);
    let again = Action::requeue(context.settings.poll_interval);
    match context.executor.observe(&key).await? {
        TaskState::Missing => start(backup, context).await,
        TaskState::Waiting { .. } | TaskState::Running { .. } => Ok(again),
        TaskState::Ended { report, .. } => {
            match &report.outcome {
                TaskOutcome::Done | TaskOutcome::Planned => done(backup, context, &report).await?,
                TaskOutcome::Failed { class: Class::NotFound, message, .. } => {
                    apply::note_pin(context, backup, labels::PINNED_GONE).await?;
                    warn(backup, context, "BackupNotFound", message).await;
                }
                TaskOutcome::Failed { reason, message, .. } => {
                    warn(backup, context, reason, message).await;
                    context.executor.cancel(&key).await?;
                    return Ok(Action::requeue(PAUSE));
                }
                TaskOutcome::Running { .. } => {
                    context.executor.cancel(&key).await?;
                    return Ok(again);
                }
            }
            // Not only forgotten: the next wish has a task of the same name, and must not hear what this one said.
            context.executor.cancel(&key).await?;
            Ok(again)
        }
        TaskState::Failed { reason, message } => {
            warn(backup, context, &reason, &message).await;
            context.executor.cancel(&key).await?;
            Ok(Action::requeue(PAUSE))
        }
    }
}

/// What the task did is noted, not what the spec says by now.
async fn done(backup: &RedisBackup, context: &Context, report: &TaskReport) -> Result<(), ReconcileError> {
    let is_pinned = report.facts.get(report_facts::PINNED).is_some_and(|fact| fact == "yes");
    apply::note_pin(context, backup, if is_pinned { "true" } else { "false" }).await?;
    let (reason, message) = if is_pinned {
        ("Pinned", "retention never deletes the backup")
    } else {
        ("Unpinned", "retention treats the backup as any other")
    };
    publish(context, backup, &Outcome::normal("Pin", reason, message)).await;
    Ok(())
}

async fn start(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    let namespace = backup.namespace().unwrap_or_default();
    let resolved = dereference_storage(&context.client, &namespace, &backup.spec).await.and_then(|storage| {
        let pod = task_pod(backup.spec.task.as_ref(), storage.service_account.as_deref(), &context.settings)?;
        Ok((storage, pod))
    });
    let (storage, pod) = match resolved {
        Ok(resolved) => resolved,
        Err(error @ Unresolved::Read { .. }) => return Err(error.into()),
        Err(error) => {
            warn(backup, context, error.reason(), &error.to_string()).await;
            return Ok(Action::requeue(PAUSE));
        }
    };
    let Some(identity) = identity(backup) else { return Ok(Action::await_change()) };
    let request = build::pin_request(backup, &storage, &pod, &identity, &context.settings);
    match context.executor.start(&request).await {
        Ok(()) => Ok(Action::requeue(context.settings.poll_interval)),
        Err(error) if error.retryable() => Err(error.into()),
        Err(error) => {
            warn(backup, context, error.reason(), &error.to_string()).await;
            Ok(Action::requeue(PAUSE))
        }
    }
}

async fn warn(backup: &RedisBackup, context: &Context, reason: &str, message: &str) {
    let what = if backup.spec.pin { "pin the backup, so retention may delete it" } else { "unpin the backup" };
    publish(context, backup, &Outcome::warning("Pin", reason, format!("unable to {what}: {message}"))).await;
}
