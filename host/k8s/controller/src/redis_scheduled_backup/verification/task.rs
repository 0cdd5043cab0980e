//! The Verify task of a schedule. Takes a client and the executor; decides nothing.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::task::{BackupSelector, SPEC_VERSION, Task, TaskSpec, VerifyTask};
use redkeep_k8s_api::common::Verification;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use crate::common::ReconcileError;
use crate::common::identity::storage_names;
use crate::common::keys::decryption;
use crate::common::method::{self, MethodAccess};
use crate::common::storage::StorageAccess;
use crate::common::{Unresolved, placement};
use crate::context::Context;
use crate::executor::{ExecutorError, Purpose, TaskKey, TaskRequest, TaskState};
use crate::redis_backup::dereference_storage;
use crate::redis_scheduled_backup::build::owner;
use crate::redis_scheduled_backup::validate::cluster_name;

const RETRIES: u32 = 1;
const SHORTEST: Duration = Duration::from_secs(600);

/// A name of its own for each run: the Job of the last one is kept for a while.
fn key(schedule: &RedisScheduledBackup, started: Timestamp) -> TaskKey {
    let (namespace, uid) = (schedule.namespace().unwrap_or_default(), schedule.uid().unwrap_or_default());
    let name = format!("{}-{}", schedule.name_any(), started.as_second().div_euclid(60));
    TaskKey::new(&namespace, &name, &uid, Purpose::Verify)
}

/// How long one may take; as long as the backup may.
pub(in super::super) fn longest(schedule: &RedisScheduledBackup) -> Duration {
    SHORTEST.max(Duration::from_secs(u64::try_from(schedule.spec.backup.active_deadline_seconds).unwrap_or(0)))
}

/// How the run that began then stands.
pub(in super::super) async fn observe(
    context: &Context,
    schedule: &RedisScheduledBackup,
    started: Timestamp,
) -> Result<TaskState, ExecutorError> {
    context.executor.observe(&key(schedule, started)).await
}

/// Its report was read.
pub(in super::super) async fn forget(
    context: &Context,
    schedule: &RedisScheduledBackup,
    started: Timestamp,
) -> Result<(), ExecutorError> {
    context.executor.forget(&key(schedule, started)).await
}

/// Starts it. The inner error is final for this run: (reason, message).
pub(in super::super) async fn start(
    context: &Context,
    schedule: &RedisScheduledBackup,
    started: Timestamp,
    verification: &Verification,
) -> Result<Result<(), (&'static str, String)>, ReconcileError> {
    let namespace = schedule.namespace().unwrap_or_default();
    let resolved = async {
        let storage = dereference_storage(&context.client, &namespace, &schedule.spec.backup).await?;
        let method = method::reader(&context.client, &schedule.spec.backup.method, &context.settings).await?;
        request(context, schedule, started, verification, &storage, method)
    };
    let request = match resolved.await {
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

/// Pure.
fn request(
    context: &Context,
    schedule: &RedisScheduledBackup,
    started: Timestamp,
    verification: &Verification,
    storage: &StorageAccess,
    method: MethodAccess,
) -> Result<TaskRequest, Unresolved> {
    let (namespace, spec) = (schedule.namespace().unwrap_or_default(), &schedule.spec.backup);
    let settings = &context.settings;
    let (of_namespace, cluster) = storage_names(&namespace, &cluster_name(spec))
        .map_err(|error| Unresolved::invalid("spec.source.name", error))?;
    let pod = placement::task_pod(spec.task.as_ref(), storage.service_account.as_deref(), settings)?;
    let (keys, key_mounts) = decryption(verification.decryption.as_ref());
    let verify = VerifyTask {
        storage: storage.spec.clone(),
        backup: BackupSelector {
            backup: "latest".to_owned(),
            cluster: Some(cluster),
            namespace: Some(of_namespace),
            before: None,
        },
        level: verification.level.into(),
        method: method.spec,
        keys,
        record: true,
    };
    let mut placement = pod.placement;
    placement.labels.insert(labels::SCHEDULE.to_owned(), schedule.name_any());
    placement.labels.extend(storage.name.clone().map(|name| (labels::STORAGE.to_owned(), name)));
    let mut mounts = storage.mounts.clone();
    mounts.extend(key_mounts);
    mounts.extend(method.mounts);
    Ok(TaskRequest {
        key: key(schedule, started),
        owner: owner(schedule),
        purpose: Purpose::Verify,
        spec: TaskSpec { version: SPEC_VERSION, deadline: None, task: Task::Verify(verify) },
        mounts,
        placement,
        deadline: longest(schedule),
        start_deadline: settings.start_deadline,
        retries: RETRIES,
        service_account: pod.service_account,
        resources: pod.resources,
    })
}
