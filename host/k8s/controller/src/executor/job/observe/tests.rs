//! Every row of what a cluster does to a Job, and what is made of it.

use super::*;
use crate::executor::TaskState;
use rstest::rstest;
use serde_json::{Value, json};

const CREATED: &str = "2026-11-27T12:00:00Z";

fn job(conditions: Value) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "nightly-0f8e9", "creationTimestamp": CREATED, "annotations": {START_DEADLINE: "300"}},
        "status": {"conditions": conditions}
    }))
    .unwrap()
}

fn ended_as(kind: &str, reason: &str) -> Value {
    json!([{"type": kind, "status": "True", "reason": reason, "message": "as the job controller says"}])
}

fn pod(created: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("nightly-0f8e9-{}", &created[17..19]), "creationTimestamp": created},
        "status": status
    }))
    .unwrap()
}

fn report_text(outcome: Value) -> String {
    json!({"outcome": outcome, "startedAt": CREATED, "endedAt": CREATED}).to_string()
}

fn done() -> String {
    report_text(json!({"state": "done"}))
}

fn refused() -> String {
    report_text(
        json!({"state": "failed", "class": "refused", "reason": "NoAuth", "message": "m", "help": null, "retryable": false}),
    )
}

fn interim() -> String {
    report_text(json!({"state": "running", "stage": "capture"}))
}

fn terminated(phase: &str, code: i32, reason: &str, message: &str) -> Value {
    json!({"phase": phase, "containerStatuses": [{
        "name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": CREATED}}
    }]})
}

fn waiting(reason: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": format!("{reason}: said kubelet")}}
    }]})
}

/// The container of a throw-away server, before the task.
fn beside(state: Value, last: Value) -> Value {
    json!({"phase": "Pending", "initContainerStatuses": [{
        "name": "server", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last
    }], "containerStatuses": waiting("PodInitializing")["containerStatuses"]})
}

fn not_started() -> Value {
    json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec format error"}})
}

fn event(about: &str, reason: &str, message: &str) -> Event {
    serde_json::from_value(json!({
        "metadata": {"name": "e"}, "involvedObject": {"name": about}, "reason": reason, "message": message,
        "lastTimestamp": CREATED
    }))
    .unwrap()
}

fn at(seconds: i64) -> Timestamp {
    CREATED.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn reason_of(state: &TaskState) -> String {
    match state {
        TaskState::Missing => "missing".into(),
        TaskState::Waiting { reason, .. } => format!("waiting {reason}"),
        TaskState::Running { .. } => "running".into(),
        TaskState::Ended { report, .. } => match &report.outcome {
            Outcome::Done => "ended done".into(),
            Outcome::Failed { reason, .. } => format!("ended {reason}"),
            Outcome::Planned => "ended planned".into(),
            Outcome::Running { stage } => format!("ended running {stage}"),
        },
        TaskState::Failed { reason, .. } => format!("failed {reason}"),
    }
}

#[rstest]
#[case::complete(ended_as("Complete", ""), vec![terminated("Succeeded", 0, "Completed", &done())], "ended done")]
#[case::complete_but_the_pod_is_gone(ended_as("Complete", ""), vec![], "failed NoReport")]
#[case::complete_but_the_report_is_gone(ended_as("Complete", ""), vec![terminated("Succeeded", 0, "Completed", "")], "failed NoReport")]
#[case::report_before_the_job_says_so(json!([]), vec![terminated("Succeeded", 0, "Completed", &done())], "ended done")]
#[case::the_task_says_why(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 5, "Error", &refused())], "ended NoAuth")]
#[case::no_retry_of_a_refusal(ended_as("FailureTarget", "PodFailurePolicy"), vec![terminated("Failed", 5, "Error", &refused())], "ended NoAuth")]
#[case::job_deadline(ended_as("Failed", "DeadlineExceeded"), vec![], "failed DeadlineExceeded")]
#[case::pod_deadline(ended_as("Failed", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "reason": "DeadlineExceeded"})], "failed DeadlineExceeded")]
#[case::node_lost_is_only_a_failure_target(ended_as("FailureTarget", "BackoffLimitExceeded"), vec![json!({"phase": "Running", "reason": "NodeLost"})], "failed NodeLost")]
#[case::node_deleted(ended_as("FailureTarget", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}]})], "failed NodeLost")]
#[case::tainted(ended_as("FailureTarget", "BackoffLimitExceeded"), vec![json!({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]})], "failed NodeLost")]
#[case::evicted(ended_as("Failed", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "reason": "Evicted", "message": "low on ephemeral-storage"})], "failed Evicted")]
#[case::evicted_by_the_api(ended_as("Failed", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]})], "failed Evicted")]
#[case::preempted(ended_as("Failed", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]})], "failed PodPreempted")]
#[case::node_shut_down(ended_as("Failed", "BackoffLimitExceeded"), vec![json!({"phase": "Failed", "reason": "Terminated"})], "failed NodeShutdown")]
#[case::out_of_memory(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 137, "OOMKilled", "")], "failed OutOfMemory")]
#[case::out_of_memory_after_an_interim_report(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 137, "OOMKilled", &interim())], "failed OutOfMemory")]
#[case::killed(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 137, "Error", "")], "failed PodKilled")]
#[case::cannot_run(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 128, "StartError", "no such file")], "failed ContainerNotStarted")]
#[case::pod_deleted_and_gone(ended_as("Failed", "BackoffLimitExceeded"), vec![], "failed PodGone")]
#[case::pod_never_ends(ended_as("FailureTarget", "BackoffLimitExceeded"), vec![json!({"phase": "Running"})], "failed PodLost")]
#[case::died_on_the_way(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 1, "Error", &interim())], "failed NoReport")]
#[case::no_words(ended_as("Failed", "BackoffLimitExceeded"), vec![terminated("Failed", 1, "Error", "")], "failed TaskFailed")]
#[case::running(json!([]), vec![json!({"phase": "Running"})], "running")]
#[case::between_attempts(json!([]), vec![terminated("Failed", 1, "Error", "")], "waiting Retrying")]
#[case::image(json!([]), vec![waiting("ImagePullBackOff")], "waiting ImagePullFailed")]
#[case::image_name(json!([]), vec![waiting("InvalidImageName")], "waiting ImagePullFailed")]
#[case::config(json!([]), vec![waiting("CreateContainerConfigError")], "waiting ContainerNotStarted")]
#[case::image_of_the_server(json!([]), vec![beside(json!({"waiting": {"reason": "ErrImagePull"}}), json!({}))], "waiting ImagePullFailed")]
#[case::server_that_cannot_run(json!([]), vec![beside(json!({"waiting": {"reason": "CrashLoopBackOff"}}), not_started())], "waiting ContainerNotStarted")]
#[case::nothing_was_installed(ended_as("Failed", "BackoffLimitExceeded"), vec![beside(not_started(), json!({}))], "failed ContainerNotStarted")]
#[case::starting(json!([]), vec![waiting("ContainerCreating")], "waiting PodStarting")]
#[case::no_node(json!([]), vec![json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]})], "waiting Unschedulable")]
#[case::suspended(json!([{"type": "Suspended", "status": "True"}]), vec![], "waiting Suspended")]
#[case::no_pod_yet(json!([]), vec![], "waiting PodNotCreated")]
fn a_job_and_its_pods_become_a_state(#[case] conditions: Value, #[case] pods: Vec<Value>, #[case] expected: &str) {
    let pods: Vec<Pod> = pods.into_iter().map(|status| pod(CREATED, status)).collect();
    assert_eq!(reason_of(&observe(&job(conditions), &pods, &[], at(60))), expected);
}

#[rstest]
#[case("nightly-0f8e9", "FailedCreate", "pods \"x\" is forbidden: exceeded quota: q", "QuotaExceeded")]
#[case(
    "nightly-0f8e9",
    "FailedCreate",
    "pods \"x\" is forbidden: violates PodSecurity \"restricted\"",
    "PodSecurityRefused"
)]
#[case("nightly-0f8e9", "FailedCreate", "serviceaccount \"backup\" not found", "ServiceAccountMissing")]
#[case("nightly-0f8e9", "FailedCreate", "admission webhook said no", "PodRefused")]
#[case("other", "FailedCreate", "exceeded quota", "PodNotCreated")]
fn a_pod_that_cannot_be_made_is_known_by_events(
    #[case] about: &str,
    #[case] reason: &str,
    #[case] message: &str,
    #[case] expected: &str,
) {
    let events = [event(about, reason, message)];
    assert_eq!(reason_of(&observe(&job(json!([])), &[], &events, at(60))), format!("waiting {expected}"));
    let given_up = observe(&job(json!([])), &[], &events, at(301));
    let expected = if expected == "PodNotCreated" { "StartDeadlineExceeded" } else { expected };
    assert_eq!(reason_of(&given_up), format!("failed {expected}"));
}

#[test]
fn a_volume_that_is_not_mounted_is_known_by_the_pods_events() {
    let pods = [pod(CREATED, waiting("ContainerCreating"))];
    let events = [event("nightly-0f8e9-00", "FailedMount", "no such claim")];
    assert_eq!(reason_of(&observe(&job(json!([])), &pods, &events, at(1))), "waiting MountFailed");
}

#[test]
fn what_has_not_started_within_its_deadline_has_failed_and_says_what_it_waited_for() {
    let pods = [pod(CREATED, waiting("ErrImagePull"))];
    assert!(
        matches!(observe(&job(json!([])), &pods, &[], at(300)), TaskState::Waiting { since, .. } if since == at(0))
    );
    let TaskState::Failed { reason, message } = observe(&job(json!([])), &pods, &[], at(301)) else { panic!() };
    assert_eq!(reason, "ImagePullFailed");
    assert!(message.contains("300 seconds") && message.contains("said kubelet"), "{message}");
}

#[test]
fn a_second_attempt_has_its_own_time_to_start() {
    let first = pod(CREATED, terminated("Failed", 1, "Error", ""));
    let second = pod("2026-11-27T12:10:00Z", waiting("ContainerCreating"));
    assert_eq!(reason_of(&observe(&job(json!([])), &[second, first], &[], at(700))), "waiting PodStarting");
}

#[test]
fn an_earlier_attempt_that_was_done_after_all_wins() {
    let first = pod(CREATED, terminated("Succeeded", 0, "Completed", &done()));
    let second = pod("2026-11-27T12:10:00Z", terminated("Failed", 1, "Error", &refused()));
    let state = observe(&job(ended_as("Failed", "BackoffLimitExceeded")), &[second, first], &[], at(700));
    assert_eq!(reason_of(&state), "ended done");
}

#[test]
fn the_newest_attempt_says_why_it_failed() {
    let first = pod(CREATED, terminated("Failed", 1, "Error", &done().replace("done", "nonsense")));
    let second = pod("2026-11-27T12:10:00Z", terminated("Failed", 5, "Error", &refused()));
    let state = observe(&job(ended_as("Failed", "BackoffLimitExceeded")), &[second, first], &[], at(700));
    assert!(matches!(&state, TaskState::Ended { pod, .. } if pod.as_deref() == Some("nightly-0f8e9-00")), "{state:?}");
}

/// A first attempt, how many the Job has counted as failed, and what keeps the second one from starting.
#[rstest]
#[case::out_of_memory(Some(terminated("Failed", 137, "OOMKilled", "")), 1, "failed RetryNotStarted")]
#[case::said_nothing(Some(terminated("Failed", 1, "Error", "")), 1, "failed RetryNotStarted")]
#[case::evicted(Some(json!({"phase": "Failed", "reason": "Evicted"})), 1, "failed RetryNotStarted")]
#[case::node_lost(Some(json!({"phase": "Running"})), 0, "failed RetryNotStarted")]
#[case::its_pod_is_gone(None, 1, "failed RetryNotStarted")]
#[case::never_ran_either(Some(terminated("Failed", 128, "StartError", "no such file")), 1, "failed ImagePullFailed")]
#[case::one_never_ran_and_one_is_gone(Some(terminated("Failed", 128, "StartError", "")), 2, "failed RetryNotStarted")]
#[case::there_was_none(None, 0, "failed ImagePullFailed")]
fn a_retry_that_cannot_start_does_not_hide_that_an_attempt_ran(
    #[case] first: Option<Value>,
    #[case] counted: i32,
    #[case] expected: &str,
) {
    let mut pods: Vec<Pod> = first.into_iter().map(|status| pod(CREATED, status)).collect();
    pods.push(pod("2026-11-27T12:10:00Z", waiting("ErrImagePull")));
    let mut job = job(json!([]));
    job.status.as_mut().unwrap().failed = Some(counted);
    let state = observe(&job, &pods, &[], at(1000));
    assert_eq!(reason_of(&state), expected);
    let TaskState::Failed { message, .. } = state else { panic!() };
    assert!(message.contains("said kubelet"), "{message}");
}

#[test]
fn a_retry_without_a_pod_or_one_that_cannot_run_does_not_hide_it_either() {
    let mut without = job(json!([]));
    without.status.as_mut().unwrap().failed = Some(1);
    let events = [event("nightly-0f8e9", "FailedCreate", "exceeded quota: q")];
    assert_eq!(reason_of(&observe(&without, &[], &events, at(1000))), "failed RetryNotStarted");
    let first = pod(CREATED, terminated("Failed", 137, "OOMKilled", ""));
    let second = pod("2026-11-27T12:10:00Z", terminated("Failed", 128, "StartError", "no such file"));
    let state = observe(&job(ended_as("Failed", "BackoffLimitExceeded")), &[first, second], &[], at(700));
    assert_eq!(reason_of(&state), "failed RetryNotStarted");
}
