//! `redkeep inspect` on a real backup names the ten largest keys as a scan of the server does.

use anyhow::{Context, Result};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::succeed;

/// The server's own order: length of `DUMP`, which is the value as the RDB holds it and 11 bytes more.
async fn by_scan(server: &RedisServer, count: usize) -> Result<Vec<String>> {
    let mut connection = server.connect().await?;
    let mut sizes = Vec::new();
    let mut cursor: u64 = 0;
    loop {
        let (next, keys): (u64, Vec<String>) =
            redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(500).query_async(&mut connection).await?;
        for key in keys {
            let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await?;
            sizes.push((dump.len(), key));
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    sizes.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
    Ok(sizes.into_iter().take(count).map(|(_, key)| key).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_keys_are_those_of_a_scan() {
    for version in Version::ALL {
        check(version).await.unwrap_or_else(|error| panic!("{version:?}: {error:#}"));
    }
}

async fn check(version: Version) -> Result<()> {
    let server = RedisServer::start(version)?;
    let mut connection = server.connect().await?;
    let shape = Shape { databases: vec![0], functions: false, ..Shape::standalone(version) };
    apply(&mut connection, &shape, 1, 4000).await?;
    // Sizes far apart, over several types, so that the order is beyond doubt.
    for number in 1..=12_u32 {
        let key = format!("large:{number}");
        let mut pipeline = redis::pipe();
        for item in 0..number * 700 {
            let value = format!("{item}-{:x}", u64::from(item).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            match number % 3 {
                0 => pipeline.cmd("HSET").arg(&key).arg(&value).arg(item),
                1 => pipeline.cmd("SADD").arg(&key).arg(&value),
                _ => pipeline.cmd("ZADD").arg(&key).arg(item).arg(&value),
            };
        }
        pipeline.ignore().query_async::<()>(&mut connection).await?;
    }
    let storage = tempfile::tempdir()?;
    let store = storage.path().display().to_string();
    succeed(["backup", "--source", &server.url(), "--method", "rdb", "--storage", &store, "--cluster", "inspected"]);
    let answer = succeed(["inspect", "--storage", &store, "latest", "--largest", "10", "-o", "json"]).json();
    let shard = answer.as_array().and_then(|shards| shards.first()).unwrap_or(&answer);
    let named: Vec<String> = shard["largest"]
        .as_array()
        .with_context(|| format!("no largest keys in {answer:#}"))?
        .iter()
        .map(|entry| entry["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    anyhow::ensure!(named == by_scan(&server, 10).await?, "inspect names {named:?}");
    Ok(())
}
