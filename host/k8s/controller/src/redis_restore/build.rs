//! The task of a restore. Cannot fail.

use kube::Resource;
use redkeep_core::Timestamp;
use redkeep_core::task::{RestoreTask, SPEC_VERSION, TargetSpec, Task, TaskSpec};
use redkeep_k8s_api::redis_restore::RedisRestore;

use super::dereference::task_key;
use super::validate::ValidatedRestore;
use crate::executor::{Purpose, TaskRequest};

pub(super) fn task(restore: &RedisRestore, validated: ValidatedRestore, now: Timestamp) -> TaskRequest {
    let ValidatedRestore { found, selector, method, keys, key_mounts, parameters, pod, deadline, start_deadline } =
        validated;
    let mut mounts = found.storage.mounts;
    mounts.extend(found.target.mounts);
    mounts.extend(key_mounts);
    mounts.extend(found.method.into_iter().flat_map(|method| method.mounts));
    let task = RestoreTask {
        storage: found.storage.spec,
        backup: selector,
        target: TargetSpec::Live { endpoint: found.target.endpoint },
        method,
        keys,
        parameters,
        skip_preverify: restore.spec.skip_preverify,
        allow_non_empty: restore.spec.allow_non_empty,
        shard: None,
        dry_run: false,
    };
    TaskRequest {
        key: task_key(restore),
        owner: restore.controller_owner_ref(&()).unwrap_or_default(),
        purpose: Purpose::Restore,
        // What the pod may wait for before it runs counts on top.
        spec: TaskSpec {
            version: SPEC_VERSION,
            deadline: now.checked_add(deadline.saturating_add(start_deadline)).ok(),
            task: Task::Restore(task),
        },
        mounts,
        placement: pod.placement,
        deadline,
        start_deadline,
        // A second try would write into a target that is half filled.
        retries: 0,
        service_account: pod.service_account,
        resources: pod.resources,
        server: None,
    }
}
