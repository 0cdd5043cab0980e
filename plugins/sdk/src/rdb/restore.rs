//! Values of an RDB as commands for a live server or cluster: `RESTORE` for most, [big ones](DEFAULT_MAX_VALUE) rebuilt
//! by type in chunks.
//!
//! [`RestoreParameters`] are the user's choices, [`Restorer`] is the visitor that writes the commands to `redis.load`.

mod choices;
mod modules;
mod whole;

use std::collections::BTreeMap;

use super::format::{self, Header, ValueType, module_name};
use super::glob;
use super::output::Output;
use super::parser::{Entry, MAX_HELD_KEY, MAX_HELD_LIBRARY, Visitor};
use super::rebuild::Rebuild;
use crate::context::Context;
use crate::host::Host;
use crate::resp::{self, Reply};
use crate::{Attribute, Error, Facts, code};

use modules::LeftOut;
use whole::{Streamed, Whole};

pub use choices::{
    OnConflict, PARAMETER_PROPERTIES, RestoreParameters, Ttl, check_target, reads, target_rdb_version, version_refusal,
};
pub use modules::{check_modules, tell_modules};

/// Values longer than this, in bytes of the file, are rebuilt: `RESTORE` of a large one blocks the server and needs it
/// whole in memory here.
pub const DEFAULT_MAX_VALUE: usize = 8 << 20;
/// Module values, which only `RESTORE` understands, are held up to this size; larger ones wait for a second pass.
const MAX_MODULE_VALUE: usize = 16 << 20;

/// What a restore came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreCounts {
    /// Keys sent, those included that the target then kept its own value of.
    pub sent: u64,
    /// Keys left out by a filter.
    pub filtered: u64,
    /// Keys kept as the target had them.
    pub skipped: u64,
    /// Keys left out for they had expired.
    pub expired: u64,
    /// Keys whose value was rebuilt in chunks.
    pub rebuilt: u64,
    /// Function libraries sent.
    pub libraries: u64,
    /// All commands sent.
    pub commands: u64,
}

/// A visitor that writes every value as commands to `redis.load`.
pub struct Restorer<'host> {
    host: &'host dyn Host,
    output: Output,
    patterns: Vec<Vec<u8>>,
    databases: Option<BTreeMap<u64, u64>>,
    on_conflict: OnConflict,
    ttl: Ttl,
    cluster: bool,
    filtered: bool,
    many_shards: bool,
    target_is_empty: bool,
    max_value: usize,
    now_ms: u64,
    created_ms: Option<u64>,
    version: u16,
    selected: Option<u64>,
    selected_by_command: Option<u64>,
    module: Option<u64>,
    left_out: LeftOut,
    current: Current,
    counts: RestoreCounts,
    pass: Pass,
    /// Keys of the file so far, in this pass.
    place: u64,
    whole: Whole,
}

/// Which pass over the file this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The only one: what would need a second is an error.
    Only,
    First,
    Second,
}

#[derive(Default)]
struct Current {
    key: Vec<u8>,
    kind: u8,
    expires_at: Option<u64>,
    idle: Option<u64>,
    frequency: Option<u8>,
    database: u64,
    action: Action,
    value: Vec<u8>,
}

#[derive(Default)]
enum Action {
    #[default]
    Skip,
    Hold,
    Rebuild(Box<Rebuild>),
    /// Left for the second pass.
    Postpone,
    /// In the second pass: straight to the target.
    Stream(Box<Streamed>),
}

impl<'host> Restorer<'host> {
    /// Opens `redis.load`. The host's context says whether the target is a cluster.
    pub fn new(host: &'host dyn Host, parameters: &RestoreParameters) -> Result<Self, Error> {
        let context = Context::of(host);
        let on_conflict = parameters.on_conflict.unwrap_or_default();
        let options = match on_conflict {
            OnConflict::Skip => vec![Attribute::new("tolerate", "BUSYKEY")],
            OnConflict::Fail | OnConflict::Replace => Vec::new(),
        };
        let databases = parameters.databases()?;
        let sink = host.redis().load(&options)?;
        Ok(Self {
            host,
            output: Output::new(sink),
            patterns: parameters.patterns.iter().map(|pattern| pattern.clone().into_bytes()).collect(),
            databases,
            on_conflict,
            ttl: parameters.ttl.unwrap_or_default(),
            cluster: context.target() == "cluster",
            filtered: parameters.is_filtered(),
            many_shards: context.get("shards").is_some_and(|shards| shards != "1"),
            target_is_empty: false,
            max_value: DEFAULT_MAX_VALUE,
            now_ms: host.now_ms(),
            created_ms: None,
            version: 0,
            selected: None,
            selected_by_command: None,
            module: None,
            left_out: LeftOut::default(),
            current: Current::default(),
            counts: RestoreCounts::default(),
            pass: Pass::Only,
            place: 0,
            whole: Whole::default(),
        })
    }

    /// For a target that was found empty: it is not asked for each large key whether it has it, which takes the commands `SELECT`
    /// and `EXISTS`. A key that it has all the same is still never replaced.
    #[must_use]
    pub fn for_empty_target(mut self) -> Self {
        self.target_is_empty = true;
        self
    }

    /// Takes values of any size that the target takes: what can be neither held nor rebuilt is left out of this pass over the
    /// file, and [`Self::begin_second_pass`] says whether there must be another.
    #[must_use]
    pub fn with_second_pass(mut self) -> Self {
        self.pass = Pass::First;
        self
    }

    /// Whether the whole file must pass once more, for the values that were left out. To be called between the two.
    pub fn begin_second_pass(&mut self) -> bool {
        if self.whole.is_empty() || self.pass != Pass::First {
            return false;
        }
        (self.pass, self.place) = (Pass::Second, 0);
        true
    }

    /// Another size from which values are rebuilt, in bytes (0: every value but modules').
    #[must_use]
    pub fn with_max_value(mut self, max_value: usize) -> Self {
        self.max_value = max_value;
        self
    }

    /// The counts so far.
    pub fn counts(&self) -> RestoreCounts {
        self.counts
    }

    /// Writes further commands as they are, e.g. those behind an append-only file's preamble. They go on in the
    /// database that the restorer selected last: start with a `SELECT`.
    pub fn write_commands(&mut self, resp: &[u8]) -> Result<(), Error> {
        self.output.bytes(resp)
    }

    /// Waits until the target has taken everything: the counts, and facts for the report (`keys-restored`,
    /// `keys-skipped`, `keys-expired-skipped`, `keys-filtered`, `commands`, `functions-restored`).
    pub fn finish(self) -> Result<(RestoreCounts, Facts), Error> {
        let mut counts = RestoreCounts { commands: self.output.commands(), ..self.counts };
        let filtered = self.filtered;
        let artifact = self.output.finish()?;
        let kept = crate::attribute::find(&artifact.attributes, "errors")
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
        counts.sent = counts.sent.saturating_sub(kept);
        counts.skipped += kept;
        let mut facts = Facts::new();
        facts.set("keys-restored", counts.sent);
        facts.set("keys-skipped", counts.skipped);
        facts.set("keys-expired-skipped", counts.expired);
        if filtered {
            facts.set("keys-filtered", counts.filtered);
        }
        facts.set("commands", counts.commands);
        if counts.rebuilt > 0 {
            facts.set("keys-rebuilt", counts.rebuilt);
        }
        if counts.libraries > 0 {
            facts.set("functions-restored", counts.libraries);
        }
        Ok((counts, facts))
    }

    fn expiry(&self) -> impl Fn(u64) -> Option<u64> + use<> {
        let (ttl, age) = (self.ttl, self.age());
        move |time: u64| match ttl {
            Ttl::Keep => Some(time),
            Ttl::Shift => Some(time.saturating_add(age)),
            Ttl::Persist => None,
        }
    }

    /// How long ago the backup was made, in milliseconds.
    fn age(&self) -> u64 {
        self.created_ms.map_or(0, |created| self.now_ms.saturating_sub(created))
    }

    /// Whether a key with this expiry of the file is gone: by now, or, where expiries are shifted or dropped, when the
    /// backup was made.
    fn is_expired(&self, expires_at: u64) -> bool {
        expires_at <= self.gone_until()
    }

    fn gone_until(&self) -> u64 {
        match self.ttl {
            Ttl::Keep => self.now_ms,
            Ttl::Shift | Ttl::Persist => self.created_ms.unwrap_or(0),
        }
    }

    fn select(&mut self, database: u64) -> Result<(), Error> {
        if self.cluster || self.selected == Some(database) {
            return Ok(());
        }
        self.selected = Some(database);
        self.output.command(&[b"SELECT", database.to_string().as_bytes()])
    }

    fn key_text(&self) -> String {
        let shown = &self.current.key[..self.current.key.len().min(128)];
        format!("`{}` of database {}", String::from_utf8_lossy(shown), self.current.database)
    }

    /// The payload of `DUMP`: type, value, two bytes of RDB version, CRC64.
    fn restore(&mut self) -> Result<(), Error> {
        let payload = (1 + self.current.value.len() + 10) as u64;
        let mut streamed = self.restore_head(payload);
        let value = std::mem::take(&mut self.current.value);
        streamed.pass(&value)?;
        self.output.bytes(&value)?;
        self.current.value = value;
        self.restore_tail(streamed)
    }

    /// `RESTORE` up to the first byte of the value.
    fn restore_head(&mut self, payload: u64) -> Streamed {
        let current = &self.current;
        let expires_at = current.expires_at.and_then(self.expiry());
        let options = self.restore_options().len();
        let buffer = self.output.buffer();
        resp::push_header(buffer, 4 + options);
        resp::push_argument(buffer, b"RESTORE");
        resp::push_argument(buffer, &current.key);
        resp::push_argument(buffer, expires_at.unwrap_or(0).to_string().as_bytes());
        resp::push_length(buffer, payload);
        buffer.push(current.kind);
        Streamed::begin(current.kind, payload)
    }

    /// What follows the value.
    fn restore_tail(&mut self, streamed: Streamed) -> Result<(), Error> {
        let end = streamed.end(self.version)?;
        let options = self.restore_options();
        let buffer = self.output.buffer();
        buffer.extend_from_slice(&end);
        buffer.extend_from_slice(b"\r\n");
        for option in options {
            resp::push_argument(buffer, option.as_bytes());
        }
        self.output.end_command()
    }

    fn restore_options(&self) -> Vec<String> {
        let current = &self.current;
        let mut options = Vec::new();
        if current.expires_at.and_then(self.expiry()).is_some() {
            options.push("ABSTTL".to_owned());
        }
        if self.on_conflict == OnConflict::Replace {
            options.push("REPLACE".to_owned());
        }
        // The two exclude each other.
        if let Some(frequency) = current.frequency {
            options.extend(["FREQ".to_owned(), frequency.to_string()]);
        } else if let Some(idle) = current.idle {
            options.extend(["IDLETIME".to_owned(), idle.to_string()]);
        }
        options
    }

    /// Whether the value under way can be left for the second pass: `RESTORE` keeps the expiries of a hash's fields as they are.
    fn can_postpone(&self) -> bool {
        self.pass == Pass::First && (self.ttl == Ttl::Keep || !ValueType(self.current.kind).has_field_expiries())
    }

    /// The key of the second pass that begins here goes straight to the target.
    fn start_stream(&mut self, payload: u64) -> Result<(), Error> {
        self.select(self.current.database)?;
        let streamed = self.restore_head(payload);
        self.current.action = Action::Stream(Box::new(streamed));
        Ok(())
    }

    /// Turns from holding to rebuilding; false: the target has the key and keeps it.
    fn start_rebuild(&mut self) -> Result<bool, Error> {
        if self.on_conflict != OnConflict::Replace && !self.target_is_empty && self.exists()? {
            if self.on_conflict == OnConflict::Fail {
                let message = format!("the target has key {} already", self.key_text());
                return Err(Error::new(code::SERVER_REPLY, message).with_help("choose --on-conflict skip or replace"));
            }
            return Ok(false);
        }
        self.select(self.current.database)?;
        let gone_until = self.gone_until();
        let rebuild = Rebuild::new(ValueType(self.current.kind), &self.current.key, gone_until, &mut self.output)
            .map_err(|error| error.during(&format!("failed to restore key {}", self.key_text())))?;
        self.current.action = Action::Rebuild(Box::new(rebuild));
        let held = std::mem::take(&mut self.current.value);
        self.rebuild(&held)?;
        Ok(true)
    }

    fn rebuild(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let expiry = self.expiry();
        let Action::Rebuild(rebuild) = &mut self.current.action else { return Ok(()) };
        let result = rebuild.push(bytes, &mut self.output, &expiry);
        if result.as_ref().is_err_and(|error| error.is(code::NOT_SUPPORTED)) && self.can_postpone() {
            // What was rebuilt until then has no name yet.
            let Action::Rebuild(rebuild) = std::mem::replace(&mut self.current.action, Action::Postpone) else {
                return Ok(());
            };
            return rebuild.abandon(&mut self.output);
        }
        result.map_err(|error| error.during(&format!("failed to restore key {}", self.key_text())))
    }

    fn exists(&mut self) -> Result<bool, Error> {
        let database = self.current.database;
        if !self.cluster && self.selected_by_command != Some(database) {
            self.host.redis().command(&[b"SELECT", database.to_string().as_bytes()])?;
            self.selected_by_command = Some(database);
        }
        let reply = self.host.redis().command(&[b"EXISTS", &self.current.key])?;
        Ok(Reply::parse(&reply)?.integer() == Some(1))
    }

    fn library_exists(&self, code: &[u8]) -> Result<bool, Error> {
        // `#!lua name=mylib`
        let line = code.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let name = line.split(u8::is_ascii_whitespace).find_map(|word| word.strip_prefix(b"name="));
        let Some(name) = name else { return Ok(false) };
        let reply = self.host.redis().command(&[b"FUNCTION", b"LIST", b"LIBRARYNAME", name])?;
        Ok(!Reply::parse(&reply)?.elements().is_empty())
    }
}

impl Visitor for Restorer<'_> {
    fn wants_values(&self) -> bool {
        true
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        self.version = header.version;
        Ok(())
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if name == b"ctime" {
            let seconds = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            self.created_ms = seconds.and_then(|seconds| seconds.checked_mul(1000));
        }
        Ok(())
    }

    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        // Libraries belong to the server, not to a key or a database.
        if self.filtered || self.pass == Pass::Second {
            return Ok(());
        }
        if length > MAX_HELD_LIBRARY as u64 {
            let message =
                format!("a function library of {length} bytes, more than the {MAX_HELD_LIBRARY} that can be held");
            return Err(Error::new(code::NOT_SUPPORTED, message).with_help("restore into a data directory instead"));
        }
        if self.on_conflict == OnConflict::Skip && self.library_exists(code)? {
            return Ok(());
        }
        self.counts.libraries += 1;
        // Every shard of a cluster has the same libraries.
        if self.on_conflict == OnConflict::Replace || self.many_shards {
            self.output.command(&[b"FUNCTION", b"LOAD", b"REPLACE", code])
        } else {
            self.output.command(&[b"FUNCTION", b"LOAD", code])
        }
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        self.module = Some(id);
        Ok(())
    }

    fn module_aux(&mut self, id: u64) -> Result<(), Error> {
        // As with libraries, what belongs to no key is not asked for where keys are chosen.
        if !self.filtered && self.pass != Pass::Second {
            self.left_out.tell(self.host, id);
        }
        Ok(())
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.current.action = Action::Skip;
        self.place += 1;
        let payload = self.whole.payload(self.place);
        if self.pass == Pass::Second && payload.is_none() {
            return Ok(());
        }
        let into = match &self.databases {
            None => Some(entry.database),
            Some(map) => map.get(&entry.database).copied(),
        };
        let matched = self.patterns.is_empty() || self.patterns.iter().any(|pattern| glob::matches(pattern, entry.key));
        let (Some(into), true) = (into, matched) else {
            self.counts.filtered += 1;
            return Ok(());
        };
        if entry.expires_at.is_some_and(|time| self.is_expired(time)) {
            self.counts.expired += 1;
            return Ok(());
        }
        if self.ttl == Ttl::Shift && entry.expires_at.is_some() && self.created_ms.is_none() {
            return Err(Error::refused(
                "the backup does not say when it was made, so expiries cannot be shifted",
                "choose --ttl keep or persist",
            ));
        }
        if self.cluster && into != 0 {
            return Err(Error::refused(
                format!("the backup holds keys in database {}, and a cluster has only database 0", entry.database),
                "choose databases, e.g. --db 0",
            ));
        }
        if entry.key_length > MAX_HELD_KEY as u64 {
            let message = format!("a key of {} bytes, more than the {MAX_HELD_KEY} that can be held", entry.key_length);
            return Err(Error::new(code::NOT_SUPPORTED, message).with_help("restore into a data directory instead"));
        }
        let current = &mut self.current;
        current.key.clear();
        current.key.extend_from_slice(entry.key);
        current.kind = entry.kind.0;
        current.expires_at = entry.expires_at;
        current.idle = entry.idle;
        current.frequency = entry.frequency;
        current.database = into;
        current.value.clear();
        current.action = Action::Hold;
        self.module = None;
        if let (Pass::Second, Some(payload)) = (self.pass, payload) {
            return self.start_stream(payload);
        }
        // The expiries of a hash's fields lie inside its value.
        if self.ttl != Ttl::Keep && entry.kind.has_field_expiries() && !self.start_rebuild()? {
            self.current.action = Action::Skip;
            self.counts.skipped += 1;
        }
        Ok(())
    }

    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.current.action {
            Action::Skip | Action::Postpone => return Ok(()),
            Action::Rebuild(_) => return self.rebuild(bytes),
            Action::Stream(ref mut streamed) => {
                streamed.pass(bytes)?;
                return self.output.bytes(bytes);
            }
            Action::Hold => {}
        }
        let length = self.current.value.len() + bytes.len();
        if self.current.kind == ValueType::MODULE_2.0 {
            if length > MAX_MODULE_VALUE && self.can_postpone() {
                self.current.action = Action::Postpone;
                self.current.value = Vec::new();
                return Ok(());
            }
            if length > MAX_MODULE_VALUE {
                let name = self.module.map(module_name).unwrap_or_default();
                let message = format!(
                    "failed to restore key {}: a value of module {name} above {MAX_MODULE_VALUE} bytes cannot be sent whole",
                    self.key_text()
                );
                return Err(Error::new(code::NOT_SUPPORTED, message).with_help("restore into a data directory instead"));
            }
        } else if length > self.max_value {
            if !self.start_rebuild()? {
                self.current.action = Action::Skip;
                self.current.value.clear();
                self.counts.skipped += 1;
                return Ok(());
            }
            return self.rebuild(bytes);
        }
        self.current.value.extend_from_slice(bytes);
        Ok(())
    }

    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        match std::mem::take(&mut self.current.action) {
            Action::Skip => return Ok(()),
            Action::Postpone => {
                let key = self.key_text();
                return self.whole.postpone(self.host, self.place, length, &key);
            }
            Action::Stream(streamed) => self.restore_tail(*streamed)?,
            Action::Hold => {
                self.select(self.current.database)?;
                self.restore()?;
            }
            Action::Rebuild(rebuild) if rebuild.is_gone() => {
                self.counts.expired += 1;
                return Ok(());
            }
            Action::Rebuild(rebuild) => {
                let expiry = self.expiry();
                let expires_at = self.current.expires_at.and_then(&expiry);
                let replace = self.on_conflict == OnConflict::Replace;
                let result = rebuild.finish(&self.current.key, expires_at, replace, &mut self.output, &expiry);
                result.map_err(|error| error.during(&format!("failed to restore key {}", self.key_text())))?;
                self.counts.rebuilt += 1;
            }
        }
        self.counts.sent += 1;
        // A value of megabytes leaves no megabytes behind.
        self.current.value.shrink_to(1 << 20);
        Ok(())
    }
}
