//! The method: what a plugin is to the engine. `host/plugin` implements it over a WebAssembly component.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::attribute::Attribute;
use crate::classify::{Class, Classify};
use crate::redis::{Files, RedisServer};
use crate::socket::Socket;
use crate::stream::{Artifact, Sink, Source};

/// Error codes of the contract, and those that the host adds for what it stopped itself.
pub mod code {
    /// Not granted to the plugin.
    pub const DENIED: &str = "denied";
    /// Parameters that the schema or the plugin refuses.
    pub const INVALID_PARAMETERS: &str = "invalid-parameters";
    /// This run has no such thing.
    pub const NOT_SUPPORTED: &str = "not-supported";
    /// No such file, artifact, backlog.
    pub const NOT_FOUND: &str = "not-found";
    /// Waited for too long.
    pub const TIMEOUT: &str = "timeout";
    /// The server answered with an error; its text is the message.
    pub const SERVER_REPLY: &str = "server-reply";
    /// Reading from the source failed.
    pub const SOURCE_IO: &str = "source-io";
    /// Writing to storage failed.
    pub const SINK_IO: &str = "sink-io";
    /// Writing to the target failed.
    pub const TARGET_IO: &str = "target-io";
    /// The bytes are not what they must be.
    pub const DAMAGED: &str = "damaged";
    /// Not done, and nothing was touched.
    pub const REFUSED: &str = "refused";
    /// The run is to stop.
    pub const CANCELLED: &str = "cancelled";
    /// A defect.
    pub const INTERNAL: &str = "internal";
    /// The plugin trapped (a panic, a stack overflow, an unreachable instruction).
    pub const TRAPPED: &str = "trapped";
    /// The plugin hit a limit; the message says which one.
    pub const LIMIT: &str = "limit";
    /// The plugin reported facts that contradict what it wrote.
    pub const FACTS: &str = "facts-differ";
}

/// Why a method or a capability failed; the `error` record of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodError {
    /// One of [`code`]; an unknown code is treated as `internal`.
    pub code: String,
    /// What failed, for the user.
    pub message: String,
    /// The whole run may be tried again from nothing.
    pub retryable: bool,
    /// More of it. The key `help`, where present, is what the user can do.
    pub details: Vec<Attribute>,
}

impl MethodError {
    /// An error that is not worth a retry.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: false, details: Vec::new() }
    }

    /// The same, worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// With what the user can do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.details.push(Attribute::new("help", help.into()));
        self
    }

    /// With one more detail.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl ToString) -> Self {
        self.details.push(Attribute::new(key, value));
        self
    }
}

impl std::fmt::Display for MethodError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for MethodError {}

impl Classify for MethodError {
    fn class(&self) -> Class {
        match self.code.as_str() {
            code::DAMAGED => Class::Damaged,
            code::REFUSED | code::NOT_SUPPORTED => Class::Refused,
            code::INVALID_PARAMETERS => Class::Usage,
            _ => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self.code.as_str() {
            code::DENIED => "NotGranted",
            code::INVALID_PARAMETERS => "InvalidParameters",
            code::NOT_SUPPORTED => "NotSupported",
            code::NOT_FOUND => "NotFound",
            code::TIMEOUT => "TimedOut",
            code::SERVER_REPLY => "ServerReply",
            code::SOURCE_IO => "SourceFailed",
            code::SINK_IO => "StorageFailed",
            code::TARGET_IO => "TargetFailed",
            code::DAMAGED => "Damaged",
            code::REFUSED => "Refused",
            code::CANCELLED => "Cancelled",
            code::TRAPPED => "PluginTrapped",
            code::LIMIT => "PluginLimit",
            code::FACTS => "FactsDiffer",
            _ => "Internal",
        }
    }

    fn retryable(&self) -> bool {
        self.retryable
    }

    fn help(&self) -> Option<String> {
        let given = crate::attribute::find(&self.details, "help").map(str::to_owned);
        let is_of_parameters = self.code == code::INVALID_PARAMETERS;
        given.or_else(|| is_of_parameters.then(|| "`redkeep plugin inspect METHOD` lists its parameters".to_owned()))
    }
}

/// What a plugin says of itself (`describe`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodInfo {
    /// The method's name, e.g. `redis-rdb`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its parameters.
    pub parameters_schema: String,
    /// What it asks to be granted, e.g. `redis:replicate`, `?redis:command:BGSAVE`.
    pub requests: Vec<String>,
    /// `targets`, `reads` and what else it says.
    pub attributes: Vec<Attribute>,
}

impl MethodInfo {
    /// Whether `restore`, `verify` and `inspect` understand artifacts of this type (attribute `reads`).
    pub fn reads(&self, artifact_type: &str) -> bool {
        crate::attribute::find(&self.attributes, "reads")
            .is_some_and(|types| types.split_ascii_whitespace().any(|known| known == artifact_type))
    }
}

/// Severity of a plugin's log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
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

/// Where a run's progress and log lines go. Called often and from any thread: must not block.
pub trait RunEvents: Send + Sync {
    /// A log line of the plugin.
    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]);
    /// One count for each pair of phase and unit (`bytes`, `keys`).
    fn progress(&self, phase: &str, unit: &str, done: u64, total: Option<u64>);
}

/// This backup's artifacts of the run's shard: written by `capture`, read by everything else.
#[async_trait]
pub trait ArtifactStore: Send + Sync {
    /// A new artifact. `name`: letters, digits, `.`, `_` and `-`, used once. Attribute `type` says what it is.
    async fn create(&self, name: &str, attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError>;
    /// Its plain bytes. The end comes only after size and digest held; else `damaged`.
    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError>;
    /// In the order in which they were finished.
    async fn list(&self) -> Result<Vec<Artifact>, MethodError>;
    /// What `capture` reported.
    async fn facts(&self) -> Result<Vec<Attribute>, MethodError>;
}

/// Everything that one call of a method may touch. A capability that is `None` answers `not-supported`.
#[derive(Clone)]
pub struct Run {
    /// What this run is about (`control.context` of the contract).
    pub context: Vec<Attribute>,
    /// The user's parameters, JSON.
    pub parameters: String,
    /// Progress and log.
    pub events: Arc<dyn RunEvents>,
    /// The artifacts.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// The server, or in a restore perhaps a cluster.
    pub redis: Option<Arc<dyn RedisServer>>,
    /// The data directory of source or target.
    pub files: Option<Arc<dyn Files>>,
    /// A byte stream to source or target, where that is another system.
    pub socket: Option<Arc<dyn Socket>>,
}

/// A loaded plugin. Every call runs in a fresh instance; dropping the future of a call stops it.
#[async_trait]
pub trait Method: Send + Sync {
    /// What `describe` said.
    fn info(&self) -> &MethodInfo;
    /// SHA-256 of the component, as lower-case hexadecimal.
    fn digest(&self) -> &str;
    /// Checks parameters (JSON); `invalid-parameters` has one detail for each fault.
    async fn validate(&self, parameters: &str) -> Result<(), MethodError>;
    /// Refuses, or says what would be done. Changes nothing.
    async fn plan(&self, run: Run) -> Result<Vec<Attribute>, MethodError>;
    /// Reads the source, writes artifacts, returns facts.
    async fn capture(&self, run: Run) -> Result<Vec<Attribute>, MethodError>;
    /// Reads artifacts, writes the target, returns facts.
    async fn restore(&self, run: Run) -> Result<Vec<Attribute>, MethodError>;
    /// Reads the artifacts whole; `damaged`, or what they hold.
    async fn verify(&self, run: Run) -> Result<Vec<Attribute>, MethodError>;
    /// Answers questions about the artifacts. JSON in, JSON out; `{}` asks for a summary.
    async fn inspect(&self, run: Run, query: &str) -> Result<String, MethodError>;
}
