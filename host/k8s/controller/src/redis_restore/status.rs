//! The status that follows from a decision, and what is said of it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::Timestamp;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::conditions::{ACCEPTED, COMPLETE, FAILED, reasons};
use redkeep_k8s_api::endpoint::RedisEndpoint;
use redkeep_k8s_api::redis_restore::{RedisRestore, RedisRestoreStatus, RestoreTarget};
use redkeep_k8s_api::run::Phase;

use super::decide::Decision;
use super::dereference::task_key;
use super::lease;
use crate::apply::{ConditionUpdate, set_condition, whole_seconds};
use crate::common::report;
use crate::outcome::Outcome;

pub(super) fn next(
    restore: &RedisRestore,
    decision: &Decision,
    now: Timestamp,
) -> (RedisRestoreStatus, Option<Outcome>) {
    let mut status = restore.status.clone().unwrap_or_default();
    let generation = restore.metadata.generation;
    status.observed_generation = generation;
    let mut set = |status: &mut RedisRestoreStatus, kind: &str, value: bool, reason: &str, message: &str| {
        let update = ConditionUpdate { kind, status: Some(value), reason, message: message.to_owned() };
        set_condition(&mut status.conditions, update, generation, now);
    };
    let outcome = match decision {
        Decision::Done => None,
        Decision::Wait { reason, message, is_spec } => {
            let is_news = status.phase.is_none();
            let (accepted, said) = said_of_spec(*is_spec, reason, message);
            set(&mut status, ACCEPTED, !is_spec, accepted, said);
            set(&mut status, COMPLETE, false, reason, message);
            status.phase = Some(Phase::Pending);
            status.target = Some(target_name(&restore.spec.target));
            is_news.then(|| Outcome::normal("Restore", reason.clone(), message.clone()))
        }
        Decision::Begin(validated) => {
            set(&mut status, ACCEPTED, true, reasons::VALID, "the spec can be followed");
            set(&mut status, COMPLETE, false, reasons::STARTING, "the task was made");
            status.phase = Some(Phase::Running);
            status.started_at = Some(Time(whole_seconds(now)));
            status.target = Some(target_name(&restore.spec.target));
            status.task_name = Some(task_key(restore).name);
            status.lease_name = Some(lease::name(&restore.spec.target));
            status.backup_path = Some(validated.found.storage.address.clone());
            if restore.spec.from.backup_name.is_some() {
                status.backup_id = Some(validated.found.backup.clone());
            }
            let message = format!("restoring {} from {}", validated.found.backup, validated.found.storage.address);
            Some(Outcome::normal("Restore", "RestoreStarted", message))
        }
        Decision::Follow { reason, message, progress } => {
            set(&mut status, ACCEPTED, true, reasons::VALID, "the spec can be followed");
            set(&mut status, COMPLETE, false, reason, message);
            status.phase = Some(Phase::Running);
            status.started_at.get_or_insert(Time(whole_seconds(now)));
            status.task_name = Some(task_key(restore).name);
            if let Some(heard) = progress {
                let shown = Some(report::progress(status.progress.as_ref(), heard, now));
                if status.progress != shown {
                    status.progress = shown;
                    status.shards = report::shards(heard);
                }
            }
            None
        }
        Decision::Fail { reason, message, is_spec } => {
            let (accepted, said) = said_of_spec(*is_spec, reason, message);
            set(&mut status, ACCEPTED, !is_spec, accepted, said);
            Some(failed(&mut status, &mut set, reason, message, now))
        }
        Decision::End { report } => {
            set(&mut status, ACCEPTED, true, reasons::VALID, "the spec can be followed");
            take_facts(&mut status, report);
            match &report.outcome {
                TaskOutcome::Failed { reason, message, help, .. } => {
                    let message = match help {
                        Some(help) => format!("{message}; {help}"),
                        None => message.clone(),
                    };
                    Some(failed(&mut status, &mut set, reason, &message, now))
                }
                TaskOutcome::Done | TaskOutcome::Planned => {
                    let message = said(&status);
                    set(&mut status, COMPLETE, true, reasons::COMPLETED, &message);
                    status.phase = Some(Phase::Completed);
                    status.completed_at = Some(report::ended_at(report, now));
                    status.progress = None;
                    status.error = None;
                    Some(Outcome::normal("Restore", "RestoreCompleted", message))
                }
                TaskOutcome::Running { stage } => {
                    let message = format!(
                        "the task was ended in stage {stage}; the target may be partly filled: look at it before it is used"
                    );
                    Some(failed(&mut status, &mut set, reasons::NO_REPORT, &message, now))
                }
            }
        }
    };
    (status, outcome)
}

/// Reason and message of `Accepted`.
fn said_of_spec<'a>(is_spec: bool, reason: &'a str, message: &'a str) -> (&'a str, &'a str) {
    if is_spec { (reason, message) } else { (reasons::VALID, "the spec can be followed") }
}

fn failed(
    status: &mut RedisRestoreStatus,
    set: &mut impl FnMut(&mut RedisRestoreStatus, &str, bool, &str, &str),
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Outcome {
    set(status, COMPLETE, false, reason, message);
    set(status, FAILED, true, reason, message);
    status.phase = Some(Phase::Failed);
    status.completed_at = Some(Time(whole_seconds(now)));
    status.progress = None;
    status.error = Some(report::error_text(message));
    Outcome::warning("Restore", reason, message)
}

/// The target as people call it: `RedisCluster/carts`, `StatefulSet/redis`, an address.
fn target_name(target: &RestoreTarget) -> String {
    match (&target.cluster_name, &target.source) {
        (Some(name), _) => format!("RedisCluster/{name}"),
        (None, Some(source)) => endpoint_name(source),
        (None, None) => String::new(),
    }
}

fn endpoint_name(source: &RedisEndpoint) -> String {
    if let Some(service) = &source.service {
        format!("Service/{}", service.name)
    } else if let Some(set) = &source.stateful_set {
        format!("StatefulSet/{}", set.name)
    } else if let Some(failover) = &source.redis_failover {
        format!("RedisFailover/{}", failover.name)
    } else if let Some(sentinel) = &source.sentinel {
        format!("sentinel {}", sentinel.master)
    } else {
        source.endpoints.first().cloned().unwrap_or_default()
    }
}

fn take_facts(status: &mut RedisRestoreStatus, report: &TaskReport) {
    if let Some(id) = &report.backup_id {
        status.backup_id = Some(id.to_string());
    }
    if let Some(manifest) = &report.manifest {
        status.backup_path = Some(manifest.clone());
    }
    status.keys_expected = report::counted_keys(report);
    status.keys_restored = report::number(report, "keys-restored").or_else(|| report::number(report, "keys-loaded"));
    status.keys_expired = report::number(report, "keys-expired");
    status.keys_skipped = report::number(report, "keys-skipped");
    status.target_pod = report::fact(report, "target").or_else(|| status.target_pod.take());
    status.warnings = report::warnings(report);
}

fn said(status: &RedisRestoreStatus) -> String {
    let mut text = match status.keys_restored {
        Some(keys) => format!("{keys} keys restored"),
        None => "restored".to_owned(),
    };
    for (count, what) in
        [(status.keys_expired, "had expired"), (status.keys_skipped, "were left as the target had them")]
    {
        if let Some(count) = count.filter(|count| *count > 0) {
            text = format!("{text}, {count} {what}");
        }
    }
    text
}
