//! The Kubernetes API as a user meets it, on a real API server: every rule accepts and refuses, defaults, columns, samples,
//! and the manifests that install all of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use redkeep_tests::kube::Cluster;
use redkeep_tests::kube::ask::{ask, collection, config, defined, merge, try_create};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    bases: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rule: String,
    kind: String,
    #[serde(default = "a_name")]
    name: String,
    from: Option<Value>,
    #[serde(default)]
    accepts: Vec<Value>,
    #[serde(default)]
    refuses: BTreeMap<String, Vec<Value>>,
}

fn a_name() -> String {
    "a-name".to_owned()
}

fn rules() -> Result<Rules> {
    let text = include_str!("../fixtures/operator_api/rules.yaml");
    let mut document: serde_norway::Value = serde_norway::from_str(text)?;
    document.apply_merge()?;
    Ok(serde_norway::from_value(document)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_accepts_what_it_should_and_refuses_the_rest_in_its_words() -> Result<()> {
    let Some(cluster) = Cluster::api("every_rule_accepts_what_it_should_and_refuses_the_rest_in_its_words") else {
        return Ok(());
    };
    defined(cluster)?;
    let namespace = cluster.namespace("rules").await?;
    let client = namespace.client();
    let Rules { bases, cases } = rules()?;
    let (mut tries, mut faults) = (0_usize, Vec::new());
    for case in &cases {
        let base = bases.get(&case.kind).with_context(|| format!("no base of {}", case.kind))?;
        let path = collection(&case.kind, namespace.name());
        let stored = match &case.from {
            Some(from) => {
                let object = object(case, &merge(base, from));
                Some(ask(client, Method::POST, &path, Some(&object), None).await?.map_err(anyhow::Error::msg)?)
            }
            None => None,
        };
        let wanted = case.accepts.iter().map(|patch| (None, patch));
        let refused =
            case.refuses.iter().flat_map(|(words, patches)| patches.iter().map(move |patch| (Some(words), patch)));
        for (words, patch) in wanted.chain(refused) {
            tries += 1;
            let answer = match &stored {
                Some(stored) => {
                    let object = merge(stored, &json!({"spec": patch}));
                    let path = format!("{path}/{}?dryRun=All&fieldValidation=Strict", case.name);
                    ask(client, Method::PUT, &path, Some(&object), None).await?
                }
                None => try_create(client, namespace.name(), &object(case, &merge(base, patch)), None).await?,
            };
            match (words, answer) {
                (None, Err(message)) => faults.push(format!("{}: {patch} is refused: {message}", case.rule)),
                (Some(words), Ok(_)) => faults.push(format!("{}: {patch} is not refused ({words})", case.rule)),
                (Some(words), Err(message)) if !message.contains(words.as_str()) => {
                    faults.push(format!("{}: {patch} is refused by other words than {words:?}: {message}", case.rule));
                }
                _ => {}
            }
        }
        if stored.is_some() {
            let _ = ask(client, Method::DELETE, &format!("{path}/{}", case.name), None, None).await?;
        }
    }
    ensure!(faults.is_empty(), "{} of {tries} tries:\n{}", faults.len(), faults.join("\n"));
    println!("{} rules, {tries} tries", cases.len());
    Ok(())
}

fn object(case: &Case, spec: &Value) -> Value {
    json!({"apiVersion": "redis.io/v1", "kind": case.kind, "metadata": {"name": case.name}, "spec": spec})
}

#[test]
fn every_kind_has_rules_that_accept_and_rules_that_refuse() -> Result<()> {
    let Rules { bases, cases } = rules()?;
    for kind in bases.keys() {
        ensure!(cases.iter().any(|case| &case.kind == kind && !case.accepts.is_empty()), "{kind} accepts nothing");
        ensure!(cases.iter().any(|case| &case.kind == kind && !case.refuses.is_empty()), "{kind} refuses nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_said_has_its_default() -> Result<()> {
    let Some(cluster) = Cluster::api("what_is_not_said_has_its_default") else { return Ok(()) };
    defined(cluster)?;
    let namespace = cluster.namespace("defaults").await?;
    let source = json!({"statefulSet": {"name": "redis", "files": {}}, "auth": {"secret": {"name": "a"}}, "tls": {}});
    let destination = json!({"s3": {"bucket": "redis-backups"}});
    for (kind, spec, expected) in [
        (
            "RedisBackup",
            json!({"source": source, "destination": destination, "verification": {}}),
            json!({
                "target": "prefer-replica", "method": "rdb", "compression": "none", "deletionPolicy": "Retain", "pin": false,
                "activeDeadlineSeconds": 21600, "startDeadlineSeconds": 300, "backoffLimit": 2,
                "verification": {"level": "parse"},
                "source": {
                    "mode": "replication", "auth": {"passwordKey": "password"},
                    "statefulSet": {"port": 6379, "files": {"volume": "data"}},
                },
            }),
        ),
        (
            "RedisScheduledBackup",
            json!({"schedule": "@daily", "clusterName": "a", "destination": destination}),
            json!({
                "timeZone": "UTC", "suspend": false, "immediate": false, "concurrencyPolicy": "Forbid",
                "successfulBackupsHistoryLimit": 7, "failedBackupsHistoryLimit": 3, "method": "rdb",
            }),
        ),
        (
            "RedisRestore",
            json!({"backupName": "a", "target": {"clusterName": "b"}}),
            json!({"onConflict": "fail", "ttl": "keep", "allowNonEmpty": false, "skipPreverify": false}),
        ),
        (
            "BackupStorage",
            json!({"destination": destination, "garbage": {"schedule": "@weekly"}}),
            json!({"probeInterval": "1h", "maxConcurrentTasks": 10, "garbage": {"gracePeriod": "8d"}}),
        ),
        (
            "BackupMethod",
            json!({"source": {"configMap": {"name": "a"}}}),
            json!({"source": {"configMap": {"key": "plugin.wasm"}}}),
        ),
        (
            "RedisCluster",
            json!({"imageName": "redis:7.2", "storage": {"size": "1Gi"}, "auth": {}, "failover": {}}),
            json!({
                "instances": 1, "storage": {"deletionPolicy": "Retain"}, "auth": {"enabled": true},
                "failover": {"fencingSeconds": 15, "minReplicasToWrite": 0}, "podDisruptionBudget": true,
            }),
        ),
    ] {
        let object = json!({"apiVersion": "redis.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let made = try_create(namespace.client(), namespace.name(), &object, None).await?;
        let made = made.map_err(|message| anyhow::anyhow!("{kind}: {message}"))?;
        let with_defaults = merge(&made["spec"], &expected);
        ensure!(made["spec"] == with_defaults, "{kind}: {} lacks some of {expected}", made["spec"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_the_columns_that_are_documented() -> Result<()> {
    let Some(cluster) = Cluster::api("kubectl_shows_the_columns_that_are_documented") else { return Ok(()) };
    defined(cluster)?;
    let namespace = cluster.namespace("columns").await?;
    for (short, columns) in [
        ("rb", "NAME CLUSTER PHASE METHOD SIZE AGE"),
        ("rsb", "NAME CLUSTER SCHEDULE SUSPEND LAST SUCCESSFUL AGE"),
        ("rr", "NAME BACKUP TARGET PHASE KEYS AGE"),
        ("bst", "NAME ADDRESS READY BACKUPS SIZE NEWEST AGE"),
        // kubectl takes `rc` for ReplicationControllers.
        ("redisclusters", "NAME INSTANCES READY PRIMARY PHASE AGE"),
    ] {
        let (kind, spec) = match short {
            "rb" => ("RedisBackup", json!({"clusterName": "my-cluster", "storageRef": {"name": "main"}})),
            "rsb" => (
                "RedisScheduledBackup",
                json!({"schedule": "@daily", "clusterName": "my-cluster", "storageRef": {"name": "main"}}),
            ),
            "rr" => ("RedisRestore", json!({"backupName": "a", "target": {"clusterName": "b"}})),
            "bst" => ("BackupStorage", json!({"destination": {"folder": {"claim": "a"}}})),
            _ => ("RedisCluster", json!({"imageName": "redis:7.2", "ephemeral": {}})),
        };
        let object = json!({"apiVersion": "redis.io/v1", "kind": kind, "metadata": {"name": "shown"}, "spec": spec});
        namespace.apply(&object).await?;
        let shown = cluster.succeed(&["get", short, "-n", namespace.name()])?;
        let head: Vec<&str> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(head.join(" ") == columns, "{short}: {shown}");
    }
    let status = json!({"status": {
        "phase": "Completed", "cluster": "my-cluster", "size": "1.4 GiB", "backupSize": 1_503_238_553_i64,
        "checksumSHA256": "0".repeat(64),
        "conditions": [{
            "type": "Complete", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": "2026-11-21T00:00:00Z",
        }],
    }});
    let path = format!("{}/shown/status", collection("RedisBackup", namespace.name()));
    let request = Request::patch(path).header("Content-Type", "application/merge-patch+json");
    namespace.client().request::<Value>(request.body(serde_json::to_vec(&status)?)?).await?;
    let shown = cluster.succeed(&["get", "rb", "-n", namespace.name(), "--no-headers"])?;
    ensure!(shown.split_whitespace().take(6).eq(["shown", "my-cluster", "Completed", "rdb", "1.4", "GiB"]), "{shown}");
    // `kubectl wait`, as users' scripts do.
    cluster.succeed(&[
        "wait",
        "rb/shown",
        "-n",
        namespace.name(),
        "--for",
        "condition=Complete",
        "--timeout",
        "30s",
    ])?;
    let found = cluster.succeed(&[
        "get",
        "rb",
        "-n",
        namespace.name(),
        "--field-selector",
        "spec.clusterName=my-cluster",
        "-o",
        "name",
    ])?;
    ensure!(found.trim() == "redisbackup.redis.io/shown", "{found}");
    Ok(())
}

/// Every document of a folder of YAML files.
fn documents(folder: &str) -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(config().join(folder))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for document in serde_norway::Deserializer::from_str(&std::fs::read_to_string(&path)?) {
            let value = Value::deserialize(document)?;
            if !value.is_null() {
                found.push((name.clone(), value));
            }
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_accepted_as_they_stand() -> Result<()> {
    let Some(cluster) = Cluster::api("samples_are_accepted_as_they_stand") else { return Ok(()) };
    defined(cluster)?;
    let client = cluster.client().await?;
    let samples = documents("samples")?;
    let mut kinds: Vec<&str> = samples.iter().filter_map(|(_, sample)| sample["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    ensure!(kinds.len() == 6, "samples are of {kinds:?}");
    for (file, sample) in &samples {
        let answer = try_create(&client, "default", sample, None).await?;
        answer.map_err(|message| anyhow::anyhow!("{file}: {message}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_that_install_it_are_accepted() -> Result<()> {
    let Some(cluster) = Cluster::api("the_manifests_that_install_it_are_accepted") else { return Ok(()) };
    defined(cluster)?;
    let namespace = cluster.namespace("tenant").await?;
    let _ = cluster.succeed(&["create", "namespace", "redkeep-system"]);
    let folder = |name: &str| config().join(name).to_string_lossy().into_owned();
    for (name, into) in [("default", "redkeep-system"), ("in-process", "default"), ("tenant", namespace.name())] {
        let text = cluster.succeed(&["kustomize", &folder(name)])?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let path = file.path().to_str().context("a path")?;
        let mut arguments =
            vec!["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", path];
        if name == "tenant" {
            arguments.extend(["-n", into]);
        }
        cluster.succeed(&arguments).with_context(|| format!("config/{name}"))?;
    }
    Ok(())
}
