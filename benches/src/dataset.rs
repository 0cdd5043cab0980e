//! The data sets: mixed types, and many small keys. Filled once on 6.2, whose RDB every other server loads.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redkeep_testing::server::{RedisServer, Version};

/// A folder with a `dump.rdb`.
pub(crate) struct Data {
    folder: PathBuf,
}

impl Data {
    /// Mixed types, about `megabytes` of RDB.
    pub(crate) async fn mixed(place: &Path, megabytes: u64) -> Result<Self> {
        let folder = place.join("mixed");
        std::fs::create_dir_all(&folder)?;
        let server = RedisServer::start_in(Version::Redis62, &folder, &[])?;
        let mut connection = server.connect().await?;
        let mut random = StdRng::seed_from_u64(1);
        let mut number: u64 = 0;
        // One group of keys is about 8.5 KB of RDB.
        for batch in 0..=megabytes * 118 / 64 {
            let mut pipeline = redis::pipe();
            for _ in 0..64 {
                number += 1;
                group(&mut pipeline, number, &mut random);
            }
            pipeline.query_async::<()>(&mut connection).await?;
            if batch % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        server.command(&["SAVE"]).await?;
        Ok(Self { folder })
    }

    /// `keys` small strings.
    pub(crate) async fn small(place: &Path, keys: u64) -> Result<Self> {
        let folder = place.join("small");
        std::fs::create_dir_all(&folder)?;
        let server = RedisServer::start_in(Version::Redis62, &folder, &[])?;
        server.command(&["DEBUG", "POPULATE", &keys.to_string(), "key", "16"]).await?;
        server.command(&["SAVE"]).await?;
        Ok(Self { folder })
    }

    /// The RDB's size in bytes.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.folder.join("dump.rdb"))?.len())
    }

    /// A server of `version` that has loaded it.
    pub(crate) async fn serve(&self, version: Version, arguments: &[&str]) -> Result<RedisServer> {
        let server = RedisServer::start_with(version, arguments)?;
        drop(server.connect().await?);
        let folder = tempfile::tempdir()?.keep();
        std::fs::copy(self.folder.join("dump.rdb"), folder.join("dump.rdb"))?;
        drop(server);
        let server = RedisServer::start_in(version, &folder, arguments)?;
        drop(server.connect().await?);
        Ok(server)
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// One of each type, with text that compresses as records do.
fn group(pipeline: &mut redis::Pipeline, number: u64, random: &mut StdRng) {
    for part in 0..8 {
        let value = record(number * 8 + part, random, 500);
        pipeline.cmd("SET").arg(format!("session:{number}:{part}")).arg(value).ignore();
    }
    pipeline.cmd("PEXPIREAT").arg(format!("session:{number}:0")).arg(4_102_444_800_000_u64 + number).ignore();
    let hash = format!("user:{number}");
    let list = format!("queue:{}", number / 4);
    let set = format!("tags:{}", number / 8);
    let sorted = format!("scores:{}", number / 100);
    for field in 0..20 {
        pipeline.cmd("HSET").arg(&hash).arg(format!("field{field}")).arg(record(number + field, random, 80)).ignore();
        pipeline.cmd("RPUSH").arg(&list).arg(record(number + field, random, 120)).ignore();
        pipeline.cmd("SADD").arg(&set).arg(random.random::<u64>()).ignore();
        pipeline
            .cmd("ZADD")
            .arg(&sorted)
            .arg(random.random_range(0..1_000_000))
            .arg(format!("member:{number}:{field}"))
            .ignore();
    }
    pipeline
        .cmd("XADD")
        .arg(format!("events:{}", number / 50))
        .arg("*")
        .arg("kind")
        .arg(record(number, random, 60))
        .ignore();
}

/// Text of about `length` bytes: half words, half digits.
fn record(number: u64, random: &mut StdRng, length: usize) -> String {
    const WORDS: [&str; 8] = ["status", "created", "customer", "pending", "region", "payload", "account", "checksum"];
    let mut text = format!("{{\"id\":{number}");
    while text.len() < length {
        let word = WORDS[random.random_range(0..WORDS.len())];
        let _ = write!(text, ",\"{word}\":\"{:x}\"", random.random::<u64>());
    }
    text.push('}');
    text
}
