//! The worst day on a real cluster: what a RedisBackup stored is verified, and comes back into another Redis, by the object's
//! name and, in a namespace that knows nothing but the bucket, from storage alone.

use anyhow::{Result, ensure};
use redis::aio::MultiplexedConnection;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::{BUCKET, Cluster, Operator, Redis, Storage, TestNamespace, install_crds};
use serde_json::{Value, json};

const API: &str = "redis.io/v1";

fn storage_object(endpoint: &str) -> Value {
    json!({"apiVersion": API, "kind": "BackupStorage", "metadata": {"name": "main"}, "spec": {
        "destination": {"s3": {"bucket": BUCKET, "path": "restore", "region": "us-east-1", "endpoint": endpoint}},
        "backupCredentialsSecret": {"name": "backup-credentials"}, "probeInterval": "1h"}})
}

fn restore(name: &str, from: &Value, into: &str) -> Value {
    let mut spec = json!({"target": {"source": {"statefulSet": {"name": into}}}, "activeDeadlineSeconds": 200});
    if let (Some(spec), Some(from)) = (spec.as_object_mut(), from.as_object()) {
        spec.extend(from.clone());
    }
    json!({"apiVersion": API, "kind": "RedisRestore", "metadata": {"name": name}, "spec": spec})
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

async fn ended(namespace: &TestNamespace, kind: &str, name: &str) -> Result<Value> {
    let is_over = |object: Option<&Value>| {
        object.is_some_and(|object| {
            matches!(object["status"]["phase"].as_str(), Some("Completed" | "Failed"))
                && !object["metadata"]["labels"]["redis.io/outcome"].is_null()
        })
    };
    namespace.wait_for(API, kind, name, "to end", is_over).await
}

async fn equal(version: Version, before: &Dataset, target: &mut MultiplexedConnection) -> Result<()> {
    let differences = before.differences(&Dataset::through(target, version).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_verified_and_comes_back_by_name_and_from_storage_alone() -> Result<()> {
    let Some(cluster) = Cluster::node("a_backup_is_verified_and_comes_back_by_name_and_from_storage_alone") else {
        return Ok(());
    };
    let version = Version::Redis70;
    let home = cluster.namespace("restore").await?;
    install_crds(cluster)?;
    let _operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let bucket = Storage::start(&home).await?;
    let source = Redis::start(&home, "source", version, 1).await?;
    let mut primary = source.connect(0).await?;
    apply(&mut primary, &Shape::standalone(version), 3, 1500).await?;
    redis::cmd("WAIT").arg(1).arg(60_000).query_async::<()>(&mut primary).await?;
    let before = Dataset::through(&mut primary, version).await?;

    home.apply(&storage_object(&bucket.endpoint())).await?;
    let ready = |object: Option<&Value>| object.is_some_and(|object| condition(object, "Ready")["status"] == "True");
    let storage = home.wait_for(API, "BackupStorage", "main", "to be ready", ready).await?;
    ensure!(storage["status"]["backups"] == 0, "{storage:#}");
    ensure!(storage["status"]["capabilities"].as_array().is_some_and(|all| !all.is_empty()), "{storage:#}");

    home.apply(&json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": "one"}, "spec": {
        "source": {"statefulSet": {"name": "source"}}, "method": "rdb", "storageRef": {"name": "main"},
        "verification": {"level": "parse"}}}))
        .await?;
    let backup = ended(&home, "RedisBackup", "one").await?;
    ensure!(backup["status"]["phase"] == "Completed", "{backup:#}\n{}", home.describe());
    ensure!(condition(&backup, "Verified")["status"] == "True", "{backup:#}");
    ensure!(backup["status"]["verification"]["level"] == "parse", "{backup:#}");

    // By the object's name, into a second Redis.
    let second = Redis::start(&home, "second", version, 0).await?;
    home.apply(&restore("by-name", &json!({"backupName": "one"}), "second")).await?;
    let object = ended(&home, "RedisRestore", "by-name").await?;
    ensure!(object["status"]["phase"] == "Completed", "{object:#}\n{}", home.describe());
    equal(version, &before, &mut second.connect(0).await?).await?;

    // Once more into the same: refused before anything is touched, and said so.
    home.apply(&restore("again", &json!({"backupName": "one"}), "second")).await?;
    let object = ended(&home, "RedisRestore", "again").await?;
    ensure!(object["status"]["phase"] == "Failed", "{object:#}");
    ensure!(object["status"]["error"].as_str().is_some_and(|why| why.contains("empty")), "{object:#}");
    equal(version, &before, &mut second.connect(0).await?).await?;

    // A new namespace that has the bucket's credentials, and no RedisBackup.
    let away = cluster.namespace("away").await?;
    let _another = Operator::in_namespace(&away, cluster.kubeconfig(), &[]).await?;
    let keys = home.get("v1", "Secret", "backup-credentials").await?.unwrap_or_default();
    away.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-credentials"}, "data": keys["data"]}))
        .await?;
    away.apply(&storage_object(&bucket.endpoint())).await?;
    let storage = away
        .wait_for(API, "BackupStorage", "main", "to have counted", |object| {
            object.is_some_and(|object| object["status"]["backups"] == 1)
        })
        .await?;
    ensure!(storage["status"]["newest"]["backupId"] == backup["status"]["backupId"], "{storage:#}");
    let third = Redis::start(&away, "third", version, 0).await?;
    let from = json!({"storageRef": {"name": "main"}, "latest": true, "fromNamespace": home.name()});
    away.apply(&restore("from-storage", &from, "third")).await?;
    let object = ended(&away, "RedisRestore", "from-storage").await?;
    ensure!(object["status"]["phase"] == "Completed", "{object:#}\n{}", away.describe());
    ensure!(object["status"]["backupId"] == backup["status"]["backupId"], "{object:#}");
    equal(version, &before, &mut third.connect(0).await?).await?;
    ensure!(away.list("coordination.k8s.io/v1", "Lease", "redis.io/restore").await?.is_empty(), "the target is free");
    Ok(())
}
