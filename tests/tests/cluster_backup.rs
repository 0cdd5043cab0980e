//! Backups by custom resource on a node, in a namespace with pod security `restricted`: the whole way, and each way it can
//! be broken. Every run ends with its reason, and the next run works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::{
    BUCKET, Cluster, LIMIT, Operator, Redis, RedisOptions, Storage, TestNamespace, install_crds,
};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
const PREFIX: &str = "production/source";

/// A namespace with a Redis of one primary and two replicas, an S3 server, and an operator that watches it.
struct Stage {
    operator: Operator,
    namespace: &'static TestNamespace,
    redis: Redis<'static>,
    storage: Storage<'static>,
}

impl Stage {
    async fn set(test: &str, replicas: u32) -> Result<Option<Self>> {
        Self::set_with(test, replicas, RedisOptions::default()).await
    }

    async fn set_with(test: &str, replicas: u32, options: RedisOptions) -> Result<Option<Self>> {
        let Some(cluster) = Cluster::node(test) else { return Ok(None) };
        install_crds(cluster)?;
        // Lives as long as the test program; `Stage::clear` deletes it in the cluster.
        let namespace: &'static TestNamespace = Box::leak(Box::new(cluster.namespace("backup").await?));
        let storage = Storage::start(namespace).await?;
        let redis = Redis::start_with(namespace, "source", Version::Redis70, replicas, options).await?;
        let operator = Operator::in_namespace(namespace, cluster.kubeconfig(), &[]).await?;
        Ok(Some(Self { operator, namespace, redis, storage }))
    }

    /// Data that do not compress: long enough to be hit half-way when the rate is limited.
    async fn fill(&self, megabytes: u32) -> Result<()> {
        let mut primary = self.redis.connect(0).await?;
        let mut random = rand::rng();
        for batch in 0..megabytes {
            let mut pipeline = redis::pipe();
            for number in 0..16 {
                let mut value = vec![0_u8; 64 << 10];
                random.fill(value.as_mut_slice());
                pipeline.cmd("SET").arg(format!("big:{batch}:{number}")).arg(value).ignore();
            }
            pipeline.query_async::<()>(&mut primary).await?;
        }
        Ok(())
    }

    fn backup(&self, name: &str, more: &Value) -> Value {
        let mut spec = json!({
            "source": {"statefulSet": {"name": "source"}},
            "method": "rdb",
            "destination": {"s3": {
                "bucket": BUCKET, "path": PREFIX, "region": "us-east-1", "endpoint": self.storage.endpoint(),
            }},
            "backupCredentialsSecret": {"name": "backup-credentials"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": GROUP, "kind": "RedisBackup", "metadata": {"name": name}, "spec": spec})
    }

    /// Slow enough to be met while it runs.
    fn slow(&self, name: &str, more: &Value) -> Value {
        let mut object = self.backup(name, more);
        object["spec"]["limitRate"] = json!("1M");
        object["spec"]["task"] = json!({"spool": {"sizeLimit": "1Gi"}});
        object
    }

    /// Waits for the end of a run; returns its status.
    async fn ended(&self, kind: &str, name: &str) -> Result<Value> {
        let ended = self.namespace.run_ended(GROUP, kind, name).await;
        Ok(ended.with_context(|| format!("--- operator\n{}", self.operator.log()))?["status"].clone())
    }

    async fn completed(&self, kind: &str, name: &str) -> Result<Value> {
        let status = self.ended(kind, name).await?;
        ensure!(status["phase"] == "Completed", "{name}: {status:#}\n{}", self.everything());
        Ok(status)
    }

    async fn failed(&self, kind: &str, name: &str) -> Result<String> {
        let status = self.ended(kind, name).await?;
        ensure!(status["phase"] == "Failed", "{name}: {status:#}\n{}", self.everything());
        let conditions = status["conditions"].as_array().context("no conditions")?;
        let failed = conditions.iter().find(|one| one["type"] == "Failed" && one["status"] == "True");
        let reason = failed.and_then(|one| one["reason"].as_str()).with_context(|| format!("no reason: {status:#}"))?;
        ensure!(status["error"].as_str().is_some_and(|error| !error.is_empty()), "{name} does not say why: {status:#}");
        Ok(reason.to_owned())
    }

    /// Waits until the task's pod runs; returns the pod's name.
    async fn running(&self, name: &str) -> Result<String> {
        let namespace = self.namespace;
        let run = namespace
            .wait_for(GROUP, "RedisBackup", name, "to run", |run| {
                run.is_some_and(|run| run["status"]["phase"] == "Running" && run["status"]["taskName"].is_string())
            })
            .await
            .with_context(|| format!("--- operator\n{}", self.operator.log()))?;
        let task = run["status"]["taskName"].as_str().context("no task")?.to_owned();
        namespace
            .wait_until("the task's pod runs", || async {
                let pods = namespace.list("v1", "Pod", &format!("batch.kubernetes.io/job-name={task}")).await?;
                let running = pods.iter().find(|pod| pod["status"]["phase"] == "Running");
                Ok(running.and_then(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned))
            })
            .await
    }

    /// How often a server saved to its disk since it started.
    async fn disk_saves(&self, ordinal: u32) -> Result<u64> {
        let mut connection = self.redis.connect(ordinal).await?;
        let text: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("rdb_saves:")).context("no rdb_saves")?;
        Ok(line.trim().parse()?)
    }

    /// How many backups the bucket has.
    async fn stored(&self) -> Result<usize> {
        let listed = self.storage.redkeep(PREFIX, &["list", "-o", "json"]).await?;
        if listed.code == Some(4) {
            return Ok(0);
        }
        ensure!(listed.code == Some(0), "{listed:#?}");
        Ok(listed.json().as_array().map_or(0, Vec::len))
    }

    /// Waits until the operator knows that the task is lost, whether or not it could ask storage already.
    async fn lost(&self, name: &str) -> Result<()> {
        let lost = self.namespace.wait_for(GROUP, "RedisBackup", name, "to be lost", |run| {
            let conditions = run.and_then(|run| run["status"]["conditions"].as_array());
            conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Failed" && one["status"] != "False"))
        });
        lost.await.map(drop).with_context(|| format!("--- operator\n{}", self.operator.log()))
    }

    /// The run has ended, and says what the bucket says: a task that nobody saw may have done its work.
    async fn ended_as_stored(&self, name: &str) -> Result<()> {
        let status = self.ended("RedisBackup", name).await?;
        let stored = self.stored().await?;
        if status["phase"] == "Completed" {
            ensure!(stored == 1, "Completed, and {stored} backups: {status:#}");
        } else {
            ensure!(stored == 0, "Failed, and {stored} backups: {status:#}");
            self.failed("RedisBackup", name).await?;
        }
        Ok(())
    }

    /// After whatever was broken: one more backup, which must be whole.
    async fn next_works(&self) -> Result<()> {
        self.namespace.apply(&self.backup("next", &Value::Null)).await?;
        self.completed("RedisBackup", "next").await?;
        Ok(())
    }

    async fn events(&self, about: &str) -> Result<Vec<String>> {
        let events = self.namespace.list("v1", "Event", "").await?;
        let about = events.iter().filter(|event| event["involvedObject"]["name"] == about);
        Ok(about.filter_map(|event| event["reason"].as_str()).map(str::to_owned).collect())
    }

    fn everything(&self) -> String {
        format!("{}\n--- operator\n{}", self.namespace.describe(), self.operator.log())
    }

    fn clear(self) {
        self.namespace.remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_in_the_bucket_counted_and_told() -> Result<()> {
    let Some(stage) = Stage::set("a_backup_is_in_the_bucket_counted_and_told", 2).await? else {
        return Ok(());
    };
    let mut primary = stage.redis.connect(0).await?;
    apply(&mut primary, &Shape::standalone(Version::Redis70), 1, 2000).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut primary).await?;

    stage.namespace.apply(&stage.backup("first", &Value::Null)).await?;
    let status = stage.completed("RedisBackup", "first").await?;
    let pod = status["targetPod"].as_str().context("no target pod")?;
    ensure!(pod.contains("source-1") || pod.contains("source-2"), "a replica was to be read, it was {pod}");
    let path = status["backupPath"].as_str().context("no path")?;
    ensure!(path.starts_with(&format!("s3://{BUCKET}/{PREFIX}/")), "{path}");
    ensure!(status["artifactType"] == "rdb" && status["backupSize"].as_i64() > Some(0), "{status:#}");
    ensure!(status["checksumSHA256"].as_str().map(str::len) == Some(64), "{status:#}");
    ensure!(stage.stored().await? == 1, "the bucket has {} backups", stage.stored().await?);

    let namespace = stage.namespace;
    let line =
        format!("redis_last_successful_backup_timestamp{{namespace=\"{}\",cluster=\"source\"}}", namespace.name());
    let metrics = stage.operator.get("/metrics").await?;
    ensure!(metrics.lines().any(|one| one.starts_with(&line)), "{line} is not in\n{metrics}");
    let events = stage.events("first").await?;
    ensure!(!events.is_empty(), "no Event about it\n{}", stage.everything());

    stage.clear();
    Ok(())
}

/// The pods run as a user of their own, whose files nobody else may read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_replica_are_read_through_its_claim_and_hold_all_data() -> Result<()> {
    let options = RedisOptions { user: 1999, appendonly: true };
    let test = "the_files_of_a_replica_are_read_through_its_claim_and_hold_all_data";
    let Some(stage) = Stage::set_with(test, 2, options).await? else { return Ok(()) };
    let version = Version::Redis70;
    let mut primary = stage.redis.connect(0).await?;
    apply(&mut primary, &Shape::standalone(version), 1, 2000).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut primary).await?;
    let before = Dataset::through(&mut primary, version).await?;
    for ordinal in 0..3 {
        ensure!(stage.disk_saves(ordinal).await? == 0, "server {ordinal} saves by itself");
    }

    for (target, method, artifact) in
        [("prefer-replica", "rdb", "rdb"), ("prefer-replica", "aof", "aof-archive"), ("primary", "rdb", "rdb")]
    {
        let name = format!("files-{method}-{target}");
        let source = json!({"statefulSet": {"name": "source", "files": {}}});
        stage
            .namespace
            .apply(&stage.backup(&name, &json!({"source": source, "method": method, "target": target})))
            .await?;
        let status = stage.completed("RedisBackup", &name).await?;
        let pod = status["targetPod"].as_str().context("no target pod")?.to_owned();
        ensure!((pod == "source-0") == (target == "primary"), "{target} was to be read, it was {pod}");
        ensure!(status["artifactType"] == artifact, "{status:#}");
        // Only files are archived as such, and only for files does a server save to its disk.
        let ordinal = pod.trim_start_matches("source-").parse()?;
        ensure!(method == "aof" || stage.disk_saves(ordinal).await? > 0, "{pod} did not save\n{}", stage.everything());
        let place = tempfile::tempdir()?;
        let folder = place.path().join("data");
        let folder_text = folder.to_str().context("a path")?;
        let id = status["backupId"].as_str().context("no id")?;
        let restored = stage.storage.redkeep(PREFIX, &["restore", id, "--target-dir", folder_text]).await?;
        ensure!(restored.code == Some(0), "{restored:#?}");
        let server =
            RedisServer::start_in(version, &folder, &["--appendonly", if method == "aof" { "yes" } else { "no" }])?;
        let after = Dataset::through(&mut server.connect().await?, version).await?;
        let differences = before.differences(&after, false);
        ensure!(differences.is_empty(), "{name}: {differences:#?}");
    }
    ensure!(stage.stored().await? == 3, "the bucket has {} backups", stage.stored().await?);

    // What cannot be read so says why, and before there is a task.
    let other = json!({"source": {"statefulSet": {"name": "source", "files": {"volume": "other"}}}});
    stage.namespace.apply(&stage.backup("no-such-volume", &other)).await?;
    ensure!(stage.failed("RedisBackup", "no-such-volume").await? == "InvalidSpec", "{}", stage.everything());
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_pod_killed_half_way_is_replaced_and_one_backup_is_made() -> Result<()> {
    let Some(stage) = Stage::set("a_task_pod_killed_half_way_is_replaced_and_one_backup_is_made", 0).await? else {
        return Ok(());
    };
    stage.fill(16).await?;
    stage.namespace.apply(&stage.slow("killed", &Value::Null)).await?;
    let pod = stage.running("killed").await?;
    stage.namespace.kill("v1", "Pod", &pod).await?;
    stage.completed("RedisBackup", "killed").await?;
    ensure!(stage.stored().await? == 1, "the bucket has {} backups", stage.stored().await?);
    stage.next_works().await?;
    ensure!(stage.stored().await? == 2, "the bucket has {} backups", stage.stored().await?);
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_pod_deleted_half_way_ends_the_run_and_the_next_works() -> Result<()> {
    let Some(stage) = Stage::set("a_redis_pod_deleted_half_way_ends_the_run_and_the_next_works", 0).await? else {
        return Ok(());
    };
    stage.fill(64).await?;
    // Without a spool the server is held for as long as storage takes; it goes at any moment of the run.
    stage.namespace.apply(&stage.backup("orphan", &json!({"backoffLimit": 0}))).await?;
    stage.running("orphan").await?;
    stage.namespace.kill("v1", "Pod", &stage.redis.pod(0)).await?;
    stage.ended_as_stored("orphan").await?;
    stage.redis.ready().await?;
    stage.next_works().await?;
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_stays_what_no_rule_keeps_goes_and_a_deletion_deletes() -> Result<()> {
    let Some(stage) = Stage::set("what_is_pinned_stays_what_no_rule_keeps_goes", 0).await? else {
        return Ok(());
    };
    stage.fill(1).await?;
    stage.namespace.apply(&stage.backup("first", &Value::Null)).await?;
    stage.completed("RedisBackup", "first").await?;
    // Wished for after the end: a task tells storage.
    stage.namespace.apply(&stage.backup("first", &json!({"pin": true}))).await?;
    let is_pinned =
        |run: Option<&Value>| run.is_some_and(|run| run["metadata"]["annotations"]["redis.io/pinned"] == "true");
    stage.namespace.wait_for(GROUP, "RedisBackup", "first", "to be pinned", is_pinned).await?;

    let mut schedule = stage.backup("keeper", &json!({"schedule": "0 0 1 1 *", "retention": {"keepLast": 1}}));
    schedule["kind"] = json!("RedisScheduledBackup");
    let mut newest = String::new();
    for round in 1..=2 {
        schedule["metadata"]["annotations"] = json!({"redis.io/run-now": round.to_string()});
        stage.namespace.apply(&schedule).await?;
        let kept = stage
            .namespace
            .wait_for(GROUP, "RedisScheduledBackup", "keeper", "to have pruned after the run", |schedule| {
                schedule.is_some_and(|schedule| {
                    let status = &schedule["status"];
                    status["lastSuccessfulBackup"].as_str().is_some_and(|name| name != newest)
                        && status["retention"]["completedAt"].as_str() >= status["lastSuccessfulTime"].as_str()
                })
            })
            .await?;
        newest = kept["status"]["lastSuccessfulBackup"].as_str().unwrap_or_default().to_owned();
        ensure!(stage.stored().await? == 2, "round {round}: {:#}\n{}", kept["status"], stage.everything());
    }

    // The pinned one is what stayed of those before.
    let first = stage.ended("RedisBackup", "first").await?;
    let id = first["backupId"].as_str().context("no id")?;
    let listed = stage.storage.redkeep(PREFIX, &["list", "-o", "json"]).await?;
    let is_there = |listed: &Value| listed.as_array().into_iter().flatten().any(|one| one["backupId"] == id);
    ensure!(is_there(&listed.json()), "the pinned backup is gone: {listed:#?}");

    stage.namespace.apply(&stage.backup("passing", &json!({"deletionPolicy": "Delete"}))).await?;
    stage.completed("RedisBackup", "passing").await?;
    ensure!(stage.stored().await? == 3, "the bucket has {} backups", stage.stored().await?);
    stage.namespace.delete(GROUP, "RedisBackup", "passing").await?;
    stage.namespace.wait_for(GROUP, "RedisBackup", "passing", "to be gone", |run| run.is_none()).await?;
    ensure!(stage.stored().await? == 2, "the bucket has {} backups", stage.stored().await?);
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_refuses_fails_the_run_with_its_reason() -> Result<()> {
    let Some(stage) = Stage::set("storage_that_refuses_fails_the_run_with_its_reason", 0).await? else {
        return Ok(());
    };
    stage.fill(1).await?;
    // A key that the server does not know.
    stage
        .namespace
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"},
            "stringData": {"accessKeyId": "access", "secretAccessKey": "another-key"},
        }))
        .await?;
    let wrong = json!({"backupCredentialsSecret": {"name": "wrong"}, "backoffLimit": 0});
    stage.namespace.apply(&stage.backup("denied", &wrong)).await?;
    let denied = stage.failed("RedisBackup", "denied").await?;
    // A Secret that is not there: the task starts, and says what it looked for.
    let missing = json!({"backupCredentialsSecret": {"name": "missing"}, "backoffLimit": 0});
    stage.namespace.apply(&stage.backup("keyless", &missing)).await?;
    let keyless = stage.failed("RedisBackup", "keyless").await?;
    // And storage that is away.
    stage.storage.set(false).await?;
    stage.namespace.apply(&stage.backup("refused", &json!({"backoffLimit": 0, "activeDeadlineSeconds": 120}))).await?;
    let refused = stage.failed("RedisBackup", "refused").await?;
    let reasons = [denied.as_str(), keyless.as_str(), refused.as_str()];
    ensure!(reasons == ["StorageDenied", "StorageDenied", "StorageUnreachable"], "{reasons:?}\n{}", stage.everything());
    stage.storage.set(true).await?;
    stage.next_works().await?;
    ensure!(stage.stored().await? == 1, "the bucket has {} backups", stage.stored().await?);
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_runtime_that_stops_ends_the_run_and_the_next_works() -> Result<()> {
    let Some(stage) = Stage::set("a_node_runtime_that_stops_ends_the_run_and_the_next_works", 0).await? else {
        return Ok(());
    };
    stage.fill(16).await?;
    let cluster = stage.namespace.cluster();
    let deadline = json!({"activeDeadlineSeconds": 60, "startDeadlineSeconds": 30, "backoffLimit": 0});
    stage.namespace.apply(&stage.slow("stopped", &deadline)).await?;
    stage.running("stopped").await?;
    cluster.halt("kubelet")?;
    cluster.halt("containerd")?;
    // The pod runs on and nobody hears of it; the API server knows only what it knew.
    let lost = stage.lost("stopped").await;
    cluster.resume("containerd")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.resume("kubelet")?;
    lost?;
    node_ready(stage.namespace).await?;
    stage.redis.ready().await?;
    stage.storage.set(true).await?;
    stage.ended_as_stored("stopped").await?;
    stage.next_works().await?;
    stage.clear();
    Ok(())
}

/// A machine that is gone for good: its Node object is deleted while nothing on it answers. Kubernetes then deletes its pods
/// within a minute; the machine comes back as a new Node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_node_ends_the_run_and_the_next_works() -> Result<()> {
    let Some(stage) = Stage::set("a_deleted_node_ends_the_run_and_the_next_works", 0).await? else {
        return Ok(());
    };
    stage.fill(16).await?;
    let cluster = stage.namespace.cluster();
    let deadline = json!({"activeDeadlineSeconds": 90, "startDeadlineSeconds": 30, "backoffLimit": 0});
    stage.namespace.apply(&stage.slow("stranded", &deadline)).await?;
    let pod = stage.running("stranded").await?;
    cluster.halt("kubelet")?;
    cluster.succeed(&["delete", "node", "node-1", "--wait=false"])?;
    let gone = stage
        .namespace
        .wait_at_most(LIMIT, "v1", "Pod", &pod, "to be collected with its node", |pod| pod.is_none())
        .await
        .map(drop);
    let lost = match gone {
        Ok(()) => stage.lost("stranded").await,
        Err(error) => Err(error),
    };
    cluster.resume("kubelet")?;
    lost?;
    node_ready(stage.namespace).await?;
    stage.redis.ready().await?;
    stage.storage.set(true).await?;
    // Its bucket may have gone with its pod: what the run says is its own word, and that it says one is the matter.
    let status = stage.ended("RedisBackup", "stranded").await?;
    if status["phase"] == "Failed" {
        stage.failed("RedisBackup", "stranded").await?;
    }
    stage.next_works().await?;
    stage.clear();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_goes_whatever_runs_in_it() -> Result<()> {
    let Some(stage) = Stage::set("a_deleted_namespace_goes_whatever_runs_in_it", 0).await? else {
        return Ok(());
    };
    stage.fill(16).await?;
    stage.namespace.apply(&stage.backup("kept", &json!({"deletionPolicy": "Delete"}))).await?;
    stage.completed("RedisBackup", "kept").await?;
    stage.namespace.apply(&stage.slow("running", &json!({"deletionPolicy": "Delete"}))).await?;
    stage.running("running").await?;
    let name = stage.namespace.name();
    stage.namespace.delete("v1", "Namespace", name).await?;
    stage
        .namespace
        .wait_at_most(LIMIT, "v1", "Namespace", name, "to be gone", |namespace| namespace.is_none())
        .await
        .with_context(|| format!("--- operator\n{}", stage.operator.log()))?;
    // The next run, elsewhere.
    let Some(next) = Stage::set("a_deleted_namespace_goes_whatever_runs_in_it", 0).await? else { return Ok(()) };
    next.fill(1).await?;
    next.next_works().await?;
    next.clear();
    Ok(())
}

async fn node_ready(namespace: &TestNamespace) -> Result<()> {
    namespace
        .wait_for("v1", "Node", "node-1", "to be ready", |node| {
            let conditions = node.and_then(|node| node["status"]["conditions"].as_array());
            conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        })
        .await?;
    Ok(())
}
