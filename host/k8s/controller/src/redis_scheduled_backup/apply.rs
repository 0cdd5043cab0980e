//! Writes of the schedule controller. Takes a client; decides nothing.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use redkeep_core::task::Outcome as TaskOutcome;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_scheduled_backup::{RedisScheduledBackup, RedisScheduledBackupStatus};
use redkeep_k8s_api::run::Phase;
use serde_json::json;

use super::children::Child;
use crate::apply::{
    FIELD_MANAGER, is_conflict, is_namespace_terminating, is_not_found, patch_metadata, replace_status,
};
use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskState};
use crate::redis_backup::pin_is_due;

/// What became of a creation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Created {
    /// There is a new run.
    New(Box<RedisBackup>),
    /// This schedule made it before, and did not get to say so.
    Ours(Box<RedisBackup>),
    /// Somebody else's object has the name.
    Foreign,
    /// The namespace is going away.
    Terminating,
}

fn backups(context: &Context, namespace: &str) -> Api<RedisBackup> {
    Api::namespaced(context.client.clone(), namespace)
}

fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    ReconcileError::api("write", what)
}

/// Creates the run of a slot. One that exists is ours only if it has our uid as its controller: a schedule that was deleted
/// and made again has the same name.
pub(super) async fn create(
    context: &Context,
    namespace: &str,
    child: &RedisBackup,
    owner: &str,
) -> Result<Created, ReconcileError> {
    let api = backups(context, namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let error = match api.create(&parameters, child).await {
        Ok(created) => return Ok(Created::New(Box::new(created))),
        Err(error) => error,
    };
    if is_namespace_terminating(&error) {
        return Ok(Created::Terminating);
    }
    if !matches!(&error, kube::Error::Api(status) if status.is_already_exists()) {
        return Err(failed("run of a slot")(error));
    }
    let name = child.name_any();
    let Some(existing) = api.get_opt(&name).await.map_err(failed("run of a slot"))? else {
        // Deleted between both calls: it had run.
        return Ok(Created::Foreign);
    };
    let is_ours = existing.owner_references().iter().any(|one| one.controller == Some(true) && one.uid == owner);
    Ok(if is_ours { Created::Ours(Box::new(existing)) } else { Created::Foreign })
}

/// How often a deletion that meets a change is tried again.
const TRIES: usize = 5;

/// Cancels a run that goes on: its Job goes with the object. True when it was. One whose backup is complete stays, whether or not
/// its status says so yet. Artifacts are never deleted: what is whole is a backup, the rest is garbage that retention removes.
pub(super) async fn cancel(
    context: &Context,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<bool, ReconcileError> {
    let api = backups(context, namespace);
    let mut last = None;
    for _ in 0..TRIES {
        let found = api.get_opt(name).await.map_err(ReconcileError::api("read", "run to be replaced"))?;
        let Some(run) = found.filter(|run| uid.is_none() || run.metadata.uid.as_deref() == uid) else {
            return Ok(false);
        };
        let uid = run.uid().unwrap_or_default();
        let has_ended = run.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_terminal);
        let task = context.executor.observe(&TaskKey::new(namespace, name, &uid, Purpose::Backup)).await?;
        if has_ended || matches!(&task, TaskState::Ended { report, .. } if report.outcome == TaskOutcome::Done) {
            return Ok(false);
        }
        let metadata = json!({
            "annotations": {labels::KEEP_ARTIFACTS: "true"}, "uid": uid, "resourceVersion": run.resource_version(),
        });
        let marked = patch_metadata(&api, name, metadata).await;
        let preconditions = Preconditions { uid: Some(uid), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let deleted = match marked {
            Ok(_) => api.delete(name, &parameters).await.map(drop),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => return Ok(true),
            Err(error) if is_not_found(&error) => return Ok(false),
            // It may have been its end that was written.
            Err(error) if is_conflict(&error) => last = Some(error),
            Err(error) => return Err(failed("deletion of a run")(error)),
        }
    }
    last.map_or(Ok(false), |error| Err(failed("deletion of a run")(error)))
}

/// Lets go of the object of a run that ended, exactly as it was when it was decided upon; its artifacts stay. One whose pin storage
/// does not have yet stays too, for with the object the wish would go, and then retention takes what was to be kept.
pub(super) async fn forget_run(
    context: &Context,
    namespace: &str,
    name: &str,
    child: &Child,
) -> Result<(), ReconcileError> {
    let api = backups(context, namespace);
    let (mut version, mut has_finalizer) = (Some(child.version.clone()), child.has_finalizer);
    if child.was_edited || child.pin_note.is_some() {
        let found = api.get_opt(name).await.map_err(ReconcileError::api("read", "run that ended"))?;
        let Some(run) = found.filter(|run| run.metadata.uid.as_deref() == Some(child.uid.as_str())) else {
            return Ok(());
        };
        if pin_is_due(&run) {
            return Ok(());
        }
        version = run.resource_version();
        // Of the same version as all that is decided by it: with a finalizer and no word the artifacts would go.
        has_finalizer = run.finalizers().iter().any(|one| one == labels::DELETE_ARTIFACTS_FINALIZER);
    }
    if !has_finalizer {
        return delete(context, namespace, name, &child.uid, version).await;
    }
    // The finalizer's work is a user's wish; a limit on history is none.
    let metadata = json!({
        "annotations": {labels::KEEP_ARTIFACTS: "true"}, "uid": child.uid, "resourceVersion": version,
    });
    match patch_metadata(&api, name, metadata).await {
        Ok(written) => delete(context, namespace, name, &child.uid, written.resource_version()).await,
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
        Err(error) => Err(failed("annotation of a run")(error)),
    }
}

async fn delete(
    context: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    version: Option<String>,
) -> Result<(), ReconcileError> {
    let mut parameters = DeleteParams::background();
    parameters.preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: version });
    match backups(context, namespace).delete(name, &parameters).await {
        Ok(_) => Ok(()),
        // Gone, or not as it was: what it is now is decided upon when the watch says so.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(failed("deletion of a run")(error)),
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It stands there now.
    Yes,
    /// It stood there already.
    Same,
    /// It was derived from an older version of the object: nothing was written.
    Outdated,
}

/// Writes a status that was derived from this very version of the object, or not at all.
pub(super) async fn write_status(
    context: &Context,
    schedule: &RedisScheduledBackup,
    next: &RedisScheduledBackupStatus,
) -> Result<Written, ReconcileError> {
    let namespace = schedule.namespace().unwrap_or_default();
    let api: Api<RedisScheduledBackup> = Api::namespaced(context.client.clone(), &namespace);
    let (name, version) = (schedule.name_any(), schedule.resource_version());
    match replace_status(&api, &name, schedule.status.as_ref(), next, version.as_deref()).await {
        Ok(Some(written)) => {
            context.versions.wrote(&written);
            Ok(Written::Yes)
        }
        Ok(None) => Ok(Written::Same),
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Written::Outdated),
        Err(error) => Err(failed("status")(error)),
    }
}
