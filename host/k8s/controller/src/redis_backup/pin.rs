//! `spec.pin` of a backup that is done: an object beside it in storage says so, which a task writes or takes away.
//!
//! What storage has is noted on the object, by [`labels::PINNED`]: before a task begins that nobody knows, and so it stays until the
//! task has said what it did. A wish that changes meanwhile is therefore never taken for done.

use crate::runtime::Action;
use jiff::Timestamp;
use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::run::Phase;

use super::build::Stored;
use super::pause::{PAUSE, left_of_pause};
use super::{apply, build, dereference, identity};
use crate::common::report::backup_is_gone;
use crate::common::{ReconcileError, Unresolved};
use crate::context::Context;
use crate::executor::{Purpose, TaskState};
use crate::outcome::{Outcome, publish};

/// [`labels::PINNED`] while a task may be changing it.
pub(super) const CHANGING: &str = "changing";

/// [`labels::PINNED`] of a backup that is not in storage any more. Of this generation: a later wish asks again.
fn gone(backup: &RedisBackup) -> String {
    format!("gone-{}", backup.metadata.generation.unwrap_or_default())
}

/// [`labels::PINNED`] after a task that failed.
fn failed(now: Timestamp) -> String {
    format!("failed-{}", now.as_second())
}

/// Whether storage may say otherwise than the spec: pure. Nothing noted, and no pin wished for: whatever is pinned there was pinned by
/// hand, which is not ours to undo.
pub(crate) fn is_due(backup: &RedisBackup) -> bool {
    let Some(status) = &backup.status else { return false };
    if status.phase != Some(Phase::Completed) || status.backup_id.is_none() {
        return false;
    }
    match backup.annotations().get(labels::PINNED).map(String::as_str) {
        None | Some("false") => backup.spec.pin,
        Some("true") => !backup.spec.pin,
        Some(noted) => noted != gone(backup),
    }
}

/// When the last task failed.
fn failed_at(backup: &RedisBackup) -> Option<Timestamp> {
    let noted = backup.annotations().get(labels::PINNED)?.strip_prefix("failed-")?;
    Timestamp::from_second(noted.parse().ok()?).ok()
}

pub(super) async fn reconcile(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    let key = build::key(backup, Purpose::Pin);
    if !is_due(backup) {
        if backup.annotations().contains_key(labels::PINNED) {
            // Whoever noted it may have come no further, and the next wish must not hear what this task said.
            context.executor.cancel(&key).await?;
        }
        return Ok(Action::await_change());
    }
    if let Some(left) = failed_at(backup).and_then(|failed| left_of_pause(failed, context.now())) {
        return Ok(Action::requeue(left));
    }
    let again = Action::requeue(context.settings.poll_interval);
    match context.executor.observe(&key).await? {
        TaskState::Missing => return start(backup, context).await,
        TaskState::Waiting { .. } | TaskState::Running { .. } => return Ok(again),
        TaskState::Ended { report, .. } => match &report.outcome {
            TaskOutcome::Done | TaskOutcome::Planned => done(backup, context, &report).await?,
            TaskOutcome::Failed { reason, message, .. } if backup_is_gone(reason) => {
                apply::note_pin(context, backup, &gone(backup)).await?;
                warn(backup, context, reason, message).await;
            }
            TaskOutcome::Failed { reason, message, .. } => fail(backup, context, reason, message).await?,
            TaskOutcome::Running { .. } => {
                fail(backup, context, "NoReport", "the task did not say how it ended").await?;
            }
        },
        TaskState::Failed { reason, message } => fail(backup, context, &reason, &message).await?,
    }
    // Not only forgotten: the next wish has a task of the same name, and must not hear what this one said.
    context.executor.cancel(&key).await?;
    Ok(again)
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
    let (storage, pod) = match dereference::storage_and_pod(context, backup).await {
        Ok(resolved) => resolved,
        Err(error @ Unresolved::Read { .. }) => return Err(error.into()),
        Err(error) => {
            fail(backup, context, error.reason(), &error.to_string()).await?;
            return Ok(Action::requeue(PAUSE));
        }
    };
    let Some(identity) = identity(backup) else { return Ok(Action::await_change()) };
    apply::note_pin(context, backup, CHANGING).await?;
    let stored = Stored { backup, storage: &storage, pod: &pod, identity: &identity, settings: &context.settings };
    match context.executor.start(&stored.pin()).await {
        Ok(()) => Ok(Action::requeue(context.settings.poll_interval)),
        Err(error) if error.retryable() => Err(error.into()),
        Err(error) => {
            fail(backup, context, error.reason(), &error.to_string()).await?;
            Ok(Action::requeue(PAUSE))
        }
    }
}

/// Noted with its time, so that whatever asks meanwhile is put off.
async fn fail(backup: &RedisBackup, context: &Context, reason: &str, message: &str) -> Result<(), ReconcileError> {
    apply::note_pin(context, backup, &failed(context.now())).await?;
    warn(backup, context, reason, message).await;
    Ok(())
}

async fn warn(backup: &RedisBackup, context: &Context, reason: &str, message: &str) {
    let what = if backup.spec.pin { "pin the backup, so retention may delete it" } else { "unpin the backup" };
    publish(context, backup, &Outcome::warning("Pin", reason, format!("unable to {what}: {message}"))).await;
}
