//! One Lease for each target: two restores never write to the same Redis at once.
//!
//! Held until the restore ended, however long that takes: not a time frees it but the end of its holder, and of every pod that was
//! made for the target. A pod outlives its restore's object for its grace period, and on a lost node for longer.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use redkeep_k8s_api::labels::{PART_OF, PART_OF_VALUE, RESTORE, RESTORE_TARGET};
use redkeep_k8s_api::redis_restore::{RedisRestore, RestoreTarget};
use redkeep_k8s_api::run::Phase;

use crate::apply::{is_conflict, is_not_found};
use crate::common::{ReconcileError, digest};
use crate::context::Context;

/// Who may write a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// Nobody has it, or one whose restore ended.
    Free,
    /// This restore.
    Ours,
    /// Another restore that has not ended.
    Held {
        /// Its name.
        by: String,
    },
}

/// `redkeep-restore-` and a digest of how the spec names the target.
pub(super) fn name(target: &RestoreTarget) -> String {
    let said = serde_json::to_vec(target).unwrap_or_default();
    format!("redkeep-restore-{}", digest::short(&said))
}

fn failed(act: &'static str, lease: &str) -> impl FnOnce(kube::Error) -> ReconcileError {
    ReconcileError::api(act, format!("Lease {lease} of the restore's target"))
}

fn api(restore: &RedisRestore, context: &Context) -> Api<Lease> {
    Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default())
}

/// Who has the target's Lease.
pub(super) async fn look(restore: &RedisRestore, context: &Context) -> Result<LeaseState, ReconcileError> {
    let name = name(&restore.spec.target);
    let found = api(restore, context).get_opt(&name).await.map_err(failed("read", &name))?;
    state(found.as_ref(), restore, context).await
}

/// Free, unless a pod of an earlier restore may still write there.
async fn free_or_written(restore: &RedisRestore, context: &Context) -> Result<LeaseState, ReconcileError> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default());
    let name = name(&restore.spec.target);
    let of_target = ListParams::default().labels(&format!("{RESTORE_TARGET}={name}"));
    let found = pods.list(&of_target).await.map_err(failed("find pods that write under", &name))?;
    let writer = found.items.iter().find(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(writer
        .map_or(LeaseState::Free, |pod| LeaseState::Held { by: format!("whose pod {} has not ended", pod.name_any()) }))
}

async fn state(lease: Option<&Lease>, restore: &RedisRestore, context: &Context) -> Result<LeaseState, ReconcileError> {
    let Some(lease) = lease else { return free_or_written(restore, context).await };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if holder.is_empty() {
        return Ok(LeaseState::Free);
    }
    if Some(holder) == restore.meta().uid.as_deref() {
        return Ok(LeaseState::Ours);
    }
    let by = lease.labels().get(RESTORE).cloned().unwrap_or_default();
    let restores: Api<RedisRestore> = Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default());
    let other = restores.get_opt(&by).await.map_err(failed("find the holder of", &lease.name_any()))?;
    let is_live = other.is_some_and(|other| {
        let is_over = other.status.and_then(|status| status.phase).is_some_and(Phase::is_terminal);
        other.metadata.uid.as_deref() == Some(holder) && !is_over
    });
    if is_live { Ok(LeaseState::Held { by }) } else { free_or_written(restore, context).await }
}

/// Takes the Lease; whether this restore has it now.
pub(super) async fn take(restore: &RedisRestore, context: &Context) -> Result<LeaseState, ReconcileError> {
    let api = api(restore, context);
    let mut wanted = lease_of(restore, context);
    let name = wanted.name_any();
    let found = api.get_opt(&name).await.map_err(failed("read", &name))?;
    let before = state(found.as_ref(), restore, context).await?;
    if before != LeaseState::Free {
        return Ok(before);
    }
    let written = match found {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(found) => {
            // With the version that was looked at: whoever was faster has it.
            wanted.metadata.resource_version = found.metadata.resource_version;
            api.replace(&name, &PostParams::default(), &wanted).await
        }
    };
    match written {
        Ok(_) => Ok(LeaseState::Ours),
        Err(kube::Error::Api(status))
            if matches!(status.reason.as_str(), "AlreadyExists" | "Conflict" | "NotFound") =>
        {
            Ok(LeaseState::Held { by: "that was faster".to_owned() })
        }
        Err(error) => Err(failed("take", &name)(error)),
    }
}

fn lease_of(restore: &RedisRestore, context: &Context) -> Lease {
    let labels = [(PART_OF.to_owned(), PART_OF_VALUE.to_owned()), (RESTORE.to_owned(), restore.name_any())];
    Lease {
        metadata: ObjectMeta {
            name: Some(name(&restore.spec.target)),
            namespace: restore.namespace(),
            labels: Some(labels.into()),
            owner_references: restore.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: restore.uid(),
            acquire_time: Some(MicroTime(context.now())),
            ..LeaseSpec::default()
        }),
    }
}

/// Gives the Lease back. One that another restore has by now is left alone.
pub(super) async fn release(restore: &RedisRestore, context: &Context) -> Result<(), ReconcileError> {
    let (api, name) = (api(restore, context), name(&restore.spec.target));
    let Some(lease) = api.get_opt(&name).await.map_err(failed("read", &name))? else { return Ok(()) };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    if holder != restore.meta().uid.as_deref() {
        return Ok(());
    }
    let preconditions = Preconditions { resource_version: lease.resource_version(), uid: lease.uid() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(failed("release", &name)(error)),
    }
}
