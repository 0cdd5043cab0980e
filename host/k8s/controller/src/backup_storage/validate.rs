//! Holds a storage against the rules and makes of it what its tasks need. Takes no client.

use std::time::Duration;

use redkeep_core::schedule::Schedule;
use redkeep_core::units::parse_duration;
use redkeep_k8s_api::backup_storage::BackupStorage;

use crate::common::Unresolved;
use crate::common::placement::{TaskPod, task_pod};
use crate::common::storage::{StorageAccess, access_of};
use crate::settings::Settings;

/// Garbage younger than this may be a running backup's, whatever the spec says. Prune leaves alone to what anything was written within
/// the grace, but a run may write nothing for long (a window of the command stream in which nobody writes), and this one covers all
/// that share the bucket: a run lasts seven days at most (`activeDeadlineSeconds`), and a day is for clocks.
const SHORTEST_GRACE: Duration = Duration::from_hours(8 * 24);

/// A storage that can be looked after.
#[derive(Debug)]
pub(super) struct ValidatedStorage {
    pub(super) access: StorageAccess,
    pub(super) pod: TaskPod,
    pub(super) garbage: Option<Garbage>,
}

/// When garbage goes, and which.
#[derive(Debug)]
pub(super) struct Garbage {
    pub(super) schedule: Schedule,
    pub(super) grace: Duration,
}

pub(super) fn validate(storage: &BackupStorage, settings: &Settings) -> Result<ValidatedStorage, Unresolved> {
    let spec = &storage.spec;
    let access = access_of(storage)?;
    let pod = task_pod(spec.task.as_ref(), None, settings)?;
    interval(storage)?;
    let garbage = match &spec.garbage {
        None => None,
        Some(policy) => {
            let schedule = Schedule::parse(&policy.schedule, None)
                .map_err(|why| Unresolved::invalid("spec.garbage.schedule", why))?;
            let grace = parse_duration(&policy.grace_period)
                .map_err(|why| Unresolved::invalid("spec.garbage.gracePeriod", why))?;
            if grace < SHORTEST_GRACE {
                let why = "must be at least 8d: a backup may run for seven days, and what it has written must not be taken for garbage";
                return Err(Unresolved::invalid("spec.garbage.gracePeriod", why));
            }
            Some(Garbage { schedule, grace })
        }
    };
    Ok(ValidatedStorage { access, pod, garbage })
}

/// How often it is probed.
pub(super) fn interval(storage: &BackupStorage) -> Result<Duration, Unresolved> {
    parse_duration(&storage.spec.probe_interval).map_err(|why| Unresolved::invalid("spec.probeInterval", why))
}
