//! What a component may make of the compiler: bounds, and what the worst within them costs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "support/guest.rs"]
#[allow(dead_code, reason = "one guest is needed here, and none of its ways")]
mod guest;

use std::time::{Duration, Instant};

use guest::Guest;
use redkeep_core::Classify as _;
use redkeep_plugin::{HostConfig, Limits, PluginError, PluginHost};
use rstest::rstest;

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &number(content.len()), content].concat()
}

/// A function with so many locals (i32) and this code.
fn body(locals: usize, code: &[u8]) -> Vec<u8> {
    let groups = if locals == 0 { vec![0] } else { [&[1][..], &number(locals), &[0x7f]].concat() };
    let body = [&groups[..], code, &[0x0b]].concat();
    [number(body.len()), body].concat()
}

/// A core module of these functions, none of which takes or returns anything.
fn module(bodies: &[Vec<u8>]) -> Vec<u8> {
    let count = number(bodies.len());
    let types = [&count[..], &vec![0; bodies.len()]].concat();
    let code = [&count[..], &bodies.concat()].concat();
    [&b"\0asm\x01\0\0\0"[..], &section(1, &[1, 0x60, 0, 0]), &section(3, &types), &section(10, &code)].concat()
}

/// A good plugin with a module more.
fn with(module: &[u8]) -> Vec<u8> {
    [Guest::new().build(), section(1, module)].concat()
}

const NOP: u8 = 0x01;

fn a_large_function() -> Vec<u8> {
    with(&module(&[body(0, &vec![NOP; 1 << 20])]))
}

fn much_code() -> Vec<u8> {
    with(&module(&vec![body(0, &vec![NOP; 1 << 19]); 65]))
}

fn many_functions() -> Vec<u8> {
    with(&module(&vec![body(0, &[]); 100_001]))
}

fn many_locals() -> Vec<u8> {
    with(&module(&[body(2_001, &[NOP])]))
}

fn locals_and_length() -> Vec<u8> {
    with(&module(&[body(1_000, &vec![NOP; 70_000])]))
}

fn many_modules() -> Vec<u8> {
    [Guest::new().build(), section(1, &module(&[])).repeat(200)].concat()
}

fn many_types() -> Vec<u8> {
    // Each the primitive type bool.
    [Guest::new().build(), section(7, &[number(20_001), vec![0x7f; 20_001]].concat())].concat()
}

fn many_tables() -> Vec<u8> {
    let tables = [number(401), [0x70, 0, 1].repeat(401)].concat();
    with(&[&b"\0asm\x01\0\0\0"[..], &section(4, &tables)].concat())
}

#[rstest]
#[case(a_large_function(), "and 1.0 MiB are the most")]
#[case(much_code(), "its code has more than 32.0 MiB")]
#[case(many_functions(), "it has more than 100000 functions")]
#[case(many_locals(), "has 2001 locals")]
#[case(locals_and_length(), "has 1000 locals, and of its length 914 are the most")]
#[case(many_modules(), "it has more than 200 modules and components")]
#[case(many_types(), "it has more than 20000 imports, exports, types")]
#[case(many_tables(), "it has more than 400 tables and memories")]
#[tokio::test]
async fn what_would_keep_the_compiler_busy_is_refused_before_it_is_called(
    #[case] component: Vec<u8>,
    #[case] words: &str,
) {
    let host = PluginHost::new(HostConfig::default()).unwrap();
    let begun = Instant::now();
    let error = host.describe(component, "x.wasm", Limits::default()).await.unwrap_err();
    assert_eq!(error.reason(), "PluginTooComplex", "{error}");
    assert!(error.to_string().contains(words), "{error}");
    // Some millions of bytes are looked through in this build.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_compiler_that_takes_too_long_is_given_up_and_another_plugin_is_loaded_meanwhile() {
    let host = PluginHost::new(HostConfig::default()).unwrap();
    let busy = with(&module(&vec![body(100, &blocks(100, 20_000)); 120]));
    let impatient = Limits { compile: Duration::from_millis(50), ..Limits::default() };
    let begun = Instant::now();
    let (given_up, loaded) = tokio::join!(
        host.describe(busy, "busy.wasm", impatient),
        host.describe(Guest::new().build(), "good.wasm", Limits::default()),
    );
    let error = given_up.unwrap_err();
    assert!(matches!(error, PluginError::CompileTime { .. }), "{error}");
    assert_eq!(error.reason(), "PluginCompileTime");
    loaded.unwrap();
    // The busy one takes twice as long on two cores, and goes on all the while.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// Nested blocks up to this many bytes, in each a local set, and all of them read at the end: what a compiler in SSA form finds
/// hardest.
fn blocks(locals: usize, bytes: usize) -> Vec<u8> {
    let mut code = Vec::new();
    let mut depth = 0_usize;
    while code.len() < bytes {
        let local = number(depth % locals);
        // block, i32.const 0, local.set, local.get, br_if 0
        code.extend([0x03, 0x40, 0x41, 0]);
        code.extend([&[0x21][..], &local, &[0x20][..], &local, &[0x0d, 0]].concat());
        depth += 1;
        if depth.is_multiple_of(200) {
            code.extend([0x0b; 200]);
        }
    }
    code.extend(std::iter::repeat_n(0x0b, depth % 200));
    for local in 0..locals {
        code.extend([&[0x20][..], &number(local), &[0x1a]].concat());
    }
    code
}

fn resident(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// What the hardest code costs, by its size. Run alone: `cargo test --release -p redkeep-plugin --test compiler -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "prints figures"]
async fn costs() {
    let one =
        |locals: usize, bytes: usize, count: usize| with(&module(&vec![body(locals, &blocks(locals, bytes)); count]));
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/example-python.wasm");
    for (what, component) in [
        ("Python", std::fs::read(python).unwrap_or_default()),
        ("a function of 64 KB, 60 locals", one(60, 64_000, 1)),
        ("a function of 128 KB, 60 locals", one(60, 128_000, 1)),
        ("a function of 256 KB, 60 locals", one(60, 256_000, 1)),
        ("a function of 32 KB, 1,900 locals", one(1_900, 26_000, 1)),
        ("256 functions of 16 KB, 60 locals", one(60, 16_000, 256)),
        ("50,000 functions of 100 B", one(5, 100, 50_000)),
    ] {
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let host = PluginHost::new(HostConfig::default()).unwrap();
        let (size, before, begun) = (component.len(), resident("VmRSS"), Instant::now());
        let limits = Limits { compile: Duration::from_mins(20), describe_memory: 64 << 20, ..Limits::default() };
        let outcome = host.describe(component, "x.wasm", limits).await.map(|plugin| plugin.compiled_in);
        let peak = resident("VmHWM");
        println!(
            "{what}: {} KiB, {:.1?}, {before} MiB before, peak {peak} MiB, {outcome:?}",
            size / 1024,
            begun.elapsed()
        );
    }
}
