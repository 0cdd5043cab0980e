//! Storages against an API in memory: probed, counted, cleared, whatever becomes of the tasks.

use std::collections::BTreeMap;

use redkeep_core::classify::Class;
use redkeep_core::task::{Outcome as TaskOutcome, Task, TaskReport};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::executor::TaskState;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};

const PROBE: &str = "main-aaaaa-probe";
const GARBAGE: &str = "main-aaaaa-prune";

struct World {
    fake: FakeApi,
    executor: Arc<ScriptedExecutor>,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
}

impl World {
    fn new(more: Value) -> Self {
        let fake = FakeApi::new();
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, clock) = fake.context(Arc::clone(&executor) as _);
        let mut spec = json!({"destination": {"s3": {"bucket": "b"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fake.put(json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage",
            "metadata": {"name": "main", "namespace": "shop", "uid": "aaaaaaaa"}, "spec": spec}));
        Self { fake, executor, context, clock }
    }

    /// One that has been probed, and of which nothing is to be done.
    async fn probed() -> Self {
        let world = Self::new(json!({}));
        world.look().await;
        world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
        world.look().await;
        assert!(world.executor.names().is_empty());
        world
    }

    async fn look(&self) -> Value {
        let storage: BackupStorage =
            serde_json::from_value(self.fake.get("BackupStorage", "shop", "main").unwrap()).unwrap();
        reconcile(Arc::new(storage), Arc::clone(&self.context)).await.unwrap();
        self.fake.get("BackupStorage", "shop", "main").unwrap()["status"].clone()
    }

    /// The task ends; what it leaves behind is gone once it was removed.
    async fn end(&self, task: &str, state: TaskState) -> Value {
        self.executor.set(task, state);
        let status = self.look().await;
        assert!(self.executor.cancelled.lock().unwrap().iter().any(|key| key.name == task), "its name is free again");
        self.executor.set(task, TaskState::Missing);
        self.executor.started.lock().unwrap().retain(|request| request.key.name != task);
        self.executor.cancelled.lock().unwrap().clear();
        status
    }
}

fn ended(outcome: TaskOutcome, facts: &[(&str, &str)]) -> TaskState {
    let at = "2026-11-27T12:00:30Z".parse().unwrap();
    let facts = facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let facts = facts.collect::<BTreeMap<_, _>>();
    let report = TaskReport {
        outcome,
        started_at: at,
        ended_at: at,
        backup_id: None,
        manifest: None,
        facts,
        warnings: Vec::new(),
    };
    TaskState::Ended { report, pod: None }
}

fn failed(reason: &str) -> TaskOutcome {
    TaskOutcome::Failed {
        class: Class::Failed,
        reason: reason.to_owned(),
        message: "access denied".to_owned(),
        help: None,
        retryable: false,
    }
}

const FACTS: [(&str, &str); 10] = [
    ("backups", "3"),
    ("stored-size", "2048"),
    ("clusters", "1"),
    ("cluster-counts", "shop/carts=3,2048,2026-11-27T11:00:00Z"),
    ("oldest", "2026-11-01T00:00:00Z"),
    ("oldest-id", "20261101T000000Z-a-1"),
    ("newest", "2026-11-27T11:00:00Z"),
    ("newest-id", "20261127T110000Z-a-2"),
    ("supports-put if absent", "yes"),
    ("supports-object lock", "no: not configured"),
];

fn ready(status: &Value) -> (&str, &str) {
    let conditions = status["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
    (ready["status"].as_str().unwrap(), ready["reason"].as_str().unwrap())
}

#[tokio::test]
async fn a_storage_is_probed_at_once_counted_and_probed_again_after_its_interval() {
    let world = World::new(json!({"probeInterval": "1h"}));
    let status = world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
    assert_eq!((ready(&status), &status["address"]), (("Unknown", "Starting"), &json!("s3://b")));
    let status = world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
    assert_eq!(ready(&status), ("True", "Probed"));
    assert_eq!(
        (&status["backups"], &status["size"], &status["clusterCount"]),
        (&json!(3), &json!("2.0 KiB"), &json!(1))
    );
    assert_eq!(status["newest"], json!({"backupId": "20261127T110000Z-a-2", "time": "2026-11-27T11:00:00Z"}));
    assert_eq!(status["clusters"][0]["name"], "carts");
    let lock = &status["capabilities"][0];
    assert_eq!(
        (&lock["name"], &lock["supported"], &lock["detail"]),
        (&json!("object lock"), &json!(false), &json!("not configured"))
    );
    world.clock.advance(Duration::from_secs(3_599));
    world.look().await;
    assert!(world.executor.names().is_empty());
    world.clock.advance(Duration::from_secs(2));
    world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
}

#[tokio::test]
async fn one_that_was_probed_under_a_clock_that_was_ahead_is_probed_again() {
    let world = World::probed().await;
    world.fake.update("BackupStorage", "shop", "main", |storage| {
        storage["status"]["lastProbeTime"] = json!("2036-01-01T00:00:00Z");
    });
    world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
}

#[tokio::test]
async fn a_changed_spec_and_the_annotation_probe_at_once() {
    let world = World::probed().await;
    world.fake.update("BackupStorage", "shop", "main", |object| {
        object["metadata"]["annotations"] = json!({"redis.io/probe-now": "1"});
    });
    world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
    let status = world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
    assert_eq!(status["probeNow"], "1");
    world.look().await;
    assert!(world.executor.names().is_empty(), "once for each value");
    world.fake.update("BackupStorage", "shop", "main", |object| {
        object["spec"]["destination"]["s3"]["bucket"] = json!("other");
        object["metadata"]["generation"] = json!(7);
    });
    let status = world.look().await;
    assert_eq!((world.executor.names(), &status["address"]), (vec![PROBE.to_owned()], &json!("s3://other")));
}

#[rstest]
#[case(ended(failed("AccessDenied"), &[]), "AccessDenied")]
#[case(ended(TaskOutcome::Running { stage: "probe".into() }, &[]), "NoReport")]
#[case(TaskState::Failed { reason: "ImagePullFailed".into(), message: "no such image".into() }, "ImagePullFailed")]
#[tokio::test]
async fn a_probe_that_fails_says_why_and_is_made_again_soon(#[case] state: TaskState, #[case] reason: &str) {
    let world = World::new(json!({}));
    world.look().await;
    let status = world.end(PROBE, state).await;
    assert_eq!(ready(&status), ("False", reason));
    world.look().await;
    assert!(world.executor.names().is_empty());
    world.clock.advance(Duration::from_secs(61));
    world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
    let status = world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
    assert_eq!(ready(&status).0, "True");
}

#[tokio::test]
async fn an_operator_that_died_half_way_loses_no_probe_and_reads_no_report_twice() {
    let world = World::new(json!({}));
    // The status was written, the task not made.
    world.look().await;
    world.executor.started.lock().unwrap().clear();
    world.look().await;
    assert_eq!(world.executor.names(), [PROBE]);
    // The report was read, what is left of the task not removed.
    world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
    world.executor.set(PROBE, ended(failed("Old"), &[]));
    let status = world.look().await;
    assert_eq!(ready(&status).0, "True");
    assert_eq!(world.executor.cancelled.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn garbage_goes_by_its_schedule_and_never_a_backup() {
    let world = World::new(json!({"garbage": {"schedule": "0 13 * * *", "gracePeriod": "8d"}}));
    world.look().await;
    world.end(PROBE, ended(TaskOutcome::Done, &FACTS)).await;
    world.clock.set("2026-11-27T12:59:59Z");
    assert_eq!(world.look().await["garbage"]["nextTime"], "2026-11-27T13:00:00Z");
    world.clock.set("2026-11-27T13:00:00Z");
    world.look().await;
    let started = world.executor.started.lock().unwrap().clone();
    let request = started.iter().find(|request| request.key.name == GARBAGE).unwrap();
    let Task::Prune(task) = &request.spec.task else { panic!() };
    assert!(task.keep.is_empty() && task.grace_seconds == 8 * 86_400);
    let status = world.end(GARBAGE, ended(TaskOutcome::Done, &[("garbage-objects", "4")])).await;
    assert_eq!(status["garbage"]["objects"], 4);
    let status = world.look().await;
    assert_eq!(status["garbage"]["nextTime"], "2026-11-28T13:00:00Z");
}

#[rstest]
#[case(json!({"garbage": {"schedule": "0 0 31 2 *", "gracePeriod": "8d"}}), "spec.garbage.schedule: ")]
#[case(json!({"garbage": {"schedule": "@daily", "gracePeriod": "1h"}}), "spec.garbage.gracePeriod: ")]
#[case(json!({"garbage": {"schedule": "@daily", "gracePeriod": "7d23h"}}), "spec.garbage.gracePeriod: must be at least 8d: a backup may run for seven days")]
#[case(json!({"probeInterval": "soon"}), "spec.probeInterval: ")]
#[case(json!({"task": {"serviceAccountName": "admin"}}), "spec.task.serviceAccountName: ")]
#[tokio::test]
async fn a_spec_that_cannot_be_followed_says_which_field(#[case] more: Value, #[case] field: &str) {
    let world = World::new(more);
    let status = world.look().await;
    let conditions = status["conditions"].as_array().unwrap();
    let accepted = conditions.iter().find(|one| one["type"] == "Accepted").unwrap();
    assert_eq!(accepted["status"], "False");
    assert!(accepted["message"].as_str().unwrap().starts_with(field), "{accepted}");
    assert_eq!(ready(&status).0, "False");
    assert!(world.executor.names().is_empty());
}
