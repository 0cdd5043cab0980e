//! What two servers must agree on. `DEBUG DIGEST` ignores expiries and functions (REDIS.md 2), so those are compared too.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;

use crate::server::{RedisServer, Version};

/// Milliseconds by which two readings of a relative expiry (Redis 6.2) may differ.
const RELATIVE_TOLERANCE_MS: i64 = 3_000;

/// The whole dataset of one server, reduced to what can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// `DEBUG DIGEST`.
    pub digest: String,
    /// Keys by database.
    pub keys: BTreeMap<u32, u64>,
    /// Unix time in milliseconds at which a key expires, by database and key.
    pub expiries: BTreeMap<(u32, Vec<u8>), i64>,
    /// Function libraries: name and code.
    pub functions: BTreeMap<String, String>,
}

impl Dataset {
    /// Reads the dataset of a server that nobody writes to.
    pub async fn of(server: &RedisServer) -> Result<Self> {
        Self::through(&mut server.connect().await?, server.version()).await
    }

    /// The same through a connection, for a server that runs elsewhere.
    pub async fn through(connection: &mut MultiplexedConnection, version: Version) -> Result<Self> {
        let keys = databases(connection).await?;
        let mut expiries = BTreeMap::new();
        for &database in keys.keys() {
            if database != 0 || keys.len() > 1 {
                redis::cmd("SELECT").arg(database).query_async::<()>(connection).await?;
            }
            read_expiries(connection, version, database, &mut expiries).await?;
        }
        if keys.keys().any(|&database| database != 0) {
            redis::cmd("SELECT").arg(0).query_async::<()>(connection).await?;
        }
        let digest: Result<String, _> = redis::cmd("DEBUG").arg("DIGEST").query_async(connection).await;
        let digest = match digest {
            Ok(digest) => digest,
            // Managed servers refuse it: then what commands say of every value.
            Err(error) if error.to_string().contains("not allowed") => contents(connection, &keys).await?,
            Err(error) => return Err(error.into()),
        };
        let functions = if version == Version::Redis62 { BTreeMap::new() } else { functions(connection).await? };
        Ok(Self { digest, keys, expiries, functions })
    }

    /// What differs between two datasets; empty when they are equal. `relative`: one side only knows relative expiries.
    pub fn differences(&self, other: &Self, relative: bool) -> Vec<String> {
        let mut found = Vec::new();
        if self.digest != other.digest {
            found.push(format!("digest {} against {}", self.digest, other.digest));
        }
        if self.keys != other.keys {
            found.push(format!("keys {:?} against {:?}", self.keys, other.keys));
        }
        if self.functions != other.functions {
            found.push(format!("functions {:?} against {:?}", self.functions, other.functions));
        }
        if self.expiries.len() != other.expiries.len() {
            found.push(format!("{} expiries against {}", self.expiries.len(), other.expiries.len()));
        }
        let tolerance = if relative { RELATIVE_TOLERANCE_MS } else { 0 };
        for (key, at) in &self.expiries {
            match other.expiries.get(key) {
                Some(there) if (there - at).abs() <= tolerance => {}
                there => found.push(format!(
                    "expiry of {}/{}: {at} against {there:?}",
                    key.0,
                    String::from_utf8_lossy(&key.1)
                )),
            }
        }
        found.truncate(20);
        found
    }
}

/// A digest of all values as commands read them; equal for equal values whatever their order or encoding.
async fn contents(connection: &mut MultiplexedConnection, databases: &BTreeMap<u32, u64>) -> Result<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut found: BTreeMap<(u32, Vec<u8>), Vec<String>> = BTreeMap::new();
    for &database in databases.keys() {
        redis::cmd("SELECT").arg(database).query_async::<()>(connection).await?;
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(connection).await?;
        for key in keys {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(connection).await?;
            let mut command = match kind.as_str() {
                "string" => redis::cmd("GET"),
                "list" => redis::cmd("LRANGE"),
                "set" => redis::cmd("SMEMBERS"),
                "hash" => redis::cmd("HGETALL"),
                "zset" => redis::cmd("ZRANGE"),
                "stream" => redis::cmd("XRANGE"),
                other => anyhow::bail!("no command reads a {other}"),
            };
            command.arg(&key);
            match kind.as_str() {
                "list" => drop(command.arg(0).arg(-1)),
                "zset" => drop(command.arg(0).arg(-1).arg("WITHSCORES")),
                "stream" => drop(command.arg("-").arg("+")),
                _ => {}
            }
            let value: redis::Value = command.query_async(connection).await?;
            let mut parts = match (kind.as_str(), value) {
                ("set", redis::Value::Array(members)) => members.iter().map(|one| format!("{one:?}")).collect(),
                ("hash", redis::Value::Array(fields)) => {
                    fields.chunks(2).map(|pair| format!("{pair:?}")).collect::<Vec<_>>()
                }
                (_, value) => vec![format!("{value:?}")],
            };
            parts.sort();
            parts.push(kind);
            found.insert((database, key), parts);
        }
    }
    redis::cmd("SELECT").arg(0).query_async::<()>(connection).await?;
    let mut hasher = DefaultHasher::new();
    found.hash(&mut hasher);
    Ok(format!("contents of {} keys: {:016x}", found.len(), hasher.finish()))
}

/// Keys by database, from `INFO keyspace`.
async fn databases(connection: &mut MultiplexedConnection) -> Result<BTreeMap<u32, u64>> {
    let text: String = redis::cmd("INFO").arg("keyspace").query_async(connection).await?;
    let mut keys = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("db")) {
        let (number, rest) = line.split_once(':').context("a keyspace line without a colon")?;
        let count =
            rest.split(',').find_map(|field| field.strip_prefix("keys=")).context("a keyspace line without keys")?;
        keys.insert(number.parse()?, count.parse()?);
    }
    Ok(keys)
}

async fn read_expiries(
    connection: &mut MultiplexedConnection,
    version: Version,
    database: u32,
    expiries: &mut BTreeMap<(u32, Vec<u8>), i64>,
) -> Result<()> {
    let mut cursor: u64 = 0;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) =
            redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(1000).query_async(connection).await?;
        if !keys.is_empty() {
            let mut pipeline = redis::pipe();
            for key in &keys {
                pipeline.cmd(if version == Version::Redis62 { "PTTL" } else { "PEXPIRETIME" }).arg(key);
            }
            let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
            let times: Vec<i64> = pipeline.query_async(connection).await?;
            for (key, time) in keys.into_iter().zip(times) {
                if time >= 0 {
                    let at = if version == Version::Redis62 { now + time } else { time };
                    expiries.insert((database, key), at);
                }
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

async fn functions(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, String>> {
    let reply: Vec<Vec<redis::Value>> =
        redis::cmd("FUNCTION").arg("LIST").arg("WITHCODE").query_async(connection).await?;
    let mut found = BTreeMap::new();
    for library in reply {
        let mut fields = library.into_iter();
        let (mut name, mut code) = (String::new(), String::new());
        while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
            match redis::from_redis_value::<String>(key)?.as_str() {
                "library_name" => name = redis::from_redis_value(value)?,
                "library_code" => code = redis::from_redis_value(value)?,
                _ => {}
            }
        }
        found.insert(name, code);
    }
    Ok(found)
}

/// Every key of database 0 with the digest of its value (`DEBUG DIGEST-VALUE`): what shards of different cuts agree on.
pub async fn values(server: &RedisServer) -> Result<BTreeMap<Vec<u8>, String>> {
    let mut connection = server.connect().await?;
    let mut found = BTreeMap::new();
    let mut cursor: u64 = 0;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) =
            redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(500).query_async(&mut connection).await?;
        if !keys.is_empty() {
            let digests: Vec<String> =
                redis::cmd("DEBUG").arg("DIGEST-VALUE").arg(&keys).query_async(&mut connection).await?;
            found.extend(keys.into_iter().zip(digests));
        }
        cursor = next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}
