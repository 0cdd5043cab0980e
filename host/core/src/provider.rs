//! What the engine asks of the world, as traits. The composition root (`host/src/wiring.rs`) names the implementations.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::attribute::Attribute;
use crate::classify::{Class, Classify};
use crate::loaded::LoadedMethod;
use crate::manifest::SlotRange;
use crate::method::{Method, MethodError};
use crate::redis::{Files, RedisServer};
use crate::secret::{Secret, SecretRef};
use crate::socket::Socket;
use crate::storage::{ProbeReport, WriteStorage};
use crate::task::{DirectoryTarget, EndpointSpec, MethodSpec, StorageSpec};

/// Why a provider could not give what was asked: an unreachable server, a missing permission, an unknown method.
#[derive(Debug)]
pub struct ProviderError {
    /// The kind of failure.
    pub class: Class,
    /// A stable word in `CamelCase`.
    pub reason: &'static str,
    /// What failed, on what.
    pub message: String,
    /// What the user can do.
    pub help: Option<String>,
    /// Whether another try may succeed.
    pub retryable: bool,
    /// Why.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl ProviderError {
    /// An error without a cause below it, not worth a retry.
    pub fn new(class: Class, reason: &'static str, message: impl Into<String>) -> Self {
        Self { class, reason, message: message.into(), help: None, retryable: false, source: None }
    }

    /// With what the user can do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl std::fmt::Display for ProviderError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for ProviderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| -> &(dyn Error + 'static) { source.as_ref() })
    }
}

impl Classify for ProviderError {
    fn class(&self) -> Class {
        self.class
    }

    fn reason(&self) -> &'static str {
        self.reason
    }

    fn retryable(&self) -> bool {
        self.retryable
    }

    fn help(&self) -> Option<String> {
        self.help.clone()
    }
}

/// One shard of a source: the node chosen, connected.
#[derive(Clone)]
pub struct SourceShard {
    /// `0` where there is only one.
    pub name: String,
    /// The node read, without secrets.
    pub node: String,
    /// Slots it serves.
    pub slots: Vec<SlotRange>,
    /// What the host knows of it, joined to the run's context: `node-role`, `primary-offset`, `server-name`, `server-version`, …
    pub facts: Vec<Attribute>,
    /// What was noticed while choosing, for the user.
    pub warnings: Vec<String>,
    /// The connection; `None` where only a data directory was given.
    pub redis: Option<Arc<dyn RedisServer>>,
    /// The data directory, where it is readable.
    pub files: Option<Arc<dyn Files>>,
    /// A byte stream, where the source is not Redis (`tcp://`, `tls://`); then `redis` is `None`.
    pub socket: Option<Arc<dyn Socket>>,
}

/// A source, resolved to shards.
#[async_trait]
pub trait DataSource: Send + Sync {
    /// As a user would write it, without secrets.
    fn address(&self) -> String;
    /// `standalone`, `sentinel`, `nodes`, `cluster`, `directory` or `socket`.
    fn mode(&self) -> &'static str;
    /// The shards.
    fn shards(&self) -> &[SourceShard];
    /// Whether slots and shards are still as they were resolved; an error says what moved.
    async fn check_topology(&self) -> Result<(), ProviderError>;
}

/// A live target of a restore.
#[derive(Clone)]
pub struct LiveTarget {
    /// As a user would write it, without secrets.
    pub address: String,
    /// Whether it is a cluster: commands are then routed by slot.
    pub cluster: bool,
    /// Keys in it now, over all databases and primaries.
    pub keys: u64,
    /// Joined to the run's context: `server-name`, `server-version`, `rdb-version`, `appendonly`, `databases`, …
    pub facts: Vec<Attribute>,
    /// The connection; `None` where the target is not Redis.
    pub redis: Option<Arc<dyn RedisServer>>,
    /// A byte stream, where the target is not Redis (`tcp://`, `tls://`).
    pub socket: Option<Arc<dyn Socket>>,
    /// Each server that takes writes, with its address: of a cluster every primary, for what each of them decides alone.
    pub primaries: Vec<(String, Arc<dyn RedisServer>)>,
}

/// A directory being filled: a staging folder that appears as a whole.
#[async_trait]
pub trait StagedDirectory: Send + Sync {
    /// What plugins write through.
    fn files(&self) -> Arc<dyn Files>;
    /// Bytes that can still be written to it; nothing where the file system does not say.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// Moves everything staged into place, durable, owned as asked.
    async fn publish(&self) -> Result<(), ProviderError>;
    /// Throws the staging folder away.
    async fn discard(&self) -> Result<(), ProviderError>;
}

/// A throw-away server started on a restored directory.
#[async_trait]
pub trait BootCheck: Send + Sync {
    /// Starts a server that can read what `server_name` and `server_version` wrote, on the data directory `directory`
    /// (`appendonly` as given), waits until it has loaded, stops it. Attributes: `server`, `keys-loaded`, `keys-expired`, `keys`.
    async fn boot(
        &self,
        directory: &Path,
        appendonly: bool,
        server_name: &str,
        server_version: &str,
    ) -> Result<Vec<Attribute>, ProviderError>;
}

/// Everything outside the engine that a task may need.
#[async_trait]
pub trait Providers: Send + Sync {
    /// Opens a storage.
    async fn storage(&self, spec: &StorageSpec) -> Result<Arc<dyn WriteStorage>, ProviderError>;
    /// Really tries what a storage can do; the failure of the first write is an error.
    async fn probe(&self, spec: &StorageSpec) -> Result<ProbeReport, ProviderError>;
    /// Resolves and connects a source.
    async fn source(&self, spec: &EndpointSpec) -> Result<Arc<dyn DataSource>, ProviderError>;
    /// Connects a live target.
    async fn target(&self, spec: &EndpointSpec) -> Result<LiveTarget, ProviderError>;
    /// Prepares a target directory: refused when it is not empty.
    async fn directory(&self, spec: &DirectoryTarget) -> Result<Arc<dyn StagedDirectory>, ProviderError>;
    /// Loads the method that the user named.
    async fn method(&self, spec: &MethodSpec) -> Result<Arc<dyn Method>, ProviderError>;
    /// Fetches, checks, compiles and describes a method. What it asks for and is not granted is part of the answer.
    async fn load_method(&self, spec: &MethodSpec) -> Result<LoadedMethod, ProviderError>;
    /// Finds a method that reads artifacts of these types, preferring the one named; an error names what is needed.
    async fn method_that_reads(
        &self,
        spec: &MethodSpec,
        preferred: &str,
        artifact_types: &[String],
    ) -> Result<Arc<dyn Method>, ProviderError>;
    /// The component of that digest behind a method that was loaded, to be kept beside its backups; `None` where every redkeep
    /// has it.
    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, ProviderError>;
    /// Loads a component that was kept beside a backup, at the address `origin`: granted what `spec` says and nothing else.
    async fn kept_method(
        &self,
        component: Vec<u8>,
        origin: &str,
        spec: &MethodSpec,
    ) -> Result<Arc<dyn Method>, ProviderError>;
    /// Starts throw-away servers: of this machine, or by the program that listens in the folder `beside` ([`crate::boot`]).
    fn boot_check(&self, beside: Option<&Path>) -> Arc<dyn BootCheck>;
    /// Reads a secret from its place.
    async fn secret(&self, place: &SecretRef) -> Result<Secret, ProviderError>;
    /// Random lower-case letters and digits, `length` of them: the only source of chance.
    fn random_token(&self, length: usize) -> String;
    /// The wall clock.
    fn now(&self) -> jiff::Timestamp;
}

impl From<MethodError> for ProviderError {
    fn from(error: MethodError) -> Self {
        Self {
            class: error.class(),
            reason: error.reason(),
            message: error.message.clone(),
            help: error.help(),
            retryable: error.retryable,
            source: None,
        }
    }
}
