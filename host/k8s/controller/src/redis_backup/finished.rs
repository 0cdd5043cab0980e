//! Backups that ended: counted, and looked at again when their user changes or deletes them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::runtime::Action;
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Api, Resource, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;
use redkeep_k8s_api::run::Phase;

use super::ended::{Index, Verified};
use super::{apply, delete, pin};
use crate::common::ReconcileError;
use crate::common::Unresolved;
use crate::common::overdue::{self, OVERDUE_AFTER};
use crate::context::Context;
use crate::metrics::{ClusterLabels, PhaseLabels, RunLabels, Verifications};

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
    if let Some(schedule) = schedule_of(metadata) {
        context.metrics.schedule_succeeded(&namespace, cluster, schedule, at);
    }
}

/// The schedule that made it. The label alone anybody may have written.
fn schedule_of(metadata: &PartialObjectMeta<RedisBackup>) -> Option<&str> {
    let named = metadata.labels().get(labels::SCHEDULE)?;
    let owner = metadata.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    (owner.kind == RedisScheduledBackup::kind(&()) && owner.name == *named).then_some(named.as_str())
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
    count_clusters(context, finished);
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
        let status = backup.status.as_ref();
        let has_ended = status.and_then(|status| status.phase).is_some_and(Phase::is_terminal);
        let since = overdue::since(status.and_then(|status| status.started_at.as_ref()), &backup.metadata);
        let deadline = backup.spec.active_deadline_seconds;
        let is_overdue = !has_ended && overdue::is_overdue(since, deadline, now, OVERDUE_AFTER);
        (backup.namespace().unwrap_or_default(), is_overdue)
    });
    overdue::count(&context.metrics, "RedisBackup", runs, before);
}

/// The last success of each cluster, and what verifications of its backups came to: from labels, so that both survive a restart.
fn count_clusters(context: &Context, finished: &Index) {
    type Place = (String, Arc<str>);
    let mut completed: HashMap<Place, Timestamp> = HashMap::new();
    let mut verified: HashMap<Place, Verifications> = HashMap::new();
    finished.each(|key, ended| {
        let (Some(at), Some(cluster)) = (ended.completed_at, &ended.cluster) else { return };
        if ended.is_completed {
            let newest = completed.entry((key.namespace.clone(), Arc::clone(cluster))).or_insert(at);
            *newest = at.max(*newest);
        }
        if let Some(Verified(good)) = ended.verified {
            verified.entry((key.namespace.clone(), Arc::clone(cluster))).or_default().take(at, good);
        }
    });
    let labels = |(namespace, cluster): Place| ClusterLabels { namespace, cluster: cluster.as_ref().to_owned() };
    context.metrics.backups_counted(
        completed.into_iter().map(|(place, at)| (labels(place), at)).collect(),
        verified.into_iter().map(|(place, all)| (labels(place), all)).collect(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
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
    async fn a_schedule_counts_only_the_backups_that_it_owns() {
        let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        let owner = |name: &str, is_controller: bool| {
            json!([{"apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup", "name": name, "uid": "u",
                "controller": is_controller}])
        };
        let mut backup = finished("2026-11-27T02:00:00Z", None);
        backup.labels_mut().insert(labels::SCHEDULE.to_owned(), "hourly".to_owned());
        let schedule = |backup: &PartialObjectMeta<RedisBackup>| schedule_of(backup).map(str::to_owned);
        assert_eq!(schedule(&backup), None, "anybody can write a label");
        for (owners, expected) in
            [(owner("hourly", true), Some("hourly")), (owner("hourly", false), None), (owner("daily", true), None)]
        {
            backup.metadata.owner_references = serde_json::from_value(owners).unwrap();
            assert_eq!(schedule(&backup).as_deref(), expected);
        }
        count_success(&backup, &context);
    }

    #[tokio::test]
    async fn a_run_past_its_deadline_is_counted_until_it_ends_and_a_failed_verification_until_a_newer_good_one() {
        let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let stuck = active("stuck", json!({"phase": "Running", "startedAt": "2026-11-27T10:00:00Z"}));
        let going = active("going", json!({"phase": "Running", "startedAt": "2026-11-27T11:00:00Z"}));
        let mut unbegun = active("unbegun", json!({}));
        let unbegun = Arc::get_mut(&mut unbegun).unwrap().0.as_mut().unwrap();
        unbegun.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-11-27T10:00:00Z".parse().unwrap()));
        let unbegun = Arc::new(DeserializeGuard(Ok(unbegun.clone())));
        let verifying = active("done", json!({"phase": "Completed", "startedAt": "2026-11-26T11:00:00Z"}));
        let bad = finished("2026-11-27T02:00:00Z", Some("false"));
        let older = finished("2026-11-26T02:00:00Z", Some("true"));
        let untold = finished("2026-11-27T01:00:00Z", None);
        let mut before = Counted::default();
        count(
            &context,
            &[stuck, unbegun, Arc::clone(&going), verifying],
            &all([&bad, &older, &untold]),
            now,
            &mut before,
        );
        let overdue = RunLabels { kind: "RedisBackup".to_owned(), namespace: "shop".to_owned() };
        let cluster = ClusterLabels { namespace: "shop".to_owned(), cluster: "carts".to_owned() };
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 2);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 1);
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 0);
        let unknown = finished("2026-11-27T03:00:00Z", Some("unknown"));
        count(&context, &[], &all([&bad, &unknown]), now, &mut before);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 1, "nothing better is known");
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 1);
        // An operator that starts now knows the older one too.
        let (restarted, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        count(&restarted, &[], &all([&bad, &unknown]), now, &mut Counted::default());
        assert_eq!(restarted.metrics.verification_failed.get_or_create(&cluster).get(), 1);
        count(&context, &[], &all([&older, &unknown]), now, &mut before);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 0, "the bad one was deleted");
        let good = finished("2026-11-27T04:00:00Z", Some("true"));
        count(&context, &[going], &all([&bad, &good]), now, &mut before);
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 0);
        assert_eq!(context.metrics.verification_failed.get_or_create(&cluster).get(), 0);
        assert_eq!(context.metrics.verification_unknown.get_or_create(&cluster).get(), 0);
        count(&context, &[], &all([]), now, &mut before);
        assert_eq!(context.metrics.overdue.get_or_create(&overdue).get(), 0);
    }
}
