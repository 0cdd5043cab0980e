//! The operator as it is installed, by `config/default` and by the chart, with the packed image, its own account, its own
//! rights, and the manifests of `config/samples` as they stand.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::managed::{connect_primary, is_healthy};
use redkeep_tests::kube::{BUCKET, Cluster, Redis, Storage, TestNamespace};
use serde_json::{Value, json};

const GROUP: &str = "redis.io/v1";
const PLACE: &str = "redkeep-system";

/// `config/default` in the cluster, until it is dropped; the definitions stay.
struct Deployed {
    cluster: &'static Cluster,
    manifests: tempfile::NamedTempFile,
}

impl Deployed {
    fn install(cluster: &'static Cluster) -> Result<Self> {
        // As a user changes the image: in one place, from which it gets into the policies too.
        let copy = tempfile::tempdir()?;
        let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config");
        let copied = std::process::Command::new("cp").arg("-r").arg(&config).arg(copy.path()).status()?;
        ensure!(copied.success(), "failed to copy {}", config.display());
        let default = copy.path().join("config/default");
        let file = default.join("kustomization.yaml");
        let image = "images:\n- {name: ghcr.io/redkeep/redkeep, newName: localhost/redkeep, newTag: dev}\n";
        std::fs::write(&file, std::fs::read_to_string(&file)? + image)?;
        let built = cluster.succeed(&["kustomize", default.to_str().context("a path")?])?;
        ensure!(!built.contains("ghcr.io/redkeep"), "an image is not changed with the others: {built}");
        let manifests = tempfile::NamedTempFile::new()?;
        std::fs::write(manifests.path(), built)?;
        let this = Self { cluster, manifests };
        let path = this.manifests.path().to_str().context("a path")?;
        // Definitions first: a server-side apply of all at once may meet a kind that is not served yet.
        for _ in 0..2 {
            let _ = cluster.kubectl().args(["apply", "--server-side", "--force-conflicts", "-f", path]).output()?;
        }
        cluster.succeed(&["apply", "--server-side", "--force-conflicts", "-f", path])?;
        let waited = cluster.succeed(&[
            "--namespace",
            PLACE,
            "rollout",
            "status",
            "deployment/redkeep-operator",
            "--timeout",
            "240s",
        ]);
        waited.with_context(|| this.describe())?;
        Ok(this)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for arguments in [
            ["get", "events,pods", "-o", "wide"].as_slice(),
            &["logs", "-l", "app.kubernetes.io/component=operator", "--tail", "60", "--prefix"],
        ] {
            let said = self.cluster.kubectl().args(["--namespace", PLACE]).args(arguments).output();
            let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
            text = format!("{text}--- {PLACE}: kubectl {arguments:?}\n{}\n", String::from_utf8_lossy(&said));
        }
        text
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        sweep(self.cluster);
    }
}

/// Takes away all that an installation leaves but the definitions, which would take every object of theirs with them.
fn sweep(cluster: &Cluster) {
    let mut command = cluster.kubectl();
    command.args(["delete", "--ignore-not-found", "--wait=true", "--timeout", "120s", "namespace", PLACE]);
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut command = cluster.kubectl();
    command.args(["delete", "--ignore-not-found", "-l", "app.kubernetes.io/part-of=redkeep"]);
    command.arg("clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings");
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// `helm`, as `cargo xtask test` builds it.
fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("REDKEEP_HELM").unwrap_or_else(|| "helm".into());
    let mut command = std::process::Command::new(&program);
    command.args(arguments).args(["--namespace", PLACE]).env("KUBECONFIG", cluster.kubeconfig());
    let output = command.output().with_context(|| {
        format!("failed to run {}: `cargo xtask test --only cluster` builds it", program.to_string_lossy())
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "helm {arguments:?}: {said}");
    Ok(said)
}

/// A sample as it stands, but for the namespace that it names.
fn sample(file: &str, kind: &str, name: &str) -> Result<Value> {
    use serde::Deserialize as _;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/samples").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    for document in serde_norway::Deserializer::from_str(&text) {
        let mut object = Value::deserialize(document)?;
        if object["kind"] == kind && object["metadata"]["name"] == name {
            object["metadata"].as_object_mut().context("no metadata")?.remove("namespace");
            return Ok(object);
        }
    }
    anyhow::bail!("{} has no {kind} {name}", path.display())
}

/// A cluster of the samples as it stands. Waits until it is Healthy.
async fn managed(namespace: &TestNamespace, deployed: &Deployed, name: &str) -> Result<Value> {
    namespace.apply(&sample("rediscluster.yaml", "RedisCluster", name)?).await?;
    let healthy = |object: Option<&Value>| object.is_some_and(is_healthy);
    let found = namespace.wait_for(GROUP, "RedisCluster", name, "to be Healthy", healthy).await;
    found.with_context(|| deployed.describe())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_samples_work_with_the_operator_as_installed() -> Result<()> {
    let Some(cluster) = Cluster::node("the_samples_work_with_the_operator_as_installed") else { return Ok(()) };
    let deployed = Deployed::install(cluster)?;
    let namespace = cluster.namespace("samples").await?;
    let storage = Storage::start(&namespace).await?;
    // The samples' endpoint.
    namespace
        .apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "minio"},
            "spec": {"selector": {"app": "s3"}, "ports": [{"port": 9000}]},
        }))
        .await?;
    let version = Version::Redis70;
    let redis = managed(&namespace, &deployed, "my-cluster").await?;
    let mut primary = connect_primary(&namespace, &redis).await?;
    apply(&mut primary, &Shape::standalone(version), 1, 500).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut primary).await?;
    let before = Dataset::through(&mut primary, version).await?;

    namespace.apply(&sample("redisbackup.yaml", "RedisBackup", "my-cluster-backup-001")?).await?;
    let ended = namespace.run_ended(GROUP, "RedisBackup", "my-cluster-backup-001").await;
    let run = ended.with_context(|| deployed.describe())?;
    ensure!(run["status"]["phase"] == "Completed", "{:#}\n{}", run["status"], namespace.describe());
    let listed = storage.redkeep("production/my-cluster", &["list", "-o", "json"]).await?;
    ensure!(listed.code == Some(0) && listed.json().as_array().map(Vec::len) == Some(1), "{listed:#?}");

    // The published workflow's end: a new cluster comes up with the old data.
    let born = managed(&namespace, &deployed, "my-cluster-restored").await?;
    let mut primary = connect_primary(&namespace, &born).await?;
    let differences = before.differences(&Dataset::through(&mut primary, version).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    namespace.delete(GROUP, "RedisCluster", "my-cluster-restored").await?;

    // A server of the cluster's own image loads it, under the policies as installed.
    let mut loaded = sample("redisbackup.yaml", "RedisBackup", "my-cluster-backup-001")?;
    loaded["metadata"]["name"] = json!("loaded");
    loaded["spec"]["verification"] = json!({"level": "boot"});
    namespace.apply(&loaded).await?;
    let run = namespace
        .wait_for(GROUP, "RedisBackup", "loaded", "to be verified", |run| {
            run.is_some_and(|run| {
                matches!(run["status"]["verification"]["phase"].as_str(), Some("Completed" | "Failed"))
            })
        })
        .await
        .with_context(|| deployed.describe())?;
    let verification = &run["status"]["verification"];
    ensure!(verification["phase"] == "Completed", "{:#}\n{}", run["status"], namespace.describe());

    let mut schedule = sample("redisscheduledbackup.yaml", "RedisScheduledBackup", "my-cluster-nightly")?;
    schedule["spec"]["immediate"] = json!(true);
    namespace.apply(&schedule).await?;
    namespace
        .wait_for(GROUP, "RedisScheduledBackup", "my-cluster-nightly", "to have made a backup", |schedule| {
            schedule.is_some_and(|schedule| schedule["status"]["lastSuccessfulBackup"].is_string())
        })
        .await
        .with_context(|| deployed.describe())?;

    // A plugin is registered with the rights and under the policies as installed.
    namespace.apply(&sample("backupmethod.yaml", "BackupMethod", "rdb")?).await?;
    let method = namespace
        .wait_for(GROUP, "BackupMethod", "rdb", "to be registered", |method| {
            method.is_some_and(|method| {
                let conditions = method["status"]["conditions"].as_array();
                conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] != "Unknown"))
            })
        })
        .await
        .with_context(|| deployed.describe())?;
    namespace.delete(GROUP, "BackupMethod", "rdb").await?;
    ensure!(method["status"]["description"]["name"] == "redis-rdb", "{:#}\n{}", method["status"], deployed.describe());

    let nodes = namespace.list("events.k8s.io/v1", "Event", "").await?;
    let about = nodes.iter().filter(|event| event["regarding"]["name"] == "my-cluster-backup-001");
    ensure!(about.count() > 0, "no Event about the backup\n{}", namespace.describe());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chart_installs_and_its_uninstall_leaves_the_backups_and_the_definitions() -> Result<()> {
    let Some(cluster) = Cluster::node("the_chart_installs_and_its_uninstall_leaves") else { return Ok(()) };
    sweep(cluster);
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/chart");
    let chart = chart.to_str().context("a path")?;
    let image = ["--set", "image.repository=localhost/redkeep,image.tag=dev,image.pullPolicy=Never"];
    let install = ["install", "redkeep", chart, "--create-namespace", "--wait", "--timeout", "4m"];
    helm(cluster, &[install.as_slice(), &image].concat())?;
    let namespace = cluster.namespace("chart").await?;
    let storage = Storage::start(&namespace).await?;
    let redis = Redis::start(&namespace, "source", Version::Redis82, 0).await?;
    apply(&mut redis.connect(0).await?, &Shape::standalone(Version::Redis82), 1, 500).await?;
    let backup = |name: &str| {
        json!({
            "apiVersion": GROUP, "kind": "RedisBackup", "metadata": {"name": name},
            "spec": {
                "source": {"statefulSet": {"name": "source"}}, "method": "aof",
                "destination": {"s3": {"bucket": BUCKET, "path": "chart", "endpoint": storage.endpoint()}},
                "backupCredentialsSecret": {"name": "backup-credentials"},
            },
        })
    };
    let completed = |run: Option<&Value>| run.is_some_and(|run| run["status"]["phase"] == "Completed");
    namespace.apply(&backup("before")).await?;
    namespace.wait_for(GROUP, "RedisBackup", "before", "to be completed", completed).await?;

    helm(cluster, &["uninstall", "redkeep", "--wait", "--timeout", "2m"])?;
    let listed = storage.redkeep("chart", &["list", "-o", "json"]).await?;
    ensure!(listed.json().as_array().map(Vec::len) == Some(1), "the bucket has {listed:#?}");
    let kept = namespace.get(GROUP, "RedisBackup", "before").await?.context("the RedisBackup went with the chart")?;
    ensure!(completed(Some(&kept)) && kept["metadata"]["deletionTimestamp"].is_null(), "{kept:#}");
    let left =
        cluster.succeed(&["get", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name"])?;
    let left: Vec<&str> = left.lines().filter(|line| line.contains("redkeep")).collect();
    ensure!(left.is_empty(), "the chart leaves {left:?}");

    namespace.remove();
    sweep(cluster);
    Ok(())
}
