//! Of several operators one works: the next one takes over when it dies and when it is stopped, and no run is lost or doubled.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redkeep_tests::kube::{Cluster, FakeNode, Operator, TestNamespace, install_crds};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
/// A Lease that nobody renews runs out after 15 s and is looked at every 4 s (`docs/operations.md`).
const TAKE_OVER: Duration = Duration::from_secs(60);

fn backup(name: &str) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "RedisBackup", "metadata": {"name": name},
        "spec": {
            "source": {"endpoints": ["redis.example:6379"], "name": "redis"},
            "destination": {"s3": {"bucket": "backups", "path": "leader", "endpoint": "http://s3.example:9000"}},
        },
    })
}

async fn holder(namespace: &TestNamespace) -> Result<Option<String>> {
    let lease = namespace.get("coordination.k8s.io/v1", "Lease", "redkeep-operator").await?;
    let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned));
    Ok(holder.filter(|holder| !holder.is_empty()))
}

async fn completed(namespace: &TestNamespace, name: &str, operators: &[&Operator]) -> Result<()> {
    let logs = || operators.iter().map(|operator| operator.log()).collect::<Vec<_>>().join("\n--- next\n");
    let run = namespace.run_ended(GROUP, "RedisBackup", name).await.with_context(logs)?;
    ensure!(run["status"]["phase"] == "Completed", "{name}: {:#}\n{}", run["status"], logs());
    Ok(())
}

async fn another_holds(namespace: &TestNamespace, before: &str) -> Result<(String, Duration)> {
    let begun = Instant::now();
    loop {
        if let Some(now) = holder(namespace).await?.filter(|now| now != before) {
            return Ok((now, begun.elapsed()));
        }
        ensure!(begun.elapsed() < TAKE_OVER, "after {before} nobody took the Lease");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operator_works_and_the_next_takes_over_when_it_dies_and_when_it_is_stopped() -> Result<()> {
    let Some(cluster) = Cluster::api("one_operator_works_and_the_next_takes_over") else { return Ok(()) };
    install_crds(cluster)?;
    let namespace = cluster.namespace("leader").await?;
    let node = FakeNode::start(cluster.client().await?, namespace.name());
    let first = Operator::in_namespace(&namespace, cluster.kubeconfig(), &[]).await?;
    // One that waits for the Lease is ready too: being ready does not say that it leads.
    let (first_name, _) = another_holds(&namespace, "nobody").await.with_context(|| first.log())?;
    let second = Operator::spawn_in(&namespace, cluster.kubeconfig(), &[])?;
    namespace.apply(&backup("both")).await?;
    completed(&namespace, "both", &[&first, &second]).await?;
    ensure!(holder(&namespace).await?.as_deref() == Some(first_name.as_str()), "the Lease moved without need");

    // Killed with a run under way: the Lease has to run out.
    namespace.apply(&backup("killed")).await?;
    namespace
        .wait_for(GROUP, "RedisBackup", "killed", "to be begun", |run| {
            run.is_some_and(|run| run["status"]["backupId"].is_string())
        })
        .await?;
    first.kill();
    let (second_name, took) = another_holds(&namespace, &first_name).await.with_context(|| second.log())?;
    eprintln!("after a kill the next operator led within {took:?}");
    completed(&namespace, "killed", &[&second]).await?;

    // Stopped with a run under way: the Lease is given back, so that the next one need not wait for it to run out.
    namespace.apply(&backup("stopped")).await?;
    second.stop().await?;
    let left = holder(&namespace).await?;
    ensure!(left.is_none(), "{left:?} still holds the Lease after it was asked to end\n{}", second.log());
    let third = Operator::spawn_in(&namespace, cluster.kubeconfig(), &[])?;
    let (third_name, _) = another_holds(&namespace, &second_name).await.with_context(|| third.log())?;
    ensure!(third_name != first_name, "{third_name} had ended");
    completed(&namespace, "stopped", &[&third]).await?;

    let committed = node.committed();
    ensure!(committed.len() == 3 && committed.values().all(|&count| count == 1), "{committed:?}");
    ensure!(node.faults().is_empty(), "{:#?}", node.faults());
    namespace.remove();
    Ok(())
}
