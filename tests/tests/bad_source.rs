//! Sources that cannot be backed up: the cause is named, the help says what to change, and nothing is stored.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use redkeep_testing::server::{RedisServer, Version, free_port};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::{finish, redkeep, refused, succeed};

fn nothing_stored(store: &Path) {
    let mut folders = vec![store.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                panic!("something was stored: {}", entry.path().display());
            }
        }
    }
}

fn backup(url: &str, more: &[&str], password: Option<&str>, naming: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    for method in ["rdb", "aof"] {
        let mut command: Command = redkeep();
        command
            .args(["backup", "--source", url, "--method", method, "--cluster", "bad", "--storage"])
            .arg(&store)
            .args(more);
        if let Some(password) = password {
            command.env("REDISCLI_AUTH", password);
        }
        let said = finish(command);
        refused(&said, 1, naming, &format!("backup of {url} by {method}"));
        nothing_stored(&store);
        if let Some(password) = password {
            assert!(!said.stderr.contains(password), "the password is shown: {said:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_server_is_named() {
    backup(&format!("redis://127.0.0.1:{}", free_port()), &[], None, &["connect", "127.0.0.1"]);
    backup("redis://does-not-exist.invalid:6379", &[], None, &["does-not-exist.invalid"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_missing_password_is_told_apart() {
    for version in [Version::Redis62, Version::Redis82] {
        let server = RedisServer::start_with(version, &["--requirepass", "right-one"]).unwrap();
        backup(&server.url(), &[], Some("wrong-one"), &["password"]);
        backup(&server.url(), &[], None, &["password"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_names_the_acl_rule() {
    for version in Version::ALL {
        let server = RedisServer::start(version).unwrap();
        for missing in ["psync", "replconf", "info"] {
            let rules: Vec<String> = ["psync", "replconf", "ping", "info"]
                .iter()
                .filter(|rule| **rule != missing)
                .map(|rule| format!("+{rule}"))
                .collect();
            let mut words =
                vec!["ACL", "SETUSER", "keeper", "on", ">secret-word", "resetkeys", "resetchannels", "-@all"];
            words.extend(rules.iter().map(String::as_str));
            server.command(&["ACL", "DELUSER", "keeper"]).await.unwrap();
            server.command(&words).await.unwrap();
            backup(&server.url(), &["--user", "keeper"], Some("secret-word"), &[missing]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_permission_is_enough() {
    for version in Version::ALL {
        let server = RedisServer::start(version).unwrap();
        let words = [
            "ACL",
            "SETUSER",
            "keeper",
            "on",
            ">secret-word",
            "resetkeys",
            "resetchannels",
            "-@all",
            "+psync",
            "+replconf",
            "+ping",
            "+info",
        ];
        server.command(&words).await.unwrap();
        apply(&mut server.connect().await.unwrap(), &Shape::standalone(version), 1, 500).await.unwrap();
        let place = tempfile::tempdir().unwrap();
        for method in ["rdb", "aof"] {
            let mut command = redkeep();
            command.args([
                "backup",
                "--source",
                &server.url(),
                "--user",
                "keeper",
                "--method",
                method,
                "--cluster",
                "least",
                "--storage",
            ]);
            let said = finish({
                command.arg(place.path()).env("REDISCLI_AUTH", "secret-word");
                command
            });
            assert_eq!(said.code, Some(0), "{version:?} {method}: {said:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_a_plain_port_is_told() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    backup(&format!("rediss://127.0.0.1:{}", server.port()), &[], None, &["tls"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_redis_is_told() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    backup(&format!("redis://127.0.0.1:{port}"), &[], None, &["redis"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_loads_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start_in(Version::Redis70, folder.path(), &[]).unwrap();
    server.command(&["DEBUG", "POPULATE", "20000", "key", "100"]).await.unwrap();
    server.command(&["SAVE"]).await.unwrap();
    drop(server);
    let slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let server = RedisServer::start_in(Version::Redis70, folder.path(), &slow).unwrap();
    backup(&server.url(), &[], None, &["loading"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_its_primary_is_told() {
    for version in Version::ALL {
        let server = RedisServer::start(version).unwrap();
        server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await.unwrap();
        backup(&server.url(), &[], None, &["primary"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_append_only_file_of_a_server_is_refused_without_the_right_to_read_its_configuration() {
    for version in Version::ALL {
        let server = RedisServer::start_with(version, &["--appendonly", "yes"]).unwrap();
        apply(&mut server.connect().await.unwrap(), &Shape::standalone(version), 1, 100).await.unwrap();
        let rules =
            ["on", ">secret-word", "resetkeys", "resetchannels", "-@all", "+psync", "+replconf", "+ping", "+info"];
        server.command(&[&["ACL", "SETUSER", "keeper"][..], &rules].concat()).await.unwrap();
        let place = tempfile::tempdir().unwrap();
        let store = place.path().join("store");
        let backup = || {
            let mut command = redkeep();
            command
                .args(["backup", "--source", &server.url(), "--user", "keeper", "--method", "aof", "--cluster", "old"])
                .args(["--param", "source=files", "--data-dir"])
                .arg(server.dir())
                .arg("--storage")
                .arg(&store)
                .env("REDISCLI_AUTH", "secret-word");
            finish(command)
        };
        server.command(&["CONFIG", "SET", "appendonly", "no"]).await.unwrap();
        server.command(&["SET", "later", "than the file"]).await.unwrap();
        refused(&backup(), 5, &["aof_enabled:0", "source=replication"], &format!("{version:?}"));
        nothing_stored(&store);
        server.command(&["CONFIG", "SET", "appendonly", "yes"]).await.unwrap();
        let said = backup();
        assert_eq!(said.code, Some(0), "{version:?}: {said:#?}");
        // The file of now, not the one from before `appendonly no`.
        let target = RedisServer::start(version).unwrap();
        let store = store.display().to_string();
        succeed(["restore", "--storage", &store, "latest", "--target", &target.url()]);
        let later = target.command(&["GET", "later"]).await.unwrap();
        assert_eq!(redis::from_redis_value::<String>(later).unwrap(), "than the file", "{version:?}");
    }
}

#[test]
fn an_old_dump_tells_its_age() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // One field, no key, no checksum.
    std::fs::write(data.join("dump.rdb"), b"REDIS0011\xfa\x05ctime\x0a1700000000\xff\0\0\0\0\0\0\0\0").unwrap();
    let mut command = redkeep();
    command.args(["backup", "--cluster", "old", "--method", "rdb", "-o", "json", "--source"]).arg(&data);
    command.arg("--storage").arg(place.path().join("store"));
    let said = finish(command);
    assert_eq!(said.code, Some(0), "{said:#?}");
    let manifest = said.json();
    let time = "2023-11-14T22:13:20.000Z";
    assert_eq!(manifest["facts"]["snapshot-time"], time, "{manifest:#}");
    assert!(manifest["warnings"][0].as_str().is_some_and(|line| line.contains(time)), "{manifest:#}");
}

#[test]
fn a_hostile_file_is_refused_at_its_offset() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let data = place.path().join("data");
    let append_only = data.join("appendonlydir");
    std::fs::create_dir_all(&append_only).unwrap();
    let said = |method: &str, naming: &str| {
        let arguments = ["backup", "--cluster", "bad", "--method", method, "--source"];
        let mut command = redkeep();
        command.args(arguments).arg(&data).arg("--storage").arg(&store);
        let said = finish(command);
        assert_eq!(said.code, Some(3), "{naming}: {said:#?}");
        assert!(said.stderr.contains(naming) && !said.stderr.contains("panicked"), "{said:#?}");
        nothing_stored(&store);
    };
    // A key of 2^63 bytes, an opcode that there is not, a value that never ends, a list nested in nothing.
    for (rdb, naming) in [
        (&b"REDIS0011\xfe\x00\x00\x81\x80\x00\x00\x00\x00\x00\x00\x00abc"[..], "byte 24"),
        (&b"REDIS0011\xfe\x00\xf0\x01a"[..], "byte 11"),
        (&b"REDIS0011\xfe\x00\x01\x01k\x81\x7f\xff\xff\xff\xff\xff\xff\xff"[..], "byte"),
        (&b"REDIS0011\xfe\x00\x12\x01k\x01\x02\x81\xff\xff\xff\xff\xff\xff\xff\xff"[..], "byte"),
    ] {
        std::fs::write(data.join("dump.rdb"), rdb).unwrap();
        said("rdb", naming);
    }
    std::fs::write(append_only.join("appendonly.aof.manifest"), "file a.aof seq 1 type i\n").unwrap();
    for aof in ["*1000000000000000000\r\n$3\r\nSET\r\n", "*2\r\n$9223372036854775807\r\nSET\r\n"] {
        std::fs::write(append_only.join("a.aof"), aof).unwrap();
        said("aof", "a.aof");
    }
}
