//! Plugins that misbehave: each is stopped with an error that says which of its ways it was, and the host goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::method::{LogLevel, Method, MethodError, code};
use redkeep_core::{Attribute, Classify};
use redkeep_plugin::{Grants, HostConfig, Limits, LoadOptions, PluginHost};
use rstest::rstest;
use support::guest::Guest;
use support::world::World;

fn small() -> Limits {
    Limits {
        memory: 8 << 20,
        describe_memory: 4 << 20,
        cpu_slice: Duration::from_millis(200),
        describe_cpu_slice: Duration::from_millis(200),
        wall_clock: Duration::from_mins(1),
        ..Limits::default()
    }
}

fn grants(texts: &[&str]) -> Grants {
    Grants::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
}

async fn load_with(guest: Guest, granted: Grants, limits: Limits) -> Arc<dyn Method> {
    let host = PluginHost::new(HostConfig::default()).unwrap();
    let options = LoadOptions { grants: granted, limits, origin: "test.wasm".into(), ..LoadOptions::default() };
    host.load(guest.build(), options)
        .await
        .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

async fn capture_with(
    guest: Guest,
    granted: Grants,
    limits: Limits,
    world: &Arc<World>,
) -> Result<Vec<Attribute>, MethodError> {
    load_with(guest, granted, limits).await.capture(world.run("capture")).await
}

async fn capture(guest: Guest, world: &Arc<World>) -> Result<Vec<Attribute>, MethodError> {
    capture_with(guest, Grants::everything_requested(), small(), world).await
}

#[track_caller]
fn assert_failed(error: &MethodError, code: &str, message: &str) {
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(message), "{error}");
    assert!(!error.retryable);
}

#[tokio::test]
async fn a_plugin_without_tricks_returns_its_facts() {
    let guest = Guest::capture(|guest| guest.facts(&[("keys", "7"), ("server-version", "7.0.15")]));
    let facts = capture(guest, &World::new()).await.unwrap();
    assert_eq!(facts, [Attribute::new("keys", 7), Attribute::new("server-version", "7.0.15")]);
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_cpu_slice_and_the_next_call_works() {
    let guest = Guest::capture(|_| "(loop $again (br $again)) (global.get $ok)".into());
    let method = load_with(guest, Grants::none(), small()).await;
    for _ in 0..2 {
        let error = method.capture(World::new().run("capture")).await.unwrap_err();
        assert_failed(&error, code::LIMIT, "computed for 200 ms without calling the host");
        assert_eq!(error.reason(), "PluginLimit");
        assert!(method.plan(World::new().run("capture")).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_endless_loop_holds_up_no_other_task() {
    let guest = Guest::capture(|_| "(loop $again (br $again)) (global.get $ok)".into());
    let method = load_with(guest, Grants::none(), small()).await;
    // One thread only: the other task runs between the guest's ticks or not at all.
    let ticks = tokio::spawn(async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let run = World::new().run("capture");
    tokio::select! {
        biased;
        _ = method.capture(run) => panic!("the guest ended first"),
        done = ticks => done.unwrap(),
    }
}

#[tokio::test]
async fn an_endless_loop_of_host_calls_ends_with_the_wall_clock() {
    let guest = Guest::capture(|_| "(loop $again (drop (call $now)) (br $again)) (global.get $ok)".into());
    let limits = Limits { wall_clock: Duration::from_millis(600), ..small() };
    let error = capture_with(guest, Grants::none(), limits, &World::new()).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "did not finish capture within 600ms (limit of the wall clock)");
}

#[tokio::test]
async fn a_long_host_call_does_not_count_as_the_plugins_time() {
    // Twice the slice in one call and as much in a splice, and then some work: an epoch deadline alone kills this.
    let guest = Guest::capture(|guest| {
        let (file, name, none) = (guest.text("slow"), guest.text("copy"), guest.attributes(&[]));
        format!(
            "(call $sleep (i32.const 400) (global.get $ret))
             (call $open {file} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $create {name} {none} (global.get $ret)) (local.set $b (i32.load offset=4 (global.get $ret)))
             (call $splice (local.get $a) (local.get $b) (i32.const 0) (i64.const 0) (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (call $finish (local.get $b) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (global.get $ok)"
        )
    })
    .requests(&["files:read:slow"]);
    let world = World::new();
    world.files.lock().unwrap().insert("slow".into(), vec![7; 300 << 10].into());
    *world.read_delay.lock().unwrap() = Duration::from_millis(200);
    capture(guest, &world).await.unwrap();
    assert_eq!(world.artifacts.lock().unwrap()["copy"], vec![7; 300 << 10]);
}

#[tokio::test]
async fn dropping_a_call_ends_it() {
    let guest = Guest::capture(|_| "(call $sleep (i32.const 3600000) (global.get $ret)) (global.get $ok)".into());
    let method = load_with(guest, Grants::none(), small()).await;
    let call = method.capture(World::new().run("capture"));
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    assert!(method.verify(World::new().run("verify")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_memory_bomb_names_the_limit() {
    let guest =
        Guest::capture(|_| "(loop $again (drop (memory.grow (i32.const 16))) (br $again)) (global.get $ok)".into());
    let error = capture(guest, &World::new()).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "used more memory than it may");
    assert!(error.message.contains("of 8.0 MiB") || error.message.contains("of 8 MiB"), "{error}");
}

#[tokio::test]
async fn a_table_bomb_names_the_limit() {
    let guest = Guest::capture(|_| {
        "(loop $again (drop (table.grow $t (ref.null func) (i32.const 100000))) (br $again)) (global.get $ok)".into()
    })
    .module_fields("(table $t 0 funcref)");
    assert_failed(&capture(guest, &World::new()).await.unwrap_err(), code::LIMIT, "more table elements");
}

#[tokio::test]
async fn endless_recursion_is_a_stack_overflow() {
    let guest = Guest::capture(|_| "(call $deep (i32.const 0))".into())
        .module_fields("(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))");
    let error = capture(guest, &World::new()).await.unwrap_err();
    assert_failed(&error, code::TRAPPED, "plugin test overflowed its stack in capture");
}

#[rstest]
#[case("unreachable", "`unreachable` instruction executed")]
#[case("(i32.div_u (i32.const 1) (i32.const 0))", "integer divide by zero")]
#[case("(i32.load (i32.const -4))", "out of bounds memory access")]
#[tokio::test]
async fn a_trap_is_named(#[case] body: &str, #[case] message: &str) {
    let error = capture(Guest::capture(|_| body.into()), &World::new()).await.unwrap_err();
    assert_failed(&error, code::TRAPPED, message);
    assert!(error.help().unwrap().contains("defect of the plugin"));
}

#[tokio::test]
async fn the_message_of_a_panic_reaches_the_user() {
    let guest = Guest::capture(|guest| {
        let line = guest.text("plugin panicked: panicked at src/lib.rs:15:107:\nindex out of bounds");
        format!("(call $log (i32.const 4) {line} (i32.const 8) (i32.const 0)) unreachable")
    });
    let world = World::new();
    // The line must come through even where the plugin has used up its lines of this second.
    let limits = Limits { log_lines_per_second: 0, ..small() };
    let error = capture_with(guest, Grants::none(), limits, &world).await.unwrap_err();
    assert_failed(&error, code::TRAPPED, "plugin panicked: panicked at src/lib.rs:15:107: index out of bounds");
    assert_eq!(world.log.lock().unwrap()[0].0, LogLevel::Error);
}

#[tokio::test]
async fn a_sink_dropped_without_finish_is_thrown_away() {
    for ending in ["(call $drop-sink (local.get $a))", "", "unreachable"] {
        let guest = Guest::capture(|guest| {
            let (name, none, data) = (guest.text("dump.rdb"), guest.attributes(&[]), guest.text("REDIS0011"));
            format!(
                "(call $create {name} {none} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
                 (call $write (local.get $a) {data} (global.get $ret))
                 {ending} (global.get $ok)"
            )
        });
        let world = World::new();
        let _ = capture(guest, &world).await;
        assert!(world.artifacts.lock().unwrap().is_empty());
        assert_eq!(*world.thrown_away.lock().unwrap(), [9], "{ending}");
    }
}

#[tokio::test]
async fn a_log_flood_is_thinned_and_then_ended() {
    let body = |guest: &mut Guest| {
        let line = guest.text("again and again");
        format!(
            "(loop $again (call $log (i32.const 2) {line} (i32.const 8) (i32.const 0))
               (local.set $a (i32.add (local.get $a) (i32.const 1)))
               (br_if $again (i32.lt_u (local.get $a) (i32.const 3000)))) (global.get $ok)"
        )
    };
    let world = World::new();
    let limits = Limits { log_lines_per_second: 10, ..small() };
    capture_with(Guest::capture(body), Grants::none(), limits.clone(), &world).await.unwrap();
    let shown = world.log.lock().unwrap().len();
    assert!((10..3000).contains(&shown), "{shown}");
    let limits = Limits { log_lines: 2999, ..limits };
    let error = capture_with(Guest::capture(body), Grants::none(), limits, &World::new()).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "wrote more log lines than it may: the limit is 2999");
}

#[tokio::test]
async fn a_log_line_is_cut_and_cannot_move_the_cursor() {
    let guest = Guest::capture(|guest| {
        let line = guest.text(&format!("\u{1b}[2J{}", "x".repeat(1000)));
        format!("(call $log (i32.const 3) {line} (i32.const 8) (i32.const 0)) (global.get $ok)")
    });
    let world = World::new();
    capture_with(guest, Grants::none(), Limits { log_line: 100, ..small() }, &world).await.unwrap();
    let log = world.log.lock().unwrap();
    assert!(log[0].1.starts_with("\u{fffd}[2Jxxx") && log[0].1.len() < 110, "{:?}", log[0]);
}

#[tokio::test]
async fn output_beyond_the_quota_ends_the_call() {
    let guest = Guest::capture(|guest| {
        let (name, none) = (guest.text("dump.rdb"), guest.attributes(&[]));
        format!(
            "(call $create {name} {none} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (loop $again (call $write (local.get $a) (i32.const 0) (i32.const 65536) (global.get $ret)) (br $again))
             (global.get $ok)"
        )
    });
    let world = World::new();
    let error = capture_with(guest, Grants::none(), Limits { output: 1 << 20, ..small() }, &world).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "wrote more than it may: the limit of output is");
    assert_eq!(*world.thrown_away.lock().unwrap(), [1 << 20]);
}

#[tokio::test]
async fn a_splice_beyond_the_quota_ends_the_call() {
    let guest = splice("zeros-1").requests(&["files:read:**"]);
    let error =
        capture_with(guest, Grants::everything_requested(), Limits { output: 1 << 20, ..small() }, &World::new()).await;
    assert_failed(&error.unwrap_err(), code::LIMIT, "the limit of output");
}

/// A guest that copies a file to an artifact of the same name.
fn splice(path: &str) -> Guest {
    Guest::capture(|guest| {
        let (file, none) = (guest.text(path), guest.attributes(&[]));
        format!(
            "(call $open {file} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
             (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $create {file} {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
             (local.set $b (i32.load offset=4 (global.get $ret)))
             (call $splice (local.get $a) (local.get $b) (i32.const 0) (i64.const 0) (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (call $finish (local.get $b) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (global.get $ok)"
        )
    })
}

#[tokio::test]
async fn a_splice_ends_with_the_wall_clock_though_nothing_ever_waits() {
    let guest = splice("zeros-1000000").requests(&["files:read:**"]);
    let limits = Limits { wall_clock: Duration::from_millis(300), ..small() };
    let world = Arc::new(World { discard: true, ..World::default() });
    let error = capture_with(guest, Grants::everything_requested(), limits, &world).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "limit of the wall clock");
}

#[tokio::test]
async fn a_huge_list_is_not_copied_into_the_host() {
    let guest = Guest::capture(|guest| {
        let (name, none) = (guest.text("dump.rdb"), guest.attributes(&[]));
        format!(
            "(call $create {name} {none} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $write (local.get $a) (i32.const 0) (i32.const 4194304) (global.get $ret)) (global.get $ok)"
        )
    })
    .pages(65);
    let limits = Limits { describe_memory: 8 << 20, ..small() };
    let error = capture_with(guest, Grants::none(), limits, &World::new()).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "passed more data in one call than it may");
}

#[tokio::test]
async fn too_many_handles_end_the_call() {
    let guest = Guest::capture(|guest| {
        let file = guest.text("f");
        format!("(loop $again (call $open {file} (global.get $ret)) (br $again)) (global.get $ok)")
    })
    .requests(&["files:read:f"]);
    let world = World::new();
    world.files.lock().unwrap().insert("f".into(), "x".into());
    let error = capture_with(guest, Grants::everything_requested(), Limits { handles: 50, ..small() }, &world).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, code::LIMIT, "{error}");
    assert!(error.message.contains("than it may"), "{error}");
}

/// A guest whose capture calls a function with operands and returns its error.
fn calling(call: &str, operands: impl FnOnce(&mut Guest) -> String) -> Guest {
    Guest::capture(|guest| {
        let operands = operands(guest);
        format!(
            "(call ${call} {operands} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret)))) (global.get $ok)"
        )
    })
}

#[rstest]
#[case("/etc/passwd")]
#[case("../secret")]
#[case("a/../../secret")]
#[case("a//b")]
#[tokio::test]
async fn a_path_that_leads_out_is_denied(#[case] path: &str) {
    let world = World::new();
    world.files.lock().unwrap().insert(path.to_owned(), "secret".into());
    let guest = calling("open", |guest| guest.text(path)).requests(&["files:read:**"]);
    assert_failed(&capture(guest, &world).await.unwrap_err(), code::DENIED, "not a path within the data directory");
    let guest = calling("create-file", |guest| guest.text(path)).requests(&["files:write:**"]);
    assert_failed(&capture(guest, &world).await.unwrap_err(), code::DENIED, "not a path within the data directory");
}

#[tokio::test]
async fn a_file_outside_the_granted_pattern_is_denied() {
    let world = World::new();
    world.files.lock().unwrap().insert("acl.conf".into(), "secret".into());
    let guest = || calling("open", |guest| guest.text("acl.conf")).requests(&["?files:read:**"]);
    let error = capture_with(guest(), grants(&["files:read:*.rdb"]), small(), &world).await.unwrap_err();
    assert_failed(&error, code::DENIED, "files:read:acl.conf is not granted");
    capture_with(guest(), grants(&["files:read:acl.*"]), small(), &world).await.unwrap();
    let guest = calling("list-directory", |guest| guest.text("")).requests(&["?files:list"]);
    assert_failed(&capture_with(guest, Grants::none(), small(), &world).await.unwrap_err(), code::DENIED, "files:list");
}

#[tokio::test]
async fn a_command_that_is_not_granted_never_reaches_the_server() {
    let world = World::new();
    let guest = |words: &[&str]| {
        calling("command", |guest| guest.list(words)).requests(&["?redis:command:CONFIG", "?redis:command:BGSAVE"])
    };
    let granted = || grants(&["redis:command:BGSAVE", "redis:command:CONFIG|GET"]);
    for refused in [&["FLUSHALL"][..], &["CONFIG", "SET", "dir", "/tmp"], &["BGSAVE\r\nFLUSHALL"], &[]] {
        let error = capture_with(guest(refused), granted(), small(), &world).await.unwrap_err();
        assert_eq!(error.code, code::DENIED, "{error}");
    }
    assert!(world.commands.lock().unwrap().is_empty());
    capture_with(guest(&["config", "get", "dir\r\nFLUSHALL"]), granted(), small(), &world).await.unwrap();
    assert_eq!(*world.commands.lock().unwrap(), [["config", "get", "dir\r\nFLUSHALL"]]);
}

#[rstest]
#[case(&["CONFIG", "GET", "*"], "asks for a pattern")]
#[case(&["config", "get", "dir", "require?as*"], "asks for a pattern")]
#[case(&["CONFIG", "GET", "[rm]*"], "asks for a pattern")]
// Servers before Redis 7 take every name for a pattern, and a word to end at a NUL byte.
#[case(&["CONFIG", "GET", "requirep\\ass"], "asks for a pattern")]
#[case(&["CONFIG", "GET\0", "masterauth\0x"], "asks for a password")]
#[case(&["CONFIG", "GET", "RequirePass"], "asks for a password")]
#[case(&["CONFIG", "GET", "primaryauth"], "asks for a password")]
#[case(&["CONFIG", "GET", "save", "tls-key-file-pass"], "asks for a password")]
#[case(&["CONFIG", "GET", "tls-client-key-file-pass"], "asks for a password")]
#[tokio::test]
async fn no_grant_lets_a_plugin_ask_for_passwords(#[case] words: &[&str], #[case] message: &str) {
    let world = World::new();
    let alone = calling("command", |guest| guest.list(words));
    let among = calling("pipeline", |guest| guest.commands(&[&["CONFIG", "GET", "dir"], words]));
    for guest in [alone, among] {
        let guest = guest.requests(&["redis:command:CONFIG"]);
        let error = capture_with(guest, grants(&["redis:command:CONFIG"]), small(), &world).await.unwrap_err();
        assert_failed(&error, code::DENIED, message);
        assert!(error.help().unwrap().contains("by their whole names"));
    }
    assert!(world.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn settings_are_told_by_their_names() {
    let world = World::new();
    for words in [&["CONFIG", "GET", "dir", "masteruser"][..], &["CONFIG", "REWRITE"], &["CONFIG"]] {
        let guest = calling("command", |guest| guest.list(words)).requests(&["redis:command:CONFIG"]);
        capture(guest, &world).await.unwrap();
        // It got as far as the server, which takes no pipelines here.
        let guest = calling("pipeline", |guest| guest.commands(&[words])).requests(&["redis:command:CONFIG"]);
        assert_failed(&capture(guest, &world).await.unwrap_err(), code::NOT_SUPPORTED, "no pipeline here");
    }
    assert_eq!(world.commands.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_grant_that_would_do() {
    let guest = calling("replicate", |_| "(i32.const 1)".into()).requests(&["?redis:replicate"]);
    let error = capture_with(guest, Grants::none(), small(), &World::new()).await.unwrap_err();
    assert_failed(&error, code::DENIED, "redis:replicate is not granted");
    assert_eq!(error.reason(), "NotGranted");
}

#[tokio::test]
async fn what_the_plugin_did_not_request_is_denied_though_granted() {
    let guest = calling("info", |_| "(i32.const 0) (i32.const 0) (i32.const 0)".into());
    let error = capture_with(guest, grants(&["redis:info"]), small(), &World::new()).await.unwrap_err();
    assert_failed(&error, code::DENIED, "does not say so in its requests");
}

/// A guest that connects, runs this with the connection in `$a`, and captures nothing.
fn conversing(talk: impl FnOnce(&mut Guest) -> String) -> Guest {
    Guest::capture(|guest| {
        let talk = talk(guest);
        format!(
            "(call $connect (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
             (local.set $a (i32.load offset=4 (global.get $ret))) {talk} (global.get $ok)"
        )
    })
    .requests(&["?socket:connect"])
}

#[tokio::test]
async fn a_socket_needs_its_grant_and_a_run_that_has_one() {
    let guest = || conversing(|_| String::new());
    let denied = capture_with(guest(), grants(&["redis:info"]), small(), &World::new()).await.unwrap_err();
    assert_failed(&denied, code::DENIED, "socket:connect is not granted");
    capture_with(guest(), grants(&["socket:connect"]), small(), &World::new()).await.unwrap();
    let method = load_with(guest(), grants(&["socket:connect"]), small()).await;
    let run = redkeep_core::method::Run { socket: None, ..World::new().run("capture") };
    assert_failed(&method.capture(run).await.unwrap_err(), code::NOT_SUPPORTED, "no socket");
}

#[tokio::test]
async fn a_connection_is_still_good_after_a_timeout() {
    let guest = conversing(|guest| {
        let (text, trap) = (guest.text("hello"), "(then (unreachable))");
        format!(
            "(call $receive (local.get $a) (i32.const 100) (i32.const 1) (i32.const 5) (global.get $ret))
             (if (i32.eqz (i32.load8_u (global.get $ret))) {trap})
             (call $send (local.get $a) {text} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) {trap})
             (call $receive (local.get $a) (i32.const 3) (i32.const 0) (i32.const 0) (global.get $ret))
             (if (i32.load8_u (global.get $ret)) {trap})
             (if (i32.ne (i32.load offset=8 (global.get $ret)) (i32.const 3)) {trap})"
        )
    });
    capture(guest, &World::new()).await.unwrap();
}

#[tokio::test]
async fn a_read_of_a_silent_server_ends_with_the_run() {
    let silent = "(call $receive (local.get $a) (i32.const 100) (i32.const 0) (i32.const 0) (global.get $ret))";
    let limits = Limits { wall_clock: Duration::from_millis(100), ..small() };
    let guest = conversing(|_| silent.to_owned());
    let error = capture_with(guest, Grants::everything_requested(), limits, &World::new()).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "limit of the wall clock");
    let method = load_with(conversing(|_| silent.to_owned()), Grants::everything_requested(), small()).await;
    let call = tokio::spawn(async move { method.capture(World::new().run("capture")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_capability_that_the_run_lacks_is_not_supported() {
    let guest = calling("open", |guest| guest.text("f")).requests(&["files:read:f"]);
    let method = load_with(guest, Grants::everything_requested(), small()).await;
    let run = redkeep_core::method::Run { files: None, ..World::new().run("capture") };
    assert_failed(&method.capture(run).await.unwrap_err(), code::NOT_SUPPORTED, "no data directory");
}

#[tokio::test]
async fn an_artifact_is_written_once_under_a_plain_name_and_only_by_capture() {
    let create = |name: &'static str| {
        move |guest: &mut Guest| {
            let (name, none) = (guest.text(name), guest.attributes(&[]));
            format!("{name} {none}")
        }
    };
    for name in ["../x", "a/b", "", ".hidden"] {
        let error = capture(calling("create", create(name)), &World::new()).await.unwrap_err();
        assert_failed(&error, code::REFUSED, "is not a name for an artifact");
    }
    let twice = Guest::capture(|guest| {
        let (first, second) = (create("Dump.rdb")(guest), create("dump.RDB")(guest));
        format!("(call $create {first} (global.get $ret)) (call $create {second} (global.get $ret)) (global.get $ret)")
    });
    assert_failed(&capture(twice, &World::new()).await.unwrap_err(), code::REFUSED, "was created already");
    let mut guest = Guest::new();
    let operands = create("x")(&mut guest);
    let guest = guest.export("plan", format!("(call $create {operands} (global.get $ret)) (global.get $ret)"));
    let method = load_with(guest, Grants::none(), small()).await;
    let error = method.plan(World::new().run("capture")).await.unwrap_err();
    assert_failed(&error, code::DENIED, "artifacts are written by capture, not by plan");
}

#[rstest]
#[case::finished(
    "(call $finish (local.get $a) (i32.const 8) (i32.const 0) (global.get $ret))",
    "created more artifacts than it may: the limit is 40",
    40
)]
#[case::dropped("(call $drop-sink (local.get $a))", "created more artifacts than it may: the limit is 40", 0)]
#[case::open("", "opened more artifacts at once than it may: the limit is 16", 0)]
#[tokio::test]
async fn artifacts_without_number_end_the_call(#[case] then: &str, #[case] message: &str, #[case] stored: usize) {
    let (limits, world) = (Limits { artifacts: 40, ..small() }, World::new());
    let error = capture_with(Guest::creating(then), Grants::none(), limits, &world).await.unwrap_err();
    assert_failed(&error, code::LIMIT, message);
    assert_eq!(world.artifacts.lock().unwrap().len(), stored);
}

#[tokio::test]
async fn stored_artifacts_opened_without_end_end_the_call() {
    let opening = |then: &'static str| {
        Guest::capture(move |guest| {
            let name = guest.text("dump.rdb");
            format!(
                "(loop $again (call $open-stored {name} (global.get $ret)) {then}
                   (local.set $c (i32.add (local.get $c) (i32.const 1)))
                   (br_if $again (i32.lt_u (local.get $c) (i32.const 40)))) (global.get $ok)"
            )
        })
    };
    let world = Arc::new(World { stored_gibibytes: 1, ..World::default() });
    let error = capture(opening(""), &world).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "opened more artifacts at once than it may: the limit is 16");
    capture(opening("(call $drop-source (i32.load offset=4 (global.get $ret)))"), &world).await.unwrap();
}

/// A guest that gives an artifact these attributes: so many of so many bytes when it is created, and again when finished.
fn describing(first: usize, then: usize, bytes: usize) -> Guest {
    let keys: Vec<String> = (100..100 + first + then).map(|key| key.to_string()).collect();
    let value = "x".repeat(bytes - 3);
    let attributes: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
    Guest::capture(|guest| {
        let (first, then) = attributes.split_at(first);
        let (name, first, then) = (guest.text("dump.rdb"), guest.attributes(first), guest.attributes(then));
        format!(
            "(call $create {name} {first} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
             (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $finish (local.get $a) {then} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (global.get $ok)"
        )
    })
}

#[tokio::test]
async fn attributes_without_bounds_end_the_call() {
    let capture = async |guest, all_attributes| {
        let limits = Limits { all_attributes, ..small() };
        capture_with(guest, Grants::none(), limits, &World::new()).await
    };
    for (first, then, bytes) in [(64, 0, 100), (40, 24, 100), (0, 64, 100), (1, 1, 4096)] {
        capture(describing(first, then, bytes), 8 << 20).await.unwrap();
    }
    for (first, then) in [(65, 0), (40, 25), (0, 65)] {
        let error = capture(describing(first, then, 100), 8 << 20).await.unwrap_err();
        assert_failed(&error, code::LIMIT, "gave an artifact more attributes than it may: the limit is 64");
    }
    for (first, then) in [(1, 0), (1, 1)] {
        let error = capture(describing(first, then, 4097), 8 << 20).await.unwrap_err();
        assert_failed(&error, code::LIMIT, "gave an attribute of more bytes than it may");
    }
    let error = capture(describing(8, 8, 1000), 10_000).await.unwrap_err();
    assert_failed(&error, code::LIMIT, "gave attributes of more bytes than it may");
}

#[tokio::test]
async fn a_fact_given_twice_is_refused() {
    let guest = Guest::capture(|guest| guest.facts(&[("keys", "7"), ("keys", "8")]));
    assert_failed(&capture(guest, &World::new()).await.unwrap_err(), code::INTERNAL, "the key \"keys\" twice");
}

#[rstest]
#[case("damaged", "damaged")]
#[case("server-reply", "server-reply")]
#[case("limit", "internal")]
#[case("something-new", "internal")]
#[tokio::test]
async fn the_plugins_own_error_reaches_the_user(#[case] said: &str, #[case] code: &str) {
    let guest = Guest::capture(|guest| guest.error(said, "checksum wrong at 17"));
    let error = capture(guest, &World::new()).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), (code, "checksum wrong at 17"));
}

#[tokio::test]
async fn parameters_are_held_against_the_schema_and_then_shown_to_the_plugin() {
    let schema =
        r#"{"type":"object","additionalProperties":false,"properties":{"level":{"type":"integer","minimum":1}}}"#;
    let mut guest = Guest::new().schema(schema);
    let refusal = guest.error("invalid-parameters", "the plugin does not like it");
    // The plugin's own check: refuses whatever is longer than "{}".
    let body = format!("(if (i32.gt_u (local.get 1) (i32.const 2)) (then (return {refusal}))) (global.get $ok)");
    let method = load_with(guest.export("validate", body), Grants::none(), small()).await;
    method.validate("{}").await.unwrap();
    let error = method.validate(r#"{"level":0}"#).await.unwrap_err();
    assert_eq!(error.details, [Attribute::new("/level", "must be at least 1")]);
    let error = method.validate(r#"{"level":1}"#).await.unwrap_err();
    assert_failed(&error, code::INVALID_PARAMETERS, "the plugin does not like it");
}
