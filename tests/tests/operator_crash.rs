//! The operator is killed (SIGKILL) after each thing that it writes, one after the other: every status, every object that it
//! creates. Whichever it was, the next operator brings every run to its end, and none is doubled: not a backup, not a restore, and
//! not what comes after a backup: verification, retention, a pin, the deletion of the artifacts.
//!
//! A proxy counts the operator's writes and kills it after the API server has done one and before the operator hears of
//! it; pods are taken by a node that runs no containers.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Patch, PatchParams};
use redkeep_tests::kube::{Cluster, FakeNode, LEADER_LEASE, LIMIT, Operator, Proxy, TestNamespace, install_crds};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
const LEASES: &str = "coordination.k8s.io/v1";
/// More writes than a run needs; an operator that writes for ever fails here.
const MOST_WRITES: u64 = 80;
/// Operators at a time.
const AT_ONCE: usize = 4;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// So many looks long nothing more may come: longer than the operator takes between two of its own.
const SETTLED: u32 = 7;
/// A backup that was made before.
const STORED: &str = "stored";
const STORED_ID: &str = "20260101T000000Z-stored-0f8e9";

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// One RedisBackup, whose artifacts would go with it.
    ByHand,
    /// A schedule that is due now, and then not for years: it makes one RedisBackup.
    Scheduled,
    /// The same; the backup is verified, and then retention runs.
    Kept,
    /// A schedule that verifies its newest backup, for which a slot was missed.
    Reread,
    /// A RedisRestore, and another one into the same target.
    Restored,
    /// The deletion of a RedisBackup whose artifacts go with it.
    Deleted,
    /// A pin for a backup that is done.
    Pinned,
}

impl Wish {
    /// Every kind of task that is needed, and how often.
    fn tasks(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::ByHand | Self::Scheduled => &[("backup", 1)],
            Self::Kept => &[("backup", 1), ("prune", 1), ("verify", 1)],
            Self::Reread => &[("verify", 1)],
            Self::Restored => &[("restore", 2)],
            Self::Deleted => &[("delete", 1)],
            Self::Pinned => &[("pin", 1)],
        }
    }

    /// Whether the operator makes the backup, or finds it in storage.
    fn makes_a_backup(self) -> bool {
        matches!(self, Self::ByHand | Self::Scheduled | Self::Kept)
    }
}

fn spec() -> Value {
    json!({
        "source": {"endpoints": ["redis.example:6379"], "name": "redis"},
        "destination": {"s3": {"bucket": "backups", "path": "crash", "endpoint": "http://s3.example:9000"}},
    })
}

async fn apply(namespace: &TestNamespace, kind: &str, metadata: Value, spec: Value) -> Result<()> {
    namespace.apply(&json!({"apiVersion": GROUP, "kind": kind, "metadata": metadata, "spec": spec})).await?;
    Ok(())
}

async fn make(wish: Wish, namespace: &TestNamespace, node: &FakeNode) -> Result<()> {
    let mut spec = spec();
    match wish {
        Wish::ByHand => {
            spec["deletionPolicy"] = json!("Delete");
            apply(namespace, "RedisBackup", json!({"name": "by-hand"}), spec).await
        }
        Wish::Scheduled | Wish::Kept => {
            spec["schedule"] = json!("0 0 29 2 *");
            spec["immediate"] = json!(true);
            if wish == Wish::Kept {
                spec["verification"] = json!({"level": "parse"});
                spec["retention"] = json!({"keepLast": 1});
            }
            apply(namespace, "RedisScheduledBackup", json!({"name": "scheduled"}), spec).await
        }
        Wish::Reread => {
            lies_there(namespace, node, spec.clone()).await?;
            missed_a_slot(namespace, spec).await
        }
        Wish::Restored => {
            lies_there(namespace, node, spec).await?;
            for name in ["one", "other"] {
                let target = json!({"source": {"endpoints": ["target.example:6379"], "name": "target"}});
                let spec = json!({"backupName": STORED, "target": target});
                apply(namespace, "RedisRestore", json!({"name": name}), spec).await?;
            }
            Ok(())
        }
        Wish::Deleted => {
            spec["deletionPolicy"] = json!("Delete");
            lies_there(namespace, node, spec).await?;
            namespace.delete(GROUP, "RedisBackup", STORED).await
        }
        Wish::Pinned => {
            lies_there(namespace, node, spec.clone()).await?;
            let change = Patch::Merge(json!({"spec": {"pin": true}}));
            let backups = namespace.api(GROUP, "RedisBackup").await?;
            backups.patch(STORED, &PatchParams::default(), &change).await?;
            Ok(())
        }
    }
}

/// A RedisBackup that an operator brought to its end before.
async fn lies_there(namespace: &TestNamespace, node: &FakeNode, spec: Value) -> Result<()> {
    let mut metadata = json!({
        "name": STORED, "labels": {"redis.io/outcome": "completed", "redis.io/cluster": "redis"},
        "annotations": {"redis.io/completed-at": "2026-01-01T00:00:01Z"},
    });
    if spec["deletionPolicy"] == "Delete" {
        metadata["finalizers"] = json!(["redis.io/delete-artifacts"]);
    }
    node.store(STORED_ID);
    apply(namespace, "RedisBackup", metadata, spec).await?;
    let status = json!({"status": {
        "phase": "Completed", "backupId": STORED_ID, "cluster": "redis",
        "startedAt": "2026-01-01T00:00:00Z", "completedAt": "2026-01-01T00:00:01Z",
    }});
    let backups = namespace.api(GROUP, "RedisBackup").await?;
    backups.patch_status(STORED, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// A schedule of which another operator made all backups, and then stood still for a year.
async fn missed_a_slot(namespace: &TestNamespace, mut spec: Value) -> Result<()> {
    const YEARLY: &str = "0 0 1 1 *";
    let now = jiff::Timestamp::now();
    let since = now - jiff::SignedDuration::from_hours(366 * 24);
    spec["schedule"] = json!(YEARLY);
    spec["timeZone"] = json!("UTC");
    spec["verification"] = json!({"level": "parse", "schedule": YEARLY});
    apply(namespace, "RedisScheduledBackup", json!({"name": "scheduled"}), spec).await?;
    let status = json!({"status": {
        "observedGeneration": 1, "cluster": "redis",
        "inForce": {"schedule": YEARLY, "timeZone": "UTC", "since": since.to_string()},
        "lastScheduleTime": now.to_string(), "lastSuccessfulTime": since.to_string(), "lastSuccessfulBackup": STORED,
    }});
    let schedules = namespace.api(GROUP, "RedisScheduledBackup").await?;
    schedules.patch_status("scheduled", &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

fn phase(run: &Value) -> &str {
    run["status"]["phase"].as_str().unwrap_or_default()
}

/// All is done that was asked for, and the operator has tidied up after it.
async fn ended(wish: Wish, namespace: &TestNamespace) -> Result<bool> {
    let settled = async |kind| -> Result<bool> {
        let runs = namespace.list(GROUP, kind, "").await?;
        Ok(!runs.is_empty() && runs.iter().all(|run| run["metadata"]["labels"]["redis.io/outcome"].is_string()))
    };
    let schedule = async || -> Result<Value> {
        Ok(namespace.get(GROUP, "RedisScheduledBackup", "scheduled").await?.unwrap_or_default()["status"].take())
    };
    let stored = async || namespace.get(GROUP, "RedisBackup", STORED).await;
    Ok(match wish {
        Wish::ByHand => settled("RedisBackup").await?,
        Wish::Scheduled => settled("RedisBackup").await? && schedule().await?["lastSuccessfulBackup"].is_string(),
        Wish::Kept => settled("RedisBackup").await? && schedule().await?["retention"]["completedAt"].is_string(),
        Wish::Reread => schedule().await?["verification"]["completedAt"].is_string(),
        Wish::Restored => settled("RedisRestore").await?,
        Wish::Deleted => stored().await?.is_none(),
        Wish::Pinned => stored().await?.is_some_and(|it| it["metadata"]["annotations"]["redis.io/pinned"] == "true"),
    })
}

/// What one story was.
struct Told {
    /// Whether there was such a write.
    was_killed: bool,
    /// Everything that the first operator wrote.
    writes: Vec<String>,
}

/// One whole story: killed at write `at`, begun anew, and looked at.
async fn story(cluster: &'static Cluster, wish: Wish, at: u64) -> Result<Told> {
    let namespace = cluster.namespace("crash").await?;
    let node = FakeNode::start(cluster.client().await?, namespace.name());
    let proxy = Proxy::start(cluster.client().await?).await?;
    make(wish, &namespace, &node).await?;
    let first = Operator::spawn_in(&namespace, &proxy.kubeconfig(), &[])?;
    proxy.kill_at(at, first.killer());

    let deadline = Instant::now() + LIMIT;
    let mut settled = 0;
    // Nothing follows the end but what was under way: then there is no write of that number.
    while !first.has_ended() && settled < SETTLED {
        settled = if ended(wish, &namespace).await? { settled + 1 } else { 0 };
        if Instant::now() > deadline {
            bail!("it does not end: {:#?}\n{}\n{}", proxy.seen(), first.log(), namespace.describe());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let was_killed = first.has_ended();
    let last = proxy.seen().pop().unwrap_or_default();
    let when = || format!("killed at write {at} ({last})");
    if was_killed {
        ensure!(proxy.writes() >= at, "the operator ended by itself:\n{}", first.log());
        // Its Lease would run out; that takes a while and is tested elsewhere.
        namespace.delete(LEASES, "Lease", LEADER_LEASE).await?;
        let second = Operator::in_namespace(&namespace, cluster.kubeconfig(), &[]).await?;
        namespace
            .wait_until("all is done", || async { Ok(ended(wish, &namespace).await?.then_some(())) })
            .await
            .with_context(|| format!("{}; the second operator:\n{}", when(), second.log()))?;
        // Whatever it would do twice it does now.
        tokio::time::sleep(PAUSE * SETTLED).await;
        as_wished(wish, &namespace, &node).await.with_context(when)?;
    } else {
        as_wished(wish, &namespace, &node).await?;
    }
    eprintln!("{wish:?}, write {at}: {}", if was_killed { &last } else { "there is none" });
    Ok(Told { was_killed, writes: proxy.seen() })
}

/// It was done, and done once.
async fn as_wished(wish: Wish, namespace: &TestNamespace, node: &FakeNode) -> Result<()> {
    ensure!(node.faults().is_empty(), "{:#?}", node.faults());
    let begun = node.begun();
    for &(kind, wanted) in wish.tasks() {
        ensure!(node.count(kind) == (wanted, wanted), "{wanted} tasks {kind} were to begin and to succeed: {begun:#?}");
        ensure!(node.at_once(kind) == 1, "{} pods of tasks {kind} at a time", node.at_once(kind));
    }
    let kinds: BTreeSet<&str> = begun.values().map(|task| task.kind.as_str()).collect();
    ensure!(kinds.len() == wish.tasks().len(), "nobody asked for all of these: {begun:#?}");

    let backups = namespace.list(GROUP, "RedisBackup", "").await?;
    let said: BTreeSet<String> =
        backups.iter().filter_map(|run| run["status"]["backupId"].as_str().map(str::to_owned)).collect();
    let stored: BTreeSet<String> = node.committed().into_keys().collect();
    ensure!(said == stored, "RedisBackups say {said:?}, storage has {stored:?}");
    let wanted = usize::from(wish != Wish::Deleted);
    ensure!(backups.len() == wanted, "{} RedisBackups instead of {wanted}: {backups:#?}", backups.len());
    let restores = namespace.list(GROUP, "RedisRestore", "").await?;
    for run in backups.iter().chain(&restores) {
        ensure!(phase(run) == "Completed", "{:#}\n{}", run["status"], namespace.describe());
    }
    if wish.makes_a_backup() {
        ensure!(node.committed().values().all(|&times| times == 1), "{:?}", node.committed());
    }
    let schedule = namespace.get(GROUP, "RedisScheduledBackup", "scheduled").await?.unwrap_or_default();
    let id = said.first().map(String::as_str).unwrap_or_default();
    let verified_by = |object: &Value| {
        let told = &object["status"]["verification"];
        ensure!(told["phase"] == "Completed" && told["keys"] == 1 && told["backupId"] == id, "{told:#}");
        Ok(())
    };
    match wish {
        Wish::Kept => {
            verified_by(&backups[0])?;
            let told = &schedule["status"]["retention"];
            ensure!(told["kept"] == 1 && told["deleted"] == 0 && told["plan"][0]["backupId"] == id, "{told:#}");
        }
        Wish::Reread => verified_by(&schedule)?,
        Wish::Pinned => ensure!(node.pinned() == stored, "pinned: {:?}", node.pinned()),
        Wish::ByHand | Wish::Scheduled | Wish::Restored | Wish::Deleted => {}
    }
    let leases = namespace.list(LEASES, "Lease", "").await?;
    ensure!(
        leases.iter().all(|lease| lease["metadata"]["name"] == LEADER_LEASE),
        "a target is still taken: {leases:#?}"
    );
    let for_ever = |job: &&Value| {
        let (spec, metadata) = (&job["spec"], &job["metadata"]);
        // A schedule's own, should nobody have come to it, is let go when the next one of its kind begins.
        let is_next_ones = metadata["ownerReferences"][0]["kind"] == "RedisScheduledBackup";
        spec["ttlSecondsAfterFinished"].is_null() && metadata["deletionTimestamp"].is_null() && !is_next_ones
    };
    let jobs = namespace.list("batch/v1", "Job", "").await?;
    let kept: Vec<&Value> = jobs.iter().filter(for_ever).map(|job| &job["metadata"]["name"]).collect();
    ensure!(kept.is_empty(), "Jobs that were never let go: {kept:?}");
    Ok(())
}

/// Stories until there is no write left to be killed at, or none of those asked for.
async fn every_write(cluster: &'static Cluster, wish: Wish, writes: RangeInclusive<u64>) -> Result<()> {
    let begun = Instant::now();
    let has_limit = *writes.end() < MOST_WRITES;
    let mut left = writes;
    let mut kills = 0;
    let mut running = tokio::task::JoinSet::new();
    let mut has_ended = false;
    loop {
        while !has_ended
            && running.len() < AT_ONCE
            && let Some(at) = left.next()
        {
            running.spawn(story(cluster, wish, at));
        }
        let Some(told) = running.join_next().await else { break };
        let was_killed = told??.was_killed;
        kills += usize::from(was_killed);
        has_ended |= !was_killed;
    }
    ensure!(has_ended || has_limit, "an operator that writes {MOST_WRITES} times for one wish does not come to an end");
    // Each task is made, and its end noted.
    let fewest: usize = wish.tasks().iter().map(|&(_, times)| 2 * times).sum();
    ensure!(kills >= fewest, "only {kills} writes were there to be killed at");
    eprintln!("{wish:?}: killed at {kills} writes, in {:.0?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_of_a_backup_the_run_ends_and_is_not_doubled() -> Result<()> {
    let test = "killed_after_each_write_of_a_backup_the_run_ends_and_is_not_doubled";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    every_write(cluster, Wish::ByHand, 1..=MOST_WRITES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_of_a_schedule_its_run_ends_and_is_not_doubled() -> Result<()> {
    let test = "killed_after_each_write_of_a_schedule_its_run_ends_and_is_not_doubled";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    // What comes after the first ones is as with a backup by hand, and then another test's.
    let last = if redkeep_tests::full() { MOST_WRITES } else { 4 };
    every_write(cluster, Wish::Scheduled, 1..=last).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_a_backup_is_verified_once_and_retention_runs_once() -> Result<()> {
    let test = "killed_after_each_write_a_backup_is_verified_once_and_retention_runs_once";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    let from = if redkeep_tests::full() {
        1
    } else {
        // What comes before is another test's.
        let writes = story(cluster, Wish::Kept, u64::MAX).await?.writes;
        let verify = writes.iter().position(|write| write.ends_with("-verify")).context("no verification was begun")?;
        u64::try_from(verify)?
    };
    every_write(cluster, Wish::Kept, from..=MOST_WRITES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_the_newest_backup_is_read_again_once() -> Result<()> {
    let test = "killed_after_each_write_the_newest_backup_is_read_again_once";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    every_write(cluster, Wish::Reread, 1..=MOST_WRITES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_two_restores_fill_their_target_one_after_the_other() -> Result<()> {
    let test = "killed_after_each_write_two_restores_fill_their_target_one_after_the_other";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    every_write(cluster, Wish::Restored, 1..=MOST_WRITES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_a_deleted_backup_goes_with_its_artifacts() -> Result<()> {
    let test = "killed_after_each_write_a_deleted_backup_goes_with_its_artifacts";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    every_write(cluster, Wish::Deleted, 1..=MOST_WRITES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_a_pin_reaches_storage_once() -> Result<()> {
    let test = "killed_after_each_write_a_pin_reaches_storage_once";
    let Some(cluster) = Cluster::api(test) else { return Ok(()) };
    install_crds(cluster)?;
    every_write(cluster, Wish::Pinned, 1..=MOST_WRITES).await
}
