//! Reads how a method's task stands.

use kube::ResourceExt;
use redkeep_k8s_api::backup_method::BackupMethod;

use super::MethodError;
use crate::context::Context;
use crate::executor::{Purpose, TaskKey, TaskState};
use crate::settings::Settings;

pub(super) async fn dereference(method: &BackupMethod, context: &Context) -> Result<TaskState, MethodError> {
    let state = context.executor.observe(&key(method, &context.settings)).await;
    state.map_err(|source| MethodError::Task { name: method.name_any(), source })
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
