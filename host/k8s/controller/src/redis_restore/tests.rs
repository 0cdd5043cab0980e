//! Restores against an API in memory, from the first look to the end, and from every state that an operator may die in.

use std::collections::BTreeMap;
use std::time::Duration;

use redkeep_core::classify::Class;
use redkeep_core::task::{Outcome as TaskOutcome, TargetSpec, Task, TaskReport};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::executor::{Mount, TaskState};
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};

struct World {
    fake: FakeApi,
    executor: Arc<ScriptedExecutor>,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
}

const TASK: &str = "back-aaaaa";

impl World {
    fn new() -> Self {
        let fake = FakeApi::new();
        let executor = Arc::new(ScriptedExecutor::default());
        let (context, clock) = fake.context(Arc::clone(&executor) as _);
        fake.put(json!({"apiVersion": "redis.io/v1", "kind": "BackupStorage", "metadata": {"name": "main", "namespace": "shop"},
            "spec": {"destination": {"s3": {"bucket": "b", "path": "p"}}, "backupCredentialsSecret": {"name": "keys"}}}));
        Self { fake, executor, context, clock }
    }

    /// Puts a restore there and looks at it once.
    async fn put(&self, name: &str, uid: &str, spec: Value) -> Value {
        self.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisRestore",
            "metadata": {"name": name, "namespace": "shop", "uid": uid}, "spec": spec}));
        self.look(name).await
    }

    async fn look(&self, name: &str) -> Value {
        let object = self.fake.get("RedisRestore", "shop", name).unwrap();
        let restore: RedisRestore = serde_json::from_value(object).unwrap();
        reconcile(Arc::new(restore), Arc::clone(&self.context)).await.unwrap();
        self.fake.get("RedisRestore", "shop", name).unwrap()
    }

    fn leases(&self) -> Vec<Value> {
        self.fake.all("Lease")
    }
}

fn latest() -> Value {
    json!({"storageRef": {"name": "main"}, "latest": true, "target": {"source": {"endpoints": ["a:1"]}}})
}

fn report(outcome: TaskOutcome, facts: &[(&str, &str)]) -> TaskReport {
    let at = "2026-11-27T12:01:00Z".parse().unwrap();
    let facts = facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    TaskReport {
        outcome,
        started_at: at,
        ended_at: at,
        backup_id: Some("20261127T110000Z-carts-1a2b3c4d".parse().unwrap()),
        manifest: None,
        facts: facts.collect::<BTreeMap<_, _>>(),
        warnings: vec!["two keys had no database".to_owned()],
    }
}

fn ended(outcome: TaskOutcome, facts: &[(&str, &str)]) -> TaskState {
    TaskState::Ended { report: report(outcome, facts), pod: Some("back-x".to_owned()) }
}

fn refused() -> TaskOutcome {
    TaskOutcome::Failed {
        class: Class::Refused,
        reason: "TargetNotEmpty".to_owned(),
        message: "the target holds 3 keys".to_owned(),
        help: Some("empty it".to_owned()),
        retryable: false,
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_restore_from_storage_alone_takes_the_lease_and_starts_one_task_that_is_never_retried() {
    let world = World::new();
    let object = world.put("back", "aaaaaaaa", latest()).await;
    assert_eq!(object["status"]["phase"], "Running");
    assert_eq!(object["status"]["target"], "a:1");
    assert_eq!(object["status"]["taskName"], TASK);
    let started = world.executor.started.lock().unwrap().clone();
    let [request] = started.as_slice() else { panic!("{started:?}") };
    assert_eq!((request.key.name.as_str(), request.retries), (TASK, 0));
    assert_eq!(request.owner.uid, "aaaaaaaa");
    let Task::Restore(task) = &request.spec.task else { panic!() };
    assert_eq!(task.storage.url, "s3://b/p");
    assert_eq!((task.backup.backup.as_str(), task.backup.namespace.as_ref().unwrap().as_str()), ("latest", "shop"));
    let TargetSpec::Live { endpoint } = &task.target else { panic!() };
    assert_eq!(endpoint.url.as_deref(), Some("redis-nodes://a:1"));
    assert!(request.mounts.contains(&Mount::secret("keys", "/backup-credentials")));
    let leases = world.leases();
    assert!(leases.iter().all(|lease| lease["spec"]["holderIdentity"] == "aaaaaaaa"), "{leases:?}");
    assert!(leases.iter().any(|lease| lease["metadata"]["name"] == object["status"]["leaseName"]), "{leases:?}");
}

#[tokio::test]
async fn what_the_task_says_ends_it_frees_the_target_and_takes_it_out_of_the_watch() {
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    let facts = [("keys", "12"), ("keys-loaded", "10"), ("keys-expired", "2")];
    world.executor.set(TASK, ended(TaskOutcome::Done, &facts));
    let object = world.look("back").await;
    assert_eq!(object["status"]["phase"], "Completed");
    assert_eq!(object["status"]["backupId"], "20261127T110000Z-carts-1a2b3c4d");
    assert_eq!((&object["status"]["keysRestored"], &object["status"]["keysExpired"]), (&json!(10), &json!(2)));
    assert_eq!(condition(&object, "Complete")["message"], "10 keys restored, 2 had expired");
    assert_eq!(object["status"]["warnings"], json!(["two keys had no database"]));
    assert_eq!(object["metadata"]["labels"]["redis.io/outcome"], "completed");
    assert!(world.leases().is_empty());
    assert_eq!(world.executor.forgotten.lock().unwrap().len(), 1);
    // A second look changes nothing.
    assert_eq!(world.look("back").await["status"], object["status"]);
}

#[rstest]
#[case::refused(ended(refused(), &[]), "TargetNotEmpty", "empty it")]
#[case::killed(ended(TaskOutcome::Running { stage: "restore".into() }, &[]), "NoReport", "stage restore")]
#[case::lost(TaskState::Failed { reason: "NodeLost".into(), message: "its node is gone".into() }, "NodeLost", "partly filled")]
#[case::vanished(TaskState::Missing, "JobVanished", "partly filled")]
#[tokio::test]
async fn every_other_end_is_a_failure_with_its_reason(
    #[case] state: TaskState,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    world.executor.set(TASK, state);
    let object = world.look("back").await;
    assert_eq!(object["status"]["phase"], "Failed");
    assert_eq!(condition(&object, "Failed")["reason"], reason);
    assert!(object["status"]["error"].as_str().unwrap().contains(message), "{}", object["status"]["error"]);
    assert_eq!(object["metadata"]["labels"]["redis.io/outcome"], "failed");
    assert!(world.leases().is_empty(), "the target is free again");
}

#[tokio::test]
async fn two_restores_never_write_to_one_target_at_once() {
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    world.executor.set(TASK, TaskState::Running { pod: None, progress: None });
    let second = world.put("again", "bbbbbbbb", latest()).await;
    assert_eq!(second["status"]["phase"], "Pending");
    assert_eq!(condition(&second, "Complete")["reason"], "TargetBusy");
    assert_eq!(world.executor.names(), [TASK]);
    let mut elsewhere = latest();
    elsewhere["target"] = json!({"source": {"endpoints": ["b:1"]}});
    assert_eq!(world.put("other", "cccccccc", elsewhere).await["status"]["phase"], "Running");
    world.executor.set(TASK, ended(TaskOutcome::Done, &[]));
    world.look("back").await;
    assert_eq!(world.look("again").await["status"]["phase"], "Running");
}

#[tokio::test]
async fn a_lease_whose_restore_is_gone_or_over_is_taken_over() {
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    world.fake.remove("RedisRestore", "shop", "back");
    assert_eq!(world.put("again", "bbbbbbbb", latest()).await["status"]["phase"], "Running");
    assert_eq!(world.leases()[0]["spec"]["holderIdentity"], "bbbbbbbb");
}

#[tokio::test]
async fn a_pod_of_an_earlier_restore_that_goes_on_keeps_the_target() {
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    let target = world.executor.started.lock().unwrap()[0].placement.labels["redis.io/restore-target"].clone();
    assert!(world.leases().iter().any(|lease| lease["metadata"]["name"] == target.as_str()));
    let pod = |phase: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": phase},
            "metadata": {"name": "back-aaaaa-restore-x", "namespace": "shop", "labels": {"redis.io/restore-target": target}}})
    };
    world.fake.put(pod("Running"));
    world.fake.remove("RedisRestore", "shop", "back");
    for round in 0..2 {
        if round == 1 {
            // With its object the Lease goes too, the pod later.
            world.fake.remove("Lease", "shop", &target);
        }
        let second = world.put("again", "bbbbbbbb", latest()).await;
        assert_eq!(condition(&second, "Complete")["reason"], "TargetBusy");
        assert!(condition(&second, "Complete")["message"].as_str().unwrap().contains("back-aaaaa-restore-x"));
    }
    world.fake.put(pod("Failed"));
    assert_eq!(world.look("again").await["status"]["phase"], "Running");
}

#[tokio::test]
async fn an_operator_that_died_after_any_write_is_followed_by_one_that_doubles_nothing() {
    // After the Lease, after the task, after the status: each time all but what was written is forgotten.
    for keep in ["lease", "task", "status"] {
        let world = World::new();
        world.put("back", "aaaaaaaa", latest()).await;
        if keep != "status" {
            world.fake.update("RedisRestore", "shop", "back", |object| {
                object.as_object_mut().unwrap().remove("status");
            });
        }
        if keep == "lease" {
            world.executor.started.lock().unwrap().clear();
        } else {
            world.executor.set(TASK, TaskState::Running { pod: None, progress: None });
        }
        let object = world.look("back").await;
        assert_eq!(object["status"]["phase"], "Running", "{keep}");
        assert_eq!(world.executor.names(), [TASK], "{keep}");
        world.executor.set(TASK, ended(TaskOutcome::Done, &[]));
        assert_eq!(world.look("back").await["status"]["phase"], "Completed", "{keep}");
        assert!(world.leases().is_empty(), "{keep}");
    }
    // After the last status: the label and the Lease are made up for.
    let world = World::new();
    world.put("back", "aaaaaaaa", latest()).await;
    world.fake.update("RedisRestore", "shop", "back", |object| object["status"]["phase"] = json!("Completed"));
    let object = world.look("back").await;
    assert_eq!(object["metadata"]["labels"]["redis.io/outcome"], "completed");
    assert!(world.leases().is_empty());
}

#[tokio::test]
async fn a_redis_backup_names_its_storage_and_its_id() {
    let world = World::new();
    let spec = json!({"backupName": "nightly", "target": {"source": {"endpoints": ["a:1"]}}});
    let object = world.put("back", "aaaaaaaa", spec).await;
    assert_eq!(condition(&object, "Complete")["reason"], "BackupNotFound");
    let backup = |phase: &str| {
        json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "nightly", "namespace": "shop"},
            "spec": {"clusterName": "carts", "destination": {"s3": {"bucket": "c"}}},
            "status": {"phase": phase, "backupId": "20261127T110000Z-nightly-1a2b3c4d"}})
    };
    world.fake.put(backup("Running"));
    assert_eq!(condition(&world.look("back").await, "Complete")["reason"], "BackupNotCompleted");
    world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": "carts", "namespace": "shop"},
        "spec": {"instances": 1, "imageName": "redis:7.2", "storage": {"size": "1Gi"}, "backupCredentialsSecret": {"name": "of-carts"}}}));
    world.fake.put(backup("Completed"));
    let object = world.look("back").await;
    assert_eq!(object["status"]["backupId"], "20261127T110000Z-nightly-1a2b3c4d");
    let started = world.executor.started.lock().unwrap().clone();
    assert!(started[0].mounts.contains(&Mount::secret("of-carts", "/backup-credentials")), "{:?}", started[0].mounts);
    let Task::Restore(task) = &started[0].spec.task else { panic!() };
    assert_eq!(
        (task.storage.url.as_str(), task.backup.backup.as_str()),
        ("s3://c", "20261127T110000Z-nightly-1a2b3c4d")
    );
}

#[tokio::test]
async fn a_backup_that_failed_is_refused_and_one_that_never_comes_is_given_up() {
    let world = World::new();
    world.fake.put(
        json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "bad", "namespace": "shop"},
        "spec": {"clusterName": "carts", "destination": {"s3": {"bucket": "c"}}}, "status": {"phase": "Failed"}}),
    );
    let target = json!({"source": {"endpoints": ["a:1"]}});
    let object = world.put("back", "aaaaaaaa", json!({"backupName": "bad", "target": target})).await;
    assert_eq!(object["status"]["phase"], "Failed");
    assert_eq!(condition(&object, "Accepted")["status"], "False");
    assert!(condition(&object, "Accepted")["message"].as_str().unwrap().starts_with("spec.backupName: "));

    let spec = json!({"backupName": "never", "target": target, "activeDeadlineSeconds": 60});
    assert_eq!(world.put("wait", "bbbbbbbb", spec).await["status"]["phase"], "Pending");
    world.clock.advance(Duration::from_secs(61));
    let object = world.look("wait").await;
    assert_eq!(object["status"]["phase"], "Failed");
    assert_eq!(condition(&object, "Failed")["reason"], "BackupNotFound");
    assert_eq!(condition(&object, "Accepted")["reason"], "BackupNotFound");
    assert!(world.executor.names().is_empty());
}

#[tokio::test]
async fn filters_and_keys_become_what_the_command_line_would_say() {
    let world = World::new();
    let mut spec = latest();
    spec.as_object_mut().unwrap().extend(
        json!({"match": ["cart:*"], "databases": ["0:1"], "onConflict": "replace", "ttl": "shift", "allowNonEmpty": true,
            "decryption": {"passphraseSecret": {"name": "pass", "key": "word"}}, "parameters": {"speed": "5"}})
        .as_object()
        .unwrap()
        .clone(),
    );
    world.put("back", "aaaaaaaa", spec).await;
    let started = world.executor.started.lock().unwrap().clone();
    let Task::Restore(task) = &started[0].spec.task else { panic!() };
    let parameters = Value::Object(task.parameters.clone());
    let wanted = json!({"speed": "5", "match": ["cart:*"], "db": ["0:1"], "on-conflict": "replace", "ttl": "shift"});
    assert_eq!(parameters, wanted);
    assert!(task.allow_non_empty && started[0].mounts.contains(&Mount::secret("pass", "/backup-keys")));
}

#[tokio::test]
async fn what_the_executor_will_never_run_ends_the_restore() {
    let world = World::new();
    *world.executor.refuse.lock().unwrap() = Some("SecretsNotReadable");
    let object = world.put("back", "aaaaaaaa", latest()).await;
    assert_eq!(
        (&object["status"]["phase"], &condition(&object, "Failed")["reason"]),
        (&json!("Failed"), &json!("SecretsNotReadable"))
    );
    assert!(world.leases().is_empty());
}

#[tokio::test]
async fn a_backup_of_a_plugin_is_restored_by_its_method_and_a_demanded_digest_wins() {
    let world = World::new();
    let target = json!({"source": {"endpoints": ["a:1"]}});
    world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup",
        "metadata": {"name": "keys", "namespace": "shop"},
        "spec": {"clusterName": "carts", "method": "mine", "storageRef": {"name": "main"}},
        "status": {"phase": "Completed", "backupId": "20261127T110000Z-keys-1a2b3c4d"}}));
    let object = world.put("back", "aaaaaaaa", json!({"backupName": "keys", "target": target})).await;
    assert_eq!(object["status"]["phase"], "Pending");
    assert_eq!(condition(&object, "Complete")["reason"], "MethodNotFound");
    assert_eq!(condition(&object, "Accepted")["status"], "False");
    world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "BackupMethod", "metadata": {"name": "mine"},
        "spec": {"source": {"configMap": {"name": "plugin"}}, "grants": ["redis:load"]},
        "status": {"observedGeneration": 1, "digest": "sha256:aa", "description": {"name": "key-listing"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Loaded", "message": "",
                "lastTransitionTime": "2026-11-27T12:00:00Z"}]}}));
    world.look("back").await;
    let from_storage = json!({"storageRef": {"name": "main"}, "latest": true, "method": "mine",
        "methodDigest": "sha256:bb", "target": {"source": {"endpoints": ["b:1"]}}});
    world.put("demanding", "bbbbbbbb", from_storage).await;
    let started = world.executor.started.lock().unwrap().clone();
    let method = |number: usize| match &started[number].spec.task {
        Task::Restore(task) => task.method.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((method(0).name.as_str(), method(0).digest.as_deref()), ("key-listing", Some("sha256:aa")));
    assert_eq!(method(0).file.as_deref(), Some(std::path::Path::new("/method/plugin.wasm")));
    assert_eq!(method(0).grants, ["redis:load"]);
    let map = crate::executor::MountSource::ConfigMap("plugin".into());
    assert!(started[0].mounts.iter().any(|mount| mount.source == map));
    assert_eq!(method(1).digest.as_deref(), Some("sha256:bb"));
}

#[tokio::test]
async fn a_restore_past_its_deadline_is_counted_until_it_ends() {
    let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
    let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
    let active = |phase: &str, started: &str| -> Active {
        let object = json!({"apiVersion": "redis.io/v1", "kind": "RedisRestore", "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"backupName": "b", "target": {"clusterName": "carts"}, "activeDeadlineSeconds": 3600},
            "status": {"phase": phase, "startedAt": started}});
        Arc::new(DeserializeGuard(Ok(serde_json::from_value(object).unwrap())))
    };
    let labels = RunLabels { kind: "RedisRestore".to_owned(), namespace: "shop".to_owned() };
    let mut before = HashSet::new();
    let runs = [
        active("Running", "2026-11-27T10:00:00Z"),
        active("Running", "2026-11-27T11:00:00Z"),
        active("Failed", "2026-11-26T11:00:00Z"),
    ];
    count_overdue(&context, &runs, now, &mut before);
    assert_eq!(context.metrics.overdue.get_or_create(&labels).get(), 1);
    count_overdue(&context, &[], now, &mut before);
    assert_eq!(context.metrics.overdue.get_or_create(&labels).get(), 0);
}

#[tokio::test]
async fn a_restore_waits_for_a_place_in_its_storage_and_not_for_ever() {
    let world = World::new();
    world.fake.update("BackupStorage", "shop", "main", |storage| storage["spec"]["maxConcurrentTasks"] = json!(1));
    world.context.places.keep("another", "shop", Some("main"), world.context.now());
    let object = world.put("back", "aaaaaaaa", latest()).await;
    assert_eq!(object["status"]["phase"], "Pending");
    assert_eq!(condition(&object, "Complete")["reason"], "WaitingForSlot");
    assert!(world.executor.started.lock().unwrap().is_empty() && world.leases().is_empty());
    world.context.places.release("another");
    assert_eq!(world.look("back").await["status"]["phase"], "Running");
    let mut second = latest();
    second["target"]["source"]["endpoints"] = json!(["b:1"]);
    let object = world.put("second", "bbbbbbbb", second).await;
    assert_eq!(condition(&object, "Complete")["reason"], "WaitingForSlot", "{object}");
    world.executor.set(TASK, ended(TaskOutcome::Done, &[]));
    world.look("back").await;
    assert_eq!(world.look("second").await["status"]["phase"], "Running", "the first one gave its place back");
}

const CACHE: &str = "5e7a0000-0000-4000-8000-000000000000";

impl World {
    /// RedisCluster `cache` with TLS or without, its pods, the Services that lead to them, and a pod that ended and had the same address.
    fn with_cluster(tls: Value) -> Self {
        let world = Self::new();
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": metadata("cache"),
            "spec": {"instances": 2, "imageName": "redis:7.2", "storage": {"size": "1Gi"}, "tls": tls},
            "status": {"phase": "Healthy", "authSecret": {"name": "cache-auth"}}}));
        let mut set = metadata("cache");
        set["uid"] = json!(CACHE);
        world.fake.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": set,
            "spec": {"serviceName": "cache", "selector": {"matchLabels": {"redis.io/cluster": "cache"}}, "template": {}}}));
        for (name, address) in [("cache-0", "10.0.0.1"), ("cache-1", "10.0.0.2")] {
            let mut pod = metadata(name);
            pod["labels"] = json!({"redis.io/cluster": "cache"});
            pod["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cache", "uid": CACHE,
                "controller": true}]);
            world.fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "status": {"phase": "Running",
                "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        world.fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata("over"),
            "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}));
        for (service, pods) in [
            ("cache-r", vec![("cache-0", "10.0.0.1"), ("cache-1", "10.0.0.2")]),
            ("cache-rw", vec![("cache-1", "10.0.0.2")]),
        ] {
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|(pod, address)| json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}}))
                .collect();
            let mut slice = metadata(&format!("{service}-abc"));
            slice["labels"] = json!({"kubernetes.io/service-name": service});
            world.fake.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice,
                "addressType": "IPv4", "endpoints": endpoints}));
        }
        world
    }
}

/// Whichever way one and the same Redis is named, two restores do not write to it at once.
#[rstest]
#[case::a_service_of_the_cluster(json!({"clusterName": "cache"}), json!({"source": {"service": {"name": "cache-rw"}}}))]
#[case::its_pods(json!({"clusterName": "cache"}), json!({"source": {"statefulSet": {"name": "cache"}}}))]
#[case::its_password(
    json!({"source": {"statefulSet": {"name": "cache"}}}),
    json!({"source": {"statefulSet": {"name": "cache"}, "auth": {"secret": {"name": "cache-auth"}}}})
)]
#[case::another_of_its_addresses(
    json!({"source": {"endpoints": ["10.0.0.1:6379"]}}),
    json!({"source": {"endpoints": ["10.0.0.2:6379"]}})
)]
#[case::the_name_of_a_service(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["cache-rw:6379"]}}))]
#[case::its_long_name(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["cache-rw.shop.svc.cluster.local:6379"]}}))]
#[case::the_name_of_a_pod(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["cache-0.cache.shop.svc:6379"]}}))]
#[case::the_short_name_of_a_pod(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["cache-0.cache:6379"]}}))]
#[case::order_and_case(
    json!({"source": {"endpoints": ["redis.example.com:6379", "b.example.com:6379"]}}),
    json!({"source": {"endpoints": ["B.Example.com.:6379", "c.example.com:6379"], "tls": {}}})
)]
#[case::sentinels(
    json!({"source": {"sentinel": {"master": "m", "endpoints": ["s0:26379", "s1:26379"]}}}),
    json!({"source": {"sentinel": {"master": "m", "endpoints": ["s1:26379", "s2:26379"]}}})
)]
#[tokio::test]
async fn two_spellings_of_one_target_are_one_target(#[case] one: Value, #[case] other: Value) {
    let spec = |target: &Value| json!({"storageRef": {"name": "main"}, "latest": true, "target": target});
    for tls in [Value::Null, json!({"secret": {"name": "cache-tls"}})] {
        for (first, second) in [(&one, &other), (&other, &one)] {
            let world = World::with_cluster(tls.clone());
            assert_eq!(world.put("back", "aaaaaaaa", spec(first)).await["status"]["phase"], "Running", "{first}");
            world.executor.set(TASK, TaskState::Running { pod: None, progress: None });
            let held = world.leases();
            let object = world.put("again", "bbbbbbbb", spec(second)).await;
            assert_eq!(condition(&object, "Complete")["reason"], "TargetBusy", "{first} and {second}");
            assert!(condition(&object, "Complete")["message"].as_str().unwrap().contains("RedisRestore back "));
            assert_eq!(world.leases(), held, "all or none");
            world.executor.set(TASK, ended(TaskOutcome::Done, &[]));
            world.look("back").await;
            assert!(world.leases().is_empty());
            assert_eq!(world.look("again").await["status"]["phase"], "Running");
        }
    }
}

#[rstest]
#[case::another_cluster(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["10.0.9.9:6379"]}}))]
#[case::another_port(json!({"source": {"endpoints": ["r.example.com:1"]}}), json!({"source": {"endpoints": ["r.example.com:2"]}}))]
#[case::another_master(
    json!({"source": {"sentinel": {"master": "m", "endpoints": ["s0:26379"]}}}),
    json!({"source": {"sentinel": {"master": "n", "endpoints": ["s0:26379"]}}})
)]
#[case::another_namespace(json!({"clusterName": "cache"}), json!({"source": {"endpoints": ["cache-rw.other.svc:6379"]}}))]
#[tokio::test]
async fn two_targets_are_written_at_once(#[case] one: Value, #[case] other: Value) {
    let world = World::with_cluster(Value::Null);
    for (name, uid, target) in [("back", "aaaaaaaa", one), ("again", "bbbbbbbb", other)] {
        let spec = json!({"storageRef": {"name": "main"}, "latest": true, "target": target});
        assert_eq!(world.put(name, uid, spec).await["status"]["phase"], "Running", "{name}");
    }
}

#[tokio::test]
async fn a_failover_redis_is_known_by_its_pods() {
    let world = World::with_cluster(Value::Null);
    world.fake.put(json!({"apiVersion": "databases.spotahome.com/v1", "kind": "RedisFailover",
        "metadata": {"name": "f", "namespace": "shop"}, "spec": {}}));
    world.fake.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "rfr-f", "namespace": "shop", "uid": "fff"},
        "spec": {"serviceName": "f", "selector": {"matchLabels": {"app": "f"}}, "template": {}}}));
    world.fake.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rfr-f-0", "namespace": "shop",
        "labels": {"app": "f"}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "rfr-f", "uid": "fff",
        "controller": true}]}, "status": {"phase": "Running", "podIP": "10.0.1.1",
        "conditions": [{"type": "Ready", "status": "True"}]}}));
    let spec = |target: Value| json!({"storageRef": {"name": "main"}, "latest": true, "target": {"source": target}});
    let first = world.put("back", "aaaaaaaa", spec(json!({"redisFailover": {"name": "f"}}))).await;
    assert_eq!(first["status"]["phase"], "Running");
    for (name, target) in [
        ("set", json!({"statefulSet": {"name": "rfr-f"}})),
        ("sentinel", json!({"sentinel": {"master": "mymaster", "service": "rfs-f"}})),
    ] {
        let object = world.put(name, name, spec(target)).await;
        assert_eq!(condition(&object, "Complete")["reason"], "TargetBusy", "{name}");
    }
}

#[tokio::test]
async fn leases_taken_by_an_operator_that_died_are_taken_again_and_all_given_back() {
    let world = World::with_cluster(Value::Null);
    let spec = json!({"storageRef": {"name": "main"}, "latest": true, "target": {"clusterName": "cache"}});
    // The task is refused by the API server after the Leases were taken; meanwhile the cluster is another one.
    world.fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisRestore",
        "metadata": {"name": "back", "namespace": "shop", "uid": "aaaaaaaa"}, "spec": spec}));
    let restore: RedisRestore =
        serde_json::from_value(world.fake.get("RedisRestore", "shop", "back").unwrap()).unwrap();
    world.fake.fail_when(|call| {
        let is_status = call.method == http::Method::PATCH && call.path.ends_with("/status");
        is_status.then(|| (500, "InternalError", "crash".to_owned()))
    });
    reconcile(Arc::new(restore), Arc::clone(&world.context)).await.unwrap_err();
    world.fake.heal();
    let before = world.leases().len();
    assert!(before > 1, "{:?}", world.leases());
    world.executor.started.lock().unwrap().clear();
    for pod in ["cache-0", "cache-1"] {
        world.fake.update("Pod", "shop", pod, |pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("another"));
    }
    assert_eq!(world.look("back").await["status"]["phase"], "Running");
    assert!(world.leases().len() > before, "{:?}", world.leases());
    world.executor.set(TASK, ended(TaskOutcome::Done, &[]));
    world.look("back").await;
    assert!(world.leases().is_empty(), "{:?}", world.leases());
}

#[tokio::test]
async fn a_full_quota_is_waited_for() {
    let world = World::new();
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    let object = world.put("back", "aaaaaaaa", latest()).await;
    assert_eq!(condition(&object, "Complete")["reason"], "QuotaExceeded", "{object:#}");
    assert_eq!(object["status"]["phase"], "Pending", "{object:#}");
    *world.executor.refuse.lock().unwrap() = None;
    assert_eq!(world.look("back").await["status"]["phase"], "Running");
    let world = World::new();
    *world.executor.refuse.lock().unwrap() = Some("QuotaExceeded");
    let mut spec = latest();
    spec["activeDeadlineSeconds"] = json!(60);
    world.put("late", "bbbbbbbb", spec).await;
    world.clock.advance(Duration::from_secs(61));
    let object = world.look("late").await;
    assert_eq!(condition(&object, "Failed")["reason"], "QuotaExceeded", "{object:#}");
}

#[tokio::test]
async fn what_may_not_be_read_is_said_and_ends_a_restore_that_was_not_begun() {
    for what in ["/backupstorages/", "/leases/"] {
        let world = World::new();
        world
            .fake
            .fail_when(move |call| call.path.contains(what).then(|| (403, "Forbidden", "rights were cut".to_owned())));
        let mut spec = latest();
        spec["activeDeadlineSeconds"] = json!(60);
        let object = world.put("back", "aaaaaaaa", spec).await;
        assert_eq!(condition(&object, "Complete")["reason"], "KubernetesApi", "{what}");
        assert!(condition(&object, "Complete")["message"].as_str().unwrap().contains("rights were cut"), "{object}");
        world.clock.advance(Duration::from_secs(61));
        let restore: RedisRestore =
            serde_json::from_value(world.fake.get("RedisRestore", "shop", "back").unwrap()).unwrap();
        let _ = reconcile(Arc::new(restore), Arc::clone(&world.context)).await;
        let object = world.fake.get("RedisRestore", "shop", "back").unwrap();
        assert_eq!(
            (&object["status"]["phase"], &condition(&object, "Failed")["reason"]),
            (&json!("Failed"), &json!("KubernetesApi"))
        );
        assert!(world.fake.events().contains(&"KubernetesApi".to_owned()));
    }
}
