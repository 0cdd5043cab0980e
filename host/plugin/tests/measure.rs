//! Figures of DESIGN's speed table that belong to the plugin host: registering (cold: compiling; warm: from the cache), a
//! fresh instance, and bulk in every language. Nothing is asserted about time; build the plugins first, then run with
//! `cargo test --profile release -p redkeep-plugin --test measure -- --ignored --nocapture`. `cargo xtask bench` runs it and
//! takes the figures from the file that the variable `REDKEEP_FIGURES` names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use redkeep_core::stream::CHUNK;
use redkeep_plugin::{Grants, HostConfig, Limits, LoadOptions, PluginHost};
use support::guest::Guest;
use support::world::{World, endless, memory_sink};

const GIBIBYTES: u64 = 1;
/// Of an artifact that each language restores: enough that a rate is seen, and not how long an interpreter takes to start.
const STORED_GIBIBYTES: u64 = 8;

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn copying() -> Guest {
    Guest::capture(|guest| {
        let (file, none) = (guest.text(&format!("zeros-{GIBIBYTES}")), guest.attributes(&[]));
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
    .requests(&["files:read:**"])
}

/// Every byte through the guest's memory: read and write.
fn reading() -> Guest {
    Guest::capture(|guest| {
        let (file, none) = (guest.text(&format!("zeros-{GIBIBYTES}")), guest.attributes(&[]));
        format!(
            "(call $open {file} (global.get $ret)) (local.set $a (i32.load offset=4 (global.get $ret)))
             (call $create {file} {none} (global.get $ret)) (local.set $b (i32.load offset=4 (global.get $ret)))
             (loop $again
               (call $read (local.get $a) (i32.const {CHUNK}) (global.get $ret))
               (if (i32.load8_u (global.get $ret)) (then (return (global.get $ret))))
               (local.set $c (i32.load offset=8 (global.get $ret)))
               (if (local.get $c) (then
                 (call $write (local.get $b) (i32.load offset=4 (global.get $ret)) (local.get $c) (global.get $ret))
                 (br $again))))
             (call $finish (local.get $b) {none} (global.get $ret))
             (if (i32.load8_u (global.get $ret)) (then (return (call $failed))))
             (global.get $ok)"
        )
    })
    .pages(40)
    .requests(&["files:read:**"])
}

async fn native() {
    let world = Arc::new(World { discard: true, ..World::default() });
    let (mut source, mut sink) = (endless(GIBIBYTES), memory_sink(&world));
    loop {
        let data = source.read(CHUNK).await.unwrap();
        if data.is_empty() {
            break;
        }
        sink.write(data).await.unwrap();
    }
    sink.finish(Vec::new()).await.unwrap();
}

/// The restores of the two examples are one `splice` each: the language must make no difference. Taken in turns, so that a busy
/// machine slows both alike, and of each the best: medians of seven turns of the same bytes lie 14 % apart on a noisy one, either
/// way. Returns seconds for [`STORED_GIBIBYTES`].
async fn languages(host: &PluginHost) -> Vec<(&'static str, f64)> {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    let mut methods = Vec::new();
    for name in ["example-raw", "example-python"] {
        let Ok(bytes) = std::fs::read(dist.join(format!("{name}.wasm"))) else {
            println!("{name}: not built");
            continue;
        };
        let options = LoadOptions { grants: Grants::everything_requested(), ..LoadOptions::default() };
        methods.push((name, host.load(bytes, options).await.unwrap(), Vec::new()));
    }
    for _ in 0..15 {
        for (_, method, seconds) in &mut methods {
            let world = Arc::new(World { discard: true, stored_gibibytes: STORED_GIBIBYTES, ..World::default() });
            let start = Instant::now();
            method.restore(world.run("restore")).await.unwrap();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let bytes = (STORED_GIBIBYTES << 30) as f64;
    let best = |seconds: Vec<f64>| seconds.into_iter().fold(f64::INFINITY, f64::min);
    let bests: Vec<(&str, f64)> = methods.into_iter().map(|(name, _, seconds)| (name, best(seconds))).collect();
    for (name, seconds) in &bests {
        println!("{name}, one splice: {:.2} GB/s", bytes / seconds / 1e9);
    }
    bests
}

#[tokio::test]
#[ignore = "prints figures"]
async fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let config = || HostConfig { cache_dir: Some(folder.path().join("cache")) };
    let options = || LoadOptions { grants: Grants::everything_requested(), ..LoadOptions::default() };
    let mut plugins = vec![("text guest".to_owned(), copying().build())];
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    for entry in std::fs::read_dir(dist).into_iter().flatten().flatten() {
        plugins.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()));
    }
    let mut figures = serde_json::json!({ "starts": [] });
    let mut setups = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        PluginHost::new(config()).unwrap();
        setups.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("host set up: {:.2} ms (part of every start)", median(setups));
    for (name, bytes) in plugins {
        let cold = Instant::now();
        if let Err(error) = PluginHost::new(config()).unwrap().load(bytes.clone(), options()).await {
            println!("{name}: {error}");
            continue;
        }
        let cold = cold.elapsed();
        // What registering it costs but for fetching: without any cache.
        let mut compiles = Vec::new();
        for _ in 0..if bytes.len() > 4 << 20 { 1 } else { 5 } {
            let uncached = PluginHost::new(HostConfig::default()).unwrap();
            let description = uncached.describe(bytes.clone(), &name, Limits::default()).await.unwrap();
            compiles.push(description.compiled_in.unwrap().as_secs_f64() * 1e3);
        }
        let compile = median(compiles);
        let mut warm = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            PluginHost::new(config()).unwrap().load(bytes.clone(), options()).await.unwrap();
            warm.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let method = PluginHost::new(config()).unwrap().load(bytes.clone(), options()).await.unwrap();
        let mut calls = Vec::new();
        for _ in 0..500 {
            let start = Instant::now();
            let _ = method.validate("{}").await;
            calls.push(start.elapsed().as_secs_f64() * 1e6);
        }
        figures["starts"].as_array_mut().unwrap().push(serde_json::json!({
            "plugin": name, "kib": bytes.len() / 1024, "coldMs": cold.as_secs_f64() * 1e3, "warmMs": median(warm.clone()),
            "compileMs": compile,
            "callUs": median(calls.clone()),
        }));
        println!(
            "{name} ({} KiB): compiled in {compile:.0} ms, cold start {cold:.1?}, warm start {:.2} ms, instantiate and call {:.0} us",
            bytes.len() / 1024,
            median(warm),
            median(calls)
        );
    }
    let host = PluginHost::new(config()).unwrap();
    let splice = host.load(copying().build(), options()).await.unwrap();
    let read = host.load(reading().build(), options()).await.unwrap();
    let mut seconds: [Vec<f64>; 3] = Default::default();
    for _ in 0..5 {
        let start = Instant::now();
        native().await;
        seconds[0].push(start.elapsed().as_secs_f64());
        for (method, index) in [(&splice, 1), (&read, 2)] {
            let world = Arc::new(World { discard: true, ..World::default() });
            let start = Instant::now();
            method.capture(world.run("capture")).await.unwrap();
            seconds[index].push(start.elapsed().as_secs_f64());
        }
    }
    let spliced = languages(&host).await;
    figures["languages"] = spliced
        .iter()
        .map(|(name, seconds)| serde_json::json!({ "plugin": name, "seconds": seconds, "bytes": STORED_GIBIBYTES << 30 }))
        .collect::<Vec<_>>()
        .into();
    let [native, splice, read] = seconds.map(median);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let bytes = (GIBIBYTES << 30) as f64;
    figures["copies"] = serde_json::json!({ "native": native, "splice": splice, "read": read, "bytes": bytes });
    if let Some(place) = std::env::var_os("REDKEEP_FIGURES") {
        std::fs::write(place, figures.to_string()).unwrap();
    }
    for (name, seconds) in [("native copy", native), ("plugin, splice", splice), ("plugin, read and write", read)] {
        println!(
            "{name}: {:.2} GB/s, {:+.1} % time against native",
            bytes / seconds / 1e9,
            (seconds / native - 1.0) * 100.0
        );
    }
}
