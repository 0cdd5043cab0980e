//! A real Redis Cluster of six nodes and three shards, backed up under load, restored into one server, into three shards
//! with other slot borders, and into directories of which a new cluster is made.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::values;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::{RedisCluster, wait_until};
use redkeep_testing::workload::{Shape, Writer, applied, apply};
use redkeep_tests::{fail, full, need, succeed};

const BEFORE: u64 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_into_other_shapes() {
    let versions: &[Version] = if full() { &Version::ALL } else { &[Version::Redis70, Version::Valkey81] };
    for &version in versions {
        check(version).await.unwrap_or_else(|error| panic!("{version:?}: {error:#}"));
    }
}

/// A hash tag whose slot lies in `first..=last`.
async fn tag_in(server: &RedisServer, first: u16, last: u16) -> Result<String> {
    for number in 0..10_000 {
        let tag = format!("t{number}");
        let slot: u16 = redis::from_redis_value(server.command(&["CLUSTER", "KEYSLOT", &tag]).await?)?;
        if (first..=last).contains(&slot) {
            return Ok(tag);
        }
    }
    anyhow::bail!("no tag for slots {first} to {last}")
}

async fn check(version: Version) -> Result<()> {
    let borders = [5461, 10_923];
    let source = RedisCluster::start(version, &borders, true).await?;
    let ranges = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
    let mut shapes = Vec::new();
    let mut writers = Vec::new();
    for (primary, (first, last)) in source.primaries.iter().zip(ranges) {
        let shape = Shape::shard(&tag_in(primary, first, last).await?);
        let mut connection = primary.connect().await?;
        apply(&mut connection, &shape, 1, BEFORE).await?;
        // A replica is read, and its link is up before it has what was written since its first synchronisation.
        let replicas: u64 = redis::cmd("WAIT").arg(1).arg(60_000).query_async(&mut connection).await?;
        ensure!(replicas == 1, "the replica has not got the data");
        writers.push(Writer::start(primary, &shape, BEFORE + 1).await?);
        shapes.push(shape);
    }

    let storage = tempfile::tempdir()?;
    let store = storage.path().display().to_string();
    let mut shards = serde_json::Value::Null;
    for method in ["rdb", "aof"] {
        let manifest = succeed([
            "backup",
            "--source",
            &source.url(),
            "--method",
            method,
            "--storage",
            &store,
            "--cluster",
            "sharded",
            "-o",
            "json",
        ])
        .json();
        ensure!(manifest["shards"].as_array().map(Vec::len) == Some(3), "{manifest:#}");
        let slots: u64 = manifest["shards"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|shard| shard["slots"].as_array().into_iter().flatten())
            .map(|range| range["last"].as_u64().unwrap_or(0) + 1 - range["first"].as_u64().unwrap_or(0))
            .sum();
        ensure!(slots == 16_384, "the slot map covers {slots} slots");
        if method == "rdb" {
            shards = manifest["shards"].clone();
        }
    }
    for writer in writers {
        ensure!(writer.stop().await? > BEFORE, "a writer wrote nothing");
    }
    let list = succeed(["list", "--storage", &store, "-o", "json"]).json();
    let backup_by = |name: &str| {
        let entries = || list.as_array().into_iter().flatten();
        let entry = entries().find(|entry| entry["method"].as_str().is_some_and(|method| method.contains(name)));
        entry.and_then(|entry| entry["backupId"].as_str().map(str::to_owned)).context("no such backup in the list")
    };
    let (rdb, aof) = (backup_by("rdb")?, backup_by("aof")?);
    for backup in [&rdb, &aof] {
        succeed(["verify", "--storage", &store, backup, "--level", "parse"]);
    }

    // Into one server.
    let one = RedisServer::start(version)?;
    succeed(["restore", "--storage", &store, &rdb, "--target", &one.url()]);
    let expected = expectation(version, &shapes, &one).await?;
    ensure!(values(&one).await? == expected, "one server holds something else");

    // The commands of three shards, into one node that has all slots: they run in a cluster only.
    let whole = RedisCluster::start(version, &[], false).await?;
    let node = whole.primaries.first().context("no node")?;
    let alone = RedisServer::start(version)?;
    fail(5, &["single server"], ["restore", "--storage", &store, &aof, "--target", &alone.url()]);
    succeed(["restore", "--storage", &store, &aof, "--target", &whole.url()]);
    let expected_of_aof = expectation(version, &shapes, node).await?;
    ensure!(values(node).await? == expected_of_aof, "one node holds something else than the append-only files");

    // Into three shards cut elsewhere.
    let other = RedisCluster::start(version, &[3000, 13_000], false).await?;
    succeed(["restore", "--storage", &store, &rdb, "--target", &other.url()]);
    let mut held = BTreeMap::new();
    for primary in &other.primaries {
        held.extend(values(primary).await?);
    }
    ensure!(held == expected, "the other cluster holds {} keys, expected {}", held.len(), expected.len());

    // Into a directory for each shard.
    if need("redis-cli") {
        let held = from_directories(version, &store, &rdb, &shards, storage.path()).await?;
        ensure!(held == expected, "the new cluster holds {} keys, expected {}", held.len(), expected.len());
    }

    // Never one shard silently for the whole, and never into data that is there.
    let folder = storage.path().join("data").display().to_string();
    fail(5, &["shard"], ["restore", "--storage", &store, &rdb, "--target-dir", &folder]);
    fail(5, &["empty"], ["restore", "--storage", &store, &rdb, "--target", &other.url()]);
    Ok(())
}

/// Makes a cluster of a directory for each shard, by the lines that a restore prints and the steps of `docs/redis-notes.md`.
async fn from_directories(
    version: Version,
    store: &str,
    backup: &str,
    shards: &serde_json::Value,
    folder: &Path,
) -> Result<BTreeMap<Vec<u8>, String>> {
    let arguments = ["--appendonly", "no", "--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
    let says = async |node: &RedisServer, line: &str| -> Result<bool> {
        let text: String = redis::from_redis_value(node.command(&["CLUSTER", "INFO"]).await?)?;
        Ok(text.lines().any(|found| found.trim_end() == line))
    };
    let mut nodes: Vec<RedisServer> = Vec::new();
    for shard in shards.as_array().context("no shards")? {
        let name = shard["name"].as_str().context("a shard without a name")?;
        let directory = folder.join(format!("shard-{name}"));
        let directory_text = directory.display().to_string();
        let restore = ["restore", "--storage", store, backup, "--shard", name, "--target-dir", &directory_text];
        let outcome = succeed(restore.iter().chain(&["-o", "json"])).json();
        let next = outcome["next"].as_str().context("no next step")?;
        ensure!(next.ends_with(" --appendonly no --cluster-enabled yes"), "{next}");

        let node = RedisServer::start_in(version, &directory, &arguments)?;
        wait_until("the shard to load", || async { Ok(node.info("loading").await? == "0") }).await?;
        let line = outcome["nextSlots"].as_str().context("no line for the slots")?;
        let client = if version == Version::Valkey81 { "valkey-cli" } else { "redis-cli" };
        ensure!(line.contains(client), "{line}");
        let line = line.replace(client, &format!("redis-cli -p {}", node.port()));
        let said = Command::new("sh").args(["-c", &line]).output()?;
        let (first, last) = (&shard["slots"][0]["first"], &shard["slots"][0]["last"]);
        let count = last.as_u64().zip(first.as_u64()).map(|(last, first)| last + 1 - first).context("no slots")?;
        ensure!(says(&node, &format!("cluster_slots_assigned:{count}")).await?, "{line}: {said:?}");
        node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(nodes.len() + 1).to_string()]).await?;
        nodes.push(node);
    }
    let seed = nodes.first().context("no shards")?.port().to_string();
    for node in nodes.iter().skip(1) {
        node.command(&["CLUSTER", "MEET", "127.0.0.1", &seed]).await?;
    }
    let mut held = BTreeMap::new();
    for node in &nodes {
        wait_until("the cluster to be whole", || says(node, "cluster_state:ok")).await?;
        held.extend(values(node).await?);
    }
    Ok(held)
}

/// What a server must hold that names its own counters: each shard's operations, replayed.
async fn expectation(version: Version, shapes: &[Shape], restored: &RedisServer) -> Result<BTreeMap<Vec<u8>, String>> {
    let replay = RedisServer::start(version)?;
    let mut connection = replay.connect().await?;
    for shape in shapes {
        let held = applied(&mut restored.connect().await?, shape).await?;
        ensure!(held >= BEFORE, "shard {} holds {held} operations", shape.prefix);
        apply(&mut connection, shape, 1, held).await?;
    }
    values(&replay).await
}
