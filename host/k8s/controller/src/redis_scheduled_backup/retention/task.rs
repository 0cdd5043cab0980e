//! The Prune task of a schedule. Takes a client and the executor; decides nothing.

use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::task::{KeepRules, PruneTask, SPEC_VERSION, Task, TaskSpec};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use super::LONGEST;
use crate::common::ReconcileError;
use crate::common::identity::storage_names;
use crate::common::storage::StorageAccess;
use crate::common::{Unresolved, placement};
use crate::context::Context;
use crate::executor::{ExecutorError, Purpose, TaskKey, TaskRequest, TaskState};
use crate::redis_backup::dereference_storage;
use crate::redis_scheduled_backup::build::owner;
use crate::redis_scheduled_backup::validate::cluster_name;

/// Objects that no manifest names are garbage only when they are older than any run may last: a week, and a day for clocks.
const GRACE: Duration = Duration::from_hours(8 * 24);
const RETRIES: u32 = 1;

fn key(schedule: &RedisScheduledBackup, task: &str) -> TaskKey {
    let (namespace, uid) = (schedule.namespace().unwrap_or_default(), schedule.uid().unwrap_or_default());
    TaskKey::new(&namespace, task, &uid, Purpose::Prune)
}

/// How the run of this name stands.
pub(in super::super) async fn observe(
    context: &Context,
    schedule: &RedisScheduledBackup,
    task: &str,
) -> Result<TaskState, ExecutorError> {
    context.executor.observe(&key(schedule, task)).await
}

/// Its report was read, or nobody waits for it any more.
pub(in super::super) async fn forget(
    context: &Context,
    schedule: &RedisScheduledBackup,
    task: &str,
) -> Result<(), ExecutorError> {
    context.executor.forget(&key(schedule, task)).await
}

/// Starts it. The inner error is final for this run: (reason, message).
pub(in super::super) async fn start(
    context: &Context,
    schedule: &RedisScheduledBackup,
    task: &str,
    keep: &KeepRules,
) -> Result<Result<(), (&'static str, String)>, ReconcileError> {
    match try_start(context, schedule, task, keep).await {
        Ok(()) => Ok(Ok(())),
        Err(ReconcileError::Resolve(error)) if !matches!(error, Unresolved::Read { .. }) => {
            Ok(Err((error.reason(), error.to_string())))
        }
        Err(ReconcileError::Execute(error)) if !error.retryable() => Ok(Err((error.reason(), error.to_string()))),
        Err(error) => Err(error),
    }
}

async fn try_start(
    context: &Context,
    schedule: &RedisScheduledBackup,
    task: &str,
    keep: &KeepRules,
) -> Result<(), ReconcileError> {
    let (namespace, spec) = (schedule.namespace().unwrap_or_default(), &schedule.spec.backup);
    let storage = dereference_storage(&context.client, &namespace, spec).await?;
    let request = request(context, schedule, task, keep, &storage)?;
    context.executor.start(&request).await?;
    Ok(())
}

/// Pure.
fn request(
    context: &Context,
    schedule: &RedisScheduledBackup,
    task: &str,
    keep: &KeepRules,
    storage: &StorageAccess,
) -> Result<TaskRequest, Unresolved> {
    let (namespace, spec) = (schedule.namespace().unwrap_or_default(), &schedule.spec.backup);
    let settings = &context.settings;
    let (of_namespace, cluster) = storage_names(&namespace, &cluster_name(spec))
        .map_err(|error| Unresolved::invalid("spec.source.name", error))?;
    let pod = placement::task_pod(spec.task.as_ref(), storage.service_account.as_deref(), settings)?;
    let prune = PruneTask {
        storage: storage.spec.clone(),
        namespace: Some(of_namespace),
        cluster: Some(cluster),
        keep: keep.clone(),
        // Another Kubernetes cluster may share the prefix: its backups are its own.
        origin: Some(settings.origin.clone()),
        grace_seconds: GRACE.as_secs(),
        dry_run: false,
    };
    let mut placement = pod.placement;
    placement.labels.insert(labels::SCHEDULE.to_owned(), schedule.name_any());
    placement.labels.extend(storage.name.clone().map(|name| (labels::STORAGE.to_owned(), name)));
    Ok(TaskRequest {
        key: key(schedule, task),
        owner: owner(schedule),
        purpose: Purpose::Prune,
        spec: TaskSpec { version: SPEC_VERSION, deadline: None, task: Task::Prune(prune) },
        mounts: storage.mounts.clone(),
        placement,
        deadline: Duration::try_from(LONGEST).unwrap_or_default(),
        start_deadline: settings.start_deadline,
        retries: RETRIES,
        service_account: pod.service_account,
        resources: pod.resources,
    })
}
