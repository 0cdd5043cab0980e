//! Reads what a backup holds: `verify` and `inspect`.

use redkeep_sdk::rdb::{Checksum, DatasetFacts, Parser, Statistics, StatisticsOptions, Visitor};
use redkeep_sdk::{Artifact, CHUNK, Error, Facts, Host, Progress, code};
use serde::Deserialize;

/// The artifact of this type.
pub(crate) fn find(host: &dyn Host, kind: &str) -> Result<Option<Artifact>, Error> {
    Ok(host.artifacts().list()?.into_iter().find(|artifact| artifact.kind() == kind))
}

/// The artifact with the dataset.
pub(crate) fn find_dump(host: &dyn Host) -> Result<Artifact, Error> {
    find(host, "rdb")?.ok_or_else(|| Error::new(code::NOT_FOUND, "the backup has no artifact of type rdb"))
}

/// Whether the dataset's checksum held at its capture. That its bytes are still those, the host says by their digest.
fn is_proven(host: &dyn Host) -> Result<bool, Error> {
    Ok(redkeep_sdk::attribute::find(&host.artifacts().facts()?, "checksum") == Some(Checksum::Crc64.name()))
}

/// Passes the dataset through a visitor. `each` is called with every chunk after the visitor has seen it.
pub(crate) fn read<V: Visitor>(
    host: &dyn Host,
    phase: &'static str,
    visitor: &mut V,
    keys: impl Fn(&V) -> u64,
    mut each: impl FnMut(&V, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let artifact = find_dump(host)?;
    let mut source = host.artifacts().open(&artifact.name)?;
    let mut parser = if phase != "verify" && is_proven(host)? { Parser::of_proven_bytes() } else { Parser::new() };
    let mut progress = Progress::new(host, phase, Some(artifact.size));
    loop {
        let chunk = source.read(CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        parser.push_all(&chunk, visitor).map_err(|error| error.during(&artifact.name))?;
        each(visitor, &chunk)?;
        progress.advance(chunk.len(), keys(visitor))?;
    }
    parser.finish().map_err(|error| error.during(&artifact.name))?;
    progress.tell(keys(visitor))
}

/// Reads every artifact whole; the facts of `capture` that the files themselves tell.
pub(crate) fn verify(host: &dyn Host) -> Result<Facts, Error> {
    let mut dataset = DatasetFacts::new();
    read(host, "verify", &mut dataset, DatasetFacts::keys, |_, _| Ok(()))?;
    let mut facts = dataset.facts();
    if let Some(users) = find(host, "acl")? {
        let mut source = host.artifacts().open(&users.name)?;
        let mut lines = 0;
        let mut last = b'\n';
        loop {
            let chunk = source.read(CHUNK)?;
            let Some(end) = chunk.last() else { break };
            last = *end;
            lines += chunk.split(|byte| *byte == b'\n').count() - 1;
        }
        if last != b'\n' {
            return Err(Error::damaged(format!("{}: the last line has no end", users.name)));
        }
        facts.set("acl-users", lines);
    }
    Ok(facts)
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Query {
    largest: usize,
    prefixes: bool,
}

/// Statistics as JSON; see [`Statistics::json`].
pub(crate) fn inspect(host: &dyn Host, query: &str) -> Result<String, Error> {
    let Query { largest, prefixes } = redkeep_sdk::parameters::parse(query)?;
    let mut statistics = Statistics::new(StatisticsOptions { largest, prefixes });
    read(host, "inspect", &mut statistics, |statistics| statistics.dataset().keys(), |_, _| Ok(()))?;
    Ok(statistics.json().to_string())
}
