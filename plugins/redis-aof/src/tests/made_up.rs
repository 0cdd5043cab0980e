//! Made-up input: damage, hostile lengths, refusals, faults in the middle. Nothing may be stored or placed then.

use proptest::prelude::*;
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, Facts, Host, Method, code, resp};
use rstest::rstest;

use crate::RedisAof;
use crate::archive::{self, ArchiveReader};
use crate::marks::{Mark, Marks};
use crate::reader::Reader;

/// An empty snapshot without checksum (`rdbchecksum no`).
pub(super) const SNAPSHOT: &[u8] = b"REDIS0009\xff\0\0\0\0\0\0\0\0";

pub(super) fn commands(list: &[&[&str]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in list {
        let arguments: Vec<&[u8]> = command.iter().map(|argument| argument.as_bytes()).collect();
        resp::command(&mut bytes, &arguments);
    }
    bytes
}

pub(super) fn stream() -> Vec<u8> {
    let tail =
        commands(&[&["SELECT", "0"], &["SET", "a", "1"], &["MULTI"], &["INCR", "a"], &["EXEC"], &["SET", "b", "2"]]);
    [SNAPSHOT, &tail].concat()
}

pub(super) fn archive_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let host = FakeHost::default();
    let mut sink = host.artifacts().create("x", &[]).unwrap();
    for (path, bytes) in files {
        archive::begin(sink.as_mut(), path, bytes.len() as u64, 7).unwrap();
        sink.write(bytes).unwrap();
        archive::end(sink.as_mut(), bytes.len() as u64).unwrap();
    }
    archive::finish(sink.as_mut()).unwrap();
    sink.finish(&[]).unwrap();
    host.artifact("x").unwrap()
}

fn good_archive() -> Vec<u8> {
    let manifest = b"file f.2.base.rdb seq 2 type b\nfile f.5.incr.aof seq 5 type i\nfile f.6.incr.aof seq 6 type i\n";
    archive_of(&[
        ("d/f.manifest", manifest.to_vec()),
        ("d/f.2.base.rdb", SNAPSHOT.to_vec()),
        ("d/f.5.incr.aof", commands(&[&["SELECT", "0"], &["SET", "a", "1"]])),
        ("d/f.6.incr.aof", b"#TS:1700000000\r\n*1\r\n$8\r\nFLUSHALL\r\n".to_vec()),
    ])
}

pub(super) fn restoring(kind: &str, bytes: Vec<u8>, context: &[(&str, &str)], parameters: &str) -> FakeHost {
    let name = if kind == "aof" { "appendonly.aof" } else { archive::ARTIFACT };
    FakeHost::with_context("restore", context)
        .with_parameters(parameters)
        .with_artifact(name, kind, bytes)
        .with_files([])
}

fn verify(kind: &str, bytes: Vec<u8>, short_reads: usize) -> Result<Facts, Error> {
    let mut host = restoring(kind, bytes, &[], "{}");
    host.short_reads = Some(short_reads);
    RedisAof::verify(&host)
}

#[test]
fn a_whole_stream_and_a_whole_archive_verify_in_any_chunking() {
    for short_reads in [1, 7, 512, 1 << 20] {
        let facts = verify("aof", stream(), short_reads).unwrap();
        assert_eq!((facts.get("commands"), facts.get("checksum")), (Some("6"), Some("unchecked")));
        let facts = verify("aof-archive", good_archive(), short_reads).unwrap();
        assert_eq!((facts.get("commands"), facts.get("keys")), (Some("3"), Some("0")));
        assert_eq!(facts.get("last-time"), Some("2023-11-14T22:13:20.000Z"));
    }
}

#[test]
fn a_stream_or_archive_cut_anywhere_is_damaged_or_shorter_by_whole_commands() {
    let whole = stream();
    let ends: Vec<usize> =
        (0..whole.len()).filter(|&end| verify("aof", whole[..end].to_vec(), 1 << 20).is_ok()).collect();
    let tail = whole.len() - SNAPSHOT.len();
    // Empty; after the snapshot, SELECT and SET. Inside MULTI and inside a command nothing may end.
    assert_eq!(ends.len(), 5, "{ends:?} of {tail}");
    let archive = good_archive();
    for end in (0..archive.len() - 512).step_by(37) {
        let error = verify("aof-archive", archive[..end].to_vec(), 1 << 20).unwrap_err();
        assert_eq!(error.code, code::DAMAGED, "{end}");
    }
}

#[rstest]
#[case::huge_bulk(b"*1\r\n$9223372036854775808\r\n", "a length above")]
#[case::huge_count(b"*9223372036854775807\r\n", "a length above")]
#[case::garbage(b"*1\r\n$4\r\nPING\r\nxyz", "expected the start of a command, found 0x78 at byte 32")]
#[case::diskless_mark(b"0123456789012345678901234567890123456789", "expected the start of a command")]
#[case::nested(b"*1\r\n$5\r\nMULTI\r\n*1\r\n$5\r\nMULTI\r\n", "MULTI inside a transaction")]
#[case::promised(b"*2147483647\r\n$1\r\nx\r\n", "the end inside the command that starts at byte 18")]
#[case::promised_bytes(b"*1\r\n$1099511627776\r\nx", "the end inside the command")]
fn hostile_commands_are_damage_with_their_place(#[case] tail: &[u8], #[case] message: &str) {
    let error = verify("aof", [SNAPSHOT, tail].concat(), 5).unwrap_err();
    assert_eq!(error.code, code::DAMAGED);
    assert!(error.message.contains(message) && error.message.contains("at byte"), "{}", error.message);
}

#[rstest]
#[case::code(&["MODULE", "LOAD", "/tmp/evil.so"])]
#[case::other_host(&["slaveof", "192.0.2.1", "6379"])]
#[case::file(&["Config", "SET", "dir", "/etc"])]
#[case::transaction(&["MULTI"])]
fn a_command_that_no_server_writes_there_is_damage(#[case] forged: &[&str]) {
    let in_transaction = forged == ["MULTI"];
    let tail = if in_transaction {
        commands(&[&["MULTI"], &["SHUTDOWN", "NOSAVE"], &["EXEC"]])
    } else {
        commands(&[&["SET", "a", "1"], forged])
    };
    let name = if in_transaction { "SHUTDOWN".to_owned() } else { forged[0].to_ascii_uppercase() };
    let place = SNAPSHOT.len() + if in_transaction { 15 } else { 27 };
    let bytes = [SNAPSHOT, &tail].concat();
    for short_reads in [1, 1 << 20] {
        let error = verify("aof", bytes.clone(), short_reads).unwrap_err();
        assert_eq!(error.code, code::DAMAGED);
        let message = format!("a command that no server writes to an append-only file: {name} at byte {place}");
        assert!(error.message.contains(&message), "{}", error.message);
    }
    let archive = archive_of(&[
        ("d/f.manifest", b"file a seq 1 type b\nfile b seq 1 type i\n".to_vec()),
        ("d/a", SNAPSHOT.to_vec()),
        ("d/b", tail),
    ]);
    assert_eq!(verify("aof-archive", archive, 100).unwrap_err().code, code::DAMAGED);
    let host = restoring("aof", bytes, &[("target", "directory")], "{}");
    assert_eq!(RedisAof::restore(&host).unwrap_err().code, code::DAMAGED);
}

#[test]
fn scripts_and_functions_are_no_damage() {
    let tail = commands(&[
        &["SCRIPT", "LOAD", "return 1"],
        &["EVAL", "return 1", "0"],
        &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
        &["FUNCTION", "FLUSH"],
    ]);
    let facts = verify("aof", [SNAPSHOT, &tail].concat(), 1 << 20).unwrap();
    assert_eq!(facts.get("commands"), Some("4"));
}

#[test]
fn neither_snapshot_nor_commands_is_damage() {
    for bytes in [&b"hello"[..], b"REDIX0009", b"VALUES", b"\0\0\0\0"] {
        assert_eq!(verify("aof", bytes.to_vec(), 2).unwrap_err().code, code::DAMAGED);
    }
}

#[rstest]
#[case::no_manifest(&[("d/f.2.base.rdb", SNAPSHOT)], "does not begin with a manifest")]
#[case::missing_file(&[("d/f.manifest", &b"file a seq 1 type b\n"[..])], "expected a")]
#[case::other_file(&[("d/f.manifest", &b"file a seq 1 type b\n"[..]), ("d/b", SNAPSHOT)], "expected a")]
#[case::extra_file(&[("d/f.manifest", &b"file a seq 1 type b\n"[..]), ("d/a", SNAPSHOT), ("d/b", &b""[..])], "does not name")]
#[case::other_folder(&[("d/f.manifest", &b"file a seq 1 type b\n"[..]), ("e/a", SNAPSHOT)], "another folder")]
#[case::no_folder(&[("f.manifest", &b"file a seq 1 type b\n"[..])], "no folder")]
#[case::no_newline(&[("d/f.manifest", &b"file a seq 1 type b"[..])], "no final newline")]
#[case::cut_base(&[("d/f.manifest", &b"file a seq 1 type b\n"[..]), ("d/a", &b"REDIS0009\xff\0"[..])], "the end inside the RDB")]
fn an_archive_that_its_manifest_does_not_describe_is_damaged(#[case] files: &[(&str, &[u8])], #[case] message: &str) {
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(path, bytes)| (*path, bytes.to_vec())).collect();
    let error = verify("aof-archive", archive_of(&files), 1 << 20).unwrap_err();
    assert_eq!(error.code, code::DAMAGED);
    assert!(error.message.contains(message), "{}", error.message);
}

#[test]
fn links_and_names_that_leave_the_folder_are_damage() {
    let with_header = |change: &dyn Fn(&mut tar::Header)| {
        let mut header = tar::Header::new_ustar();
        header.set_path("d/f.manifest").unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Regular);
        change(&mut header);
        header.set_cksum();
        [header.as_bytes().as_slice(), &[0; 1024]].concat()
    };
    let symlink = with_header(&|header| header.set_entry_type(tar::EntryType::Symlink));
    let escape = with_header(&|header| header.as_mut_bytes()[..13].copy_from_slice(b"../f.manifest"));
    let absolute = with_header(&|header| header.as_mut_bytes()[..13].copy_from_slice(b"/tmp/manifest"));
    let huge = with_header(&|header| header.set_size(u64::MAX));
    for bytes in [symlink, escape, absolute, huge] {
        assert_eq!(verify("aof-archive", bytes, 100).unwrap_err().code, code::DAMAGED);
    }
}

#[test]
fn marks_that_do_not_fit_the_stream_are_damage() {
    let whole = stream();
    let size = whole.len() as u64;
    let first = SNAPSHOT.len() as u64 + 23;
    let marks = |positions: &[u64]| {
        let mark = |position: &u64| Mark { time_ms: 5, offset: *position, position: *position };
        let mut marks = Marks::starting_with(mark(&positions[0]));
        positions[1..].iter().for_each(|position| marks.push(mark(position)));
        marks.to_json().unwrap()
    };
    let check = |positions: &[u64]| {
        let host = restoring("aof", whole.clone(), &[], "{}").with_artifact("m", "aof-marks", marks(positions));
        RedisAof::verify(&host)
    };
    let facts = check(&[first, size]).unwrap();
    assert_eq!(facts.get("last-offset"), Some(size.to_string().as_str()));
    // Inside a command, inside the transaction, before and beyond the end.
    for wrong in
        [&[first + 1, size][..], &[first, first + 27 + 15, size], &[first, size - 1], &[first, size + 9], &[3, size]]
    {
        assert_eq!(check(wrong).unwrap_err().code, code::DAMAGED, "{wrong:?}");
    }
}

#[test]
fn layouts_follow_the_target() {
    let context = |version| {
        [("target", "directory"), ("server-version", version), ("appendfilename", "x.aof"), ("appenddirname", "dir")]
    };
    let host = restoring("aof", stream(), &context("7.0.15"), "{}");
    RedisAof::plan(&host).unwrap();
    let facts = RedisAof::restore(&host).unwrap();
    assert_eq!(facts.get("commands"), Some("6"));
    assert_eq!(host.file("dir/x.aof.1.base.rdb").unwrap(), SNAPSHOT);
    assert_eq!(host.file("dir/x.aof.1.incr.aof").unwrap(), stream()[SNAPSHOT.len()..]);
    let manifest = host.file("dir/x.aof.manifest").unwrap();
    assert_eq!(manifest, b"file x.aof.1.base.rdb seq 1 type b\nfile x.aof.1.incr.aof seq 1 type i\n");
    assert!(host.logged.borrow().iter().any(|(_, line)| line.contains("appendonly yes")));

    let host = restoring("aof", stream(), &context("6.2"), "{}");
    RedisAof::restore(&host).unwrap();
    assert_eq!(host.file("x.aof").unwrap(), stream());
    assert_eq!(host.files.as_ref().unwrap().entries.borrow().len(), 1);

    let host = restoring("aof-archive", good_archive(), &context("8.2"), "{}");
    RedisAof::restore(&host).unwrap();
    assert_eq!(host.file("dir/x.aof.6.incr.aof").unwrap(), b"#TS:1700000000\r\n*1\r\n$8\r\nFLUSHALL\r\n");
    assert_eq!(host.files.as_ref().unwrap().entries.borrow().len(), 4);
}

#[test]
fn lines_that_are_fatal_on_6_2_are_left_out_there_in_any_chunking() {
    let tail = b"#TS:1\r\n*1\r\n$4\r\nPING\r\n#TS:2\r\n#hello\r\n*1\r\n$4\r\nPONG\r\n#TS:3\r\n";
    for short_reads in 1..40 {
        let mut host = restoring(
            "aof",
            [SNAPSHOT, tail].concat(),
            &[("target", "directory"), ("server-version", "6.2.14"), ("appendonly", "yes")],
            "{}",
        );
        host.short_reads = Some(short_reads);
        RedisAof::restore(&host).unwrap();
        let expected = [SNAPSHOT, b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPONG\r\n"].concat();
        assert_eq!(host.file("appendonly.aof").unwrap(), expected, "reads of {short_reads}");
    }
}

#[rstest]
#[case::appendonly_no("aof", &[("target", "directory"), ("appendonly", "no")], "{}", "appendonly no")]
#[case::old_server("aof-archive", &[("target", "directory"), ("server-version", "6.2.14")], "{}", "multi-part")]
#[case::older_rdb("aof", &[("target", "directory"), ("server-version", "4.0"), ("server-name", "redis")], "{}", "RDB version 9")]
#[case::filter("aof", &[("target", "directory")], r#"{"match":["a*"]}"#, "parameter match")]
#[case::database("aof", &[("target", "directory")], r#"{"db":["1"]}"#, "parameter db")]
#[case::offset_of_files("aof-archive", &[("target", "directory")], r#"{"until":"5"}"#, "replication offsets")]
fn what_cannot_work_is_refused_before_anything_is_touched(
    #[case] kind: &str,
    #[case] context: &[(&str, &str)],
    #[case] parameters: &str,
    #[case] message: &str,
) {
    let mut host = restoring(kind, if kind == "aof" { stream() } else { good_archive() }, context, parameters);
    host.facts.set("rdb-version", 9).set("mode", "standalone");
    for error in [RedisAof::plan(&host).unwrap_err(), RedisAof::restore(&host).unwrap_err()] {
        assert_eq!(error.code, code::REFUSED);
        assert!(error.message.contains(message) && error.detail("help").is_some(), "{error:?}");
    }
    assert!(host.files.unwrap().entries.borrow().is_empty());
}

#[rstest]
#[case::snapshot("snapshot", 5)]
#[case::stream("commands", 20)]
#[case::storage("appendonly.aof", 40)]
#[case::marks("appendonly.marks.json", 3)]
fn a_fault_in_the_middle_of_a_capture_leaves_no_marks_and_comes_out(#[case] place: &str, #[case] at: u64) {
    let redis = FakeRedis {
        snapshot: SNAPSHOT.to_vec(),
        position: ("id".to_owned(), 100),
        stream: commands(&[&["SET", "a", "1"], &["SET", "b", "2"]]),
        ..FakeRedis::default()
    };
    let context = [("capabilities", "redis"), ("primary-offset", "130")];
    let host = FakeHost::with_context("capture", &context).with_redis(redis);
    host.inject(place, at, Error::new("source-io", "injected").retryable());
    assert_eq!(RedisAof::capture(&host).unwrap_err().message, "injected");
    assert!(host.artifact("appendonly.marks.json").is_none());
}

#[test]
fn a_capture_reaches_the_primarys_offset_or_says_why_not() {
    let tail = commands(&[&["SET", "a", "1"], &["SET", "b", "2"]]);
    let redis = || FakeRedis {
        snapshot: SNAPSHOT.to_vec(),
        position: ("id".to_owned(), 100),
        stream: tail.clone(),
        ..FakeRedis::default()
    };
    let reachable = (100 + tail.len()).to_string();
    let host = FakeHost::with_context("capture", &[("capabilities", "redis"), ("primary-offset", &reachable)])
        .with_redis(redis());
    let facts = RedisAof::capture(&host).unwrap();
    assert_eq!((facts.get("first-offset"), facts.get("last-offset")), (Some("100"), Some(reachable.as_str())));
    assert_eq!(facts.get("commands"), Some("3"));
    // A snapshot whose length is known ahead lies on the server's disk.
    assert!(host.logged.borrow().iter().any(|(_, line)| line.contains("repl-diskless-sync")));
    assert_eq!(host.artifact("appendonly.aof").unwrap(), [SNAPSHOT, &commands(&[&["SELECT", "0"]]), &tail].concat());

    let host =
        FakeHost::with_context("capture", &[("capabilities", "redis"), ("primary-offset", "9999")]).with_redis(redis());
    let error = RedisAof::capture(&host).unwrap_err();
    assert!(error.is(code::TIMEOUT) && error.retryable && error.message.contains("stands still"), "{error:?}");
    assert!(host.artifact("appendonly.aof").is_none());

    let cut = FakeRedis { snapshot: SNAPSHOT[..12].to_vec(), ..redis() };
    let host = FakeHost::with_context("capture", &[("capabilities", "redis")]).with_redis(cut);
    assert_eq!(RedisAof::capture(&host).unwrap_err().code, code::SOURCE_IO);
    assert!(host.artifact("appendonly.aof").is_none());
}

#[test]
fn a_last_file_that_ends_inside_a_transaction_is_cut_before_it() {
    let whole = commands(&[&["SELECT", "0"], &["SET", "a", "1"]]);
    let open = [whole.clone(), commands(&[&["MULTI"], &["SET", "b", "2"]]), b"*3\r\n$3".to_vec()].concat();
    let manifest = b"file f.1.base.rdb seq 1 type b\nfile f.1.incr.aof seq 1 type i\n".to_vec();
    let host = FakeHost::with_context("capture", &[("capabilities", "files")]).with_files([
        ("appendonlydir/f.manifest", manifest.clone()),
        ("appendonlydir/f.1.base.rdb", SNAPSHOT.to_vec()),
        ("appendonlydir/f.1.incr.aof", open.clone()),
    ]);
    let facts = RedisAof::capture(&host).unwrap();
    assert_eq!(facts.get("commands"), Some("2"));
    let expected = archive_of(&[
        ("appendonlydir/f.manifest", manifest),
        ("appendonlydir/f.1.base.rdb", SNAPSHOT.to_vec()),
        ("appendonlydir/f.1.incr.aof", whole.clone()),
    ]);
    // The time of the run lies in the headers.
    assert_eq!(host.artifact(archive::ARTIFACT).unwrap().len(), expected.len());

    let host = FakeHost::with_context("capture", &[("capabilities", "files")])
        .with_files([("appendonly.aof", [SNAPSHOT, &open].concat())]);
    RedisAof::capture(&host).unwrap();
    assert_eq!(host.artifact("appendonly.aof").unwrap(), [SNAPSHOT, &whole].concat());
}

#[rstest]
#[case::all_there(0, true)]
#[case::stale(1, false)]
#[case::of_another_server(-30, false)]
fn files_that_are_not_as_long_as_the_servers_are_refused(
    #[case] more: i64,
    #[case] taken: bool,
    #[values(true, false)] multi_part: bool,
) {
    let tail = commands(&[&["SELECT", "0"], &["SET", "a", "1"]]);
    let size = i64::try_from(SNAPSHOT.len() + tail.len()).unwrap() + more;
    let redis = FakeRedis::default()
        .with_info("persistence", &[("aof_rewrite_in_progress", "0"), ("aof_current_size", &size.to_string())])
        .with_script(|_| Err(Error::new(code::DENIED, "not granted")));
    let manifest = b"file f.1.base.rdb seq 1 type b\nfile f.1.incr.aof seq 1 type i\n".to_vec();
    let files = if multi_part {
        vec![("d/f.manifest", manifest), ("d/f.1.base.rdb", SNAPSHOT.to_vec()), ("d/f.1.incr.aof", tail)]
    } else {
        vec![("appendonly.aof", [SNAPSHOT, &tail].concat())]
    };
    let host = FakeHost::with_context("capture", &[("capabilities", "redis files")])
        .with_parameters(r#"{"source":"files"}"#)
        .with_redis(redis)
        .with_files(files);
    let result = RedisAof::capture(&host);
    assert_eq!(result.is_ok(), taken, "{result:?}");
    assert_eq!(host.artifacts.borrow().is_empty(), !taken);
    if let Err(error) = result {
        assert!(error.is(code::REFUSED) && error.detail("help").is_some(), "{error:?}");
    }
}

#[test]
fn the_old_file_of_a_server_without_one_is_refused_also_where_its_configuration_may_not_be_read() {
    // With appendonly no a server tells no `aof_current_size` either.
    let redis = FakeRedis::default()
        .with_info("persistence", &[("aof_enabled", "0"), ("aof_rewrite_in_progress", "0")])
        .with_script(|_| Err(Error::new(code::SERVER_REPLY, "NOPERM no permissions to run the 'config|get' command")));
    let host = FakeHost::with_context("capture", &[("capabilities", "redis files")])
        .with_parameters(r#"{"source":"files"}"#)
        .with_redis(redis)
        .with_files([("appendonly.aof", stream())]);
    for error in [RedisAof::plan(&host).unwrap_err(), RedisAof::capture(&host).unwrap_err()] {
        assert!(error.is(code::REFUSED) && error.message.contains("aof_enabled:0"), "{error:?}");
    }
    assert!(host.artifacts.borrow().is_empty());
}

#[test]
fn a_directory_without_an_append_only_file_says_what_to_do() {
    let host =
        FakeHost::with_context("capture", &[("capabilities", "files")]).with_files([("dump.rdb", SNAPSHOT.to_vec())]);
    let error = RedisAof::plan(&host).unwrap_err();
    assert!(error.is(code::NOT_FOUND) && error.detail("help").is_some(), "{error:?}");
    let missing = FakeHost::with_context("capture", &[("capabilities", "files")])
        .with_files([("appendonlydir/a.manifest", b"file gone seq 1 type b\n".to_vec())]);
    let error = RedisAof::capture(&missing).unwrap_err();
    assert!(error.is(code::SOURCE_IO) && error.retryable, "{error:?}");
}

#[test]
fn an_offset_that_is_not_reached_is_told() {
    let tail = commands(&[&["SET", "a", "1"]]);
    let select = commands(&[&["SELECT", "0"]]);
    let position = (SNAPSHOT.len() + select.len()) as u64;
    let size = tail.len() as u64;
    let mut marks = Marks::starting_with(Mark { time_ms: 5, offset: 100, position });
    marks.push(Mark { time_ms: 6, offset: 100 + size, position: position + size });
    for (until, reached) in [(100 + size, 100 + size), (110, 100)] {
        let parameters = format!(r#"{{"until":"{until}"}}"#);
        let bytes = [SNAPSHOT, &select, &tail].concat();
        let host = restoring("aof", bytes, &[("target", "directory"), ("appendonly", "yes")], &parameters)
            .with_artifact("m", "aof-marks", marks.to_json().unwrap());
        let facts = RedisAof::restore(&host).unwrap();
        assert_eq!(facts.get("restored-offset"), Some(reached.to_string().as_str()));
        let told = host.logged.borrow().iter().any(|(_, line)| line.contains("offset 100, not 110"));
        assert_eq!(told, until != reached);
    }
}

#[test]
fn inspect_counts_commands_by_name() {
    let host = restoring("aof", stream(), &[], "{}");
    let answer: serde_json::Value = serde_json::from_str(&RedisAof::inspect(&host, "{}").unwrap()).unwrap();
    assert_eq!(answer["type"], "aof");
    assert_eq!(answer["keys"], 0);
    assert_eq!(answer["commands"]["count"], 6);
    assert_eq!(answer["commands"]["byName"]["SET"], 2);
    let host = restoring("aof-archive", good_archive(), &[], "{}");
    let answer: serde_json::Value =
        serde_json::from_str(&RedisAof::inspect(&host, r#"{"largest":3}"#).unwrap()).unwrap();
    assert_eq!((answer["type"].as_str(), answer["commands"]["annotations"].as_u64()), (Some("aof-archive"), Some(1)));
}

proptest! {
    #[test]
    fn no_archive_makes_it_panic_and_none_is_held(flip in 0_usize..4000, value in any::<u8>(), short in 1_usize..900) {
        let mut bytes = good_archive();
        let place = flip % bytes.len();
        bytes[place] ^= value;
        let _ = verify("aof-archive", bytes, short);
    }

    #[test]
    fn what_an_archive_holds_comes_out_in_any_chunking(
        files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 1..5),
        short in 1_usize..700,
    ) {
        let named: Vec<(String, Vec<u8>)> =
            files.into_iter().enumerate().map(|(number, bytes)| (format!("d/f{number}"), bytes)).collect();
        let list: Vec<(&str, Vec<u8>)> = named.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let mut host = FakeHost::default().with_artifact("x", "t", archive_of(&list));
        host.short_reads = Some(short);
        let mut reader = ArchiveReader::new(Reader::new(host.artifacts().open("x").unwrap()));
        for (name, bytes) in &named {
            let entry = reader.next_entry().unwrap().unwrap();
            prop_assert_eq!(format!("d/{}", entry.name), name.clone());
            prop_assert_eq!(&reader.whole(&entry, 4096).unwrap(), bytes);
        }
        prop_assert!(reader.next_entry().unwrap().is_none());
    }
}
