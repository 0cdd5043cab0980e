//! Storage: where backups live. Reading and writing are separate traits, so that a command that only reads cannot delete.
//!
//! Keys are relative to the storage's prefix, use `/`, and never start with it. Every call may be cancelled by dropping
//! its future. `host/storage` implements these for folders, memory, S3, GCS and Azure, and holds the suite that each passes.

use std::error::Error;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::classify::{Class, Classify};

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Relative to the storage's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
    /// Changes when the content changes; opaque.
    pub etag: Option<String>,
}

/// One level of a listing: what stands directly under a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects directly under the prefix, by key.
    pub objects: Vec<ObjectMeta>,
    /// Folders directly under the prefix, each ending in `/`, by name.
    pub folders: Vec<String>,
}

/// What kind of thing went wrong; each needs something else of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// No such object, bucket or folder.
    NotFound,
    /// It exists already (put-if-absent).
    AlreadyExists,
    /// Credentials are missing, wrong or not enough.
    Denied,
    /// No space or quota left.
    Full,
    /// Cannot be reached, or the connection broke.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The endpoint is busy or failing; worth another try.
    Busy,
    /// An address, option or key that cannot work.
    Invalid,
    /// This storage cannot do it.
    Unsupported,
    /// What came back is not what was stored.
    Damaged,
    /// Anything else.
    Other,
}

/// A failed storage call: which act, on what, and why.
#[derive(Debug)]
pub struct StorageError {
    /// What went wrong.
    pub kind: StorageErrorKind,
    /// The act that failed and what it acted on, e.g. `failed to read s3://bucket/key`.
    pub act: String,
    /// What the user can do.
    pub help: Option<String>,
    /// Why.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// An error without a cause below it.
    pub fn new(kind: StorageErrorKind, act: impl Into<String>) -> Self {
        Self { kind, act: act.into(), help: None, source: None }
    }

    /// With its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With what the user can do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl std::fmt::Display for StorageError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.act)
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| -> &(dyn Error + 'static) { source.as_ref() })
    }
}

impl Classify for StorageError {
    fn class(&self) -> Class {
        match self.kind {
            StorageErrorKind::NotFound => Class::NotFound,
            StorageErrorKind::Invalid => Class::Usage,
            StorageErrorKind::Damaged => Class::Damaged,
            StorageErrorKind::Unsupported => Class::Refused,
            _ => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self.kind {
            StorageErrorKind::NotFound => "StorageNotFound",
            StorageErrorKind::AlreadyExists => "StorageConflict",
            StorageErrorKind::Denied => "StorageDenied",
            StorageErrorKind::Full => "StorageFull",
            StorageErrorKind::Unreachable => "StorageUnreachable",
            StorageErrorKind::TimedOut => "StorageTimedOut",
            StorageErrorKind::Busy => "StorageBusy",
            StorageErrorKind::Invalid => "StorageInvalid",
            StorageErrorKind::Unsupported => "StorageUnsupported",
            StorageErrorKind::Damaged => "StorageDamaged",
            StorageErrorKind::Other => "StorageFailed",
        }
    }

    fn retryable(&self) -> bool {
        matches!(self.kind, StorageErrorKind::Unreachable | StorageErrorKind::TimedOut | StorageErrorKind::Busy)
    }

    fn help(&self) -> Option<String> {
        self.help.clone()
    }
}

/// An object's bytes as they arrive.
pub type ObjectStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// What can be done without changing anything.
#[async_trait]
pub trait ReadStorage: Send + Sync {
    /// The address, without secrets, as a user would write it.
    fn address(&self) -> String;
    /// The address of one object, as a user would write it.
    fn address_of(&self, key: &str) -> String {
        format!("{}/{key}", self.address().trim_end_matches('/'))
    }
    /// Everything under `prefix` at any depth, by key, as it is found. A prefix that ends in `/` is a folder.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        self.list_after(prefix, "")
    }
    /// As [`list`](Self::list), but only keys behind `after` (empty: from the first), without the cost of those before it
    /// where the storage can do that.
    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>>;
    /// What stands directly under the folder `prefix` (empty, or ending in `/`). A missing folder is empty.
    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError>;
    /// What is known of one object; `NotFound` when there is none.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError>;
    /// Its bytes, or a range of them. A stream that ends early is an error item, never a short end.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError>;
}

/// How put-if-absent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is ours.
    Created,
    /// There was one already; it was not touched.
    Exists,
}

/// A multi-part upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The object it would have become.
    pub key: String,
    /// Identifies the upload at the endpoint (or the temporary file in a folder).
    pub upload_id: String,
    /// When it was begun.
    pub started: Timestamp,
}

/// What may change the storage.
#[async_trait]
pub trait WriteStorage: ReadStorage {
    /// Writes a small object whole, over what may be there. For pins, results and the index, never for manifests.
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError>;
    /// Writes a small object only if there is none: the commit. Durable when it returns.
    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError>;
    /// Begins an object of unknown length; it appears, whole, only with [`Upload::finish`].
    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError>;
    /// Deletes objects. One that is gone already is no error. The first failure is returned after all were tried.
    async fn delete(&self, keys: &[String]) -> Result<(), StorageError>;
    /// Uploads under `prefix` that nobody finished.
    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError>;
    /// When bytes of one of them came last; its beginning where none have, or where the storage does not tell. `NotFound` when it is
    /// gone.
    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        Ok(upload.started)
    }
    /// Throws one of them away.
    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError>;
}

/// An object being written. Dropped without [`Upload::finish`]: thrown away as far as that can be done without waiting.
#[async_trait]
pub trait Upload: Send {
    /// Takes bytes, waiting while the storage is slower; memory stays bounded.
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError>;
    /// Bytes that this object can still take before another must be begun (an endpoint has at most 10,000 parts).
    fn remaining(&self) -> u64 {
        u64::MAX
    }
    /// Makes the object visible and durable; returns what the storage says of it.
    async fn finish(self: Box<Self>) -> Result<ObjectMeta, StorageError>;
    /// Throws it away, waiting until that is done.
    async fn abort(self: Box<Self>) -> Result<(), StorageError>;
}

/// What a storage turned out to support when it was tried (`storage probe`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Address without secrets.
    pub address: String,
    /// One line for each thing that was tried, in the order of trial.
    pub checks: Vec<ProbeCheck>,
}

impl ProbeReport {
    /// Whether everything that backups need works.
    pub fn usable(&self) -> bool {
        self.checks.iter().all(|check| check.supported || !check.required)
    }
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCheck {
    /// E.g. `write`, `read`, `list`, `range-read`, `conditional-put`, `multipart`, `delete`, `multi-delete`, `checksums`, `versions`, `object-lock`.
    pub name: String,
    /// Whether backups need it.
    pub required: bool,
    /// Whether it worked.
    pub supported: bool,
    /// What was seen.
    pub detail: String,
}
