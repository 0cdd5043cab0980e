//! What is written for a RedisBackup: status, labels, finalizer. Takes a client.

use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_core::classify::chain;
use redkeep_k8s_api::common::DeletionPolicy;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupStatus};
use redkeep_k8s_api::run::Phase;
use serde_json::{Value, json};

use super::pin;
use crate::apply::{is_conflict, is_namespace_terminating, patch_metadata, replace_status};
use crate::common::{ReconcileError, label};
use crate::context::Context;

pub(super) fn api(context: &Context, backup: &RedisBackup) -> Api<RedisBackup> {
    Api::namespaced(context.client.clone(), &backup.namespace().unwrap_or_default())
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It stands there now.
    Yes,
    /// It stood there already.
    Same,
    /// What it was derived from was out of date: the object is looked at again as soon as the newer one is here.
    Outdated,
}

/// Writes a status that was derived from this very version of the object, or not at all.
pub(super) async fn write_status(
    context: &Context,
    backup: &RedisBackup,
    next: &RedisBackupStatus,
) -> Result<Written, ReconcileError> {
    let version = backup.resource_version();
    let name = backup.name_any();
    match replace_status(&api(context, backup), &name, backup.status.as_ref(), next, version.as_deref()).await {
        Ok(Some(written)) => {
            context.versions.wrote(&written);
            Ok(Written::Yes)
        }
        Ok(None) => Ok(Written::Same),
        Err(error) if is_conflict(&error) => Ok(Written::Outdated),
        Err(error) => Err(ReconcileError::api("write", "status")(error)),
    }
}

/// Puts the finalizer there exactly while the artifacts are to go with the object. True when it had to be changed.
pub(super) async fn sync_finalizer(context: &Context, backup: &RedisBackup) -> Result<bool, ReconcileError> {
    let wanted = backup.spec.deletion_policy == DeletionPolicy::Delete;
    if has_finalizer(backup) == wanted {
        return Ok(false);
    }
    set_finalizer(context, backup, wanted).await?;
    Ok(true)
}

pub(super) fn has_finalizer(backup: &RedisBackup) -> bool {
    backup.finalizers().iter().any(|finalizer| finalizer == labels::DELETE_ARTIFACTS_FINALIZER)
}

/// Lets the object go. False where it changed meanwhile, and is still held.
pub(super) async fn release(context: &Context, backup: &RedisBackup) -> Result<bool, ReconcileError> {
    set_finalizer(context, backup, false).await
}

async fn set_finalizer(context: &Context, backup: &RedisBackup, wanted: bool) -> Result<bool, ReconcileError> {
    let mut finalizers = backup.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != labels::DELETE_ARTIFACTS_FINALIZER);
    if wanted {
        finalizers.push(labels::DELETE_ARTIFACTS_FINALIZER.to_owned());
    }
    // A merge patch replaces the list: with the version, so that nobody else's finalizer is lost.
    let metadata = json!({"finalizers": finalizers, "resourceVersion": backup.resource_version()});
    write_metadata(context, backup, "finalizer", metadata).await
}

/// Marks a run that ended, so that metadata is enough to count, to prune and to forget it.
pub(super) async fn mark_ended(
    context: &Context,
    backup: &RedisBackup,
    phase: Phase,
    completed: Option<Timestamp>,
    verified: Option<&str>,
) -> Result<(), ReconcileError> {
    let outcome = if phase == Phase::Completed { labels::OUTCOME_COMPLETED } else { labels::OUTCOME_FAILED };
    let cluster = backup.status.as_ref().and_then(|status| status.cluster.as_deref());
    let mut metadata = json!({"labels": {labels::OUTCOME: outcome}});
    // Whoever made the object may have written another one. A name that can be no label is left to the status.
    metadata["labels"][labels::CLUSTER] = json!(cluster.and_then(label::value));
    if let Some(verified) = verified {
        metadata["labels"][labels::VERIFIED] = json!(verified);
    }
    if let Some(completed) = completed {
        metadata["annotations"] = json!({labels::COMPLETED_AT: completed.to_string()});
    }
    // The task pinned it as the spec was when it began, which nobody knows of a spec that has changed since. Said once: whatever
    // is pinned by hand later stays so.
    if phase == Phase::Completed && !backup.labels().contains_key(labels::OUTCOME) {
        let never_changed = backup.metadata.generation.is_none_or(|generation| generation == 1);
        match (never_changed, backup.spec.pin) {
            (true, true) => metadata["annotations"][labels::PINNED] = json!("true"),
            (true, false) => {}
            (false, _) => metadata["annotations"][labels::PINNED] = json!(pin::CHANGING),
        }
    }
    match write_metadata(context, backup, "labels", metadata.clone()).await {
        // Without the outcome the object would never leave those that are looked at, and its schedule would wait for it.
        Err(error) if is_refused(&error) => {
            tracing::warn!(
                backup = backup.name_any(),
                error = chain(&error),
                "a label was refused; only the outcome is written"
            );
            metadata["labels"] = json!({labels::OUTCOME: outcome});
            write_metadata(context, backup, "outcome", metadata).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// Whether the API server takes what was written for wrong, and would each time.
fn is_refused(error: &ReconcileError) -> bool {
    match error {
        ReconcileError::Api { source, .. } => matches!(&**source, kube::Error::Api(status) if status.code == 422),
        _ => false,
    }
}

/// Says that a backup is complete whose verification goes on.
pub(super) async fn mark_completed(
    context: &Context,
    backup: &RedisBackup,
    completed: Option<Timestamp>,
) -> Result<(), ReconcileError> {
    match completed {
        Some(completed) if !backup.annotations().contains_key(labels::COMPLETED_AT) => {
            let metadata = json!({"annotations": {labels::COMPLETED_AT: completed.to_string()}});
            write_metadata(context, backup, "completion", metadata).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Notes what the backup in storage is: pinned, not pinned, or gone.
pub(super) async fn note_pin(context: &Context, backup: &RedisBackup, value: &str) -> Result<(), ReconcileError> {
    let metadata = json!({"annotations": {labels::PINNED: value}});
    write_metadata(context, backup, "annotation", metadata).await.map(drop)
}

/// Whether the namespace is being deleted: no task can run there any more. The API server says so of whatever would be created.
pub(super) async fn namespace_is_terminating(context: &Context, backup: &RedisBackup) -> Result<bool, ReconcileError> {
    let mut asked = RedisBackup::new("", backup.spec.clone());
    asked.metadata = ObjectMeta { generate_name: Some("is-terminating-".to_owned()), ..ObjectMeta::default() };
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match api(context, backup).create(&parameters, &asked).await {
        Err(error) if is_namespace_terminating(&error) => Ok(true),
        Ok(_) | Err(kube::Error::Api(_)) => Ok(false),
        Err(error) => Err(ReconcileError::api("read", "state of the namespace")(error)),
    }
}

/// False where what it was derived from was out of date: the next look, which the change asks for, writes it.
async fn write_metadata(
    context: &Context,
    backup: &RedisBackup,
    what: &'static str,
    mut metadata: Value,
) -> Result<bool, ReconcileError> {
    // Never onto another object that has its name by now.
    metadata["uid"] = json!(backup.uid());
    match patch_metadata(&api(context, backup), &backup.name_any(), metadata).await {
        Ok(written) => {
            context.versions.wrote(&written);
            Ok(true)
        }
        Err(error) if crate::apply::is_not_found(&error) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(ReconcileError::api("write", what)(error)),
    }
}
