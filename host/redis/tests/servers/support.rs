//! What the tests share: connecting, reading sources, restarting what was captured.

use std::sync::Arc;

use redkeep_core::provider::{DataSource, ProviderError};
use redkeep_core::redis::{RedisServer as Access, Replication};
use redkeep_core::secret::Secret;
use redkeep_core::stream::{CHUNK, Source};
use redkeep_core::task::EndpointSpec;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, applied, apply};

pub(crate) fn endpoint(url: &str) -> EndpointSpec {
    EndpointSpec { url: Some(url.to_owned()), ..EndpointSpec::default() }
}

pub(crate) async fn resolve(url: &str) -> Result<Arc<dyn DataSource>, ProviderError> {
    redkeep_redis::resolve(&endpoint(url), None, None).await
}

pub(crate) async fn resolve_as(url: &str, user: &str, password: &str) -> Result<Arc<dyn DataSource>, ProviderError> {
    let spec = EndpointSpec { username: Some(user.to_owned()), ..endpoint(url) };
    redkeep_redis::resolve(&spec, Some(Secret::new(password)), None).await
}

/// The connection of the first shard.
pub(crate) async fn access(url: &str) -> Arc<dyn Access> {
    resolve(url).await.unwrap().shards()[0].redis.clone().unwrap()
}

pub(crate) async fn read_all(source: &mut dyn Source) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let piece = source.read(CHUNK).await.unwrap();
        if piece.is_empty() {
            assert_eq!(source.position(), bytes.len() as u64);
            return bytes;
        }
        bytes.extend_from_slice(&piece);
    }
}

pub(crate) async fn snapshot(link: &mut dyn Replication) -> Vec<u8> {
    let mut source = link.snapshot().await.unwrap();
    read_all(&mut *source).await
}

pub(crate) async fn commands(link: &mut dyn Replication, until: Option<u64>, within_ms: Option<u32>) -> Vec<u8> {
    let mut source = link.commands(until, within_ms).await.unwrap();
    read_all(&mut *source).await
}

pub(crate) fn resp(words: &[&str]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    redkeep_redis::resp::encode_command(words, &mut out);
    out.to_vec()
}

/// The database in which a replica's stream begins (AUX `repl-stream-db`).
pub(crate) fn stream_database(rdb: &[u8]) -> Option<u8> {
    let name = b"repl-stream-db";
    let at = rdb.windows(name.len()).position(|window| window == name)? + name.len();
    match rdb.get(at..at + 2)? {
        [0xC0, number] => Some(*number),
        [1, digit] => Some(digit - b'0'),
        _ => None,
    }
}

/// Starts a server of the same version on a captured RDB.
pub(crate) fn start_on_rdb(version: Version, rdb: &[u8]) -> (RedisServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dump.rdb"), rdb).unwrap();
    (RedisServer::start_in(version, folder.path(), &[]).unwrap(), folder)
}

/// Starts a server of the same version on RDB and commands in one `.aof`.
pub(crate) fn start_on_aof(version: Version, rdb: &[u8], commands: &[u8]) -> (RedisServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut aof = rdb.to_vec();
    if let Some(database) = stream_database(rdb) {
        aof.extend(resp(&["SELECT", &database.to_string()]));
    }
    aof.extend_from_slice(commands);
    std::fs::write(folder.path().join("appendonly.aof"), aof).unwrap();
    // A tail cut short must be an error, never dropped.
    let arguments = ["--appendonly", "yes", "--aof-load-truncated", "no"];
    (RedisServer::start_in(version, folder.path(), &arguments).unwrap(), folder)
}

/// The restored server equals a fresh one on which exactly the operations that it holds were run: `seeded` of them with
/// functions, the rest as the writer runs them. Returns how many it holds.
pub(crate) async fn equals_replay(restored: &RedisServer, shape: &Shape, seeded: u64) -> u64 {
    let count = applied(&mut restored.connect().await.unwrap(), shape).await.unwrap();
    assert!(count >= seeded, "{count} of at least {seeded} operations");
    let fresh = RedisServer::start(restored.version()).unwrap();
    let mut connection = fresh.connect().await.unwrap();
    apply(&mut connection, shape, 1, seeded).await.unwrap();
    let writer = Shape { functions: false, ..shape.clone() };
    apply(&mut connection, &writer, seeded + 1, count).await.unwrap();
    let (one, other) = (Dataset::of(restored).await.unwrap(), Dataset::of(&fresh).await.unwrap());
    let relative = restored.version() == Version::Redis62;
    assert_eq!(one.differences(&other, relative), Vec::<String>::new());
    count
}
