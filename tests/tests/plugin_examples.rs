//! The example plugins back up and restore real servers through the command line, as their READMEs say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::Path;

use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::{fail, succeed};

fn plugin(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/dist/{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask plugins`", path.display());
    path.display().to_string()
}

fn grants<'grant>(names: &[&'grant str]) -> Vec<&'grant str> {
    names.iter().flat_map(|name| ["--grant", name]).collect()
}

async fn fill(server: &RedisServer) {
    let mut connection = server.connect().await.unwrap();
    let mut commands = redis::pipe();
    for database in [0, 3] {
        commands.cmd("SELECT").arg(database).ignore();
        for number in 0..500 {
            commands
                .set(format!("key:{database}:{number}"), vec![u8::try_from(number % 256).unwrap(); number])
                .ignore();
        }
        commands.cmd("ZADD").arg("zset").arg(1).arg("a").arg(2).arg("b").ignore();
        commands.cmd("XADD").arg("stream").arg("*").arg("field").arg(&b"\0\r\n\xff"[..]).ignore();
        commands.cmd("SET").arg(&b"bin\0\r\nary"[..]).arg("").arg("PX").arg(3_600_000).ignore();
        commands.set("large", vec![7u8; 3 << 20]).ignore();
    }
    commands.query_async::<()>(&mut connection).await.unwrap();
}

/// Every database's digest, and the largest time to live, in minutes.
async fn fingerprint(server: &RedisServer) -> Vec<String> {
    let mut connection = server.connect().await.unwrap();
    let mut found = Vec::new();
    for database in [0, 3] {
        redis::cmd("SELECT").arg(database).query_async::<()>(&mut connection).await.unwrap();
        let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        let left: i64 = redis::cmd("PTTL").arg(&b"bin\0\r\nary"[..]).query_async(&mut connection).await.unwrap();
        assert!(left > 0 && left <= 3_600_000, "{left}");
        let mut names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        names.sort();
        for name in names {
            let value: redis::Value = redis::cmd("DUMP").arg(&name).query_async(&mut connection).await.unwrap();
            found.push(format!("{database} {size} {name:?} {value:?}"));
        }
    }
    found
}

#[tokio::test]
async fn the_raw_example_restores_a_dataset_into_a_directory() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    fill(&server).await;
    let before = fingerprint(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let (storage, data) = (folder.path().join("storage"), folder.path().join("data"));
    let (storage, data, plugin) = (storage.to_str().unwrap(), data.to_str().unwrap(), plugin("example-raw"));
    let source = server.url();
    let stored = ["--storage", storage, "--cluster", "one"];
    let with = |granted: &[&'static str]| [&["--plugin", plugin.as_str()][..], &grants(granted)].concat();

    let backup = [&["backup", "--source", &source][..], &stored].concat();
    fail(1, &["redis:replicate"], [&backup[..], &with(&[])].concat());
    succeed([&backup[..], &with(&["redis:replicate"])].concat());
    succeed([&["verify", "latest", "--level", "parse"][..], &stored, &with(&[])].concat());
    let restore = |appendonly| {
        [
            &["restore", "latest", "--target-dir", data, "--appendonly", appendonly][..],
            &stored,
            &with(&["files:write:*"]),
        ]
        .concat()
    };
    fail(5, &["append-only"], restore("yes"));
    succeed(restore("no"));
    let restored = RedisServer::start_in(Version::Redis70, Path::new(data), &["--appendonly", "no"]).unwrap();
    assert_eq!(fingerprint(&restored).await, before);
}

#[tokio::test]
async fn the_python_example_restores_every_key_into_a_live_server() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    fill(&server).await;
    let before = fingerprint(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("storage");
    let (storage, plugin) = (storage.to_str().unwrap(), plugin("example-python"));
    let source = server.url();
    let stored = ["--storage", storage, "--cluster", "one"];
    let with = |granted: &[&'static str]| [&["--plugin", plugin.as_str()][..], &grants(granted)].concat();

    let granted =
        ["redis:info", "redis:command:SELECT", "redis:command:SCAN", "redis:command:PTTL", "redis:command:DUMP"];
    succeed([&["backup", "--source", &source][..], &stored, &with(&granted)].concat());
    succeed([&["verify", "latest", "--level", "parse"][..], &stored, &with(&[])].concat());
    let inspected = succeed([&["inspect", "latest", "--output", "json"][..], &stored, &with(&[])].concat());
    assert_eq!(inspected.json()["keys"], before.len());

    let target = RedisServer::start(Version::Redis70).unwrap();
    let target_url = target.url();
    succeed([&["restore", "latest", "--target", &target_url][..], &stored, &with(&["redis:load"])].concat());
    assert_eq!(fingerprint(&target).await, before);
}
