//! Whole reconciles against an API server and instances in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use redkeep_core::managed::{Notice, Orders, Played, Role};
use rstest::rstest;
use serde_json::{Value, json};

use super::instance::{Address, InstanceError, Instances};
use super::*;
use crate::executor::TaskState;
use crate::testing::{FakeApi, ScriptedExecutor, SettableClock};

/// Instances by pod, which do what they are told.
#[derive(Default)]
struct Obedient(Mutex<BTreeMap<String, Standing>>);

#[async_trait]
impl Instances for Obedient {
    async fn standing(&self, address: &Address) -> Result<Standing, InstanceError> {
        let standings = self.0.lock().unwrap();
        standings
            .get(&address.pod)
            .cloned()
            .ok_or_else(|| InstanceError::Unreachable { pod: address.pod.clone(), message: "as the test says".into() })
    }

    async fn order(&self, address: &Address, orders: &Orders) -> Result<Standing, InstanceError> {
        let mut standings = self.0.lock().unwrap();
        let standing = standings.get_mut(&address.pod).unwrap();
        assert_eq!(standing.process, orders.process);
        standing.epoch = orders.epoch;
        match &orders.role {
            Role::Primary => standing.role = Played::Primary,
            Role::Replica { .. } => {
                standing.role = Played::Replica;
                (standing.link_up, standing.in_sync_once) = (true, true);
            }
            Role::Standby => standing.role = Played::Standby,
            Role::HandOver { .. } => {}
        }
        Ok(standing.clone())
    }

    async fn notify(&self, _: &Address, notice: &Notice) -> Result<Notice, InstanceError> {
        Ok(notice.clone())
    }
}

struct Bench {
    api: FakeApi,
    context: Arc<Context>,
    clock: Arc<SettableClock>,
    executor: Arc<ScriptedExecutor>,
    instances: Arc<Obedient>,
    fleet: Arc<Fleet>,
}

fn bench(spec: Value) -> Bench {
    let api = FakeApi::new();
    api.put(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisCluster",
        "metadata": {"name": "carts", "namespace": "shop", "generation": 1}, "spec": spec
    }));
    let executor = Arc::new(ScriptedExecutor::default());
    let (context, clock) = api.context(Arc::clone(&executor) as _);
    let instances = Arc::new(Obedient::default());
    let Ok(mut context) = Arc::try_unwrap(context) else { panic!("somebody has it") };
    context.instances = Arc::clone(&instances) as _;
    Bench { api, context: Arc::new(context), clock, executor, instances, fleet: Arc::default() }
}

impl Bench {
    async fn look(&self) -> Action {
        let cluster: RedisCluster = serde_json::from_value(self.cluster()).unwrap();
        let looked = reconcile(Arc::new(cluster), Arc::clone(&self.context), Arc::clone(&self.fleet)).await;
        looked.unwrap_or_else(|error| panic!("{}", redkeep_core::classify::chain(&error)))
    }

    async fn looks(&self, times: usize) {
        for _ in 0..times {
            self.look().await;
        }
    }

    fn cluster(&self) -> Value {
        self.api.get("RedisCluster", "shop", "carts").unwrap()
    }

    fn status(&self) -> Value {
        self.cluster()["status"].clone()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let status = self.status();
        let found = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind).unwrap().clone();
        (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
    }

    /// What the `StatefulSet`'s controller and the kubelet do.
    fn run_pods(&self, keys: u64) {
        let set = self.api.get("StatefulSet", "shop", "carts").unwrap();
        for ordinal in 0..set["spec"]["replicas"].as_i64().unwrap() {
            let name = format!("carts-{ordinal}");
            let mut metadata = set["spec"]["template"]["metadata"].clone();
            metadata["name"] = json!(name);
            metadata["namespace"] = json!("shop");
            metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "carts", "uid": set["metadata"]["uid"]}]);
            self.api.put(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []},
                "status": {"podIP": format!("10.0.0.{}", ordinal + 1)},
            }));
            let standing = Standing {
                pod: name.clone(),
                process: format!("process-{ordinal}"),
                serving: true,
                keys,
                keys_loaded: (keys > 0).then_some(keys),
                keys_expired: (keys > 0).then_some(0),
                version: "7.2.4".into(),
                replication_id: "id".into(),
                ..Standing::default()
            };
            self.instances.0.lock().unwrap().insert(name, standing);
        }
    }
}

impl Bench {
    /// The first pod runs already.
    fn run_replicas(&self, keys: u64) {
        let first = self.api.get("Pod", "shop", "carts-0").unwrap();
        let its = self.instances.0.lock().unwrap()["carts-0"].clone();
        self.run_pods(keys);
        self.api.put(first);
        self.instances.0.lock().unwrap().insert("carts-0".into(), its);
    }
}

fn plain() -> Value {
    json!({"instances": 3, "imageName": "redis:7.2", "storage": {"size": "1Gi"}})
}

#[tokio::test]
async fn a_cluster_of_three_becomes_healthy() {
    let bench = bench(plain());
    bench.looks(3).await;
    assert_eq!(bench.status()["phase"], "Creating");
    bench.run_pods(0);
    bench.looks(6).await;
    let status = bench.status();
    assert_eq!(
        (&status["phase"], &status["primary"], &status["readyInstances"]),
        (&json!("Healthy"), &json!("carts-0"), &json!(3)),
        "{status:#}"
    );
    assert_eq!(bench.condition("Ready"), ("True".into(), "Healthy".into()));
    let role = |pod: &str| bench.api.get("Pod", "shop", pod).unwrap()["metadata"]["labels"]["redis.io/role"].clone();
    assert_eq!((role("carts-0"), role("carts-2")), (json!("primary"), json!("replica")));
    assert_eq!(
        status["authSecret"]["name"],
        bench.api.all("Secret").iter().find(|one| !one["data"]["password"].is_null()).unwrap()["metadata"]["name"]
    );
    for (kind, name) in [
        ("Service", "carts-rw"),
        ("ConfigMap", "carts-config"),
        ("PodDisruptionBudget", "carts"),
        ("Role", "carts-redis"),
    ] {
        assert!(bench.api.get(kind, "shop", name).is_some(), "{kind} {name}");
    }
    let writes = bench.api.writes().len();
    bench.looks(3).await;
    assert_eq!(bench.api.writes().len(), writes, "a healthy cluster is only looked at");
}

#[tokio::test]
async fn the_secret_of_the_password_follows_the_spec() {
    let mut spec = plain();
    spec["instances"] = json!(1);
    spec["auth"] = json!({"secret": {"name": "mine", "key": "word"}});
    let bench = bench(spec);
    let with = |auth: Value| {
        let mut cluster = bench.cluster();
        cluster["spec"]["auth"] = auth;
        bench.api.put(cluster);
    };
    let secret = || bench.status()["authSecret"]["name"].clone();
    bench.looks(3).await;
    assert_eq!(secret(), json!("mine"));
    with(json!({}));
    bench.looks(3).await;
    let made = secret();
    assert!(made.as_str().unwrap().starts_with("carts-auth-"), "{made}");
    assert!(bench.api.get("Secret", "shop", made.as_str().unwrap()).is_some());
    let volumes = bench.api.get("StatefulSet", "shop", "carts").unwrap()["spec"]["template"]["spec"]["volumes"].clone();
    assert!(volumes.to_string().contains(made.as_str().unwrap()), "{volumes:#}");
    bench.looks(3).await;
    assert_eq!(secret(), made, "one is made once");
    with(json!({"enabled": false}));
    bench.looks(3).await;
    assert_eq!(secret(), Value::Null);
}

#[tokio::test]
async fn what_is_decided_is_written_before_anybody_hears_of_it() {
    let bench = bench(plain());
    bench.looks(3).await;
    bench.run_pods(0);
    bench.look().await;
    assert_eq!(bench.status()["nextPrimary"], "carts-0");
    assert!(bench.instances.0.lock().unwrap().values().all(|standing| standing.role == Played::Standby));
    bench.look().await;
    assert_eq!(bench.instances.0.lock().unwrap()["carts-0"].role, Played::Primary);
}

#[tokio::test]
async fn a_decision_on_what_has_changed_meanwhile_is_not_written() {
    let bench = bench(plain());
    bench.looks(3).await;
    bench.run_pods(0);
    bench.api.fail_when(|call| {
        call.path.ends_with("/status").then(|| (409, "Conflict", "the object has been modified".to_owned()))
    });
    bench.looks(2).await;
    assert!(bench.status()["epoch"].is_null());
    assert!(bench.instances.0.lock().unwrap().values().all(|standing| standing.role == Played::Standby));
}

fn born() -> Value {
    let mut spec = plain();
    spec["bootstrap"] = json!({"backupName": "nightly"});
    spec
}

fn backup(bench: &Bench, phase: &str) {
    bench.api.put(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "nightly", "namespace": "shop"},
        "spec": {"clusterName": "old", "backupMethod": "rdb", "destination": {"s3": {"bucket": "b"}}},
        "status": {"phase": phase, "backupId": "20261127T120000Z-nightly-1"},
    }));
}

#[tokio::test]
async fn a_backup_of_a_plugin_is_read_by_that_plugin_once_it_is_registered() {
    let bench = bench(born());
    bench.api.put(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "nightly", "namespace": "shop"},
        "spec": {"clusterName": "old", "method": "mine", "destination": {"s3": {"bucket": "b"}}},
        "status": {"phase": "Completed", "backupId": "20261127T120000Z-nightly-1"},
    }));
    bench.look().await;
    assert_eq!(bench.condition("Restored"), ("False".into(), "MethodNotFound".into()));
    assert!(bench.executor.names().is_empty() && bench.api.all("PersistentVolumeClaim").is_empty());
    bench.api.put(json!({
        "apiVersion": "redis.io/v1", "kind": "BackupMethod", "metadata": {"name": "mine", "generation": 1},
        "spec": {"source": {"configMap": {"name": "plugin"}}, "grants": ["file:write"]},
        "status": {"observedGeneration": 2, "digest": "sha256:aa", "description": {"name": "key-listing"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Loaded", "message": "",
                "lastTransitionTime": "2026-11-27T12:00:00Z"}]},
    }));
    bench.look().await;
    let started = bench.executor.started.lock().unwrap();
    let redkeep_core::task::Task::Restore(task) = &started[0].spec.task else { panic!("{started:?}") };
    assert_eq!((task.method.name.as_str(), task.method.digest.as_deref()), ("key-listing", Some("sha256:aa")));
    assert_eq!(task.method.grants, ["file:write"]);
    assert!(started[0].mounts.iter().any(|mount| mount.path.ends_with("method")), "{:?}", started[0].mounts);
}

fn restored(bench: &Bench, keys: u64) {
    let name = bench.status()["bootstrap"]["taskName"].as_str().unwrap().to_owned();
    let report = serde_json::from_value(json!({
        "outcome": {"state": "done"}, "startedAt": "2026-11-27T12:00:00Z",
        "endedAt": "2026-11-27T12:01:00Z", "facts": {"keys": keys.to_string()},
    }));
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    bench.executor.set(&name, TaskState::Ended { report, pod: None });
}

#[tokio::test]
async fn a_cluster_is_born_from_a_backup() {
    let bench = bench(born());
    bench.look().await;
    assert_eq!(bench.condition("Restored"), ("False".into(), "BackupNotFound".into()));
    assert_eq!((bench.status()["phase"].clone(), bench.api.all("PersistentVolumeClaim").len()), (json!("Pending"), 0));
    backup(&bench, "Completed");
    bench.look().await;
    assert_eq!(bench.status()["phase"], "Restoring");
    assert!(bench.api.get("PersistentVolumeClaim", "shop", "data-carts-0").is_some());
    assert_eq!(bench.executor.names().len(), 1);
    assert!(bench.api.get("StatefulSet", "shop", "carts").is_none(), "only when the claim is filled");
    restored(&bench, 5);
    bench.looks(4).await;
    bench.run_pods(5);
    bench.looks(6).await;
    assert_eq!(bench.status()["phase"], "Healthy", "{:#}", bench.status());
    assert_eq!(bench.condition("Restored"), ("True".into(), "Completed".into()));
    assert_eq!(bench.status()["bootstrap"]["keysLoaded"], 5);
}

#[tokio::test]
async fn a_cluster_that_came_up_with_other_keys_than_the_backup_is_never_healthy() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.look().await;
    restored(&bench, 5);
    bench.looks(4).await;
    bench.run_pods(0);
    bench.looks(6).await;
    assert_eq!(bench.status()["phase"], "Failed");
    assert_eq!(bench.condition("Restored"), ("False".into(), "KeysDiffer".into()));
    assert!(bench.instances.0.lock().unwrap().values().all(|standing| standing.role == Played::Standby));
}

#[tokio::test]
async fn a_restore_that_failed_is_tried_again_and_heals() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.look().await;
    let name = bench.status()["bootstrap"]["taskName"].as_str().unwrap().to_owned();
    bench.executor.set(&name, TaskState::Failed { reason: "ImagePullFailed".into(), message: "no such image".into() });
    bench.look().await;
    assert_eq!(bench.condition("Restored"), ("False".into(), "ImagePullFailed".into()));
    assert_eq!(bench.status()["phase"], "Failed");
    bench.looks(2).await;
    assert_eq!(bench.executor.names().len(), 1, "not at once");
    bench.clock.advance(Duration::from_secs(11));
    bench.look().await;
    assert_eq!(bench.executor.names().len(), 2);
    let name = bench.status()["bootstrap"]["taskName"].as_str().unwrap().to_owned();
    bench.executor.set(&name, TaskState::Failed { reason: "KeyMissing".into(), message: "it is encrypted".into() });
    bench.looks(2).await;
    assert_eq!(bench.executor.names().len(), 2);
    let mut cluster = bench.cluster();
    cluster["spec"]["bootstrap"]["activeDeadlineSeconds"] = json!(60);
    bench.api.put(cluster);
    bench.look().await;
    assert_eq!(bench.executor.names().len(), 3, "who puts it right need not wait");
    restored(&bench, 0);
    bench.looks(4).await;
    bench.run_pods(0);
    bench.looks(6).await;
    assert_eq!(bench.status()["phase"], "Healthy", "{:#}", bench.status());
}

/// What the kubelet, the scheduler or a provisioner says of an object.
fn warning(bench: &Bench, of: &str, reason: &str, message: &str) {
    bench.api.put(json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{of}.1"), "namespace": "shop"},
        "involvedObject": {"name": of}, "type": "Warning", "reason": reason, "message": message,
    }));
}

#[tokio::test]
async fn a_claim_that_nobody_provides_says_why_while_it_is_filled_and_while_instances_wait() {
    const WHY: &str = "storageclass.storage.k8s.io \"fast\" not found";
    let filled = bench(born());
    backup(&filled, "Completed");
    filled.look().await;
    warning(&filled, "data-carts-0", "ProvisioningFailed", WHY);
    let task = filled.executor.names()[0].clone();
    let message = "0/1 nodes are available".to_owned();
    let waiting = TaskState::Waiting { reason: "Unschedulable".into(), message, since: filled.context.now() };
    filled.executor.set(&task, waiting);
    filled.look().await;
    assert_eq!(filled.condition("Restored"), ("False".into(), "ClaimPending".into()));
    assert!(filled.status()["conditions"].to_string().contains("data-carts-0: storageclass"), "{:#}", filled.status());

    let plain = bench(plain());
    plain.looks(3).await;
    plain.run_pods(0);
    plain.instances.0.lock().unwrap().clear();
    for ordinal in 0..3 {
        let mut pod = plain.api.get("Pod", "shop", &format!("carts-{ordinal}")).unwrap();
        pod["status"] = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]});
        plain.api.put(pod);
    }
    plain.look().await;
    assert_eq!(plain.condition("Ready"), ("False".into(), "Unschedulable".into()));
    let claim = |phase: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data-carts-0", "namespace": "shop"},
            "status": {"phase": phase}})
    };
    plain.api.put(claim("Pending"));
    warning(&plain, "data-carts-0", "ProvisioningFailed", WHY);
    plain.look().await;
    assert_eq!(plain.condition("Ready"), ("False".into(), "ClaimPending".into()));
    plain.api.put(claim("Bound"));
    plain.look().await;
    assert_eq!(plain.condition("Ready"), ("False".into(), "Unschedulable".into()), "what it waited for it has");
}

#[tokio::test]
async fn a_claim_that_is_there_is_not_touched() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.api.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data-carts-0", "namespace": "shop"}}));
    bench.looks(3).await;
    assert_eq!(bench.condition("Restored"), ("False".into(), "ClaimNotEmpty".into()));
    assert_eq!((bench.status()["phase"].clone(), bench.executor.names().len()), (json!("Failed"), 0));
    bench.api.remove("PersistentVolumeClaim", "shop", "data-carts-0");
    bench.look().await;
    assert_eq!(bench.status()["phase"], "Restoring");
}

#[tokio::test]
async fn a_first_claim_that_is_refused_is_said_and_heals() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.api.fail_when(|call| {
        let is_claim = call.method == "POST" && call.path.ends_with("/persistentvolumeclaims");
        is_claim.then(|| (403, "Forbidden", "exceeded quota".to_owned()))
    });
    bench.looks(3).await;
    assert_eq!(bench.condition("Ready"), ("False".into(), "Forbidden".into()));
    assert!(bench.executor.names().is_empty() && bench.status()["bootstrap"]["taskName"].is_null());
    bench.api.heal();
    bench.look().await;
    assert_eq!((bench.status()["phase"].clone(), bench.executor.names().len()), (json!("Restoring"), 1));
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_said_and_left_alone() {
    let bench = bench(plain());
    bench.api.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "carts-rw", "namespace": "shop"}, "spec": {"x": 1}}));
    bench.looks(3).await;
    assert_eq!(bench.condition("Ready"), ("False".into(), "NameTaken".into()));
    assert_eq!(bench.api.get("Service", "shop", "carts-rw").unwrap()["spec"], json!({"x": 1}));
    assert!(bench.api.get("StatefulSet", "shop", "carts").is_none(), "no half-made cluster");
}

#[tokio::test]
async fn a_spec_that_cannot_be_followed_makes_nothing() {
    let mut spec = plain();
    spec["serviceAccountName"] = json!("admin");
    let bench = bench(spec);
    bench.look().await;
    assert_eq!(bench.condition("Accepted"), ("False".into(), "InvalidSpec".into()));
    assert!(bench.api.all("StatefulSet").is_empty() && bench.api.all("Secret").is_empty());
}

#[tokio::test]
async fn a_cluster_without_claims_is_filled_before_anybody_sees_it() {
    let mut spec = born();
    spec.as_object_mut().unwrap().remove("storage");
    spec["ephemeral"] = json!({});
    let bench = bench(spec);
    backup(&bench, "Completed");
    bench.looks(3).await;
    bench.run_pods(0);
    assert_eq!(bench.instances.0.lock().unwrap().len(), 1, "replicas come later");
    for _ in 0..6 {
        bench.look().await;
        if let Some(task) = bench.executor.names().first() {
            bench.executor.set(task, TaskState::Running { pod: None, progress: None });
        }
    }
    assert_eq!(bench.status()["phase"], "Restoring", "{:#}", bench.status());
    assert_eq!(bench.executor.names().len(), 1);
    let role = |pod: &str| bench.api.get("Pod", "shop", pod).unwrap()["metadata"]["labels"]["redis.io/role"].clone();
    assert_eq!(role("carts-0"), Value::Null, "no Service leads there");
    restored(&bench, 5);
    bench.looks(3).await;
    assert_eq!(bench.api.get("StatefulSet", "shop", "carts").unwrap()["spec"]["replicas"], 3);
    assert_eq!(role("carts-0"), Value::Null, "nor before a replica has it too");
    assert_eq!(bench.condition("Restored"), ("False".into(), "Restoring".into()));
    bench.run_replicas(5);
    bench.looks(6).await;
    assert_eq!((role("carts-0"), role("carts-1")), (json!("primary"), json!("replica")));
    assert_eq!(bench.status()["phase"], "Healthy", "{:#}", bench.status());
}

#[tokio::test]
async fn an_only_copy_whose_pod_does_not_come_back_is_restored_into_another() {
    let bench = being_filled(born()).await;
    restored(&bench, 5);
    bench.looks(3).await;
    // Started, and not in sync yet.
    bench.run_replicas(0);
    bench.api.remove("Pod", "shop", "carts-0");
    bench.instances.0.lock().unwrap().remove("carts-0");
    // What is silent for three looks a second apart is lost.
    for _ in 0..4 {
        bench.look().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bench.looks(8).await;
    assert_eq!(bench.status()["primary"], "carts-1", "{:#}", bench.status());
    assert_eq!(bench.condition("Restored"), ("False".into(), "InstanceFailed".into()));
    bench.clock.advance(Duration::from_secs(11));
    bench.looks(2).await;
    assert_eq!(bench.executor.names().len(), 2, "{:#}", bench.status());
}

#[tokio::test]
async fn clients_are_led_to_an_only_copy_when_no_replica_comes() {
    let bench = being_filled(born()).await;
    restored(&bench, 5);
    bench.looks(3).await;
    bench.clock.advance(Duration::from_secs(301));
    bench.looks(3).await;
    let pod = bench.api.get("Pod", "shop", "carts-0").unwrap();
    assert_eq!(pod["metadata"]["labels"]["redis.io/role"], "primary", "{:#}", bench.status());
    assert_eq!(bench.status()["bootstrap"]["onlyCopy"], Value::Null);
    assert_eq!(bench.condition("Ready"), ("True".into(), "Degraded".into()));
}

/// The container of the primary was made anew, and its Redis is empty.
fn restart_emptied(bench: &Bench, pod: &str) {
    let mut standings = bench.instances.0.lock().unwrap();
    let standing = standings.get_mut(pod).unwrap();
    let process = format!("{}-anew", standing.process);
    let pod = standing.pod.clone();
    let version = standing.version.clone();
    *standing = Standing { pod, process, version, serving: true, ..Standing::default() };
}

fn changed(bench: &Bench, change: impl FnOnce(&mut Value)) {
    bench.api.update("RedisCluster", "shop", "carts", |cluster| {
        change(&mut cluster["spec"]);
        cluster["metadata"]["generation"] = json!(cluster["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

async fn healthy() -> Bench {
    let bench = bench(plain());
    bench.looks(3).await;
    bench.run_pods(0);
    bench.looks(6).await;
    assert_eq!(bench.status()["phase"], "Healthy");
    bench
}

#[rstest]
#[case::refused(422, "Invalid", "Forbidden")]
#[case::webhook_is_down(500, "InternalError", "KubernetesApi")]
#[tokio::test]
async fn objects_that_cannot_be_applied_do_not_stand_in_the_way_of_a_failover(
    #[case] code: u16,
    #[case] answer: &'static str,
    #[case] reason: &str,
) {
    let bench = healthy().await;
    bench.api.fail_when(move |call| {
        let is_set = call.method == "PATCH" && call.path.contains("/statefulsets/");
        is_set.then(|| (code, answer, "requests must not be above limits".to_owned()))
    });
    changed(&bench, |spec| spec["resources"] = json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}));
    assert_eq!(bench.look().await, Action::requeue(LOOK));
    assert_eq!(bench.condition("Progressing"), ("False".into(), reason.into()));
    assert_eq!(bench.condition("Ready"), ("True".into(), "Healthy".into()), "it serves as it is");
    let tries = bench.api.calls().len();
    bench.look().await;
    let again = bench.api.calls().split_off(tries);
    assert!(
        !again.iter().any(|call| call.path.contains("/statefulsets/") && call.method == "PATCH"),
        "not each second"
    );
    restart_emptied(&bench, "carts-0");
    bench.looks(8).await;
    let status = bench.status();
    assert_ne!(status["primary"], "carts-0", "{status:#}");
    assert_eq!((&status["epoch"], &status["phase"]), (&json!(2), &json!("Healthy")), "{status:#}");
    assert_eq!(bench.condition("Progressing"), ("False".into(), reason.into()), "it is still said");
    bench.api.heal();
    changed(&bench, |spec| spec["resources"] = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}));
    bench.look().await;
    assert_ne!(bench.condition("Progressing").1, reason);
}

#[tokio::test]
async fn a_spec_that_cannot_be_followed_does_not_stand_in_the_way_of_a_failover() {
    let bench = healthy().await;
    let before = bench.api.get("StatefulSet", "shop", "carts").unwrap();
    changed(&bench, |spec| {
        spec["podSecurityContext"] = json!({"runAsUser": 0});
        spec["instances"] = json!(1);
    });
    assert_eq!(bench.look().await, Action::requeue(LOOK));
    assert_eq!(bench.condition("Accepted"), ("False".into(), "InvalidSpec".into()));
    assert_eq!(bench.condition("Progressing"), ("False".into(), "InvalidSpec".into()));
    restart_emptied(&bench, "carts-0");
    bench.looks(8).await;
    let status = bench.status();
    assert_ne!(status["primary"], "carts-0", "{status:#}");
    assert_eq!((&status["epoch"], &status["phase"]), (&json!(2), &json!("Healthy")), "{status:#}");
    assert_eq!(bench.condition("Accepted"), ("False".into(), "InvalidSpec".into()));
    assert_eq!(bench.api.get("StatefulSet", "shop", "carts").unwrap(), before, "nothing of it is made");
    changed(&bench, |spec| {
        spec["podSecurityContext"] = json!({"runAsUser": 1000});
        spec["instances"] = json!(3);
    });
    bench.look().await;
    assert_eq!(bench.condition("Accepted"), ("True".into(), "Valid".into()));
    assert_ne!(bench.api.get("StatefulSet", "shop", "carts").unwrap()["spec"], before["spec"]);
}

async fn being_filled(mut spec: Value) -> Bench {
    spec.as_object_mut().unwrap().remove("storage");
    spec["ephemeral"] = json!({});
    let bench = bench(spec);
    backup(&bench, "Completed");
    bench.looks(3).await;
    bench.run_pods(0);
    for _ in 0..6 {
        bench.look().await;
        if let Some(task) = bench.executor.names().first() {
            bench.executor.set(task, TaskState::Running { pod: None, progress: None });
        }
    }
    assert_eq!((bench.status()["phase"].clone(), bench.executor.names().len()), (json!("Restoring"), 1));
    bench
}

#[tokio::test]
async fn a_primary_that_is_filled_takes_writes_although_nobody_follows_it() {
    let mut spec = born();
    spec["failover"] = json!({"minReplicasToWrite": 1});
    let bench = being_filled(spec).await;
    let uid = bench.cluster()["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let ordered = || bench.fleet.with(&uid, |memory| memory.acknowledged("carts-0").unwrap());
    assert_eq!(ordered().config["min-replicas-to-write"], "0");
    restored(&bench, 5);
    bench.looks(3).await;
    assert_eq!(ordered().config["min-replicas-to-write"], "1", "and once it serves as the spec says");
}

#[tokio::test]
async fn a_restore_into_a_primary_that_restarted_meanwhile_is_tried_again() {
    let bench = being_filled(born()).await;
    assert_eq!(bench.status()["bootstrap"]["process"], "process-0");
    restart_emptied(&bench, "carts-0");
    bench.looks(6).await;
    assert_eq!(bench.status()["primaryProcess"], "process-0-anew", "{:#}", bench.status());
    restored(&bench, 5);
    bench.looks(3).await;
    assert_eq!(bench.condition("Restored"), ("False".into(), "InstanceFailed".into()));
    assert_eq!(bench.status()["bootstrap"]["filled"], Value::Null, "an empty cluster is not shown to clients");
    bench.clock.advance(Duration::from_secs(11));
    bench.looks(2).await;
    assert_eq!(bench.executor.names().len(), 2, "{:#}", bench.status());
    restored(&bench, 5);
    bench.looks(3).await;
    assert_eq!(bench.status()["bootstrap"]["filled"], true, "{:#}", bench.status());
}

#[tokio::test]
async fn what_was_restored_is_restored_again_when_the_only_instance_that_had_it_lost_it() {
    let bench = being_filled(born()).await;
    restored(&bench, 5);
    bench.looks(1).await;
    assert_eq!(bench.status()["bootstrap"]["onlyCopy"], true, "{:#}", bench.status());
    restart_emptied(&bench, "carts-0");
    for _ in 0..8 {
        bench.look().await;
        assert_ne!(bench.status()["phase"], "Healthy", "empty: {:#}", bench.status());
        assert_ne!(bench.condition("Ready").0, "True", "empty: {:#}", bench.status());
        let label = bench.api.get("Pod", "shop", "carts-0").unwrap()["metadata"]["labels"]["redis.io/role"].clone();
        assert_eq!(label, Value::Null, "no client is led to it");
    }
    assert_eq!(bench.condition("Restored"), ("False".into(), "InstanceFailed".into()));
    assert_eq!(bench.status()["bootstrap"]["filled"], Value::Null);
    bench.clock.advance(Duration::from_secs(11));
    bench.looks(2).await;
    assert_eq!(bench.executor.names().len(), 2, "{:#}", bench.status());
    restored(&bench, 5);
    bench.instances.0.lock().unwrap().get_mut("carts-0").unwrap().keys = 5;
    bench.looks(3).await;
    assert_eq!(bench.status()["bootstrap"]["filled"], true, "{:#}", bench.status());
    bench.run_replicas(5);
    bench.looks(6).await;
    assert_eq!(bench.status()["bootstrap"]["onlyCopy"], Value::Null, "{:#}", bench.status());
    assert_eq!(bench.status()["phase"], "Healthy", "{:#}", bench.status());
}

#[tokio::test]
async fn a_claim_that_cannot_grow_is_said_until_it_can() {
    let bench = healthy().await;
    for ordinal in 0..3 {
        bench.api.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("data-carts-{ordinal}"), "namespace": "shop"},
            "spec": {"resources": {"requests": {"storage": "1024Mi"}}}}));
    }
    let asks = |name: &str| {
        let claim = bench.api.get("PersistentVolumeClaim", "shop", name).unwrap();
        claim["spec"]["resources"]["requests"]["storage"].clone()
    };
    bench.api.fail_when(|call| {
        let is_claim = call.method == "PATCH" && call.path.ends_with("/data-carts-1");
        is_claim.then(|| (403, "Forbidden", "only dynamically provisioned pvc can be resized".to_owned()))
    });
    changed(&bench, |spec| spec["storage"]["size"] = json!("2Gi"));
    bench.looks(2).await;
    assert_eq!(bench.condition("Progressing"), ("False".into(), "ClaimNotGrown".into()));
    let said = bench.status()["conditions"].to_string();
    for part in ["data-carts-1 stays at 1024Mi instead of 2Gi", "only dynamically", "allowVolumeExpansion"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!((asks("data-carts-0"), asks("data-carts-2")), (json!("2Gi"), json!("2Gi")), "the others grow");
    assert_eq!(bench.condition("Ready"), ("True".into(), "Healthy".into()));
    let writes = bench.api.writes().len();
    bench.looks(3).await;
    assert_eq!(bench.api.writes().len(), writes, "not each second");
    bench.api.heal();
    changed(&bench, |spec| spec["storage"]["size"] = json!("3Gi"));
    bench.looks(2).await;
    assert_eq!(bench.condition("Progressing"), ("False".into(), "AsWanted".into()));
    assert_eq!(asks("data-carts-1"), "3Gi");
}

#[tokio::test]
async fn an_attempt_that_failed_is_cleared_away_before_the_next_begins() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.look().await;
    let first = bench.status()["bootstrap"]["taskName"].as_str().unwrap().to_owned();
    bench.executor.set(&first, TaskState::Failed { reason: "DeadlineExceeded".into(), message: "late".into() });
    let pod = |phase: &str| {
        bench.api.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first", "namespace": "shop",
            "labels": {"batch.kubernetes.io/job-name": first}}, "spec": {"containers": []}, "status": {"phase": phase}}));
    };
    pod("Running");
    bench.look().await;
    assert!(bench.executor.forgotten.lock().unwrap().is_empty(), "whoever looks finds it");
    bench.clock.advance(Duration::from_secs(11));
    bench.look().await;
    assert_eq!(bench.executor.forgotten.lock().unwrap()[0].name, first);
    assert_eq!((bench.executor.names().len(), bench.condition("Restored").1), (1, "Preparing".into()));
    pod("Failed");
    bench.look().await;
    assert_eq!(bench.executor.names().len(), 2);
}

#[tokio::test]
async fn the_first_claim_goes_with_its_cluster_until_it_is_filled() {
    let bench = bench(born());
    backup(&bench, "Completed");
    bench.look().await;
    let owners = || {
        let claim = bench.api.get("PersistentVolumeClaim", "shop", "data-carts-0").unwrap();
        claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
    };
    let uid = bench.cluster()["metadata"]["uid"].clone();
    assert_eq!(owners()[0]["uid"], uid);
    bench.api.update("PersistentVolumeClaim", "shop", "data-carts-0", |claim| {
        let another = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "another"});
        claim["metadata"]["ownerReferences"].as_array_mut().unwrap().push(another);
    });
    restored(&bench, 5);
    bench.look().await;
    assert_eq!(bench.status()["bootstrap"]["filled"], true);
    assert_eq!(owners().iter().map(|one| one["uid"].clone()).collect::<Vec<_>>(), ["another"]);
}

#[rstest]
#[case::refused(403, "Forbidden", "Forbidden")]
#[case::webhook_is_down(500, "InternalError", "KubernetesApi")]
#[tokio::test]
async fn pods_that_cannot_be_labelled_do_not_stand_in_the_way_of_a_failover(
    #[case] code: u16,
    #[case] answer: &'static str,
    #[case] reason: &str,
) {
    let bench = healthy().await;
    bench.api.fail_when(move |call| {
        let is_pod = call.method == "PATCH" && call.path.contains("/pods/");
        is_pod.then(|| (code, answer, "policy says no".to_owned()))
    });
    restart_emptied(&bench, "carts-0");
    bench.looks(8).await;
    let status = bench.status();
    assert_ne!(status["primary"], "carts-0", "{status:#}");
    let followers = bench.instances.0.lock().unwrap().values().filter(|one| one.role == Played::Replica).count();
    assert_eq!((&status["epoch"], followers), (&json!(2), 2), "{status:#}");
    assert_eq!(bench.condition("Progressing"), ("False".into(), reason.into()));
    bench.api.heal();
    bench.looks(2).await;
    assert_eq!(bench.condition("Progressing"), ("False".into(), "AsWanted".into()));
}

#[tokio::test]
async fn a_secret_that_cannot_be_made_does_not_stand_in_the_way_of_a_failover() {
    let bench = healthy().await;
    // As after an upgrade from a release that had none.
    bench.api.update("RedisCluster", "shop", "carts", |cluster| {
        cluster["status"].as_object_mut().unwrap().remove("authSecret");
    });
    let before = bench.api.get("StatefulSet", "shop", "carts").unwrap();
    bench.api.fail_when(|call| {
        let is_secret = call.method == "POST" && call.path.ends_with("/secrets");
        is_secret.then(|| (403, "Forbidden", "exceeded quota".to_owned()))
    });
    bench.look().await;
    assert_eq!(bench.condition("Progressing"), ("False".into(), "Forbidden".into()));
    let tries = bench.api.calls().len();
    restart_emptied(&bench, "carts-0");
    bench.looks(8).await;
    let status = bench.status();
    assert_ne!(status["primary"], "carts-0", "{status:#}");
    assert_eq!((&status["epoch"], &status["phase"]), (&json!(2), &json!("Healthy")), "{status:#}");
    let again = bench.api.calls().split_off(tries);
    assert!(!again.iter().any(|call| call.path.ends_with("/secrets") && call.method == "POST"), "not each second");
    assert_eq!(bench.api.get("StatefulSet", "shop", "carts").unwrap(), before, "no pod without a password");
    bench.api.heal();
    changed(&bench, |spec| spec["labels"] = json!({"team": "a"}));
    bench.looks(3).await;
    let made = bench.status()["authSecret"]["name"].as_str().unwrap().to_owned();
    let set = bench.api.get("StatefulSet", "shop", "carts").unwrap();
    assert!(set["spec"].to_string().contains(&made), "{set:#}");
}

#[tokio::test]
async fn what_is_refused_before_there_is_anything_is_said() {
    let bench = bench(plain());
    bench.api.fail_when(|call| {
        let is_secret = call.method == "POST" && call.path.ends_with("/secrets");
        is_secret.then(|| (403, "Forbidden", "exceeded quota".to_owned()))
    });
    bench.looks(2).await;
    assert_eq!(bench.condition("Ready"), ("False".into(), "Forbidden".into()));
    bench.api.heal();
    bench.looks(3).await;
    assert_eq!(bench.status()["phase"], "Creating");
}

#[tokio::test]
async fn a_primary_that_is_evicted_is_asked_to_hand_over() {
    let bench = healthy().await;
    bench
        .api
        .update("Pod", "shop", "carts-0", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-27T12:00:00Z"));
    bench.look().await;
    let uid = bench.cluster()["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let ordered = bench.fleet.with(&uid, |memory| memory.acknowledged("carts-0").unwrap());
    assert!(matches!(&ordered.role, Role::HandOver { to } if to.pod == "carts-1"), "{ordered:?}");
    assert_eq!(bench.condition("Progressing"), ("True".into(), "SwitchingOver".into()));
}

#[tokio::test]
async fn a_primary_whose_node_shuts_down_is_asked_to_hand_over() {
    let bench = healthy().await;
    bench.instances.0.lock().unwrap().get_mut("carts-0").unwrap().ending = true;
    bench.look().await;
    assert_eq!(bench.condition("Progressing"), ("True".into(), "SwitchingOver".into()));
}
