//! The next status of a RedisBackup: pure, from the one before and what was observed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::report_facts::{self, ShardFact};
use redkeep_core::task::TaskReport;
use redkeep_core::units::format_size;
use redkeep_k8s_api::conditions::{ACCEPTED, COMPLETE, FAILED, reasons};
use redkeep_k8s_api::redis_backup::RedisBackupStatus;
use redkeep_k8s_api::run::{Phase, ShardStatus};

use crate::apply::{ConditionUpdate, condition, is_true, set_condition, whole_seconds};
use crate::common::report;
use crate::executor::TaskProgress;

/// The reason of a run whose task's end is being looked into.
pub(super) const INSPECTING: &str = "Inspecting";

/// What comes before the reason why storage could not be asked.
const HINDERED: &str = "whether the backup exists could not be found out yet, and is tried again: ";

/// The status before, for which object, and the time.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) status: &'a RedisBackupStatus,
    pub(super) generation: Option<i64>,
    pub(super) now: Timestamp,
}

impl Before<'_> {
    fn next(&self, change: impl FnOnce(&mut RedisBackupStatus)) -> RedisBackupStatus {
        let mut next = self.status.clone();
        next.observed_generation = self.generation;
        change(&mut next);
        next.phase = Some(phase(&next));
        next
    }

    fn set(&self, next: &mut RedisBackupStatus, kind: &str, status: Option<bool>, reason: &str, message: &str) {
        let update = ConditionUpdate { kind, status, reason, message: message.to_owned() };
        set_condition(&mut next.conditions, update, self.generation, self.now);
    }

    /// Accepted, and everything by which the task is found again, before there is a task.
    pub(super) fn prepared(&self, backup_id: &str, cluster: &str, task_name: &str) -> RedisBackupStatus {
        self.next(|next| {
            next.backup_id = Some(backup_id.to_owned());
            next.cluster = Some(cluster.to_owned());
            next.task_name = Some(task_name.to_owned());
            next.started_at = Some(Time(whole_seconds(self.now)));
            self.set(next, ACCEPTED, Some(true), reasons::VALID, "the spec can be followed");
            self.set(next, COMPLETE, Some(false), reasons::PREPARING, "the task is being made");
        })
    }

    /// Begun, and the server whose files are read is being chosen.
    pub(super) fn planning(&self, message: &str) -> RedisBackupStatus {
        self.next(|next| self.set(next, COMPLETE, Some(false), reasons::PLANNING, message))
    }

    /// Begun, and the task is about to be made.
    pub(super) fn preparing(&self, message: &str) -> RedisBackupStatus {
        self.next(|next| self.set(next, COMPLETE, Some(false), reasons::PREPARING, message))
    }

    /// Not begun, or not yet with a task: what it names is not there or not usable yet.
    pub(super) fn not_yet(&self, reason: &str, message: &str) -> RedisBackupStatus {
        if self.status.backup_id.is_some() && !task_was_seen(self.status) {
            // Accepted it was, and a task that was never made must not be taken for one that vanished.
            let message = format!("{reason}: {message}");
            return self.next(|next| self.set(next, COMPLETE, Some(false), reasons::PREPARING, &message));
        }
        self.next(|next| {
            self.set(next, ACCEPTED, Some(false), reason, message);
            self.set(next, COMPLETE, Some(false), reason, message);
        })
    }

    /// Not begun: others use the storage as much as they may.
    pub(super) fn queued(&self, message: &str) -> RedisBackupStatus {
        self.next(|next| {
            self.set(next, ACCEPTED, Some(true), reasons::VALID, "the spec can be followed");
            self.set(next, COMPLETE, Some(false), reasons::WAITING_FOR_SLOT, message);
        })
    }

    /// The spec cannot be followed, ever.
    pub(super) fn refused(&self, reason: &str, message: &str) -> RedisBackupStatus {
        self.next(|next| {
            self.set(next, ACCEPTED, Some(false), reason, message);
            self.end(next, reason, message);
        })
    }

    /// There is a task, and it has not started.
    pub(super) fn waiting(&self, reason: &str, message: &str) -> RedisBackupStatus {
        // What every pod goes through is one state, or each of them is a write.
        let (reason, message) = match reason {
            "PodNotCreated" | "PodStarting" => (reasons::STARTING, "the task's pod is being started"),
            other => (other, message),
        };
        self.next(|next| self.set(next, COMPLETE, Some(false), reason, message))
    }

    /// The task runs.
    pub(super) fn running(&self, progress: Option<&TaskProgress>) -> RedisBackupStatus {
        self.next(|next| {
            self.set(next, COMPLETE, Some(false), reasons::RUNNING, "the task runs");
            if let Some(progress) = progress {
                self.show(next, progress);
            }
        })
    }

    fn show(&self, next: &mut RedisBackupStatus, progress: &TaskProgress) {
        let shown = Some(report::progress(next.progress.as_ref(), progress, self.now));
        if next.progress != shown {
            next.progress = shown;
            next.shards = report::shards(progress);
        }
    }

    /// The task is gone without a word: whether it committed is looked up, and until then this is remembered.
    pub(super) fn inspecting(&self, reason: &str, message: &str) -> RedisBackupStatus {
        self.next(|next| {
            let text = "the task ended without a report; storage is asked whether the backup exists";
            self.set(next, COMPLETE, Some(false), INSPECTING, text);
            self.set(next, FAILED, None, reason, message);
        })
    }

    /// Storage could not be asked, and will be again.
    pub(super) fn hindered(&self, why: &str) -> RedisBackupStatus {
        self.next(|next| self.set(next, COMPLETE, Some(false), INSPECTING, &format!("{HINDERED}{why}")))
    }

    /// Done: what the report says.
    pub(super) fn completed(&self, report: &TaskReport, pod: Option<String>) -> RedisBackupStatus {
        let fact = |key: &str| report::fact(report, key);
        let number = |key: &str| report::number(report, key);
        self.next(|next| {
            let size = number(report_facts::STORED_SIZE);
            next.backup_size = size;
            next.size = size.and_then(|size| u64::try_from(size).ok()).map(format_size);
            next.keys = report::counted_keys(report);
            next.artifact_type = fact(report_facts::ARTIFACT_TYPE);
            next.checksum_sha256 = fact(report_facts::STORED_SHA256);
            next.method_digest = fact(report_facts::METHOD_DIGEST);
            next.server_version = fact("server-version");
            next.target_pod = pod.or_else(|| next.target_pod.take()).or_else(|| fact(report_facts::NODE));
            next.backup_path = fact(report_facts::BACKUP_PATH).or_else(|| report.manifest.clone());
            next.shards = stored_shards(report);
            next.completed_at = Some(report::ended_at(report, self.now));
            next.progress = None;
            next.error = None;
            next.warnings = report::warnings(report);
            next.conditions.retain(|condition| condition.type_ != FAILED);
            self.set(next, COMPLETE, Some(true), reasons::COMPLETED, "the backup is in storage");
        })
    }

    /// Ended without being done.
    pub(super) fn failed(&self, reason: &str, message: &str) -> RedisBackupStatus {
        self.next(|next| self.end(next, reason, message))
    }

    fn end(&self, next: &mut RedisBackupStatus, reason: &str, message: &str) {
        next.completed_at = Some(Time(whole_seconds(self.now)));
        next.error = Some(report::error_text(message));
        next.progress = None;
        self.set(next, COMPLETE, Some(false), reason, message);
        self.set(next, FAILED, Some(true), reason, message);
    }
}

/// Derived from the conditions, by this function only.
pub(super) fn phase(status: &RedisBackupStatus) -> Phase {
    if is_true(&status.conditions, COMPLETE) {
        return Phase::Completed;
    }
    if is_true(&status.conditions, FAILED) {
        return Phase::Failed;
    }
    match condition(&status.conditions, COMPLETE).map(|condition| condition.reason.as_str()) {
        Some(reasons::RUNNING | INSPECTING | "Retrying") => Phase::Running,
        _ => Phase::Pending,
    }
}

/// Why the task ended without a report, while that is being looked into.
pub(super) fn under_inspection(status: &RedisBackupStatus) -> Option<(&str, &str)> {
    let failed = condition(&status.conditions, FAILED)?;
    (failed.status == "Unknown").then_some((failed.reason.as_str(), failed.message.as_str()))
}

/// Why storage could not be asked at the last look.
pub(super) fn hindrance(status: &RedisBackupStatus) -> Option<&str> {
    condition(&status.conditions, COMPLETE)?.message.strip_prefix(HINDERED)
}

/// Whether a task was seen after it was made: then one that is missing has vanished.
pub(super) fn task_was_seen(status: &RedisBackupStatus) -> bool {
    let complete = condition(&status.conditions, COMPLETE).map(|condition| condition.reason.as_str());
    status.backup_id.is_some() && !matches!(complete, None | Some(reasons::PREPARING | reasons::PLANNING))
}

/// Shard by shard as the report has room for them, where there are several.
fn stored_shards(report: &TaskReport) -> Vec<ShardStatus> {
    let whole = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let one = |(key, text): (&String, &String)| {
        let shard = key.strip_prefix(report_facts::SHARD_PREFIX)?;
        let fact: ShardFact = text.parse().ok()?;
        Some(ShardStatus {
            shard: shard.to_owned(),
            node: Some(fact.node),
            keys: whole(fact.keys),
            size: whole(Some(fact.stored_size)),
            ..ShardStatus::default()
        })
    };
    let shards: Vec<ShardStatus> = report.facts.iter().filter_map(one).take(report::MOST_SHARDS).collect();
    if shards.len() > 1 { shards } else { Vec::new() }
}

#[cfg(test)]
mod tests;
