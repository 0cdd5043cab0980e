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

use super::rights;
use super::room::{self, Info, Memory};
use super::stopping::{LetGo, Stoppable};
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
    let next = next(target.keys, is_append_only(work));
    let mut done: Vec<RestoredShard> = Vec::new();
    for shard in &work.shards {
        work.events.stage("restore", &format!("shard {} into {}", shard.name, target.address));
        let events = ShardEvents::new(shard.name.as_str(), work.events, &work.warnings);
        let act = work.act("restore", shard);
        let let_go = LetGo::default();
        let restored = cancel::gently(token, STOP_LIMIT, async {
            let mut run = run(work, shard, &target, &events);
            let stoppable =
                |redis| -> Arc<dyn RedisServer> { Arc::new(Stoppable::new(redis, token.clone(), let_go.clone())) };
            run.redis = run.redis.take().map(stoppable);
            work.method.restore(run).await.map_err(EngineError::method(act))
        })
        .await;
        match restored {
            Ok(attributes) => done.push(RestoredShard { shard: shard.name.to_string(), attributes }),
            Err(error) => {
                // One that did not even answer a stop is not waited for again.
                let is_over = matches!(error, EngineError::Cancelled | EngineError::Deadline);
                let settled = async { if is_over { Vec::new() } else { let_go.settle().await } };
                let counts = tokio::time::timeout(STOP_LIMIT, settled).await.unwrap_or_default();
                return Err(stopped(error, &counts, shard, &events, &done, next));
            }
        }
    }
    check_evicted(work, evicted_before, evicted(&target).await, &next)?;
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
    let infos = infos(&target).await?;
    check_policy(&infos)?;
    match room::memory(&work.opened.manifest, work.task, &target.address, &infos) {
        Memory::Fits => {}
        Memory::Doubtful(warning) => work.warnings.note(work.events, &warning),
        Memory::TooSmall(error) => return Err(error.into()),
    }
    if let Some(warning) = room::saving(&infos) {
        work.warnings.note(work.events, &warning);
    }
    check_functions(work, &target).await?;
    rights::check(work, &target, is_append_only(work)).await?;
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

/// What every primary says of itself.
async fn infos(target: &LiveTarget) -> Result<Vec<Info>, EngineError> {
    let mut infos = Vec::new();
    for (address, server) in &target.primaries {
        let act = || format!("ask {address} how much memory it has");
        infos.push((address.clone(), server.info(None).await.map_err(EngineError::method(act()))?));
    }
    Ok(infos)
}

/// Refuses a target that throws keys away when its memory is full, instead of refusing to take more. Every primary decides alone.
fn check_policy(infos: &[Info]) -> Result<(), EngineError> {
    for (address, info) in infos {
        let limit = find(info, "maxmemory").and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0);
        if let Some(policy) = find(info, "maxmemory_policy").filter(|policy| limit > 0 && *policy != "noeviction") {
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
fn check_evicted(work: &Restore<'_>, before: Option<u64>, after: Option<u64>, next: &str) -> Result<(), EngineError> {
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
        .with_help(format!("set maxmemory-policy noeviction or raise maxmemory; then {next}"))
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

fn is_append_only(work: &Restore<'_>) -> bool {
    let mut artifacts = work.opened.manifest.artifacts.iter();
    artifacts.any(|artifact| matches!(artifact.artifact_type.as_str(), "aof" | "aof-archive"))
}

/// What can be done with a target on which a restore stopped, and which held so many keys before. Whoever has keys of his own in
/// it must not be told to empty it; and commands, which an append-only file is made of, do not go on where others stopped.
fn next(before: u64, append_only: bool) -> String {
    match (before, append_only) {
        (0, false) => "empty the target and restore again, or go on with --on-conflict replace".to_owned(),
        (0, true) => "empty the target and restore again".to_owned(),
        (_, false) => format!(
            "restore again with --on-conflict skip or replace: the target held {before} keys before, and they need not go"
        ),
        (_, true) => format!("restore into another target that holds nothing: this one held {before} keys before"),
    }
}

/// What had been written when a shard's restore stopped. `counts`: what the target said of a load that was let go of.
fn stopped(
    error: EngineError,
    counts: &[Attribute],
    shard: &ShardRecord,
    events: &ShardEvents,
    done: &[RestoredShard],
    next: String,
) -> EngineError {
    let details = match &error {
        EngineError::Method { source, .. } => source.details.as_slice(),
        _ => &[],
    };
    let detail = |key: &str| find(counts, key).or_else(|| find(details, key));
    // The sink of `load` counts what the target acknowledged; the plugin's own count is what it sent.
    let keys =
        detail("keys-written").or_else(|| detail("keys-restored")).map(|count| format!("{count} keys were written"));
    let counts: Vec<String> = [
        keys.or_else(|| detail("commands").map(|count| format!("{count} commands were applied"))),
        detail("errors").map(|count| format!("{count} answered by an error")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let refused = matches!(error.class(), Class::Refused | Class::Usage) && counts.is_empty();
    let nothing = detail("commands") == Some("0") && detail("errors") == Some("0");
    if (refused || nothing) && done.is_empty() {
        // These codes promise that nothing was touched.
        return error;
    }
    // Only a key counts: who selects a database has touched nothing.
    let untouched = done.is_empty() && detail("keys-written").or_else(|| detail("commands")) == Some("0");
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
        touched: !untouched,
        next: if untouched { "restore again: nothing was written".to_owned() } else { next },
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty_before(0, false, &["empty the target", "--on-conflict replace"], &[])]
    #[case::commands(0, true, &["empty the target"], &["--on-conflict"])]
    #[case::keys_of_its_own(7, false, &["--on-conflict", "held 7 keys"], &["empty"])]
    #[case::commands_among_others(7, true, &["another", "held 7 keys"], &["empty", "--on-conflict"])]
    fn what_to_do_next_depends_on_what_the_target_held(
        #[case] before: u64,
        #[case] append_only: bool,
        #[case] said: &[&str],
        #[case] unsaid: &[&str],
    ) {
        let text = next(before, append_only);
        assert!(said.iter().all(|words| text.contains(words)), "{text}");
        assert!(!unsaid.iter().any(|words| text.contains(words)), "{text}");
    }
}
