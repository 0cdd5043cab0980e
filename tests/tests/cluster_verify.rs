//! Verification at level `boot` on a node, in a namespace with pod security `restricted`: a server in a container beside the
//! task loads the backup. One that only a server can tell from a good one is bad; a server that cannot come up says nothing
//! about the backup.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::{BUCKET, Cluster, Operator, Redis, Storage, TestNamespace, install_crds, redis_image};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
const PREFIX: &str = "production/source";

fn spec(storage: &Storage<'_>, verification: &Value) -> Value {
    json!({
        "source": {"statefulSet": {"name": "source"}},
        "method": "rdb",
        "destination": {"s3": {"bucket": BUCKET, "path": PREFIX, "region": "us-east-1", "endpoint": storage.endpoint()}},
        "backupCredentialsSecret": {"name": "backup-credentials"},
        "verification": verification,
    })
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

/// Waits until the newest verification has ended so.
async fn verified(
    namespace: &TestNamespace,
    operator: &Operator,
    (kind, name): (&str, &str),
    status: &str,
) -> Result<Value> {
    let what = format!("to be verified: {status}");
    let ended = namespace.wait_for(GROUP, kind, name, &what, |object| {
        let phase = object.map(|object| object["status"]["verification"]["phase"].clone());
        let is_over = phase.is_some_and(|phase| phase == "Completed" || phase == "Failed");
        is_over && object.and_then(|object| condition(object, "Verified")).is_some_and(|one| one["status"] == status)
    });
    ended.await.with_context(|| format!("{}\n--- operator\n{}", namespace.describe(), operator.log()))
}

/// A snapshot whose every byte is where it belongs, with a hash that no server takes: only one that loads it finds that out.
fn forge(folder: &Path) -> Result<()> {
    let parts: [&[u8]; 6] = [
        b"REDIS0010",
        b"\xfa\x09redis-ver\x067.0.15",
        b"\xfe\x00\xfb\x02\x00",
        b"\x00\x01a\x011",
        b"\x10\x01h\x0cnotalistpack",
        // The end, and no checksum.
        b"\xff\0\0\0\0\0\0\0\0",
    ];
    std::fs::create_dir(folder)?;
    Ok(std::fs::write(folder.join("dump.rdb"), parts.concat())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_backup_is_loaded_by_a_server_and_one_that_none_loads_is_bad() -> Result<()> {
    let test = "the_newest_backup_is_loaded_by_a_server_and_one_that_none_loads_is_bad";
    let Some(cluster) = Cluster::node(test) else { return Ok(()) };
    install_crds(cluster)?;
    let namespace = cluster.namespace("verify").await?;
    let storage = Storage::start(&namespace).await?;
    let redis = Redis::start(&namespace, "source", Version::Redis70, 0).await?;
    apply(&mut redis.connect(0).await?, &Shape::standalone(Version::Redis70), 1, 1000).await?;
    let image = ["--verification-image", redis_image(Version::Redis70)];
    let operator = Operator::in_namespace(&namespace, cluster.kubeconfig(), &image).await?;

    let mut schedule = spec(&storage, &json!({"level": "boot", "schedule": "* * * * *"}));
    schedule["schedule"] = json!("0 0 1 1 *");
    schedule["immediate"] = json!(true);
    let kind = "RedisScheduledBackup";
    namespace
        .apply(&json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": "nightly"}, "spec": schedule}))
        .await?;
    let good = verified(&namespace, &operator, (kind, "nightly"), "True").await?;
    let verification = &good["status"]["verification"];
    ensure!(verification["level"] == "boot" && verification["keys"].as_i64() > Some(0), "{verification:#}");
    let listed = storage.redkeep(PREFIX, &["list", "-o", "json"]).await?;
    let known = &listed.json()[0]["verified"];
    ensure!(known["level"] == "boot" && known["ok"] == true, "{:#}", listed.json());
    // The server ended with its task, by itself, and the pod is done.
    let done = namespace.wait_until("the pod is done", || async {
        let pods = namespace.list("v1", "Pod", "redis.io/purpose=verify").await?;
        Ok(pods.into_iter().find(|pod| pod["status"]["phase"] == "Succeeded"))
    });
    let pod = done.await?;
    let server = pod["status"]["initContainerStatuses"].as_array().and_then(|all| all.get(1)).context("no server")?;
    ensure!(server["name"] == "server" && server["state"]["terminated"]["exitCode"] == 0, "{server:#}");
    ensure!(server["restartCount"] == 0, "{server:#}");

    let place = tempfile::tempdir()?;
    let folder = place.path().join("data");
    forge(&folder)?;
    let (folder, home) = (folder.to_str().context("a path")?, namespace.name());
    // As if this Kubernetes had made it: backups of others are not verified.
    let origin = listed.json()[0]["origin"].as_str().context("no origin")?.to_owned();
    let forged = [
        "backup",
        "--source",
        folder,
        "--method",
        "rdb",
        "--cluster",
        "source",
        "--namespace",
        home,
        "--origin",
        &origin,
    ];
    let said = storage.redkeep(PREFIX, &forged).await?;
    ensure!(said.code == Some(0), "{said:#?}");
    let parsed = storage.redkeep(PREFIX, &["verify", "latest", "--level", "parse", "--no-record"]).await?;
    ensure!(parsed.code == Some(0), "only a server is to find it out: {parsed:#?}");
    let bad = verified(&namespace, &operator, (kind, "nightly"), "False").await?;
    let why = condition(&bad, "Verified").context("no condition")?;
    ensure!(why["reason"] == "BootRefused", "{why:#}");
    ensure!(why["message"].as_str().is_some_and(|message| message.contains("listpack")), "{why:#}");
    namespace.remove();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_or_too_small_is_said_and_no_word_against_the_backup() -> Result<()> {
    let test = "a_server_that_is_too_old_or_too_small_is_said_and_no_word_against_the_backup";
    let Some(cluster) = Cluster::node(test) else { return Ok(()) };
    install_crds(cluster)?;
    let namespace = cluster.namespace("unverified").await?;
    let storage = Storage::start(&namespace).await?;
    let redis = Redis::start(&namespace, "source", Version::Redis82, 0).await?;
    let backup = |name: &str, verification: Value| {
        let spec = spec(&storage, &verification);
        json!({"apiVersion": GROUP, "kind": "RedisBackup", "metadata": {"name": name}, "spec": spec})
    };
    let reason = |object: &Value| condition(object, "Verified").map(|one| one["reason"].clone()).unwrap_or_default();

    let image = ["--verification-image", redis_image(Version::Redis70)];
    let operator = Operator::in_namespace(&namespace, cluster.kubeconfig(), &image).await?;
    namespace.apply(&backup("too-old", json!({"level": "boot"}))).await?;
    let old = verified(&namespace, &operator, ("RedisBackup", "too-old"), "Unknown").await?;
    ensure!(old["status"]["phase"] == "Completed" && reason(&old) == "NoServerToBoot", "{:#}", old["status"]);
    let message = old["status"]["verification"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("8.2") && message.contains("redis 7.0"), "it does not say which: {message}");
    operator.stop().await?;

    // More data than its memory.
    let mut primary = redis.connect(0).await?;
    for number in 0..96 {
        let mut value = vec![0_u8; 1 << 20];
        rand::rng().fill(value.as_mut_slice());
        redis::cmd("SET").arg(format!("big:{number}")).arg(value).query_async::<()>(&mut primary).await?;
    }
    let image = ["--verification-image", redis_image(Version::Redis82)];
    let operator = Operator::in_namespace(&namespace, cluster.kubeconfig(), &image).await?;
    let small = json!({"level": "boot", "resources": {"limits": {"memory": "48Mi"}}});
    namespace.apply(&backup("too-small", small)).await?;
    let small = verified(&namespace, &operator, ("RedisBackup", "too-small"), "Unknown").await?;
    let said = reason(&small);
    ensure!(said == "ServerLost" || said == "BootKilled", "{:#}", small["status"]);
    // With room enough the same is good, keys counted; of an append-only file too, which its server opens to write.
    let mut whole = backup("whole", json!({"level": "boot"}));
    whole["spec"]["method"] = json!("aof");
    namespace.apply(&whole).await?;
    let whole = verified(&namespace, &operator, ("RedisBackup", "whole"), "True").await?;
    ensure!(whole["status"]["verification"]["keys"] == 96, "{:#}", whole["status"]);
    namespace.remove();
    Ok(())
}
