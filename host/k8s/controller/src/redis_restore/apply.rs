//! Writes: the Lease, the task, the status, and what tidies up after the end.
//!
//! In this order each step can be repeated: whoever takes over half-way finds by name what is there already.

use std::sync::Arc;

use kube::{Api, ResourceExt};
use redkeep_core::classify::{Classify, chain};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::labels::{OUTCOME, OUTCOME_COMPLETED, OUTCOME_FAILED};
use redkeep_k8s_api::redis_restore::{RedisRestore, RedisRestoreStatus};
use redkeep_k8s_api::run::Phase;
use serde_json::json;

use super::build;
use super::decide::{self, Decision};
use super::dereference::task_key;
use super::lease::{self, LeaseState};
use super::status;
use super::validate::ValidatedRestore;
use crate::apply::{is_conflict, is_not_found, patch_metadata, replace_status};
use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::ExecutorError;
use crate::outcome::{Outcome, publish};
use crate::places::User;

pub(super) async fn apply(
    restore: &RedisRestore,
    context: &Arc<Context>,
    decision: Decision,
    next: RedisRestoreStatus,
    outcome: Option<Outcome>,
) -> Result<(), ReconcileError> {
    match decision {
        Decision::Done => tidy(restore, context, next.phase).await,
        Decision::Wait { .. } => write(restore, context, &next, outcome).await,
        Decision::Follow { .. } => {
            let storage = restore.spec.from.storage_ref.as_ref().map(|storage| storage.name.as_str());
            context.places.keep(&user(restore), &restore.namespace().unwrap_or_default(), storage, context.now());
            write(restore, context, &next, outcome).await
        }
        Decision::Begin(validated) => {
            if let Some((reason, message)) = hindrance(restore, context, &validated).await? {
                return not_yet(restore, context, reason, message).await;
            }
            let request = build::task(restore, *validated, context.now());
            match context.executor.start(&request).await {
                Ok(()) => write(restore, context, &next, outcome).await,
                Err(refused) if refused.may_pass() => {
                    // Who waits for room keeps nobody from the storage or the target.
                    context.places.release(&user(restore));
                    lease::release(restore, context).await?;
                    not_yet(restore, context, refused.reason(), refused.to_string()).await
                }
                Err(refused) if !refused.retryable() => fail(restore, context, &refused).await,
                Err(error) => Err(error.into()),
            }
        }
        Decision::Fail { .. } | Decision::End { .. } => {
            write(restore, context, &next, outcome).await?;
            tidy(restore, context, next.phase).await
        }
    }
}

/// It is waited for, as long as anything is.
async fn not_yet(
    restore: &RedisRestore,
    context: &Context,
    reason: &'static str,
    message: String,
) -> Result<(), ReconcileError> {
    let decision = decide::not_yet(context.now(), restore, reason.to_owned(), message, false);
    let (next, outcome) = status::next(restore, &decision, context.now());
    write(restore, context, &next, outcome).await?;
    if decision.is_end() { tidy(restore, context, next.phase).await } else { Ok(()) }
}

async fn fail(restore: &RedisRestore, context: &Context, refused: &ExecutorError) -> Result<(), ReconcileError> {
    let reason = refused.reason().to_owned();
    let decision = Decision::Fail { reason, message: refused.to_string(), is_spec: false };
    let (next, outcome) = status::next(restore, &decision, context.now());
    write(restore, context, &next, outcome).await?;
    tidy(restore, context, next.phase).await
}

/// What it waits for that others have: a place in the storage, or the target.
async fn hindrance(
    restore: &RedisRestore,
    context: &Arc<Context>,
    validated: &ValidatedRestore,
) -> Result<Option<(&'static str, String)>, ReconcileError> {
    let (namespace, storage) = (restore.namespace().unwrap_or_default(), &validated.found.storage);
    let (name, now) = (user(restore), context.now());
    let since = restore.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    if let Err(message) = context.places.take(User { name: &name, since }, &namespace, storage, now) {
        return Ok(Some((reasons::WAITING_FOR_SLOT, message)));
    }
    let hindrance = match lease::take(restore, context, &validated.found.leases).await {
        Ok(LeaseState::Free | LeaseState::Ours) => return Ok(None),
        Ok(LeaseState::Held { by }) => (reasons::TARGET_BUSY, format!("RedisRestore {by} writes to the same target")),
        // A right that is missing is said, and waited for no longer than anything else.
        Err(error) => (error.reason(), chain(&error)),
    };
    // Who waits for the target keeps nobody from the storage.
    context.places.release(&name);
    Ok(Some(hindrance))
}

/// Under this it has its place in a storage.
fn user(restore: &RedisRestore) -> String {
    restore.uid().unwrap_or_default()
}

fn api(restore: &RedisRestore, context: &Context) -> Api<RedisRestore> {
    Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default())
}

async fn write(
    restore: &RedisRestore,
    context: &Context,
    next: &RedisRestoreStatus,
    outcome: Option<Outcome>,
) -> Result<(), ReconcileError> {
    let name = restore.name_any();
    match replace_status(&api(restore, context), &name, restore.status.as_ref(), next, None).await {
        Ok(Some(written)) => context.versions.wrote(&written),
        Ok(None) => {}
        // Deleted in between: its task and its Lease go with it.
        Err(error) if is_not_found(&error) => return Ok(()),
        Err(error) => return Err(ReconcileError::api("write", "status")(error)),
    }
    if let Some(outcome) = outcome {
        publish(context, restore, &outcome).await;
    }
    Ok(())
}

/// After the end: the task's remains may go, the target is free, and the label takes the object out of the watch.
async fn tidy(restore: &RedisRestore, context: &Context, phase: Option<Phase>) -> Result<(), ReconcileError> {
    let name = restore.name_any();
    context.places.release(&user(restore));
    context.executor.forget(&task_key(restore)).await?;
    lease::release(restore, context).await?;
    let word = if phase == Some(Phase::Completed) { OUTCOME_COMPLETED } else { OUTCOME_FAILED };
    // By its uid: never onto another object that has its name by now.
    let metadata = json!({"labels": {OUTCOME: word}, "uid": restore.uid()});
    match patch_metadata(&api(restore, context), &name, metadata).await {
        Ok(written) => {
            context.versions.wrote(&written);
            Ok(())
        }
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(ReconcileError::api("write", "labels")(error)),
    }
}
