//! Writes: the status first, then the task. Whoever takes over half-way finds in the status that a task is wanted, and by its
//! name whether it is there.

use kube::{Api, ResourceExt};
use redkeep_core::classify::Classify;
use redkeep_k8s_api::backup_method::{BackupMethod, BackupMethodStatus};
use redkeep_k8s_api::conditions::READY;

use super::decide::Step;
use super::dereference::key;
use super::{build, status};
use crate::apply::{condition, is_not_found, patch_status};
use crate::common::ReconcileError;
use crate::common::method::MethodAccess;
use crate::context::Context;
use crate::outcome::{Outcome, publish};
use redkeep_core::classify::chain;

pub(super) async fn apply(
    method: &BackupMethod,
    context: &Context,
    validated: Option<MethodAccess>,
    step: Step,
    next: BackupMethodStatus,
    outcome: Option<Outcome>,
) -> Result<(), ReconcileError> {
    write(method, context, method.status.as_ref(), &next, outcome).await?;
    match step {
        // Its name is needed for the next one, so it goes at once.
        Step::Take { .. } | Step::Fail { .. } | Step::Remove => {
            context.executor.cancel(&key(method, &context.settings)).await.map_err(ReconcileError::from)
        }
        Step::Start => {
            let Some(access) = validated else { return Ok(()) };
            let request = build::load(method, access, &context.settings, context.now());
            match context.executor.start(&request).await {
                Ok(()) => Ok(()),
                Err(refused) if !refused.retryable() => {
                    let step = Step::Fail { reason: refused.reason().to_owned(), message: chain(&refused) };
                    let mut begun = method.clone();
                    begun.status = Some(next.clone());
                    let (failed, outcome) = status::next(&begun, &step, &context.settings.image, context.now());
                    write(method, context, Some(&next), &failed, outcome).await
                }
                Err(error) => Err(error.into()),
            }
        }
        Step::Rest | Step::Reject { .. } | Step::Follow { .. } => Ok(()),
    }
}

async fn write(
    method: &BackupMethod,
    context: &Context,
    before: Option<&BackupMethodStatus>,
    next: &BackupMethodStatus,
    outcome: Option<Outcome>,
) -> Result<(), ReconcileError> {
    let (api, name) = (Api::<BackupMethod>::all(context.client.clone()), method.name_any());
    match patch_status(&api, &name, before, next, None).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(ReconcileError::api("write", "status")(error)),
    }
    if let Some(outcome) = &outcome {
        publish(context, method, outcome).await;
    }
    // What is not known yet is not shown: a method that was never registered is no alert.
    if let Some(ready) = condition(&next.conditions, READY).filter(|ready| ready.status != "Unknown") {
        context.metrics.method_registered(&method.name_any(), Some(ready.status == "True"));
    }
    Ok(())
}
