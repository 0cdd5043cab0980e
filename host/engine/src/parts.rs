//! A backup in parts: each shard captured by a task of its own, where its files are; then one that commits them all.
//!
//! A capture writes its artifacts, and beside them what it knows of them, under an attempt of its own; nothing of it counts
//! before the commit, which sees that every object is there and writes the manifest, last and only if there is none. A part
//! that is never committed is garbage for `prune`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use redkeep_core::catalog::{BackupRef, stays_in_its_folder};
use redkeep_core::facts::aggregate;
use redkeep_core::identifier::{AttemptId, BackupId, ClusterName, Namespace, ShardName};
use redkeep_core::layout::BackupFolder;
use redkeep_core::manifest::{
    ArtifactRecord, EncryptionRecord, FORMAT_VERSION, Manifest, MethodRecord, ShardRecord, SourceRecord,
};
use redkeep_core::provider::Providers;
use redkeep_core::storage::{PutOutcome, StorageErrorKind, WriteStorage};
use redkeep_core::task::{BackupTask, CaptureTask, CommitTask};
use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;
use crate::backup::{
    ATTEMPT_LENGTH, BackupOutcome, BackupResult, CapturedShard, Preparation, Prepared, TOOL, capture_shard,
    check_artifacts, check_length, method_record, prepare, put_pin, readable, settle, take_back,
};
use crate::cancel;
use crate::error::EngineError;
use crate::events::{TaskEvents, Warnings};
use crate::kept_plugin;
use crate::object;
use crate::opened;

/// The name of a part beside its artifacts.
const PART: &str = "part.json";

/// One captured shard, as it waits for its commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    format_version: u32,
    backup_id: BackupId,
    namespace: Namespace,
    cluster: ClusterName,
    name: String,
    origin: String,
    started_at: Timestamp,
    method: MethodRecord,
    #[serde(default)]
    parameters: serde_json::Value,
    source: SourceRecord,
    shard: ShardRecord,
    artifacts: Vec<ArtifactRecord>,
    #[serde(default)]
    encryption: Option<EncryptionRecord>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// What a capture led to.
#[derive(Clone, Debug)]
pub enum CaptureOutcome {
    /// The shard is stored under this attempt, and waits for the commit.
    Captured {
        /// The attempt.
        attempt: AttemptId,
        /// What is known of the shard.
        shard: Box<ShardRecord>,
        /// Its plain bytes.
        size: u64,
        /// Its stored bytes.
        stored_size: u64,
        /// What was noticed.
        warnings: Vec<String>,
    },
    /// There is nothing to capture any more: the backup is there, or this was a dry run.
    Ended(BackupOutcome),
}

fn part_key(folder: &BackupFolder, attempt: &AttemptId, shard: &ShardName) -> String {
    format!("{}{attempt}/{shard}/{PART}", folder.prefix())
}

/// The backup that the parts are of: all must name the same one.
fn backup_of(task: &BackupTask) -> Result<BackupRef, EngineError> {
    let (Some(cluster), Some(backup_id)) = (&task.cluster, &task.backup_id) else {
        return Err(EngineError::PartUnnamed);
    };
    Ok(BackupRef { namespace: task.namespace.clone(), cluster: cluster.clone(), backup_id: backup_id.clone() })
}

/// Captures one shard. The source must be that shard alone.
///
/// # Errors
/// Every failure takes back what was written.
pub async fn capture(
    task: &CaptureTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<CaptureOutcome, EngineError> {
    backup_of(&task.backup)?;
    let token = events.cancellation();
    let warnings = Arc::new(Warnings::default());
    let prepared = match cancel::until(&token, prepare(&task.backup, providers, events, &warnings)).await? {
        Preparation::Ready(prepared) => prepared,
        Preparation::Ended(outcome) => return Ok(CaptureOutcome::Ended(outcome)),
    };
    let attempt = Attempt::new(
        Arc::clone(&prepared.storage),
        format!("{}{}/", prepared.backup.folder().prefix(), prepared.attempt),
    );
    let work = async {
        kept_plugin::keep(&prepared.storage, providers, &prepared.method).await?;
        capture_part(task, &prepared, &attempt, events, &warnings).await
    };
    match cancel::until(&token, work).await {
        Ok((shard, size, stored_size)) => {
            attempt.keep();
            let (attempt, shard) = (prepared.attempt.clone(), Box::new(shard));
            Ok(CaptureOutcome::Captured { attempt, shard, size, stored_size, warnings: warnings.lines() })
        }
        Err(error) => {
            take_back(&attempt, events).await;
            attempt.keep();
            Err(error)
        }
    }
}

async fn capture_part(
    task: &CaptureTask,
    prepared: &Prepared,
    attempt: &Attempt,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<(ShardRecord, u64, u64), EngineError> {
    let [source] = prepared.source.shards() else {
        return Err(EngineError::PartOfMany { shards: prepared.source.shards().len() });
    };
    let mut source = source.clone();
    source.name = task.shard.to_string();
    if !task.slots.is_empty() {
        source.slots.clone_from(&task.slots);
    }
    events.stage("capture", &format!("shard {} of {}", task.shard, prepared.source.address()));
    let captured = capture_shard(&task.backup, prepared, attempt, &source, &task.shard, events, warnings).await?;
    check_artifacts(prepared, std::slice::from_ref(&captured)).await?;
    let CapturedShard { record, artifacts } = captured;
    let size = artifacts.iter().fold(0_u64, |sum, artifact| sum.saturating_add(artifact.size));
    let stored_size = artifacts.iter().fold(0_u64, |sum, artifact| sum.saturating_add(artifact.stored_size));
    let part = Part {
        format_version: FORMAT_VERSION,
        backup_id: prepared.backup.backup_id.clone(),
        namespace: prepared.backup.namespace.clone(),
        cluster: prepared.backup.cluster.clone(),
        name: prepared.name.clone(),
        origin: task.backup.origin.clone(),
        started_at: prepared.started,
        method: method_record(prepared),
        parameters: serde_json::Value::Object(task.backup.parameters.clone()),
        source: SourceRecord { address: prepared.source.address(), mode: prepared.source.mode().to_owned() },
        shard: record.clone(),
        artifacts,
        encryption: prepared.encryption.clone(),
        warnings: warnings.lines(),
    };
    // A struct of strings, numbers and maps always serializes.
    let bytes = serde_json::to_vec_pretty(&part).unwrap_or_default();
    check_length(&bytes)?;
    let key = part_key(&prepared.backup.folder(), &prepared.attempt, &task.shard);
    let stored = prepared.storage.put(&key, bytes.into()).await;
    stored.map_err(EngineError::storage(format!("store what is known of shard {}", task.shard)))?;
    Ok((record, size, stored_size))
}

/// Commits parts: all of them or nothing.
///
/// # Errors
/// As a backup's commit. The parts stay, so that the commit can be tried again.
pub async fn commit(
    task: &CommitTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<BackupOutcome, EngineError> {
    let backup = backup_of(&task.backup)?;
    let token = events.cancellation();
    let storage = providers.storage(&task.backup.storage).await?;
    let address = storage.address_of(&backup.folder().manifest());
    let gathered = cancel::until(&token, gather(task, &backup, &storage, events)).await?;
    let (first, rest) = match gathered {
        Gathered::Parts(first, rest) => (*first, rest),
        Gathered::Existing(manifest) => {
            let warnings = manifest.warnings.clone();
            return Ok(BackupOutcome { result: BackupResult::Existing(manifest), address, warnings });
        }
    };
    events.stage("commit", backup.backup_id.as_str());
    let attempt = providers.random_token(ATTEMPT_LENGTH).parse()?;
    let manifest = build(first, rest, attempt, providers.now());
    let warnings = manifest.warnings.clone();
    if !stays_in_its_folder(&manifest, &backup.folder()) {
        return Err(EngineError::Damaged { object: address, what: "its parts name objects of others".to_owned() });
    }
    let bytes = readable(&manifest, &address)?;
    if task.backup.pin {
        put_pin(storage.as_ref(), &backup, providers.now()).await?;
    }
    let put = storage.put_if_absent(&backup.folder().manifest(), bytes).await;
    let result = match put {
        Ok(PutOutcome::Created) => BackupResult::Committed(Box::new(manifest)),
        Ok(PutOutcome::Exists) => match opened::manifest(storage.as_ref(), &backup).await {
            Ok(found) if found.attempt == manifest.attempt => BackupResult::Committed(Box::new(manifest)),
            found => BackupResult::Existing(Box::new(found?)),
        },
        Err(error) => settle(&storage, &backup, manifest, error).await?,
    };
    if matches!(result, BackupResult::Committed(_)) {
        // Only tidies: what stays is garbage that `prune` finds.
        let keys: Vec<String> =
            task.parts.iter().map(|part| part_key(&backup.folder(), &part.attempt, &part.shard)).collect();
        if let Err(error) = storage.delete(&keys).await {
            tracing::debug!(error = %error, "the parts of a committed backup could not be deleted");
        }
    }
    Ok(BackupOutcome { result, address, warnings })
}

enum Gathered {
    Parts(Box<Part>, Vec<Part>),
    Existing(Box<Manifest>),
}

async fn gather(
    task: &CommitTask,
    backup: &BackupRef,
    storage: &Arc<dyn WriteStorage>,
    events: &Arc<dyn TaskEvents>,
) -> Result<Gathered, EngineError> {
    events.stage("plan", &format!("{} part(s) of {}", task.parts.len(), backup.backup_id));
    match storage.head(&backup.folder().manifest()).await {
        Ok(_) => return Ok(Gathered::Existing(Box::new(opened::manifest(storage.as_ref(), backup).await?))),
        Err(error) if error.kind == StorageErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::storage("reach the storage")(error)),
    }
    let mut parts = Vec::with_capacity(task.parts.len().min(1024));
    for reference in &task.parts {
        let key = part_key(&backup.folder(), &reference.attempt, &reference.shard);
        let act = format!("read what is known of shard {}", reference.shard);
        let bytes = object::read(storage.as_ref(), &key, object::MAX_MANIFEST).await;
        let bytes = bytes.map_err(EngineError::storage(act))?;
        let damaged = |what: String| EngineError::Damaged { object: storage.address_of(&key), what };
        let part: Part = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let is_at_home = part.backup_id == backup.backup_id
            && part.cluster == backup.cluster
            && part.namespace == backup.namespace
            && part.shard.name == reference.shard
            && part.artifacts.iter().all(|artifact| artifact.shard == reference.shard);
        if !is_at_home {
            return Err(damaged("it is the part of another backup or shard".to_owned()));
        }
        for artifact in &part.artifacts {
            crate::backup::check_artifact(storage.as_ref(), artifact).await?;
        }
        parts.push(part);
    }
    fit_together(&parts)?;
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or_else(|| EngineError::PartsDiffer { what: "there are none".to_owned() })?;
    Ok(Gathered::Parts(Box::new(first), parts.collect()))
}

/// Parts of one backup are of different shards, by one method, for the same recipients.
fn fit_together(parts: &[Part]) -> Result<(), EngineError> {
    let differ = |what: &str| Err(EngineError::PartsDiffer { what: what.to_owned() });
    let Some(first) = parts.first() else { return differ("there are none") };
    let shards: BTreeSet<&ShardName> = parts.iter().map(|part| &part.shard.name).collect();
    if shards.len() != parts.len() {
        return differ("two are of the same shard");
    }
    if parts.iter().any(|part| part.method != first.method || part.parameters != first.parameters) {
        return differ("they were captured by different methods or parameters");
    }
    if parts.iter().any(|part| part.encryption != first.encryption || part.origin != first.origin) {
        return differ("they were captured for different recipients or by different origins");
    }
    Ok(())
}

fn build(first: Part, rest: Vec<Part>, attempt: AttemptId, now: Timestamp) -> Manifest {
    let parts = || std::iter::once(&first).chain(&rest);
    let facts: Vec<BTreeMap<String, String>> = parts().map(|part| part.shard.facts.clone()).collect();
    let addresses: Vec<&str> = parts().map(|part| part.source.address.as_str()).collect();
    let mode = if rest.is_empty() { first.source.mode.as_str() } else { "cluster" };
    let source = SourceRecord { address: addresses.join(" "), mode: mode.to_owned() };
    let warnings = Warnings::default();
    parts().flat_map(|part| &part.warnings).for_each(|warning| warnings.add(warning));
    let started_at = parts().map(|part| part.started_at).min().unwrap_or(now);
    let shards = parts().map(|part| part.shard.clone()).collect();
    let artifacts = parts().flat_map(|part| part.artifacts.clone()).collect();
    Manifest {
        format_version: FORMAT_VERSION,
        backup_id: first.backup_id,
        name: first.name,
        namespace: first.namespace,
        cluster: first.cluster,
        origin: first.origin,
        attempt,
        started_at,
        completed_at: now,
        tool_version: TOOL.to_owned(),
        method: first.method,
        parameters: first.parameters,
        source,
        shards,
        artifacts,
        facts: aggregate(&facts),
        encryption: first.encryption,
        warnings: warnings.lines(),
        parent: None,
        consistency: None,
    }
}
