//! What is to be done for a storage now. Pure.

use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::Timestamp;
use redkeep_core::classify::Classify;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_k8s_api::backup_storage::{BackupStorage, BackupStorageStatus};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::labels::PROBE_NOW;

use super::dereference::{Tasks, is_clearing};
use super::validate::{ValidatedStorage, interval};
use crate::common::{Unresolved, is_ahead};
use crate::executor::{Purpose, TaskState};

/// A probe that failed is made again after this, or after its interval where that is shorter.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// One thing to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// The spec cannot be followed.
    Reject { message: String },
    /// Make the task.
    Start(Purpose),
    /// The task is there, and has not ended.
    Follow { purpose: Purpose, message: Option<String> },
    /// It ended, and this is its word.
    Take { purpose: Purpose, report: Box<TaskReport> },
    /// It ended without a word.
    Fail { purpose: Purpose, reason: String, message: String },
    /// Something of an earlier run is left over; its name is needed.
    Remove(Purpose),
}

impl Step {
    /// Whether the next look should come soon.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Follow { .. } | Self::Remove(_))
    }
}

pub(super) fn decide(
    now: Timestamp,
    storage: &BackupStorage,
    validated: Result<&ValidatedStorage, &Unresolved>,
    tasks: &Tasks,
) -> Vec<Step> {
    let status = storage.status.clone().unwrap_or_default();
    let mut steps = Vec::new();
    let is_valid = match validated {
        Ok(_) => true,
        Err(wrong) => {
            steps.push(Step::Reject { message: wrong.to_string() });
            false
        }
    };
    let is_due = is_valid && is_probe_due(now, storage, &status);
    steps.extend(task(Purpose::Probe, status.task_name.is_some(), is_due, &tasks.probe));
    let garbage = validated.ok().and_then(|validated| validated.garbage.as_ref());
    let next = status.garbage.as_ref().and_then(|garbage| garbage.next_time.as_ref());
    let is_due = garbage.is_some() && next.is_some_and(|next| next.0 <= now);
    steps.extend(task(Purpose::Prune, is_clearing(storage), is_due, &tasks.garbage));
    steps
}

/// `was_begun`: the status says that one was made, and nothing yet of its end.
fn task(purpose: Purpose, was_begun: bool, is_due: bool, state: &TaskState) -> Option<Step> {
    match (state, was_begun) {
        (TaskState::Missing, false) => is_due.then_some(Step::Start(purpose)),
        // Begun, and nobody knows of it any more: both tasks may be made twice.
        (TaskState::Missing, true) => Some(Step::Start(purpose)),
        (_, false) => Some(Step::Remove(purpose)),
        (TaskState::Waiting { message, .. }, true) => Some(Step::Follow { purpose, message: Some(message.clone()) }),
        (TaskState::Running { .. }, true) => Some(Step::Follow { purpose, message: None }),
        (TaskState::Ended { report, .. }, true) => Some(match &report.outcome {
            Outcome::Running { stage } => {
                let message = format!("the task was ended in stage {stage}");
                Step::Fail { purpose, reason: reasons::NO_REPORT.to_owned(), message }
            }
            _ => Step::Take { purpose, report: Box::new(report.clone()) },
        }),
        (TaskState::Failed { reason, message }, true) => {
            Some(Step::Fail { purpose, reason: reason.clone(), message: message.clone() })
        }
    }
}

fn is_probe_due(now: Timestamp, storage: &BackupStorage, status: &BackupStorageStatus) -> bool {
    let asked = storage.annotations().get(PROBE_NOW);
    if asked.is_some() && asked != status.probe_now.as_ref() {
        return true;
    }
    if status.observed_generation != storage.metadata.generation {
        return true;
    }
    status.last_probe_time.as_ref().is_some_and(|last| is_ahead(last.0, now))
        || next_probe(storage, status).is_none_or(|next| next <= now)
}

/// When it is probed next; `None`: it never was.
fn next_probe(storage: &BackupStorage, status: &BackupStorageStatus) -> Option<Timestamp> {
    let last = status.last_probe_time.as_ref()?.0;
    let every = interval(storage).unwrap_or(AFTER_FAILURE);
    let is_ready = crate::apply::is_true(&status.conditions, redkeep_k8s_api::conditions::READY);
    let after = if is_ready { every } else { every.min(AFTER_FAILURE) };
    last.checked_add(after).ok()
}

/// How long nothing is to be done.
pub(super) fn sleep(now: Timestamp, storage: &BackupStorage, status: &BackupStorageStatus) -> Duration {
    let garbage = status.garbage.as_ref().and_then(|garbage| garbage.next_time.as_ref()).map(|time| time.0);
    // A clock that was ahead when it was probed must not keep it from being looked at.
    let longest = now.checked_add(interval(storage).unwrap_or(AFTER_FAILURE)).ok();
    let until = [next_probe(storage, status), garbage, longest].into_iter().flatten().min();
    until.map_or(AFTER_FAILURE, |until| Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// The word for what is wrong with a spec.
pub(super) fn reason_of(wrong: &Unresolved) -> &'static str {
    wrong.reason()
}
