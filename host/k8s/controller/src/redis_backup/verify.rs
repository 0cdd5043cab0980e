//! Reading a backup again after its end, where its spec asks for it: the result in status, as a condition and an Event.

use std::time::Duration;

use crate::runtime::Action;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use redkeep_core::classify::Classify;
use redkeep_k8s_api::common::{Verification, VerificationLevel};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_backup::{RedisBackupSpec, RedisBackupStatus};
use redkeep_k8s_api::run::Phase;

use super::build::Stored;
use super::status::Before;
use super::{Look, SLOT_EVERY, apply, build, dereference, identity};
use crate::apply::{set_condition, whole_seconds};
use crate::common::ReconcileError;
use crate::common::Unresolved;
use crate::common::keys::decryption;
use crate::common::method;
use crate::common::overdue;
use crate::common::server;
use crate::common::verdict::{Verdict, verdict};
use crate::executor::{Purpose, TaskState};
use crate::outcome::publish;
use apply::Written;
use redkeep_core::classify::chain;

/// Whether a backup that is done is still to be read again.
pub(super) fn is_due(spec: &RedisBackupSpec, status: &RedisBackupStatus) -> bool {
    let has_ended = status.verification.as_ref().is_some_and(|verification| verification.phase.is_terminal());
    spec.verification.is_some() && status.phase == Some(Phase::Completed) && !has_ended
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
        let mut next = self.verifying(level, verdict.phase());
        set_condition(&mut next.conditions, verdict.condition(), self.generation, self.now);
        verdict.fill(next.verification.get_or_insert_default(), self.now);
        next
    }
}

impl Look<'_> {
    /// One look at the verification of a backup that is done.
    pub(super) async fn verify(&self) -> Result<Action, ReconcileError> {
        let Some(verification) = &self.backup.spec.verification else { return Ok(self.again()) };
        let completed = self.status.completed_at.as_ref().map(|time| time.0);
        // Said at the backup's end already, unless that look did not get so far.
        apply::mark_completed(self.context, self.backup, completed).await?;
        let Some(standing) = &self.status.verification else {
            return self.write(self.before().verifying(verification.level, Phase::Pending)).await;
        };
        let task = self.context.executor.observe(&build::key(self.backup, Purpose::Verify)).await?;
        if let Some(verdict) = verdict(&task, standing.phase == Phase::Running) {
            return self.conclude(verification.level, &verdict).await;
        }
        if task != TaskState::Missing {
            self.keep_place();
        }
        match task {
            TaskState::Missing => self.start_verification(verification).await,
            TaskState::Running { .. } => self.write(self.before().verifying(verification.level, Phase::Running)).await,
            _ => Ok(self.again()),
        }
    }

    async fn start_verification(&self, verification: &Verification) -> Result<Action, ReconcileError> {
        let (namespace, spec) = (self.backup.namespace().unwrap_or_default(), &self.backup.spec);
        let settings = &self.context.settings;
        let resolved = async {
            let (storage, pod) = dereference::storage_and_pod(self.context, self.backup).await?;
            let identity =
                identity(self.backup).ok_or_else(|| Unresolved::invalid("status.backupId", "it is not one of ours"))?;
            let method = method::reader(&self.context.client, &spec.method, settings).await?;
            let (client, account) = (&self.context.client, pod.service_account.as_deref());
            let cluster = spec.cluster_name.as_deref();
            let server = server::resolve(client, &namespace, verification, cluster, account, settings).await?;
            Ok::<_, Unresolved>((storage, pod, identity, decryption(verification.decryption.as_ref()), method, server))
        };
        let (storage, pod, identity, (keys, mounts), method, server) = match resolved.await {
            Ok(resolved) => resolved,
            // What cannot be read may be readable again, but not for ever: retention waits for this.
            Err(error @ Unresolved::Read { .. }) if !self.verification_is_overdue() => return Err(error.into()),
            Err(error) => return self.cannot_verify(verification, error.reason(), chain(&error)).await,
        };
        if let Err(message) = self.take_place(&storage) {
            let begun = self.status.verification.as_ref().and_then(|begun| begun.started_at.as_ref());
            if let Some(message) = self.no_place(begun, &message) {
                return self.cannot_verify(verification, reasons::WAITING_FOR_SLOT, message).await;
            }
            return Ok(Action::requeue(SLOT_EVERY));
        }
        let level = verification.level.into();
        let stored = Stored { backup: self.backup, storage: &storage, pod: &pod, identity: &identity, settings };
        let mut request = stored.verify(level, keys, method);
        request.mounts.extend(mounts);
        match self.context.executor.start(&request.beside(server)).await {
            Ok(()) => Ok(self.again()),
            Err(error) if error.retryable() => Err(error.into()),
            Err(error) => self.cannot_verify(verification, error.reason(), chain(&error)).await,
        }
    }

    fn verification_is_overdue(&self) -> bool {
        let begun = self.status.verification.as_ref().and_then(|begun| begun.started_at.as_ref());
        let deadline = self.backup.spec.active_deadline_seconds;
        overdue::is_overdue(begun.map(|begun| begun.0), deadline, self.context.now(), Duration::ZERO)
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
        self.release_place();
        let outcome = verdict.outcome();
        publish(self.context, self.backup, &outcome).await;
        self.mark(&next).await
    }
}
