//! The artifacts of a backup, read-only, and their verification without decoding.
//!
//! What a reader gets of a damaged artifact is a right beginning and then an error, never wrong bytes and never an end.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use redkeep_core::Attribute;
use redkeep_core::manifest::{ArtifactRecord, EncryptionRecord};
use redkeep_core::method::{ArtifactStore, MethodError, RunEvents};
use redkeep_core::storage::ReadStorage;
use redkeep_core::stream::{Artifact, MAX_READ, Sink, Source};
use sha2::{Digest as _, Sha256};

use super::decode::{self, Decoded, Decoding};
use super::digest;
use super::error::PipelineError;
use super::fetch::{self, READ_AHEAD};
use super::keys::Keys;

/// A read-only view of the artifacts of one shard of a backup.
pub struct StoredStore {
    storage: Arc<dyn ReadStorage>,
    records: Vec<ArtifactRecord>,
    facts: Vec<Attribute>,
    keys: Arc<Keys>,
    events: Arc<dyn RunEvents>,
    needed: String,
}

impl StoredStore {
    /// `records` are the shard's, from the manifest; `facts` are what `capture` reported of it.
    pub fn new(
        storage: Arc<dyn ReadStorage>,
        records: Vec<ArtifactRecord>,
        facts: Vec<Attribute>,
        keys: Arc<Keys>,
        events: Arc<dyn RunEvents>,
    ) -> Arc<Self> {
        Self::with_encryption(storage, records, facts, keys, events, None)
    }

    /// The same, with the manifest's `encryption`, so that an error can name the key that is needed.
    pub fn with_encryption(
        storage: Arc<dyn ReadStorage>,
        records: Vec<ArtifactRecord>,
        facts: Vec<Attribute>,
        keys: Arc<Keys>,
        events: Arc<dyn RunEvents>,
        encryption: Option<&EncryptionRecord>,
    ) -> Arc<Self> {
        let needed = match encryption {
            Some(record) if record.passphrase => "; it opens with the passphrase that it was made with".to_owned(),
            Some(record) if !record.recipients.is_empty() => {
                format!("; it opens with the private key of {}", record.recipients.join(" or "))
            }
            _ => String::new(),
        };
        Arc::new(Self { storage, records, facts, keys, events, needed })
    }

    /// That every object, part tables included, is there with its size: a request for each, no bytes.
    ///
    /// # Errors
    /// Class `Damaged`, naming the artifact and the object.
    pub async fn check_presence(&self) -> Result<(), PipelineError> {
        for record in &self.records {
            fetch::check_sizes(self.storage.as_ref(), record).await?;
        }
        Ok(())
    }

    /// That the keys at hand open every encrypted artifact: reads the first part of each. Call it before anything is touched.
    ///
    /// # Errors
    /// Class `Refused` where a key is missing or wrong, naming the recipients; `Damaged` where the first part is.
    pub async fn check_keys(&self) -> Result<(), PipelineError> {
        for record in self.records.iter().filter(|record| record.encrypted) {
            let artifact = record.name.to_string();
            let no_bytes = || PipelineError::damaged(&artifact, "it is encrypted and has no bytes");
            if self.keys.is_empty() {
                decode::try_keys(&artifact, &self.keys, &self.needed, &[])?;
            }
            let pieces = fetch::pieces(self.storage.as_ref(), record).await?;
            let first = pieces.first().ok_or_else(no_bytes)?;
            let head = fetch::fetch(self.storage.as_ref(), &artifact, first).await?;
            let (keys, needed) = (Arc::clone(&self.keys), self.needed.clone());
            let tried = tokio::task::spawn_blocking(move || decode::try_keys(&artifact, &keys, &needed, &head)).await;
            tried.unwrap_or(Err(PipelineError::Internal { stage: "keys" }))?;
        }
        Ok(())
    }

    async fn begin(&self, name: &str) -> Result<ArtifactSource, PipelineError> {
        let record = self.records.iter().find(|record| record.name.as_str() == name).ok_or_else(|| {
            let known = self.records.iter().map(|record| record.name.to_string()).collect();
            PipelineError::NoSuchArtifact { name: name.to_owned(), known }
        })?;
        fetch::check_sizes(self.storage.as_ref(), record).await?;
        let pieces = fetch::pieces(self.storage.as_ref(), record).await?;
        let decoding =
            decode::start(Arc::clone(&self.storage), record, pieces, Arc::clone(&self.keys), self.needed.clone());
        Ok(ArtifactSource {
            decoding,
            size: record.size,
            position: 0,
            chunks: Vec::new().into_iter(),
            current: Bytes::new(),
            end: None,
            events: Arc::clone(&self.events),
        })
    }
}

#[async_trait]
impl ArtifactStore for StoredStore {
    async fn create(&self, _name: &str, _attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Err(PipelineError::NotSupported { what: "artifacts of a stored backup cannot be written".to_owned() }.into())
    }

    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError> {
        Ok(Box::new(self.begin(name).await?))
    }

    async fn list(&self) -> Result<Vec<Artifact>, MethodError> {
        let artifacts = self.records.iter().map(|record| Artifact {
            name: record.name.to_string(),
            size: record.size,
            sha256: record.sha256.clone(),
            attributes: artifact_attributes(record),
        });
        Ok(artifacts.collect())
    }

    async fn facts(&self) -> Result<Vec<Attribute>, MethodError> {
        Ok(self.facts.clone())
    }
}

fn artifact_attributes(record: &ArtifactRecord) -> Vec<Attribute> {
    let recorded: Vec<Attribute> =
        record.attributes.iter().map(|(key, value)| Attribute::new(key.as_str(), value)).collect();
    redkeep_core::attribute::merge(&[Attribute::new("type", &record.artifact_type)], &recorded)
}

/// Plain bytes of one artifact.
struct ArtifactSource {
    decoding: Decoding,
    size: u64,
    position: u64,
    chunks: std::vec::IntoIter<Bytes>,
    current: Bytes,
    /// How it ended: the end itself, or the error that every further read repeats.
    end: Option<Result<(), MethodError>>,
    events: Arc<dyn RunEvents>,
}

#[async_trait]
impl Source for ArtifactSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        while self.current.is_empty() {
            if let Some(chunk) = self.chunks.next() {
                self.current = chunk;
                continue;
            }
            if let Some(end) = &self.end {
                return end.clone().map(|()| Bytes::new());
            }
            match self.decoding.plain.recv().await {
                Some(Decoded::Chunks(chunks)) => self.chunks = chunks.into_iter(),
                Some(Decoded::End) => self.end = Some(Ok(())),
                None => self.end = Some(Err(self.decoding.failure.get_or_internal("decode").into())),
            }
        }
        let bytes = self.current.split_to(max.clamp(1, MAX_READ).min(self.current.len()));
        self.position += bytes.len() as u64;
        self.events.progress("read", "bytes", self.position, Some(self.size));
        Ok(bytes)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }
}

/// Reads every stored byte of an artifact and compares all digests: of the parts, the objects, the whole and the part table. Needs
/// no key. `progress` is told the stored bytes read so far.
///
/// # Errors
/// Class `Damaged`, naming artifact, object and place; otherwise what kept the storage from being read.
pub async fn verify_stored(
    storage: Arc<dyn ReadStorage>,
    record: &ArtifactRecord,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), PipelineError> {
    let artifact = record.name.to_string();
    fetch::check_sizes(storage.as_ref(), record).await?;
    let pieces = fetch::pieces(storage.as_ref(), record).await?;
    // Where a piece is the whole artifact, its digest is that of the object; else whole and objects are digested as well.
    let mut running = Running { whole: Sha256::new(), object: Sha256::new(), several: !record.objects.is_empty() };
    let mut objects = record.stored_objects().into_iter();
    let mut object = objects.next();
    let mut object_read = 0_u64;
    let mut read = 0_u64;
    let sizes: Vec<u64> = pieces.iter().map(fetch::Piece::size).collect();
    let fetches = pieces.into_iter().map(|piece| fetch::fetching(Arc::clone(&storage), artifact.clone(), piece));
    let mut parts = futures::stream::iter(fetches).buffered(READ_AHEAD).zip(futures::stream::iter(sizes));
    while let Some((chunks, size)) = parts.next().await {
        let chunks = chunks?;
        running = running.update(chunks).await?;
        read += size;
        object_read += size;
        if let Some(current) = object.as_ref().filter(|current| current.size == object_read) {
            let sha256 = digest::finish(std::mem::take(&mut running.object));
            if running.several && digest::from_hex(&current.sha256) != Some(sha256) {
                let what = format!("{} is not what was stored", storage.address_of(&current.key));
                return Err(PipelineError::damaged(&artifact, what));
            }
            object = objects.next();
            object_read = 0;
        }
        progress(read);
    }
    if digest::from_hex(&record.stored_sha256) != Some(digest::finish(running.whole)) {
        return Err(PipelineError::damaged(&artifact, "the digest of its stored bytes is another than the manifest's"));
    }
    if object.is_some_and(|object| object.size > 0) {
        return Err(PipelineError::damaged(&artifact, "its part table does not cover all of its objects"));
    }
    Ok(())
}

/// Digests over more than one piece.
struct Running {
    whole: Sha256,
    object: Sha256,
    several: bool,
}

impl Running {
    /// Off the threads that serve the network: eight mebibytes take milliseconds.
    async fn update(mut self, chunks: Vec<Bytes>) -> Result<Self, PipelineError> {
        let task = tokio::task::spawn_blocking(move || {
            for chunk in &chunks {
                self.whole.update(chunk);
                if self.several {
                    self.object.update(chunk);
                }
            }
            self
        });
        task.await.map_err(|_| PipelineError::Internal { stage: "digest" })
    }
}
