//! How many runs use a BackupStorage at once: a place is taken before a run is begun.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use redkeep_k8s_api::redis_backup::RedisBackup;

/// How long a place that was taken counts before the cache must show it.
const UNSEEN: Duration = Duration::from_secs(30);

/// Places in storages. Whoever runs is known from the cache, so a restart forgets nothing; what was begun a moment ago,
/// and is not in the cache yet, is remembered here.
pub(super) struct Slots {
    active: Store<DeserializeGuard<RedisBackup>>,
    taken: Mutex<HashMap<String, (String, Timestamp)>>,
}

impl Slots {
    pub(super) fn new(active: Store<DeserializeGuard<RedisBackup>>) -> Self {
        Self { active, taken: Mutex::default() }
    }

    /// Takes a place for a backup in the storage that its spec names, if there is one.
    pub(super) fn take(&self, backup: &RedisBackup, most: Option<usize>, now: Timestamp) -> Result<(), String> {
        let (Some(most), Some(storage)) = (most, &backup.spec.storage_ref) else { return Ok(()) };
        let namespace = backup.namespace().unwrap_or_default();
        let storage_key = format!("{namespace}/{}", storage.name);
        let uid = backup.uid().unwrap_or_default();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let unseen = SignedDuration::try_from(UNSEEN).unwrap_or(SignedDuration::MAX);
        taken.retain(|_, (_, since)| now.duration_since(*since).abs() < unseen);
        let mut users: Vec<String> = self
            .active
            .state()
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok())
            .filter(|other| uses(other, &namespace, &storage.name))
            .filter_map(ResourceExt::uid)
            .collect();
        users.extend(taken.iter().filter(|(_, (key, _))| *key == storage_key).map(|(uid, _)| uid.clone()));
        users.sort();
        users.dedup();
        users.retain(|user| *user != uid);
        if users.len() >= most {
            return Err(format!(
                "{} runs use BackupStorage {} at once, which is as many as it allows",
                users.len(),
                storage.name
            ));
        }
        taken.insert(uid, (storage_key, now));
        Ok(())
    }
}

fn uses(backup: &RedisBackup, namespace: &str, storage: &str) -> bool {
    let status = backup.status.as_ref();
    backup.namespace().as_deref() == Some(namespace)
        && backup.spec.storage_ref.as_ref().is_some_and(|reference| reference.name == storage)
        && status.is_some_and(|status| {
            status.backup_id.is_some() && !status.phase.is_some_and(redkeep_k8s_api::run::Phase::is_terminal)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_backup::testing::backup;
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    fn named(name: &str, status: serde_json::Value) -> RedisBackup {
        let mut backup = backup(json!({"storageRef": {"name": "bucket"}, "destination": null}), status);
        backup.metadata.name = Some(name.to_owned());
        backup.metadata.uid = Some(name.to_owned());
        backup
    }

    #[test]
    fn places_are_counted_from_the_cache_and_from_what_was_begun_just_now() {
        let (reader, mut writer) = store();
        writer.apply_watcher_event(&Event::Apply(DeserializeGuard(Ok(named("runs", json!({"backupId": "x"}))))));
        let slots = Slots::new(reader);
        let now = Timestamp::UNIX_EPOCH;
        let most = Some(2);
        assert!(slots.take(&named("a", json!({})), most, now).is_ok());
        assert!(slots.take(&named("a", json!({})), most, now).is_ok(), "its own place is not another's");
        let refused = slots.take(&named("b", json!({})), most, now).unwrap_err();
        assert!(refused.starts_with("2 runs use BackupStorage bucket"), "{refused}");
        let done = json!({"backupId": "x", "phase": "Completed"});
        writer.apply_watcher_event(&Event::Apply(DeserializeGuard(Ok(named("runs", done)))));
        assert!(slots.take(&named("b", json!({})), most, now).is_ok());
        assert!(slots.take(&named("c", json!({})), None, now).is_ok(), "no limit");
    }
}
