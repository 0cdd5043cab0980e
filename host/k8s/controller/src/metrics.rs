//! What the operator counts. The caller registers it, so tests need no globals; labels are bounded.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// What verifications of one Redis' backups came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verifications {
    /// The newest one; `None`: it could not tell.
    newest: Option<(Timestamp, Option<bool>)>,
    /// The newest one that could tell: one that could not says nothing new of what is there.
    told: Option<(Timestamp, bool)>,
}

impl Verifications {
    /// Takes in one that ended then.
    pub fn take(&mut self, at: Timestamp, good: Option<bool>) {
        if self.newest.is_none_or(|(known, _)| at >= known) {
            self.newest = Some((at, good));
        }
        if let Some(good) = good
            && self.told.is_none_or(|(known, _)| at >= known)
        {
            self.told = Some((at, good));
        }
    }

    fn take_all(&mut self, other: &Self) {
        if let Some((at, good)) = other.told {
            self.take(at, Some(good));
        }
        if let Some((at, good)) = other.newest {
            self.take(at, good);
        }
    }
}

/// What gauges are made from that several objects have a say in, so that they go when the objects go.
#[derive(Default)]
struct Known {
    /// When the newest completed backup of each cluster ended, of those that are there.
    completed: HashMap<ClusterLabels, Timestamp>,
    /// From the backups that are there.
    verified: HashMap<ClusterLabels, Verifications>,
    /// From the schedules that are there, suspended or not.
    schedules: HashMap<ScheduleLabels, Verifications>,
    /// The clusters of whose verifications something is shown.
    shown: HashSet<ClusterLabels>,
}

impl Known {
    fn is_scheduled(&self, cluster: &ClusterLabels) -> bool {
        self.schedules
            .keys()
            .any(|schedule| schedule.namespace == cluster.namespace && schedule.cluster == cluster.cluster)
    }

    fn verifications(&self) -> HashMap<ClusterLabels, Verifications> {
        let mut all = self.verified.clone();
        for (schedule, verifications) in &self.schedules {
            if verifications.newest.is_some() {
                let (namespace, cluster) = (schedule.namespace.clone(), schedule.cluster.clone());
                all.entry(ClusterLabels { namespace, cluster }).or_default().take_all(verifications);
            }
        }
        all
    }
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
    /// 1 where a schedule's spec can be followed, 0 where it is refused.
    pub schedule_ready: Family<ScheduleLabels, Gauge>,
    /// How many slots of a schedule came since the last one for which a backup was begun.
    pub schedule_missed: Family<ScheduleLabels, Gauge>,
    known: Mutex<Known>,
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
            schedule_ready: Family::default(),
            schedule_missed: Family::default(),
            known: Mutex::default(),
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
            "redkeep_schedule_ready",
            "Whether a schedule's spec can be followed",
            metrics.schedule_ready.clone(),
        );
        registry.register(
            "redkeep_schedule_missed_slots",
            "How many slots of a schedule came since the last one for which a backup was begun",
            metrics.schedule_missed.clone(),
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

/// How a schedule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it was made.
    pub created: Timestamp,
    /// So many of its backups failed since it last succeeded.
    pub failures: i32,
    /// Whether its spec can be followed.
    pub is_ready: bool,
    /// So many slots came since the last one for which a backup was begun.
    pub missed: usize,
}

impl Metrics {
    /// A schedule is there, whether or not it ever succeeded.
    pub fn schedule_seen(&self, schedule: &ScheduleLabels, standing: &Standing) {
        self.known().schedules.entry(schedule.clone()).or_default();
        self.schedule_failures.get_or_create(schedule).set(standing.failures.into());
        self.schedule_ready.get_or_create(schedule).set(standing.is_ready.into());
        self.schedule_missed.get_or_create(schedule).set(i64::try_from(standing.missed).unwrap_or(i64::MAX));
        raise(&self.schedule_created.get_or_create(schedule), standing.created);
    }

    /// A schedule is suspended: nobody waits for its backups. What its verifications found still stands.
    pub fn schedule_rests(&self, schedule: &ScheduleLabels) {
        self.known().schedules.entry(schedule.clone()).or_default();
        self.hide_schedule(schedule);
    }

    /// A schedule is gone, or is about another cluster now. The cluster's last success goes with the last schedule, unless completed
    /// backups that somebody else made are there.
    pub fn schedule_gone(&self, schedule: &ScheduleLabels) {
        self.hide_schedule(schedule);
        let mut known = self.known();
        known.schedules.remove(schedule);
        let cluster = ClusterLabels { namespace: schedule.namespace.clone(), cluster: schedule.cluster.clone() };
        if !known.is_scheduled(&cluster) && !known.completed.contains_key(&cluster) {
            self.last_success.remove(&cluster);
        }
        self.show_verifications(&mut known);
    }

    fn hide_schedule(&self, schedule: &ScheduleLabels) {
        self.schedule_created.remove(schedule);
        self.schedule_failures.remove(schedule);
        self.schedule_success.remove(schedule);
        self.schedule_ready.remove(schedule);
        self.schedule_missed.remove(schedule);
    }

    /// A verification that a schedule asked for ended then; `None`: it could not tell.
    pub fn schedule_verified(&self, schedule: &ScheduleLabels, at: Timestamp, good: Option<bool>) {
        let mut known = self.known();
        known.schedules.entry(schedule.clone()).or_default().take(at, good);
        self.show_verifications(&mut known);
    }

    /// All backups that are there were looked at: when the newest completed one of each cluster ended, and what their verifications came
    /// to. What was only known of backups that are gone is forgotten.
    pub fn backups_counted(
        &self,
        completed: HashMap<ClusterLabels, Timestamp>,
        verified: HashMap<ClusterLabels, Verifications>,
    ) {
        let mut known = self.known();
        for (cluster, at) in &completed {
            raise(&self.last_success.get_or_create(cluster), *at);
        }
        let before = std::mem::replace(&mut known.completed, completed);
        for cluster in before.keys() {
            if !known.completed.contains_key(cluster) && !known.is_scheduled(cluster) {
                self.last_success.remove(cluster);
            }
        }
        known.verified = verified;
        self.show_verifications(&mut known);
    }

    fn show_verifications(&self, known: &mut Known) {
        let all = known.verifications();
        for cluster in &known.shown {
            if !all.contains_key(cluster) {
                self.verification_failed.remove(cluster);
                self.verification_unknown.remove(cluster);
            }
        }
        for (cluster, Verifications { newest, told }) in &all {
            let could_not_tell = newest.is_some_and(|(_, good)| good.is_none());
            self.verification_unknown.get_or_create(cluster).set(could_not_tell.into());
            match told {
                Some((_, good)) => drop(self.verification_failed.get_or_create(cluster).set((!good).into())),
                None => drop(self.verification_failed.remove(cluster)),
            }
        }
        known.shown = all.into_keys().collect();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn cluster(name: &str) -> ClusterLabels {
        ClusterLabels { namespace: "shop".to_owned(), cluster: name.to_owned() }
    }

    fn schedule(cluster: &str) -> ScheduleLabels {
        ScheduleLabels { namespace: "shop".to_owned(), cluster: cluster.to_owned(), schedule: "nightly".to_owned() }
    }

    fn page(registry: &Registry) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
        page
    }

    /// Of the cluster `carts`: what is shown of its verifications.
    fn shown(registry: &Registry) -> (Option<char>, Option<char>) {
        let page = page(registry);
        let of = |name: &str| {
            page.lines().find(|line| line.starts_with(&format!("{name}{{"))).and_then(|line| line.chars().last())
        };
        (of("redkeep_verification_failed"), of("redkeep_verification_unknown"))
    }

    #[test]
    fn what_verifications_found_goes_with_the_backups_and_schedules_that_say_so() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let told = |all: &[(i64, Option<bool>)]| {
            let mut verifications = Verifications::default();
            for (second, good) in all {
                verifications.take(at(*second), *good);
            }
            HashMap::from([(cluster("carts"), verifications)])
        };
        let count = |verified: HashMap<ClusterLabels, Verifications>| metrics.backups_counted(HashMap::new(), verified);
        // As after a restart: an older failure is known though the newest could not tell, in whatever order they are met.
        count(told(&[(3, None), (1, Some(true)), (2, Some(false))]));
        assert_eq!(shown(&registry), (Some('1'), Some('1')));
        // The bad backup was deleted.
        count(told(&[(3, None), (1, Some(true))]));
        assert_eq!(shown(&registry), (Some('0'), Some('1')));
        count(told(&[(3, None)]));
        assert_eq!(shown(&registry), (None, Some('1')));
        // Whoever asked: the newest counts.
        metrics.schedule_verified(&schedule("carts"), at(9), Some(false));
        assert_eq!(shown(&registry), (Some('1'), Some('0')));
        metrics.schedule_rests(&schedule("carts"));
        assert_eq!(shown(&registry), (Some('1'), Some('0')), "a suspended schedule's finding stands");
        count(told(&[(10, Some(true))]));
        assert_eq!(shown(&registry), (Some('0'), Some('0')));
        count(HashMap::new());
        assert_eq!(shown(&registry), (Some('1'), Some('0')));
        metrics.schedule_gone(&schedule("carts"));
        assert_eq!(shown(&registry), (None, None));
    }

    #[test]
    fn a_last_success_stays_while_a_schedule_or_a_completed_backup_is_there() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let line = "redis_last_successful_backup_timestamp{namespace=\"shop\",cluster=\"carts\"} 2000.0";
        let is_shown = || page(&registry).lines().any(|one| one == line);
        let completed = || HashMap::from([(cluster("carts"), at(2_000))]);
        let seen = Standing { created: at(1), failures: 0, is_ready: true, missed: 0 };
        metrics.schedule_seen(&schedule("carts"), &seen);
        metrics.backup_succeeded("shop", "carts", at(2_000));
        metrics.schedule_gone(&schedule("carts"));
        assert!(!is_shown(), "neither is there");
        // A pipeline's backups go on.
        metrics.schedule_seen(&schedule("carts"), &seen);
        metrics.backups_counted(completed(), HashMap::new());
        metrics.schedule_gone(&schedule("carts"));
        assert!(is_shown());
        metrics.schedule_rests(&schedule("carts"));
        metrics.backups_counted(HashMap::new(), HashMap::new());
        assert!(is_shown(), "a suspended schedule is missed too");
        metrics.backups_counted(completed(), HashMap::new());
        metrics.schedule_gone(&schedule("carts"));
        metrics.backups_counted(HashMap::new(), HashMap::new());
        assert!(!is_shown());
    }

    #[test]
    fn the_published_names_are_kept_and_an_older_success_changes_nothing() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.backup_succeeded("shop", "carts", jiff::Timestamp::from_second(2_000).unwrap());
        metrics.backup_succeeded("shop", "carts", jiff::Timestamp::from_second(1_000).unwrap());
        metrics.phases.get_or_create(&PhaseLabels { namespace: "shop".into(), phase: "Failed".into() }).set(3);
        metrics.retention_deleted.inc();
        metrics
            .schedule_seen(&schedule("carts"), &Standing { created: at(500), failures: 3, is_ready: false, missed: 2 });
        metrics.schedule_seen(&schedule("old"), &Standing { created: at(500), failures: 3, is_ready: true, missed: 0 });
        metrics.schedule_gone(&schedule("old"));
        metrics.schedule_verified(&schedule("carts"), at(0), Some(false));
        metrics.schedule_verified(&schedule("carts"), at(5), None);
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
            "redkeep_schedule_ready{namespace=\"shop\",cluster=\"carts\",schedule=\"nightly\"} 0",
            "redkeep_schedule_missed_slots{namespace=\"shop\",cluster=\"carts\",schedule=\"nightly\"} 2",
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
