//! The task that fills the first claim, or the first pod of a cluster without claims.

use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::ResourceExt;
use redkeep_core::secret::SecretRef;
use redkeep_core::task::{
    DirectoryTarget, EndpointSpec, NodePreference, RestoreTask, SPEC_VERSION, TargetSpec, Task, TaskSpec, TlsSpec,
};
use redkeep_k8s_api::redis_cluster::RedisCluster;

use crate::common::source::password_of;
use crate::executor::{Mount, MountSource, Placement, Purpose, REDIS_AUTH_PATH, REDIS_TLS_PATH, TaskKey, TaskRequest};
use crate::redis_cluster::bootstrap::ValidatedBootstrap;
use crate::redis_cluster::names;
use crate::redis_cluster::validate::ValidatedCluster;

/// Where the claim is mounted.
const DATA_PATH: &str = "/data";

/// The name of an attempt: another has another, for the last one's Job may still be there.
pub(in crate::redis_cluster) fn task_key(cluster: &RedisCluster, attempt: i32) -> TaskKey {
    let namespace = cluster.namespace().unwrap_or_default();
    let key = TaskKey::new(&namespace, &cluster.name_any(), &cluster.uid().unwrap_or_default(), Purpose::Restore);
    TaskKey { name: format!("{}-{attempt}", key.name), ..key }
}

/// Where it is restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::redis_cluster) enum Target {
    /// The first claim.
    Claim,
    /// The pod at this address.
    Pod { address: String },
}

pub(in crate::redis_cluster) fn task(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    bootstrap: ValidatedBootstrap,
    target: &Target,
    attempt: i32,
    now: Timestamp,
) -> TaskRequest {
    let mut mounts = bootstrap.storage.mounts;
    mounts.extend(bootstrap.key_mounts);
    mounts.extend(bootstrap.method.mounts);
    let target_spec = match target {
        Target::Claim => {
            let source = MountSource::Claim { name: names::claim(&validated.name, 0), read_only: false };
            mounts.push(Mount { source, path: DATA_PATH.into() });
            TargetSpec::Directory(directory(validated))
        }
        Target::Pod { address } => live(cluster, address, &mut mounts),
    };
    let task = RestoreTask {
        storage: bootstrap.storage.spec,
        backup: bootstrap.selector,
        target: target_spec,
        method: bootstrap.method.spec,
        keys: bootstrap.keys,
        parameters: bootstrap.parameters,
        skip_preverify: false,
        allow_non_empty: false,
        shard: None,
        dry_run: false,
    };
    let lasts = bootstrap.deadline.saturating_add(bootstrap.start_deadline);
    TaskRequest {
        key: task_key(cluster, attempt),
        owner: names::owner(cluster),
        purpose: Purpose::Restore,
        spec: TaskSpec { version: SPEC_VERSION, deadline: now.checked_add(lasts).ok(), task: Task::Restore(task) },
        mounts,
        placement: placement(cluster, validated, target),
        deadline: lasts,
        start_deadline: bootstrap.start_deadline,
        // The cluster's own retries name the reason and wait between them.
        retries: 0,
        service_account: bootstrap.storage.service_account,
        resources: None,
        server: None,
    }
}

fn directory(validated: &ValidatedCluster) -> DirectoryTarget {
    let layout = &validated.layout;
    DirectoryTarget {
        path: DATA_PATH.into(),
        appendonly: Some(layout.appendonly),
        loads_append_only_files: true,
        server_version: layout.server_version.clone(),
        dbfilename: layout.dbfilename.clone(),
        appenddirname: layout.appenddirname.clone(),
        appendfilename: layout.appendfilename.clone(),
        // The pod runs as Redis will: what it makes is Redis' own.
        owner: Some(format!("{}:{}", validated.user, validated.group)),
    }
}

fn live(cluster: &RedisCluster, address: &str, mounts: &mut Vec<Mount>) -> TargetSpec {
    let mut endpoint = EndpointSpec { node: NodePreference::Primary, ..EndpointSpec::default() };
    let scheme = if cluster.spec.tls.is_some() { "rediss" } else { "redis" };
    endpoint.url = Some(format!("{scheme}://{address}"));
    if let Some(tls) = &cluster.spec.tls {
        let file = |name: &str| Some(PathBuf::from(REDIS_TLS_PATH).join(name));
        let client = tls.require_client_certificate;
        endpoint.tls = TlsSpec {
            ca_file: file("ca.crt"),
            cert_file: client.then(|| file("tls.crt")).flatten(),
            key_file: client.then(|| file("tls.key")).flatten(),
            client_certificate_if_present: false,
            insecure_skip_verify: false,
        };
        mounts.push(Mount::secret(&tls.secret.name, REDIS_TLS_PATH));
    }
    if let Some((secret, key)) = password_of(cluster) {
        endpoint.password = Some(SecretRef::File(PathBuf::from(REDIS_AUTH_PATH).join(key)));
        mounts.push(Mount::secret(secret, REDIS_AUTH_PATH));
    }
    TargetSpec::Live { endpoint }
}

/// Where Redis may run: the claim is bound where the task's pod is.
fn placement(cluster: &RedisCluster, validated: &ValidatedCluster, target: &Target) -> Placement {
    let spec = &cluster.spec;
    let is_claim = *target == Target::Claim;
    let pod = spec.pod_security_context.as_ref();
    Placement {
        run_as_user: is_claim.then_some(validated.user),
        run_as_group: is_claim.then_some(validated.group),
        fs_group: is_claim.then(|| pod.and_then(|pod| pod.fs_group).unwrap_or(validated.group)),
        se_linux_options: pod.and_then(|pod| pod.se_linux_options.clone()),
        affinity: spec.affinity.clone(),
        tolerations: spec.tolerations.clone(),
        node_selector: spec.node_selector.clone(),
        priority_class_name: spec.priority_class_name.clone(),
        image_pull_secrets: spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        ..Placement::default()
    }
}

/// For callers that pass pull secrets on.
pub(super) fn pull_secrets(cluster: &RedisCluster) -> Option<Vec<LocalObjectReference>> {
    let secrets = &cluster.spec.image_pull_secrets;
    (!secrets.is_empty())
        .then(|| secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() }).collect())
}
