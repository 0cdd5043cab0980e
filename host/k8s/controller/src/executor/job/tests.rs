//! The executor against an API in memory: created once, never applied, deleted with what runs in it.

use super::*;
use crate::executor::job::build::tests::request;
use crate::testing::{FakeApi, SettableClock};
use http::Method;

fn executor(fake: &FakeApi) -> JobExecutor {
    let clock = Arc::new(SettableClock::at("2026-11-27T12:00:00Z"));
    JobExecutor::new(fake.client(), clock, "redkeep:1".into(), None)
}

fn finish(fake: &FakeApi) {
    fake.update("Job", "shop", "nightly-0f8e9", |job| {
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    });
}

#[tokio::test]
async fn a_task_started_twice_is_one_job() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    executor.start(&request()).await.unwrap();
    assert_eq!(fake.all("Job").len(), 1);
    assert!(fake.calls().iter().all(|call| call.method == Method::POST || call.method == Method::GET));
}

#[tokio::test]
async fn a_job_of_that_name_with_another_owner_is_not_taken_for_ours() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    let mut other = request();
    other.owner.uid = "another".into();
    assert!(matches!(executor.start(&other).await, Err(ExecutorError::NameTaken { .. })));
}

#[tokio::test]
async fn a_namespace_that_goes_away_and_a_refusal_are_told_apart() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    fake.fail_when(|call| {
        (call.method == Method::POST).then(|| (403, "Forbidden", "exceeded quota: count/jobs.batch".to_owned()))
    });
    let error = executor.start(&request()).await.unwrap_err();
    assert!(matches!(error, ExecutorError::Refused { reason: "QuotaExceeded", .. }), "{error:?}");
    fake.heal();
    // As 1.34 says it of a policy that is newer than the operator.
    fake.fail_when(|call| {
        let denied = "ValidatingAdmissionPolicy 'redkeep-jobs' with binding 'redkeep-jobs' denied request: redkeep runs only \
                      its own image, not redkeep:1";
        (call.method == Method::POST).then(|| (403, "Forbidden", denied.to_owned()))
    });
    let error = executor.start(&request()).await.unwrap_err();
    assert!(matches!(error, ExecutorError::Refused { reason: "PolicyRefused", .. }), "{error:?}");
    fake.heal();
    fake.terminate_namespace("shop");
    let error = executor.start(&request()).await.unwrap_err();
    assert!(matches!(error, ExecutorError::NamespaceTerminating { .. }), "{error:?}");
}

#[tokio::test]
async fn a_cancelled_job_takes_its_pod_with_it() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    executor.cancel(&request().key).await.unwrap();
    executor.cancel(&request().key).await.unwrap();
    let deletes: Vec<_> = fake.calls().into_iter().filter(|call| call.method == Method::DELETE).collect();
    assert_eq!(deletes.len(), 1);
    assert_eq!(deletes[0].body["propagationPolicy"], "Background");
    assert_eq!(executor.observe(&request().key).await.unwrap(), TaskState::Missing);
}

#[tokio::test]
async fn a_time_to_live_comes_only_once_the_report_was_read() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    finish(&fake);
    let ttl = || fake.get("Job", "shop", "nightly-0f8e9").unwrap()["spec"]["ttlSecondsAfterFinished"].clone();
    executor.observe(&request().key).await.unwrap();
    assert!(ttl().is_null());
    executor.forget(&request().key).await.unwrap();
    executor.forget(&request().key).await.unwrap();
    assert_eq!(ttl(), KEPT_AFTER_END);
    assert_eq!(fake.writes().iter().filter(|call| call.method == Method::PATCH).count(), 1);
}

#[tokio::test]
async fn a_job_whose_pod_is_done_and_that_does_not_say_so_yet_is_kept_for_its_log() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    let report =
        json!({"outcome": {"state": "done"}, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:00:00Z"});
    let ended = json!({"name": build::CONTAINER, "state": {"terminated": {"exitCode": 0, "message": report.to_string()}},
        "image": "", "imageID": "", "ready": false, "restartCount": 0});
    fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "nightly-0f8e9-x",
        "labels": {"batch.kubernetes.io/job-name": "nightly-0f8e9"}}, "status": {"containerStatuses": [ended]}}));
    let state = executor.observe(&request().key).await.unwrap();
    assert!(matches!(&state, TaskState::Ended { .. }), "{state:?}");
    executor.forget(&request().key).await.unwrap();
    let job = fake.get("Job", "shop", "nightly-0f8e9").unwrap();
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], KEPT_AFTER_END);
}

#[tokio::test]
async fn what_never_started_is_deleted_when_it_is_forgotten() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    executor.forget(&request().key).await.unwrap();
    assert!(fake.all("Job").is_empty());
}

#[tokio::test]
async fn events_are_read_only_for_what_has_not_started() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    fake.put(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "shop", "name": "e"},
        "involvedObject": {"name": "nightly-0f8e9"}, "reason": "FailedCreate", "message": "exceeded quota: q"}));
    let state = executor.observe(&request().key).await.unwrap();
    assert!(matches!(&state, TaskState::Waiting { reason, .. } if reason == "QuotaExceeded"), "{state:?}");
    fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "nightly-0f8e9-x",
        "labels": {"batch.kubernetes.io/job-name": "nightly-0f8e9"}}, "status": {"phase": "Running"}}));
    let before = fake.calls().len();
    let state = executor.observe(&request().key).await.unwrap();
    assert!(matches!(&state, TaskState::Running { pod: Some(pod), progress: None } if pod == "nightly-0f8e9-x"));
    assert!(fake.calls()[before..].iter().all(|call| !call.path.ends_with("/events")));
}

#[tokio::test]
async fn of_many_events_none_is_overlooked() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    executor.start(&request()).await.unwrap();
    let event = |number: u32, time: &str, message: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "shop", "name": format!("e-{number:03}")},
            "involvedObject": {"name": "nightly-0f8e9"}, "reason": "FailedCreate", "message": message, "lastTimestamp": time})
    };
    for number in 0..250 {
        fake.put(event(number, "2026-11-27T11:00:00Z", "violates PodSecurity"));
    }
    // By name the last one, by time the newest.
    fake.put(event(999, "2026-11-27T11:59:00Z", "exceeded quota: q"));
    let state = executor.observe(&request().key).await.unwrap();
    assert!(matches!(&state, TaskState::Waiting { reason, .. } if reason == "QuotaExceeded"), "{state:?}");
}

#[tokio::test]
async fn when_a_task_failed_is_known_from_its_job_or_from_when_it_should_have_started() {
    let fake = FakeApi::new();
    let executor = executor(&fake);
    let key = request().key;
    let failed_at = async || executor.failed_at(&key).await.unwrap();
    assert_eq!(failed_at().await, None);
    executor.start(&request()).await.unwrap();
    fake.update("Job", "shop", "nightly-0f8e9", |job| {
        job["metadata"]["annotations"][build::START_DEADLINE] = json!("60");
    });
    assert_eq!(failed_at().await, Some("2026-11-27T12:01:00Z".parse().unwrap()));
    fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "nightly-0f8e9-x",
        "creationTimestamp": "2026-11-27T12:10:00Z", "labels": {"batch.kubernetes.io/job-name": "nightly-0f8e9"}},
        "status": {"phase": "Pending"}}));
    assert_eq!(failed_at().await, Some("2026-11-27T12:11:00Z".parse().unwrap()));
    fake.update("Job", "shop", "nightly-0f8e9", |job| {
        job["status"] = json!({"conditions": [
            {"type": "FailureTarget", "status": "True", "lastTransitionTime": "2026-11-27T12:20:00Z"},
            {"type": "Failed", "status": "True", "lastTransitionTime": "2026-11-27T12:21:00Z"}]});
    });
    assert_eq!(failed_at().await, Some("2026-11-27T12:20:00Z".parse().unwrap()));
}
