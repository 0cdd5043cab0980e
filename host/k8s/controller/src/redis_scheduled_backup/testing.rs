//! Schedules and their children as JSON with changes.

use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_scheduled_backup::{RedisScheduledBackup, RedisScheduledBackupSpec};
use serde_json::{Value, json};

pub(super) const UID: &str = "5c4ed01e-0000-4000-8000-000000000000";

/// At 02:00 UTC, made on the first of November 2026, with changes to its spec.
pub(super) fn object(change: Value, status: Value) -> Value {
    let mut spec = json!({
        "schedule": "0 2 * * *",
        "clusterName": "carts",
        "destination": {"s3": {"bucket": "backups", "path": "prod"}},
        "backupCredentialsSecret": {"name": "keys"},
    });
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({
        "apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup",
        "metadata": {
            "name": "nightly", "namespace": "shop", "uid": UID, "generation": 1,
            "creationTimestamp": "2026-11-01T00:00:30Z",
        },
        "spec": spec, "status": status,
    })
}

pub(super) fn schedule(change: Value, status: Value) -> RedisScheduledBackup {
    serde_json::from_value(object(change, status)).unwrap()
}

pub(super) fn spec(change: Value) -> RedisScheduledBackupSpec {
    schedule(change, json!({})).spec
}

/// A RedisBackup of the schedule's; `end`: how and when it ended.
pub(super) fn child(name: &str, slot: &str, end: Option<(&str, &str)>) -> Value {
    let mut child = json!({
        "apiVersion": "redis.io/v1", "kind": "RedisBackup",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"),
            "labels": {labels::SCHEDULE: "nightly"}, "annotations": {labels::SLOT: slot},
            "ownerReferences": [{
                "apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup", "name": "nightly", "uid": UID,
                "controller": true,
            }],
        },
        "spec": {"clusterName": "carts", "destination": {"s3": {"bucket": "backups"}}},
    });
    if let Some((outcome, at)) = end {
        child["metadata"]["labels"][labels::OUTCOME] = json!(outcome);
        child["metadata"]["annotations"][labels::COMPLETED_AT] = json!(at);
    }
    child
}
