//! Backups that ended: counted, and looked at again when their user changes or deletes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::run::Phase;

use super::ended::{Ended, Index, Verified};
use super::{apply, decide, delete, pin};
use crate::common::ReconcileError;
use crate::common::Unresolved;
use crate::common::overdue::{self, OVERDUE_AFTER};
use crate::context::Context;
use crate::metrics::{PhaseLabels, RunLabels};

/// Hears what the watch says: everything is counted, and what a user touched is looked at.
pub(super) fn note(event: &Event<PartialObjectMeta<RedisBackup>>, index: &Index, context: &Context) -> bool {
    index.take(event);
    let (Event::Apply(metadata) | Event::InitApply(metadata)) = event else { return false };
    count_success(metadata, context);
    is_touched(metadata)
}

/// Whether its user changed or deleted it.
pub(super) fn is_touched(metadata: &PartialObjectMeta<RedisBackup>) -> bool {
    let is_deleted = metadata.metadata.deletion_timestamp.is_some();
    let has_finalizer = metadata.finalizers().iter().any(|one| one == labels::DELETE_ARTIFACTS_FINALIZER);
    // Only `deletionPolicy` and `pin` may change after the first generation.
    let was_changed = metadata.metadata.generation.is_some_and(|generation| generation > 1);
    was_changed || is_deleted && has_finalizer
}

/// Looks at one that its user touched.
pub(super) async fn reconcile(
    metadata: Arc<PartialObjectMeta<RedisBackup>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let name = metadata.name_any();
    let api: Api<RedisBackup> = Api::namespaced(context.client.clone(), &metadata.namespace().unwrap_or_default());
    let Some(backup) = api.get_opt(&name).await.map_err(Unresolved::read(format!("RedisBackup {name}")))? else {
        return Ok(Action::await_change());
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return delete::reconcile(&backup, &context).await;
    }
    apply::sync_finalizer(&context, &backup).await?;
    pin::reconcile(&backup, &context).await
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

type Active = Arc<DeserializeGuard<RedisBackup>>;

/// What was counted before: phases and namespaces that are empty now become zero.
#[derive(Default)]
pub(super) struct Counted {
    phases: HashSet<PhaseLabels>,
    overdue: HashSet<RunLabels>,
}

/// Sets the gauges that are counts of objects, from both caches.
pub(super) fn count(context: &Context, active: &[Active], finished: &Index, now: Timestamp, before: &mut Counted) {
    count_phases(context, active, finished, &mut before.phases);
    count_overdue(context, active, now, &mut before.overdue);
    count_verifications(context, finished);
}

fn count_phases(context: &Context, active: &[Active], finished: &Index, before: &mut HashSet<PhaseLabels>) {
    let mut counts: BTreeMap<(String, &'static str), i64> = BTreeMap::new();
    for backup in active.iter().filter_map(|guarded| guarded.0.as_ref().ok()) {
        let phase = backup.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
        *counts.entry((backup.namespace().unwrap_or_default(), phase.as_str())).or_default() += 1;
    }
    finished.each(|key, ended| {
        let phase = if ended.is_completed { Phase::Completed } else { Phase::Failed };
        *counts.entry((key.namespace.clone(), phase.as_str())).or_default() += 1;
    });
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

fn count_overdue(context: &Context, active: &[Active], now: Timestamp, before: &mut HashSet<RunLabels>) {
    let runs = active.iter().filter_map(|guarded| guarded.0.as_ref().ok()).map(|backup| {
        // A backup that ended stays among the active while it is verified.
        let running = backup.status.as_ref().filter(|status| !status.phase.unwrap_or_default().is_terminal());
        let is_overdue = running.is_some_and(|status| decide::is_overdue(&backup.spec, status, now, OVERDUE_AFTER));
        (backup.namespace().unwrap_or_default(), is_overdue)
    });
    overdue::count(&context.metrics, "RedisBackup", runs, before);
}

/// Whether the newest backup of each cluster that was verified is good: from labels, so that it survives a restart.
fn count_verifications(context: &Context, finished: &Index) {
    let mut newest: BTreeMap<(String, Arc<str>), (Timestamp, Option<bool>)> = BTreeMap::new();
    finished.each(|key, ended| {
        let Ended { verified: Some(Verified(good)), completed_at: Some(at), cluster: Some(cluster), .. } = ended else {
            return;
        };
        let place = newest.entry((key.namespace.clone(), Arc::clone(cluster))).or_insert((*at, *good));
        if *at >= place.0 {
            *place = (*at, *good);
        }
    });
    for ((namespace, cluster), (at, good)) in newest {
        context.metrics.verified(&namespace, &cluster, at, good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ClusterLabels;
    use crate::testing::{FakeApi, ScriptedExecutor};
    use serde_json::{Value, json};

    fn active(name: &str, status: Value) -> Active {
        let spec = json!({"clusterName": "carts", "storageRef": {"name": "main"}, "activeDeadlineSeconds": 3600});
        let object = json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec, "status": status});
        Arc::new(DeserializeGuard(Ok(serde_json::from_value(object).unwrap())))
    }

    fn finished(completed: &str, verified: Option<&str>) -> PartialObjectMeta<RedisBackup> {
        let mut labels = json!({labels::OUTCOME: labels::OUTCOME_COMPLETED, labels::CLUSTER: "carts"});
        if let Some(verified) = verified {
            labels[labels::VERIFIED] = json!(verified);
        }
        let metadata = json!({"name": completed, "namespace": "shop", "labels": labels, "annotations": {labels::COMPLETED_AT: completed}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn all<const N: usize>(backups: [&PartialObjectMeta<RedisBackup>; N]) -> Index {
        let index = Index::default();
        for backup in backups {
            index.take(&Event::Apply(backup.clone()));
        }
        index
    }

    #[tokio::test]
    async fn all_that_ended_are_counted_and_what_a_user_touched_is_looked_at() {
        let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        let index = Index::default();
        let at = "2026-11-27T02:00:00Z";
        let untouched = finished(at, None);
        let mut touched = finished("2026-11-26T02:00:00Z", None);
        touched.metadata.generation = Some(2);
        let asked: Vec<bool> = [Event::Init, Event::InitApply(untouched), Event::InitApply(touched), Event::InitDone]
            .iter()
            .map(|event| note(event, &index, &context))
            .collect();
        assert_eq!(asked, [false, false, true, false]);
        count(&context, &[], &index, at.parse().unwrap(), &mut Counted::default());
        let phase = |phase: &str| PhaseLabels { namespace: "shop".to_owned(), phase: phase.to_owned() };
        assert_eq!(context.metrics.phases.get_or_create(&phase("Completed")).get(), 2);
        let cluster = ClusterLabels { namespace: "shop".to_owned(), cluster: "carts".to_owned() };
        let newest = at.parse::<Timestamp>().unwrap().as_second();
        #[expect(clippy::cast_precision_loss, reason = "seconds are small")]
        let newest = newest as f64;
        assert!((context.metrics.last_success.get_or_create(&cluster).get() - newest).abs() < 0.5);
    }

    #[tokio::test]
    async fn a_run_past_its_deadline_is_counted_until_it_ends_and_a_failed_verification_until_a_newer_good_one() {
        let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let stuck = active("stuck", json!({"phase": "Running", "startedAt": "2026-11-27T10:00:00Z"}));
        let going = active("going", json!({"phase": "Running", "startedAt": "2026-11-27T11:00:00Z"}));
        let verifying = active("done", json!({"phase": "Completed", "startedAt": "2026-11-26T11:00:00Z"}));
        let bad = finished("2026-11-27T02:00:00Z", Some("false"));
        let older = finished("2026-11-26T02:00:00Z", Some("true"));
        let untold = finished("2026-11-27T01:00:00Z", None);
        let mut before = Counted::default();
        count(&context, &[stuck, Arc::clone(&going), verifying], &all([&bad, &older, &untold]), now, &mut before);
        let overdue = RunLabels { kind: "RedisBackup".to_owned(), namespace: "shop".to_owned() };
        let cluster = ClusterLabels { namespace: "shop".to_owned(), cluster: "carts".to_owned() };
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 1);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 1);
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 0);
        let unknown = finished("2026-11-27T03:00:00Z", Some("unknown"));
        count(&context, &[], &all([&bad, &unknown]), now, &mut before);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 1, "nothing better is known");
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 1);
        let good = finished("2026-11-27T04:00:00Z", Some("true"));
        count(&context, &[going], &all([&bad, &good]), now, &mut before);
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 0);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 0);
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 0);
        count(&context, &[], &all([]), now, &mut before);
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 0);
    }
}
