//! Writes: the status first, then the tasks. Whoever takes over half-way finds in the status that a task is wanted, and by its
//! name whether it is there.

use kube::{Api, ResourceExt};
use redkeep_core::classify::Classify;
use redkeep_k8s_api::backup_storage::{BackupStorage, BackupStorageStatus};
use redkeep_k8s_api::conditions::READY;

use super::build;
use super::decide::Step;
use super::dereference::key;
use super::status;
use super::validate::ValidatedStorage;
use crate::apply::{condition, is_not_found, replace_status};
use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::Purpose;
use crate::outcome::{Outcome, publish};

pub(super) async fn apply(
    storage: &BackupStorage,
    context: &Context,
    validated: Option<ValidatedStorage>,
    steps: &[Step],
    next: BackupStorageStatus,
    outcomes: Vec<Outcome>,
) -> Result<(), ReconcileError> {
    let mut next = write(storage, context, storage.status.as_ref(), next).await?;
    for outcome in &outcomes {
        publish(context, storage, outcome).await;
    }
    // What is not known yet is not shown: a storage that was never probed is no alert.
    if let Some(ready) = condition(&next.conditions, READY).filter(|ready| ready.status != "Unknown") {
        let (namespace, name) = (storage.namespace().unwrap_or_default(), storage.name_any());
        context.metrics.storage_probed(&namespace, &name, Some(ready.status == "True"));
    }
    for step in steps {
        match step {
            Step::Take { purpose, .. } | Step::Fail { purpose, .. } | Step::Remove(purpose) => {
                // Its name is needed for the next one, so it goes at once.
                context.executor.cancel(&key(storage, *purpose)).await?;
            }
            Step::Start(purpose) => {
                let Some(validated) = &validated else { continue };
                let now = context.now();
                let request = match (purpose, &validated.garbage) {
                    (Purpose::Prune, Some(garbage)) => {
                        build::garbage(storage, validated, garbage.grace, &context.settings, now)
                    }
                    (Purpose::Prune, None) => continue,
                    _ => build::probe(storage, validated, &context.settings, now),
                };
                match context.executor.start(&request).await {
                    Ok(()) => {}
                    Err(refused) if !refused.retryable() => {
                        let step = Step::Fail {
                            purpose: *purpose,
                            reason: refused.reason().to_owned(),
                            message: refused.to_string(),
                        };
                        let before = next.clone();
                        let outcome = status::take(storage, &mut next, &step, context.now());
                        next = write(storage, context, Some(&before), next).await?;
                        if let Some(outcome) = outcome {
                            publish(context, storage, &outcome).await;
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Step::Reject { .. } | Step::Follow { .. } => {}
        }
    }
    Ok(())
}

async fn write(
    storage: &BackupStorage,
    context: &Context,
    before: Option<&BackupStorageStatus>,
    next: BackupStorageStatus,
) -> Result<BackupStorageStatus, ReconcileError> {
    let api: Api<BackupStorage> = Api::namespaced(context.client.clone(), &storage.namespace().unwrap_or_default());
    let name = storage.name_any();
    match replace_status(&api, &name, before, &next, None).await {
        Ok(written) => {
            if let Some(written) = written {
                context.versions.wrote(&written);
            }
            Ok(next)
        }
        Err(error) if is_not_found(&error) => Ok(next),
        Err(error) => Err(ReconcileError::api("write", "status")(error)),
    }
}
