//! Every way in which a task can stand, and what follows.

use super::*;
use crate::redis_backup::testing::spec;
use jiff::SignedDuration;
use rstest::rstest;
use serde_json::{Value, json};

const STARTED: &str = "2026-11-27T12:00:00Z";

fn status(reason: &str) -> RedisBackupStatus {
    serde_json::from_value(json!({"backupId": "id", "startedAt": STARTED, "conditions": [{
        "type": "Complete", "status": "False", "reason": reason, "message": "", "lastTransitionTime": STARTED
    }]}))
    .unwrap()
}

fn after(seconds: i64) -> Timestamp {
    STARTED.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn ended(outcome: Value) -> TaskState {
    let report = json!({"outcome": outcome, "startedAt": STARTED, "endedAt": STARTED});
    TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None }
}

fn failed_as(class: &str) -> TaskState {
    failed_for(class, "Why")
}

fn failed_for(class: &str, reason: &str) -> TaskState {
    ended(
        json!({"state": "failed", "class": class, "reason": reason, "message": "m", "help": "do x", "retryable": false}),
    )
}

fn gone(reason: &str) -> TaskState {
    TaskState::Failed { reason: reason.into(), message: "m".into() }
}

fn waiting() -> TaskState {
    TaskState::Waiting { reason: "PodStarting".into(), message: "m".into(), since: after(0) }
}

fn running() -> TaskState {
    TaskState::Running { pod: None, progress: None }
}

fn word(decision: &Decision) -> String {
    match decision {
        Decision::Start => "start".into(),
        Decision::Wait { .. } => "wait".into(),
        Decision::Run { .. } => "run".into(),
        Decision::Complete { .. } => "complete".into(),
        Decision::Fail { reason, .. } => format!("fail {reason}"),
        Decision::Inspect { reason, .. } => format!("inspect {reason}"),
    }
}

#[rstest]
#[case::first_look("Preparing", TaskState::Missing, 1, "start")]
#[case::vanished("Starting", TaskState::Missing, 1, "inspect JobVanished")]
#[case::vanished_while_running("Running", TaskState::Missing, 1, "inspect JobVanished")]
#[case::never_made_in_time("Preparing", TaskState::Missing, 30_000, "inspect JobVanished")]
#[case::waiting("Preparing", waiting(), 1, "wait")]
#[case::running("Starting", running(), 1, "run")]
#[case::running_for_ever("Running", running(), 21_600 + 301, "inspect DeadlineExceeded")]
#[case::waiting_for_ever("Starting", waiting(), 21_600 + 301, "inspect DeadlineExceeded")]
#[case::just_in_time("Running", running(), 21_600 + 299, "run")]
#[case::done("Running", ended(json!({"state": "done"})), 1, "complete")]
#[case::done_although_late("Running", ended(json!({"state": "done"})), 30_000, "complete")]
#[case::said_why("Running", failed_as("refused"), 1, "fail Why")]
#[case::last_word_missing("Running", ended(json!({"state": "running", "stage": "capture"})), 1, "inspect NoReport")]
#[case::killed("Running", gone("OutOfMemory"), 1, "inspect OutOfMemory")]
#[case::node_lost("Running", gone("NodeLost"), 1, "inspect NodeLost")]
#[case::no_report("Running", gone("NoReport"), 1, "inspect NoReport")]
#[case::image("Starting", gone("ImagePullFailed"), 1, "fail ImagePullFailed")]
#[case::image_of_a_retry("Running", gone("RetryNotStarted"), 1, "inspect RetryNotStarted")]
#[case::never_started("Starting", gone("StartDeadlineExceeded"), 1, "fail StartDeadlineExceeded")]
#[case::no_node("Starting", gone("Unschedulable"), 1, "fail Unschedulable")]
#[case::quota("Starting", gone("QuotaExceeded"), 1, "fail QuotaExceeded")]
#[case::pod_security("Starting", gone("PodSecurityRefused"), 1, "fail PodSecurityRefused")]
fn a_task_becomes_a_decision(
    #[case] reason: &str,
    #[case] task: TaskState,
    #[case] seconds: i64,
    #[case] expected: &str,
) {
    let decision = decide(&spec(json!({})), &status(reason), &task, after(seconds));
    assert_eq!(word(&decision), expected);
}

#[rstest]
#[case::not_begun(TaskState::Missing, 1, "start")]
#[case::going_on(running(), 1, "wait")]
#[case::found(ended(json!({"state": "done"})), 1, "complete")]
#[case::not_there(failed_for("not-found", "BackupNotFound"), 1, "fail NodeLost")]
#[case::a_bucket_is_away(failed_for("not-found", "StorageNotFound"), 1, "repeat")]
#[case::cannot_look(failed_as("failed"), 1, "repeat")]
#[case::died(gone("OutOfMemory"), 1, "repeat")]
#[case::said_nothing(ended(json!({"state": "running", "stage": "find"})), 1, "repeat")]
#[case::cannot_look_for_ever(failed_as("failed"), 21_600 + 901, "fail NodeLost")]
#[case::dies_for_ever(gone("OutOfMemory"), 21_600 + 901, "fail NodeLost")]
#[case::vanishes_for_ever(TaskState::Missing, 21_600 + 901, "fail NodeLost")]
#[case::never_starts(waiting(), 21_600 + 901, "fail NodeLost")]
fn an_inspection_ends_in_what_storage_says(#[case] task: TaskState, #[case] seconds: i64, #[case] expected: &str) {
    let lost = ("NodeLost", "the node is gone");
    let decision = decide_inspection(&spec(json!({})), &status(INSPECTING_REASON), &task, lost, after(seconds));
    let word = match decision {
        InspectionDecision::Start => "start".to_owned(),
        InspectionDecision::Wait => "wait".to_owned(),
        InspectionDecision::Repeat { .. } => "repeat".to_owned(),
        InspectionDecision::Complete { .. } => "complete".to_owned(),
        InspectionDecision::Fail { reason, .. } => format!("fail {reason}"),
    };
    assert_eq!(word, expected);
}

#[test]
fn a_loss_that_is_found_late_is_asked_about_for_as_long() {
    let found = after(86_400);
    let mut status = status(INSPECTING_REASON);
    let unknown =
        json!({"type": "Failed", "status": "Unknown", "reason": "r", "message": "", "lastTransitionTime": found});
    status.conditions.push(serde_json::from_value(unknown).unwrap());
    assert!(!is_inspection_over(&spec(json!({})), &status, after(86_400 + 900)));
    assert!(is_inspection_over(&spec(json!({})), &status, after(86_400 + 901)));
}

const INSPECTING_REASON: &str = "Inspecting";

#[test]
fn help_of_the_task_reaches_the_user_and_doubt_is_said() {
    let now = after(1);
    let Decision::Fail { message, .. } = decide(&spec(json!({})), &status("Running"), &failed_as("refused"), now)
    else {
        panic!()
    };
    assert_eq!(message, "m (help: do x)");
    let lost = ("NodeLost", "gone");
    let late = after(21_600 + 901);
    let doubt = decide_inspection(&spec(json!({})), &status(INSPECTING_REASON), &failed_as("failed"), lost, late);
    let InspectionDecision::Fail { message, .. } = doubt else { panic!() };
    assert_eq!(message, "gone; whether the backup exists is not known: m");
}

#[test]
fn waiting_for_what_is_named_has_an_end() {
    let spec = spec(json!({"startDeadlineSeconds": 60}));
    assert!(!gave_up_waiting(&spec, Some(after(0)), after(60)));
    assert!(gave_up_waiting(&spec, Some(after(0)), after(61)));
    assert!(!gave_up_waiting(&spec, None, after(61)));
}

fn planned(node: Option<&str>) -> TaskState {
    let facts = node.map_or_else(|| json!({}), |node| json!({"node": node}));
    let report = json!({"outcome": {"state": "planned"}, "startedAt": STARTED, "endedAt": STARTED, "facts": facts});
    TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None }
}

#[rstest]
#[case::first_look(TaskState::Missing, 1, "start")]
#[case::waiting(waiting(), 1, "wait")]
#[case::running(running(), 1, "wait")]
#[case::running_for_ever(running(), 21_601, "fail DeadlineExceeded")]
#[case::vanishes_for_ever(TaskState::Missing, 21_601, "fail DeadlineExceeded")]
#[case::chose(planned(Some("redis://10.0.0.1:6379")), 1, "choose redis://10.0.0.1:6379")]
#[case::chose_what_cannot_be_read(planned(Some("redis://10.0.0.1:6379")), 21_601, "fail DeadlineExceeded")]
#[case::chose_none(planned(None), 1, "fail NoReport")]
#[case::is_there_already(ended(json!({"state": "done"})), 1, "complete")]
#[case::said_why(failed_as("refused"), 1, "fail Why")]
#[case::last_word_missing(ended(json!({"state": "running", "stage": "plan"})), 1, "fail NoReport")]
#[case::killed(gone("NodeLost"), 1, "fail NodeLost")]
fn the_task_that_chooses_becomes_a_decision(#[case] task: TaskState, #[case] seconds: i64, #[case] expected: &str) {
    let word = match decide_plan(&spec(json!({})), &status("Planning"), &task, after(seconds)) {
        PlanDecision::Start => "start".to_owned(),
        PlanDecision::Wait { .. } => "wait".to_owned(),
        PlanDecision::Choose { node } => format!("choose {node}"),
        PlanDecision::Complete { .. } => "complete".to_owned(),
        PlanDecision::Fail { reason, .. } => format!("fail {reason}"),
    };
    assert_eq!(word, expected);
}
