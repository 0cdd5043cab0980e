//! Restores into live targets: what is refused before anything is written, and in which order values and commands are sent.

use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, Level, Method, code};
use rstest::rstest;

use super::made_up::{SNAPSHOT, archive_of, commands, restoring, stream};
use crate::RedisAof;
use crate::marks::{Mark, Marks};
use crate::scanner::{Event, Scanner};

#[rstest]
#[case::prolonged(1, &["PERSIST", "k"], "{}", true)]
#[case::nothing_follows(1, &["SELECT", "0"], "{}", false)]
#[case::not_expired(u64::MAX, &["PERSIST", "k"], "{}", false)]
#[case::gone_at_the_source_too(1, &["DEL", "k"], "{}", false)]
#[case::behind_the_point(1, &["PERSIST", "k"], r#"{"until":"100"}"#, false)]
fn expired_keys_that_commands_may_prolong_are_not_restored_live(
    #[case] expires_at: u64,
    #[case] command: &[&str],
    #[case] parameters: &str,
    #[case] refused: bool,
) {
    // Expiry, type string, key, value.
    let key = [b"REDIS0009\xfe\0\xfc", &expires_at.to_le_bytes()[..], b"\0\x01k\x01v", &SNAPSHOT[9..]].concat();
    let select = commands(&[&["SELECT", "0"]]);
    let position = (key.len() + select.len()) as u64;
    let marks = Marks::starting_with(Mark { time_ms: 5, offset: 100, position });
    let mut host =
        restoring("aof", [&key[..], &select, &commands(&[command])].concat(), &[("target", "server")], parameters)
            .with_artifact("m", "aof-marks", marks.to_json().unwrap())
            .with_redis(FakeRedis::default());
    host.facts.set("mode", "standalone");
    host.short_reads = Some(3);
    if let Some(error) = planned(&host, refused) {
        let help = error.detail("help").unwrap_or_default();
        assert!(error.is(code::REFUSED) && help.contains("expired=warn") && help.contains("--until 100 "), "{error:?}");
        // What the help names goes through.
        host.parameters = r#"{"until":"100"}"#.to_owned();
        RedisAof::plan(&host).unwrap();
        host.parameters = r#"{"expired":"warn"}"#.to_owned();
        RedisAof::plan(&host).unwrap();
        assert!(is_warned(&host, "expiry has passed"));
    }
    // A shard's turn comes after others: what has expired by then is told, and nothing stops halfway.
    host.logged.borrow_mut().clear();
    RedisAof::restore(&host).unwrap();
    assert_eq!(is_warned(&host, "made it anew"), refused);
}

/// Plans, by which nothing is written; the refusal, where one is expected.
fn planned(host: &FakeHost, refused: bool) -> Option<Error> {
    let result = RedisAof::plan(host);
    assert_eq!(result.is_err(), refused, "{result:?}");
    assert!(host.redis.as_ref().unwrap().loaded.borrow().is_empty());
    result.err()
}

/// A snapshot and commands as they are kept: as an archive of two files, or as one stream.
fn kept(archived: bool, snapshot: &[u8], tail: &[u8]) -> (&'static str, Vec<u8>) {
    if !archived {
        return ("aof", [snapshot, tail].concat());
    }
    let manifest = b"file a seq 1 type b\nfile b seq 1 type i\n".to_vec();
    let files = [("d/f.manifest", manifest), ("d/a", snapshot.to_vec()), ("d/b", tail.to_vec())];
    ("aof-archive", archive_of(&files))
}

fn is_warned(host: &FakeHost, words: &str) -> bool {
    host.logged.borrow().iter().any(|(level, line)| *level == Level::Warn && line.contains(words))
}

// The clock of the host in memory stands at 1700000000000.
#[rstest]
#[case::prolonged(&["SET k v PXAT 1000", "PERSIST k"], true)]
#[case::made_anew(&["SET k v PXAT 1700000000000", "APPEND k w"], true)]
#[case::in_seconds(&["SET k v EXAT 1000", "INCR k"], true)]
#[case::of_an_older_server(&["SET k v", "PEXPIREAT k 1000", "INCR k"], true)]
#[case::of_a_field(&["HPEXPIREAT h 1000 FIELDS 1 f", "HINCRBY h f 1"], true)]
#[case::gone_at_the_source_too(&["SET k v PXAT 1000", "DEL k"], false)]
#[case::replaced(&["SET k v PXAT 1000", "SET k w PXAT 2000", "SET l v"], false)]
#[case::last(&["INCR k", "SET k v PXAT 1000"], false)]
#[case::ahead(&["SET k v PXAT 1700000000001", "APPEND k w"], false)]
fn commands_after_one_that_gives_a_time_which_has_passed_are_not_restored_live(
    #[case] tail: &[&str],
    #[case] refused: bool,
    #[values(true, false)] archived: bool,
) {
    let tail = tail.iter().map(|line| commands(&[&line.split(' ').collect::<Vec<_>>()]));
    let tail = [vec![commands(&[&["SELECT", "0"]])], tail.collect()].concat().concat();
    let (kind, bytes) = kept(archived, SNAPSHOT, &tail);
    let mut host = restoring(kind, bytes, &[("target", "server")], "{}").with_redis(FakeRedis::default());
    host.facts.set("mode", "standalone");
    host.short_reads = Some(5);
    if let Some(error) = planned(&host, refused) {
        assert!(error.is(code::REFUSED) && error.detail("help").unwrap().contains("--target-dir"), "{error:?}");
    }
    RedisAof::restore(&host).unwrap();
    assert_eq!(*host.redis.as_ref().unwrap().loaded.borrow(), tail);
    assert_eq!(is_warned(&host, "made it anew"), refused);
}

#[rstest]
#[case::a_command_that_may_depend_on_a_field("HINCRBY k f 1", true)]
#[case::none("DEL k", false)]
fn times_of_fields_in_a_snapshot_are_not_known_and_warned_of(#[case] command: &str, #[case] warned: bool) {
    // A hash of one field: the earliest time, one entry, no time of its own (0), the field, its value.
    let value = [&1_u64.to_le_bytes()[..], b"\x01\0\x01f\x01v"].concat();
    let snapshot = [b"REDIS0012\xfe\0", &[24][..], b"\x01k", &value, &SNAPSHOT[9..]].concat();
    let tail = commands(&[&["SELECT", "0"], &command.split(' ').collect::<Vec<_>>()]);
    let context = [("target", "server"), ("server-name", "redis"), ("server-version", "8.2.3"), ("rdb-version", "12")];
    let mut host = restoring("aof", [snapshot, tail].concat(), &context, "{}").with_redis(FakeRedis::default());
    host.facts.set("mode", "standalone");
    RedisAof::plan(&host).unwrap();
    RedisAof::restore(&host).unwrap();
    assert_eq!(is_warned(&host, "made it anew"), warned);
}

#[rstest]
#[case::of_all_shards("FLUSHALL", true)]
#[case::of_its_own_keys("SET", false)]
fn commands_that_reach_other_shards_are_refused_in_the_plan(#[case] name: &str, #[case] refused: bool) {
    let bytes = [SNAPSHOT, &commands(&[&["SELECT", "0"], &[name, "k", "v"]])].concat();
    let context = [("target", "cluster"), ("shards", "3")];
    let mut host = restoring("aof", bytes, &context, "{}").with_redis(FakeRedis::default());
    host.facts.set("mode", "cluster");
    let result = RedisAof::plan(&host);
    assert_eq!(result.is_err_and(|error| error.is(code::REFUSED) && error.message.contains(name)), refused);
}

/// A snapshot of one value under the key `k`.
fn snapshot_of(kind: u8, value: &[u8]) -> Vec<u8> {
    [b"REDIS0009\xfe\0", &[kind][..], b"\x01k", value, &SNAPSHOT[9..]].concat()
}

/// A string of this size.
fn text(size: usize) -> Vec<u8> {
    [&[0x80][..], &u32::try_from(size).unwrap().to_be_bytes(), &vec![b'x'; size]].concat()
}

#[test]
fn a_large_value_needs_no_command_that_is_not_granted() {
    let tail = commands(&[&["SELECT", "0"], &["APPEND", "k", "y"]]);
    let bytes = [snapshot_of(0, &text(9 << 20)), tail.clone()].concat();
    let redis = FakeRedis::default().with_script(|_| Err(Error::new(code::DENIED, "not granted")));
    let mut host = restoring("aof", bytes, &[("target", "server")], "{}").with_redis(redis);
    host.facts.set("mode", "standalone");
    let facts = RedisAof::restore(&host).unwrap();
    assert_eq!((facts.get("keys-restored"), facts.get("keys-rebuilt")), (Some("1"), Some("1")));
    assert!(host.redis.unwrap().loaded.borrow().ends_with(&tail));
}

#[rstest]
#[case::as_one_stream(false)]
#[case::as_files(true)]
fn a_value_that_is_sent_whole_comes_in_a_second_pass_before_the_commands(#[case] archived: bool) {
    // Module `ReJSON-RL`: its number, one string, the end.
    let value = [&[0x81, 0x45, 0xe2, 0x52, 0x38, 0xdf, 0x91, 0x2c, 0x03, 5][..], &text(17 << 20), &[0]].concat();
    let tail = commands(&[&["SELECT", "3"], &["SET", "after", "1"]]);
    let (kind, bytes) = kept(archived, &snapshot_of(7, &value), &tail);
    let mut host = restoring(kind, bytes, &[("target", "server")], "{}").with_redis(FakeRedis::default());
    host.facts.set("mode", "standalone");
    let facts = RedisAof::restore(&host).unwrap();
    assert_eq!((facts.get("keys-restored"), facts.get("commands")), (Some("1"), Some("2")));
    let redis = host.redis.as_ref().unwrap();
    let loaded = redis.loaded.borrow();
    let mut names = Vec::new();
    let mut scanner = Scanner::default();
    let note = |_: &Scanner, event: Event<'_>| {
        if let Event::Command { name, .. } = event {
            names.push(String::from_utf8(name.to_vec()).unwrap());
        }
    };
    scanner.push(&loaded, note).unwrap();
    assert_eq!(names, ["SELECT", "RESTORE", "SELECT", "SET"]);
    assert!(loaded.ends_with(&tail));
}

#[rstest]
#[case::a_bare_target_or_one_that_does_not_say(&[], true)]
#[case::one_with_the_module(&[("module", "name=ReJSON,ver=1")], false)]
fn values_of_modules_that_the_target_lacks_are_told_in_the_plan(
    #[case] modules: &[(&str, &str)],
    #[case] warned: bool,
) {
    let redis = FakeRedis::default().with_info("modules", modules);
    let mut host = restoring("aof", stream(), &[("target", "server")], "{}").with_redis(redis);
    host.facts.set("mode", "standalone").set("modules", "ReJSON-RL");
    RedisAof::plan(&host).unwrap();
    assert_eq!(is_warned(&host, "ReJSON-RL"), warned);
    // Of a directory nobody knows which server will be started on it.
    host.context = FakeHost::with_context("restore", &[("target", "directory"), ("appendonly", "yes")]).context;
    host.logged.borrow_mut().clear();
    RedisAof::plan(&host).unwrap();
    assert!(is_warned(&host, "must have, else it ends while it loads: ReJSON-RL"));
}
