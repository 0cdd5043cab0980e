//! The task of a restore. Cannot fail.

use kube::Resource;
use redkeep_core::Timestamp;
use redkeep_core::task::{RestoreTask, SPEC_VERSION, TargetSpec, Task, TaskSpec};
use redkeep_k8s_api::labels::RESTORE_TARGET;
use redkeep_k8s_api::redis_restore::RedisRestore;

use super::dereference::task_key;
use super::lease;
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
    // What the pod may wait for before it runs counts on top, for the Job as well: it must not end before its task can say why.
    let lasts = deadline.saturating_add(start_deadline);
    let mut placement = pod.placement;
    placement.labels.insert(RESTORE_TARGET.to_owned(), lease::name(&restore.spec.target));
    placement.annotations.insert(lease::LEASES.to_owned(), found.leases.join(","));
    TaskRequest {
        key: task_key(restore),
        owner: restore.controller_owner_ref(&()).unwrap_or_default(),
        purpose: Purpose::Restore,
        spec: TaskSpec { version: SPEC_VERSION, deadline: now.checked_add(lasts).ok(), task: Task::Restore(task) },
        mounts,
        placement,
        deadline: lasts,
        start_deadline,
        // A second try would write into a target that is half filled.
        retries: 0,
        service_account: pod.service_account,
        resources: pod.resources,
        server: None,
    }
}
