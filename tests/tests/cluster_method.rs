//! Anyone adds a method without rebuilding the host: a plugin in each language, made by `plugin new`, built, tested, pushed to a real
//! registry with TLS and a password, registered by a BackupMethod, makes a RedisBackup that restores. The host's program is the same
//! file before and after.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::authoring::{Language, guide};
use redkeep_tests::kube::{BUCKET, Cluster, Operator, Redis, Storage, TestNamespace, install_crds};
use redkeep_tests::registry::{Registry, signing_keys};
use redkeep_tests::succeed;
use serde_json::{Value, json};

const API: &str = "redis.io/v1";
const VERSION: Version = Version::Redis70;
/// This machine, as pods reach it: the node's bridge.
const NODE: &str = "10.244.0.1";
/// What a plugin that is kept beside its backups needs to restore into a folder.
const KEPT: [&str; 2] = ["--grant", "files:write:**"];
const LIVE_GRANTS: [&str; 6] = [
    "redis:info",
    "redis:command:SELECT",
    "redis:command:SCAN",
    "redis:command:PTTL",
    "redis:command:DUMP",
    "redis:load",
];

/// Methods lie in no namespace: this takes away those of the test.
struct Methods<'a>(&'a TestNamespace, std::sync::Mutex<Vec<String>>);

impl Methods<'_> {
    async fn put(&self, name: &str, spec: Value) -> Result<()> {
        self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name.to_owned());
        let object = json!({"apiVersion": API, "kind": "BackupMethod", "metadata": {"name": name}, "spec": spec});
        self.0.apply(&object).await.map(drop)
    }

    /// Waits until it is known whether the method is ready.
    async fn known(&self, name: &str, wanted: &str) -> Result<Value> {
        let known = |method: Option<&Value>| {
            method.is_some_and(|method| {
                condition(method, "Ready")["status"] == wanted
                    && method["status"]["observedGeneration"] == method["metadata"]["generation"]
            })
        };
        let found = self.0.wait_for(API, "BackupMethod", name, &format!("to have Ready={wanted}"), known).await?;
        Ok(found["status"].clone())
    }
}

impl Drop for Methods<'_> {
    fn drop(&mut self) {
        let names = self.1.lock().map(|names| names.clone()).unwrap_or_default();
        let mut command = self.0.cluster().kubectl();
        command.args(["delete", "backupmethods", "--ignore-not-found", "--wait=false"]).args(names);
        let _ = command.output();
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

fn reason(status: &Value) -> &str {
    let conditions = status["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    ready.and_then(|ready| ready["reason"].as_str()).unwrap_or_default()
}

/// What pods need to reach the registry, in a namespace.
async fn admit(namespace: &TestNamespace, registry: &Registry) -> Result<()> {
    namespace
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": registry.docker_config()}}))
        .await?;
    let authority = std::fs::read_to_string(registry.authority())?;
    namespace
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "registry-ca"},
            "data": {"ca.crt": authority}}))
        .await?;
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let said = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8(said.stdout)?;
    Ok(text.split_whitespace().next().context("no digest")?.to_owned())
}

fn oci(registry: &Registry, name: &str) -> Value {
    json!({"oci": {"reference": format!("{}/{name}:1", registry.name()), "pullSecret": {"name": "registry"},
        "ca": {"configMap": {"name": "registry-ca"}, "key": "ca.crt"}}})
}

fn push(registry: &Registry, folder: &Path, component: &Path, name: &str, more: &[&str]) -> Result<()> {
    let config = folder.join("config.json");
    std::fs::write(&config, registry.docker_config())?;
    let (reference, component) = (format!("oci://{}/{name}:1", registry.name()), component.display().to_string());
    let (authority, config) = (registry.authority().display().to_string(), config.display().to_string());
    let arguments =
        ["plugin", "push", &component, &reference, "--registry-ca", &authority, "--registry-config", &config];
    succeed(arguments.iter().chain(more));
    Ok(())
}

struct Stage {
    home: TestNamespace,
    shop: TestNamespace,
    operator: Operator,
    before: Dataset,
}

impl Stage {
    async fn ended(&self, kind: &str, name: &str) -> Result<Value> {
        let ended = self.shop.run_ended(API, kind, name).await;
        Ok(ended.with_context(|| self.operator.log())?["status"].clone())
    }

    async fn back_up(&self, name: &str, method: &str, endpoint: &str, more: Value) -> Result<()> {
        let mut spec = json!({
            "source": {"statefulSet": {"name": "source"}}, "method": method, "backoffLimit": 0,
            "destination": {"s3": {"bucket": BUCKET, "path": format!("method/{method}"), "region": "us-east-1",
                "endpoint": endpoint}},
            "backupCredentialsSecret": {"name": "backup-credentials"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.shop
            .apply(&json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": name}, "spec": spec}))
            .await?;
        Ok(())
    }

    async fn backed_up(&self, name: &str) -> Result<Value> {
        let status = self.ended("RedisBackup", name).await?;
        ensure!(status["phase"] == "Completed", "{name}: {status:#}\n{}", self.shop.describe());
        Ok(status)
    }

    /// From the bucket alone into a folder: the plugin that was kept beside the backup restores it, with these grants, or a bundled
    /// one that reads it; and a server loads it.
    async fn restores(&self, storage: &Storage<'_>, method: &str, grants: &[&str]) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("data").display().to_string();
        let arguments = ["restore", "latest", "--target-dir", &target, "--appendonly", "no"];
        let said = storage.redkeep(&format!("method/{method}"), &[&arguments, grants].concat()).await?;
        ensure!(said.code == Some(0), "{method}: {said:#?}");
        let server = RedisServer::start_in(VERSION, Path::new(&target), &["--appendonly", "no"])?;
        self.equal(&mut server.connect().await?).await.with_context(|| format!("the backup of {method}"))
    }

    async fn equal(&self, target: &mut redis::aio::MultiplexedConnection) -> Result<()> {
        let differences = self.before.differences(&Dataset::through(target, VERSION).await?, false);
        ensure!(differences.is_empty(), "{differences:#?}");
        Ok(())
    }
}

/// The guide's section for Kubernetes, as written, in the plugin's folder.
async fn follow_guide(stage: &Stage, registry: &Registry, plugin: &Path) -> Result<()> {
    let blocks = guide("sh kubernetes")?;
    ensure!(!blocks.is_empty(), "the guide has no commands for Kubernetes");
    let tools = tempfile::tempdir()?;
    let kubectl = stage.home.cluster().kubectl();
    let words: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let script = tools.path().join("kubectl");
    std::fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(tools.path().join("config.json"), registry.docker_config())?;
    let program = redkeep_tests::program()?;
    let path = format!(
        "{}:{}:{}",
        tools.path().display(),
        program.parent().context("no folder")?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("set -eu\n{}", blocks.concat())]).current_dir(plugin).env("PATH", path);
    shell.env("REGISTRY", registry.name()).env("DOCKER_CONFIG", tools.path());
    shell.env("REGISTRY_OPTIONS", format!("--registry-ca {}", registry.authority().display()));
    let output = tokio::task::spawn_blocking(move || shell.output()).await??;
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\n{wrong}\n{}\n{}", stage.operator.log(), stage.home.describe());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_in_each_language_is_made_pushed_registered_and_its_backup_restores() -> Result<()> {
    let Some(cluster) = Cluster::node("a_plugin_in_each_language_is_made_pushed_registered_and_its_backup_restores")
    else {
        return Ok(());
    };
    let program = redkeep_tests::program()?;
    let host = sha256(&program)?;
    let folder = tempfile::tempdir()?;
    let registry = Registry::secured(folder.path(), NODE)?;
    install_crds(cluster)?;
    // The operator's namespace, and a tenant's.
    let (home, shop) = (cluster.namespace("method").await?, cluster.namespace("shop").await?);
    admit(&home, &registry).await?;
    // Alone: on a machine that compiles meanwhile a Lease may be lost, and with it the process.
    let operator = Operator::start(
        cluster.kubeconfig(),
        &[
            "--watch-namespace",
            shop.name(),
            "--operator-namespace",
            home.name(),
            "--image",
            "localhost/redkeep:dev",
            "--no-leader-election",
            "--poll-interval",
            "1s",
        ],
    )
    .await?;
    let storage_place: &'static TestNamespace = Box::leak(Box::new(cluster.namespace("bucket").await?));
    let storage = Storage::start(storage_place).await?;
    let keys = storage_place.get("v1", "Secret", "backup-credentials").await?.unwrap_or_default();
    shop.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-credentials"},
        "data": keys["data"]}))
        .await?;
    let source = Redis::start(&shop, "source", VERSION, 0).await?;
    let mut primary = source.connect(0).await?;
    apply(&mut primary, &Shape::standalone(VERSION), 5, 1500).await?;
    let before = Dataset::through(&mut primary, VERSION).await?;
    drop((source, primary));
    let stage = Stage { home, shop, operator, before };
    let methods = Methods(&stage.home, std::sync::Mutex::default());
    let endpoint = storage.endpoint();

    // A backup may ask for a method before there is one: it waits, and says for what.
    stage.back_up("early", "my-method", &endpoint, json!({"startDeadlineSeconds": 3600})).await?;
    let waits = |run: Option<&Value>| run.is_some_and(|run| condition(run, "Accepted")["reason"] == "MethodNotFound");
    let run = stage.shop.wait_for(API, "RedisBackup", "early", "to wait for its method", waits).await?;
    ensure!(run["status"]["phase"] == "Pending" && condition(&run, "Accepted")["status"] == "False", "{run:#}");

    // Rust by the guide; the others the same way.
    let plugins = folder.path().to_owned();
    let made = tokio::task::spawn_blocking(move || -> Result<Vec<(Language, PathBuf)>> {
        let names =
            [(Language::Rust, "my-method"), (Language::Python, "in-python"), (Language::Javascript, "in-javascript")];
        names.into_iter().map(|(language, name)| Ok((language, language.make(&plugins, name)?))).collect()
    });
    let made = made.await??;
    methods.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push("my-method".to_owned());
    follow_guide(&stage, &registry, &folder.path().join("my-method")).await?;
    for (language, component) in &made {
        let name = component.file_stem().and_then(|name| name.to_str()).context("no name")?;
        if *language != Language::Rust {
            let (private, public) = signing_keys(folder.path(), name)?;
            push(&registry, folder.path(), component, name, &["--sign", &private])?;
            let public = std::fs::read_to_string(public)?;
            let spec = json!({"source": oci(&registry, name), "grants": ["redis:replicate", "files:write:**"],
                "verify": {"publicKey": public}});
            methods.put(name, spec).await?;
        }
    }
    // The tenant has no Secret for the registry yet: the run says what it looked for, and the next one works.
    methods.known("my-method", "True").await.with_context(|| stage.operator.log())?;
    let failed = stage.ended("RedisBackup", "early").await?;
    ensure!(failed["phase"] == "Failed", "{failed:#}");
    ensure!(failed["error"].as_str().is_some_and(|why| why.contains("/method-registry")), "{failed:#}");
    admit(&stage.shop, &registry).await?;

    for (language, component) in &made {
        let name = component.file_stem().and_then(|name| name.to_str()).context("no name")?;
        let known = methods.known(name, "True").await.with_context(|| stage.operator.log())?;
        let digest = sha256(component)?;
        ensure!(known["digest"] == format!("sha256:{digest}"), "{known:#}");
        ensure!(known["description"]["name"] == name && known["apiVersion"] == "0.1.0", "{known:#}");
        ensure!(known["granted"] == json!(["?redis:replicate", "?files:write:**"]), "{known:#}");
        ensure!(known["compileMilliseconds"].is_u64() && known["missing"].is_null(), "{known:#}");
        ensure!(*language == Language::Rust || condition(&json!({"status": known}), "Signed")["status"] == "True");
        eprintln!("{name}: {} bytes, compiled in {} ms", known["componentBytes"], known["compileMilliseconds"]);
        let run = format!("of-{name}");
        stage.back_up(&run, name, &endpoint, json!({"verification": {"level": "parse"}})).await?;
    }
    for (_, component) in &made {
        let name = component.file_stem().and_then(|name| name.to_str()).context("no name")?;
        let status = stage.backed_up(&format!("of-{name}")).await?;
        ensure!(status["methodDigest"] == sha256(component)?, "{status:#}");
        stage.restores(&storage, name, &KEPT).await?;
    }

    from_a_map_and_a_file(&stage, &methods, &storage, &endpoint, &made[0].1).await?;
    pinned_and_limited(&stage, &methods, &registry, &made[0].1).await?;
    a_live_restore(&stage, &methods, &registry, folder.path(), &endpoint).await?;

    ensure!(sha256(&program)? == host, "the host's program was changed");
    ensure!(!stage.operator.has_ended(), "the operator was started again");
    storage_place.remove();
    Ok(())
}

/// Without a registry: from a `ConfigMap` of each namespace, and from a file of the image.
async fn from_a_map_and_a_file(
    stage: &Stage,
    methods: &Methods<'_>,
    storage: &Storage<'_>,
    endpoint: &str,
    rust: &Path,
) -> Result<()> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.encode(std::fs::read(rust)?);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a-plugin"},
        "binaryData": {"plugin.wasm": bytes}});
    for namespace in [&stage.home, &stage.shop] {
        namespace.apply(&map).await?;
    }
    let grants = json!(["redis:replicate", "files:write:**"]);
    let image = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-raw.wasm");
    // What `example-raw` captures, the bundled `redis-rdb` reads.
    for (name, source, component, grants_of_restore) in [
        ("from-a-map", json!({"configMap": {"name": "a-plugin"}}), rust, KEPT.as_slice()),
        ("from-a-file", json!({"file": "example-raw.wasm"}), image.as_path(), &[]),
    ] {
        methods.put(name, json!({"source": source, "grants": grants})).await?;
        let known = methods.known(name, "True").await.with_context(|| stage.operator.log())?;
        let digest = sha256(component)?;
        ensure!(known["digest"] == format!("sha256:{digest}"), "{known:#}");
        stage.back_up(name, name, endpoint, json!({})).await?;
        let status = stage.backed_up(name).await?;
        ensure!(status["methodDigest"] == digest, "{status:#}");
        stage.restores(storage, name, grants_of_restore).await?;
    }
    // The run's own namespace has another component under that name by now: it never runs.
    let mut other = map;
    other["binaryData"]["plugin.wasm"] =
        json!(base64::engine::general_purpose::STANDARD.encode(std::fs::read(&image)?));
    stage.shop.apply(&other).await?;
    stage.back_up("another-map", "from-a-map", endpoint, json!({})).await?;
    let failed = stage.ended("RedisBackup", "another-map").await?;
    ensure!(failed["phase"] == "Failed" && failed.to_string().contains("PluginDigest"), "{failed:#}");
    Ok(())
}

/// A tag that moved changes nothing; what does not load, or has too little, fails alone.
async fn pinned_and_limited(stage: &Stage, methods: &Methods<'_>, registry: &Registry, rust: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pinned = methods.known("my-method", "True").await?["digest"].clone();
    let other = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-raw.wasm");
    push(registry, folder.path(), &other, "my-method", &[])?;
    // Not applied: grants are a set, and an apply takes away only what it put there itself.
    let fewer = json!({"spec": {"grants": ["redis:replicate"]}}).to_string();
    stage.home.cluster().succeed(&["patch", "backupmethod", "my-method", "--type", "merge", "--patch", &fewer])?;
    let known = methods.known("my-method", "True").await?;
    ensure!(known["digest"] == pinned, "the tag's new component was taken: {known:#}");
    ensure!(known["missing"] == json!(["?files:write:**"]), "{known:#}");

    push(registry, folder.path(), rust, "small", &[])?;
    methods.put("small", json!({"source": oci(registry, "small"), "limits": {"memory": "64Ki"}})).await?;
    let known = methods.known("small", "False").await?;
    ensure!(known.to_string().contains("memory"), "{known:#}");

    let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no-plugin"},
        "data": {"plugin.wasm": "this is no component"}});
    stage.home.apply(&text).await?;
    methods.put("broken", json!({"source": {"configMap": {"name": "no-plugin"}}})).await?;
    let known = methods.known("broken", "False").await?;
    ensure!(reason(&known) == "NotAComponent", "{known:#}");
    methods.known("my-method", "True").await.map(drop)
}

/// A plugin in Python that restores into a running server, by its RedisBackup's name, and refused where the digest is another.
async fn a_live_restore(
    stage: &Stage,
    methods: &Methods<'_>,
    registry: &Registry,
    folder: &Path,
    endpoint: &str,
) -> Result<()> {
    let component = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-python.wasm");
    push(registry, folder, &component, "key-dump", &[])?;
    methods.put("key-dump", json!({"source": oci(registry, "key-dump"), "grants": LIVE_GRANTS})).await?;
    methods.known("key-dump", "True").await.with_context(|| stage.operator.log())?;
    stage.back_up("keys", "key-dump", endpoint, json!({})).await?;
    stage.backed_up("keys").await?;
    let target = Redis::start(&stage.shop, "target", VERSION, 0).await?;
    let restore = |name: &str, more: Value| {
        let mut spec = json!({"backupName": "keys", "target": {"source": {"statefulSet": {"name": "target"}}},
            "activeDeadlineSeconds": 200});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": API, "kind": "RedisRestore", "metadata": {"name": name}, "spec": spec})
    };
    stage.shop.apply(&restore("another", json!({"methodDigest": "0".repeat(64)}))).await?;
    let refused = stage.ended("RedisRestore", "another").await?;
    ensure!(refused["phase"] == "Failed" && refused.to_string().contains("PluginDigest"), "{refused:#}");
    stage.shop.apply(&restore("back", json!({}))).await?;
    let status = stage.ended("RedisRestore", "back").await?;
    ensure!(status["phase"] == "Completed", "{status:#}\n{}", stage.shop.describe());
    // Key by key: times to live are relative and some milliseconds late, and functions are no keys.
    let restored = Dataset::through(&mut target.connect(0).await?, VERSION).await?;
    let differences = stage.before.differences(&restored, true);
    let differences: Vec<&String> = differences.iter().filter(|one| !one.starts_with("functions ")).collect();
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
