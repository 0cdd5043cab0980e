//! What the tests run in a cluster: Redis with replicas, an S3 server, Jobs. All of it fits pod security `restricted`.
//!
//! Pods are reached by their addresses: the node is this machine, and its bridge is in its routes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use redkeep_testing::gateway::{ACCESS_KEY, SECRET_KEY};
use redkeep_testing::server::Version;
use serde_json::{Value, json};

use super::{LIMIT, TestNamespace};

/// The bucket that the S3 server has.
pub const BUCKET: &str = "redis-backups";
/// Who runs in the pods.
pub(super) const USER: u32 = 65532;

/// The image of a server, as `cargo xtask image --servers` packs it.
pub const fn redis_image(version: Version) -> &'static str {
    match version {
        Version::Redis62 => "localhost/redis:6.2",
        Version::Redis70 => "localhost/redis:7.0",
        Version::Redis82 => "localhost/redis:8.2",
        Version::Valkey81 => "localhost/valkey:8.1",
    }
}

/// What pod security `restricted` wants of a pod.
pub(super) fn pod_security(user: u32) -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// And of a container.
pub(super) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    })
}

/// How the pods of a Redis run.
#[derive(Clone, Copy, Debug)]
pub struct RedisOptions {
    /// As whom; files are then theirs alone.
    pub user: u32,
    /// Whether they keep an append-only file.
    pub appendonly: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { user: USER, appendonly: false }
    }
}

/// A `StatefulSet` of Redis: pod 0 is the primary, the others replicate it; each has a volume.
pub struct Redis<'a> {
    namespace: &'a TestNamespace,
    name: String,
    version: Version,
    replicas: u32,
}

impl<'a> Redis<'a> {
    /// Starts it and waits until every replica follows.
    pub async fn start(namespace: &'a TestNamespace, name: &str, version: Version, replicas: u32) -> Result<Self> {
        Self::start_with(namespace, name, version, replicas, RedisOptions::default()).await
    }

    /// The same with pods that run otherwise.
    pub async fn start_with(
        namespace: &'a TestNamespace,
        name: &str,
        version: Version,
        replicas: u32,
        RedisOptions { user, appendonly }: RedisOptions,
    ) -> Result<Self> {
        let appendonly = if appendonly { "yes" } else { "no" };
        let options = format!(
            "--port 6379 --protected-mode no --dir /data --appendonly {appendonly} --repl-diskless-sync-delay 0"
        );
        let debug = if matches!(version, Version::Redis62) { "" } else { "--enable-debug-command yes" };
        let start = format!(
            "umask 077; case $HOSTNAME in *-0) exec redis-server {options} {debug};; \
             *) exec redis-server {options} {debug} --replicaof {name}-0.{name} 6379;; esac"
        );
        namespace
            .apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {
                    "clusterIP": "None", "selector": {"app": name}, "publishNotReadyAddresses": true,
                    "ports": [{"name": "redis", "port": 6379}],
                },
            }))
            .await?;
        namespace
            .apply(&json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
                "spec": {
                    "serviceName": name, "replicas": replicas + 1, "podManagementPolicy": "Parallel",
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {
                            "securityContext": pod_security(user), "terminationGracePeriodSeconds": 5,
                            "automountServiceAccountToken": false,
                            "containers": [{
                                "name": "redis", "image": redis_image(version), "command": ["/bin/sh", "-c", start],
                                "securityContext": container_security(),
                                "ports": [{"name": "redis", "containerPort": 6379}],
                                "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 2},
                                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                            }],
                        },
                    },
                    "volumeClaimTemplates": [{
                        "metadata": {"name": "data"},
                        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                    }],
                },
            }))
            .await?;
        let this = Self { namespace, name: name.to_owned(), version, replicas };
        this.ready().await?;
        Ok(this)
    }

    /// Waits until all pods are ready and every replica follows the primary.
    pub async fn ready(&self) -> Result<()> {
        let wanted = u64::from(self.replicas) + 1;
        self.namespace
            .wait_for("apps/v1", "StatefulSet", &self.name, "to be ready", |set| {
                set.is_some_and(|set| set["status"]["readyReplicas"].as_u64() == Some(wanted))
            })
            .await?;
        self.namespace
            .wait_until("every replica follows", || async {
                let mut primary = self.connect(0).await?;
                let text: String = redis::cmd("INFO").arg("replication").query_async(&mut primary).await?;
                let online = text.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
                Ok((online.count() == self.replicas as usize).then_some(()))
            })
            .await
    }

    /// `NAME-0`.
    pub fn pod(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The name of the `StatefulSet` and of its Service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pod's URL as pods see it.
    pub fn url(&self, ordinal: u32) -> String {
        format!("redis://{}.{}:6379", self.pod(ordinal), self.name)
    }

    /// A connection to a pod, from this machine.
    pub async fn connect(&self, ordinal: u32) -> Result<MultiplexedConnection> {
        self.connect_to(&format!("redis://{}:6379", self.address(ordinal).await?)).await
    }

    /// A pod's address, once it has one.
    pub async fn address(&self, ordinal: u32) -> Result<String> {
        pod_address(self.namespace, &self.pod(ordinal)).await
    }

    /// A connection to a pod of it by a URL.
    pub async fn connect_to(&self, url: &str) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(url)?;
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(120)))
            .set_connection_timeout(Some(Duration::from_secs(10)));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let failed = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(mut connection) => match redis::cmd("PING").query_async::<redis::Value>(&mut connection).await {
                    Ok(_) => return Ok(connection),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() > deadline {
                bail!("{} does not answer at {url}: {failed}\n{}", self.name, self.namespace.describe());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A pod's address, once it has one.
pub(super) async fn pod_address(namespace: &TestNamespace, name: &str) -> Result<String> {
    let pod = namespace
        .wait_for("v1", "Pod", name, "to have an address", |pod| {
            pod.is_some_and(|pod| pod["status"]["podIP"].is_string() && pod["metadata"]["deletionTimestamp"].is_null())
        })
        .await?;
    Ok(pod["status"]["podIP"].as_str().context("a pod without an address")?.to_owned())
}

/// An S3 server in the cluster: Service `s3`, one bucket, credentials in Secret `backup-credentials`.
pub struct Storage<'a> {
    namespace: &'a TestNamespace,
}

impl<'a> Storage<'a> {
    /// Starts it and waits until it answers.
    pub async fn start(namespace: &'a TestNamespace) -> Result<Self> {
        namespace
            .apply(&json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-credentials"},
                "stringData": {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
            }))
            .await?;
        namespace
            .apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3"},
                "spec": {"selector": {"app": "s3"}, "ports": [{"port": 9000}]},
            }))
            .await?;
        let this = Self { namespace };
        this.set(true).await?;
        Ok(this)
    }

    /// Runs it, or takes it away; what it holds stays.
    pub async fn set(&self, running: bool) -> Result<()> {
        let replicas = u64::from(running);
        self.namespace
            .apply(&json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s3"},
                "spec": {
                    "serviceName": "s3", "replicas": replicas, "selector": {"matchLabels": {"app": "s3"}},
                    "template": {
                        "metadata": {"labels": {"app": "s3"}},
                        "spec": {
                            "securityContext": pod_security(USER), "terminationGracePeriodSeconds": 1,
                            "automountServiceAccountToken": false,
                            "containers": [{
                                "name": "s3", "image": "localhost/s3:1",
                                "args": ["--port", "0.0.0.0:9000", "posix", "/data"],
                                "env": [
                                    {"name": "ROOT_ACCESS_KEY", "valueFrom": {"secretKeyRef": {
                                        "name": "backup-credentials", "key": "AWS_ACCESS_KEY_ID"}}},
                                    {"name": "ROOT_SECRET_KEY", "valueFrom": {"secretKeyRef": {
                                        "name": "backup-credentials", "key": "AWS_SECRET_ACCESS_KEY"}}},
                                ],
                                "securityContext": container_security(),
                                "ports": [{"containerPort": 9000}],
                                "readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
                                "volumeMounts": [
                                    {"name": "locks", "mountPath": "/data"},
                                    {"name": "data", "mountPath": format!("/data/{BUCKET}")},
                                    {"name": "scratch", "mountPath": "/tmp"},
                                ],
                            }],
                            "volumes": [{"name": "locks", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}],
                        },
                    },
                    "volumeClaimTemplates": [{
                        "metadata": {"name": "data"},
                        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                    }],
                },
            }))
            .await?;
        self.namespace
            .wait_for("apps/v1", "StatefulSet", "s3", "to be as wanted", |set| {
                set.is_some_and(|set| {
                    set["status"]["readyReplicas"].as_u64().unwrap_or(0) == replicas
                        && set["status"]["replicas"].as_u64().unwrap_or(0) == replicas
                })
            })
            .await?;
        Ok(())
    }

    /// As pods reach it.
    pub fn endpoint(&self) -> String {
        format!("http://s3.{}:9000", self.namespace.name())
    }

    /// A command of the program on this machine that works on the bucket under `prefix`.
    pub async fn redkeep(&self, prefix: &str, arguments: &[&str]) -> Result<crate::Said> {
        let address = pod_address(self.namespace, "s3-0").await?;
        let mut command = crate::redkeep();
        command.args(arguments);
        command.arg("--storage").arg(format!("s3://{BUCKET}/{prefix}"));
        command.args(["--s3-region", "us-east-1", "--s3-path-style", "--s3-endpoint"]);
        command.arg(format!("http://{address}:9000"));
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        Ok(tokio::task::spawn_blocking(move || crate::finish(command)).await?)
    }
}

/// A Job of one pod that runs the program, with the S3 credentials as variables and a file `/task/task.json`.
pub fn job(name: &str, arguments: &[&str], task: &Value) -> [Value; 2] {
    let from = |variable: &str| json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": "backup-credentials", "key": variable}}});
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"task.json": task.to_string()},
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0, "activeDeadlineSeconds": LIMIT.as_secs(),
            "template": {"spec": {
                "restartPolicy": "Never", "securityContext": pod_security(USER), "automountServiceAccountToken": false,
                "containers": [{
                    "name": "redkeep", "image": "localhost/redkeep:dev", "args": arguments,
                    "env": [from("AWS_ACCESS_KEY_ID"), from("AWS_SECRET_ACCESS_KEY")],
                    "securityContext": container_security(),
                    "volumeMounts": [
                        {"name": "scratch", "mountPath": "/tmp"},
                        {"name": "state", "mountPath": "/var/lib/redkeep"},
                        {"name": "task", "mountPath": "/task"},
                    ],
                }],
                "volumes": [
                    {"name": "scratch", "emptyDir": {}}, {"name": "state", "emptyDir": {}},
                    {"name": "task", "configMap": {"name": name}},
                ],
            }},
        },
    });
    [config, job]
}

/// Waits until a Job has completed; returns its pod's termination message.
pub async fn finished_job(namespace: &TestNamespace, name: &str) -> Result<String> {
    let ended = |job: &Value, kind: &str| {
        let conditions = job["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == "True"))
    };
    let job = namespace
        .wait_for("batch/v1", "Job", name, "to end", |job| {
            job.is_some_and(|job| ended(job, "Complete") || ended(job, "Failed"))
        })
        .await?;
    if ended(&job, "Failed") {
        bail!("Job {name} failed\n{}", namespace.describe());
    }
    let pods = namespace.list("v1", "Pod", &format!("batch.kubernetes.io/job-name={name}")).await?;
    let pod = pods.first().with_context(|| format!("Job {name} has no pod"))?;
    let message = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"];
    Ok(message.as_str().unwrap_or_default().to_owned())
}
