//! The operator is killed (SIGKILL) after each thing that it writes, one after the other: every status, every object that it
//! creates. Whichever it was, the next operator brings every run to its end, and none is doubled.
//!
//! A proxy counts the operator's writes and kills it after the API server has done one and before the operator hears of
//! it; pods are taken by a node that runs no containers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redkeep_tests::kube::{Cluster, FakeNode, LIMIT, Operator, Proxy, TestNamespace, install_crds};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
/// More writes than a run needs; an operator that writes for ever fails here.
const MOST_WRITES: u64 = 80;
/// Operators at a time.
const AT_ONCE: usize = 3;

fn spec() -> Value {
    json!({
        "source": {"endpoints": ["redis.example:6379"], "name": "redis"},
        "destination": {"s3": {"bucket": "backups", "path": "crash", "endpoint": "http://s3.example:9000"}},
    })
}

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// One RedisBackup.
    ByHand,
    /// A schedule that is due now, and then not for years: it makes one RedisBackup.
    Scheduled,
}

async fn make(wish: Wish, namespace: &TestNamespace) -> Result<()> {
    let mut spec = spec();
    let (kind, name) = match wish {
        Wish::ByHand => ("RedisBackup", "by-hand"),
        Wish::Scheduled => {
            spec["schedule"] = json!("0 0 29 2 *");
            spec["immediate"] = json!(true);
            ("RedisScheduledBackup", "scheduled")
        }
    };
    namespace.apply(&json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec})).await?;
    Ok(())
}

fn phase(run: &Value) -> &str {
    run["status"]["phase"].as_str().unwrap_or_default()
}

/// The run is there and has ended, and its schedule knows of it.
async fn ended(wish: Wish, namespace: &TestNamespace) -> Result<bool> {
    let runs = namespace.list(GROUP, "RedisBackup", "").await?;
    let is_known = match wish {
        Wish::ByHand => true,
        Wish::Scheduled => {
            let schedule = namespace.get(GROUP, "RedisScheduledBackup", "scheduled").await?.unwrap_or_default();
            schedule["status"]["lastSuccessfulBackup"].is_string()
        }
    };
    Ok(is_known && !runs.is_empty() && runs.iter().all(|run| matches!(phase(run), "Completed" | "Failed")))
}

/// One whole story: killed at write `at`, begun anew, and looked at. Returns whether there was such a write.
async fn story(cluster: &'static Cluster, wish: Wish, at: u64) -> Result<bool> {
    let namespace = cluster.namespace("crash").await?;
    let node = FakeNode::start(cluster.client().await?, namespace.name());
    let proxy = Proxy::start(cluster.client().await?).await?;
    let first = Operator::spawn_in(&namespace, &proxy.kubeconfig(), &[])?;
    proxy.kill_at(at, first.killer());
    make(wish, &namespace).await?;

    let deadline = Instant::now() + LIMIT;
    let mut settled = 0;
    while !first.has_ended() {
        // Nothing follows the end but what was under way: then there is no write of that number.
        settled = if ended(wish, &namespace).await? { settled + 1 } else { 0 };
        if settled > 10 {
            break;
        }
        if Instant::now() > deadline {
            bail!("the runs do not end: {:#?}\n{}\n{}", proxy.seen(), first.log(), namespace.describe());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let was_killed = first.has_ended();
    let last = proxy.seen().pop().unwrap_or_default();
    if was_killed {
        ensure!(proxy.writes() >= at, "the operator ended by itself:\n{}", first.log());
        // Its Lease would run out; that takes a while and is tested elsewhere.
        for lease in namespace.list("coordination.k8s.io/v1", "Lease", "").await? {
            let name = lease["metadata"]["name"].as_str().context("a Lease without a name")?;
            namespace.delete("coordination.k8s.io/v1", "Lease", name).await?;
        }
        let second = Operator::in_namespace(&namespace, cluster.kubeconfig(), &[]).await?;
        namespace
            .wait_until("every run has ended", || async { Ok(ended(wish, &namespace).await?.then_some(())) })
            .await
            .with_context(|| format!("killed at write {at} ({last}); the second operator:\n{}", second.log()))?;
    }
    none_is_doubled(&namespace, &node).await.with_context(|| format!("killed at write {at} ({last})"))?;
    eprintln!("write {at}: {}", if was_killed { &last } else { "there is none" });
    Ok(was_killed)
}

async fn none_is_doubled(namespace: &TestNamespace, node: &FakeNode) -> Result<()> {
    let runs = namespace.list(GROUP, "RedisBackup", "").await?;
    ensure!(runs.len() == 1, "{} runs instead of one: {runs:#?}", runs.len());
    for run in &runs {
        ensure!(phase(run) == "Completed", "{:#}\n{}", run["status"], namespace.describe());
    }
    let said: BTreeSet<&str> = runs.iter().filter_map(|run| run["status"]["backupId"].as_str()).collect();
    let stored = node.committed();
    let stored: BTreeSet<&str> = stored.keys().map(String::as_str).collect();
    ensure!(said.len() == 1 && said == stored, "the run says {said:?}, storage has {stored:?}: {:?}", node.ended());
    let jobs = namespace.list("batch/v1", "Job", "redis.io/purpose=backup").await?;
    ensure!(jobs.len() <= 1, "{} Jobs for one run", jobs.len());
    ensure!(node.faults().is_empty(), "{:#?}", node.faults());
    Ok(())
}

/// Stories until there is no write left to be killed at.
async fn every_write(cluster: &'static Cluster, wish: Wish) -> Result<()> {
    install_crds(cluster)?;
    let mut next = 1;
    let mut kills = 0;
    let mut running = tokio::task::JoinSet::new();
    let mut more = true;
    while more || !running.is_empty() {
        while more && running.len() < AT_ONCE {
            ensure!(next <= MOST_WRITES, "an operator that writes {next} times for one run does not come to an end");
            running.spawn(story(cluster, wish, next));
            next += 1;
        }
        if let Some(told) = running.join_next().await {
            let was_killed = told??;
            kills += u32::from(was_killed);
            more &= was_killed;
        }
    }
    ensure!(kills >= 4, "only {kills} writes were there to be killed at");
    eprintln!("{wish:?}: killed at {kills} writes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_of_a_backup_the_run_ends_and_is_not_doubled() -> Result<()> {
    let test = "killed_after_each_write_of_a_backup_the_run_ends_and_is_not_doubled";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    every_write(cluster, Wish::ByHand).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_of_a_schedule_its_run_ends_and_is_not_doubled() -> Result<()> {
    let test = "killed_after_each_write_of_a_schedule_its_run_ends_and_is_not_doubled";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    every_write(cluster, Wish::Scheduled).await
}
