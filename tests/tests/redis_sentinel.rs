//! Real Sentinels watch the source: a backup must not be listed as a replica, be counted by `WAIT`, or be chosen in a failover.

use std::time::Duration;

use anyhow::{Result, ensure};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::{Sentinel, replicate, wait_until};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::succeed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_never_see_a_backup() {
    for version in Version::ALL {
        watch(version).await.unwrap_or_else(|error| panic!("{version:?}: {error:#}"));
    }
}

async fn watch(version: Version) -> Result<()> {
    let primary = RedisServer::start(version)?;
    let replica = RedisServer::start(version)?;
    replicate(&replica, &primary).await?;
    let mut connection = primary.connect().await?;
    apply(&mut connection, &Shape::standalone(version), 1, 2000).await?;
    let sentinel = Sentinel::start(version, "mymaster", &primary, 1).await?;
    wait_until("the sentinel to see the replica", || async { Ok(sentinel.replicas("mymaster").await? == 1) }).await?;

    let storage = tempfile::tempdir()?;
    let store = storage.path().display().to_string();
    let by_sentinel = format!("redis-sentinel://127.0.0.1:{}/mymaster", sentinel.port());
    for node in ["primary", "prefer-replica"] {
        for method in ["rdb", "aof"] {
            // `window` keeps a stream open for longer than Sentinel's 10 s between two looks at its primary.
            let window = if method == "aof" && node == "primary" { "12s" } else { "0s" };
            let (url, place) = (by_sentinel.clone(), store.clone());
            let running = tokio::task::spawn_blocking(move || {
                let mut arguments = vec!["backup", "--source", &url, "--method", method, "--node", node];
                let window = format!("window={window}");
                if method == "aof" {
                    arguments.extend(["--param", &window]);
                }
                arguments.extend(["--storage", &place, "--cluster", "watched", "-o", "json"]);
                succeed(arguments).json()
            });
            while !running.is_finished() {
                ensure!(sentinel.replicas("mymaster").await? == 1, "the sentinel lists the backup as a replica");
                // WAIT counts the real replica only: two are never confirmed.
                redis::cmd("SET").arg("probe").arg(1).query_async::<()>(&mut connection).await?;
                let confirmed: i64 = redis::cmd("WAIT").arg(2).arg(200).query_async(&mut connection).await?;
                ensure!(confirmed <= 1, "WAIT counts the backup as a replica");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let manifest = running.await?;
            let port = if node == "primary" { primary.port() } else { replica.port() };
            let read = manifest["shards"][0]["node"].as_str().unwrap_or_default();
            ensure!(read.ends_with(&port.to_string()), "{node} read {read}");
        }
    }
    let config = std::fs::read_to_string(sentinel.folder().join("sentinel.conf"))?;
    ensure!(!config.contains("redkeep"), "the sentinel remembers the backup: {config}");
    ensure!(sentinel.replicas("mymaster").await? == 1, "the sentinel remembers the backup");
    Ok(())
}
