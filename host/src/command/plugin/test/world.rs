//! The world of a scenario, in memory: the traits that the plugin host is given in production, over scripts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::attribute::merge;
use redkeep_core::method::{ArtifactStore, LogLevel, MethodError, RunEvents, code};
use redkeep_core::redis::{Command, FileEntry, Files, RedisServer, Replication};
use redkeep_core::socket::{Connection, Socket};
use redkeep_core::stream::{Artifact, MAX_READ, Sink, Source};
use sha2::{Digest as _, Sha256};

use super::scenario::Fault;

/// Everything that a step reads and leaves.
#[derive(Default)]
pub(super) struct World {
    pub(super) state: Mutex<State>,
    pub(super) short_reads: Option<usize>,
    pub(super) slow: Option<Duration>,
    pub(super) faults: Vec<Fault>,
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    /// The number of the step that runs, beginning with 1.
    pub(super) step: usize,
    pub(super) log: Vec<(LogLevel, String)>,
    pub(super) artifacts: Vec<(Artifact, Bytes)>,
    pub(super) facts: Vec<Attribute>,
    /// The source's files, or the target's.
    pub(super) files: BTreeMap<String, Bytes>,
    pub(super) loaded: Vec<u8>,
    pub(super) info: Vec<Attribute>,
    pub(super) snapshot: Option<Bytes>,
    pub(super) stream: Bytes,
    pub(super) replies: HashMap<String, Bytes>,
    pub(super) conversation: Vec<(Bytes, Bytes)>,
}

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong at this place in this step.
    fn fault(&self, place: &str) -> Option<Fault> {
        let step = self.state().step;
        self.faults.iter().find(|fault| fault.at == place && fault.step.is_none_or(|wanted| wanted == step)).cloned()
    }

    fn source(self: &Arc<Self>, place: &str, bytes: Bytes) -> Box<dyn Source> {
        let fault = self.fault(place);
        Box::new(ScriptedSource { world: Arc::clone(self), bytes, position: 0, fault })
    }

    fn sink(self: &Arc<Self>, place: &str, into: Destination, attributes: Vec<Attribute>) -> Box<dyn Sink> {
        let fault = self.fault(place);
        let world = Arc::clone(self);
        Box::new(ScriptedSink { world, name: place.to_owned(), into, attributes, bytes: Vec::new(), fault })
    }
}

fn error_of(fault: &Fault) -> MethodError {
    let message = if fault.message.is_empty() {
        format!("a fault of the scenario at {}", fault.at)
    } else {
        fault.message.clone()
    };
    MethodError::new(&fault.code, message)
}

struct ScriptedSource {
    world: Arc<World>,
    bytes: Bytes,
    position: usize,
    fault: Option<Fault>,
}

#[async_trait]
impl Source for ScriptedSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        if let Some(slow) = self.world.slow {
            tokio::time::sleep(slow).await;
        }
        let most = max.min(MAX_READ).min(self.world.short_reads.unwrap_or(MAX_READ)).max(1);
        let mut end = (self.position + most).min(self.bytes.len());
        if let Some(fault) = &self.fault {
            let at = usize::try_from(fault.byte).unwrap_or(usize::MAX);
            if self.position >= at {
                return Err(error_of(fault));
            }
            end = end.min(at);
        }
        let data = self.bytes.slice(self.position..end);
        self.position = end;
        Ok(data)
    }

    fn position(&self) -> u64 {
        self.position as u64
    }

    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    Artifacts,
    Files,
    Server,
}

struct ScriptedSink {
    world: Arc<World>,
    name: String,
    into: Destination,
    attributes: Vec<Attribute>,
    bytes: Vec<u8>,
    fault: Option<Fault>,
}

#[async_trait]
impl Sink for ScriptedSink {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        if let Some(fault) = &self.fault
            && (self.bytes.len() + data.len()) as u64 > fault.byte
        {
            return Err(error_of(fault));
        }
        self.bytes.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        let this = *self;
        let sha256 = Sha256::digest(&this.bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let attributes = merge(&this.attributes, &attributes);
        let artifact = Artifact { name: this.name.clone(), size: this.bytes.len() as u64, sha256, attributes };
        let mut state = this.world.state();
        match this.into {
            Destination::Artifacts => state.artifacts.push((artifact.clone(), this.bytes.into())),
            Destination::Files => drop(state.files.insert(this.name, this.bytes.into())),
            Destination::Server => state.loaded.extend_from_slice(&this.bytes),
        }
        Ok(artifact)
    }
}

/// The world as each of the host's traits.
pub(super) struct Handle(pub(super) Arc<World>);

impl RunEvents for Handle {
    fn log(&self, level: LogLevel, message: &str, _fields: &[Attribute]) {
        self.0.state().log.push((level, message.to_owned()));
    }

    fn progress(&self, _phase: &str, _unit: &str, _done: u64, _total: Option<u64>) {}
}

#[async_trait]
impl ArtifactStore for Handle {
    async fn create(&self, name: &str, attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Ok(self.0.sink(name, Destination::Artifacts, attributes))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError> {
        let found = self.0.state().artifacts.iter().find(|(artifact, _)| artifact.name == name).cloned();
        let (_, bytes) =
            found.ok_or_else(|| MethodError::new(code::NOT_FOUND, format!("there is no artifact {name}")))?;
        Ok(self.0.source(name, bytes))
    }

    async fn list(&self) -> Result<Vec<Artifact>, MethodError> {
        Ok(self.0.state().artifacts.iter().map(|(artifact, _)| artifact.clone()).collect())
    }

    async fn facts(&self) -> Result<Vec<Attribute>, MethodError> {
        Ok(self.0.state().facts.clone())
    }
}

impl Handle {
    fn reply(&self, command: &Command) -> Bytes {
        let words: Vec<String> = command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let whole = std::iter::once(name.clone()).chain(words.into_iter().skip(1)).collect::<Vec<_>>().join(" ");
        let state = self.0.state();
        let found = state.replies.get(&whole).or_else(|| state.replies.get(&name)).cloned();
        found.unwrap_or_else(|| format!("-ERR the scenario has no reply to {name}\r\n").into())
    }

    fn link(&self, snapshot: Option<Bytes>, offset: u64) -> Box<dyn Replication> {
        let stream = Some(self.0.state().stream.clone());
        Box::new(ScriptedLink { world: Arc::clone(&self.0), snapshot, stream, offset, start: offset })
    }
}

#[async_trait]
impl RedisServer for Handle {
    async fn info(&self, _section: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        Ok(self.0.state().info.clone())
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        let reply = self.reply(&command);
        if let Some(error) = reply.strip_prefix(b"-") {
            let text = String::from_utf8_lossy(error).trim_end().to_owned();
            return Err(MethodError::new(code::SERVER_REPLY, text));
        }
        Ok(reply)
    }

    async fn pipeline(&self, commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        let replies: Vec<u8> = commands.iter().flat_map(|command| self.reply(command).to_vec()).collect();
        Ok(self.0.source("replies", replies.into()))
    }

    async fn replicate(&self, _snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError> {
        let snapshot = self.0.state().snapshot.clone();
        let snapshot = snapshot.ok_or_else(|| MethodError::new(code::SERVER_REPLY, "the scenario has no snapshot"))?;
        Ok(self.link(Some(snapshot), 0))
    }

    async fn resume(&self, _id: &str, offset: u64) -> Result<Box<dyn Replication>, MethodError> {
        Ok(self.link(None, offset))
    }

    async fn load(&self, _options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Ok(self.0.sink("load", Destination::Server, Vec::new()))
    }
}

struct ScriptedLink {
    world: Arc<World>,
    snapshot: Option<Bytes>,
    stream: Option<Bytes>,
    start: u64,
    offset: u64,
}

#[async_trait]
impl Replication for ScriptedLink {
    fn id(&self) -> String {
        "0".repeat(40)
    }

    fn start_offset(&self) -> u64 {
        self.start
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Source>, MethodError> {
        let snapshot = self.snapshot.take();
        let snapshot =
            snapshot.ok_or_else(|| MethodError::new(code::NOT_FOUND, "there is no snapshot on this link"))?;
        Ok(self.world.source("snapshot", snapshot))
    }

    async fn commands(&mut self, _until: Option<u64>, _within_ms: Option<u32>) -> Result<Box<dyn Source>, MethodError> {
        let stream = self.stream.take().unwrap_or_default();
        self.offset += stream.len() as u64;
        Ok(self.world.source("stream", stream))
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

#[async_trait]
impl Files for Handle {
    async fn list_directory(&self, path: &str) -> Result<Vec<FileEntry>, MethodError> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut entries: BTreeMap<String, FileEntry> = BTreeMap::new();
        for (file, bytes) in &self.0.state().files {
            let Some(below) = file.strip_prefix(&prefix) else { continue };
            let name = below.split('/').next().unwrap_or(below);
            let directory = name.len() < below.len();
            let path = format!("{prefix}{name}");
            let size = if directory { 0 } else { bytes.len() as u64 };
            let entry = FileEntry { path: path.clone(), size, modified_ms: 0, directory, attributes: Vec::new() };
            entries.insert(path, entry);
        }
        Ok(entries.into_values().collect())
    }

    async fn open(&self, path: &str) -> Result<Box<dyn Source>, MethodError> {
        let bytes = self.0.state().files.get(path).cloned();
        let bytes = bytes.ok_or_else(|| MethodError::new(code::NOT_FOUND, format!("there is no file {path}")))?;
        Ok(self.0.source(path, bytes))
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError> {
        if self.0.state().files.contains_key(path) {
            return Err(MethodError::new(code::REFUSED, format!("the name {path} is in use")));
        }
        Ok(self.0.sink(path, Destination::Files, Vec::new()))
    }

    async fn remove(&self, path: &str) -> Result<(), MethodError> {
        let removed = self.0.state().files.remove(path);
        removed.map(drop).ok_or_else(|| MethodError::new(code::NOT_FOUND, format!("there is no file {path}")))
    }
}

#[async_trait]
impl Socket for Handle {
    async fn connect(&self) -> Result<Box<dyn Connection>, MethodError> {
        let rest: VecDeque<(Bytes, Bytes)> = self.0.state().conversation.iter().cloned().collect();
        let fault = self.0.fault("socket");
        Ok(Box::new(ScriptedConnection {
            world: Arc::clone(&self.0),
            rest,
            heard: Vec::new(),
            ready: VecDeque::new(),
            read: 0,
            fault,
        }))
    }
}

struct ScriptedConnection {
    world: Arc<World>,
    rest: VecDeque<(Bytes, Bytes)>,
    heard: Vec<u8>,
    ready: VecDeque<u8>,
    read: u64,
    fault: Option<Fault>,
}

#[async_trait]
impl Connection for ScriptedConnection {
    async fn read(&mut self, max: usize, within_ms: Option<u32>) -> Result<Bytes, MethodError> {
        if let Some(slow) = self.world.slow {
            tokio::time::sleep(slow).await;
        }
        let mut most = max.min(MAX_READ).min(self.world.short_reads.unwrap_or(MAX_READ)).max(1);
        if let Some(fault) = &self.fault {
            if self.read >= fault.byte {
                return Err(error_of(fault));
            }
            most = most.min(usize::try_from(fault.byte - self.read).unwrap_or(usize::MAX));
        }
        if self.ready.is_empty() && !self.rest.is_empty() {
            // The peer waits for something else than what it got.
            let message = "the scenario's server sends nothing: it did not receive what it waits for";
            return Err(MethodError::new(if within_ms.is_some() { code::TIMEOUT } else { code::SOURCE_IO }, message));
        }
        let data: Vec<u8> = self.ready.drain(..most.min(self.ready.len())).collect();
        self.read += data.len() as u64;
        Ok(data.into())
    }

    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        self.heard.extend_from_slice(&data);
        while let Some((wanted, send)) = self.rest.front().cloned() {
            let Some(left) = self.heard.strip_prefix(wanted.as_ref()) else { break };
            self.heard = left.to_vec();
            self.ready.extend(send);
            self.rest.pop_front();
        }
        let same = self.rest.front().is_none_or(|(wanted, _)| wanted.starts_with(&self.heard));
        if same {
            return Ok(());
        }
        let message = format!("the scenario's server received {:?}", String::from_utf8_lossy(&self.heard));
        Err(MethodError::new(code::SOURCE_IO, message))
    }
}
