//! Hostile plugins through the whole program, where the plugin host alone cannot show what becomes of them: what was stored is taken
//! back, a second reading finds the lie, and a real server sees bytes and no commands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "../../host/plugin/tests/support/guest.rs"]
#[allow(dead_code, reason = "the guests of the plugin host's tests have more ways than are needed here")]
mod guest;

use std::path::{Path, PathBuf};

use guest::Guest;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::{fail, succeed};

/// A guest that does this, writes five bytes as `dump.rdb` and reports facts of it.
fn capturing(first: impl FnOnce(&mut Guest) -> String, facts: &[(&str, &str)]) -> Guest {
    Guest::capture(|guest| {
        let (name, kind, none) = (guest.text("dump.rdb"), guest.attributes(&[("type", "rdb")]), guest.attributes(&[]));
        let (first, facts) = (first(guest), guest.facts(facts));
        format!(
            "{first} (call $create {name} {kind} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $write (local.get $a) (i32.const 0) (i32.const 5) (global.get $ret))
             (call $finish (local.get $a) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed)))) {facts}"
        )
    })
}

struct Scene {
    folder: tempfile::TempDir,
    server: RedisServer,
}

impl Scene {
    fn new(guest: Guest) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hostile.wasm"), guest.build()).unwrap();
        Self { folder, server: RedisServer::start(Version::Redis70).unwrap() }
    }

    /// A command with the storage and the plugin.
    fn with(&self, command: &[&str], more: &[&str]) -> Vec<String> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let common =
            ["--storage", &at("storage"), "--cluster", "one", "--plugin", &at("hostile.wasm")].map(str::to_owned);
        command.iter().map(ToString::to_string).chain(common).chain(more.iter().map(ToString::to_string)).collect()
    }

    fn backup(&self, more: &[&str]) -> Vec<String> {
        self.with(&["backup", "--source", &self.server.url()], more)
    }
}

/// Every file below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn facts_that_contradict_the_artifacts_fail_the_backup_and_nothing_of_it_is_left() {
    for (fact, value, words) in [
        ("rdb-bytes", "7", "reported rdb-bytes \"7\", and what it wrote has 5"),
        ("bytes", "0", "reported bytes \"0\", and what it wrote has 5"),
        ("artifacts", "2", "reported artifacts \"2\", and what it wrote has 1"),
    ] {
        let scene = Scene::new(capturing(|_| String::new(), &[(fact, value)]));
        fail(1, &[words, "defect of the plugin"], scene.backup(&[]));
        let storage = scene.folder.path().join("storage");
        let left: Vec<PathBuf> = files(&storage)
            .into_iter()
            .filter(|file| file.display().to_string().contains("dump.rdb") || file.ends_with("manifest.json"))
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "{fact}");
        let listed = succeed(["list", "--storage", storage.to_str().unwrap(), "-o", "json"]);
        assert!(!listed.stdout.contains("\"one\""), "{}", listed.stdout);
    }
}

#[tokio::test]
async fn facts_that_a_second_reading_contradicts_fail_the_verification() {
    let mut guest = capturing(|_| String::new(), &[("keys", "7"), ("rdb-bytes", "5")]);
    let found = guest.facts(&[("keys", "8")]);
    let scene = Scene::new(guest.described(&[("reads", "rdb")]).export("verify", found));
    succeed(scene.backup(&[]));
    fail(3, &["keys was 7 when captured, and is 8 now"], scene.with(&["verify", "latest", "--level", "parse"], &[]));
}

#[tokio::test]
async fn an_unknown_grant_is_refused_with_the_valid_ones() {
    let scene = Scene::new(capturing(|_| String::new(), &[]));
    let said = fail(2, &["unknown grant", "redis:everything"], scene.backup(&["--grant", "redis:everything"]));
    for valid in ["redis:info", "redis:command:NAME|SUBCOMMAND", "files:read:GLOB", "socket:connect"] {
        assert!(said.stderr.contains(valid), "{}", said.stderr);
    }
    fail(2, &["there is no limit `threads`", "wall-clock"], scene.backup(&["--plugin-limit", "threads=2"]));
}

#[tokio::test]
async fn limits_of_the_command_line_stop_a_plugin_and_a_larger_one_lets_it_go_on() {
    let hungry =
        capturing(|_| "(if (i32.eq (memory.grow (i32.const 1600)) (i32.const -1)) (then unreachable))".into(), &[]);
    let scene = Scene::new(hungry);
    fail(1, &["used more memory than it may", "64.0 MiB"], scene.backup(&[]));
    fail(1, &["used more memory than it may", "10.0 MiB"], scene.backup(&["--plugin-limit", "memory=10Mi"]));
    succeed(scene.backup(&["--plugin-limit", "memory=128Mi"]));
    fail(
        1,
        &["the limit of output is 4 B"],
        scene.backup(&["--plugin-limit", "memory=128Mi", "--plugin-limit", "output=4"]),
    );
}

#[tokio::test]
async fn resp_in_an_argument_is_bytes_to_the_server_and_no_command() {
    const SMUGGLED: &str = "x\r\n*1\r\n$8\r\nFLUSHALL\r\n";
    let guest = capturing(
        |guest| {
            let command = guest.list(&["SET", "victim", SMUGGLED]);
            let inline = guest.list(&["SET", "inline", "\r\nFLUSHALL\r\n"]);
            format!(
                "(call $command {command} (global.get $ret))
                 (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
                 (call $command {inline} (global.get $ret))
                 (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))"
            )
        },
        &[],
    );
    let scene = Scene::new(guest.requests(&["redis:command:SET"]));
    scene.server.command(&["SET", "kept", "value"]).await.unwrap();
    succeed(scene.backup(&["--grant", "redis:command:SET"]));
    let mut connection = scene.server.connect().await.unwrap();
    for (key, value) in [("kept", "value"), ("victim", SMUGGLED), ("inline", "\r\nFLUSHALL\r\n")] {
        let found: Option<String> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
        assert_eq!(found.as_deref(), Some(value), "{key}");
    }
}
