//! Methods against an API in memory: registered once, pinned, refused alone, whatever becomes of the tasks.

use std::collections::BTreeMap;

use redkeep_core::task::{Task, TaskReport};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::executor::{MountSource, TaskState};
use crate::metrics::MethodLabels;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};

const TASK: &str = "mine-aaaaa-load";
const PINNED: &str = "oci://r.io/mine@sha256:11";

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
        let mut spec = json!({"source": {"oci": {"reference": "r.io/mine:1", "pullSecret": {"name": "pull"}}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fake.put(json!({"apiVersion": "redis.io/v1", "kind": "BackupMethod",
            "metadata": {"name": "mine", "uid": "aaaaaaaa", "generation": 1}, "spec": spec}));
        Self { fake, executor, context, clock }
    }

    async fn look(&self) -> Value {
        let method: BackupMethod = serde_json::from_value(self.fake.get("BackupMethod", "", "mine").unwrap()).unwrap();
        reconcile(Arc::new(method), Arc::clone(&self.context)).await.unwrap();
        self.fake.get("BackupMethod", "", "mine").unwrap()["status"].clone()
    }

    /// The task ends; what it leaves behind is gone once it was removed.
    async fn end(&self, state: TaskState) -> Value {
        self.executor.set(TASK, state);
        let status = self.look().await;
        assert!(self.executor.cancelled.lock().unwrap().iter().any(|key| key.name == TASK), "its name is free again");
        self.executor.set(TASK, TaskState::Missing);
        self.executor.started.lock().unwrap().clear();
        self.executor.cancelled.lock().unwrap().clear();
        status
    }

    fn ready_metric(&self) -> i64 {
        self.context.metrics.method_ready.get_or_create(&MethodLabels { method: "mine".into() }).get()
    }

    /// What the started task is to load.
    fn reference(&self) -> String {
        let started = self.executor.started.lock().unwrap();
        let Task::Load(task) = &started.first().expect("a task").spec.task else { panic!() };
        task.method.oci.as_ref().unwrap().reference.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        self.fake.update("BackupMethod", "", "mine", |object| {
            change(&mut object["spec"]);
            object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
        });
    }
}

fn ended(outcome: Value, facts: &[(&str, &str)]) -> TaskState {
    let facts: BTreeMap<_, _> = facts.iter().copied().collect();
    let report = json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:30Z", "endedAt": "2026-11-27T12:00:30Z",
        "facts": facts});
    let report: TaskReport = serde_json::from_value(report).unwrap();
    TaskState::Ended { report, pod: None }
}

fn failed(reason: &str) -> TaskState {
    let outcome = json!({"state": "failed", "class": "refused", "reason": reason, "message": "it is not so",
        "help": "make it so", "retryable": false});
    ended(outcome, &[])
}

fn loaded(missing: &str) -> TaskState {
    let facts = [
        ("method", "key-listing"),
        ("method-digest", "abc"),
        ("method-version", "1.2.0"),
        ("method-summary", "Keys"),
        ("api-version", "0.1.0"),
        ("component-size", "300000"),
        ("compile-ms", "120"),
        ("reference", PINNED),
        ("granted", r#"["redis:info"]"#),
        ("missing", missing),
        ("method-schema", "{}"),
        ("method-attributes", r#"{"reads":"keys marks"}"#),
    ];
    ended(json!({"state": "done"}), &facts)
}

fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let conditions = status["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|one| one["type"] == kind)
        .map_or(("", ""), |one| (one["status"].as_str().unwrap(), one["reason"].as_str().unwrap()))
}

#[tokio::test]
async fn a_method_is_registered_where_the_operator_is_and_says_what_it_is() {
    let world = World::new(json!({"grants": ["redis:info"], "limits": {"memory": "128Mi"}}));
    let status = world.look().await;
    assert_eq!((condition(&status, "Ready"), world.executor.names()), (("Unknown", "Starting"), vec![TASK.to_owned()]));
    {
        let started = world.executor.started.lock().unwrap();
        let request = &started[0];
        assert_eq!((request.key.namespace.as_str(), request.owner.kind.as_str()), ("redkeep-system", "BackupMethod"));
        assert_eq!(request.mounts[0].source, MountSource::Secret("pull".into()));
        // Whatever the component makes of the compiler, its pod ends alone.
        let limits = request.resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!((limits["memory"].0.as_str(), limits["cpu"].0.as_str()), ("2Gi", "2"));
        let Task::Load(task) = &request.spec.task else { panic!() };
        assert_eq!((task.method.grants.len(), task.method.limits.memory_bytes), (1, Some(128 << 20)));
    }
    let status = world.end(loaded(r#"["?redis:load"]"#)).await;
    assert_eq!(condition(&status, "Ready"), ("True", "Loaded"));
    assert_eq!((&status["digest"], &status["resolvedReference"]), (&json!("sha256:abc"), &json!(PINNED)));
    assert_eq!((&status["compileMilliseconds"], &status["componentBytes"]), (&json!(120), &json!(300_000)));
    assert_eq!(status["description"]["reads"], json!(["keys", "marks"]));
    assert_eq!(status["requested"], json!(["redis:info", "?redis:load"]));
    assert_eq!((&status["granted"], &status["missing"]), (&json!(["redis:info"]), &json!(["?redis:load"])));
    assert!(status["taskName"].is_null());
    assert_eq!((&status["registeredBy"], world.ready_metric()), (&json!("redkeep:test"), 1));
    world.clock.advance(Duration::from_hours(100));
    world.look().await;
    assert!(world.executor.names().is_empty(), "once for a spec");
}

#[tokio::test]
async fn a_tag_is_resolved_once_and_another_reference_anew() {
    let world = World::new(json!({}));
    world.look().await;
    assert_eq!(world.reference(), "oci://r.io/mine:1");
    world.end(loaded("[]")).await;
    world.change(|spec| spec["grants"] = json!(["redis:info"]));
    let status = world.look().await;
    assert_eq!((condition(&status, "Ready").0, world.reference().as_str()), ("Unknown", PINNED));
    assert_eq!(status["digest"], "sha256:abc");
    world.end(loaded("[]")).await;
    world.change(|spec| spec["source"]["oci"]["reference"] = json!("r.io/mine:2"));
    let status = world.look().await;
    assert_eq!(world.reference(), "oci://r.io/mine:2");
    assert!(status["digest"].is_null() && status["description"].is_null(), "{status:#}");
}

#[rstest]
#[case(failed("PluginDigest"), "PluginDigest")]
#[case(failed("RegistryUnreachable"), "RegistryUnreachable")]
#[case(ended(json!({"state": "running", "stage": "load"}), &[]), "NoReport")]
#[case(ended(json!({"state": "done"}), &[]), "NoReport")]
#[case(TaskState::Failed { reason: "ImagePullFailed".into(), message: "no such image".into() }, "ImagePullFailed")]
#[tokio::test]
async fn a_method_that_does_not_load_says_why_and_is_tried_again(#[case] state: TaskState, #[case] reason: &str) {
    let world = World::new(json!({}));
    world.look().await;
    let status = world.end(state).await;
    assert_eq!((condition(&status, "Ready"), world.ready_metric()), (("False", reason), 0));
    world.look().await;
    assert!(world.executor.names().is_empty());
    world.clock.advance(Duration::from_secs(301));
    let status = world.look().await;
    assert_eq!((condition(&status, "Ready"), world.executor.names().len()), (("False", reason), 1));
    let status = world.end(loaded("[]")).await;
    assert_eq!(condition(&status, "Ready").0, "True");
}

#[tokio::test]
async fn what_it_cannot_do_without_must_be_granted() {
    let world = World::new(json!({}));
    world.look().await;
    let status = world.end(loaded(r#"["redis:replicate", "?redis:load"]"#)).await;
    assert_eq!(condition(&status, "Ready"), ("False", "NotGranted"));
    assert_eq!(status["missing"], json!(["redis:replicate", "?redis:load"]));
    world.clock.advance(Duration::from_hours(1));
    world.look().await;
    assert!(world.executor.names().is_empty(), "only another spec grants more");
    world.change(|spec| spec["grants"] = json!(["redis:replicate"]));
    world.look().await;
    assert_eq!(world.executor.names().len(), 1);
}

#[tokio::test]
async fn a_signature_that_is_demanded_has_a_condition_of_its_own() {
    let world = World::new(json!({"verify": {"publicKey": "-----BEGIN PUBLIC KEY-----"}}));
    world.look().await;
    let status = world.end(failed("PluginUnsigned")).await;
    assert_eq!((condition(&status, "Signed"), condition(&status, "Ready").0), (("False", "PluginUnsigned"), "False"));
    world.change(|spec| drop(spec.as_object_mut().unwrap().remove("verify")));
    world.look().await;
    let status = world.end(loaded("[]")).await;
    assert_eq!(condition(&status, "Signed"), ("", ""));
}

#[tokio::test]
async fn a_spec_that_cannot_be_followed_says_which_field() {
    let world = World::new(json!({"limits": {"memory": "much"}}));
    let status = world.look().await;
    assert_eq!((condition(&status, "Accepted"), condition(&status, "Ready").0), (("False", "InvalidSpec"), "False"));
    assert!(status["conditions"][0]["message"].as_str().unwrap().starts_with("spec.limits.memory: "), "{status:#}");
    assert!(world.executor.names().is_empty());
    world.change(|spec| drop(spec.as_object_mut().unwrap().remove("limits")));
    let status = world.look().await;
    assert_eq!((condition(&status, "Accepted").0, world.executor.names().len()), ("True", 1));
}

#[tokio::test]
async fn an_executor_that_refuses_fails_this_method_alone() {
    let world = World::new(json!({}));
    *world.executor.refuse.lock().unwrap() = Some("SecretsNotReadable");
    let status = world.look().await;
    assert_eq!(condition(&status, "Ready"), ("False", "SecretsNotReadable"));
    assert!(status["taskName"].is_null());
}

#[tokio::test]
async fn an_operator_that_died_half_way_loses_no_registration_and_reads_no_report_twice() {
    let world = World::new(json!({}));
    world.look().await;
    world.executor.started.lock().unwrap().clear();
    world.look().await;
    assert_eq!(world.executor.names(), [TASK]);
    world.end(loaded("[]")).await;
    world.executor.set(TASK, failed("Old"));
    let status = world.look().await;
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!(world.executor.cancelled.lock().unwrap().len(), 1);
}
