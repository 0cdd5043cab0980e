//! Reads what a backup holds: `verify` and `inspect`.

use redkeep_sdk::{Error, Facts, Host, parameters};
use serde::Deserialize;
use serde_json::json;

use crate::artifact;

/// More than anyone reads; bounds what is held.
const MOST: usize = 1000;

/// Reads the whole tree; the facts of `capture` that it tells itself.
pub(crate) fn verify(host: &dyn Host) -> Result<Facts, Error> {
    Ok(artifact::read(host, "verify", |_| Ok(()))?.facts())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Query {
    /// So many of the largest znodes.
    largest: usize,
    /// Sums by the first step of the path.
    prefixes: bool,
}

/// Counts, and what the query asks for beyond them.
pub(crate) fn inspect(host: &dyn Host, query: &str) -> Result<String, Error> {
    let Query { largest, prefixes } = parameters::parse(query)?;
    let largest = largest.min(MOST);
    let mut top: Vec<(usize, String)> = Vec::new();
    let mut sums: std::collections::BTreeMap<String, (u64, u64)> = std::collections::BTreeMap::new();
    let counts = artifact::read(host, "inspect", |znode| {
        let size = znode.data.as_ref().map_or(0, Vec::len);
        if prefixes {
            let first = znode.path.split('/').nth(1).unwrap_or_default();
            // Beyond the limit a name joins the sum of the rest.
            let name = if sums.len() < MOST || sums.contains_key(first) { first } else { "(others)" };
            let sum = sums.entry(name.to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + size as u64);
        }
        if top.len() < largest || top.last().is_some_and(|(smallest, _)| size > *smallest) {
            let at = top.partition_point(|(other, _)| *other >= size);
            top.insert(at, (size, znode.path));
            top.truncate(largest);
        }
        Ok(())
    })?;
    let mut answer = json!({
        "znodes": counts.znodes, "ephemerals": counts.ephemerals, "data-bytes": counts.data_bytes,
    });
    if largest > 0 {
        answer["largest"] = top.into_iter().map(|(bytes, path)| json!({"path": path, "bytes": bytes})).collect();
    }
    if prefixes {
        let sums = sums
            .into_iter()
            .map(|(name, (znodes, bytes))| json!({"prefix": format!("/{name}"), "znodes": znodes, "bytes": bytes}));
        answer["prefixes"] = sums.collect();
    }
    Ok(answer.to_string())
}
