//! The tasks of a storage. Cannot fail.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_core::task::{KeepRules, ProbeTask, PruneTask, SPEC_VERSION, Task, TaskSpec};
use redkeep_k8s_api::backup_storage::BackupStorage;
use redkeep_k8s_api::labels::STORAGE;

use super::dereference::key;
use super::validate::ValidatedStorage;
use crate::executor::{Purpose, TaskRequest};
use crate::settings::Settings;

/// Counting a hundred thousand backups takes minutes where there is no index yet.
const PROBE_DEADLINE: Duration = Duration::from_mins(30);
/// Listing and deleting what is left of a large bucket.
const GARBAGE_DEADLINE: Duration = Duration::from_hours(6);

pub(super) fn probe(
    storage: &BackupStorage,
    validated: &ValidatedStorage,
    settings: &Settings,
    now: Timestamp,
) -> TaskRequest {
    let task =
        ProbeTask { storage: validated.access.spec.clone(), namespace: None, cluster: None, catalog_only: false };
    request(storage, validated, settings, now, (Purpose::Probe, Task::Probe(task), PROBE_DEADLINE))
}

/// Only garbage: no rule is set, so no backup goes.
pub(super) fn garbage(
    storage: &BackupStorage,
    validated: &ValidatedStorage,
    grace: Duration,
    settings: &Settings,
    now: Timestamp,
) -> TaskRequest {
    let task = PruneTask {
        storage: validated.access.spec.clone(),
        namespace: None,
        cluster: None,
        keep: KeepRules::default(),
        origin: None,
        grace_seconds: grace.as_secs(),
        as_of: Some(now),
        dry_run: false,
    };
    request(storage, validated, settings, now, (Purpose::Prune, Task::Prune(task), GARBAGE_DEADLINE))
}

fn request(
    storage: &BackupStorage,
    validated: &ValidatedStorage,
    settings: &Settings,
    now: Timestamp,
    (purpose, task, deadline): (Purpose, Task, Duration),
) -> TaskRequest {
    let mut placement = validated.pod.placement.clone();
    placement.labels.insert(STORAGE.to_owned(), storage.name_any());
    let lasts = deadline.saturating_add(settings.start_deadline);
    TaskRequest {
        key: key(storage, purpose),
        owner: storage.controller_owner_ref(&()).unwrap_or_default(),
        purpose,
        spec: TaskSpec { version: SPEC_VERSION, deadline: now.checked_add(lasts).ok(), task },
        mounts: validated.access.mounts.clone(),
        placement,
        deadline: lasts,
        start_deadline: settings.start_deadline,
        retries: 0,
        service_account: validated.pod.service_account.clone(),
        resources: validated.pod.resources.clone(),
        server: None,
    }
}
