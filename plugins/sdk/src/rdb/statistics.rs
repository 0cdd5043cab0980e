//! What a file holds, for `inspect`: keys and bytes by type and database, the largest keys, prefixes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::facts::DatasetFacts;
use super::format::Header;
use super::parser::{Checksum, Entry, Visitor};
use crate::{Error, Facts};

/// How many different prefixes are counted; the keys of further ones are counted together.
const MAX_PREFIXES: usize = 10_000;
/// The most keys that `largest` may ask for.
const MAX_LARGEST: usize = 10_000;
/// Bytes of a key's name that are shown.
const SHOWN_NAME: usize = 512;
/// How many prefixes are shown.
const SHOWN_PREFIXES: usize = 100;

/// What to collect beyond the summary.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatisticsOptions {
    /// How many of the largest keys to name.
    pub largest: usize,
    /// Whether to count keys by what stands in front of the first `:`.
    pub prefixes: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    keys: u64,
    bytes: u64,
    expires: u64,
}

impl Count {
    fn add(&mut self, bytes: u64, expires: bool) {
        self.keys += 1;
        self.bytes += bytes;
        self.expires += u64::from(expires);
    }

    fn json(&self) -> Value {
        json!({"keys": self.keys, "bytes": self.bytes, "expires": self.expires})
    }
}

/// Ordered by bytes alone among different keys, so that the heap keeps the largest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Large {
    bytes: u64,
    name: Vec<u8>,
    name_length: u64,
    database: u64,
    kind: &'static str,
    expires_at: Option<u64>,
}

/// A visitor that counts. Its memory is bounded: prefixes and largest keys have limits.
#[derive(Debug, Default)]
pub struct Statistics {
    options: StatisticsOptions,
    facts: DatasetFacts,
    types: BTreeMap<&'static str, Count>,
    databases: BTreeMap<u64, Count>,
    prefixes: BTreeMap<Vec<u8>, Count>,
    other_prefixes: Count,
    largest: BinaryHeap<Reverse<Large>>,
    current: Option<Large>,
}

impl Statistics {
    /// Nothing seen yet.
    pub fn new(options: StatisticsOptions) -> Self {
        let largest = options.largest.min(MAX_LARGEST);
        Self { options: StatisticsOptions { largest, ..options }, ..Self::default() }
    }

    /// The facts of the file.
    pub fn facts(&self) -> Facts {
        self.facts.facts()
    }

    /// The collector of the facts.
    pub fn dataset(&self) -> &DatasetFacts {
        &self.facts
    }

    /// The answer of `inspect`: `keys`, `bytes` (of encoded values), `expires`, `types`, `databases`, and where asked
    /// for `largest` (name, type, db, bytes) and `prefixes` (by bytes, the first hundred).
    pub fn json(self) -> Value {
        let mut total = Count::default();
        for count in self.types.values() {
            total.keys += count.keys;
            total.bytes += count.bytes;
            total.expires += count.expires;
        }
        let types: serde_json::Map<_, _> =
            self.types.iter().map(|(name, count)| ((*name).to_owned(), count.json())).collect();
        let databases: serde_json::Map<_, _> =
            self.databases.iter().map(|(number, count)| (number.to_string(), count.json())).collect();
        let facts: serde_json::Map<_, _> =
            self.facts.facts().into_iter().map(|fact| (fact.key, Value::String(fact.value))).collect();
        let mut answer = json!({
            "keys": total.keys, "bytes": total.bytes, "expires": total.expires,
            "types": types, "databases": databases, "facts": facts,
        });
        if self.options.largest > 0 {
            let largest = self.largest.into_sorted_vec();
            answer["largest"] = largest.iter().map(|Reverse(large)| large.json()).collect();
        }
        if self.options.prefixes {
            let mut prefixes: Vec<_> = self.prefixes.iter().collect();
            prefixes.sort_by_key(|(prefix, count)| (Reverse(count.bytes), *prefix));
            let mut other = self.other_prefixes;
            for (_, count) in prefixes.iter().skip(SHOWN_PREFIXES) {
                other.keys += count.keys;
                other.bytes += count.bytes;
                other.expires += count.expires;
            }
            answer["prefixes"] = prefixes
                .iter()
                .take(SHOWN_PREFIXES)
                .map(|(prefix, count)| {
                    let mut entry = count.json();
                    entry["prefix"] = Value::String(printable(prefix));
                    entry
                })
                .collect();
            answer["otherPrefixes"] = other.json();
        }
        answer
    }
}

impl Large {
    fn json(&self) -> Value {
        let mut entry =
            json!({"name": printable(&self.name), "type": self.kind, "db": self.database, "bytes": self.bytes});
        if self.name_length > self.name.len() as u64 {
            entry["nameLength"] = json!(self.name_length);
        }
        if let Some(expires_at) = self.expires_at {
            entry["expiresAtMs"] = json!(expires_at);
        }
        entry
    }
}

/// A key's name as text; bytes that are none as `\xNN`, as the server's tools print them.
fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

impl Visitor for Statistics {
    fn wants_keys(&self) -> bool {
        self.options.largest > 0 || self.options.prefixes
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        Visitor::header(&mut self.facts, header)
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        Visitor::aux(&mut self.facts, name, value)
    }

    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        self.facts.library(code, length)
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        self.facts.module(id)
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let mut large = self.current.take().unwrap_or(Large {
            bytes: 0,
            name: Vec::new(),
            name_length: 0,
            database: 0,
            kind: "",
            expires_at: None,
        });
        large.name.clear();
        large.name.extend_from_slice(&entry.key[..entry.key.len().min(SHOWN_NAME)]);
        large.name_length = entry.key_length;
        large.database = entry.database;
        large.kind = entry.kind.name();
        large.expires_at = entry.expires_at;
        self.current = Some(large);
        self.facts.key(entry)
    }

    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        current.bytes = length;
        let expires = current.expires_at.is_some();
        self.types.entry(current.kind).or_default().add(length, expires);
        self.databases.entry(current.database).or_default().add(length, expires);
        if self.options.prefixes {
            let end = current.name.iter().position(|byte| *byte == b':').map_or(0, |colon| colon + 1);
            let prefix = &current.name[..end];
            if let Some(count) = self.prefixes.get_mut(prefix) {
                count.add(length, expires);
            } else if self.prefixes.len() < MAX_PREFIXES {
                self.prefixes.entry(prefix.to_vec()).or_default().add(length, expires);
            } else {
                self.other_prefixes.add(length, expires);
            }
        }
        let full = self.largest.len() >= self.options.largest;
        if !full {
            self.largest.push(Reverse(current));
        } else if let Some(mut smallest) = self.largest.peek_mut()
            && smallest.0.bytes < current.bytes
        {
            std::mem::swap(&mut smallest.0, &mut current);
            drop(smallest);
            self.current = Some(current);
        } else {
            self.current = Some(current);
        }
        self.facts.value_end(length)
    }

    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.facts.end(checksum)
    }
}
