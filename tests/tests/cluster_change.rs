//! Changes of a cluster that serves, on a node, under writers that never pause: a new image, fewer and more instances, a drained
//! primary, and one whose claim comes back empty.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::EvictParams;
use redkeep_testing::server::Version;
use redkeep_tests::kube::faults::{Halted, kill};
use redkeep_tests::kube::managed::{
    FENCING, cluster_object, connect, connect_primary, healthy, password, prepare, primary, primary_of, wait,
};
use redkeep_tests::kube::witness::{Ack, Witness, lost, reigns};
use redkeep_tests::kube::{Cluster, Operator, TestNamespace, redis_image};
use serde_json::{Value, json};

const NAME: &str = "carts";

fn pods() -> impl Iterator<Item = String> {
    (0..3).map(|ordinal| format!("{NAME}-{ordinal}"))
}

struct Scene {
    home: Arc<TestNamespace>,
    operator: Operator,
    witness: Witness,
}

impl Scene {
    /// Applies a change, and waits until it is done and all is well.
    async fn change(&self, version: Version, more: &Value, done: impl Fn(&Value) -> bool) -> Result<Value> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.home.apply(&cluster_object(NAME, version, more)).await?;
        wait(&self.home, &self.operator, NAME, &format!("to be changed to {more}"), done).await?;
        healthy(&self.home, &self.operator, NAME).await
    }

    /// All that was acknowledged since the last time is there, and nobody else took writes meanwhile.
    async fn all_is_there(&self, cluster: &Value) -> Result<Vec<Ack>> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let acks = self.witness.take();
        let reigns = reigns(&acks).with_context(|| self.operator.log())?;
        let missing = lost(&mut connect_primary(&self.home, cluster).await?, &acks).await?;
        ensure!(missing.is_empty(), "acknowledged writes are lost: {missing:?}\n{reigns:?}\n{}", self.operator.log());
        ensure!(acks.len() > 100, "the writers hardly wrote: {reigns:?}");
        for pair in reigns.windows(2) {
            println!(
                "{} -> {}: nobody took writes for {:?}",
                pair[0].pod,
                pair[1].pod,
                pair[1].first_acked.duration_since(pair[0].last_acked)
            );
        }
        Ok(acks)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_changed_under_writers_that_lose_nothing() -> Result<()> {
    let Some(cluster) = Cluster::node("it_is_changed_under_writers_that_lose_nothing") else { return Ok(()) };
    let (home, operator) = prepare(cluster.namespace("change").await?).await?;
    home.apply(&cluster_object(NAME, Version::Redis70, &json!({}))).await?;
    let born = healthy(&home, &operator, NAME).await?;
    let witness = Witness::start(&home, pods(), &password(&home, &born).await?);
    let scene = Scene { home: Arc::clone(&home), operator, witness };
    tokio::time::sleep(Duration::from_secs(2)).await;

    let new = Version::Redis82;
    let first = primary(&born)?.to_owned();
    let updated = |object: &Value| {
        let members = object["status"]["members"].as_array();
        object["status"]["primary"] != first.as_str() && members.is_none_or(|members| members.len() == 3)
    };
    scene.change(new, &json!({}), updated).await?;
    let all_new = || async {
        for pod in pods() {
            let found = home.get("v1", "Pod", &pod).await?.context("no pod")?;
            if found["spec"]["containers"][0]["image"] != redis_image(new) {
                return Ok(None);
            }
        }
        let healed = home.get(redkeep_tests::kube::managed::API, "RedisCluster", NAME).await?;
        Ok(healed.filter(redkeep_tests::kube::managed::is_healthy))
    };
    let healed = home.wait_until("every pod runs the new image", all_new).await?;
    scene.all_is_there(&healed).await?;

    // The last of three goes; where it is primary, another takes over first.
    let last = format!("{NAME}-2");
    if primary(&healed)? != last {
        cluster.succeed(&[
            "-n",
            home.name(),
            "annotate",
            "rediscluster",
            NAME,
            &format!("redis.io/switch-over={last}"),
        ])?;
        let moved = |object: &Value| primary(object).is_ok_and(|now| now == last);
        wait(&home, &scene.operator, NAME, "to have switched over", moved).await?;
        scene.all_is_there(&healthy(&home, &scene.operator, NAME).await?).await?;
    }
    let two = |object: &Value| object["status"]["readyInstances"] == 2 && primary(object).is_ok_and(|now| now != last);
    let two = scene.change(new, &json!({"instances": 2}), two).await?;
    scene.all_is_there(&two).await?;
    home.wait_for("v1", "Pod", &last, "to be gone", |pod| pod.is_none()).await?;
    let three = scene.change(new, &json!({}), |object| object["status"]["readyInstances"] == 3).await?;
    let acks = scene.all_is_there(&three).await?;
    let mut newcomer = connect(&home, &three, &last).await?;
    let missing = lost(&mut newcomer, &acks[..acks.len() / 2]).await?;
    ensure!(missing.is_empty(), "the third came back without {} writes", missing.len());

    evicted(&scene).await?;
    emptied(&scene, cluster).await
}

/// As `kubectl drain` does it: the primary hands over before its pod ends.
async fn evicted(scene: &Scene) -> Result<()> {
    let (_, old) = primary_of(&scene.home, NAME).await?;
    let pods: Api<Pod> = Api::namespaced(scene.home.client().clone(), scene.home.name());
    let uid = pods.get(&old).await?.metadata.uid.context("no uid")?;
    let budget = async || match pods.evict(&old, &EvictParams::default()).await {
        Ok(_) => Ok(Some(())),
        // The budget knows a little later that all pods are ready.
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(None),
        Err(error) => Err(error.into()),
    };
    scene.home.wait_until("the eviction to be let through", budget).await?;
    let begun = Instant::now();
    let moved = |object: &Value| primary(object).is_ok_and(|now| now != old);
    wait(&scene.home, &scene.operator, NAME, "to have another primary", moved).await?;
    let gone = async || {
        let found = pods.get_opt(&old).await?.filter(|pod| pod.metadata.uid.as_ref() == Some(&uid));
        Ok(found.is_none().then_some(()))
    };
    scene.home.wait_until("the evicted pod to be gone", gone).await?;
    println!("{old} was gone {:?} after its eviction", begun.elapsed());
    let healed = healthy(&scene.home, &scene.operator, NAME).await?;
    let acks = scene.all_is_there(&healed).await?;
    let found = reigns(&acks)?;
    let [first, second] = found.as_slice() else { bail!("not one that handed over to one") };
    let gap = second.first_acked.duration_since(first.last_acked);
    ensure!(gap < Duration::from_secs(FENCING), "{gap:?} without a primary is no hand-over");
    Ok(())
}

/// The primary's folder is empty when it starts again: whoever replicates it keeps what it has, and one of them takes over.
async fn emptied(scene: &Scene, cluster: &'static Cluster) -> Result<()> {
    let (_, old) = primary_of(&scene.home, NAME).await?;
    let claim = scene.home.get("v1", "PersistentVolumeClaim", &format!("data-{old}")).await?.context("no claim")?;
    let volume = claim["spec"]["volumeName"].as_str().context("an unbound claim")?;
    let folder = cluster.succeed(&["get", "pv", volume, "-o", "jsonpath={.spec.local.path}"])?;
    ensure!(folder.starts_with('/') && std::path::Path::new(&folder).is_dir(), "{folder:?} is no folder of this node");
    let mut before = scene.witness.take();
    let halted = Halted::of(cluster, "kubelet")?;
    kill(&scene.home, &old, "redkeep-instance").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for entry in std::fs::read_dir(&folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    drop(halted);
    let replaced = |object: &Value| primary(object).is_ok_and(|now| now != old);
    wait(&scene.home, &scene.operator, NAME, "to have another primary", replaced).await?;
    let healed = healthy(&scene.home, &scene.operator, NAME).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    before.extend(scene.witness.take());
    reigns(&before)?;
    before.retain(|ack| ack.confirmed > 0);
    ensure!(before.len() > 100, "the writers hardly wrote");
    for pod in pods() {
        let missing = lost(&mut connect(&scene.home, &healed, &pod).await?, &before).await?;
        ensure!(missing.is_empty(), "{pod} lost {} writes with the primary's folder", missing.len());
    }
    Ok(())
}
