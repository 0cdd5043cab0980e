//! A run over memory: artifacts, a server that answers "+OK" to everything, a data directory, an echo, and what was
//! logged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::method::{ArtifactStore, LogLevel, MethodError, Run, RunEvents, code};
use redkeep_core::redis::{Command, FileEntry, Files, RedisServer, Replication};
use redkeep_core::socket::{Connection, Socket};
use redkeep_core::stream::{Artifact, Sink, Source};

/// Everything that a run touched.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) log: Mutex<Vec<(LogLevel, String)>>,
    pub(crate) commands: Mutex<Vec<Vec<String>>>,
    /// Finished artifacts and their bytes, unless [`World::discard`].
    pub(crate) artifacts: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Artifacts as `finish` returned them: what a run can list.
    pub(crate) finished: Mutex<Vec<Artifact>>,
    /// Bytes of sinks that were dropped without `finish`.
    pub(crate) thrown_away: Mutex<Vec<usize>>,
    pub(crate) files: Mutex<BTreeMap<String, Bytes>>,
    /// How long every read of a file takes.
    pub(crate) read_delay: Mutex<std::time::Duration>,
    pub(crate) discard: bool,
    /// Every artifact that is opened has so many GiB; nought: there is none.
    pub(crate) stored_gibibytes: u64,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn run(self: &Arc<Self>, run: &str) -> Run {
        Run {
            context: vec![Attribute::new("run", run)],
            parameters: "{}".to_owned(),
            events: Arc::clone(self) as Arc<dyn RunEvents>,
            artifacts: Arc::new(Handle(Arc::clone(self))),
            redis: Some(Arc::new(Handle(Arc::clone(self)))),
            files: Some(Arc::new(Handle(Arc::clone(self)))),
            socket: Some(Arc::new(Handle(Arc::clone(self)))),
        }
    }

    pub(crate) fn logged(&self, needle: &str) -> bool {
        self.log.lock().unwrap().iter().any(|(_, line)| line.contains(needle))
    }
}

impl RunEvents for World {
    fn log(&self, level: LogLevel, message: &str, _: &[Attribute]) {
        self.log.lock().unwrap().push((level, message.to_owned()));
    }

    fn progress(&self, _: &str, _: &str, _: u64, _: Option<u64>) {}
}

struct Handle(Arc<World>);

struct MemorySink {
    world: Arc<World>,
    name: String,
    /// Those given at its creation, where it is an artifact's.
    artifact: Option<Vec<Attribute>>,
    bytes: Vec<u8>,
    size: u64,
    finished: bool,
}

#[async_trait]
impl Sink for MemorySink {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        self.size += data.len() as u64;
        if self.world.discard {
            // One copy, as a real sink's buffer has it.
            self.bytes.clear();
        }
        self.bytes.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        self.finished = true;
        let bytes = std::mem::take(&mut self.bytes);
        self.world.artifacts.lock().unwrap().insert(self.name.clone(), bytes);
        let given = self.artifact.take();
        let attributes = redkeep_core::attribute::merge(given.as_deref().unwrap_or_default(), &attributes);
        let artifact = Artifact { name: self.name.clone(), size: self.size, sha256: String::new(), attributes };
        if given.is_some() {
            self.world.finished.lock().unwrap().push(artifact.clone());
        }
        Ok(artifact)
    }
}

impl Drop for MemorySink {
    fn drop(&mut self) {
        if !self.finished {
            self.world.thrown_away.lock().unwrap().push(self.bytes.len());
        }
    }
}

struct MemorySource {
    bytes: Bytes,
    position: usize,
    delay: std::time::Duration,
    repeat: u64,
    left: u64,
}

/// A file of this name has no end until so many GiB were read: `zeros-4`.
const ENDLESS: &str = "zeros-";

#[async_trait]
impl Source for MemorySource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if self.repeat > 0 {
            let take = max.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= take as u64;
            // One copy, as reading from a socket is.
            let at = usize::try_from(self.left % (48 << 20)).unwrap();
            return Ok(Bytes::copy_from_slice(&self.bytes[at..at + take]));
        }
        let end = (self.position + max).min(self.bytes.len());
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

fn sink(world: &Arc<World>, name: &str) -> Box<dyn Sink> {
    let world = Arc::clone(world);
    Box::new(MemorySink { world, name: name.to_owned(), artifact: None, bytes: Vec::new(), size: 0, finished: false })
}

/// A source that gives so many GiB out of a pattern of 64 MiB.
pub(crate) fn endless(gibibytes: u64) -> Box<dyn Source> {
    static PATTERN: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let pattern = PATTERN.get_or_init(|| (0..=250).collect::<Vec<u8>>().repeat((64 << 20) / 251).into());
    let left = gibibytes << 30;
    Box::new(MemorySource { bytes: pattern.clone(), position: 0, delay: std::time::Duration::ZERO, repeat: 1, left })
}

/// A sink as artifacts have it.
pub(crate) fn memory_sink(world: &Arc<World>) -> Box<dyn Sink> {
    sink(world, "native")
}

#[async_trait]
impl ArtifactStore for Handle {
    async fn create(&self, name: &str, attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        let (world, name, artifact) = (Arc::clone(&self.0), name.to_owned(), Some(attributes));
        Ok(Box::new(MemorySink { world, name, artifact, bytes: Vec::new(), size: 0, finished: false }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError> {
        match self.0.stored_gibibytes {
            0 => Err(MethodError::new(code::NOT_FOUND, format!("no artifact {name}"))),
            gibibytes => Ok(endless(gibibytes)),
        }
    }

    async fn list(&self) -> Result<Vec<Artifact>, MethodError> {
        Ok(self.0.finished.lock().unwrap().clone())
    }

    async fn facts(&self) -> Result<Vec<Attribute>, MethodError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl RedisServer for Handle {
    async fn info(&self, _: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        Ok(vec![Attribute::new("redis_version", "7.0.15")])
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        let words = command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        self.0.commands.lock().unwrap().push(words);
        Ok(Bytes::from_static(b"+OK\r\n"))
    }

    async fn pipeline(&self, _: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no pipeline here"))
    }

    async fn replicate(&self, _: bool) -> Result<Box<dyn Replication>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no replication here"))
    }

    async fn resume(&self, _: &str, _: u64) -> Result<Box<dyn Replication>, MethodError> {
        Err(MethodError::new(code::NOT_FOUND, "no backlog here"))
    }

    async fn load(&self, _: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Ok(sink(&self.0, "load"))
    }
}

#[async_trait]
impl Files for Handle {
    async fn list_directory(&self, _: &str) -> Result<Vec<FileEntry>, MethodError> {
        let files = self.0.files.lock().unwrap();
        let entry = |(path, bytes): (&String, &Bytes)| FileEntry {
            path: path.clone(),
            size: bytes.len() as u64,
            modified_ms: 0,
            directory: false,
            attributes: Vec::new(),
        };
        Ok(files.iter().map(entry).collect())
    }

    async fn open(&self, path: &str) -> Result<Box<dyn Source>, MethodError> {
        if let Some(size) = path.strip_prefix(ENDLESS) {
            return Ok(endless(size.parse().unwrap()));
        }
        let bytes = self.0.files.lock().unwrap().get(path).cloned();
        let bytes = bytes.ok_or_else(|| MethodError::new(code::NOT_FOUND, format!("no file {path}")))?;
        let delay = *self.0.read_delay.lock().unwrap();
        Ok(Box::new(MemorySource { bytes, position: 0, delay, repeat: 0, left: 0 }))
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError> {
        Ok(sink(&self.0, path))
    }

    async fn remove(&self, path: &str) -> Result<(), MethodError> {
        self.0.files.lock().unwrap().remove(path);
        Ok(())
    }
}

/// Gives back what it was given.
#[derive(Default)]
struct Echo(Vec<u8>);

#[async_trait]
impl Socket for Handle {
    async fn connect(&self) -> Result<Box<dyn Connection>, MethodError> {
        Ok(Box::new(Echo::default()))
    }
}

#[async_trait]
impl Connection for Echo {
    async fn read(&mut self, max: usize, within_ms: Option<u32>) -> Result<Bytes, MethodError> {
        if self.0.is_empty() {
            let Some(within) = within_ms else { return std::future::pending().await };
            tokio::time::sleep(std::time::Duration::from_millis(within.into())).await;
            return Err(MethodError::new(code::TIMEOUT, "nothing came"));
        }
        let rest = self.0.split_off(max.min(self.0.len()));
        Ok(std::mem::replace(&mut self.0, rest).into())
    }

    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        self.0.extend_from_slice(&data);
        Ok(())
    }
}
