//! Verification of a schedule by a schedule of its own: in each of its slots the newest backup is read again.
//!
//! A slot missed is made good once; a run that is going on takes the place of slots that come meanwhile.

mod task;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::schedule::Schedule;
use redkeep_k8s_api::common::VerificationLevel;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackupStatus;
use redkeep_k8s_api::run::{Phase, VerificationStatus};

use crate::apply::{set_condition, whole_seconds};
use crate::common::is_ahead;
use crate::common::verdict::{Verdict, verdict};
use crate::executor::TaskState;
pub(super) use task::{keep_place, key, longest, release_place, start};

/// Beyond the task's own deadlines, its Job has ended whatever is seen of it.
const SETTLE: SignedDuration = SignedDuration::from_mins(30);

/// What to do about verification now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before that time.
    Idle(Option<Timestamp>),
    /// Begin a run.
    Begin,
    /// One goes on, since then.
    Watch(Timestamp),
}

/// Decides: pure. `schedule`: `None` where no verification has a schedule, or all is suspended; `since`: slots before it are nobody's.
pub(super) fn due(
    schedule: Option<&Schedule>,
    status: &RedisScheduledBackupStatus,
    since: Timestamp,
    now: Timestamp,
) -> Due {
    let last = status.verification.as_ref();
    let started = last.and_then(|last| last.started_at.as_ref()).map(|time| time.0);
    if let (Some(last), Some(started)) = (last, started)
        && last.completed_at.is_none()
    {
        return Due::Watch(started);
    }
    let Some(schedule) = schedule else { return Due::Idle(None) };
    let known = started.filter(|started| !is_ahead(*started, now));
    let next = schedule.next_after(known.map_or(since, |started| started.max(since)));
    match next {
        Some(slot) if slot > now => Due::Idle(Some(slot)),
        // Without a backup there is nothing to read; the first one is read in the slot after it.
        Some(_) if status.last_successful_time.is_none() => Due::Idle(schedule.next_after(now)),
        Some(_) => Due::Begin,
        None => Due::Idle(None),
    }
}

/// The status at the beginning of a run.
pub(super) fn begun(status: &mut RedisScheduledBackupStatus, level: VerificationLevel, now: Timestamp) {
    status.verification = Some(VerificationStatus {
        level,
        phase: Phase::Pending,
        started_at: Some(Time(whole_seconds(now))),
        ..VerificationStatus::default()
    });
}

/// How a run that was being watched stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Progress {
    /// It is not there yet: start it.
    Start,
    /// It goes on.
    Runs,
    /// It ended so, having read this backup.
    Ended(Verdict, Option<String>),
}

/// Judges: pure. `longest`: how long a run may take, waiting for its pod included.
pub(super) fn progress(
    task: &TaskState,
    phase: Phase,
    started: Timestamp,
    longest: Duration,
    now: Timestamp,
) -> Progress {
    if let Some(verdict) = verdict(task, phase == Phase::Running) {
        let backup = match task {
            TaskState::Ended { report, .. } => report.backup_id.as_ref().map(ToString::to_string),
            _ => None,
        };
        return Progress::Ended(verdict, backup);
    }
    if now.duration_since(started)
        > SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX).saturating_add(SETTLE)
    {
        let reason = reasons::DEADLINE_EXCEEDED.to_owned();
        return Progress::Ended(
            Verdict::Unknown { reason, message: "the verification did not end within its deadline".to_owned() },
            None,
        );
    }
    if matches!(task, TaskState::Missing) { Progress::Start } else { Progress::Runs }
}

/// The status at the end of a run.
pub(super) fn ended(
    status: &mut RedisScheduledBackupStatus,
    verdict: &Verdict,
    backup: Option<String>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let place = status.verification.get_or_insert_default();
    place.backup_id = backup;
    verdict.fill(place, now);
    set_condition(&mut status.conditions, verdict.condition(), generation, now);
}
