//! The whole reconcile against an API server in memory: what is written, and what a crash between two writes leaves.

use jiff::Timestamp;
use kube::runtime::watcher::Event;
use redkeep_core::task::{Outcome as Ending, Task, TaskReport};
use serde_json::{Value, json};

use redkeep_k8s_api::labels;

use super::testing::{child, object};
use super::*;
use crate::executor::TaskState;
use crate::metrics::ClusterLabels;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};
use redkeep_core::classify::Classify;

struct World {
    fake: FakeApi,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
    executor: Arc<ScriptedExecutor>,
    shared: Shared,
}

impl World {
    fn new(schedule: Value, now: &str) -> Self {
        let fake = FakeApi::new();
        fake.put(schedule);
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, clock) = fake.context(Arc::clone(&executor) as Arc<_>);
        clock.set(now);
        Self { fake, context, clock, executor, shared: Shared::default() }
    }

    /// As a watch would: the newest objects, then a look.
    async fn look(&self) -> Result<Action, ReconcileError> {
        self.list();
        self.look_without_list().await
    }

    fn list(&self) {
        self.shared.children.take(Event::Init);
        for backup in self.fake.all("RedisBackup") {
            self.shared.children.take(Event::InitApply(serde_json::from_value(backup).unwrap()));
        }
        self.shared.children.take(Event::InitDone);
    }

    async fn look_without_list(&self) -> Result<Action, ReconcileError> {
        let schedule = serde_json::from_value(self.schedule()).unwrap();
        reconcile(&schedule, &self.context, &self.shared).await
    }

    /// Another operator, or this one after a crash: it remembers nothing.
    fn restart(&mut self) {
        self.shared = Shared::default();
    }

    fn schedule(&self) -> Value {
        self.fake.get("RedisScheduledBackup", "shop", "nightly").unwrap()
    }

    fn status(&self, field: &str) -> Value {
        self.schedule()["status"][field].clone()
    }

    fn runs(&self) -> Vec<String> {
        let name = |run: Value| run["metadata"]["name"].as_str().unwrap().to_owned();
        self.fake.all("RedisBackup").into_iter().map(name).collect()
    }

    fn end(&self, name: &str, outcome: &str, at: &str) {
        self.fake.update("RedisBackup", "shop", name, |run| {
            run["metadata"]["labels"][labels::OUTCOME] = json!(outcome);
            run["metadata"]["annotations"][labels::COMPLETED_AT] = json!(at);
        });
    }

    /// Other schedules of the namespace.
    fn siblings(&self, others: impl IntoIterator<Item = Value>) {
        let (reader, mut writer) = kube::runtime::reflector::store();
        for (index, mut other) in others.into_iter().enumerate() {
            other["metadata"]["name"] = json!(format!("other-{index}"));
            other["metadata"]["uid"] = json!(format!("uid-of-other-{index}"));
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value(other).unwrap()));
        }
        self.shared.siblings.are_in(reader);
    }

    /// By which rules retention runs after a success.
    async fn prune_rules(&self) -> redkeep_core::task::KeepRules {
        let at = "2026-11-20T02:05:00Z";
        self.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("completed", at))));
        for _ in 0..2 {
            self.look().await.unwrap();
        }
        let started = self.executor.started.lock().unwrap().clone();
        let Task::Prune(task) = &started[0].spec.task else { panic!("{:?}", started[0].spec.task) };
        task.keep.clone()
    }

    fn condition(&self, kind: &str) -> Value {
        let conditions = self.status("conditions");
        conditions.as_array().unwrap().iter().find(|one| one["type"] == kind).cloned().unwrap_or_default()
    }
}

const FIRST: &str = "nightly-202611210200";

fn ran(until: &str) -> Value {
    json!({
        "observedGeneration": 1, "lastScheduleTime": until,
        "inForce": {"schedule": "0 2 * * *", "timeZone": "UTC", "since": "2026-11-01T00:00:30Z"},
    })
}

fn nightly(change: Value) -> Value {
    object(change, ran("2026-11-20T02:00:00Z"))
}

#[tokio::test]
async fn a_slot_makes_one_run_that_is_written_down_at_once() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
    let run = world.fake.get("RedisBackup", "shop", FIRST).unwrap();
    assert_eq!(run["metadata"]["ownerReferences"][0]["uid"], testing::UID);
    assert_eq!(run["metadata"]["labels"][labels::CLUSTER], "carts");
    assert_eq!(run["spec"]["destination"]["s3"]["bucket"], "backups");
    assert_eq!(run["spec"]["schedule"], Value::Null, "only what a RedisBackup has");
    assert_eq!(world.status("lastScheduleTime"), "2026-11-21T02:00:00Z");
    assert_eq!(world.status("nextScheduleTime"), "2026-11-22T02:00:00Z");
    assert_eq!(world.status("active")[0]["name"], FIRST);
    assert_eq!(world.fake.events(), ["Created"]);
    let writes = world.fake.writes();
    assert_eq!(writes.len(), 2, "one creation, one status");
    assert!(writes[1].body["metadata"]["resourceVersion"].is_string());
    assert_eq!(world.shared.timer.take_due("2026-11-22T02:00:00Z".parse().unwrap()).len(), 1);
}

#[tokio::test]
async fn looking_again_writes_nothing() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    let before = world.fake.calls().len();
    for _ in 0..3 {
        world.look().await.unwrap();
    }
    assert_eq!(world.fake.calls().len(), before);
}

#[tokio::test]
async fn a_crash_between_creation_and_status_doubles_nothing() {
    let mut world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.fake.fail_when(|call| call.path.ends_with("/status").then(|| (500, "InternalError", "crash".to_owned())));
    world.look().await.unwrap_err();
    world.fake.heal();
    world.restart();
    world.clock.set("2026-11-21T02:00:09Z");
    // The worst: the new operator's list does not have it yet.
    world.look_without_list().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
    assert_eq!(world.status("lastScheduleTime"), "2026-11-21T02:00:00Z");
}

#[tokio::test]
async fn a_status_that_changed_meanwhile_is_not_overwritten_and_nothing_is_doubled() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    let stale = serde_json::from_value(world.schedule()).unwrap();
    world
        .fake
        .update("RedisScheduledBackup", "shop", "nightly", |object| object["metadata"]["labels"] = json!({"a": "b"}));
    reconcile(&stale, &world.context, &world.shared).await.unwrap();
    assert_eq!(world.status("lastScheduleTime"), "2026-11-20T02:00:00Z");
    world.look().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
    assert_eq!(world.status("lastScheduleTime"), "2026-11-21T02:00:00Z");
}

#[tokio::test]
async fn a_run_that_was_pruned_does_not_come_again() {
    let mut world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    world.fake.remove("RedisBackup", "shop", FIRST);
    world.restart();
    world.clock.set("2026-11-21T02:10:00Z");
    world.look().await.unwrap();
    assert_eq!(world.runs(), Vec::<String>::new());
    assert_eq!(world.status("active"), Value::Null);
}

#[tokio::test]
async fn a_name_that_somebody_else_has_costs_the_slot_and_is_said() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    let mut other = child(FIRST, "2026-11-21T02:00:00Z", None);
    other["metadata"]["ownerReferences"][0]["uid"] = json!("an older schedule of the same name");
    world.fake.put(other);
    world.look().await.unwrap();
    assert_eq!(world.fake.events(), ["NameTaken"]);
    assert_eq!(world.status("lastScheduleTime"), "2026-11-21T02:00:00Z");
    assert_eq!(world.status("active"), Value::Null);
}

#[tokio::test]
async fn forbid_reads_what_the_status_names_live() {
    let mut schedule = nightly(json!({}));
    schedule["status"]["active"] = json!([{"name": "nightly-202611200200", "uid": "u"}]);
    let world = World::new(schedule, "2026-11-21T02:00:00Z");
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", None));
    // The cache does not have it, and still the slot waits.
    world.look_without_list().await.unwrap();
    assert_eq!(world.runs(), ["nightly-202611200200"]);
    assert_eq!(world.fake.events(), ["Skipped"]);
    world.end("nightly-202611200200", "completed", "2026-11-21T02:30:00Z");
    world.clock.set("2026-11-21T02:30:01Z");
    world.look().await.unwrap();
    assert_eq!(world.runs(), ["nightly-202611200200", FIRST]);
}

#[tokio::test]
async fn an_active_run_that_is_gone_blocks_nothing() {
    let mut schedule = nightly(json!({}));
    schedule["status"]["active"] = json!([{"name": "nightly-202611200200", "uid": "u"}]);
    let world = World::new(schedule, "2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
}

#[tokio::test]
async fn a_skip_is_said_once() {
    let world = World::new(nightly(json!({"startingDeadlineSeconds": 60})), "2026-11-21T03:00:00Z");
    for second in 0..3 {
        world.clock.set(&format!("2026-11-21T03:00:0{second}Z"));
        world.look().await.unwrap();
    }
    assert_eq!(world.fake.events(), ["Skipped"]);
    assert_eq!(world.runs(), Vec::<String>::new());
}

#[tokio::test]
async fn replace_cancels_the_run_before() {
    let world = World::new(nightly(json!({"concurrencyPolicy": "Replace"})), "2026-11-21T02:00:00Z");
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", None));
    world.look().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
    let deletion = world.fake.writes().into_iter().find(|call| call.method == http::Method::DELETE).unwrap();
    assert_eq!(deletion.body["propagationPolicy"], "Background");
    assert_eq!(deletion.body["preconditions"]["uid"], "uid-of-nightly-202611200200");
}

#[tokio::test]
async fn a_backup_that_is_verified_is_neither_replaced_nor_waited_for() {
    for policy in ["Replace", "Forbid"] {
        let world = World::new(nightly(json!({"concurrencyPolicy": policy})), "2026-11-21T02:00:00Z");
        let mut verified = child("nightly-202611200200", "2026-11-20T02:00:00Z", None);
        verified["metadata"]["annotations"][labels::COMPLETED_AT] = json!("2026-11-20T02:05:00Z");
        world.fake.put(verified);
        world.look().await.unwrap();
        assert_eq!(world.runs(), ["nightly-202611200200", FIRST], "{policy}");
        assert_eq!(world.status("lastSuccessfulBackup"), "nightly-202611200200");
    }
}

#[tokio::test]
async fn a_run_that_completed_unseen_is_not_replaced() {
    let world = World::new(nightly(json!({"concurrencyPolicy": "Replace"})), "2026-11-21T02:00:00Z");
    let mut done = child("nightly-202611200200", "2026-11-20T02:00:00Z", None);
    done["status"] = json!({"phase": "Completed"});
    world.fake.put(done);
    world.look().await.unwrap();
    assert_eq!(world.runs(), ["nightly-202611200200", FIRST]);
}

#[tokio::test]
async fn history_limits_remove_objects_and_keep_their_artifacts() {
    let world = World::new(nightly(json!({"successfulBackupsHistoryLimit": 1})), "2026-11-20T12:00:00Z");
    for day in [18, 19, 20] {
        let at = format!("2026-11-{day}T02:00:00Z");
        let mut run = child(&format!("nightly-202611{day}0200"), &at, Some(("completed", &at)));
        if day == 18 {
            run["metadata"]["finalizers"] = json!([labels::DELETE_ARTIFACTS_FINALIZER]);
        }
        world.fake.put(run);
    }
    world.look().await.unwrap();
    assert_eq!(world.runs(), ["nightly-202611180200", "nightly-202611200200"]);
    let held = world.fake.get("RedisBackup", "shop", "nightly-202611180200").unwrap();
    assert_eq!(held["metadata"]["annotations"][labels::KEEP_ARTIFACTS], "true");
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(world.status("lastSuccessfulBackup"), "nightly-202611200200");
    let before = world.fake.writes().len();
    world.look().await.unwrap();
    assert_eq!(world.fake.writes().len(), before, "what is being deleted is not deleted again");
}

#[tokio::test]
async fn an_object_that_changed_is_not_pruned_unseen() {
    let world = World::new(nightly(json!({"successfulBackupsHistoryLimit": 0})), "2026-11-20T12:00:00Z");
    let at = "2026-11-20T02:00:00Z";
    let mut run = child("nightly-202611200200", at, Some(("completed", at)));
    run["metadata"]["finalizers"] = json!([labels::DELETE_ARTIFACTS_FINALIZER]);
    world.fake.put(run);
    world.list();
    world.fake.update("RedisBackup", "shop", "nightly-202611200200", |run| run["spec"]["pin"] = json!(true));
    world.look_without_list().await.unwrap();
    assert_eq!(world.runs(), ["nightly-202611200200"]);
}

#[tokio::test]
async fn artifacts_of_an_object_that_got_its_finalizer_unseen_stay() {
    let world = World::new(nightly(json!({"successfulBackupsHistoryLimit": 0})), "2026-11-20T12:00:00Z");
    let at = "2026-11-20T02:00:00Z";
    let mut run = child("nightly-202611200200", at, Some(("completed", at)));
    run["metadata"]["generation"] = json!(2);
    world.fake.put(run);
    world.list();
    world.fake.update("RedisBackup", "shop", "nightly-202611200200", |run| {
        run["metadata"]["finalizers"] = json!([labels::DELETE_ARTIFACTS_FINALIZER]);
    });
    world.look_without_list().await.unwrap();
    let held = world.fake.get("RedisBackup", "shop", "nightly-202611200200").unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held:#}");
    assert_eq!(held["metadata"]["annotations"][labels::KEEP_ARTIFACTS], "true");
}

#[tokio::test]
async fn a_wrong_spec_is_said_on_the_object_once_and_mended_later() {
    let world = World::new(nightly(json!({"schedule": "0 0 30 2 *"})), "2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    world.look().await.unwrap();
    assert_eq!(world.fake.events(), ["InvalidSpec"]);
    let accepted = world.status("conditions")[0].clone();
    assert_eq!((accepted["type"].as_str(), accepted["status"].as_str()), (Some("Accepted"), Some("False")));
    assert!(accepted["message"].as_str().unwrap().starts_with("spec.schedule: no year"));
    world
        .fake
        .update("RedisScheduledBackup", "shop", "nightly", |object| object["spec"]["schedule"] = json!("0 3 * * *"));
    world.look().await.unwrap();
    assert_eq!(world.status("conditions")[0]["status"], "True");
    assert_eq!(world.runs(), Vec::<String>::new(), "what passed meanwhile is nobody's");
    assert_eq!(world.status("nextScheduleTime"), "2026-11-21T03:00:00Z");
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_goes_away() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.fake.terminate_namespace("shop");
    world.look().await.unwrap();
    assert_eq!(world.runs(), Vec::<String>::new());
    assert_eq!(world.status("lastScheduleTime"), "2026-11-20T02:00:00Z");
}

#[tokio::test]
async fn a_refused_run_is_said_and_tried_again() {
    let world = World::new(nightly(json!({})), "2026-11-21T02:00:00Z");
    world.fake.fail_when(|call| {
        let is_creation = call.method == http::Method::POST && call.path.ends_with("/redisbackups");
        is_creation.then(|| (403, "Forbidden", "exceeded quota".to_owned()))
    });
    let error = world.look().await.unwrap_err();
    assert!(error.retryable());
    assert_eq!(world.fake.events(), ["CreateFailed"]);
    world.fake.heal();
    world.look().await.unwrap();
    assert_eq!(world.runs(), [FIRST]);
}

#[tokio::test]
async fn a_schedule_that_never_succeeded_is_counted_by_its_age_and_a_success_survives_its_object() {
    let mut world = World::new(nightly(json!({})), "2026-11-21T01:00:00Z");
    let cluster = ClusterLabels { namespace: "shop".into(), cluster: "carts".into() };
    world.look().await.unwrap();
    assert!(world.context.metrics.last_success.get(&cluster).is_none());
    let labels = crate::metrics::ScheduleLabels {
        namespace: "shop".into(),
        cluster: "carts".into(),
        schedule: "nightly".into(),
    };
    let created = "2026-11-01T00:00:30Z".parse::<Timestamp>().unwrap().as_second();
    let seen = world.context.metrics.schedule_created.get(&labels).map(|gauge| gauge.get()).unwrap();
    assert_eq!(format!("{seen}"), created.to_string());
    world.clock.set("2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    world.end(FIRST, "completed", "2026-11-21T02:03:00Z");
    world.look().await.unwrap();
    world.fake.remove("RedisBackup", "shop", FIRST);
    world.restart();
    world.context.metrics.last_success.clear();
    world.look().await.unwrap();
    let expected = "2026-11-21T02:03:00Z".parse::<Timestamp>().unwrap().as_second();
    let gauge = world.context.metrics.last_success.get(&cluster).map(|gauge| gauge.get()).unwrap();
    assert_eq!(format!("{gauge}"), expected.to_string());
}

#[tokio::test]
async fn the_annotation_makes_one_run_however_often_it_is_looked_at() {
    let mut schedule = nightly(json!({"suspend": true}));
    schedule["metadata"]["annotations"] = json!({labels::RUN_NOW: "before the migration"});
    let mut world = World::new(schedule, "2026-11-21T12:00:00Z");
    world.look().await.unwrap();
    world.restart();
    world.clock.set("2026-11-21T12:05:00Z");
    world.look().await.unwrap();
    assert_eq!(world.runs().len(), 1);
    assert_eq!(world.status("runNow"), "before the migration");
    assert_eq!(world.status("lastScheduleTime"), "2026-11-20T02:00:00Z");
}

fn report(deleted: &str) -> TaskReport {
    let facts = [("kept", "3"), ("deleted", deleted), ("plan-20261118T020000Z-n-a", "delete: no rule keeps it")];
    TaskReport {
        outcome: Ending::Done,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: Timestamp::UNIX_EPOCH,
        backup_id: None,
        manifest: None,
        facts: facts.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        warnings: Vec::new(),
    }
}

#[tokio::test]
async fn retention_runs_as_a_task_after_a_success_and_shows_its_plan() {
    let world = World::new(nightly(json!({"retention": {"keepLast": 3}})), "2026-11-20T12:00:00Z");
    let at = "2026-11-20T02:05:00Z";
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("completed", at))));
    world.look().await.unwrap();
    assert!(world.executor.names().is_empty(), "its name is in the status before there is a task");
    let name = world.status("retention")["taskName"].as_str().unwrap().to_owned();
    world.look().await.unwrap();
    world.look().await.unwrap();
    let started = world.executor.started.lock().unwrap().clone();
    assert_eq!(started.len(), 1);
    let Task::Prune(task) = &started[0].spec.task else { panic!("{:?}", started[0].spec.task) };
    assert_eq!((task.keep.last, task.origin.as_deref()), (Some(3), Some("k8s:test")));
    assert_eq!(task.cluster.as_ref().map(ToString::to_string).as_deref(), Some("carts"));
    let key = started[0].key.name.clone();
    assert!(key.starts_with(&name) && key.len() <= 63, "{key}");
    world.executor.set(&key, TaskState::Ended { report: report("1"), pod: None });
    world.look().await.unwrap();
    assert_eq!(world.status("retention")["deleted"], 1);
    assert_eq!(world.status("retention")["plan"][0]["reasons"][0], "no rule keeps it");
    assert_eq!(world.executor.forgotten.lock().unwrap().len(), 1);
    assert_eq!(world.context.metrics.retention_deleted.get(), 1);
    world.look().await.unwrap();
    assert_eq!(world.executor.started.lock().unwrap().len(), 1, "until the next success or the next day");
    world.clock.set("2026-11-21T01:59:00Z");
    world.look().await.unwrap();
    assert_eq!(world.executor.started.lock().unwrap().len(), 1);
    // An operator that ended right after it had noted the report did not forget the task: the next run does.
    world.executor.forgotten.lock().unwrap().clear();
    world.clock.set("2026-11-21T12:01:00Z");
    // The first look makes the slot's run.
    world.look().await.unwrap();
    world.look().await.unwrap();
    assert_eq!(world.executor.forgotten.lock().unwrap().iter().filter(|forgotten| forgotten.name == key).count(), 1);
}

#[tokio::test]
async fn the_newest_backup_is_read_again_by_a_schedule_of_its_own() {
    let change = json!({"verification": {"level": "parse", "schedule": "0 4 * * *"}});
    let mut world = World::new(nightly(change), "2026-11-20T03:59:00Z");
    let at = "2026-11-20T02:05:00Z";
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("completed", at))));
    world.clock.set("2026-11-21T03:59:00Z");
    world.look().await.unwrap();
    world.look().await.unwrap();
    assert_eq!(world.status("verification")["phase"], "Pending", "a slot that was missed is made good once");
    let begun = world.status("verification")["startedAt"].clone();
    world.restart();
    world.look().await.unwrap();
    world.look().await.unwrap();
    let tasks = || world.executor.started.lock().unwrap().clone();
    let verify: Vec<_> = tasks().into_iter().filter(|task| matches!(task.spec.task, Task::Verify(_))).collect();
    assert_eq!(verify.len(), 1);
    let Task::Verify(task) = &verify[0].spec.task else { panic!() };
    assert_eq!((task.backup.backup.as_str(), task.record), ("latest", true));
    assert_eq!(
        task.backup.origin.as_deref(),
        Some("k8s:test"),
        "the newest of this operator, not of whoever shares the prefix"
    );
    assert_eq!(task.backup.cluster.as_ref().map(ToString::to_string).as_deref(), Some("carts"));
    let key = verify[0].key.name.clone();
    let outcome = Ending::Failed {
        class: redkeep_core::classify::Class::Damaged,
        reason: "DigestMismatch".into(),
        message: "dump.rdb was changed".into(),
        help: None,
        retryable: false,
    };
    world.executor.set(&key, TaskState::Ended { report: TaskReport { outcome, ..report("0") }, pod: None });
    world.look().await.unwrap();
    assert_eq!(world.status("verification")["phase"], "Failed");
    assert_eq!(world.status("verification")["startedAt"], begun);
    assert!(world.fake.events().contains(&"DigestMismatch".to_owned()), "{:?}", world.fake.events());
    let cluster = ClusterLabels { namespace: "shop".into(), cluster: "carts".into() };
    assert_eq!(world.context.metrics.verification_failed.get(&cluster).map(|gauge| gauge.get()), Some(1));
    assert_eq!(world.executor.forgotten.lock().unwrap().len(), 1);
    world.look().await.unwrap();
    assert_eq!(world.status("nextVerificationTime"), "2026-11-21T04:00:00Z");
    world.clock.set("2026-11-21T04:00:00Z");
    world.executor.forgotten.lock().unwrap().clear();
    world.look().await.unwrap();
    assert_eq!(world.status("verification")["phase"], "Pending", "its slot came");
    assert_eq!(world.executor.forgotten.lock().unwrap()[0].name, key, "should nobody have done so before");
}

#[tokio::test]
async fn retention_that_cannot_begin_is_said_and_blocks_no_slot() {
    let change = json!({"retention": {"keepLast": 3}, "destination": null, "backupCredentialsSecret": null, "storageRef": {"name": "gone"}});
    let world = World::new(nightly(change), "2026-11-20T12:00:00Z");
    let at = "2026-11-20T02:05:00Z";
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("completed", at))));
    for _ in 0..3 {
        world.look().await.unwrap();
    }
    assert_eq!(world.fake.events(), ["StorageNotFound"]);
    let error = world.status("retention")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("BackupStorage gone"), "{error}");
    world.clock.set("2026-11-21T02:00:00Z");
    world.look().await.unwrap();
    assert!(world.runs().contains(&FIRST.to_owned()));
}

#[tokio::test]
async fn a_suspended_schedule_lets_go_of_nothing() {
    let world = World::new(nightly(json!({"retention": {"keepLast": 1}, "suspend": true})), "2026-11-20T12:00:00Z");
    let at = "2026-11-20T02:05:00Z";
    world.fake.put(child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("completed", at))));
    for _ in 0..3 {
        world.look().await.unwrap();
    }
    assert!(world.executor.names().is_empty());
    assert_eq!(world.status("retention"), Value::Null);
}

#[tokio::test]
async fn a_sibling_that_names_the_same_bucket_otherwise_keeps_what_it_keeps() {
    let storage = |name: &str, bucket: &str| {
        json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage", "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"destination": {"s3": {"bucket": bucket, "path": "prod/", "endpoint": "http://minio:9000"}}}})
    };
    let by_name =
        |name: &str| json!({"destination": null, "backupCredentialsSecret": null, "storageRef": {"name": name}});
    for (own, other, expected) in [
        (json!({}), by_name("main"), Some(12)),
        (by_name("main"), json!({}), Some(12)),
        (by_name("main"), by_name("second"), Some(12)),
        (json!({}), by_name("elsewhere"), None),
    ] {
        let mut change = own.clone();
        change["retention"] = json!({"keepLast": 24});
        let world = World::new(nightly(change), "2026-11-20T12:00:00Z");
        for (name, bucket) in [("main", "backups"), ("second", "backups"), ("elsewhere", "other")] {
            world.fake.put(storage(name, bucket));
        }
        let mut change = other.clone();
        change["retention"] = json!({"keepMonthly": 12});
        world.siblings([object(change, json!({}))]);
        assert_eq!(world.prune_rules().await.monthly, expected, "{own} and {other}");
    }
}

#[tokio::test]
async fn a_sibling_whose_storage_is_not_known_keeps_everything() {
    let world = World::new(nightly(json!({"retention": {"keepLast": 24}})), "2026-11-20T12:00:00Z");
    let unknown = json!({"destination": null, "backupCredentialsSecret": null, "storageRef": {"name": "gone"}, "retention": {"keepLast": 1}});
    world.siblings([object(unknown, json!({}))]);
    assert!(world.prune_rules().await.is_empty());
}

/// A backup that is complete and is being read again.
fn being_verified(name: &str, completed: &str) -> Value {
    let mut run = child(name, completed, None);
    run["metadata"]["annotations"][labels::COMPLETED_AT] = json!(completed);
    run
}

#[tokio::test]
async fn retention_waits_for_the_verifications_that_ran_when_it_became_due_and_for_no_later_ones() {
    let change = json!({"schedule": "0 * * * *", "retention": {"keepLast": 3}});
    let mut status = ran("2026-11-20T12:00:00Z");
    status["inForce"]["schedule"] = json!("0 * * * *");
    let mut world = World::new(object(change, status), "2026-11-20T12:10:00Z");
    world.fake.put(being_verified("nightly-202611201200", "2026-11-20T12:05:00Z"));
    world.look().await.unwrap();
    assert_eq!(world.status("retention"), Value::Null);
    let pruned = world.condition("Pruned");
    assert_eq!((&pruned["status"], &pruned["reason"]), (&json!("Unknown"), &json!("Postponed")));
    assert!(pruned["message"].as_str().unwrap().contains("nightly-202611201200"), "{pruned}");
    world.restart();
    world.clock.set("2026-11-20T13:10:00Z");
    world.fake.put(being_verified("nightly-202611201300", "2026-11-20T13:05:00Z"));
    // The first look makes the slot's run.
    for _ in 0..2 {
        world.look().await.unwrap();
    }
    assert_eq!(world.status("retention"), Value::Null, "the first one is still being read");
    world.end("nightly-202611201200", "completed", "2026-11-20T12:05:00Z");
    world.look().await.unwrap();
    assert!(world.status("retention")["taskName"].is_string(), "the later one is not waited for");
    assert_eq!(world.condition("Pruned")["reason"], "Running");
}

#[tokio::test]
async fn retention_waits_for_what_was_being_restored_when_it_became_due_and_for_nothing_later() {
    let world = World::new(nightly(json!({"retention": {"keepLast": 3}})), "2026-11-20T12:10:00Z");
    let reader = |kind: &str, name: &str, created: &str, phase: &str| {
        world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
            "spec": {"backupName": "nightly-202611190200", "target": {"clusterName": "carts"},
                "imageName": "redis:7.2", "storage": {"size": "1Gi"}},
            "status": {"phase": phase}}));
    };
    world.fake.put(being_verified("nightly-202611200200", "2026-11-20T12:05:00Z"));
    reader("RedisRestore", "done", "2026-11-20T12:00:00Z", "Completed");
    reader("RedisRestore", "back", "2026-11-20T12:00:00Z", "Running");
    reader("RedisCluster", "born", "2026-11-20T12:00:00Z", "Restoring");
    world.look().await.unwrap();
    assert_eq!(world.status("retention"), Value::Null);
    let message = world.condition("Pruned")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("RedisRestore back, RedisCluster born"), "{message}");
    world.end("nightly-202611200200", "completed", "2026-11-20T12:05:00Z");
    world.look().await.unwrap();
    let message = world.condition("Pruned")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(" for RedisRestore back, RedisCluster born"), "{message}");
    reader("RedisRestore", "back", "2026-11-20T12:00:00Z", "Completed");
    reader("RedisCluster", "born", "2026-11-20T12:00:00Z", "Healthy");
    reader("RedisRestore", "later", "2026-11-20T12:11:00Z", "Pending");
    world.clock.set("2026-11-20T12:12:00Z");
    world.look().await.unwrap();
    assert!(world.status("retention")["taskName"].is_string(), "{}", world.condition("Pruned"));
}

#[tokio::test]
async fn a_postponement_ends_with_the_rules() {
    let world = World::new(nightly(json!({"retention": {"keepLast": 3}})), "2026-11-20T12:10:00Z");
    world.fake.put(being_verified("nightly-202611200200", "2026-11-20T12:05:00Z"));
    world.look().await.unwrap();
    assert_eq!(world.condition("Pruned")["reason"], "Postponed");
    world.fake.update("RedisScheduledBackup", "shop", "nightly", |schedule| {
        schedule["spec"].as_object_mut().unwrap().remove("retention");
    });
    world.look().await.unwrap();
    assert_eq!(world.condition("Pruned"), Value::Null);
}

#[tokio::test]
async fn a_history_limit_lets_no_run_go_whose_pin_is_not_in_storage_yet() {
    for (pinned, noted, stays) in [
        (true, None, true),
        (true, Some("changing"), true),
        (true, Some("failed-1764000000"), true),
        (true, Some("false"), true),
        (true, Some("true"), false),
        (true, Some("gone-2"), false),
        (false, Some("true"), true),
        (false, Some("false"), false),
        (false, None, false),
    ] {
        let world = World::new(nightly(json!({"successfulBackupsHistoryLimit": 0})), "2026-11-20T12:00:00Z");
        let at = "2026-11-20T02:00:00Z";
        let mut run = child("nightly-202611200200", at, Some(("completed", at)));
        run["spec"]["pin"] = json!(pinned);
        // The API in memory counts one more, as the user's edit does.
        run["metadata"]["generation"] = json!(1);
        run["status"] = json!({"phase": "Completed", "backupId": "20261120T020000Z-nightly-202611200200-aaaaa"});
        if let Some(noted) = noted {
            run["metadata"]["annotations"][labels::PINNED] = json!(noted);
        }
        world.fake.put(run);
        world.look().await.unwrap();
        assert_eq!(world.runs().len(), usize::from(stays), "pin {pinned}, noted {noted:?}");
    }
}

#[test]
fn the_controller_can_be_spawned() {
    fn spawnable<Running: Future<Output = ()> + Send + 'static>(
        _: impl Fn(Arc<Context>, Readiness, CancellationToken) -> Running,
    ) {
    }
    spawnable(run);
}
