//! Primaries that are lost, on a node, under writers: of all writes, who acknowledged them, and what the next primary has.
//!
//! Never do two pods take writes at once, and no write is lost that both replicas confirmed, nor one that a single replica
//! confirmed where the operator reached both. The short form plays each way once or twice; the long one twenty in all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redkeep_testing::server::Version;
use redkeep_tests::full;
use redkeep_tests::kube::faults::{CutOff, Halted, Stalled, kill};
use redkeep_tests::kube::managed::{
    API, cluster_object, connect, connect_primary, healthy, password, prepare, primary, primary_of, wait,
};
use redkeep_tests::kube::witness::{Ack, REPLICAS, Witness, lost, reigns};
use redkeep_tests::kube::{Cluster, Operator, TestNamespace};
use serde_json::json;

const NAME: &str = "carts";
const REDIS: &str = "redis-server";
const INSTANCE: &str = "redkeep-instance";

/// How a primary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its Redis is killed.
    Redis,
    /// Its pod is deleted without a word of goodbye.
    Pod,
    /// Its Redis is killed after one replica stood still for three seconds.
    Stalled,
    /// Nobody starts it again, for the kubelet is away.
    Unattended,
    /// Its pod is deleted, but lives on, for the kubelet is away.
    Orphaned,
    /// It and one replica are cut off from the rest.
    CutOff,
}

/// What a round came to.
#[derive(Debug)]
struct Figure {
    gap: Duration,
    writes: usize,
    plain_lost: usize,
    one_lost: usize,
}

struct Scene {
    cluster: &'static Cluster,
    home: Arc<TestNamespace>,
    operator: Operator,
    witness: Witness,
    kept: Vec<Ack>,
    figures: Vec<Figure>,
}

impl Scene {
    async fn begin(cluster: &'static Cluster, version: Version) -> Result<Self> {
        let (home, operator) = prepare(cluster.namespace("failover").await?).await?;
        home.apply(&cluster_object(NAME, version, &json!({}))).await?;
        let born = healthy(&home, &operator, NAME).await?;
        let password = password(&home, &born).await?;
        let witness = Witness::start(&home, (0..3).map(|ordinal| format!("{NAME}-{ordinal}")), &password);
        Ok(Self { cluster, home, operator, witness, kept: Vec::new(), figures: Vec::new() })
    }

    /// One primary is lost, and replaced; then all is well again, and what it has is compared with what was acknowledged.
    async fn round(&mut self, way: Way) -> Result<()> {
        let what = format!("round {} ({way:?})", self.figures.len() + 1);
        healthy(&self.home, &self.operator, NAME).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (_, old) = primary_of(&self.home, NAME).await?;
        let replicas: Vec<String> =
            (0..3).map(|ordinal| format!("{NAME}-{ordinal}")).filter(|pod| *pod != old).collect();
        let is_replaced = |object: &serde_json::Value| primary(object).is_ok_and(|now| now != old);
        let replaced = async || {
            wait(&self.home, &self.operator, NAME, "to have another primary", is_replaced).await.context(what.clone())
        };
        match way {
            Way::Redis => {
                kill(&self.home, &old, REDIS).await?;
                replaced().await?;
            }
            Way::Pod => {
                self.home.kill("v1", "Pod", &old).await?;
                replaced().await?;
            }
            Way::Stalled => {
                let behind = &replicas[self.figures.len() % 2];
                let stalled = Stalled::of(&self.home, behind, REDIS).await?;
                self.fill(&old).await?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                // Dead before the other goes on: a pod that is deleted lives for another moment, and would tell it everything.
                kill(&self.home, &old, REDIS).await?;
                drop(stalled);
                let now = replaced().await?;
                ensure!(primary(&now)? != behind, "{what}: {behind} was behind, and became primary");
            }
            Way::Unattended | Way::Orphaned => {
                let halted = Halted::of(self.cluster, "kubelet")?;
                if way == Way::Unattended {
                    kill(&self.home, &old, INSTANCE).await?;
                } else {
                    self.home.kill("v1", "Pod", &old).await?;
                }
                replaced().await?;
                // Whoever of the two still takes writes is heard.
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(halted);
            }
            Way::CutOff => {
                let cut_off = CutOff::of(&self.home, &[&old, &replicas[0]], &[&replicas[1]]).await?;
                replaced().await?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                drop(cut_off);
            }
        }
        let healed = healthy(&self.home, &self.operator, NAME).await.context(what.clone())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let acks = self.witness.take();
        let figure = self.judge(way, &old, &acks, &healed).await;
        let figure = figure.with_context(|| format!("{what}\n--- operator\n{}", self.operator.log()))?;
        println!("{what}: {old} -> {}: {figure:?}", primary(&healed)?);
        self.figures.push(figure);
        Ok(())
    }

    /// Writes more than connections hold for one who does not read: what is written after that, it has not.
    async fn fill(&self, pod: &str) -> Result<()> {
        let (cluster, _) = primary_of(&self.home, NAME).await?;
        let mut connection = connect(&self.home, &cluster, pod).await?;
        let megabyte = "x".repeat(1 << 20);
        for number in 0..24 {
            let mut command = redis::cmd("SET");
            command.arg(format!("pad:{number}")).arg(&megabyte).arg("EX").arg(60);
            command.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }

    async fn judge(&mut self, way: Way, old: &str, acks: &[Ack], healed: &serde_json::Value) -> Result<Figure> {
        let reigns = reigns(acks)?;
        let pods: Vec<&str> = reigns.iter().map(|reign| reign.pod.as_str()).collect();
        ensure!(pods == [old, primary(healed)?], "who took writes: {pods:?}");
        ensure!(reigns[0].writes > 100 && reigns[1].writes > 10, "the writers hardly wrote: {reigns:?}");
        let confirmed = acks.iter().filter(|ack| ack.confirmed >= REPLICAS).count();
        ensure!(confirmed > 50, "only {confirmed} of {} writes were confirmed by both replicas", acks.len());
        let mut connection = connect_primary(&self.home, healed).await?;
        let lost = lost(&mut connection, acks).await?;
        let of = |confirmed: u64| lost.iter().filter(|ack| ack.confirmed == confirmed).count();
        ensure!(of(REPLICAS) == 0, "writes that both replicas confirmed are lost: {lost:?}");
        ensure!(way == Way::CutOff || of(1) == 0, "writes that a replica confirmed are lost: {lost:?}");
        self.kept.extend(acks.iter().filter(|ack| !lost.contains(ack)).cloned());
        let gap = reigns[1].first_acked.duration_since(reigns[0].last_acked);
        Ok(Figure { gap, writes: acks.len(), plain_lost: of(0), one_lost: of(1) })
    }

    /// What was there after its own round is there at the end; then the figures are said.
    async fn end(self) -> Result<()> {
        let healed = healthy(&self.home, &self.operator, NAME).await?;
        let mut connection = connect_primary(&self.home, &healed).await?;
        let lost = lost(&mut connection, &self.kept).await?;
        ensure!(lost.is_empty(), "writes of earlier rounds are lost: {lost:?}");
        let mut gaps: Vec<Duration> = self.figures.iter().map(|figure| figure.gap).collect();
        gaps.sort();
        let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        let sum = |of: fn(&Figure) -> usize| self.figures.iter().map(of).sum::<usize>();
        println!(
            "{} primaries lost: write gap {median:?} in the median, {longest:?} at most; of {} writes lost: {} that no \
             replica had confirmed, {} that one had confirmed which was cut off too, 0 that both had",
            self.figures.len(),
            sum(|figure| figure.writes),
            sum(|figure| figure.plain_lost),
            sum(|figure| figure.one_lost),
        );
        Ok(())
    }
}

fn rounds(short: &[(Way, usize)], long: &[(Way, usize)]) -> Vec<Way> {
    let wanted = if full() { long } else { short };
    wanted.iter().flat_map(|(way, times)| std::iter::repeat_n(*way, *times)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed_is_replaced_and_no_confirmed_write_is_lost() -> Result<()> {
    let Some(cluster) = Cluster::node("a_primary_that_is_killed_is_replaced_and_no_confirmed_write_is_lost") else {
        return Ok(());
    };
    let mut scene = Scene::begin(cluster, Version::Redis82).await?;
    let short = [(Way::Redis, 1), (Way::Pod, 1), (Way::Stalled, 1)];
    for way in rounds(&short, &[(Way::Redis, 5), (Way::Pod, 4), (Way::Stalled, 5)]) {
        scene.round(way).await?;
    }
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_nobody_reaches_takes_no_writes_once_another_does() -> Result<()> {
    let Some(cluster) = Cluster::node("a_primary_that_nobody_reaches_takes_no_writes_once_another_does") else {
        return Ok(());
    };
    let mut scene = Scene::begin(cluster, Version::Valkey81).await?;
    let short = [(Way::Orphaned, 1), (Way::CutOff, 1)];
    for way in rounds(&short, &[(Way::Unattended, 1), (Way::Orphaned, 2), (Way::CutOff, 3)]) {
        scene.round(way).await?;
    }
    // An operator that dies in the middle of it leaves it to the next.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, old) = primary_of(&scene.home, NAME).await?;
    scene.home.kill("v1", "Pod", &old).await?;
    let failing =
        |object: Option<&serde_json::Value>| object.is_some_and(|object| object["status"]["phase"] == "FailingOver");
    scene.home.wait_for(API, "RedisCluster", NAME, "to fail over", failing).await?;
    scene.operator.kill();
    scene.operator = Operator::in_namespace(&scene.home, cluster.kubeconfig(), &[]).await?;
    let healed = healthy(&scene.home, &scene.operator, NAME).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let acks = scene.witness.take();
    let figure = scene.judge(Way::Pod, &old, &acks, &healed).await;
    println!("without its operator: {:?}", figure.with_context(|| scene.operator.log())?);
    scene.end().await
}
