//! What is to be done for a method now. Pure.

use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::classify::Classify;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_k8s_api::backup_method::{BackupMethod, BackupMethodStatus};
use redkeep_k8s_api::conditions::{READY, reasons};

use crate::apply::condition;
use crate::common::Unresolved;
use crate::executor::TaskState;

/// Registering that failed is tried again after this: a registry comes back, a Secret is made.
const AFTER_FAILURE: Duration = Duration::from_mins(5);
/// How long nothing is to be done for a method that is as it should be.
const AT_REST: Duration = Duration::from_hours(1);

/// The one thing to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Rest,
    /// The spec cannot be followed.
    Reject { reason: &'static str, message: String },
    /// Make the task.
    Start,
    /// The task is there, and has not ended.
    Follow { message: String },
    /// It ended, and this is its word.
    Take { report: Box<TaskReport> },
    /// It ended without a word.
    Fail { reason: String, message: String },
    /// Something of an earlier registration is left over; its name is needed.
    Remove,
}

impl Step {
    /// Whether the next look should come soon.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Start | Self::Follow { .. } | Self::Remove)
    }
}

pub(super) fn decide(
    now: Timestamp,
    method: &BackupMethod,
    validated: Result<(), &Unresolved>,
    task: &TaskState,
) -> Step {
    let status = method.status.clone().unwrap_or_default();
    let was_begun = status.task_name.is_some();
    match (task, was_begun) {
        // Begun, and nobody knows of it any more: a method may be registered twice.
        (TaskState::Missing, _) => match validated {
            Err(wrong) => Step::Reject { reason: wrong.reason(), message: wrong.to_string() },
            Ok(()) if was_begun || is_due(now, method, &status) => Step::Start,
            Ok(()) => Step::Rest,
        },
        (_, false) => Step::Remove,
        // Its word would be about another plugin.
        _ if status.observed_generation != method.metadata.generation => Step::Remove,
        (TaskState::Waiting { message, .. }, true) => Step::Follow { message: message.clone() },
        (TaskState::Running { .. }, true) => Step::Follow { message: "it is being registered".to_owned() },
        (TaskState::Ended { report, .. }, true) => match &report.outcome {
            Outcome::Running { stage } => Step::Fail {
                reason: reasons::NO_REPORT.to_owned(),
                message: format!("the task was ended in stage {stage}"),
            },
            _ => Step::Take { report: Box::new(report.clone()) },
        },
        (TaskState::Failed { reason, message }, true) => {
            Step::Fail { reason: reason.clone(), message: message.clone() }
        }
    }
}

fn is_due(now: Timestamp, method: &BackupMethod, status: &BackupMethodStatus) -> bool {
    if status.observed_generation != method.metadata.generation {
        return true;
    }
    match condition(&status.conditions, READY) {
        None => true,
        Some(ready) if ready.status == "True" => false,
        // Only another spec grants it more.
        Some(ready) if ready.reason == reasons::NOT_GRANTED => false,
        Some(_) => again(status).is_none_or(|again| again <= now),
    }
}

/// When a failed registration is tried again; `None`: none was tried.
fn again(status: &BackupMethodStatus) -> Option<Timestamp> {
    status.attempted_at.as_ref()?.0.checked_add(AFTER_FAILURE).ok()
}

/// How long nothing is to be done.
pub(super) fn sleep(now: Timestamp, status: &BackupMethodStatus) -> Duration {
    if condition(&status.conditions, READY).is_some_and(|ready| ready.status == "True") {
        return AT_REST;
    }
    again(status).map_or(AFTER_FAILURE, |again| Duration::try_from(again.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn method(generation: i64, status: Value) -> BackupMethod {
        serde_json::from_value(json!({"apiVersion": "redis.io/v1", "kind": "BackupMethod",
            "metadata": {"name": "mine", "generation": generation},
            "spec": {"source": {"file": "mine.wasm"}}, "status": status}))
        .unwrap()
    }

    fn stands(ready: &str, reason: &str, begun: bool) -> Value {
        json!({"observedGeneration": 1, "attemptedAt": "2026-11-27T12:00:00Z",
            "taskName": if begun { json!("task") } else { Value::Null },
            "conditions": [{"type": "Ready", "status": ready, "reason": reason, "message": "",
                "lastTransitionTime": "2026-11-27T12:00:00Z"}]})
    }

    fn word(step: &Step) -> &'static str {
        match step {
            Step::Rest => "rest",
            Step::Reject { .. } => "reject",
            Step::Start => "start",
            Step::Follow { .. } => "follow",
            Step::Take { .. } => "take",
            Step::Fail { .. } => "fail",
            Step::Remove => "remove",
        }
    }

    fn waiting() -> TaskState {
        TaskState::Waiting { reason: "r".into(), message: "m".into(), since: Timestamp::UNIX_EPOCH }
    }

    fn ended(outcome: Value) -> TaskState {
        let report =
            json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:00:00Z"});
        TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None }
    }

    #[rstest]
    #[case::never_seen(1, json!(null), TaskState::Missing, "start")]
    #[case::at_rest(1, stands("True", "Loaded", false), TaskState::Missing, "rest")]
    #[case::another_spec(2, stands("True", "Loaded", false), TaskState::Missing, "start")]
    #[case::begun_and_lost(1, stands("Unknown", "Starting", true), TaskState::Missing, "start")]
    #[case::failed_just_now(1, stands("False", "PullFailed", false), TaskState::Missing, "rest")]
    #[case::not_granted(1, stands("False", "NotGranted", false), TaskState::Missing, "rest")]
    #[case::left_over(1, stands("True", "Loaded", false), ended(json!({"state": "done"})), "remove")]
    #[case::of_an_earlier_spec(2, stands("Unknown", "Starting", true), ended(json!({"state": "done"})), "remove")]
    #[case::waiting(1, stands("Unknown", "Starting", true), waiting(), "follow")]
    #[case::running(1, stands("Unknown", "Starting", true), TaskState::Running { pod: None, progress: None }, "follow")]
    #[case::ended(1, stands("Unknown", "Starting", true), ended(json!({"state": "done"})), "take")]
    #[case::killed(1, stands("Unknown", "Starting", true), ended(json!({"state": "running", "stage": "load"})), "fail")]
    #[case::no_pod(1, stands("Unknown", "Starting", true), TaskState::Failed { reason: "r".into(), message: "m".into() }, "fail")]
    fn one_thing_is_done_at_a_time(
        #[case] generation: i64,
        #[case] status: Value,
        #[case] task: TaskState,
        #[case] expected: &str,
    ) {
        let now = "2026-11-27T12:04:59Z".parse().unwrap();
        assert_eq!(word(&decide(now, &method(generation, status), Ok(()), &task)), expected);
    }

    #[test]
    fn what_failed_is_tried_again_and_what_is_not_granted_is_not() {
        let later = "2026-11-27T12:05:00Z".parse().unwrap();
        let step =
            |reason| word(&decide(later, &method(1, stands("False", reason, false)), Ok(()), &TaskState::Missing));
        assert_eq!((step("PullFailed"), step("NotGranted")), ("start", "rest"));
    }

    #[test]
    fn a_spec_that_cannot_be_followed_starts_nothing() {
        let wrong = Unresolved::invalid("spec.limits.memory", "`much` is no size");
        let step = decide(Timestamp::UNIX_EPOCH, &method(1, json!(null)), Err(&wrong), &TaskState::Missing);
        assert_eq!(word(&step), "reject");
    }
}
