//! The artifacts of a running capture: what a plugin writes into, and what the manifest then says of them.
//!
//! An artifact exists when its sink was finished. One whose sink was dropped leaves nothing; [`CaptureStore::abort`] leaves
//! nothing of any.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::TryStreamExt as _;
use redkeep_core::Attribute;
use redkeep_core::attribute;
use redkeep_core::encoding::Compression;
use redkeep_core::identifier::{ArtifactName, AttemptId, ShardName};
use redkeep_core::layout::BackupFolder;
use redkeep_core::manifest::{ArtifactRecord, PartTableRecord};
use redkeep_core::method::{ArtifactStore, MethodError, RunEvents};
use redkeep_core::storage::{ReadStorage, WriteStorage};
use redkeep_core::stream::{Artifact, Sink, Source};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::digest;
use super::encode::{self, QUEUE, Tuning};
use super::entries::{Entries, Entry, Outcome, State, StoredArtifact, ended};
use super::error::PipelineError;
use super::failure::Failure;
use super::feed;
use super::keys::{Keys, Recipients};
use super::part_table;
use super::seal::{self, Sealed};
use super::sink::{ArtifactSink, HoldMeter};
use super::stored::StoredStore;
use super::upload::{Limiter, StoreProgress, UploadJob, store_small};

/// What encryption appends to an artifact's key.
const ENCRYPTED_SUFFIX: &str = ".age";
/// The type of an artifact whose plugin did not say.
const UNKNOWN_TYPE: &str = "unknown";

/// How the artifacts of one shard are written.
#[derive(Clone)]
pub struct CaptureOptions {
    /// Where to.
    pub storage: Arc<dyn WriteStorage>,
    /// The backup's folder in it.
    pub folder: BackupFolder,
    /// The attempt, which nobody else writes in.
    pub attempt: AttemptId,
    /// The shard, which no other store of the attempt writes in.
    pub shard: ShardName,
    /// Compression of every artifact.
    pub compression: Compression,
    /// To whom artifacts are encrypted; `None`: not at all.
    pub recipients: Option<Arc<Recipients>>,
    /// A folder that takes what storage cannot take fast enough: compressed and encrypted as it will be stored. With it a
    /// sink is finished, and the server free, as soon as everything is in the folder; [`CaptureStore::records`] waits for the uploads.
    pub spool: Option<PathBuf>,
    /// The most stored bytes a second, over all artifacts of this store. Applies to the storage side: with a spool it does not hold the server.
    pub limit_rate: Option<u64>,
    /// How long writes to the sinks of this store may be blocked by storage, in total. Only time counts in which a write waited
    /// while the queue in front of the storage was full: a slow compressor or plugin does not. Without meaning when there is a spool.
    pub hold_limit: Option<Duration>,
    /// Progress (phase `store`, unit `bytes`).
    pub events: Arc<dyn RunEvents>,
}

/// What a capture writes into. Needs a tokio runtime with time.
pub struct CaptureStore {
    options: CaptureOptions,
    tuning: Tuning,
    limiter: Option<Arc<Limiter>>,
    hold: Arc<HoldMeter>,
    progress: Arc<StoreProgress>,
    cancel: CancellationToken,
    entries: Entries,
}

impl CaptureStore {
    /// A store without artifacts.
    pub fn new(options: CaptureOptions) -> Arc<Self> {
        let tuning = Tuning::of(options.compression);
        Self::with_tuning(options, tuning)
    }

    pub(crate) fn with_tuning(options: CaptureOptions, tuning: Tuning) -> Arc<Self> {
        let limiter = options.limit_rate.map(|rate| Arc::new(Limiter::new(rate)));
        let hold = Arc::new(HoldMeter::new(options.hold_limit));
        let progress = Arc::new(StoreProgress { events: Arc::clone(&options.events), stored: AtomicU64::new(0) });
        Arc::new(Self {
            options,
            tuning,
            limiter,
            hold,
            progress,
            cancel: CancellationToken::new(),
            entries: Entries::default(),
        })
    }

    /// The records of all artifacts, in the order in which they were finished. Waits for uploads that run behind a spool.
    ///
    /// # Errors
    /// The first failure of any artifact, also of one that its plugin gave up after it; [`PipelineError::Unfinished`] while sinks are open.
    pub async fn records(&self) -> Result<Vec<ArtifactRecord>, PipelineError> {
        if self.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        {
            let entries = self.entries.lock();
            let open = entries.iter().filter(|entry| matches!(entry.state, State::Open));
            let names: Vec<String> = open.map(|entry| entry.name.to_string()).collect();
            if let Some(failure) = entries.iter().find_map(|entry| entry.failure.get()) {
                return Err(failure);
            }
            if !names.is_empty() {
                return Err(PipelineError::Unfinished { names });
            }
        }
        let mut records = Vec::new();
        for (artifact, failure, outcome) in self.entries.in_order() {
            let stored = ended(outcome, &failure).await?;
            records.push(self.record(&artifact, &stored)?);
        }
        Ok(records)
    }

    fn record(&self, artifact: &Artifact, stored: &StoredArtifact) -> Result<ArtifactRecord, PipelineError> {
        let internal = || PipelineError::Internal { stage: "record" };
        let first = stored.objects.first().ok_or_else(internal)?;
        let artifact_type = attribute::find(&artifact.attributes, "type").unwrap_or(UNKNOWN_TYPE);
        Ok(ArtifactRecord {
            shard: self.options.shard.clone(),
            name: artifact.name.parse().map_err(|_| internal())?,
            artifact_type: artifact_type.to_owned(),
            key: first.key.clone(),
            objects: if stored.objects.len() > 1 { stored.objects.clone() } else { Vec::new() },
            size: stored.sealed.plain.size,
            sha256: digest::to_hex(&stored.sealed.plain.sha256),
            stored_size: stored.sealed.size,
            stored_sha256: digest::to_hex(&stored.sealed.sha256),
            compression: self.options.compression,
            encrypted: self.options.recipients.is_some(),
            parts: stored.parts.clone(),
            attributes: attribute::to_map(&artifact.attributes),
        })
    }

    /// Stops everything, aborts open uploads and deletes every object of this attempt and shard. Best effort, and no error:
    /// what could not be deleted is garbage that `prune` removes. Afterwards nothing can be created.
    pub async fn abort(&self) {
        self.cancel.cancel();
        let outcomes: Vec<_> =
            self.entries.lock().iter().map(|entry| (entry.failure.clone(), entry.outcome.clone())).collect();
        for (failure, outcome) in outcomes {
            // What became of it does not matter any more, only that it has ended.
            let _ = ended(outcome, &failure).await;
        }
        let storage = &self.options.storage;
        let prefix = format!("{}{}/{}/", self.options.folder.prefix(), self.options.attempt, self.options.shard);
        match storage.unfinished_uploads(&prefix).await {
            Ok(uploads) => {
                for upload in uploads {
                    if let Err(error) = storage.abort_unfinished(&upload).await {
                        tracing::debug!(key = %upload.key, %error, "unable to abort an upload");
                    }
                }
            }
            Err(error) => tracing::debug!(%prefix, %error, "unable to list unfinished uploads"),
        }
        let keys: Result<Vec<String>, _> = storage.list(&prefix).map_ok(|object| object.key).try_collect().await;
        match keys {
            Ok(keys) if keys.is_empty() => {}
            Ok(keys) => {
                if let Err(error) = storage.delete(&keys).await {
                    tracing::debug!(%prefix, %error, "unable to delete the objects of an attempt");
                }
            }
            Err(error) => tracing::debug!(%prefix, %error, "unable to list the objects of an attempt"),
        }
    }

    /// Checks a name and keeps it from being used again. Cases are not told apart, as on some disks.
    fn take_name(&self, name: &str) -> Result<ArtifactName, PipelineError> {
        let invalid = |why: &str| PipelineError::InvalidName { name: name.to_owned(), why: why.to_owned() };
        let parsed: ArtifactName = name.parse().map_err(|error: redkeep_core::identifier::InvalidIdentifier| {
            PipelineError::InvalidName { name: name.to_owned(), why: error.rule.to_owned() }
        })?;
        let lower = name.to_ascii_lowercase();
        // Keys of part tables and of further objects are made from those of artifacts.
        if lower.ends_with(part_table::SUFFIX) || lower.contains(".object-") {
            return Err(invalid("names with `.parts.json` at their end or `.object-` in them are the format's own"));
        }
        let used: BTreeSet<String> =
            self.entries.lock().iter().map(|entry| entry.name.as_str().to_ascii_lowercase()).collect();
        if used.contains(&lower) { Err(invalid("it was used before")) } else { Ok(parsed) }
    }

    async fn begin(&self, name: &str, attributes: Vec<Attribute>) -> Result<ArtifactSink, PipelineError> {
        if self.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let encrypted = self.options.recipients.is_some();
        if !encrypted && attribute::find(&attributes, "secret") == Some("yes") {
            return Err(PipelineError::SecretInClear { artifact: name.to_owned() });
        }
        let parsed = self.take_name(name)?;
        let suffix = format!("{}{}", self.options.compression.suffix(), if encrypted { ENCRYPTED_SUFFIX } else { "" });
        let key = self.options.folder.artifact(&self.options.attempt, &self.options.shard, &parsed, &suffix);
        let (feed_sender, feed_receiver, observer) = match &self.options.spool {
            None => {
                let (sender, receiver, observer) = feed::queue();
                (sender, receiver, Some(observer))
            }
            Some(directory) => {
                let (sender, receiver) = feed::spool(name, directory, self.tuning.chunk)?;
                (sender, receiver, None)
            }
        };
        let upload = self
            .options
            .storage
            .create(&key)
            .await
            .map_err(|source| PipelineError::Store { artifact: name.to_owned(), source })?;

        let failure = Failure::default();
        let cancel = self.cancel.child_token();
        let (input, plain) = mpsc::channel(QUEUE);
        let (frames_in, frames_out) = mpsc::channel(self.tuning.workers);
        let (sealed_in, sealed_out) = oneshot::channel();
        let (outcome_in, outcome) = watch::channel(Outcome::Running);
        {
            // Name and entry are taken together, so that of two calls with one name only one goes on.
            self.take_name(name)?;
            let entry = Entry { name: parsed, state: State::Open, failure: failure.clone(), outcome: outcome.clone() };
            self.entries.lock().push(entry);
        }
        let runtime = tokio::runtime::Handle::current();
        let artifact = name.to_owned();
        let compression = self.options.compression;
        let tuning = self.tuning;
        let encode_failure = failure.clone();
        let encode_runtime = runtime.clone();
        runtime.spawn_blocking(move || {
            encode::encode(&artifact, compression, tuning, plain, frames_in, &encode_runtime, &encode_failure);
        });
        let artifact = name.to_owned();
        let recipients = self.options.recipients.clone();
        let seal_failure = failure.clone();
        let sealing = runtime.spawn_blocking(move || {
            let sealed = seal::seal(&artifact, recipients.as_deref(), tuning, frames_out, feed_sender, &seal_failure);
            if let Some(sealed) = &sealed {
                let _ = sealed_in.send(sealed.plain);
            }
            sealed
        });
        let job = UploadJob {
            storage: Arc::clone(&self.options.storage),
            artifact: name.to_owned(),
            key,
            current: Some(upload),
            feed: Some(feed_receiver),
            largest_part: self.tuning.largest_part(),
            limiter: self.limiter.clone(),
            progress: Arc::clone(&self.progress),
            cancel: cancel.clone(),
            failure: failure.clone(),
        };
        runtime.spawn(async move {
            let stored = store(job, sealing).await;
            let _ = outcome_in.send(stored.map_or(Outcome::GivenUp, |stored| Outcome::Stored(Arc::new(stored))));
        });
        Ok(ArtifactSink {
            name: name.to_owned(),
            attributes,
            encrypted,
            input: Some(input),
            pending: BytesMut::new(),
            chunk: self.tuning.chunk,
            observer,
            hold: Arc::clone(&self.hold),
            sealed: Some(sealed_out),
            outcome,
            failure,
            cancel,
            entries: self.entries.clone(),
            finished: false,
        })
    }
}

/// Stores everything of one artifact: objects, then the part table. `None`: nothing stays.
async fn store(job: UploadJob, sealing: tokio::task::JoinHandle<Option<Sealed>>) -> Option<StoredArtifact> {
    let (storage, artifact, key) = (Arc::clone(&job.storage), job.artifact.clone(), job.key.clone());
    let (cancel, failure) = (job.cancel.clone(), job.failure.clone());
    let objects = job.run().await;
    let sealed = sealing.await.unwrap_or_else(|_| {
        failure.set(PipelineError::Internal { stage: "seal" });
        None
    });
    let (objects, sealed) = (objects?, sealed?);
    if sealed.parts.len() < 2 && objects.len() < 2 {
        return Some(StoredArtifact { sealed, objects, parts: None });
    }
    let table_key = format!("{key}{}", part_table::SUFFIX);
    let bytes = part_table::to_bytes(&sealed.parts);
    let parts = PartTableRecord {
        key: table_key.clone(),
        size: bytes.len() as u64,
        sha256: digest::to_hex(&digest::finish(Sha256::new().chain_update(&bytes))),
        count: sealed.parts.len() as u64,
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        result = store_small(&storage, &table_key, bytes, redkeep_core::stream::CHUNK) => Some(result),
    };
    match result {
        Some(Ok(())) => return Some(StoredArtifact { sealed, objects, parts: Some(parts) }),
        Some(Err(source)) => failure.set(PipelineError::Store { artifact, source }),
        None => {}
    }
    let mut keys: Vec<String> = objects.into_iter().map(|object| object.key).collect();
    keys.push(table_key);
    if let Err(error) = storage.delete(&keys).await {
        tracing::debug!(%key, %error, "unable to delete the objects of an artifact given up");
    }
    None
}

#[async_trait]
impl ArtifactStore for CaptureStore {
    async fn create(&self, name: &str, attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Ok(Box::new(self.begin(name, attributes).await?))
    }

    /// Of a finished artifact that is not encrypted (the keys that open it are not here).
    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError> {
        if self.options.recipients.is_some() {
            let what = format!("{name} was written encrypted and cannot be read back in the same run");
            return Err(PipelineError::NotSupported { what }.into());
        }
        let mut records = Vec::new();
        for (artifact, failure, outcome) in self.entries.in_order() {
            if artifact.name == name {
                let stored = ended(outcome, &failure).await?;
                records.push(self.record(&artifact, &stored)?);
            }
        }
        let storage: Arc<dyn ReadStorage> = Arc::clone(&self.options.storage) as Arc<dyn ReadStorage>;
        let events = Arc::clone(&self.options.events);
        StoredStore::new(storage, records, Vec::new(), Arc::new(Keys::none()), events).open(name).await
    }

    async fn list(&self) -> Result<Vec<Artifact>, MethodError> {
        Ok(self.entries.in_order().into_iter().map(|(artifact, ..)| artifact).collect())
    }

    async fn facts(&self) -> Result<Vec<Attribute>, MethodError> {
        Ok(Vec::new())
    }
}
