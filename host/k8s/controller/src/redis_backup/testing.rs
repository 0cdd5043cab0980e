//! A RedisBackup and what it names, as JSON with changes.

use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupSpec};
use serde_json::{Value, json};

use super::dereference::Dereferenced;
use crate::common::method::MethodAccess;
use crate::common::source::SourceAccess;
use crate::common::storage::StorageAccess;
use redkeep_core::task::{EndpointSpec, MethodSpec, StorageSpec};

/// A RedisBackup of given addresses to a bucket, with changes to its spec.
pub(super) fn object(change: Value, status: Value) -> Value {
    let mut spec = json!({
        "source": {"endpoints": ["10.0.0.1:6379"], "name": "carts"},
        "destination": {"s3": {"bucket": "backups", "path": "prod"}},
        "backupCredentialsSecret": {"name": "keys"},
    });
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "0f8e9c1d-0000-4000-8000-000000000000"},
        "spec": spec, "status": status})
}

pub(super) fn backup(change: Value, status: Value) -> RedisBackup {
    serde_json::from_value(object(change, status)).unwrap()
}

pub(super) fn spec(change: Value) -> RedisBackupSpec {
    backup(change, json!({})).spec
}

pub(super) fn access() -> Dereferenced {
    Dereferenced {
        source: SourceAccess {
            endpoint: EndpointSpec::default(),
            mounts: Vec::new(),
            cluster: "carts".into(),
            files: None,
            credentials: None,
        },
        storage: StorageAccess {
            spec: StorageSpec { url: "s3://backups/prod".into(), ..StorageSpec::default() },
            mounts: Vec::new(),
            address: "s3://backups/prod".into(),
            name: None,
            service_account: None,
            concurrent_tasks: None,
        },
        method: MethodAccess {
            spec: MethodSpec { name: "rdb".into(), ..MethodSpec::default() },
            ..MethodAccess::default()
        },
    }
}
