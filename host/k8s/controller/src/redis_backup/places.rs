//! A backup's place in its storage: taken before it is begun, and again before it is verified.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupStatus};
use redkeep_k8s_api::run::Phase;

use super::Look;
use crate::common::overdue;
use crate::common::storage::StorageAccess;
use crate::places::User;

/// So long the pod of a run that is deleted may take to end. Afterwards it uses nothing, however long its artifacts take to go.
const ENDING: SignedDuration = SignedDuration::from_mins(1);

/// The uids of the backups that use a storage.
pub(super) fn users_of(
    active: &[Arc<DeserializeGuard<RedisBackup>>],
    namespace: &str,
    storage: &str,
    now: Timestamp,
) -> Vec<String> {
    let uses = |backup: &&RedisBackup| {
        let named = backup.spec.storage_ref.as_ref();
        let deleted = backup.metadata.deletion_timestamp.as_ref();
        let has_gone = deleted.is_some_and(|deleted| now.duration_since(deleted.0) > ENDING);
        let runs =
            |status: &RedisBackupStatus| status.backup_id.is_some() && !status.phase.is_some_and(Phase::is_terminal);
        !has_gone
            && backup.metadata.namespace.as_deref() == Some(namespace)
            && named.is_some_and(|reference| reference.name == storage)
            && backup.status.as_ref().is_some_and(runs)
    };
    active.iter().filter_map(|guarded| guarded.0.as_ref().ok()).filter(uses).filter_map(ResourceExt::uid).collect()
}

impl Look<'_> {
    /// Takes one. The error says what it waits for.
    pub(super) fn take_place(&self, storage: &StorageAccess) -> Result<(), String> {
        let namespace = self.backup.namespace().unwrap_or_default();
        let (uid, now) = (self.uid(), self.context.now());
        let created = self.backup.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
        self.context.places.take(User { name: &uid, since: created }, &namespace, storage, now)
    }

    /// Whether it waited long enough for one, since then: as long as the run itself might last. Then with this message.
    pub(super) fn no_place(&self, since: Option<&Time>, message: &str) -> Option<String> {
        let (deadline, now) = (self.backup.spec.active_deadline_seconds, self.context.now());
        let gives_up = overdue::is_overdue(since.map(|since| since.0), deadline, now, Duration::ZERO);
        gives_up.then(|| format!("no place within activeDeadlineSeconds: {message}"))
    }

    /// What has one goes on.
    pub(super) fn keep_place(&self) {
        let (namespace, storage) = (self.backup.namespace().unwrap_or_default(), &self.backup.spec.storage_ref);
        let storage = storage.as_ref().map(|storage| storage.name.as_str());
        self.context.places.keep(&self.uid(), &namespace, storage, self.context.now());
    }

    /// It ended.
    pub(super) fn release_place(&self) {
        self.context.places.release(&self.uid());
    }

    fn uid(&self) -> String {
        self.backup.uid().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_backup::testing::object;
    use serde_json::{Value, json};

    #[test]
    fn a_storage_is_used_by_the_backups_that_were_begun_and_have_not_ended() {
        let named = |name: &str, storage: &str, status: Value| {
            let mut backup = object(json!({"storageRef": {"name": storage}, "destination": null}), status);
            backup["metadata"]["uid"] = json!(name);
            Arc::new(DeserializeGuard(Ok(serde_json::from_value::<RedisBackup>(backup).unwrap())))
        };
        let deleted = |name: &str, at: &str| {
            let mut backup =
                named(name, "bucket", json!({"backupId": "x", "phase": "Running"})).0.as_ref().unwrap().clone();
            backup.metadata.deletion_timestamp = Some(Time(at.parse().unwrap()));
            Arc::new(DeserializeGuard(Ok(backup)))
        };
        let now = "2026-11-27T12:00:00Z".parse().unwrap();
        let active = [
            deleted("ends", "2026-11-27T11:59:30Z"),
            deleted("its artifacts cannot be deleted", "2026-11-27T11:00:00Z"),
            named("runs", "bucket", json!({"backupId": "x", "phase": "Running"})),
            named("waits", "bucket", json!({"phase": "Pending"})),
            named("done", "bucket", json!({"backupId": "x", "phase": "Completed"})),
            named("elsewhere", "other", json!({"backupId": "x", "phase": "Running"})),
        ];
        assert_eq!(users_of(&active, "shop", "bucket", now), ["ends", "runs"]);
        assert!(users_of(&active, "another", "bucket", now).is_empty());
    }
}
