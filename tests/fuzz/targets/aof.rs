//! An append-only file of anybody's making, as one stream and as an archive: verified and inspected, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_aof::RedisAof;
use redkeep_sdk::Method;
use redkeep_sdk::testing::FakeHost;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, file)) = bytes.split_first() else { return };
    let (name, kind) = if choice % 2 == 0 { ("appendonly.aof", "aof") } else { ("appendonly.aof.tar", "aof-archive") };
    let mut host = FakeHost::with_context("verify", &[]).with_artifact(name, kind, file.to_vec());
    if choice % 3 == 0 {
        host = host.with_artifact("appendonly.marks.json", "aof-marks", file.to_vec());
    }
    host.short_reads = Some(usize::from(choice) + 1);
    let _ = RedisAof::verify(&host);
    let _ = RedisAof::inspect(&host, "{\"largest\": 2}");
});
