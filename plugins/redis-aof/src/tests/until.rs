//! Restores up to a point: nothing behind it matters, and a command must end there.

use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Method, code};
use rstest::rstest;

use super::made_up::{SNAPSHOT, archive_of, commands, restoring};
use crate::RedisAof;
use crate::marks::{Mark, Marks};

const CLUSTER: &[(&str, &str)] = &[("target", "cluster"), ("shards", "3")];
const DIRECTORY: &[(&str, &str)] =
    &[("target", "directory"), ("appendonly", "yes"), ("appenddirname", "d"), ("appendfilename", "f")];

/// A stream of one command, and what follows the point behind it.
fn stream(behind: &[u8]) -> (Vec<u8>, Marks) {
    let before = [SNAPSHOT, &commands(&[&["SET", "k", "v"]])].concat();
    let end = (before.len() + behind.len()) as u64;
    let mut marks = Marks::starting_with(Mark { time_ms: 1, offset: 100, position: SNAPSHOT.len() as u64 });
    marks.push(Mark { time_ms: 2, offset: 200, position: before.len() as u64 });
    marks.push(Mark { time_ms: 3, offset: 300, position: end });
    ([&before, behind].concat(), marks)
}

fn host(bytes: Vec<u8>, marks: &Marks, context: &[(&str, &str)], until: &str) -> FakeHost {
    let mode = if context == CLUSTER { "cluster" } else { "standalone" };
    let mut host = restoring("aof", bytes, context, &format!("{{\"until\":\"{until}\"}}"))
        .with_artifact("m", "aof-marks", marks.to_json().unwrap())
        .with_redis(FakeRedis::default());
    host.facts.set("mode", mode);
    host
}

#[rstest]
#[case::reaches_other_shards(b"*1\r\n$8\r\nFLUSHALL\r\n")]
#[case::no_server_writes_it(b"*1\r\n$5\r\nDEBUG\r\n")]
#[case::damaged(b"*1\r\n$5\r\nPING\r\n")]
#[case::cut_short(b"*1\r\n$5\r\nPI")]
fn what_comes_behind_the_point_does_not_matter(
    #[case] behind: &[u8],
    #[values(CLUSTER, DIRECTORY)] context: &[(&str, &str)],
    #[values(3, 1 << 20)] short_reads: usize,
) {
    let (bytes, marks) = stream(behind);
    let mut point = host(bytes.clone(), &marks, context, "200");
    point.short_reads = Some(short_reads);
    RedisAof::plan(&point).unwrap();
    assert_eq!(RedisAof::restore(&point).unwrap().get("commands"), Some("1"));
    let set = commands(&[&["SET", "k", "v"]]);
    match point.file("d/f.1.incr.aof") {
        Some(placed) => assert_eq!(placed, set),
        None => assert_eq!(*point.redis.unwrap().loaded.borrow(), set),
    }
    if context == CLUSTER {
        assert!(RedisAof::plan(&host(bytes, &marks, context, "300")).is_err());
    }
}

#[test]
fn what_comes_behind_a_time_in_an_archive_does_not_matter_in_any_chunking() {
    let tail = [&b"#TS:10\r\n"[..], &commands(&[&["SET", "k", "v"]]), b"#TS:20\r\n*1\r\n$5\r\nDEBUG\r\nx"].concat();
    let manifest = b"file a seq 1 type b\nfile b seq 1 type i\n".to_vec();
    let files = [("d/f.manifest", manifest), ("d/a", SNAPSHOT.to_vec()), ("d/b", tail)];
    for short_reads in [1, 7, 1 << 20] {
        let mut host = restoring("aof-archive", archive_of(&files), DIRECTORY, r#"{"until":"1970-01-01T00:00:15Z"}"#);
        host.short_reads = Some(short_reads);
        let facts = RedisAof::restore(&host).unwrap();
        assert_eq!((facts.get("commands"), facts.get("restored-until")), (Some("1"), Some("1970-01-01T00:00:10.000Z")));
    }
}

#[rstest]
#[case::inside_a_command(-1)]
#[case::inside_the_snapshot(-35)]
#[case::behind_the_stream(1000)]
fn a_point_at_which_no_command_ends_is_damage(
    #[case] off: i64,
    #[values(CLUSTER, DIRECTORY)] context: &[(&str, &str)],
) {
    let (bytes, _) = stream(b"");
    let position = (bytes.len() as u64).checked_add_signed(off).unwrap();
    let mut marks = Marks::starting_with(Mark { time_ms: 1, offset: 100, position });
    marks.push(Mark { time_ms: 2, offset: 200, position: position + 1 });
    let host = host(bytes, &marks, context, "100");
    let planned = RedisAof::plan(&host);
    let error = planned.and_then(|_| RedisAof::restore(&host)).unwrap_err();
    assert!(error.is(code::DAMAGED) && error.message.contains("no command ends"), "{error:?}");
    assert!(host.redis.unwrap().loaded.borrow().is_empty());
}
