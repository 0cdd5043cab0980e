//! Backup: plan every shard, capture every shard, commit by the manifest (DESIGN 3 and D4). All shards or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use redkeep_core::attribute::{find, to_map};
use redkeep_core::catalog::{BackupRef, backup_id_of};
use redkeep_core::classify::chain;
use redkeep_core::facts::aggregate;
use redkeep_core::identifier::{AttemptId, BackupId, ClusterName, InvalidIdentifier, ShardName};
use redkeep_core::manifest::{
    ArtifactRecord, EncryptionRecord, FORMAT_VERSION, Manifest, MethodRecord, ShardRecord, SourceRecord,
};
use redkeep_core::method::{ArtifactStore, LogLevel, Method, MethodError, Run, code};
use redkeep_core::provider::{DataSource, Providers, SourceShard};
use redkeep_core::storage::{PutOutcome, StorageError, StorageErrorKind, WriteStorage};
use redkeep_core::stream::{Artifact, Sink, Source};
use redkeep_core::task::BackupTask;
use redkeep_core::{Attribute, Class, Classify};

use crate::attempt::Attempt;
use crate::cancel;
use crate::clock::Clocks;
use crate::error::EngineError;
use crate::events::{ShardEvents, TaskEvents, Warnings};
use crate::kept_plugin;
use crate::object;
use crate::opened;
use crate::pipeline::{CaptureOptions, CaptureStore, PipelineError, Recipients, check_sizes};
use crate::spool;

/// Shards captured at the same time: each has a plugin and a pipeline of its own, and together they must stay below 96 MiB.
const SHARDS_AT_ONCE: usize = 2;
/// Objects looked at at the same time before the commit.
const CHECKS_AT_ONCE: usize = 16;
/// Length of the random part of a backup's id.
const UID_LENGTH: usize = 5;
/// Length of an attempt's id: attempts of one backup must never meet.
pub(crate) const ATTEMPT_LENGTH: usize = 12;
/// What stands in a manifest as its maker.
pub(crate) const TOOL: &str = concat!("redkeep ", env!("CARGO_PKG_VERSION"));

/// How a backup ended.
#[derive(Clone, Debug)]
pub struct BackupOutcome {
    /// What there is now.
    pub result: BackupResult,
    /// Address of the manifest, as a user would write it; where it would be, after a dry run.
    pub address: String,
    /// What was noticed, the oldest first. A committed manifest has those of the capture as well.
    pub warnings: Vec<String>,
}

/// What a backup led to.
#[derive(Clone, Debug)]
pub enum BackupResult {
    /// It is stored.
    Committed(Box<Manifest>),
    /// The id was given and its backup was there already, from an earlier or a faster attempt: this is that one's manifest.
    Existing(Box<Manifest>),
    /// `--dry-run`: what each shard's method would do. Nothing was written.
    Planned(Vec<ShardPlan>),
}

impl BackupResult {
    /// The manifest, unless it was a dry run.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Committed(manifest) | Self::Existing(manifest) => Some(manifest),
            Self::Planned(_) => None,
        }
    }
}

/// What a method would do with one shard.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardPlan {
    /// The shard.
    pub shard: String,
    /// The node that would be read.
    pub node: String,
    /// What the method says.
    pub attributes: Vec<Attribute>,
}

/// Backs up. See [`TaskEvents::cancellation`] for how to stop it.
///
/// # Errors
/// Every failure leaves no manifest, and the attempt's uploads and objects are taken back (best effort; what cannot be is
/// garbage for `prune`). The exception is `CommitUnclear`: then the backup is there whole, or not at all.
pub async fn backup(
    task: &BackupTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<BackupOutcome, EngineError> {
    let token = events.cancellation();
    let warnings = Arc::new(Warnings::default());
    let prepared = cancel::until(&token, prepare(task, providers, events, &warnings)).await?;
    let prepared = match prepared {
        Preparation::Ready(prepared) => prepared,
        Preparation::Ended(outcome) => return Ok(outcome),
    };
    let attempt_prefix = format!("{}{}/", prepared.backup.folder().prefix(), prepared.attempt);
    let attempt = Attempt::new(Arc::clone(&prepared.storage), attempt_prefix);
    let work = async {
        // Before the manifest names it, and before an hour of capturing if it cannot be.
        kept_plugin::keep(&prepared.storage, providers, &prepared.method).await?;
        let captured = capture(task, &prepared, &attempt, events, &warnings).await?;
        prepared.source.check_topology().await.map_err(|source| EngineError::TopologyChanged { source })?;
        // Last, so that the commit follows at once.
        check_artifacts(&prepared, &captured).await?;
        Ok(captured)
    };
    let captured = cancel::until(&token, work).await;
    let result = match captured {
        // The commit is not interrupted: either it is done or it is known not to be.
        Ok(shards) => commit(task, providers, &prepared, &attempt, shards, events, &warnings).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(result) => Ok(BackupOutcome { result, address: prepared.address(), warnings: warnings.lines() }),
        Err(error) => {
            if !matches!(error, EngineError::CommitUnclear { .. }) {
                take_back(&attempt, events).await;
            }
            attempt.keep();
            Err(error)
        }
    }
}

pub(crate) async fn take_back(attempt: &Attempt, events: &Arc<dyn TaskEvents>) {
    events.stage("clean", "taking back what was written");
    for failure in attempt.take_back().await {
        events.log(LogLevel::Warn, &failure, &[]);
    }
}

/// Everything that a capture needs, checked.
pub(crate) struct Prepared {
    pub(crate) storage: Arc<dyn WriteStorage>,
    pub(crate) source: Arc<dyn DataSource>,
    pub(crate) method: Arc<dyn Method>,
    pub(crate) backup: BackupRef,
    pub(crate) name: String,
    pub(crate) attempt: AttemptId,
    pub(crate) started: Timestamp,
    shards: Vec<ShardName>,
    parameters: String,
    recipients: Option<Arc<Recipients>>,
    pub(crate) encryption: Option<EncryptionRecord>,
}

impl Prepared {
    fn address(&self) -> String {
        self.storage.address_of(&self.backup.folder().manifest())
    }

    /// What a call of the method on one shard is given.
    fn run(&self, shard: &SourceShard, artifacts: Arc<dyn ArtifactStore>, events: Arc<ShardEvents>) -> Run {
        let base = opened::context("capture", self.backup.backup_id.as_str(), &shard.name, self.shards.len());
        let mode = [Attribute::new("mode", self.source.mode())];
        // What the run is about cannot be overruled by what a server says of itself.
        let mut context = redkeep_core::attribute::merge(&mode, &shard.facts);
        context = redkeep_core::attribute::merge(&context, &base);
        Run {
            context,
            parameters: self.parameters.clone(),
            events,
            artifacts,
            redis: shard.redis.clone(),
            files: shard.files.clone(),
            socket: shard.socket.clone(),
        }
    }
}

pub(crate) enum Preparation {
    Ready(Box<Prepared>),
    Ended(BackupOutcome),
}

/// Resolves everything and lets every shard's method plan, so that a refusal comes before the first byte moves.
pub(crate) async fn prepare(
    task: &BackupTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<Preparation, EngineError> {
    events.stage("plan", "resolving source, method and storage");
    spool::check(task).await?;
    let recipients = recipients(task, providers).await?;
    let method = providers.method(&task.method).await?;
    let parameters = serde_json::Value::Object(task.parameters.clone()).to_string();
    let name = &method.info().name;
    method
        .validate(&parameters)
        .await
        .map_err(EngineError::method(format!("accept the parameters of the method {name}")))?;
    let storage = providers.storage(&task.storage).await?;
    let source = providers.source(&task.source).await?;
    let started = providers.now();
    let (backup, backup_name) = identify(task, providers, source.as_ref(), started)?;
    let attempt = providers.random_token(ATTEMPT_LENGTH).parse()?;
    let shards = source.shards().iter().map(|shard| shard.name.parse()).collect::<Result<Vec<ShardName>, _>>()?;
    let prepared = Prepared {
        storage,
        source,
        method,
        backup,
        name: backup_name,
        attempt,
        started,
        shards,
        parameters,
        encryption: recipients.as_ref().map(|recipients| recipients.record()),
        recipients,
    };
    // Reading proves address and credentials before the server is asked for anything, and finds an earlier attempt's backup.
    if let Some(manifest) = existing(&prepared).await? {
        let outcome = BackupOutcome {
            result: BackupResult::Existing(Box::new(manifest)),
            address: prepared.address(),
            warnings: warnings.lines(),
        };
        return Ok(Preparation::Ended(outcome));
    }
    check_capabilities(&prepared)?;
    let mut plans = Vec::new();
    let mut clocks = Clocks::default();
    for shard in prepared.source.shards() {
        shard.warnings.iter().for_each(|warning| warnings.note(events, warning));
        if let Some(redis) = &shard.redis
            && let Some(warning) = clocks.warning(providers, &shard.node, redis.as_ref()).await
        {
            warnings.note(events, &warning);
        }
        let run = prepared.run(shard, Arc::new(NoArtifacts), ShardEvents::new(&shard.name, events, warnings));
        let act = format!("plan the backup of shard {} with the method {}", shard.name, prepared.method.info().name);
        let attributes = prepared.method.plan(run).await.map_err(EngineError::method(act))?;
        refuse_secrets_in_clear(&prepared, shard, &attributes)?;
        plans.push(ShardPlan { shard: shard.name.clone(), node: shard.node.clone(), attributes });
    }
    if task.dry_run {
        let outcome = BackupOutcome {
            result: BackupResult::Planned(plans),
            address: prepared.address(),
            warnings: warnings.lines(),
        };
        return Ok(Preparation::Ended(outcome));
    }
    Ok(Preparation::Ready(Box::new(prepared)))
}

/// A plan that announces an artifact with secrets is refused where nothing would encrypt it: the capture would be, at its end.
fn refuse_secrets_in_clear(prepared: &Prepared, shard: &SourceShard, plan: &[Attribute]) -> Result<(), EngineError> {
    match find(plan, "secret-artifact") {
        Some(artifact) if prepared.recipients.is_none() => {
            let error = PipelineError::SecretInClear { artifact: artifact.to_owned() };
            Err(EngineError::pipeline(format!("plan the backup of shard {}", shard.name))(error))
        }
        _ => Ok(()),
    }
}

async fn recipients(task: &BackupTask, providers: &Arc<dyn Providers>) -> Result<Option<Arc<Recipients>>, EngineError> {
    let passphrase = match &task.encryption.passphrase {
        Some(place) => Some(providers.secret(place).await?),
        None => None,
    };
    let recipients = Recipients::parse(&task.encryption.recipients, passphrase.as_ref())
        .map_err(EngineError::pipeline("set up the encryption"))?;
    Ok(recipients.map(Arc::new))
}

/// The backup's place and its name.
fn identify(
    task: &BackupTask,
    providers: &Arc<dyn Providers>,
    source: &dyn DataSource,
    started: Timestamp,
) -> Result<(BackupRef, String), EngineError> {
    let cluster = task.cluster.clone().unwrap_or_else(|| {
        let address = source.address();
        ClusterName::from_address(address.split_once("://").map_or(address.as_str(), |(_, rest)| rest))
    });
    let name = task.name.clone().unwrap_or_else(|| cluster.to_string());
    let backup_id = match &task.backup_id {
        Some(id) => id.clone(),
        None => BackupId::new(started, &name, &providers.random_token(UID_LENGTH))?,
    };
    if backup_id_of(backup_id.as_str()).is_none() {
        // A folder that is not recognised later would be a backup that nobody finds.
        let rule = "it must be like 20261121T091348Z-name-x7k2p";
        return Err(InvalidIdentifier { given: backup_id.to_string(), what: "backup id", rule }.into());
    }
    Ok((BackupRef { namespace: task.namespace.clone(), cluster, backup_id }, name))
}

/// The manifest that is there already, if any.
async fn existing(prepared: &Prepared) -> Result<Option<Manifest>, EngineError> {
    match prepared.storage.head(&prepared.backup.folder().manifest()).await {
        Ok(_) => opened::manifest(prepared.storage.as_ref(), &prepared.backup).await.map(Some),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::storage("reach the storage")(error)),
    }
}

/// What the method cannot do without must be there; finer checks are the plugin host's.
fn check_capabilities(prepared: &Prepared) -> Result<(), EngineError> {
    let info = prepared.method.info();
    for shard in prepared.source.shards() {
        for request in &info.requests {
            let needed = match request.split(':').next() {
                Some("redis") if shard.redis.is_none() => "a server connection",
                Some("files") if shard.files.is_none() => "a data directory",
                Some("socket") if shard.socket.is_none() => "an address of another system (tcp:// or tls://)",
                // A request that begins with `?` is one that the method can do without.
                _ => continue,
            };
            let (method, address) = (info.name.clone(), prepared.source.address());
            return Err(EngineError::CapabilityMissing { method, needed, address });
        }
    }
    Ok(())
}

/// What was captured of one shard.
pub(crate) struct CapturedShard {
    pub(crate) record: ShardRecord,
    pub(crate) artifacts: Vec<ArtifactRecord>,
}

/// Captures every shard; the first failure stops the others.
async fn capture(
    task: &BackupTask,
    prepared: &Prepared,
    attempt: &Attempt,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<Vec<CapturedShard>, EngineError> {
    events.stage("capture", &format!("{} shard(s) of {}", prepared.shards.len(), prepared.source.address()));
    let shards = prepared.source.shards().iter().zip(&prepared.shards);
    let mut captured: Vec<(usize, CapturedShard)> = stream::iter(shards.enumerate())
        .map(|(index, (shard, name))| async move {
            capture_shard(task, prepared, attempt, shard, name, events, warnings).await.map(|shard| (index, shard))
        })
        .buffer_unordered(SHARDS_AT_ONCE)
        .try_collect()
        .await?;
    captured.sort_by_key(|(index, _)| *index);
    Ok(captured.into_iter().map(|(_, shard)| shard).collect())
}

pub(crate) async fn capture_shard(
    task: &BackupTask,
    prepared: &Prepared,
    attempt: &Attempt,
    shard: &SourceShard,
    name: &ShardName,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<CapturedShard, EngineError> {
    let shard_events = ShardEvents::new(&shard.name, events, warnings);
    let store = CaptureStore::new(CaptureOptions {
        storage: Arc::clone(&prepared.storage),
        folder: prepared.backup.folder(),
        attempt: prepared.attempt.clone(),
        shard: name.clone(),
        compression: task.compression,
        recipients: prepared.recipients.clone(),
        spool: task.spool.clone(),
        limit_rate: task.limit_rate,
        hold_limit: task.hold_limit_seconds.map(Duration::from_secs),
        events: shard_events.clone(),
    });
    attempt.add(&store);
    let method = &prepared.method.info().name;
    let act = format!("capture shard {name} with the method {method}");
    let run = prepared.run(shard, store.clone(), shard_events);
    let reported = prepared.method.capture(run).await.map_err(EngineError::method(&act))?;
    let artifacts = store.records().await.map_err(EngineError::pipeline(&act))?;
    if artifacts.is_empty() {
        return Err(EngineError::NothingCaptured { method: method.clone(), shard: shard.name.clone() });
    }
    let mut facts = to_map(&reported);
    // What the host knows of the server and the method did not say.
    for key in ["node-role", "server-name", "server-version"] {
        if let Some(value) = find(&shard.facts, key) {
            facts.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    let record = ShardRecord { name: name.clone(), node: shard.node.clone(), slots: shard.slots.clone(), facts };
    Ok(CapturedShard { record, artifacts })
}

/// Every object is still there with its size. A `prune` whose grace period is shorter than the run, or whose clock is ahead,
/// may have deleted it, and a manifest without its artifacts is the one thing that must never be.
pub(crate) async fn check_artifacts(prepared: &Prepared, captured: &[CapturedShard]) -> Result<(), EngineError> {
    stream::iter(captured.iter().flat_map(|shard| &shard.artifacts))
        .map(|artifact| check_artifact(prepared.storage.as_ref(), artifact))
        .buffer_unordered(CHECKS_AT_ONCE)
        .try_collect()
        .await
}

/// The same for one artifact.
pub(crate) async fn check_artifact(storage: &dyn WriteStorage, artifact: &ArtifactRecord) -> Result<(), EngineError> {
    let (name, shard) = (&artifact.name, &artifact.shard);
    check_sizes(storage, artifact).await.map_err(|error| match error.class() {
        Class::Damaged => {
            EngineError::ArtifactGone { artifact: name.to_string(), shard: shard.to_string(), source: Box::new(error) }
        }
        _ => EngineError::pipeline(format!("look whether {name} of shard {shard} is still there"))(error),
    })
}

/// Refuses what is longer than [`opened::manifest`] and [`crate::parts`] read.
pub(crate) fn check_length(bytes: &[u8]) -> Result<(), EngineError> {
    if bytes.len() as u64 > object::MAX_MANIFEST {
        let why = format!("it has {} bytes, {} are the most", bytes.len(), object::MAX_MANIFEST);
        return Err(EngineError::ManifestUnreadable { why });
    }
    Ok(())
}

/// The bytes of a manifest, which can be read back: with one that cannot, the backup would be there and be lost.
pub(crate) fn readable(manifest: &Manifest, address: &str) -> Result<Bytes, EngineError> {
    let bytes = manifest.to_bytes();
    check_length(&bytes)?;
    Manifest::parse(address, &bytes).map_err(|error| EngineError::ManifestUnreadable { why: chain(&error) })?;
    Ok(bytes.into())
}

/// Writes the manifest, last.
async fn commit(
    task: &BackupTask,
    providers: &Arc<dyn Providers>,
    prepared: &Prepared,
    attempt: &Attempt,
    captured: Vec<CapturedShard>,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<BackupResult, EngineError> {
    events.stage("commit", prepared.backup.backup_id.as_str());
    let manifest = build(task, providers.now(), prepared, captured, warnings.lines());
    let bytes = readable(&manifest, &prepared.address())?;
    let folder = prepared.backup.folder();
    if task.pin {
        // Before the manifest, so that no retention can come between.
        put_pin(prepared.storage.as_ref(), &prepared.backup, providers.now()).await?;
    }
    // From here on the manifest may be there: the artifacts go only where it is known not to be, never by a drop.
    attempt.keep();
    let put = prepared.storage.put_if_absent(&folder.manifest(), bytes).await;
    let error = match put {
        Ok(PutOutcome::Created) => return Ok(BackupResult::Committed(Box::new(manifest))),
        Ok(PutOutcome::Exists) => return someone_else_won(task, prepared, attempt, events).await,
        Err(error) => error,
    };
    settle(&prepared.storage, &prepared.backup, manifest, error).await
}

/// The pin of a backup.
pub(crate) async fn put_pin(storage: &dyn WriteStorage, backup: &BackupRef, now: Timestamp) -> Result<(), EngineError> {
    let pin = serde_json::json!({ "pinnedAt": now.to_string(), "tool": TOOL });
    storage
        .put(&backup.folder().pin(), format!("{pin:#}\n").into())
        .await
        .map_err(EngineError::storage(format!("pin the backup {}", backup.backup_id)))
}

/// The manifest's folder had one: a faster attempt's, where the caller chose the id.
async fn someone_else_won(
    task: &BackupTask,
    prepared: &Prepared,
    attempt: &Attempt,
    events: &Arc<dyn TaskEvents>,
) -> Result<BackupResult, EngineError> {
    let read = opened::manifest(prepared.storage.as_ref(), &prepared.backup).await;
    let manifest = read.map_err(|error| {
        // Whose it is stays open: it may be ours.
        let source = match error {
            EngineError::Storage { source, .. } => source,
            error => StorageError::new(StorageErrorKind::Damaged, error.chain()),
        };
        EngineError::CommitUnclear { manifest: prepared.address(), source }
    })?;
    if manifest.attempt == prepared.attempt {
        // Ours after all: an earlier try of the same request that was thought lost.
        return Ok(BackupResult::Committed(Box::new(manifest)));
    }
    if task.backup_id.is_none() {
        return Err(EngineError::Conflict { backup_id: prepared.backup.backup_id.clone() });
    }
    take_back(attempt, events).await;
    Ok(BackupResult::Existing(Box::new(manifest)))
}

/// The commit failed. Only where the storage plainly said no are the artifacts taken back: a request that was cut off may
/// still take effect, and a manifest without its artifacts is the one thing that must never be.
pub(crate) async fn settle(
    storage: &Arc<dyn WriteStorage>,
    backup: &BackupRef,
    manifest: Manifest,
    error: StorageError,
) -> Result<BackupResult, EngineError> {
    let said_no = matches!(
        error.kind,
        StorageErrorKind::Denied | StorageErrorKind::Full | StorageErrorKind::Invalid | StorageErrorKind::Unsupported
    );
    match opened::manifest(storage.as_ref(), backup).await {
        Ok(found) if found.attempt == manifest.attempt => Ok(BackupResult::Committed(Box::new(manifest))),
        Err(EngineError::Storage { source, .. }) if said_no && source.kind == StorageErrorKind::NotFound => {
            Err(EngineError::storage("store the manifest")(error))
        }
        _ => {
            let manifest = storage.address_of(&backup.folder().manifest());
            Err(EngineError::CommitUnclear { manifest, source: error })
        }
    }
}

/// The method, as a manifest names it.
pub(crate) fn method_record(prepared: &Prepared) -> MethodRecord {
    let info = prepared.method.info();
    MethodRecord { name: info.name.clone(), version: info.version.clone(), digest: prepared.method.digest().to_owned() }
}

fn build(
    task: &BackupTask,
    now: Timestamp,
    prepared: &Prepared,
    captured: Vec<CapturedShard>,
    warnings: Vec<String>,
) -> Manifest {
    let shard_facts: Vec<BTreeMap<String, String>> = captured.iter().map(|shard| shard.record.facts.clone()).collect();
    let (shards, artifacts): (Vec<ShardRecord>, Vec<Vec<ArtifactRecord>>) =
        captured.into_iter().map(|shard| (shard.record, shard.artifacts)).unzip();
    Manifest {
        format_version: FORMAT_VERSION,
        backup_id: prepared.backup.backup_id.clone(),
        name: prepared.name.clone(),
        namespace: prepared.backup.namespace.clone(),
        cluster: prepared.backup.cluster.clone(),
        origin: task.origin.clone(),
        attempt: prepared.attempt.clone(),
        started_at: prepared.started,
        completed_at: now,
        tool_version: TOOL.to_owned(),
        method: method_record(prepared),
        parameters: serde_json::Value::Object(task.parameters.clone()),
        source: SourceRecord { address: prepared.source.address(), mode: prepared.source.mode().to_owned() },
        shards,
        artifacts: artifacts.into_iter().flatten().collect(),
        facts: aggregate(&shard_facts),
        encryption: prepared.encryption.clone(),
        warnings,
        parent: None,
        consistency: None,
    }
}

/// What a plan sees: no artifacts yet, and none can be made.
struct NoArtifacts;

#[async_trait::async_trait]
impl ArtifactStore for NoArtifacts {
    async fn create(&self, _name: &str, _attributes: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "a plan writes no artifacts"))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn Source>, MethodError> {
        Err(MethodError::new(code::NOT_FOUND, format!("there is no artifact `{name}` yet")))
    }

    async fn list(&self) -> Result<Vec<Artifact>, MethodError> {
        Ok(Vec::new())
    }

    async fn facts(&self) -> Result<Vec<Attribute>, MethodError> {
        Ok(Vec::new())
    }
}
