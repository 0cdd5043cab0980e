//! Reading a backup again after its end, where its spec asks for it: the result in status, as a condition and an Event.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use redkeep_core::classify::{Class, Classify};
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::common::{Verification, VerificationLevel};
use redkeep_k8s_api::conditions::{VERIFIED, reasons};
use redkeep_k8s_api::redis_backup::{RedisBackupSpec, RedisBackupStatus};
use redkeep_k8s_api::run::{Phase, VerificationStatus};

use super::status::Before;
use super::{Look, ReconcileError, apply, build, dereference, identity};
use crate::apply::{ConditionUpdate, set_condition, whole_seconds};
use crate::common::keys::decryption;
use crate::common::{Unresolved, placement};
use crate::executor::{Mount, Purpose, TaskState};
use crate::outcome::{Outcome, publish};
use crate::runtime::chain;
use apply::Written;

/// What a spec's verification needs; refused before the backup is begun where it cannot be had.
pub(super) fn keys(verification: &Verification) -> Result<(DecryptionKeys, Vec<Mount>), Unresolved> {
    if verification.level == VerificationLevel::Boot {
        let why = "boot needs a server in the task's image; use checksum or parse";
        return Err(Unresolved::invalid("spec.verification.level", why));
    }
    Ok(decryption(verification.decryption.as_ref()))
}

/// Whether a backup that is done is still to be read again.
pub(super) fn is_due(spec: &RedisBackupSpec, status: &RedisBackupStatus) -> bool {
    let has_ended = status.verification.as_ref().is_some_and(|verification| verification.phase.is_terminal());
    spec.verification.is_some() && status.phase == Some(Phase::Completed) && !has_ended
}

/// How a verification ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// The backup is good.
    Good { keys: Option<i64> },
    /// It is not.
    Bad { reason: String, message: String },
    /// Nobody knows: it could not be looked at.
    Unknown { reason: String, message: String },
}

/// Pure; `None` while it goes on.
fn verdict(task: &TaskState, was_seen: bool) -> Option<Verdict> {
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
        TaskOutcome::Failed { class: Class::Damaged | Class::NotFound, reason, message, .. } => {
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

impl Before<'_> {
    fn verifying(&self, level: VerificationLevel, phase: Phase) -> RedisBackupStatus {
        let mut next = self.status.clone();
        let verification = next.verification.get_or_insert_default();
        verification.backup_id.clone_from(&self.status.backup_id);
        verification.level = level;
        verification.phase = phase;
        verification.started_at.get_or_insert(Time(whole_seconds(self.now)));
        next
    }

    fn verified(&self, level: VerificationLevel, verdict: &Verdict) -> RedisBackupStatus {
        let (status, phase, reason, message) = match verdict {
            Verdict::Good { .. } => (Some(true), Phase::Completed, "Verified", "the backup was read again and is good"),
            Verdict::Bad { reason, message } => (Some(false), Phase::Failed, reason.as_str(), message.as_str()),
            Verdict::Unknown { reason, message } => (None, Phase::Failed, reason.as_str(), message.as_str()),
        };
        let mut next = self.verifying(level, phase);
        let update = ConditionUpdate { kind: VERIFIED, status, reason, message: message.to_owned() };
        set_condition(&mut next.conditions, update, self.generation, self.now);
        let place: &mut VerificationStatus = next.verification.get_or_insert_default();
        place.completed_at = Some(Time(whole_seconds(self.now)));
        match verdict {
            Verdict::Good { keys } => place.keys = *keys,
            Verdict::Bad { message, .. } | Verdict::Unknown { message, .. } => {
                place.message = Some(message.chars().take(1024).collect());
            }
        }
        next
    }
}

impl Look<'_> {
    /// One look at the verification of a backup that is done.
    pub(super) async fn verify(&self) -> Result<Action, ReconcileError> {
        let Some(verification) = &self.backup.spec.verification else { return Ok(self.again()) };
        let Some(standing) = &self.status.verification else {
            return self.write(self.before().verifying(verification.level, Phase::Pending)).await;
        };
        let task = self.context.executor.observe(&build::key(self.backup, Purpose::Verify)).await?;
        if let Some(verdict) = verdict(&task, standing.phase == Phase::Running) {
            return self.conclude(verification.level, &verdict).await;
        }
        match task {
            TaskState::Missing => self.start_verification(verification).await,
            TaskState::Running { .. } => self.write(self.before().verifying(verification.level, Phase::Running)).await,
            _ => Ok(self.again()),
        }
    }

    async fn start_verification(&self, verification: &Verification) -> Result<Action, ReconcileError> {
        let (namespace, spec) = (kube::ResourceExt::namespace(self.backup).unwrap_or_default(), &self.backup.spec);
        let settings = &self.context.settings;
        let resolved = async {
            let storage = dereference::dereference_storage(&self.context.client, &namespace, spec).await?;
            let pod = placement::task_pod(spec.task.as_ref(), storage.service_account.as_deref(), settings)?;
            let identity =
                identity(self.backup).ok_or_else(|| Unresolved::invalid("status.backupId", "it is not one of ours"))?;
            Ok::<_, Unresolved>((storage, pod, identity, keys(verification)?))
        };
        let (storage, pod, identity, (keys, mounts)) = match resolved.await {
            Ok(resolved) => resolved,
            Err(error @ Unresolved::Read { .. }) => return Err(error.into()),
            Err(error) => return self.cannot_verify(verification, error.reason(), error.to_string()).await,
        };
        let level = verification.level.into();
        let mut request = build::verify_request(self.backup, &storage, &pod, &identity, settings, (level, keys));
        request.mounts.extend(mounts);
        match self.context.executor.start(&request).await {
            Ok(()) => Ok(self.again()),
            Err(error) if error.retryable() => Err(error.into()),
            Err(error) => self.cannot_verify(verification, error.reason(), chain(&error)).await,
        }
    }

    async fn cannot_verify(
        &self,
        verification: &Verification,
        reason: &str,
        message: String,
    ) -> Result<Action, ReconcileError> {
        self.conclude(verification.level, &Verdict::Unknown { reason: reason.to_owned(), message }).await
    }

    async fn conclude(&self, level: VerificationLevel, verdict: &Verdict) -> Result<Action, ReconcileError> {
        let next = self.before().verified(level, verdict);
        if apply::write_status(self.context, self.backup, &next).await? == Written::Outdated {
            return Ok(self.again());
        }
        let outcome = match verdict {
            Verdict::Good { .. } => Outcome::normal("Verify", "Verified", "the backup was read again and is good"),
            Verdict::Bad { reason, message } | Verdict::Unknown { reason, message } => {
                Outcome::warning("Verify", reason, message)
            }
        };
        publish(self.context, self.backup, &outcome).await;
        self.context.executor.forget(&build::key(self.backup, Purpose::Verify)).await?;
        self.mark(&next).await
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

    fn failed(class: &str) -> TaskState {
        ended(
            json!({"state": "failed", "class": class, "reason": "R", "message": "m", "help": null, "retryable": false}),
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
    #[case(failed("damaged"), true, "bad")]
    #[case(failed("not-found"), true, "bad")]
    #[case(failed("failed"), true, "unknown")]
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

    #[rstest]
    #[case(json!({"level": "boot"}), false)]
    #[case(json!({"level": "parse", "decryption": {"identitySecret": {"name": "s"}}}), true)]
    #[case(json!({"level": "parse", "decryption": {"passphraseSecret": {"name": "s", "key": "k"}}}), true)]
    #[case(json!({"level": "checksum"}), true)]
    fn what_cannot_be_verified_is_refused_first(#[case] verification: Value, #[case] works: bool) {
        assert_eq!(keys(&serde_json::from_value(verification).unwrap()).is_ok(), works);
    }
}
