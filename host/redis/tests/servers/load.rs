//! Bulk loads into real servers: counted exactly, stopped in time, routed by slot.

use bytes::Bytes;
use redkeep_core::attribute::find;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::RedisServer as Access;
use redkeep_core::{Attribute, Classify as _};
use redkeep_testing::dataset::values;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::{RedisCluster, replicate};
use rstest::rstest;

use crate::support::{access, endpoint, resp};

async fn load(target: &dyn Access, bytes: &[u8], chunk: usize, tolerate: &str) -> Result<(u64, u64), MethodError> {
    let mut sink = target.load(vec![Attribute::new("tolerate", tolerate)]).await?;
    for piece in bytes.chunks(chunk) {
        sink.write(Bytes::copy_from_slice(piece)).await?;
    }
    let done = sink.finish(Vec::new()).await?.attributes;
    Ok(counts(&done))
}

fn counts(attributes: &[Attribute]) -> (u64, u64) {
    let number = |key: &str| find(attributes, key).unwrap_or_else(|| panic!("{attributes:?}")).parse().unwrap();
    (number("commands"), number("errors"))
}

async fn number(server: &RedisServer, command: &[&str]) -> u64 {
    redis::from_redis_value(server.command(command).await.unwrap()).unwrap()
}

fn sets(from: usize, to: usize) -> Vec<u8> {
    (from..to).flat_map(|key| resp(&["SET", &format!("key:{key}"), &"v".repeat(key % 100)])).collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_run_and_counted_at_any_chunking(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(11, 4096, 300_000)] chunk: usize,
) {
    let server = RedisServer::start(version).unwrap();
    let mut bytes = sets(0, 3000);
    bytes.extend(resp(&["SELECT", "3"]));
    bytes.extend(resp(&["MULTI"]));
    bytes.extend(resp(&["RPUSH", "l", "a", "b"]));
    bytes.extend(resp(&["INCR", "n"]));
    bytes.extend(resp(&["EXEC"]));
    bytes.extend(resp(&["SET", "big", &"x".repeat(3 << 20)]));
    bytes.extend(sets(0, 500));
    let done = load(&*access(&server.url()).await, &bytes, chunk, "").await.unwrap();
    assert_eq!(done, (3000 + 5 + 1 + 500, 0));
    assert_eq!(number(&server, &["DBSIZE"]).await, 3000);
    let mut connection = server.connect().await.unwrap();
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(3).ignore().cmd("DBSIZE").cmd("STRLEN").arg("big").cmd("LLEN").arg("l");
    let found: (u64, u64, u64) = pipe.query_async(&mut connection).await.unwrap();
    assert_eq!(found, (503, 3 << 20, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_writes_pass() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let target = access(&server.url()).await;
    for command in [
        &["GET", "a"][..],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["SHUTDOWN"],
        &["EVAL", "return 1", "0"],
        &["REPLICAOF", "a", "1"],
    ] {
        let bytes = [sets(0, 10), resp(command), sets(10, 20)].concat();
        let error = load(&*target, &bytes, 1 << 20, "").await.unwrap_err();
        assert_eq!(error.code, code::DENIED, "{command:?}");
        assert!(error.message.contains(command[0]));
        let help = error.help().unwrap();
        let expected = if command[0] == "EVAL" { "data directory" } else { "forged or damaged" };
        assert!(help.contains(expected) && !help.contains("grant"), "{help}");
        assert_eq!(counts(&error.details).0, number(&server, &["DBSIZE"]).await);
        server.command(&["FLUSHALL"]).await.unwrap();
    }
    for broken in [&b"PING\r\n"[..], b"*1\r\n$-1\r\n", b"*2\r\n$3\r\nSET\r\n:1\r\n", b"*2\r\n$3\r\nSET\r\n$5\r\nab"] {
        assert_eq!(load(&*target, broken, 100, "").await.unwrap_err().code, code::DAMAGED);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_stream_that_carry_no_write_flag_pass(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let server = RedisServer::start(version).unwrap();
    let mut bytes = resp(&["XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"]);
    bytes.extend(resp(&["XGROUP", "CREATECONSUMER", "stream", "group", "one"]));
    bytes.extend(resp(&["PFADD", "count", "a", "b"]));
    bytes.extend(resp(&["PFCOUNT", "count"]));
    bytes.extend(resp(&["SCRIPT", "LOAD", "return 1"]));
    bytes.extend(resp(&["SCRIPT", "FLUSH"]));
    assert_eq!(load(&*access(&server.url()).await, &bytes, 1 << 20, "").await.unwrap(), (6, 0));
    let groups: Vec<redis::Value> =
        redis::from_redis_value(server.command(&["XINFO", "GROUPS", "stream"]).await.unwrap()).unwrap();
    assert_eq!(groups.len(), 1);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_value_counts_only_if_it_got_its_name(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let server = RedisServer::start(version).unwrap();
    let target = access(&server.url()).await;
    server.command(&["SET", "taken", "theirs"]).await.unwrap();
    let rebuilt = |key: &str, time: &str, rename: &str| {
        let temporary = "redkeep-restore:{7}";
        [
            resp(&["APPEND", temporary, "ours"]),
            resp(&["PEXPIREAT", temporary, time]),
            resp(&[rename, temporary, key]),
            resp(&["DEL", temporary]),
        ]
        .concat()
    };
    let later = "4000000000000";
    let bytes = [rebuilt("free", later, "RENAMENX"), rebuilt("gone", "1", "RENAMENX"), rebuilt("gone", "1", "RENAME")];
    assert_eq!(load(&*target, &bytes.concat(), 50, "").await.unwrap(), (10, 2));
    assert_eq!(number(&server, &["EXISTS", "free", "gone"]).await, 1);
    assert!(number(&server, &["PTTL", "free"]).await > 0);
    let bytes = rebuilt("taken", later, "RENAMENX");
    assert_eq!(load(&*target, &bytes, 50, "BUSYKEY").await.unwrap(), (3, 1));
    let error = load(&*target, &bytes, 1 << 20, "").await.unwrap_err();
    assert!(error.message.contains("BUSYKEY") && error.help().is_some(), "{error}");
    assert_eq!(number(&server, &["DBSIZE"]).await, 2, "nothing temporary is left");
    let left: (String, i64) =
        redis::pipe().get("taken").pttl("taken").query_async(&mut server.connect().await.unwrap()).await.unwrap();
    assert_eq!(left, ("theirs".to_owned(), -1));
    // A client's own RENAME has no such grace.
    let error = load(&*target, &resp(&["RENAME", "none", "x"]), 50, "").await.unwrap_err();
    assert!(error.message.contains("no such key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn error_replies_stop_the_load_unless_they_are_tolerated() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let target = access(&server.url()).await;
    server.command(&["SET", "taken", "1"]).await.unwrap();
    let payload: Vec<u8> = redis::from_redis_value(server.command(&["DUMP", "taken"]).await.unwrap()).unwrap();
    let restore = |key: &str| {
        let mut out = bytes::BytesMut::new();
        let words: [&[u8]; 4] = [b"RESTORE", key.as_bytes(), b"0", &payload];
        redkeep_redis::resp::encode_command(&words, &mut out);
        out.to_vec()
    };
    let bytes = [restore("a"), restore("taken"), restore("b")].concat();
    let error = load(&*target, &bytes, 1 << 20, "").await.unwrap_err();
    assert_eq!(error.code, code::SERVER_REPLY);
    assert!(error.message.contains("BUSYKEY") && find(&error.details, "help").unwrap().contains("--on-conflict"));
    assert!(find(&error.details, "first-error").unwrap().starts_with("BUSYKEY"));
    assert_eq!(counts(&error.details), (2, 1));
    server.command(&["DEL", "a", "b"]).await.unwrap();
    assert_eq!(load(&*target, &bytes, 7, "BUSYKEY OTHER").await.unwrap(), (2, 1));
    assert_eq!(number(&server, &["DBSIZE"]).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_database_that_does_not_exist() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let bytes = [resp(&["SELECT", "99"]), sets(0, 10)].concat();
    let error = load(&*access(&server.url()).await, &bytes, 1 << 20, "").await.unwrap_err();
    assert_eq!(counts(&error.details), (0, 1));
    assert_eq!(number(&server, &["DBSIZE"]).await, 0, "they would have gone to database 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_out_of_memory_or_read_only_is_told_with_the_exact_count() {
    let server = RedisServer::start_with(Version::Redis70, &["--maxmemory", "8mb"]).unwrap();
    let bytes: Vec<u8> = (0..40_000).flat_map(|key| resp(&["SET", &format!("k{key}"), &"v".repeat(500)])).collect();
    let error = load(&*access(&server.url()).await, &bytes, 64 << 10, "").await.unwrap_err();
    assert_eq!(error.code, code::SERVER_REPLY);
    assert!(find(&error.details, "help").unwrap().contains("maxmemory"), "{error}");
    let held = number(&server, &["DBSIZE"]).await;
    assert!(held > 0);
    assert_eq!(counts(&error.details).0, held);

    let (primary, replica) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    replicate(&replica, &primary).await.unwrap();
    let error = load(&*access(&replica.url()).await, &sets(0, 10), 100, "").await.unwrap_err();
    assert!(find(&error.details, "help").unwrap().contains("primary"));
    assert_eq!(counts(&error.details).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_is_an_error() {
    let mut server = RedisServer::start(Version::Redis70).unwrap();
    let target = access(&server.url()).await;
    let mut sink = target.load(Vec::new()).await.unwrap();
    sink.write(sets(0, 50_000).into()).await.unwrap();
    server.kill();
    let mut outcome = sink.write(sets(0, 50_000).into()).await;
    if outcome.is_ok() {
        outcome = sink.finish(Vec::new()).await.map(|_| ());
    }
    let error = outcome.unwrap_err();
    assert_eq!(error.code, code::TARGET_IO);
    assert!(find(&error.details, "commands").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_transaction_is_counted_as_it_took_effect() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let target = access(&server.url()).await;
    let parts = [
        resp(&["SET", "s", "1"]),
        resp(&["MULTI"]),
        resp(&["SET", "a", "1"]),
        resp(&["LPUSH", "s", "x"]),
        resp(&["EXEC"]),
        resp(&["MULTI"]),
        resp(&["SET", "b"]),
        resp(&["SET", "c", "1"]),
        resp(&["EXEC"]),
    ];
    let error = load(&*target, &parts.concat(), 1000, "WRONGTYPE ERR").await.unwrap_err();
    // SET, MULTI, SET, EXEC; not the LPUSH, and nothing of the second transaction.
    assert_eq!(counts(&error.details), (4, 3), "{error:?}");
    assert!(error.message.contains("EXECABORT"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_loaded_by_slot(#[values(Version::Redis62, Version::Redis82)] version: Version) {
    let cluster = RedisCluster::start(version, &[5461, 10_923], false).await.unwrap();
    let target = redkeep_redis::connect_target(&endpoint(&cluster.url()), None, None).await.unwrap();
    assert!(target.cluster && target.keys == 0);
    let mut bytes = resp(&["SELECT", "0"]);
    bytes.extend(sets(0, 5000));
    bytes.extend(resp(&["MULTI"]));
    bytes.extend(resp(&["SET", "{t}a", "1"]));
    bytes.extend(resp(&["SET", "{t}b", "1"]));
    bytes.extend(resp(&["EXEC"]));
    bytes.extend(resp(&["SET", "big", &"x".repeat(3 << 20)]));
    if version != Version::Redis62 {
        bytes.extend(resp(&[
            "FUNCTION",
            "LOAD",
            "#!lua name=l\nredis.register_function('f', function() return 1 end)",
        ]));
    }
    let functions = u64::from(version != Version::Redis62);
    for chunk in [13, 100_000] {
        let done = load(&**target.redis.as_ref().unwrap(), &bytes, chunk, "").await.unwrap();
        assert_eq!(done, (1 + 5000 + 4 + 1 + functions, 0));
        let mut keys = 0;
        for primary in &cluster.primaries {
            keys += values(primary).await.unwrap().len();
            if functions == 1 {
                let list = primary.command(&["FUNCTION", "LIST"]).await.unwrap();
                assert!(matches!(list, redis::Value::Array(list) if list.len() == 1), "every primary has it");
            }
        }
        assert_eq!(keys, 5003);
        load(&**target.redis.as_ref().unwrap(), &resp(&["FLUSHALL"]), 100, "").await.unwrap();
        if functions == 1 {
            load(&**target.redis.as_ref().unwrap(), &resp(&["FUNCTION", "FLUSH"]), 100, "").await.unwrap();
        }
    }
    let across = [resp(&["MULTI"]), resp(&["SET", "a", "1"]), resp(&["SET", "b", "1"]), resp(&["EXEC"])].concat();
    let error = load(&**target.redis.as_ref().unwrap(), &across, 1000, "").await.unwrap_err();
    assert_eq!(error.code, code::REFUSED, "{error}");
    let error = load(&**target.redis.as_ref().unwrap(), &resp(&["SELECT", "3"]), 1000, "").await.unwrap_err();
    assert_eq!(error.code, code::REFUSED, "{error}");
    for primary in &cluster.primaries {
        assert!(values(primary).await.unwrap().is_empty());
    }
}
