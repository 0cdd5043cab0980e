//! The method over a host in memory, with files of real servers from the SDK's fixtures.

use redkeep_sdk::rdb::{DatasetFacts, Parser};
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, Facts, Level, Method, code};
use rstest::rstest;

use crate::RedisRdb;

const REDIS_70: &[u8] = include_bytes!("../../sdk/tests/fixtures/redis-7.0.rdb");
const REDIS_82: &[u8] = include_bytes!("../../sdk/tests/fixtures/redis-8.2.rdb");

fn capture_host(redis: FakeRedis) -> FakeHost {
    FakeHost::with_context("capture", &[("capabilities", "redis")]).with_redis(redis)
}

fn stored(context: &[(&str, &str)], bytes: &[u8]) -> FakeHost {
    let mut host = FakeHost::with_context("verify", &[]).with_artifact("dump.rdb", "rdb", bytes.to_vec());
    let facts = RedisRdb::verify(&host).expect("sound");
    host = FakeHost { facts, ..FakeHost::with_context("restore", context) };
    host.with_artifact("dump.rdb", "rdb", bytes.to_vec())
}

fn directory(context: &[(&str, &str)], bytes: &[u8]) -> FakeHost {
    stored(&[&[("target", "directory")], context].concat(), bytes).with_files([])
}

#[test]
fn a_capture_by_replication_keeps_the_bytes_and_verify_finds_the_same_facts() {
    let mut redis = FakeRedis::with_snapshot(REDIS_82.to_vec());
    redis.position = ("abc".to_owned(), 42);
    let mut host = capture_host(redis);
    host.short_reads = Some(1000);
    let facts = RedisRdb::capture(&host).expect("captured");
    assert_eq!(host.artifact("dump.rdb").as_deref(), Some(REDIS_82));
    assert_eq!(facts.get("replication-id"), Some("abc"));
    assert_eq!(facts.get("replication-offset"), Some("42"));
    assert_eq!(facts.get("source-route"), Some("replication"));
    assert_eq!(facts.get("checksum"), Some("crc64"));
    // A snapshot whose length is known ahead lies on the server's disk.
    assert!(host.logged.borrow().iter().any(|(_, line)| line.contains("repl-diskless-sync")));
    let verified = RedisRdb::verify(&host).expect("sound");
    for fact in verified.as_slice() {
        assert_eq!(facts.get(&fact.key), Some(fact.value.as_str()), "{}", fact.key);
    }
}

/// The host says that these are the bytes whose checksum held at the capture; where none did, or it is to be proved again, it is.
#[test]
fn a_restore_computes_the_checksum_only_where_no_capture_did() {
    let mut bytes = REDIS_70.to_vec();
    *bytes.last_mut().expect("a checksum") ^= 1;
    let sound = directory(&[("appendonly", "no")], REDIS_70);
    let host = |facts: Facts| {
        let host =
            FakeHost { facts, ..FakeHost::with_context("restore", &[("target", "directory"), ("appendonly", "no")]) };
        host.with_artifact("dump.rdb", "rdb", bytes.clone()).with_files([])
    };
    let checked = host(sound.facts);
    RedisRdb::restore(&checked).expect("restored");
    RedisRdb::inspect(&checked, "{}").expect("inspected");
    for error in [
        RedisRdb::restore(&host(Facts::new())).expect_err("not sound"),
        RedisRdb::verify(&checked).expect_err("not sound"),
    ] {
        assert!(error.is(code::DAMAGED) && error.message.contains("checksum"), "{error}");
    }
}

#[rstest]
#[case::at_once(&[], 0)]
#[case::after_a_while(&[40, 99], 2)]
fn a_replica_that_lags_is_waited_for(#[case] earlier: &[u64], #[case] seconds: u64) {
    let mut redis = FakeRedis::with_snapshot(REDIS_82.to_vec());
    redis.position = ("abc".to_owned(), 100);
    *redis.earlier.borrow_mut() = earlier.iter().rev().copied().collect();
    let context = [("capabilities", "redis"), ("primary-offset", "100")];
    let host = FakeHost::with_context("capture", &context).with_redis(redis);
    let began = host.now_ms.get();
    let facts = RedisRdb::capture(&host).expect("captured");
    assert_eq!(facts.get("replication-offset"), Some("100"));
    assert_eq!(host.now_ms.get() - began, seconds * 1000);
}

#[rstest]
#[case::one_that_tells_its_offset(&[("master_repl_offset", "42")])]
#[case::one_that_does_not(&[])]
fn a_replica_that_stays_behind_its_primary_is_not_captured(#[case] info: &[(&str, &str)]) {
    let mut redis = FakeRedis::with_snapshot(REDIS_82.to_vec()).with_info("replication", info);
    redis.position = ("abc".to_owned(), 42);
    let context = [("capabilities", "redis"), ("primary-offset", "100")];
    let host = FakeHost::with_context("capture", &context).with_redis(redis);
    let began = host.now_ms.get();
    let error = RedisRdb::capture(&host).expect_err("behind");
    assert!(error.is(code::TIMEOUT) && error.retryable, "{error:?}");
    assert!(error.message.contains("offset 42") && error.message.contains("at 100"), "{error}");
    assert!(error.detail("help").is_some_and(|help| help.contains("--node primary")));
    assert_eq!(host.now_ms.get() - began, 60_000);
    assert_eq!(host.artifact("dump.rdb"), None);
}

#[test]
fn a_capture_whose_source_fails_or_is_cut_short_leaves_no_artifact() {
    for at in [0, 5, 9, 5000, REDIS_70.len() as u64 - 1] {
        let host = capture_host(FakeRedis::with_snapshot(REDIS_70.to_vec()));
        host.inject("snapshot", at, Error::new(code::SOURCE_IO, "the link dropped"));
        assert_eq!(RedisRdb::capture(&host).map_err(|error| error.code), Err(code::SOURCE_IO.to_owned()));
        assert_eq!(host.artifact("dump.rdb"), None);
        let host = capture_host(FakeRedis::with_snapshot(REDIS_70[..usize::try_from(at).expect("small")].to_vec()));
        assert_eq!(RedisRdb::capture(&host).map_err(|error| error.code), Err(code::DAMAGED.to_owned()));
        assert_eq!(host.artifact("dump.rdb"), None);
    }
}

#[test]
fn a_mark_behind_the_end_is_damage() {
    let host = capture_host(FakeRedis::with_snapshot([REDIS_70, &[b'e'; 40]].concat()));
    let error = RedisRdb::capture(&host).expect_err("a mark");
    assert_eq!(error.detail("offset"), Some(REDIS_70.len().to_string().as_str()), "{error}");
}

#[test]
fn acl_users_are_a_secret_artifact() {
    let redis = FakeRedis::with_snapshot(REDIS_70.to_vec())
        .with_script(|_| Ok(b"*2\r\n$15\r\nuser default on\r\n$10\r\nuser b off\r\n".to_vec()));
    let host = capture_host(redis).with_parameters(r#"{"acl":true}"#);
    assert_eq!(RedisRdb::plan(&host).expect("planned").get("secret-artifact"), Some("users.acl"));
    let facts = RedisRdb::capture(&host).expect("captured");
    assert_eq!(facts.get("acl-users"), Some("2"));
    assert_eq!(host.artifact("users.acl").as_deref(), Some(&b"user default on\nuser b off\n"[..]));
    let artifacts = host.artifacts.borrow();
    let users = artifacts.iter().find(|artifact| artifact.name == "users.acl").expect("there");
    let attributes = &users.attributes;
    assert_eq!(redkeep_sdk::attribute::find(attributes, "secret"), Some("yes"));
    assert_eq!(redkeep_sdk::attribute::find(attributes, "type"), Some("acl"));
    drop(artifacts);
    assert_eq!(RedisRdb::verify(&host).expect("sound").get("acl-users"), Some("2"));
}

#[test]
fn a_directory_without_a_server_is_taken_as_it_lies_with_a_warning_about_an_append_only_file() {
    let host = FakeHost::with_context("capture", &[("capabilities", "files"), ("dbfilename", "x.rdb")])
        .with_files([("x.rdb", REDIS_70.to_vec()), ("appendonlydir/appendonly.aof.manifest", Vec::new())]);
    assert_eq!(
        RedisRdb::plan(&host).expect("possible").get("expected-bytes"),
        Some(REDIS_70.len().to_string().as_str())
    );
    host.logged.borrow_mut().clear();
    let facts = RedisRdb::capture(&host).expect("captured");
    assert_eq!(facts.get("source-route"), Some("files"));
    assert_eq!(host.artifact("dump.rdb").as_deref(), Some(REDIS_70));
    assert!(host.logged.borrow().iter().any(|(level, line)| *level == Level::Warn && line.contains("append-only")));
    let empty = FakeHost::with_context("capture", &[("capabilities", "files")]).with_files([]);
    assert_eq!(RedisRdb::plan(&empty).map_err(|error| error.code), Err(code::NOT_FOUND.to_owned()));
}

#[rstest]
#[case::as_it_is_made(0, false)]
#[case::a_day(86_400_000, false)]
#[case::more_than_a_day(86_400_001, true)]
#[case::the_clock_is_behind(-5000, false)]
fn a_dump_tells_when_it_was_made_and_an_old_one_is_warned_of(#[case] later_ms: i64, #[case] warned: bool) {
    let created_ms = created(REDIS_70) * 1000;
    let now_ms = u64::try_from(created_ms + later_ms).expect("small");
    let time = redkeep_sdk::time::rfc3339(u64::try_from(created_ms).expect("small"));
    let directory =
        FakeHost::with_context("capture", &[("capabilities", "files")]).with_files([("dump.rdb", REDIS_70.to_vec())]);
    // A snapshot that the server has just made is as new as its clock says.
    let replicated = capture_host(FakeRedis::with_snapshot(REDIS_70.to_vec()));
    for (host, warned) in [(directory, warned), (replicated, false), (saving_host(saves(true), "ok"), false)] {
        host.now_ms.set(now_ms);
        let facts = RedisRdb::capture(&host).expect("captured");
        assert_eq!(facts.get("snapshot-time"), Some(time.as_str()));
        let logged = host.logged.borrow();
        let found = logged.iter().any(|(level, line)| *level == Level::Warn && line.contains(&time));
        assert_eq!(found, warned, "{logged:?}");
    }
}

#[rstest]
#[case(r#"{"source":"files"}"#, "redis")]
#[case(r#"{"source":"replication"}"#, "files")]
#[case(r#"{"acl":true}"#, "files")]
#[case("{}", "")]
fn a_way_that_is_not_there_is_refused(#[case] parameters: &str, #[case] capabilities: &str) {
    let host =
        FakeHost::with_context("capture", &[("capabilities", capabilities)]).with_parameters(parameters).with_files([]);
    let error = RedisRdb::plan(&host).expect_err("refused");
    assert_eq!(error.code, code::REFUSED, "{error}");
    assert!(error.detail("help").is_some());
}

/// A server that saves: `scene` is asked for each command and each look at `INFO persistence` by the fake's clock.
fn saving_host(script: impl Fn(&[&[u8]]) -> Result<Vec<u8>, Error> + 'static, status: &str) -> FakeHost {
    let persistence =
        [("rdb_bgsave_in_progress", "0"), ("rdb_last_bgsave_status", status), ("rdb_last_bgsave_time_sec", "3")];
    let redis = FakeRedis::default().with_info("persistence", &persistence).with_script(script);
    FakeHost::with_context("capture", &[("capabilities", "redis files")])
        .with_redis(redis)
        .with_files([("named.rdb", REDIS_70.to_vec())])
        .with_parameters(r#"{"source":"files"}"#)
}

fn saves(moves: bool) -> impl Fn(&[&[u8]]) -> Result<Vec<u8>, Error> {
    saves_at(created(REDIS_70), moves)
}

/// Seconds: when an RDB says that it was made.
fn created(bytes: &[u8]) -> i64 {
    let mut facts = DatasetFacts::new();
    Parser::new().push_all(bytes, &mut facts).expect("sound");
    i64::try_from(facts.created_ms().expect("there") / 1000).expect("small")
}

fn saves_at(time: i64, moves: bool) -> impl Fn(&[&[u8]]) -> Result<Vec<u8>, Error> {
    let time = std::cell::Cell::new(time - i64::from(moves));
    move |command| match command[0] {
        b"LASTSAVE" => Ok(format!(":{}\r\n", time.get()).into_bytes()),
        b"BGSAVE" => {
            time.set(time.get() + i64::from(moves));
            Ok(b"+Background saving started\r\n".to_vec())
        }
        b"CONFIG" => Ok(b"*2\r\n$10\r\ndbfilename\r\n$9\r\nnamed.rdb\r\n".to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_saved_dump_is_taken_under_the_servers_own_name() {
    let host = saving_host(saves(true), "ok");
    let facts = RedisRdb::capture(&host).expect("captured");
    assert_eq!(facts.get("source-route"), Some("files"));
    assert_eq!(host.artifact("dump.rdb").as_deref(), Some(REDIS_70));
}

#[rstest]
#[case::as_it_ended(0, true)]
#[case::as_it_began(5, true)]
#[case::stale(6, false)]
#[case::of_a_server_that_saved_later(-1, false)]
fn a_dump_of_another_time_than_the_servers_save_is_refused(#[case] later: i64, #[case] taken: bool) {
    let host = saving_host(saves_at(created(REDIS_70) + later, true), "ok");
    let result = RedisRdb::capture(&host);
    assert_eq!(result.is_ok(), taken, "{result:?}");
    assert_eq!(host.artifact("dump.rdb").is_some(), taken);
    if let Err(error) = result {
        assert!(error.is(code::REFUSED) && error.detail("help").is_some(), "{error:?}");
    }
}

#[test]
fn a_save_that_failed_or_did_not_happen_is_an_error() {
    for host in [saving_host(saves(true), "err"), saving_host(saves(false), "ok")] {
        let error = RedisRdb::capture(&host).expect_err("no new dump");
        assert!(error.is(code::SERVER_REPLY) && error.retryable, "{error}");
        assert_eq!(host.artifact("dump.rdb"), None);
    }
}

#[rstest]
#[case("yes", "7.0.15", &["appendonlydir/appendonly.aof.1.base.rdb"], Some("file appendonly.aof.1.base.rdb seq 1 type b\n"))]
#[case("yes", "6.2.14", &["appendonly.aof"], None)]
#[case("no", "8.2.3", &["dump.rdb"], None)]
fn a_directory_is_laid_out_as_its_server_loads_it(
    #[case] appendonly: &str,
    #[case] version: &str,
    #[case] paths: &[&str],
    #[case] manifest: Option<&str>,
) {
    const OLD: &[u8] = include_bytes!("../../sdk/tests/fixtures/redis-6.2.rdb");
    let host = directory(&[("appendonly", appendonly), ("server-version", version)], OLD);
    let facts = RedisRdb::restore(&host).expect("restored");
    assert_eq!(facts.get("keys-restored"), Some("43"));
    for path in paths {
        assert_eq!(host.file(path).as_deref(), Some(OLD), "{path}");
    }
    let text = host.file("appendonlydir/appendonly.aof.manifest").map(|bytes| String::from_utf8(bytes).expect("text"));
    assert_eq!(text.as_deref(), manifest);
    let count = host.files.as_ref().expect("there").entries.borrow().len();
    assert_eq!(count, paths.len() + usize::from(manifest.is_some()));
}

#[test]
fn an_unknown_setting_is_served_both_ways_and_said_so() {
    let names =
        [("dbfilename", "d.rdb"), ("appenddirname", "dir"), ("appendfilename", "my aof"), ("server-version", "7.2")];
    let host = directory(&names, REDIS_70);
    RedisRdb::restore(&host).expect("restored");
    assert_eq!(host.file("d.rdb").as_deref(), Some(REDIS_70));
    assert_eq!(host.file("dir/my aof.1.base.rdb").as_deref(), Some(REDIS_70));
    let manifest = host.file("dir/my aof.manifest").expect("there");
    assert_eq!(manifest, b"file \"my aof.1.base.rdb\" seq 1 type b\n");
    assert!(host.logged.borrow().iter().any(|(level, _)| *level == Level::Warn));
}

#[test]
fn a_directory_whose_server_needs_modules_says_which_in_plan_and_outcome() {
    // After the header what module `AAAAAAAAB` keeps outside keys; at the end no checksum.
    let aux = [&[247, 0x81][..], &(1_u64 << 10).to_be_bytes(), &[2, 1, 0]].concat();
    let (head, rest) = REDIS_70.split_at(9);
    let bytes = [head, &aux, &rest[..rest.len() - 8], &[0; 8]].concat();
    let mut host = directory(&[("appendonly", "no"), ("server-version", "7.0")], &bytes);
    host.facts.set("modules", "ReJSON-RL");
    let told = |host: &FakeHost, name: &str| host.logged.borrow().iter().any(|(_, line)| line.contains(name));
    RedisRdb::plan(&host).expect("planned");
    assert!(told(&host, "ReJSON-RL") && !told(&host, "AAAAAAAAB"));
    RedisRdb::restore(&host).expect("restored");
    assert!(told(&host, "AAAAAAAAB"));
}

#[test]
fn damage_leaves_no_file_behind() {
    let mut bytes = REDIS_70.to_vec();
    bytes[5000] ^= 1;
    let host = FakeHost::with_context("restore", &[("target", "directory"), ("appendonly", "no")])
        .with_artifact("dump.rdb", "rdb", bytes)
        .with_files([]);
    assert_eq!(RedisRdb::restore(&host).map_err(|error| error.code), Err(code::DAMAGED.to_owned()));
    assert!(host.files.as_ref().expect("there").entries.borrow().is_empty());
}

#[rstest]
#[case::older_server(&[("target", "server"), ("server-version", "7.0.15"), ("rdb-version", "10")], "{}")]
#[case::older_server_known_by_its_version(&[("target", "server"), ("server-version", "7.2.1")], "{}")]
#[case::valkey_81(&[("target", "directory"), ("server-name", "valkey"), ("server-version", "8.1.8")], "{}")]
#[case::valkey_9(&[("target", "directory"), ("server-name", "valkey"), ("server-version", "9.0")], "{}")]
#[case::live_valkey_9(&[("target", "server"), ("server-name", "valkey"), ("rdb-version", "80")], "{}")]
#[case::cluster_has_one_database(&[("target", "cluster"), ("rdb-version", "12")], "{}")]
#[case::too_few_databases(&[("target", "server"), ("rdb-version", "12"), ("databases", "4")], "{}")]
#[case::mapped_out_of_range(&[("target", "server"), ("rdb-version", "12"), ("databases", "16")], r#"{"db":["3:16"]}"#)]
#[case::filter_for_a_directory(&[("target", "directory"), ("server-version", "8.2.3")], r#"{"match":["a*"]}"#)]
fn what_the_target_cannot_take_is_refused_before_anything_is_touched(
    #[case] context: &[(&str, &str)],
    #[case] parameters: &str,
) {
    let host = stored(context, REDIS_82).with_parameters(parameters).with_files([]).with_redis(FakeRedis::default());
    for result in [RedisRdb::plan(&host), RedisRdb::restore(&host)] {
        let error = result.expect_err("refused");
        assert_eq!(error.code, code::REFUSED, "{error}");
        assert!(error.detail("help").is_some());
    }
    assert!(host.redis.as_ref().expect("there").loaded.borrow().is_empty());
}

#[test]
fn choices_that_make_it_fit_are_not_refused() {
    let context = [("target", "cluster"), ("rdb-version", "12")];
    for parameters in [r#"{"db":["0"]}"#, r#"{"db":["3:0"]}"#] {
        let host = stored(&context, REDIS_82).with_parameters(parameters);
        assert_eq!(RedisRdb::plan(&host).map(|facts| facts.get("layout") == Some("commands")), Ok(true));
    }
}

#[rstest]
#[case("{}", None)]
#[case(r#"{"source":"auto","acl":false,"match":["a*"],"db":["0","3:1"],"on-conflict":"skip","ttl":"shift"}"#, None)]
#[case(r#"{"window":"10s"}"#, Some("/window"))]
#[case(r#"{"db":["x"]}"#, Some("/db/0"))]
#[case(r#"{"db":["1","1:2"]}"#, Some("/db/1"))]
#[case(r#"{"ttl":"later"}"#, Some("/"))]
#[case("[]", Some("/"))]
fn parameters_are_checked(#[case] json: &str, #[case] pointer: Option<&str>) {
    let result = RedisRdb::validate(json);
    match pointer {
        None => assert_eq!(result, Ok(())),
        Some(pointer) => {
            let error = result.expect_err("faulty");
            assert_eq!(error.code, code::INVALID_PARAMETERS);
            assert!(error.detail(pointer).is_some(), "{error:?}");
        }
    }
}

#[test]
fn the_schema_is_json_and_knows_every_parameter() {
    let schema: serde_json::Value = serde_json::from_str(&RedisRdb::describe().parameters_schema).expect("JSON");
    let mut known: Vec<&str> = schema["properties"].as_object().expect("object").keys().map(String::as_str).collect();
    known.sort_unstable();
    assert_eq!(known, ["acl", "db", "match", "on-conflict", "source", "ttl"]);
}

#[test]
fn inspect_answers_and_refuses_unknown_questions() {
    let host = FakeHost::with_context("inspect", &[]).with_artifact("dump.rdb", "rdb", REDIS_82.to_vec());
    let summary: serde_json::Value =
        serde_json::from_str(&RedisRdb::inspect(&host, "{}").expect("answer")).expect("JSON");
    assert_eq!(summary["keys"], 45);
    assert!(summary.get("largest").is_none() && summary.get("prefixes").is_none());
    let full = RedisRdb::inspect(&host, r#"{"largest":10,"prefixes":true}"#).expect("answer");
    let full: serde_json::Value = serde_json::from_str(&full).expect("JSON");
    assert_eq!(full["largest"].as_array().map(Vec::len), Some(10));
    assert!(RedisRdb::inspect(&host, r#"{"smallest":1}"#).is_err());
}

#[test]
fn a_failed_load_says_how_many_keys_were_sent() {
    let host = stored(&[("target", "server"), ("rdb-version", "12"), ("databases", "16")], REDIS_82)
        .with_redis(FakeRedis::default());
    host.inject("load", 20_000, Error::new(code::SERVER_REPLY, "OOM command not allowed"));
    let error = RedisRdb::restore(&host).expect_err("failed");
    assert!(error.is(code::SERVER_REPLY) && error.detail("keys-sent").is_some(), "{error:?}");
}

#[test]
fn kept_keys_are_counted_as_skipped() {
    let mut redis = FakeRedis::default().with_script(|_| Ok(b"*0\r\n".to_vec()));
    redis.load_outcome = vec![redkeep_sdk::Attribute::new("errors", 5)];
    let host = stored(&[("target", "server"), ("rdb-version", "12"), ("databases", "16")], REDIS_82)
        .with_redis(redis)
        .with_parameters(r#"{"on-conflict":"skip"}"#);
    let facts: Facts = RedisRdb::restore(&host).expect("restored");
    assert_eq!((facts.get("keys-restored"), facts.get("keys-skipped")), (Some("40"), Some("5")));
    let options = host.redis.as_ref().expect("there").load_options.borrow().clone();
    assert_eq!(redkeep_sdk::attribute::find(&options[0], "tolerate"), Some("BUSYKEY"));
}
