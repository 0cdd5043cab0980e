//! The Verify task of a schedule. Takes a client and the executor; decides nothing.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use redkeep_core::task::{BackupSelector, Task, VerifyTask};
use redkeep_k8s_api::common::Verification;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use crate::common::keys::decryption;
use crate::common::method::{self, MethodAccess};
use crate::common::server;
use crate::common::storage::StorageAccess;
use crate::common::{ReconcileError, Unresolved};
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskRequest};
use crate::places::User;
use crate::redis_backup::dereference_storage;
use crate::redis_scheduled_backup::task;

const SHORTEST: Duration = Duration::from_secs(600);

/// The task of the run that began then.
pub(in super::super) fn key(schedule: &RedisScheduledBackup, started: Timestamp) -> TaskKey {
    let run = format!("{}-{}", schedule.name_any(), started.as_second());
    task::key(schedule, &run, Purpose::Verify)
}

/// How long one may take; as long as the backup may.
pub(in super::super) fn longest(schedule: &RedisScheduledBackup) -> Duration {
    SHORTEST.max(Duration::from_secs(u64::try_from(schedule.spec.backup.active_deadline_seconds).unwrap_or(0)))
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
        let name = user(schedule, started);
        if context.places.take(User { name: &name, since: started }, &namespace, &storage, context.now()).is_err() {
            return Ok(None);
        }
        let method = method::reader(&context.client, &schedule.spec.backup.method, &context.settings).await?;
        let request = request(context, schedule, started, verification, &storage, method)?;
        let (cluster, account) = (schedule.spec.backup.cluster_name.as_deref(), request.service_account.as_deref());
        let server =
            server::resolve(&context.client, &namespace, verification, cluster, account, &context.settings).await?;
        Ok::<_, Unresolved>(Some(request.beside(server)))
    };
    match resolved.await.transpose() {
        Some(resolved) => task::start(context, resolved).await,
        // Others use the storage as much as they may: the next look tries again.
        None => Ok(Ok(())),
    }
}

/// Under this it has its place in the storage.
fn user(schedule: &RedisScheduledBackup, started: Timestamp) -> String {
    key(schedule, started).to_string()
}

/// It goes on, and keeps its place in the storage.
pub(in super::super) fn keep_place(context: &Context, schedule: &RedisScheduledBackup, started: Timestamp) {
    let storage = schedule.spec.backup.storage_ref.as_ref().map(|storage| storage.name.as_str());
    let namespace = schedule.namespace().unwrap_or_default();
    context.places.keep(&user(schedule, started), &namespace, storage, context.now());
}

/// It ended.
pub(in super::super) fn release_place(context: &Context, schedule: &RedisScheduledBackup, started: Timestamp) {
    context.places.release(&user(schedule, started));
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
    let (namespace, cluster) = task::names(schedule)?;
    let (keys, key_mounts) = decryption(verification.decryption.as_ref());
    let verify = Task::Verify(VerifyTask {
        storage: storage.spec.clone(),
        backup: BackupSelector {
            backup: "latest".to_owned(),
            cluster: Some(cluster),
            namespace: Some(namespace),
            before: None,
            // As with retention: a result must not be written beside a backup of another Kubernetes cluster, nor stand for ours.
            origin: Some(context.settings.origin.clone()),
        },
        level: verification.level.into(),
        method: method.spec,
        keys,
        record: true,
        server: None,
    });
    let mounts = key_mounts.into_iter().chain(method.mounts);
    let what = (key(schedule, started), Purpose::Verify, verify);
    task::request(context, schedule, storage, what, mounts, longest(schedule))
}
