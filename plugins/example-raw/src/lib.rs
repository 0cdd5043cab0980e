//! The smallest correct method plugin. It takes a server's dataset as the RDB that a replica would get, and puts it into a
//! data directory. Copy this crate, change the seven functions, and `export!` your own type.
//!
//! A plugin never sees an address, a password or a bucket. It asks the host for handles, and what the host gives was
//! granted by the user with `--grant`. Each call below runs in a fresh instance: keep nothing in statics.

use redkeep_sdk::{Attribute, CHUNK, Context, Error, Facts, Host, Info, Method, parameters};

/// What our artifact is called and what it is: a restore finds a method by the type, not by the method's name.
const NAME: &str = "dump.rdb";
const TYPE: &str = "rdb";

struct ExampleRaw;

impl Method for ExampleRaw {
    /// Who we are and what we ask for. A `?` in front: this run may do without (a restore needs no server).
    fn describe() -> Info {
        Info {
            name: "example-raw".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "The RDB that a replica would get, byte for byte".to_owned(),
            parameters_schema: r#"{"type": "object", "additionalProperties": false}"#.to_owned(),
            requests: vec!["?redis:replicate".to_owned(), "?files:write:*".to_owned()],
            attributes: vec![Attribute::new("targets", "directory"), Attribute::new("reads", TYPE)],
        }
    }

    /// The host has checked the parameters against the schema already; here goes what a schema cannot say.
    fn validate(json: &str) -> Result<(), Error> {
        parameters::parse::<std::collections::BTreeMap<String, ()>>(json).map(drop)
    }

    /// Asked before anything is touched: refuse here what cannot work, and say what would.
    fn plan(host: &dyn Host) -> Result<Facts, Error> {
        if Context::of(host).run() == "restore" && Context::of(host).flag("appendonly") == Some(true) {
            return Err(Error::refused("the server will read its append-only file", "give --appendonly no"));
        }
        Ok(Facts::new())
    }

    /// Source to artifact. `splice` copies in the host at native speed; without `finish` there is no artifact.
    fn capture(host: &dyn Host) -> Result<Facts, Error> {
        let mut link = host.redis().replicate(true)?;
        let mut sink = host.artifacts().create(NAME, &[Attribute::new("type", TYPE)])?;
        let bytes = host.splice(link.snapshot()?.as_mut(), sink.as_mut(), None)?;
        sink.finish(&[])?;
        let mut facts = Facts::new();
        facts.set("rdb-bytes", bytes);
        Ok(facts)
    }

    /// Artifact to target. The directory appears only when this has returned without an error.
    fn restore(host: &dyn Host) -> Result<Facts, Error> {
        let mut source = host.artifacts().open(NAME)?;
        let mut sink = host.files().create(Context::of(host).get_or("dbfilename", NAME))?;
        host.splice(source.as_mut(), sink.as_mut(), None)?;
        sink.finish(&[]).map(|_| Facts::new())
    }

    /// Reads everything. The host checks digests; we check what only we know, and report the fact that `capture` reported.
    fn verify(host: &dyn Host) -> Result<Facts, Error> {
        let mut source = host.artifacts().open(NAME)?;
        // A read may give less than was asked for, and gives nothing only at the end.
        let mut head: Vec<u8> = Vec::new();
        loop {
            let bytes = source.read(CHUNK)?;
            if bytes.is_empty() {
                break;
            }
            head.extend(bytes.iter().take(5 - head.len()));
        }
        if head != b"REDIS" && head != b"VALKE" {
            return Err(Error::damaged(format!("{NAME} does not begin as an RDB does")));
        }
        let mut facts = Facts::new();
        facts.set("rdb-bytes", source.position());
        Ok(facts)
    }

    /// Answers `redkeep inspect`, as JSON.
    fn inspect(host: &dyn Host, _query: &str) -> Result<String, Error> {
        let size = host.artifacts().list()?.iter().map(|artifact| artifact.size).sum::<u64>();
        Ok(format!(r#"{{"bytes": {size}}}"#))
    }
}

redkeep_sdk::export!(ExampleRaw);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use redkeep_sdk::testing::{FakeHost, FakeRedis};

    use super::*;

    #[test]
    fn what_was_captured_is_verified_and_restored() {
        let rdb = b"REDIS0011 and so on".to_vec();
        let host = FakeHost::with_context("capture", &[]).with_redis(FakeRedis::with_snapshot(rdb.clone()));
        ExampleRaw::plan(&host).unwrap();
        let captured = ExampleRaw::capture(&host).unwrap();
        assert_eq!(ExampleRaw::verify(&host).unwrap(), captured);
        assert_eq!(ExampleRaw::inspect(&host, "{}").unwrap(), r#"{"bytes": 19}"#);

        let target = FakeHost::with_context("restore", &[("dbfilename", "my.rdb")]).with_files([]);
        *target.artifacts.borrow_mut() = host.artifacts.borrow().clone();
        ExampleRaw::restore(&target).unwrap();
        assert_eq!(target.file("my.rdb"), Some(rdb));
    }

    #[test]
    fn what_cannot_work_is_refused_before_it_begins() {
        let target = FakeHost::with_context("restore", &[("appendonly", "yes")]);
        assert!(ExampleRaw::plan(&target).unwrap_err().message.contains("append-only"));
        assert!(ExampleRaw::validate(r#"{"unknown": 1}"#).is_err());
        let damaged = FakeHost::default().with_artifact(NAME, TYPE, b"gzip?".to_vec());
        assert_eq!(ExampleRaw::verify(&damaged).unwrap_err().code, "damaged");
    }
}
