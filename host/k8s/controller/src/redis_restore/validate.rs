//! Holds a restore against the rules and makes of it what the task needs. Takes no client.

use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::task::{BackupSelector, MethodSpec, RESTORE_OPTIONS};
use redkeep_k8s_api::redis_restore::{OnConflict, RedisRestore, RedisRestoreSpec, TimeToLive};
use serde_json::{Map, Value};

use super::dereference::Found;
use crate::common::Unresolved;
use crate::common::keys::decryption;
use crate::common::method::texts;
use crate::common::placement::{TaskPod, task_pod};
use crate::common::selection;
use crate::executor::Mount;
use crate::settings::Settings;

/// A restore that can be begun.
#[derive(Debug)]
pub(super) struct ValidatedRestore {
    pub(super) found: Found,
    pub(super) selector: BackupSelector,
    pub(super) method: MethodSpec,
    pub(super) keys: DecryptionKeys,
    pub(super) key_mounts: Vec<Mount>,
    pub(super) parameters: Map<String, Value>,
    pub(super) pod: TaskPod,
    pub(super) deadline: Duration,
    pub(super) start_deadline: Duration,
}

pub(super) fn validate(
    restore: &RedisRestore,
    found: Found,
    settings: &Settings,
) -> Result<ValidatedRestore, Unresolved> {
    let spec = &restore.spec;
    let (keys, key_mounts) = decryption(spec.decryption.as_ref());
    Ok(ValidatedRestore {
        selector: selection::selector(&spec.from, &restore.namespace().unwrap_or_default(), found.backup.clone())?,
        method: method(spec, &found),
        keys,
        key_mounts,
        parameters: parameters(spec)?,
        pod: task_pod(spec.task.as_ref(), found.storage.service_account.as_deref(), settings)?,
        deadline: seconds(spec.active_deadline_seconds),
        start_deadline: seconds(spec.start_deadline_seconds),
        found,
    })
}

/// A digest that the restore demands wins: it is refused where the method is another.
fn method(spec: &RedisRestoreSpec, found: &Found) -> MethodSpec {
    let mut method = found.method.as_ref().map(|method| method.spec.clone()).unwrap_or_default();
    if spec.method_digest.is_some() {
        method.digest.clone_from(&spec.method_digest);
    }
    method
}

/// The definition bounds it; a negative number from an older definition is none at all.
pub(super) fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default())
}

/// As the command line gives them: only what was said, for a plugin may know none of these.
fn parameters(spec: &RedisRestoreSpec) -> Result<Map<String, Value>, Unresolved> {
    let has_field = |key: &&String| RESTORE_OPTIONS.contains(&key.as_str());
    if let Some(key) = spec.parameters.keys().find(has_field) {
        return Err(Unresolved::invalid("spec.parameters", format!("`{key}` has a field of its own")));
    }
    let mut parameters: Map<String, Value> = texts(&spec.parameters).collect();
    if !spec.patterns.is_empty() {
        parameters.insert("match".to_owned(), spec.patterns.clone().into());
    }
    if !spec.databases.is_empty() {
        parameters.insert("db".to_owned(), spec.databases.clone().into());
    }
    let on_conflict = match spec.on_conflict {
        OnConflict::Fail => None,
        OnConflict::Skip => Some("skip"),
        OnConflict::Replace => Some("replace"),
    };
    let ttl = match spec.ttl {
        TimeToLive::Keep => None,
        TimeToLive::Shift => Some("shift"),
        TimeToLive::Persist => Some("persist"),
    };
    for (key, value) in [("on-conflict", on_conflict), ("ttl", ttl), ("until", spec.from.until.as_deref())] {
        if let Some(value) = value {
            parameters.insert(key.to_owned(), value.into());
        }
    }
    Ok(parameters)
}
