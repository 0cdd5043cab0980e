//! What the method lays out or sends, loaded by real servers: every value, expiry, stream group and function must be
//! the source's.
//!
//! Servers: `/usr/bin/redis-server` and `$REDKEEP_SERVERS` (default `~/.cache/redkeep-servers`). One that is not there
//! is skipped by name, or fails the test where `CI` is set.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis_rdb::RedisRdb;
use redkeep_sdk::rdb::Parser;
use redkeep_sdk::rdb::restore::{RestoreParameters, Restorer};
use redkeep_sdk::resp::{self, Reply};
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Method, code};
use rstest::rstest;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../sdk/tests/fixtures/{name}.rdb"));
    std::fs::read(path).expect("fixture")
}

fn binary(server: &str) -> Option<PathBuf> {
    let path = if server == "redis-7.0" {
        PathBuf::from("/usr/bin/redis-server")
    } else {
        let cache = std::env::var_os("REDKEEP_SERVERS").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/redkeep-servers")))?;
        cache.join(server)
    };
    if path.is_file() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{server} is missing: {}", path.display());
    eprintln!("skipped: {server} is missing: {}", path.display());
    None
}

/// What is told of every database and key.
type Content = BTreeMap<(u32, Vec<u8>), Vec<Reply>>;

struct Server {
    child: Child,
    connection: BufReader<UnixStream>,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(server: &str, files: &[(String, Vec<u8>)], appendonly: bool) -> Option<Self> {
        let binary = binary(server)?;
        let directory = tempfile::tempdir().expect("directory");
        for (path, bytes) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("directory");
            std::fs::write(path, bytes).expect("file");
        }
        let socket = directory.path().join("socket");
        let mut command = Command::new(binary);
        command.args(["--port", "0", "--save", "", "--appendonly", if appendonly { "yes" } else { "no" }]);
        command.arg("--dir").arg(directory.path()).arg("--unixsocket").arg(&socket);
        if server != "redis-6.2" {
            command.args(["--enable-debug-command", "local"]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawned");
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                let mut server = Self { child, connection: BufReader::new(stream), directory };
                while matches!(server.call(&[b"PING"]), Reply::Error(error) if error.starts_with("LOADING")) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return Some(server);
            }
            assert!(child.try_wait().expect("child").is_none(), "the server does not start with these files");
            assert!(Instant::now() < patience, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn call(&mut self, arguments: &[&[u8]]) -> Reply {
        let mut request = Vec::new();
        resp::command(&mut request, arguments);
        self.connection.get_mut().write_all(&request).expect("written");
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut bytes = Vec::new();
        self.read_reply(&mut bytes);
        Reply::parse(&bytes).expect("a reply")
    }

    fn read_reply(&mut self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        self.connection.read_until(b'\n', bytes).expect("a line");
        let line = String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned();
        let number = line.get(1..).and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
        match line.as_bytes().first() {
            Some(b'$') if number >= 0 => {
                let mut bulk = vec![0; usize::try_from(number).expect("length") + 2];
                self.connection.read_exact(&mut bulk).expect("bulk");
                bytes.extend(bulk);
            }
            Some(b'*') => (0..number).for_each(|_| self.read_reply(bytes)),
            _ => {}
        }
    }

    /// Runs commands; every reply that is an error fails the test.
    fn load(&mut self, commands: &[u8]) {
        let mut starts = Vec::new();
        let mut scanner = resp::CommandScanner::new(0);
        let outcome = scanner.push::<resp::RespError>(commands, |found| {
            if let resp::Scanned::Command { start, end, .. } = found {
                starts.push((usize::try_from(start).expect("place"), usize::try_from(end).expect("place")));
            }
            Ok(())
        });
        outcome.and_then(|()| scanner.finish()).expect("whole commands");
        for (start, end) in starts {
            self.connection.get_mut().write_all(&commands[start..end]).expect("written");
            if let Reply::Error(error) = self.reply() {
                let command = String::from_utf8_lossy(&commands[start..end.min(start + 200)]).into_owned();
                panic!("{error} to {command:?}");
            }
        }
    }

    /// Everything that a client can see of the dataset, by database and key.
    fn content(&mut self) -> Content {
        let mut content = BTreeMap::new();
        for database in 0..16_u32 {
            self.call(&[b"SELECT", database.to_string().as_bytes()]);
            let Reply::Array(keys) = self.call(&[b"KEYS", b"*"]) else { panic!("no keys") };
            for key in keys {
                let Reply::Bulk(Some(key)) = key else { panic!("no key") };
                let mut told = vec![self.call(&[b"DEBUG", b"DIGEST-VALUE", &key])];
                told.push(match self.call(&[b"PEXPIRETIME", &key]) {
                    // 6.2 tells only what is left: to the minute it is the same in the same test.
                    Reply::Error(_) => Reply::Integer(self.call(&[b"PTTL", &key]).integer().expect("time") / 600_000),
                    time => time,
                });
                if self.call(&[b"TYPE", &key]) == Reply::Simple("stream".to_owned()) {
                    told.push(without_times(self.call(&[b"XINFO", b"STREAM", &key, b"FULL", b"COUNT", b"0"])));
                }
                if key.starts_with(b"hash:ttl") {
                    told.push(self.call(&[b"HPEXPIRETIME", &key, b"FIELDS", b"4", b"a", b"b", b"c", b"field1"]));
                }
                content.insert((database, key), told);
            }
        }
        if let Reply::Array(mut libraries) = self.call(&[b"FUNCTION", b"LIST", b"WITHCODE"]) {
            // They come in any order.
            libraries.sort_by_key(|library| format!("{library:?}"));
            content.insert((99, b"functions".to_vec()), libraries);
        }
        content
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `XINFO` tells without what no command can put back: when consumers were seen, and how the entries lie in
/// memory.
fn without_times(reply: Reply) -> Reply {
    const LEFT_OUT: [&str; 5] =
        ["seen-time", "active-time", "radix-tree-keys", "radix-tree-nodes", "recorded-first-entry-id"];
    let Reply::Array(elements) = reply else { return reply };
    let mut kept = Vec::new();
    let mut elements = elements.into_iter();
    while let Some(element) = elements.next() {
        if element.text().is_some_and(|text| LEFT_OUT.contains(&text)) {
            elements.next();
        } else {
            kept.push(without_times(element));
        }
    }
    Reply::Array(kept)
}

fn source(server: &str) -> Option<Content> {
    let mut server = Server::start(server, &[("dump.rdb".to_owned(), fixture(server))], false)?;
    let content = server.content();
    assert!(content.len() > 40, "the source has only {} keys", content.len());
    Some(content)
}

fn differences(expected: &Content, found: &Content) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
    differing
        .map(|key| {
            format!(
                "{} {:?}: {:?} became {:?}",
                key.0,
                String::from_utf8_lossy(&key.1),
                expected.get(key),
                found.get(key)
            )
        })
        .collect()
}

fn restore_host(context: &[(&str, &str)], bytes: Vec<u8>) -> FakeHost {
    let facts = RedisRdb::verify(&FakeHost::default().with_artifact("dump.rdb", "rdb", bytes.clone())).expect("sound");
    FakeHost { facts, ..FakeHost::with_context("restore", context) }.with_artifact("dump.rdb", "rdb", bytes)
}

#[rstest]
fn a_directory_loads_whatever_appendonly_says(
    #[values("redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1")] server: &str,
    #[values(Some(true), Some(false), None)] told: Option<bool>,
) {
    let Some(expected) = source(server) else { return };
    let (name, version) = server.split_once('-').expect("name and version");
    let mut context = vec![("target", "directory"), ("server-name", name), ("server-version", version)];
    if let Some(told) = told {
        context.push(("appendonly", if told { "yes" } else { "no" }));
    }
    let host = restore_host(&context, fixture(server)).with_files([]);
    RedisRdb::restore(&host).expect("restored");
    let files: Vec<(String, Vec<u8>)> = host
        .files
        .as_ref()
        .expect("there")
        .entries
        .borrow()
        .iter()
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .collect();
    for appendonly in [true, false] {
        if told.is_none_or(|told| told == appendonly) {
            let mut target = Server::start(server, &files, appendonly).expect("there");
            assert_eq!(differences(&expected, &target.content()), Vec::<String>::new(), "appendonly {appendonly}");
        }
    }
}

#[rstest]
#[case("redis-6.2", "redis-6.2")]
#[case("redis-7.0", "redis-7.0")]
#[case("redis-8.2", "redis-8.2")]
#[case("valkey-8.1", "valkey-8.1")]
// With how often, and when, a key was used.
#[case("redis-8.2", "redis-8.2-raw")]
#[case("redis-8.2", "redis-8.2-lru")]
// Into newer ones.
#[case("redis-8.2", "redis-6.2")]
#[case("redis-8.2", "valkey-8.1")]
#[case("valkey-8.1", "redis-7.0")]
fn a_live_server_gets_every_value_by_restore(#[case] server: &str, #[case] name: &str) {
    let Some(mut source) = Server::start(server, &[("dump.rdb".to_owned(), fixture(name))], false) else { return };
    let expected = source.content();
    let host = restore_host(&[("target", "server")], fixture(name)).with_redis(FakeRedis::default());
    let facts = RedisRdb::restore(&host).expect("restored");
    let keys = expected.keys().filter(|key| key.0 < 16).count();
    assert_eq!(facts.get("keys-restored"), Some(keys.to_string().as_str()));
    let mut target = Server::start(server, &[], false).expect("there");
    target.load(&host.redis.as_ref().expect("there").loaded.borrow());
    assert_eq!(differences(&expected, &target.content()), Vec::<String>::new());
}

#[rstest]
fn every_value_can_be_rebuilt_in_chunks(
    #[values("redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1")] server: &str,
    #[values(100, 1 << 18)] chunk: usize,
    #[values(0, 2000)] max_value: usize,
) {
    let Some(expected) = source(server) else { return };
    let redis = FakeRedis::default().with_script(|_| Ok(b":0\r\n".to_vec()));
    let host = restore_host(&[("target", "server")], Vec::from(&fixture(server)[..])).with_redis(redis);
    let mut restorer = Restorer::new(&host, &RestoreParameters::default()).expect("opened").with_max_value(max_value);
    let mut parser = Parser::new();
    for chunk in fixture(server).chunks(chunk) {
        parser.push_all(chunk, &mut restorer).expect("sound");
    }
    parser.finish().expect("whole");
    let (counts, _) = restorer.finish().expect("sent");
    assert!(counts.rebuilt >= 6, "only {} rebuilt", counts.rebuilt);
    let mut target = Server::start(server, &[], false).expect("there");
    target.load(&host.redis.as_ref().expect("there").loaded.borrow());
    assert_eq!(differences(&expected, &target.content()), Vec::<String>::new());
}

#[rstest]
fn pending_entries_whose_entries_were_deleted_come_along(
    #[values("redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1")] server: &str,
    #[values("", "1-1", "3-1", "3-1 4-1", "1-1 2-1 3-1 4-1 5-1")] deleted: &str,
) {
    let Some(mut source) = Server::start(server, &[], false) else { return };
    for number in 1..=5 {
        source.call(&[b"XADD", b"stream", format!("{number}-1").as_bytes(), b"field", b"value"]);
    }
    source.call(&[b"XGROUP", b"CREATE", b"stream", b"group", b"0"]);
    source.call(&[b"XREADGROUP", b"GROUP", b"group", b"consumer", b"COUNT", b"4", b"STREAMS", b"stream", b">"]);
    let ids = deleted.split_whitespace().map(str::as_bytes);
    source.call(&[&b"XDEL"[..], b"stream"].into_iter().chain(ids).collect::<Vec<_>>());
    let expected = source.content();
    source.call(&[b"SELECT", b"0"]);
    let Reply::Array(pending) = source.call(&[b"XPENDING", b"stream", b"group"]) else { panic!("no summary") };
    assert_eq!(pending[0].integer(), Some(4));
    source.call(&[b"SAVE"]);
    let file = std::fs::read(source.directory.path().join("dump.rdb")).expect("dump");

    let redis = FakeRedis::default().with_script(|_| Ok(b":0\r\n".to_vec()));
    let host = restore_host(&[("target", "server")], file.clone()).with_redis(redis);
    let restorer = Restorer::new(&host, &RestoreParameters::default()).expect("opened");
    let mut restorer = restorer.with_max_value(0).with_second_pass();
    loop {
        let mut parser = Parser::new();
        parser.push_all(&file, &mut restorer).expect("sound");
        parser.finish().expect("whole");
        if !restorer.begin_second_pass() {
            break;
        }
    }
    let (counts, _) = restorer.finish().expect("sent");
    assert_eq!((counts.sent, counts.rebuilt), (1, u64::from(deleted.is_empty())));
    let mut target = Server::start(server, &[], false).expect("there");
    target.load(&host.redis.as_ref().expect("there").loaded.borrow());
    assert_eq!(differences(&expected, &target.content()), Vec::<String>::new());
}

#[test]
fn filters_databases_and_expiries_are_applied() {
    let Some(expected) = source("redis-8.2") else { return };
    let parameters = r#"{"match":["in *","hash:*"],"db":["0:5","3"],"ttl":"persist","on-conflict":"replace"}"#;
    let host = restore_host(&[("target", "server")], fixture("redis-8.2"))
        .with_redis(FakeRedis::default())
        .with_parameters(parameters);
    let facts = RedisRdb::restore(&host).expect("restored");
    let mut target = Server::start("redis-8.2", &[], false).expect("there");
    target.load(&host.redis.as_ref().expect("there").loaded.borrow());
    let content = target.content();
    let places: Vec<(u32, String)> = content
        .keys()
        .map(|(database, key)| (*database, String::from_utf8_lossy(key).into_owned()))
        .filter(|key| key.0 < 16)
        .collect();
    let names = ["hash:big", "hash:long", "hash:small", "hash:ttl:big", "hash:ttl:small"];
    let mut wanted = vec![(3, "in three".to_owned())];
    wanted.extend(names.map(|name| (5, name.to_owned())));
    assert_eq!(places, wanted);
    assert_eq!(facts.get("keys-restored"), Some("6"));
    let total = expected.keys().filter(|key| key.0 < 16).count();
    assert_eq!(facts.get("keys-filtered"), Some((total - 6).to_string().as_str()));
    // Fields live for ever too.
    let times = &content[&(5, b"hash:ttl:small".to_vec())][2];
    assert_eq!(
        times.elements().iter().map(Reply::integer).collect::<Vec<_>>(),
        [Some(-1), Some(-1), Some(-1), Some(-2)]
    );
}

#[test]
fn expired_keys_are_skipped_and_counted_or_shifted() {
    let keep = restore_host(&[("target", "server")], fixture("redis-7.0")).with_redis(FakeRedis::default());
    // After all expiries of the fixture: 2100.
    keep.now_ms.set(4_200_000_000_000);
    let facts = RedisRdb::restore(&keep).expect("restored");
    assert_eq!(facts.get("keys-expired-skipped"), Some("3"));
    let shift = restore_host(&[("target", "server")], fixture("redis-7.0"))
        .with_redis(FakeRedis::default())
        .with_parameters(r#"{"ttl":"shift"}"#);
    shift.now_ms.set(4_200_000_000_000);
    let facts = RedisRdb::restore(&shift).expect("restored");
    assert_eq!(facts.get("keys-expired-skipped"), Some("0"));
    let Some(mut target) = Server::start("redis-7.0", &[], false) else { return };
    target.load(&shift.redis.as_ref().expect("there").loaded.borrow());
    target.call(&[b"SELECT", b"0"]);
    let left = target.call(&[b"PEXPIRETIME", b"ttl:ms"]).integer().expect("time");
    // Ten to the eleventh milliseconds were left at the capture, a moment after the SET.
    let expected = 4_200_000_000_000 + 100_000_000_000;
    assert!((left - expected).abs() < 5_000, "{left} instead of {expected}");
}

#[test]
fn a_big_value_whose_key_exists_fails_or_is_skipped() {
    for (choice, expected) in [("fail", Err(code::SERVER_REPLY)), ("skip", Ok(Some("0")))] {
        let redis = FakeRedis::default().with_script(|command| {
            Ok(if command[0] == b"FUNCTION" { b"*1\r\n+x\r\n".to_vec() } else { b":1\r\n".to_vec() })
        });
        let parameters: RestoreParameters =
            redkeep_sdk::parameters::parse(&format!(r#"{{"on-conflict":"{choice}"}}"#)).expect("JSON");
        let host = restore_host(&[("target", "server")], fixture("redis-7.0")).with_redis(redis);
        let mut restorer = Restorer::new(&host, &parameters).expect("opened").with_max_value(0);
        let result = Parser::new().push_all(&fixture("redis-7.0"), &mut restorer);
        let result = result.and_then(|()| restorer.finish()).map_err(|error| error.code);
        let result = result.as_ref().map(|(_, facts)| facts.get("keys-restored")).map_err(String::as_str);
        assert_eq!(result, expected);
        if choice == "skip" {
            assert!(host.redis.as_ref().expect("there").loaded.borrow().is_empty());
        }
    }
}
