//! Backups that ended: thousands of them, so only their metadata is kept. Counted, and looked at again when their user
//! changes or deletes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::run::Phase;

use super::{ReconcileError, apply, delete};
use crate::common::Unresolved;
use crate::context::Context;
use crate::metrics::PhaseLabels;

pub(super) async fn reconcile(
    metadata: Arc<PartialObjectMeta<RedisBackup>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    count_success(&metadata, &context);
    let is_deleted = metadata.metadata.deletion_timestamp.is_some();
    let has_finalizer = metadata.finalizers().iter().any(|one| one == labels::DELETE_ARTIFACTS_FINALIZER);
    // Only `deletionPolicy` and `pin` may change after the first generation.
    let was_changed = metadata.metadata.generation.is_some_and(|generation| generation > 1);
    if !(was_changed || is_deleted && has_finalizer) {
        return Ok(Action::await_change());
    }
    let name = metadata.name_any();
    let api: Api<RedisBackup> = Api::namespaced(context.client.clone(), &metadata.namespace().unwrap_or_default());
    let Some(backup) = api.get_opt(&name).await.map_err(Unresolved::read(format!("RedisBackup {name}")))? else {
        return Ok(Action::await_change());
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return delete::reconcile(&backup, &context).await;
    }
    apply::sync_finalizer(&context, &backup).await?;
    Ok(Action::await_change())
}

/// The last success of a cluster, and of a schedule, from what the object carries: so it survives a restart.
fn count_success(metadata: &PartialObjectMeta<RedisBackup>, context: &Context) {
    let is_completed =
        metadata.labels().get(labels::OUTCOME).is_some_and(|outcome| outcome == labels::OUTCOME_COMPLETED);
    let at = metadata.annotations().get(labels::COMPLETED_AT).and_then(|text| text.parse::<Timestamp>().ok());
    let (true, Some(at), Some(cluster)) = (is_completed, at, metadata.labels().get(labels::CLUSTER)) else { return };
    let namespace = metadata.namespace().unwrap_or_default();
    context.metrics.backup_succeeded(&namespace, cluster, at);
    if let Some(schedule) = metadata.labels().get(labels::SCHEDULE) {
        context.metrics.schedule_succeeded(&namespace, cluster, schedule, at);
    }
}

/// Sets the published gauge from both caches; phases and namespaces that are empty now become zero.
pub(super) fn count_phases(
    context: &Context,
    active: &Store<DeserializeGuard<RedisBackup>>,
    finished: &Store<PartialObjectMeta<RedisBackup>>,
    before: &mut HashSet<PhaseLabels>,
) {
    let mut counts: BTreeMap<(String, &'static str), i64> = BTreeMap::new();
    for backup in active.state().iter().filter_map(|guarded| guarded.0.as_ref().ok()) {
        let phase = backup.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
        *counts.entry((backup.namespace().unwrap_or_default(), phase.as_str())).or_default() += 1;
    }
    for metadata in finished.state() {
        let is_completed =
            metadata.labels().get(labels::OUTCOME).is_some_and(|outcome| outcome == labels::OUTCOME_COMPLETED);
        let phase = if is_completed { Phase::Completed } else { Phase::Failed };
        *counts.entry((metadata.namespace().unwrap_or_default(), phase.as_str())).or_default() += 1;
    }
    let now: HashSet<PhaseLabels> = counts
        .iter()
        .map(|((namespace, phase), count)| {
            let labels = PhaseLabels { namespace: namespace.clone(), phase: (*phase).to_owned() };
            context.metrics.phases.get_or_create(&labels).set(*count);
            labels
        })
        .collect();
    for gone in before.difference(&now) {
        context.metrics.phases.get_or_create(gone).set(0);
    }
    before.extend(now);
}
