//! The host as traits: what the imports of `wit/v0.1/plugin.wit` are to a method. The contract's text says what each
//! call guarantees.
//!
//! `guest` implements them over the component's imports, [`crate::testing`] in memory.

use std::any::Any;

use crate::attribute::Attribute;
use crate::error::{Error, code};

/// Severity of a log line. `Warn` and above stay with the run's result: say there what was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Finest.
    Trace,
    /// For authors.
    Debug,
    /// For users who look.
    Info,
    /// Stays with the run's result.
    Warn,
    /// Stays with the run's result.
    Error,
}

/// Everything that one call of a method may touch. A capability that this run has not answers "not-supported".
pub trait Host {
    /// Writes one line to the run's log.
    fn log(&self, level: Level, message: &str, fields: &[Attribute]);
    /// What this run is about; [`crate::Context`] reads it.
    fn context(&self) -> Vec<Attribute>;
    /// The user's parameters as JSON, already valid against the schema.
    fn parameters(&self) -> String;
    /// Shown to the user, one count for each pair of phase and unit (`bytes`, `keys`); [`crate::Progress`] throttles
    /// it.
    fn progress(&self, phase: &str, unit: &str, done: u64, total: Option<u64>) -> Result<(), Error>;
    /// Wall clock in UTC, milliseconds since the epoch. It can jump.
    fn now_ms(&self) -> u64;
    /// Waits, in milliseconds.
    fn sleep_ms(&self, duration: u32) -> Result<(), Error>;
    /// Copies up to `max` bytes (none: to the end) at native speed and returns how many: fewer than `max` only at the
    /// end.
    fn splice(&self, source: &mut dyn Source, sink: &mut dyn Sink, max: Option<u64>) -> Result<u64, Error>;
    /// This backup's artifacts.
    fn artifacts(&self) -> &dyn Artifacts;
    /// The server of source or target.
    fn redis(&self) -> &dyn Redis;
    /// The data directory of source or target.
    fn files(&self) -> &dyn Files;
    /// The byte stream to a source or target that is not Redis.
    fn socket(&self) -> &dyn Socket {
        &NoSocket
    }
}

impl dyn Host + '_ {
    /// A line for users who look.
    pub fn info(&self, message: &str) {
        self.log(Level::Info, message, &[]);
    }

    /// A line that stays with the run's result.
    pub fn warn(&self, message: &str) {
        self.log(Level::Warn, message, &[]);
    }

    /// Where the server's replication stream stands now, in bytes; unknown where `INFO` is not granted.
    pub fn replication_offset(&self) -> Option<u64> {
        let info = self.redis().info(Some("replication")).ok()?;
        crate::attribute::find(&info, "master_repl_offset")?.parse().ok()
    }
}

/// What the host measured of the bytes written to one sink, before compression and encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The name given at its creation.
    pub name: String,
    /// Bytes written.
    pub size: u64,
    /// SHA-256 of them, as lower-case hexadecimal.
    pub sha256: String,
    /// Given at creation, joined by those given at the finish.
    pub attributes: Vec<Attribute>,
}

impl Artifact {
    /// The attribute `type`, empty where there is none.
    pub fn kind(&self) -> &str {
        crate::attribute::find(&self.attributes, "type").unwrap_or_default()
    }
}

/// A stream of bytes with a known end: anything cut short is an error, never an end.
pub trait Source: Any {
    /// At least one byte and at most `max` (the host caps it at 1 MiB); empty means the end.
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Error>;
    /// Bytes read so far.
    fn position(&self) -> u64;
    /// Length in bytes, where the host knows it.
    fn size(&self) -> Option<u64>;
}

/// Takes bytes until it is finished. Dropped without `finish`: what was written is thrown away.
pub trait Sink: Any {
    /// Takes the bytes.
    fn write(&mut self, data: &[u8]) -> Result<(), Error>;
    /// Makes what was written whole. `attributes` join those given at creation; the later value wins.
    fn finish(self: Box<Self>, attributes: &[Attribute]) -> Result<Artifact, Error>;
}

/// This backup's own artifacts, of this run's shard.
pub trait Artifacts {
    /// `name`: letters, digits, `.`, `_` and `-`, used once. Attribute `type` says what it is.
    fn create(&self, name: &str, attributes: &[Attribute]) -> Result<Box<dyn Sink>, Error>;
    /// The end comes only after size and digest held; else "damaged".
    fn open(&self, name: &str) -> Result<Box<dyn Source>, Error>;
    /// In the order in which they were finished.
    fn list(&self) -> Result<Vec<Artifact>, Error>;
    /// What `capture` reported.
    fn facts(&self) -> Result<Vec<Attribute>, Error>;
}

/// One Redis or Valkey server (in a restore perhaps a cluster), connected and authenticated by the host.
pub trait Redis {
    /// `INFO`, one attribute a line.
    fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, Error>;
    /// One command; the reply as RESP2, at most 1 MiB ([`crate::resp::Reply`] reads it). An error reply is the error
    /// "server-reply".
    fn command(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Error>;
    /// Several commands in one go; their replies in order as RESP2, error replies among them.
    fn pipeline(&self, commands: &[Vec<Vec<u8>>]) -> Result<Box<dyn Source>, Error>;
    /// A full resynchronisation. `snapshot_only`: the server may drop the link after the RDB.
    fn replicate(&self, snapshot_only: bool) -> Result<Box<dyn Replication>, Error>;
    /// Commands alone, from `offset` on; "not-found" when the server has them no more.
    fn resume(&self, id: &str, offset: u64) -> Result<Box<dyn Replication>, Error>;
    /// Write commands to run on the target, as RESP: pipelined, routed by slot, replies checked by the host. Option
    /// `tolerate`: error codes that are only counted.
    fn load(&self, options: &[Attribute]) -> Result<Box<dyn Sink>, Error>;
}

/// A replication link, which the host keeps alive and acknowledges. Dropping it closes the link.
pub trait Replication {
    /// The replication id.
    fn id(&self) -> String;
    /// Offset at which the snapshot was taken or the link resumed.
    fn start_offset(&self) -> u64;
    /// Exactly the RDB. "not-found" on a resumed link.
    fn snapshot(&mut self) -> Result<Box<dyn Source>, Error>;
    /// The write commands that follow, as RESP, up to offset `until` or for `within_ms`; ends between commands and
    /// outside transactions.
    fn commands(&mut self, until: Option<u64>, within_ms: Option<u32>) -> Result<Box<dyn Source>, Error>;
    /// How far the commands have been read, dropped ones included.
    fn offset(&self) -> u64;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the epoch.
    pub modified_ms: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// More of it.
    pub attributes: Vec<Attribute>,
}

/// The data directory of source or target. Relative paths, no symbolic links, nothing outside.
pub trait Files {
    /// The entries of one directory (`""`: the data directory itself), their paths whole.
    fn list_directory(&self, path: &str) -> Result<Vec<Entry>, Error>;
    /// Opened at once and read up to the length it has now.
    fn open(&self, path: &str) -> Result<Box<dyn Source>, Error>;
    /// In an empty staging folder, whole and synced at `finish`; missing directories are made.
    fn create(&self, path: &str) -> Result<Box<dyn Sink>, Error>;
    /// Removes one file of the staging folder.
    fn remove(&self, path: &str) -> Result<(), Error>;
}

/// A byte stream to the run's source or target; address, TLS and proxies are the host's. For methods of other systems.
pub trait Socket {
    /// One more connection. Dropping it closes it.
    fn connect(&self) -> Result<Box<dyn Connection>, Error>;
}

/// A connected byte stream.
pub trait Connection {
    /// At least one byte; empty means that the peer closed. "timeout" when nothing came `within_ms`; the connection stays
    /// good.
    fn read(&mut self, max: u32, within_ms: Option<u32>) -> Result<Vec<u8>, Error>;
    /// Sends all of it.
    fn write(&mut self, data: &[u8]) -> Result<(), Error>;
}

/// Where a host has no socket.
struct NoSocket;

impl Socket for NoSocket {
    fn connect(&self) -> Result<Box<dyn Connection>, Error> {
        Err(Error::new(code::NOT_SUPPORTED, "this run has no socket"))
    }
}
