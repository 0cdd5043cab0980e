//! The hostile corpus: one table of everything that a plugin may try, each with the reason that it must fail with.
//!
//! Each runs beside a plugin that behaves, in one host and on one thread. Contained means: it failed with its reason,
//! the other went on and finished, nothing of it was stored, no command of its reached the server, and its memory came
//! back. `hostile.rs` looks at single tricks more closely.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::Classify;
use redkeep_core::method::{Method, MethodError, code};
use redkeep_plugin::{Grants, HostConfig, Limits, LoadOptions, PluginError, PluginHost, read_component};
use support::guest::Guest;
use support::world::World;

/// What must become of a plugin.
enum Expected {
    /// Not even loaded: the error's reason, and words of its message or of its cause's.
    Refused(&'static str, &'static str),
    /// Stopped or denied in `capture`: the error's code, and words of its message.
    Failed(&'static str, &'static str),
    /// Runs to its end, and leaves nothing.
    Nothing,
}
use Expected::{Failed, Nothing, Refused};

struct Hostile {
    trick: &'static str,
    component: Vec<u8>,
    limits: Limits,
    expected: Expected,
    /// It fails after an artifact was finished, which the engine takes back (`tests/tests/plugin_hostile.rs`).
    finishes: bool,
}

fn limits() -> Limits {
    Limits {
        memory: 16 << 20,
        cpu_slice: Duration::from_millis(200),
        wall_clock: Duration::from_mins(2),
        handles: 50,
        log_lines: 2000,
        log_lines_per_second: 10,
        ..Limits::default()
    }
}

fn hostile(trick: &'static str, guest: Guest, expected: Expected) -> Hostile {
    file(trick, guest.build(), expected)
}

fn within(limits: Limits, hostile: Hostile) -> Hostile {
    Hostile { limits, ..hostile }
}

fn file(trick: &'static str, component: Vec<u8>, expected: Expected) -> Hostile {
    Hostile { trick, component, limits: limits(), expected, finishes: false }
}

/// A guest that writes an artifact of five bytes, and then says this of it.
fn claiming(trick: &'static str, facts: &[(&str, &str)], words: &'static str) -> Hostile {
    let guest = Guest::capture(|guest| {
        let (name, kind, none) = (guest.text("dump.rdb"), guest.attributes(&[("type", "rdb")]), guest.attributes(&[]));
        let facts = guest.facts(facts);
        format!(
            "(call $create {name} {kind} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $write (local.get $a) (i32.const 0) (i32.const 5) (global.get $ret))
             (call $finish (local.get $a) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed)))) {facts}"
        )
    });
    Hostile { finishes: true, ..hostile(trick, guest, Failed(code::FACTS, words)) }
}

/// A guest whose capture makes one call and returns its error.
fn calling(call: &str, operands: impl FnOnce(&mut Guest) -> String) -> Guest {
    Guest::capture(|guest| {
        let operands = operands(guest);
        format!(
            "(call ${call} {operands} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret)))) (global.get $ok)"
        )
    })
}

/// A guest that creates an artifact, and then does something with the sink in `$a`.
fn with_sink(then: &str) -> Guest {
    Guest::capture(|guest| {
        let (name, none) = (guest.text("dump.rdb"), guest.attributes(&[]));
        format!(
            "(call $create {name} {none} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             {then} (global.get $ok)"
        )
    })
}

/// A guest that creates an artifact with these attributes.
fn described(attributes: &[(String, String)]) -> Guest {
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    calling("create", |guest| {
        let (name, attributes) = (guest.text("dump.rdb"), guest.attributes(&attributes));
        format!("{name} {attributes}")
    })
}

fn path(call: &'static str, request: &str, path: &'static str) -> Guest {
    calling(call, |guest| guest.text(path)).requests(&[request])
}

fn command(words: &'static [&'static str]) -> Guest {
    calling("command", |guest| guest.list(words)).requests(&["redis:command:BGSAVE"])
}

/// A good component with three hundred instances of an empty core module appended.
fn instance_bomb() -> Vec<u8> {
    fn number(mut value: usize, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
    }
    let mut component = Guest::new().build();
    let mut depth = 0;
    let mut modules = 0;
    for payload in wasmparser::Parser::new(0).parse_all(&component) {
        match payload.unwrap() {
            wasmparser::Payload::Version { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            wasmparser::Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            _ => {}
        }
    }
    component.extend_from_slice(b"\x01\x08\0asm\x01\0\0\0");
    let mut instances = Vec::new();
    number(300, &mut instances);
    for _ in 0..300 {
        instances.push(0);
        number(modules, &mut instances);
        instances.push(0);
    }
    component.push(2);
    number(instances.len(), &mut component);
    component.extend(instances);
    component
}

fn running() -> Vec<Hostile> {
    let big = Limits { memory: 256 << 20, describe_memory: 32 << 20, cpu_slice: Duration::from_secs(60), ..limits() };
    let short = Limits { wall_clock: Duration::from_millis(500), ..limits() };
    let endless = "(loop $again (br $again))";
    vec![
        hostile(
            "an endless loop",
            Guest::capture(|_| format!("{endless} (global.get $ok)")),
            Failed(code::LIMIT, "computed for 200 ms without calling the host"),
        ),
        within(
            short.clone(),
            hostile(
                "an endless loop of host calls",
                Guest::capture(|_| "(loop $again (drop (call $now)) (br $again)) (global.get $ok)".into()),
                Failed(code::LIMIT, "limit of the wall clock"),
            ),
        ),
        within(
            short,
            hostile(
                "a sleep that does not end",
                Guest::capture(|_| "(call $sleep (i32.const -1) (global.get $ret)) (global.get $ok)".into()),
                Failed(code::LIMIT, "limit of the wall clock"),
            ),
        ),
        within(
            big.clone(),
            hostile(
                "a memory bomb that touches what it gets",
                Guest::capture(|_| {
                    "(loop $again (local.set $a (i32.mul (memory.grow (i32.const 64)) (i32.const 65536)))
                       (memory.fill (local.get $a) (i32.const 170) (i32.const 4194304)) (br $again)) (global.get $ok)"
                        .into()
                }),
                Failed(code::LIMIT, "used more memory than it may"),
            ),
        ),
        hostile(
            "a table bomb",
            Guest::capture(|_| {
                "(loop $again (drop (table.grow $t (ref.null func) (i32.const 100000))) (br $again)) (global.get $ok)"
                    .into()
            })
            .module_fields("(table $t 0 funcref)"),
            Failed(code::LIMIT, "more table elements"),
        ),
        hostile(
            "endless recursion",
            Guest::capture(|_| "(call $deep (i32.const 0))".into()).module_fields(
                "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))",
            ),
            Failed(code::TRAPPED, "overflowed its stack"),
        ),
        within(
            big.clone(),
            hostile(
                "a huge list returned",
                // A million facts, all of them empty, in 16 MiB of memory.
                Guest::capture(|guest| format!("(i32.const {})", guest.words(&[0, 1 << 20, 1_000_000]))).pages(300),
                Failed(code::LIMIT, "passed more data in one call than it may"),
            ),
        ),
        hostile(
            "a list returned that lies outside of its memory",
            Guest::capture(|guest| format!("(i32.const {})", guest.words(&[0, u32::MAX - 16, 1 << 27]))),
            Failed(code::TRAPPED, "out of bounds"),
        ),
        within(
            big,
            hostile(
                "a huge list passed",
                with_sink("(call $write (local.get $a) (i32.const 0) (i32.const 16777216) (global.get $ret))")
                    .pages(300),
                Failed(code::LIMIT, "passed more data in one call than it may"),
            ),
        ),
        hostile(
            "a handle leak",
            Guest::capture(|guest| {
                let file = guest.text("f");
                format!("(loop $again (call $open {file} (global.get $ret)) (br $again)) (global.get $ok)")
            })
            .requests(&["files:read:f"]),
            Failed(code::LIMIT, "than it may"),
        ),
        hostile(
            "a handle made up",
            Guest::capture(|_| "(call $read (i32.const 77) (i32.const 1) (global.get $ret)) (global.get $ok)".into()),
            Failed(code::TRAPPED, "handle"),
        ),
        hostile("a sink dropped", with_sink("(call $drop-sink (local.get $a))"), Nothing),
        hostile("a sink forgotten", with_sink(""), Nothing),
        hostile(
            "a trap before its artifact is finished",
            with_sink("unreachable"),
            Failed(code::TRAPPED, "`unreachable` instruction executed"),
        ),
        within(
            Limits { output: 1 << 20, ..limits() },
            hostile(
                "output without end",
                with_sink(
                    "(loop $again (call $write (local.get $a) (i32.const 0) (i32.const 65536) (global.get $ret)) (br $again))",
                ),
                Failed(code::LIMIT, "limit of output"),
            ),
        ),
        hostile(
            "artifacts open without end",
            Guest::creating(""),
            Failed(code::LIMIT, "opened more artifacts at once than it may"),
        ),
        hostile(
            "artifacts without number",
            Guest::creating("(call $drop-sink (local.get $a))"),
            Failed(code::LIMIT, "created more artifacts than it may"),
        ),
        hostile(
            "attributes without number",
            described(&(100..165).map(|key| (key.to_string(), String::new())).collect::<Vec<_>>()),
            Failed(code::LIMIT, "gave an artifact more attributes than it may"),
        ),
        hostile(
            "a huge attribute",
            described(&[("type".to_owned(), "x".repeat(5000))]),
            Failed(code::LIMIT, "gave an attribute of more bytes than it may"),
        ),
        hostile(
            "facts that contradict one another",
            Guest::capture(|guest| guest.facts(&[("keys", "7"), ("keys", "8")])),
            Failed(code::INTERNAL, "the key \"keys\" twice"),
        ),
        claiming("bytes that were not written", &[("bytes", "7")], "reported bytes \"7\", and what it wrote has 5"),
        claiming(
            "fewer bytes of a type than written",
            &[("keys", "1"), ("rdb-bytes", "4")],
            "reported rdb-bytes \"4\"",
        ),
        claiming(
            "artifacts that are not there",
            &[("artifacts", "2")],
            "reported artifacts \"2\", and what it wrote has 1",
        ),
        hostile(
            "a log flood",
            Guest::capture(|guest| {
                let line = guest.text("again and again");
                format!(
                    "(loop $again (call $log (i32.const 2) {line} (i32.const 8) (i32.const 0)) (br $again)) (global.get $ok)"
                )
            }),
            Failed(code::LIMIT, "wrote more log lines than it may"),
        ),
        hostile(
            "a path upwards",
            path("open", "files:read:**", "../secret"),
            Failed(code::DENIED, "not a path within"),
        ),
        hostile(
            "a path down and upwards",
            path("open", "files:read:**", "a/../../secret"),
            Failed(code::DENIED, "not a path within"),
        ),
        hostile(
            "an absolute path",
            path("open", "files:read:**", "/etc/passwd"),
            Failed(code::DENIED, "not a path within"),
        ),
        hostile(
            "an absolute path to write to",
            path("create-file", "files:write:**", "/etc/cron.d/x"),
            Failed(code::DENIED, "not a path within"),
        ),
        hostile(
            "a list of what lies above",
            path("list-directory", "files:list", ".."),
            Failed(code::DENIED, "not a path within"),
        ),
        hostile(
            "an artifact's name that is a path",
            calling("create", |guest| {
                let (name, none) = (guest.text("../../manifest.json"), guest.attributes(&[]));
                format!("{name} {none}")
            }),
            Failed(code::REFUSED, "is not a name for an artifact"),
        ),
        hostile("a command not granted", command(&["FLUSHALL"]), Failed(code::DENIED, "redis:command:FLUSHALL")),
        hostile("a command without a name", command(&[]), Failed(code::DENIED, "without a name")),
        hostile(
            "all settings, the passwords among them",
            calling("command", |guest| guest.list(&["CONFIG", "GET", "*"])).requests(&["redis:command:CONFIG|GET"]),
            Failed(code::DENIED, "CONFIG GET * asks for a pattern"),
        ),
        hostile(
            "a password in a pipeline",
            calling("pipeline", |guest| guest.commands(&[&["MULTI"], &["CONFIG", "GET", "requirepass"], &["EXEC"]]))
                .requests(&["redis:command:MULTI", "redis:command:CONFIG|GET", "redis:command:EXEC"]),
            Failed(code::DENIED, "CONFIG GET requirepass asks for a password"),
        ),
        hostile(
            "RESP smuggled in a command's name",
            command(&["BGSAVE\r\n*1\r\n$8\r\nFLUSHALL"]),
            Failed(code::DENIED, "redis:command:BGSAVE *1 $8 FLUSHALL"),
        ),
        hostile(
            "a capability that it did not ask for",
            calling("replicate", |_| "(i32.const 1)".into()),
            Failed(code::DENIED, "does not say so in its requests"),
        ),
    ]
}

fn not_loaded() -> Vec<Hostile> {
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let import = |name: &str| wat(&format!(r#"(component (import "{name}" (instance)))"#));
    let good = Guest::new().build();
    vec![
        file("an instance bomb", instance_bomb(), Refused("PluginDescribe", "more instances, tables or memories")),
        file(
            "a data segment as large as all memory",
            Guest::new().pages(20_000).build(),
            Refused("PluginDescribe", "used more memory than it may"),
        ),
        file(
            "an import of WASI 0.2",
            import("wasi:cli/environment@0.2.0"),
            Refused("PluginImport", "wasi:cli/environment"),
        ),
        file(
            "an import of WASI 0.3",
            import("wasi:sockets/types@0.3.0"),
            Refused("PluginImport", "wasi:sockets/types"),
        ),
        file(
            "an import that nobody knows",
            import("evil:host/shell@0.1.0"),
            Refused("PluginImport", "evil:host/shell"),
        ),
        file(
            "an import of ours that does not exist",
            import("redkeep:plugin/shell@0.1.0"),
            Refused("PluginImport", "redkeep:plugin/shell"),
        ),
        file(
            "another version of the contract",
            Guest::new().contract("0.2.0", |wit| wit).build(),
            Refused("PluginApiVersion", "@0.2.0"),
        ),
        file("a component cut short", good[..good.len() / 2].to_vec(), Refused("PluginDamaged", "cut short")),
        file("a core module", wat("(module)"), Refused("NotAComponent", "core WebAssembly module")),
        file(
            "a precompiled component",
            wasmtime::Engine::default().precompile_component(&good).unwrap(),
            Refused("NotAComponent", "compiled"),
        ),
        file("a component that is no method", wat("(component)"), Refused("NotAMethod", "redkeep:plugin/method")),
        file("no WebAssembly at all", b"#!/bin/sh\nrm -rf /\n".to_vec(), Refused("NotAComponent", "")),
        file("a request for everything", Guest::new().requests(&["*"]).build(), Refused("PluginRequest", "*")),
        file(
            "a name that is a path",
            Guest::new().name("../rdb").build(),
            Refused("PluginDescribe", "is not a method's name"),
        ),
        file(
            "an endless loop in describe",
            Guest::new().export("describe", "(loop $again (br $again))").build(),
            Refused("PluginDescribe", "computed for"),
        ),
    ]
}

/// A plugin that copies a file which is slow to read, a little at a time.
fn well_behaved() -> Vec<u8> {
    Guest::capture(|guest| {
        let (file, none) = (guest.text("slow"), guest.attributes(&[]));
        format!(
            "(call $open {file} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $create {file} {none} (global.get $ret)) (local.set $b (i32.load offset=4 (global.get $ret)))
             (call $splice (local.get $a) (local.get $b) (i32.const 0) (i64.const 0) (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (call $finish (local.get $b) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (global.get $ok)"
        )
    })
    .requests(&["files:read:slow"])
    .build()
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn options(limits: Limits) -> LoadOptions {
    LoadOptions { grants: Grants::everything_requested(), limits, origin: "x.wasm".into(), ..LoadOptions::default() }
}

/// The error and all its causes.
fn chain(error: &PluginError) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn contain(host: &PluginHost, good: &Arc<dyn Method>, hostile: &Hostile) {
    let trick = hostile.trick;
    let beside = World::new();
    beside.files.lock().unwrap().insert("slow".into(), vec![7; 1 << 20].into());
    *beside.read_delay.lock().unwrap() = Duration::from_millis(20);
    let run = beside.run("capture");
    let good = Arc::clone(good);
    let other = tokio::spawn(async move { good.capture(run).await });

    let world = World::new();
    world.files.lock().unwrap().insert("f".into(), "x".into());
    let outcome = match host.load(hostile.component.clone(), options(hostile.limits.clone())).await {
        Err(error) => Err(Ok(error)),
        Ok(method) => method.capture(world.run("capture")).await.map_err(Err),
    };
    match (&hostile.expected, outcome) {
        (Refused(reason, words), Err(Ok(error))) => {
            assert_eq!(error.reason(), *reason, "{trick}: {}", chain(&error));
            assert!(chain(&error).contains(words), "{trick}: {}", chain(&error));
        }
        (Failed(code, words), Err(Err(error))) => {
            assert_eq!(error.code, *code, "{trick}: {error}");
            assert!(error.message.contains(words), "{trick}: {error}");
        }
        (Nothing, Ok(_)) => {}
        (_, outcome) => panic!("{trick}: {:?}", outcome.map_err(|error| error.map(|error| chain(&error)))),
    }
    assert_eq!(world.artifacts.lock().unwrap().is_empty(), !hostile.finishes, "{trick} stored something");
    assert!(world.commands.lock().unwrap().is_empty(), "{trick} reached the server");

    other.await.unwrap().unwrap_or_else(|error| panic!("the run beside {trick}: {error}"));
    assert_eq!(beside.artifacts.lock().unwrap()["slow"].len(), 1 << 20, "the run beside {trick}");
}

#[tokio::test]
async fn every_trick_of_the_hostile_corpus_is_contained() {
    /// What compiled code and the allocator may keep between two rounds.
    const SLACK: usize = 64 << 20;
    let host = PluginHost::new(HostConfig::default()).unwrap();
    let good = host.load(well_behaved(), options(Limits::default())).await.unwrap();
    let corpus: Vec<Hostile> = running().into_iter().chain(not_loaded()).collect();
    let mut after = Vec::new();
    for _ in 0..2 {
        for hostile in &corpus {
            let before = resident();
            contain(&host, &good, hostile).await;
            let grown = resident().saturating_sub(before);
            assert!(grown < SLACK, "{} left {} MiB behind", hostile.trick, grown >> 20);
        }
        after.push(resident());
    }
    assert!(after[1] < after[0] + SLACK, "resident after each round: {after:?}");
    println!(
        "hostile corpus: {} tricks, all contained, twice; resident {} MiB after the first round, {} MiB after the second",
        corpus.len(),
        after[0] >> 20,
        after[1] >> 20
    );
}

#[test]
fn a_component_of_500_mb_is_refused_by_its_size_without_being_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Sparse: reading it would take 500 MB of memory all the same.
    file.as_file().set_len(500_000_000).unwrap();
    let before = resident();
    let error = read_component(file.path()).unwrap_err();
    assert_eq!(error.reason(), "PluginTooLarge", "{error}");
    assert!(resident().saturating_sub(before) < 32 << 20);
}

/// The table of the guide names what is tested, with the reason that it has here.
#[test]
fn the_guides_table_of_tricks_is_true() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = std::fs::read_to_string(root.join("docs/plugin-guide.md")).unwrap();
    let (_, table) = guide.split_once("| trick | reason | shown by |").unwrap();
    let corpus: Vec<Hostile> = running().into_iter().chain(not_loaded()).collect();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 30, "{} rows", rows.len());
    for row in &rows {
        let [trick, reason, shown] = row.as_slice() else { panic!("{row:?}") };
        let (file, name) = shown.trim_start_matches('`').split_once("`: ").unwrap();
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let reason = reason.trim_matches('`');
        if let Some(hostile) = corpus.iter().find(|hostile| hostile.trick == name) {
            assert_eq!(file, "host/plugin/tests/corpus.rs", "{trick}");
            let here = match hostile.expected {
                Refused(reason, _) => reason,
                Failed(code, _) => MethodError::new(code, "").reason(),
                Nothing => "nothing is stored",
            };
            assert_eq!(here, reason, "{trick}");
        } else {
            let function = format!("fn {}(", name.to_ascii_lowercase().replace([' ', '-'], "_"));
            assert!(text.contains(&function), "{trick}: no test {function} in {file}");
        }
    }
    println!("hostile list: {} of {} contained, each with its test", rows.len(), rows.len());
}
