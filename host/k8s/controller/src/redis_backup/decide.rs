//! What to do about a RedisBackup whose run has not ended: pure, from its status, how its task stands, and the time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redkeep_core::classify::Class;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_backup::{RedisBackupSpec, RedisBackupStatus};

use super::status::task_was_seen;
use crate::executor::{TaskProgress, TaskState};

/// How long after its deadline a run is ended by us, when nobody else did: Job controller, kubelet, the task itself.
const GRACE_AFTER_DEADLINE: Duration = Duration::from_secs(300);
/// How long it may take to find out whether a run without a report committed.
const INSPECTION_LIMIT: Duration = Duration::from_secs(900);

/// What a task without a report had not begun to do: nothing can have been committed.
const NEVER_STARTED: [&str; 10] = [
    "ContainerNotStarted",
    "ImagePullFailed",
    "MountFailed",
    "PodRefused",
    "PodSecurityRefused",
    "QuotaExceeded",
    "ServiceAccountMissing",
    "StartDeadlineExceeded",
    "Suspended",
    "Unschedulable",
];

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// There was no task yet: resolve the spec, fix the backup's id, make the task.
    Start,
    /// It waits.
    Wait { reason: String, message: String },
    /// It runs.
    Run { progress: Option<TaskProgress> },
    /// It is done.
    Complete { report: Box<TaskReport> },
    /// It ended without being done.
    Fail { reason: String, message: String },
    /// It ended without a word: ask storage.
    Inspect { reason: String, message: String },
}

impl Decision {
    fn fail(reason: &str, message: impl Into<String>) -> Self {
        Self::Fail { reason: reason.to_owned(), message: message.into() }
    }
}

/// From how the backup's own task stands.
pub(super) fn decide(spec: &RedisBackupSpec, status: &RedisBackupStatus, task: &TaskState, now: Timestamp) -> Decision {
    let overdue = is_overdue(spec, status, now, GRACE_AFTER_DEADLINE);
    match task {
        TaskState::Missing if !task_was_seen(status) && !overdue => Decision::Start,
        TaskState::Missing => Decision::Inspect {
            reason: reasons::JOB_VANISHED.to_owned(),
            message: "the task's Job is gone, and nobody said how it ended".to_owned(),
        },
        TaskState::Waiting { .. } | TaskState::Running { .. } if overdue => {
            Decision::fail(reasons::DEADLINE_EXCEEDED, "the run took longer than activeDeadlineSeconds")
        }
        TaskState::Waiting { reason, message, .. } => {
            Decision::Wait { reason: reason.clone(), message: message.clone() }
        }
        TaskState::Running { progress, .. } => Decision::Run { progress: progress.clone() },
        TaskState::Ended { report, .. } => ended(report),
        TaskState::Failed { reason, message } if NEVER_STARTED.contains(&reason.as_str()) => {
            Decision::fail(reason, message.clone())
        }
        TaskState::Failed { reason, message } => Decision::Inspect { reason: reason.clone(), message: message.clone() },
    }
}

fn ended(report: &TaskReport) -> Decision {
    match &report.outcome {
        Outcome::Done | Outcome::Planned => Decision::Complete { report: Box::new(report.clone()) },
        Outcome::Failed { reason, message, help, .. } => {
            let help = help.as_ref().map(|help| format!(" (help: {help})")).unwrap_or_default();
            Decision::fail(reason, format!("{message}{help}"))
        }
        Outcome::Running { stage } => Decision::Inspect {
            reason: reasons::NO_REPORT.to_owned(),
            message: format!("the task ended in stage {stage} without its last report"),
        },
    }
}

/// From how the task stands that asks storage; `reason` and `message` are of the end that it looks into.
pub(super) fn decide_inspection(
    spec: &RedisBackupSpec,
    status: &RedisBackupStatus,
    task: &TaskState,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> Decision {
    let unknown =
        |why: &str| Decision::fail(reason, format!("{message}; whether the backup exists is not known: {why}"));
    match task {
        TaskState::Ended { report, .. } => match &report.outcome {
            Outcome::Done | Outcome::Planned => Decision::Complete { report: Box::new(report.clone()) },
            Outcome::Failed { class: Class::NotFound, .. } => Decision::fail(reason, message),
            Outcome::Failed { message: why, .. } => unknown(why),
            Outcome::Running { .. } => unknown("the task that looked did not end"),
        },
        TaskState::Failed { message: why, .. } => unknown(why),
        _ if is_overdue(spec, status, now, INSPECTION_LIMIT) => unknown("nobody could look in time"),
        TaskState::Missing => Decision::Start,
        TaskState::Waiting { .. } | TaskState::Running { .. } => {
            Decision::Wait { reason: reason.to_owned(), message: message.to_owned() }
        }
    }
}

/// Whether a run that was begun has outlived its deadline by so much.
pub(super) fn is_overdue(spec: &RedisBackupSpec, status: &RedisBackupStatus, now: Timestamp, grace: Duration) -> bool {
    let Some(started) = status.started_at.as_ref() else { return false };
    let allowed = SignedDuration::from_secs(spec.active_deadline_seconds.max(0))
        .saturating_add(SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX));
    now.duration_since(started.0) > allowed
}

/// Whether what a spec names has been missing for too long.
pub(super) fn gave_up_waiting(spec: &RedisBackupSpec, created: Option<Timestamp>, now: Timestamp) -> bool {
    created.is_some_and(|created| now.duration_since(created).as_secs() > spec.start_deadline_seconds.max(0))
}

#[cfg(test)]
mod tests;
