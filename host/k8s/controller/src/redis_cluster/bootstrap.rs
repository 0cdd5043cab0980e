//! A cluster that is born from a backup: what is to be done about the restore now. Pure; `find` in `dereference` reads.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::task::{BackupSelector, Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::BootstrapStatus;
use serde_json::{Map, Value};

use super::names;
use crate::common::Unresolved;
use crate::common::keys::decryption;
use crate::common::method::MethodAccess;
use crate::common::selection::{self, FoundBackup};
use crate::common::storage::StorageAccess;
use crate::executor::{Mount, TaskProgress, TaskState};
use crate::settings::Settings;

/// The pause after the first attempt that failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// A restore that can be begun.
#[derive(Clone, Debug)]
pub(super) struct ValidatedBootstrap {
    pub(super) storage: StorageAccess,
    pub(super) selector: BackupSelector,
    pub(super) method: MethodAccess,
    pub(super) keys: DecryptionKeys,
    pub(super) key_mounts: Vec<Mount>,
    pub(super) parameters: Map<String, Value>,
    pub(super) deadline: Duration,
    pub(super) start_deadline: Duration,
}

pub(super) fn validate(
    cluster: &RedisCluster,
    found: FoundBackup,
    mut method: MethodAccess,
    settings: &Settings,
) -> Result<ValidatedBootstrap, Unresolved> {
    let Some(bootstrap) = &cluster.spec.bootstrap else {
        return Err(Unresolved::invalid("spec.bootstrap", "must be set"));
    };
    let (keys, key_mounts) = decryption(bootstrap.decryption.as_ref());
    let own = cluster.namespace().unwrap_or_default();
    let selector = selection::selector(&bootstrap.from, &own, found.backup).map_err(of_bootstrap)?;
    if bootstrap.method_digest.is_some() {
        method.spec.digest.clone_from(&bootstrap.method_digest);
    }
    let mut parameters = Map::new();
    if let Some(until) = &bootstrap.from.until {
        parameters.insert("until".to_owned(), until.clone().into());
    }
    if let Some(account) = &found.storage.service_account
        && !settings.task_service_accounts.contains(account)
    {
        let why = format!("service account {account} is not on the operator's list (--task-service-account)");
        return Err(Unresolved::invalid("spec.bootstrap.storageRef", why));
    }
    let seconds = |number: i64| Duration::from_secs(u64::try_from(number).unwrap_or_default());
    Ok(ValidatedBootstrap {
        selector,
        method,
        keys,
        key_mounts,
        parameters,
        deadline: seconds(bootstrap.active_deadline_seconds),
        start_deadline: seconds(bootstrap.start_deadline_seconds),
        storage: found.storage,
    })
}

/// What is said of a RedisRestore's fields, of those of a bootstrap.
pub(super) fn of_bootstrap(wrong: Unresolved) -> Unresolved {
    match wrong {
        Unresolved::Invalid { field, why } => {
            let field = match field {
                "spec" => "spec.bootstrap",
                "spec.backupName" => "spec.bootstrap.backupName",
                "spec.fromNamespace" => "spec.bootstrap.fromNamespace",
                "spec.fromCluster" => "spec.bootstrap.fromCluster",
                other => other,
            };
            Unresolved::Invalid { field, why }
        }
        other => other,
    }
}

/// A claim as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundClaim {
    pub(super) name: String,
    pub(super) uid: String,
    /// The uid of the cluster for whose bootstrap it was made.
    pub(super) filled_for: Option<String>,
    pub(super) is_terminating: bool,
}

/// Where the restore stands.
#[derive(Debug)]
pub(super) enum Restore {
    /// None is wanted, or it was done before.
    None,
    /// Not yet; nothing was touched.
    Wait { reason: String, message: String, is_failed: bool },
    /// Make the claim if it is not there, and the task.
    Begin { validated: Box<ValidatedBootstrap>, attempt: i32 },
    /// The claim is half published: take it away, it is ours and nobody ever used it.
    Renew { claim: FoundClaim },
    /// The task is there.
    Follow { reason: String, message: String, progress: Option<TaskProgress> },
    /// This attempt failed; another follows then.
    Failed { reason: String, message: String, retry_at: Timestamp, attempts: i32 },
    /// Filled.
    Done { report: Box<TaskReport> },
}

/// What is known of it.
pub(super) struct Observed<'a> {
    pub(super) status: Option<&'a BootstrapStatus>,
    /// Claims of this cluster's names, before there is a `StatefulSet`; empty for clusters without claims.
    pub(super) claims: &'a [FoundClaim],
    pub(super) task: TaskState,
    pub(super) found: Result<ValidatedBootstrap, Unresolved>,
}

pub(super) fn decide(now: Timestamp, cluster: &RedisCluster, seen: Observed<'_>) -> Restore {
    let status = seen.status.cloned().unwrap_or_default();
    if cluster.spec.bootstrap.is_none() {
        return Restore::None;
    }
    let process = cluster.status.as_ref().and_then(|status| status.primary_process.as_ref());
    if is_lost(&status, process) {
        let message = "the primary has restarted before another instance had what was restored, and lost it".to_owned();
        return failed(now, &status, reasons::INSTANCE_FAILED.to_owned(), message);
    }
    if status.filled == Some(true) {
        return Restore::None;
    }
    let uid = cluster.uid().unwrap_or_default();
    let first = names::claim(&cluster.name_any(), 0);
    let is_ours = |claim: &FoundClaim| claim.name == first && claim.filled_for.as_deref() == Some(&uid);
    if let Some(foreign) = seen.claims.iter().find(|claim| !is_ours(claim)) {
        let message = format!(
            "claim {} is there already and may hold data: delete it, or give the cluster another name",
            foreign.name
        );
        return Restore::Wait { reason: reasons::CLAIM_NOT_EMPTY.to_owned(), message, is_failed: true };
    }
    match seen.task {
        TaskState::Ended { report, .. } => {
            return ended(now, &status, process, report);
        }
        TaskState::Failed { reason, message } => return failed(now, &status, reason, message),
        TaskState::Running { progress, .. } => {
            let reason = reasons::RUNNING.to_owned();
            return Restore::Follow { reason, message: "the restore runs".to_owned(), progress };
        }
        TaskState::Waiting { reason, message, .. } => return Restore::Follow { reason, message, progress: None },
        TaskState::Missing => {}
    }
    let attempts = status.attempts.unwrap_or(0);
    if status.task_name.is_some() && status.retry_at.is_none() {
        let message = "the restore's Job was deleted by somebody else".to_owned();
        return failed(now, &status, reasons::JOB_VANISHED.to_owned(), message);
    }
    if let Some(retry_at) = &status.retry_at
        && !is_pause_over(now, cluster, &status)
    {
        let message = status.error.clone().unwrap_or_default();
        let reason = status.reason.clone().unwrap_or_else(|| reasons::NO_REPORT.to_owned());
        return Restore::Failed { reason, message, retry_at: retry_at.0, attempts };
    }
    if let Some(claim) = seen.claims.iter().find(|claim| claim.is_terminating) {
        let message = format!("claim {} is being deleted", claim.name);
        return Restore::Wait { reason: reasons::PREPARING.to_owned(), message, is_failed: false };
    }
    if status.reason.as_deref() == Some(TARGET_NOT_EMPTY)
        && let Some(claim) = seen.claims.first()
    {
        return Restore::Renew { claim: claim.clone() };
    }
    match seen.found {
        Ok(validated) => Restore::Begin { validated: Box::new(validated), attempt: attempts.saturating_add(1) },
        Err(wrong @ Unresolved::Invalid { .. }) => {
            Restore::Wait { reason: wrong.reason().to_owned(), message: wrong.to_string(), is_failed: true }
        }
        Err(not_yet) => {
            Restore::Wait { reason: not_yet.reason().to_owned(), message: not_yet.to_string(), is_failed: false }
        }
    }
}

/// For so long after it was filled clients are not led to a cluster without claims whose replicas have nothing yet: whatever is lost
/// in that time is restored again.
const ALONE: Duration = Duration::from_mins(5);

/// Whether only the first instance of a cluster without claims has had what was restored, and no client was led to it yet.
pub(super) fn is_only_copy(status: &BootstrapStatus) -> bool {
    status.filled == Some(true) && status.only_copy == Some(true)
}

/// Whether that is over. `process`: the start of Redis that is primary now; `has_it`: a second instance, or none is wanted.
pub(super) fn is_shared(now: Timestamp, status: &BootstrapStatus, process: Option<&String>, has_it: bool) -> bool {
    let since = status.completed_at.as_ref().map_or(now, |at| at.0);
    let is_over = Duration::try_from(now.duration_since(since)).is_ok_and(|alone| alone >= ALONE);
    status.process.as_ref() == process && (has_it || is_over)
}

/// Whether that is lost: nobody wrote anything, so another start of Redis has that or less.
pub(super) fn is_lost(status: &BootstrapStatus, process: Option<&String>) -> bool {
    is_only_copy(status) && process.is_some() && status.process.as_ref() != process
}

/// Whether the attempt after one that failed may begin: its time has come, or the spec was put right.
pub(super) fn is_pause_over(now: Timestamp, cluster: &RedisCluster, status: &BootstrapStatus) -> bool {
    let observed = cluster.status.as_ref().and_then(|status| status.observed_generation);
    let is_changed = observed.is_some() && observed != cluster.metadata.generation;
    status.retry_at.as_ref().is_some_and(|at| at.0 <= now || is_changed)
}

/// The word of a restore that found the target not empty.
const TARGET_NOT_EMPTY: &str = "TargetNotEmpty";

/// `process`: the start of Redis that is primary now; none while a claim is filled.
fn ended(now: Timestamp, status: &BootstrapStatus, process: Option<&String>, report: TaskReport) -> Restore {
    match &report.outcome {
        TaskOutcome::Failed { reason, message, help, .. } => {
            let message = match help {
                Some(help) => format!("{message}; {help}"),
                None => message.clone(),
            };
            failed(now, status, reason.clone(), message)
        }
        TaskOutcome::Done | TaskOutcome::Planned if status.process.as_ref() != process => {
            let message = "the primary has restarted since the restore began, and may have lost what it was given";
            failed(now, status, reasons::INSTANCE_FAILED.to_owned(), message.to_owned())
        }
        TaskOutcome::Done | TaskOutcome::Planned => Restore::Done { report: Box::new(report) },
        TaskOutcome::Running { stage } => {
            let message = format!("the restore was ended in stage {stage}");
            failed(now, status, reasons::NO_REPORT.to_owned(), message)
        }
    }
}

/// An attempt failed; the next follows after a pause that grows.
pub(super) fn failed(now: Timestamp, status: &BootstrapStatus, reason: String, message: String) -> Restore {
    let before = status.attempts.unwrap_or(0);
    // Counted when it was begun.
    let attempts = before.max(1);
    if let Some(retry_at) = &status.retry_at {
        // Said already; the Job of that attempt is still there.
        return Restore::Failed { reason, message, retry_at: retry_at.0, attempts };
    }
    let doubled = FIRST_PAUSE.saturating_mul(1 << u32::try_from(attempts - 1).unwrap_or(0).min(10)).min(LONGEST_PAUSE);
    let retry_at = now.checked_add(doubled).unwrap_or(now);
    Restore::Failed { reason, message, retry_at, attempts }
}
