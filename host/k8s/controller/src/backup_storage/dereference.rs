//! Reads how a storage's tasks stand.

use kube::{Resource, ResourceExt};
use redkeep_k8s_api::backup_storage::BackupStorage;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskState};

/// How its tasks stand.
pub(super) struct Tasks {
    pub(super) probe: TaskState,
    pub(super) garbage: TaskState,
}

pub(super) async fn dereference(storage: &BackupStorage, context: &Context) -> Result<Tasks, ReconcileError> {
    let observe = async |purpose| context.executor.observe(&key(storage, purpose)).await;
    let garbage = if storage.spec.garbage.is_some() || is_clearing(storage) {
        observe(Purpose::Prune).await?
    } else {
        TaskState::Missing
    };
    Ok(Tasks { probe: observe(Purpose::Probe).await?, garbage })
}

/// Whether a removal of garbage was begun and has not ended.
pub(super) fn is_clearing(storage: &BackupStorage) -> bool {
    let garbage = storage.status.as_ref().and_then(|status| status.garbage.as_ref());
    garbage.is_some_and(|garbage| garbage.started_at.is_some() && garbage.completed_at.is_none())
}

/// The name of one of its tasks.
pub(super) fn key(storage: &BackupStorage, purpose: Purpose) -> TaskKey {
    let namespace = storage.namespace().unwrap_or_default();
    TaskKey::new(&namespace, &storage.name_any(), storage.meta().uid.as_deref().unwrap_or_default(), purpose)
}
