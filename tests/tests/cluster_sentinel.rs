//! A Redis that Sentinels watch, as `RedisFailover` lays it out: backed up by the failover's name and by its Sentinels, before and
//! after they fail over, and restored through them.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::{BUCKET, Cluster, Operator, Redis, Sentinels, Storage, TestNamespace, install_crds};
use serde_json::{Value, json};

const API: &str = "redis.io/v1";
const VERSION: Version = Version::Redis70;
const PASSWORD: &str = "known-to-the-failover";

/// The definition of `RedisFailover`, without the schema of the operator that it belongs to.
fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "redisfailovers.databases.spotahome.com"},
        "spec": {
            "group": "databases.spotahome.com", "scope": "Namespaced",
            "names": {"kind": "RedisFailover", "plural": "redisfailovers", "singular": "redisfailover"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

async fn ended(namespace: &TestNamespace, operator: &Operator, object: &Value) -> Result<Value> {
    let name = namespace.apply(object).await?.name_any();
    let object = namespace.run_ended(API, object["kind"].as_str().unwrap_or_default(), &name).await?;
    let status = object["status"].clone();
    ensure!(status["phase"] == "Completed", "{name}: {status:#}\n{}\n{}", namespace.describe(), operator.log());
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sentinels_watch_is_backed_up_and_restored_and_they_never_see_a_replica_more() -> Result<()> {
    let test = "what_sentinels_watch_is_backed_up_and_restored_and_they_never_see_a_replica_more";
    let Some(cluster) = Cluster::node(test) else { return Ok(()) };
    install_crds(cluster)?;
    let home = cluster.namespace("sentinel").await?;
    home.apply(&definition()).await?;
    let bucket = Storage::start(&home).await?;
    let redis = Redis::start(&home, "rfr-shop", VERSION, 2).await?;
    let mut servers = Vec::new();
    for ordinal in 0..3 {
        servers.push(redis.connect(ordinal).await?);
    }
    // By its address, as Sentinels have it: they would do the same after a while, in the middle of whatever goes on.
    let primary = redis.address(0).await?;
    for replica in &mut servers[1..] {
        redis::cmd("REPLICAOF").arg(&primary).arg(6379).query_async::<()>(replica).await?;
    }
    redis.ready().await?;
    for server in &mut servers {
        let set = ["CONFIG", "SET", "masterauth", PASSWORD, "requirepass", PASSWORD];
        redis::cmd(set[0]).arg(&set[1..]).query_async::<()>(server).await?;
    }
    let sentinels = Sentinels::start(&home, "shop", 2, PASSWORD).await?;
    let operator = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    apply(&mut servers[0], &Shape::standalone(VERSION), 7, 1500).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut servers[0]).await?;
    let before = Dataset::through(&mut servers[0], VERSION).await?;

    let by_name = json!({"redisFailover": {"name": "shop"}});
    let auth = json!({"secret": {"name": "shop-auth"}});
    let by_sentinel = json!({"sentinel": {"service": sentinels.service()}, "auth": auth, "name": "shop"});
    let backup = |name: &str, source: &Value, more: Value| {
        let mut object = json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": name}, "spec": {
            "source": source, "method": "rdb", "backupCredentialsSecret": {"name": "backup-credentials"},
            "destination": {"s3": {
                "bucket": BUCKET, "path": "sentinel", "region": "us-east-1", "endpoint": bucket.endpoint()}}}});
        object["spec"]["target"] = more;
        object
    };
    ensure!(sentinels.state().await? == (primary.clone(), 2), "the Sentinels know one primary and two replicas");
    let status = ended(&home, &operator, &backup("by-name", &by_name, json!("prefer-replica"))).await?;
    let read = status["targetPod"].as_str();
    ensure!(
        read.is_some_and(|read| read.starts_with("rfr-shop-")) && read != Some("rfr-shop-0"),
        "{read:?}: no replica"
    );
    let status = ended(&home, &operator, &backup("by-sentinel", &by_sentinel, json!("primary"))).await?;
    ensure!(status["targetPod"] == "rfr-shop-0", "not the primary: {status:#}");
    ensure!(sentinels.state().await? == (primary.clone(), 2), "the Sentinels saw what is none of theirs");

    sentinels.fail_over().await?;
    let (primary, _) = sentinels.state().await?;
    let status = ended(&home, &operator, &backup("after", &by_name, json!("primary"))).await?;
    let read = home.get("v1", "Pod", status["targetPod"].as_str().unwrap_or_default()).await?.unwrap_or_default();
    ensure!(read["status"]["podIP"] == primary.as_str(), "not the new primary, {primary}: {status:#}");

    // The worst day: everything is gone, on the primary and so on its replicas.
    let mut promoted = redis.connect_to(&format!("redis://:{PASSWORD}@{primary}:6379")).await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut promoted).await?;
    redis::cmd("FUNCTION").arg("FLUSH").query_async::<()>(&mut promoted).await?;
    let restore = json!({"apiVersion": API, "kind": "RedisRestore", "metadata": {"name": "back"}, "spec": {
        "backupName": "by-name", "target": {"source": by_name}}});
    ended(&home, &operator, &restore).await?;
    let differences = before.differences(&Dataset::through(&mut promoted, VERSION).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    ensure!(sentinels.state().await?.0 == primary, "nobody failed over meanwhile");
    Ok(())
}
