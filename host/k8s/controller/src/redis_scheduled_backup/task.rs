//! What the tasks share that a schedule runs besides its backups. Takes the executor; decides nothing.

use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::identifier::{ClusterName, Namespace};
use redkeep_core::task::{SPEC_VERSION, Task, TaskSpec};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use super::build::owner;
use super::validate::cluster_name;
use crate::common::identity::storage_names;
use crate::common::storage::StorageAccess;
use crate::common::{ReconcileError, Unresolved, placement};
use crate::context::Context;
use crate::executor::{Mount, Purpose, TaskKey, TaskRequest};

const RETRIES: u32 = 1;

/// The name of a run's task. Each run has one of its own: the Job of the last one is kept for a while.
pub(super) fn key(schedule: &RedisScheduledBackup, run: &str, purpose: Purpose) -> TaskKey {
    let (namespace, uid) = (schedule.namespace().unwrap_or_default(), schedule.uid().unwrap_or_default());
    TaskKey::new(&namespace, run, &uid, purpose)
}

/// How storage names the backups of a schedule.
pub(super) fn names(schedule: &RedisScheduledBackup) -> Result<(Namespace, ClusterName), Unresolved> {
    storage_names(&schedule.namespace().unwrap_or_default(), &cluster_name(&schedule.spec.backup))
        .map_err(|error| Unresolved::invalid("spec.source.name", error))
}

/// A task of a schedule's storage: pure.
pub(super) fn request(
    context: &Context,
    schedule: &RedisScheduledBackup,
    storage: &StorageAccess,
    (key, purpose, task): (TaskKey, Purpose, Task),
    mounts: impl IntoIterator<Item = Mount>,
    deadline: Duration,
) -> Result<TaskRequest, Unresolved> {
    let settings = &context.settings;
    let asked = schedule.spec.backup.task.as_ref();
    let pod = placement::task_pod(asked, storage.service_account.as_deref(), settings)?;
    let mut placement = pod.placement;
    placement.labels.insert(labels::SCHEDULE.to_owned(), schedule.name_any());
    placement.labels.extend(storage.name.clone().map(|name| (labels::STORAGE.to_owned(), name)));
    Ok(TaskRequest {
        key,
        owner: owner(schedule),
        purpose,
        spec: TaskSpec { version: SPEC_VERSION, deadline: None, task },
        mounts: storage.mounts.iter().cloned().chain(mounts).collect(),
        placement,
        deadline,
        start_deadline: settings.start_deadline,
        retries: RETRIES,
        service_account: pod.service_account,
        resources: pod.resources,
        server: None,
    })
}

/// Starts what was resolved. The inner error is final for this run: (reason, message).
pub(super) async fn start(
    context: &Context,
    resolved: Result<TaskRequest, Unresolved>,
) -> Result<Result<(), (&'static str, String)>, ReconcileError> {
    let request = match resolved {
        Ok(request) => request,
        Err(error @ Unresolved::Read { .. }) => return Err(error.into()),
        Err(error) => return Ok(Err((error.reason(), error.to_string()))),
    };
    match context.executor.start(&request).await {
        Ok(()) => Ok(Ok(())),
        Err(error) if error.retryable() => Err(error.into()),
        Err(error) => Ok(Err((error.reason(), error.to_string()))),
    }
}
