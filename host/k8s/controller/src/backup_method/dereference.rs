//! Reads how a method's task stands.

use kube::ResourceExt;
use redkeep_k8s_api::backup_method::BackupMethod;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskState};
use crate::settings::Settings;

pub(super) async fn dereference(method: &BackupMethod, context: &Context) -> Result<TaskState, ReconcileError> {
    Ok(context.executor.observe(&key(method, &context.settings)).await?)
}

/// What its task is called.
pub(super) fn task_name(method: &BackupMethod) -> String {
    TaskKey::new("", &method.name_any(), &method.uid().unwrap_or_default(), Purpose::Load).name
}

/// The key of its task, which runs where the operator does: there its Secrets are.
pub(super) fn key(method: &BackupMethod, settings: &Settings) -> TaskKey {
    let uid = method.uid().unwrap_or_default();
    TaskKey::new(&settings.operator_namespace, &method.name_any(), &uid, Purpose::Load)
}
