//! What a verification's task came to: pure. Only damage is bad; what could not be looked at is unknown.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::classify::Class;
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::conditions::{VERIFIED, reasons};
use redkeep_k8s_api::run::{Phase, VerificationStatus};

use crate::apply::{ConditionUpdate, whole_seconds};
use crate::common::report::backup_is_gone;
use crate::executor::TaskState;
use crate::outcome::Outcome;

const GOOD: &str = "the backup was read again and is good";
/// As the definition allows, and a condition.
const LONGEST_MESSAGE: usize = 1024;

/// How a verification ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The backup is good.
    Good { keys: Option<i64> },
    /// It is not.
    Bad { reason: String, message: String },
    /// Nobody knows: it could not be looked at.
    Unknown { reason: String, message: String },
}

/// Judges a task: pure; `None` while it goes on. `was_seen`: it ran at an earlier look.
pub(crate) fn verdict(task: &TaskState, was_seen: bool) -> Option<Verdict> {
    let unknown =
        |reason: &str, message: &str| Some(Verdict::Unknown { reason: reason.to_owned(), message: message.to_owned() });
    match task {
        TaskState::Ended { report, .. } => Some(of_report(report)),
        TaskState::Failed { reason, message } => unknown(reason, message),
        TaskState::Missing if was_seen => unknown(reasons::JOB_VANISHED, "the verification's Job is gone"),
        TaskState::Missing | TaskState::Waiting { .. } | TaskState::Running { .. } => None,
    }
}

fn of_report(report: &TaskReport) -> Verdict {
    let keys = report.facts.get(report_facts::KEYS).and_then(|keys| keys.parse().ok());
    match &report.outcome {
        TaskOutcome::Done | TaskOutcome::Planned => Verdict::Good { keys },
        TaskOutcome::Failed { class, reason, message, .. } if *class == Class::Damaged || backup_is_gone(reason) => {
            Verdict::Bad { reason: reason.clone(), message: message.clone() }
        }
        TaskOutcome::Failed { reason, message, .. } => {
            Verdict::Unknown { reason: reason.clone(), message: message.clone() }
        }
        TaskOutcome::Running { stage } => Verdict::Unknown {
            reason: reasons::NO_REPORT.to_owned(),
            message: format!("the verification ended in stage {stage} without its last report"),
        },
    }
}

impl Verdict {
    /// The condition `Verified`.
    pub(crate) fn condition(&self) -> ConditionUpdate<'_> {
        let (status, reason, message) = match self {
            Self::Good { .. } => (Some(true), "Verified", GOOD),
            Self::Bad { reason, message } => (Some(false), reason.as_str(), message.as_str()),
            Self::Unknown { reason, message } => (None, reason.as_str(), message.as_str()),
        };
        ConditionUpdate { kind: VERIFIED, status, reason, message: message.to_owned() }
    }

    /// Where the verification stands with it.
    pub(crate) fn phase(&self) -> Phase {
        if matches!(self, Self::Good { .. }) { Phase::Completed } else { Phase::Failed }
    }

    /// Writes the end of it down.
    pub(crate) fn fill(&self, place: &mut VerificationStatus, now: Timestamp) {
        place.phase = self.phase();
        place.completed_at = Some(Time(whole_seconds(now)));
        match self {
            Self::Good { keys } => place.keys = *keys,
            Self::Bad { message, .. } | Self::Unknown { message, .. } => {
                place.message = Some(message.chars().take(LONGEST_MESSAGE).collect());
            }
        }
    }

    /// The Event.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Good { .. } => Outcome::normal("Verify", "Verified", GOOD),
            Self::Bad { reason, message } | Self::Unknown { reason, message } => {
                Outcome::warning("Verify", reason.as_str(), message.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn ended(outcome: Value) -> TaskState {
        let report = json!({"outcome": outcome, "startedAt": "2026-11-27T12:00:00Z", "endedAt": "2026-11-27T12:00:00Z",
            "facts": {"keys": "3"}});
        TaskState::Ended { report: serde_json::from_value(report).unwrap(), pod: None }
    }

    fn failed(class: &str, reason: &str) -> TaskState {
        ended(
            json!({"state": "failed", "class": class, "reason": reason, "message": "m", "help": null, "retryable": false}),
        )
    }

    fn word(verdict: Option<Verdict>) -> &'static str {
        match verdict {
            None => "goes on",
            Some(Verdict::Good { keys: Some(3) }) => "good",
            Some(Verdict::Good { .. }) => "good without keys",
            Some(Verdict::Bad { .. }) => "bad",
            Some(Verdict::Unknown { .. }) => "unknown",
        }
    }

    #[rstest]
    #[case(ended(json!({"state": "done"})), true, "good")]
    #[case(failed("damaged", "R"), true, "bad")]
    #[case(failed("not-found", "BackupNotFound"), true, "bad")]
    // A bucket that is not there, or a 404 of an endpoint while it is redeployed.
    #[case(failed("not-found", "StorageNotFound"), true, "unknown")]
    #[case(failed("failed", "R"), true, "unknown")]
    #[case(ended(json!({"state": "running", "stage": "parse"})), true, "unknown")]
    #[case(TaskState::Failed { reason: "OutOfMemory".into(), message: "m".into() }, true, "unknown")]
    #[case(TaskState::Missing, true, "unknown")]
    #[case(TaskState::Missing, false, "goes on")]
    #[case(TaskState::Running { pod: None, progress: None }, true, "goes on")]
    fn only_damage_is_bad_and_what_could_not_be_looked_at_is_unknown(
        #[case] task: TaskState,
        #[case] was_seen: bool,
        #[case] expected: &str,
    ) {
        assert_eq!(word(verdict(&task, was_seen)), expected);
    }
}
