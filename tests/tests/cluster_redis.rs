//! Managed Redis on a node: a cluster of three becomes Healthy, is backed up by its name, and a second one is born from that
//! backup with the same data; then primaries are lost under a writer, and no write that a replica confirmed is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::managed::{account, connect};
use redkeep_tests::kube::{BUCKET, Cluster, Operator, Storage, TestNamespace, install_crds, redis_image};
use serde_json::{Value, json};

const API: &str = "redis.io/v1";
/// T of these clusters, in seconds.
const FENCING: u64 = 5;

fn cluster_object(name: &str, version: Version, more: &Value) -> Value {
    let mut spec = json!({
        "instances": 3, "imageName": redis_image(version), "storage": {"size": "1Gi"},
        "backupCredentialsSecret": {"name": "backup-credentials"}, "failover": {"fencingSeconds": FENCING},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": API, "kind": "RedisCluster", "metadata": {"name": name}, "spec": spec})
}

async fn phase(namespace: &TestNamespace, operator: &Operator, name: &str, wanted: &str) -> Result<Value> {
    let is = |object: Option<&Value>| object.is_some_and(|object| object["status"]["phase"] == wanted);
    let found = namespace.wait_for(API, "RedisCluster", name, &format!("to be {wanted}"), is).await;
    found.with_context(|| format!("--- operator\n{}", operator.log()))
}

async fn primary_of(namespace: &TestNamespace, name: &str) -> Result<(Value, String)> {
    let cluster = namespace.get(API, "RedisCluster", name).await?.context("no cluster")?;
    let primary = cluster["status"]["primary"].as_str().context("no primary")?.to_owned();
    Ok((cluster, primary))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_backed_up_and_born_again() -> Result<()> {
    let Some(cluster) = Cluster::node("a_cluster_is_made_backed_up_and_born_again") else { return Ok(()) };
    let version = Version::Redis70;
    let home = cluster.namespace("managed").await?;
    install_crds(cluster)?;
    account(&home).await?;
    let operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let bucket = Storage::start(&home).await?;

    home.apply(&cluster_object("carts", version, &json!({"redisConfig": {"appendonly": "yes"}}))).await?;
    let carts = phase(&home, &operator, "carts", "Healthy").await?;
    ensure!(carts["status"]["readyInstances"] == 3, "{carts:#}");
    let primary = carts["status"]["primary"].as_str().context("no primary")?;
    let mut connection = connect(&home, &carts, primary).await?;
    apply(&mut connection, &Shape::standalone(version), 3, 1500).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut connection).await?;
    let before = Dataset::through(&mut connection, version).await?;

    home.apply(&json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": "nightly"}, "spec": {
        "clusterName": "carts", "method": "rdb",
        "destination": {"s3": {"bucket": BUCKET, "path": "managed", "region": "us-east-1", "endpoint": bucket.endpoint()}},
    }}))
    .await?;
    let ended = |object: Option<&Value>| {
        object.is_some_and(|object| matches!(object["status"]["phase"].as_str(), Some("Completed" | "Failed")))
    };
    let backup = home.wait_for(API, "RedisBackup", "nightly", "to end", ended).await?;
    ensure!(backup["status"]["phase"] == "Completed", "{backup:#}\n{}\n{}", home.describe(), operator.log());

    for (name, appendonly) in [("again", "yes"), ("once-more", "no")] {
        let more = json!({"bootstrap": {"backupName": "nightly"}, "redisConfig": {"appendonly": appendonly}});
        home.apply(&cluster_object(name, version, &more)).await?;
        let born = phase(&home, &operator, name, "Healthy").await?;
        let primary = born["status"]["primary"].as_str().context("no primary")?;
        let mut connection = connect(&home, &born, primary).await?;
        let differences = before.differences(&Dataset::through(&mut connection, version).await?, false);
        ensure!(differences.is_empty(), "{name}: {differences:#?}");
        let conditions = born["status"]["conditions"].as_array().context("no conditions")?;
        ensure!(conditions.iter().any(|one| one["type"] == "Restored" && one["status"] == "True"), "{born:#}");
        home.delete(API, "RedisCluster", name).await?;
    }
    Ok(())
}

/// Writes numbers one by one to whoever is primary; each is confirmed by one replica before the next.
async fn write(namespace: Arc<TestNamespace>, stop: Arc<AtomicBool>) -> Result<(Vec<u64>, Duration)> {
    let mut confirmed = Vec::new();
    let mut connection: Option<MultiplexedConnection> = None;
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let Some(open) = &mut connection else {
            if let Ok((cluster, primary)) = primary_of(&namespace, "carts").await {
                connection = connect(&namespace, &cluster, &primary).await.ok();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        number += 1;
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(format!("n:{number}")).arg(number).ignore().cmd("WAIT").arg(1).arg(500);
        let wrote = tokio::time::timeout(Duration::from_secs(2), pipeline.query_async::<(u64,)>(open)).await;
        match wrote {
            Ok(Ok((replicas,))) if replicas >= 1 => {
                confirmed.push(number);
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            Ok(Ok(_)) => {}
            _ => connection = None,
        }
    }
    Ok((confirmed, gap))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_primary_is_replaced_and_no_confirmed_write_is_lost() -> Result<()> {
    let Some(cluster) = Cluster::node("a_lost_primary_is_replaced_and_no_confirmed_write_is_lost") else {
        return Ok(());
    };
    let version = Version::Redis82;
    let home = Arc::new(cluster.namespace("failover").await?);
    install_crds(cluster)?;
    account(&home).await?;
    let operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    home.apply(&cluster_object("carts", version, &json!({}))).await?;
    phase(&home, &operator, "carts", "Healthy").await?;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(Arc::clone(&home), Arc::clone(&stop)));
    for round in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (_, primary) = primary_of(&home, "carts").await?;
        // Without a word of goodbye.
        home.kill("v1", "Pod", &primary).await?;
        let is_replaced = |object: Option<&Value>| {
            object.is_some_and(|object| {
                object["status"]["primary"].as_str().is_some_and(|now| now != primary)
                    && object["status"]["phase"] == "Healthy"
            })
        };
        let replaced = home.wait_for(API, "RedisCluster", "carts", "to have another primary", is_replaced).await;
        let replaced = replaced.with_context(|| format!("round {round}\n--- operator\n{}", operator.log()))?;
        println!("round {round}: {primary} -> {}", replaced["status"]["primary"]);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::SeqCst);
    let (confirmed, gap) = writer.await??;
    println!("{} writes confirmed; the longest gap lasted {gap:?}", confirmed.len());
    ensure!(confirmed.len() > 100, "the writer hardly wrote");
    let (object, primary) = primary_of(&home, "carts").await?;
    let mut connection = connect(&home, &object, &primary).await?;
    let mut lost = Vec::new();
    for chunk in confirmed.chunks(1000) {
        let keys: Vec<String> = chunk.iter().map(|number| format!("n:{number}")).collect();
        let values: Vec<Option<u64>> = redis::cmd("MGET").arg(&keys).query_async(&mut connection).await?;
        lost.extend(chunk.iter().zip(values).filter(|(_, value)| value.is_none()).map(|(number, _)| *number));
    }
    ensure!(lost.is_empty(), "{} confirmed writes are lost: {:?}", lost.len(), &lost[..lost.len().min(20)]);
    Ok(())
}

/// The reason of a condition that is False.
fn why_not(object: Option<&Value>, kind: &str) -> Option<String> {
    let conditions = object?["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == "False")?;
    found["reason"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_heals_when_it_is_put_right() -> Result<()> {
    let Some(cluster) = Cluster::node("what_is_wrong_is_said_and_heals_when_it_is_put_right") else { return Ok(()) };
    let version = Version::Valkey81;
    let home = cluster.namespace("wrong").await?;
    install_crds(cluster)?;
    account(&home).await?;
    let operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let says = async |name: &str, kind: &str, reason: &str| {
        let is = |object: Option<&Value>| why_not(object, kind).as_deref() == Some(reason);
        let found = home.wait_for(API, "RedisCluster", name, &format!("to say {reason}"), is).await;
        found.map(drop).with_context(|| format!("--- operator\n{}", operator.log()))
    };
    let one = |more: Value| {
        let mut more = more;
        more["instances"] = json!(1);
        more
    };
    home.apply(&cluster_object("unborn", version, &one(json!({"bootstrap": {"backupName": "nightly"}})))).await?;
    home.apply(&cluster_object("image", version, &one(json!({"imageName": "localhost/s3:1"})))).await?;
    let secret = json!({"auth": {"secret": {"name": "mine", "key": "pass"}}});
    home.apply(&cluster_object("secret", version, &one(secret))).await?;
    says("unborn", "Restored", "BackupNotFound").await?;
    ensure!(home.get("apps/v1", "StatefulSet", "unborn").await?.is_none(), "no half-made cluster");
    ensure!(home.get("v1", "PersistentVolumeClaim", "data-unborn-0").await?.is_none(), "no half-made cluster");
    says("image", "Ready", "InstanceFailed").await?;
    says("secret", "Ready", "MountFailed").await?;

    home.apply(&cluster_object("image", version, &one(json!({})))).await?;
    home.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": {"pass": "x".repeat(32)}}))
        .await?;
    phase(&home, &operator, "image", "Healthy").await?;
    phase(&home, &operator, "secret", "Healthy").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_claims_it_is_born_switches_over_and_outlives_its_operator() -> Result<()> {
    let Some(cluster) = Cluster::node("without_claims_it_is_born_switches_over_and_outlives_its_operator") else {
        return Ok(());
    };
    let version = Version::Redis70;
    let home = cluster.namespace("ephemeral").await?;
    install_crds(cluster)?;
    account(&home).await?;
    let operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let bucket = Storage::start(&home).await?;
    let ephemeral = |name: &str, more: &Value| {
        let mut object = cluster_object(name, version, more);
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("storage");
        }
        object["spec"]["ephemeral"] = json!({"sizeLimit": "1Gi"});
        object
    };
    home.apply(&ephemeral("source", &json!({"instances": 1}))).await?;
    let source = phase(&home, &operator, "source", "Healthy").await?;
    let mut connection = connect(&home, &source, "source-0").await?;
    apply(&mut connection, &Shape::standalone(version), 3, 800).await?;
    let before = Dataset::through(&mut connection, version).await?;
    home.apply(&json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": "nightly"}, "spec": {
        "clusterName": "source", "method": "rdb",
        "destination": {"s3": {"bucket": BUCKET, "path": "ephemeral", "region": "us-east-1", "endpoint": bucket.endpoint()}},
    }}))
    .await?;
    let completed = |object: Option<&Value>| object.is_some_and(|object| object["status"]["phase"] == "Completed");
    home.wait_for(API, "RedisBackup", "nightly", "to be completed", completed).await?;

    home.apply(&ephemeral("again", &json!({"bootstrap": {"backupName": "nightly"}}))).await?;
    let born = phase(&home, &operator, "again", "Healthy").await?;
    let equal = async |object: &Value| -> Result<()> {
        let primary = object["status"]["primary"].as_str().context("no primary")?;
        let mut connection = connect(&home, object, primary).await?;
        let differences = before.differences(&Dataset::through(&mut connection, version).await?, false);
        ensure!(differences.is_empty(), "{differences:#?}");
        Ok(())
    };
    equal(&born).await?;

    cluster.succeed(&["-n", home.name(), "annotate", "rediscluster", "again", "redis.io/switch-over=again-2"])?;
    let is_at = |pod: &'static str| {
        move |object: Option<&Value>| {
            object.is_some_and(|object| object["status"]["primary"] == pod && object["status"]["phase"] == "Healthy")
        }
    };
    let moved = home.wait_for(API, "RedisCluster", "again", "to have switched over", is_at("again-2")).await;
    let moved = moved.with_context(|| format!("--- operator\n{}", operator.log()))?;
    equal(&moved).await?;

    // The primary is lost, and so is the operator in the middle of replacing it.
    home.kill("v1", "Pod", "again-2").await?;
    let failing = |object: Option<&Value>| object.is_some_and(|object| object["status"]["phase"] == "FailingOver");
    home.wait_for(API, "RedisCluster", "again", "to fail over", failing).await?;
    operator.kill();
    let next = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let replaced = |object: Option<&Value>| {
        object.is_some_and(|object| object["status"]["primary"] != "again-2" && object["status"]["phase"] == "Healthy")
    };
    let replaced = home.wait_for(API, "RedisCluster", "again", "to have another primary", replaced).await;
    equal(&replaced.with_context(|| format!("--- operator\n{}", next.log()))?).await?;
    Ok(())
}
