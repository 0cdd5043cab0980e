//! What is to be done for a method now. Pure.

use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::classify::Classify;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_k8s_api::backup_method::{BackupMethod, BackupMethodStatus};
use redkeep_k8s_api::conditions::{READY, reasons};

use crate::apply::condition;
use crate::common::Unresolved;
use crate::common::method::is_in_image;
use crate::executor::TaskState;

/// Registering that failed is tried again after this: a registry comes back, a Secret is made.
const AFTER_FAILURE: Duration = Duration::from_mins(5);
/// How long nothing is to be done for a method that is as it should be.
const AT_REST: Duration = Duration::from_hours(1);
/// What an operator of another image registered is left alone for so long: operators of several namespaces share the object, and
/// need not be of one image.
const OF_ANOTHER_IMAGE: Duration = Duration::from_hours(1);

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
    image: &str,
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
            Ok(()) if was_begun || is_due(now, image, method, &status) => Step::Start,
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

fn is_due(now: Timestamp, image: &str, method: &BackupMethod, status: &BackupMethodStatus) -> bool {
    if status.observed_generation != method.metadata.generation {
        return true;
    }
    let is_over = |pause| again(status, pause).is_none_or(|again| again <= now);
    match condition(&status.conditions, READY) {
        None => true,
        // Only another spec grants it more, and only another image holds another plugin.
        Some(ready) if ready.status == "True" || ready.reason == reasons::NOT_GRANTED => {
            let is_of_another = is_in_image(&method.spec.source) && status.registered_by.as_deref() != Some(image);
            is_of_another && is_over(OF_ANOTHER_IMAGE)
        }
        Some(_) => is_over(AFTER_FAILURE),
    }
}

/// When registering is tried again; `None`: it never was.
fn again(status: &BackupMethodStatus, pause: Duration) -> Option<Timestamp> {
    status.attempted_at.as_ref()?.0.checked_add(pause).ok()
}

/// How long nothing is to be done.
pub(super) fn sleep(now: Timestamp, status: &BackupMethodStatus) -> Duration {
    if condition(&status.conditions, READY).is_some_and(|ready| ready.status == "True") {
        return AT_REST;
    }
    // What is over and begins nothing (not granted, a spec that cannot be followed) waits for somebody.
    again(status, AFTER_FAILURE)
        .map_or(AFTER_FAILURE, |again| Duration::try_from(again.duration_since(now)).unwrap_or(AFTER_FAILURE))
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
        assert_eq!(word(&decide(now, "i", &method(generation, status), Ok(()), &task)), expected);
    }

    #[test]
    fn what_failed_is_tried_again_and_what_is_not_granted_is_not() {
        let later = "2026-11-27T12:05:00Z".parse().unwrap();
        let step = |reason| {
            let failed = method(1, stands("False", reason, false));
            word(&decide(later, "i", &failed, Ok(()), &TaskState::Missing))
        };
        assert_eq!((step("PullFailed"), step("NotGranted")), ("start", "rest"));
    }

    #[rstest]
    #[case("2026-11-27T12:04:00Z", 60)]
    #[case("2026-11-27T18:00:00Z", 300)]
    fn what_waits_for_somebody_is_not_looked_at_every_second(#[case] now: &str, #[case] seconds: u64) {
        let status = method(1, stands("False", "NotGranted", false)).status.unwrap();
        assert_eq!(sleep(now.parse().unwrap(), &status).as_secs(), seconds);
    }

    #[rstest]
    #[case::upgraded(json!({"file": "mine.wasm"}), "True", "Loaded", "2026-11-27T13:00:00Z", "start")]
    #[case::upgraded_program(json!({"builtin": "rdb"}), "True", "Loaded", "2026-11-27T13:00:00Z", "start")]
    #[case::another_may_ask_for_less(json!({"file": "mine.wasm"}), "False", "NotGranted", "2026-11-27T13:00:00Z", "start")]
    #[case::of_another_operator(json!({"file": "mine.wasm"}), "True", "Loaded", "2026-11-27T12:59:59Z", "rest")]
    #[case::not_of_the_image(json!({"oci": {"reference": "r.io/mine:1"}}), "True", "Loaded", "2026-11-27T13:00:00Z", "rest")]
    fn what_lies_in_the_image_is_registered_again_by_another_one(
        #[case] source: Value,
        #[case] ready: &str,
        #[case] reason: &str,
        #[case] now: &str,
        #[case] expected: &str,
    ) {
        let step = |image: &str| {
            let mut method = method(1, stands(ready, reason, false));
            method.spec.source = serde_json::from_value(source.clone()).unwrap();
            method.status.as_mut().unwrap().registered_by = Some("redkeep:1".to_owned());
            word(&decide(now.parse().unwrap(), image, &method, Ok(()), &TaskState::Missing))
        };
        assert_eq!((step("redkeep:1"), step("redkeep:2")), ("rest", expected));
    }

    #[test]
    fn a_spec_that_cannot_be_followed_starts_nothing() {
        let wrong = Unresolved::invalid("spec.limits.memory", "`much` is no size");
        let step = decide(Timestamp::UNIX_EPOCH, "i", &method(1, json!(null)), Err(&wrong), &TaskState::Missing);
        assert_eq!(word(&step), "reject");
    }
}
