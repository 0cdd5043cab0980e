//! Clusters that are born from a backup, on a node: of every version, method and layout; and restores that are hindered say
//! why, and go on when the cause is put right, without a new object.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::full;
use redkeep_tests::kube::faults::Stalled;
use redkeep_tests::kube::managed::{
    API, back_up, cluster_object, connect_primary, healthy, prepare, says, wait, why_not,
};
use redkeep_tests::kube::{Cluster, Operator, Storage, TestNamespace};
use serde_json::{Value, json};

/// The S3 server's process.
const S3: &str = "versitygw";

#[derive(Clone, Copy, Debug)]
struct Case {
    version: Version,
    method: &'static str,
    appendonly: &'static str,
}

impl Case {
    fn source(self) -> String {
        format!("{:?}", self.version).to_lowercase()
    }

    fn backup(self) -> String {
        format!("{}-{}", self.source(), self.method)
    }

    fn name(self) -> String {
        format!("{}-{}", self.backup(), self.appendonly)
    }

    /// A server by itself would start without what its append-only files hold.
    fn is_converted(self) -> bool {
        self.method == "aof" && self.appendonly == "no"
    }

    fn object(self) -> Value {
        let more = json!({
            "instances": 1, "bootstrap": {"backupName": self.backup()}, "redisConfig": {"appendonly": self.appendonly},
        });
        cluster_object(&self.name(), self.version, &more)
    }
}

/// All; in the short form each version once, with what `cluster_redis` leaves out.
fn cases() -> Vec<Case> {
    if !full() {
        return vec![
            Case { version: Version::Redis62, method: "rdb", appendonly: "yes" },
            Case { version: Version::Redis82, method: "aof", appendonly: "yes" },
            Case { version: Version::Valkey81, method: "aof", appendonly: "no" },
        ];
    }
    let mut cases = Vec::new();
    for version in Version::ALL {
        for method in ["rdb", "aof"] {
            cases.extend(["yes", "no"].map(|appendonly| Case { version, method, appendonly }));
        }
    }
    cases
}

/// Versions of cases, each once.
fn versions(cases: &[Case]) -> Vec<Version> {
    Version::ALL.into_iter().filter(|version| cases.iter().any(|case| case.version == *version)).collect()
}

async fn equals(home: &TestNamespace, born: &Value, version: Version, before: &Dataset) -> Result<()> {
    let mut connection = connect_primary(home, born).await?;
    // Redis 6.2 tells only how long a key still lives.
    let relative = version == Version::Redis62;
    let differences = before.differences(&Dataset::through(&mut connection, version).await?, relative);
    ensure!(differences.is_empty(), "{}: {differences:#?}", born["metadata"]["name"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_born_of_every_version_method_and_layout() -> Result<()> {
    let Some(cluster) = Cluster::node("it_is_born_of_every_version_method_and_layout") else { return Ok(()) };
    let cases = cases();
    let (home, operator) = prepare(cluster.namespace("bootstrap").await?).await?;
    let bucket = Storage::start(&home).await?;
    let source = |version: Version| Case { version, method: "", appendonly: "" }.source();
    // In the long form one version after the other, for the machine is small.
    for versions in versions(&cases).chunks(if full() { 1 } else { usize::MAX }) {
        for &version in versions {
            let more = json!({"instances": 1, "redisConfig": {"appendonly": "yes"}});
            home.apply(&cluster_object(&source(version), version, &more)).await?;
        }
        let of_versions: Vec<Case> = cases.iter().copied().filter(|case| versions.contains(&case.version)).collect();
        let mut datasets = Vec::new();
        for &version in versions {
            let made = healthy(&home, &operator, &source(version)).await?;
            let mut connection = connect_primary(&home, &made).await?;
            apply(&mut connection, &Shape::standalone(version), 3, 1000).await?;
            datasets.push((version, Dataset::through(&mut connection, version).await?));
        }
        for case in &of_versions {
            back_up(&home, &operator, &bucket, (&case.backup(), &case.source(), case.method), &json!({})).await?;
            home.apply(&case.object()).await?;
        }
        for case in &of_versions {
            let before = datasets.iter().find(|(version, _)| *version == case.version).context("no source")?;
            born(&home, &operator, *case, &before.1).await.with_context(|| format!("{case:?}"))?;
            println!("{case:?}: equal");
            home.delete(API, "RedisCluster", &case.name()).await?;
        }
        for &version in versions {
            home.delete(API, "RedisCluster", &source(version)).await?;
        }
    }
    Ok(())
}

async fn born(home: &TestNamespace, operator: &Operator, case: Case, before: &Dataset) -> Result<()> {
    let name = case.name();
    let born = healthy(home, operator, &name).await?;
    equals(home, &born, case.version, before).await?;
    let mut connection = connect_primary(home, &born).await?;
    let config: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "appendonly"]).query_async(&mut connection).await?;
    ensure!(config == ["appendonly", case.appendonly], "{config:?}");
    if case.is_converted() {
        let process = &born["status"]["primaryProcess"];
        home.kill("v1", "Pod", &format!("{name}-0")).await?;
        let is_anew =
            |object: &Value| object["status"]["phase"] == "Healthy" && object["status"]["primaryProcess"] != *process;
        let anew = wait(home, operator, &name, "to have started anew", is_anew).await?;
        equals(home, &anew, case.version, before).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_hindered_says_why_and_heals() -> Result<()> {
    let Some(cluster) = Cluster::node("a_restore_that_is_hindered_says_why_and_heals") else { return Ok(()) };
    let version = Version::Redis70;
    let (home, operator) = prepare(cluster.namespace("hindered").await?).await?;
    let bucket = Storage::start(&home).await?;
    home.apply(&cluster_object("source", version, &json!({"instances": 1}))).await?;
    home.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "seal"},
        "stringData": {"passphrase": "correct horse battery staple"}}))
        .await?;
    let made = healthy(&home, &operator, "source").await?;
    let mut connection = connect_primary(&home, &made).await?;
    apply(&mut connection, &Shape::standalone(version), 3, 800).await?;
    let before = Dataset::through(&mut connection, version).await?;
    back_up(&home, &operator, &bucket, ("plain", "source", "rdb"), &json!({})).await?;
    let key = json!({"passphraseSecret": {"name": "seal", "key": "passphrase"}});
    back_up(&home, &operator, &bucket, ("sealed", "source", "rdb"), &json!({"encryption": key})).await?;

    let born = |name: &str, more: Value| {
        let mut spec = json!({"instances": 1, "bootstrap": {"backupName": "plain"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        cluster_object(name, version, &spec)
    };
    let class = format!("{}-late", home.name());
    let storage = json!({"storage": {"size": "1Gi", "storageClass": class}});
    home.apply(&born("image", json!({"imageName": "localhost/redis:none"}))).await?;
    home.apply(&born("class", storage)).await?;
    home.apply(&born("sealed", json!({"bootstrap": {"backupName": "sealed"}}))).await?;
    says(&home, &operator, "image", "Ready", "ImagePullFailed").await?;
    let said = says(&home, &operator, "class", "Restored", "ClaimPending").await?;
    ensure!(said["status"]["conditions"].to_string().contains(&class), "it does not name {class}: {said:#}");
    says(&home, &operator, "sealed", "Restored", "KeyMissing").await?;
    for name in ["class", "sealed"] {
        ensure!(home.get("apps/v1", "StatefulSet", name).await?.is_none(), "{name}: a half-made cluster");
    }
    home.apply(&born("image", json!({}))).await?;
    let decrypted = json!({"backupName": "sealed", "decryption": key});
    home.apply(&born("sealed", json!({"bootstrap": decrypted}))).await?;
    let _class = StorageClass::make(&home, class).await?;

    // It stands still in the middle of the bucket, and is gone.
    let stalled = Stalled::of(&home, "s3-0", S3).await?;
    home.apply(&born("killed", json!({}))).await?;
    let runs = |object: &Value| why_not(object, "Restored").as_deref() == Some("Running");
    let running = wait(&home, &operator, "killed", "to be restored", runs).await?;
    let job = running["status"]["bootstrap"]["taskName"].as_str().context("no task")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for pod in home.list("v1", "Pod", &format!("batch.kubernetes.io/job-name={job}")).await? {
        home.kill("v1", "Pod", pod["metadata"]["name"].as_str().context("no name")?).await?;
    }
    drop(stalled);
    says(&home, &operator, "killed", "Restored", "PodGone").await?;
    ensure!(home.get("apps/v1", "StatefulSet", "killed").await?.is_none(), "a half-made cluster");

    for name in ["image", "class", "sealed", "killed"] {
        let healed = healthy(&home, &operator, name).await?;
        equals(&home, &healed, version, &before).await?;
        home.delete(API, "RedisCluster", name).await?;
    }

    bucket.set(false).await?;
    home.apply(&born("bucket", json!({}))).await?;
    says(&home, &operator, "bucket", "Restored", "StorageUnreachable").await?;
    ensure!(home.get("apps/v1", "StatefulSet", "bucket").await?.is_none(), "a half-made cluster");
    bucket.set(true).await?;
    equals(&home, &healthy(&home, &operator, "bucket").await?, version, &before).await
}

/// A class of volumes, which lies in no namespace and goes with the test.
struct StorageClass<'a>(&'a TestNamespace, String);

impl<'a> StorageClass<'a> {
    async fn make(home: &'a TestNamespace, name: String) -> Result<Self> {
        home.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "redkeep.io/local", "volumeBindingMode": "WaitForFirstConsumer",
        }))
        .await?;
        Ok(Self(home, name))
    }
}

impl Drop for StorageClass<'_> {
    fn drop(&mut self) {
        let mut command = self.0.cluster().kubectl();
        let _ = command.args(["delete", "storageclass", &self.1, "--ignore-not-found", "--wait=false"]).output();
    }
}
