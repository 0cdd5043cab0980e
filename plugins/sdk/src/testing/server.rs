//! The server in memory: a script for commands, bytes for snapshot and stream, and what was loaded.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::fake::{FakeHost, Shared};
use crate::attribute::Attribute;
use crate::error::{Error, code};
use crate::host::{Redis, Replication, Sink, Source};

/// What the server answers to a command: the reply as RESP2.
pub type CommandScript = Box<dyn Fn(&[&[u8]]) -> Result<Vec<u8>, Error>>;

/// A server in memory.
pub struct FakeRedis {
    /// Lines of `INFO` by section; the empty section is the whole.
    pub info: RefCell<BTreeMap<String, Vec<Attribute>>>,
    /// Answers commands.
    pub script: CommandScript,
    /// Every command sent.
    pub commands: RefCell<Vec<Vec<Vec<u8>>>>,
    /// The RDB that a full resynchronisation sends.
    pub snapshot: Vec<u8>,
    /// Replication id, and the offset of the snapshot.
    pub position: (String, u64),
    /// Offsets of the first full resynchronisations, the last of the list first; after them `position`'s.
    pub earlier: RefCell<Vec<u64>>,
    /// The commands that follow, as RESP; `replicate().commands()` hands out all of them at the first call, none later.
    pub stream: Vec<u8>,
    /// What was written to finished `load` sinks.
    pub loaded: Shared<Vec<u8>>,
    /// The options of every `load`.
    pub load_options: RefCell<Vec<Vec<Attribute>>>,
    /// Attributes of the artifact that a `load` sink returns at `finish`, e.g. `commands`, `errors`.
    pub load_outcome: Vec<Attribute>,
}

impl Default for FakeRedis {
    fn default() -> Self {
        Self {
            info: RefCell::default(),
            script: Box::new(|_| Err(Error::new(code::SERVER_REPLY, "ERR unknown command"))),
            commands: RefCell::default(),
            snapshot: Vec::new(),
            position: ("0".repeat(40), 0),
            earlier: RefCell::default(),
            stream: Vec::new(),
            loaded: Shared::default(),
            load_options: RefCell::default(),
            load_outcome: Vec::new(),
        }
    }
}

impl FakeRedis {
    /// A server whose full resynchronisation sends this RDB.
    pub fn with_snapshot(snapshot: Vec<u8>) -> Self {
        Self { snapshot, ..Self::default() }
    }

    /// With lines of an `INFO` section.
    #[must_use]
    pub fn with_info(self, section: &str, lines: &[(&str, &str)]) -> Self {
        let lines = lines.iter().map(|(key, value)| Attribute::new(key, value)).collect();
        self.info.borrow_mut().insert(section.to_owned(), lines);
        self
    }

    /// With a script that answers commands.
    #[must_use]
    pub fn with_script(mut self, script: impl Fn(&[&[u8]]) -> Result<Vec<u8>, Error> + 'static) -> Self {
        self.script = Box::new(script);
        self
    }
}

impl FakeHost {
    fn server(&self) -> Result<&FakeRedis, Error> {
        self.redis.as_ref().ok_or_else(|| Error::new(code::NOT_SUPPORTED, "this run has no server"))
    }

    fn link(&self, snapshot: bool, start: u64) -> Result<Box<dyn Replication>, Error> {
        let server = self.server()?;
        Ok(Box::new(FakeReplication {
            id: server.position.0.clone(),
            start,
            snapshot: snapshot.then(|| self.source("snapshot", server.snapshot.clone())),
            commands: Some(self.source("commands", server.stream.clone())),
            stream_length: server.stream.len() as u64,
            none: Rc::new(|| Error::new(code::NOT_FOUND, "no snapshot on a resumed link")),
        }))
    }
}

struct FakeReplication {
    id: String,
    start: u64,
    snapshot: Option<Box<dyn Source>>,
    commands: Option<Box<dyn Source>>,
    stream_length: u64,
    none: Rc<dyn Fn() -> Error>,
}

impl Replication for FakeReplication {
    fn id(&self) -> String {
        self.id.clone()
    }
    fn start_offset(&self) -> u64 {
        self.start
    }
    fn snapshot(&mut self) -> Result<Box<dyn Source>, Error> {
        self.snapshot.take().ok_or_else(|| (self.none)())
    }
    fn commands(&mut self, _until: Option<u64>, _within_ms: Option<u32>) -> Result<Box<dyn Source>, Error> {
        Ok(self.commands.take().unwrap_or_else(|| Box::new(super::MemorySource::new(Vec::new()))))
    }
    fn offset(&self) -> u64 {
        if self.commands.is_none() { self.start + self.stream_length } else { self.start }
    }
}

impl Redis for FakeHost {
    fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, Error> {
        let info = self.server()?.info.borrow();
        Ok(match section {
            Some(section) => info.get(section).cloned().unwrap_or_default(),
            None => info.values().flatten().cloned().collect(),
        })
    }
    fn command(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let server = self.server()?;
        server.commands.borrow_mut().push(arguments.iter().map(|argument| argument.to_vec()).collect());
        (server.script)(arguments)
    }
    fn pipeline(&self, commands: &[Vec<Vec<u8>>]) -> Result<Box<dyn Source>, Error> {
        let mut replies = Vec::new();
        for command in commands {
            let arguments: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            match self.command(&arguments) {
                Ok(reply) => replies.extend(reply),
                Err(error) if error.is(code::SERVER_REPLY) => {
                    replies.extend(format!("-{}\r\n", error.message).into_bytes());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.source("pipeline", replies))
    }
    fn replicate(&self, _snapshot_only: bool) -> Result<Box<dyn Replication>, Error> {
        let server = self.server()?;
        let earlier = server.earlier.borrow_mut().pop();
        self.link(true, earlier.unwrap_or(server.position.1))
    }
    fn resume(&self, _id: &str, offset: u64) -> Result<Box<dyn Replication>, Error> {
        self.link(false, offset)
    }
    fn load(&self, options: &[Attribute]) -> Result<Box<dyn Sink>, Error> {
        Ok(self.load_sink(self.server()?, options))
    }
}
