//! Storage that fails or lies: exit 3 for damage with the artifact named, and nothing is placed at the target.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::{Said, fail, finish, redkeep, refused, succeed};

async fn stored(method: &str, more: &[&str]) -> (tempfile::TempDir, String, PathBuf) {
    let server = RedisServer::start(Version::Redis70).unwrap();
    apply(&mut server.connect().await.unwrap(), &Shape::standalone(Version::Redis70), 1, 1500).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let text = store.display().to_string();
    let url = server.url();
    let mut arguments =
        vec!["backup", "--source", &url, "--method", method, "--storage", &text, "--cluster", "damaged", "-o", "json"];
    arguments.extend(more);
    let manifest = succeed(arguments).json();
    let artifact = store.join(manifest["artifacts"][0]["key"].as_str().unwrap());
    (place, text, artifact)
}

async fn damage_is_found(method: &str, place: &Path, store: &str, artifact: &Path, what: &str) {
    let name = if method == "rdb" { "dump.rdb" } else { "appendonly" };
    let target = place.join("data");
    let target_text = target.display().to_string();
    let what_for = |command: &str| format!("{command} with {what}");
    for arguments in [
        vec!["verify", "--storage", store, "latest", "--level", "checksum"],
        vec!["verify", "--storage", store, "latest", "--level", "parse"],
        vec!["restore", "--storage", store, "latest", "--target-dir", &target_text],
    ] {
        let said = redkeep_tests::run(&arguments);
        refused(&said, 3, &[name], &what_for(arguments[0]));
    }
    let left = std::fs::read_dir(&target).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{what}: something was placed at the target");

    let live = RedisServer::start(Version::Redis70).unwrap();
    let said = redkeep_tests::run(["restore", "--storage", store, "latest", "--target", &live.url()]);
    refused(&said, 3, &[name], &what_for("live restore"));
    let keys: i64 = redis::from_redis_value(live.command(&["DBSIZE"]).await.unwrap()).unwrap();
    assert_eq!(keys, 0, "{what}: something was written to the live target ({})", artifact.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_anywhere_is_found_and_nothing_is_placed() {
    for (method, compression) in [("rdb", "none"), ("rdb", "zstd"), ("aof", "zstd"), ("aof", "gzip")] {
        let (place, store, artifact) = stored(method, &["--compression", compression]).await;
        let whole = std::fs::read(&artifact).unwrap();
        for position in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[position] ^= 0x10;
            std::fs::write(&artifact, &flipped).unwrap();
            damage_is_found(
                method,
                place.path(),
                &store,
                &artifact,
                &format!("{method} {compression}, bit flipped at {position}"),
            )
            .await;
        }
        std::fs::write(&artifact, &whole[..whole.len() - 1]).unwrap();
        damage_is_found(method, place.path(), &store, &artifact, &format!("{method} {compression}, cut short")).await;
        std::fs::remove_file(&artifact).unwrap();
        damage_is_found(method, place.path(), &store, &artifact, &format!("{method} {compression}, artifact missing"))
            .await;
        std::fs::write(&artifact, &whole).unwrap();
        succeed(["verify", "--storage", &store, "latest"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_backup_that_can_be_restored_is_not_pruned() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    apply(&mut server.connect().await.unwrap(), &Shape::standalone(Version::Redis70), 1, 500).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().display().to_string();
    let url = server.url();
    let mut made = Vec::new();
    for _ in 0..2 {
        let arguments = ["backup", "--source", &url, "--method", "rdb", "--cluster", "damaged", "-o", "json"];
        made.push(succeed(arguments.into_iter().chain(["--storage", &store])).json());
    }
    let artifact = place.path().join(made[1]["artifacts"][0]["key"].as_str().unwrap());
    std::fs::remove_dir_all(artifact.parent().unwrap()).unwrap();
    let good = made[0]["backupId"].as_str().unwrap();
    let checked = succeed(["check", "--storage", &store, "--max-age", "1h", "-o", "json"]).json();
    assert_eq!(checked[0]["newest"]["backupId"], good, "{checked:#}");
    let pruned = succeed(["prune", "--storage", &store, "--keep-last", "1", "-o", "json"]);
    assert!(pruned.stderr.contains(made[1]["backupId"].as_str().unwrap()), "{pruned:#?}");
    let listed = succeed(["list", "--storage", &store, "-o", "json"]).json();
    assert!(listed.as_array().unwrap().iter().any(|entry| entry["backupId"] == good), "{listed:#}");
    succeed(["verify", "--storage", &store, good]);
    for scope in [["--cluster", "nope"], ["--namespace", "nope"]] {
        for command in ["list", "prune"] {
            fail(4, &["nope", "default/damaged"], [command, "--storage", &store].into_iter().chain(scope));
        }
    }
    let artifact = place.path().join(made[0]["artifacts"][0]["key"].as_str().unwrap());
    std::fs::remove_file(artifact).unwrap();
    fail(1, &["is not good", "is missing"], ["check", "--storage", &store, "--max-age", "1h"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_vanishes_during_a_live_restore_leaves_an_exact_count() {
    let source = RedisServer::start(Version::Redis70).unwrap();
    source.command(&["DEBUG", "POPULATE", "1000000", "key", "100"]).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store").display().to_string();
    let url = source.url();
    let arguments = ["backup", "--source", &url, "--method", "rdb", "--cluster", "gone", "--compression", "none"];
    let manifest = succeed(arguments.into_iter().chain(["--storage", &store, "-o", "json"])).json();
    let artifact = place.path().join("store").join(manifest["artifacts"][0]["key"].as_str().unwrap());
    let target = RedisServer::start(Version::Redis70).unwrap();
    let keys = || async { redis::from_redis_value::<i64>(target.command(&["DBSIZE"]).await.unwrap()).unwrap() };
    let child = redkeep()
        .args(["restore", "--storage", &store, "latest", "--target", &target.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while keys().await == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    std::fs::remove_file(artifact).unwrap();
    let said: Said = child.wait_with_output().unwrap().into();
    // Exit 3 would promise that nothing was written.
    refused(&said, 1, &["stopped half-way", "is missing", "empty the target"], "restore from storage that vanishes");
    let written = keys().await;
    assert!(written > 0 && written < 1_000_000, "{written}");
    assert!(said.stderr.contains(&format!(": {written} keys were written")), "{written} were written: {said:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_a_newer_format_is_refused() {
    let (place, store, artifact) = stored("rdb", &[]).await;
    let manifest = artifact.ancestors().nth(3).unwrap().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"formatVersion\": 1", "\"formatVersion\": 2")).unwrap();
    let target = place.path().join("data").display().to_string();
    fail(5, &["format 2"], ["restore", "--storage", &store, "latest", "--target-dir", &target]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_missing_key_is_refused_before_anything_is_touched() {
    let keys = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let path = keys.path().join(name);
        let made = Command::new("age-keygen").arg("-o").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        let public = said.split_whitespace().last().unwrap().to_owned();
        (path.display().to_string(), public)
    };
    let (right, public) = key("right");
    let (wrong, _) = key("wrong");
    let (place, store, _) = stored("rdb", &["--recipient", &public]).await;
    let target = place.path().join("data").display().to_string();
    fail(5, &["--identity", &public], ["restore", "--storage", &store, "latest", "--target-dir", &target]);
    fail(5, &[&public], ["restore", "--storage", &store, "latest", "--target-dir", &target, "--identity", &wrong]);
    assert!(!Path::new(&target).exists() || std::fs::read_dir(&target).unwrap().next().is_none());
    succeed([
        "restore",
        "--storage",
        &store,
        "latest",
        "--target-dir",
        &target,
        "--identity",
        &right,
        "--appendonly",
        "no",
    ]);
    let server = RedisServer::start_in(Version::Redis70, Path::new(&target), &[]).unwrap();
    let keys: i64 = redis::from_redis_value(server.command(&["DBSIZE"]).await.unwrap()).unwrap();
    assert!(keys > 100, "only {keys} keys came back");
}

async fn slow_backup(signal: i32, expected: i32) {
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["DEBUG", "POPULATE", "100000", "key", "200"]).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let child = redkeep()
        .args([
            "backup",
            "--source",
            &server.url(),
            "--method",
            "rdb",
            "--cluster",
            "stopped",
            "--compression",
            "none",
            "--limit-rate",
            "1M",
            "--storage",
        ])
        .arg(&store)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let signal = if signal == 2 { rustix::process::Signal::INT } else { rustix::process::Signal::TERM };
    rustix::process::kill_process(pid, signal).unwrap();
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!(said.code, Some(expected), "{said:#?}");
    let mut folders = vec![store.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                panic!("{} was left behind", entry.path().display());
            }
        }
    }
    // The server is free again: a second run works.
    let store = store.display().to_string();
    succeed(["backup", "--source", &server.url(), "--method", "rdb", "--cluster", "stopped", "--storage", &store]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_c_and_sigterm_leave_nothing_and_free_the_server() {
    slow_backup(2, 130).await;
    slow_backup(15, 143).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_leaves_no_backup() {
    if !rustix::process::getuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "a small file system needs root, and CI skips nothing");
        eprintln!("skipped: a small file system needs root");
        return;
    }
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["DEBUG", "POPULATE", "100000", "key", "200"]).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(place.path()).status().unwrap();
    assert!(mounted.success(), "failed to mount a small file system");
    let store = place.path().join("store").display().to_string();
    let mut command = redkeep();
    command.args([
        "backup",
        "--source",
        &server.url(),
        "--method",
        "rdb",
        "--cluster",
        "full",
        "--compression",
        "none",
        "--storage",
        &store,
    ]);
    let said = finish(command);
    let manifests = Command::new("find").arg(place.path()).args(["-type", "f"]).output().unwrap();
    let unmounted = Command::new("umount").arg(place.path()).status().unwrap();
    refused(&said, 1, &["space"], "backup into a full disk");
    assert_eq!(String::from_utf8_lossy(&manifests.stdout), "", "something was left behind");
    assert!(unmounted.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_slower_than_the_server_does_not_lose_the_end_of_a_snapshot() {
    for version in Version::ALL {
        let server = RedisServer::start(version).unwrap();
        let mut connection = server.connect().await.unwrap();
        // More than the server's send queue, and nothing that compresses.
        let mut state: u64 = 1;
        for number in 0..160 {
            let mut value = Vec::with_capacity(100 << 10);
            while value.len() < 100 << 10 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value.extend(state.to_be_bytes());
            }
            redis::cmd("SET").arg(format!("key:{number}")).arg(value).query_async::<()>(&mut connection).await.unwrap();
        }
        let place = tempfile::tempdir().unwrap();
        let store = place.path().join("store").display().to_string();
        let arguments =
            ["backup", "--method", "rdb", "--cluster", "slow", "--compression", "none", "--limit-rate", "3M"];
        succeed(arguments.iter().copied().chain(["--source", &server.url(), "--storage", &store]));
        succeed(["verify", "--storage", &store, "latest"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_that_no_plugin_reads_is_refused_by_its_type() {
    let (place, store, artifact) = stored("rdb", &[]).await;
    let manifest = artifact.ancestors().nth(3).unwrap().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"type\": \"rdb\"", "\"type\": \"mine\"")).unwrap();
    let target = place.path().join("data").display().to_string();
    fail(5, &["`mine`", "--plugin"], ["restore", "--storage", &store, "latest", "--target-dir", &target]);
    fail(5, &["`mine`", "redis-rdb"], ["verify", "--storage", &store, "latest"]);
    assert!(!Path::new(&target).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_too_slow_for_the_hold_limit_frees_the_server_and_leaves_nothing() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["DEBUG", "POPULATE", "300000", "key", "300"]).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let text = store.display().to_string();
    let source = server.url();
    let arguments = ["backup", "--method", "rdb", "--cluster", "held", "--compression", "none", "--source", &source];
    let slow = ["--storage", &text, "--limit-rate", "1M", "--hold-limit", "2s"];
    fail(1, &["held the server", "--spool"], arguments.into_iter().chain(slow));
    let mut folders = vec![store.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            assert!(entry.path().is_dir(), "{} was left", entry.path().display());
            folders.push(entry.path());
        }
    }
    assert_eq!(server.info("connected_slaves").await.unwrap(), "0", "the server still serves us");
    succeed(arguments.into_iter().chain(["--storage", &text]));
}
