//! Retention of a schedule: after each success, and once a day, a Prune task lets go of what no rule keeps, and its plan is
//! shown in the status. What stays is decided by the core, where the backups are listed.

mod task;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::task::{KeepRules, Outcome as Ending, TaskReport};
use redkeep_k8s_api::conditions::{PRUNED, reasons};
use redkeep_k8s_api::redis_scheduled_backup::{RedisScheduledBackupStatus, RetentionDecision, RetentionStatus};

use crate::apply::{ConditionUpdate, condition, set_condition, whole_seconds};
use crate::common::is_ahead;
use crate::executor::TaskState;
pub(super) use task::{key, start};

/// Also without a new backup: the rules know ages, and garbage becomes old.
const EVERY: SignedDuration = SignedDuration::from_hours(24);
/// Listing and deleting a hundred thousand backups takes less.
pub(super) const LONGEST: SignedDuration = SignedDuration::from_hours(2);
/// As the definition allows.
const MOST_DECISIONS: usize = 200;
const MOST_REASONS: usize = 8;
const LONGEST_REASON: usize = 128;
const LONGEST_ERROR: usize = 1024;
/// Under this each backup of the plan is a fact of the report: `plan-<id>` is `keep: …` or `delete: …`.
const PLAN_PREFIX: &str = "plan-";

/// What to do about retention now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// Nothing before that time.
    Idle(Option<Timestamp>),
    /// Begin a run of this name.
    Begin(String),
    /// One goes on under this name, since then.
    Watch(String, Timestamp),
}

/// Decides: pure.
pub(super) fn due(
    keep: Option<&KeepRules>,
    schedule: &str,
    status: &RedisScheduledBackupStatus,
    now: Timestamp,
) -> Retention {
    let last = status.retention.as_ref();
    let started = last.and_then(|last| last.started_at.as_ref()).map(|time| time.0);
    if let (Some(last), Some(started)) = (last, started)
        && last.completed_at.is_none()
        && let Some(task) = &last.task_name
    {
        // Without rules it is still seen to its end.
        return Retention::Watch(task.clone(), started);
    }
    let Some(succeeded) = status.last_successful_time.as_ref().map(|time| time.0).filter(|_| keep.is_some()) else {
        return Retention::Idle(None);
    };
    let again = started.and_then(|started| started.checked_add(EVERY).ok());
    let is_due = started
        .is_none_or(|started| succeeded > started || again.is_some_and(|again| again <= now) || is_ahead(started, now));
    if is_due {
        // A name of its own for each run: the Job of the last one is kept for a while.
        return Retention::Begin(format!("{schedule}-{}", now.as_second()));
    }
    Retention::Idle(again)
}

/// Since when a run is due that has to wait; now, unless the status knows better.
pub(super) fn due_since(status: &RedisScheduledBackupStatus, now: Timestamp) -> Timestamp {
    let pruned = condition(&status.conditions, PRUNED).filter(|pruned| pruned.reason == reasons::POSTPONED);
    pruned.map_or(now, |pruned| pruned.last_transition_time.0)
}

/// The status while a run that is due waits for these verifications. When it became so is the condition's transition.
pub(super) fn postponed(
    status: &mut RedisScheduledBackupStatus,
    awaited: &[String],
    generation: Option<i64>,
    now: Timestamp,
) {
    const MOST_NAMES: usize = 5;
    let names = awaited.get(..MOST_NAMES).unwrap_or(awaited).join(", ");
    let more = if awaited.len() > MOST_NAMES { ", …" } else { "" };
    let message = format!("a retention run is due and waits until nothing is read any more by or for {names}{more}");
    set(status, None, reasons::POSTPONED, message, generation, now);
}

/// No run is due any more.
pub(super) fn not_postponed(status: &mut RedisScheduledBackupStatus) {
    status.conditions.retain(|condition| condition.type_ != PRUNED || condition.reason != reasons::POSTPONED);
}

/// The status at the beginning of a run; the last plan stays until there is a new one.
pub(super) fn begun(status: &mut RedisScheduledBackupStatus, task: &str, generation: Option<i64>, now: Timestamp) {
    if condition(&status.conditions, PRUNED).is_some_and(|pruned| pruned.reason == reasons::POSTPONED) {
        set(status, None, reasons::RUNNING, "the retention run goes on".to_owned(), generation, now);
    }
    let retention = status.retention.get_or_insert_with(RetentionStatus::default);
    retention.started_at = Some(Time(whole_seconds(now)));
    retention.task_name = Some(task.to_owned());
    retention.completed_at = None;
    retention.error = None;
}

/// How a run that was being watched stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Progress {
    /// It is not there (yet, or any more): start it.
    Start,
    /// It goes on.
    Runs,
    /// It ended with this.
    Ended(Box<TaskReport>),
    /// It ended without a word, or must end now.
    Failed { reason: String, message: String },
}

/// Judges: pure.
pub(super) fn progress(task: TaskState, started: Timestamp, now: Timestamp) -> Progress {
    let is_late = now.duration_since(started) > LONGEST;
    match task {
        TaskState::Ended { report, .. } => Progress::Ended(Box::new(report)),
        TaskState::Failed { reason, message } => Progress::Failed { reason, message },
        _ if is_late => Progress::Failed {
            reason: reasons::DEADLINE_EXCEEDED.to_owned(),
            message: format!("the retention run did not end within {} h", LONGEST.as_hours()),
        },
        TaskState::Missing => Progress::Start,
        TaskState::Waiting { .. } | TaskState::Running { .. } => Progress::Runs,
    }
}

/// The status after a report; true when it went through. `remark`: what to add to its summary.
pub(super) fn reported(
    status: &mut RedisScheduledBackupStatus,
    report: &TaskReport,
    remark: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    if let Ending::Failed { reason, message, .. } = &report.outcome {
        // Part of it may be done: what was deleted is gone whatever came after.
        fill(status, report);
        failed(status, reason, message, generation, now);
        return false;
    }
    fill(status, report);
    let retention = status.retention.get_or_insert_with(RetentionStatus::default);
    retention.completed_at = Some(Time(whole_seconds(now)));
    let message = summary(status) + remark;
    set(status, Some(true), reasons::COMPLETED, message, generation, now);
    true
}

/// The status after a run that did not go through.
pub(super) fn failed(
    status: &mut RedisScheduledBackupStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let retention = status.retention.get_or_insert_with(RetentionStatus::default);
    retention.completed_at = Some(Time(whole_seconds(now)));
    let message: String = message.chars().take(LONGEST_ERROR).collect();
    retention.error = Some(message.clone());
    set(status, Some(false), reason, message, generation, now);
}

/// `keeps 7, deleted 2`.
pub(super) fn summary(status: &RedisScheduledBackupStatus) -> String {
    let retention = status.retention.as_ref();
    let number = |number: Option<i32>| number.unwrap_or(0);
    let kept = number(retention.and_then(|retention| retention.kept));
    let deleted = number(retention.and_then(|retention| retention.deleted));
    format!("kept {kept} backups, deleted {deleted}")
}

fn fill(status: &mut RedisScheduledBackupStatus, report: &TaskReport) {
    let number = |key: &str| report.facts.get(key).and_then(|text| text.parse::<i64>().ok());
    let small = |key: &str| number(key).and_then(|number| i32::try_from(number).ok());
    let retention = status.retention.get_or_insert_with(RetentionStatus::default);
    retention.kept = small("kept");
    retention.deleted = small("deleted");
    retention.freed_bytes = number("freed-size");
    // Ids begin with their time: backwards is newest first.
    let plan = report.facts.iter().rev().filter_map(|(key, text)| decision(key.strip_prefix(PLAN_PREFIX)?, text));
    retention.plan = plan.take(MOST_DECISIONS).collect();
}

fn decision(id: &str, text: &str) -> Option<RetentionDecision> {
    let (fate, why) = text.split_once(": ")?;
    let keep = match fate {
        "keep" => true,
        "delete" => false,
        _ => return None,
    };
    let mut reasons: Vec<String> = Vec::new();
    for piece in why.split(", ") {
        match reasons.last_mut() {
            // A comma in brackets, as in `daily (2026-11-20, 2 of 7)`, parts no reasons.
            Some(last) if last.matches('(').count() > last.matches(')').count() => {
                last.push_str(", ");
                last.push_str(piece);
            }
            _ => reasons.push(piece.to_owned()),
        }
    }
    reasons.truncate(MOST_REASONS);
    let reasons = reasons.iter().map(|reason| reason.chars().take(LONGEST_REASON).collect()).collect();
    Some(RetentionDecision { backup_id: id.to_owned(), keep, reasons })
}

fn set(
    status: &mut RedisScheduledBackupStatus,
    ok: Option<bool>,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) {
    let update = ConditionUpdate { kind: PRUNED, status: ok, reason, message };
    set_condition(&mut status.conditions, update, generation, now);
}

#[cfg(test)]
mod tests;
