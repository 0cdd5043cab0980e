//! Sentinels over a Redis, as the operator of `RedisFailover` lays them out: the Redis is `StatefulSet` `rfr-NAME`, the Sentinels
//! are behind Service `rfs-NAME` and call its primary `mymaster`. That operator itself does not run here.

use anyhow::{Context, Result};
use redkeep_testing::server::Version;
use serde_json::json;

use super::workloads::{USER, container_security, pod_address, pod_security, redis_image};
use super::{LIMIT, TestNamespace};

const MASTER: &str = "mymaster";
const PORT: u16 = 26379;
/// One more than half of them must agree.
const SENTINELS: u32 = 3;

/// Three Sentinels that watch the Redis `rfr-NAME`, and the `RedisFailover` that says so.
pub struct Sentinels<'a> {
    namespace: &'a TestNamespace,
    name: String,
}

impl<'a> Sentinels<'a> {
    /// Starts them and waits until each knows the primary, this many replicas and the others. `password`: the servers', which a
    /// Secret `NAME-auth` holds.
    pub async fn start(namespace: &'a TestNamespace, name: &str, replicas: u64, password: &str) -> Result<Self> {
        let this = Self { namespace, name: name.to_owned() };
        let auth = format!("{name}-auth");
        namespace
            .apply(&json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": auth}, "stringData": {"password": password},
            }))
            .await?;
        let primary = pod_address(namespace, &format!("rfr-{name}-0")).await?;
        let lines = [
            format!("port {PORT}"),
            format!("sentinel monitor {MASTER} {primary} 6379 2"),
            format!("sentinel auth-pass {MASTER} {password}"),
            format!("sentinel down-after-milliseconds {MASTER} 5000"),
        ];
        let start = format!(
            "printf '{}\\n' > /data/sentinel.conf; exec redis-server /data/sentinel.conf --sentinel --protected-mode no",
            lines.join("\\n")
        );
        let service = this.service();
        namespace
            .apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": service},
                "spec": {"selector": {"app": service}, "ports": [{"name": "sentinel", "port": PORT}]},
            }))
            .await?;
        namespace
            .apply(&json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": service},
                "spec": {
                    "serviceName": service, "replicas": SENTINELS, "podManagementPolicy": "Parallel",
                    "selector": {"matchLabels": {"app": service}},
                    "template": {
                        "metadata": {"labels": {"app": service}},
                        "spec": {
                            "securityContext": pod_security(USER), "terminationGracePeriodSeconds": 1,
                            "automountServiceAccountToken": false,
                            "containers": [{
                                "name": "sentinel", "image": redis_image(Version::Redis70),
                                "command": ["/bin/sh", "-c", start], "securityContext": container_security(),
                                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                            }],
                            "volumes": [{"name": "data", "emptyDir": {}}],
                        },
                    },
                },
            }))
            .await?;
        namespace
            .apply(&json!({
                "apiVersion": "databases.spotahome.com/v1", "kind": "RedisFailover", "metadata": {"name": name},
                "spec": {"auth": {"secretPath": auth}},
            }))
            .await?;
        let known = format!("{replicas} {}", SENTINELS - 1);
        namespace
            .wait_until("the Sentinels know all servers and one another", || async {
                let mut seen = Vec::new();
                for ordinal in 0..SENTINELS {
                    let state = this.master(ordinal).await.unwrap_or_default();
                    let of = |key: &str| state.get(key).cloned().unwrap_or_default();
                    seen.push(format!("{} {}", of("num-slaves"), of("num-other-sentinels")));
                }
                Ok(seen.iter().all(|one| *one == known).then_some(()))
            })
            .await?;
        Ok(this)
    }

    /// `rfs-NAME`.
    pub fn service(&self) -> String {
        format!("rfs-{}", self.name)
    }

    async fn ask<T: redis::FromRedisValue>(&self, ordinal: u32, command: &redis::Cmd) -> Result<T> {
        let address = pod_address(self.namespace, &format!("{}-{ordinal}", self.service())).await?;
        let client = redis::Client::open(format!("redis://{address}:{PORT}"))?;
        let asked = async { command.query_async(&mut client.get_multiplexed_async_connection().await?).await };
        tokio::time::timeout(LIMIT, asked).await.context("a Sentinel does not answer")?.context("a Sentinel refused")
    }

    /// What one of them knows of the primary.
    async fn master(&self, ordinal: u32) -> Result<std::collections::BTreeMap<String, String>> {
        self.ask(ordinal, redis::cmd("SENTINEL").arg("MASTER").arg(MASTER)).await
    }

    /// The primary's address, and how many replicas they know of.
    pub async fn state(&self) -> Result<(String, u64)> {
        let state = self.master(0).await?;
        let of = |key: &str| state.get(key).cloned().with_context(|| format!("no {key} in {state:?}"));
        Ok((of("ip")?, of("num-slaves")?.parse()?))
    }

    /// Has them fail over, and waits until another server is the primary.
    pub async fn fail_over(&self) -> Result<()> {
        let (before, _) = self.state().await?;
        self.ask::<()>(0, redis::cmd("SENTINEL").arg("FAILOVER").arg(MASTER)).await?;
        self.namespace
            .wait_until("another server is the primary", || async {
                let (now, _) = self.state().await?;
                Ok((now != before).then_some(()))
            })
            .await
    }
}
