//! What a backup reports of an RDB: versions and counts. The same from `capture` and from `verify`.

use std::collections::BTreeMap;

use super::format::{Header, module_name};
use super::parser::{Checksum, Entry, Visitor};
use crate::{Error, Facts, time};

/// Counts of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseCounts {
    /// Keys, expired ones included.
    pub keys: u64,
    /// Those that have an expiry.
    pub expires: u64,
}

/// A visitor that collects facts; it decodes no keys and no values.
#[derive(Clone, Debug, Default)]
pub struct DatasetFacts {
    header: Option<Header>,
    aux: BTreeMap<String, String>,
    databases: BTreeMap<u64, DatabaseCounts>,
    functions: u64,
    modules: Vec<String>,
    /// Modules with data outside keys.
    module_data: Vec<String>,
    checksum: Option<Checksum>,
}

/// More databases than this are damage: their counts are facts.
const MAX_DATABASES: usize = 65_536;
/// AUX fields that are kept; the names of others come from the file and could be many.
const KEPT_AUX: [&str; 7] =
    ["redis-ver", "valkey-ver", "ctime", "repl-stream-db", "repl-id", "repl-offset", "aof-base"];

impl DatasetFacts {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An AUX field that the file has: `redis-ver`, `valkey-ver`, `ctime`, `repl-stream-db`, `repl-id`, `repl-offset`,
    /// `aof-base`.
    pub fn aux(&self, name: &str) -> Option<&str> {
        self.aux.get(name).map(String::as_str)
    }

    /// When the file was begun, milliseconds since the epoch, where it says so.
    pub fn created_ms(&self) -> Option<u64> {
        self.aux("ctime")?.parse::<u64>().ok()?.checked_mul(1000)
    }

    /// The magic and the version.
    pub fn header(&self) -> Option<Header> {
        self.header
    }

    /// `redis` or `valkey`, and the version, where the file says them.
    pub fn server(&self) -> Option<(&'static str, &str)> {
        match (self.aux("valkey-ver"), self.aux("redis-ver")) {
            (Some(version), _) => Some(("valkey", version)),
            (None, Some(version)) => Some(("redis", version)),
            (None, None) => None,
        }
    }

    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.databases.values().map(|counts| counts.keys).sum()
    }

    /// Counts by database.
    pub fn databases(&self) -> &BTreeMap<u64, DatabaseCounts> {
        &self.databases
    }

    /// Types of the modules without which no server loads the file: of values, and of data outside keys.
    pub fn modules_needed(&self) -> impl Iterator<Item = &str> {
        let data = self.module_data.iter().filter(|name| !self.modules.contains(name));
        self.modules.iter().chain(data).map(String::as_str)
    }

    /// The facts of the vocabulary.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        if let Some((name, version)) = self.server() {
            facts.set("server-name", name).set("server-version", version);
        }
        if let Some(header) = self.header {
            facts.set("rdb-version", header.version).set("rdb-magic", header.magic.name());
        }
        facts.set_some("snapshot-time", self.created_ms().map(time::rfc3339));
        facts.set("keys", self.keys());
        facts.set("expires", self.databases.values().map(|counts| counts.expires).sum::<u64>());
        for (number, counts) in &self.databases {
            facts.set(&format!("keys-db-{number}"), counts.keys);
            facts.set(&format!("expires-db-{number}"), counts.expires);
        }
        let numbers: Vec<String> = self.databases.keys().map(u64::to_string).collect();
        facts.set("databases", numbers.join(","));
        facts.set("functions", self.functions);
        if !self.modules.is_empty() {
            facts.set("modules", self.modules.join(","));
        }
        facts.set_some("checksum", self.checksum.map(Checksum::name));
        facts
    }
}

/// Keeps a module's name once, in order; more names than any server has modules come from a damaged file.
fn note(modules: &mut Vec<String>, id: u64) {
    let name = module_name(id);
    if !modules.contains(&name) && modules.len() < 64 {
        modules.push(name);
        modules.sort();
    }
}

impl Visitor for DatasetFacts {
    fn wants_keys(&self) -> bool {
        false
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        self.header = Some(header);
        Ok(())
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if let Some(name) = KEPT_AUX.iter().find(|known| known.as_bytes() == name) {
            let value = String::from_utf8_lossy(&value[..value.len().min(256)]).into_owned();
            self.aux.insert((*name).to_owned(), value);
        }
        Ok(())
    }

    fn library(&mut self, _code: &[u8], _length: u64) -> Result<(), Error> {
        self.functions += 1;
        Ok(())
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        note(&mut self.modules, id);
        Ok(())
    }

    fn module_aux(&mut self, id: u64) -> Result<(), Error> {
        note(&mut self.module_data, id);
        Ok(())
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        if self.databases.len() >= MAX_DATABASES && !self.databases.contains_key(&entry.database) {
            return Err(Error::damaged(format!("keys in more than {MAX_DATABASES} databases")));
        }
        let counts = self.databases.entry(entry.database).or_default();
        counts.keys += 1;
        counts.expires += u64::from(entry.expires_at.is_some());
        Ok(())
    }

    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.checksum = Some(checksum);
        Ok(())
    }
}
