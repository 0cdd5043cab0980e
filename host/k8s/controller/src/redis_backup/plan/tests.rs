//! Runs that read a pod's files, against an API in memory: every look is a restart of the operator.

use super::super::reconcile;
use super::super::testing::object;
use crate::executor::{Executor, MountSource, TaskState};
use crate::testing::{FakeApi, ScriptedExecutor};
use redkeep_k8s_api::redis_backup::RedisBackup;
use serde_json::{Value, json};
use std::sync::Arc;

use super::*;
use crate::context::Context;

const TASK: &str = "nightly-0f8e9";
const PLAN: &str = "nightly-0f8e9-plan";

struct World {
    fake: FakeApi,
    executor: Arc<ScriptedExecutor>,
    context: Arc<Context>,
}

fn pod(uid: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "redis-1", "namespace": "shop", "uid": uid, "labels": {"app": "redis"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "redis", "uid": "u1"}]},
        "spec": spec(), "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn spec() -> Value {
    json!({"securityContext": {"runAsUser": 999},
        "containers": [{"name": "redis", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-redis-1"}}]})
}

impl World {
    fn new(change: &Value) -> Self {
        let fake = FakeApi::new();
        let mut spec_change = json!({"source": {"statefulSet": {"name": "redis", "files": {}}, "name": "carts"}});
        for (key, value) in change.as_object().unwrap() {
            spec_change[key] = value.clone();
        }
        fake.put(object(spec_change, json!(null)));
        fake.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "redis", "namespace": "shop", "uid": "u1"},
            "spec": {"serviceName": "redis", "selector": {"matchLabels": {"app": "redis"}}, "template": {"spec": spec()},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}}));
        fake.put(pod("p1", "10.0.0.2"));
        fake.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-redis-1", "namespace": "shop"}, "spec": {"accessModes": ["ReadWriteOnce"]}}));
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, _) = fake.context(Arc::clone(&executor) as Arc<dyn Executor>);
        Self { fake, executor, context }
    }

    async fn look(&self) -> Result<Action, ReconcileError> {
        let backup: RedisBackup = serde_json::from_value(self.backup()).unwrap();
        Box::pin(reconcile(&backup, &self.context)).await
    }

    async fn looks(&self, times: u32) {
        for _ in 0..times {
            self.look().await.unwrap();
        }
    }

    fn backup(&self) -> Value {
        self.fake.get("RedisBackup", "shop", "nightly").unwrap()
    }

    /// Phase, and the reason of a condition.
    fn stands(&self, condition: &str) -> (String, String) {
        let status = self.backup()["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == condition);
        let reason = found.and_then(|one| one["reason"].as_str()).unwrap_or("none").to_owned();
        (status["phase"].as_str().unwrap_or("none").to_owned(), reason)
    }

    fn ends(&self, task: &str, outcome: &Value, node: &str) {
        let report = json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:01:00Z",
            "facts": {"node": node}});
        self.executor.set(task, TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None });
    }

    fn planned(&self, node: &str) {
        self.ends(PLAN, &json!({"state": "planned"}), node);
    }

    fn task(&self, number: usize) -> (crate::executor::TaskRequest, Value) {
        let request = self.executor.started.lock().unwrap()[number].clone();
        let spec = serde_json::to_value(&request.spec).unwrap()["task"].clone();
        (request, spec)
    }
}

#[tokio::test]
async fn the_server_is_chosen_first_and_its_pod_written_down_before_its_files_are_read() {
    let world = World::new(&json!({"method": "aof", "parameters": {"source": "auto"}}));
    world.looks(2).await;
    assert_eq!(world.executor.names(), [PLAN]);
    let (request, task) = world.task(0);
    assert_eq!(
        (request.purpose, &task["dryRun"], &task["method"]["name"]),
        (Purpose::Plan, &json!(true), &json!("rdb"))
    );
    assert_eq!((&task["source"]["url"], &task["parameters"]), (&json!("redis-nodes://10.0.0.2:6379"), &json!({})));
    world.executor.set(PLAN, TaskState::Running { pod: None, progress: None });
    world.looks(1).await;
    assert_eq!(world.stands("Complete"), ("Pending".to_owned(), "Planning".to_owned()));
    world.planned("redis://10.0.0.2:6379");
    world.looks(1).await;
    assert_eq!(world.executor.names(), [PLAN], "written down before there is a task");
    let status = world.backup()["status"].clone();
    assert_eq!((&status["targetPod"], &status["plan"]["podUid"]), (&json!("redis-1"), &json!("p1")));
    world.looks(1).await;
    assert_eq!(world.executor.names(), [PLAN, TASK]);
    let (request, task) = world.task(1);
    assert_eq!(
        (&task["source"]["url"], &task["source"]["dataDir"]),
        (&json!("redis://10.0.0.2:6379"), &json!("/redis-data"))
    );
    assert_eq!((&task["parameters"], &task["method"]["name"]), (&json!({"source": "files"}), &json!("aof")));
    assert_eq!((&task["dryRun"], request.placement.run_as_user), (&json!(false), Some(999)));
    let claims: Vec<_> =
        request.mounts.iter().filter(|mount| matches!(mount.source, MountSource::Claim { .. })).collect();
    assert_eq!(claims.len(), 1);
    world.executor.set(TASK, TaskState::Running { pod: None, progress: None });
    world.looks(1).await;
    world.ends(TASK, &json!({"state": "done"}), "redis://10.0.0.2:6379");
    world.looks(1).await;
    assert_eq!(world.stands("Complete").0, "Completed");
    assert_eq!(world.backup()["status"]["targetPod"], "redis-1");
    let forgotten: Vec<String> = world.executor.forgotten.lock().unwrap().iter().map(|key| key.name.clone()).collect();
    assert_eq!(forgotten, [PLAN, TASK]);
}

#[tokio::test]
async fn a_pod_replaced_after_the_choice_is_chosen_again_and_in_the_end_given_up() {
    let world = World::new(&json!({}));
    world.looks(2).await;
    for round in 0..=MOST_REPEATS {
        world.planned("redis://10.0.0.2:6379");
        world.looks(1).await;
        assert_eq!(world.backup()["status"]["targetPod"], "redis-1", "round {round}");
        world.fake.put(pod(&format!("p{}", round + 2), "10.0.0.2"));
        // The choice is forgotten, and the next one begun.
        world.looks(2).await;
        if round < MOST_REPEATS {
            assert_eq!(world.stands("Complete"), ("Pending".to_owned(), "Planning".to_owned()), "round {round}");
            assert!(world.backup()["status"]["targetPod"].is_null());
        }
    }
    assert_eq!(world.stands("Failed"), ("Failed".to_owned(), "PodReplaced".to_owned()));
    let cancelled = world.executor.cancelled.lock().unwrap().iter().filter(|key| key.name == PLAN).count();
    assert_eq!(cancelled, usize::try_from(MOST_REPEATS).unwrap(), "what an old choice said is not heard again");
    assert_eq!(world.executor.names(), [PLAN]);
}

#[tokio::test]
async fn a_choice_that_fails_ends_the_run_with_its_reason() {
    let world = World::new(&json!({}));
    world.looks(2).await;
    let failed = json!({"state": "failed", "class": "refused", "reason": "NoNodeFit", "message": "m", "help": "h", "retryable": false});
    world.ends(PLAN, &failed, "");
    world.looks(1).await;
    assert_eq!(world.stands("Failed"), ("Failed".to_owned(), "NoNodeFit".to_owned()));
    assert_eq!(world.backup()["status"]["error"], "m (help: h)");
    assert_eq!(world.executor.names(), [PLAN]);
}

/// The operator dies at each of its writes, before or after it took effect, and another goes on.
#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_about_the_end() {
    for crash_at in 0..10 {
        for took_effect in [false, true] {
            let world = World::new(&json!({}));
            let mut writes = 0;
            for step in 0..16 {
                match step {
                    4 => world.planned("redis://10.0.0.2:6379"),
                    8 => world.executor.set(TASK, TaskState::Running { pod: None, progress: None }),
                    11 => world.ends(TASK, &json!({"state": "done"}), "redis://10.0.0.2:6379"),
                    _ => {}
                }
                let before = world.fake.writes().len();
                if writes == crash_at && !took_effect {
                    let is_write = |call: &crate::testing::Call| {
                        call.method != http::Method::GET && !call.path.contains("/events")
                    };
                    world.fake.fail_when(move |call| is_write(call).then(|| (500, "InternalError", "crash".into())));
                }
                let _ = world.look().await;
                world.fake.heal();
                writes += u32::from(world.fake.writes().len() > before);
            }
            assert_eq!(world.stands("Complete").0, "Completed", "{crash_at} {took_effect}");
            assert_eq!(world.executor.names(), [PLAN, TASK], "{crash_at} {took_effect}");
        }
    }
}

/// The same run reads by replication where the set cannot be read otherwise; here it says why not.
#[tokio::test]
async fn what_cannot_be_read_is_refused_before_there_is_a_task() {
    let world = World::new(&json!({"parameters": {"source": "replication"}}));
    world.looks(1).await;
    assert_eq!(world.stands("Accepted"), ("Failed".to_owned(), "InvalidSpec".to_owned()));
    let world = World::new(&json!({}));
    world.fake.update("StatefulSet", "shop", "redis", |set| set["spec"]["volumeClaimTemplates"] = json!([]));
    world.looks(1).await;
    assert_eq!(world.stands("Accepted"), ("Failed".to_owned(), "InvalidSpec".to_owned()));
    assert!(world.executor.names().is_empty());
}

/// The servers go away between the beginning and the task: that is what is said in the end, not that a task vanished.
#[tokio::test]
async fn a_source_that_is_gone_once_the_run_was_begun_is_the_reason_of_its_end() {
    let world = World::new(&json!({}));
    world.looks(1).await;
    world.fake.remove("Pod", "shop", "redis-1");
    world.looks(2).await;
    assert_eq!(world.stands("Complete"), ("Pending".to_owned(), "Preparing".to_owned()));
    assert!(world.executor.names().is_empty());
    world.fake.put(pod("p2", "10.0.0.2"));
    world.looks(1).await;
    assert_eq!(world.executor.names(), [PLAN]);
}
