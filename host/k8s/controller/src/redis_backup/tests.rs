//! Whole runs against an API in memory: every look is a restart of the operator, so whatever was written before a crash
//! must lead to the same end, and nothing may happen twice.

use super::*;
use crate::executor::TaskKey;
use crate::redis_backup::testing::object;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};
use http::Method;
use serde_json::{Value, json};

const TASK: &str = "nightly-0f8e9";
const FIND: &str = "nightly-0f8e9-inspect";
const PIN: &str = "nightly-0f8e9-pin";

struct World {
    fake: FakeApi,
    executor: Arc<ScriptedExecutor>,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
}

impl World {
    fn new(change: Value) -> Self {
        let fake = FakeApi::new();
        fake.put(object(change, json!(null)));
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, clock) = fake.context(executor.clone());
        Self { fake, executor, context, clock }
    }

    fn backup(&self) -> Value {
        self.fake.get("RedisBackup", "shop", "nightly").unwrap()
    }

    async fn look(&self) {
        self.try_look().await.unwrap();
    }

    async fn try_look(&self) -> Result<Action, ReconcileError> {
        let backup: RedisBackup = serde_json::from_value(self.backup()).unwrap();
        Box::pin(reconcile(&backup, &self.context)).await
    }

    async fn completed(change: Value) -> Self {
        let world = Self::begun(change).await;
        world.ends(TASK, json!({"state": "done"}));
        world.look().await;
        world
    }

    async fn look_when_finished(&self) -> Action {
        let metadata = self.metadata();
        if !finished::is_touched(&metadata) {
            return Action::await_change();
        }
        finished::reconcile(metadata, Arc::clone(&self.context)).await.unwrap()
    }

    fn metadata(&self) -> Arc<PartialObjectMeta<RedisBackup>> {
        let mut metadata = self.backup();
        metadata["apiVersion"] = json!("meta.k8s.io/v1");
        metadata["kind"] = json!("PartialObjectMetadata");
        Arc::new(serde_json::from_value(metadata).unwrap())
    }

    /// As a user does.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        self.fake.update("RedisBackup", "shop", "nightly", |backup| {
            change(&mut backup["spec"]);
            backup["metadata"]["generation"] = json!(backup["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
        });
    }

    fn phase(&self) -> String {
        self.backup()["status"]["phase"].as_str().unwrap_or("none").to_owned()
    }

    fn reason(&self) -> String {
        let conditions = self.backup()["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let complete = conditions.iter().find(|condition| condition["type"] == "Complete");
        complete.map_or("none".to_owned(), |condition| condition["reason"].as_str().unwrap().to_owned())
    }

    fn ends(&self, task: &str, outcome: Value) {
        let facts =
            json!({"stored-size": "10", "size": "20", "keys": "3", "backup-path": "s3://backups/prod/x/dump.rdb"});
        let report = json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:01:00Z", "facts": facts});
        self.executor.set(task, TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None });
    }

    fn gone(&self, task: &str, reason: &str) {
        self.executor.set(task, TaskState::Failed { reason: reason.into(), message: "as the cluster says".into() });
    }

    fn runs(&self) {
        self.executor.set(TASK, TaskState::Running { pod: Some("pod".into()), progress: None });
    }

    async fn begun(change: Value) -> Self {
        let world = Self::new(change);
        world.look().await;
        world.look().await;
        world.runs();
        world.look().await;
        assert_eq!(world.phase(), "Running");
        world
    }
}

#[tokio::test]
async fn a_backup_goes_from_the_wish_to_the_end() {
    let world = World::new(json!({}));
    world.fake.fail_when(|call| (call.method == Method::PATCH).then(|| (500, "InternalError", "away".to_owned())));
    world.try_look().await.unwrap_err();
    assert!(world.executor.names().is_empty(), "the id is fixed before there is a task");
    world.fake.heal();
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "Preparing"));
    let id = world.backup()["status"]["backupId"].as_str().unwrap().to_owned();
    assert_eq!(id, "20261127T120000Z-nightly-0f8e9c1d");
    assert_eq!(world.executor.names(), [TASK], "what was resolved once is not resolved again");
    world.look().await;
    let request = world.executor.started.lock().unwrap()[0].clone();
    let task = serde_json::to_value(&request.spec).unwrap();
    assert_eq!((request.key.name.as_str(), &task["task"]["backupId"]), (TASK, &json!(id)));
    assert_eq!(task["task"]["source"]["url"], "redis-nodes://10.0.0.1:6379");
    assert_eq!(task["task"]["storage"]["credentialsDir"], "/backup-credentials");
    assert_eq!((&task["task"]["compression"], &task["task"]["origin"]), (&json!("none"), &json!("k8s:test")));
    assert_eq!(task["deadline"], "2026-11-27T18:00:00Z");
    world.runs();
    world.look().await;
    assert_eq!(world.phase(), "Running");
    world.clock.advance(std::time::Duration::from_secs(61));
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    let backup = world.backup();
    assert_eq!((world.phase().as_str(), &backup["status"]["backupSize"]), ("Completed", &json!(10)));
    assert_eq!(backup["metadata"]["labels"][labels::OUTCOME], "completed");
    assert_eq!(backup["metadata"]["labels"][labels::CLUSTER], "carts");
    assert_eq!(backup["metadata"]["annotations"][labels::COMPLETED_AT], "2026-11-27T12:01:00Z");
    assert_eq!(world.fake.events(), ["Started", "Completed"]);
    assert_eq!(world.executor.forgotten.lock().unwrap()[0].name, TASK);
    let labels = crate::metrics::ClusterLabels { namespace: "shop".into(), cluster: "carts".into() };
    assert!(world.context.metrics.last_success.get_or_create(&labels).get() > 0.0);
}

#[tokio::test]
async fn a_look_that_finds_nothing_new_writes_nothing() {
    let world = World::begun(json!({})).await;
    let before = world.fake.writes().len();
    world.clock.advance(Duration::from_secs(60));
    world.look().await;
    world.look().await;
    assert_eq!(world.fake.writes().len(), before);
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    let events = world.fake.events();
    world.look().await;
    assert_eq!(world.fake.events(), events);
}

/// The operator dies at each of its writes, before or after it took effect, and another goes on.
#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_about_the_end() {
    for crash_at in 0..12 {
        for took_effect in [false, true] {
            let world = World::new(json!({"deletionPolicy": "Delete"}));
            let mut writes = 0;
            for step in 0..12 {
                match step {
                    4 => world.runs(),
                    6 => world.ends(TASK, json!({"state": "done"})),
                    _ => {}
                }
                let before = world.fake.writes().len();
                if writes == crash_at && !took_effect {
                    let is_write =
                        |call: &crate::testing::Call| call.method != Method::GET && !call.path.contains("/events");
                    world.fake.fail_when(move |call| is_write(call).then(|| (500, "InternalError", "crash".into())));
                }
                let _ = world.try_look().await;
                world.fake.heal();
                if world.fake.writes().len() > before {
                    writes += 1;
                }
            }
            let backup = world.backup();
            assert_eq!(backup["status"]["phase"], "Completed", "{crash_at} {took_effect}");
            assert_eq!(backup["metadata"]["labels"][labels::OUTCOME], "completed");
            assert_eq!(world.executor.names(), [TASK], "one task, whatever was lost");
            let task = serde_json::to_value(&world.executor.started.lock().unwrap()[0].spec).unwrap();
            assert_eq!(task["task"]["backupId"], backup["status"]["backupId"]);
            assert_eq!(world.fake.events().iter().filter(|reason| *reason == "Completed").count(), 1);
        }
    }
}

#[tokio::test]
async fn a_status_derived_from_an_old_version_is_not_written() {
    let world = World::new(json!({}));
    let old: RedisBackup = serde_json::from_value(world.backup()).unwrap();
    world.look().await;
    let id = world.backup()["status"]["backupId"].clone();
    world.clock.advance(Duration::from_secs(5));
    reconcile(&old, &world.context).await.unwrap();
    assert_eq!(world.backup()["status"]["backupId"], id, "the id is fixed once");
}

#[tokio::test]
async fn a_report_that_is_missing_is_looked_up_in_storage() {
    for (outcome, phase, reason) in [
        (json!({"state": "done"}), "Completed", "Completed"),
        (
            json!({"state": "failed", "class": "not-found", "reason": "BackupNotFound", "message": "m", "help": null, "retryable": false}),
            "Failed",
            "NoReport",
        ),
    ] {
        let world = World::begun(json!({})).await;
        world.gone(TASK, "NoReport");
        world.look().await;
        assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Running", "Inspecting"));
        world.look().await;
        assert_eq!(world.executor.names(), [TASK, FIND]);
        let find = serde_json::to_value(&world.executor.started.lock().unwrap()[1].spec).unwrap();
        assert_eq!((&find["task"]["kind"], &find["task"]["backup"]["cluster"]), (&json!("find"), &json!("carts")));
        world.ends(FIND, outcome);
        world.look().await;
        assert_eq!((world.phase().as_str(), world.reason().as_str()), (phase, reason));
        let forgotten: Vec<String> =
            world.executor.forgotten.lock().unwrap().iter().map(|key: &TaskKey| key.name.clone()).collect();
        assert_eq!(forgotten, [TASK, FIND]);
    }
}

#[tokio::test]
async fn a_job_that_vanished_is_looked_up_too() {
    let world = World::begun(json!({})).await;
    world.executor.set(TASK, TaskState::Missing);
    world.look().await;
    assert_eq!(world.reason(), "Inspecting");
    world.ends(FIND, json!({"state": "failed", "class": "not-found", "reason": "NoBackups", "message": "m", "help": null, "retryable": false}));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "JobVanished"));
}

#[tokio::test]
async fn a_run_that_goes_on_past_its_deadline_is_stopped_and_then_looked_up() {
    let world = World::begun(json!({"activeDeadlineSeconds": 600})).await;
    world.clock.advance(Duration::from_secs(901));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Running", "Inspecting"));
    assert_eq!(world.executor.cancelled.lock().unwrap()[0].name, TASK, "it must not commit after the look");
    world.look().await;
    world.ends(FIND, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.phase(), "Completed");
}

fn complete_message(world: &World) -> String {
    let conditions = world.backup()["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let complete = conditions.iter().find(|condition| condition["type"] == "Complete").unwrap();
    complete["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_look_into_storage_that_is_hindered_is_repeated_until_it_says_something() {
    let main = json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage", "metadata": {"name": "main", "namespace": "shop"},
        "spec": {"destination": {"s3": {"bucket": "b"}}}});
    let world = World::new(json!({"destination": null, "storageRef": {"name": "main"}}));
    world.fake.put(main.clone());
    world.look().await;
    world.look().await;
    world.gone(TASK, "NodeLost");
    world.look().await;
    let inspects =
        |world: &World| assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Running", "Inspecting"));
    // Its storage is being made anew,
    world.fake.remove("BackupStorage", "shop", "main");
    world.look().await;
    inspects(&world);
    assert!(complete_message(&world).contains("there is no BackupStorage main"), "{}", complete_message(&world));
    world.fake.put(main);
    // the quota is full,
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    world.look().await;
    inspects(&world);
    *world.executor.refuse.lock().unwrap() = None;
    world.look().await;
    assert_eq!(world.executor.names(), [TASK, FIND]);
    // no node has room, twice, and then storage is away.
    world.gone(FIND, "Unschedulable");
    world.executor.fails_at(FIND, "2026-11-27T12:00:00Z");
    world.look().await;
    inspects(&world);
    assert!(world.executor.cancelled.lock().unwrap().is_empty(), "not at once");
    world.clock.advance(Duration::from_secs(121));
    world.look().await;
    assert_eq!(world.executor.cancelled.lock().unwrap()[0].name, FIND);
    world.executor.started.lock().unwrap().clear();
    world.look().await;
    assert_eq!(world.executor.names(), [FIND], "it is asked again");
    world.ends(FIND, json!({"state": "failed", "class": "failed", "reason": "StorageDown", "message": "away", "help": null, "retryable": true}));
    world.look().await;
    inspects(&world);
    world.ends(FIND, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.phase(), "Completed");
}

#[tokio::test]
async fn a_look_into_storage_that_stays_hindered_ends_and_says_by_what() {
    let world = World::begun(json!({"activeDeadlineSeconds": 600})).await;
    world.gone(TASK, "NodeLost");
    world.look().await;
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    world.look().await;
    world.clock.advance(Duration::from_secs(1501));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "NodeLost"));
    let error = world.backup()["status"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("whether the backup exists is not known") && error.contains("as the test says"), "{error}");
}

#[tokio::test]
async fn a_run_whose_loss_is_found_long_after_its_deadline_is_looked_up_all_the_same() {
    let world = World::begun(json!({"activeDeadlineSeconds": 600})).await;
    world.executor.set(TASK, TaskState::Missing);
    world.clock.advance(Duration::from_secs(86_400));
    world.look().await;
    world.look().await;
    assert_eq!(world.executor.names(), [TASK, FIND]);
    world.ends(FIND, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.phase(), "Completed");
}

#[tokio::test]
async fn what_may_not_be_read_is_said_and_ends_a_run_that_was_not_begun() {
    let world = World::new(json!({"destination": null, "storageRef": {"name": "main"}}));
    let forbidden = "backupstorages.redis.io \"main\" is forbidden: cannot get resource \"backupstorages\"";
    world.fake.fail_when(move |call| {
        call.path.contains("/backupstorages/").then(|| (403, "Forbidden", forbidden.to_owned()))
    });
    // A run that has waited long for something else is not ended by one answer that fails.
    world.clock.advance(Duration::from_secs(301));
    world.try_look().await.unwrap_err();
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "KubernetesApi"));
    assert!(complete_message(&world).contains(forbidden), "{}", complete_message(&world));
    world.clock.advance(Duration::from_secs(300));
    world.try_look().await.unwrap_err();
    world.clock.advance(Duration::from_secs(1));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "KubernetesApi"));
    assert_eq!(world.fake.events(), ["KubernetesApi"]);
    assert!(world.backup()["status"]["error"].as_str().unwrap().contains(forbidden));
    assert_eq!(world.backup()["metadata"]["labels"][labels::OUTCOME], "failed");
}

#[tokio::test]
async fn what_may_not_be_read_any_more_is_said_of_a_run_that_was_begun() {
    let world = World::new(json!({"destination": null, "storageRef": {"name": "main"}}));
    world.fake.put(
        json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage", "metadata": {"name": "main", "namespace": "shop"},
        "spec": {"destination": {"s3": {"bucket": "b"}}}}),
    );
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    world.look().await;
    world.fake.fail_when(|call| call.path.contains("/backupstorages/").then(|| (403, "Forbidden", "cut".to_owned())));
    world.clock.advance(Duration::from_secs(301));
    world.try_look().await.unwrap_err();
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "Preparing"));
    assert!(complete_message(&world).contains("cut"), "{}", complete_message(&world));
}

#[tokio::test]
async fn a_name_that_can_be_no_label_does_not_hold_the_outcome_back() {
    let bad = |call: &crate::testing::Call| {
        let label = call.body["metadata"]["labels"][labels::CLUSTER].as_str().unwrap_or_default().to_owned();
        label
            .ends_with('_')
            .then(|| (422, "Invalid", "a valid label must end with an alphanumeric character".to_owned()))
    };
    let world = World::begun(json!({"source": {"endpoints": ["10.0.0.1:6379"], "name": "mymaster_"}})).await;
    world.fake.fail_when(bad);
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.backup()["status"]["cluster"], "mymaster_");
    let found = world.backup()["metadata"]["labels"].clone();
    assert_eq!((&found[labels::OUTCOME], &found[labels::CLUSTER]), (&json!("completed"), &Value::Null));
}

#[tokio::test]
async fn a_label_that_the_api_server_refuses_does_not_hold_the_outcome_back_either() {
    let world = World::begun(json!({})).await;
    world.fake.fail_when(|call| {
        call.body["metadata"]["labels"][labels::CLUSTER]
            .is_string()
            .then(|| (422, "Invalid", "no such label".to_owned()))
    });
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    let backup = world.backup();
    assert_eq!(backup["metadata"]["labels"][labels::OUTCOME], "completed");
    assert!(backup["metadata"]["annotations"][labels::COMPLETED_AT].is_string());
}

#[tokio::test]
async fn the_cluster_that_a_backup_counts_for_is_the_one_that_it_is_of() {
    let world = World::begun(json!({})).await;
    world.fake.update("RedisBackup", "shop", "nightly", |backup| {
        backup["metadata"]["labels"] = json!({labels::CLUSTER: "another"});
    });
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.backup()["metadata"]["labels"][labels::CLUSTER], "carts");
}

#[tokio::test]
async fn what_never_started_fails_with_its_reason_and_is_removed() {
    let world = World::new(json!({}));
    world.look().await;
    world.look().await;
    world.gone(TASK, "ImagePullFailed");
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "ImagePullFailed"));
    assert_eq!(world.fake.events(), ["ImagePullFailed"]);
    assert_eq!(world.backup()["metadata"]["labels"][labels::OUTCOME], "failed");
    assert_eq!(world.executor.forgotten.lock().unwrap()[0].name, TASK);
}

#[tokio::test]
async fn what_is_named_and_missing_is_waited_for_but_not_for_ever() {
    let world = World::new(json!({"source": null, "clusterName": "carts"}));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "ClusterNotFound"));
    world.clock.advance(Duration::from_secs(301));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "ClusterNotFound"));
    assert!(world.executor.names().is_empty());
}

#[tokio::test]
async fn a_spec_that_cannot_be_followed_fails_at_once_and_says_which_field() {
    let world = World::new(json!({"compression": "brotli"}));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "InvalidSpec"));
    assert!(world.backup()["status"]["error"].as_str().unwrap().starts_with("spec.compression: "));
}

/// A BackupMethod as it stands once it was registered, or not.
fn backup_method(ready: &str) -> Value {
    json!({"apiVersion": "redis.io/v1", "kind": "BackupMethod", "metadata": {"name": "mine", "generation": 1},
        "spec": {"source": {"oci": {"reference": "r.io/mine:1", "pullSecret": {"name": "pull"}}},
            "grants": ["redis:replicate"], "limits": {"memory": "128Mi"}, "parameters": {"window": "30s"}},
        "status": {"observedGeneration": 2, "digest": "sha256:aa", "resolvedReference": "oci://r.io/mine@sha256:11",
            "description": {"name": "key-listing"},
            "conditions": [{"type": "Ready", "status": ready, "reason": "PluginUnsigned", "message": "it is not signed",
                "lastTransitionTime": "2026-11-27T12:00:00Z"}]}})
}

#[tokio::test]
async fn a_method_that_is_not_there_or_not_ready_is_waited_for_and_then_loaded_by_its_pinned_digest() {
    let world = World::new(json!({"method": "mine"}));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "MethodNotFound"));
    world.fake.put(backup_method("False"));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "MethodNotReady"));
    assert!(world.executor.names().is_empty());
    world.fake.put(backup_method("True"));
    world.look().await;
    world.look().await;
    let started = world.executor.started.lock().unwrap();
    let redkeep_core::task::Task::Backup(task) = &started[0].spec.task else { panic!() };
    let method = &task.method;
    assert_eq!(method.oci.as_ref().unwrap().reference, "oci://r.io/mine@sha256:11");
    assert_eq!((method.name.as_str(), method.digest.as_deref()), ("key-listing", Some("sha256:aa")));
    assert_eq!((method.grants.len(), method.limits.memory_bytes), (1, Some(128 << 20)));
    assert_eq!(task.parameters["window"], "30s");
    let pull = crate::executor::Mount::secret("pull", "/method-registry");
    assert!(started[0].mounts.contains(&pull), "{:?}", started[0].mounts);
}

#[tokio::test]
async fn a_task_that_is_refused_fails_with_that_reason_but_a_full_quota_is_waited_for() {
    let world = World::new(json!({}));
    world.look().await;
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    world.look().await;
    assert_eq!(world.phase(), "Pending");
    world.clock.advance(Duration::from_secs(301));
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "QuotaExceeded"));
    let refused = World::new(json!({}));
    refused.look().await;
    *refused.executor.refuse.lock().unwrap() = Some("NeedsSecrets");
    refused.look().await;
    assert_eq!((refused.phase().as_str(), refused.reason().as_str()), ("Failed", "NeedsSecrets"));
}

#[tokio::test]
async fn the_finalizer_is_there_only_while_artifacts_are_to_go() {
    let world = World::new(json!({"deletionPolicy": "Delete"}));
    world.look().await;
    assert_eq!(world.backup()["metadata"]["finalizers"], json!([labels::DELETE_ARTIFACTS_FINALIZER]));
    world.fake.update("RedisBackup", "shop", "nightly", |backup| backup["spec"]["deletionPolicy"] = json!("Retain"));
    world.look().await;
    assert!(world.backup()["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test]
async fn a_finished_backup_costs_a_read_only_when_its_user_touched_it() {
    let world = World::completed(json!({})).await;
    let before = world.fake.calls().len();
    world.look_when_finished().await;
    assert_eq!(world.fake.calls().len(), before);
    world.change(|spec| spec["deletionPolicy"] = json!("Delete"));
    world.look_when_finished().await;
    assert_eq!(world.backup()["metadata"]["finalizers"], json!([labels::DELETE_ARTIFACTS_FINALIZER]));
}

#[tokio::test]
async fn a_pin_that_is_set_after_the_end_reaches_storage() {
    let world = World::completed(json!({})).await;
    let look = async || world.look_when_finished().await;
    let asked = || serde_json::to_value(&world.executor.started.lock().unwrap().last().unwrap().spec.task).unwrap();
    let noted = || world.backup()["metadata"]["annotations"][labels::PINNED].clone();
    let done = |pinned: &str| {
        let report = json!({
            "outcome": {"state": "done"}, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:01:00Z",
            "facts": {"pinned": pinned},
        });
        world.executor.set(PIN, TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None });
    };
    // Whatever was pinned by hand stays so, though something else of the spec changes.
    world.change(|spec| spec["deletionPolicy"] = json!("Delete"));
    look().await;
    assert_eq!(world.executor.names(), [TASK]);
    world.change(|spec| spec["pin"] = json!(true));
    look().await;
    assert_eq!(world.executor.names(), [TASK, PIN]);
    assert_eq!((&asked()["kind"], &asked()["pinned"]), (&json!("pin"), &json!(true)));
    assert_eq!(noted(), "changing", "not before it is done");
    done("yes");
    // Taken back while the task ran: what it did is noted, and then undone.
    world.change(|spec| spec["pin"] = json!(false));
    look().await;
    assert_eq!((noted(), world.fake.events().last().map(String::as_str)), (json!("true"), Some("Pinned")));
    world.executor.started.lock().unwrap().clear();
    look().await;
    assert_eq!(asked()["pinned"], false);
    // And wished for again while that one runs: it is not done, though it was once.
    world.change(|spec| spec["pin"] = json!(true));
    done("no");
    look().await;
    assert_eq!((noted(), world.fake.events().last().map(String::as_str)), (json!("false"), Some("Unpinned")));
    world.executor.started.lock().unwrap().clear();
    look().await;
    assert_eq!(asked()["pinned"], true);
    done("yes");
    look().await;
    assert_eq!(noted(), "true");
    world.executor.started.lock().unwrap().clear();
    // Left by an operator that ended right after it had noted that.
    done("yes");
    look().await;
    assert_eq!(world.executor.names(), [""; 0]);
    assert!(!world.executor.states.lock().unwrap().contains_key(PIN), "nobody must hear it again");
}

#[tokio::test]
async fn a_pin_that_fails_is_tried_again_after_a_pause_and_one_of_a_backup_that_is_gone_is_not() {
    let world = World::completed(json!({})).await;
    let look = async || world.look_when_finished().await;
    let fails = |reason: &str| {
        world.ends(PIN, json!({"state": "failed", "class": "not-found", "reason": reason, "message": "m", "help": null, "retryable": false}));
    };
    let starts = || world.executor.started.lock().unwrap().drain(..).count();
    world.change(|spec| spec["pin"] = json!(true));
    look().await;
    assert_eq!(starts(), 2);
    // A bucket that is away is no backup that is gone.
    fails("StorageNotFound");
    look().await;
    look().await;
    assert_eq!((starts(), world.fake.events().last().map(String::as_str)), (0, Some("StorageNotFound")));
    world.clock.advance(std::time::Duration::from_secs(121));
    look().await;
    assert_eq!(starts(), 1);
    fails("BackupNotFound");
    look().await;
    world.clock.advance(std::time::Duration::from_secs(121));
    look().await;
    assert_eq!((starts(), world.fake.events().last().map(String::as_str)), (0, Some("BackupNotFound")));
}

#[tokio::test]
async fn a_backup_that_was_pinned_from_the_beginning_can_be_unpinned() {
    let world = World::begun(json!({"pin": true})).await;
    world.fake.update("RedisBackup", "shop", "nightly", |backup| backup["metadata"]["generation"] = json!(0));
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.backup()["metadata"]["annotations"][labels::PINNED], "true");
    world.change(|spec| spec["pin"] = json!(false));
    world.look_when_finished().await;
    assert_eq!(world.executor.names(), [TASK, PIN]);
}

#[tokio::test]
async fn a_pin_that_was_taken_back_while_the_backup_ran_is_taken_away_in_storage() {
    let world = World::begun(json!({"pin": true})).await;
    world.fake.update("RedisBackup", "shop", "nightly", |backup| {
        backup["metadata"]["generation"] = json!(2);
        backup["spec"]["pin"] = json!(false);
    });
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.backup()["metadata"]["annotations"][labels::PINNED], "changing");
    world.look_when_finished().await;
    assert_eq!(world.executor.names(), [TASK, PIN]);
    let task = serde_json::to_value(&world.executor.started.lock().unwrap()[1].spec.task).unwrap();
    assert_eq!((&task["kind"], &task["pinned"]), (&json!("pin"), &json!(false)));
}

#[tokio::test]
async fn a_task_whose_clock_is_ahead_ends_no_later_than_now() {
    let world = World::begun(json!({})).await;
    let report = json!({
        "outcome": {"state": "done"}, "startedAt": "2036-11-27T12:00:00Z", "endedAt": "2036-11-27T12:01:00Z", "facts": {},
    });
    world.executor.set(TASK, TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None });
    world.look().await;
    let completed: jiff::Timestamp = world.backup()["status"]["completedAt"].as_str().unwrap().parse().unwrap();
    assert!(completed <= world.context.now(), "{completed}");
}

#[tokio::test]
async fn a_backup_that_is_to_be_verified_is_finished_only_when_it_was() {
    for (outcome, condition, event) in [
        (json!({"state": "done"}), "True", "Verified"),
        (
            json!({"state": "failed", "class": "damaged", "reason": "DigestMismatch", "message": "m", "help": null, "retryable": false}),
            "False",
            "DigestMismatch",
        ),
    ] {
        let world = World::begun(json!({"verification": {"level": "checksum"}})).await;
        world.ends(TASK, json!({"state": "done"}));
        world.look().await;
        assert_eq!(world.phase(), "Completed");
        assert!(world.backup()["metadata"]["labels"][labels::OUTCOME].is_null());
        // Its schedule is told at once: it is a backup, not a run that goes on.
        assert!(world.backup()["metadata"]["annotations"][labels::COMPLETED_AT].is_string());
        world.look().await;
        world.look().await;
        assert_eq!(world.executor.names(), [TASK, "nightly-0f8e9-verify"]);
        world.ends("nightly-0f8e9-verify", outcome);
        world.executor.forgotten.lock().unwrap().clear();
        world.look().await;
        let is_forgotten = || world.executor.forgotten.lock().unwrap().iter().any(|key| key.name.ends_with("-verify"));
        assert!(is_forgotten());
        // And by whoever comes after an operator that ended right after it had written the verdict down.
        world.executor.forgotten.lock().unwrap().clear();
        world.fake.update("RedisBackup", "shop", "nightly", |backup| {
            backup["metadata"]["labels"].as_object_mut().unwrap().remove(labels::OUTCOME);
        });
        world.look().await;
        assert!(is_forgotten());
        let backup = world.backup();
        let conditions = backup["status"]["conditions"].as_array().unwrap();
        let verified = conditions.iter().find(|one| one["type"] == "Verified").unwrap();
        assert_eq!((&verified["status"], world.phase().as_str()), (&json!(condition), "Completed"));
        assert_eq!(backup["metadata"]["labels"][labels::OUTCOME], "completed");
        assert_eq!(world.fake.events().last().map(String::as_str), Some(event));
    }
}

/// A BackupStorage with one place.
fn narrow() -> Value {
    json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage", "metadata": {"name": "main", "namespace": "shop", "uid": "s"},
        "spec": {"destination": {"s3": {"bucket": "backups"}}, "maxConcurrentTasks": 1}})
}

fn into_narrow(more: Value) -> Value {
    let mut change = json!({"destination": null, "backupCredentialsSecret": null, "storageRef": {"name": "main"}});
    change.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    change
}

#[tokio::test]
async fn a_run_waits_for_its_place_as_long_as_it_might_run_and_no_longer() {
    let world = World::new(into_narrow(json!({"activeDeadlineSeconds": 3600})));
    world.fake.put(narrow());
    let created = world.context.now().to_string();
    world.fake.update("RedisBackup", "shop", "nightly", |run| run["metadata"]["creationTimestamp"] = json!(created));
    let others_run = || world.context.places.keep("another", "shop", Some("main"), world.context.now());
    others_run();
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Pending", "WaitingForSlot"));
    world.clock.advance(Duration::from_secs(3_600));
    others_run();
    world.look().await;
    assert_eq!(world.reason(), "WaitingForSlot");
    world.clock.advance(Duration::from_secs(1));
    others_run();
    world.look().await;
    assert_eq!((world.phase().as_str(), world.reason().as_str()), ("Failed", "WaitingForSlot"));
    assert!(world.backup()["status"]["error"].as_str().unwrap().contains("activeDeadlineSeconds"));
    assert_eq!(world.backup()["metadata"]["labels"][labels::OUTCOME], "failed", "its schedule goes on");
    assert!(world.executor.names().is_empty());
}

#[tokio::test]
async fn a_verification_waits_for_its_place_as_long_as_it_might_run_and_no_longer() {
    let world = World::new(into_narrow(json!({"activeDeadlineSeconds": 3600, "verification": {"level": "checksum"}})));
    world.fake.put(narrow());
    for _ in 0..2 {
        world.look().await;
    }
    world.ends(TASK, json!({"state": "done"}));
    world.look().await;
    assert_eq!(world.phase(), "Completed");
    for (after, is_over) in [(0, false), (3_600, false), (1, true)] {
        world.clock.advance(Duration::from_secs(after));
        world.context.places.keep("another", "shop", Some("main"), world.context.now());
        for _ in 0..2 {
            world.look().await;
        }
        let conditions = world.backup()["status"]["conditions"].clone();
        let verified = conditions.as_array().unwrap().iter().find(|one| one["type"] == "Verified").cloned();
        assert_eq!(verified.is_some(), is_over, "{conditions}");
        if let Some(verified) = verified {
            assert_eq!((&verified["status"], &verified["reason"]), (&json!("Unknown"), &json!("WaitingForSlot")));
        }
    }
    assert_eq!(world.executor.names(), [TASK]);
}
