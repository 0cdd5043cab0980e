//! Into a data directory: staged, read whole, and only then put into place.

use std::collections::BTreeMap;
use std::sync::Arc;

use redkeep_core::Attribute;
use redkeep_core::attribute::{find, merge, to_map};
use redkeep_core::manifest::ShardRecord;
use redkeep_core::method::{LogLevel, Run};
use redkeep_core::provider::StagedDirectory;
use redkeep_core::restore_plan::Refusal;
use redkeep_core::task::DirectoryTarget;
use tokio_util::sync::CancellationToken;

use super::{Restore, RestoreResult, RestoredShard, check_disk, on_disk};
use crate::cancel;
use crate::error::EngineError;
use crate::events::ShardEvents;
use crate::verify::check_facts;

/// The `databases` of a server whose configuration says nothing.
const DEFAULT_DATABASES: u64 = 16;

/// What a method is told of the directory's server (vocabulary: restore into a directory).
pub(crate) fn context(target: &DirectoryTarget, shard: &ShardRecord) -> Vec<Attribute> {
    let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    let mut context = vec![
        Attribute::new("target", "directory"),
        Attribute::new("dbfilename", or(&target.dbfilename, "dump.rdb")),
        Attribute::new("appenddirname", or(&target.appenddirname, "appendonlydir")),
        Attribute::new("appendfilename", or(&target.appendfilename, "appendonly.aof")),
    ];
    // `valkey-8.1` names another server than the source's.
    let given = target.server_version.as_deref();
    let (given_name, given_version) = match given.and_then(|given| given.split_once('-')) {
        Some((name, version)) => (Some(name), Some(version)),
        None => (None, given),
    };
    let fact = |key: &str| shard.facts.get(key).map(String::as_str);
    if let Some(name) = given_name.or_else(|| fact("server-name")) {
        context.push(Attribute::new("server-name", name));
    }
    if let Some(version) = given_version.or_else(|| fact("server-version")) {
        context.push(Attribute::new("server-version", version));
    }
    if let Some(appendonly) = target.appendonly {
        context.push(Attribute::new("appendonly", if appendonly { "yes" } else { "no" }));
    }
    context
}

/// How many databases the server must have so that it loads the keys of these shards, where its default is too few.
pub(super) fn databases(shards: &[ShardRecord]) -> Option<u64> {
    let lists = shards.iter().filter_map(|shard| shard.facts.get("databases"));
    let highest =
        lists.flat_map(|list| list.split(',')).filter_map(|number| number.trim().parse::<u64>().ok()).max()?;
    (highest >= DEFAULT_DATABASES).then(|| highest.saturating_add(1))
}

/// Restores the one shard that a directory takes.
pub(super) async fn restore(
    work: &Restore<'_>,
    target: &DirectoryTarget,
    token: &CancellationToken,
) -> Result<(String, RestoreResult), EngineError> {
    let address = target.path.display().to_string();
    let Some(shard) = work.shards.first() else { return Err(Refusal::NoArtifacts.into()) };
    if let Some(databases) = databases(&work.shards) {
        work.warnings.add(format!(
            "the backup has keys in database {}: its server does not start with fewer than `databases {databases}`",
            databases - 1
        ));
    }
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
    let needed = on_disk(&planned, shard, &work.opened.manifest.artifacts);
    check_disk(&target.path.display().to_string(), needed, staged.free_bytes())?;
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
    check_count(shard, &facts)?;
    Ok(RestoreResult::Restored(said(facts)))
}

/// A directory takes a file whole, keys that have expired among them, so that there must be as many as were captured. Of an
/// append-only file both numbers are its snapshot's; one without says none.
fn check_count(shard: &ShardRecord, facts: &[Attribute]) -> Result<(), EngineError> {
    let captured = shard.facts.get("keys").and_then(|keys| keys.parse::<u64>().ok());
    let restored = find(facts, "keys-restored").and_then(|keys| keys.parse::<u64>().ok());
    match (captured, restored) {
        (Some(captured), Some(restored)) if captured != restored => Err(EngineError::FactsDiffer {
            shard: shard.name.to_string(),
            key: "keys".to_owned(),
            captured: captured.to_string(),
            found: restored.to_string(),
        }),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::the_sources(None, "redis", "8.2.3")]
    #[case::another_version(Some("7.2"), "redis", "7.2")]
    #[case::another_server(Some("valkey-8.1"), "valkey", "8.1")]
    fn a_method_is_told_which_server_will_load_the_directory(
        #[case] given: Option<&str>,
        #[case] name: &str,
        #[case] version: &str,
    ) {
        let target = DirectoryTarget { server_version: given.map(str::to_owned), ..DirectoryTarget::default() };
        let facts = [("server-name", "redis"), ("server-version", "8.2.3")];
        let shard = ShardRecord {
            name: "0".parse().expect("a name"),
            node: String::new(),
            slots: Vec::new(),
            facts: facts.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        let context = context(&target, &shard);
        assert_eq!((find(&context, "server-name"), find(&context, "server-version")), (Some(name), Some(version)));
    }
}
