//! Into a live server or cluster: everything checked, every shard planned, then one shard after another.
//!
//! A target that evicts acknowledges every key and keeps only some: it is refused, and its counter is compared at the end.

use redkeep_core::attribute::{find, merge};
use redkeep_core::manifest::ShardRecord;
use redkeep_core::method::Run;
use redkeep_core::provider::{LiveTarget, ProviderError};
use redkeep_core::redis::RedisServer;
use redkeep_core::restore_plan::{self, LiveFacts};
use redkeep_core::task::EndpointSpec;
use redkeep_core::{Attribute, Class, Classify};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::stopping::Stoppable;
use super::{Restore, RestoreResult, RestoredShard};
use crate::cancel;
use crate::clock::Clocks;
use crate::error::EngineError;
use crate::events::ShardEvents;
use crate::verify::checksums;

/// How long a method has to end a load that is stopped; then its call is dropped, and only what was sent is known.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn restore(
    work: &Restore<'_>,
    endpoint: &EndpointSpec,
    token: &CancellationToken,
) -> Result<(String, RestoreResult), EngineError> {
    let (target, planned) = cancel::until(token, plan(work, endpoint)).await?;
    if work.task.dry_run {
        return Ok((target.address, RestoreResult::Planned(planned)));
    }
    let evicted_before = evicted(&target).await;
    let mut done: Vec<RestoredShard> = Vec::new();
    for shard in &work.shards {
        work.events.stage("restore", &format!("shard {} into {}", shard.name, target.address));
        let events = ShardEvents::new(shard.name.as_str(), work.events, &work.warnings);
        let act = work.act("restore", shard);
        let restored = cancel::gently(token, STOP_LIMIT, async {
            let mut run = run(work, shard, &target, &events);
            let stoppable = |redis| -> Arc<dyn RedisServer> { Arc::new(Stoppable::new(redis, token.clone())) };
            run.redis = run.redis.take().map(stoppable);
            work.method.restore(run).await.map_err(EngineError::method(act))
        })
        .await;
        match restored {
            Ok(attributes) => done.push(RestoredShard { shard: shard.name.to_string(), attributes }),
            Err(error) => return Err(stopped(error, shard, &events, &done)),
        }
    }
    check_evicted(work, evicted_before, evicted(&target).await)?;
    check_matched(&done)?;
    // Only after all of them: a count that is off in one shard is no reason to leave the others out.
    for (shard, restored) in work.shards.iter().zip(&done) {
        check_count(work, shard, &restored.attributes)?;
    }
    Ok((target.address, RestoreResult::Restored(done)))
}

/// Everything that can refuse, for all shards, before the first key is written.
async fn plan(work: &Restore<'_>, endpoint: &EndpointSpec) -> Result<(LiveTarget, Vec<RestoredShard>), EngineError> {
    let target = work.providers.target(endpoint).await?;
    let facts =
        LiveFacts { address: &target.address, cluster: target.cluster, keys: target.keys, facts: &target.facts };
    restore_plan::check_live(&work.opened.manifest, work.task, facts)?;
    check_policy(&target).await?;
    check_functions(work, &target).await?;
    let mut clocks = Clocks::default();
    for (address, server) in &target.primaries {
        if let Some(warning) = clocks.warning(work.providers, address, server.as_ref()).await {
            work.warnings.note(work.events, &warning);
        }
    }
    let mut planned = Vec::new();
    for shard in &work.shards {
        let events = ShardEvents::new(shard.name.as_str(), work.events, &work.warnings);
        let run = run(work, shard, &target, &events);
        let act = work.act("plan the restore of", shard);
        let attributes = work.method.plan(run).await.map_err(EngineError::method(act))?;
        planned.push(RestoredShard { shard: shard.name.to_string(), attributes });
    }
    if !work.task.skip_preverify && !work.task.dry_run {
        work.events.stage("checksum", "every stored byte, so that nothing is written from a damaged backup");
        checksums(&work.opened, work.events).await?;
    }
    Ok((target, planned))
}

fn run(work: &Restore<'_>, shard: &ShardRecord, target: &LiveTarget, events: &Arc<ShardEvents>) -> Run {
    let store = work.opened.store(shard, events.clone());
    let mut run = work.opened.run("restore", shard, store, work.parameters.clone(), events.clone());
    let kind = [Attribute::new("target", if target.cluster { "cluster" } else { "server" })];
    // What the run is about cannot be overruled by what a server says of itself.
    run.context = merge(&merge(&target.facts, &kind), &run.context);
    run.redis.clone_from(&target.redis);
    run.socket.clone_from(&target.socket);
    run
}

/// Refuses a target that throws keys away when its memory is full, instead of refusing to take more. Every primary decides alone.
async fn check_policy(target: &LiveTarget) -> Result<(), EngineError> {
    for (address, server) in &target.primaries {
        let act = || format!("ask {address} what it does when its memory is full");
        let info = server.info(None).await.map_err(EngineError::method(act()))?;
        let limit = find(&info, "maxmemory").and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0);
        if let Some(policy) = find(&info, "maxmemory_policy").filter(|policy| limit > 0 && *policy != "noeviction") {
            return Err(ProviderError::new(
                Class::Refused,
                "TargetEvicts",
                format!("the target {address} evicts keys at {limit} bytes of memory ({policy})"),
            )
            .with_help(
                "set maxmemory-policy noeviction for the restore (then a full server stops it with an error), or maxmemory 0",
            )
            .into());
        }
    }
    Ok(())
}

/// Refuses to replace functions of the target unasked: each shard of a backup brings the same libraries, so that those of a backup
/// of several shards are loaded over what is there, be it the shard's before or the target's own.
async fn check_functions(work: &Restore<'_>, target: &LiveTarget) -> Result<(), EngineError> {
    let brings = work.shards.iter().any(|shard| shard.facts.get("functions").is_some_and(|count| count != "0"));
    let is_decided = ["on-conflict", "match", "db"].iter().any(|name| match work.task.parameters.get(*name) {
        // What is there stays, is replaced as told, or no functions come along.
        Some(value) => *value != serde_json::json!("fail"),
        None => false,
    });
    if work.shards.len() < 2 || !brings || is_decided {
        return Ok(());
    }
    for (address, server) in &target.primaries {
        // An error is a server without functions (before 7.0), or one that will refuse to load them.
        let Ok(reply) = server.command(vec!["FUNCTION".into(), "LIST".into()]).await else { continue };
        if reply.as_ref() != b"*0\r\n" {
            return Err(ProviderError::new(
                Class::Refused,
                "TargetHasFunctions",
                format!("the target {address} has function libraries, and the backup brings its own"),
            )
            .with_help("remove them (FUNCTION FLUSH), or say which are kept by --on-conflict skip|replace")
            .into());
        }
    }
    Ok(())
}

/// Keys that the target has evicted since it started, over all primaries; nothing where one does not say so.
async fn evicted(target: &LiveTarget) -> Option<u64> {
    let mut sum = 0_u64;
    for (_, server) in &target.primaries {
        let info = server.info(None).await.ok()?;
        sum = sum.saturating_add(find(&info, "evicted_keys")?.parse().ok()?);
    }
    Some(sum)
}

/// Every key was acknowledged; whether all of them stayed, only the target's counter says.
fn check_evicted(work: &Restore<'_>, before: Option<u64>, after: Option<u64>) -> Result<(), EngineError> {
    let Some(before) = before else { return Ok(()) };
    let Some(after) = after else {
        work.warnings.add("whether the target evicted keys during the restore is not known: it did not answer INFO");
        return Ok(());
    };
    // Less than before: the counter was reset meanwhile.
    match after.checked_sub(before).unwrap_or(after) {
        0 => Ok(()),
        evicted => Err(ProviderError::new(
            Class::Failed,
            "RestoreIncomplete",
            format!("the restore is incomplete: the target evicted {evicted} keys meanwhile"),
        )
        .with_help("set maxmemory-policy noeviction or raise maxmemory, empty the target, and restore again")
        .into()),
    }
}

/// Whether the user's choice of keys met any: none at all is a slip of the pen, and "0 restored" would be read as a success.
fn check_matched(done: &[RestoredShard]) -> Result<(), EngineError> {
    let sum = |key: &str| {
        done.iter().filter_map(|shard| find(&shard.attributes, key)?.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    let filtered = sum("keys-filtered");
    let matched =
        ["keys-restored", "keys-skipped", "keys-expired-skipped"].into_iter().map(sum).fold(0, u64::saturating_add);
    if filtered == 0 || matched > 0 {
        return Ok(());
    }
    Err(ProviderError::new(
        Class::Failed,
        "NothingMatched",
        format!("none of the backup's {filtered} keys matches --match and --db: nothing was restored"),
    )
    .with_help("`redkeep inspect BACKUP --prefixes` shows which keys and databases it has")
    .into())
}

/// Whether everything that was captured is accounted for: restored, skipped by the conflict rule, or expired.
fn check_count(work: &Restore<'_>, shard: &ShardRecord, facts: &[Attribute]) -> Result<(), EngineError> {
    let is_filtered = ["match", "db"].iter().any(|parameter| work.task.parameters.contains_key(*parameter));
    let number = |key: &str| find(facts, key).and_then(|count| count.parse::<u64>().ok());
    let captured = shard.facts.get("keys").and_then(|keys| keys.parse::<u64>().ok());
    let (Some(captured), Some(restored)) = (captured, number("keys-restored")) else { return Ok(()) };
    let others = ["keys-skipped", "keys-expired-skipped", "keys-filtered"];
    let found = others.iter().filter_map(|key| number(key)).fold(restored, u64::saturating_add);
    if (is_filtered && found <= captured) || found == captured {
        return Ok(());
    }
    Err(EngineError::RestoreIncomplete { shard: shard.name.to_string(), captured, found })
}

/// What had been written when a shard's restore stopped.
fn stopped(error: EngineError, shard: &ShardRecord, events: &ShardEvents, done: &[RestoredShard]) -> EngineError {
    let detail = |key: &str| match &error {
        EngineError::Method { source, .. } => find(&source.details, key).map(str::to_owned),
        _ => None,
    };
    // The sink of `load` counts what the target acknowledged; the plugin's own count is what it sent.
    let counts: Vec<String> = [
        detail("keys-restored").map(|count| format!("{count} keys")),
        detail("commands").map(|count| format!("{count} commands were applied")),
        detail("errors").map(|count| format!("{count} answered by an error")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let refused = matches!(error.class(), Class::Refused | Class::Usage);
    if refused && counts.is_empty() && done.is_empty() {
        // These codes promise that nothing was touched.
        return error;
    }
    let sent = events.counted("keys").or_else(|| events.counted("commands")).unwrap_or(0);
    let of_shard = if counts.is_empty() {
        format!("at least {sent} keys or commands had been sent, how many were applied is not known")
    } else {
        counts.join(", ")
    };
    let before = match done {
        [] => String::new(),
        done => {
            let names: Vec<&str> = done.iter().map(|shard| shard.shard.as_str()).collect();
            format!("; restored whole before: {}", names.join(", "))
        }
    };
    EngineError::RestoreStopped {
        written: format!("shard {}: {of_shard}{before}", shard.name),
        source: Box::new(error),
    }
}
