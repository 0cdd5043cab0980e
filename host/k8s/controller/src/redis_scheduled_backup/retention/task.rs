//! The Prune task of a schedule. Takes a client and the executor; decides nothing.

use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::task::{KeepRules, PruneTask, Task};
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use super::LONGEST;
use crate::common::storage::StorageAccess;
use crate::common::{ReconcileError, Unresolved};
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskRequest};
use crate::redis_backup::dereference_storage;
use crate::redis_scheduled_backup::task;

/// Objects that no manifest names are garbage only when they are older than any run may last: a week, and a day for clocks.
const GRACE: Duration = Duration::from_hours(8 * 24);

/// The task of the run of this name.
pub(in super::super) fn key(schedule: &RedisScheduledBackup, run: &str) -> TaskKey {
    task::key(schedule, run, Purpose::Prune)
}

/// Starts it. The inner error is final for this run: (reason, message).
pub(in super::super) async fn start(
    context: &Context,
    schedule: &RedisScheduledBackup,
    run: &str,
    keep: &KeepRules,
) -> Result<Result<(), (&'static str, String)>, ReconcileError> {
    let namespace = schedule.namespace().unwrap_or_default();
    let storage = dereference_storage(&context.client, &namespace, &schedule.spec.backup).await;
    task::start(context, storage.and_then(|storage| request(context, schedule, run, keep, &storage))).await
}

/// Pure.
fn request(
    context: &Context,
    schedule: &RedisScheduledBackup,
    run: &str,
    keep: &KeepRules,
    storage: &StorageAccess,
) -> Result<TaskRequest, Unresolved> {
    let (namespace, cluster) = task::names(schedule)?;
    let prune = Task::Prune(PruneTask {
        storage: storage.spec.clone(),
        namespace: Some(namespace),
        cluster: Some(cluster),
        keep: keep.clone(),
        // Another Kubernetes cluster may share the prefix: its backups are its own.
        origin: Some(context.settings.origin.clone()),
        grace_seconds: GRACE.as_secs(),
        as_of: Some(context.now()),
        dry_run: false,
    });
    let deadline = Duration::try_from(LONGEST).unwrap_or_default();
    task::request(context, schedule, storage, (key(schedule, run), Purpose::Prune, prune), [], deadline)
}
