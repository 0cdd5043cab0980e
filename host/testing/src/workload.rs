//! A deterministic stream of operations. Operation `n` is a pure function of `n`, and each one stores its number in the
//! same transaction, so a restored server says how many operations it holds, and replaying exactly those on a fresh
//! server gives the dataset that it must equal: an exact check while a writer runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;

use crate::server::{RedisServer, Version};

/// Far enough in the future that nothing expires during a test (2100-01-01, milliseconds).
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;
/// Operations sent in one go.
const BATCH: u64 = 64;

/// What operations touch.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Before every key; a hash tag such as `{a}` keeps a shard's keys together.
    pub prefix: String,
    /// Databases written to.
    pub databases: Vec<u32>,
    /// Function libraries too (not on 6.2).
    pub functions: bool,
}

impl Shape {
    /// Three databases and functions where the server has them.
    pub fn standalone(version: Version) -> Self {
        Self { prefix: String::new(), databases: vec![0, 3, 9], functions: version != Version::Redis62 }
    }

    /// One shard of a cluster.
    pub fn shard(tag: &str) -> Self {
        Self { prefix: format!("{{{tag}}}"), databases: vec![0], functions: false }
    }

    fn counter(&self) -> String {
        format!("{}operations", self.prefix)
    }

    /// The commands of operation `number`: a transaction that ends with storing the number.
    fn operation(&self, number: u64, pipeline: &mut redis::Pipeline) {
        let mut random = StdRng::seed_from_u64(number);
        let database = self.databases[usize::try_from(number).unwrap_or(0) % self.databases.len()];
        let single = self.databases.len() == 1 && self.databases[0] == 0;
        pipeline.cmd("MULTI");
        if !single {
            pipeline.cmd("SELECT").arg(database);
        }
        let key = |kind: &str, count: u32, random: &mut StdRng| {
            format!("{}{kind}:{}", self.prefix, random.random_range(0..count))
        };
        let mut binary = vec![0_u8; random.random_range(0..200)];
        random.fill(binary.as_mut_slice());
        let member = format!("m{}", random.random_range(0..5000));
        match random.random_range(0..14) {
            0 => drop(pipeline.cmd("SET").arg(key("string", 2000, &mut random)).arg(binary)),
            1 => {
                let session = key("session", 2000, &mut random);
                pipeline.cmd("SET").arg(&session).arg(number).arg("PX").arg(relative_ms(number));
                pipeline.cmd("PEXPIREAT").arg(&session).arg(FAR_FUTURE_MS + number);
            }
            2 => drop(pipeline.cmd("APPEND").arg(key("log", 50, &mut random)).arg(binary)),
            3 => drop(pipeline.cmd("RPUSH").arg(key("list", 100, &mut random)).arg(binary).arg(number)),
            4 => drop(pipeline.cmd("LPOP").arg(key("list", 100, &mut random))),
            5 => drop(
                pipeline.cmd("SADD").arg(key("set", 100, &mut random)).arg(member).arg(random.random_range(0..100)),
            ),
            6 => drop(
                pipeline
                    .cmd("SADD")
                    .arg(key("integers", 100, &mut random))
                    .arg(random.random_range(-70_000..70_000_i64)),
            ),
            7 => drop(
                pipeline
                    .cmd("ZADD")
                    .arg(key("sorted", 50, &mut random))
                    .arg(random.random_range(-1e6..1e6_f64))
                    .arg(member),
            ),
            8 => drop(pipeline.cmd("HSET").arg(key("hash", 100, &mut random)).arg(member).arg(binary)),
            9 => drop(
                pipeline
                    .cmd("XADD")
                    .arg(key("stream", 20, &mut random))
                    .arg(format!("{}-1", number + 1))
                    .arg("field")
                    .arg(binary),
            ),
            10 => drop(pipeline.cmd("PFADD").arg(key("visitors", 20, &mut random)).arg(member)),
            11 => drop(pipeline.cmd("DEL").arg(key("string", 2000, &mut random))),
            12 => drop(pipeline.cmd("PEXPIREAT").arg(key("hash", 100, &mut random)).arg(FAR_FUTURE_MS + number)),
            _ => drop(
                pipeline.cmd("SETBIT").arg(key("bits", 20, &mut random)).arg(random.random_range(0..10_000)).arg(1),
            ),
        }
        if !single {
            pipeline.cmd("SELECT").arg(0);
        }
        pipeline.cmd("SET").arg(self.counter()).arg(number);
        pipeline.cmd("EXEC");
    }
}

/// A relative expiry that the same transaction replaces; it exercises the rewriting of relative times.
fn relative_ms(number: u64) -> u64 {
    600_000 + number % 1000
}

/// Applies operations `first..=last`.
pub async fn apply(connection: &mut MultiplexedConnection, shape: &Shape, first: u64, last: u64) -> Result<()> {
    let mut number = first;
    while number <= last {
        let end = last.min(number + BATCH - 1);
        let mut pipeline = redis::pipe();
        for one in number..=end {
            shape.operation(one, &mut pipeline);
        }
        if shape.functions && number / 1000 != (end + 1) / 1000 {
            let version = end / 1000;
            let code = format!(
                "#!lua name=library{}\nredis.register_function('f{0}', function(keys, args) return {version} end)",
                version % 3
            );
            pipeline.cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(code);
        }
        pipeline.ignore();
        pipeline
            .query_async::<()>(connection)
            .await
            .with_context(|| format!("failed to apply operations {number} to {end}"))?;
        number = end + 1;
    }
    Ok(())
}

/// The number of the last operation that a server holds.
pub async fn applied(connection: &mut MultiplexedConnection, shape: &Shape) -> Result<u64> {
    let number: Option<u64> = redis::cmd("GET").arg(shape.counter()).query_async(connection).await?;
    Ok(number.unwrap_or(0))
}

/// Writes without end from a task of its own.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Writer {
    /// Goes on from operation `first`. Functions are left to [`apply`], for their loads are not numbered.
    pub async fn start(server: &RedisServer, shape: &Shape, first: u64) -> Result<Self> {
        let mut connection = server.connect().await?;
        let mut shape = shape.clone();
        shape.functions = false;
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(first - 1));
        let task = tokio::spawn({
            let (stop, written) = (stop.clone(), written.clone());
            async move {
                let mut number = first;
                while !stop.load(Ordering::Relaxed) {
                    apply(&mut connection, &shape, number, number + BATCH - 1).await?;
                    number += BATCH;
                    written.store(number - 1, Ordering::Relaxed);
                    // A server that only serves one writer has no time for its replicas.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                Ok(())
            }
        });
        Ok(Self { stop, written, task })
    }

    /// Operations acknowledged so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops and returns the number of the last operation acknowledged.
    pub async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.written.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;

    #[tokio::test]
    async fn replaying_the_counted_operations_gives_the_same_dataset() {
        for version in Version::ALL {
            let shape = Shape::standalone(version);
            let source = RedisServer::start(version).unwrap();
            let mut connection = source.connect().await.unwrap();
            apply(&mut connection, &shape, 1, 2000).await.unwrap();
            let writer = Writer::start(&source, &shape, 2001).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let last = writer.stop().await.unwrap();
            assert!(last > 2000, "the writer wrote nothing");
            assert_eq!(applied(&mut connection, &shape).await.unwrap(), last);

            let replay = RedisServer::start(version).unwrap();
            let mut again = replay.connect().await.unwrap();
            apply(&mut again, &shape, 1, 2000).await.unwrap();
            apply(&mut again, &Shape { functions: false, ..shape.clone() }, 2001, last).await.unwrap();
            let (left, right) = (Dataset::of(&source).await.unwrap(), Dataset::of(&replay).await.unwrap());
            assert_eq!(left.differences(&right, version == Version::Redis62), Vec::<String>::new(), "{version:?}");
            assert!(left.expiries.len() > 10 && left.keys.len() == 3, "{version:?}: {:?}", left.keys);

            redis::cmd("HSET").arg("hash:1").arg("m").arg("x").query_async::<()>(&mut again).await.unwrap();
            let changed = Dataset::of(&replay).await.unwrap();
            assert!(!left.differences(&changed, true).is_empty(), "a changed value must show");
        }
    }
}
