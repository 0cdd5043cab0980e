//! Servers that belong together: replicas, Sentinels, a Redis Cluster.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::server::{RedisServer, Version, free_port};

/// Makes `replica` a replica of `primary` and waits until its link is up.
pub async fn replicate(replica: &RedisServer, primary: &RedisServer) -> Result<()> {
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await?;
    wait_until("the replica's link to come up", || async { Ok(replica.info("master_link_status").await? == "up") })
        .await
}

/// Polls `condition` for up to a minute.
pub async fn wait_until<F, R>(what: &str, mut condition: F) -> Result<()>
where
    F: FnMut() -> R,
    R: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if condition().await.unwrap_or(false) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("waited a minute for {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A real Sentinel watching one primary.
pub struct Sentinel {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Sentinel {
    /// Starts a Sentinel that knows `primary` as `name`.
    pub async fn start(version: Version, name: &str, primary: &RedisServer, quorum: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let file: PathBuf = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds {name} 3000\nsentinel failover-timeout {name} 10000\n",
            folder.path().display(),
            primary.port()
        );
        std::fs::write(&file, text)?;
        let child = Command::new(version.binary()?)
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start a sentinel")?;
        let sentinel = Self { child, port, folder };
        wait_until("the sentinel", || async { Ok(sentinel.command(&["PING"]).await.is_ok()) }).await?;
        Ok(sentinel)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder, with what it has written into its configuration.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs one command, given as words.
    pub async fn command(&self, words: &[&str]) -> Result<redis::Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, rest) = words.split_first().context("an empty command")?;
        Ok(redis::cmd(name).arg(rest).query_async(&mut connection).await?)
    }

    /// How many replicas it lists.
    pub async fn replicas(&self, name: &str) -> Result<usize> {
        match self.command(&["SENTINEL", "REPLICAS", name]).await? {
            redis::Value::Array(replicas) => Ok(replicas.len()),
            other => bail!("unexpected reply {other:?}"),
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real Redis Cluster: primaries first, then one replica for each where asked.
pub struct RedisCluster {
    /// The primaries, in slot order.
    pub primaries: Vec<RedisServer>,
    /// A replica for each primary, or none.
    pub replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster whose slots are cut at `borders` (first slots of all shards but the first).
    pub async fn start(version: Version, borders: &[u16], with_replicas: bool) -> Result<Self> {
        let count = borders.len() + 1;
        let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
        let start = |number: usize| -> Result<Vec<RedisServer>> {
            (0..number).map(|_| RedisServer::start_with(version, &arguments)).collect()
        };
        let cluster = Self { primaries: start(count)?, replicas: start(if with_replicas { count } else { 0 })? };
        for (index, primary) in cluster.primaries.iter().enumerate() {
            let first = if index == 0 { 0 } else { borders[index - 1] };
            let last = borders.get(index).map_or(16_383, |border| border - 1);
            let mut words = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
            words.extend((first..=last).map(|slot| slot.to_string()));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            primary.command(&words).await?;
            // Distinct epochs, or nodes quarrel about who owns what.
            primary.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await?;
        }
        let seed = cluster.primaries[0].port().to_string();
        for node in cluster.nodes().skip(1) {
            node.command(&["CLUSTER", "MEET", "127.0.0.1", &seed]).await?;
        }
        let all = cluster.nodes().count().to_string();
        for node in cluster.nodes() {
            wait_until("the cluster's nodes to meet", || async {
                let text: String = redis::from_redis_value(node.command(&["CLUSTER", "INFO"]).await?)?;
                Ok(text.contains(&format!("cluster_known_nodes:{all}\r\n")))
            })
            .await?;
        }
        for (replica, primary) in cluster.replicas.iter().zip(&cluster.primaries) {
            let id: String = redis::from_redis_value(primary.command(&["CLUSTER", "MYID"]).await?)?;
            wait_until("the replica to know its primary", || async {
                Ok(replica.command(&["CLUSTER", "REPLICATE", &id]).await.is_ok())
            })
            .await?;
        }
        for node in cluster.nodes() {
            wait_until("the cluster to be whole", || async {
                let text: String = redis::from_redis_value(node.command(&["CLUSTER", "INFO"]).await?)?;
                Ok(text.contains("cluster_state:ok"))
            })
            .await?;
        }
        for replica in &cluster.replicas {
            wait_until("the replica's link", || async { Ok(replica.info("master_link_status").await? == "up") })
                .await?;
        }
        Ok(cluster)
    }

    /// Every node, primaries first.
    pub fn nodes(&self) -> impl Iterator<Item = &RedisServer> {
        self.primaries.iter().chain(&self.replicas)
    }

    /// `redis-cluster://…` of two nodes.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.primaries.iter().take(2).map(RedisServer::address).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_with_replicas_becomes_whole() {
        let cluster = RedisCluster::start(Version::Redis70, &[5461, 10_923], true).await.unwrap();
        assert_eq!(cluster.nodes().count(), 6);
    }

    #[tokio::test]
    async fn a_sentinel_lists_a_real_replica() {
        let primary = RedisServer::start(Version::Redis70).unwrap();
        let replica = RedisServer::start(Version::Redis70).unwrap();
        replicate(&replica, &primary).await.unwrap();
        let sentinel = Sentinel::start(Version::Redis70, "mymaster", &primary, 1).await.unwrap();
        wait_until("the sentinel to see the replica", || async { Ok(sentinel.replicas("mymaster").await? == 1) })
            .await
            .unwrap();
    }
}
