//! Snapshots and command streams of real servers, while a writer runs.

use std::time::Duration;

use redkeep_core::method::code;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::{Sentinel, replicate, wait_until};
use redkeep_testing::workload::{Shape, Writer, apply};
use rstest::rstest;

use crate::support::{access, commands, equals_replay, read_all, resp, snapshot, start_on_aof, start_on_rdb};

const SEEDED: u64 = 3000;

async fn seeded(version: Version, arguments: &[&str]) -> (RedisServer, Shape) {
    let server = RedisServer::start_with(version, arguments).unwrap();
    let shape = Shape::standalone(version);
    apply(&mut server.connect().await.unwrap(), &shape, 1, SEEDED).await.unwrap();
    (server, shape)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_exactly_the_rdb_in_both_framings(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values("yes", "no")] diskless: &str,
) {
    let (server, shape) = seeded(version, &["--repl-diskless-sync", diskless]).await;
    let writer = Writer::start(&server, &shape, SEEDED + 1).await.unwrap();
    let mut link = access(&server.url()).await.replicate(true).await.unwrap();
    let mut source = link.snapshot().await.unwrap();
    assert_eq!(source.size().is_some(), diskless == "no", "only a file on disk has a length");
    let rdb = read_all(&mut *source).await;
    writer.stop().await.unwrap();
    assert_eq!(link.id().len(), 40);
    assert!(rdb.starts_with(b"REDIS"));
    // Exactly to the end of the checksum: the tool of the server itself reads it, and nothing follows the 0xFF + 8 bytes.
    assert_eq!(rdb[rdb.len() - 9], 0xFF);
    let (restored, _folder) = start_on_rdb(version, &rdb);
    equals_replay(&restored, &shape, SEEDED).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_and_commands_make_one_append_only_file(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(false, true)] from_replica: bool,
) {
    let (primary, shape) = seeded(version, &[]).await;
    let replica = RedisServer::start(version).unwrap();
    if from_replica {
        replicate(&replica, &primary).await.unwrap();
    }
    let writer = Writer::start(&primary, &shape, SEEDED + 1).await.unwrap();
    let source = if from_replica { &replica } else { &primary };
    let mut link = access(&source.url()).await.replicate(false).await.unwrap();
    let rdb = snapshot(&mut *link).await;
    let start = link.start_offset();
    // First by time, then by offset: the second goes on where the first ended.
    let mut stream = commands(&mut *link, None, Some(1500)).await;
    let first = link.offset();
    assert!(first > start);
    let until: u64 = primary.info("master_repl_offset").await.unwrap().parse().unwrap();
    let written = writer.written();
    stream.extend(commands(&mut *link, Some(until), Some(30_000)).await);
    assert!(link.offset() >= until, "{} of {until}", link.offset());
    writer.stop().await.unwrap();
    let text = String::from_utf8_lossy(&stream).to_ascii_uppercase();
    assert!(!text.contains("\nPING\r") && !text.contains("GETACK"));
    let (restored, _folder) = start_on_aof(version, &rdb, &stream);
    let held = equals_replay(&restored, &shape, SEEDED).await;
    // Operations are acknowledged in rows of 64; all up to the offset asked for are there.
    assert!(held + 64 >= written, "{held} of {written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_times_of_6_2_are_absolute_in_what_is_stored() {
    let server = RedisServer::start(Version::Redis62).unwrap();
    let mut link = access(&server.url()).await.replicate(false).await.unwrap();
    let rdb = snapshot(&mut *link).await;
    let big = "v".repeat(3 << 20);
    server.command(&["SET", "dump", "x"]).await.unwrap();
    let payload: Vec<u8> = redis::from_redis_value(server.command(&["DUMP", "dump"]).await.unwrap()).unwrap();
    let mut connection = server.connect().await.unwrap();
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg("set").arg("1").arg("PX").arg(500_000);
    pipe.cmd("SETEX").arg("setex").arg(500).arg("1");
    pipe.cmd("SET").arg("expire").arg("1").ignore().cmd("EXPIRE").arg("expire").arg(500);
    pipe.cmd("SET").arg("large").arg(&big).arg("EX").arg(500);
    pipe.cmd("RESTORE").arg("restore").arg(500_000).arg(&payload);
    pipe.cmd("EVAL").arg("redis.call('SET', KEYS[1], '1', 'PX', 500000)").arg(1).arg("script");
    pipe.query_async::<()>(&mut connection).await.unwrap();
    let mut multi = redis::pipe();
    multi.atomic().cmd("SET").arg("multi").arg("1").arg("PX").arg(500_000);
    multi.query_async::<()>(&mut connection).await.unwrap();
    let until: u64 = server.info("master_repl_offset").await.unwrap().parse().unwrap();
    let stream = commands(&mut *link, Some(until), Some(60_000)).await;
    assert_eq!(link.offset(), until);
    // Loaded later, as backups are: a relative time would begin again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (restored, _folder) = start_on_aof(Version::Redis62, &rdb, &stream);
    for key in ["set", "setex", "expire", "large", "restore", "script", "multi"] {
        let left = async |server: &RedisServer| -> i64 {
            redis::from_redis_value(server.command(&["PTTL", key]).await.unwrap()).unwrap()
        };
        let (here, there) = (left(&restored).await, left(&server).await);
        assert!(there > 0 && (here - there).abs() < 2500, "{key}: {here} ms left, {there} at the source");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_us_for_a_replica(
    #[values(Version::Redis62, Version::Redis70, Version::Valkey81)] version: Version,
) {
    let (server, shape) = seeded(version, &[]).await;
    let sentinel = Sentinel::start(version, "mymaster", &server, 1).await.unwrap();
    let mut link = access(&server.url()).await.replicate(false).await.unwrap();
    snapshot(&mut *link).await;
    let writer = Writer::start(&server, &shape, SEEDED + 1).await.unwrap();
    // The stream runs, ...
    assert!(!commands(&mut *link, None, Some(2500)).await.is_empty());
    assert_eq!(server.info("connected_slaves").await.unwrap(), "1");
    // ... yet no write waits for us, ...
    // (after a write of its own: Valkey asks nothing of replicas for a client that wrote nothing)
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg("mine").arg(1).ignore().cmd("WAIT").arg(1).arg(1500);
    let (counted,): (i64,) = pipe.query_async(&mut server.connect().await.unwrap()).await.unwrap();
    assert_eq!(counted, 0);
    // ... no failover chooses us, ...
    assert!(server.command(&["FAILOVER", "TIMEOUT", "1000"]).await.is_ok());
    commands(&mut *link, None, Some(2500)).await;
    assert_eq!(server.info("role").await.unwrap(), "master");
    wait_until("the failover to be given up", || async {
        Ok(server.info("master_failover_state").await? == "no-failover")
    })
    .await
    .unwrap();
    // ... and the Sentinel, which asks every 10 seconds, lists nobody.
    commands(&mut *link, None, Some(11_000)).await;
    assert_eq!(sentinel.replicas("mymaster").await.unwrap(), 0);
    writer.stop().await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_where_it_ended(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let (server, shape) = seeded(version, &[]).await;
    let server_access = access(&server.url()).await;
    let mut link = server_access.replicate(false).await.unwrap();
    let rdb = snapshot(&mut *link).await;
    let writer = Writer::start(&server, &shape, SEEDED + 1).await.unwrap();
    let mut stream = commands(&mut *link, None, Some(1200)).await;
    let (id, offset) = (link.id(), link.offset());
    drop(link);
    let mut resumed = server_access.resume(&id, offset).await.unwrap();
    assert_eq!((resumed.start_offset(), resumed.id()), (offset, id.clone()));
    assert_eq!(resumed.snapshot().await.err().unwrap().code, code::NOT_FOUND);
    stream.extend(commands(&mut *resumed, None, Some(1200)).await);
    assert!(resumed.offset() > offset);
    writer.stop().await.unwrap();
    let (restored, _folder) = start_on_aof(version, &rdb, &stream);
    equals_replay(&restored, &shape, SEEDED).await;
    let other = id.chars().rev().collect::<String>();
    assert_eq!(server_access.resume(&other, offset).await.err().unwrap().code, code::NOT_FOUND);
    assert_eq!(server_access.resume(&id, offset + (1 << 40)).await.err().unwrap().code, code::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_comes_without_traffic_too() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let mut link = access(&server.url()).await.replicate(false).await.unwrap();
    assert_eq!(link.commands(None, Some(0)).await.err().unwrap().code, code::REFUSED, "the snapshot comes first");
    snapshot(&mut *link).await;
    assert!(commands(&mut *link, None, Some(300)).await.is_empty());
    let here = link.offset();
    assert!(commands(&mut *link, Some(here), None).await.is_empty(), "an offset that is reached already");
    assert!(link.snapshot().await.is_err(), "a snapshot is read once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_is_an_error_and_no_end() {
    for during_snapshot in [true, false] {
        let mut server = RedisServer::start_with(Version::Redis70, &["--rdb-key-save-delay", "0"]).unwrap();
        let mut connection = server.connect().await.unwrap();
        let value = vec![7_u8; 60 << 20];
        for key in 0..3 {
            redis::cmd("SET").arg(key).arg(&value).query_async::<()>(&mut connection).await.unwrap();
        }
        let mut link = access(&server.url()).await.replicate(false).await.unwrap();
        let mut source = link.snapshot().await.unwrap();
        let mut read = source.read(1 << 20).await.unwrap().len();
        if !during_snapshot {
            read += read_all_from(&mut *source).await;
            source = link.commands(None, None).await.unwrap();
        }
        assert!(read > 0);
        server.kill();
        let error = loop {
            match source.read(1 << 20).await {
                Ok(piece) => assert!(!piece.is_empty(), "a cut stream has no end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, code::SOURCE_IO);
        assert!(error.retryable, "{error}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_does_not_wait_for_us(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let (server, shape) =
        seeded(version, &["--shutdown-timeout", "600"][..if version == Version::Redis62 { 0 } else { 2 }]).await;
    let mut link = access(&server.url()).await.replicate(false).await.unwrap();
    snapshot(&mut *link).await;
    apply(&mut server.connect().await.unwrap(), &shape, SEEDED + 1, SEEDED + 100).await.unwrap();
    assert!(!commands(&mut *link, None, Some(2500)).await.is_empty());
    let pid = server.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut source = link.commands(None, None).await.unwrap();
    let error = loop {
        match source.read(1 << 20).await {
            Ok(piece) => assert!(!piece.is_empty()),
            Err(error) => break error,
        }
    };
    assert_eq!((error.code.as_str(), error.retryable), (code::SOURCE_IO, true));
    // The link's task notices on its own, while the handle still lives.
    wait_until("the server to end", || async {
        Ok(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err())
    })
    .await
    .unwrap();
}

async fn read_all_from(source: &mut dyn redkeep_core::stream::Source) -> usize {
    let mut total = 0;
    loop {
        match source.read(1 << 20).await.unwrap().len() {
            0 => return total,
            length => total += length,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_link_frees_the_server() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let mut connection = server.connect().await.unwrap();
    redis::cmd("SET").arg("k").arg(vec![1_u8; 100 << 20]).query_async::<()>(&mut connection).await.unwrap();
    let mut link = access(&server.url()).await.replicate(true).await.unwrap();
    let mut source = link.snapshot().await.unwrap();
    source.read(1000).await.unwrap();
    drop(source);
    drop(link);
    wait_until("the fork to end", || async {
        Ok(server.info("connected_slaves").await? == "0" && server.info("rdb_bgsave_in_progress").await? == "0")
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_passes_through_the_stream() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let mut link = access(&server.url()).await.replicate(false).await.unwrap();
    let rdb = snapshot(&mut *link).await;
    let value = vec![9_u8; 40 << 20];
    let mut connection = server.connect().await.unwrap();
    redis::cmd("SET").arg("big").arg(&value).arg("PX").arg(900_000).query_async::<()>(&mut connection).await.unwrap();
    redis::cmd("SET").arg("after").arg(1).query_async::<()>(&mut connection).await.unwrap();
    let until: u64 = server.info("master_repl_offset").await.unwrap().parse().unwrap();
    let stream = commands(&mut *link, Some(until), Some(60_000)).await;
    assert!(stream.len() > value.len() && stream.ends_with(&resp(&["SET", "after", "1"])));
    let (restored, _folder) = start_on_aof(Version::Redis70, &rdb, &stream);
    let length: u64 = redis::from_redis_value(restored.command(&["STRLEN", "big"]).await.unwrap()).unwrap();
    assert_eq!(length, value.len() as u64);
}
