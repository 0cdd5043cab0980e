//! Managed Redis on a node: a cluster of three becomes Healthy, is backed up by its name, and others are born from that
//! backup with the same data; without claims too; and what is wrong is said.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::faults::Stalled;
use redkeep_tests::kube::managed::{
    API, address, back_up, cluster_object, connect, connect_primary, dial, healthy, password, prepare, primary,
    primary_of, says, wait, why_not,
};
use redkeep_tests::kube::tls::{Authority, Use};
use redkeep_tests::kube::{Cluster, Operator, Storage, TestNamespace};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_backed_up_and_born_again() -> Result<()> {
    let Some(cluster) = Cluster::node("a_cluster_is_made_backed_up_and_born_again") else { return Ok(()) };
    let version = Version::Redis70;
    let (home, operator) = prepare(cluster.namespace("managed").await?).await?;
    let bucket = Storage::start(&home).await?;

    home.apply(&cluster_object("carts", version, &json!({"redisConfig": {"appendonly": "yes"}}))).await?;
    let carts = healthy(&home, &operator, "carts").await?;
    let mut connection = connect_primary(&home, &carts).await?;
    apply(&mut connection, &Shape::standalone(version), 3, 1500).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut connection).await?;
    let before = Dataset::through(&mut connection, version).await?;

    back_up(&home, &operator, &bucket, ("nightly", "carts", "rdb"), &json!({})).await?;

    for (name, appendonly) in [("again", "yes"), ("once-more", "no")] {
        let more = json!({"bootstrap": {"backupName": "nightly"}, "redisConfig": {"appendonly": appendonly}});
        home.apply(&cluster_object(name, version, &more)).await?;
        let born = healthy(&home, &operator, name).await?;
        let mut connection = connect_primary(&home, &born).await?;
        let differences = before.differences(&Dataset::through(&mut connection, version).await?, false);
        ensure!(differences.is_empty(), "{name}: {differences:#?}");
        let conditions = born["status"]["conditions"].as_array().context("no conditions")?;
        ensure!(conditions.iter().any(|one| one["type"] == "Restored" && one["status"] == "True"), "{born:#}");
        home.delete(API, "RedisCluster", name).await?;
    }
    reconfigured(&home, &operator, version).await?;
    password_is_exchanged(cluster, &home, &healthy(&home, &operator, "carts").await?).await?;

    // What is left of it can be backed up.
    let (_, upper) = primary_of(&home, "carts").await?;
    let lower = if upper == "carts-2" { "carts-1" } else { "carts-2" };
    let stalled = Stalled::of(&home, lower, "redis-server").await?;
    let is_degraded = |object: &Value| object["status"]["phase"] == "Degraded";
    wait(&home, &operator, "carts", "to be Degraded", is_degraded).await?;
    let backup = back_up(&home, &operator, &bucket, ("degraded", "carts", "rdb"), &json!({})).await?;
    ensure!(backup["status"]["targetPod"] != lower, "{:#}", backup["status"]);
    drop(stalled);
    Ok(())
}

/// A directive that Redis can change is changed while it runs.
async fn reconfigured(home: &TestNamespace, operator: &Operator, version: Version) -> Result<()> {
    let carts = healthy(home, operator, "carts").await?;
    let started = async |pod: &str| info(&mut connect(home, &carts, pod).await?, "run_id").await;
    let pods = ["carts-0", "carts-1", "carts-2"];
    let mut before = Vec::new();
    for pod in pods {
        before.push(started(pod).await?);
    }
    let config = json!({"redisConfig": {"appendonly": "yes", "hz": "23"}});
    home.apply(&cluster_object("carts", version, &config)).await?;
    for (pod, before) in pods.into_iter().zip(before) {
        let set = async || {
            let mut connection = connect(home, &carts, pod).await?;
            let said: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("hz").query_async(&mut connection).await?;
            Ok((said.last().is_some_and(|value| value == "23")).then_some(()))
        };
        home.wait_until(&format!("{pod} to have the new value"), set).await?;
        ensure!(started(pod).await? == before, "{pod} was started anew");
    }
    let done = healthy(home, operator, "carts").await?;
    ensure!(why_not(&done, "Progressing").as_deref() == Some("AsWanted"), "{:#}", done["status"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_heals_when_it_is_put_right() -> Result<()> {
    let Some(cluster) = Cluster::node("what_is_wrong_is_said_and_heals_when_it_is_put_right") else { return Ok(()) };
    let version = Version::Valkey81;
    let (home, operator) = prepare(cluster.namespace("wrong").await?).await?;
    let one = |more: Value| {
        let mut more = more;
        more["instances"] = json!(1);
        more
    };
    home.apply(&cluster_object("unborn", version, &one(json!({"bootstrap": {"backupName": "nightly"}})))).await?;
    home.apply(&cluster_object("image", version, &one(json!({"imageName": "localhost/s3:1"})))).await?;
    let secret = json!({"auth": {"secret": {"name": "mine", "key": "pass"}}});
    home.apply(&cluster_object("secret", version, &one(secret))).await?;
    let empty =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "empty"}, "stringData": {"pass": ""}});
    home.apply(&empty).await?;
    let secret = json!({"auth": {"secret": {"name": "empty", "key": "pass"}}});
    home.apply(&cluster_object("open", version, &one(secret))).await?;
    says(&home, &operator, "unborn", "Restored", "BackupNotFound").await?;
    ensure!(home.get("apps/v1", "StatefulSet", "unborn").await?.is_none(), "no half-made cluster");
    ensure!(home.get("v1", "PersistentVolumeClaim", "data-unborn-0").await?.is_none(), "no half-made cluster");
    says(&home, &operator, "image", "Ready", "InstanceFailed").await?;
    says(&home, &operator, "secret", "Ready", "MountFailed").await?;
    // Never open to everybody: there is no Redis at all.
    let open = says(&home, &operator, "open", "Ready", "InstanceFailed").await?;
    let why = open["status"]["conditions"].to_string();
    ensure!(why.contains("password") && open["status"]["epoch"].is_null(), "{:#}", open["status"]);

    home.apply(&cluster_object("image", version, &one(json!({})))).await?;
    home.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": {"pass": "x".repeat(32)}}))
        .await?;
    healthy(&home, &operator, "image").await?;
    healthy(&home, &operator, "secret").await?;
    Ok(())
}

/// Whoever exchanges the password in its Secret restarts nothing and locks nobody out.
async fn password_is_exchanged(cluster: &Cluster, home: &TestNamespace, carts: &Value) -> Result<()> {
    let secret = carts["status"]["authSecret"]["name"].as_str().context("no Secret")?;
    let old = password(home, carts).await?;
    let new = format!("another-{:032x}", rand::random::<u128>());
    let patch = json!({"stringData": {"password": new}}).to_string();
    cluster.succeed(&["-n", home.name(), "patch", "secret", secret, "--type=merge", "-p", &patch])?;
    let pods = ["carts-0", "carts-1", "carts-2"];
    let taken = async || {
        // The kubelet would look at the Secret within a minute or two; at a pod that changes it looks at once.
        let stamp = format!("seen={:08x}", rand::random::<u32>());
        let annotate = ["-n", home.name(), "annotate", "pod", pods[0], pods[1], pods[2], "--overwrite", &stamp];
        cluster.succeed(&annotate)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for pod in pods {
            let ip = address(home, pod).await?;
            for password in [&new, &old] {
                dial(&ip, password, Duration::from_secs(5)).await?;
            }
        }
        Ok(Some(()))
    };
    home.wait_until("every instance to take both passwords", taken).await?;
    let mut connection = connect_primary(home, carts).await?;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("REPLICA").query_async::<()>(&mut connection).await?;
    redis::cmd("SET").arg("exchanged").arg(1).query_async::<()>(&mut connection).await?;
    let by: u64 = redis::cmd("WAIT").arg(2).arg(9_000).query_async(&mut connection).await?;
    ensure!(by == 2, "{by} of 2 replicas found back");
    let now = home.get(API, "RedisCluster", "carts").await?.context("it is gone")?;
    ensure!(now["status"]["primaryProcess"] == carts["status"]["primaryProcess"], "Redis was started anew");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_claims_it_is_born_switches_over_and_outlives_its_operator() -> Result<()> {
    let Some(cluster) = Cluster::node("without_claims_it_is_born_switches_over_and_outlives_its_operator") else {
        return Ok(());
    };
    let version = Version::Redis70;
    let (home, operator) = prepare(cluster.namespace("ephemeral").await?).await?;
    let bucket = Storage::start(&home).await?;
    let ephemeral = |name: &str, more: Value| {
        let mut more = more;
        more["storage"] = Value::Null;
        more["ephemeral"] = json!({"sizeLimit": "1Gi"});
        cluster_object(name, version, &more)
    };
    home.apply(&ephemeral("source", json!({"instances": 1}))).await?;
    let source = healthy(&home, &operator, "source").await?;
    let mut connection = connect(&home, &source, "source-0").await?;
    apply(&mut connection, &Shape::standalone(version), 3, 800).await?;
    let before = Dataset::through(&mut connection, version).await?;
    back_up(&home, &operator, &bucket, ("nightly", "source", "rdb"), &json!({})).await?;

    home.apply(&ephemeral("again", json!({"bootstrap": {"backupName": "nightly"}}))).await?;
    let born = healthy(&home, &operator, "again").await?;
    let equal = async |object: &Value| -> Result<()> {
        let mut connection = connect_primary(&home, object).await?;
        let differences = before.differences(&Dataset::through(&mut connection, version).await?, false);
        ensure!(differences.is_empty(), "{differences:#?}");
        Ok(())
    };
    equal(&born).await?;

    cluster.succeed(&["-n", home.name(), "annotate", "rediscluster", "again", "redis.io/switch-over=again-2"])?;
    let is_at = |object: &Value| object["status"]["primary"] == "again-2" && object["status"]["phase"] == "Healthy";
    let moved = wait(&home, &operator, "again", "to have switched over", is_at).await?;
    equal(&moved).await?;

    // The primary is lost with all it had, and so is the operator in the middle of replacing it.
    home.kill("v1", "Pod", "again-2").await?;
    wait(&home, &operator, "again", "to fail over", |object| object["status"]["phase"] == "FailingOver").await?;
    operator.kill();
    let next = Operator::in_namespace(&home, cluster.kubeconfig(), &[]).await?;
    let replaced = healthy(&home, &next, "again").await?;
    ensure!(primary(&replaced)? != "again-2", "an emptied primary became primary again");
    equal(&replaced).await?;
    home.delete(API, "RedisCluster", "again").await?;

    // Of this one a second instance finds no node, and the first is lost: what it alone had is restored again.
    let alone = json!({"maxSkew": 1, "minDomains": 2, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"redis.io/cluster": "lost"}}});
    let lost = |constraints: Value| {
        let bootstrap = json!({"backupName": "nightly"});
        ephemeral("lost", json!({"instances": 2, "bootstrap": bootstrap, "topologySpreadConstraints": constraints}))
    };
    home.apply(&lost(json!([alone]))).await?;
    let has_the_only_copy = |object: &Value| object["status"]["bootstrap"]["onlyCopy"] == true;
    equal(&wait(&home, &next, "lost", "to be filled", has_the_only_copy).await?).await?;
    home.kill("v1", "Pod", "lost-0").await?;
    says(&home, &next, "lost", "Restored", "InstanceFailed").await?;
    equal(&wait(&home, &next, "lost", "to be filled again", has_the_only_copy).await?).await?;
    home.apply(&lost(json!([]))).await?;
    equal(&healthy(&home, &next, "lost").await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_holds_for_clients_replicas_backups_and_restores_and_is_renewed() -> Result<()> {
    let test = "tls_holds_for_clients_replicas_backups_and_restores_and_is_renewed";
    let Some(cluster) = Cluster::node(test) else { return Ok(()) };
    // Of the servers of the tests only Debian's has TLS.
    let version = Version::Redis70;
    let (home, operator) = prepare(cluster.namespace("tls").await?).await?;
    let bucket = Storage::start(&home).await?;
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let names = |name: &str| [format!("{name}-rw"), format!("*.{name}-r.{}.svc", home.name())];
    home.apply(&old.secret("carts-tls", &names("carts"), &[Use::ServerAuth], &[])?).await?;
    let tls = json!({"secret": {"name": "carts-tls"}});
    home.apply(&cluster_object("carts", version, &json!({"instances": 2, "tls": tls}))).await?;
    let carts = healthy(&home, &operator, "carts").await?;
    let secret = password(&home, &carts).await?;
    let all = [address(&home, "carts-0").await?, address(&home, "carts-1").await?];
    let [upper, lower] = if primary(&carts)? == "carts-0" { [&all[0], &all[1]] } else { [&all[1], &all[0]] };

    let mut connection = old.dial(upper, "carts-rw", &secret, false).await?;
    let started = info(&mut connection, "run_id").await?;
    apply(&mut connection, &Shape::standalone(version), 3, 800).await?;
    confirmed(&mut connection).await?;
    let before = Dataset::through(&mut connection, version).await?;
    for ip in &all {
        ensure!(dial(ip, &secret, Duration::from_secs(5)).await.is_err(), "{ip} speaks plainly, so replicas may too");
        ensure!(new.dial(ip, "carts-rw", &secret, false).await.is_err(), "{ip} shows another's certificate");
        ensure!(old.dial(ip, "carts-rw", "guessed", false).await.is_err(), "any password opens {ip}");
    }

    let backup = back_up(&home, &operator, &bucket, ("nightly", "carts", "rdb"), &json!({})).await?;
    let target = backup["status"]["targetPod"].as_str().unwrap_or_default();
    ensure!(["carts-0", "carts-1"].contains(&target) && target != primary(&carts)?, "{:#}", backup["status"]);
    let stored = bucket.redkeep("managed", &["list", "-o", "json"]).await?;
    let id = backup["status"]["backupId"].as_str().context("no id")?;
    ensure!(stored.stdout.contains(id), "{id} is not in the bucket: {stored:?}");

    // Without claims, so that the restore is one into a server; there, clients need a certificate.
    home.apply(&old.secret("again-tls", &names("again"), &[Use::ServerAuth, Use::ClientAuth], &[])?).await?;
    let more = json!({
        "instances": 2, "storage": null, "ephemeral": {}, "bootstrap": {"backupName": "nightly"},
        "tls": {"secret": {"name": "again-tls"}, "requireClientCertificate": true},
    });
    home.apply(&cluster_object("again", version, &more)).await?;
    let again = healthy(&home, &operator, "again").await?;
    let (ip, other) = (address(&home, primary(&again)?).await?, password(&home, &again).await?);
    let mut born = old.dial(&ip, "again-rw", &other, true).await?;
    let differences = before.differences(&Dataset::through(&mut born, version).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    ensure!(old.dial(&ip, "again-rw", &other, false).await.is_err(), "a client needed no certificate");

    // Another authority's certificate; those of the old one are trusted too until every instance has it.
    home.apply(&new.secret("carts-tls", &names("carts"), &[Use::ServerAuth], &[&old])?).await?;
    let renewed = async || {
        // The kubelet would look at the Secret within a minute or two; at a pod that changes it looks at once.
        let stamp = format!("seen={:08x}", rand::random::<u32>());
        cluster.succeed(&["-n", home.name(), "annotate", "pod", "carts-0", "carts-1", "--overwrite", &stamp])?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for ip in &all {
            new.dial(ip, "carts-rw", &secret, false).await?;
        }
        Ok(Some(()))
    };
    home.wait_until("the certificate is renewed", renewed).await?;
    ensure!(old.dial(upper, "carts-rw", &secret, false).await.is_err(), "the old certificate is shown still");
    let mut connection = new.dial(upper, "carts-rw", &secret, false).await?;
    ensure!(info(&mut connection, "run_id").await? == started, "Redis was started anew");
    // The replica's next link is made with the new certificate.
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("REPLICA").query_async::<()>(&mut connection).await?;
    redis::cmd("SET").arg("renewed").arg(1).query_async::<()>(&mut connection).await?;
    confirmed(&mut connection).await?;
    let mut follower = new.dial(lower, "carts-rw", &secret, false).await?;
    ensure!(info(&mut follower, "master_link_status").await? == "up");
    Ok(())
}

/// A line of `INFO`.
async fn info(connection: &mut MultiplexedConnection, name: &str) -> Result<String> {
    let said: String = redis::cmd("INFO").query_async(connection).await?;
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("INFO without {name}"))?.to_owned())
}

/// Waits until a replica has what this connection wrote.
async fn confirmed(connection: &mut MultiplexedConnection) -> Result<()> {
    let by: u64 = redis::cmd("WAIT").arg(1).arg(9_000).query_async(connection).await?;
    ensure!(by == 1, "no replica has it");
    Ok(())
}
