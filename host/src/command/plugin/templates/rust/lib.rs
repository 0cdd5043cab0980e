//! @NAME@: a server's dataset as one RDB file, and back into a data directory.

use redkeep_sdk::{Artifact, Attribute, Context, Error, Facts, Host, Info, Method, Sink, Source, code};

const DUMP: &str = "dump.rdb";

/// The method.
pub struct Plugin;

impl Method for Plugin {
    fn describe() -> Info {
        Info {
            name: "@NAME@".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "A server's dataset as one RDB file".to_owned(),
            parameters_schema: r#"{"type":"object","additionalProperties":false,"properties":{}}"#.to_owned(),
            requests: vec!["?redis:replicate".to_owned(), "?files:write:**".to_owned()],
            attributes: vec![Attribute::new("targets", "directory"), Attribute::new("reads", "@NAME@-rdb")],
        }
    }

    fn validate(_parameters: &str) -> Result<(), Error> {
        // The host has held them against the schema already; here goes what a schema cannot say.
        Ok(())
    }

    fn plan(host: &dyn Host) -> Result<Facts, Error> {
        let context = Context::of(host);
        if context.run() == "restore" && context.target() != "directory" {
            let message = "@NAME@ restores into a data directory only";
            return Err(Error::refused(message, "use --target-dir"));
        }
        let mut facts = Facts::new();
        facts.set("way", if context.run() == "restore" { "directory" } else { "replication" });
        Ok(facts)
    }

    fn capture(host: &dyn Host) -> Result<Facts, Error> {
        let mut link = host.redis().replicate(true)?;
        host.info(&format!("snapshot begins at offset {}", link.start_offset()));
        let sink = host.artifacts().create(DUMP, &[Attribute::new("type", "@NAME@-rdb")])?;
        let stored = copy(host, link.snapshot()?, sink)?;
        let mut facts = Facts::new();
        facts.set("rdb-bytes", stored.size);
        Ok(facts)
    }

    fn restore(host: &dyn Host) -> Result<Facts, Error> {
        let context = Context::of(host);
        let (dumps, manifest) = places(&context);
        for path in &dumps {
            copy(host, host.artifacts().open(DUMP)?, host.files().create(path)?)?;
        }
        if let Some((path, text)) = &manifest {
            let mut sink = host.files().create(path)?;
            sink.write(text.as_bytes())?;
            sink.finish(&[])?;
        }
        let mut facts = Facts::new();
        facts.set("files", dumps.len() + usize::from(manifest.is_some()));
        Ok(facts)
    }

    fn verify(host: &dyn Host) -> Result<Facts, Error> {
        // The host compares every byte with its digest; here goes whether they make sense.
        let mut source = host.artifacts().open(DUMP)?;
        if !source.read(5)?.starts_with(b"REDIS") {
            return Err(Error::damaged(format!("{DUMP} does not begin as an RDB file does")));
        }
        let mut facts = Facts::new();
        facts.set_some("rdb-bytes", source.size());
        Ok(facts)
    }

    fn inspect(host: &dyn Host, _query: &str) -> Result<String, Error> {
        let artifacts = host.artifacts().list()?;
        let sizes: serde_json::Map<String, serde_json::Value> =
            artifacts.into_iter().map(|artifact| (artifact.name, artifact.size.into())).collect();
        serde_json::to_string(&sizes).map_err(|error| Error::new(code::INTERNAL, error.to_string()))
    }
}

/// The host copies: nothing passes through the plugin.
fn copy(host: &dyn Host, mut source: Box<dyn Source>, mut sink: Box<dyn Sink>) -> Result<Artifact, Error> {
    host.splice(&mut *source, &mut *sink, None)?;
    sink.finish(&[])
}

/// Where the server looks for its data: with `appendonly yes` a dump alone would be ignored without a word.
fn places(context: &Context) -> (Vec<String>, Option<(String, String)>) {
    let name = context.get_or("appendfilename", "appendonly.aof");
    let folder = context.get_or("appenddirname", "appendonlydir");
    let base = format!("{name}.1.base.rdb");
    let mut dumps = Vec::new();
    if context.flag("appendonly") != Some(true) {
        dumps.push(context.get_or("dbfilename", DUMP).to_owned());
    }
    if context.flag("appendonly") == Some(false) {
        return (dumps, None);
    }
    dumps.push(format!("{folder}/{base}"));
    (dumps, Some((format!("{folder}/{name}.manifest"), format!("file {base} seq 1 type b\n"))))
}

redkeep_sdk::export!(Plugin);

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_sdk::testing::{FakeHost, FakeRedis};

    #[test]
    fn what_was_captured_is_restored() {
        let host = FakeHost::with_context("capture", &[])
            .with_redis(FakeRedis::with_snapshot(b"REDIS0011".to_vec()));
        assert_eq!(Plugin::capture(&host).unwrap().get("rdb-bytes"), Some("9"));
        let bytes = host.artifact(DUMP).unwrap();
        let host = FakeHost::with_context("restore", &[("target", "directory"), ("appendonly", "no")])
            .with_artifact(DUMP, "@NAME@-rdb", bytes.clone())
            .with_files([]);
        Plugin::restore(&host).unwrap();
        assert_eq!(host.file("dump.rdb"), Some(bytes));
    }

    #[test]
    fn a_link_that_breaks_leaves_no_artifact() {
        let host = FakeHost::with_context("capture", &[])
            .with_redis(FakeRedis::with_snapshot(b"REDIS0011".to_vec()));
        host.inject("snapshot", 4, Error::new(code::SOURCE_IO, "the link broke"));
        assert!(Plugin::capture(&host).is_err());
        assert_eq!(host.artifact(DUMP), None);
    }
}
