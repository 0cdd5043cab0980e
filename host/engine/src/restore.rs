//! Restore: refusals first, then per shard `stored bytes -> checked -> method -> target` (DESIGN 3).
//!
//! Into a data directory that appears whole or not at all, or into a live server or cluster, of which is said exactly what was
//! written when it stops half-way.

mod directory;
mod live;
mod rights;
mod room;
mod stopping;

use std::collections::BTreeMap;
use std::sync::Arc;

use redkeep_core::Attribute;
use redkeep_core::identifier::BackupId;
use redkeep_core::manifest::{Manifest, ShardRecord};
use redkeep_core::method::Method;
use redkeep_core::provider::Providers;
use redkeep_core::restore_plan;
use redkeep_core::task::{RestoreTask, TargetSpec};

use crate::cancel;
use crate::error::EngineError;
use crate::events::{TaskEvents, Warnings};
use crate::opened::OpenedBackup;
use crate::verify::check_store;

pub(crate) use directory::context as directory_context;
pub(crate) use room::{check_disk, on_disk};

/// How a restore ended.
#[derive(Clone, Debug)]
pub struct RestoreOutcome {
    /// The backup.
    pub backup_id: BackupId,
    /// Address of its manifest.
    pub address: String,
    /// Where it went, as a user would write it.
    pub target: String,
    /// What was done.
    pub result: RestoreResult,
    /// Facts of the whole: counts summed over the shards.
    pub facts: BTreeMap<String, String>,
    /// The manifest, for what its reader wants to know of the source.
    pub manifest: Box<Manifest>,
    /// The `databases` that the server of the directory must be given, where its default is too few.
    pub databases: Option<u64>,
    /// What was noticed.
    pub warnings: Vec<String>,
}

/// What a restore led to.
#[derive(Clone, Debug)]
pub enum RestoreResult {
    /// Every shard is restored; the facts of each.
    Restored(Vec<RestoredShard>),
    /// `--dry-run`: what each shard's method would do. Nothing was written.
    Planned(Vec<RestoredShard>),
}

/// One shard and what its method said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredShard {
    /// The shard.
    pub shard: String,
    /// What the method said.
    pub attributes: Vec<Attribute>,
}

/// What both kinds of target work with.
struct Restore<'a> {
    task: &'a RestoreTask,
    /// The task's, laid out for this backup.
    target: TargetSpec,
    opened: OpenedBackup,
    shards: Vec<ShardRecord>,
    method: Arc<dyn Method>,
    parameters: String,
    providers: &'a Arc<dyn Providers>,
    events: &'a Arc<dyn TaskEvents>,
    warnings: Arc<Warnings>,
}

impl Restore<'_> {
    fn act(&self, verb: &str, shard: &ShardRecord) -> String {
        format!("{verb} shard {} with the method {}", shard.name, self.method.info().name)
    }
}

/// Restores a backup. See [`TaskEvents::cancellation`] for how to stop it.
///
/// # Errors
/// A directory is then untouched. A live target is untouched too, unless the error is `RestoreStopped`, which says what was
/// written, or `RestoreIncomplete`.
pub async fn restore(
    task: &RestoreTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<RestoreOutcome, EngineError> {
    let token = events.cancellation();
    let work = cancel::until(&token, prepare(task, providers, events)).await?;
    let (target, result) = match &work.target {
        TargetSpec::Directory(target) => directory::restore(&work, target, &token).await?,
        TargetSpec::Live { endpoint } => live::restore(&work, endpoint, &token).await?,
    };
    let shards = match &result {
        RestoreResult::Restored(shards) | RestoreResult::Planned(shards) => shards,
    };
    let facts: Vec<BTreeMap<String, String>> =
        shards.iter().map(|shard| redkeep_core::attribute::to_map(&shard.attributes)).collect();
    let databases = match &task.target {
        TargetSpec::Directory(_) => directory::databases(&work.shards),
        TargetSpec::Live { .. } => None,
    };
    Ok(RestoreOutcome {
        backup_id: work.opened.backup.backup_id.clone(),
        address: work.opened.address(),
        target,
        facts: sum(&facts),
        result,
        databases,
        warnings: work.warnings.lines(),
        manifest: Box::new(work.opened.manifest),
    })
}

/// Facts of all shards: restore counts are summed, the rest as the manifest's.
fn sum(shards: &[BTreeMap<String, String>]) -> BTreeMap<String, String> {
    let mut whole = redkeep_core::facts::aggregate(shards);
    for key in ["keys-restored", "keys-skipped", "keys-expired-skipped", "keys-filtered"] {
        let counts: Vec<u64> = shards.iter().filter_map(|facts| facts.get(key)?.parse().ok()).collect();
        if !counts.is_empty() {
            whole
                .insert(key.to_owned(), counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count)).to_string());
        }
    }
    whole
}

/// Everything that can refuse without looking at the target.
async fn prepare<'a>(
    task: &'a RestoreTask,
    providers: &'a Arc<dyn Providers>,
    events: &'a Arc<dyn TaskEvents>,
) -> Result<Restore<'a>, EngineError> {
    events.stage("plan", "reading the manifest");
    let warnings = Arc::new(Warnings::default());
    let storage = providers.storage(&task.storage).await?;
    let opened = OpenedBackup::open(storage, &task.backup, &task.keys, providers).await?;
    let names = restore_plan::shards(&opened.manifest, task)?;
    let target = match &task.target {
        TargetSpec::Directory(directory) => {
            TargetSpec::Directory(restore_plan::directory(&opened.manifest, directory)?)
        }
        live @ TargetSpec::Live { .. } => live.clone(),
    };
    let method = opened.method(&task.method, providers).await?;
    let parameters = serde_json::Value::Object(task.parameters.clone()).to_string();
    method
        .validate(&parameters)
        .await
        .map_err(EngineError::method(format!("accept the parameters of the method {}", method.info().name)))?;
    let shards: Vec<ShardRecord> =
        opened.manifest.shards.iter().filter(|shard| names.contains(&shard.name)).cloned().collect();
    for shard in &shards {
        check_store(&opened, shard, events, &warnings).await?;
    }
    Ok(Restore { task, target, opened, shards, method, parameters, providers, events, warnings })
}
