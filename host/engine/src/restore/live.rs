//! Into a live server or cluster: everything checked, every shard planned, then one shard after another.

use redkeep_core::attribute::{find, merge};
use redkeep_core::manifest::ShardRecord;
use redkeep_core::method::Run;
use redkeep_core::provider::LiveTarget;
use redkeep_core::restore_plan::{self, LiveFacts};
use redkeep_core::task::EndpointSpec;
use redkeep_core::{Attribute, Class, Classify};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::{Restore, RestoreResult, RestoredShard};
use crate::cancel;
use crate::error::EngineError;
use crate::events::ShardEvents;
use crate::verify::checksums;

pub(super) async fn restore(
    work: &Restore<'_>,
    endpoint: &EndpointSpec,
    token: &CancellationToken,
) -> Result<(String, RestoreResult), EngineError> {
    let (target, planned) = cancel::until(token, plan(work, endpoint)).await?;
    if work.task.dry_run {
        return Ok((target.address, RestoreResult::Planned(planned)));
    }
    let mut done: Vec<RestoredShard> = Vec::new();
    for shard in &work.shards {
        work.events.stage("restore", &format!("shard {} into {}", shard.name, target.address));
        let events = ShardEvents::new(shard.name.as_str(), work.events, &work.warnings);
        let act = work.act("restore", shard);
        let restored = cancel::until(token, async {
            let run = run(work, shard, &target, &events);
            work.method.restore(run).await.map_err(EngineError::method(act))
        })
        .await;
        match restored {
            Ok(attributes) => done.push(RestoredShard { shard: shard.name.to_string(), attributes }),
            Err(error) => return Err(stopped(error, shard, &events, &done)),
        }
    }
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
    run.redis = Some(target.redis.clone());
    run
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
