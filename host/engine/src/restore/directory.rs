//! Into a data directory: staged, read whole, and only then put into place.

use std::collections::BTreeMap;
use std::sync::Arc;

use redkeep_core::Attribute;
use redkeep_core::attribute::{merge, to_map};
use redkeep_core::manifest::ShardRecord;
use redkeep_core::method::{LogLevel, Run};
use redkeep_core::provider::StagedDirectory;
use redkeep_core::restore_plan::Refusal;
use redkeep_core::task::DirectoryTarget;
use tokio_util::sync::CancellationToken;

use super::{Restore, RestoreResult, RestoredShard};
use crate::cancel;
use crate::error::EngineError;
use crate::events::ShardEvents;
use crate::verify::check_facts;

/// What a method is told of the directory's server (vocabulary: restore into a directory).
pub(crate) fn context(target: &DirectoryTarget, shard: &ShardRecord) -> Vec<Attribute> {
    let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    let mut context = vec![
        Attribute::new("target", "directory"),
        Attribute::new("dbfilename", or(&target.dbfilename, "dump.rdb")),
        Attribute::new("appenddirname", or(&target.appenddirname, "appendonlydir")),
        Attribute::new("appendfilename", or(&target.appendfilename, "appendonly.aof")),
    ];
    if let Some(name) = shard.facts.get("server-name") {
        context.push(Attribute::new("server-name", name));
    }
    if let Some(version) = target.server_version.as_ref().or_else(|| shard.facts.get("server-version")) {
        context.push(Attribute::new("server-version", version));
    }
    if let Some(appendonly) = target.appendonly {
        context.push(Attribute::new("appendonly", if appendonly { "yes" } else { "no" }));
    }
    context
}

/// Restores the one shard that a directory takes.
pub(super) async fn restore(
    work: &Restore<'_>,
    target: &DirectoryTarget,
    token: &CancellationToken,
) -> Result<(String, RestoreResult), EngineError> {
    let address = target.path.display().to_string();
    let Some(shard) = work.shards.first() else { return Err(Refusal::NoArtifacts.into()) };
    let staged = cancel::until(token, async { Ok(work.providers.directory(target).await?) }).await?;
    let filled = cancel::until(token, fill(work, target, shard, &staged)).await;
    let done = match filled {
        // Publishing is not interrupted: it is a few renames.
        Ok(RestoreResult::Restored(shards)) => {
            work.events.stage("publish", "");
            match staged.publish().await {
                Ok(()) => return Ok((address, RestoreResult::Restored(shards))),
                Err(error) => Err(error.into()),
            }
        }
        other => other,
    };
    if let Err(error) = staged.discard().await {
        work.warnings.add(error.to_string());
        work.events.log(LogLevel::Warn, &error.to_string(), &[]);
    }
    done.map(|planned| (address, planned))
}

/// Plans, and unless it is a dry run lays the shard out in the staging folder.
async fn fill(
    work: &Restore<'_>,
    target: &DirectoryTarget,
    shard: &ShardRecord,
    staged: &Arc<dyn StagedDirectory>,
) -> Result<RestoreResult, EngineError> {
    let said = |attributes| vec![RestoredShard { shard: shard.name.to_string(), attributes }];
    let planned = work
        .method
        .plan(run(work, target, shard, staged))
        .await
        .map_err(EngineError::method(work.act("plan the restore of", shard)))?;
    if work.task.dry_run {
        return Ok(RestoreResult::Planned(said(planned)));
    }
    work.events.stage("restore", &format!("shard {} into {}", shard.name, target.path.display()));
    let facts = work
        .method
        .restore(run(work, target, shard, staged))
        .await
        .map_err(EngineError::method(work.act("restore", shard)))?;
    check_facts(shard, &comparable(&facts))?;
    Ok(RestoreResult::Restored(said(facts)))
}

/// What a restore reports of the artifacts themselves. What it says of commands is about those that it kept (`until`).
fn comparable(facts: &[Attribute]) -> BTreeMap<String, String> {
    let mut facts = to_map(facts);
    facts.retain(|key, _| {
        matches!(key.as_str(), "keys" | "expires" | "functions" | "checksum" | "rdb-version" | "rdb-magic")
    });
    facts
}

fn run(work: &Restore<'_>, target: &DirectoryTarget, shard: &ShardRecord, staged: &Arc<dyn StagedDirectory>) -> Run {
    let events = ShardEvents::new(shard.name.as_str(), work.events, &work.warnings);
    let store = work.opened.store(shard, events.clone());
    let mut run = work.opened.run("restore", shard, store, work.parameters.clone(), events);
    run.context = merge(&run.context, &context(target, shard));
    run.files = Some(staged.files());
    run
}
