//! The host, its artifacts and its files.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::server::FakeRedis;
use super::socket::FakeSocket;
use crate::attribute::{Attribute, Facts};
use crate::error::{Error, code};
use crate::host::{Artifact, Artifacts, Connection, Entry, Files, Host, Level, Redis, Sink, Socket, Source};

/// A list that the test and the fake both see.
pub type Shared<T> = Rc<RefCell<T>>;

/// A fault to inject: the reading of a source (or the writing of a sink) with this name fails when it reaches the byte.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Name of the artifact or path of the file; `snapshot`, `commands` and `load` are the server's.
    pub name: String,
    /// How many bytes pass before it.
    pub at: u64,
    /// What the call then fails with.
    pub error: Error,
}

/// An artifact that was finished.
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
}

/// The host in memory. Change the public fields before the call, look at them after it.
pub struct FakeHost {
    /// What `context` returns; see [`FakeHost::with_context`].
    pub context: Vec<Attribute>,
    /// What `parameters` returns.
    pub parameters: String,
    /// The clock, in milliseconds; `sleep_ms` moves it.
    pub now_ms: Cell<u64>,
    /// Every line logged.
    pub logged: RefCell<Vec<(Level, String)>>,
    /// The last count of every phase and unit.
    pub progress: RefCell<BTreeMap<(String, String), u64>>,
    /// The artifacts that were finished.
    pub artifacts: Shared<Vec<StoredArtifact>>,
    /// What `artifacts.facts` returns.
    pub facts: Facts,
    /// The server; none answers "not-supported".
    pub redis: Option<FakeRedis>,
    /// The data directory; none answers "not-supported".
    pub files: Option<FakeFiles>,
    /// The server of another system; none answers "not-supported".
    pub socket: Option<FakeSocket>,
    /// Faults to inject.
    pub faults: Rc<RefCell<Vec<Fault>>>,
    /// Sources return at most so many bytes a read, whatever is asked for.
    pub short_reads: Option<usize>,
}

/// The data directory in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeFiles {
    /// Path and bytes of every file that is there (or, in a restore, was finished).
    pub entries: Shared<BTreeMap<String, Vec<u8>>>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            context: Vec::new(),
            parameters: "{}".to_owned(),
            now_ms: Cell::new(1_700_000_000_000),
            logged: RefCell::default(),
            progress: RefCell::default(),
            artifacts: Shared::default(),
            facts: Facts::new(),
            redis: None,
            files: None,
            socket: None,
            faults: Rc::default(),
            short_reads: None,
        }
    }
}

impl FakeHost {
    /// A host for a run of this kind, with more of the context as pairs.
    pub fn with_context(run: &str, context: &[(&str, &str)]) -> Self {
        let mut facts = Facts::new();
        facts.set("run", run);
        for (key, value) in context {
            facts.set(key, value);
        }
        Self { context: facts.into_vec(), ..Self::default() }
    }

    /// With an artifact in store.
    #[must_use]
    pub fn with_artifact(self, name: &str, kind: &str, bytes: Vec<u8>) -> Self {
        let attributes = vec![Attribute::new("type", kind)];
        self.artifacts.borrow_mut().push(StoredArtifact { name: name.to_owned(), bytes, attributes });
        self
    }

    /// With a data directory that holds these files.
    #[must_use]
    pub fn with_files(mut self, files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
        self.files = Some(FakeFiles { entries: Rc::new(RefCell::new(files)) });
        self
    }

    /// With a server.
    #[must_use]
    pub fn with_redis(mut self, redis: FakeRedis) -> Self {
        self.redis = Some(redis);
        self
    }

    /// With a server of another system.
    #[must_use]
    pub fn with_socket(mut self, socket: FakeSocket) -> Self {
        self.socket = Some(socket);
        self
    }

    /// With parameters (JSON).
    #[must_use]
    pub fn with_parameters(mut self, json: &str) -> Self {
        json.clone_into(&mut self.parameters);
        self
    }

    /// Makes a source or sink fail; see [`Fault`].
    pub fn inject(&self, name: &str, at: u64, error: Error) {
        self.faults.borrow_mut().push(Fault { name: name.to_owned(), at, error });
    }

    /// The bytes of an artifact that was finished.
    pub fn artifact(&self, name: &str) -> Option<Vec<u8>> {
        self.artifacts.borrow().iter().find(|artifact| artifact.name == name).map(|artifact| artifact.bytes.clone())
    }

    /// The bytes of a file of the data directory.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.files.as_ref()?.entries.borrow().get(path).cloned()
    }

    pub(super) fn source(&self, name: &str, bytes: Vec<u8>) -> Box<dyn Source> {
        let fault = self.faults.borrow().iter().find(|fault| fault.name == name).cloned();
        Box::new(MemorySource { bytes, position: 0, fault, short_reads: self.short_reads })
    }

    fn sink(&self, name: &str, attributes: &[Attribute], into: Destination) -> Box<dyn Sink> {
        let fault = self.faults.borrow().iter().find(|fault| fault.name == name).cloned();
        Box::new(MemorySink { name: name.to_owned(), attributes: attributes.to_vec(), bytes: Vec::new(), fault, into })
    }
}

/// A source over bytes in memory.
pub struct MemorySource {
    bytes: Vec<u8>,
    position: usize,
    fault: Option<Fault>,
    short_reads: Option<usize>,
}

impl MemorySource {
    /// A source of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, position: 0, fault: None, short_reads: None }
    }
}

impl Source for MemorySource {
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Error> {
        let mut end = self.bytes.len().min(self.position + (max as usize).min(self.short_reads.unwrap_or(1 << 20)));
        if let Some(fault) = &self.fault {
            let at = usize::try_from(fault.at).unwrap_or(usize::MAX);
            if self.position >= at {
                return Err(fault.error.clone());
            }
            end = end.min(at);
        }
        let chunk = self.bytes[self.position..end].to_vec();
        self.position = end;
        Ok(chunk)
    }
    fn position(&self) -> u64 {
        self.position as u64
    }
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }
}

enum Destination {
    Artifacts(Shared<Vec<StoredArtifact>>),
    Files(Shared<BTreeMap<String, Vec<u8>>>),
    Load(Shared<Vec<u8>>, Vec<Attribute>),
}

struct MemorySink {
    name: String,
    attributes: Vec<Attribute>,
    bytes: Vec<u8>,
    fault: Option<Fault>,
    into: Destination,
}

impl Sink for MemorySink {
    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some(fault) = &self.fault
            && (self.bytes.len() + data.len()) as u64 > fault.at
        {
            return Err(fault.error.clone());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>, attributes: &[Attribute]) -> Result<Artifact, Error> {
        let Self { name, attributes: given, bytes, into, .. } = *self;
        let mut facts = Facts::from(given);
        facts.extend(attributes.to_vec());
        let size = bytes.len() as u64;
        match into {
            Destination::Artifacts(store) => {
                let attributes = facts.as_slice().to_vec();
                store.borrow_mut().push(StoredArtifact { name: name.clone(), bytes, attributes });
            }
            Destination::Files(files) => {
                files.borrow_mut().insert(name.clone(), bytes);
            }
            Destination::Load(loaded, outcome) => {
                loaded.borrow_mut().extend_from_slice(&bytes);
                facts.extend(outcome);
            }
        }
        Ok(Artifact { name, size, sha256: "0".repeat(64), attributes: facts.into_vec() })
    }
}

impl Host for FakeHost {
    fn log(&self, level: Level, message: &str, _fields: &[Attribute]) {
        self.logged.borrow_mut().push((level, message.to_owned()));
    }
    fn context(&self) -> Vec<Attribute> {
        self.context.clone()
    }
    fn parameters(&self) -> String {
        self.parameters.clone()
    }
    fn progress(&self, phase: &str, unit: &str, done: u64, _total: Option<u64>) -> Result<(), Error> {
        self.progress.borrow_mut().insert((phase.to_owned(), unit.to_owned()), done);
        Ok(())
    }
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
    fn sleep_ms(&self, duration: u32) -> Result<(), Error> {
        self.now_ms.set(self.now_ms.get() + u64::from(duration));
        Ok(())
    }
    fn splice(&self, source: &mut dyn Source, sink: &mut dyn Sink, max: Option<u64>) -> Result<u64, Error> {
        let mut copied = 0;
        loop {
            let left = max.map_or(u64::MAX, |max| max - copied);
            let chunk = if left == 0 { Vec::new() } else { source.read(u32::try_from(left).unwrap_or(1 << 20))? };
            if chunk.is_empty() {
                return Ok(copied);
            }
            sink.write(&chunk)?;
            copied += chunk.len() as u64;
        }
    }
    fn artifacts(&self) -> &dyn Artifacts {
        self
    }
    fn redis(&self) -> &dyn Redis {
        self
    }
    fn files(&self) -> &dyn Files {
        self
    }
    fn socket(&self) -> &dyn Socket {
        self
    }
}

impl Socket for FakeHost {
    fn connect(&self) -> Result<Box<dyn Connection>, Error> {
        let socket = self.socket.as_ref();
        socket.ok_or_else(|| Error::new(code::NOT_SUPPORTED, "this run has no socket"))?.connect()
    }
}

impl Artifacts for FakeHost {
    fn create(&self, name: &str, attributes: &[Attribute]) -> Result<Box<dyn Sink>, Error> {
        Ok(self.sink(name, attributes, Destination::Artifacts(Rc::clone(&self.artifacts))))
    }
    fn open(&self, name: &str) -> Result<Box<dyn Source>, Error> {
        let bytes = self.artifact(name).ok_or_else(|| Error::new(code::NOT_FOUND, format!("no artifact {name}")))?;
        Ok(self.source(name, bytes))
    }
    fn list(&self) -> Result<Vec<Artifact>, Error> {
        let artifacts = self.artifacts.borrow();
        let artifacts = artifacts.iter().map(|stored| Artifact {
            name: stored.name.clone(),
            size: stored.bytes.len() as u64,
            sha256: "0".repeat(64),
            attributes: stored.attributes.clone(),
        });
        Ok(artifacts.collect())
    }
    fn facts(&self) -> Result<Vec<Attribute>, Error> {
        Ok(self.facts.as_slice().to_vec())
    }
}

impl FakeHost {
    pub(super) fn load_sink(&self, redis: &FakeRedis, options: &[Attribute]) -> Box<dyn Sink> {
        redis.load_options.borrow_mut().push(options.to_vec());
        let into = Destination::Load(Rc::clone(&redis.loaded), redis.load_outcome.clone());
        self.sink("load", &[], into)
    }

    fn data_directory(&self) -> Result<&FakeFiles, Error> {
        self.files.as_ref().ok_or_else(|| Error::new(code::NOT_SUPPORTED, "this run has no data directory"))
    }
}

impl Files for FakeHost {
    fn list_directory(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let files = self.data_directory()?.entries.borrow();
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (file, bytes) in files.iter().filter(|(file, _)| file.starts_with(&prefix)) {
            let below = &file[prefix.len()..];
            let name = below.split('/').next().unwrap_or(below);
            let directory = name.len() < below.len();
            let path = format!("{prefix}{name}");
            let size = if directory { 0 } else { bytes.len() as u64 };
            entries.insert(path.clone(), Entry { path, size, modified_ms: 0, directory, attributes: Vec::new() });
        }
        if entries.is_empty() && !path.is_empty() {
            return Err(Error::new(code::NOT_FOUND, format!("no directory {path}")));
        }
        Ok(entries.into_values().collect())
    }
    fn open(&self, path: &str) -> Result<Box<dyn Source>, Error> {
        let bytes = self.data_directory()?.entries.borrow().get(path).cloned();
        let bytes = bytes.ok_or_else(|| Error::new(code::NOT_FOUND, format!("no file {path}")))?;
        Ok(self.source(path, bytes))
    }
    fn create(&self, path: &str) -> Result<Box<dyn Sink>, Error> {
        let files = self.data_directory()?;
        if files.entries.borrow().contains_key(path) {
            return Err(Error::new(code::REFUSED, format!("{path} is in use")));
        }
        Ok(self.sink(path, &[], Destination::Files(Rc::clone(&files.entries))))
    }
    fn remove(&self, path: &str) -> Result<(), Error> {
        let removed = self.data_directory()?.entries.borrow_mut().remove(path);
        removed.map(drop).ok_or_else(|| Error::new(code::NOT_FOUND, format!("no file {path}")))
    }
}
