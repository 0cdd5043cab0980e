//! An append-only file of anybody's making on its way back, whole and up to a point, into live targets and directories: in any chunks
//! the same, whole commands alone, and nothing behind the point matters.
#![no_main]

mod commands;

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use redis_aof::RedisAof;
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, Facts, Method};

/// The first offset and time of the marks.
const OFFSET: u64 = 1000;
const TIME_MS: u64 = 1_700_000_000_000;

/// How a run goes.
struct Run<'bytes> {
    context: &'static [(&'static str, &'static str)],
    mode: &'static str,
    parameters: String,
    /// The snapshot and first commands, and those that follow; where they are one file, the place of the first mark.
    files: (&'bytes [u8], &'bytes [u8]),
    archived: bool,
    marks: bool,
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    loaded: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
    facts: Facts,
}

fn archive(base: &[u8], commands: &[u8]) -> Vec<u8> {
    let manifest = b"file f.1.base.rdb seq 1 type b\nfile f.1.incr.aof seq 1 type i\n";
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [("d/f.manifest", &manifest[..]), ("d/f.1.base.rdb", base), ("d/f.1.incr.aof", commands)] {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).expect("short");
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, bytes).expect("memory");
    }
    archive.into_inner().expect("memory")
}

impl Run<'_> {
    fn host(&self, behind: &[u8], chunk: usize) -> FakeHost {
        let (first, second) = self.files;
        let mut host = FakeHost::with_context("restore", self.context).with_parameters(&self.parameters);
        host = if self.archived {
            let archive = archive(first, &[second, behind].concat());
            host.with_artifact("appendonly.aof.tar", "aof-archive", archive)
        } else {
            host.with_artifact("appendonly.aof", "aof", [first, second, behind].concat())
        };
        if self.marks {
            let (end, length) = (first.len() as u64 + second.len() as u64, second.len() as u64);
            let last = [TIME_MS + 1000, OFFSET + length, end];
            let marks = serde_json::json!({"format": 1, "marks": [[TIME_MS, OFFSET, first.len()], last]});
            host = host.with_artifact("appendonly.marks.json", "aof-marks", marks.to_string().into_bytes());
        }
        host = host.with_redis(FakeRedis::default()).with_files([]);
        host.facts.set("mode", self.mode);
        host.short_reads = Some(chunk);
        host
    }

    /// Plans and restores. `behind`: more bytes than the marks know of.
    fn go(&self, behind: &[u8], chunk: usize) -> Result<Outcome, Error> {
        let host = self.host(behind, chunk);
        RedisAof::plan(&host)?;
        let facts = RedisAof::restore(&host)?;
        let loaded = host.redis.expect("there").loaded.take();
        Ok(Outcome { loaded, files: host.files.expect("there").entries.take(), facts })
    }
}

/// A directory that the restore made, read again as what it is.
fn check_files(run: &Run<'_>, outcome: &Outcome) {
    if run.archived || outcome.files.is_empty() {
        return;
    }
    // In the order of loading: `….base.…` before `….incr.…`; the manifest is no part of them.
    let parts = outcome.files.iter().filter(|(path, _)| !path.ends_with(".manifest"));
    let whole: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.clone()).collect();
    let host = FakeHost::with_context("verify", &[]).with_artifact("appendonly.aof", "aof", whole);
    let facts = RedisAof::verify(&host).expect("what was laid out is sound");
    assert_eq!(facts.get("commands"), outcome.facts.get("commands"));
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, chunk, until, split_high, split_low, input @ ..] = bytes else { return };
    let (choice, chunk) = (usize::from(*choice), usize::from(*chunk).max(1));
    let split = usize::from(u16::from_be_bytes([*split_high, *split_low])).min(input.len());
    let (context, mode): (&[_], _) = [
        (&[("target", "server")][..], "standalone"),
        (&[("target", "cluster"), ("shards", "3")][..], "cluster"),
        (&[("target", "directory"), ("appendonly", "yes"), ("server-version", "6.2.0")][..], "standalone"),
        (&[("target", "directory"), ("appendonly", "yes"), ("server-version", "7.2.0")][..], "standalone"),
    ][choice % 4];
    let (archived, marks) = (choice / 4 % 2 == 1, choice / 8 % 2 == 1);
    let until = u64::from(*until);
    let point = match choice / 16 % 3 {
        0 => None,
        1 => Some((OFFSET + until).to_string()),
        _ => Some(format!("2023-11-14T22:13:{:02}Z", 20 + until % 40)),
    };
    let run = |point: &Option<String>| Run {
        context,
        mode,
        parameters: point
            .as_ref()
            .map_or("{}".to_owned(), |point| format!("{{\"until\": \"{point}\", \"expired\": \"warn\"}}")),
        files: input.split_at(split),
        archived,
        marks,
    };
    let this = run(&point);
    let whole = this.go(b"", 1 << 20);
    let pieces = this.go(b"", chunk);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert!(commands::read(&whole.loaded) == commands::read(&pieces.loaded));
            assert_eq!((&whole.files, &whole.facts), (&pieces.files, &pieces.facts));
        }
        (Err(_), Err(_)) => return,
        _ => panic!("{whole:?}, in pieces of {chunk} {pieces:?}"),
    }
    let Ok(outcome) = whole else { return };
    check_files(&this, &outcome);
    if point.is_some() {
        // A command that is refused, at a later time than any point.
        let again = this.go(b"#TS:9999999999\r\n*1\r\n$5\r\nDEBUG\r\n", 1 << 20);
        assert_eq!(again.as_ref(), Ok(&outcome), "nothing behind the point matters");
        // A point is a part of the whole.
        if let Ok(all) = run(&None).go(b"", 1 << 20) {
            assert!(commands::read(&all.loaded).starts_with(&commands::read(&outcome.loaded)));
        }
    }
});
