//! The status that follows from the steps, and what is said of it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use redkeep_core::Timestamp;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_core::units::format_size;
use redkeep_k8s_api::backup_storage::{BackupStorage, BackupStorageStatus, Capability, ClusterCount, GarbageStatus};
use redkeep_k8s_api::conditions::{ACCEPTED, PRUNED, READY, reasons};
use redkeep_k8s_api::labels::PROBE_NOW;
use redkeep_k8s_api::run::StoredBackup;

use super::decide::{Step, reason_of};
use super::dereference::key;
use super::validate::ValidatedStorage;
use crate::apply::{ConditionUpdate, condition, set_condition, whole_seconds};
use crate::common::{Unresolved, report};
use crate::executor::Purpose;
use crate::outcome::Outcome;

pub(super) fn next(
    storage: &BackupStorage,
    validated: Result<&ValidatedStorage, &Unresolved>,
    steps: &[Step],
    now: Timestamp,
) -> (BackupStorageStatus, Vec<Outcome>) {
    let mut status = storage.status.clone().unwrap_or_default();
    let generation = storage.metadata.generation;
    let mut outcomes = Vec::new();
    match validated {
        Ok(validated) => {
            status.address = Some(validated.access.address.clone());
            let message = "the spec can be followed".to_owned();
            let update = ConditionUpdate { kind: ACCEPTED, status: Some(true), reason: reasons::VALID, message };
            set_condition(&mut status.conditions, update, generation, now);
            schedule(&mut status, validated, now);
        }
        Err(wrong) => {
            let (reason, message) = (reason_of(wrong), wrong.to_string());
            if condition(&status.conditions, ACCEPTED).is_none_or(|before| before.message != message) {
                outcomes.push(Outcome::warning("Accept", reason, message.clone()));
            }
            for kind in [ACCEPTED, READY] {
                let update = ConditionUpdate { kind, status: Some(false), reason, message: message.clone() };
                set_condition(&mut status.conditions, update, generation, now);
            }
        }
    }
    for step in steps {
        outcomes.extend(take(storage, &mut status, step, now));
    }
    (status, outcomes)
}

/// When garbage goes next.
fn schedule(status: &mut BackupStorageStatus, validated: &ValidatedStorage, now: Timestamp) {
    let Some(policy) = &validated.garbage else {
        if let Some(garbage) = &mut status.garbage {
            garbage.next_time = None;
        }
        return;
    };
    let garbage = status.garbage.get_or_insert_with(GarbageStatus::default);
    // From the last one on, so that one that came due while nobody looked is made up for, once.
    let after = garbage.started_at.as_ref().map_or(now, |time| time.0.min(now));
    garbage.next_time = policy.schedule.next_after(after).map(Time);
}

/// What one step changes, and what is said of it.
pub(super) fn take(
    storage: &BackupStorage,
    status: &mut BackupStorageStatus,
    step: &Step,
    now: Timestamp,
) -> Option<Outcome> {
    match step {
        Step::Reject { .. } | Step::Remove(_) | Step::Follow { message: None, .. } => None,
        Step::Start(Purpose::Prune) => {
            let garbage = status.garbage.get_or_insert_with(GarbageStatus::default);
            garbage.started_at = Some(Time(whole_seconds(now)));
            garbage.completed_at = None;
            None
        }
        Step::Start(_) => {
            status.task_name = Some(key(storage, Purpose::Probe).name);
            status.observed_generation = storage.metadata.generation;
            status.probe_now = storage.annotations().get(PROBE_NOW).map(|value| value.chars().take(256).collect());
            if condition(&status.conditions, READY).is_none() {
                ready(storage, status, None, reasons::STARTING, "it is being probed", now);
            }
            None
        }
        Step::Follow { purpose, message: Some(message) } => {
            // A storage that was ready stays so while it is looked at again.
            let was_ready = condition(&status.conditions, READY).is_some_and(|ready| ready.status != "Unknown");
            if *purpose == Purpose::Probe && !was_ready {
                ready(storage, status, None, reasons::STARTING, message, now);
            }
            None
        }
        Step::Take { purpose: Purpose::Prune, report } => Some(cleared(storage, status, report, now)),
        Step::Take { report, .. } => probed(storage, status, report, now),
        Step::Fail { purpose: Purpose::Prune, reason, message } => {
            Some(not_cleared(storage, status, reason, message, now))
        }
        Step::Fail { reason, message, .. } => not_probed(storage, status, reason, message, now),
    }
}

fn ready(
    storage: &BackupStorage,
    status: &mut BackupStorageStatus,
    value: Option<bool>,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let update = ConditionUpdate { kind: READY, status: value, reason, message: message.to_owned() };
    set_condition(&mut status.conditions, update, storage.metadata.generation, now);
}

fn probed(
    storage: &BackupStorage,
    status: &mut BackupStorageStatus,
    report: &TaskReport,
    now: Timestamp,
) -> Option<Outcome> {
    count(status, report);
    if let TaskOutcome::Failed { reason, message, help, .. } = &report.outcome {
        let help = help.as_ref().map(|help| format!(" (help: {help})")).unwrap_or_default();
        return not_probed(storage, status, reason, &format!("{message}{help}"), now);
    }
    status.task_name = None;
    status.last_probe_time = Some(Time(whole_seconds(now)));
    let is_news = condition(&status.conditions, READY).is_none_or(|before| before.status != "True");
    let message = format!("{} backups, {}", status.backups.unwrap_or(0), status.size.as_deref().unwrap_or("0 B"));
    ready(storage, status, Some(true), reasons::PROBED, "written, read and deleted", now);
    is_news.then(|| Outcome::normal("Probe", reasons::PROBED, message))
}

fn not_probed(
    storage: &BackupStorage,
    status: &mut BackupStorageStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Outcome> {
    status.task_name = None;
    status.last_probe_time = Some(Time(whole_seconds(now)));
    let before = condition(&status.conditions, READY).cloned();
    ready(storage, status, Some(false), reason, message, now);
    let is_news = before.is_none_or(|before| before.status != "False" || before.message != message);
    is_news.then(|| Outcome::warning("Probe", reason, message))
}

/// What the report says of the catalog; a probe that failed before that leaves what is known.
fn count(status: &mut BackupStorageStatus, report: &TaskReport) {
    let capabilities: Vec<Capability> = report
        .facts
        .iter()
        .filter_map(|(key, said)| Some((key.strip_prefix("supports-")?, said)))
        .map(|(name, said)| capability(name, said))
        .collect();
    if !capabilities.is_empty() {
        status.capabilities = capabilities;
    }
    let Some(backups) = report::number(report, "backups") else { return };
    status.backups = Some(backups);
    status.bytes = report::number(report, "stored-size");
    status.size = status.bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(format_size);
    status.oldest = stored(report, "oldest");
    status.newest = stored(report, "newest");
    status.newest_verified = stored(report, "newest-verified");
    status.cluster_count = report::number(report, "clusters").and_then(|count| i32::try_from(count).ok());
    let named = report::fact(report, "cluster-counts").unwrap_or_default();
    status.clusters = named.split(' ').filter_map(cluster_count).collect();
}

/// `yes`, `no: what was seen`, or `no, needed: what was seen`.
fn capability(name: &str, said: &str) -> Capability {
    let (word, detail) = said.split_once(": ").unwrap_or((said, ""));
    Capability {
        name: name.chars().take(64).collect(),
        required: word.ends_with("needed"),
        supported: word.starts_with("yes"),
        detail: (!detail.is_empty()).then(|| detail.chars().take(128).collect()),
    }
}

fn stored(report: &TaskReport, key: &str) -> Option<StoredBackup> {
    let backup_id = report::fact(report, &format!("{key}-id"))?;
    let time = report::fact(report, key).and_then(|text| text.parse::<Timestamp>().ok());
    Some(StoredBackup { backup_id, time: time.map(|time| Time(whole_seconds(time))) })
}

/// `NAMESPACE/CLUSTER=BACKUPS,BYTES,NEWEST`.
fn cluster_count(text: &str) -> Option<ClusterCount> {
    let (name, counts) = text.split_once('=')?;
    let (namespace, name) = name.split_once('/')?;
    let mut counts = counts.splitn(3, ',');
    Some(ClusterCount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        backups: counts.next()?.parse().ok()?,
        bytes: counts.next()?.parse().ok()?,
        newest: counts.next().and_then(|text| text.parse::<Timestamp>().ok()).map(|time| Time(whole_seconds(time))),
    })
}

fn cleared(storage: &BackupStorage, status: &mut BackupStorageStatus, report: &TaskReport, now: Timestamp) -> Outcome {
    if let TaskOutcome::Failed { reason, message, .. } = &report.outcome {
        return not_cleared(storage, status, reason, message, now);
    }
    let garbage = status.garbage.get_or_insert_with(GarbageStatus::default);
    garbage.completed_at = Some(Time(whole_seconds(now)));
    garbage.objects = report::number(report, "garbage-objects");
    garbage.bytes = report::number(report, "garbage-bytes");
    garbage.error = None;
    let message = format!("{} objects that belonged to no backup were removed", garbage.objects.unwrap_or(0));
    let update =
        ConditionUpdate { kind: PRUNED, status: Some(true), reason: reasons::COMPLETED, message: message.clone() };
    set_condition(&mut status.conditions, update, storage.metadata.generation, now);
    Outcome::normal("Prune", "GarbageRemoved", message)
}

fn not_cleared(
    storage: &BackupStorage,
    status: &mut BackupStorageStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Outcome {
    let garbage = status.garbage.get_or_insert_with(GarbageStatus::default);
    garbage.completed_at = Some(Time(whole_seconds(now)));
    garbage.error = Some(report::error_text(message));
    let update = ConditionUpdate { kind: PRUNED, status: Some(false), reason, message: message.to_owned() };
    set_condition(&mut status.conditions, update, storage.metadata.generation, now);
    Outcome::warning("Prune", reason, message)
}
