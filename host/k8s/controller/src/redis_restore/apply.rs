//! Writes: the Lease, the task, the status, and what tidies up after the end.
//!
//! In this order each step can be repeated: whoever takes over half-way finds by name what is there already.

use std::sync::Arc;

use kube::{Api, ResourceExt};
use redkeep_core::classify::Classify;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::labels::{OUTCOME, OUTCOME_COMPLETED, OUTCOME_FAILED};
use redkeep_k8s_api::redis_restore::{RedisRestore, RedisRestoreStatus};
use redkeep_k8s_api::run::Phase;
use serde_json::json;

use super::build;
use super::decide::Decision;
use super::dereference::task_key;
use super::lease::{self, LeaseState};
use super::status;
use crate::apply::{is_not_found, patch_metadata, patch_status};
use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::ExecutorError;
use crate::outcome::{Outcome, publish};

pub(super) async fn apply(
    restore: &RedisRestore,
    context: &Arc<Context>,
    decision: Decision,
    next: RedisRestoreStatus,
    outcome: Option<Outcome>,
) -> Result<(), ReconcileError> {
    match decision {
        Decision::Done => tidy(restore, context, next.phase).await,
        Decision::Wait { .. } | Decision::Follow { .. } => write(restore, context, &next, outcome).await,
        Decision::Begin(validated) => {
            if let LeaseState::Held { by } = lease::take(restore, context).await? {
                let message = format!("RedisRestore {by} writes to the same target");
                let wait = Decision::Wait { reason: reasons::TARGET_BUSY.to_owned(), message };
                let (next, outcome) = status::next(restore, &wait, context.now());
                return write(restore, context, &next, outcome).await;
            }
            let request = build::task(restore, *validated, context.now());
            match context.executor.start(&request).await {
                Ok(()) => write(restore, context, &next, outcome).await,
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

async fn fail(restore: &RedisRestore, context: &Context, refused: &ExecutorError) -> Result<(), ReconcileError> {
    let reason = refused.reason().to_owned();
    let decision = Decision::Fail { reason, message: refused.to_string(), is_spec: false };
    let (next, outcome) = status::next(restore, &decision, context.now());
    write(restore, context, &next, outcome).await?;
    tidy(restore, context, next.phase).await
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
    match patch_status(&api(restore, context), &name, restore.status.as_ref(), next, None).await {
        Ok(_) => {}
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
    context.executor.forget(&task_key(restore)).await?;
    lease::release(restore, context).await?;
    let word = if phase == Some(Phase::Completed) { OUTCOME_COMPLETED } else { OUTCOME_FAILED };
    match patch_metadata(&api(restore, context), &name, json!({"labels": {OUTCOME: word}})).await {
        Ok(()) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(ReconcileError::api("write", "labels")(error)),
    }
}
