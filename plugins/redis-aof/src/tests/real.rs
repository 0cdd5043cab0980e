//! On real servers of every version, while a writer runs: what is restored must be exactly the operations that it says it holds.

use std::path::Path;
use std::time::Duration;

use redkeep_sdk::{Attribute, Facts, Method, attribute, code};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, Writer, applied, apply};
use rstest::rstest;

use super::host::RealHost;
use crate::RedisAof;
use crate::marks::Marks;

/// Operations before the writer starts.
const BEFORE: u64 = 1500;
/// A cut inside a command or a transaction must not start.
const STRICT: &[&str] = &["--appendonly", "yes", "--aof-load-truncated", "no"];

fn version_text(version: Version) -> &'static str {
    match version {
        Version::Redis62 => "6.2.14",
        Version::Redis70 => "7.0.15",
        Version::Redis82 => "8.2.3",
        Version::Valkey81 => "8.1.8",
    }
}

fn name_text(version: Version) -> &'static str {
    if version == Version::Valkey81 { "valkey" } else { "redis" }
}

/// `verify` must agree with `capture` on every fact that both report.
fn verified(backup: &RealHost, facts: &Facts) -> Facts {
    let host = RealHost::new("verify", &[], "{}").holding(backup, facts);
    let found = RedisAof::verify(&host).unwrap();
    for Attribute { key, value } in facts.as_slice() {
        if let Some(there) = found.get(key) {
            assert_eq!(there, value, "fact {key}");
        }
    }
    for key in ["keys", "commands", "databases", "checksum"] {
        assert!(found.get(key).is_some(), "no fact {key}");
    }
    found
}

fn restore_into(directory: &Path, backup: &RealHost, facts: &Facts, version: Version, parameters: &str) -> Facts {
    let context = [("target", "directory"), ("server-version", version_text(version)), ("appendonly", "yes")];
    let host = RealHost::new("restore", &context, parameters).holding(backup, facts).in_directory(directory);
    RedisAof::plan(&host).unwrap();
    RedisAof::restore(&host).unwrap()
}

/// Starts a server on what was laid out; it must equal a fresh server on which just the operations ran that it holds.
async fn compare(directory: &Path, version: Version, shape: &Shape) -> u64 {
    let restored = RedisServer::start_in(version, directory, STRICT).unwrap();
    equals_its_operations(&restored, shape).await
}

async fn equals_its_operations(restored: &RedisServer, shape: &Shape) -> u64 {
    let version = restored.version();
    let mut connection = restored.connect().await.unwrap();
    let last = applied(&mut connection, shape).await.unwrap();
    let replay = RedisServer::start(version).unwrap();
    let mut again = replay.connect().await.unwrap();
    apply(&mut again, shape, 1, BEFORE.min(last)).await.unwrap();
    if last > BEFORE {
        apply(&mut again, &Shape { functions: false, ..shape.clone() }, BEFORE + 1, last).await.unwrap();
    }
    let (left, right) = (Dataset::of(restored).await.unwrap(), Dataset::of(&replay).await.unwrap());
    assert_eq!(left.differences(&right, version == Version::Redis62), Vec::<String>::new(), "{version:?} at {last}");
    last
}

async fn filled(version: Version, shape: &Shape, arguments: &[&str]) -> RedisServer {
    let server = RedisServer::start_with(version, arguments).unwrap();
    let mut connection = server.connect().await.unwrap();
    apply(&mut connection, shape, 1, BEFORE).await.unwrap();
    server
}

/// The host blocks, so it runs beside the runtime that drives the writer.
fn captured(host: RealHost) -> (RealHost, Facts) {
    // A fake host is not `Send`: it is made and used in the thread that blocks.
    let facts = tokio::task::block_in_place(|| {
        RedisAof::plan(&host).unwrap();
        RedisAof::capture(&host).unwrap()
    });
    (host, facts)
}

fn replication_host(server: &RedisServer, parameters: &str) -> RealHost {
    let context = [
        ("capabilities", "redis"),
        ("server-name", name_text(server.version())),
        ("server-version", version_text(server.version())),
        ("mode", "standalone"),
    ];
    RealHost::new("capture", &context, parameters).at_server(server.address())
}

fn marks_of(backup: &RealHost) -> Marks {
    Marks::from_json(&backup.fake.artifact("appendonly.marks.json").unwrap()).unwrap()
}

#[rstest]
#[case(Version::Redis62)]
#[case(Version::Redis70)]
#[case(Version::Redis82)]
#[case(Version::Valkey81)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_taken_under_a_writer_restores_to_exactly_the_operations_it_holds(#[case] version: Version) {
    let shape = Shape::standalone(version);
    let source = filled(version, &shape, &[]).await;
    let writer = Writer::start(&source, &shape, BEFORE + 1).await.unwrap();
    let (backup, facts) = captured(replication_host(&source, r#"{"window":"2500ms"}"#));
    let written = writer.stop().await.unwrap();
    verified(&backup, &facts);
    assert_eq!(facts.get("source-route"), Some("replication"));
    let commands: u64 = facts.get("commands").unwrap().parse().unwrap();
    assert!(commands > 100, "the stream holds only {commands} commands");

    // Whole.
    let whole = tempfile::tempdir().unwrap();
    let restored = restore_into(whole.path(), &backup, &facts, version, "{}");
    assert_eq!(restored.get("commands"), facts.get("commands"));
    let last = compare(whole.path(), version, &shape).await;
    assert!(last > BEFORE && last <= written, "{last} of {written}");

    // Up to a time: a mark in the middle.
    let marks = marks_of(&backup);
    let middle = marks.as_slice()[marks.as_slice().len() / 2];
    assert!(middle.offset > marks.first().offset && middle.offset < marks.last().offset, "{marks:?}");
    let by_time = tempfile::tempdir().unwrap();
    let until = format!(r#"{{"until":"{}"}}"#, crate::clock::rfc3339(middle.time_ms));
    let restored = restore_into(by_time.path(), &backup, &facts, version, &until);
    assert_eq!(restored.get("restored-until"), Some(crate::clock::rfc3339(middle.time_ms).as_str()));
    let at_time = compare(by_time.path(), version, &shape).await;
    assert!(at_time < last);

    // Up to an offset some bytes into the next step: nearer than the mark, never beyond.
    let by_offset = tempfile::tempdir().unwrap();
    let wanted = u64::midpoint(middle.offset, marks.last().offset);
    let restored = restore_into(by_offset.path(), &backup, &facts, version, &format!(r#"{{"until":"{wanted}"}}"#));
    let reached: u64 = restored.get("restored-offset").unwrap().parse().unwrap();
    assert!(reached <= wanted && reached > middle.offset, "{reached} for {wanted}");
    let at_offset = compare(by_offset.path(), version, &shape).await;
    assert!(at_offset >= at_time && at_offset < last);

    // Into an empty live server, whole and up to the mark.
    for (parameters, expected) in [("{}", last), (until.as_str(), at_time)] {
        let target = RedisServer::start(version).unwrap();
        let context = [
            ("target", "server"),
            ("server-name", name_text(version)),
            ("server-version", version_text(version)),
            ("databases", "16"),
        ];
        let host = RealHost::new("restore", &context, parameters).holding(&backup, &facts).at_server(target.address());
        let restored = tokio::task::block_in_place(|| {
            RedisAof::plan(&host).unwrap();
            RedisAof::restore(&host).unwrap()
        });
        assert!(restored.get("keys-restored").is_some_and(|keys| keys != "0"), "{restored:?}");
        assert_eq!(equals_its_operations(&target, &shape).await, expected);
    }

    // Into a newer server too: 6.2's one stream in the layout of 7 and 8.
    if version == Version::Redis62 {
        for newer in [Version::Redis70, Version::Redis82, Version::Valkey81] {
            let directory = tempfile::tempdir().unwrap();
            restore_into(directory.path(), &backup, &facts, newer, "{}");
            assert!(directory.path().join("appendonlydir/appendonly.aof.manifest").is_file());
            assert_eq!(compare(directory.path(), newer, &Shape { functions: false, ..shape.clone() }).await, last);
        }
    }
}

#[rstest]
#[case(Version::Redis62)]
#[case(Version::Redis82)]
#[case(Version::Valkey81)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicas_stream_goes_on_in_the_database_that_its_snapshot_names(#[case] version: Version) {
    let primary = RedisServer::start(version).unwrap();
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(version, &["--replicaof", "127.0.0.1", &port]).unwrap();
    while replica.info("master_link_status").await.unwrap() != "up" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut connection = primary.connect().await.unwrap();
    redis::cmd("SELECT").arg(3).query_async::<()>(&mut connection).await.unwrap();
    redis::cmd("INCR").arg("counter").query_async::<u64>(&mut connection).await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..300 {
            redis::cmd("INCR").arg("counter").query_async::<u64>(&mut connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (backup, facts) = captured(replication_host(&replica, r#"{"window":"1s"}"#));
    writer.await.unwrap();
    verified(&backup, &facts);
    let directory = tempfile::tempdir().unwrap();
    restore_into(directory.path(), &backup, &facts, version, "{}");
    let restored = RedisServer::start_in(version, directory.path(), STRICT).unwrap();
    let dataset = Dataset::of(&restored).await.unwrap();
    assert_eq!(dataset.keys.into_iter().collect::<Vec<_>>(), [(3, 1)]);
    let commands: u64 = facts.get("commands").unwrap().parse().unwrap();
    assert!(commands > 10, "only {commands} commands");
}

#[rstest]
#[case(Version::Redis62, "yes")]
#[case(Version::Redis62, "no")]
#[case(Version::Redis70, "yes")]
#[case(Version::Redis70, "no")]
#[case(Version::Redis82, "yes")]
#[case(Version::Valkey81, "yes")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_taken_under_a_writer_and_rewrites_restore_to_exactly_the_operations_they_hold(
    #[case] version: Version,
    #[case] preamble: &str,
) {
    let shape = Shape::standalone(version);
    let arguments = ["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", preamble];
    let source = filled(version, &shape, &arguments).await;
    let writer = Writer::start(&source, &shape, BEFORE + 1).await.unwrap();
    for round in 0..4 {
        if round > 0 {
            let _ = source.command(&["BGREWRITEAOF"]).await;
        }
        let capabilities = if round % 2 == 0 { "files" } else { "redis files" };
        let context = [("capabilities", capabilities), ("server-version", version_text(version))];
        let host = RealHost::new("capture", &context, r#"{"source":"files"}"#)
            .at_server(source.address())
            .in_directory(source.dir());
        let least = writer.written();
        let (backup, facts) = captured(host);
        let most = writer.written() + 64;
        let found = RealHost::new("verify", &[], "{}").holding(&backup, &facts);
        let found = RedisAof::verify(&found).unwrap();
        assert_eq!(attribute::find(found.as_slice(), "commands"), facts.get("commands"));
        assert_eq!(attribute::find(found.as_slice(), "keys"), facts.get("keys"));
        let directory = tempfile::tempdir().unwrap();
        restore_into(directory.path(), &backup, &facts, version, "{}");
        let last = compare(directory.path(), version, &shape).await;
        assert!(last >= least && last <= most, "{last} is not between {least} and {most}");
        if version == Version::Redis62 && preamble == "yes" {
            let directory = tempfile::tempdir().unwrap();
            restore_into(directory.path(), &backup, &facts, Version::Redis82, "{}");
            compare(directory.path(), Version::Redis82, &Shape { functions: false, ..shape.clone() }).await;
        }
    }
    writer.stop().await.unwrap();
}

#[rstest]
#[case(Version::Redis70)]
#[case(Version::Redis82)]
#[case(Version::Valkey81)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_with_timestamps_restores_to_a_time(#[case] version: Version) {
    let shape = Shape::standalone(version);
    let arguments = ["--appendonly", "yes", "--appendfsync", "always", "--aof-timestamp-enabled", "yes"];
    let source = filled(version, &shape, &arguments).await;
    let writer = Writer::start(&source, &shape, BEFORE + 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let host = RealHost::new("capture", &[("capabilities", "files")], "{}").in_directory(source.dir());
    let (backup, facts) = captured(host);
    writer.stop().await.unwrap();
    let (first, last) = (facts.get("first-time").unwrap(), facts.get("last-time").unwrap());
    let milliseconds = |text: &str| crate::clock::parse_rfc3339(text).unwrap();
    assert!(milliseconds(last) >= milliseconds(first) + 2000, "{first} {last}");
    let until = crate::clock::rfc3339(milliseconds(last) - 1000);
    let parameters = format!(r#"{{"until":"{until}"}}"#);

    let whole = tempfile::tempdir().unwrap();
    restore_into(whole.path(), &backup, &facts, version, "{}");
    let all = compare(whole.path(), version, &shape).await;
    let cut = tempfile::tempdir().unwrap();
    let restored = restore_into(cut.path(), &backup, &facts, version, &parameters);
    assert_eq!(restored.get("restored-until"), Some(until.as_str()));
    let reached = compare(cut.path(), version, &shape).await;
    assert!(reached > 0 && reached < all, "{reached} of {all}");

    let early = format!(r#"{{"until":"{}"}}"#, crate::clock::rfc3339(milliseconds(first) - 1000));
    let context = [("target", "directory"), ("appendonly", "yes")];
    let directory = tempfile::tempdir().unwrap();
    let host = RealHost::new("restore", &context, &early).holding(&backup, &facts).in_directory(directory.path());
    let error = RedisAof::restore(&host).unwrap_err();
    assert!(error.is(code::REFUSED) && error.message.contains(first), "{error}");
    assert!(directory.path().read_dir().unwrap().next().is_none(), "something was placed");
}
