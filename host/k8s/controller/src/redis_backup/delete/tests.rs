//! Deletion against an API in memory and an executor whose tasks stand as the test says.

use super::*;
use crate::redis_backup::testing::object;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const TASK: &str = "nightly-0f8e9-delete";

struct World {
    fake: FakeApi,
    executor: Arc<ScriptedExecutor>,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
}

impl World {
    fn new(change: Value, annotations: Value) -> Self {
        let fake = FakeApi::new();
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, clock) = fake.context(executor.clone());
        let status = json!({"phase": "Completed", "backupId": "20261127T120000Z-nightly-0f8e9c1d", "cluster": "carts"});
        let mut backup = object(change, status);
        backup["metadata"]["finalizers"] = json!([labels::DELETE_ARTIFACTS_FINALIZER]);
        backup["metadata"]["deletionTimestamp"] = json!("2026-11-27T12:00:00Z");
        backup["metadata"]["annotations"] = annotations;
        fake.put(backup);
        Self { fake, executor, context, clock }
    }

    fn with_policy(change: Value) -> Self {
        let mut all = json!({"deletionPolicy": "Delete"});
        for (key, value) in change.as_object().unwrap() {
            all[key] = value.clone();
        }
        Self::new(all, json!({}))
    }

    async fn look(&self) -> Result<Action, ReconcileError> {
        let backup = self.fake.get("RedisBackup", "shop", "nightly").unwrap();
        reconcile(&serde_json::from_value(backup).unwrap(), &self.context).await
    }

    fn is_there(&self) -> bool {
        self.fake.get("RedisBackup", "shop", "nightly").is_some()
    }

    fn ends(&self, outcome: Value) {
        let report =
            json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:00:00Z"});
        self.executor.set(TASK, TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None });
    }
}

#[tokio::test]
async fn the_artifacts_go_first_and_then_the_object() {
    let world = World::with_policy(json!({}));
    world.look().await.unwrap();
    assert_eq!(world.executor.names(), [TASK]);
    let spec = serde_json::to_value(&world.executor.started.lock().unwrap()[0].spec).unwrap();
    assert_eq!((&spec["task"]["kind"], &spec["task"]["force"]), (&json!("delete"), &json!(true)));
    assert_eq!(spec["task"]["backup"]["backup"], "20261127T120000Z-nightly-0f8e9c1d");
    assert_eq!(world.executor.started.lock().unwrap()[0].owner.block_owner_deletion, Some(false));
    world.executor.set(TASK, TaskState::Running { pod: None, progress: None });
    world.look().await.unwrap();
    assert!(world.is_there());
    world.ends(json!({"state": "done"}));
    world.look().await.unwrap();
    assert!(!world.is_there());
    assert_eq!(world.fake.events(), ["Deleted"]);
}

#[tokio::test]
async fn the_task_is_forgotten_only_after_the_object_or_it_would_begin_again() {
    let world = World::with_policy(json!({}));
    world.ends(json!({"state": "done"}));
    world.fake.fail_when(|call| (call.method == http::Method::PATCH).then(|| (500, "InternalError", "crash".into())));
    world.look().await.unwrap_err();
    world.fake.heal();
    assert!(world.is_there() && world.executor.forgotten.lock().unwrap().is_empty());
    world.look().await.unwrap();
    assert!(!world.is_there());
    assert_eq!(world.executor.forgotten.lock().unwrap()[0].name, TASK);
}

#[tokio::test]
async fn an_object_that_changed_meanwhile_is_not_taken_for_released() {
    let world = World::with_policy(json!({}));
    world.ends(json!({"state": "done"}));
    let seen = world.fake.get("RedisBackup", "shop", "nightly").unwrap();
    world.fake.update("RedisBackup", "shop", "nightly", |backup| {
        backup["metadata"]["finalizers"] = json!(["another", labels::DELETE_ARTIFACTS_FINALIZER]);
    });
    let action = reconcile(&serde_json::from_value(seen).unwrap(), &world.context).await.unwrap();
    assert_eq!(action, Action::requeue(OUTDATED));
    assert!(world.executor.forgotten.lock().unwrap().is_empty(), "its task would be begun again");
    assert!(world.fake.events().is_empty());
    assert_eq!(world.look().await.unwrap(), Action::await_change());
    assert_eq!(world.executor.forgotten.lock().unwrap().len(), 1);
    let finalizers = world.fake.get("RedisBackup", "shop", "nightly").unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(finalizers, json!(["another"]));
}

#[tokio::test]
async fn artifacts_that_are_gone_already_are_no_hindrance() {
    let world = World::with_policy(json!({}));
    world.ends(json!({"state": "failed", "class": "not-found", "reason": "BackupNotFound", "message": "m", "help": null, "retryable": false}));
    world.look().await.unwrap();
    assert!(!world.is_there());
}

#[tokio::test]
async fn a_deletion_that_fails_is_said_and_tried_again_after_a_pause() {
    let world = World::with_policy(json!({}));
    world.ends(json!({"state": "failed", "class": "failed", "reason": "StorageDown", "message": "m", "help": null, "retryable": true}));
    world.clock.advance(Duration::from_secs(30));
    world.look().await.unwrap();
    assert!(world.executor.cancelled.lock().unwrap().is_empty(), "not at once");
    let condition = world.fake.get("RedisBackup", "shop", "nightly").unwrap()["status"]["conditions"][0].clone();
    assert_eq!((&condition["type"], &condition["status"]), (&json!("ArtifactsDeleted"), &json!("False")));
    assert_eq!(condition["reason"], "StorageDown");
    assert!(condition["message"].as_str().unwrap().contains("unable to delete the artifacts: m"), "{condition}");
    world.clock.advance(Duration::from_secs(100));
    world.look().await.unwrap();
    assert_eq!(world.executor.cancelled.lock().unwrap()[0].name, TASK);
    assert_eq!(world.fake.events(), ["StorageDown"]);
    assert!(world.is_there());
    world.fake.update("RedisBackup", "shop", "nightly", |backup| {
        backup["metadata"]["annotations"] = json!({labels::ABANDON_ARTIFACTS: "true"});
    });
    world.look().await.unwrap();
    assert!(!world.is_there(), "released by annotation");
}

#[tokio::test]
async fn a_storage_that_is_gone_does_not_stop_the_annotation() {
    let world = World::with_policy(
        json!({"destination": null, "storageRef": {"name": "gone"}, "backupCredentialsSecret": null}),
    );
    world.look().await.unwrap();
    assert!(world.is_there() && world.executor.names().is_empty());
    assert_eq!(world.fake.events(), ["StorageNotFound"]);
    world.fake.update("RedisBackup", "shop", "nightly", |backup| {
        backup["metadata"]["annotations"] = json!({labels::ABANDON_ARTIFACTS: "true"});
    });
    world.look().await.unwrap();
    assert!(!world.is_there());
}

#[tokio::test]
async fn in_a_namespace_that_goes_away_a_storage_that_went_first_holds_nothing() {
    let world = World::with_policy(
        json!({"destination": null, "storageRef": {"name": "gone"}, "backupCredentialsSecret": null}),
    );
    world.fake.terminate_namespace("shop");
    world.look().await.unwrap();
    assert!(!world.is_there());
    assert!(world.executor.names().is_empty());
}

#[tokio::test]
async fn in_a_namespace_that_goes_away_the_object_is_released() {
    let world = World::with_policy(json!({}));
    world.fake.terminate_namespace("shop");
    // Jobs of the real executor, which asks the API server.
    let clock = Arc::clone(&world.clock) as Arc<dyn crate::clock::Clock>;
    let jobs = crate::executor::job::JobExecutor::new(world.fake.client(), clock, "i".into(), None);
    let (context, _) = world.fake.context(Arc::new(jobs));
    let backup = world.fake.get("RedisBackup", "shop", "nightly").unwrap();
    reconcile(&serde_json::from_value(backup).unwrap(), &context).await.unwrap();
    assert!(!world.is_there());
}

#[tokio::test]
async fn what_must_not_be_deleted_is_kept_and_the_object_goes() {
    let kept = [
        World::new(json!({"deletionPolicy": "Retain"}), json!({})),
        World::new(json!({"deletionPolicy": "Delete"}), json!({labels::KEEP_ARTIFACTS: "true"})),
        World::new(json!({"deletionPolicy": "Delete", "pin": true}), json!({})),
    ];
    for world in kept {
        world.look().await.unwrap();
        assert!(!world.is_there() && world.executor.names().is_empty());
    }
}

#[tokio::test]
async fn a_run_that_goes_on_is_stopped_before_anything_is_deleted() {
    let world = World::with_policy(json!({}));
    world.fake.update("RedisBackup", "shop", "nightly", |backup| backup["status"]["phase"] = json!("Running"));
    world.look().await.unwrap();
    let cancelled: Vec<String> = world.executor.cancelled.lock().unwrap().iter().map(|key| key.name.clone()).collect();
    assert_eq!(cancelled, ["nightly-0f8e9", "nightly-0f8e9-inspect"]);
}

#[tokio::test]
async fn a_deletion_whose_task_dies_without_a_report_is_tried_again_after_a_pause_too() {
    let world = World::with_policy(json!({}));
    world.ends(json!({"state": "running", "stage": "delete"}));
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(world.look().await.unwrap(), Action::requeue(Duration::from_secs(90)));
    assert!(world.executor.cancelled.lock().unwrap().is_empty(), "not at once");
    world.executor.set(TASK, TaskState::Failed { reason: "OutOfMemory".into(), message: "m".into() });
    world.executor.fails_at(TASK, "2026-11-27T12:00:20Z");
    assert_eq!(world.look().await.unwrap(), Action::requeue(Duration::from_secs(110)));
    assert!(world.executor.cancelled.lock().unwrap().is_empty(), "not at once");
    world.clock.advance(Duration::from_secs(111));
    world.look().await.unwrap();
    assert_eq!(world.executor.cancelled.lock().unwrap()[0].name, TASK);
}
