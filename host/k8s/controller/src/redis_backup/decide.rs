//! What to do about a RedisBackup whose run has not ended: pure, from its status, how its task stands, and the time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_k8s_api::conditions::{ACCEPTED, FAILED, reasons};
use redkeep_k8s_api::redis_backup::{RedisBackupSpec, RedisBackupStatus};

use super::status::task_was_seen;
use crate::apply::condition;
use crate::common::overdue;
use crate::common::report::backup_is_gone;
use crate::executor::{TaskProgress, TaskState};

/// How long after its deadline a run is ended by us, when nobody else did: Job controller, kubelet, the task itself.
const GRACE_AFTER_DEADLINE: Duration = Duration::from_secs(300);
/// How long it may take to find out whether a run without a report committed, after its deadline or when that began.
const INSPECTION_LIMIT: Duration = Duration::from_secs(900);

/// What a task without a report had not begun to do: nothing can have been committed. Of a retry that does not start these words
/// are not said ([`RETRY_NOT_STARTED`](crate::executor::RETRY_NOT_STARTED)), as an attempt before it may have come to its end.
const NEVER_STARTED: [&str; 12] = [
    "ContainerNotStarted",
    "ImagePullFailed",
    "MountFailed",
    "PodRefused",
    "PodSecurityRefused",
    "PolicyRefused",
    "QuotaExceeded",
    "ServiceAccountMissing",
    "StartDeadlineExceeded",
    "Suspended",
    "TasksAhead",
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
        // An attempt before this one, or this one just now, may have committed.
        TaskState::Waiting { .. } | TaskState::Running { .. } if overdue => Decision::Inspect {
            reason: reasons::DEADLINE_EXCEEDED.to_owned(),
            message: "the run took longer than activeDeadlineSeconds".to_owned(),
        },
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

/// What to do about the choice of a server whose files are read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PlanDecision {
    /// There is no task yet.
    Start,
    /// It goes on.
    Wait { message: String },
    /// This one.
    Choose { node: String },
    /// The backup is there already, from an earlier task.
    Complete { report: Box<TaskReport> },
    /// There is none to choose.
    Fail { reason: String, message: String },
}

/// From how the task stands that chooses the server. It writes nothing, so there is nothing to look up when it is lost.
pub(super) fn decide_plan(
    spec: &RedisBackupSpec,
    status: &RedisBackupStatus,
    task: &TaskState,
    now: Timestamp,
) -> PlanDecision {
    let fail = |reason: &str, message: String| PlanDecision::Fail { reason: reason.to_owned(), message };
    let wait = |message: &str| PlanDecision::Wait { message: message.to_owned() };
    match task {
        TaskState::Missing | TaskState::Waiting { .. } | TaskState::Running { .. }
            if is_overdue(spec, status, now, Duration::ZERO) =>
        {
            fail(reasons::DEADLINE_EXCEEDED, "no server was chosen within activeDeadlineSeconds".to_owned())
        }
        // A server was chosen, and its pod could not be looked at all the time.
        TaskState::Ended { report, .. }
            if report.outcome == Outcome::Planned && is_overdue(spec, status, now, Duration::ZERO) =>
        {
            fail(reasons::DEADLINE_EXCEEDED, "no server could be read within activeDeadlineSeconds".to_owned())
        }
        TaskState::Missing => PlanDecision::Start,
        // What every pod goes through is one state, or each of them is a write.
        TaskState::Waiting { reason, .. } if matches!(reason.as_str(), "PodNotCreated" | "PodStarting") => {
            wait("the task that chooses the server is being started")
        }
        TaskState::Waiting { reason, message, .. } => {
            wait(&format!("the task that chooses the server waits: {reason}: {message}"))
        }
        TaskState::Running { .. } => wait("the task that chooses the server runs"),
        TaskState::Ended { report, .. } => match (&report.outcome, report.facts.get(report_facts::NODE)) {
            (Outcome::Done, _) => PlanDecision::Complete { report: Box::new(report.clone()) },
            (Outcome::Planned, Some(node)) => PlanDecision::Choose { node: node.clone() },
            (Outcome::Failed { reason, message, help, .. }, _) => {
                let help = help.as_ref().map(|help| format!(" (help: {help})")).unwrap_or_default();
                fail(reason, format!("{message}{help}"))
            }
            (Outcome::Planned | Outcome::Running { .. }, _) => {
                fail(reasons::NO_REPORT, "the task that chooses the server ended without naming one".to_owned())
            }
        },
        TaskState::Failed { reason, message } => fail(reason, format!("the task that chooses the server: {message}")),
    }
}

/// What to do about the question whether a run without a report committed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum InspectionDecision {
    /// There is no task that asks.
    Start,
    /// It goes on.
    Wait,
    /// It could not tell, since then where that is known: it is asked again after a pause.
    Repeat { why: String, ended: Option<Timestamp> },
    /// The backup is in storage.
    Complete { report: Box<TaskReport> },
    /// It is not, or nobody could tell in time.
    Fail { reason: String, message: String },
}

/// From how the task stands that asks storage; `reason` and `message` are of the end that it looks into.
pub(super) fn decide_inspection(
    spec: &RedisBackupSpec,
    status: &RedisBackupStatus,
    task: &TaskState,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> InspectionDecision {
    let fail = |message: String| InspectionDecision::Fail { reason: reason.to_owned(), message };
    let is_over = is_inspection_over(spec, status, now);
    let doubt = |why: &str, ended: Option<Timestamp>| {
        if is_over { fail(unknown(message, why)) } else { InspectionDecision::Repeat { why: why.to_owned(), ended } }
    };
    match task {
        TaskState::Ended { report, .. } => match &report.outcome {
            Outcome::Done | Outcome::Planned => InspectionDecision::Complete { report: Box::new(report.clone()) },
            Outcome::Failed { reason: found, .. } if backup_is_gone(found) => fail(message.to_owned()),
            Outcome::Failed { message: why, .. } => doubt(why, Some(report.ended_at)),
            Outcome::Running { .. } => doubt("the task that looked did not end", Some(report.ended_at)),
        },
        TaskState::Failed { message: why, .. } => doubt(why, None),
        _ if is_over => match super::status::hindrance(status) {
            Some(hindrance) => doubt(&format!("nobody could look in time: {hindrance}"), None),
            None => doubt("nobody could look in time", None),
        },
        TaskState::Missing => InspectionDecision::Start,
        TaskState::Waiting { .. } | TaskState::Running { .. } => InspectionDecision::Wait,
    }
}

/// The end of a run of which it stays unknown whether it committed.
pub(super) fn unknown(message: &str, why: &str) -> String {
    format!("{message}; whether the backup exists is not known: {why}")
}

/// Whether it has been asked for long enough. A loss that is found late has its time all the same.
pub(super) fn is_inspection_over(spec: &RedisBackupSpec, status: &RedisBackupStatus, now: Timestamp) -> bool {
    let since = condition(&status.conditions, FAILED).filter(|failed| failed.status == "Unknown");
    let is_new = since.is_some_and(|failed| {
        now.duration_since(failed.last_transition_time.0)
            <= SignedDuration::try_from(INSPECTION_LIMIT).unwrap_or(SignedDuration::MAX)
    });
    !is_new && is_overdue(spec, status, now, INSPECTION_LIMIT)
}

/// Whether a run that was begun has outlived its deadline by so much.
pub(super) fn is_overdue(spec: &RedisBackupSpec, status: &RedisBackupStatus, now: Timestamp, grace: Duration) -> bool {
    overdue::is_overdue(status.started_at.as_ref().map(|time| time.0), spec.active_deadline_seconds, now, grace)
}

/// Whether what a run waits for that is not begun could not be read for too long: since the first look that failed, which the
/// status tells of, so that one answer that fails does not end a run that has waited long for something else.
pub(super) fn gave_up_reading(spec: &RedisBackupSpec, status: &RedisBackupStatus, now: Timestamp) -> bool {
    let refused = condition(&status.conditions, ACCEPTED).filter(|accepted| accepted.status == "False");
    gave_up_waiting(spec, refused.map(|accepted| accepted.last_transition_time.0), now)
}

/// Whether what a spec names has been missing for too long.
pub(super) fn gave_up_waiting(spec: &RedisBackupSpec, created: Option<Timestamp>, now: Timestamp) -> bool {
    created.is_some_and(|created| now.duration_since(created).as_secs() > spec.start_deadline_seconds.max(0))
}

#[cfg(test)]
mod tests;
