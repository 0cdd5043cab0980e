//! What the operator counts. The caller registers it, so tests need no globals; labels are bounded.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Seconds = Gauge<f64, AtomicU64>;

/// Labels of the published success timestamp.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ClusterLabels {
    /// Namespace of the backup.
    pub namespace: String,
    /// The Redis that was backed up.
    pub cluster: String,
}

/// Labels of the published phase count.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PhaseLabels {
    /// Namespace of the backup.
    pub namespace: String,
    /// Pending, Running, Completed, Failed.
    pub phase: String,
}

/// Labels of a schedule's last success.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ScheduleLabels {
    /// Namespace of the schedule.
    pub namespace: String,
    /// The Redis that is backed up.
    pub cluster: String,
    /// The schedule.
    pub schedule: String,
}

/// Labels of a finished task.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TaskLabels {
    /// What for.
    pub kind: String,
    /// The reason of its end.
    pub outcome: String,
}

/// Labels of bytes that a task moved.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByteLabels {
    /// What for.
    pub kind: String,
    /// Plain or stored.
    pub stage: String,
}

/// Labels of a reconcile.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// Which controller.
    pub controller: String,
    /// `done`, or the reason of the error.
    pub outcome: String,
}

/// Labels of an outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// Kind of the object.
    pub kind: String,
    /// What was done.
    pub action: String,
    /// How it went.
    pub reason: String,
}

/// Labels of a BackupMethod.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MethodLabels {
    /// The method.
    pub method: String,
}

/// Labels of a BackupStorage.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StorageLabels {
    /// Namespace of the storage.
    pub namespace: String,
    /// Its name.
    pub storage: String,
}

/// Labels of runs of a kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RunLabels {
    /// Kind of the object.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
}

/// All families.
pub struct Metrics {
    /// `redis_last_successful_backup_timestamp`, as published.
    pub last_success: Family<ClusterLabels, Seconds>,
    /// `redis_backup_phase_count`, as published.
    pub phases: Family<PhaseLabels, Gauge>,
    /// When a schedule last succeeded.
    pub schedule_success: Family<ScheduleLabels, Seconds>,
    /// When a schedule was made: with it a schedule that never succeeded is seen.
    pub schedule_created: Family<ScheduleLabels, Seconds>,
    /// How many backups of a schedule failed since its last success: another schedule's success must not hide them.
    pub schedule_failures: Family<ScheduleLabels, Gauge>,
    /// 1 where the newest verification of a cluster's backups failed, 0 where it went well.
    pub verification_failed: Family<ClusterLabels, Gauge>,
    /// 1 where the newest verification of a cluster's backups could not tell, 0 where it could.
    pub verification_unknown: Family<ClusterLabels, Gauge>,
    newest_verification: Mutex<HashMap<ClusterLabels, Timestamp>>,
    /// 1 where a storage was probed and is usable, 0 where it is not.
    pub storage_ready: Family<StorageLabels, Gauge>,
    /// 1 where a method was registered and is usable, 0 where it is not.
    pub method_ready: Family<MethodLabels, Gauge>,
    /// Runs that are older than their deadline and have not ended: there should be none.
    pub overdue: Family<RunLabels, Gauge>,
    /// How long tasks took.
    pub task_seconds: Family<TaskLabels, Histogram, fn() -> Histogram>,
    /// What tasks moved.
    pub task_bytes: Family<ByteLabels, Counter>,
    /// Reconciles by how they went.
    pub reconciles: Family<ReconcileLabels, Counter>,
    /// What happened to objects.
    pub outcomes: Family<OutcomeLabels, Counter>,
    /// Backups that retention deleted.
    pub retention_deleted: Counter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            last_success: Family::default(),
            phases: Family::default(),
            schedule_success: Family::default(),
            schedule_created: Family::default(),
            schedule_failures: Family::default(),
            verification_failed: Family::default(),
            verification_unknown: Family::default(),
            newest_verification: Mutex::default(),
            storage_ready: Family::default(),
            method_ready: Family::default(),
            overdue: Family::default(),
            task_seconds: Family::new_with_constructor(task_histogram),
            task_bytes: Family::default(),
            reconciles: Family::default(),
            outcomes: Family::default(),
            retention_deleted: Counter::default(),
        };
        registry.register(
            "redis_last_successful_backup_timestamp",
            "When the last backup of a cluster succeeded, in seconds since 1970",
            metrics.last_success.clone(),
        );
        registry.register("redis_backup_phase_count", "RedisBackups by phase", metrics.phases.clone());
        registry.register(
            "redkeep_backup_last_success_timestamp_seconds",
            "When a schedule's last backup succeeded",
            metrics.schedule_success.clone(),
        );
        registry.register(
            "redkeep_schedule_created_timestamp_seconds",
            "When a schedule was made",
            metrics.schedule_created.clone(),
        );
        registry.register(
            "redkeep_schedule_failures",
            "How many backups of a schedule failed since its last success",
            metrics.schedule_failures.clone(),
        );
        registry.register(
            "redkeep_verification_failed",
            "Whether the newest verification of a cluster's backups failed",
            metrics.verification_failed.clone(),
        );
        registry.register(
            "redkeep_verification_unknown",
            "Whether the newest verification of a cluster's backups could not be made",
            metrics.verification_unknown.clone(),
        );
        registry.register(
            "redkeep_storage_ready",
            "Whether a storage was probed and is usable",
            metrics.storage_ready.clone(),
        );
        registry.register(
            "redkeep_method_ready",
            "Whether a method was registered and is usable",
            metrics.method_ready.clone(),
        );
        registry.register(
            "redkeep_runs_overdue",
            "Runs that are older than their deadline and have not ended",
            metrics.overdue.clone(),
        );
        registry.register("redkeep_task_duration_seconds", "How long a task took", metrics.task_seconds.clone());
        registry.register("redkeep_task_bytes", "Bytes that tasks moved", metrics.task_bytes.clone());
        registry.register("redkeep_reconcile", "Reconciles by controller and outcome", metrics.reconciles.clone());
        registry.register("redkeep_outcome", "What happened to objects", metrics.outcomes.clone());
        registry.register(
            "redkeep_retention_deleted",
            "Backups that retention deleted from storage",
            metrics.retention_deleted.clone(),
        );
        metrics
    }

    /// A cluster's backup succeeded then; an older one changes nothing.
    pub fn backup_succeeded(&self, namespace: &str, cluster: &str, at: jiff::Timestamp) {
        let labels = ClusterLabels { namespace: namespace.to_owned(), cluster: cluster.to_owned() };
        raise(&self.last_success.get_or_create(&labels), at);
    }

    /// A schedule's backup succeeded then; an older one changes nothing.
    pub fn schedule_succeeded(&self, namespace: &str, cluster: &str, schedule: &str, at: jiff::Timestamp) {
        let labels = ScheduleLabels {
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            schedule: schedule.to_owned(),
        };
        raise(&self.schedule_success.get_or_create(&labels), at);
    }
}

impl Metrics {
    /// A schedule is there since then, whether or not it ever succeeded; so many of its backups failed since it did.
    pub fn schedule_seen(
        &self,
        namespace: &str,
        cluster: &str,
        schedule: &str,
        created: jiff::Timestamp,
        failures: i32,
    ) {
        let labels = ScheduleLabels {
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            schedule: schedule.to_owned(),
        };
        self.schedule_failures.get_or_create(&labels).set(failures.into());
        raise(&self.schedule_created.get_or_create(&labels), created);
    }

    /// A schedule is gone, or suspended: nobody waits for its backups.
    pub fn schedule_gone(&self, namespace: &str, cluster: &str, schedule: &str) {
        let labels = ScheduleLabels {
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            schedule: schedule.to_owned(),
        };
        self.schedule_created.remove(&labels);
        self.schedule_failures.remove(&labels);
        self.schedule_success.remove(&labels);
    }

    /// A verification of a cluster's backups ended then; `None`: it could not tell, which says nothing new of what is there. The newest
    /// one counts, whoever asked for it.
    pub fn verified(&self, namespace: &str, cluster: &str, at: Timestamp, good: Option<bool>) {
        let labels = ClusterLabels { namespace: namespace.to_owned(), cluster: cluster.to_owned() };
        let mut newest = self.newest_verification.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.entry(labels.clone()).or_insert(at);
        if at < *known {
            return;
        }
        *known = at;
        self.verification_unknown.get_or_create(&labels).set(i64::from(good.is_none()));
        if let Some(good) = good {
            self.verification_failed.get_or_create(&labels).set(i64::from(!good));
        }
    }

    /// A storage was probed; `None`: it is gone.
    pub fn storage_probed(&self, namespace: &str, storage: &str, ready: Option<bool>) {
        let labels = StorageLabels { namespace: namespace.to_owned(), storage: storage.to_owned() };
        match ready {
            Some(ready) => drop(self.storage_ready.get_or_create(&labels).set(i64::from(ready))),
            None => drop(self.storage_ready.remove(&labels)),
        }
    }
}

impl Metrics {
    /// A method was registered; `None`: it is gone.
    pub fn method_registered(&self, method: &str, ready: Option<bool>) {
        let labels = MethodLabels { method: method.to_owned() };
        match ready {
            Some(ready) => drop(self.method_ready.get_or_create(&labels).set(i64::from(ready))),
            None => drop(self.method_ready.remove(&labels)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "whole seconds fit")]
fn raise(gauge: &Seconds, at: jiff::Timestamp) {
    let seconds = at.as_second() as f64;
    if seconds > gauge.get() {
        gauge.set(seconds);
    }
}

fn task_histogram() -> Histogram {
    // From a second to half a day: backups of a few megabytes and of terabytes.
    Histogram::new([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_600.0, 10_800.0, 43_200.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_names_are_kept_and_an_older_success_changes_nothing() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.backup_succeeded("shop", "carts", jiff::Timestamp::from_second(2_000).unwrap());
        metrics.backup_succeeded("shop", "carts", jiff::Timestamp::from_second(1_000).unwrap());
        metrics.phases.get_or_create(&PhaseLabels { namespace: "shop".into(), phase: "Failed".into() }).set(3);
        metrics.retention_deleted.inc();
        metrics.schedule_seen("shop", "carts", "nightly", jiff::Timestamp::from_second(500).unwrap(), 3);
        metrics.verified("shop", "carts", Timestamp::UNIX_EPOCH, Some(false));
        metrics.verified("shop", "carts", Timestamp::from_second(5).unwrap(), None);
        metrics.storage_probed("shop", "main", Some(false));
        metrics.storage_probed("shop", "old", Some(true));
        metrics.storage_probed("shop", "old", None);
        metrics.method_registered("mine", Some(true));
        metrics.method_registered("old", Some(false));
        metrics.method_registered("old", None);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "redis_last_successful_backup_timestamp{namespace=\"shop\",cluster=\"carts\"} 2000.0",
            "redis_backup_phase_count{namespace=\"shop\",phase=\"Failed\"} 3",
            "redkeep_retention_deleted_total 1",
            "redkeep_schedule_created_timestamp_seconds{namespace=\"shop\",cluster=\"carts\",schedule=\"nightly\"} 500.0",
            "redkeep_schedule_failures{namespace=\"shop\",cluster=\"carts\",schedule=\"nightly\"} 3",
            "redkeep_verification_failed{namespace=\"shop\",cluster=\"carts\"} 1",
            "redkeep_verification_unknown{namespace=\"shop\",cluster=\"carts\"} 1",
            "redkeep_storage_ready{namespace=\"shop\",storage=\"main\"} 0",
            "redkeep_method_ready{method=\"mine\"} 1",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("\"old\""), "what is gone is still shown:\n{page}");
    }
}
