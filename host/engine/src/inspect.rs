//! Inspect: the method answers questions about a stored backup, without a server.

use std::sync::Arc;

use redkeep_core::identifier::BackupId;
use redkeep_core::manifest::Manifest;
use redkeep_core::provider::Providers;
use redkeep_core::task::InspectTask;

use crate::cancel;
use crate::error::EngineError;
use crate::events::{ShardEvents, TaskEvents, Warnings};
use crate::opened::OpenedBackup;
use crate::verify::check_stores;

/// What a method answered.
#[derive(Clone, Debug)]
pub struct InspectOutcome {
    /// The backup.
    pub backup_id: BackupId,
    /// Its manifest.
    pub manifest: Box<Manifest>,
    /// The answer: of one shard as the method gave it, of several an object with an answer for each shard's name.
    pub answer: serde_json::Value,
    /// What was noticed.
    pub warnings: Vec<String>,
}

/// Asks the method.
pub async fn inspect(
    task: &InspectTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<InspectOutcome, EngineError> {
    cancel::cancellable(events, ask(task, providers, events)).await
}

async fn ask(
    task: &InspectTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<InspectOutcome, EngineError> {
    let warnings = Arc::new(Warnings::default());
    let storage = providers.storage(&task.storage).await?;
    let opened = OpenedBackup::open(storage, &task.backup, &task.keys, providers).await?;
    let method = opened.method(&task.method, providers).await?;
    check_stores(&opened, events, &warnings).await?;
    let query = serde_json::Value::Object(task.query.clone()).to_string();
    let name = &method.info().name;
    events.stage("inspect", &format!("with the method {name}"));
    let mut answers = serde_json::Map::new();
    for shard in &opened.manifest.shards {
        let shard_events = ShardEvents::new(shard.name.as_str(), events, &warnings);
        let store = opened.store(shard, shard_events.clone());
        let run = opened.run("inspect", shard, store, "{}".to_owned(), shard_events);
        let act = format!("inspect shard {} with the method {name}", shard.name);
        let answer = method.inspect(run, &query).await.map_err(EngineError::method(act))?;
        let answer =
            serde_json::from_str(&answer).map_err(|source| EngineError::Answer { method: name.clone(), source })?;
        answers.insert(shard.name.to_string(), answer);
    }
    let answer = match opened.manifest.shards.as_slice() {
        [only] => answers.remove(only.name.as_str()).unwrap_or_default(),
        _ => serde_json::Value::Object(answers),
    };
    Ok(InspectOutcome {
        backup_id: opened.backup.backup_id.clone(),
        manifest: Box::new(opened.manifest),
        answer,
        warnings: warnings.lines(),
    })
}
