//! What is to be done for a restore now. Pure.

use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::classify::{Classify, chain};
use redkeep_core::task::TaskReport;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_restore::RedisRestore;
use redkeep_k8s_api::run::Phase;

use super::lease::LeaseState;
use super::validate::{ValidatedRestore, seconds};
use crate::common::Unresolved;
use crate::executor::{TaskProgress, TaskState};

/// What is to be done.
#[derive(Debug)]
pub(super) enum Decision {
    /// It ended already.
    Done,
    /// Not yet; nothing was touched.
    Wait { reason: String, message: String, is_spec: bool },
    /// Take the Lease, make the task.
    Begin(Box<ValidatedRestore>),
    /// The task is there.
    Follow { reason: String, message: String, progress: Option<TaskProgress> },
    /// It ended without a report, or is never begun.
    Fail { reason: String, message: String, is_spec: bool },
    /// It ended with a report.
    End { report: Box<TaskReport> },
}

impl Decision {
    /// Whether nothing comes after it.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Fail { .. } | Self::End { .. })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Wait { .. } => "wait",
            Self::Begin(_) => "begin",
            Self::Follow { .. } => "follow",
            Self::Fail { .. } => "fail",
            Self::End { .. } => "end",
        }
    }
}

const MAY_BE_FILLED: &str = "the target may be partly filled: look at it before it is used";

pub(super) fn decide(
    now: Timestamp,
    restore: &RedisRestore,
    validated: Result<ValidatedRestore, Unresolved>,
    task: TaskState,
    lease: LeaseState,
) -> Decision {
    let status = restore.status.clone().unwrap_or_default();
    if status.phase.is_some_and(Phase::is_terminal) {
        return Decision::Done;
    }
    match task {
        TaskState::Ended { report, .. } => return Decision::End { report: Box::new(report) },
        TaskState::Failed { reason, message } => {
            return Decision::Fail { reason, message: format!("{message}; {MAY_BE_FILLED}"), is_spec: false };
        }
        TaskState::Running { progress, .. } => {
            let reason = reasons::RUNNING.to_owned();
            return Decision::Follow { reason, message: "the task runs".to_owned(), progress };
        }
        TaskState::Waiting { reason, message, .. } => {
            return Decision::Follow { reason, message, progress: None };
        }
        TaskState::Missing => {}
    }
    if status.started_at.is_some() {
        let message = format!("the task's Job was deleted by somebody else; {MAY_BE_FILLED}");
        return Decision::Fail { reason: reasons::JOB_VANISHED.to_owned(), message, is_spec: false };
    }
    match validated {
        Ok(validated) => match lease {
            LeaseState::Free | LeaseState::Ours => Decision::Begin(Box::new(validated)),
            LeaseState::Held { by } => {
                let message = format!("RedisRestore {by} writes to the same target");
                not_yet(now, restore, reasons::TARGET_BUSY.to_owned(), message, false)
            }
        },
        Err(wrong @ Unresolved::Invalid { .. }) => {
            Decision::Fail { reason: wrong.reason().to_owned(), message: wrong.to_string(), is_spec: true }
        }
        Err(missing) => {
            // What is named is not there yet; an API server that does not answer says nothing about the spec.
            let is_spec = matches!(missing, Unresolved::NotYet { .. });
            not_yet(now, restore, missing.reason().to_owned(), chain(&missing), is_spec)
        }
    }
}

/// It waits for this, and not for ever. `is_spec`: for something that the spec names.
pub(super) fn not_yet(
    now: Timestamp,
    restore: &RedisRestore,
    reason: String,
    message: String,
    is_spec: bool,
) -> Decision {
    let limit = seconds(restore.spec.active_deadline_seconds);
    if waited(now, restore) > limit {
        let message = format!("not begun within {} s: {message}", limit.as_secs());
        return Decision::Fail { reason, message, is_spec };
    }
    Decision::Wait { reason, message, is_spec }
}

/// How long it has been there.
fn waited(now: Timestamp, restore: &RedisRestore) -> Duration {
    let Some(created) = &restore.metadata.creation_timestamp else { return Duration::ZERO };
    Duration::try_from(now.duration_since(created.0)).unwrap_or_default()
}
