//! The Kubernetes API as a user meets it, on a real API server: every rule accepts and refuses, defaults, columns, samples,
//! roles as deployed, both admission policies, and the manifests that install all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ::kube::Client;
use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use redkeep_tests::kube::{Cluster, LIMIT, TestNamespace, install_crds};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const OPERATOR: &str = "system:serviceaccount:redkeep-system:redkeep-operator";
const IMAGE: &str = "ghcr.io/redkeep/redkeep:0.1.0";

/// An accepted object, or the words of the refusal.
type Answer = Result<Value, String>;

/// The definitions are there, once for the whole program.
fn defined(cluster: &Cluster) -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| install_crds(cluster).map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Things of the operator are there: its namespace, then a folder of `config/`.
fn installed(cluster: &Cluster, folder: &str) -> Result<()> {
    // Two tests may be at it; a namespace that is there already is as good.
    let _ = cluster.succeed(&["create", "namespace", "redkeep-system"]);
    let folder = config().join(folder);
    let folder = folder.to_str().context("a path")?;
    cluster.succeed(&["apply", "--server-side", "--force-conflicts", "-k", folder]).map(drop)
}

fn config() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_ascii_lowercase())
}

/// Where objects of a kind of ours are created.
fn collection(kind: &str, namespace: &str) -> String {
    match kind {
        "BackupMethod" => "/apis/redis.io/v1/backupmethods".to_owned(),
        _ => format!("/apis/redis.io/v1/namespaces/{namespace}/{}", plural(kind)),
    }
}

/// One request, as somebody.
async fn ask(client: &Client, method: Method, path: &str, body: Option<&Value>, user: Option<&str>) -> Result<Answer> {
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("Content-Type", content);
    if let Some(user) = user {
        request = request.header("Impersonate-User", user);
    }
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    match client.request::<Value>(request.body(body)?).await {
        Ok(value) => Ok(Ok(value)),
        Err(::kube::Error::Api(status)) if (400..500).contains(&status.code) => Ok(Err(status.message)),
        Err(error) => Err(error).with_context(|| format!("failed to ask {path}")),
    }
}

/// Creates nothing, but is told whether it could be created.
async fn try_create(client: &Client, namespace: &str, object: &Value, user: Option<&str>) -> Result<Answer> {
    let kind = object["kind"].as_str().context("an object without a kind")?;
    let path = match kind {
        "Job" => format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
        _ => collection(kind, namespace),
    };
    ask(client, Method::POST, &format!("{path}?dryRun=All&fieldValidation=Strict"), Some(object), user).await
}

/// RFC 7386.
fn merge(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            let child = merge(merged.get(key).unwrap_or(&Value::Null), value);
            merged.insert(key.clone(), child);
        }
    }
    Value::Object(merged)
}

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

/// Whether somebody may do something.
struct Right {
    user: &'static str,
    groups: &'static [&'static str],
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    namespace: &'static str,
}

async fn allowed(client: &Client, right: &Right) -> Result<bool> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": right.user, "groups": right.groups, "resourceAttributes": {
            "verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource,
            "namespace": right.namespace,
        }},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = ask(client, Method::POST, path, Some(&review), None).await?.map_err(anyhow::Error::msg)?;
    Ok(answer["status"]["allowed"] == true)
}

/// Waits until the API server's caches know: within its own time a role that was applied is in force.
async fn hold(client: &Client, rights: &[(&Right, bool)]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut wrong = Vec::new();
        for (right, expected) in rights {
            if allowed(client, right).await? != *expected {
                let Right { user, verb, group, resource, namespace, .. } = right;
                wrong.push(format!("{user} {verb} {resource}.{group} in {namespace:?}: not {expected}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "rights are not as they should be:\n{}", wrong.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_give_what_is_needed_and_no_sight_of_secrets() -> Result<()> {
    let Some(cluster) = Cluster::api("roles_give_what_is_needed_and_no_sight_of_secrets") else { return Ok(()) };
    defined(cluster)?;
    installed(cluster, "rbac")?;
    let namespace = cluster.namespace("roles").await?;
    let client = namespace.client();
    let operator =
        |verb, group, resource| Right { user: OPERATOR, groups: &[], verb, group, resource, namespace: "anywhere" };
    let may: Vec<Right> = [
        ("create", "redis.io", "redisbackups"),
        ("delete", "redis.io", "redisbackups"),
        ("patch", "redis.io", "redisbackups/status"),
        ("update", "redis.io", "redisbackups/finalizers"),
        ("watch", "redis.io", "redisscheduledbackups"),
        ("patch", "redis.io", "redisscheduledbackups/status"),
        ("patch", "redis.io", "redisrestores/status"),
        ("patch", "redis.io", "backupstorages/status"),
        ("patch", "redis.io", "backupmethods/status"),
        ("get", "redis.io", "redisclusters"),
        ("create", "batch", "jobs"),
        ("delete", "batch", "jobs"),
        ("list", "", "pods"),
        ("list", "", "events"),
        ("create", "events.k8s.io", "events"),
        ("list", "discovery.k8s.io", "endpointslices"),
        ("get", "apps", "statefulsets"),
        ("patch", "redis.io", "redisclusters/status"),
        ("create", "apps", "statefulsets"),
        ("get", "", "services"),
        ("create", "", "services"),
        ("create", "", "secrets"),
        ("get", "", "configmaps"),
        ("patch", "", "pods"),
        ("delete", "", "persistentvolumeclaims"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("create", "coordination.k8s.io", "leases"),
        ("update", "coordination.k8s.io", "leases"),
        ("get", "databases.spotahome.com", "redisfailovers"),
        ("get", "apiextensions.k8s.io", "customresourcedefinitions"),
    ]
    .map(|(verb, group, resource)| operator(verb, group, resource))
    .into();
    let may_not: Vec<Right> = [
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("watch", "", "secrets"),
        ("update", "", "secrets"),
        ("delete", "", "secrets"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "", "serviceaccounts/token"),
        ("delete", "apps", "statefulsets"),
        ("delete", "redis.io", "redisclusters"),
        ("create", "redis.io", "backupmethods"),
        ("update", "apiextensions.k8s.io", "customresourcedefinitions"),
        ("bind", "rbac.authorization.k8s.io", "roles"),
        ("escalate", "rbac.authorization.k8s.io", "roles"),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
        ("impersonate", "", "users"),
    ]
    .map(|(verb, group, resource)| operator(verb, group, resource))
    .into();
    let task = |verb, group, resource| Right {
        user: "system:serviceaccount:redkeep-system:redkeep-task",
        groups: &[],
        verb,
        group,
        resource,
        namespace: "redkeep-system",
    };
    let task_may_not = [
        task("get", "", "secrets"),
        task("get", "", "pods"),
        task("get", "redis.io", "redisbackups"),
        task("get", "", "configmaps"),
    ];
    let mut rights: Vec<(&Right, bool)> = may.iter().map(|right| (right, true)).collect();
    rights.extend(may_not.iter().chain(&task_may_not).map(|right| (right, false)));
    hold(client, &rights).await?;

    for role in ["view", "edit"] {
        let role_argument = format!("--clusterrole={role}");
        let user = format!("--user={role}er");
        cluster.succeed(&["create", "rolebinding", role, &role_argument, &user, "-n", namespace.name()])?;
    }
    let place: &'static str = Box::leak(namespace.name().to_owned().into_boxed_str());
    let user = |user, verb, resource| Right { user, groups: &[], verb, group: "redis.io", resource, namespace: place };
    let viewer = [
        user("viewer", "list", "redisbackups"),
        user("viewer", "create", "redisbackups"),
        user("viewer", "patch", "redisbackups/status"),
    ];
    let editor = [
        user("editer", "create", "redisbackups"),
        user("editer", "delete", "backupstorages"),
        user("editer", "create", "backupmethods"),
        user("editer", "patch", "redisbackups/status"),
    ];
    let expected = [true, false, false, true, true, false, false];
    let rights: Vec<(&Right, bool)> = viewer.iter().chain(&editor).zip(expected).collect();
    hold(client, &rights).await
}

/// Takes an admission policy away again: it binds the whole cluster, and other tests run on it.
struct Policy<'a>(&'a Cluster, &'static str);

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let _ = self.0.succeed(&["delete", kind, self.1, "--ignore-not-found"]);
        }
    }
}

/// A policy is in force a while after it was created.
async fn refused(client: &Client, namespace: &str, object: &Value, user: &str) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match try_create(client, namespace, object, Some(user)).await? {
            Err(message) if message.contains("ValidatingAdmissionPolicy") => return Ok(message),
            Err(message) if Instant::now() > deadline => bail!("{object} is refused by other words: {message}"),
            Ok(_) if Instant::now() > deadline => bail!("{object} is not refused"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn backup(more: &Value) -> Value {
    let spec = json!({"clusterName": "my-cluster", "destination": {"s3": {"bucket": "redis-backups"}}});
    json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "a"}, "spec": merge(&spec, more)})
}

/// A user who may write our kinds and read the Secret `mine`, and no other.
fn alice(namespace: &TestNamespace) -> Result<()> {
    let place = namespace.name();
    let cluster = namespace.cluster();
    cluster.succeed(&["create", "rolebinding", "alice", "--clusterrole=redkeep-edit", "--user=alice", "-n", place])?;
    cluster.succeed(&[
        "create",
        "role",
        "mine",
        "--verb=get",
        "--resource=secrets",
        "--resource-name=mine",
        "-n",
        place,
    ])?;
    cluster.succeed(&["create", "rolebinding", "mine", "--role=mine", "--user=alice", "-n", place])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_a_secret_may_not_have_it_used() -> Result<()> {
    let Some(cluster) = Cluster::api("who_may_not_read_a_secret_may_not_have_it_used") else { return Ok(()) };
    defined(cluster)?;
    installed(cluster, "rbac")?;
    let namespace = cluster.namespace("admission").await?;
    let (client, place) = (namespace.client(), namespace.name());
    alice(&namespace)?;
    installed(cluster, "admission")?;
    let _secrets = Policy(cluster, "redkeep-secrets");
    let _jobs = Policy(cluster, "redkeep-jobs");

    let other = json!({"name": "other"});
    let key = json!({"name": "other", "key": "k"});
    let source = |more: Value| {
        let source = merge(&json!({"service": {"name": "redis"}}), &more);
        backup(&json!({"clusterName": null, "source": source}))
    };
    let of = |kind: &str, spec: Value| json!({"apiVersion": "redis.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    let schedule =
        json!({"schedule": "@daily", "clusterName": "a", "destination": {"s3": {"bucket": "redis-backups"}}});
    let cluster_spec = json!({"imageName": "redis:7.2", "ephemeral": {}});
    let restore = json!({"backupName": "b", "target": {"clusterName": "c"}});
    let naming = [
        backup(&json!({"backupCredentialsSecret": other})),
        backup(&json!({"destination": {"s3": {"endpoint": "https://minio", "ca": {"secret": other}}}})),
        backup(&json!({"encryption": {"passphraseSecret": key}})),
        backup(&json!({"verification": {"decryption": {"identitySecret": other}}})),
        backup(&json!({"task": {"imagePullSecrets": [other]}})),
        source(json!({"auth": {"secret": other}})),
        source(json!({"tls": {"secret": other}})),
        source(json!({"service": null, "sentinel": {"service": "s", "passwordSecret": key}})),
        of("RedisScheduledBackup", merge(&schedule, &json!({"backupCredentialsSecret": other}))),
        of("RedisRestore", merge(&restore, &json!({"decryption": {"passphraseSecret": key}}))),
        of(
            "RedisRestore",
            merge(
                &restore,
                &json!({"target": {"clusterName": null, "source": {"service": {"name": "r"}, "auth": {"secret": other}}}}),
            ),
        ),
        of(
            "BackupStorage",
            json!({"destination": {"s3": {"bucket": "redis-backups"}}, "backupCredentialsSecret": other}),
        ),
        of("RedisCluster", merge(&cluster_spec, &json!({"auth": {"secret": key}}))),
        of("RedisCluster", merge(&cluster_spec, &json!({"tls": {"secret": other}}))),
        of("RedisCluster", merge(&cluster_spec, &json!({"volumes": [{"name": "v", "secret": other}]}))),
        of(
            "RedisCluster",
            merge(&cluster_spec, &json!({"bootstrap": {"backupName": "b", "decryption": {"identitySecret": other}}})),
        ),
    ];
    for object in &naming {
        let message = refused(client, place, object, "alice").await?;
        ensure!(message.contains("alice must be allowed to get each Secret") && message.contains("other"), "{message}");
        let text = serde_json::to_string(object)?.replace("\"other\"", "\"mine\"");
        let mine: Value = serde_json::from_str(&text)?;
        let answer = try_create(client, place, &mine, Some("alice")).await?;
        answer.map_err(|message| anyhow::anyhow!("{mine}: {message}"))?;
        // Children of a schedule: its author was asked.
        if object["kind"] == "RedisBackup" {
            let answer = try_create(client, place, object, Some(OPERATOR)).await?;
            answer.map_err(|message| anyhow::anyhow!("the operator, {object}: {message}"))?;
        }
    }
    // Changing what somebody else wrote asks again; changing labels does not.
    let written = backup(&json!({"backupCredentialsSecret": other}));
    let stored = ask(client, Method::POST, &collection("RedisBackup", place), Some(&written), None).await?;
    let stored = stored.map_err(anyhow::Error::msg)?;
    let path = format!("{}/a?dryRun=All", collection("RedisBackup", place));
    for (patch, accepted) in
        [(json!({"metadata": {"labels": {"team": "a"}}}), true), (json!({"spec": {"pin": true}}), false)]
    {
        let answer = ask(client, Method::PUT, &path, Some(&merge(&stored, &patch)), Some("alice")).await?;
        ensure!(answer.is_ok() == accepted, "{patch}: {answer:?}");
    }

    jobs_are_held_to_what_tasks_are(client, place).await
}

async fn jobs_are_held_to_what_tasks_are(client: &Client, place: &str) -> Result<()> {
    let job = |pod: Value, metadata: Value| {
        let container = json!({"name": "task", "image": IMAGE, "securityContext": {"allowPrivilegeEscalation": false}});
        let base = json!({"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [container]});
        let owner = json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "name": "a", "uid": "1"});
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": merge(&json!({"name": "j", "ownerReferences": [owner]}), &metadata),
            "spec": {"template": {"spec": merge(&base, &pod)}},
        })
    };
    let none = || Value::Object(Map::new());
    let container = |more: Value| {
        let base = json!({"name": "task", "image": IMAGE, "securityContext": {"allowPrivilegeEscalation": false}});
        json!({"containers": [merge(&base, &more)]})
    };
    let pinned = format!("redis@sha256:{}", "0a".repeat(32));
    // Somebody else's image: only as the throw-away server of a verification, with nothing but what is laid out for it.
    let server = |more: Value, pod: Value| {
        let base = json!({
            "name": "server", "image": "redis:7.2", "restartPolicy": "Always",
            "command": ["/redkeep/redkeep-instance", "boot", "/redkeep-boot"],
            "securityContext": {"allowPrivilegeEscalation": false},
            "volumeMounts": [
                {"name": "boot-data", "mountPath": "/redkeep-boot"}, {"name": "boot-scratch", "mountPath": "/tmp"},
                {"name": "boot-program", "mountPath": "/redkeep", "readOnly": true},
            ],
        });
        let volumes = ["boot-data", "boot-program", "boot-scratch"].map(|name| json!({"name": name, "emptyDir": {}}));
        merge(&json!({"initContainers": [merge(&base, &more)], "volumes": volumes}), &pod)
    };
    let mounts = |name: &str, path: &str, program: &str| {
        json!({"volumeMounts": [
            {"name": name, "mountPath": path}, {"name": program, "mountPath": "/redkeep", "readOnly": true},
        ]})
    };
    let secret = json!({"volumes": [
        {"name": "boot-keys", "secret": {"secretName": "a"}}, {"name": "boot-program", "emptyDir": {}},
    ]});
    let (own, folders) = ("runs redkeep's own program", "has nothing but the empty folders");
    for (object, words) in [
        (job(container(json!({"image": "busybox"})), none()), "redkeep runs only its own image, not busybox"),
        (
            job(json!({"initContainers": container(json!({"name": "i", "image": "busybox"}))["containers"]}), none()),
            "not busybox",
        ),
        (job(json!({"automountServiceAccountToken": true}), none()), "carries no token"),
        (job(json!({"serviceAccountName": "admin"}), none()), "no service account that is not on the list"),
        (job(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}), none()), "nothing of the node"),
        (job(json!({"hostNetwork": true}), none()), "nothing of the node"),
        (
            job(container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}})), none()),
            "no privileges",
        ),
        (job(none(), json!({"ownerReferences": null})), "must be owned by a resource of redis.io"),
        (job(container(json!({"image": pinned})), none()), "redkeep runs only its own image, not redis@"),
        (job(server(json!({"name": "other"}), none()), none()), "redkeep runs only its own image, not redis:7.2"),
        (job(server(json!({"command": ["sh"]}), none()), none()), own),
        (job(server(json!({"command": null}), none()), none()), own),
        (job(server(json!({"args": ["run"]}), none()), none()), own),
        (job(server(json!({"livenessProbe": {"exec": {"command": ["sh"]}}}), none()), none()), own),
        (job(server(json!({"lifecycle": {"preStop": {"exec": {"command": ["sh"]}}}}), none()), none()), own),
        (job(server(json!({"volumeMounts": null}), none()), none()), own),
        (job(server(mounts("boot-data", "/redkeep-boot", "boot-scratch"), none()), none()), own),
        (job(server(mounts("boot-data", "/redkeep/redkeep-instance", "boot-program"), none()), none()), own),
        (job(server(mounts("boot-data", "//redkeep", "boot-program"), none()), none()), own),
        (job(server(none(), json!({"shareProcessNamespace": true})), none()), own),
        (job(server(json!({"env": [{"name": "A", "value": "b"}]}), none()), none()), folders),
        (job(server(json!({"envFrom": [{"secretRef": {"name": "a"}}]}), none()), none()), folders),
        (job(server(mounts("boot-keys", "/redkeep-boot", "boot-program"), secret), none()), folders),
    ] {
        let message = refused(client, place, &object, OPERATOR).await?;
        ensure!(message.contains(words), "{words:?} is not in {message}");
    }
    for object in [
        job(none(), none()),
        job(json!({"serviceAccountName": "redkeep-task"}), none()),
        job(server(none(), none()), none()),
        job(json!({"volumes": [{"name": "s", "secret": {"secretName": "a", "optional": true}}]}), none()),
    ] {
        let answer = try_create(client, place, &object, Some(OPERATOR)).await?;
        answer.map_err(|message| anyhow::anyhow!("{object}: {message}"))?;
    }
    // A Job of the release before is let go after an upgrade: its pods are what they were.
    let old = job(container(json!({"image": "ghcr.io/redkeep/redkeep:0.0.9"})), json!({"name": "old"}));
    let (all, ttl) =
        (format!("/apis/batch/v1/namespaces/{place}/jobs"), json!({"spec": {"ttlSecondsAfterFinished": 5}}));
    ask(client, Method::POST, &all, Some(&old), None).await?.map_err(anyhow::Error::msg)?;
    let answer = ask(client, Method::PATCH, &format!("{all}/old"), Some(&ttl), Some(OPERATOR)).await?;
    answer.map_err(|message| anyhow::anyhow!("a Job of the release before is not let go: {message}"))?;
    // It is the operator that is held to it, nobody else.
    let answer = try_create(client, place, &job(container(json!({"image": "busybox"})), none()), None).await?;
    answer.map(drop).map_err(anyhow::Error::msg)
}
